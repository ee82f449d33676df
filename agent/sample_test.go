package agent_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/metrics"
	"github.com/miosa/miosa/network"
)

// counted is a network that counts.
type counted struct{ wires }

func (counted) Traffic(instance string) (network.Traffic, error) {
	if instance != instanceID {
		return network.Traffic{}, nil
	}
	return network.Traffic{SentBytes: 1000, ReceivedBytes: 2000}, nil
}

// taken are the passes that an agent hands over.
type taken chan metrics.Pass

func (c taken) Ship(ctx context.Context, hostID string, pass metrics.Pass) error {
	if hostID != "host_1" {
		return miosa.Errorf(miosa.Forbidden, "host %s", hostID)
	}
	select {
	case c <- pass:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func TestInstancesAreSampled(t *testing.T) {
	r := newRig(t, "sim serve log=1")
	r.counts, r.figures = true, make(taken)
	stop := r.start()
	r.control.until(t, miosa.Healthy)
	check := func(v metrics.Values, restarts int64) {
		t.Helper()
		for figure, want := range map[metrics.Figure]int64{
			metrics.Memory: 128 << 10, metrics.NetworkReceived: 2000, metrics.NetworkSent: 1000, metrics.Restarts: restarts,
		} {
			if n, ok := v.Get(figure); !ok || n != want {
				t.Errorf("figure %d is %d, %v; want %d", figure, n, ok, want)
			}
		}
		for _, figure := range []metrics.Figure{metrics.CPU, metrics.Disk, metrics.Probe} {
			if n, ok := v.Get(figure); !ok || figure == metrics.Disk && n == 0 {
				t.Errorf("figure %d is %d, %v", figure, n, ok)
			}
		}
		if n, ok := v.Get(metrics.Requests); ok {
			t.Errorf("%d requests", n)
		}
	}
	pass := r.agent.Pass(time.Now())
	want := metrics.Owner{TenantID: "ten_1", DeploymentID: "dep_1", ServiceID: "svc_1", SourceID: instanceID}
	if len(pass.Samples) != 1 || pass.Samples[0].Owner != want {
		t.Fatalf("%+v", pass)
	}
	check(pass.Samples[0].Values, 0)

	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(r.agent); err != nil {
		t.Fatal(err)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	const labels = `{deployment="dep_1",runtime_instance="` + instanceID + `",service="svc_1",tenant="ten_1"}`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP miosa_agent_instances Instances on this host, by state.
# TYPE miosa_agent_instances gauge
miosa_agent_instances{state="healthy"} 1
miosa_agent_instances{state="pending"} 0
miosa_agent_instances{state="starting"} 0
miosa_agent_instances{state="stopping"} 0
miosa_agent_instances{state="unhealthy"} 0
# HELP miosa_instance_memory_resident_bytes Memory of the VM's process that is resident on the host.
# TYPE miosa_instance_memory_resident_bytes gauge
miosa_instance_memory_resident_bytes`+labels+` 1.34217728e+08
# HELP miosa_instance_network_sent_bytes_total Bytes that the instance sent; counted on the host.
# TYPE miosa_instance_network_sent_bytes_total counter
miosa_instance_network_sent_bytes_total`+labels+` 1000
# HELP miosa_agent_boots_total Boots of instances that were begun.
# TYPE miosa_agent_boots_total counter
miosa_agent_boots_total 1
`), "miosa_agent_instances", "miosa_instance_memory_resident_bytes", "miosa_instance_network_sent_bytes_total", "miosa_agent_boots_total"); err != nil {
		t.Error(err)
	}

	// An agent that takes the VM up again goes on measuring it, and hands its
	// first pass over at once.
	stop()
	stop = r.start()
	defer func() { stop() }()
	select {
	case pass = <-r.figures:
	case <-time.After(patience):
		t.Fatal("no pass comes")
	}
	if len(pass.Samples) != 1 || pass.Samples[0].Owner != want {
		t.Fatalf("%+v", pass)
	}
	if n, ok := pass.Samples[0].Values.Get(metrics.Memory); !ok || n != 128<<10 {
		t.Errorf("memory of an adopted VM is %d, %v", n, ok)
	}
	r.control.assign(func(in *miosa.Instance) { in.RestartNonce++ })
	r.store.until(t, "boot 2 began")
	deadline := time.After(patience)
	for {
		v := r.agent.Pass(time.Now()).Samples[0].Values
		_, probed := v.Get(metrics.Probe)
		if n, _ := v.Get(metrics.Restarts); n == 1 && probed {
			check(v, 1)
			break
		}
		select {
		case <-deadline:
			t.Fatal("the second boot has no figures")
		case <-time.After(10 * time.Millisecond):
		}
	}

	// Its series go with it.
	r.control.assign(func(in *miosa.Instance) { in.Goal = miosa.GoalStop })
	r.control.until(t, miosa.Stopped)
	registry = prometheus.NewPedanticRegistry()
	if err := registry.Register(r.agent); err != nil {
		t.Fatal(err)
	}
	deadline = time.After(patience)
	for {
		n, err := testutil.GatherAndCount(registry, "miosa_instance_memory_resident_bytes", "miosa_instance_healthy", "miosa_instance_restarts_total")
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
		select {
		case <-deadline:
			t.Fatalf("%d series are left", n)
		case <-time.After(10 * time.Millisecond):
		}
	}
	if _, err := os.Stat(r.dir + "/agent/" + instanceID + "/ephemeral.ext4"); err == nil {
		t.Error("its disk is left")
	}
}
