package timekeeping_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/miosa/miosa/timekeeping"
)

const ms = time.Millisecond

// world is a host and a guest, with clocks of their own.
type world struct {
	*rapid.T
	host timekeeping.Moment

	source float64 // how fast the guest's clock source runs
	raw    float64 // ns
	wall   float64 // ns, from the host's: its offset
	rate   int64
	slew   int64
	slews  float64 // ns of the guest's time to go

	keeper timekeeping.Keeper
	next   time.Duration // the host's monotonic clock at the next exchange
	slow   time.Duration // an exchange takes up to so long each way
	events int
	backs  int // steps back
}

func newWorld(t *rapid.T) *world {
	return &world{
		T: t, host: timekeeping.Moment{Mono: time.Hour, Wall: 1_800_000_000 * time.Second},
		source: 1, raw: 5e9, slow: 3 * ms,
	}
}

func (w *world) pass(d time.Duration) {
	w.host.Mono += d
	w.host.Wall += d
	for left := float64(d); left > 0; {
		pace, step := w.source*(1+float64(w.rate)/1e9), left
		if w.slews > 0 {
			pace = w.source * (1 + float64(w.rate-w.slew)/1e9)
			step = min(step, w.slews/pace)
			w.slews -= step * pace
			if w.slews < 1 {
				w.slews = 0
			}
		}
		w.raw += step * w.source
		w.wall += step * (pace - 1)
		left -= step
	}
}

// pause is one of the VM: its clocks stand still.
func (w *world) pause(d time.Duration) {
	w.host.Mono += d
	w.host.Wall += d
	w.wall -= float64(d)
}

// suspend is one of the host: its monotonic clock stands still too.
func (w *world) suspend(d time.Duration) {
	w.host.Wall += d
	w.wall -= float64(d)
}

func (w *world) delay() time.Duration {
	return time.Duration(rapid.Int64Range(0, int64(w.slow)).Draw(w.T, "delay"))
}

// exchange asks once; within happens while the question is on its way.
func (w *world) exchange(within func()) {
	r := timekeeping.Reading{Asked: w.host}
	w.pass(w.delay())
	within()
	r.Wall, r.Raw, r.Rate = int64(w.host.Wall)+int64(w.wall), int64(w.raw), w.rate
	w.pass(w.delay())
	r.Answered = w.host
	off := w.wall
	out := w.keeper.Read(r)
	if out.Next <= 0 || out.Next > timekeeping.Calm {
		w.Fatalf("the next exchange is in %s", out.Next)
	}
	if out.Event != "" {
		w.events++
	}
	if a := out.Adjust; a != nil {
		if a.Rate < -timekeeping.MostRate || a.Rate > timekeeping.MostRate || a.Rate-a.Slew < -timekeeping.MostRate || a.Slew < 0 || a.SlewFor < 0 {
			w.Fatalf("%+v", *a)
		}
		if a.Step < 0 {
			if w.backs++; off <= float64(timekeeping.Slewed-w.slow) {
				w.Fatalf("set back by %s, at %s ahead", a.Step, time.Duration(off))
			}
		}
		w.pass(w.delay())
		w.wall += float64(a.Step)
		w.rate, w.slew, w.slews = a.Rate, a.Slew, float64(a.SlewFor)
	}
	w.next = w.host.Mono + out.Next
}

// run lets time pass; within happens during the first exchange.
func (w *world) run(d time.Duration, within func()) {
	end := w.host.Mono + d
	for w.next < end {
		w.pass(max(w.next-w.host.Mono, 0))
		w.exchange(within)
		within = func() {}
	}
	w.pass(max(end-w.host.Mono, 0))
}

// right makes sure that the clock is and stays right.
func (w *world) right(after string, most time.Duration) {
	for range 10 {
		if off := time.Duration(w.wall); off.Abs() > most {
			w.Fatalf("after %s: %s off, source %g, rate %d", after, off, w.source, w.rate)
		}
		w.run(time.Duration(rapid.Int64Range(1, 1000).Draw(w.T, "later"))*ms, func() {})
	}
}

