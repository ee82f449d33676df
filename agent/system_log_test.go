package agent

import (
	"slices"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/health"
	"github.com/miosa/miosa/lifecycle"
)

// teller drives a machine and collects what is told of it.
type teller struct {
	m   *lifecycle.Machine
	s   systemLog
	now time.Time
	out []string
}

func (p *teller) do(ev lifecycle.Event) {
	p.now = p.now.Add(time.Second)
	was, before := p.m.Observation(), p.m.Instance()
	if e, ok := ev.(lifecycle.Assigned); ok {
		p.out = append(p.out, newNotices(was, before, e.Instance)...)
	}
	effects := p.m.Handle(p.now, ev)
	p.out = append(p.out, p.s.next(before, p.m.Instance(), was, p.m.Observation(), ev, effects)...)
}

func (p *teller) probe(ok bool, detail string) {
	p.do(lifecycle.Probed{Boot: p.m.Observation().Boot, Result: health.Result{At: p.now, OK: ok, Detail: detail}})
}

// up boots it until it listens.
func (p *teller) up(boot int) {
	p.do(lifecycle.Started{Boot: boot, VMID: "vm", At: p.now})
	p.do(lifecycle.Reached{Boot: boot, Name: "kernel_started", At: p.now})
	p.do(lifecycle.Reached{Boot: boot, Name: "app_started", At: p.now})
	p.probe(false, "connection refused")
	p.do(lifecycle.Reached{Boot: boot, Name: "listening", At: p.now.Add(-1100 * time.Millisecond), Hint: "any"})
}

func newTeller() (*teller, miosa.Instance) {
	in := miosa.Instance{ID: "ri_1", Goal: miosa.GoalRun, Generation: 1, Proven: true}
	in.Spec.Command, in.Spec.Port, in.Spec.Health.Path = "/app/server", 8080, "/healthz"
	p := &teller{m: lifecycle.New(in), now: time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)}
	p.do(lifecycle.Assigned{Instance: in})
	return p, in
}

func (p *teller) want(t *testing.T, lines ...string) {
	t.Helper()
	if !slices.Equal(p.out, lines) {
		t.Errorf("told:\n%q\nwant:\n%q", p.out, lines)
	}
	p.out = nil
}

func TestSystemLogOfALife(t *testing.T) {
	p, in := newTeller()
	p.up(1)
	p.probe(true, "answered 200")
	p.probe(true, "answered 200")
	p.want(t, "boot 1 began", "the virtual machine started", "started: /app/server", "listening on port 8080 after 0.9 s", "healthy")

	p.probe(false, "answered 503")
	p.probe(false, "answered 503")
	p.probe(false, "answered 503")
	p.probe(false, "answered 503")
	p.probe(true, "answered 200")
	p.want(t, "health check GET /healthz failed: answered 503 (1 of 3)", "unhealthy: 3 health checks in a row failed; the last one: answered 503", "healthy")

	p.do(lifecycle.Exited{Boot: 1, Failure: miosa.Failure{Kind: miosa.FailureExit, ExitCode: 1}})
	p.do(lifecycle.Tick{})
	p.want(t, "exited with code 1; the next boot comes in 1 s", "boot 2 began")

	p.up(2)
	p.probe(true, "answered 200")
	p.out = nil
	in.RestartNonce, in.Generation = 1, 2
	p.do(lifecycle.Assigned{Instance: in})
	p.do(lifecycle.Exited{Boot: 2, Stopped: true, Failure: miosa.Failure{Kind: miosa.FailureExit}})
	p.do(lifecycle.Vanished{Boot: 2})
	p.want(t, "restarted on request", "boot 3 began")

	p.up(3)
	p.out = nil
	in.Goal, in.GoalReason, in.Generation = miosa.GoalStop, "the service was scaled down", 3
	p.do(lifecycle.Assigned{Instance: in})
	p.do(lifecycle.Exited{Boot: 3, Stopped: true, Failure: miosa.Failure{Kind: miosa.FailureSignal, Signal: "SIGKILL"}})
	p.do(lifecycle.Vanished{Boot: 3})
	p.want(t, "stopping: the service was scaled down", "killed by SIGKILL", "stopped")
}

// A check that is no request is not told of as one.
func TestSystemLogOfOtherHealthChecks(t *testing.T) {
	for how, named := range map[miosa.HealthType]string{miosa.HealthTCP: "tcp health check", miosa.HealthGRPC: "grpc health check", miosa.HealthExec: "exec health check"} {
		p, in := newTeller()
		in.Spec.Health.Type, in.Generation = how, 2
		if how == miosa.HealthExec {
			in.Spec.Port = 0
		}
		p = &teller{m: lifecycle.New(in), now: p.now}
		p.do(lifecycle.Assigned{Instance: in})
		p.do(lifecycle.Started{Boot: 1, VMID: "vm", At: p.now})
		p.do(lifecycle.Reached{Boot: 1, Name: "app_started", At: p.now})
		if how != miosa.HealthExec {
			p.do(lifecycle.Reached{Boot: 1, Name: "listening", At: p.now, Hint: "any"})
		}
		p.out = nil
		p.probe(false, "not yet")
		p.probe(false, "not yet")
		p.probe(true, "well")
		p.probe(false, "exited with code 3")
		p.want(t, named+" failed: not yet", "healthy", named+" failed: exited with code 3 (1 of 3)")
	}
}

