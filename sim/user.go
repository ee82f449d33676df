package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/liveness"
	"github.com/miosa/miosa/store"
)

// behaviour is what a release does when it is started.
type behaviour string

const (
	good    behaviour = "good"
	slow    behaviour = "slow"    // healthy after 10 to 40 s
	flaky   behaviour = "flaky"   // healthy, exits after a while, again and again
	crashes behaviour = "crashes" // exits at once
	never   behaviour = "never"   // never listens
	sick    behaviour = "sick"    // answers 500
	missing behaviour = "missing" // its command is not there

	// finishes exits with 0 after a while, as a job does.
	finishes behaviour = "finishes"
)

func behaviourOf(command string) behaviour { return behaviour(command) }

// mayLive: versions of this kind become healthy.
func (b behaviour) mayLive() bool { return b == good || b == slow || b == flaky || b == finishes }

// users do at random what the API lets them.
type users struct {
	s      *Sim
	tenant miosa.Tenant
	apps   []*app
	number int
	began  time.Time
}

type app struct {
	dep     miosa.Deployment
	env     miosa.Environment
	svcs    []miosa.Service // those that ever were
	named   []miosa.Service // of the version published last, in its order
	deleted bool

	poisoned bool      // no decision can be made of its records
	mended   time.Time // when that ended
}

// undecided: nothing was decided about the app, or until a moment ago.
func (a *app) undecided(now time.Time) bool {
	return a.poisoned || !a.mended.IsZero() && now.Sub(a.mended) < time.Minute
}

func newUsers(s *Sim) *users { return &users{s: s} }

func (u *users) id(prefix string) string {
	id, err := miosa.NewID(prefix, u.s.clock(), u.s)
	if err != nil {
		u.s.fail("mint: %v", err)
	}
	return id
}

// update is one API transaction.
func (u *users) update(fn func(tx *store.Tx) error) error {
	_, err := store.Update(context.Background(), u.s.store, fn)
	return err
}

func (u *users) setUp() error {
	u.tenant = miosa.Tenant{ID: u.id(miosa.PrefixTenant), Name: "t", Slug: "t", Plan: "default", CreatedAt: u.s.clock()}
	return u.update(func(tx *store.Tx) error {
		for _, h := range u.s.hosts {
			if err := store.Save(tx, store.Hosts, h.noun()); err != nil {
				return err
			}
		}
		return store.Save(tx, store.Tenants, u.tenant)
	})
}

// plan spreads the run's actions over its span. Each is drawn by a chance of its
// own, so that those that are left stay what they are when one is skipped.
func (u *users) plan() {
	u.began = u.s.now
	for range u.s.cfg.Deployments {
		u.s.after(u.s.between(0, u.s.cfg.Span/4), u.create)
	}
	u.s.after(u.s.cfg.Span, u.calmDown)
	kinds := u.kinds()
	total := 0
	for _, k := range kinds {
		total += k.weight
	}
	for n := range u.s.cfg.Actions {
		mine := rand.New(rand.NewPCG(u.s.cfg.Seed, uint64(n))) //nolint:gosec // a seed's run is to be had again
		at, roll := time.Duration(mine.Float64()*float64(u.s.cfg.Span)), mine.IntN(total)
		if u.s.cfg.Skip[n] {
			continue
		}
		for _, k := range kinds {
			if roll -= k.weight; roll < 0 {
				u.s.after(at, func() {
					if len(u.apps) > 0 {
						k.do()
					}
				})
				break
			}
		}
	}
}

// kind is what users do, or what goes wrong, and how often among others.
type kind struct {
	weight int
	do     func()
}

