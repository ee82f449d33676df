package metering

import (
	"time"
)

// Account is what is known of one instance's usage, whoever says it.
type Account struct {
	Epoch   uint64
	Settled Amount // of the epoch
	Before  Amount // of all earlier epochs
	Hour    Hour   // the last that something was added to
	Final   bool
}

// Bounds are what a host can have used at most.
type Bounds struct {
	Size  Size
	Since time.Time // the instance was not on the host before
	Now   time.Time
}

const (
	// tolerance is how far the clocks of host and control may differ.
	tolerance = time.Minute
	// lineRate is more than any interface carries, in bytes a second.
	lineRate = 400_000_000_000 / 8
)

// most is the limit by now. A guest's bytes are counted before its own limit
// on them, so that it is not one for the counter.
func (b Bounds) most() Amount {
	d := max(b.Now.Sub(b.Since), 0) + tolerance
	a := b.Size.lasting(uint64(d / time.Millisecond)) //nolint:gosec // not negative
	a.SentBytes = uint64(d/time.Second) * lineRate    //nolint:gosec // not negative
	a.ReceivedBytes = a.SentBytes
	return a
}

// Settle takes a report and returns what it adds, by hours. Nothing of it is
// believed beyond the bounds; what lies beyond may be believed later, when it
// is claimed again. Hours lie between the last one added to and the present,
// which counts alone when the clock was set back behind the last. A report of an
// earlier epoch adds nothing: behind.
func (a *Account) Settle(r Report, b Bounds) (add []Point, behind bool) {
	switch {
	case r.Epoch < a.Epoch:
		return nil, true
	case r.Epoch > a.Epoch:
		a.Before = a.Before.Plus(a.Settled)
		a.Epoch, a.Settled = r.Epoch, Amount{}
	}
	if a.Hour == 0 {
		a.Hour = HourOf(b.Since)
	}
	most := b.most().Minus(a.Before)
	for _, p := range r.Points {
		claimed := p.Total.AtMost(most)
		more := claimed.Minus(a.Settled)
		a.Settled = a.Settled.AtLeast(claimed)
		if more == (Amount{}) {
			continue
		}
		a.Hour = min(max(a.Hour, p.Hour), HourOf(b.Now))
		add = append(add, Point{a.Hour, more})
	}
	a.Final = a.Final || r.Final
	return add, false
}
