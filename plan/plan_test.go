package plan_test

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/plan"
	"github.com/miosa/miosa/rollout"
	"github.com/miosa/miosa/schedule"
)

var epoch = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// app is a service that is alone in its deployment.
type app struct {
	tenant, deployment, name string
	replicas                 int
	size                     miosa.Resources
	regions                  []string
	worker                   bool
}

func (a app) id(prefix string) string {
	return fmt.Sprintf("%s_%s.%s.%s", prefix, a.tenant, a.deployment, a.name)
}

func (a app) service() miosa.Service {
	return miosa.Service{
		ID: a.id("svc"), TenantID: "ten_" + a.tenant, DeploymentID: a.id("dep"), EnvironmentID: a.id("env"),
		Name: a.name, Type: miosa.ServiceWeb, DesiredReplicas: a.replicas, Regions: a.regions,
	}
}

func (a app) version(number int) miosa.Version {
	spec := miosa.ServiceSpec{
		ServiceID: a.id("svc"), Name: a.name, Type: miosa.ServiceWeb, Port: 8080, ReleaseID: a.id("rel"), SHA256: a.deployment,
		Health: miosa.DefaultHealthCheck(), Resources: a.size,
	}
	if a.worker {
		spec.Type, spec.Port = miosa.ServiceWorker, 0
	}
	return miosa.Version{
		ID: fmt.Sprintf("%s.%03d", a.id("ver"), number), TenantID: "ten_" + a.tenant, DeploymentID: a.id("dep"), EnvironmentID: a.id("env"),
		Number: number, State: miosa.VersionReady, Services: []miosa.ServiceSpec{spec}, PromotedAt: epoch, CreatedAt: epoch,
	}
}

// records are the app's, with its first version live and no instance yet.
func (a app) records() []any {
	v := a.version(1)
	return []any{
		miosa.Tenant{ID: "ten_" + a.tenant, Slug: a.tenant},
		miosa.Deployment{ID: a.id("dep"), TenantID: "ten_" + a.tenant, Name: a.deployment, Slug: a.deployment, State: miosa.DeploymentRunning},
		a.environment(), a.service(), v,
	}
}

func (a app) environment() miosa.Environment {
	return miosa.Environment{
		ID: a.id("env"), TenantID: "ten_" + a.tenant, DeploymentID: a.id("dep"), Name: miosa.Production,
		ActiveVersionID: a.version(1).ID, ActiveSince: epoch,
	}
}

// publish is the next version, of another size or number, as the API begins it.
func (a app) publish(now time.Time, size miosa.Resources, replicas int) plan.Change {
	v := a.version(2)
	v.State, v.PromotedAt = miosa.VersionCreated, time.Time{}
	v.Services[0].Resources = size
	v.Services[0].Settings = miosa.ServiceSettings{SetsReplicas: true, Replicas: replicas}
	r, _ := rollout.Begin(now, rollout.Asked{ID: a.id("rol"), Kind: miosa.RolloutPublish, Target: v, Promote: true}, a.environment(), miosa.Rollout{})
	return plan.Change{What: "publish " + a.deployment, Put: []any{v, r}}
}

func host(id, region, zone string, capacity miosa.Resources) miosa.Host {
	return miosa.Host{
		ID: "host_" + id, Name: id, Region: region, Zone: zone, Liveness: miosa.Alive, Schedulable: true, Overcommit: 4, Capacity: capacity,
	}
}

// fleet is a machine of package cell, and a world around it that does as it is
// told: the real thing, other than the one in the package.
type fleet struct {
	machine   *cell.Machine
	now       time.Time
	revision  int64
	beats     int64
	minted    int
	records   map[string]any // by kind and ID: as they are
	instances map[string]miosa.Instance
	queue     []cell.Event
}

func start(policy schedule.Policy, nouns ...any) *fleet {
	f := &fleet{now: epoch.Add(time.Hour), revision: 1, records: map[string]any{}, instances: map[string]miosa.Instance{}}
	f.machine = cell.NewMachine(cell.Config{Placement: policy, Hosts: func(miosa.Tenant, miosa.Deployment, miosa.Environment) []string { return nil }})
	for _, n := range nouns {
		f.keep(n)
	}
	f.queue = append(f.queue, cell.Loaded{Revision: 1, Nouns: nouns})
	return f
}

func (f *fleet) keep(noun any) {
	key := fmt.Sprintf("%T ", noun)
	switch v := noun.(type) {
	case miosa.Instance:
		v.Observed = f.instances[v.ID].Observed
		f.instances[v.ID] = v
		key += v.ID
	case miosa.Observation:
		i := f.instances[v.InstanceID]
		i.Observed = v
		f.instances[i.ID] = i
		key += v.InstanceID
	default:
		key += reflect.ValueOf(noun).FieldByName("ID").String()
	}
	f.records[key] = noun
}

