package control_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/control"
	"github.com/miosa/miosa/records"
	"github.com/miosa/miosa/routing"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/memory"
)

const (
	tenant, deployment, environment, service = "ten_1", "dep_1", "env_1", "svc_1"
	hostID                                   = "host_1"
	apps                                     = 2 // deployments of the bench, each with one environment
)

func deploymentOf(app int) string  { return fmt.Sprint("dep_", app) }
func environmentOf(app int) string { return fmt.Sprint("env_", app) }

// serviceOf is the ID of an app's service. Versions name some of these, in any
// order: requests go to web, else to front, else to api, never to jobs or db.
func serviceOf(app int, name string) string { return fmt.Sprint("svc_", app, "_", name) }

var serviceTypes = map[string]miosa.ServiceType{"web": miosa.ServiceWeb, "front": miosa.ServiceWeb, "api": miosa.ServiceAPI, "jobs": miosa.ServiceWorker, "db": miosa.ServiceAPI}

// portOf is the port of the routers that leads to an app's db, which speaks raw
// TCP.
func portOf(app int) int { return 30000 + app }

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

// bench is a machine whose world can be delivered to it late, twice, or anew,
// and whose commits can fail.
type bench struct {
	*rapid.T
	m        *cell.Machine
	store    *memory.Store
	now      time.Time
	random   uint64
	batches  []cell.Changed // everything ever committed
	told     int            // batches that were delivered
	seen     picture        // what they say
	stored   map[string]miosa.Instance
	rollouts map[string]miosa.Rollout
	commits  []cell.Commit
	answers  []cell.Committed
	memory   int // of the host, in MB
	table    routing.Table
	numbers  int
}

// picture is what the machine was told of.
type picture struct {
	envs      map[string]miosa.Environment
	versions  map[string]miosa.Version
	rollouts  map[string]miosa.Rollout
	instances map[string]miosa.Instance
	services  map[string]miosa.Service
}

func (p *picture) take(c cell.Changed) {
	for _, noun := range c.Put {
		switch v := noun.(type) {
		case miosa.Environment:
			p.envs[v.ID] = v
		case miosa.Version:
			p.versions[v.ID] = v
		case miosa.Rollout:
			p.rollouts[v.ID] = v
		case miosa.Service:
			p.services[v.ID] = v
		case miosa.Instance:
			v.Observed = p.instances[v.ID].Observed
			p.instances[v.ID] = v
		case miosa.Observation:
			i := p.instances[v.InstanceID]
			i.Observed = v
			p.instances[v.InstanceID] = i
		}
	}
}

// backends are the instances that requests to a version may go to.
func (p *picture) backends(v miosa.Version) []string { return p.serving(v, routedOf(v)) }

// serving are the instances of one service of a version that serve.
func (p *picture) serving(v miosa.Version, service string) (ids []string) {
	for _, i := range p.instances {
		if i.VersionID == v.ID && i.ServiceID == service && i.HostID != "" && i.Goal == miosa.GoalRun && i.Observed.State == miosa.Healthy && i.Spec.Port != 0 {
			ids = append(ids, i.ID)
		}
	}
	slices.Sort(ids)
	return ids
}

// target is the version that an environment's routes are about to change to.
func (p *picture) target(env string) miosa.Version {
	newest := miosa.Rollout{}
	for _, r := range p.rollouts {
		if r.EnvironmentID == env && r.Live() && r.CancelledBy == "" && r.ID > newest.ID {
			newest = r
		}
	}
	if newest.Step != miosa.StepFlipping {
		return miosa.Version{}
	}
	return p.versions[newest.TargetID]
}

