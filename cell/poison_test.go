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