// How it ends when it is asked to by the signal it wants is no news, and by
// another it is.
func TestSystemLogOfAnOrdinaryEnd(t *testing.T) {
	signalled := func(name string) miosa.Failure {
		return miosa.Failure{Kind: miosa.FailureSignal, Signal: name}
	}
	exited := func(code int) miosa.Failure { return miosa.Failure{Kind: miosa.FailureExit, ExitCode: code} }
	for _, c := range []struct {
		signal int
		end    miosa.Failure
		told   string
	}{
		{0, exited(0), ""},
		{0, signalled("SIGTERM"), ""},
		{0, exited(143), ""},
		{0, exited(1), "exited with code 1"},
		{0, signalled("SIGQUIT"), "killed by SIGQUIT"},
		{3, signalled("SIGQUIT"), ""},
		{3, exited(131), ""},
		{3, exited(0), ""},
		{3, exited(143), "exited with code 143"},
		{3, signalled("SIGTERM"), "killed by SIGTERM"},
		{3, signalled("SIGKILL"), "killed by SIGKILL"},
		{37, signalled("signal 37"), ""},
		{37, signalled("signal 38"), "killed by signal 38"},
	} {
		p, in := newTeller()
		p.up(1)
		in.Goal, in.GoalReason, in.Generation = miosa.GoalStop, "the service was scaled down", 2
		p.do(lifecycle.Assigned{Instance: in})
		p.out = nil
		end := c.end
		end.At = p.now
		p.do(lifecycle.Exited{Boot: 1, Stopped: true, StopSignal: c.signal, Failure: end})
		p.do(lifecycle.Vanished{Boot: 1})
		want := []string{c.told, "stopped"}
		if c.told == "" {
			want = want[1:]
		}
		p.want(t, want...)
	}
}

func TestSystemLogOfFailures(t *testing.T) {
	p, in := newTeller()
	p.up(1)
	p.out = nil
	p.do(lifecycle.Exited{Boot: 1, Failure: miosa.Failure{Kind: miosa.FailureOOM, Message: "the run command was killed because the instance ran out of memory"}})
	p.want(t, "out of memory: the run command was killed because the instance ran out of memory; the next boot comes in 1 s")

	in.Restart.Mode, in.Generation = miosa.RestartNever, 2
	p.do(lifecycle.Assigned{Instance: in})
	p.do(lifecycle.Tick{})
	p.up(2)
	p.out = nil
	p.do(lifecycle.Vanished{Boot: 2})
	p.want(t, "the virtual machine ended without the app's exit being seen; it is not booted again")
}

// What control has to tell stands between the rest, each once, also when it
// comes again with other changes or out of turn.
func TestSystemLogOfADeployment(t *testing.T) {
	in := miosa.Instance{ID: "ri_1", Goal: miosa.GoalRun, Generation: 1, Proven: true, CreatedReason: "an instance is needed for slot 0"}
	in.Notices = []miosa.Notice{{ID: "rol_1/began", Text: "publish of version 1 began"}}
	p := &teller{m: lifecycle.New(in), now: time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)}
	p.do(lifecycle.Assigned{Instance: in})
	p.want(t, "publish of version 1 began", "created: an instance is needed for slot 0", "boot 1 began")
	p.do(lifecycle.Assigned{Instance: in})
	p.want(t)

	old := in
	in.Generation = 2
	in.Notices = append(in.Notices[:1:1], miosa.Notice{ID: "rol_1/live", Text: "version 1 is live"})
	p.do(lifecycle.Assigned{Instance: in})
	p.do(lifecycle.Assigned{Instance: old})
	p.do(lifecycle.Assigned{Instance: in})
	p.want(t, "version 1 is live")

	p.up(1)
	p.out = nil
	in.Generation, in.Goal, in.GoalReason = 3, miosa.GoalDrain, "its version is no longer wanted"
	in.Notices = append(in.Notices[1:2:2], miosa.Notice{ID: "rol_2/live", Text: "version 2 is live in its place"})
	p.do(lifecycle.Assigned{Instance: in})
	in.Generation, in.Goal = 4, miosa.GoalStop
	p.do(lifecycle.Assigned{Instance: in})
	p.do(lifecycle.Vanished{Boot: 1})
	p.want(t, "version 2 is live in its place", "draining: its version is no longer wanted", "stopping", "stopped")
}