func newBench(t *rapid.T) *bench {
	b := &bench{T: t, now: time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC), memory: 256 * rapid.IntRange(3, 8).Draw(t, "room"), stored: map[string]miosa.Instance{}, rollouts: map[string]miosa.Rollout{}}
	b.seen = picture{map[string]miosa.Environment{}, map[string]miosa.Version{}, map[string]miosa.Rollout{}, map[string]miosa.Instance{}, map[string]miosa.Service{}}
	b.store = memory.New(func() time.Time { return b.now })
	b.m = cell.NewMachine(cell.Config{RouterWindow: cell.RouterWindow, Hosts: func(_ miosa.Tenant, d miosa.Deployment, _ miosa.Environment) []string {
		return []string{d.Slug + ".test"}
	}})
	b.update(func(tx *store.Tx) error {
		return errors.Join(
			store.Save(tx, store.Tenants, miosa.Tenant{ID: tenant, Slug: "t"}),
			store.Save(tx, store.Hosts, miosa.Host{ID: hostID, Liveness: miosa.Alive, Schedulable: true, Overcommit: 4, Capacity: miosa.Resources{VCPUs: 4, MemoryMB: b.memory, DiskMB: 65536}}),
		)
	})
	for app := range apps {
		b.update(func(tx *store.Tx) error {
			return errors.Join(
				store.Save(tx, store.Deployments, miosa.Deployment{ID: deploymentOf(app), TenantID: tenant, Slug: deploymentOf(app), State: miosa.DeploymentPending}),
				store.Save(tx, store.Environments, miosa.Environment{ID: environmentOf(app), TenantID: tenant, DeploymentID: deploymentOf(app), Name: miosa.Production}),
			)
		})
		for _, name := range slices.Sorted(maps.Keys(serviceTypes)) {
			b.update(func(tx *store.Tx) error {
				return store.Save(tx, store.Services, miosa.Service{ID: serviceOf(app, name), TenantID: tenant, DeploymentID: deploymentOf(app), EnvironmentID: environmentOf(app), Name: name, Type: serviceTypes[name], PublicPort: map[string]int{"db": portOf(app)}[name], DesiredReplicas: rapid.IntRange(0, 3).Draw(t, "replicas")})
			})
		}
		b.publish(app)
	}
	b.load()
	return b
}

// app is one of them.
func (b *bench) app() int { return rapid.IntRange(0, apps-1).Draw(b.T, "app") }

// Read is the bench's randomness for IDs: counted, so that runs repeat.
func (b *bench) Read(p []byte) (int, error) {
	b.random++
	for i := range p {
		p[i] = byte(b.random >> (8 * (i % 8)))
	}
	return len(p), nil
}

func (b *bench) update(fn func(tx *store.Tx) error) {
	if _, err := store.Update(context.Background(), b.store, fn); err != nil && miosa.CodeOf(err) != miosa.NotFound && miosa.CodeOf(err) != miosa.Conflict {
		b.Fatalf("update: %v", err)
	}
	b.collect()
}

// collect keeps what was committed for the watch, and looks at it.
func (b *bench) collect() {
	seen := int64(0)
	if n := len(b.batches); n > 0 {
		seen = b.batches[n-1].Revision
	}
	for _, batch := range b.store.ChangesSince(seen) {
		changed, err := control.ChangedBy(batch)
		if err != nil {
			b.Fatal(err)
		}
		b.batches = append(b.batches, changed)
		for _, noun := range changed.Put {
			switch v := noun.(type) {
			case miosa.Instance:
				v.Observed = b.stored[v.ID].Observed
				b.stored[v.ID] = v
			case miosa.Observation:
				i := b.stored[v.InstanceID]
				i.Observed = v
				b.stored[v.InstanceID] = i
			case miosa.Rollout:
				b.rollouts[v.ID] = v
			}
		}
	}
	b.look()
}

// instances are all that the store holds, in order of ID.
func (b *bench) instances() []miosa.Instance {
	all := make([]miosa.Instance, 0, len(b.stored))
	for _, i := range b.stored {
		all = append(all, i)
	}
	slices.SortFunc(all, func(x, y miosa.Instance) int { return cmp.Compare(x.ID, y.ID) })
	return all
}

