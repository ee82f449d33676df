package cell_test

import (
	"errors"
	"fmt"
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
