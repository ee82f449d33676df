// Package balance is the mind of one router, pure: the Machine keeps the route
// table by its sequenced updates, sees backends that left it through their drain,
// and says what control is told; Pick chooses the backend for a request, Sideline
// passes over one that does not answer. Package edge carries that out, and package
// sim drives the same code.
package balance

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/routing"
)

// Machine decides what a router does about an update of the table, about backends
// that left and about what hangs on them, and when control is told. One goroutine
// owns it.
type Machine struct {
	routerID string
	table    routing.Table
	applied  bool // a table has come; generation 0 is a legal first one

	serving map[routing.Backend]map[string]time.Duration // in the table: the drain of each pool that holds it, by its name
	drains  map[routing.Backend]time.Duration            // within one update: the longest drain that a backend had before it
	leaving map[routing.Backend]*departure
	tunnels map[TunnelID]routing.Backend
	faults  map[routing.Backend]string // of what is serving or leaving

	reportAt time.Time
	stopping bool
}

// departure is a backend that left the table while something hung on it.
type departure struct {
	deadline time.Time // what is still in flight is cut
	cut      bool
	closes   []plannedClose // by time
}

type plannedClose struct {
	at     time.Time
	tunnel TunnelID
}

// How often control hears from the router: often while it waits for a drain,
// seldom otherwise, as a sign of life.
const (
	reportDraining = routing.ReportEvery / 2
	reportQuiet    = routing.ReportEvery
)

// NewMachine makes a machine that has no table yet.
func NewMachine(routerID string) *Machine {
	return &Machine{
		routerID: routerID,
		serving:  map[routing.Backend]map[string]time.Duration{},
		drains:   map[routing.Backend]time.Duration{},
		leaving:  map[routing.Backend]*departure{},
		tunnels:  map[TunnelID]routing.Backend{},
		faults:   map[routing.Backend]string{},
	}
}

// Handle takes one event and says what to do, in the order to do it.
func (m *Machine) Handle(now time.Time, ev Event) []Effect {
	switch ev := ev.(type) {
	case Updated:
		return m.apply(now, ev.Update)
	case Counted:
		return m.reportCount(now, ev.InFlight)
	case Idle:
		if m.leaving[ev.Backend] != nil {
			return []Effect{Count{}}
		}
	case Opened:
		if m.stopping {
			return []Effect{CloseTunnel{ev.Tunnel}}
		}
		m.tunnels[ev.Tunnel] = ev.Backend
		// The upgrade may have been under way while its backend left.
		if d := m.leaving[ev.Backend]; d != nil {
			d.plan(now, ev.Tunnel)
		}
	case Closed:
		delete(m.tunnels, ev.Tunnel)
	case Faulted:
		_, serving := m.serving[ev.Backend]
		if serving || m.leaving[ev.Backend] != nil {
			m.faults[ev.Backend] = ev.Why
			return []Effect{Count{}}
		}
	case Tick:
		return m.due(now)
	case Stopping:
		m.stopping = true
		var out []Effect
		for _, id := range slices.Sorted(maps.Keys(m.tunnels)) {
			out = append(out, CloseTunnel{id})
		}
		return out
	}
	return nil
}

