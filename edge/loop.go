package edge

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/miosa/miosa/balance"
	"github.com/miosa/miosa/routing"
)

// loop feeds the machine and carries out what it decides. It alone changes
// entries, pools and the list of backends.
type loop struct {
	rt      *Router
	machine *balance.Machine
	reports chan routing.Report

	busy busy

	mu       sync.Mutex // guards backends, which the router's end reads too
	backends map[routing.Backend]*backend
}

// sweepEvery is how often connections at rest are looked over.
const sweepEvery = 5 * time.Second

func newLoop(rt *Router, reports chan routing.Report) *loop {
	return &loop{
		rt:       rt,
		machine:  balance.NewMachine(rt.cfg.RouterID),
		reports:  reports,
		backends: map[routing.Backend]*backend{},
	}
}

func (l *loop) run(ctx context.Context) {
	defer close(l.rt.stopped)
	defer l.closeAll()
	wake := time.NewTimer(time.Hour)
	defer wake.Stop()
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	for {
		if at := l.machine.Wake(); at.IsZero() {
			wake.Stop()
		} else {
			wake.Reset(time.Until(at))
		}
		var ev balance.Event
		select {
		case <-ctx.Done():
			return
		case ev = <-l.rt.events:
		case b := <-l.rt.idle:
			ev = balance.Idle{Backend: b}
		case <-wake.C:
			ev = balance.Tick{}
		case <-sweep.C:
			l.sweep()
			continue
		}
		l.carry(ev)
	}
}

// carry gives the machine an event and does what it says, in order; what a
// count finds goes back in at once.
func (l *loop) carry(ev balance.Event) {
	for _, e := range l.machine.Handle(time.Now(), ev) {
		switch e := e.(type) {
		case balance.SetPool:
			l.rt.table.set(e.Host, l.pool(e.Pool))
		case balance.DropHost:
			l.rt.table.drop(e.Host)
		case balance.SetPort:
			l.rt.ports.set(e.Port, l.pool(e.Pool))
		case balance.DropPort:
			l.rt.ports.drop(e.Port)
		case balance.Admit:
			l.backend(e.Backend).retired.Store(false)
		case balance.Retire:
			// Flagged first: who counts itself out from here on says so, and
			// who did before is seen by the count that follows.
			b := l.backend(e.Backend)
			b.retired.Store(true)
			b.drain()
		case balance.Forget:
			l.backend(e.Backend).drain()
			l.mu.Lock()
			delete(l.backends, e.Backend)
			l.mu.Unlock()
		case balance.Cut:
			l.backend(e.Backend).cut(endedByDrain, false)
			l.rt.expireTunnels(e.Backend)
		case balance.CloseTunnel:
			l.rt.askTunnel(e.Tunnel)
		case balance.Fetch:
			if cancel := l.rt.refetch.Load(); cancel != nil {
				(*cancel)()
			}
		case balance.Count:
			l.carry(balance.Counted{InFlight: l.busy.count()})
		case balance.Report:
			l.rt.markApplied()
			l.post(e.Report)
		}
	}
}

// post leaves the report for the sender, in place of one that it has not
// taken yet.
func (l *loop) post(r routing.Report) {
	select {
	case <-l.reports:
	default:
	}
	l.reports <- r // there is room: nobody else puts anything in
}

func (l *loop) pool(p routing.Pool) *pool {
	out := &pool{Pool: p, replaced: make(chan struct{})}
	for _, id := range p.Backends {
		out.backends = append(out.backends, l.backend(id))
	}
	return out
}

func (l *loop) backend(id routing.Backend) *backend {
	b := l.backends[id]
	if b == nil {
		b = newBackend(id, balance.CookieToken(l.rt.cfg.StickyKey, id.InstanceID), l.rt.idle, &l.busy)
		b.complain, b.greet = l.rt.complain, l.rt.cfg.Greet
		l.mu.Lock()
		l.backends[id] = b
		l.mu.Unlock()
	}
	return b
}

func (l *loop) sweep() {
	now := time.Now()
	l.rt.ports.retry()
	for _, b := range l.backends {
		b.sweep(now, now.Add(-l.rt.cfg.RestTimeout))
	}
}

// cutAll ends everything in flight, or only the streams of events: the router
// stops.
func (l *loop) cutAll(eventsOnly bool) {
	l.mu.Lock()
	backends := maps.Clone(l.backends)
	l.mu.Unlock()
	for _, b := range backends {
		b.cut(endedByStop, eventsOnly)
	}
}

func (l *loop) closeAll() {
	l.rt.ports.close()
	for _, b := range l.backends {
		b.retired.Store(true)
		b.drain()
	}
}
