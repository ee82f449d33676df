package drain

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/logs"
	"github.com/miosa/miosa/logs/memory"
)

// rehearsal drives one machine by hand over a real store, with a receiver that
// answers what is drawn, through crashes.
type rehearsal struct {
	t       *rapid.T
	now     time.Time
	store   *memory.Store
	m       *machine
	kept    Progress // what a crash leaves
	event   event
	written map[string][]string // instance → texts
	got     []string            // texts as they were settled, in order, again and again
	taken   uint64
	dropped uint64
	away    bool // the receiver has been away for longer than the order is known
}

func newRehearsal(t *rapid.T) *rehearsal {
	r := &rehearsal{t: t, now: time.Date(2026, 3, 14, 15, 0, 0, 0, time.UTC), written: map[string][]string{}}
	r.store = memory.New(func() time.Time { return r.now })
	r.boot(Progress{})
	return r
}

func (r *rehearsal) boot(p Progress) {
	r.m = &machine{revision: 7, created: time.Date(2026, 3, 14, 15, 0, 0, 0, time.UTC), progress: p}
	r.event = begun{}
}

func (r *rehearsal) write(instance string, n int) {
	b := logs.Kept{Days: 30, Batch: logs.Batch{Epoch: 1, First: uint64(len(r.written[instance])) + 1, Origin: logs.Origin{
		TenantID: "ten_1", DeploymentID: "dep_1", ServiceID: "svc_1", InstanceID: instance,
	}}}
	for range n {
		text := fmt.Sprintf("%s %d", instance, len(r.written[instance])+1)
		b.Lines = append(b.Lines, logs.Line{Time: r.now, Stream: logs.Stdout, Text: []byte(text)})
		r.written[instance] = append(r.written[instance], text)
	}
	if _, err := r.store.Append(r.t.Context(), []logs.Kept{b}); err != nil {
		r.t.Fatal(err)
	}
}

// step lets the machine decide once and carries it out; false: it rests.
func (r *rehearsal) step(answer func([]Line) answered) bool {
	effect := r.m.handle(r.now, r.event)
	r.event = rested{}
	switch e := effect.(type) {
	case locate:
		last, err := r.store.Last(r.t.Context())
		if err != nil {
			r.t.Fatal(err)
		}
		r.event = located{last: last, kept: r.now.AddDate(0, 0, -30)}
	case fetch:
		got, err := read(r.t.Context(), planeOf{r.store}, e.from, logs.Scope{TenantID: "ten_1"})
		switch {
		case miosa.CodeOf(err) == miosa.Gone:
			r.event = forgotten{}
		case err != nil:
			r.t.Fatal(err)
		default:
			lines := make([]Line, len(got.lines))
			for i, e := range got.lines {
				lines[i] = Line{Entry: e}
			}
			r.event = came{lines: lines, next: got.next, all: got.all, at: r.now}
		}
	case send:
		before := r.m.progress
		a := answer(e.lines)
		r.event = a
		probe := *r.m
		probe.queue = slices.Clone(r.m.queue)
		probe.settle(r.now, a)
		if probe.progress.Delivered+probe.progress.Dropped > before.Delivered+before.Dropped {
			for _, l := range e.lines {
				r.got = append(r.got, string(l.Text))
			}
			r.taken += probe.progress.Delivered - before.Delivered
			r.dropped += probe.progress.Dropped - before.Dropped
		}
	case rest:
		if e.until.After(r.now) {
			r.now = e.until
		}
		return !e.arrival
	}
	return true
}

type planeOf struct{ *memory.Store }

func (planeOf) Arrived() <-chan struct{} { return nil }

