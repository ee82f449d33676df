package edge

import (
	"iter"
	"math/bits"
	"sync/atomic"
	"time"
)

// latencyBuckets is how many buckets a latency histogram has: bucket i counts
// requests that took less than 2^i × 64 µs, the last one all the others (from
// 64 µs to 1.1 min).
const latencyBuckets = 22

// hostStats counts one host name's requests as they end.
type hostStats struct {
	class   [6]atomic.Uint64 // by status / 100; 0 for clients that went away first
	retries atomic.Uint64
	in, out atomic.Uint64 // bytes of bodies
	latency atomic.Pointer[histogram]
}

// histogram is made at a host name's first request: of 100,000 names most
// are quiet.
type histogram struct {
	buckets [latencyBuckets]atomic.Uint64
	sum     atomic.Uint64 // ns
}

func (s *hostStats) observe(d time.Duration) {
	h := s.latency.Load()
	if h == nil {
		h = new(histogram)
		if !s.latency.CompareAndSwap(nil, h) {
			h = s.latency.Load()
		}
	}
	i := bits.Len64(uint64(max(d, 0)) / uint64(64*time.Microsecond))
	h.buckets[min(i, latencyBuckets-1)].Add(1)
	h.sum.Add(uint64(max(d, 0)))
}

// HostStats is what a host name was asked for since it came into the table.
type HostStats struct {
	Requests [6]uint64 // by status / 100; 0: the client went away before an answer
	Retries  uint64    // attempts at another backend
	BytesIn  uint64    // of request bodies
	BytesOut uint64    // of response bodies
	Latency  [latencyBuckets]uint64
	Total    time.Duration // sum of the latencies
}

// LatencyBound is the upper bound of bucket i of HostStats.Latency; the last
// bucket has none.
func LatencyBound(i int) time.Duration { return 64 * time.Microsecond << i }

func (s *hostStats) read() HostStats {
	out := HostStats{Retries: s.retries.Load(), BytesIn: s.in.Load(), BytesOut: s.out.Load()}
	for i := range s.class {
		out.Requests[i] = s.class[i].Load()
	}
	if h := s.latency.Load(); h != nil {
		for i := range h.buckets {
			out.Latency[i] = h.buckets[i].Load()
		}
		out.Total = time.Duration(h.sum.Load())
	}
	return out
}

// Stats yields the counters of every host name in the table, in no order.
// Upgraded connections are counted when they end and are in no latency.
func (rt *Router) Stats() iter.Seq2[string, HostStats] {
	return func(yield func(string, HostStats) bool) {
		for e := range rt.entries() {
			if !yield(e.host, e.stats.read()) {
				return
			}
		}
	}
}

// entries yields the table's entries, in no order, holding no lock meanwhile.
func (rt *Router) entries() iter.Seq[*entry] { return rt.table.all() }

func (t *table) all() iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		for i := range t.shards {
			s := &t.shards[i]
			s.mu.RLock()
			entries := make([]*entry, 0, len(s.entries))
			for _, e := range s.entries {
				entries = append(entries, e)
			}
			s.mu.RUnlock()
			for _, e := range entries {
				if !yield(e) {
					return
				}
			}
		}
	}
}

// inFlight is how many requests are at the host name's present backends.
func (e *entry) inFlight() (n int64) {
	p := e.pool.Load()
	if p == nil {
		return 0
	}
	for _, b := range p.backends {
		n += b.inFlight.Load()
	}
	return n
}
