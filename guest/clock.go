package guest

import (
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	wire "github.com/miosa/miosa/wire/guest"
)

// kernelClock is what can be done to the machine's clocks.
type kernelClock interface {
	read() (wall, raw int64)
	step(ns int64)
	rate(ppb int64)
}

// clock is the machine's, as the host keeps it.
type clock struct {
	kernel kernelClock // nil: it cannot be read

	mu    sync.Mutex // guards all below
	rate  int64
	words int // counts adjustments: a slew ends with the next
}

// read is what a Pong says of the clocks.
func (c *clock) read() *wire.Clock {
	if c.kernel == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	wall, raw := c.kernel.read()
	return &wire.Clock{Wall: wall, Raw: raw, Rate: c.rate}
}

// adjust does what the host says of the clocks.
func (c *clock) adjust(a wire.Adjust) {
	if c.kernel == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.words++
	if a.StepNS != 0 {
		c.kernel.step(a.StepNS)
	}
	c.rate = a.Rate
	if a.Slew <= 0 || a.SlewNS <= 0 {
		c.kernel.rate(a.Rate)
		return
	}
	c.kernel.rate(a.Rate - a.Slew)
	word := c.words
	time.AfterFunc(time.Duration(a.SlewNS), func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.words == word {
			c.kernel.rate(c.rate)
		}
	})
}

// ownClock is the machine's. Anywhere but in PID 1 it would be somebody else's:
// there is none then.
func ownClock() kernelClock {
	if os.Getpid() == 1 {
		return machineClock{}
	}
	return nil
}

type machineClock struct{}

func (machineClock) read() (wall, raw int64) {
	var w, r unix.Timespec
	if unix.ClockGettime(unix.CLOCK_REALTIME, &w) != nil || unix.ClockGettime(unix.CLOCK_MONOTONIC_RAW, &r) != nil {
		return 0, 0
	}
	return w.Nano(), r.Nano()
}

// step adds to the wall clock, whatever happens meanwhile.
func (machineClock) step(ns int64) {
	at := unix.NsecToTimespec(ns) // its nanoseconds are never negative, as the kernel wants them
	_, _ = unix.Adjtimex(&unix.Timex{Modes: unix.ADJ_SETOFFSET | unix.ADJ_NANO, Time: unix.Timeval{Sec: at.Sec, Usec: at.Nsec}})
}

// rate makes the clocks run faster than their source: by whole ticks, which the
// kernel takes to a tenth, and the rest by its finer word.
func (machineClock) rate(ppb int64) {
	tick, freq := ticks(ppb)
	_, _ = unix.Adjtimex(&unix.Timex{Modes: unix.ADJ_TICK | unix.ADJ_FREQUENCY, Tick: tick, Freq: freq})
}

// ticks is a rate as adjtimex takes it: µs in a hundredth of a second, and
// millionths in 65,536 parts.
func ticks(ppb int64) (tick, freq int64) {
	const nominal, perTick = 10_000, 100_000 // µs; ppb
	ppb = min(max(ppb, -wire.MostRate), wire.MostRate)
	whole := (ppb + perTick/2) / perTick
	if ppb < -perTick/2 {
		whole = (ppb - perTick/2) / perTick
	}
	return nominal + whole, (ppb - whole*perTick) * 65536 / 1000
}
