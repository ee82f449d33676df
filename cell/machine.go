// Package cell is the mind of one cell: a control plane's whole decision, pure.
// The Machine is fed with every change of the records, with what routers report
// and with the time, and says what to write, what routes to publish and what to
// tell hosts. Package control carries that out.
//
// machine.go takes events in, world.go keeps the records, environment.go decides
// one environment by rollout, reconcile and schedule, tasks.go its tasks, notice.go what logs tell of
// it, hosts.go which hosts are silent, drains.go what leaves those that are drained,
// boot.go what an instance boots with, report.go what is made of an agent's
// word, retention.go what is no longer kept.
package cell

import (
	"maps"
	"slices"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/health"
	"github.com/miosa/miosa/liveness"
	"github.com/miosa/miosa/reconcile"
	"github.com/miosa/miosa/routing"
	"github.com/miosa/miosa/schedule"
)

const (
	// RouterTimeout is the silence after which a router is no longer waited for: it
	// has missed five reports.
	RouterTimeout = 5 * routing.ReportEvery
	// RouterWindow is how long after its start a control plane of a fleet
	// assumes that there are routers it has not heard of yet, which hold every
	// instance: time for each to report, and for the report to arrive.
	RouterWindow = routing.ReportEvery * 3 / 2
	// retryAfter spaces attempts after a commit that failed for passing reasons.
	retryAfter = 200 * time.Millisecond
	// purgeAgain spaces attempts to purge a deployment: a log store that has lost
	// its disk refuses them until somebody sees to it.
	purgeAgain = 10 * time.Second
)

// Config is what the machine must know beyond the records.
type Config struct {
	// Hosts names an environment's public host names.
	Hosts func(miosa.Tenant, miosa.Deployment, miosa.Environment) []string
	// RouterWindow is how long after the start routers may exist that were not
	// heard of yet. Where the only router is in this very process, which has no
	// table before it gets one from here, there are none: 0.
	RouterWindow time.Duration
	// Placement is which of equally good hosts are filled first; "": schedule.Spread.
	Placement schedule.Policy
	// Liveness says when silent hosts are lost.
	Liveness liveness.Config
}

// Machine is the control plane's mind: it takes events and returns effects,
// and touches nothing else. One goroutine owns it; sim drives the same code. An
// event costs what it touches, whatever the size of the fleet.
type Machine struct {
	cfg        Config
	w          *world
	loaded     time.Time
	routers    map[string]*router
	routes     *routes
	flipped    map[string]int64 // by rollout ID: first generation since which the table serves its target
	acks       queue            // environments that wait for all routers to have a generation
	asked      map[waiting]bool // what is in acks
	busy       map[string]*commitUnderWay
	commits    queue   // environments that wait for a revision to be in our picture
	wakes      *alarms // by environment ID
	hosts      *hosts
	hostDrains *drains
	purging    map[string]bool
	watches    map[string]*health.Watch // by environment ID: how it does, until that is told
	// undecided is what cannot be worked out, by environment ID and what, with what
	// the panic says: see guarded.
	undecided map[string]string
}

// commitUnderWay keeps an environment from being decided again on a picture
// that lacks our own last change, and its room from being promised again.
type commitUnderWay struct {
	revision int64 // 0: not answered yet
	placed   []miosa.Instance
	// until holds the environment still after an error.
	until time.Time
	// doubt: the commit may have been carried out all the same, then or later.
	// What became of it is asked for by a commit that changes nothing: once that
	// is carried out the first is either before it or never will be.
	doubt bool
}

func (b *commitUnderWay) held(now time.Time) bool {
	return now.Before(b.until) && b.until.Sub(now) <= retryAfter // else the clock went back
}

// askDue: it is time to ask what became of the commit.
func (b *commitUnderWay) askDue(now time.Time) bool {
	return b.doubt && !b.until.IsZero() && !b.held(now)
}

// settled: what the commit changed is in our picture by now, or it came to nothing.
func (b *commitUnderWay) settled(now time.Time, revision int64) bool {
	if !b.until.IsZero() {
		return !b.doubt && !b.held(now)
	}
	return b.revision != 0 && b.revision <= revision
}