// look: no slot is ever filled twice, and no host promises more than it has.
func (b *bench) look() {
	first, all, memory := map[string]string{}, map[string]int{}, 0
	for _, i := range b.instances() {
		if i.State().Terminal() {
			continue
		}
		if i.HostID != "" {
			memory += i.Spec.Resources.MemoryMB
		}
		if i.Goal != miosa.GoalRun {
			continue
		}
		slot := fmt.Sprint(i.VersionID, " ", i.ServiceID, " slot ", i.Slot)
		if i.Replaces == "" {
			if other := first[slot]; other != "" {
				b.Fatalf("%s was filled twice: %s and %s", slot, other, i.ID)
			}
			first[slot] = i.ID
		}
		if all[slot]++; all[slot] > 2 {
			b.Fatalf("%s has %d occupants", slot, all[slot])
		}
	}
	if memory > b.memory {
		b.Fatalf("%d MB promised of %d: %s", memory, b.memory, b.state())
	}
}

func (b *bench) feed(ev cell.Event) {
	for _, effect := range b.m.Handle(b.now, ev) {
		switch e := effect.(type) {
		case cell.Commit:
			b.commits = append(b.commits, e)
			b.activates(e)
			b.settles(e)
		case cell.Publish:
			if e.Update.Generation <= b.table.Generation || !b.table.Apply(e.Update) {
				b.Fatalf("an update to %d after %d", e.Update.Generation, b.table.Generation)
			}
		}
	}
	underWay := map[string]int{}
	for _, e := range b.commits {
		underWay[e.Environment]++
	}
	for _, a := range b.answers {
		underWay[a.Environment]++
	}
	for env, n := range underWay {
		if n > 1 {
			b.Fatalf("%d commits to %s at once", n, env)
		}
	}
	if at := b.m.Wake(); !at.IsZero() && !at.After(b.now) {
		if _, ok := ev.(cell.Tick); ok {
			b.Fatalf("after a tick it wants another at once")
		}
	}
}

// activates: nothing is made live that has nobody to answer.
func (b *bench) activates(e cell.Commit) {
	for _, put := range e.Put {
		env, ok := put.(miosa.Environment)
		if !ok || env.ActiveVersionID == b.seen.envs[env.ID].ActiveVersionID {
			continue
		}
		if v := b.seen.versions[env.ActiveVersionID]; routedOf(v) != "" && len(b.seen.backends(v)) == 0 {
			b.Fatalf("%s is made live without a backend", v.ID)
		}
		app, v := env.ID[len("env_"):], b.seen.versions[env.ActiveVersionID]
		if db := "svc_" + app + "_db"; v.ID != "" {
			// One that nobody wants instances of has only to prove itself.
			if _, has := v.Service(db); has && v.Settled(b.seen.services[db]).DesiredReplicas > 0 && len(b.seen.serving(v, db)) == 0 {
				b.Fatalf("%s is made live with nobody at its port", v.ID)
			}
		}
	}
}

// settles: what a version brings of its services becomes theirs with the commit
// that makes it live for the first time, all of it, and never otherwise.
func (b *bench) settles(e cell.Commit) {
	want := map[string]miosa.Service{}
	for _, put := range e.Put {
		env, ok := put.(miosa.Environment)
		if !ok || env.ActiveVersionID == b.seen.envs[env.ID].ActiveVersionID {
			continue
		}
		v := b.seen.versions[env.ActiveVersionID]
		for _, spec := range v.Services {
			s := b.seen.services[spec.ServiceID]
			if next := v.Settled(s); !next.SameSettings(s) {
				want[s.ID] = next
			}
		}
	}
	for _, put := range e.Put {
		if s, ok := put.(miosa.Service); ok {
			if !s.SameSettings(want[s.ID]) {
				b.Fatalf("%s is made %+v, want %+v", s.ID, s, want[s.ID])
			}
			delete(want, s.ID)
		}
	}
	if len(want) > 0 {
		b.Fatalf("made live without %+v", want)
	}
}