// kinds are all of a run's.
func (u *users) kinds() []kind {
	s := u.s
	// With an app that is not deleted.
	with := func(do func(a *app)) func() {
		return func() {
			if a := u.apps[s.rng.IntN(len(u.apps))]; !a.deleted {
				do(a)
			}
		}
	}
	of := func(do func(h *host)) func() {
		return func() {
			if h := s.hosts[s.rng.IntN(len(s.hosts))]; !h.dead && !h.frozen {
				do(h)
			}
		}
	}
	router := func() *router { return s.routers[s.rng.IntN(len(s.routers))] }
	all := []kind{
		{30, with(u.publishAny)},
		{10, with(u.scale)},
		{10, with(u.rollback)},
		{6, with(u.replace)},
		{4, with(u.stopOne)},
		{2, with(u.remove)},
		{12, with(u.runTask)},
		{3, with(u.stopTask)},
		{2, func() {
			s.trace("the watch has a gap")
			s.report.Reloads++
			s.control.reload(func() {})
		}},
		{2, func() { router().fallSilent(s.between(time.Second, 6*time.Second)) }},
	}
	if !s.cfg.Faults {
		return append(all, kind{34, with(u.replace)})
	}
	faults := []kind{
		{1, func() { router().crash() }},
		{1, func() { router().fallSilent(s.between(5*time.Second, 2*time.Minute)) }},
		{1, func() { s.jump(s.between(-2*time.Minute, 10*time.Minute)) }},
		{1, of(func(h *host) { h.fill(s.between(time.Second, 2*time.Minute)) })},
		{1, of((*host).loseDisk)},
		{2, func() {
			s.injure(func(o *occupant) { s.trace("VM of %s is killed", o.in.ID); o.vm.injured = true; o.vanish(o.vm) })
		}},
		{6, func() {
			s.injure(func(o *occupant) {
				s.trace("app of %s exits", o.in.ID)
				o.vm.injured = true
				o.exit(o.vm, miosa.Failure{Kind: miosa.FailureOOM, Message: "out of memory"})
			})
		}},
		{6, func() { s.injure(func(o *occupant) { u.deafen(o) }) }},
		{3, func() {
			s.injureTask(func(o *occupant) {
				s.trace("VM of %s is killed", o.in.ID)
				o.vm.injured, o.h.troubled = true, s.now
				o.vanish(o.vm)
			})
		}},
		{6, of((*host).crashAgent)},
		{1, with(u.poison)},
		{4, s.crashControl},
		{3, s.takeOver},
	}
	if len(s.hosts) > 1 {
		faults = append(faults,
			kind{2, of(func(h *host) { h.cutOff(s.between(time.Second, 12*time.Minute)) })},
			kind{1, of(func(h *host) {
				h.mute(s.between(time.Second, 12*time.Minute))
				// It is given tasks until it is judged.
				for range 3 {
					s.after(s.between(0, liveness.SuspectAfter), with(u.runTask))
				}
			})},
			kind{2, of(func(h *host) { h.freeze(s.between(time.Second, 12*time.Minute)) })},
			kind{1, of(func(h *host) { h.die(s.between(5*time.Second, 12*time.Minute)) })},
			kind{2, of(u.drain)},
		)
	}
	if s.cfg.Swarm {
		for n := range faults {
			faults[n].weight *= []int{0, 0, 1, 1, 2, 6}[s.rng.IntN(6)]
		}
	}
	return append(all, faults...)
}

func (u *users) create() {
	a := &app{}
	n := len(u.apps)
	a.dep = miosa.Deployment{ID: u.id(miosa.PrefixDeployment), TenantID: u.tenant.ID, Name: fmt.Sprint("app", n), Slug: fmt.Sprint("app", n), State: miosa.DeploymentPending, CreatedAt: u.s.clock()}
	a.env = miosa.Environment{ID: u.id(miosa.PrefixEnvironment), TenantID: u.tenant.ID, DeploymentID: a.dep.ID, Name: miosa.Production, CreatedAt: u.s.clock()}
	u.apps = append(u.apps, a)
	if err := u.update(func(tx *store.Tx) error {
		return errors.Join(store.Save(tx, store.Deployments, a.dep), store.Save(tx, store.Environments, a.env))
	}); err != nil {
		u.s.fail("create: %v", err)
	}
	u.choose(a)
	u.publish(a, good, true)
}

