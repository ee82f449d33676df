package sim

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/health"
	"github.com/miosa/miosa/liveness"
	"github.com/miosa/miosa/routing"
	"github.com/miosa/miosa/schedule"
	"github.com/miosa/miosa/store"
)

// checker holds the invariants. What must always hold is looked at after
// every event, on what that event changed; what must hold in the end, once.
type checker struct {
	s         *Sim
	instances map[string]miosa.Instance
	versions  map[string]miosa.Version
	rollouts  map[string]miosa.Rollout
	envs      map[string]miosa.Environment
	services  map[string]miosa.Service
	hosts     map[string]miosa.Host
	changed   bool
	awake     map[string]time.Time // service → when it was last scaled up from none
	stopped   map[string]time.Time // deployment → when a customer last stopped an instance of it
	since     map[string]time.Time // instance → since when it is in its state
	unproven  map[string]bool      // versions that nobody asked to make live
	tasks     map[string]miosa.Task
	ledger    map[string]*run      // by instance: how a task's command really ran
	made      map[string]time.Time // by instance: when an attempt was made
	claimed   map[string]time.Time // by instance: when its claim was taken
	beside    map[string]bool      // instances that were made beside one whose host was alive on record
}

func newChecker(s *Sim) *checker {
	return &checker{
		s: s, instances: map[string]miosa.Instance{}, versions: map[string]miosa.Version{}, rollouts: map[string]miosa.Rollout{},
		envs: map[string]miosa.Environment{}, services: map[string]miosa.Service{}, awake: map[string]time.Time{}, stopped: map[string]time.Time{},
		since: map[string]time.Time{}, unproven: map[string]bool{}, hosts: map[string]miosa.Host{}, beside: map[string]bool{},
		tasks: map[string]miosa.Task{}, ledger: map[string]*run{}, made: map[string]time.Time{}, claimed: map[string]time.Time{},
	}
}

func (c *checker) askedToStop(deployment string) { c.stopped[deployment] = c.s.now }

// observed: an agent's own reports follow one another legally.
func (c *checker) observed(o *occupant, obs miosa.Observation) {
	was := o.saved
	if obs.Seq <= was.Seq {
		c.s.fail("%s: report %d after %d", o.in.ID, obs.Seq, was.Seq)
	}
	if was.State.Terminal() {
		c.s.fail("%s: a report after its end", o.in.ID)
	}
}

// runsAlone: what must never run twice begins nowhere while a host that control
// does not hear still runs it. By our own doing (a drain, a restart) the next begins
// beside the one before, which may fall silent in that moment. What is frozen does
// not run.
func (c *checker) runsAlone(o *occupant) {
	if o.in.StopAfterDisconnect == 0 {
		return
	}
	c.s.report.Singles++
	for _, h := range c.s.hosts {
		for _, id := range sortedIDs(h.slots) {
			other := h.slots[id]
			if !h.heard() && !h.frozen && other != o && (o.in.Replaces != id || !c.beside[o.in.ID]) && other.vm != nil && other.vm.alive && other.in.StopAfterDisconnect > 0 &&
				other.in.ServiceID == o.in.ServiceID && other.in.VersionID == o.in.VersionID && other.in.Slot == o.in.Slot {
				c.s.fail("%s begins on %s while %s, which is not heard, still runs %s of the same slot", o.in.ID, o.h.id, h.id, id)
			}
		}
	}
}

// committed takes a commit in and checks each change against what was.
func (c *checker) committed(b cell.Changed) {
	c.changed = true
	var left []miosa.Instance // those that served until now
	for _, noun := range b.Put {
		if i, ok := noun.(miosa.Instance); ok && i.Goal != miosa.GoalRun {
			if was, known := c.instances[i.ID]; known && was.Goal == miosa.GoalRun && was.Serving() {
				left = append(left, was)
			}
		}
		c.take(noun)
	}
	for _, i := range left {
		c.floor(i)
	}
	for _, gone := range b.Gone {
		c.forget(gone.Kind, gone.ID)
	}
}

