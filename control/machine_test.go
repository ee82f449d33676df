package control_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/control"
	"github.com/miosa/miosa/routing"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/memory"
)

const (
	tenant, deployment, environment, service = "ten_1", "dep_1", "env_1", "svc_1"
	hostID                                   = "host_1"
)

// bench is a machine whose world can be delivered to it late, twice, or anew,
// and whose commits can fail.
type bench struct {
	*rapid.T
	m       *control.Machine
	store   *memory.Store
	now     time.Time
	random  uint64
	batches []store.Batch // everything ever committed
	told    int           // batches that were delivered
	commits []control.Commit
	answers []control.Committed
	table   routing.Table
	numbers int
}

func newBench(t *rapid.T) *bench {
	b := &bench{T: t, now: time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)}
	b.store = memory.New(func() time.Time { return b.now })
	b.m = control.NewMachine(control.Config{RouterWindow: control.RouterWindow, Hosts: func(_ miosa.Tenant, d miosa.Deployment, _ miosa.Environment) []string {
		return []string{d.Slug + ".test"}
	}})
	b.update(func(tx *store.Tx) error {
		return errors.Join(
			store.Save(tx, store.Tenants, miosa.Tenant{ID: tenant, Slug: "t"}),
			store.Save(tx, store.Hosts, miosa.Host{ID: hostID, Liveness: miosa.Alive, Schedulable: true, Overcommit: 4, Capacity: miosa.Resources{VCPUs: 4, MemoryMB: 2048, DiskMB: 65536}}),
			store.Save(tx, store.Deployments, miosa.Deployment{ID: deployment, TenantID: tenant, Slug: "app", State: miosa.DeploymentPending}),
			store.Save(tx, store.Environments, miosa.Environment{ID: environment, TenantID: tenant, DeploymentID: deployment, Name: miosa.Production}),
			store.Save(tx, store.Services, miosa.Service{ID: service, TenantID: tenant, DeploymentID: deployment, EnvironmentID: environment, Name: "web", Type: miosa.ServiceWeb, DesiredReplicas: rapid.IntRange(0, 3).Draw(t, "replicas")}),
		)
	})
	b.publish()
	b.load()
	return b
}

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
	b.batches = append(b.batches, b.store.ChangesSince(seen)...)
	b.look()
}

func (b *bench) instances() []miosa.Instance {
	ctx := context.Background()
	all, err := store.Collect(store.List(ctx, b.store, store.Instances, store.InstancesOf(tenant, deployment), store.ScanOptions{}))
	if err != nil {
		b.Fatal(err)
	}
	observed, err := store.Collect(store.List(ctx, b.store, store.Observations, store.ObservationsOf(tenant, deployment), store.ScanOptions{}))
	if err != nil {
		b.Fatal(err)
	}
	for n := range all {
		for _, o := range observed {
			if o.InstanceID == all[n].ID {
				all[n].Observed = o
			}
		}
	}
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
		slot := fmt.Sprint(i.VersionID, " slot ", i.Slot)
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
	if memory > 2048 {
		b.Fatalf("%d MB promised", memory)
	}
}

func (b *bench) feed(ev control.Event) {
	for _, effect := range b.m.Handle(b.now, ev) {
		switch e := effect.(type) {
		case control.Commit:
			b.commits = append(b.commits, e)
		case control.Publish:
			if e.Table.Generation <= b.table.Generation {
				b.Fatalf("table %d after %d", e.Table.Generation, b.table.Generation)
			}
			b.table = e.Table
		}
	}
	if len(b.commits)+len(b.answers) > 1 {
		b.Fatalf("%d commits to one environment at once", len(b.commits)+len(b.answers))
	}
	if at := b.m.Wake(); !at.IsZero() && !at.After(b.now) {
		if _, ok := ev.(control.Tick); ok {
			b.Fatalf("after a tick it wants another at once")
		}
	}
}

func (b *bench) load() {
	loaded, err := control.LoadAll(context.Background(), b.store)
	if err != nil {
		b.Fatal(err)
	}
	b.feed(loaded)
	for b.told < len(b.batches) && b.batches[b.told].Revision <= loaded.Revision {
		b.told++
	}
}

func (b *bench) deliver(n int) {
	changed, err := control.ChangedBy(b.batches[n])
	if err != nil {
		b.Fatal(err)
	}
	b.feed(changed)
}