// serviceTypes are the names that versions choose from. Requests go to web,
// else to front, else to api; db speaks raw TCP on a port of its own; the others
// get none.
var serviceTypes = map[string]miosa.ServiceType{
	"web": miosa.ServiceWeb, "front": miosa.ServiceWeb, "api": miosa.ServiceAPI, "queue": miosa.ServiceWorker, "job": miosa.ServiceWorker, "db": miosa.ServiceAPI,
}

// stickyModes are what services that get requests choose from.
var stickyModes = []miosa.StickyMode{miosa.StickyNone, miosa.StickyNone, miosa.StickyCookie, miosa.StickyClientIP}

// publicPorts are fewer than the apps may want.
var publicPorts = store.PortRange{First: 30000, Last: 30002}

// routedOf is the service that requests to a version are to go to.
func routedOf(v miosa.Version) string {
	for _, name := range []string{"web", "front", "api"} {
		for _, s := range v.Services {
			if s.Name == name {
				return s.ServiceID
			}
		}
	}
	return ""
}

// choose names the services of the app's next versions, in any order: mostly
// one that gets requests, now and then two or none, and in some a worker that
// runs on, a job that comes to an end, or a service that speaks raw TCP.
func (u *users) choose(a *app) {
	s := u.s
	var names []string
	routed := []string{"web", "front", "api"}
	s.rng.Shuffle(len(routed), func(i, j int) { routed[i], routed[j] = routed[j], routed[i] })
	switch roll := s.rng.IntN(10); {
	case roll < 7:
		names = append(names, routed[0])
	case roll < 9:
		names = append(names, routed[0], routed[1])
	}
	if len(names) == 0 || s.chance(0.3) {
		names = append(names, "queue")
	}
	if s.chance(0.2) {
		names = append(names, "job")
	}
	if s.chance(0.25) {
		names = append(names, "db")
	}
	s.rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	a.named = nil
	for _, name := range names {
		a.named = append(a.named, u.service(a, name))
	}
}

// service is the app's of that name, made when it is first named.
func (u *users) service(a *app, name string) miosa.Service {
	for _, svc := range a.svcs {
		if svc.Name == name {
			return svc
		}
	}
	svc := miosa.Service{
		ID: u.id(miosa.PrefixService), TenantID: u.tenant.ID, DeploymentID: a.dep.ID, EnvironmentID: a.env.ID, Name: name,
		Type: serviceTypes[name], DesiredReplicas: 1, Restart: miosa.RestartPolicy{Mode: miosa.RestartAlways}, CreatedAt: u.s.clock(),
	}
	if name == "queue" && u.s.chance(0.5) {
		svc.StopAfterDisconnect = u.s.between(miosa.MinStopAfterDisconnect, 2*time.Minute)
	}
	switch {
	case name == "job" && u.s.chance(0.3):
		svc.Restart.Mode = miosa.RestartNever
	case name == "job":
		svc.Restart.Mode = miosa.RestartOnFailure
	case svc.Type != miosa.ServiceWorker:
		svc.DesiredReplicas = 1 + u.s.rng.IntN(3)
		svc.Sticky.Mode = stickyModes[u.s.rng.IntN(len(stickyModes))]
		if u.s.chance(0.3) && u.s.now.Sub(u.began) < u.s.cfg.Span {
			svc.Restart.MaxAge = 15 * time.Minute
		}
	}
	if err := u.update(func(tx *store.Tx) error { return store.Save(tx, store.Services, svc) }); err != nil {
		u.s.fail("make service %s: %v", name, err)
	}
	a.svcs = append(a.svcs, svc)
	return svc
}

// calmDown ends what would go on for ever, the configured restarts, and makes
// permanent what may be.
func (u *users) calmDown() {
	for _, a := range u.apps {
		for _, svc := range a.svcs {
			u.edit(a, svc, func(s *miosa.Service) { s.Restart.MaxAge = 0 })
		}
	}
	if u.s.cfg.Swarm && u.s.chance(0.5) {
		u.s.hosts[u.s.rng.IntN(len(u.s.hosts))].goForGood()
	}
}