// floor: what served and leaves by our own doing leaves its slot to another that
// serves, as long as its version is live, its slot is wanted, and nobody asked for
// this very instance to stop.
func (c *checker) floor(left miosa.Instance) {
	i := c.instances[left.ID]
	env, svc := c.envs[i.EnvironmentID], c.services[i.ServiceID]
	if env.ActiveVersionID != i.VersionID || i.Slot >= svc.DesiredReplicas || i.GoalReason == "stopped by request" || c.hosts[i.HostID].Liveness != miosa.Alive {
		return
	}
	if a := c.s.users.appOf(i.DeploymentID); a == nil || a.deleted {
		return
	}
	for _, o := range c.instances {
		// One that served a moment ago was decided on before the news came.
		if o.ServiceID == i.ServiceID && o.VersionID == i.VersionID && o.Slot == i.Slot && o.ID != i.ID && o.Goal == miosa.GoalRun &&
			(o.Serving() || c.s.now.Sub(c.since[o.ID]) < 2*time.Second) {
			return
		}
	}
	c.s.fail("%s left slot %d of %s, and nobody serves there: %s", i.ID, i.Slot, svc.Name, i.GoalReason)
}

// published: a table names nobody who has been known to be unwell, or to be
// leaving, for longer than the news takes.
func (c *checker) published(t routing.Table) {
	c.routed(t)
	for _, name := range doors(t) {
		pool, _ := poolBehind(t, name)
		for _, b := range pool.Backends {
			i, ok := c.instances[b.InstanceID]
			if a := c.s.users.appOf(i.DeploymentID); a != nil && a.undecided(c.s.now) {
				continue
			}
			if ok && i.State() != miosa.Healthy && c.s.now.Sub(c.since[b.InstanceID]) > time.Second {
				c.s.fail("table %d sends %s to %s, which is %s", t.Generation, name, b.InstanceID, i.State())
			}
		}
	}
}

// routed: each host name leads to the service that its version named for
// requests, each port to the one service that has it, and both to every instance
// of it that has been well for longer than the news takes, whatever else is
// published, fails or was there before.
func (c *checker) routed(t routing.Table) {
	for _, name := range doors(t) {
		pool, _ := poolBehind(t, name)
		v, ok := c.versions[pool.VersionID]
		if !ok {
			continue
		}
		if a := c.s.users.appOf(v.DeploymentID); a != nil && a.undecided(c.s.now) {
			continue
		}
		service := routedOf(v)
		if pool.Protocol == miosa.ProtocolTCP {
			service = pool.ServiceID
			if svc, ok := c.services[service]; ok && door(svc.PublicPort) != name {
				c.s.fail("table %d sends %s to %s, whose port is %d", t.Generation, name, service, svc.PublicPort)
			}
			if spec, ok := v.Service(service); !ok || spec.Protocol != miosa.ProtocolTCP {
				c.s.fail("table %d sends %s to %s, which is no such service of %s", t.Generation, name, service, v.ID)
			}
		}
		if pool.ServiceID != service {
			c.s.fail("table %d sends %s to service %q of %s, not to %q", t.Generation, name, pool.ServiceID, v.ID, service)
		}
		active := c.versions[c.envs[v.EnvironmentID].ActiveVersionID]
		instead := routedOf(active)
		if pool.Protocol == miosa.ProtocolTCP {
			instead = service
		}
		if active.ID != "" && active.ID != v.ID && len(pool.Backends) == 0 && pool.ServiceID != "" && len(c.backends(active, instead, time.Second)) > 0 {
			c.s.fail("table %d sends %s to nobody of %s, although %s is live", t.Generation, name, v.ID, active.ID)
		}
		if v.ID != active.ID {
			continue
		}
		held := map[string]bool{}
		for _, b := range pool.Backends {
			held[b.InstanceID] = true
		}
		for _, id := range c.backends(v, service, time.Second) {
			if !held[id] {
				c.s.fail("table %d does not send %s to %s of the live version, which is healthy", t.Generation, name, id)
			}
		}
	}
}

