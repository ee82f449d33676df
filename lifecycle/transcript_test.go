package lifecycle_test

import (
	"flag"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/health"
	"github.com/miosa/miosa/lifecycle"
	"github.com/miosa/miosa/transcript"
)

var update = flag.Bool("update", false, "accept the transcripts' new output")

func TestTranscripts(t *testing.T) {
	transcript.Run(t, "testdata/*.txt", *update, func() transcript.Player { return newStage().line })
}

var epoch = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// stage is a machine and the little of a host that a script needs.
type stage struct {
	m     *lifecycle.Machine
	in    miosa.Instance
	now   time.Time
	saved miosa.Observation
	// answer is what the app says to probes: "200", "503", "nothing" …
	answer string
	out    []string
	ended  bool
	// silent is since when control acknowledges nothing; zero: it does.
	silent time.Time
}

func newStage() *stage { return &stage{now: epoch, answer: "nothing"} }

// line carries out one line of a script:
//
//	task [limit=10m] [stop=10s] [disconnect=4m] [observed=starting]   an attempt
//	control takes it
//	new [proven] [worker] [policy=on_failure] [grace=60s] [failures=3]
//	    [health=none|tcp|grpc|exec] [stable=10s] [stop=10s] [disconnect=1m]
//	assign [goal=drain|stop] [nonce=1] [generation=2] [proven]
//	vm starts | app starts | app listens [on=loopback] | up  (all three, answering 200)
//	app elsewhere ports=3000,9090
//	app answers 503 | app answers nothing   (an exec check: its exit code)
//	app exits [code=1] | app killed by=oom | app missing | app stopped
//	app obeys [code=143] | app limited       (asked to stop; by PID 1)
//	vm vanishes | vm silent | boot fails     (each: [boot=1] for one from the past)
//	control falls silent | control answers
//	wait 10m | agent restarts [vm=lost] | state
func (s *stage) line(l transcript.Line) (string, error) {
	s.out = nil
	boot := l.Int("boot", 0)
	if boot == 0 && s.m != nil {
		boot = s.m.Observation().Boot
	}
	lines := []string(nil)
	if said, ok := l.Value("said"); ok {
		lines = []string{said}
	}
	what := l.Word(0) + " " + l.Word(1)
	switch l.Word(0) {
	case "task", "new", "assign", "wait", "up", "state":
		what = l.Word(0)
	}
	switch what {
	case "new", "task":
		s.begin(l)
	case "control takes":
		s.feed(lifecycle.Taken{Began: s.saved.StartedAt})
	case "assign":
		s.assign(l)
	case "vm starts":
		s.feed(lifecycle.Started{Boot: boot, VMID: fmt.Sprint("vm-", boot), Addr: netip.MustParseAddrPort("10.0.0.2:8080"), At: s.now})
	case "app starts":
		s.feed(lifecycle.Reached{Boot: boot, Name: "app_started", At: s.now})
	case "app listens":
		s.feed(lifecycle.Reached{Boot: boot, Name: "listening", At: s.now, Hint: l.Text("on", "any"), Detached: l.Has("detached")})
	case "app elsewhere":
		var ports []int
		for p := range strings.SplitSeq(l.Text("ports", ""), ",") {
			n, err := strconv.Atoi(p)
			if err != nil {
				return "", err
			}
			ports = append(ports, n)
		}
		s.feed(lifecycle.Reached{Boot: boot, Name: "elsewhere", At: s.now, Ports: ports})
	case "up":
		s.answer = "200"
		s.feed(lifecycle.Started{Boot: boot, VMID: fmt.Sprint("vm-", boot), Addr: netip.MustParseAddrPort("10.0.0.2:8080"), At: s.now})
		s.feed(lifecycle.Reached{Boot: boot, Name: "app_started", At: s.now})
		s.feed(lifecycle.Reached{Boot: boot, Name: "listening", At: s.now, Hint: "any"})
	case "app answers":
		s.answer = l.Word(2)
	case "app exits":
		code := l.Int("code", 0)
		s.feed(lifecycle.Exited{Boot: boot, Failure: miosa.Failure{Kind: miosa.FailureExit, ExitCode: code, Message: fmt.Sprintf("exited with code %d", code), LastLines: lines}})
	case "app killed":
		s.feed(lifecycle.Exited{Boot: boot, Failure: miosa.Failure{Kind: miosa.FailureKind(l.Text("by", "signal")), Message: "killed: " + l.Text("by", "signal")}})
	case "app missing":
		s.feed(lifecycle.Exited{Boot: boot, Failure: miosa.Failure{Kind: miosa.FailureNotFound, Message: "/app/server: not found"}})
	case "app stopped":
		s.feed(lifecycle.Exited{Boot: boot, Stopped: true})
	case "app obeys":
		s.feed(lifecycle.Exited{Boot: boot, Stopped: true, Failure: miosa.Failure{Kind: miosa.FailureExit, ExitCode: l.Int("code", 0), Message: fmt.Sprintf("exited with code %d", l.Int("code", 0)), LastLines: lines}})
	case "app limited":
		s.feed(lifecycle.Exited{Boot: boot, Failure: miosa.Failure{Kind: miosa.FailureLimit, Message: "PID 1 ended it at its limit"}})
	case "vm vanishes":
		s.feed(lifecycle.Vanished{Boot: boot, LastLines: lines})
	case "vm silent":
		s.feed(lifecycle.Silent{Boot: boot})
	case "clock ahead":
		s.feed(lifecycle.ClockSetBack{Boot: boot, By: l.Duration("by", 0), At: s.now})
	case "boot fails":
		s.feed(lifecycle.NotStarted{Boot: boot, Failure: miosa.Failure{Kind: miosa.FailureKind(l.Text("kind", "host")), Message: l.Text("why", "the host could not start it")}})
	case "control falls":
		s.silent = s.now
	case "control answers":
		s.silent = time.Time{}
		s.feed(lifecycle.Tick{})
	case "wait":
		d, err := time.ParseDuration(l.Word(1))
		if err != nil {
			return "", err
		}
		s.wait(d)
	case "agent restarts":
		s.m = lifecycle.Resume(s.in, s.saved, s.now)
		if l.Text("vm", "") == "lost" {
			s.feed(lifecycle.Vanished{Boot: s.saved.Boot, Message: "gone while the agent was away"})
		} else {
			s.feed(lifecycle.Tick{})
		}
	case "state":
		s.state()
	default:
		return "", fmt.Errorf("no such command")
	}
	return strings.Join(s.out, "\n"), nil
}

