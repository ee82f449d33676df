// Package timekeeping decides how a guest's wall clock is brought to its host's
// and kept there: what is asked of the guest's clock, from what it was seen to
// read. It reads no clock itself.
//
// A guest's clock falls behind while its VM is paused, goes on from the
// template's where the VM is a copy, and under emulation may run percents fast
// or slow. What is behind is set forward at once, what is a little ahead runs
// slower until it is right, and what is far ahead is set back. How fast the
// clock's source runs is learnt, and made up for. All of it is about the wall
// clock: a guest's monotonic clock never jumps.
package timekeeping

import (
	"fmt"
	"math"
	"time"
)

// The promises.
const (
	// Slewed is how far a clock may be ahead to be slowed down until it is
	// right; what is further ahead is set back.
	Slewed = 200 * time.Millisecond
	// Calm is the time between exchanges when all is well. It bounds how long a
	// disturbance goes unnoticed.
	Calm = time.Second
	// MostRate bounds how much faster or slower than its source a clock is made
	// to run: a tenth, in parts per billion (the kernel's own bound).
	MostRate = 100_000_000
)

const (
	near       = 10 * time.Millisecond  // right enough
	doubtful   = 40 * time.Millisecond  // an exchange that took longer is made again …
	attempts   = 6                      // … as often as this, all in all
	hurry      = 50 * time.Millisecond  // until the next exchange, where it matters …
	hurries    = 10                     // … so many times before all is well again
	learning   = 250 * time.Millisecond // until the next one otherwise, before …
	calmAfter  = 9                      // … so many told of a source that runs as before
	slewFor    = 4 * time.Second        // at most, by one word
	remembered = 32 * time.Second       // of the past, at least, for the rate
	shortest   = 500 * time.Millisecond // that says something about the rate, if it says so twice
	finest     = 20_000                 // ppb: less is not worth a word
	changed    = 0.01                   // the rate did, where a reading is so far off
	tellEvery  = time.Minute            // of clocks set back
)

// Moment is one moment by the host's clocks.
type Moment struct {
	Mono time.Duration // since whenever, never going back
	Wall time.Duration // since 1970
}

// Reading is one exchange: the host asked, and the guest's clocks read this
// sometime between then and when the answer came.
type Reading struct {
	Asked, Answered Moment
	Wall            int64 // the guest's wall clock: ns since 1970
	Raw             int64 // ns of the guest's clock source, as it runs by itself
	Rate            int64 // ppb by which the guest's clock is made faster than its source
}

// Adjust is what the guest's clock is to do.
type Adjust struct {
	Step time.Duration // is added to the wall clock, at once
	Rate int64         // ppb by which the clock runs faster than its source from now on, within ±MostRate
	// For so long it runs Slew ppb slower than that, within the same bounds.
	Slew    int64
	SlewFor time.Duration
}

// Outcome is what follows from a reading.
type Outcome struct {
	Adjust *Adjust       // nil: nothing is to be done
	Next   time.Duration // until the next exchange should be
	Event  string        // what the instance's log should say, ""
}

// Keeper keeps one guest's clock. The zero value knows nothing yet. What a
// guest claims has no effect but on what that guest is told.
type Keeper struct {
	hurried int // times since all was well
	best    *sample
	tries   int

	// The rate's memory: it began at first, and last is the latest.
	first, middle, last *sample
	proven              bool // before and after middle it was the same
	alike               int  // readings since it was not

	told time.Duration
	ever bool // told is set
}

// sample is a reading made sense of.
type sample struct {
	mono   time.Duration // the host's, at the middle of the exchange
	half   time.Duration // the reading was at most so far from it
	offset time.Duration // of the guest's wall clock from the host's
	raw    time.Duration
	rate   int64
}

// Read takes a reading.
func (k *Keeper) Read(r Reading) Outcome {
	s, ok := read(r)
	if !ok {
		return Outcome{Next: k.soon()} // the host's own clock was set meanwhile
	}
	// Of exchanges that took long the shortest counts, unless it tells of a time
	// that is over.
	if k.best == nil || s.half <= k.best.half || !overlap(s, k.best) {
		k.best = &s
	}
	if k.tries++; k.best.half > doubtful/2 && k.tries < attempts {
		return Outcome{Next: k.soon()}
	}
	s, k.best, k.tries = *k.best, nil, 0
	rate, sure := k.learn(&s)
	out := k.decide(&s, rate, sure)
	switch {
	case out.Adjust != nil && out.Adjust.Step != 0:
		out.Next = k.soon()
	case k.alike < calmAfter: // it may stumble on
		out.Next = learning
	default:
		k.hurried, out.Next = 0, Calm
	}
	return out
}

