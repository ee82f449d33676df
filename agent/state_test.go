package agent

import (
	"bytes"
	"flag"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/vmm"
)

var updateGolden = flag.Bool("update", false, "write the golden files anew")

// fullState has something in every field that a state's file holds.
func fullState() state {
	at := time.Date(2026, 11, 28, 9, 30, 15, 123456789, time.UTC)
	later := func(s int) time.Time { return at.Add(time.Duration(s) * time.Second) }
	const id = "ri_01jz0000000000000000000001"
	return state{
		Instance: miosa.Instance{
			ID: id, TenantID: "ten_1", DeploymentID: "dep_1", EnvironmentID: "env_1", ServiceID: "svc_1", VersionID: "ver_1",
			Slot: 2, Replaces: "ri_0", TaskID: "task_1", Attempt: 3, Limit: 10 * time.Minute, Attribution: miosa.Attribution{WorkspaceID: "w1", UserID: "u1", ProjectID: "p1"},
			Spec: miosa.ServiceSpec{
				ServiceID: "svc_1", Name: "web", Type: miosa.ServiceWeb, ReleaseID: "rel_1", SHA256: "ab12", Kind: miosa.KindRootFS,
				Command: "serve --port 8080", Port: 8080, Protocol: miosa.ProtocolHTTP1,
				Health: miosa.HealthCheck{
					Type: miosa.HealthHTTP, Path: "/healthz", Scheme: "https", Host: "app.test", Headers: []miosa.Header{{Name: "X-Probe", Value: "1"}},
					Command: "check", Stable: 11 * time.Second, Interval: 5 * time.Second, Timeout: 2 * time.Second, Grace: 30 * time.Second, Threshold: 3,
				},
				StopSignal: "SIGINT", StopGrace: 12 * time.Second, ResponseTimeout: time.Minute,
				Resources: miosa.Resources{VCPUs: 2, MemoryMB: 1024, DiskMB: 2048, GPU: 1, EgressMbps: 100},
				Settings: miosa.ServiceSettings{
					SetsReplicas: true, Replicas: 3, SetsRegions: true, Regions: []string{"eu"},
					Sticky: miosa.Sticky{Mode: miosa.StickyCookie, Name: "stay"}, Restart: miosa.RestartPolicy{Mode: miosa.RestartAlways, MaxAge: time.Hour},
					SetsMaxUnavailable: true, MaxUnavailable: miosa.MaxUnavailable{Count: 2, Percent: 25}, SetsStopAfterDisconnect: true, StopAfterDisconnect: time.Minute,
					SetsLabels: true, Labels: map[string]string{"disk": "nvme"}, SetsApart: true, Apart: true,
				},
			},
			Restart: miosa.RestartPolicy{Mode: miosa.RestartOnFailure, MaxAge: 24 * time.Hour}, StopAfterDisconnect: 90 * time.Second, Proven: true, PriorFailures: 4,
			Goal: miosa.GoalDrain, GoalReason: "it is replaced", GoalSince: later(1), DrainSeconds: 45,
			Logs:    miosa.LogLimit{LinesPerSecond: 100, Burst: 400, Unlimited: true},
			Notices: []miosa.Notice{{ID: "w-1", At: later(2), Text: "version 3 is live"}},
			HostID:  "host_1", Region: "eu", Zone: "eu-a", Generation: 7, RestartNonce: 5, ReplaceAsked: true,
			Reasons: []string{"no host has room"}, ScheduledAt: later(3), CreatedAt: later(4), UpdatedAt: later(5), CreatedReason: "slot 2 is empty",
		},
		Observation: miosa.Observation{
			InstanceID: id, TenantID: "ten_1", DeploymentID: "dep_1", HostID: "host_1", Generation: 6, Seq: 42, State: miosa.Healthy, VMID: id + "-3",
			Addr: netip.MustParseAddrPort("10.0.0.2:8080"), Boot: 3, RestartCount: 2, Failures: 1,
			StartedAt: later(6), HealthyAt: later(7), StoppedAt: later(8), NextRestartAt: later(9), LastProbeAt: later(10), LastProbe: "200 in 3 ms",
			Failure: miosa.Failure{Kind: miosa.FailureExit, Message: "exited with 3", ExitCode: 3, Signal: "SIGTERM", At: later(11), LastLines: []string{"last", "words"}},
			Phases:  []miosa.Phase{{Name: "listening", At: later(12)}}, ClockSetBack: miosa.ClockSetBack{At: later(13), By: 90 * time.Second}, ReportedAt: later(14),
		},
		VM: vmm.Handle{ID: id + "-3", Driver: "qemu", PID: 4711, StartTime: 123456, RunDir: "/run/miosa/x", Cgroup: "/sys/fs/cgroup/x", Started: later(15), Resumed: later(16)},
	}
}

// before makes of a state what a file has of it that is older than some of its
// fields.
func before(s state, file string) state {
	s.Instance.TaskID, s.Instance.Attempt, s.Instance.Limit = "", 0, 0
	if file == "state.2b.json" {
		return s
	}
	s.Instance.StopAfterDisconnect = 0
	set := &s.Instance.Spec.Settings
	*set = miosa.ServiceSettings{
		SetsReplicas: set.SetsReplicas, Replicas: set.Replicas, SetsRegions: set.SetsRegions, Regions: set.Regions, Sticky: set.Sticky, Restart: set.Restart,
	}
	return s
}

// full fails on a field that holds nothing, but for those that no file keeps: a
// field that is new must be in the files, or it is lost by a restart.
func full(t *testing.T, v reflect.Value, path string) {
	t.Helper()
	switch path {
	case "Instance.BootSpec", "Instance.Observed", "Instance.Revision", "Observation.Revision", "Tail":
		return
	}
	if v.IsZero() {
		t.Errorf("%s is empty", path)
	}
	if v.Kind() != reflect.Struct || v.Type() == reflect.TypeFor[time.Time]() || v.Type() == reflect.TypeFor[netip.AddrPort]() {
		return
	}
	for f, fv := range v.Fields() {
		name := f.Name
		if path != "" {
			name = path + "." + f.Name
		}
		full(t, fv, name)
	}
}

// What is written comes back whole, in the shape of the golden file; and what
// former binaries wrote is read: golden files are only ever added.
func TestStateFiles(t *testing.T) {
	want := fullState()
	full(t, reflect.ValueOf(want), "")
	id := want.Instance.ID
	read := func(t *testing.T, b []byte) []state {
		d := disks{dir: t.TempDir()}
		if err := d.write(id, stateFile, b, false); err != nil {
			t.Fatal(err)
		}
		states, err := d.states(slog.New(slog.NewTextHandler(t.Output(), nil)))
		if err != nil {
			t.Fatal(err)
		}
		return states
	}
	d := disks{dir: t.TempDir()}
	with := want
	with.Instance.BootSpec = []byte("sealed") // which has a file of its own
	if err := d.writeState(with); err != nil {
		t.Fatal(err)
	}
	written, err := os.ReadFile(d.path(id, stateFile))
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "state.2c.json")
	if *updateGolden {
		if err := os.WriteFile(golden, append(written, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	present, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(bytes.TrimSpace(present), written) {
		t.Errorf("written is\n%s\nwant\n%s", written, present)
	}
	files, err := filepath.Glob(filepath.Join("testdata", "state.*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			want := want
			if file != golden {
				want = before(want, filepath.Base(file))
			}
			if got := read(t, b); !reflect.DeepEqual(got, []state{want}) {
				t.Errorf("read\n%+v\nwant\n%+v", got, want)
			}
		})
	}
}