func (f *fleet) write(put ...any) {
	f.revision++
	for _, n := range put {
		f.keep(n)
	}
	f.queue = append(f.queue, cell.Changed{Revision: f.revision, Put: put})
}

// loaded are all records as they are.
func (f *fleet) loaded() cell.Loaded {
	out := cell.Loaded{Revision: f.revision}
	for _, key := range slices.Sorted(maps.Keys(f.records)) {
		out.Nouns = append(out.Nouns, f.records[key])
	}
	return out
}

// rest lets everything happen, one thing after the other.
func (f *fleet) rest() {
	for still := 0; still < 20; still++ { // longer than reconcile.PlaceBefore
		f.drain()
		f.now = f.now.Add(700 * time.Millisecond)
		f.beats++
		for _, n := range f.records {
			if h, ok := n.(miosa.Host); ok { // also one that is lost: nobody judges hosts here
				f.queue = append(f.queue, cell.Beat{Host: h.ID, Session: 1, Seq: f.beats})
			}
		}
		f.queue = append(f.queue, cell.Tick{})
		f.drain()
		for _, id := range slices.Sorted(maps.Keys(f.instances)) {
			if f.report(id) {
				still = 0
				f.drain()
			}
		}
	}
}

// report has an instance's host do what it is told, and say so.
func (f *fleet) report(id string) bool {
	i := f.instances[id]
	h, _ := f.records["miosa.Host "+i.HostID].(miosa.Host)
	o := i.Observed
	o.InstanceID, o.TenantID, o.DeploymentID, o.HostID = i.ID, i.TenantID, i.DeploymentID, i.HostID
	o.Generation, o.Seq, o.Boot = i.Generation, o.Seq+1, 1
	switch {
	case h.Liveness != miosa.Alive || o.State.Terminal():
		return false
	case i.Goal == miosa.GoalStop:
		o.State, o.StoppedAt = miosa.Stopped, f.now
	case i.Goal == miosa.GoalRun && o.State != miosa.Healthy:
		o.State, o.HealthyAt = miosa.Healthy, f.now
		o.Addr = netip.MustParseAddrPort("10.0.0.1:8080")
	default:
		return false
	}
	f.write(o)
	return true
}

func (f *fleet) drain() {
	for len(f.queue) > 0 {
		next := f.queue[0]
		f.queue = f.queue[1:]
		for _, effect := range f.machine.Handle(f.now, next) {
			switch e := effect.(type) {
			case cell.Halt:
				panic(e.Err)
			case cell.SaveHost:
				if e.Host.ID != "" {
					f.write(e.Host)
				}
				f.queue = append(f.queue, cell.HostSaved{Host: e.Host.ID})
			case cell.Commit:
				put := e.Put
				for _, i := range e.Create {
					f.minted++
					i.ID = fmt.Sprintf("ri_%06d", f.minted)
					put = append(put, i)
				}
				f.write(put...)
				f.queue = append(f.queue, e.Done(f.revision))
			}
		}
	}
}

// running are where the instances of a service that are meant to run are: hosts
// by slot, "" of those without.
func (f *fleet) running(service string) map[string]int {
	out := map[string]int{}
	for _, i := range f.instances {
		if i.ServiceID == service && i.Goal == miosa.GoalRun && !i.State().Terminal() {
			out[fmt.Sprint(i.VersionID, " ", i.Slot, " ", i.HostID)]++
		}
	}
	return out
}

func (f *fleet) serving(service string) (n int) {
	for _, i := range f.instances {
		if i.ServiceID == service && i.Goal == miosa.GoalRun && i.State() == miosa.Healthy {
			n++
		}
	}
	return n
}