// TestEveryLineIsSettledThroughEverything: whatever the receiver answers, and
// whenever the process dies, each line is delivered or counted as a dead
// letter, each instance's in their order, as long as nothing expired.
func TestEveryLineIsSettledThroughEverything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newRehearsal(t)
		draw := func(lines []Line) answered {
			v := rapid.SampledFrom([]verdict{taken, taken, taken, again, mend, tooLarge, refused}).Draw(t, "verdict")
			a := answer{verdict: v, words: "words"}
			if v == taken {
				a.rejected = uint64(rapid.IntRange(0, 2).Draw(t, "rejected"))
			}
			return answered{a, rapid.Float64Range(0, 0.99).Draw(t, "chance")}
		}
		crashed := false
		r.step(draw) // it is taken up before anything is written
		r.step(draw)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0, 1:
				r.write(rapid.SampledFrom([]string{"ri_a", "ri_b"}).Draw(t, "instance"), rapid.IntRange(1, 4).Draw(t, "lines"))
			case 2:
				crashed = true
				r.boot(r.kept)
			case 3:
				r.kept = r.m.progress
			case 4:
				r.now = r.now.Add(time.Duration(rapid.IntRange(0, 5000).Draw(t, "ms")) * time.Millisecond)
			case 5:
				// Long enough for the order of arrival to be forgotten.
				r.now = r.now.Add(3 * time.Hour)
				if err := r.store.Expire(t.Context(), r.now); err != nil {
					t.Fatal(err)
				}
				r.away = true
			default:
				r.step(draw)
			}
		}
		// It rests when there is nothing left, and once more when that was read
		// before the last lines came.
		for n, rests := 0, 0; rests < 2; n++ {
			if !r.step(func([]Line) answered { return answered{answer{verdict: taken}, 0} }) {
				rests++
			}
			if n > 10000 {
				t.Fatal("it never rests")
			}
		}
		if gap := r.m.progress.GapUntil; !gap.IsZero() {
			return // it says that lines may be missing
		}
		r.complete(crashed)
	})
}

// complete checks what was settled against what was written.
func (r *rehearsal) complete(crashed bool) {
	first := map[string]int{}
	for i, text := range r.got {
		if _, ok := first[text]; !ok {
			first[text] = i
		}
	}
	total := 0
	for _, texts := range r.written {
		total += len(texts)
		for i, text := range texts {
			at, ok := first[text]
			if !ok {
				r.t.Fatalf("%q was never settled", text)
			}
			if i > 0 && first[texts[i-1]] > at {
				r.t.Fatalf("%q came before %q", text, texts[i-1])
			}
		}
	}
	if !crashed && !r.away && (len(r.got) != total || r.taken+r.dropped != uint64(total)) {
		r.t.Fatalf("%d lines settled (%d taken, %d dropped) of %d written, without a crash", len(r.got), r.taken, r.dropped, total)
	}
	if s := r.m.status(); !s.behind.IsZero() || s.state != miosa.DrainDelivering {
		r.t.Fatalf("at rest it says %+v", s)
	}
}

func batchOf(n int) []Line {
	lines := make([]Line, n)
	for i := range lines {
		lines[i].Origin.InstanceID, lines[i].Position.Seq = "ri_a", uint64(i)+1
	}
	return lines
}

// sending is a machine with a batch under way.
func sending(t *testing.T, now time.Time, n int, proven int64) *machine {
	t.Helper()
	m := &machine{revision: 7, progress: Progress{Cursor: Cursor{Done: 1, At: now}, Proven: proven}}
	if _, ok := m.handle(now, begun{}).(fetch); !ok {
		t.Fatal("it does not read first")
	}
	if s, ok := m.handle(now, came{lines: batchOf(n), next: Cursor{Done: 2}, all: true, at: now}).(send); !ok || len(s.lines) != n {
		t.Fatal("it does not send what it read")
	}
	return m
}