// routes: a host name leads to the routed service of the version that is live,
// or of the one that is about to be and can answer, whatever else its
// environment has or had.
func (b *bench) routes() {
	for app := range apps {
		env, ok := b.seen.envs[environmentOf(app)]
		if !ok {
			continue
		}
		pool := b.table.Routes[deploymentOf(app)+".test"]
		want, target := b.seen.versions[env.ActiveVersionID], b.seen.target(env.ID)
		if target.ID != "" && (len(b.seen.backends(target)) > 0 || routedOf(target) == "" || want.ID == "" || len(b.seen.backends(want)) == 0 && routedOf(want) != "") {
			want = target
		}
		var got []string
		for _, backend := range pool.Backends {
			got = append(got, backend.InstanceID)
		}
		if pool.VersionID != want.ID || pool.ServiceID != routedOf(want) || !slices.Equal(got, b.seen.backends(want)) {
			b.Fatalf("%s is served by %s of %s, %v; want %s of %s, %v", pool.DeploymentID, pool.ServiceID, pool.VersionID, got, routedOf(want), want.ID, b.seen.backends(want))
		}
		if sticky := want.Settled(b.seen.services[pool.ServiceID]).Sticky; pool.Sticky != sticky {
			b.Fatalf("%s of %s is sticky by %+v, want %+v", pool.ServiceID, pool.VersionID, pool.Sticky, sticky)
		}
	}
}

// ports: so it is with the port that leads to db, where a version has it.
func (b *bench) ports() {
	for app := range apps {
		env, ok := b.seen.envs[environmentOf(app)]
		if !ok {
			continue
		}
		db, target := serviceOf(app, "db"), b.seen.target(env.ID)
		var want miosa.Version
		for _, v := range []miosa.Version{target, b.seen.versions[env.ActiveVersionID]} {
			if _, has := v.Service(db); has && (want.ID == "" || len(b.seen.serving(want, db)) == 0 && len(b.seen.serving(v, db)) > 0) {
				want = v
			}
		}
		pool, open := b.table.Ports[portOf(app)]
		var got []string
		for _, backend := range pool.Backends {
			got = append(got, backend.InstanceID)
		}
		if open != (want.ID != "") || open && (pool.VersionID != want.ID || pool.ServiceID != db || pool.Protocol != miosa.ProtocolTCP || !slices.Equal(got, b.seen.serving(want, db))) {
			b.Fatalf("port %d is served by %s of %s, %v; want %s, %v", portOf(app), pool.ServiceID, pool.VersionID, got, want.ID, b.seen.serving(want, db))
		}
	}
}

func (b *bench) load() {
	loaded, err := records.All(context.Background(), b.store)
	if err != nil {
		b.Fatal(err)
	}
	for b.told < len(b.batches) && b.batches[b.told].Revision <= loaded.Revision {
		b.seen.take(b.batches[b.told])
		b.told++
	}
	b.feed(loaded)
	b.routes()
	b.ports()
}

// next delivers the oldest batch that was not.
func (b *bench) next() {
	b.seen.take(b.batches[b.told])
	b.told++
	b.feed(b.batches[b.told-1])
	b.routes()
	b.ports()
}

// commit carries one of the commits out, or lets it fail for passing reasons.
func (b *bench) commit(fails bool) {
	n := rapid.IntRange(0, len(b.commits)-1).Draw(b.T, "commit")
	e := b.commits[n]
	b.commits = slices.Delete(b.commits, n, n+1)
	if fails && rapid.Bool().Draw(b.T, "not carried out") {
		b.answers = append(b.answers, e.Unanswered(errors.New("the store is away")))
		return
	}
	if err := e.Mint(b.now, b); err != nil {
		b.Fatal(err)
	}
	sealed := map[string][]byte{}
	for _, i := range e.Bootable() {
		sealed[i.ID] = []byte("sealed")
	}
	revision, err := store.Try(context.Background(), b.store, func(tx *store.Tx) error { return control.Write(tx, control.Term{}, &e, sealed, b.now, b) })
	answer := control.Answer(e, revision, err)
	if answer.Err != nil {
		b.Fatalf("commit refused: %v", answer.Err)
	}
	b.collect()
	if fails {
		answer = e.Unanswered(errors.New("the answer was lost"))
	}
	b.answers = append(b.answers, answer)
}