// draw is a fleet of some hosts in some zones, with some apps.
func draw(t *rapid.T) (policy schedule.Policy, nouns []any, apps []app) {
	sizes := []int{256, 512, 1024}
	for n := range rapid.IntRange(1, 8).Draw(t, "hosts") {
		zone := string(rune('a' + rapid.IntRange(0, 2).Draw(t, "zone")))
		memory := rapid.SampledFrom([]int{1024, 2048, 4096}).Draw(t, "memory")
		nouns = append(nouns, host(fmt.Sprint("h", n), "eu", zone, miosa.Resources{VCPUs: 8, MemoryMB: memory, DiskMB: 1 << 20}))
	}
	for n := range rapid.IntRange(1, 4).Draw(t, "apps") {
		a := app{tenant: fmt.Sprint("t", n%2), deployment: fmt.Sprint("d", n), name: "web", worker: rapid.Bool().Draw(t, "worker")}
		a.replicas = rapid.IntRange(0, 4).Draw(t, "replicas")
		a.size = miosa.Resources{VCPUs: 1, MemoryMB: rapid.SampledFrom(sizes).Draw(t, "size"), DiskMB: 100}
		apps = append(apps, a)
		nouns = append(nouns, a.records()...)
	}
	return rapid.SampledFrom([]schedule.Policy{schedule.Spread, schedule.Pack}).Draw(t, "policy"), nouns, apps
}

func planned(t *rapid.T, f *fleet, policy schedule.Policy, c plan.Change) plan.Plan {
	t.Helper()
	p, err := plan.Make(f.now, f.loaded(), cell.Config{Placement: policy}, c)
	if err != nil {
		t.Fatal(err)
	}
	if p.Unfinished {
		t.Fatal("it does not come to rest")
	}
	return p
}

// same compares where the plan sees a service's instances with where they are.
func same(t *rapid.T, f *fleet, p plan.Plan, a app, before map[string]int) {
	t.Helper()
	want := maps.Clone(before)
	key := func(version, slot int, host string) string {
		return fmt.Sprint(a.version(version).ID, " ", slot, " ", host)
	}
	take := func(k string) {
		if want[k]--; want[k] == 0 {
			delete(want, k)
		}
	}
	for _, m := range p.Moves {
		if m.ServiceID == a.id("svc") {
			take(key(m.Version, m.Slot, m.From.HostID))
			want[key(m.Version, m.Slot, m.To.HostID)]++
		}
	}
	for _, s := range p.Starts {
		if s.ServiceID == a.id("svc") {
			want[key(s.Version, s.Slot, s.On.HostID)]++
		}
	}
	for _, e := range p.Ends {
		if e.ServiceID == a.id("svc") {
			take(key(e.Version, e.Slot, e.On.HostID))
		}
	}
	for _, n := range p.NoRoom {
		if n.ServiceID == a.id("svc") {
			if old := f.instances[n.Replaces]; n.Replaces != "" && old.State().Terminal() {
				take(key(n.Version, n.Slot, old.HostID))
			}
			want[key(n.Version, n.Slot, "")]++
		}
	}
	if got := f.running(a.id("svc")); !maps.Equal(got, want) {
		t.Fatalf("%s: the plan is %v, and it comes to %v\n%s", a.deployment, want, got, strings.Join(p.Lines(), "\n"))
	}
}

// What a plan says of a scale is what the machine does when it is made: the very
// same hosts, and nobody else's instance is touched.
func TestScaleIsAsPlanned(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		policy, nouns, apps := draw(t)
		f := start(policy, nouns...)
		f.rest()
		a := apps[rapid.IntRange(0, len(apps)-1).Draw(t, "which")]
		to := rapid.IntRange(0, 8).Draw(t, "to")
		p := planned(t, f, policy, plan.Scale(a.service(), to))
		before := map[string]map[string]int{}
		for _, o := range apps {
			before[o.deployment] = f.running(o.id("svc"))
		}
		s := a.service()
		s.DesiredReplicas = to
		f.write(s)
		f.rest()
		waited := p.Waiting > 0
		for _, o := range apps {
			if o.deployment == a.deployment && !waited {
				same(t, f, p, o, before[o.deployment])
			}
		}
		short := f.serving(a.id("svc")) < to
		if !waited && (short != (len(p.NoRoom) > 0) || short == p.OK()) {
			t.Fatalf("%d of %d serve, and the plan has %d without a host, ok %t", f.serving(a.id("svc")), to, len(p.NoRoom), p.OK())
		}
	})
}

