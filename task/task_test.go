package task_test

import (
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/lifecycle"
	"github.com/miosa/miosa/task"
	"github.com/miosa/miosa/transcript"
)

var update = flag.Bool("update", false, "accept the transcripts' new output")

var epoch = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func TestTranscripts(t *testing.T) {
	transcript.Run(t, "testdata/*.txt", *update, func() transcript.Player { return newStage().line })
}

// stage carries decisions out as control and a host would.
type stage struct {
	in   task.Input
	wake time.Time
	room bool
	out  []string
	n    int
}

func newStage() *stage {
	return &stage{room: true, in: task.Input{
		Now: epoch, Version: miosa.Version{ID: "ver_1", Number: 7, State: miosa.VersionReady, Services: []miosa.ServiceSpec{{ServiceID: "svc_1", Name: "web", Command: "serve", Port: 8080}}},
	}}
}

// line carries out one line of a script:
//
//	task [limit=10m] [retries=2] [service=svc_1]
//	full | room                   no host has room; one has
//	host alive | suspect | lost   the attempt's
//	claimed | running             the attempt, by its host's reports
//	exits [code=1] [stopped]      its command, also as it was asked to
//	ends kind=vm_crash [state=failed] [why="…"]
//	stop | delete | archive | drain
//	gone                          the attempt's record is
//	wait 10m
//
// After each it is decided until nothing follows.
func (s *stage) line(l transcript.Line) (string, error) {
	s.out = nil
	o := &miosa.Observation{} // of nobody
	if s.in.Attempt != nil {
		o = &s.in.Attempt.Observed
	}
	switch l.Word(0) {
	case "task":
		s.in.Task = miosa.Task{
			ID: "task_1", VersionID: "ver_1", ServiceID: l.Text("service", ""), Command: "migrate",
			Limit: l.Duration("limit", time.Hour), Retries: l.Int("retries", 0), State: miosa.TaskPending, CreatedAt: s.in.Now,
		}
	case "full", "room":
		if s.room = l.Word(0) == "room"; s.room && s.in.Attempt != nil && s.in.Attempt.HostID == "" {
			s.place(s.in.Attempt)
		}
	case "host":
		s.in.Host = miosa.Liveness(l.Word(1))
	case "claimed":
		s.claim(o)
	case "running":
		s.claim(o)
		o.State, o.HealthyAt = miosa.Healthy, s.in.Now
	case "exits":
		code := l.Int("code", 0)
		o.State, o.Failure = miosa.Failed, miosa.Failure{Kind: miosa.FailureExit, ExitCode: code, Message: fmt.Sprintf("exited with code %d", code), LastLines: []string{"last words"}}
		switch {
		case l.Has("stopped"):
			o.State = miosa.Stopped
		case code == 0:
			o.State, o.Failure.Kind = miosa.Stopped, miosa.FailureCompleted
		}
	case "ends":
		o.State = miosa.InstanceState(l.Text("state", "stopped"))
		o.Failure = miosa.Failure{Kind: miosa.FailureKind(l.Text("kind", "")), Message: l.Text("why", "")}
	case "stop":
		s.in.Task.StopAskedAt = s.in.Now
	case "delete":
		s.in.Deleted = true
	case "archive":
		s.in.Version.State = miosa.VersionArchived
	case "drain":
		s.in.Drain = "the drain of a is forced"
	case "gone":
		s.in.Attempt = nil
	case "wait":
		d, err := time.ParseDuration(l.Word(1))
		if err != nil {
			return "", err
		}
		if transcript.Wait(&s.in.Now, s.in.Now.Add(d), func() time.Time { return s.wake }, s.decide) {
			s.say("wants to be woken at once, for nothing")
		}
	default:
		return "", fmt.Errorf("no such command")
	}
	if s.in.Task.ID != "" {
		s.decide()
	}
	return strings.Join(s.out, "\n"), nil
}