// NewMachine makes a machine that knows nothing yet: feed it Loaded first.
func NewMachine(cfg Config) *Machine {
	return &Machine{
		cfg: cfg, w: newWorld(cfg.Placement), routers: map[string]*router{}, routes: newRoutes(), flipped: map[string]int64{}, asked: map[waiting]bool{},
		busy: map[string]*commitUnderWay{}, wakes: newAlarms(), hosts: newHosts(cfg.Liveness), hostDrains: newDrains(), purging: map[string]bool{}, watches: map[string]*health.Watch{}, undecided: map[string]string{},
	}
}

// Loaded reports whether the machine has the records.
func (m *Machine) Loaded() bool { return !m.loaded.IsZero() }

// Assigned are a host's instances that have not ended, in order of ID.
func (m *Machine) Assigned(host string) []miosa.Instance {
	out := make([]miosa.Instance, 0, len(m.w.onHost[host]))
	for id := range m.w.onHost[host] {
		out = append(out, *m.w.instance(id))
	}
	slices.SortFunc(out, byInstanceID)
	return out
}

// Handle takes one event in and says what to do about it.
func (m *Machine) Handle(now time.Time, ev Event) []Effect {
	t := newTouched()
	out, err := m.apply(now, ev, t)
	if err != nil {
		return []Effect{Halt{err}}
	}
	if m.loaded.IsZero() {
		return nil
	}
	m.expireRouters(now, t)
	for _, env := range m.wakes.due(now) {
		t.env(env)
	}
	for {
		w, ok := m.commits.reached(m.w.revision)
		if !ok {
			break
		}
		t.env(w.id)
	}
	m.look(now, t)
	if at := m.hosts.judge.Wake(); !at.IsZero() && !now.Before(at) {
		m.hear(now, liveness.Tick{}, t)
	}
	for env := range t.environments {
		if b := m.busy[env]; b != nil && b.settled(now, m.w.revision) {
			m.settle(env, t)
		}
	}
	if t.capacity {
		for env := range m.w.unplaced {
			t.env(env)
		}
	}
	m.drainHosts(now, t)
	if len(m.undecided) > 0 {
		for env := range t.environments {
			if m.unrouted(env) {
				t.routes[env] = true // once more
			}
		}
	}
	out = append(out, m.routeAll(now, t)...)
	m.flip(now, t)
	m.acknowledge(t)
	out = append(out, m.decideAll(now, t)...)
	return append(out, m.saveHosts(now)...)
}

// apply takes one event in.
func (m *Machine) apply(now time.Time, ev Event, t *touched) (out []Effect, err error) {
	switch e := ev.(type) {
	case Together:
		for _, one := range e {
			effects, err := m.apply(now, one, t)
			if err != nil {
				return nil, err
			}
			out = append(out, effects...)
		}
	case Loaded:
		if err := m.load(now, e, t); err != nil {
			return nil, err
		}
		out = append(out, Assign{Anew: true})
	case Changed:
		return m.change(now, e, t)
	case Committed:
		m.committed(now, e, t)
	case Purged:
		delete(m.purging, e.Deployment)
		if d := m.w.deployments[e.Deployment]; e.Err != nil && d != nil {
			for env := range d.environments {
				m.wakes.set(env, now.Add(purgeAgain))
			}
		}
	case HostSaved:
		m.hostSaved(now, e)
	case Beat:
		m.hear(now, liveness.Beat{Host: e.Host, Session: e.Session, Seq: e.Seq}, t)
	case Reported:
		m.reported(now, e.Report, t)
	case Tick:
	}
	return out, nil
}

func (m *Machine) load(now time.Time, e Loaded, t *touched) error {
	m.w = newWorld(m.cfg.Placement)
	m.w.of = make(map[string]*members, len(e.Nouns))
	// Observations first: then each instance is put once, with what is known of it.
	for _, n := range e.Nouns {
		if o, ok := n.(miosa.Observation); ok {
			m.w.early[o.InstanceID] = o
		}
	}
	for _, n := range e.Nouns {
		if _, ok := n.(miosa.Observation); ok {
			continue
		}
		if err := m.w.put(n, t); err != nil {
			return err
		}
	}
	m.w.whole = true
	early := map[string]miosa.Observation{} // what is left of it, in a map of its size
	maps.Copy(early, m.w.early)
	m.w.early = early
	m.w.revision = e.Revision
	if m.loaded.IsZero() {
		m.loaded = now
	}
	for env := range m.w.members {
		t.route(env)
	}
	for env := range m.routes.names { // also of those that are gone
		t.route(env)
	}
	for id := range m.routes.left {
		if m.ended(id) {
			t.ended = append(t.ended, id)
		}
	}
	// Commits under way stay so: deciding again before their answer would do
	// the same twice.
	for _, b := range m.busy {
		for n := range b.placed {
			m.w.hold(&b.placed[n])
		}
	}
	return nil
}