// backends are a version's instances that what is sent to the service may go
// to, healthy for at least so long.
func (c *checker) backends(v miosa.Version, service string, steady time.Duration) (ids []string) {
	for _, id := range sortedIDs(c.instances) {
		if i := c.instances[id]; i.VersionID == v.ID && i.ServiceID == service && i.Serving() && c.s.now.Sub(c.since[id]) >= steady {
			ids = append(ids, id)
		}
	}
	return ids
}

func (c *checker) forget(kind, id string) {
	switch kind {
	case "instance":
		delete(c.instances, id)
	case "task":
		delete(c.tasks, id)
	case "version":
		delete(c.versions, id)
	case "rollout":
		delete(c.rollouts, id)
	case "environment":
		delete(c.envs, id)
	case "service":
		delete(c.services, id)
	}
}

func (c *checker) take(noun any) {
	switch v := noun.(type) {
	case miosa.Task:
		c.tasked(v)
	case miosa.Instance:
		was, known := c.instances[v.ID]
		if v.Once() && !known {
			c.attempted(v)
		}
		if before, replaced := c.instances[v.Replaces]; replaced && !known {
			c.beside[v.ID] = c.hosts[before.HostID].Liveness == miosa.Alive
		}
		v.Observed = was.Observed
		if known && (v.Generation < was.Generation || goalRank(v.Goal) < goalRank(was.Goal)) {
			c.s.fail("%s: its assignment went back from %s/%d to %s/%d", v.ID, was.Goal, was.Generation, v.Goal, v.Generation)
		}
		c.instances[v.ID] = v
		if v.State() != was.State() {
			c.since[v.ID] = c.s.now
		}
	case miosa.Observation:
		i := c.instances[v.InstanceID]
		if i.Observed.State.Terminal() {
			c.s.fail("%s: observed %s after its end", v.InstanceID, v.State)
		}
		if v.Seq < i.Observed.Seq {
			c.s.fail("%s: an older observation took the place of a newer", v.InstanceID)
		}
		if i.Observed.Boot == 0 && v.Boot > 0 {
			c.claimed[i.ID] = c.s.now
		}
		was := i.State()
		i.Observed = v
		c.instances[v.InstanceID] = i
		if i.State() != was {
			c.since[v.InstanceID] = c.s.now
		}
	case miosa.Host:
		if was := c.hosts[v.ID]; was.ID != "" && was.Liveness != v.Liveness {
			c.s.trace("%s is %s: %s", v.ID, v.Liveness, strings.Join(v.Reasons, "; "))
			switch v.Liveness {
			case miosa.Suspect:
				c.s.report.Suspected++
			case miosa.Lost:
				c.s.report.LostHosts++
			}
		}
		c.hosts[v.ID] = v
	case miosa.Version:
		if was, ok := c.versions[v.ID]; ok && versionRank(v.State) < versionRank(was.State) {
			c.s.fail("%s went back from %s to %s", v.ID, was.State, v.State)
		}
		c.versions[v.ID] = v
	case miosa.Rollout:
		was := c.rollouts[v.ID]
		if was.Step.Terminal() && v.Step != was.Step {
			c.s.fail("%s went on from %s to %s", v.ID, was.Step, v.Step)
		}
		if v.Step != was.Step {
			switch v.Step {
			case miosa.StepDraining:
				c.s.report.Flips++
			case miosa.StepFailed:
				c.s.report.Failures++
			}
		}
		c.rollouts[v.ID] = v
		if was.ID == "" {
			if _, before := c.unproven[v.TargetID]; !before || v.Promote {
				c.unproven[v.TargetID] = !v.Promote
			}
		}
	case miosa.Environment:
		if v.ActiveVersionID != c.envs[v.ID].ActiveVersionID {
			c.flipped(v)
		}
		c.envs[v.ID] = v
	case miosa.Service:
		if was, ok := c.services[v.ID]; ok && was.DesiredReplicas == 0 && v.DesiredReplicas > 0 {
			c.awake[v.ID] = c.s.now
		}
		c.ported(v)
		c.services[v.ID] = v
	}
}