func (u *users) publishAny(a *app) {
	kinds := []behaviour{good, good, good, slow, crashes, never, sick, missing}
	if u.s.cfg.Faults {
		kinds = append(kinds, flaky)
	}
	if u.s.chance(0.4) {
		u.choose(a)
	}
	u.publish(a, kinds[u.s.rng.IntN(len(kinds))], u.s.chance(0.85))
}

func (u *users) scale(a *app) {
	n := u.s.rng.IntN(5)
	u.s.trace("scale %s to %d", a.dep.Name, n)
	svc := a.named[u.s.rng.IntN(len(a.named))]
	if svc.Name == "job" {
		return // what came to its end rests
	}
	u.edit(a, svc, func(svc *miosa.Service) {
		svc.DesiredReplicas = n
		svc.Logs.LinesPerSecond = 1000 * n
	})
}

// poison makes the app's records such that deciding about them panics, until
// somebody mends them.
func (u *users) poison(a *app) {
	if a.poisoned {
		return
	}
	d := u.s.between(time.Second, 5*time.Minute)
	u.s.trace("the records of %s are poisonous for %s", a.dep.Name, d)
	u.s.report.Poisoned++
	a.poisoned = true
	u.s.after(d, func() {
		u.s.trace("the records of %s are mended", a.dep.Name)
		a.poisoned, a.mended = false, u.s.now
		if err := u.update(func(tx *store.Tx) error {
			dep, err := store.Load(tx, store.Deployments, store.DeploymentKey(a.dep.TenantID, a.dep.ID))
			if err != nil {
				return err
			}
			return store.Save(tx, store.Deployments, dep)
		}); err != nil && miosa.CodeOf(err) != miosa.NotFound {
			u.s.fail("mend: %v", err)
		}
	})
}

// drain is an operator's, who works on a host for a while.
func (u *users) drain(h *host) {
	d, deadline := u.s.between(time.Minute, 15*time.Minute), u.s.between(30*time.Second, 10*time.Minute)
	u.s.trace("%s is drained, for %s", h.id, d)
	u.s.report.Drains++
	u.host(h, func(v *miosa.Host) {
		v.Schedulable, v.Drain = false, miosa.HostDrain{Since: u.s.clock(), Deadline: u.s.clock().Add(deadline)}
	})
	u.s.after(d, func() {
		u.s.trace("%s is uncordoned", h.id)
		u.host(h, func(v *miosa.Host) {
			if !v.Drain.DoneAt.IsZero() {
				u.s.report.Drained++
			}
			v.Schedulable, v.Drain = true, miosa.HostDrain{}
		})
	})
}

// appOf is the app of a deployment; nil: none of ours.
func (u *users) appOf(deployment string) *app {
	for _, a := range u.apps {
		if a.dep.ID == deployment {
			return a
		}
	}
	return nil
}

func (u *users) host(h *host, how func(v *miosa.Host)) {
	if err := u.update(func(tx *store.Tx) error {
		v, err := store.Load(tx, store.Hosts, store.HostKey(h.id))
		if err != nil {
			return err
		}
		how(&v)
		return store.Save(tx, store.Hosts, v)
	}); err != nil {
		u.s.fail("change %s: %v", h.id, err)
	}
}

// injure picks a serving VM.
func (s *Sim) injure(how func(o *occupant)) {
	var all []*occupant
	for _, h := range s.hosts {
		for _, id := range sortedIDs(h.slots) {
			if o := h.slots[id]; o.vm != nil && o.vm.alive && o.vm.serving {
				all = append(all, o)
			}
		}
	}
	if len(all) > 0 {
		how(all[s.rng.IntN(len(all))])
	}
}

func (u *users) deafen(o *occupant) {
	v := o.vm
	u.s.trace("app of %s goes deaf", o.in.ID)
	v.injured, v.deaf, v.serving = true, true, false
	u.s.after(u.s.between(time.Second, 90*time.Second), func() {
		if v.alive && !v.stopping && v.deaf {
			v.deaf, v.serving = false, true
		}
	})
}

