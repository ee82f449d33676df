package agent

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/lifecycle"
	"github.com/miosa/miosa/metrics"
)

// instanceLabels are those of every figure of one instance: IDs. A series is
// there for as long as the instance is on this host. Prometheus itself gives a
// label "instance" to all that it scrapes, so ours is not called that.
var instanceLabels = []string{"tenant", "deployment", "service", "runtime_instance"}

func instanceDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("miosa_instance_"+name, help, instanceLabels, nil)
}

// instanceSeries are what Prometheus is given of the sampled figures.
var instanceSeries = []struct {
	figure metrics.Figure
	desc   *prometheus.Desc
	kind   prometheus.ValueType
	scale  float64
}{
	{metrics.CPU, instanceDesc("cpu_seconds_total", "Processor time of the VM's process, since its boot; counted on the host."), prometheus.CounterValue, 1e-3},
	{metrics.Memory, instanceDesc("memory_resident_bytes", "Memory of the VM's process that is resident on the host."), prometheus.GaugeValue, 1 << 10},
	{metrics.MemoryUsed, instanceDesc("memory_used_bytes", "Memory in use inside the guest, by its own word."), prometheus.GaugeValue, 1 << 10},
	{metrics.Disk, instanceDesc("disk_allocated_bytes", "What the ephemeral disk takes up on the host."), prometheus.GaugeValue, 1 << 10},
	{metrics.DiskUsed, instanceDesc("disk_used_bytes", "What of the ephemeral disk is in use, by the guest's own word."), prometheus.GaugeValue, 1 << 10},
	{metrics.NetworkReceived, instanceDesc("network_received_bytes_total", "Bytes that the instance received; counted on the host."), prometheus.CounterValue, 1},
	{metrics.NetworkSent, instanceDesc("network_sent_bytes_total", "Bytes that the instance sent; counted on the host."), prometheus.CounterValue, 1},
	{metrics.Restarts, instanceDesc("restarts_total", "Boots after the first."), prometheus.CounterValue, 1},
	{metrics.Probe, instanceDesc("probe_seconds", "How long the last successful health check took."), prometheus.GaugeValue, 1e-6},
}

var (
	healthyDesc     = instanceDesc("healthy", "1 while the instance is healthy, else 0.")
	cpuLimitDesc    = instanceDesc("cpu_limit_cores", "Processors the instance was given.")
	memoryLimitDesc = instanceDesc("memory_limit_bytes", "Memory the instance was given.")
	diskLimitDesc   = instanceDesc("disk_limit_bytes", "Size of the ephemeral disk.")

	hereDesc = prometheus.NewDesc("miosa_agent_instances", "Instances on this host, by state.", []string{"state"}, nil)
	// What a host has, and what of it is promised to instances.
	cpusDesc           = prometheus.NewDesc("miosa_agent_cpus", "Processors of this host.", nil, nil)
	cpusPromisedDesc   = prometheus.NewDesc("miosa_agent_promised_cpus", "Processors promised to the instances on this host; more than it has, by the overcommit.", nil, nil)
	memoryDesc         = prometheus.NewDesc("miosa_agent_memory_bytes", "Memory of this host that may be promised to instances.", nil, nil)
	memoryPromisedDesc = prometheus.NewDesc("miosa_agent_promised_memory_bytes", "Memory promised to the instances on this host.", nil, nil)
)

// counters count what happens on this host.
type counters struct {
	boots         prometheus.Counter
	bootSeconds   prometheus.Histogram
	failures      *prometheus.CounterVec
	probeSeconds  prometheus.Histogram
	probeFailures prometheus.Counter
	sampleSeconds prometheus.Gauge
}