// A publish is as planned too: what its new instances find, and whether it goes live.
func TestPublishIsAsPlanned(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		policy, nouns, apps := draw(t)
		f := start(policy, nouns...)
		f.rest()
		a := apps[rapid.IntRange(0, len(apps)-1).Draw(t, "which")]
		size := miosa.Resources{VCPUs: 1, MemoryMB: rapid.SampledFrom([]int{256, 1024, 2048}).Draw(t, "new size"), DiskMB: 100}
		change := a.publish(f.now, size, rapid.IntRange(0, 5).Draw(t, "new replicas"))
		p := planned(t, f, policy, change)
		before, served := f.running(a.id("svc")), f.serving(a.id("svc"))
		f.write(change.Put...)
		f.rest()
		if p.Waiting == 0 {
			same(t, f, p, a, before)
		}
		live := f.records["miosa.Environment "+a.id("env")].(miosa.Environment).ActiveVersionID == a.version(2).ID
		for _, s := range p.Services {
			after := 0
			for _, i := range f.instances {
				if i.ServiceID == s.ServiceID && i.VersionID == f.records["miosa.Environment "+s.EnvironmentID].(miosa.Environment).ActiveVersionID && i.State() == miosa.Healthy {
					after++
				}
			}
			if s.ServiceID == a.id("svc") && s.ServingBefore != served || s.Serving != after {
				t.Fatalf("%d serve before and %d after; the plan has %+v", served, after, s)
			}
			if s.Dips() {
				t.Fatalf("a publish makes before it breaks: %+v", s)
			}
		}
		if len(p.Rollouts) != 1 || p.Rollouts[0].Live != live {
			t.Fatalf("live is %t, and the plan has %+v", live, p.Rollouts)
		}
	})
}

// The plan of a lost zone names each service that falls below what it wants, for
// good or for a while, and nobody else.
func TestLostZoneNamesWhoFalls(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		policy, nouns, apps := draw(t)
		f := start(policy, nouns...)
		f.rest()
		zone := f.records["miosa.Host host_h0"].(miosa.Host).Zone
		change, err := plan.LoseZone(f.loaded(), zone)
		if err != nil {
			t.Fatal(err)
		}
		p := planned(t, f, policy, change)
		page := strings.Join(p.Lines(), "\n")
		there, before := map[string]int{}, map[string]int{}
		for _, a := range apps {
			before[a.id("svc")] = f.serving(a.id("svc"))
		}
		for _, i := range f.instances {
			if h, ok := f.records["miosa.Host "+i.HostID].(miosa.Host); ok && h.Zone == zone && !i.State().Terminal() {
				there[i.ServiceID]++
			}
		}
		var lost []any
		for _, n := range f.loaded().Nouns {
			if h, ok := n.(miosa.Host); ok && h.Zone == zone {
				h.Liveness = miosa.Lost
				lost = append(lost, h)
			}
		}
		f.write(lost...)
		f.rest()
		for _, a := range apps {
			id := a.id("svc")
			at := slices.IndexFunc(p.Services, func(s plan.Service) bool { return s.ServiceID == id })
			if there[id] == 0 && at < 0 {
				continue
			}
			if at < 0 {
				t.Fatalf("%s has %d instances in the zone, and the plan does not know it", id, there[id])
			}
			s := p.Services[at]
			after := f.serving(id)
			if s.Serving != after || s.ServingBefore != before[id] {
				t.Fatalf("%s: %d serve before and %d after; the plan has %+v", id, before[id], after, s)
			}
			if s.Lowest > before[id]-there[id] {
				t.Fatalf("%s: %d of its %d are in the zone; the plan has %+v", id, there[id], before[id], s)
			}
			named := strings.Contains(page, a.tenant+"/"+a.deployment+" web: ")
			if falls := after < a.replicas && before[id] >= a.replicas || after < before[id]; falls && (!named || p.OK()) {
				t.Fatalf("%s falls from %d to %d, and the plan does not say so:\n%s", id, before[id], after, page)
			}
			if there[id] > 0 && before[id] >= a.replicas && !strings.Contains(page, a.tenant+"/"+a.deployment+" web: ") {
				t.Fatalf("%s dips, and the plan does not say so:\n%s", id, page)
			}
		}
	})
}

// A drain keeps every service at what it wants, and what would not leave is said.
func TestDrainKeepsServing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		policy, nouns, _ := draw(t)
		f := start(policy, nouns...)
		f.rest()
		change, err := plan.Drain(f.loaded(), "h0")
		if err != nil {
			t.Fatal(err)
		}
		p := planned(t, f, policy, change)
		on := 0
		for _, i := range f.instances {
			if i.HostID == "host_h0" && !i.State().Terminal() {
				on++
			}
		}
		for _, s := range p.Services {
			if s.Lowest < s.ServingBefore {
				t.Fatalf("a drain makes before it breaks: %+v", s)
			}
		}
		left := 0
		for _, m := range p.Moves {
			if m.From.HostID != "host_h0" || m.To.HostID == "host_h0" {
				t.Fatalf("%+v", m)
			}
			left++
		}
		if left+len(p.Stays) != on || len(p.Starts) > 0 || len(p.Stays) > 0 && p.OK() || len(p.NoRoom) > len(p.Stays) {
			t.Fatalf("of %d on the host %d move and %d stay, %d find no host; %d start; ok %t", on, left, len(p.Stays), len(p.NoRoom), len(p.Starts), p.OK())
		}
	})
}

