package cell_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/cell"
)

// twoForOne are two deployments' records, stopped, and a host with room for one
// instance.
func twoForOne() (nouns []any, services []miosa.Service) {
	size := miosa.Resources{VCPUs: 1, MemoryMB: 512, DiskMB: 1024}
	nouns = []any{
		miosa.Tenant{ID: tenant, Slug: "t"},
		miosa.Host{ID: hostID, Liveness: miosa.Alive, Schedulable: true, Capacity: size},
	}
	for n := range 2 {
		id := func(prefix string) string { return fmt.Sprint(prefix, "_", n) }
		services = append(services, miosa.Service{ID: id("svc"), TenantID: tenant, DeploymentID: id("dep"), EnvironmentID: id("env"), Name: "web"})
		nouns = append(nouns,
			miosa.Deployment{ID: id("dep"), TenantID: tenant, State: miosa.DeploymentStopped},
			miosa.Environment{ID: id("env"), TenantID: tenant, DeploymentID: id("dep"), ActiveVersionID: id("ver")},
			miosa.Version{
				ID: id("ver"), TenantID: tenant, DeploymentID: id("dep"), EnvironmentID: id("env"), State: miosa.VersionReady,
				Services: []miosa.ServiceSpec{{ServiceID: id("svc"), Name: "web", Port: 80, Resources: size}},
			}, services[n])
	}
	return nouns, services
}

func noHosts(miosa.Tenant, miosa.Deployment, miosa.Environment) []string { return nil }

// What was placed by a commit that is not answered yet counts: another
// environment decided meanwhile is not promised the same room.
func TestRoomIsPromisedOnce(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	nouns, services := twoForOne()
	m := cell.NewMachine(cell.Config{Hosts: noHosts})
	m.Handle(now, cell.Loaded{Revision: 1, Nouns: nouns})
	var hosts []string
	for n := range services {
		services[n].DesiredReplicas = 1
		for _, effect := range m.Handle(now, cell.Changed{Revision: int64(n + 2), Put: []any{services[n]}}) {
			if c, ok := effect.(cell.Commit); ok {
				for _, i := range c.Create {
					hosts = append(hosts, i.HostID)
					if i.HostID == "" && len(i.Reasons) == 0 {
						t.Error("no host, and no reason")
					}
				}
			}
		}
	}
	if len(hosts) != 2 || hosts[0] != hostID || hosts[1] != "" {
		t.Errorf("placed on %q; want the first on the host and the second nowhere", hosts)
	}
}

// oneCommit is the commit among the effects, if there is one.
func oneCommit(t *testing.T, effects []cell.Effect) (cell.Commit, bool) {
	t.Helper()
	var found []cell.Commit
	for _, effect := range effects {
		if c, ok := effect.(cell.Commit); ok {
			found = append(found, c)
		}
	}
	if len(found) > 1 {
		t.Fatalf("%d commits at once", len(found))
	}
	if len(found) == 0 {
		return cell.Commit{}, false
	}
	return found[0], true
}

// What a commit placed whose answer was lost counts until it is known what
// became of it, however late the watch is.
func TestRoomIsPromisedOnceWhenAnAnswerIsLost(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	nouns, services := twoForOne()
	m := cell.NewMachine(cell.Config{Hosts: noHosts})
	m.Handle(now, cell.Loaded{Revision: 1, Nouns: nouns})
	scale := func(n int, revision int64) cell.Commit {
		services[n].DesiredReplicas = 1
		c, _ := oneCommit(t, m.Handle(now, cell.Changed{Revision: revision, Put: []any{services[n]}}))
		if len(c.Create) != 1 {
			t.Fatalf("scaled by %+v", c)
		}
		return c
	}
	lost := scale(0, 2)
	if lost.Create[0].HostID != hostID {
		t.Fatalf("the first is not placed: %+v", lost.Create[0])
	}
	// It is carried out, as revision 4, but neither its answer nor the watch's
	// news of it come.
	m.Handle(now, lost.Unanswered(errors.New("the answer was lost")))
	var ask cell.Commit
	for range 2 {
		now = m.Wake()
		ask, _ = oneCommit(t, m.Handle(now, cell.Tick{}))
		if ask.Environment != lost.Environment {
			t.Fatalf("it asks by %+v", ask)
		}
		m.Handle(now, ask.Conflicted()) // revision 4 is not seen yet
	}
	other := scale(1, 3)
	if other.Create[0].HostID != "" {
		t.Fatal("another environment is promised the same room")
	}
	m.Handle(now, other.Done(5))

	created, waits := lost.Create[0], other.Create[0]
	created.ID, waits.ID = "ri_0", "ri_1"
	m.Handle(now, cell.Changed{Revision: 4, Put: []any{created}})
	m.Handle(now, cell.Changed{Revision: 5, Put: []any{waits}})
	now = m.Wake()
	ask, _ = oneCommit(t, m.Handle(now, cell.Tick{}))
	if ask.Environment != lost.Environment || ask.Seen != 5 || len(ask.Create)+len(ask.Put) != 0 {
		t.Fatalf("it asks by %+v", ask)
	}
	if c, ok := oneCommit(t, m.Handle(now, ask.Done(6))); ok {
		t.Fatalf("before the watch has come so far it does %+v", c)
	}
	if c, ok := oneCommit(t, m.Handle(now, cell.Changed{Revision: 6})); ok && len(c.Create)+len(c.Placed) != 0 {
		t.Fatalf("the room is taken, yet it does %+v", c)
	}
}

