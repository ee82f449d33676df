package metering

import (
	"slices"
	"time"
)

// Reading is what a host sees of an instance at one moment.
type Reading struct {
	Wall time.Time // decides the hour, nothing else
	// Host names the host's present life, from its boot on; Clock is how long
	// that has lasted. Unlike Wall it is never set.
	Host  string
	Clock time.Duration
	// VM is the virtual machine that runs, or that has ended just now if Ended
	// is set; "": none does.
	VM    string
	Ended bool
	Size  Size // of VM
	// Counter names what counts the bytes: while it is the same, its counts
	// never go back. "": nobody could say.
	Counter        string
	Sent, Received uint64
}

// maxClosed bounds the hours that wait to be reported: more than a month. The
// oldest then give way; their usage goes to the next hour that is kept.
const maxClosed = 800

// MaxPoints is how many a report has at most.
const MaxPoints = maxClosed + 1

// Meter counts one instance on its host. It is a plain value that is to be
// kept whole: taken up again as it was at any earlier reading, it comes to the
// same total with the next, as long as VM and counter are still the same. Hosts
// keep it as JSON: the names of its tags stay, whatever the fields are called.
type Meter struct {
	Epoch  uint64  `json:"Epoch"`
	Hour   Hour    `json:"Hour"`
	Total  Amount  `json:"Total"`
	Closed []Point `json:"Closed"` // hours that have ended and are not acknowledged
	Final  bool    `json:"Final"`

	Acknowledged Amount `json:"Acknowledged"`
	Known        bool   `json:"Known"` // some report was taken

	// The last reading.
	Host     string        `json:"Host"`
	Clock    time.Duration `json:"Clock"` // less what is not yet a whole millisecond
	VM       string        `json:"VM"`
	Size     Size          `json:"Size"`
	Counter  string        `json:"Counter"`
	Sent     uint64        `json:"Sent"`
	Received uint64        `json:"Received"`
}

// NewMeter begins at nothing: what the counters say already was before. Later
// meters of an instance need higher epochs.
func NewMeter(epoch uint64, r Reading) *Meter {
	m := &Meter{Epoch: epoch, Hour: HourOf(r.Wall)}
	m.remember(r, r.Clock)
	return m
}

// Read takes a reading; they come in the order in which they were taken.
//
// A VM's time counts when it is seen running, or ending, and was seen running
// the time before. Between its last reading and an end that nobody saw,
// nothing counts: it may have been long dead.
func (m *Meter) Read(r Reading) {
	clock := r.Clock
	if m.VM != "" && r.VM == m.VM && r.Host == m.Host && r.Clock > m.Clock {
		whole := (r.Clock - m.Clock).Truncate(time.Millisecond)
		clock = m.Clock + whole
		m.ran(r.Wall, whole)
	}
	m.enter(HourOf(r.Wall))
	m.Total = m.Total.Plus(m.traffic(r))
	m.remember(r, clock)
}

// ran adds a time of whole milliseconds, which ends at a moment, to the hours
// it lies in.
func (m *Meter) ran(end time.Time, d time.Duration) {
	for d > 0 {
		at := end.Add(-d)
		hour := HourOf(at)
		left := (hour + 1).Time().Sub(at)
		part := min(d, (left + time.Millisecond - 1).Truncate(time.Millisecond))
		m.enter(hour)
		m.Total = m.Total.Plus(m.Size.lasting(uint64(part / time.Millisecond))) //nolint:gosec // positive
		d -= part
	}
}

// enter closes the present hour if it is over.
func (m *Meter) enter(hour Hour) {
	if hour == m.Hour {
		return
	}
	if n := len(m.Closed); n > 0 && m.Closed[n-1].Total != m.Total || n == 0 && m.Acknowledged != m.Total {
		m.Closed = append(m.Closed, Point{m.Hour, m.Total})
	}
	if n := len(m.Closed); n > maxClosed {
		m.Closed = slices.Delete(m.Closed, 0, n-maxClosed)
	}
	m.Hour = hour
}

// traffic is what went through since the last reading.
func (m *Meter) traffic(r Reading) Amount {
	switch {
	case r.Counter == "" || m.Counter == "":
		return Amount{}
	case r.Counter != m.Counter:
		// It was made after the last reading, for this instance alone.
		return Amount{SentBytes: r.Sent, ReceivedBytes: r.Received}
	}
	return Amount{SentBytes: r.Sent, ReceivedBytes: r.Received}.Minus(Amount{SentBytes: m.Sent, ReceivedBytes: m.Received})
}

func (m *Meter) remember(r Reading, clock time.Duration) {
	m.Host, m.Clock = r.Host, clock
	if m.VM, m.Size = r.VM, r.Size; r.Ended {
		m.VM = ""
	}
	if r.Counter != "" {
		m.Counter, m.Sent, m.Received = r.Counter, r.Sent, r.Received
	}
}

// Points are to be reported: the hours that ended, and the present one.
func (m *Meter) Points() []Point {
	return append(slices.Clone(m.Closed), Point{m.Hour, m.Total})
}

// Owes reports whether there is something to be said.
func (m *Meter) Owes() bool { return !m.Known || m.Final || m.Total != m.Acknowledged }

// Acknowledge forgets the hours that a report of the epoch, taken, has told of.
func (m *Meter) Acknowledge(epoch uint64, total Amount) {
	if epoch != m.Epoch {
		return
	}
	m.Known = true
	m.Acknowledged = m.Acknowledged.AtLeast(total)
	m.Closed = slices.DeleteFunc(m.Closed, func(p Point) bool { return total.Covers(p.Total) })
}

// Renew begins at nothing in a new epoch: the account knows a higher one than
// the meter's, so that nobody can say how much of its total was settled.
func (m *Meter) Renew(known uint64) {
	if known <= m.Epoch {
		return
	}
	m.Epoch, m.Total, m.Closed, m.Acknowledged, m.Known = known+1, Amount{}, nil, Amount{}, false
}
