package cell_test

import (
	"cmp"
	"flag"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/lifecycle"
	"github.com/miosa/miosa/rollout"
	"github.com/miosa/miosa/routing"
	"github.com/miosa/miosa/transcript"
)

var update = flag.Bool("update", false, "accept the transcripts' new output")

func TestTranscripts(t *testing.T) {
	transcript.Run(t, "testdata/*.txt", *update, func() transcript.Player { return newFleet().line })
}

// fleet is one around a machine: it carries out what the machine asks for at
// once, as the store and hosts would, and shows it.
type fleet struct {
	m        *cell.Machine
	now      time.Time
	revision int64
	nouns    map[string]any // by kind and ID
	silent   map[string]bool
	table    routing.Table
	ids      map[string]int
	beats    int64
	session  int64
	out      []string
	queue    []cell.Event
}

func newFleet() *fleet {
	return &fleet{now: time.Date(2026, 11, 28, 9, 0, 0, 0, time.UTC), nouns: map[string]any{}, silent: map[string]bool{}, ids: map[string]int{}}
}

// line carries out one line of a script:
//
//	host a [zone=1] [memory=8192]
//	app shop [replicas=2]         it is live, and nothing of it runs yet
//	begin                         a control plane begins, and loads all records
//	publish shop [command="…"]    of its next version
//	scale shop 5
//	well                          what boots is healthy, what stops has stopped, drains are over
//	ri_1 healthy | crashed | unhealthy
//	run shop migrate [limit=10m] [retries=2] [service=svc_shop]
//	stop task_01 | archive shop | delete shop
//	ri_1 claims | runs | exits [code=1] | obeys [code=143] | vanishes | unable   an attempt
//	tasks
//	silent a,b | back a,b         their agents are not heard, or are again
//	drain a [deadline=10m] [force] | uncordon a | lost a
//	wait 10s                      hosts beat meanwhile
//	hosts | instances | pool shop
func (s *fleet) line(l transcript.Line) (string, error) {
	s.out = nil
	switch l.Word(0) {
	case "host":
		s.put(miosa.Host{
			ID: l.Word(1), Name: l.Word(1), Region: "eu", Zone: l.Text("zone", "1"), Liveness: miosa.Alive, Schedulable: true, PublicKey: make([]byte, 32),
			Capacity: miosa.Resources{VCPUs: 16, MemoryMB: l.Int("memory", 8192), DiskMB: 100 << 10},
		})
	case "app":
		s.app(l.Word(1), l.Int("replicas", 1))
	case "begin":
		s.begin()
	case "publish":
		s.publish(l.Word(1), l.Text("command", "serve"))
	case "scale":
		svc := s.nouns["svc_"+l.Word(1)].(miosa.Service)
		if _, err := fmt.Sscan(l.Word(2), &svc.DesiredReplicas); err != nil {
			return "", err
		}
		s.change(svc)
	case "well":
		s.well()
	case "silent", "back":
		for host := range strings.SplitSeq(l.Word(1), ",") {
			s.silent[host] = l.Word(0) == "silent"
		}
	case "drain":
		h := s.nouns[l.Word(1)].(miosa.Host)
		h.Schedulable, h.Drain = false, miosa.HostDrain{Since: s.now, Force: l.Has("force")}
		if d := l.Duration("deadline", 0); d > 0 {
			h.Drain.Deadline = s.now.Add(d)
		}
		s.change(h)
	case "lost":
		h := s.nouns[l.Word(1)].(miosa.Host)
		h.Liveness, h.Reasons = miosa.Lost, []string{"an operator says so"}
		s.change(h)
	case "uncordon":
		h := s.nouns[l.Word(1)].(miosa.Host)
		h.Schedulable, h.Drain = true, miosa.HostDrain{}
		s.change(h)
	case "wait":
		d, err := time.ParseDuration(l.Word(1))
		if err != nil {
			return "", err
		}
		s.wait(d)
	case "hosts":
		for _, h := range all[miosa.Host](s) {
			s.say("%s %s, %d instances%s", h.ID, h.Liveness, len(s.m.Assigned(h.ID)), note(strings.Join(h.Reasons, "; "))+note(h.Drain.Progress))
		}
	case "instances":
		for _, i := range all[miosa.Instance](s) {
			if i.Observed = s.observation(i.ID); !i.State().Terminal() {
				place := fmt.Sprintf("%s slot %d", i.Spec.Name, i.Slot)
				if i.Once() {
					place = i.TaskID
				}
				s.say("%s %s on %s: %s, to %s", i.ID, place, cmp.Or(i.HostID, "no host"), i.State(), i.Goal)
			}
		}
	case "pool":
		s.say("%s", s.pool(l.Word(1)))
	case "run":
		s.change(miosa.Task{
			ID: s.id("task"), TenantID: "ten_1", DeploymentID: "dep_" + l.Word(1), EnvironmentID: "env_" + l.Word(1), VersionID: "ver_" + l.Word(1) + "_1",
			ServiceID: l.Text("service", ""), Command: l.Word(2), Limit: l.Duration("limit", time.Hour), Retries: l.Int("retries", 0), State: miosa.TaskPending, CreatedAt: s.now,
		})
	case "stop":
		t := s.nouns[l.Word(1)].(miosa.Task)
		t.StopAskedAt = s.now
		s.change(t)
	case "archive":
		v := s.nouns["ver_"+l.Word(1)+"_1"].(miosa.Version)
		v.State = miosa.VersionArchived
		s.change(v)
	case "delete":
		d := s.nouns["dep_"+l.Word(1)].(miosa.Deployment)
		d.DeletedAt = s.now
		s.change(d)
	case "tasks":
		for _, t := range all[miosa.Task](s) {
			s.say("%s %s, attempt %d: %s", t.ID, t.State, t.Attempt, t.Reason)
		}
	default:
		if _, ok := s.nouns[l.Word(0)].(miosa.Instance); !ok {
			return "", fmt.Errorf("there is no %s", l.Word(0))
		}
		s.report(l.Word(0), l.Word(1), l.Int("code", 0))
	}
	return strings.Join(s.out, "\n"), nil
}