func (s *stage) begin(l transcript.Line) {
	s.in = miosa.Instance{
		ID: "ri_1", TenantID: "ten_1", DeploymentID: "dep_1", HostID: "host_1", Generation: 1, Goal: miosa.GoalRun,
		Proven: l.Has("proven"), PriorFailures: l.Int("failures", 0),
		Restart: miosa.RestartPolicy{Mode: miosa.RestartMode(l.Text("policy", "always"))}, StopAfterDisconnect: l.Duration("disconnect", 0),
		Spec: miosa.ServiceSpec{Name: "web", Port: 8080, StopGrace: l.Duration("stop", 0), Health: miosa.HealthCheck{
			Command: "/app/check", Grace: l.Duration("grace", 0), Type: miosa.HealthType(l.Text("health", "")), Stable: l.Duration("stable", 0),
		}},
	}
	if l.Has("worker") {
		s.in.Spec.Port = 0
	}
	if l.Word(0) == "task" {
		s.in.TaskID, s.in.Attempt, s.in.Limit = "task_1", 1, l.Duration("limit", 0)
		s.in.Restart.Mode, s.in.Spec.Port, s.in.Spec.Health.Type = miosa.RestartNever, 0, miosa.HealthNone
	}
	if state, ok := l.Value("observed"); ok {
		s.in.Observed = miosa.Observation{State: miosa.InstanceState(state), Boot: l.Int("boots", 1), Seq: 7, StartedAt: s.now.Add(-time.Hour), HealthyAt: s.now.Add(-time.Hour)}
	}
	s.m = lifecycle.New(s.in)
	s.feed(lifecycle.Assigned{Instance: s.in})
}

