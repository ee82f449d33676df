package control

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/cell"
)

var (
	instancesDesc = prometheus.NewDesc("miosa_control_instances",
		"Instances of the whole platform that have not ended, by state; pending ones wait for a host or their next boot.", []string{"state"}, nil)
	liveRolloutsDesc = prometheus.NewDesc("miosa_control_live_rollouts",
		"Rollouts under way whose target is not live yet.", nil, nil)
	deploymentsDesc = prometheus.NewDesc("miosa_control_deployments",
		"Deployments.", nil, nil)
	deploymentInfoDesc = prometheus.NewDesc("miosa_deployment_info",
		"Always 1: the names that belong to a deployment's IDs.", []string{"tenant", "deployment", "tenant_slug", "name"}, nil)
)

// newRolloutCounter counts how rollouts end.
func newRolloutCounter() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "miosa_control_rollouts_total", Help: "Rollouts that came to their end, by kind and how: done, failed, cancelled.",
	}, []string{"kind", "result"})
}

// count takes a commit that was carried out.
func (c *Control) count(e cell.Commit) {
	for _, put := range e.Put {
		if r, ok := put.(miosa.Rollout); ok && r.Step.Terminal() {
			c.rollouts.WithLabelValues(string(r.Kind), string(r.Step)).Inc()
		}
	}
}

var _ prometheus.Collector = (*Control)(nil)

// Describe and Collect make control a collector for a registry.
func (c *Control) Describe(out chan<- *prometheus.Desc) {
	out <- instancesDesc
	out <- liveRolloutsDesc
	out <- deploymentsDesc
	out <- deploymentInfoDesc
	c.rollouts.Describe(out)
}

// censusWait bounds how long a scrape waits for the loop.
const censusWait = 2 * time.Second

// Collect asks the loop for its figures; one that does not run has none but
// its counters.
func (c *Control) Collect(out chan<- prometheus.Metric) {
	c.rollouts.Collect(out)
	ctx, cancel := context.WithTimeout(context.Background(), censusWait)
	defer cancel()
	var now cell.Census
	if c.ask(ctx, func(m *cell.Machine) { now = m.Census() }) != nil {
		return
	}
	gauge := func(d *prometheus.Desc, v int, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	for state, n := range now.Instances {
		gauge(instancesDesc, n, string(state))
	}
	gauge(liveRolloutsDesc, now.LiveRollouts)
	gauge(deploymentsDesc, len(now.Deployments))
	for _, d := range now.Deployments {
		gauge(deploymentInfoDesc, 1, d.Tenant, d.Deployment, d.TenantSlug, d.Slug)
	}
}