// ported: a port is one service's, and stays it.
func (c *checker) ported(svc miosa.Service) {
	if was := c.services[svc.ID].PublicPort; was != 0 && svc.PublicPort != was {
		c.s.fail("the port of %s was %d and is %d", svc.ID, was, svc.PublicPort)
	}
	if svc.PublicPort == 0 {
		return
	}
	for _, id := range sortedIDs(c.services) {
		if other := c.services[id]; id != svc.ID && other.PublicPort == svc.PublicPort {
			c.s.fail("port %d is %s's, and %s's", svc.PublicPort, svc.ID, id)
		}
	}
}

// flipped: a version becomes live when somebody asked for that, and every
// router in touch with control serves it, or none of its instances any more.
func (c *checker) flipped(env miosa.Environment) {
	if c.unproven[env.ActiveVersionID] {
		c.s.fail("%s was made live; it was only to be proven", env.ActiveVersionID)
	}
	if v := c.versions[env.ActiveVersionID]; !c.s.cfg.Faults && routedOf(v) != "" && c.wanted(v, routedOf(v)) > 0 && len(c.backends(v, routedOf(v), 0)) == 0 && c.s.now.Sub(c.stopped[env.DeploymentID]) > time.Second {
		c.s.fail("%s was made live without a backend", v.ID)
	}
	if c.s.cfg.Faults {
		return // deadlines pass and instances die: the drain has its own checks
	}
	for _, r := range c.s.routers {
		for _, name := range doors(r.table) {
			pool, _ := poolBehind(r.table, name)
			if _, stays := c.versions[env.ActiveVersionID].Service(pool.ServiceID); pool.Protocol == miosa.ProtocolTCP && !stays {
				continue // its port closes with the version that had it
			}
			if c.versions[pool.VersionID].EnvironmentID == env.ID && pool.VersionID != env.ActiveVersionID && c.wanted(c.versions[env.ActiveVersionID], pool.ServiceID) > 0 && !c.recentlyEmptied(c.services[pool.ServiceID]) {
				c.s.fail("%s was made live while %s still serves %s", env.ActiveVersionID, r.id, pool.VersionID)
			}
		}
	}
}

// wanted is how many instances of a service there are to be once a version is
// live, at least: what it brings may be on record already, or not.
func (c *checker) wanted(v miosa.Version, service string) int {
	n := c.services[service].DesiredReplicas
	if spec, ok := v.Service(service); ok && spec.Settings.SetsReplicas {
		n = min(n, spec.Settings.Replicas)
	}
	return n
}

func goalRank(g miosa.Goal) int {
	return map[miosa.Goal]int{miosa.GoalRun: 0, miosa.GoalDrain: 1, miosa.GoalStop: 2}[g]
}

func versionRank(s miosa.VersionState) int {
	return map[miosa.VersionState]int{miosa.VersionCreated: 0, miosa.VersionBuilding: 1, miosa.VersionReady: 2, miosa.VersionFailed: 2, miosa.VersionArchived: 3}[s]
}

