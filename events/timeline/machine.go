package timeline

import (
	"cmp"
	"slices"
	"time"

	"github.com/miosa/miosa"
)

// Item is one event in the outbox.
type Item struct {
	Key, ID            string
	Revision           int64
	Tenant, Deployment string
	At                 time.Time
	Former             bool // at its former place, where its lease ends it one day
	Lost               int  // of a marker: so many events were lost
	// Event is its content; nil: it must be read first.
	Event *miosa.Event
}

func inOrder(a, b Item) int {
	if a.Former != b.Former {
		if a.Former {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(a.Revision, b.Revision), cmp.Compare(a.ID, b.ID))
}

// Event is what the machine is told.
type Event interface{ event() }

type (
	// Listed is all that is in the outbox.
	Listed struct{ Items []Item }
	// Arrived is what was committed since.
	Arrived struct{ Items []Item }
	// Stored answers Store. Left are keys of what nobody can read: it stays.
	Stored struct {
		Err  error
		Left []string
	}
	// Cleared answers Clear.
	Cleared struct{ Err error }
	// Dropped answers Drop, with the markers as they were written.
	Dropped struct {
		Err     error
		Markers []Item
	}
	// Tick is the time that Wake named.
	Tick struct{}
)

func (Listed) event()  {}
func (Arrived) event() {}
func (Stored) event()  {}
func (Cleared) event() {}
func (Dropped) event() {}
func (Tick) event()    {}

// Effect is what the machine wants done: one thing at a time, each answered.
type Effect interface{ effect() }

type (
	// Store appends the items to the event store, in this order.
	Store struct{ Items []Item }
	// Clear deletes them from the outbox.
	Clear struct{ Items []Item }
	// Drop deletes them from the outbox though the store does not have them,
	// and writes the markers with them, in one transaction.
	Drop struct {
		Items   []Item
		Markers []Marker
	}
)

func (Store) effect() {}
func (Clear) effect() {}
func (Drop) effect()  {}

// Marker stands for events of a deployment ("": of none) that were lost.
type Marker struct {
	ID                 string // of the one to replace; "": a new one
	Tenant, Deployment string
	Lost               int // all that it stands for
	From, To           time.Time
}

const (
	storeAtOnce = 256
	clearAtOnce = 100
	// dropAtOnce: with a marker for each it is still one transaction.
	dropAtOnce = 50
	// uncleared bounds what is stored and not yet deleted.
	uncleared = 1024

	firstPause = 100 * time.Millisecond
	lastPause  = 10 * time.Second
)

// Machine decides how events move from the outbox to the store: in the order of
// their commits, deleted only once they are stored. What was stored and not
// deleted is stored again after a crash, and dropped by the store by its ID. When
// the store refuses for so long that the outbox holds more than Limit, the oldest
// are dropped, so that nothing else suffers.
type Machine struct {
	limit   int
	waiting []Item // in order
	stored  []Item // to be deleted
	working []Item // of the effect under way
	busy    bool
	alone   int // so many are stored one by one: one among them is refused

	storing, clearing, dropping pause
	dropped                     int
}

// pause is how long to wait after failures.
type pause struct {
	failures int
	until    time.Time
}

func (p *pause) failed(now time.Time) {
	p.until = now.Add(min(firstPause<<min(p.failures, 10), lastPause))
	p.failures++
}

// NewMachine makes a machine; limit bounds the outbox.
func NewMachine(limit int) *Machine { return &Machine{limit: limit} }

// Waiting is how many events are not stored yet.
func (m *Machine) Waiting() int { return len(m.waiting) + len(m.working) }

// Lost is how many were dropped.
func (m *Machine) Lost() int { return m.dropped }

// Handle takes what happened and returns what to do: at most one effect.
func (m *Machine) Handle(now time.Time, ev Event) []Effect {
	switch e := ev.(type) {
	case Listed:
		m.list(e.Items)
	case Arrived:
		m.arrive(e.Items)
	case Stored:
		m.endStore(now, e)
	case Cleared:
		m.busy = false
		if e.Err != nil {
			m.clearing.failed(now)
			m.stored = append(m.working, m.stored...)
		} else {
			m.clearing = pause{}
		}
		m.working = nil
	case Dropped:
		m.busy = false
		if e.Err != nil {
			m.dropping.failed(now)
			m.waiting = append(m.waiting, m.working...)
			slices.SortFunc(m.waiting, inOrder)
		} else {
			m.dropping = pause{}
			m.dropped += len(m.working)
			m.arrive(e.Markers)
		}
		m.working = nil
	}
	return m.decide(now)
}

// list is told at the beginning and when the watch had to begin anew: what is
// under way or done is in it, too.
func (m *Machine) list(items []Item) {
	known := map[string]bool{}
	for _, i := range slices.Concat(m.stored, m.working) {
		known[i.ID] = true
	}
	m.waiting = slices.DeleteFunc(slices.Clone(items), func(i Item) bool { return known[i.ID] })
	slices.SortFunc(m.waiting, inOrder)
}

func (m *Machine) arrive(items []Item) {
	for _, i := range items {
		if i.Lost > 0 { // the only ones that are written again
			m.waiting = slices.DeleteFunc(m.waiting, func(w Item) bool { return w.ID == i.ID && w.Revision <= i.Revision })
		}
		known := func(w Item) bool { return w.ID == i.ID }
		if n := len(m.waiting); n == 0 || inOrder(m.waiting[n-1], i) < 0 {
			if !slices.ContainsFunc(m.working, known) && !slices.ContainsFunc(m.stored, known) {
				m.waiting = append(m.waiting, i)
			}
			continue
		}
		if slices.ContainsFunc(slices.Concat(m.waiting, m.stored, m.working), known) {
			continue
		}
		at, _ := slices.BinarySearchFunc(m.waiting, i, inOrder)
		m.waiting = slices.Insert(m.waiting, at, i)
	}
}

func (m *Machine) endStore(now time.Time, e Stored) {
	m.busy = false
	switch {
	case e.Err == nil, miosa.CodeOf(e.Err) == miosa.Invalid && len(m.working) == 1:
		// One that no store takes is given up: it must not stop the others.
		m.storing = pause{}
		m.alone = max(0, m.alone-len(m.working))
		for _, i := range m.working {
			if !slices.Contains(e.Left, i.Key) {
				m.stored = append(m.stored, i)
			}
		}
	case miosa.CodeOf(e.Err) == miosa.Invalid:
		m.alone = len(m.working)
		m.waiting = append(m.working, m.waiting...)
	default:
		m.storing.failed(now)
		m.waiting = append(m.working, m.waiting...)
	}
	m.working = nil
}

func (m *Machine) decide(now time.Time) []Effect {
	if m.busy {
		return nil
	}
	if m.storing.failures > 0 && !now.Before(m.dropping.until) {
		if drop, ok := m.drop(); ok {
			m.busy = true
			return []Effect{drop}
		}
		m.dropping = pause{}
	}
	if len(m.waiting) > 0 && len(m.stored) < uncleared && !now.Before(m.storing.until) {
		n := min(storeAtOnce, len(m.waiting))
		if m.alone > 0 {
			n = 1
		}
		m.working, m.waiting = slices.Clone(m.waiting[:n]), m.waiting[n:]
		m.busy = true
		return []Effect{Store{m.working}}
	}
	if len(m.stored) > 0 && !now.Before(m.clearing.until) {
		n := min(clearAtOnce, len(m.stored))
		m.working, m.stored = slices.Clone(m.stored[:n]), m.stored[n:]
		m.busy = true
		return []Effect{Clear{m.working}}
	}
	return nil
}

// drop picks the oldest when there are too many. Markers stay, and so does what
// is at its former place: it does not grow.
func (m *Machine) drop() (Drop, bool) {
	loose := func(i Item) bool { return !i.Former && i.Lost == 0 }
	over := -m.limit
	for _, i := range m.waiting {
		if loose(i) {
			over++
		}
	}
	if over <= 0 {
		return Drop{}, false
	}
	type of struct{ tenant, deployment string }
	var d Drop
	at := map[of]int{} // in d.Markers
	m.waiting = slices.DeleteFunc(m.waiting, func(i Item) bool {
		if !loose(i) || len(d.Items) == min(dropAtOnce, over) {
			return false
		}
		d.Items = append(d.Items, i)
		owner := of{i.Tenant, i.Deployment}
		n, ok := at[owner]
		if !ok {
			n = len(d.Markers)
			at[owner] = n
			d.Markers = append(d.Markers, Marker{Tenant: i.Tenant, Deployment: i.Deployment, From: i.At, To: i.At})
		}
		k := &d.Markers[n]
		k.Lost++
		k.From, k.To = earlier(k.From, i.At), later(k.To, i.At)
		return true
	})
	// A marker that still waits takes them in.
	for _, i := range m.waiting {
		n, ok := at[of{i.Tenant, i.Deployment}]
		if i.Lost == 0 || !ok || d.Markers[n].ID != "" {
			continue
		}
		k := &d.Markers[n]
		k.ID, k.Lost = i.ID, k.Lost+i.Lost
		if from, ok := markerFrom(i.Event); ok {
			k.From = earlier(k.From, from)
		}
	}
	m.working = d.Items
	return d, true
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// Wake is when to tick next; zero: not before something happens.
func (m *Machine) Wake() time.Time {
	if m.busy {
		return time.Time{}
	}
	var at time.Time
	consider := func(t time.Time, needed bool) {
		if needed && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	consider(m.storing.until, len(m.waiting) > 0 && len(m.stored) < uncleared)
	consider(m.clearing.until, len(m.stored) > 0)
	consider(m.dropping.until, m.dropping.failures > 0 && m.storing.failures > 0)
	return at
}
