package cell

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/routing"
)

// routes are the table that the routers have, or will have, and what it was made
// of: a change costs what it changes.
type routes struct {
	table  routing.Table
	made   bool
	first  int64                // first generation of this process
	claims map[string][]claim   // by host name, or port as ":30001": who wants it, in order of environment ID
	names  map[string][]string  // by environment ID: what it claims, in order
	held   map[string]int       // by instance ID: in how many pools of the table it is
	left   map[string]departure // by instance ID, as long as it has not ended
}

// claim is an environment's wish for a name. Of several the last is served.
type claim struct {
	env  string
	pool routing.Pool
}

// departure is when the table lost an instance.
type departure struct {
	generation int64 // the first without it
	at         time.Time
}

func newRoutes() *routes {
	return &routes{
		table:  routing.Table{Routes: map[string]routing.Pool{}, Ports: map[int]routing.Pool{}},
		claims: map[string][]claim{}, names: map[string][]string{}, held: map[string]int{}, left: map[string]departure{},
	}
}

// routeAll makes the pools of the environments anew and returns the update that
// makes the difference, if there is one, or if none was ever made.
func (m *Machine) routeAll(now time.Time, t *touched) []Effect {
	r := m.routes
	changed := map[string]bool{}
	for env := range t.routes {
		members := m.w.members[env]
		if members == nil {
			r.claim(env, routing.Table{}, changed)
			continue
		}
		var next routing.Table
		if m.guarded(now, members, whereRequestsGo, func() { next = routing.Build(0, m.sites(env)) }) {
			r.claim(env, next, changed)
		}
	}
	u := routing.Update{From: r.table.Generation, Generation: max(m.w.revision, r.table.Generation+1), Routes: map[string]routing.Pool{}, Ports: map[int]routing.Pool{}}
	for name := range changed {
		r.change(now, name, &u, m.ended)
	}
	for _, id := range t.ended {
		delete(r.left, id)
	}
	empty := len(u.Routes)+len(u.Ports)+len(u.GoneRoutes)+len(u.GonePorts) == 0
	if empty && r.made {
		return nil
	}
	slices.Sort(u.GoneRoutes)
	slices.Sort(u.GonePorts)
	r.table.Apply(u)
	if !r.made {
		r.made, r.first, u = true, u.Generation, r.table.Whole()
	}
	return []Effect{Publish{u}}
}

// claim takes in what an environment wants to be served.
func (r *routes) claim(env string, t routing.Table, changed map[string]bool) {
	next := maps.Collect(t.Pools())
	byEnv := func(c claim, env string) int { return cmp.Compare(c.env, env) }
	for _, name := range r.names[env] {
		if _, stays := next[name]; stays {
			continue
		}
		all := r.claims[name]
		if n, ok := slices.BinarySearchFunc(all, env, byEnv); ok {
			all = slices.Delete(all, n, n+1)
		}
		if r.claims[name] = all; len(all) == 0 {
			delete(r.claims, name)
		}
		changed[name] = true
	}
	names := r.names[env][:0]
	for name, p := range next {
		names = append(names, name)
		all := r.claims[name]
		n, ok := slices.BinarySearchFunc(all, env, byEnv)
		switch {
		case !ok:
			r.claims[name] = slices.Insert(all, n, claim{env, p})
		case all[n].pool.Equal(p):
			continue
		default:
			all[n].pool = p
		}
		changed[name] = true
	}
	if len(names) == 0 {
		delete(r.names, env)
	} else {
		r.names[env] = names
	}
}

// change brings one name's pool to what is claimed for it.
func (r *routes) change(now time.Time, name string, u *routing.Update, ended func(instance string) bool) {
	var next routing.Pool
	all := r.claims[name]
	if len(all) > 0 {
		next = all[len(all)-1].pool
	}
	old, known := r.pool(name)
	if known && len(all) > 0 && old.Equal(next) {
		return
	}
	port, isPort := portOf(name)
	switch {
	case len(all) > 0 && isPort:
		u.Ports[port] = next
	case len(all) > 0:
		u.Routes[name] = next
	case isPort && known:
		u.GonePorts = append(u.GonePorts, port)
	case known:
		u.GoneRoutes = append(u.GoneRoutes, name)
	}
	for _, b := range next.Backends {
		r.held[b.InstanceID]++
		delete(r.left, b.InstanceID)
	}
	for _, b := range old.Backends {
		if r.held[b.InstanceID]--; r.held[b.InstanceID] > 0 {
			continue
		}
		delete(r.held, b.InstanceID)
		if !ended(b.InstanceID) {
			r.left[b.InstanceID] = departure{u.Generation, now}
		}
	}
}