func TestWhatAnAnswerComesTo(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for _, x := range []struct {
		name               string
		proven             int64
		answer             answer
		state              miosa.DrainState
		delivered, dropped uint64
		done               logs.Mark
		wait               time.Duration // at least
	}{
		{"taken", 0, answer{verdict: taken}, miosa.DrainDelivering, 4, 0, 2, 0},
		{"some rejected", 0, answer{verdict: taken, rejected: 3}, miosa.DrainDelivering, 1, 3, 2, 0},
		{"more rejected than sent", 0, answer{verdict: taken, rejected: 9}, miosa.DrainDelivering, 0, 4, 2, 0},
		{"in passing", 7, answer{verdict: again}, miosa.DrainRetrying, 0, 0, 1, 750 * time.Millisecond},
		{"told when to try again", 7, answer{verdict: again, after: time.Minute}, miosa.DrainRetrying, 0, 0, 1, time.Minute},
		{"a wrong token", 7, answer{verdict: mend}, miosa.DrainFailed, 0, 0, 1, 750 * time.Millisecond},
		{"refused by one that took lines before", 7, answer{verdict: refused}, miosa.DrainDelivering, 0, 4, 2, 0},
		{"refused by one that took none yet", 0, answer{verdict: refused}, miosa.DrainFailed, 0, 0, 1, 750 * time.Millisecond},
		{"refused since the drain was changed", 6, answer{verdict: refused}, miosa.DrainFailed, 0, 0, 1, 750 * time.Millisecond},
	} {
		t.Run(x.name, func(t *testing.T) {
			m := sending(t, now, 4, x.proven)
			effect := m.handle(now, answered{x.answer, 0})
			s := m.status()
			if s.state != x.state || s.Delivered != x.delivered || s.Dropped != x.dropped || s.Cursor.Done != x.done {
				t.Errorf("state %s, %d delivered, %d dropped, done %d", s.state, s.Delivered, s.Dropped, s.Cursor.Done)
			}
			if r, ok := effect.(rest); !ok || x.wait > 0 && r.until.Sub(now) < x.wait {
				t.Errorf("goes on with %T %v", effect, effect)
			}
		})
	}
}

// A batch does not stay in memory while its receiver is away for long; it is
// read again, and tried no more often for that.
func TestALongAbsenceHoldsNoMemory(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	m := sending(t, now, 4, 7)
	for n := 1; n <= 12; n++ {
		r, ok := m.handle(now, answered{answer{verdict: again, words: "away"}, 0.5}).(rest)
		if !ok || r.arrival || r.until.Sub(now) != min(time.Second<<(n-1), lastBackoff) {
			t.Fatalf("failure %d is followed by %v", n, r)
		}
		if held := len(m.queue) > 0; held != (n <= patientFailures) || m.status().state != miosa.DrainRetrying || m.status().behind.IsZero() {
			t.Fatalf("after failure %d: a batch in memory %v, status %+v", n, held, m.status())
		}
		now = r.until
		effect := m.handle(now, rested{})
		if f, ok := effect.(fetch); ok {
			if f.from.Done != 1 {
				t.Fatalf("it reads from %+v", f.from)
			}
			effect = m.handle(now, came{lines: batchOf(4), next: Cursor{Done: 2}, all: true, at: now})
		}
		if s, ok := effect.(send); !ok || len(s.lines) != 4 {
			t.Fatalf("after pause %d it does %T", n, effect)
		}
	}
	m.handle(now, answered{answer{verdict: taken}, 0})
	if s := m.status(); s.Delivered != 4 || s.Cursor.Done != 2 || s.state != miosa.DrainDelivering {
		t.Errorf("status %+v", s)
	}
}

// A receiver that refuses everything from some day on costs three batches, not
// all that comes.
func TestRefusalsInARowAreTakenForAFault(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	m := sending(t, now, 1, 7)
	for n := range maxRefusals {
		m.handle(now, answered{answer{verdict: refused, words: "no"}, 0})
		if m.progress.Dropped != uint64(n)+1 {
			t.Fatalf("%d dropped after %d refusals", m.progress.Dropped, n+1)
		}
		m.handle(now, came{lines: batchOf(1), next: Cursor{Done: 3}, at: now})
	}
	m.handle(now, answered{answer{verdict: refused, words: "no"}, 0})
	if m.progress.Dropped != maxRefusals || m.status().state != miosa.DrainFailed {
		t.Errorf("%d dropped, state %s", m.progress.Dropped, m.status().state)
	}
}

func TestWhatIsTooLargeIsHalved(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	m := sending(t, now, 5, 0)
	var sizes []int
	effect := m.handle(now, answered{answer{verdict: tooLarge}, 0})
	for {
		s, ok := effect.(send)
		if !ok {
			break
		}
		sizes = append(sizes, len(s.lines))
		a := answer{verdict: taken}
		if len(s.lines) > 2 || s.lines[0].Position.Seq == 1 {
			a.verdict = tooLarge // and the first line is too large by itself
		}
		effect = m.handle(now, answered{a, 0})
	}
	if want := []int{2, 1, 1, 3, 1, 2}; !slices.Equal(sizes, want) {
		t.Errorf("sent %v, want %v", sizes, want)
	}
	if m.progress.Delivered != 4 || m.progress.Dropped != 1 || m.progress.Cursor.Done != 2 {
		t.Errorf("%+v", m.progress)
	}
}