// always is what must hold at every moment.
func (c *checker) always() error {
	if err := c.judged(); err != nil {
		return err
	}
	if !c.changed {
		return nil
	}
	c.changed = false
	live := map[string]string{}
	for _, id := range sortedIDs(c.rollouts) {
		r := c.rollouts[id]
		if r.Live() && r.CancelledBy == "" {
			if other := live[r.EnvironmentID]; other != "" {
				return fmt.Errorf("%s has two live rollouts: %s and %s", r.EnvironmentID, other, id)
			}
			live[r.EnvironmentID] = id
		}
	}
	for _, e := range c.envs {
		if v, ok := c.versions[e.ActiveVersionID]; ok && v.State != miosa.VersionReady {
			return fmt.Errorf("active version %s of %s is %s", v.ID, e.ID, v.State)
		}
	}
	slots, filled := map[string]int{}, map[string]string{}
	for _, i := range c.instances {
		if i.State().Terminal() || i.Once() {
			continue
		}
		if i.Goal == miosa.GoalRun {
			key := fmt.Sprint(i.VersionID, i.ServiceID, i.Slot)
			if slots[key]++; slots[key] > 2 {
				return fmt.Errorf("slot %d of %s has %d occupants", i.Slot, i.VersionID, slots[key])
			}
			if i.Replaces == "" {
				if other := filled[key]; other != "" {
					return fmt.Errorf("slot %d of %s was filled twice: %s and %s", i.Slot, i.VersionID, min(other, i.ID), max(other, i.ID))
				}
				filled[key] = i.ID
			}
		}
	}
	used := c.used()
	for _, h := range c.s.hosts {
		if free := schedule.Free(schedule.Host{Host: h.noun(), Used: used[h.id]}); free.MemoryMB < 0 || free.VCPUs < 0 || free.DiskMB < 0 {
			return fmt.Errorf("host %s promises more than it has: %+v", h.id, used[h.id])
		}
	}
	return nil
}

// noBackend: a request found nobody. Without injected faults that must not be
// once a version is live, but where the customer took the capacity away.
func (c *checker) noBackend(at string, pool routing.Pool, excused bool) {
	svc := c.services[pool.ServiceID]
	env := c.envs[svc.EnvironmentID]
	if pool.Workers() || env.ActiveVersionID == "" || svc.DesiredReplicas == 0 {
		return // as the customer wants it
	}
	if _, live := c.versions[env.ActiveVersionID].Service(pool.ServiceID); pool.Protocol == miosa.ProtocolTCP && !live {
		return // its port was opened by a version that is not live yet, or no more
	}
	if c.s.cfg.Faults || excused || len(pool.Backends) == 0 && c.recentlyEmptied(svc) {
		c.s.report.Excused++
		return
	}
	c.s.report.Lost++
	c.s.fail("no backend for %s although its version is live (%d in the pool)", at, len(pool.Backends))
}

// recentlyEmptied: a customer stopped an instance by hand, or scaled up from
// none, within the time a boot takes.
func (c *checker) recentlyEmptied(svc miosa.Service) bool {
	if at, ok := c.stopped[svc.DeploymentID]; ok && c.s.now.Sub(at) < 3*time.Minute {
		return true
	}
	if at, ok := c.awake[svc.ID]; ok && c.s.now.Sub(at) < 5*time.Second {
		return true // scaled up from nothing a moment ago: its first instance is being made
	}
	for _, i := range c.instances {
		// Scaled up from nothing: the first is not healthy yet, or not known to
		// be so to a router that was cut off for some seconds.
		if i.ServiceID == svc.ID && i.Goal == miosa.GoalRun && (i.State() != miosa.Healthy || c.s.now.Sub(c.since[i.ID]) < 10*time.Second) {
			return true
		}
	}
	return false
}

// instances are all of the store's, with what was observed of them.
func (s *Sim) instances() []miosa.Instance {
	out := make([]miosa.Instance, 0, len(s.check.instances))
	for _, id := range sortedIDs(s.check.instances) {
		out = append(out, s.check.instances[id])
	}
	return out
}

