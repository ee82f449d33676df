package sim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/miosa/miosa"
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
}

type app struct {
	dep     miosa.Deployment
	env     miosa.Environment
	svcs    []miosa.Service // web first
	deleted bool
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

// plan spreads the run's actions over its span.
func (u *users) plan() {
	for range u.s.cfg.Deployments {
		u.s.after(u.s.between(0, u.s.cfg.Span/4), u.create)
	}
	u.s.after(u.s.cfg.Span, u.calmDown)
	for range u.s.cfg.Actions {
		u.s.after(time.Duration(u.s.rng.Float64()*float64(u.s.cfg.Span)), u.act)
	}
}

func (u *users) create() {
	a := &app{}
	n := len(u.apps)
	a.dep = miosa.Deployment{ID: u.id(miosa.PrefixDeployment), TenantID: u.tenant.ID, Name: fmt.Sprint("app", n), Slug: fmt.Sprint("app", n), State: miosa.DeploymentPending, CreatedAt: u.s.clock()}
	a.env = miosa.Environment{ID: u.id(miosa.PrefixEnvironment), TenantID: u.tenant.ID, DeploymentID: a.dep.ID, Name: miosa.Production, CreatedAt: u.s.clock()}
	a.svcs = u.services(a)
	u.apps = append(u.apps, a)
	if err := u.update(func(tx *store.Tx) error {
		err := errors.Join(store.Save(tx, store.Deployments, a.dep), store.Save(tx, store.Environments, a.env))
		for _, svc := range a.svcs {
			err = errors.Join(err, store.Save(tx, store.Services, svc))
		}
		return err
	}); err != nil {
		u.s.fail("create: %v", err)
	}
	u.publish(a, good, true)
}

// services are a web one, and in some apps a worker that runs on and a job
// that comes to an end.
func (u *users) services(a *app) []miosa.Service {
	add := func(name string, t miosa.ServiceType, replicas int, mode miosa.RestartMode) miosa.Service {
		return miosa.Service{
			ID: u.id(miosa.PrefixService), TenantID: u.tenant.ID, DeploymentID: a.dep.ID, EnvironmentID: a.env.ID, Name: name,
			Type: t, DesiredReplicas: replicas, Restart: miosa.RestartPolicy{Mode: mode}, CreatedAt: u.s.clock(),
		}
	}
	svcs := []miosa.Service{add("web", miosa.ServiceWeb, 1+u.s.rng.IntN(3), miosa.RestartAlways)}
	if u.s.chance(0.3) {
		svcs[0].Restart.MaxAge = 15 * time.Minute
	}
	if u.s.chance(0.4) {
		svcs = append(svcs, add("queue", miosa.ServiceWorker, 1, miosa.RestartAlways))
	}
	if u.s.chance(0.3) {
		mode := miosa.RestartOnFailure
		if u.s.chance(0.3) {
			mode = miosa.RestartNever
		}
		svcs = append(svcs, add("job", miosa.ServiceWorker, 1, mode))
	}
	return svcs
}

// calmDown ends what would go on for ever: the configured restarts.
func (u *users) calmDown() {
	for _, a := range u.apps {
		for _, svc := range a.svcs {
			u.edit(a, svc, func(s *miosa.Service) { s.Restart.MaxAge = 0 })
		}
	}
}

func (u *users) act() {
	if len(u.apps) == 0 {
		return
	}
	a := u.apps[u.s.rng.IntN(len(u.apps))]
	if a.deleted {
		return
	}
	s := u.s
	roll := s.rng.IntN(100)
	switch {
	case roll < 30:
		kinds := []behaviour{good, good, good, slow, crashes, never, sick, missing}
		if s.cfg.Faults {
			kinds = append(kinds, flaky)
		}
		u.publish(a, kinds[s.rng.IntN(len(kinds))], s.chance(0.85))
	case roll < 40:
		n := s.rng.IntN(5)
		s.trace("scale %s to %d", a.dep.Name, n)
		u.edit(a, a.svcs[0], func(svc *miosa.Service) {
			svc.DesiredReplicas = n
			svc.Logs.LinesPerSecond = 1000 * n
		})
	case roll < 50:
		u.rollback(a)
	case roll < 56:
		u.replace(a)
	case roll < 60:
		u.stopOne(a)
	case roll < 62:
		u.remove(a)
	case roll < 64:
		s.trace("the watch has a gap")
		s.report.Reloads++
		s.reload(func() {})
	case roll < 66:
		s.routers[s.rng.IntN(len(s.routers))].fallSilent(s.between(time.Second, 6*time.Second))
	case !s.cfg.Faults:
		u.replace(a)
	case roll < 68:
		s.routers[s.rng.IntN(len(s.routers))].fallSilent(s.between(5*time.Second, 2*time.Minute))
	case roll < 69:
		s.jump(s.between(-2*time.Minute, 10*time.Minute))
	case roll < 70:
		s.hosts[s.rng.IntN(len(s.hosts))].fill(s.between(time.Second, 2*time.Minute))
	case roll < 71:
		s.hosts[s.rng.IntN(len(s.hosts))].loseDisk()
	case roll < 76:
		s.injure(func(o *occupant) { s.trace("VM of %s is killed", o.in.ID); o.vm.injured = true; o.vanish(o.vm) })
	case roll < 82:
		s.injure(func(o *occupant) {
			s.trace("app of %s exits", o.in.ID)
			o.vm.injured = true
			o.exit(o.vm, miosa.Failure{Kind: miosa.FailureOOM, Message: "out of memory"})
		})
	case roll < 88:
		s.injure(func(o *occupant) { u.deafen(o) })
	case roll < 94:
		s.hosts[s.rng.IntN(len(s.hosts))].crashAgent()
	default:
		s.crashControl()
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
	if err != nil && miosa.CodeOf(err) != miosa.Conflict && miosa.CodeOf(err) != miosa.NotFound {
		u.s.fail("%s: %v", kind, err)
	}
}

func (u *users) publish(a *app, b behaviour, promote bool) {
	u.number++
	var specs []miosa.ServiceSpec
	for n, svc := range a.svcs {
		spec := miosa.ServiceSpec{
			ServiceID: svc.ID, Name: svc.Name, Type: svc.Type, Command: string(good), Health: miosa.DefaultHealthCheck(), Resources: miosa.DefaultResources(),
		}
		switch {
		case n == 0:
			spec.Port, spec.Command = 8080, string(b)
		case svc.Name == "job":
			spec.Command = string(finishes)
		}
		specs = append(specs, spec)
	}
	v := miosa.Version{
		ID: u.id(miosa.PrefixVersion), TenantID: a.env.TenantID, DeploymentID: a.dep.ID, EnvironmentID: a.env.ID,
		Number: u.number, Kind: miosa.KindRootFS, State: miosa.VersionCreated, CreatedAt: u.s.clock(),
		Services: specs,
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
		if i.DeploymentID == a.dep.ID && i.Goal == miosa.GoalRun && !i.State().Terminal() {
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
