package control

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/miosa/miosa"
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
func (c *Control) count(e Commit) {
	for _, put := range e.Put {
		if r, ok := put.(miosa.Rollout); ok && r.Step.Terminal() {
			c.rollouts.WithLabelValues(string(r.Kind), string(r.Step)).Inc()
		}
	}
}

// census is how many there are of what.
type census struct {
	instances   map[miosa.InstanceState]int
	live        int
	deployments [][4]string // labels of deploymentInfoDesc
}

// census counts what the machine knows.
func (m *Machine) census() census {
	c := census{instances: map[miosa.InstanceState]int{
		miosa.Pending: 0, miosa.Starting: 0, miosa.Healthy: 0, miosa.Unhealthy: 0, miosa.Stopping: 0,
	}}
	for _, i := range m.w.instances {
		if s := i.State(); !s.Terminal() {
			c.instances[s]++
		}
	}
	for _, r := range m.w.rollouts {
		if r.Live() {
			c.live++
		}
	}
	for _, d := range m.w.deployments {
		if d.DeletedAt.IsZero() {
			c.deployments = append(c.deployments, [4]string{d.TenantID, d.ID, m.w.tenants[d.TenantID].Slug, d.Slug})
		}
	}
	return c
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
	answer := make(chan census, 1)
	select {
	case c.asks <- answer:
	case <-ctx.Done():
		return
	}
	now := <-answer
	gauge := func(d *prometheus.Desc, v int, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	for state, n := range now.instances {
		gauge(instancesDesc, n, string(state))
	}
	gauge(liveRolloutsDesc, now.live)
	gauge(deploymentsDesc, len(now.deployments))
	for _, labels := range now.deployments {
		gauge(deploymentInfoDesc, 1, labels[:]...)
	}
}
