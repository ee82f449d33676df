package load

import (
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strings"
	"time"
)

// Report is what came of the load.
type Report struct {
	Requests int64          // made, failed ones included
	During   int64          // of them, begun before ctx was done
	Failed   int64          // of them all
	ByKind   map[Kind]int64 // the failed ones
	Samples  []Sample       // the first failures in words, of requests and WebSockets
	Reopened int64          // kept connections found closed between two requests: no failure
	Latency  Histogram
	Versions map[string]int64 // answers by the version that gave them
	Took     time.Duration

	WSOpened   int64 // handshakes that succeeded
	WSMessages int64 // received
	WSClosed   int64 // by the service, with 1001 or 1012: the clean way
	WSEnded    int64 // by us, at the end of the run
	WSAborted  int64 // cut without a close frame, or with another code, or unanswered
	WSRefused  int64 // could not get in within the time given
}

// Clean reports whether nothing at all went wrong.
func (r Report) Clean() bool { return r.Failed == 0 && r.WSAborted == 0 && r.WSRefused == 0 }

// String is a summary of a few lines.
func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s failed of %s requests in %s", grouped(r.Failed), grouped(r.Requests), r.Took.Round(time.Millisecond))
	for _, k := range slices.Sorted(maps.Keys(r.ByKind)) {
		fmt.Fprintf(&b, ", %s %s", k, grouped(r.ByKind[k]))
	}
	if r.Reopened > 0 {
		fmt.Fprintf(&b, "\n%s kept connections were found closed and opened anew", grouped(r.Reopened))
	}
	if r.Requests > 0 {
		fmt.Fprintf(&b, "\nlatency p50 %s, p99 %s, max %s", r.Latency.Quantile(0.5), r.Latency.Quantile(0.99), r.Latency.Max())
	}
	if len(r.Versions) > 0 {
		b.WriteString("\nversions")
		for _, v := range slices.Sorted(maps.Keys(r.Versions)) {
			fmt.Fprintf(&b, " %s: %s", v, grouped(r.Versions[v]))
		}
	}
	if r.WSOpened+r.WSRefused > 0 {
		fmt.Fprintf(&b, "\nwebsockets: %s aborted, %s not let in, %s opened, %s closed cleanly by the service, %s kept to the end, %s messages",
			grouped(r.WSAborted), grouped(r.WSRefused), grouped(r.WSOpened), grouped(r.WSClosed), grouped(r.WSEnded), grouped(r.WSMessages))
	}
	for _, s := range r.Samples {
		fmt.Fprintf(&b, "\n  %s %s: %s", s.At.Format("15:04:05.000"), s.Kind, s.What)
	}
	return b.String()
}

func grouped(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func (r *Report) fail(at time.Time, err error) {
	r.Failed++
	if r.ByKind == nil {
		r.ByKind = map[Kind]int64{}
	}
	kind := kindOf(err)
	r.ByKind[kind]++
	r.sample(at, kind, err.Error())
}

func (r *Report) sample(at time.Time, kind Kind, what string) {
	if len(r.Samples) < maxSamples {
		r.Samples = append(r.Samples, Sample{at, kind, what})
	}
}

func (r *Report) saw(version string) {
	if r.Versions == nil {
		r.Versions = map[string]int64{}
	}
	r.Versions[version]++
}

func (r *Report) add(o Report) {
	r.Requests += o.Requests
	r.During += o.During
	r.Failed += o.Failed
	r.Reopened += o.Reopened
	for k, n := range o.ByKind {
		if r.ByKind == nil {
			r.ByKind = map[Kind]int64{}
		}
		r.ByKind[k] += n
	}
	for v, n := range o.Versions {
		if r.Versions == nil {
			r.Versions = map[string]int64{}
		}
		r.Versions[v] += n
	}
	r.Samples = append(r.Samples, o.Samples...)
	slices.SortStableFunc(r.Samples, func(a, b Sample) int { return a.At.Compare(b.At) })
	r.Samples = r.Samples[:min(len(r.Samples), maxSamples)]
	r.Latency.merge(&o.Latency)
	r.WSOpened += o.WSOpened
	r.WSMessages += o.WSMessages
	r.WSClosed += o.WSClosed
	r.WSEnded += o.WSEnded
	r.WSAborted += o.WSAborted
	r.WSRefused += o.WSRefused
}

// Histogram counts durations in buckets of at most 1/16 of their value wide.
type Histogram struct {
	counts [64 * 16]int64
	n      int64
	max    time.Duration
}

// Add counts one duration.
func (h *Histogram) Add(d time.Duration) {
	d = max(d, 0)
	h.counts[bucketOf(uint64(d))]++
	h.n++
	h.max = max(h.max, d)
}

func bucketOf(v uint64) int {
	if v < 16 {
		return int(v)
	}
	shift := bits.Len64(v) - 5
	return (shift+1)*16 + int(v>>shift&15)
}

// upper is the greatest value of a bucket.
func upper(i int) uint64 {
	if i < 16 {
		return uint64(i)
	}
	shift := i/16 - 1
	return (uint64(16+i%16)+1)<<shift - 1
}

// Quantile is the duration that the share q (0 to 1) of all lie at or below,
// to a sixteenth; 0 if there are none.
func (h *Histogram) Quantile(q float64) time.Duration {
	want := int64(q * float64(h.n))
	seen := int64(0)
	for i, n := range h.counts {
		if seen += n; n > 0 && seen >= want {
			return min(time.Duration(upper(i)), h.max)
		}
	}
	return h.max
}

// Max is the longest duration, exactly.
func (h *Histogram) Max() time.Duration { return h.max }

func (h *Histogram) merge(o *Histogram) {
	for i, n := range o.counts {
		h.counts[i] += n
	}
	h.n += o.n
	h.max = max(h.max, o.max)
}
