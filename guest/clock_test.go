package guest

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	wire "github.com/miosa/miosa/wire/guest"
)

// notedClock is a machine's clock that does nothing.
type notedClock struct {
	steps, rates []int64
}

func (*notedClock) read() (wall, raw int64) { return 7, 8 }
func (n *notedClock) step(ns int64)         { n.steps = append(n.steps, ns) }
func (n *notedClock) rate(ppb int64)        { n.rates = append(n.rates, ppb) }

// A slew ends by itself, and an adjustment replaces the one before.
func TestAdjustReplacesTheOneBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kernel := &notedClock{}
		c := clock{kernel: kernel}
		want := func(steps, rates []int64) {
			t.Helper()
			synctest.Wait()
			if !slices.Equal(kernel.steps, steps) || !slices.Equal(kernel.rates, rates) {
				t.Errorf("steps %d and rates %d, want %d and %d", kernel.steps, kernel.rates, steps, rates)
			}
			kernel.steps, kernel.rates = nil, nil
		}
		c.adjust(wire.Adjust{StepNS: -5, Rate: 100})
		want([]int64{-5}, []int64{100})
		c.adjust(wire.Adjust{Rate: 200, Slew: 50, SlewNS: int64(time.Second)})
		want(nil, []int64{150})
		time.Sleep(999 * time.Millisecond)
		want(nil, nil)
		time.Sleep(time.Millisecond)
		want(nil, []int64{200})
		c.adjust(wire.Adjust{Rate: 200, Slew: 50, SlewNS: int64(time.Second)})
		c.adjust(wire.Adjust{Rate: 300})
		want(nil, []int64{150, 300})
		time.Sleep(time.Minute)
		want(nil, nil)
		if got := *c.read(); got != (wire.Clock{Wall: 7, Raw: 8, Rate: 300}) {
			t.Errorf("read %+v", got)
		}
	})
}

// What the kernel is told is the rate that was asked for, to a hundredth of a
// millionth, and within what it takes.
func TestTicks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ppb := rapid.OneOf(rapid.Int64Range(-wire.MostRate, wire.MostRate), rapid.Int64()).Draw(t, "ppb")
		tick, freq := ticks(ppb)
		if tick < 9_000 || tick > 11_000 || freq < -500<<16 || freq > 500<<16 {
			t.Fatalf("tick %d, freq %d", tick, freq)
		}
		want := min(max(ppb, -wire.MostRate), wire.MostRate)
		if got := (tick-10_000)*100_000 + freq*1000/65536; got-want > 10 || want-got > 10 {
			t.Fatalf("%d becomes %d", want, got)
		}
	})
}

// Nobody's clock is kept but that of the machine whose PID 1 this is.
func TestATestHasNoClock(t *testing.T) {
	if ownClock() != nil {
		t.Error("a test may set its machine's clock")
	}
}