// commit carries the oldest commit out, or lets it fail for passing reasons.
func (b *bench) commit(fails bool) {
	e := b.commits[0]
	b.commits = b.commits[1:]
	if fails && rapid.Bool().Draw(b.T, "not carried out") {
		b.answers = append(b.answers, e.Answer(0, errors.New("the store is away")))
		return
	}
	if err := e.Mint(b.now, b); err != nil {
		b.Fatal(err)
	}
	sealed := map[string][]byte{}
	for _, i := range e.Bootable() {
		sealed[i.ID] = []byte("sealed")
	}
	revision, err := store.Try(context.Background(), b.store, func(tx *store.Tx) error { return e.Write(tx, sealed, b.now, b) })
	answer := e.Answer(revision, err)
	if answer.Err != nil {
		b.Fatalf("commit refused: %v", answer.Err)
	}
	b.collect()
	if fails {
		answer = e.Answer(0, errors.New("the answer was lost"))
	}
	b.answers = append(b.answers, answer)
}

func (b *bench) answer() {
	a := b.answers[0]
	b.answers = b.answers[1:]
	b.feed(a)
}

func (b *bench) publish() {
	b.numbers++
	id := fmt.Sprint("ver_", b.numbers)
	b.update(func(tx *store.Tx) error {
		key := store.LiveKey(tenant, environment)
		if live, err := tx.Index(key); err != nil || live != "" {
			return err
		}
		env, err := store.Load(tx, store.Environments, store.EnvironmentKey(tenant, deployment, environment))
		if err != nil {
			return err
		}
		rollout := fmt.Sprint("rol_", b.numbers)
		tx.SetIndex(key, rollout, 0)
		return errors.Join(
			store.Save(tx, store.Versions, miosa.Version{
				ID: id, TenantID: tenant, DeploymentID: deployment, EnvironmentID: environment, Number: b.numbers, Kind: miosa.KindRootFS, State: miosa.VersionCreated,
				Services: []miosa.ServiceSpec{{ServiceID: service, Name: "web", Port: 80, Resources: miosa.Resources{VCPUs: 1, MemoryMB: 256, DiskMB: 1024}}},
			}),
			store.Save(tx, store.Rollouts, miosa.Rollout{
				ID: rollout, TenantID: tenant, DeploymentID: deployment, EnvironmentID: environment, TargetID: id, FromID: env.ActiveVersionID,
				Promote: true, Step: miosa.StepStarting, StepSince: b.now, CreatedAt: b.now, Deadline: b.now.Add(10 * time.Minute),
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
	o.InstanceID, o.TenantID, o.DeploymentID, o.HostID = i.ID, tenant, deployment, hostID
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
	switch event := rapid.IntRange(0, 19).Draw(b.T, "event"); event {
	case 0, 1, 2, 3:
		if b.told < len(b.batches) {
			b.told++
			b.deliver(b.told - 1)
		}
	case 4:
		if b.told > 0 {
			b.deliver(rapid.IntRange(0, b.told-1).Draw(b.T, "again"))
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
		b.feed(control.Reported{Report: routing.Report{RouterID: id, Generation: b.table.Generation - int64(rapid.IntRange(0, 1).Draw(b.T, "behind")), At: b.now}})
	case 14:
		b.feed(control.Tick{})
	case 15:
		n := rapid.IntRange(0, 3).Draw(b.T, "replicas")
		b.update(func(tx *store.Tx) error {
			s, err := store.Load(tx, store.Services, store.ServiceKey(tenant, deployment, service))
			if err != nil {
				return err
			}
			s.DesiredReplicas = n
			s.Logs.LinesPerSecond = 100 * n
			return store.Save(tx, store.Services, s)
		})
	case 16:
		b.publish()
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
	for range 400 {
		b.now = b.now.Add(time.Second)
		busy := false
		for b.told < len(b.batches) {
			b.told++
			b.deliver(b.told - 1)
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
			b.feed(control.Reported{Report: routing.Report{RouterID: fmt.Sprint("router-", n), Generation: b.table.Generation, At: b.now}})
		}
		b.feed(control.Tick{})
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
	rollouts, err := store.Collect(store.List(context.Background(), b.store, store.Rollouts, store.RolloutsOf(tenant, deployment), store.ScanOptions{}))
	if err != nil {
		b.Fatal(err)
	}
	for _, r := range rollouts {
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
	s, err := store.Get(context.Background(), b.store, store.Services, store.ServiceKey(tenant, deployment, service))
	if err != nil {
		b.Fatal(err)
	}
	told := map[string]string{}
	for _, i := range b.instances() {
		if !i.State().Terminal() && i.Logs != s.Logs {
			b.Errorf("%s may log %+v, its service %+v", i.ID, i.Logs, s.Logs)
		}
		if len(i.Words) > miosa.MaxWords {
			b.Errorf("%s has %d words", i.ID, len(i.Words))
		}
		for _, w := range i.Words {
			key := i.VersionID + "/" + w.ID
			if other := told[key]; other != "" {
				b.Errorf("%s and %s of version %s tell %q", other, i.ID, i.VersionID, w.Text)
			}
			told[key] = i.ID
		}
	}
}

// Whatever comes late, twice, anew or not at all: a slot is filled once, an
// environment has one commit under way, a host is not promised twice, and in
// the end everything rests.
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