func (b *bench) answer() {
	n := rapid.IntRange(0, len(b.answers)-1).Draw(b.T, "answer")
	a := b.answers[n]
	b.answers = slices.Delete(b.answers, n, n+1)
	b.feed(a)
}

func (b *bench) name() string {
	return rapid.SampledFrom([]string{"web", "front", "api", "jobs", "db"}).Draw(b.T, "name")
}

// rollback makes the version before live again, whatever goes on.
func (b *bench) rollback(app int) {
	b.numbers++
	b.update(func(tx *store.Tx) error {
		key := store.LiveKey(tenant, environmentOf(app))
		live, err := tx.Index(key)
		if err != nil {
			return err
		}
		env, err := store.Load(tx, store.Environments, store.EnvironmentKey(tenant, deploymentOf(app), environmentOf(app)))
		if err != nil || env.PreviousVersionID == "" {
			return err
		}
		rollout := fmt.Sprintf("rol_%03d", b.numbers)
		if live != "" {
			r, err := store.Load(tx, store.Rollouts, store.RolloutKey(tenant, deploymentOf(app), live))
			if err != nil {
				return err
			}
			r.CancelledBy = rollout
			if err := store.Save(tx, store.Rollouts, r); err != nil {
				return err
			}
		}
		tx.SetIndex(key, rollout, 0)
		return store.Save(tx, store.Rollouts, miosa.Rollout{
			ID: rollout, TenantID: tenant, DeploymentID: deploymentOf(app), EnvironmentID: environmentOf(app), TargetID: env.PreviousVersionID, FromID: env.ActiveVersionID,
			Kind: miosa.RolloutRollback, Promote: true, Step: miosa.StepStarting, StepSince: b.now, CreatedAt: b.now, Deadline: b.now.Add(10 * time.Minute),
		})
	})
}

// specs are a version's services: any, with any port, in any order.
func (b *bench) specs(app int) (specs []miosa.ServiceSpec) {
	for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"web", "front", "api", "jobs", "db"}), 1, 3, rapid.ID[string]).Draw(b.T, "services") {
		spec := miosa.ServiceSpec{ServiceID: serviceOf(app, name), Name: name, Type: serviceTypes[name], Resources: miosa.Resources{VCPUs: 1, MemoryMB: 256, DiskMB: 1024}}
		if name != "jobs" {
			spec.Port = rapid.SampledFrom([]int{80, 8080}).Draw(b.T, "port")
		}
		if name == "db" {
			spec.Protocol = miosa.ProtocolTCP
		}
		if rapid.Bool().Draw(b.T, "brings settings") {
			spec.Settings = miosa.ServiceSettings{
				SetsReplicas: rapid.Bool().Draw(b.T, "sets replicas"), Replicas: rapid.IntRange(0, 2).Draw(b.T, "brings"),
				Sticky:  miosa.Sticky{Mode: rapid.SampledFrom([]miosa.StickyMode{"", miosa.StickyCookie}).Draw(b.T, "sticky")},
				Restart: miosa.RestartPolicy{Mode: rapid.SampledFrom([]miosa.RestartMode{"", miosa.RestartAlways, miosa.RestartOnFailure}).Draw(b.T, "restart")},
			}
		}
		specs = append(specs, spec)
	}
	return specs
}

func (b *bench) publish(app int) {
	b.numbers++
	id, specs := fmt.Sprint("ver_", b.numbers), b.specs(app)
	routed := ""
	if rapid.Bool().Draw(b.T, "written down") { // versions from before are not
		routed = miosa.RoutedService(specs)
	}
	b.update(func(tx *store.Tx) error {
		key := store.LiveKey(tenant, environmentOf(app))
		if live, err := tx.Index(key); err != nil || live != "" {
			return err
		}
		env, err := store.Load(tx, store.Environments, store.EnvironmentKey(tenant, deploymentOf(app), environmentOf(app)))
		if err != nil {
			return err
		}
		rollout := fmt.Sprintf("rol_%03d", b.numbers)
		tx.SetIndex(key, rollout, 0)
		return errors.Join(
			store.Save(tx, store.Versions, miosa.Version{
				ID: id, TenantID: tenant, DeploymentID: deploymentOf(app), EnvironmentID: environmentOf(app), Number: b.numbers, Kind: miosa.KindRootFS, State: miosa.VersionCreated,
				Services: specs, RoutedServiceID: routed,
			}),
			store.Save(tx, store.Rollouts, miosa.Rollout{
				ID: rollout, TenantID: tenant, DeploymentID: deploymentOf(app), EnvironmentID: environmentOf(app), TargetID: id, FromID: env.ActiveVersionID,
				Promote: rapid.IntRange(0, 4).Draw(b.T, "promote") > 0, Step: miosa.StepStarting, StepSince: b.now, CreatedAt: b.now, Deadline: b.now.Add(10 * time.Minute),
			}))
	})
}