func note(words string) string {
	if words == "" {
		return ""
	}
	return ": " + words
}

func (s *fleet) say(format string, args ...any) { s.out = append(s.out, fmt.Sprintf(format, args...)) }

// id numbers what is made.
func (s *fleet) id(prefix string) string {
	s.ids[prefix]++
	return fmt.Sprintf("%s_%02d", prefix, s.ids[prefix])
}

// all are the nouns of a type, in the order in which they were made.
func all[T any](s *fleet) (out []T) {
	var ids []string
	for id, noun := range s.nouns {
		if _, ok := noun.(T); ok {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	for _, id := range ids {
		out = append(out, s.nouns[id].(T))
	}
	return out
}

func (s *fleet) observation(instance string) miosa.Observation {
	o, _ := s.nouns["observation/"+instance].(miosa.Observation)
	return o
}

// put keeps a noun.
func (s *fleet) put(noun any) any {
	switch v := noun.(type) {
	case miosa.Host:
		s.nouns[v.ID] = v
	case miosa.Tenant:
		s.nouns[v.ID] = v
	case miosa.Deployment:
		s.nouns[v.ID] = v
	case miosa.Environment:
		s.nouns[v.ID] = v
	case miosa.Service:
		s.nouns[v.ID] = v
	case miosa.Version:
		s.nouns[v.ID] = v
	case miosa.Rollout:
		s.nouns[v.ID] = v
	case miosa.Task:
		s.nouns[v.ID] = v
	case miosa.Instance:
		v.BootSpec = []byte("sealed")
		s.nouns[v.ID] = v
		return v
	case miosa.Observation:
		s.nouns["observation/"+v.InstanceID] = v
	default:
		panic(fmt.Sprintf("a noun of type %T", noun))
	}
	return noun
}

// change is a commit of somebody's, and what follows from it.
func (s *fleet) change(nouns ...any) {
	for n := range nouns {
		nouns[n] = s.put(nouns[n])
	}
	s.revision++
	s.feed(cell.Changed{Revision: s.revision, Put: nouns})
}

func (s *fleet) app(name string, replicas int) {
	spec := s.spec(name, "serve")
	s.put(miosa.Tenant{ID: "ten_1", Slug: "acme"})
	s.put(miosa.Deployment{ID: "dep_" + name, TenantID: "ten_1", Name: name, Slug: name, State: miosa.DeploymentRunning, CreatedAt: s.now})
	s.put(miosa.Environment{ID: "env_" + name, TenantID: "ten_1", DeploymentID: "dep_" + name, Name: miosa.Production, ActiveVersionID: "ver_" + name + "_1", ActiveSince: s.now, CreatedAt: s.now})
	s.put(miosa.Service{
		ID: "svc_" + name, TenantID: "ten_1", DeploymentID: "dep_" + name, EnvironmentID: "env_" + name, Name: "web", Type: miosa.ServiceWeb,
		DesiredReplicas: replicas, Restart: miosa.RestartPolicy{Mode: miosa.RestartAlways}, DrainSeconds: 30,
	})
	s.put(miosa.Version{
		ID: "ver_" + name + "_1", TenantID: "ten_1", DeploymentID: "dep_" + name, EnvironmentID: "env_" + name, Number: 1, State: miosa.VersionReady,
		Services: []miosa.ServiceSpec{spec}, CreatedAt: s.now,
	})
}

func (s *fleet) spec(name, command string) miosa.ServiceSpec {
	return miosa.ServiceSpec{
		ServiceID: "svc_" + name, Name: name, Type: miosa.ServiceWeb, Port: 8080, ReleaseID: "rel_" + name, SHA256: name, Command: command,
		Health: miosa.DefaultHealthCheck(), Resources: miosa.Resources{VCPUs: 1, MemoryMB: 1024, DiskMB: 1024},
	}
}

// publish does what the API does.
func (s *fleet) publish(name, command string) {
	env := s.nouns["env_"+name].(miosa.Environment)
	number := 2
	var live miosa.Rollout
	for _, v := range all[miosa.Version](s) {
		if v.EnvironmentID == env.ID {
			number = max(number, v.Number+1)
		}
	}
	for _, r := range all[miosa.Rollout](s) {
		if r.EnvironmentID == env.ID && r.Live() {
			live = r
		}
	}
	v := miosa.Version{
		ID: fmt.Sprintf("ver_%s_%d", name, number), TenantID: "ten_1", DeploymentID: env.DeploymentID, EnvironmentID: env.ID, Number: number,
		State: miosa.VersionCreated, Services: []miosa.ServiceSpec{s.spec(name, command)}, CreatedAt: s.now,
	}
	begun, calledOff := rollout.Begin(s.now, rollout.Asked{ID: s.id("ro"), Kind: miosa.RolloutPublish, Target: v, Promote: true}, env, live)
	nouns := []any{v, begun}
	if calledOff != nil {
		nouns = append(nouns, *calledOff)
	}
	s.change(nouns...)
}

// begin is a control plane's start, or another's that takes over.
func (s *fleet) begin() {
	s.m = cell.NewMachine(cell.Config{Hosts: func(_ miosa.Tenant, d miosa.Deployment, _ miosa.Environment) []string {
		return []string{d.Slug + ".test"}
	}})
	s.table = routing.Table{}
	s.session++
	nouns := all[any](s)
	s.queue = nil
	s.beat()
	s.feed(cell.Loaded{Revision: s.revision, Nouns: nouns})
	s.beat()
}

// feed gives the machine an event and carries out what follows, until nothing does.
func (s *fleet) feed(ev cell.Event) {
	if s.m == nil {
		return
	}
	s.queue = append(s.queue, ev)
	for len(s.queue) > 0 {
		next := s.queue[0]
		s.queue = s.queue[1:]
		for _, effect := range s.m.Handle(s.now, next) {
			s.carryOut(effect)
		}
	}
}

func (s *fleet) carryOut(effect cell.Effect) {
	switch e := effect.(type) {
	case cell.Commit:
		for n := range e.Create {
			e.Create[n].ID = s.id("ri")
		}
		s.tell(e)
		nouns := slices.Clone(e.Put)
		for _, i := range e.Create {
			nouns = append(nouns, i)
		}
		for n := range nouns {
			nouns[n] = s.put(nouns[n])
		}
		s.revision++
		s.queue = append(s.queue, e.Done(s.revision), cell.Changed{Revision: s.revision, Put: nouns})
	case cell.SaveHost:
		for _, ev := range e.Events {
			s.say("%s: %s %s", ev.Type, ev.HostID, ev.Message)
		}
		if e.Host.ID != "" {
			s.revision++
			s.queue = append(s.queue, cell.HostSaved{Host: e.Host.ID}, cell.Changed{Revision: s.revision, Put: []any{s.put(e.Host)}})
		} else {
			s.queue = append(s.queue, cell.HostSaved{})
		}
	case cell.Publish:
		u := e.Update
		if u.Whole {
			u = routing.Table{Generation: u.Generation, Routes: u.Routes, Ports: u.Ports}.Whole()
		}
		if !s.table.Apply(u) {
			s.say("an update of the routes is missing before %d", u.Generation)
		}
		s.queue = append(s.queue, cell.Reported{Report: routing.Report{RouterID: "router", Generation: s.table.Generation, At: s.now}})
	case cell.Halt:
		s.say("it halts: %s", e.Err)
	}
}

// tell shows what a commit does.
func (s *fleet) tell(e cell.Commit) {
	for _, i := range e.Create {
		if i.Once() {
			s.say("create %s on %s: %s, %q in %s%s", i.ID, cmp.Or(i.HostID, "no host"), i.CreatedReason, i.Spec.Command, i.Spec.Name, note(strings.Join(i.Reasons, "; ")))
			continue
		}
		s.say("create %s in slot %d on %s: %s%s", i.ID, i.Slot, cmp.Or(i.HostID, "no host"), i.CreatedReason, note(strings.Join(i.Reasons, "; ")))
	}
	for _, p := range e.Placed {
		if p.ID != "" {
			s.say("place %s on %s", p.ID, p.Answer.HostID)
		}
	}
	for _, ev := range e.Events {
		s.say("%s: %s", ev.Type, strings.TrimPrefix(ev.InstanceID+" "+ev.Message, " "))
	}
}

// well lets everybody get on with what they were told, until nothing is left to do.
func (s *fleet) well() {
	for range 20 {
		var nouns []any
		for _, i := range all[miosa.Instance](s) {
			i.Observed = s.observation(i.ID)
			if i.HostID == "" || i.State().Terminal() || s.silent[i.HostID] {
				continue
			}
			switch {
			case i.Goal == miosa.GoalStop:
				nouns = append(nouns, s.observed(i, miosa.Stopped))
			case i.Once():
			case i.State() != miosa.Healthy || i.Observed.Generation < i.Generation:
				nouns = append(nouns, s.observed(i, miosa.Healthy))
			}
		}
		if len(nouns) == 0 {
			return
		}
		s.change(nouns...)
	}
}

func (s *fleet) observed(i miosa.Instance, state miosa.InstanceState) miosa.Observation {
	o := i.Observed
	o.InstanceID, o.TenantID, o.DeploymentID, o.HostID, o.Generation = i.ID, i.TenantID, i.DeploymentID, i.HostID, i.Generation
	o.Seq++
	o.State, o.ReportedAt = state, s.now
	if o.Boot == 0 {
		o.Boot = 1
		o.StartedAt = s.now
	}
	if state == miosa.Healthy {
		o.HealthyAt, o.Failures, o.Addr = s.now, 0, netip.MustParseAddrPort("10.0.0.1:8080")
		o.Phases = []miosa.Phase{{Name: "app_started", At: s.now}}
	}
	return o
}

// report is one report of an instance's host.
func (s *fleet) report(id, what string, code int) {
	i := s.nouns[id].(miosa.Instance)
	i.Observed = s.observation(id)
	var o miosa.Observation
	exit := miosa.Failure{Kind: miosa.FailureExit, Message: fmt.Sprintf("exited with code %d", code), ExitCode: code, At: s.now}
	switch what {
	case "claims":
		o = s.observed(i, miosa.Starting)
		if o.Phases = []miosa.Phase{{Name: "boot_decided", At: s.now}, {Name: lifecycle.Claimed, At: s.now}}; cell.Refused(i, i.Observed, o) {
			s.say("%s is refused", id)
			return
		}
	case "runs":
		o = s.observed(i, miosa.Healthy)
	case "exits":
		if o = s.observed(i, miosa.Failed); code == 0 {
			o.State, exit.Kind = miosa.Stopped, miosa.FailureCompleted
		}
		o.Failure = exit
	case "obeys":
		o = s.observed(i, miosa.Stopped)
		o.Failure = exit
	case "vanishes":
		o = s.observed(i, miosa.Failed)
		o.Failure = miosa.Failure{Kind: miosa.FailureVM, Message: "the virtual machine ended", At: s.now}
	case "unable":
		o = s.observed(i, miosa.Failed)
		o.Failure = miosa.Failure{Kind: miosa.FailureHost, Message: "the host's disk is full", At: s.now}
	case "crashed":
		o = s.observed(i, miosa.Pending)
		o.Failures++
		o.NextRestartAt = s.now.Add(time.Second)
		o.Failure = miosa.Failure{Kind: miosa.FailureExit, Message: "exited with 1", ExitCode: 1, At: s.now}
	case "unhealthy":
		o = s.observed(i, miosa.Unhealthy)
		o.Failure = miosa.Failure{Message: "3 health checks in a row failed", At: s.now}
	default:
		o = s.observed(i, miosa.InstanceState(what))
	}
	s.change(o)
}

// wait lets time pass, second by second, while the hosts beat.
func (s *fleet) wait(d time.Duration) {
	for end := s.now.Add(d); s.now.Before(end); {
		s.now = s.now.Add(time.Second)
		s.beat()
		s.feed(cell.Reported{Report: routing.Report{RouterID: "router", Generation: s.table.Generation, At: s.now}})
		s.feed(cell.Tick{})
	}
}

func (s *fleet) beat() {
	s.beats++
	for _, h := range all[miosa.Host](s) {
		if !s.silent[h.ID] {
			s.feed(cell.Beat{Host: h.ID, Session: s.session, Seq: s.beats})
		}
	}
}

// pool is who serves an app, in words.
func (s *fleet) pool(name string) string {
	p, ok := s.table.Routes[name+".test"]
	if !ok {
		return "no route"
	}
	var ids []string
	for _, b := range p.Backends {
		ids = append(ids, b.InstanceID)
	}
	slices.SortFunc(ids, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	return cmp.Or(strings.Join(ids, " "), "nobody")
}