func (m *Machine) change(now time.Time, e Changed, t *touched) ([]Effect, error) {
	if e.Revision <= m.w.revision {
		return nil, nil
	}
	m.w.revision = e.Revision
	var assigned []miosa.Instance
	for _, n := range e.Put {
		if o, ok := n.(miosa.Observation); ok {
			m.starts(now, o, t)
		}
		if err := m.w.put(n, t); err != nil {
			return nil, err
		}
		switch v := n.(type) {
		case miosa.Instance:
			if known := m.w.instance(v.ID); known != nil && v.HostID != "" {
				assigned = append(assigned, *known)
			}
		case miosa.Observation:
			if i := m.w.instance(v.InstanceID); i != nil && i.HostID != "" && v.State.Terminal() && v.Failure.Kind == miosa.FailureHostLost {
				m.hosts.writtenOff[i.HostID] = append(m.hosts.writtenOff[i.HostID], stopped(*i))
				assigned = append(assigned, m.returned(i.HostID)...)
			}
		case miosa.Host:
			assigned = append(assigned, m.returned(v.ID)...)
		}
	}
	for _, g := range e.Gone {
		if g.Kind == "instance" {
			if known := m.w.instance(g.ID); known != nil && known.HostID != "" {
				assigned = append(assigned, stopped(*known))
			}
		}
		if err := m.w.remove(g.Kind, g.ID, t); err != nil {
			return nil, err
		}
	}
	if len(assigned) == 0 {
		return nil, nil
	}
	return []Effect{Assign{Instances: assigned}}, nil
}

// returned are the instances that a host was written off with, to be stopped there,
// once it is alive again. Before that routers may send them requests still, and one
// that is not heard may hear.
func (m *Machine) returned(host string) []miosa.Instance {
	if m.w.hosts[host].Liveness != miosa.Alive {
		return nil
	}
	over := m.hosts.writtenOff[host]
	delete(m.hosts.writtenOff, host)
	return over
}

// stopped is an assignment of what is over, or gone, by the records: its host must
// not go on with it.
func stopped(i miosa.Instance) miosa.Instance {
	i.Goal = miosa.GoalStop
	i.Generation++
	return i
}

func (m *Machine) committed(now time.Time, e Committed, t *touched) {
	b := m.busy[e.Environment]
	switch {
	case e.Err != nil:
		if e.Doubt {
			m.hear(now, liveness.Writable{}, t)
		}
		m.wakes.set(e.Environment, now.Add(retryAfter))
		if b != nil {
			b.until, b.doubt = now.Add(retryAfter), b.doubt || e.Doubt
		}
	case e.Conflict:
		// What conflicted is on its way; look again when it is here.
		m.wakes.set(e.Environment, now.Add(retryAfter/10))
		if b != nil && b.doubt {
			b.until = now.Add(retryAfter / 10)
		} else {
			m.settle(e.Environment, t)
		}
	default:
		m.hear(now, liveness.Writable{OK: true}, t)
		if b != nil {
			b.revision, b.until = e.Revision, time.Time{}
			m.commits.wait(e.Revision, e.Environment)
		} else {
			t.env(e.Environment)
		}
	}
}

// settle ends a commit: it is in our picture, or came to nothing. Whoever was
// decided while what it placed counted, or counted twice, looks again.
func (m *Machine) settle(env string, t *touched) {
	b := m.busy[env]
	if b == nil {
		return
	}
	delete(m.busy, env)
	for n := range b.placed {
		m.w.letGo(&b.placed[n])
	}
	t.capacity = t.capacity || len(b.placed) > 0
}

func (m *Machine) reported(now time.Time, r routing.Report, t *touched) {
	known := m.routers[r.RouterID]
	if known == nil {
		known = &router{}
		m.routers[r.RouterID] = known
	}
	for id := range known.inFlight {
		if r.InFlight[id] == 0 { // the last request through this router has ended
			m.drains(id, t)
		}
	}
	for id, why := range r.Faults {
		if i := m.w.instance(id); i != nil && known.faults[id] != why {
			t.env(i.EnvironmentID)
		}
	}
	known.heard = now
	known.generation = max(known.generation, r.Generation)
	known.inFlight = r.InFlight
	known.faults = r.Faults
}