// begin is the transaction behind publish, promote and rollback.
func (u *users) begin(a *app, kind miosa.RolloutKind, target miosa.Version, cancel, promote bool) {
	u.s.report.Publishes++
	err := u.update(func(tx *store.Tx) error {
		env, err := store.Load(tx, store.Environments, store.EnvironmentKey(a.env.TenantID, a.dep.ID, a.env.ID))
		if err != nil {
			return err
		}
		key := store.LiveKey(a.env.TenantID, a.env.ID)
		live, err := tx.Index(key)
		if err != nil {
			return err
		}
		id := u.id(miosa.PrefixRollout)
		if live != "" {
			if !cancel {
				return miosa.Errorf(miosa.Conflict, "rollout_in_progress")
			}
			r, err := store.Load(tx, store.Rollouts, store.RolloutKey(a.env.TenantID, a.dep.ID, live))
			if err != nil {
				return err
			}
			r.CancelledBy = id
			if err := store.Save(tx, store.Rollouts, r); err != nil {
				return err
			}
		}
		if err := claimPorts(tx, target); err != nil {
			return err
		}
		tx.SetIndex(key, id, 0)
		if target.Revision == 0 {
			if err := store.Save(tx, store.Versions, target); err != nil {
				return err
			}
		}
		return store.Save(tx, store.Rollouts, miosa.Rollout{
			ID: id, TenantID: a.env.TenantID, DeploymentID: a.dep.ID, EnvironmentID: a.env.ID, Kind: kind, TargetID: target.ID,
			FromID: env.ActiveVersionID, Promote: promote, Step: miosa.StepStarting, StepSince: u.s.clock(),
			Deadline: u.s.clock().Add(10 * time.Minute), CreatedAt: u.s.clock(),
		})
	})
	if err != nil && miosa.CodeOf(err) != miosa.Conflict && miosa.CodeOf(err) != miosa.NotFound && miosa.CodeOf(err) != miosa.Unavailable {
		u.s.fail("%s: %v", kind, err)
	}
}

// claimPorts gives a port to each service of the version that needs one and has
// none; the error is Unavailable where there are no more.
func claimPorts(tx *store.Tx, v miosa.Version) error {
	for _, spec := range v.Services {
		if spec.Protocol != miosa.ProtocolTCP {
			continue
		}
		svc, err := store.Load(tx, store.Services, store.ServiceKey(v.TenantID, v.DeploymentID, spec.ServiceID))
		if err != nil {
			return err
		}
		if svc.PublicPort != 0 {
			continue
		}
		if svc.PublicPort, err = store.ClaimPort(tx, publicPorts, svc.ID); err != nil {
			return err
		}
		if err := store.Save(tx, store.Services, svc); err != nil {
			return err
		}
	}
	return nil
}

func (u *users) publish(a *app, b behaviour, promote bool) {
	u.number++
	var specs []miosa.ServiceSpec
	for n, svc := range a.named {
		spec := miosa.ServiceSpec{
			ServiceID: svc.ID, Name: svc.Name, Type: svc.Type, Command: string(good), Health: miosa.DefaultHealthCheck(), Resources: miosa.DefaultResources(),
		}
		if svc.Type != miosa.ServiceWorker {
			spec.Port = 8080 + u.s.rng.IntN(2)
		}
		if svc.Name == "db" {
			spec.Protocol = miosa.ProtocolTCP
		}
		if svc.Type != miosa.ServiceWorker && u.s.chance(0.2) {
			spec.Settings = miosa.ServiceSettings{SetsReplicas: true, Replicas: u.s.rng.IntN(4)}
		}
		switch {
		case svc.Name == "job":
			spec.Command = string(finishes)
		case n == 0 || a.named[0].Name == "job" && n == 1:
			if spec.Command = string(b); spec.Port == 0 && !b.mayLive() {
				spec.Command = string(missing) // a worker is well as soon as it runs
			}
		}
		specs = append(specs, spec)
	}
	v := miosa.Version{
		ID: u.id(miosa.PrefixVersion), TenantID: a.env.TenantID, DeploymentID: a.dep.ID, EnvironmentID: a.env.ID,
		Number: u.number, Kind: miosa.KindRootFS, State: miosa.VersionCreated, CreatedAt: u.s.clock(),
		Services: specs,
	}
	if u.s.chance(0.8) { // versions from before it was written down do without
		v.RoutedServiceID = miosa.RoutedService(specs)
	}
	u.s.trace("publish %s %s of %s, to be promoted: %t", b, v.ID, a.dep.Name, promote)
	u.begin(a, miosa.RolloutPublish, v, false, promote)
}