// A commit that was lost for good gives its room back, to the environment itself
// first.
func TestRoomComesBackWhenACommitIsLost(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	nouns, services := twoForOne()
	m := cell.NewMachine(cell.Config{Hosts: noHosts})
	m.Handle(now, cell.Loaded{Revision: 1, Nouns: nouns})
	services[0].DesiredReplicas = 1
	lost, ok := oneCommit(t, m.Handle(now, cell.Changed{Revision: 2, Put: []any{services[0]}}))
	if !ok {
		t.Fatal("nothing is placed")
	}
	m.Handle(now, lost.Unanswered(errors.New("the store is away")))
	now = m.Wake()
	ask, ok := oneCommit(t, m.Handle(now, cell.Tick{}))
	if !ok || len(ask.Create) != 0 {
		t.Fatalf("it asks by %+v", ask)
	}
	m.Handle(now, ask.Unanswered(errors.New("the store is still away")))
	now = m.Wake()
	if ask, ok = oneCommit(t, m.Handle(now, cell.Tick{})); !ok || len(ask.Create) != 0 {
		t.Fatalf("it asks by %+v", ask)
	}
	m.Handle(now, cell.Changed{Revision: 3})
	again, ok := oneCommit(t, m.Handle(now, ask.Done(3)))
	if !ok || len(again.Create) != 1 || again.Create[0].HostID != hostID {
		t.Fatalf("it is not placed again: %+v", again)
	}
}

// A deployment is not purged while a commit may still make an instance of it,
// whichever of its environments it is of.
func TestAPurgeWaitsForADoubt(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	nouns, services := twoForOne()
	m := cell.NewMachine(cell.Config{Hosts: noHosts})
	m.Handle(now, cell.Loaded{Revision: 1, Nouns: append(nouns, miosa.Environment{ID: "env_9", TenantID: tenant, DeploymentID: "dep_0"})})
	services[0].DesiredReplicas = 1
	lost, ok := oneCommit(t, m.Handle(now, cell.Changed{Revision: 2, Put: []any{services[0]}}))
	if !ok {
		t.Fatal("nothing is placed")
	}
	m.Handle(now, lost.Unanswered(errors.New("the answer was lost")))
	purged := func(effects []cell.Effect) (n int) {
		for _, effect := range effects {
			if _, ok := effect.(cell.Purge); ok {
				n++
			}
		}
		return n
	}
	deleted := miosa.Deployment{ID: "dep_0", TenantID: tenant, State: miosa.DeploymentRunning, DeletedAt: now}
	if purged(m.Handle(now, cell.Changed{Revision: 3, Put: []any{deleted}})) != 0 {
		t.Fatal("it is purged at once")
	}
	now = m.Wake()
	ask, ok := oneCommit(t, m.Handle(now, cell.Tick{}))
	if !ok {
		t.Fatal("nobody asks")
	}
	if purged(m.Handle(now, ask.Done(4))) != 0 {
		t.Fatal("it is purged before the watch has come so far")
	}
	if n := purged(m.Handle(now, cell.Changed{Revision: 4})); n != 1 {
		t.Fatalf("it is purged %d times", n)
	}
}