func TestBackoff(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n, c := rapid.IntRange(1, 1<<40).Draw(t, "failures"), rapid.Float64Range(0, 0.999).Draw(t, "chance")
		d := backoff(n, c)
		base := lastBackoff
		if n < 10 {
			base = min(time.Second<<(n-1), lastBackoff)
		}
		if d < base*3/4 || d > base*5/4 {
			t.Fatalf("backoff(%d, %v) = %s", n, c, d)
		}
	})
}

func TestVerdicts(t *testing.T) {
	for v, list := range map[verdict][]int{
		taken: {200, 201, 202, 204}, mend: {301, 302, 307, 401, 402, 403, 404, 405, 407, 410, 501, 505},
		again: {408, 409, 423, 425, 429, 500, 502, 503, 504, 599}, tooLarge: {413}, refused: {400, 415, 422, 451},
	} {
		for _, status := range list {
			if got := judgeStatus(status); got != v {
				t.Errorf("judgeStatus(%d) = %d, want %d", status, got, v)
			}
		}
	}
	now := time.Date(2026, 3, 14, 15, 0, 0, 0, time.UTC)
	for v, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "-7": 0, "soon": 0, "999999999": longestAfter,
		"Sat, 14 Mar 2026 15:01:00 GMT": time.Minute, "Sat, 14 Mar 2026 14:00:00 GMT": 0,
	} {
		if got := retryAfter(v, now); got != want {
			t.Errorf("retryAfter(%q) = %s, want %s", v, got, want)
		}
	}
}

// An arrival larger than a batch is cut, and gone on with in its middle.
func TestABatchIsBounded(t *testing.T) {
	s := memory.New(time.Now)
	b := logs.Kept{Days: 1, Batch: logs.Batch{Epoch: 1, First: 1, Origin: logs.Origin{TenantID: "ten_1", InstanceID: "ri_a"}}}
	for range 2*maxBatchLines + 1 {
		b.Lines = append(b.Lines, logs.Line{Time: time.Now(), Stream: logs.Stdout, Text: []byte("x")})
	}
	if _, err := s.Append(t.Context(), []logs.Kept{b}); err != nil {
		t.Fatal(err)
	}
	var c Cursor
	var sizes []int
	seq := uint64(0)
	for {
		got, err := read(t.Context(), planeOf{s}, c, logs.Scope{TenantID: "ten_1"})
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, len(got.lines))
		for _, l := range got.lines {
			if seq++; l.Position.Seq != seq {
				t.Fatalf("line %d follows %d", l.Position.Seq, seq-1)
			}
		}
		if c = got.next; got.all {
			break
		}
	}
	if want := []int{maxBatchLines, maxBatchLines, 1}; !slices.Equal(sizes, want) {
		t.Errorf("batches of %v lines", sizes)
	}
	if _, err := read(t.Context(), planeOf{s}, Cursor{Done: 99}, logs.Scope{TenantID: "ten_1"}); miosa.CodeOf(err) != miosa.Gone {
		t.Errorf("a cursor of another store: %v", errors.Unwrap(err))
	}
}

// The words for a name that cannot be resolved tell nobody where it was asked for.
func TestFailuresTellNoAddress(t *testing.T) {
	a := failed(t.Context(), &url.Error{Op: "Post", URL: "https://receiver/?token=hidden", Err: &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{
		Err: "read udp 10.1.2.3:5353->10.0.0.53:53: i/o timeout", Name: "receiver", Server: "10.0.0.53:53", IsTimeout: true,
	}}})
	if want := "the receiver's name cannot be resolved: the name servers do not answer in time"; a.words != want || a.verdict != again {
		t.Errorf("%d %q, want %q", a.verdict, a.words, want)
	}
}
