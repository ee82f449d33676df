package cell_test

import (
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/routing"
)

// A control plane that has just begun does not know which routers there are: one
// that is cut off may send requests to what drains for as long as a router may be
// silent at any other time.
func TestARouterThatWasNotHeardMayHoldWhatDrains(t *testing.T) {
	s := newStage(t)
	began := s.now
	s.m = cell.NewMachine(cell.Config{RouterWindow: cell.RouterWindow, Hosts: func(miosa.Tenant, miosa.Deployment, miosa.Environment) []string { return []string{"app.test"} }})
	drains := s.all["ri_first0"]
	drains.Goal, drains.GoalReason = miosa.GoalDrain, "scaled down"
	s.service.DesiredReplicas = 1
	s.all[drains.ID] = drains
	nouns := []any{
		miosa.Tenant{ID: tenant, Slug: "t"},
		miosa.Host{ID: hostID, Liveness: miosa.Alive, Schedulable: true, Overcommit: 4, Capacity: miosa.Resources{VCPUs: 16, MemoryMB: 4096, DiskMB: 65536}},
		miosa.Deployment{ID: deployment, TenantID: tenant, State: miosa.DeploymentRunning},
		miosa.Environment{ID: environment, TenantID: tenant, DeploymentID: deployment, Name: miosa.Production, ActiveVersionID: "ver_1"},
		miosa.Version{ID: "ver_1", TenantID: tenant, DeploymentID: deployment, EnvironmentID: environment, Number: 1, State: miosa.VersionReady, Services: []miosa.ServiceSpec{spec()}},
		s.service, drains, s.healthy(drains.ID), s.all["ri_first1"], s.healthy("ri_first1"),
	}
	s.carryOut(s.m.Handle(s.now, cell.Loaded{Revision: s.revision, Nouns: nouns}))
	for s.all[drains.ID].Goal == miosa.GoalDrain && s.now.Sub(began) < time.Minute {
		s.now = s.now.Add(500 * time.Millisecond)
		// Of two routers one is heard, and holds nothing.
		s.carryOut(s.m.Handle(s.now, cell.Reported{Report: routing.Report{RouterID: "router", Generation: 1 << 40, At: s.now}}))
		s.carryOut(s.m.Handle(s.now, cell.Tick{}))
	}
	if after := s.now.Sub(began); after < cell.RouterTimeout || after > cell.RouterTimeout+time.Second {
		t.Errorf("it is released after %s, by a control plane that gives a router up after %s", after, cell.RouterTimeout)
	}
}