// judged: a host that has been silent for so long that even a control plane that
// had just begun must have seen it is not alive, as long as most others answer.
func (c *checker) judged() error {
	cut := 0
	for _, h := range c.s.hosts {
		if !h.heard() {
			cut++
		}
	}
	if 2*cut > len(c.s.hosts) {
		return nil
	}
	for _, h := range c.s.hosts {
		since := h.since
		for _, t := range []time.Time{c.s.control.began, c.s.jumped, c.s.refused} {
			if t.After(since) {
				since = t
			}
		}
		if !h.heard() && c.hosts[h.id].Liveness == miosa.Alive && c.s.now.Sub(since) > liveness.Window+liveness.SuspectAfter+5*time.Second {
			return fmt.Errorf("%s has been silent since %s, and is alive by its record", h.id, h.since.Format("15:04:05"))
		}
	}
	return nil
}

// settled is what must hold when nobody has done anything for a long while.
func (c *checker) settled() error {
	for _, id := range sortedIDs(c.rollouts) {
		if r := c.rollouts[id]; !r.Step.Terminal() {
			return fmt.Errorf("in the end %s is still %s: %s", id, r.Step, r.Reason)
		}
	}
	for _, a := range c.s.users.apps {
		if a.deleted {
			n, err := store.Collect(store.List(context.Background(), c.s.store, store.Instances, store.InstancesOf(a.dep.TenantID, a.dep.ID), store.ScanOptions{}))
			if err != nil {
				return err
			}
			if len(n) > 0 {
				return fmt.Errorf("in the end deleted %s has %d instances", a.dep.Name, len(n))
			}
			continue
		}
		if err := c.settledApp(a); err != nil {
			return err
		}
	}
	for _, h := range c.s.hosts {
		if h.gone {
			if is := c.hosts[h.id]; is.Liveness != miosa.Lost {
				return fmt.Errorf("in the end %s, which died for good, is %s", h.id, is.Liveness)
			}
			continue
		}
		if is := c.hosts[h.id]; is.Liveness != miosa.Alive {
			return fmt.Errorf("in the end %s, which answers, is %s: %s", h.id, is.Liveness, strings.Join(is.Reasons, "; "))
		}
		for _, id := range sortedIDs(h.slots) {
			if i, ok := c.instances[id]; !ok || i.State().Terminal() {
				return fmt.Errorf("in the end host %s still runs %s, which is over", h.id, id)
			}
		}
	}
	if err := c.settledTasks(); err != nil {
		return err
	}
	return c.settledRoutes()
}

func (c *checker) settledApp(a *app) error {
	env := c.envs[a.env.ID]
	for _, id := range sortedIDs(c.instances) {
		if i := c.instances[id]; i.EnvironmentID == env.ID && !i.Once() && !i.State().Terminal() && i.VersionID != env.ActiveVersionID {
			return fmt.Errorf("in the end %s of %s, which is not live, is %s", i.ID, i.VersionID, i.State())
		}
	}
	if env.ActiveVersionID == "" {
		return nil
	}
	for _, spec := range c.versions[env.ActiveVersionID].Services {
		if err := c.settledService(a, env, c.services[spec.ServiceID], spec); err != nil {
			return err
		}
	}
	if err := c.settledQuiet(a, env); err != nil {
		return err
	}
	return c.settledHealth(env)
}

// quiet is how long nothing is written any more when all is as it should be: what
// crashes on and on aside.
const quiet = 10 * time.Minute

// tells: the commit only says how an environment has been for a while, or has logs
// tell what routers found of an app, which requests go to in the end, too.
func (c *checker) tells(e cell.Commit) bool {
	if len(e.Create) > 0 {
		return false
	}
	if len(e.Put) == 1 && len(e.Events) == 1 && e.Events[0].Type == "deployment.health_changed" {
		return true
	}
	for _, put := range e.Put {
		if i, ok := put.(miosa.Instance); !ok || slices.Equal(i.Notices, c.instances[i.ID].Notices) {
			return false
		}
	}
	return true
}

