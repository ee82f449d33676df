package cell_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/routing"
)

const (
	tenant, deployment, environment, service = "ten_1", "dep_1", "env_1", "svc_1"
	hostID                                   = "host_1"
)

// stage is an environment with two healthy instances of version 1, and what the
// machine commits to it.
type stage struct {
	t        *testing.T
	m        *cell.Machine
	now      time.Time
	revision int64
	service  miosa.Service
	all      map[string]miosa.Instance
	rollouts map[string]miosa.Rollout
	events   []miosa.Event
	judges   bool     // what hosts are judged is written
	lost     []string // instances that ended with their hosts
}

func spec() miosa.ServiceSpec {
	return miosa.ServiceSpec{ServiceID: service, Name: "web", Port: 80, Resources: miosa.Resources{VCPUs: 1, MemoryMB: 64, DiskMB: 64}}
}

func newStage(t *testing.T) *stage { return stageOf(t, cell.Config{}, func(*stage) {}) }

// stageOf is a stage with a machine that is configured so, and loads what prepare
// has made of its service and its instances.
func stageOf(t *testing.T, cfg cell.Config, prepare func(*stage)) *stage {
	s := &stage{t: t, now: time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC), revision: 1, all: map[string]miosa.Instance{}, rollouts: map[string]miosa.Rollout{}}
	cfg.Hosts = func(miosa.Tenant, miosa.Deployment, miosa.Environment) []string { return []string{"app.test"} }
	s.m = cell.NewMachine(cfg)
	s.service = miosa.Service{ID: service, TenantID: tenant, DeploymentID: deployment, EnvironmentID: environment, Name: "web", Type: miosa.ServiceWeb, DesiredReplicas: 2}
	nouns := []any{
		miosa.Tenant{ID: tenant, Slug: "t"},
		miosa.Host{ID: hostID, Liveness: miosa.Alive, Schedulable: true, Overcommit: 4, Capacity: miosa.Resources{VCPUs: 16, MemoryMB: 4096, DiskMB: 65536}},
		miosa.Deployment{ID: deployment, TenantID: tenant, State: miosa.DeploymentRunning},
		miosa.Environment{ID: environment, TenantID: tenant, DeploymentID: deployment, Name: miosa.Production, ActiveVersionID: "ver_1"},
		miosa.Version{ID: "ver_1", TenantID: tenant, DeploymentID: deployment, EnvironmentID: environment, Number: 1, State: miosa.VersionReady, Services: []miosa.ServiceSpec{spec()}},
	}
	for slot := range 2 {
		i := miosa.Instance{
			ID: fmt.Sprint("ri_first", slot), TenantID: tenant, DeploymentID: deployment, EnvironmentID: environment, ServiceID: service, VersionID: "ver_1", Slot: slot,
			Spec: spec(), Proven: true, Goal: miosa.GoalRun, HostID: hostID, Generation: 1, BootSpec: []byte("sealed"), CreatedAt: s.now.Add(-time.Hour),
		}
		s.all[i.ID] = i
	}
	prepare(s)
	nouns = append(nouns, s.service)
	for id, i := range s.all {
		nouns = append(nouns, i, s.healthy(id))
	}
	s.carryOut(s.m.Handle(s.now, cell.Loaded{Revision: 1, Nouns: nouns}))
	return s
}

func (s *stage) observed(id string, state miosa.InstanceState, f miosa.Failure) miosa.Observation {
	return miosa.Observation{
		InstanceID: id, TenantID: tenant, DeploymentID: deployment, HostID: hostID, Seq: 1, State: state, Failure: f,
		Addr: netip.MustParseAddrPort("10.0.0.1:80"),
	}
}

func (s *stage) healthy(id string) miosa.Observation {
	return s.observed(id, miosa.Healthy, miosa.Failure{})
}

// put is one change; what the machine commits in turn comes back to it.
func (s *stage) put(nouns ...any) {
	s.now = s.now.Add(time.Second)
	s.revision++
	s.carryOut(s.m.Handle(s.now, cell.Changed{Revision: s.revision, Put: nouns}))
}