func newCounters() *counters {
	return &counters{
		boots: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "miosa_agent_boots_total", Help: "Boots of instances that were begun.",
		}),
		bootSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "miosa_agent_boot_seconds", Help: "From the beginning of a boot to healthy, of those that came so far.",
			Buckets: []float64{0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300},
		}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "miosa_agent_failures_total", Help: "Boots and apps that ended as they should not, by kind.",
		}, []string{"kind"}),
		probeSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "miosa_agent_probe_seconds", Help: "How long successful health checks took.",
			Buckets: []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5},
		}),
		probeFailures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "miosa_agent_probe_failures_total", Help: "Health checks that failed, those during a boot too.",
		}),
		sampleSeconds: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "miosa_agent_sample_seconds", Help: "How long the last pass over all instances took.",
		}),
	}
}

func (c *counters) all() []prometheus.Collector {
	return []prometheus.Collector{c.boots, c.bootSeconds, c.failures, c.probeSeconds, c.probeFailures, c.sampleSeconds}
}

// stepped counts what one step of an instance's machine brought.
func (c *counters) stepped(was, is miosa.Observation, effects []lifecycle.Effect) {
	for _, e := range effects {
		if _, ok := e.(lifecycle.Boot); ok {
			c.boots.Inc()
		}
	}
	if is.Failure.Kind != miosa.FailureNone && is.Failure.Kind != miosa.FailureCompleted && !is.Failure.At.Equal(was.Failure.At) {
		c.failures.WithLabelValues(string(is.Failure.Kind)).Inc()
	}
	if was.State == miosa.Starting && is.State == miosa.Healthy && !is.StartedAt.IsZero() {
		c.bootSeconds.Observe(max(is.HealthyAt.Sub(is.StartedAt).Seconds(), 0))
	}
}

var _ prometheus.Collector = (*Agent)(nil)

// Describe and Collect make the agent a collector for a registry.
func (a *Agent) Describe(out chan<- *prometheus.Desc) {
	for _, s := range instanceSeries {
		out <- s.desc
	}
	for _, d := range []*prometheus.Desc{
		healthyDesc, cpuLimitDesc, memoryLimitDesc, diskLimitDesc, hereDesc, cpusDesc, cpusPromisedDesc, memoryDesc, memoryPromisedDesc,
	} {
		out <- d
	}
	for _, c := range a.counters.all() {
		c.Describe(out)
	}
}

// Collect gives the figures of the last pass, of the instances that are here.
func (a *Agent) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	states := map[miosa.InstanceState]int{
		miosa.Pending: 0, miosa.Starting: 0, miosa.Healthy: 0, miosa.Unhealthy: 0, miosa.Stopping: 0,
	}
	promised := miosa.Resources{}
	for _, x := range a.present() {
		f := &x.figures
		f.mu.Lock()
		state, values := f.state, f.last
		f.mu.Unlock()
		if state == "" {
			state = miosa.Pending
		}
		if state.Terminal() {
			continue
		}
		states[state]++
		promised.VCPUs += f.limits.VCPUs
		promised.MemoryMB += f.limits.MemoryMB
		labels := []string{f.owner.TenantID, f.owner.DeploymentID, f.owner.ServiceID, x.id}
		for _, s := range instanceSeries {
			if n, ok := values.Get(s.figure); ok {
				out <- prometheus.MustNewConstMetric(s.desc, s.kind, float64(n)*s.scale, labels...)
			}
		}
		healthy := 0.0
		if state == miosa.Healthy {
			healthy = 1
		}
		gauge(healthyDesc, healthy, labels...)
		gauge(cpuLimitDesc, float64(f.limits.VCPUs), labels...)
		gauge(memoryLimitDesc, float64(f.limits.MemoryMB)*(1<<20), labels...)
		gauge(diskLimitDesc, float64(f.limits.DiskMB)*(1<<20), labels...)
	}
	for state, n := range states {
		gauge(hereDesc, float64(n), string(state))
	}
	gauge(cpusDesc, float64(a.cfg.Host.Capacity.VCPUs))
	gauge(cpusPromisedDesc, float64(promised.VCPUs))
	gauge(memoryDesc, float64(a.cfg.Host.Capacity.MemoryMB)*(1<<20))
	gauge(memoryPromisedDesc, float64(promised.MemoryMB)*(1<<20))
	for _, c := range a.counters.all() {
		c.Collect(out)
	}
}