func (c *checker) settledQuiet(a *app, env miosa.Environment) error {
	last, ok := c.s.wrote[env.ID]
	if !ok || c.s.now.Sub(last.at) >= quiet {
		return nil
	}
	for _, i := range c.instances {
		if i.EnvironmentID == env.ID && (c.s.now.Sub(c.since[i.ID]) < quiet+time.Minute || i.Once() && !i.State().Terminal()) {
			return nil // something went on there
		}
	}
	return fmt.Errorf("in the end control still writes to %s, where nothing happens: %s", a.dep.Name, last.what)
}

// settledHealth: what was last told of an environment's health is how it does,
// where that has been so for longer than telling takes.
func (c *checker) settledHealth(env miosa.Environment) error {
	const long = health.BetterAfter + 30*time.Second
	services := []miosa.Service{}
	for _, id := range sortedIDs(c.services) {
		if c.services[id].EnvironmentID == env.ID {
			services = append(services, c.services[id])
		}
	}
	instances := slices.DeleteFunc(c.s.instances(), func(i miosa.Instance) bool { return i.Once() })
	of := func(now time.Time) health.Condition {
		return health.Environment(now, c.versions[env.ActiveVersionID], services, instances)
	}
	now := c.s.clock() // what instances were healthy since is by the time of day
	seen := of(now)
	is := seen.Health
	was := of(now.Add(-long))
	if was.Health != is {
		return nil // an instance's failures were forgotten just now
	}
	if (seen.Looping || was.Looping) && env.ToldHealth == miosa.EnvironmentDown {
		return nil // what is better between two crashes is not told
	}
	for _, i := range instances {
		if i.EnvironmentID == env.ID && c.s.now.Sub(c.since[i.ID]) < long {
			return nil
		}
	}
	if told := cmp.Or(env.ToldHealth, miosa.EnvironmentOK); told != is {
		return fmt.Errorf("in the end %s is %s, and told of as %s", env.ID, is, told)
	}
	return nil
}

// room reports whether a host has so much to promise: users may want more than
// there is.
func (c *checker) room(r miosa.Resources) bool {
	fleet := schedule.NewFleet(schedule.Spread)
	for _, h := range c.s.hosts {
		if !h.gone {
			fleet.Put(h.noun())
		}
	}
	for id, used := range c.used() {
		fleet.Promise(id, used)
	}
	return fleet.Place(schedule.Request{Resources: r}).HostID != ""
}

// used is what is promised, by host ID; "" is what waits for a host.
func (c *checker) used() map[string]miosa.Resources {
	used := map[string]miosa.Resources{}
	for _, i := range c.instances {
		if !i.State().Terminal() {
			used[i.HostID] = schedule.Add(used[i.HostID], i.Spec.Resources)
		}
	}
	return used
}

func (c *checker) settledService(a *app, env miosa.Environment, svc miosa.Service, spec miosa.ServiceSpec) error {
	healthy, rests := map[int]bool{}, map[int]miosa.InstanceState{}
	waits := map[int]bool{} // for a host, and there is none with room
	for _, id := range sortedIDs(c.instances) {
		i := c.instances[id]
		if i.VersionID != env.ActiveVersionID || i.ServiceID != svc.ID {
			continue
		}
		switch {
		case i.State() == miosa.Failed, i.State() == miosa.Stopped && i.Observed.Failure.Kind == miosa.FailureCompleted:
			rests[i.Slot] = i.State()
		case i.State().Terminal():
		case i.Slot >= svc.DesiredReplicas:
			return fmt.Errorf("in the end %s holds slot %d of %d", i.ID, i.Slot, svc.DesiredReplicas)
		case i.State() == miosa.Healthy && healthy[i.Slot]:
			return fmt.Errorf("in the end slot %d of %s in %s is held twice", i.Slot, svc.Name, a.dep.Name)
		case i.State() == miosa.Healthy:
			healthy[i.Slot] = true
		case i.HostID == "":
			waits[i.Slot] = !c.room(i.Spec.Resources)
		}
	}
	b := behaviourOf(spec.Command)
	if !b.mayLive() {
		return fmt.Errorf("in the end %s serves a version that is %s", a.dep.Name, b)
	}
	for n := range svc.DesiredReplicas {
		if !healthy[n] && rests[n] == "" && !waits[n] && b != flaky {
			return fmt.Errorf("in the end slot %d of %s in %s (%s) is empty", n, svc.Name, a.dep.Name, b)
		}
		if rests[n] == miosa.Failed && !healthy[n] && !c.s.cfg.Faults {
			return fmt.Errorf("in the end slot %d of %s in %s failed without any fault", n, svc.Name, a.dep.Name)
		}
		if rests[n] == miosa.Stopped && b != finishes {
			return fmt.Errorf("in the end slot %d of %s in %s rests, although it has no end", n, svc.Name, a.dep.Name)
		}
	}
	return nil
}