// A plan leaves what it is given as it is, and says the same again.
func TestPlanChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		policy, nouns, apps := draw(t)
		f, g := start(policy, nouns...), start(policy, nouns...)
		if rapid.Bool().Draw(t, "settled") {
			f.rest()
			g.rest()
		}
		loaded := f.loaded()
		change, err := plan.LoseHost(loaded, "h0")
		if err != nil {
			t.Fatal(err)
		}
		if rapid.Bool().Draw(t, "publish") {
			change = apps[0].publish(f.now, miosa.DefaultResources(), 3)
		}
		first, err := plan.Make(f.now, loaded, cell.Config{Placement: policy}, change)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(loaded, g.loaded()) {
			t.Fatal("the records are others now")
		}
		again, err := plan.Make(f.now, loaded, cell.Config{Placement: policy}, change)
		if err != nil || !reflect.DeepEqual(first, again) {
			t.Fatalf("first %+v, then %+v, %v", first, again, err)
		}
	})
}

// A tenant sees what is theirs, and nothing of hosts.
func TestViewOfATenant(t *testing.T) {
	one, two := app{tenant: "acme", deployment: "shop", name: "web", replicas: 2, size: miosa.DefaultResources()}, app{tenant: "other", deployment: "secret", name: "web", replicas: 2, size: miosa.DefaultResources()}
	nouns := append(one.records(), two.records()...)
	big := miosa.Resources{VCPUs: 8, MemoryMB: 2048, DiskMB: 1 << 20}
	nouns = append(nouns, host("h1", "eu", "a", big), host("h2", "eu", "b", big))
	f := start(schedule.Spread, nouns...)
	f.rest()
	change, err := plan.LoseHost(f.loaded(), "h1")
	if err != nil {
		t.Fatal(err)
	}
	whole, err := plan.Make(f.now, f.loaded(), cell.Config{}, change)
	if err != nil {
		t.Fatal(err)
	}
	if len(whole.Moves) != 2 || len(whole.Services) != 2 || len(whole.Zones) != 2 || len(whole.Hosts) != 2 {
		t.Fatalf("%+v", whole)
	}
	all := func(string) bool { return true }
	mine := whole.For("ten_acme", all)
	if len(mine.Moves) != 1 || len(mine.Services) != 1 || mine.Services[0].Deployment != "shop" {
		t.Fatalf("%+v", mine)
	}
	for _, word := range []string{"host_h", "h1", "h2", "secret", "other", "eu/"} {
		if text := fmt.Sprintf("%+v %s", mine, mine.Lines()); strings.Contains(strings.ReplaceAll(text, mine.What, ""), word) {
			t.Errorf("%q is none of theirs: %s", word, text)
		}
	}
	if none := whole.For("ten_acme", func(string) bool { return false }); len(none.Moves)+len(none.Services)+len(none.Starts)+len(none.NoRoom) > 0 {
		t.Fatalf("of a deployment that the key does not see: %+v", none)
	}
}

func TestWhichHosts(t *testing.T) {
	r := miosa.Resources{VCPUs: 1, MemoryMB: 512, DiskMB: 1024}
	gone := host("h4", "eu", "c", r)
	gone.Liveness = miosa.Lost
	loaded := cell.Loaded{Nouns: []any{host("h1", "eu", "a", r), host("h2", "us", "a", r), host("h3", "us", "b", r), gone}}
	for _, c := range []struct {
		err  error
		want miosa.Code
	}{
		{errOf(plan.LoseHost(loaded, "h1")), ""}, {errOf(plan.LoseHost(loaded, "host_h1")), ""}, {errOf(plan.LoseHost(loaded, "h9")), miosa.NotFound},
		{errOf(plan.LoseHost(loaded, "h4")), miosa.Conflict}, {errOf(plan.LoseZone(loaded, "b")), ""}, {errOf(plan.LoseZone(loaded, "us/a")), ""},
		{errOf(plan.LoseZone(loaded, "a")), miosa.Invalid}, {errOf(plan.LoseZone(loaded, "z")), miosa.NotFound}, {errOf(plan.LoseZone(loaded, "c")), miosa.Conflict},
		{errOf(plan.Drain(loaded, "h2")), ""}, {errOf(plan.Drain(loaded, "")), miosa.NotFound},
	} {
		if got := miosa.CodeOf(c.err); got != c.want {
			t.Errorf("%v, want %q", c.err, c.want)
		}
	}
}

func errOf(_ plan.Change, err error) error { return err }