// Whatever disturbs a guest's clock, within a second of the next exchange it is
// within 100 ms of its host's, and it stays there; it is set back only where it
// is far ahead, and slowed down where it is a little.
func TestTheClockIsKept(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		w.source = rapid.Float64Range(0.93, 1.07).Draw(t, "source")
		w.wall = float64(rapid.Int64Range(int64(-time.Hour), int64(90*ms)).Draw(t, "off"))
		// The host asks at once.
		w.next = w.host.Mono
		w.run(1500*ms, func() {})
		w.right("the beginning", 100*ms)
		w.run(10*time.Second, func() {})
		for range rapid.IntRange(1, 5).Draw(t, "disturbances") {
			d := time.Duration(rapid.Int64Range(1, 60_000).Draw(t, "ms")) * ms
			what := rapid.SampledFrom([]string{"pause", "suspend", "late pause", "set back", "set a little", "set ahead", "busy"}).Draw(t, "what")
			backs, events := w.backs, w.events
			patience := 500 * ms
			switch what {
			case "pause": // while a question is on its way, as one is in any long pause
				w.run(timekeeping.Calm+100*ms, func() { w.pause(d) })
			case "suspend":
				w.run(timekeeping.Calm+100*ms, func() { w.suspend(d) })
			case "late pause":
				w.pause(d)
				patience = 100 * ms
				w.run(timekeeping.Calm+100*ms, func() {})
			case "set back":
				w.wall -= float64(d)
				w.run(timekeeping.Calm+100*ms, func() {})
			case "set a little":
				by := min(d, 150*ms)
				w.wall += float64(by)
				// As fast as the kernel slows a clock down.
				patience = time.Duration(float64(by) / (1 - 0.9*w.source))
				w.run(timekeeping.Calm+100*ms, func() {})
				if w.backs > backs {
					t.Fatal("it was set back")
				}
			case "set ahead":
				w.wall += float64(d + timekeeping.Slewed + 100*ms)
				w.run(timekeeping.Calm+100*ms, func() {})
				if w.backs == backs {
					t.Fatal("it was not set back")
				}
				w.run(2*time.Minute, func() {})
				if w.events == events {
					// Within a minute of the last one: none.
					w.wall += float64(d + timekeeping.Slewed + 100*ms)
					w.run(timekeeping.Calm+100*ms, func() {})
				}
				if w.events == events {
					t.Fatal("nobody was told")
				}
			case "busy":
				w.slow = 60 * ms
				w.run(10*time.Second, func() {})
				w.slow = 3 * ms
				patience = 2 * time.Second
			}
			w.run(patience, func() {})
			w.right(what, 100*ms)
		}
		// A rate that was learnt needs no more words.
		w.run(40*time.Second, func() {})
		if pace := w.source*(1+float64(w.rate)/1e9) - 1; pace > 0.002 || pace < -0.002 {
			t.Fatalf("it runs %g off, its source %g", pace, w.source)
		}
	})
}

// What a pause takes, or one and another soon after it, is not taken for the pace
// of the source.
func TestPausesAreNotLearnt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		w.source = rapid.Float64Range(0.93, 1.07).Draw(t, "source")
		w.next = w.host.Mono
		w.run(12*time.Second, func() {})
		for range rapid.IntRange(1, 2).Draw(t, "pauses") {
			d := time.Duration(rapid.IntRange(1, 400).Draw(t, "ms")) * ms
			w.run(timekeeping.Calm+100*ms, func() { w.pause(d) })
			w.run(time.Duration(rapid.IntRange(500, 6000).Draw(t, "gap"))*ms, func() {})
			if pace := w.source*(1+float64(w.rate)/1e9) - 1; pace > 0.04 || pace < -0.04 {
				t.Fatalf("it runs %g off after a pause of %s, its source at %g", pace, d, w.source)
			}
		}
	})
}

// A source that loses time again and again, as one does that counts the timer
// interrupts of a busy host's, is read often enough to be kept all the same.
func TestASourceThatStumbles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		w.next = w.host.Mono
		phase := rapid.IntRange(0, 13).Draw(t, "phase")
		loses := rapid.Float64Range(0, 0.2).Draw(t, "loses")
		for i := range 220 {
			w.source = 1
			if (i+phase)/7%2 == 0 {
				w.source -= loses
			}
			w.run(100*ms, func() {})
			if off := time.Duration(w.wall); i > 20 && off.Abs() > 100*ms {
				t.Fatalf("after %d ms: %s off", i*100, off)
			}
		}
	})
}

// The source may begin to run wrong, and right again.
func TestARateThatChanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		w.next = w.host.Mono
		for range 5 {
			w.source = rapid.Float64Range(0.97, 1.03).Draw(t, "source")
			w.right("a change", 100*ms)
			w.run(time.Duration(rapid.IntRange(0, 40).Draw(t, "s"))*time.Second, func() {})
		}
	})
}

// A guest may claim anything: what it is told stays within bounds, it is not
// asked more often for it, and its log does not fill with it.
func TestALiarGainsNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var k timekeeping.Keeper
		now := timekeeping.Moment{Mono: time.Hour, Wall: 1_800_000_000 * time.Second}
		began, asked, events := now.Mono, 0, 0
		for range rapid.IntRange(1, 300).Draw(t, "readings") {
			r := timekeeping.Reading{Asked: now, Rate: rapid.Int64().Draw(t, "rate"), Raw: rapid.Int64().Draw(t, "raw")}
			r.Wall = rapid.OneOf(rapid.Int64(), rapid.Int64Range(int64(now.Wall-time.Second), int64(now.Wall+time.Second))).Draw(t, "wall")
			took := time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(t, "took"))
			now.Mono += took
			now.Wall += took
			if rapid.IntRange(0, 9).Draw(t, "set") == 0 { // the host's clock is set
				now.Wall += time.Duration(rapid.Int64Range(int64(-time.Hour), int64(time.Hour)).Draw(t, "by"))
			}
			r.Answered = now
			out := k.Read(r)
			if a := out.Adjust; a != nil && (a.Rate < -timekeeping.MostRate || a.Rate > timekeeping.MostRate || a.Rate-a.Slew < -timekeeping.MostRate || a.Slew < 0 || a.SlewFor < 0 || a.SlewFor > time.Minute) {
				t.Fatalf("%+v", *a)
			}
			if out.Event != "" {
				events++
			}
			if out.Next <= 0 || out.Next > timekeeping.Calm {
				t.Fatalf("the next is in %s", out.Next)
			}
			asked++
			now.Mono += out.Next
			now.Wall += out.Next
		}
		passed := now.Mono - began
		if most := 1 + int(passed/time.Minute); events > most {
			t.Fatalf("%d events in %s", events, passed)
		}
		if most := 14 + 12*int(passed/timekeeping.Calm); asked > most {
			t.Fatalf("asked %d times in %s", asked, passed)
		}
	})
}