func (u *users) rollback(a *app) {
	env, err := store.Get(context.Background(), u.s.store, store.Environments, store.EnvironmentKey(a.env.TenantID, a.dep.ID, a.env.ID))
	if err != nil || env.PreviousVersionID == "" {
		return
	}
	v, err := store.Get(context.Background(), u.s.store, store.Versions, store.VersionKey(a.env.TenantID, a.dep.ID, env.PreviousVersionID))
	if err != nil {
		u.s.fail("rollback: %v", err)
		return
	}
	u.s.trace("rollback of %s to %s", a.dep.Name, v.ID)
	u.begin(a, miosa.RolloutRollback, v, true, true)
}

// edit changes a service as the API does.
func (u *users) edit(a *app, which miosa.Service, how func(*miosa.Service)) {
	if err := u.update(func(tx *store.Tx) error {
		svc, err := store.Load(tx, store.Services, store.ServiceKey(a.env.TenantID, a.dep.ID, which.ID))
		if err != nil {
			return err
		}
		how(&svc)
		return store.Save(tx, store.Services, svc)
	}); err != nil && miosa.CodeOf(err) != miosa.NotFound {
		u.s.fail("change %s: %v", which.Name, err)
	}
}

// change edits one running instance of the app as the API does.
func (u *users) change(a *app, edit func(i *miosa.Instance)) {
	var mine []miosa.Instance
	for _, i := range u.s.instances() {
		if i.DeploymentID == a.dep.ID && !i.Once() && i.Goal == miosa.GoalRun && !i.State().Terminal() {
			mine = append(mine, i)
		}
	}
	if len(mine) == 0 {
		return
	}
	pick := mine[u.s.rng.IntN(len(mine))]
	err := u.update(func(tx *store.Tx) error {
		i, err := store.Load(tx, store.Instances, store.InstanceKey(pick.TenantID, pick.DeploymentID, pick.ID))
		if err != nil {
			return err
		}
		edit(&i)
		return store.Save(tx, store.Instances, i)
	})
	if err != nil && miosa.CodeOf(err) != miosa.NotFound {
		u.s.fail("change: %v", err)
	}
}

func (u *users) replace(a *app) {
	u.change(a, func(i *miosa.Instance) {
		u.s.trace("restart of %s asked for", i.ID)
		i.ReplaceAsked = true
	})
}

func (u *users) stopOne(a *app) {
	u.change(a, func(i *miosa.Instance) {
		if i.Goal != miosa.GoalRun {
			return
		}
		u.s.trace("stop of %s asked for", i.ID)
		u.s.check.askedToStop(i.DeploymentID)
		i.Goal, i.GoalReason, i.GoalSince = miosa.GoalDrain, "stopped by request", u.s.clock()
		i.Generation++
	})
}

func (u *users) remove(a *app) {
	a.deleted = true
	u.s.trace("delete %s", a.dep.Name)
	if err := u.update(func(tx *store.Tx) error {
		dep, err := store.Load(tx, store.Deployments, store.DeploymentKey(a.dep.TenantID, a.dep.ID))
		if err != nil {
			return err
		}
		dep.DeletedAt = u.s.clock()
		return store.Save(tx, store.Deployments, dep)
	}); err != nil {
		u.s.fail("delete: %v", err)
	}
}