func (s *stage) assign(l transcript.Line) {
	in := s.in
	in.Generation = int64(l.Int("generation", int(in.Generation)+1))
	in.Goal = miosa.Goal(l.Text("goal", string(in.Goal)))
	in.RestartNonce = l.Int("nonce", in.RestartNonce)
	in.Proven = in.Proven || l.Has("proven")
	if in.Generation >= s.in.Generation {
		s.in = in
	}
	s.feed(lifecycle.Assigned{Instance: in})
}

// feed hands an event over and answers probes at once.
func (s *stage) feed(ev lifecycle.Event) {
	s.ended = s.m.Observation().State.Terminal()
	var ago time.Duration
	if !s.silent.IsZero() {
		ago = s.now.Sub(s.silent)
	}
	events := []lifecycle.Event{lifecycle.Heard{Ago: ago}, ev}
	for len(events) > 0 {
		next := events[0]
		events = events[1:]
		for _, effect := range s.m.Handle(s.now, next) {
			if p, ok := effect.(lifecycle.Probe); ok {
				events = append(events, lifecycle.Probed{Boot: p.Boot, Result: s.probe()})
				continue
			}
			s.say(effect)
		}
	}
}

func (s *stage) probe() health.Result {
	if s.answer == "nothing" {
		return health.Result{At: s.now, Detail: "connection refused"}
	}
	if s.in.Spec.HealthType() == miosa.HealthExec {
		return health.Result{At: s.now, OK: s.answer == "0", Detail: "exited with code " + s.answer}
	}
	return health.Result{At: s.now, OK: s.answer[0] == '2', Detail: "answered " + s.answer}
}

func (s *stage) wait(d time.Duration) {
	if transcript.Wait(&s.now, s.now.Add(d), s.m.Wake, func() { s.feed(lifecycle.Tick{}) }) {
		s.print("wants to be woken at once, for nothing")
	}
}

func (s *stage) print(format string, args ...any) {
	s.out = append(s.out, fmt.Sprintf("%9s  ", s.now.Sub(epoch).Round(10*time.Millisecond))+fmt.Sprintf(format, args...))
}

func (s *stage) say(effect lifecycle.Effect) {
	switch e := effect.(type) {
	case lifecycle.Boot:
		s.print("boot %d", e.Boot)
	case lifecycle.Kill:
		s.print("kill the VM of boot %d", e.Boot)
	case lifecycle.StopGuest:
		s.print("ask boot %d to stop within %s", e.Boot, e.Deadline)
	case lifecycle.Release:
		s.print("give everything back")
	case lifecycle.Report:
		s.saved = e.Observation
		s.print("report %d: %s", e.Observation.Seq, s.words(e.Observation))
	}
}

func (s *stage) words(o miosa.Observation) string {
	w := string(o.State)
	if o.State == miosa.Pending {
		w += fmt.Sprintf(", boot %d in %s", o.Boot+1, o.NextRestartAt.Sub(s.now).Round(time.Millisecond))
	}
	if o.Failures > 0 {
		w += fmt.Sprintf(", failures %d", o.Failures)
	}
	if o.Failure.Message != "" {
		w += fmt.Sprintf(" (%s: %s)", o.Failure.Kind, o.Failure.Message)
	}
	if len(o.Failure.LastLines) > 0 {
		w += fmt.Sprintf(" said %q", o.Failure.LastLines)
	}
	if c := o.ClockSetBack; c.At.Equal(s.now) && !c.At.IsZero() {
		w += fmt.Sprintf(", its clock was set back by %s", c.By)
	}
	return w
}

func (s *stage) state() {
	o := s.m.Observation()
	var phases []string
	for _, p := range o.Phases {
		phases = append(phases, p.Name)
	}
	s.print("%s; boots %d, restarts %d, failures %d; %s", o.State, o.Boot, o.RestartCount, o.Failures, strings.Join(phases, ", "))
}