// settledRoutes: in the end each door of what is live leads to all that is well
// of its service, and no other port is open.
func (c *checker) settledRoutes() error {
	open := map[string]bool{}
	for _, a := range c.s.users.apps {
		env, name := c.envs[a.env.ID], a.dep.Slug+"--"+a.env.Name+"."+c.s.users.tenant.Slug+".sim"
		if a.deleted || env.ActiveVersionID == "" {
			continue
		}
		v := c.versions[env.ActiveVersionID]
		leads := map[string]string{name: routedOf(v)}
		for _, spec := range v.Services {
			if spec.Protocol == miosa.ProtocolTCP {
				at := door(c.services[spec.ServiceID].PublicPort)
				leads[at], open[at] = spec.ServiceID, true
			}
		}
		for _, at := range sortedIDs(leads) {
			if err := c.settledDoor(v, at, leads[at]); err != nil {
				return err
			}
		}
	}
	for _, r := range c.s.routers {
		if c.s.now.Sub(c.s.control.flipped) > 10*time.Second && !routing.SameRoutes(r.table, c.s.control.table) {
			return fmt.Errorf("in the end %s routes by another table than control's %d", r.id, c.s.control.table.Generation)
		}
		for b, t := range r.targets {
			if t.retired && t.inFlight > 0 && c.s.now.Sub(t.left) > 2*miosa.DefaultDrain {
				return fmt.Errorf("in the end %s has %d in flight at %s, which left its table at %s", r.id, t.inFlight, b.InstanceID, t.left.Format("15:04:05"))
			}
		}
		for _, at := range r.doors {
			pool, _ := poolBehind(r.table, at)
			if pool.Protocol == miosa.ProtocolTCP && !open[at] {
				return fmt.Errorf("in the end %s has %s open, which leads to nothing that is live", r.id, at)
			}
			for _, b := range pool.Backends {
				if i := c.instances[b.InstanceID]; i.State() != miosa.Healthy && c.s.now.Sub(c.since[i.ID]) >= time.Second {
					return fmt.Errorf("in the end %s routes %s to %s, which is %s", r.id, at, b.InstanceID, i.State())
				}
			}
		}
	}
	return nil
}

func (c *checker) settledDoor(v miosa.Version, at, service string) error {
	for _, r := range c.s.routers {
		pool, _ := poolBehind(r.table, at)
		if pool.VersionID != v.ID || pool.ServiceID != service {
			return fmt.Errorf("in the end %s sends %s to %s of %s, not to %s of %s", r.id, at, pool.ServiceID, pool.VersionID, service, v.ID)
		}
		held := map[string]bool{}
		for _, b := range pool.Backends {
			held[b.InstanceID] = true
			if i := c.instances[b.InstanceID]; i.VersionID != v.ID || i.ServiceID != service {
				return fmt.Errorf("in the end %s sends %s to %s, which is of %s of %s", r.id, at, i.ID, i.ServiceID, i.VersionID)
			}
		}
		for _, id := range c.backends(v, service, time.Second) {
			if !held[id] {
				return fmt.Errorf("in the end %s does not send %s to %s, which is healthy", r.id, at, id)
			}
		}
	}
	return nil
}
