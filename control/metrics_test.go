package control

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/cell"
)

// newScraped is a Control whose loop is only the answers to who scrapes.
func newScraped(t *testing.T, nouns ...any) (*Control, *prometheus.Registry) {
	t.Helper()
	c := &Control{asks: make(chan func(*cell.Machine)), rollouts: newRolloutCounter(), log: slog.New(slog.DiscardHandler)}
	m := cell.NewMachine(cell.Config{Hosts: func(miosa.Tenant, miosa.Deployment, miosa.Environment) []string { return nil }})
	m.Handle(time.Unix(1_800_000_000, 0), cell.Loaded{Nouns: nouns, Revision: 1})
	go func() {
		for {
			select {
			case <-t.Context().Done():
				return
			case ask := <-c.asks:
				ask(m)
			}
		}
	}()
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(c); err != nil {
		t.Fatal(err)
	}
	return c, registry
}

func TestMetrics(t *testing.T) {
	c, registry := newScraped(t,
		miosa.Tenant{ID: "ten_1", Slug: "acme"},
		miosa.Deployment{ID: "dep_1", TenantID: "ten_1", Slug: "shop"},
		miosa.Deployment{ID: "dep_2", TenantID: "ten_1", Slug: "gone", DeletedAt: time.Unix(1, 0)},
		miosa.Instance{ID: "ri_1", TenantID: "ten_1", DeploymentID: "dep_1", Goal: miosa.GoalRun},
		miosa.Instance{ID: "ri_2", TenantID: "ten_1", DeploymentID: "dep_1", Goal: miosa.GoalRun, HostID: "host_1"},
		miosa.Observation{InstanceID: "ri_2", TenantID: "ten_1", DeploymentID: "dep_1", HostID: "host_1", State: miosa.Healthy, Seq: 1},
		miosa.Instance{ID: "ri_3", TenantID: "ten_1", DeploymentID: "dep_1", Goal: miosa.GoalStop, HostID: "host_1"},
		miosa.Observation{InstanceID: "ri_3", TenantID: "ten_1", DeploymentID: "dep_1", HostID: "host_1", State: miosa.Stopped, Seq: 1},
	)
	rollout := miosa.Rollout{ID: "rol_1", Kind: miosa.RolloutPublish, Step: miosa.StepFlipping}
	c.count(cell.Commit{Put: []any{rollout, miosa.Version{}}})
	rollout.Step = miosa.StepDone
	c.count(cell.Commit{Put: []any{rollout}})
	rollout.Step = miosa.StepFailed
	c.count(cell.Commit{Put: []any{rollout, rollout}})
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	if err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP miosa_control_deployments Deployments.
# TYPE miosa_control_deployments gauge
miosa_control_deployments 1
# HELP miosa_control_instances Instances of the whole platform that have not ended, by state; pending ones wait for a host or their next boot.
# TYPE miosa_control_instances gauge
miosa_control_instances{state="healthy"} 1
miosa_control_instances{state="pending"} 1
miosa_control_instances{state="starting"} 0
miosa_control_instances{state="stopping"} 0
miosa_control_instances{state="unhealthy"} 0
# HELP miosa_control_live_rollouts Rollouts under way whose target is not live yet.
# TYPE miosa_control_live_rollouts gauge
miosa_control_live_rollouts 0
# HELP miosa_control_rollouts_total Rollouts that came to their end, by kind and how: done, failed, cancelled.
# TYPE miosa_control_rollouts_total counter
miosa_control_rollouts_total{kind="publish",result="done"} 1
miosa_control_rollouts_total{kind="publish",result="failed"} 2
# HELP miosa_deployment_info Always 1: the names that belong to a deployment's IDs.
# TYPE miosa_deployment_info gauge
miosa_deployment_info{deployment="dep_1",name="shop",tenant="ten_1",tenant_slug="acme"} 1
`)); err != nil {
		t.Error(err)
	}
}
