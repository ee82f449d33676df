package qemu

import (
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miosa/miosa/timekeeping"
	"github.com/miosa/miosa/vmm/vmmtest"
	"github.com/miosa/miosa/wire/guest"
)

// A template that was made while its host had other things to do gives its
// copies a clock source that is right, and a clock that can be put right.
func TestTheClockOfACopy(t *testing.T) {
	h := newHost(t)
	d := h.driver(t)
	if accel, err := d.Accel(t.Context()); err != nil || accel != "tcg" {
		t.Skipf("templates are for emulation, this host has %s (%v)", accel, err)
	}
	if !d.tsc.steady {
		t.Skip("this host's time stamp counter is not steady")
	}
	var busy sync.WaitGroup
	var enough atomic.Bool
	defer busy.Wait()
	defer enough.Store(true)
	for range 4 * runtime.NumCPU() {
		busy.Go(func() {
			for !enough.Load() { //nolint:revive // that is the load
			}
		})
	}
	spec, a := h.spec(t, "ri_a")
	vm := start(t, d, spec)
	if vm.Handle().Resumed.IsZero() {
		t.Error("it booted by itself")
	}
	enough.Store(true)
	busy.Wait()
	s := vmmtest.Open(t, vm)
	s.Boot("ri_a", a, "/app/app clocksource")
	if source := s.Stdout(1)[0]; source != "tsc" {
		t.Errorf("it goes by %s", source)
	}

	// As an agent does.
	var keeper timekeeping.Keeper
	began := time.Now()
	moment := func(t time.Time) timekeeping.Moment {
		return timekeeping.Moment{Mono: t.Sub(began), Wall: time.Duration(t.UnixNano())}
	}
	// Right for sure, and for long enough to tell that it runs as it should.
	first, right := guest.Clock{}, time.Time{}
	var from time.Time
	var firstHalf time.Duration
	for n := 1; ; n++ {
		if time.Since(began) > 2*time.Minute {
			t.Fatalf("not right after %s", time.Since(began))
		}
		c, asked, answered := s.Clock()
		half := answered.Sub(asked) / 2
		at := asked.Add(half)
		if n == 1 {
			first, from, firstHalf = c, at, half
		}
		off := time.Duration(c.Wall - at.UnixNano())
		if n <= 3 {
			t.Logf("%s ± %s off, %s after the first question", off, half, answered.Sub(began))
		}
		switch certain := half < 50*time.Millisecond; {
		case certain && off.Abs()+half < 100*time.Millisecond && right.IsZero():
			right = answered
			t.Logf("right after %s and %d exchanges: %s ± %s off", answered.Sub(began), n, off, half)
		case certain && !right.IsZero() && off.Abs()-half > 100*time.Millisecond:
			t.Fatalf("it was right, and is %s ± %s off", off, half)
		}
		if passed := at.Sub(from); !right.IsZero() && passed > 5*time.Second {
			pace, sure := float64(c.Raw-first.Raw)/float64(passed), float64(firstHalf+half)/float64(passed)
			t.Logf("its source runs at %.4f ± %.4f over %s", pace, sure, passed)
			if math.Abs(pace-1) > 0.02+sure {
				t.Errorf("its clock source runs at %.4f", pace)
			}
			return
		}
		out := keeper.Read(timekeeping.Reading{Asked: moment(asked), Answered: moment(answered), Wall: c.Wall, Raw: c.Raw, Rate: c.Rate})
		if a := out.Adjust; a != nil {
			s.Adjust(guest.Adjust{StepNS: int64(a.Step), Rate: a.Rate, Slew: a.Slew, SlewNS: int64(a.SlewFor)})
		}
		<-time.After(out.Next)
	}
}