// Wake is when the machine wants a Tick; the zero time: not before an event.
func (m *Machine) Wake() time.Time {
	at := m.reportAt
	earlier := func(t time.Time) {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	for _, d := range m.leaving {
		if !d.cut {
			earlier(d.deadline)
		}
		if len(d.closes) > 0 {
			earlier(d.closes[0].at)
		}
	}
	return at
}

// apply goes over to the next table: pools first, then the backends that no pool
// holds any more, and at last the count that the acknowledgement rests on.
func (m *Machine) apply(now time.Time, u routing.Update) []Effect {
	switch {
	case m.applied && u.Generation < m.table.Generation:
		return nil // overtaken on its way
	case m.applied && u.Generation == m.table.Generation:
		return []Effect{Count{}} // control asks again: it is new, or lost our report
	case !u.Whole && (!m.applied || u.From != m.table.Generation):
		return []Effect{Fetch{}}
	}
	moved := map[routing.Backend]bool{} // in a pool that changes, before or after
	out := m.flips(u, moved)
	m.table.Apply(u)
	m.applied = true

	var left []routing.Backend
	for _, b := range sortedBackends(moved) {
		_, serves := m.serving[b]
		d := m.leaving[b]
		switch {
		case serves && d != nil:
			delete(m.leaving, b)
			out = append(out, Admit{b})
		case !serves && d == nil:
			left = append(left, b)
		}
	}
	leave := make(map[routing.Backend]*departure, len(left))
	for _, b := range left {
		leave[b] = &departure{deadline: now.Add(Window(m.drains[b]))}
		out = append(out, Retire{b})
	}
	maps.Copy(m.leaving, leave)
	clear(m.drains)
	if len(left) > 0 {
		for _, id := range slices.Sorted(maps.Keys(m.tunnels)) {
			if d := leave[m.tunnels[id]]; d != nil {
				d.plan(now, id)
			}
		}
	}
	return append(out, Count{})
}

// flips are the host names and ports whose pool changes, in order. It notes
// whose backends change places.
func (m *Machine) flips(u routing.Update, moved map[routing.Backend]bool) []Effect {
	var changed, dropped []string
	var opened, closed []int
	for host, pool := range u.Routes {
		if old, known := m.table.Routes[host]; !known || !old.Equal(pool) {
			changed = append(changed, host)
		}
	}
	for port, pool := range u.Ports {
		if old, known := m.table.Ports[port]; !known || !old.Equal(pool) {
			opened = append(opened, port)
		}
	}
	dropped, closed = u.GoneRoutes, u.GonePorts
	if u.Whole {
		dropped, closed = missing(m.table.Routes, u.Routes), missing(m.table.Ports, u.Ports)
	}
	slices.Sort(changed)
	slices.Sort(opened)
	out := make([]Effect, 0, len(changed)+len(dropped)+len(opened)+len(closed)+1)
	for _, host := range changed {
		m.move(host, m.table.Routes[host], u.Routes[host], moved)
		out = append(out, SetPool{host, u.Routes[host]})
	}
	for _, host := range dropped {
		if old, known := m.table.Routes[host]; known {
			m.move(host, old, routing.Pool{}, moved)
			out = append(out, DropHost{host})
		}
	}
	for _, port := range opened {
		m.move(portName(port), m.table.Ports[port], u.Ports[port], moved)
		out = append(out, SetPort{port, u.Ports[port]})
	}
	for _, port := range closed {
		if old, known := m.table.Ports[port]; known {
			m.move(portName(port), old, routing.Pool{}, moved)
			out = append(out, DropPort{port})
		}
	}
	return out
}

// missing are the keys that the next one lacks, in order.
func missing[K cmp.Ordered](now, next map[K]routing.Pool) (gone []K) {
	for key := range now {
		if _, stays := next[key]; !stays {
			gone = append(gone, key)
		}
	}
	slices.Sort(gone)
	return gone
}

func portName(port int) string { return ":" + strconv.Itoa(port) }

// move notes that a pool takes another one's place.
func (m *Machine) move(name string, old, next routing.Pool, moved map[routing.Backend]bool) {
	for _, b := range old.Backends {
		moved[b] = true
		if all := m.serving[b]; all != nil {
			if _, noted := m.drains[b]; !noted {
				m.drains[b] = longest(all)
			}
			if delete(all, name); len(all) == 0 {
				delete(m.serving, b)
			}
		}
	}
	for _, b := range next.Backends {
		moved[b] = true
		if m.serving[b] == nil {
			m.serving[b] = map[string]time.Duration{}
		}
		m.serving[b][name] = drainOf(next)
	}
}

// longest is the longest drain of those pools.
func longest(drains map[string]time.Duration) (most time.Duration) {
	for _, d := range drains {
		most = max(most, d)
	}
	return most
}

// reportCount makes the report of a count. Every pool of m.table was in place before
// the count was taken, so the generation may be acknowledged with it.
func (m *Machine) reportCount(now time.Time, inFlight map[routing.Backend]int) []Effect {
	if !m.applied {
		return nil
	}
	var out []Effect
	for _, b := range sortedBackends(m.leaving) {
		if inFlight[b] == 0 {
			delete(m.leaving, b)
			out = append(out, Forget{b})
		}
	}
	byInstance := map[string]int{}
	for b, n := range inFlight {
		if n > 0 {
			byInstance[b.InstanceID] += n
		}
	}
	var faults map[string]string
	for _, b := range sortedBackends(m.faults) {
		if _, serving := m.serving[b]; !serving && m.leaving[b] == nil {
			delete(m.faults, b)
			continue
		}
		if faults == nil {
			faults = map[string]string{}
		}
		faults[b.InstanceID] = m.faults[b]
	}
	m.reportAt = now.Add(reportQuiet)
	if len(m.leaving) > 0 {
		m.reportAt = now.Add(reportDraining)
	}
	return append(out, Report{routing.Report{
		RouterID:   m.routerID,
		Generation: m.table.Generation,
		InFlight:   byInstance,
		Faults:     faults,
		At:         now,
	}})
}

// due is what the time has come for.
func (m *Machine) due(now time.Time) []Effect {
	var out []Effect
	for _, b := range sortedBackends(m.leaving) {
		d := m.leaving[b]
		for len(d.closes) > 0 && !d.closes[0].at.After(now) {
			// It may have closed by itself since it was planned.
			if id := d.closes[0].tunnel; m.tunnels[id] == b {
				delete(m.tunnels, id) // nothing more to decide about it
				out = append(out, CloseTunnel{id})
			}
			d.closes = d.closes[1:]
		}
		if !d.cut && !d.deadline.After(now) {
			d.cut = true
			out = append(out, Cut{b})
		}
	}
	if !m.reportAt.IsZero() && !m.reportAt.After(now) {
		out = append(out, Count{})
	}
	return out
}

// plan gives a tunnel its moment within what remains of the window. The
// moments are spread evenly by the tunnel's ID, so that the clients do not
// all come back at once; the last tenth is kept for the close handshake.
func (d *departure) plan(now time.Time, id TunnelID) {
	left := max(0, d.deadline.Sub(now)*9/10)
	p := plannedClose{at: now.Add(time.Duration(routing.Spread(uint64(id)) * float64(left))), tunnel: id}
	i, _ := slices.BinarySearchFunc(d.closes, p, func(a, b plannedClose) int {
		return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.tunnel, b.tunnel))
	})
	d.closes = slices.Insert(d.closes, i, p)
}

func drainOf(p routing.Pool) time.Duration {
	if p.Drain <= 0 {
		return miosa.DefaultDrain
	}
	return p.Drain
}

// Window is the part of a drain that a router uses. It begins to count
// before control does (at the flip, not at its acknowledgement), and is a
// little shorter still, so that the last stream is ended here before the
// instance is stopped there.
func Window(drain time.Duration) time.Duration {
	return drain - min(drain/10, 2*time.Second)
}

func compareBackends(a, b routing.Backend) int {
	return cmp.Or(cmp.Compare(a.InstanceID, b.InstanceID), a.Address.Compare(b.Address))
}

func sortedBackends[V any](m map[routing.Backend]V) []routing.Backend {
	return slices.SortedFunc(maps.Keys(m), compareBackends)
}