func (r *routes) pool(name string) (routing.Pool, bool) {
	if port, ok := portOf(name); ok {
		p, known := r.table.Ports[port]
		return p, known
	}
	p, known := r.table.Routes[name]
	return p, known
}

// portOf is the port of a name like ":30001".
func portOf(name string) (int, bool) {
	if len(name) == 0 || name[0] != ':' {
		return 0, false
	}
	n, err := strconv.Atoi(name[1:])
	return n, err == nil
}

// ended reports whether an instance has, or is gone.
func (m *Machine) ended(instance string) bool {
	i := m.w.instance(instance)
	return i == nil || i.State().Terminal()
}

// sites is what routing is to make of an environment: one, or none.
func (m *Machine) sites(id string) []routing.Site {
	env := m.w.environment(id)
	if env == nil {
		return nil
	}
	dep := m.w.deployment(env.DeploymentID)
	if dep.ID == "" || !dep.DeletedAt.IsZero() {
		return nil
	}
	site := routing.Site{
		Hosts:  m.cfg.Hosts(m.w.tenants[env.TenantID], dep, env.Environment),
		Tenant: env.TenantID, Deployment: dep.ID, Instances: env.instances,
	}
	if r := env.liveRollout(); r != nil && r.Step == miosa.StepFlipping {
		site.Versions = env.served(site.Versions, r.TargetID)
	}
	site.Versions = env.served(site.Versions, env.ActiveVersionID)
	for _, v := range site.Versions {
		site.Ports = env.ports(site.Ports, v.Version)
	}
	return []routing.Site{site}
}

// ports adds a version's services that have a port of the routers'.
func (m *members) ports(ports []routing.Port, id string) []routing.Port {
	v := m.version(id)
	if v == nil {
		return ports
	}
	for _, spec := range v.Services {
		if spec.Protocol != miosa.ProtocolTCP {
			continue
		}
		s := v.Settled(m.serviceOr(spec.ServiceID, miosa.Service{}))
		if s.PublicPort == 0 {
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

func (m *members) serviceOr(id string, other miosa.Service) miosa.Service {
	if s := m.service(id); s != nil {
		return *s
	}
	return other
}

// served adds a version with the service that its requests go to, which is the
// version's own choice whatever else the environment has.
func (m *members) served(versions []routing.Served, id string) []routing.Served {
	v := m.version(id)
	if v == nil {
		return versions
	}
	next := routing.Served{Version: id}
	if spec, ok := v.Routed(); ok {
		next.Spec = spec
		next.Service = v.Settled(m.serviceOr(spec.ServiceID, miosa.Service{ID: spec.ServiceID}))
	}
	return append(versions, next)
}

// liveRollout is the newest one that still decides what the environment runs.
func (m *members) liveRollout() *miosa.Rollout {
	for n := len(m.rollouts) - 1; n >= 0; n-- {
		if r := &m.rollouts[n]; r.Live() && r.CancelledBy == "" {
			return r
		}
	}
	return nil
}

const whereRequestsGo = "where requests go"

// unrouted reports whether the table has an environment as it was, because it
// cannot be worked out how it is to be. Then nothing else is decided about it, lest
// requests go where nobody is any more.
func (m *Machine) unrouted(env string) bool {
	if len(m.undecided) == 0 {
		return false
	}
	_, is := m.undecided[env+"/"+whereRequestsGo]
	return is
}

// named reports whether the table sends requests to a rollout's target.
func (m *Machine) named(r *miosa.Rollout) bool {
	env := m.w.environment(r.EnvironmentID)
	if env == nil {
		return false
	}
	hosts := m.cfg.Hosts(m.w.tenants[r.TenantID], m.w.deployment(r.DeploymentID), env.Environment)
	if len(hosts) == 0 {
		return true // it has no name that could lead to it
	}
	p := m.routes.table.Routes[hosts[0]]
	if p.VersionID != r.TargetID || !p.Answers() {
		return false
	}
	for _, port := range env.ports(nil, r.TargetID) {
		if p := m.routes.table.Ports[port.Number]; p.VersionID != r.TargetID || !p.Answers() {
			return false
		}
	}
	return true
}
