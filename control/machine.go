package control

import (
	"slices"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/health"
	"github.com/miosa/miosa/reconcile"
	"github.com/miosa/miosa/routing"
)

const (
	// RouterTimeout is the silence after which a router is no longer waited for.
	RouterTimeout = 10 * time.Second
	// RouterWindow is how long after its start a control plane of a fleet
	// assumes that there are routers it has not heard of yet, which hold every
	// instance: longer than the two seconds between a router's reports.
	RouterWindow = 3 * time.Second
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
}

// Machine is the control plane's mind: it takes events and returns effects,
// and touches nothing else. One goroutine owns it; sim drives the same code.
type Machine struct {
	cfg     Config
	w       *world
	loaded  time.Time
	routers map[string]*router
	table   routing.Table
	held    map[string]bool  // instance IDs in the table
	first   int64            // first generation of this process
	left    map[string]int64 // by instance ID: first generation without it
	flipped map[string]int64 // by rollout ID: first generation since which the table serves its target
	busy    map[string]*commitUnderWay
	wakes   map[string]time.Time // by environment ID
	purging map[string]bool
	watches map[string]*health.Watch // by environment ID: how it does, until that is told
	routed  bool                     // the table was built once
	stale   bool                     // the table may have to be built anew
	// promised is what counts on the fleet for the time of one decision; see promise.
	promised []miosa.Instance
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

// over: what the commit changed is in our picture by now, or it came to nothing.
func (b *commitUnderWay) over(now time.Time, revision int64) bool {
	if !b.until.IsZero() {
		return !b.doubt && !b.held(now)
	}
	return b.revision != 0 && b.revision <= revision
}

// NewMachine makes a machine that knows nothing yet: feed it Loaded first.
func NewMachine(cfg Config) *Machine {
	return &Machine{
		cfg: cfg, w: newWorld(), routers: map[string]*router{}, left: map[string]int64{}, flipped: map[string]int64{},
		busy: map[string]*commitUnderWay{}, wakes: map[string]time.Time{}, purging: map[string]bool{}, watches: map[string]*health.Watch{},
	}
}

// Handle takes one event in and says what to do about it.
func (m *Machine) Handle(now time.Time, ev Event) []Effect {
	t := touched{environments: map[string]bool{}}
	var out []Effect
	switch e := ev.(type) {
	case Loaded:
		m.load(now, e, &t)
		out = append(out, Assign{sorted(all(m.w.instances), m.w.instances)})
	case Changed:
		out = m.change(e, &t)
	case Committed:
		m.committed(now, e, &t)
	case Purged:
		delete(m.purging, e.Deployment)
		if e.Err != nil {
			for env := range m.w.ofDeployment[e.Deployment] {
				m.wakes[env] = now.Add(purgeAgain)
			}
		}
	case Reported:
		m.reported(now, e.Report, &t)
	}
	if m.loaded.IsZero() {
		return nil
	}
	m.expireRouters(now, &t)
	m.endDoubts(now, &t)
	for env, at := range m.wakes {
		if !now.Before(at) {
			t.env(env)
		}
	}
	if t.capacity {
		for env := range m.w.unplaced {
			t.env(env)
		}
	}
	m.stale = m.stale || t.routes
	out = append(out, m.route()...)
	return append(out, m.decideAll(now, t.environments)...)
}

func all[T any](values map[string]T) map[string]bool {
	set := make(map[string]bool, len(values))
	for id := range values {
		set[id] = true
	}
	return set
}

func (m *Machine) load(now time.Time, e Loaded, t *touched) {
	m.w = newWorld()
	for _, n := range e.Nouns {
		m.w.put(n, t)
	}
	m.w.revision = e.Revision
	if m.loaded.IsZero() {
		m.loaded = now
	}
	// Commits under way stay so: deciding again before their answer would do
	// the same twice.
	for env := range m.w.environments {
		t.env(env)
	}
	m.stale = true
}

func (m *Machine) change(e Changed, t *touched) []Effect {
	if e.Revision <= m.w.revision {
		return nil
	}
	m.w.revision = e.Revision
	var assigned []miosa.Instance
	for _, n := range e.Put {
		m.w.put(n, t)
		if i, ok := n.(miosa.Instance); ok && i.HostID != "" {
			assigned = append(assigned, m.w.instances[i.ID])
		}
	}
	for _, g := range e.Gone {
		if g.Kind == "instance" {
			if i, ok := m.w.instances[g.ID]; ok && i.HostID != "" {
				i.Goal = miosa.GoalStop // a host must not go on with it
				i.Generation++
				assigned = append(assigned, i)
			}
		}
		m.w.remove(g.Kind, g.ID, t)
	}
	if len(assigned) == 0 {
		return nil
	}
	return []Effect{Assign{assigned}}
}

func (m *Machine) committed(now time.Time, e Committed, t *touched) {
	switch {
	case e.Err != nil:
		m.wakes[e.Environment] = now.Add(retryAfter)
		if b := m.busy[e.Environment]; b != nil {
			b.until, b.doubt = m.wakes[e.Environment], b.doubt || e.Doubt
		}
	case e.Conflict:
		// What conflicted is on its way; look again when it is here.
		m.wakes[e.Environment] = now.Add(retryAfter / 10)
		if b := m.busy[e.Environment]; b != nil && b.doubt {
			b.until = m.wakes[e.Environment]
		} else {
			delete(m.busy, e.Environment)
		}
	default:
		if b := m.busy[e.Environment]; b != nil {
			b.revision = e.Revision
			// Whoever was decided while these counted twice looks again.
			t.capacity = t.capacity || len(b.placed) > 0
		}
		t.env(e.Environment)
	}
}

// endDoubts marks the environments whose commit's fate is known by now, and
// whoever waits for the room that it may have taken.
func (m *Machine) endDoubts(now time.Time, t *touched) {
	for env, b := range m.busy {
		if b.doubt && b.over(now, m.w.revision) {
			t.env(env)
			t.capacity = t.capacity || len(b.placed) > 0
		}
	}
}

func (m *Machine) reported(now time.Time, r routing.Report, t *touched) {
	known := m.routers[r.RouterID]
	if known == nil {
		known = &router{}
		m.routers[r.RouterID] = known
	}
	if r.Generation > known.generation {
		m.waiting(t)
	}
	for id := range known.inFlight {
		if r.InFlight[id] == 0 { // the last request through this router has ended
			if i, ok := m.w.instances[id]; ok && i.Goal == miosa.GoalDrain {
				t.env(i.EnvironmentID)
			}
		}
	}
	for id, why := range r.Faults {
		if i, ok := m.w.instances[id]; ok && known.faults[id] != why {
			t.env(i.EnvironmentID)
		}
	}
	known.heard = now
	known.generation = max(known.generation, r.Generation)
	known.inFlight = r.InFlight
	known.faults = r.Faults
}

// waiting marks every environment that waits for routers.
func (m *Machine) waiting(t *touched) {
	for _, r := range m.w.rollouts {
		if r.Step == miosa.StepFlipping {
			t.env(r.EnvironmentID)
		}
	}
	for _, i := range m.w.instances {
		if i.Goal == miosa.GoalDrain && !i.State().Terminal() {
			t.env(i.EnvironmentID)
		}
	}
}

func (m *Machine) expireRouters(now time.Time, t *touched) {
	for id, r := range m.routers {
		if now.Sub(r.heard) >= RouterTimeout {
			delete(m.routers, id)
			m.waiting(t)
		}
	}
}

// route builds the table anew when something bore on it, and publishes it
// when it differs.
func (m *Machine) route() []Effect {
	if !m.stale && m.routed {
		return nil
	}
	m.stale = false
	next := routing.Build(max(m.w.revision, m.table.Generation+1), m.sites())
	var out []Effect
	if !m.routed || !routing.SameRoutes(m.table, next) {
		if !m.routed {
			m.first = next.Generation
		}
		m.markLeft(next)
		m.table, m.routed = next, true
		out = []Effect{Publish{next}}
	}
	for id, r := range m.w.rollouts {
		_, seen := m.flipped[id]
		switch {
		case r.Step != miosa.StepFlipping || !m.named(r):
			delete(m.flipped, id) // its instances may be lost before all routers know of them
		case !seen:
			m.flipped[id] = m.table.Generation
		}
	}
	return out
}

func (m *Machine) markLeft(next routing.Table) {
	now := backendsOf(next)
	for id := range m.held {
		if !now[id] {
			m.left[id] = next.Generation
		}
	}
	for id := range now {
		delete(m.left, id)
	}
	m.held = now
	for id := range m.left {
		if i, ok := m.w.instances[id]; !ok || i.State().Terminal() {
			delete(m.left, id)
		}
	}
}

func backendsOf(t routing.Table) map[string]bool {
	set := map[string]bool{}
	for _, p := range t.Pools() {
		for _, b := range p.Backends {
			set[b.InstanceID] = true
		}
	}
	return set
}

func (m *Machine) sites() []routing.Site {
	var out []routing.Site
	for _, env := range sorted(all(m.w.environments), m.w.environments) {
		dep, ok := m.w.deployments[env.DeploymentID]
		if !ok || !dep.DeletedAt.IsZero() {
			continue
		}
		site := routing.Site{
			Hosts:  m.cfg.Hosts(m.w.tenants[env.TenantID], dep, env),
			Tenant: env.TenantID, Deployment: dep.ID, Instances: m.instancesOf(env.ID),
		}
		if r, ok := m.liveRollout(env.ID); ok && r.Step == miosa.StepFlipping {
			site.Versions = m.served(site.Versions, r.TargetID)
		}
		site.Versions = m.served(site.Versions, env.ActiveVersionID)
		for _, v := range site.Versions {
			site.Ports = m.ports(site.Ports, v.Version)
		}
		out = append(out, site)
	}
	return out
}

// ports adds a version's services that have a port of the routers'.
func (m *Machine) ports(ports []routing.Port, id string) []routing.Port {
	v := m.w.versions[id]
	for _, spec := range v.Services {
		s := v.Settled(m.w.services[spec.ServiceID])
		if spec.Protocol != miosa.ProtocolTCP || s.PublicPort == 0 {
			continue
		}
		n := slices.IndexFunc(ports, func(p routing.Port) bool { return p.Number == s.PublicPort })
		if n < 0 {
			n = len(ports)
			ports = append(ports, routing.Port{Number: s.PublicPort})
		}
		ports[n].Versions = append(ports[n].Versions, routing.Served{Version: id, Service: s, Spec: spec})
	}
	return ports
}

// served adds a version with the service that its requests go to, which is the
// version's own choice whatever else the environment has.
func (m *Machine) served(versions []routing.Served, id string) []routing.Served {
	v, ok := m.w.versions[id]
	if !ok {
		return versions
	}
	next := routing.Served{Version: id}
	if spec, ok := v.Routed(); ok {
		next.Spec = spec
		if next.Service, ok = m.w.services[spec.ServiceID]; !ok {
			next.Service = miosa.Service{ID: spec.ServiceID}
		}
		next.Service = v.Settled(next.Service)
	}
	return append(versions, next)
}

// named reports whether the table sends requests to a rollout's target.
func (m *Machine) named(r miosa.Rollout) bool {
	env := m.w.environments[r.EnvironmentID]
	hosts := m.cfg.Hosts(m.w.tenants[r.TenantID], m.w.deployments[r.DeploymentID], env)
	if len(hosts) == 0 {
		return true // it has no name that could lead to it
	}
	p := m.table.Routes[hosts[0]]
	if p.VersionID != r.TargetID || !p.Answers() {
		return false
	}
	for _, port := range m.ports(nil, r.TargetID) {
		if p := m.table.Ports[port.Number]; p.VersionID != r.TargetID || !p.Answers() {
			return false
		}
	}
	return true
}

func (m *Machine) servicesOf(env string) []miosa.Service {
	return sorted(m.w.members(env).services, m.w.services)
}

func (m *Machine) instancesOf(env string) []miosa.Instance {
	return sorted(m.w.members(env).instances, m.w.instances)
}

// liveRollout is the newest one that still decides what the environment runs.
func (m *Machine) liveRollout(env string) (miosa.Rollout, bool) {
	rollouts := sorted(m.w.members(env).rollouts, m.w.rollouts)
	for _, r := range slices.Backward(rollouts) {
		if r.Live() && r.CancelledBy == "" {
			return r, true
		}
	}
	return miosa.Rollout{}, false
}

func (m *Machine) windowEnds() time.Time { return m.loaded.Add(m.cfg.RouterWindow) }

// routedState is what the routers make of an instance.
func (m *Machine) routedState(now time.Time, id string) reconcile.Routed {
	if now.Before(m.windowEnds()) {
		return reconcile.Routed{Held: true}
	}
	left, gone := m.left[id]
	if !gone {
		left = m.first
	}
	r := reconcile.Routed{}
	for _, rt := range m.routers {
		if m.held[id] || rt.generation < left {
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
	var at time.Time
	earlier := func(t time.Time) {
		if !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	for env, t := range m.wakes {
		if b := m.busy[env]; b == nil || !b.until.IsZero() { // else its commit's answer is waited for
			earlier(t)
		}
	}
	for _, r := range m.routers {
		earlier(r.heard.Add(RouterTimeout))
	}
	return at
}