func (s *stage) carryOut(effects []cell.Effect) {
	for _, effect := range effects {
		if save, ok := effect.(cell.SaveHost); ok && s.judges {
			s.events = append(s.events, save.Events...)
			if save.Host.ID != "" {
				s.revision++
				s.carryOut(s.m.Handle(s.now, cell.Changed{Revision: s.revision, Put: []any{save.Host}}))
			}
			s.carryOut(s.m.Handle(s.now, cell.HostSaved{Host: save.Host.ID}))
		}
		c, ok := effect.(cell.Commit)
		if !ok {
			continue
		}
		put := slices.Clone(c.Put)
		s.events = append(s.events, c.Events...)
		for n, i := range c.Create {
			i.ID, i.BootSpec = fmt.Sprintf("ri_of_%s_%d_%d", i.VersionID, i.Slot, n), []byte("sealed")
			put = append(put, i)
		}
		for _, noun := range put {
			switch v := noun.(type) {
			case miosa.Instance:
				s.all[v.ID] = v
			case miosa.Rollout:
				s.rollouts[v.ID] = v
			case miosa.Observation:
				if v.Failure.Kind == miosa.FailureHostLost {
					s.lost = append(s.lost, v.InstanceID)
				}
			}
		}
		s.revision++
		revision := s.revision
		s.carryOut(s.m.Handle(s.now, cell.Changed{Revision: revision, Put: put}))
		s.carryOut(s.m.Handle(s.now, cell.Committed{Environment: environment, Revision: revision}))
	}
}

func (s *stage) publish(number int) {
	version, rollout := fmt.Sprint("ver_", number), fmt.Sprint("rol_", number)
	s.put(
		miosa.Version{ID: version, TenantID: tenant, DeploymentID: deployment, EnvironmentID: environment, Number: number, State: miosa.VersionCreated, Services: []miosa.ServiceSpec{spec()}},
		miosa.Rollout{
			ID: rollout, TenantID: tenant, DeploymentID: deployment, EnvironmentID: environment, Kind: miosa.RolloutPublish, TargetID: version, FromID: "ver_1",
			Promote: true, Step: miosa.StepStarting, StepSince: s.now, CreatedAt: s.now, Deadline: s.now.Add(10 * time.Minute), Requester: "key_1",
		})
}

func (s *stage) want(id string, texts ...string) {
	s.t.Helper()
	var got []string
	for _, w := range s.all[id].Notices {
		got = append(got, w.Text)
	}
	if !slices.Equal(got, texts) {
		s.t.Errorf("%s tells\n%q\nwant\n%q", id, got, texts)
	}
}

// A publish is told of in the log of what serves and of what is to serve, by
// one instance of each.
func TestAPublishIsToldOf(t *testing.T) {
	s := newStage(t)
	s.publish(2)
	s.want("ri_first0", "publish of version 2 began (rol_2, asked for by key_1)")
	s.want("ri_first1")
	s.want("ri_of_ver_2_0_0", "publish of version 2 began (rol_2, asked for by key_1)")
	for id, i := range s.all {
		if i.VersionID == "ver_2" {
			s.put(s.healthy(id))
		}
	}
	s.want("ri_first0", "publish of version 2 began (rol_2, asked for by key_1)", "version 2 is live in its place (publish, rol_2)")
	s.want("ri_first1")
	s.want("ri_of_ver_2_0_0", "publish of version 2 began (rol_2, asked for by key_1)", "version 2 is live (publish, rol_2)")
	if old := s.all["ri_first1"]; old.Goal == miosa.GoalRun {
		t.Errorf("%+v", old)
	}
	for id, i := range s.all {
		if i.VersionID == "ver_2" && i.Slot > 0 {
			s.want(id)
		}
	}
}