// acknowledge marks the environments that waited for a generation which every
// live router has by now.
func (m *Machine) acknowledge(t *touched) {
	if len(m.acks) == 0 {
		return
	}
	all := m.routes.table.Generation
	for _, r := range m.routers {
		all = min(all, r.generation)
	}
	for {
		w, ok := m.acks.reached(all)
		if !ok {
			return
		}
		delete(m.asked, w)
		t.env(w.id)
	}
}

// awaitRouters has an environment decided once every live router has a generation.
func (m *Machine) awaitRouters(env string, generation int64) {
	if w := (waiting{generation, env}); !m.asked[w] {
		m.asked[w] = true
		m.acks.wait(generation, env)
	}
}

func (m *Machine) expireRouters(now time.Time, t *touched) {
	for id, r := range m.routers {
		if now.Sub(r.heard) < RouterTimeout {
			continue
		}
		delete(m.routers, id)
		for id := range r.inFlight {
			m.drains(id, t)
		}
	}
}

// drains marks an instance's environment if it waits for the instance's last request.
func (m *Machine) drains(instance string, t *touched) {
	if i := m.w.instance(instance); i != nil && i.Goal == miosa.GoalDrain {
		t.env(i.EnvironmentID)
	}
}

// flip notes since when the table has served the rollouts that wait for it.
func (m *Machine) flip(now time.Time, t *touched) {
	for env := range t.routes {
		members := m.w.members[env]
		if members == nil {
			continue
		}
		for n := range members.rollouts {
			r := &members.rollouts[n]
			_, seen := m.flipped[r.ID]
			named := false
			if r.Step == miosa.StepFlipping && !m.guarded(now, members, "whether requests go to its rollout", func() { named = m.named(r) }) {
				continue
			}
			switch {
			case !named:
				delete(m.flipped, r.ID) // its instances may be lost before all routers know of them
			case !seen:
				m.flipped[r.ID] = m.routes.table.Generation
				m.awaitRouters(env, m.routes.table.Generation)
			}
		}
	}
}

func byInstanceID(a, b miosa.Instance) int {
	switch {
	case a.ID < b.ID:
		return -1
	case a.ID > b.ID:
		return 1
	}
	return 0
}

func (m *Machine) windowEnds() time.Time { return m.loaded.Add(m.cfg.RouterWindow) }

// strangersEnd is when a router that was not heard of since the start would be no
// longer waited for. It may be cut off, and serve by the table that it has.
func (m *Machine) strangersEnd() time.Time {
	if m.cfg.RouterWindow == 0 {
		return m.loaded
	}
	return m.loaded.Add(max(RouterTimeout, m.cfg.RouterWindow))
}

// routedState is what the routers make of an instance. What the table lost before
// this process had one counts as lost when it had the records.
func (m *Machine) routedState(now time.Time, id string) reconcile.Routed {
	if now.Before(m.windowEnds()) {
		return reconcile.Routed{Held: true, Left: m.loaded}
	}
	left, gone := m.routes.left[id]
	if !gone {
		left = departure{m.routes.first, m.loaded}
	}
	r := reconcile.Routed{Left: left.at, Held: now.Before(m.strangersEnd())}
	for _, rt := range m.routers {
		if m.routes.held[id] > 0 || rt.generation < left.generation {
			r.Held = true
		}
		r.InFlight += rt.inFlight[id]
	}
	return r
}

// acknowledged reports whether every live router serves the rollout's target.
func (m *Machine) acknowledged(now time.Time, rolloutID string) bool {
	generation, ok := m.flipped[rolloutID]
	if !ok || now.Before(m.windowEnds()) {
		return false
	}
	for _, rt := range m.routers {
		if rt.generation < generation {
			return false
		}
	}
	return true
}

// Wake is when the machine wants a Tick; the zero time: not before an event.
func (m *Machine) Wake() time.Time {
	at := m.wakes.next()
	if t := m.wakeForHosts(); !t.IsZero() && (at.IsZero() || t.Before(at)) {
		at = t
	}
	for _, r := range m.routers {
		if t := r.heard.Add(RouterTimeout); at.IsZero() || t.Before(at) {
			at = t
		}
	}
	return at
}