// observe is one more report of the host on one of its instances.
func (b *bench) observe(state func(miosa.Instance) miosa.InstanceState) {
	all := b.instances()
	live := all[:0]
	for _, i := range all {
		if i.HostID != "" && !i.State().Terminal() {
			live = append(live, i)
		}
	}
	if len(live) == 0 {
		return
	}
	b.report(live[rapid.IntRange(0, len(live)-1).Draw(b.T, "instance")], state)
}

func (b *bench) report(i miosa.Instance, state func(miosa.Instance) miosa.InstanceState) {
	o := i.Observed
	o.InstanceID, o.TenantID, o.DeploymentID, o.HostID = i.ID, tenant, i.DeploymentID, hostID
	next := state(i)
	if o.State != "" && o.State != next && !o.State.CanBecome(next) {
		return
	}
	o.State, o.Generation, o.ReportedAt = next, i.Generation, b.now
	o.Seq++
	o.Addr = netip.MustParseAddrPort("10.0.0.1:80")
	b.update(func(tx *store.Tx) error { return control.Record(tx, hostID, o, b.now, b) })
}

// step is one thing that happens, in any order that can be.
func (b *bench) step() {
	later := rapid.SampledFrom([]time.Duration{0, time.Millisecond, time.Second, 15 * time.Second}).Draw(b.T, "later")
	b.now = b.now.Add(later)
	switch event := rapid.IntRange(0, 20).Draw(b.T, "event"); event {
	case 0, 1, 2, 3:
		if b.told < len(b.batches) {
			b.next()
		}
	case 4:
		if b.told > 0 {
			b.feed(b.batches[rapid.IntRange(0, b.told-1).Draw(b.T, "again")])
		}
	case 5, 6, 7, 8:
		if len(b.commits) > 0 {
			b.commit(event == 8)
		}
	case 9, 10, 11:
		if len(b.answers) > 0 {
			b.answer()
		}
	case 12:
		b.load()
	case 13:
		id := fmt.Sprint("router-", rapid.IntRange(0, 1).Draw(b.T, "router"))
		b.feed(cell.Reported{Report: routing.Report{RouterID: id, Generation: b.table.Generation - int64(rapid.IntRange(0, 1).Draw(b.T, "behind")), At: b.now}})
	case 14:
		b.feed(cell.Tick{})
	case 15:
		app, n := b.app(), rapid.IntRange(0, 3).Draw(b.T, "replicas")
		b.update(func(tx *store.Tx) error {
			s, err := store.Load(tx, store.Services, store.ServiceKey(tenant, deploymentOf(app), serviceOf(app, b.name())))
			if err != nil {
				return err
			}
			s.DesiredReplicas = n
			s.Logs.LinesPerSecond = 100 * n
			s.StopAfterDisconnect = time.Duration(n) * time.Minute
			s.Restart.Mode = []miosa.RestartMode{miosa.RestartAlways, miosa.RestartOnFailure, miosa.RestartNever, ""}[n]
			return store.Save(tx, store.Services, s)
		})
	case 16:
		b.publish(b.app())
	case 17:
		b.rollback(b.app())
	default:
		b.observe(func(i miosa.Instance) miosa.InstanceState {
			if i.Goal == miosa.GoalStop {
				return rapid.SampledFrom([]miosa.InstanceState{miosa.Stopping, miosa.Stopped}).Draw(b.T, "state")
			}
			return rapid.SampledFrom([]miosa.InstanceState{miosa.Starting, miosa.Healthy, miosa.Healthy, miosa.Unhealthy, miosa.Failed}).Draw(b.T, "state")
		})
	}
}