// soon is the time until the next exchange where it matters. It is so soon a few
// times only: a guest may lie each time.
func (k *Keeper) soon() time.Duration {
	if k.hurried++; k.hurried > hurries {
		return learning
	}
	return hurry
}

// read makes sense of a reading, if there is any in it.
func read(r Reading) (sample, bool) {
	took, passed := r.Answered.Mono-r.Asked.Mono, r.Answered.Wall-r.Asked.Wall
	if took < 0 || passed < 0 {
		return sample{}, false
	}
	const most = 1 << 61 // no sum of such numbers overflows
	within := func(n int64) time.Duration { return time.Duration(min(max(n, 0), most)) }
	return sample{
		mono: r.Asked.Mono + took/2,
		// The host may have been suspended in between, of which its monotonic
		// clock knows nothing.
		half:   max(took, passed)/2 + 1,
		offset: within(r.Wall) - (r.Asked.Wall + passed/2),
		raw:    within(r.Raw),
		rate:   min(max(r.Rate, -MostRate), MostRate),
	}, true
}

// overlap reports whether both may be true of one clock that nothing disturbed.
func overlap(a sample, b *sample) bool {
	return (a.offset - b.offset).Abs() <= a.half+b.half+near
}

// learn finds how fast the clock's source runs: what it did over what the host's
// clock did, give or take sure (1: nothing is known). A pause looks like a slow
// source for as long as it lasts: only what was the same twice is believed.
func (k *Keeper) learn(s *sample) (rate, sure float64) {
	if k.proven {
		r, e := ratio(k.first, k.last)
		passed, did := float64(s.mono-k.last.mono), float64(s.raw-k.last.raw)
		if math.Abs(did-r*passed) > float64(s.half+k.last.half)+max(e, changed)*passed {
			k.first, k.proven, k.alike = nil, false, 0 // paused, or it runs otherwise now
		}
	}
	k.last = s
	k.alike++
	switch {
	case k.first == nil:
		k.first, k.middle = s, s
	case k.proven && s.mono-k.middle.mono >= remembered:
		k.first, k.middle = k.middle, s
	case k.proven || s.mono-k.middle.mono < shortest:
	case k.middle == k.first:
		k.middle = s
	default:
		before, b := ratio(k.first, k.middle)
		since, a := ratio(k.middle, s)
		if k.proven = math.Abs(since-before) <= a+b+changed; !k.proven {
			k.first, k.middle, k.alike = k.middle, s, 0
		}
	}
	if !k.proven {
		return 1, 1
	}
	return ratio(k.first, s)
}

// ratio is how much of the guest's time passed in the host's, give or take sure.
func ratio(from, to *sample) (rate, sure float64) {
	passed := float64(to.mono - from.mono)
	return float64(to.raw-from.raw) / passed, float64(from.half+to.half) / passed
}

// decide says what the clock is to do.
func (k *Keeper) decide(s *sample, rate, sure float64) (out Outcome) {
	a := Adjust{Rate: s.rate}
	known := sure < 0.05 && rate > 0.5 // or a guest may lie
	if known {
		want := int64((1/rate - 1) * 1e9)
		want = min(max(want, -MostRate), MostRate)
		if off := want - a.Rate; float64(max(off, -off)) > max(2*sure*1e9, finest) {
			a.Rate = want
		}
	}
	switch off := s.offset; {
	case off.Abs() <= max(near, s.half):
	case off < 0:
		a.Step = -off
	case off > Slewed:
		a.Step = -off
		if !k.ever || s.mono-k.told >= tellEvery {
			k.told, k.ever = s.mono, true
			out.Event = fmt.Sprintf("the clock was %s ahead of its host's: it was set back", words(off))
		}
	default:
		if !known {
			rate = 1 / (1 + float64(a.Rate)/1e9)
		}
		a.slew(off, rate)
	}
	if a != (Adjust{Rate: s.rate}) {
		out.Adjust = &a
	}
	return out
}

// slew slows a clock down that is ahead, for as long as that takes.
func (a *Adjust) slew(ahead time.Duration, rate float64) {
	// As slow as it gets, so much of the host's time is gained.
	gain := 1 - rate*(1-MostRate/1e9)
	if gain < 0.01 {
		a.Step = -ahead // its source is too fast to be slowed down
		return
	}
	// By the guest's own timer, which is slower then too.
	a.Slew, a.SlewFor = a.Rate+MostRate, min(time.Duration(float64(ahead)/gain*(1-gain)), slewFor)
}

// words says how long, as people do.
func words(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}
