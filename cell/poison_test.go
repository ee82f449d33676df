package cell_test

import (
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/cell"
)

// Records that no decision can be made of cost their own environment, with an
// event, and nobody else's. Once they are in order again it is decided.
func TestPoisonousRecords(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	poisonous := true
	m := cell.NewMachine(cell.Config{Hosts: func(_ miosa.Tenant, d miosa.Deployment, _ miosa.Environment) []string {
		if poisonous && d.ID == "dep_bad" {
			panic("no name for it")
		}
		return []string{d.ID + ".example"}
	}})
	nouns := []any{miosa.Host{ID: hostID, Liveness: miosa.Alive, Schedulable: true, Capacity: miosa.Resources{VCPUs: 8, MemoryMB: 8192, DiskMB: 8192}}}
	for _, name := range []string{"bad", "good"} {
		dep, env, svc := "dep_"+name, "env_"+name, "svc_"+name
		nouns = append(nouns,
			miosa.Deployment{ID: dep, TenantID: tenant}, miosa.Environment{ID: env, TenantID: tenant, DeploymentID: dep, Name: miosa.Production, ActiveVersionID: "ver_" + name},
			miosa.Service{ID: svc, TenantID: tenant, DeploymentID: dep, EnvironmentID: env, Name: "web", DesiredReplicas: 1},
			miosa.Version{ID: "ver_" + name, TenantID: tenant, DeploymentID: dep, EnvironmentID: env, State: miosa.VersionReady, Services: []miosa.ServiceSpec{{ServiceID: svc, Name: "web", Port: 80}}},
		)
	}
	names := func(effects []cell.Effect) (routed []string, events []miosa.Event) {
		for _, effect := range effects {
			switch e := effect.(type) {
			case cell.Publish:
				for name := range e.Update.Routes {
					routed = append(routed, name)
				}
			case cell.SaveHost:
				events = append(events, e.Events...)
			}
		}
		return routed, events
	}
	routed, events := names(m.Handle(now, cell.Loaded{Revision: 1, Nouns: nouns}))
	if len(routed) != 1 || routed[0] != "dep_good.example" {
		t.Errorf("routed %q", routed)
	}
	if len(events) != 1 || events[0].Type != "environment.undecided" || events[0].DeploymentID != "dep_bad" || !strings.Contains(events[0].Details["fault"], "no name for it") {
		t.Errorf("%+v", events)
	}
	m.Handle(now, cell.HostSaved{})
	again := cell.Changed{Revision: 2, Put: []any{miosa.Deployment{ID: "dep_bad", TenantID: tenant}}}
	if _, events := names(m.Handle(now, again)); len(events) > 0 {
		t.Errorf("told twice: %+v", events)
	}
	poisonous = false
	again.Revision = 3
	if routed, _ := names(m.Handle(now, again)); len(routed) != 1 || routed[0] != "dep_bad.example" {
		t.Errorf("mended, and routed %q", routed)
	}
}

// So do they where a rollout of theirs waits for routers; and while it cannot be
// worked out where requests go, nothing else is decided.
func TestPoisonousRecordsOfARollout(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	poisonous := true
	m := cell.NewMachine(cell.Config{Hosts: func(_ miosa.Tenant, d miosa.Deployment, _ miosa.Environment) []string {
		if poisonous {
			panic("no name for it")
		}
		return []string{d.ID + ".example"}
	}})
	service := miosa.Service{ID: "svc_1", TenantID: tenant, DeploymentID: "dep_1", EnvironmentID: "env_1", Name: "web", DesiredReplicas: 1}
	m.Handle(now, cell.Loaded{Revision: 1, Nouns: []any{
		miosa.Host{ID: hostID, Liveness: miosa.Alive, Schedulable: true, Overcommit: 4, Capacity: miosa.Resources{VCPUs: 8, MemoryMB: 8192, DiskMB: 8192}},
		miosa.Deployment{ID: "dep_1", TenantID: tenant},
		miosa.Environment{ID: "env_1", TenantID: tenant, DeploymentID: "dep_1", Name: miosa.Production},
		service,
		miosa.Version{ID: "ver_1", TenantID: tenant, DeploymentID: "dep_1", EnvironmentID: "env_1", State: miosa.VersionCreated, Services: []miosa.ServiceSpec{{ServiceID: "svc_1", Name: "web", Port: 80}}},
	}})
	commits := func(ev cell.Event) (n int) {
		for _, effect := range m.Handle(now, ev) {
			if _, ok := effect.(cell.Commit); ok {
				n++
			}
		}
		return n
	}
	flipping := miosa.Rollout{ID: "rol_1", TenantID: tenant, DeploymentID: "dep_1", EnvironmentID: "env_1", Kind: miosa.RolloutPublish, TargetID: "ver_1", Promote: true, Step: miosa.StepFlipping, StepSince: now, Deadline: now.Add(time.Hour), CreatedAt: now}
	if n := commits(cell.Changed{Revision: 2, Put: []any{flipping}}); n > 0 {
		t.Errorf("%d decisions about what has no routes", n)
	}
	now = now.Add(2 * time.Minute)
	if n := commits(cell.Tick{}); n > 0 {
		t.Errorf("%d decisions later", n)
	}
	poisonous = false
	now = now.Add(2 * time.Minute)
	if n := commits(cell.Tick{}); n != 1 {
		t.Errorf("it is in order again, and %d decisions were made by the next minute", n)
	}
}