// calm delivers everything, lets everybody do as told, and expects rest.
func (b *bench) calm() {
	for n := range 200 {
		later := time.Second
		if n > 60 {
			later = 9 * time.Second // a rollout that finds no room ends after 10 minutes
		}
		b.now = b.now.Add(later)
		busy := false
		for b.told < len(b.batches) {
			b.next()
			busy = true
		}
		for len(b.commits) > 0 {
			b.commit(false)
			busy = true
		}
		for len(b.answers) > 0 {
			b.answer()
			busy = true
		}
		for _, i := range b.instances() {
			want := miosa.Healthy
			switch {
			case i.HostID == "" || i.State().Terminal() || i.Goal == miosa.GoalDrain:
				continue
			case i.Goal == miosa.GoalStop:
				want = miosa.Stopped
			case i.Observed.State == "" || i.Observed.State == miosa.Pending:
				want = miosa.Starting
			}
			if i.Observed.State != want {
				b.report(i, func(miosa.Instance) miosa.InstanceState { return want })
				busy = true
			}
		}
		for n := range 2 {
			b.feed(cell.Reported{Report: routing.Report{RouterID: fmt.Sprint("router-", n), Generation: b.table.Generation, At: b.now}})
		}
		b.feed(cell.Tick{})
		if !busy && b.settled() {
			return
		}
	}
	b.Fatalf("it does not come to rest: %s", b.state())
}

func (b *bench) settled() bool {
	for _, i := range b.instances() {
		if i.Goal != miosa.GoalRun && !i.State().Terminal() {
			return false
		}
	}
	if len(b.commits)+len(b.answers) > 0 {
		return false
	}
	for _, r := range b.rollouts {
		if !r.Step.Terminal() {
			return false
		}
	}
	return true
}

func (b *bench) state() string {
	var out strings.Builder
	for _, i := range b.instances() {
		if !i.State().Terminal() {
			fmt.Fprintf(&out, "%s %s %s on %q; ", i.ID, i.Goal, i.State(), i.HostID)
		}
	}
	return out.String()
}

// carried: what a host applies without a boot has come to every instance, and
// nothing is told twice.
func (b *bench) carried() {
	told := map[string]string{}
	for _, i := range b.instances() {
		s, err := store.Get(context.Background(), b.store, store.Services, store.ServiceKey(tenant, i.DeploymentID, i.ServiceID))
		if err != nil {
			b.Fatal(err)
		}
		if i.HostID != "" && !i.State().Terminal() && (i.Logs != s.Logs || i.Restart != s.Restart || i.StopAfterDisconnect != s.StopAfterDisconnect) {
			b.Errorf("%s may log %+v, restarts %+v and stops after %s, its service %+v, %+v and %s", i.ID, i.Logs, i.Restart, i.StopAfterDisconnect, s.Logs, s.Restart, s.StopAfterDisconnect)
		}
		if len(i.Notices) > miosa.MaxNotices {
			b.Errorf("%s has %d words", i.ID, len(i.Notices))
		}
		for _, w := range i.Notices {
			key := i.ServiceID + "/" + i.VersionID + "/" + w.ID
			if other := told[key]; other != "" {
				b.Errorf("%s and %s of version %s tell %q", other, i.ID, i.VersionID, w.Text)
			}
			told[key] = i.ID
		}
	}
}

// Whatever comes late, twice, anew or not at all, to two deployments on one
// host: a slot is filled once, an environment has one commit under way, a host
// promises no more than it has, a host name leads to the service of the version
// that is live, and in the end everything rests.
func TestMachine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := newBench(t)
		for range rapid.IntRange(1, 60).Draw(t, "length") {
			b.step()
		}
		b.calm()
		b.carried()
	})
}