func (s *stage) say(format string, args ...any) {
	s.out = append(s.out, fmt.Sprintf("%9s  ", s.in.Now.Sub(epoch))+fmt.Sprintf(format, args...))
}

func (s *stage) claim(o *miosa.Observation) {
	if o.Boot == 0 {
		o.State, o.Boot, o.StartedAt = miosa.Starting, 1, s.in.Now
		o.Phases = []miosa.Phase{{Name: "boot_decided", At: s.in.Now}, {Name: lifecycle.Claimed, At: s.in.Now}}
	}
}

func (s *stage) place(i *miosa.Instance) {
	i.HostID, i.Reasons = "host_a", nil
	s.in.Host = miosa.Alive
}

// decide carries out what follows, until nothing does.
func (s *stage) decide() {
	for range 5 {
		was := s.in.Task
		d := task.Decide(s.in)
		s.wake = d.Wake
		if d.Stop != "" {
			i := s.in.Attempt
			i.Goal, i.GoalReason, i.GoalSince = miosa.GoalStop, d.Stop, s.in.Now
			s.say("stop %s", i.ID)
			if i.Observed.Boot == 0 { // which control writes down by itself
				i.Observed.State, i.Observed.Failure = miosa.Stopped, miosa.Failure{Message: d.Stop}
			}
		}
		if d.Begin {
			s.n++
			spec, _ := d.Task.Spec(s.in.Version)
			s.in.Attempt = &miosa.Instance{ID: fmt.Sprint("ri_", s.n), TaskID: "task_1", Attempt: d.Task.Attempt, Goal: miosa.GoalRun, Spec: spec, Limit: d.Task.Limit, Reasons: []string{"no host has room"}}
			s.in.Host = ""
			words := ""
			if stop := task.StopAfterDisconnect(&d.Task); stop > 0 {
				words = fmt.Sprintf(", stopped after %s without control", stop)
			}
			s.say("begin attempt %d, %q%s", d.Task.Attempt, spec.Command, words)
			if s.room {
				s.place(s.in.Attempt)
			}
		}
		if s.in.Task = d.Task; !d.Changed {
			if d.Stop == "" {
				return
			}
			continue
		}
		if is := d.Task; is.State != was.State || is.Reason != was.Reason {
			s.say("%s: %s%s", is.State, is.Reason, s.words(is))
		}
	}
	s.say("it never rests")
}

func (s *stage) words(t miosa.Task) string {
	words := ""
	if t.Exited {
		words += fmt.Sprintf(" | code %d", t.ExitCode)
	}
	if len(t.LastLines) > 0 {
		words += fmt.Sprintf(" | %q", t.LastLines)
	}
	if !t.Deadline.IsZero() && t.State != miosa.TaskPending {
		words += fmt.Sprintf(" | until %s", t.Deadline.Sub(epoch))
	}
	return words
}