// A failed publish is told of where people look: in the log of what goes on
// serving.
func TestAFailedPublishIsToldOf(t *testing.T) {
	s := newStage(t)
	s.publish(2)
	s.put(s.observed("ri_of_ver_2_0_0", miosa.Failed, miosa.Failure{Kind: miosa.FailureExit, ExitCode: 1, Message: "the run command exited with code 1", At: s.now}))
	if step := s.rollouts["rol_2"].Step; step != miosa.StepFailed {
		t.Fatalf("the rollout is %s", step)
	}
	s.want("ri_first0", "publish of version 2 began (rol_2, asked for by key_1)",
		"publish of version 2 failed: web: the run command exited with code 1; this version stays live")
	s.want("ri_first1")
	// What is long over is told to nobody who comes later.
	s.now = s.now.Add(time.Hour)
	i := s.all["ri_first0"]
	i.Notices = nil
	s.all[i.ID] = i
	s.put(i)
	s.want("ri_first0")
}

// A changed log limit comes to every instance at once, without a boot.
func TestALogLimitIsCarried(t *testing.T) {
	s := newStage(t)
	s.service.Logs = miosa.LogLimit{LinesPerSecond: 100, Burst: 1000}
	s.put(s.service)
	for _, id := range []string{"ri_first0", "ri_first1"} {
		if i := s.all[id]; i.Logs != s.service.Logs || i.Generation != 2 || i.RestartNonce != 0 || i.Goal != miosa.GoalRun {
			t.Errorf("%+v", i)
		}
	}
}

// What a router finds wrong with an app is told in that instance's log, once,
// however often and by how many routers it is said.
func TestAFaultIsToldOf(t *testing.T) {
	s := newStage(t)
	const fault = "the app sent more than one answer"
	report := func(router string, faults map[string]string) {
		s.now = s.now.Add(time.Second)
		s.carryOut(s.m.Handle(s.now, cell.Reported{Report: routing.Report{RouterID: router, Generation: 1, Faults: faults, At: s.now}}))
	}
	report("router-1", nil)
	s.want("ri_first1")
	for range 2 {
		report("router-1", map[string]string{"ri_first1": fault, "ri_of_nobody": fault})
		report("router-2", map[string]string{"ri_first1": fault})
	}
	s.want("ri_first1", fault)
	s.want("ri_first0")
	if i := s.all["ri_first1"]; i.Generation != 2 || i.RestartNonce != 0 || i.Goal != miosa.GoalRun {
		t.Errorf("%+v", i)
	}
	report("router-2", map[string]string{"ri_first1": "another"})
	s.want("ri_first1", fault, "another")
}

// Nothing is started of a version whose image is still on its way.
func TestNothingRunsBeforeTheImageIsThere(t *testing.T) {
	s := newStage(t)
	without, began := spec(), s.now
	without.ReleaseID = ""
	v := miosa.Version{
		ID: "ver_2", TenantID: tenant, DeploymentID: deployment, EnvironmentID: environment, Number: 2, State: miosa.VersionCreated,
		Services: []miosa.ServiceSpec{without}, Image: miosa.Image{Reference: "registry.example/shop:1.4"},
	}
	s.put(v, miosa.Rollout{
		ID: "rol_2", TenantID: tenant, DeploymentID: deployment, EnvironmentID: environment, Kind: miosa.RolloutPublish, TargetID: "ver_2", FromID: "ver_1",
		Promote: true, Step: miosa.StepPulling, StepSince: began, CreatedAt: began, Deadline: began.Add(time.Hour), Requester: "key_1",
	})
	of := func() (n int) {
		for _, i := range s.all {
			if i.VersionID == "ver_2" {
				n++
			}
		}
		return n
	}
	if r := s.rollouts["rol_2"]; of() != 0 || r.Step != miosa.StepPulling || r.Reason != "pulling registry.example/shop:1.4" {
		t.Fatalf("%d instances while it is %s: %s", of(), r.Step, r.Reason)
	}
	v.State, v.Image.Digest = miosa.VersionBuilding, "sha256:1"
	v.Services = []miosa.ServiceSpec{spec()}
	v.Services[0].ReleaseID = "rel_1"
	s.put(v)
	if r := s.rollouts["rol_2"]; of() == 0 || r.Step != miosa.StepStarting || !r.Deadline.After(s.now) {
		t.Errorf("%d instances while it is %s until %s", of(), r.Step, r.Deadline)
	}
}