// placed is where a machine that is given the hosts, and a service of as many
// replicas as it wants, puts its instances; "": nowhere, and why. more are records
// of the service's instances, as of version ver_0.
func placed(t *testing.T, hosts []miosa.Host, svc miosa.Service, more ...any) (on []string, reasons []string) {
	t.Helper()
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	svc.ID, svc.TenantID, svc.DeploymentID, svc.EnvironmentID, svc.Name = "svc_0", tenant, "dep_0", "env_0", "web"
	nouns := []any{
		miosa.Tenant{ID: tenant, Slug: "t"}, miosa.Deployment{ID: "dep_0", TenantID: tenant, State: miosa.DeploymentStopped},
		miosa.Environment{ID: "env_0", TenantID: tenant, DeploymentID: "dep_0", ActiveVersionID: "ver_0"},
		miosa.Version{
			ID: "ver_0", TenantID: tenant, DeploymentID: "dep_0", EnvironmentID: "env_0", State: miosa.VersionReady,
			Services: []miosa.ServiceSpec{{ServiceID: "svc_0", Name: "web", Port: 80, Resources: miosa.Resources{VCPUs: 1, MemoryMB: 512, DiskMB: 1024}}},
		}, svc,
	}
	for n, h := range hosts {
		h.Liveness, h.Schedulable = miosa.Alive, true
		// The first has most room: where nothing else counts it is taken.
		h.Capacity = miosa.Resources{VCPUs: 64, MemoryMB: 65536 >> n, DiskMB: 1 << 20}
		nouns = append(nouns, h)
	}
	c, _ := oneCommit(t, cell.NewMachine(cell.Config{Hosts: noHosts}).Handle(now, cell.Loaded{Revision: 1, Nouns: append(nouns, more...)}))
	for _, i := range c.Create {
		on = append(on, i.HostID)
		reasons = append(reasons, i.Reasons...)
	}
	return on, reasons
}

// Where a service may run is asked of the schedule, and a host where its slot
// could not be started before is not the first choice.
func TestAServiceSaysWhereItMayRun(t *testing.T) {
	hosts := []miosa.Host{{ID: "host_a"}, {ID: "host_b", Labels: map[string]string{"disk": "nvme", "rack": "1"}}}
	failed := func(kind miosa.FailureKind, host string, slot int, wellSince time.Duration) []any {
		at := time.Date(2026, 1, 1, 11, 0, 0, 0, time.UTC)
		i := miosa.Instance{
			ID: "ri_" + host, TenantID: tenant, DeploymentID: "dep_0", EnvironmentID: "env_0", ServiceID: "svc_0", VersionID: "ver_0",
			Slot: slot, Goal: miosa.GoalRun, HostID: host, Generation: 1,
		}
		o := miosa.Observation{InstanceID: i.ID, TenantID: tenant, DeploymentID: "dep_0", HostID: host, Seq: 1, State: miosa.Stopped, Failure: miosa.Failure{Kind: kind, At: at}}
		if wellSince != 0 {
			o.HealthyAt = at.Add(wellSince)
		}
		return []any{i, o}
	}
	for _, c := range []struct {
		name string
		svc  miosa.Service
		more []any
		on   string
		says string
	}{
		{"whatever", miosa.Service{DesiredReplicas: 1}, nil, "[host_a]", ""},
		{"by a label", miosa.Service{DesiredReplicas: 1, Labels: map[string]string{"disk": "nvme"}}, nil, "[host_b]", ""},
		{"by labels", miosa.Service{DesiredReplicas: 1, Labels: map[string]string{"disk": "nvme", "rack": "2"}}, nil, "[]", "rack=2"},
		{"together", miosa.Service{DesiredReplicas: 3}, nil, "[host_a host_b host_a]", ""},
		{"apart", miosa.Service{DesiredReplicas: 3, Apart: true}, nil, "[host_a host_b ]", "with a replica already"},
		{"where it could not be started", miosa.Service{DesiredReplicas: 1}, failed(miosa.FailureHost, "host_a", 0, 0), "[host_b]", ""},
		{"where it did not boot", miosa.Service{DesiredReplicas: 1}, failed(miosa.FailureBoot, "host_a", 0, 0), "[host_b]", ""},
		{"where it could not be started, and was well since", miosa.Service{DesiredReplicas: 1}, failed(miosa.FailureHost, "host_a", 0, time.Minute), "[host_a]", ""},
		{"where its app failed", miosa.Service{DesiredReplicas: 1}, failed(miosa.FailureExit, "host_a", 0, 0), "[host_a]", ""},
		{"where another slot failed", miosa.Service{DesiredReplicas: 1}, failed(miosa.FailureHost, "host_a", 1, 0), "[host_a]", ""},
		{"where it failed, and nowhere else", miosa.Service{DesiredReplicas: 1, Labels: map[string]string{"disk": "nvme"}}, failed(miosa.FailureHost, "host_b", 0, 0), "[host_b]", ""},
	} {
		on, reasons := placed(t, hosts, c.svc, c.more...)
		if fmt.Sprint(on) != c.on || !strings.Contains(strings.Join(reasons, "; "), c.says) {
			t.Errorf("%s: on %q (%q), want %s", c.name, on, reasons, c.on)
		}
	}
}