// TestATaskKeepsItsPromises: whatever an attempt's record comes to say, in any order,
// the next one is begun after its end alone, as often as was asked for, and nothing
// follows the task's end.
func TestATaskKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := newStage().in
		in.Task = miosa.Task{ID: "task_1", VersionID: "ver_1", Command: "x", Limit: time.Minute, Retries: rapid.IntRange(0, 2).Draw(t, "retries"), State: miosa.TaskPending}
		begun := 0
		for range rapid.IntRange(1, 40).Draw(t, "length") {
			later := rapid.SampledFrom([]time.Duration{0, time.Second, time.Minute, 20 * time.Minute, 25 * time.Hour, -time.Minute}).Draw(t, "later")
			in.Now = in.Now.Add(later)
			happen(t, &in)
			d := task.Decide(in)
			was, is := in.Task.State, d.Task.State
			counted := d.Task.Attempt - d.Task.NeverBegan
			switch {
			case was.Terminal() && (d.Changed || d.Begin || d.Stop != ""):
				t.Fatalf("%s, and something follows: %+v", was, d)
			case is != was && !was.CanBecome(is):
				t.Fatalf("%s became %s", was, is)
			case d.Begin && in.Attempt != nil && !in.Attempt.State().Terminal():
				t.Fatalf("attempt %d begins beside one that is %s", d.Task.Attempt, in.Attempt.State())
			case d.Begin && d.Task.Attempt != begun+1:
				t.Fatalf("attempt %d follows attempt %d", d.Task.Attempt, begun)
			case counted > 1+d.Task.Retries || d.Task.NeverBegan > task.BeginTries:
				t.Fatalf("%d attempts, of which %d never began, with %d retries", d.Task.Attempt, d.Task.NeverBegan, d.Task.Retries)
			case d.Stop != "" && (in.Attempt == nil || in.Attempt.Goal != miosa.GoalRun):
				t.Fatal("it stops what it has stopped")
			case !is.Terminal() && !d.Begin && d.Stop == "" && d.Wake.IsZero() && (in.Host == miosa.Alive || in.Host == ""):
				t.Fatalf("%s waits for nothing: %+v", is, d.Task)
			case !d.Wake.IsZero() && !d.Wake.After(in.Now):
				t.Fatalf("it wants to be woken at once: %+v", d)
			}
			in.Task = d.Task
			if d.Stop != "" {
				in.Attempt.Goal, in.Attempt.GoalSince, in.Attempt.GoalReason = miosa.GoalStop, in.Now, d.Stop
				if in.Attempt.Observed.Boot == 0 {
					in.Attempt.Observed.State = miosa.Stopped
				}
			}
			if d.Begin {
				begun++
				in.Attempt, in.Host = &miosa.Instance{ID: fmt.Sprint("ri_", begun), TaskID: "task_1", Attempt: begun, Goal: miosa.GoalRun}, ""
			}
		}
	})
}

// happen changes something that a task rests on.
func happen(t *rapid.T, in *task.Input) {
	i := in.Attempt
	what := rapid.IntRange(0, 12).Draw(t, "event")
	if i == nil || i.Observed.State.Terminal() {
		what = min(what, 3)
	}
	switch what {
	case 0:
		in.Task.StopAskedAt = in.Now
	case 1:
		in.Version.State = rapid.SampledFrom([]miosa.VersionState{miosa.VersionReady, miosa.VersionArchived}).Draw(t, "version")
	case 2:
		in.Deleted = rapid.IntRange(0, 3).Draw(t, "deleted") == 0
	case 3:
	case 4:
		i.HostID, in.Host = "host_a", miosa.Alive
	case 5, 6:
		if i.HostID != "" {
			in.Host = rapid.SampledFrom([]miosa.Liveness{miosa.Alive, miosa.Alive, miosa.Suspect, miosa.Lost}).Draw(t, "host")
		}
	case 7, 8:
		if i.HostID != "" && i.Observed.Boot == 0 {
			i.Observed = miosa.Observation{State: miosa.Starting, Boot: 1, Phases: []miosa.Phase{{Name: lifecycle.Claimed}}}
		}
	case 9, 10:
		if i.Observed.State == miosa.Starting {
			i.Observed.State, i.Observed.HealthyAt = miosa.Healthy, in.Now
		}
	case 11, 12:
		i.Observed.State = rapid.SampledFrom([]miosa.InstanceState{miosa.Stopped, miosa.Failed}).Draw(t, "end")
		i.Observed.Failure = miosa.Failure{Kind: rapid.SampledFrom([]miosa.FailureKind{
			"", miosa.FailureExit, miosa.FailureCompleted, miosa.FailureLimit, miosa.FailureVM, miosa.FailureHost, miosa.FailureHostLost, miosa.FailureDisconnected, miosa.FailureNotFound,
		}).Draw(t, "kind")}
	}
	if rapid.IntRange(0, 20).Draw(t, "drain") == 0 {
		in.Drain = "its host is drained"
	}
}
