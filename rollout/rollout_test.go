package rollout_test

import (
	"cmp"
	"flag"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/lifecycle"
	"github.com/miosa/miosa/rollout"
	"github.com/miosa/miosa/transcript"
)

var update = flag.Bool("update", false, "accept the transcripts' new output")

var address = netip.MustParseAddrPort("10.0.0.1:8080")

var epoch = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func TestTranscripts(t *testing.T) {
	transcript.Run(t, "testdata/*.txt", *update, func() transcript.Player {
		s := &stage{in: rollout.Input{Now: epoch}}
		return s.line
	})
}

// stage is one rollout from version 1 to version 2.
type stage struct{ in rollout.Input }

// line carries out one line of a script:
//
//	service NAME replicas=2 [worker] [tcp] [drain=60] [sets=3] [grace=9m] [stable=10m]
//	publish [promote=no] [first] [image=shop:1]
//	pulled | unpulled failure="words"
//	instance ID SERVICE slot=0 [version=1] STATE [failure="words"] [kind=exit] [reason="no room"] [said=line]
//	acknowledged [no] | cancel by=rol_2 | delete | wait 10m
//
// Each but the setting up decides, and goes to the decided step.
func (s *stage) line(l transcript.Line) (string, error) {
	switch l.Word(0) {
	case "service":
		svc := miosa.Service{ID: l.Word(1), Name: l.Word(1), DesiredReplicas: l.Int("replicas", 1), DrainSeconds: l.Int("drain", 0)}
		s.in.Services = append(s.in.Services, svc)
		spec := miosa.ServiceSpec{ServiceID: svc.ID, Name: svc.Name, Port: 8080}
		if l.Has("worker") {
			spec.Port, spec.Type = 0, miosa.ServiceWorker
		}
		if l.Has("tcp") {
			spec.Protocol = miosa.ProtocolTCP
		}
		if n := l.Int("sets", -1); n >= 0 {
			spec.Settings.SetsReplicas, spec.Settings.Replicas = true, n
		}
		spec.Health.Grace, spec.Health.Stable = l.Duration("grace", 0), l.Duration("stable", 0)
		s.in.Target.ID = "ver_2"
		s.in.Target.Services = append(s.in.Target.Services, spec)
		return "", nil
	case "publish":
		s.in.Rollout = miosa.Rollout{
			ID: "rol_1", TargetID: "ver_2", FromID: "ver_1", Promote: l.Text("promote", "yes") == "yes", Step: miosa.StepStarting,
			CreatedAt: s.in.Now, StepSince: s.in.Now, Deadline: s.in.Now.Add(rollout.StartWithin(s.in.Target)),
		}
		if l.Has("first") {
			s.in.Rollout.FromID = ""
		}
		if image, ok := l.Value("image"); ok {
			s.in.Target.Image.Reference = image
			s.in.Rollout.Step, s.in.Rollout.Deadline = miosa.StepPulling, s.in.Now.Add(rollout.PullDeadline)
		}
	case "pulled":
		s.in.Target.Image.Digest = "sha256:1"
		for n := range s.in.Target.Services {
			s.in.Target.Services[n].ReleaseID = "rel_1"
		}
	case "unpulled":
		s.in.Target.Image.Failure = l.Text("failure", "")
	case "instance":
		s.instance(l)
	case "acknowledged":
		s.in.Acknowledged = !l.Has("no")
	case "cancel":
		s.in.Rollout.CancelledBy = l.Text("by", "rol_2")
	case "delete":
		s.in.Deleted = true
	case "wait":
		d, err := time.ParseDuration(l.Word(1))
		if err != nil {
			return "", err
		}
		s.in.Now = s.in.Now.Add(d)
	default:
		return "", fmt.Errorf("no such command")
	}
	if s.in.Rollout.ID == "" {
		return "", nil
	}
	return s.decide(), nil
}

func (s *stage) instance(l transcript.Line) {
	i := miosa.Instance{
		ID: l.Word(1), ServiceID: l.Word(2), VersionID: fmt.Sprint("ver_", l.Int("version", 2)), Slot: l.Int("slot", 0),
		Goal: miosa.GoalRun, HostID: "host_1", CreatedAt: s.in.Now, Spec: miosa.ServiceSpec{Name: l.Word(2), Port: 8080},
	}
	for _, spec := range s.in.Target.Services {
		if spec.ServiceID == i.ServiceID {
			i.Spec = spec
		}
	}
	if reason, ok := l.Value("reason"); ok {
		i.HostID, i.Reasons = "", []string{reason}
	}
	i.Observed.State = miosa.InstanceState(l.Word(3))
	i.Observed.Failure = miosa.Failure{Kind: miosa.FailureKind(l.Text("kind", "")), Message: l.Text("failure", "")}
	i.Observed.Addr = address
	if said, ok := l.Value("said"); ok {
		i.Observed.Failure.LastLines = []string{said}
	}
	s.in.Instances = slices.DeleteFunc(s.in.Instances, func(o miosa.Instance) bool { return o.ID == i.ID })
	s.in.Instances = append(s.in.Instances, i)
}

func (s *stage) decide() string {
	d := rollout.Decide(s.in)
	moved := d.Step != s.in.Rollout.Step
	var w strings.Builder
	fmt.Fprintf(&w, "%s: %s", d.Step, d.Reason)
	for _, f := range []struct {
		set  bool
		word string
	}{{d.Ready, "ready"}, {d.Activate, "make it live"}, {d.Failed, "the version failed"}, {len(d.Lines) > 0, fmt.Sprintf("said %q", d.Lines)}} {
		if f.set {
			w.WriteString(" | " + f.word)
		}
	}
	if moved && !d.Deadline.IsZero() {
		w.WriteString(" | within " + d.Deadline.Sub(s.in.Now).String())
	}
	if moved {
		s.in.Rollout.Deadline, s.in.Rollout.StepSince = d.Deadline, s.in.Now
	}
	s.in.Rollout.Step, s.in.Rollout.Reason = d.Step, d.Reason
	return w.String()
}

// A rollout takes its steps forward only, makes a version live only after it
// was ready, and comes to an end under any fortunes, in bounded time.
func TestSteps(t *testing.T) {
	rank := map[miosa.RolloutStep]int{miosa.StepPulling: -1, miosa.StepStarting: 0, miosa.StepFlipping: 1, miosa.StepDraining: 2, miosa.StepDone: 3, miosa.StepFailed: 3, miosa.StepCancelled: 3}
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		began := in.Now
		ready, live := false, false
		for range 200 {
			d := rollout.Decide(in)
			other := in
			other.Instances = slices.Clone(in.Instances)
			slices.Reverse(other.Instances)
			if again := rollout.Decide(other); again.Step != d.Step || again.Reason != d.Reason || again.Activate != d.Activate || again.Failed != d.Failed {
				t.Fatalf("%+v in one order, %+v in another", d, again)
			}
			was := in.Rollout.Step
			ready = ready || d.Ready
			switch {
			case rank[d.Step] < rank[was], was.Terminal() && d.Step != was:
				t.Fatalf("%s after %s", d.Step, was)
			case d.Reason == "" && !was.Terminal():
				t.Fatalf("%s without a reason", d.Step)
			case d.Activate && (!ready || live || d.Step != miosa.StepDraining):
				t.Fatalf("made live: %+v, ready before: %t, live before: %t", d, ready, live)
			case d.Step == miosa.StepFailed && !d.Failed, d.Failed && live:
				t.Fatalf("%+v, live before: %t", d, live)
			case d.Activate && !answers(in):
				t.Fatalf("made live without a backend: %+v", in.Instances)
			case was == miosa.StepFlipping && d.Step == miosa.StepFailed && answers(in) && !slices.ContainsFunc(in.Instances, gaveUp(in)):
				t.Fatal("failed while flipping, although it could answer")
			case was == miosa.StepPulling && d.Step == miosa.StepStarting && !in.Target.Pulled():
				t.Fatal("started without its bytes")
			case was == miosa.StepStarting && (d.Ready || d.Step == miosa.StepFlipping) && !allWell(in):
				t.Fatalf("not all services are well, and yet %+v", d)
			case d.Activate && slices.ContainsFunc(in.Instances, gaveUp(in)) && !allWell(in):
				t.Fatalf("made live, although a service failed: %+v", in.Instances)
			case !in.Rollout.Promote && (d.Activate || d.Step == miosa.StepFlipping):
				t.Fatalf("not to be promoted, and yet %+v", d)
			case !d.Step.Terminal() && d.Step == was && d.Wake.IsZero():
				t.Fatalf("%s waits for no time", d.Step)
			}
			live = live || d.Activate
			if d.Step.Terminal() {
				return
			}
			if d.Step != was {
				in.Rollout.Deadline, in.Rollout.StepSince = d.Deadline, in.Now
			}
			in.Rollout.Step, in.Rollout.Reason = d.Step, d.Reason
			fortune(t, &in)
			if bound := rollout.PullDeadline + rollout.StartWithin(in.Target) + rollout.FlipDeadline + time.Hour; in.Now.Sub(began) > bound {
				t.Fatalf("still %s after %s", in.Rollout.Step, in.Now.Sub(began))
			}
		}
		t.Fatal("no end")
	})
}

// answers: requests and connections to the target have a backend, where they
// go to it.
func answers(in rollout.Input) bool {
	for _, svc := range in.Services {
		spec, ok := in.Target.Service(svc.ID)
		if ok && spec.Raw() && svc.DesiredReplicas > 0 && !slices.ContainsFunc(in.Instances, func(i miosa.Instance) bool {
			return i.VersionID == "ver_2" && i.ServiceID == svc.ID && i.Serving()
		}) {
			return false
		}
	}
	if in.Target.RoutedServiceID == "" {
		return true
	}
	if !slices.ContainsFunc(in.Target.Services, func(s miosa.ServiceSpec) bool { return s.Port != 0 }) {
		return true
	}
	return slices.ContainsFunc(in.Instances, func(i miosa.Instance) bool {
		return i.VersionID == "ver_2" && i.ServiceID == in.Target.RoutedServiceID && i.HostID != "" && i.Goal == miosa.GoalRun && i.Observed.State == miosa.Healthy
	})
}

// allWell: every place of every service of the target has an occupant that is
// healthy, or a worker that is done with its work.
func allWell(in rollout.Input) bool {
	for _, svc := range in.Services {
		spec, ok := in.Target.Service(svc.ID)
		if !ok {
			continue
		}
		for slot := range max(svc.DesiredReplicas, 1) {
			if !slices.ContainsFunc(in.Instances, func(i miosa.Instance) bool {
				done := i.Observed.State == miosa.Stopped && i.Observed.Failure.Kind == miosa.FailureCompleted && spec.Port == 0 && !i.CreatedAt.Before(in.Rollout.CreatedAt)
				return i.VersionID == "ver_2" && i.ServiceID == svc.ID && i.Slot == slot && (i.Observed.State == miosa.Healthy || done)
			}) {
				return false
			}
		}
	}
	return true
}

// gaveUp: of the target, since the rollout began, and nothing more is tried.
func gaveUp(in rollout.Input) func(miosa.Instance) bool {
	return func(i miosa.Instance) bool {
		spec, ok := in.Target.Service(i.ServiceID)
		n := slices.IndexFunc(in.Services, func(s miosa.Service) bool { return s.ID == i.ServiceID })
		completed := i.Observed.State == miosa.Stopped && i.Observed.Failure.Kind == miosa.FailureCompleted && spec.Port != 0
		return ok && i.VersionID == "ver_2" && i.Slot < max(in.Services[n].DesiredReplicas, 1) && !i.CreatedAt.Before(in.Rollout.CreatedAt) &&
			(i.Observed.State == miosa.Failed || completed)
	}
}

func drawInput(t *rapid.T) rollout.Input {
	in := rollout.Input{Now: epoch, Target: miosa.Version{ID: "ver_2"}}
	for n := range rapid.IntRange(1, 3).Draw(t, "services") {
		id := fmt.Sprint("svc_", n)
		in.Services = append(in.Services, miosa.Service{ID: id, DesiredReplicas: rapid.IntRange(0, 3).Draw(t, "replicas"), DrainSeconds: rapid.IntRange(0, 100).Draw(t, "drain")})
		if rapid.IntRange(0, 5).Draw(t, "in the target") > 0 {
			spec := miosa.ServiceSpec{ServiceID: id, Port: rapid.SampledFrom([]int{0, 80}).Draw(t, "port")}
			if spec.Port != 0 && rapid.Bool().Draw(t, "raw") {
				spec.Protocol = miosa.ProtocolTCP
			}
			spec.Health.Grace = time.Duration(rapid.IntRange(0, 600).Draw(t, "grace")) * time.Second
			spec.Health.Stable = time.Duration(rapid.IntRange(0, 600).Draw(t, "stable")) * time.Second
			in.Target.Services = append(in.Target.Services, spec)
		}
	}
	in.Target.RoutedServiceID = miosa.RoutedService(in.Target.Services)
	in.Rollout = miosa.Rollout{
		ID: "rol_1", TargetID: "ver_2", FromID: rapid.SampledFrom([]string{"", "ver_1", "ver_2"}).Draw(t, "from"), Promote: rapid.Bool().Draw(t, "promote"),
		Step: miosa.StepStarting, CreatedAt: epoch, Deadline: epoch.Add(rollout.StartWithin(in.Target)),
	}
	if rapid.Bool().Draw(t, "image") {
		in.Target.Image.Reference = "registry.example/shop:1.4"
		in.Rollout.Step, in.Rollout.Deadline = miosa.StepPulling, epoch.Add(rollout.PullDeadline)
	}
	for n := range rapid.IntRange(0, 6).Draw(t, "instances") {
		i := miosa.Instance{
			ID: fmt.Sprint("ri_", n), Goal: miosa.GoalRun, VersionID: rapid.SampledFrom([]string{"ver_1", "ver_2", "ver_2"}).Draw(t, "version"),
			ServiceID: fmt.Sprint("svc_", rapid.IntRange(0, 2).Draw(t, "service")), Slot: rapid.IntRange(0, 2).Draw(t, "slot"), HostID: "host_1",
			CreatedAt: epoch.Add(time.Duration(rapid.IntRange(-1, 1).Draw(t, "made")) * time.Second),
		}
		i.Spec, _ = in.Target.Service(i.ServiceID)
		i.Observed.Addr = address
		in.Instances = append(in.Instances, i)
	}
	return in
}

// fortune is what may happen between two decisions.
func fortune(t *rapid.T, in *rollout.Input) {
	in.Now = in.Now.Add(rapid.SampledFrom([]time.Duration{time.Second, 10 * time.Second, time.Minute, 5 * time.Minute}).Draw(t, "later"))
	in.Acknowledged = rapid.IntRange(0, 3).Draw(t, "acknowledged") == 0
	in.Instances = slices.Clone(in.Instances)
	for n := range in.Instances {
		if i := &in.Instances[n]; rapid.Bool().Draw(t, "changes") && !i.Observed.State.Terminal() {
			i.Observed.State = rapid.SampledFrom([]miosa.InstanceState{miosa.Pending, miosa.Starting, miosa.Healthy, miosa.Healthy, miosa.Unhealthy, miosa.Stopped, miosa.Failed}).Draw(t, "state")
			if i.Observed.State == miosa.Stopped {
				i.Observed.Failure.Kind = rapid.SampledFrom([]miosa.FailureKind{"", miosa.FailureCompleted}).Draw(t, "kind")
			}
		}
	}
	switch rapid.IntRange(0, 40).Draw(t, "event") {
	case 0:
		in.Rollout.CancelledBy = "rol_9"
	case 1:
		in.Deleted = true
	case 2:
		in.Target.Image.Failure = "no such tag"
	case 3, 4, 5:
		in.Target.Services = slices.Clone(in.Target.Services)
		for n := range in.Target.Services {
			in.Target.Services[n].ReleaseID = "rel_1"
		}
	}
}

// One that boots as slowly as it may and then uses its whole grace, or runs as
// long as it must to be stable, goes live.
func TestTheDeadlineLeavesRoomForGrace(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		in.Instances, in.Rollout.Promote = nil, true
		last := epoch
		for _, svc := range in.Services {
			spec, ok := in.Target.Service(svc.ID)
			if !ok {
				continue
			}
			at := epoch.Add(lifecycle.BootDeadline + cmp.Or(spec.Health.Grace, time.Minute))
			if spec.Port == 0 {
				at = epoch.Add(lifecycle.BootDeadline + cmp.Or(spec.Health.Stable, 10*time.Second))
			}
			if at.After(last) {
				last = at
			}
			for slot := range max(svc.DesiredReplicas, 1) {
				i := miosa.Instance{ID: fmt.Sprint(svc.ID, slot), VersionID: "ver_2", ServiceID: svc.ID, Slot: slot, HostID: "host_1", Goal: miosa.GoalRun, Spec: spec, CreatedAt: epoch}
				i.Observed.State, i.Observed.Addr = miosa.Starting, address
				in.Instances = append(in.Instances, i)
			}
		}
		if in.Rollout.Step == miosa.StepPulling {
			in.Target.Services = slices.Clone(in.Target.Services)
			for n := range in.Target.Services {
				in.Target.Services[n].ReleaseID = "rel_1"
			}
			d := rollout.Decide(in)
			in.Rollout.Step, in.Rollout.Deadline = d.Step, d.Deadline
		}
		in.Now = last
		if d := rollout.Decide(in); d.Failed {
			t.Fatalf("given up at %s: %+v", last.Sub(epoch), d)
		}
		for n := range in.Instances {
			in.Instances[n].Observed.State = miosa.Healthy
		}
		if d := rollout.Decide(in); d.Step != miosa.StepFlipping {
			t.Fatalf("%+v", d)
		}
	})
}

// A rollout that gave no new version a chance says why.
func TestFailureSaysWhatItWaitedFor(t *testing.T) {
	in := rollout.Input{
		Now: epoch.Add(rollout.StartDeadline), Target: miosa.Version{ID: "ver_2", Services: []miosa.ServiceSpec{{ServiceID: "web"}}},
		Services:  []miosa.Service{{ID: "web", DesiredReplicas: 1}},
		Rollout:   miosa.Rollout{ID: "rol_1", TargetID: "ver_2", Step: miosa.StepStarting, CreatedAt: epoch, Deadline: epoch.Add(rollout.StartDeadline)},
		Instances: []miosa.Instance{{ID: "ri_1", ServiceID: "web", VersionID: "ver_2", Goal: miosa.GoalRun, Reasons: []string{"1 host cordoned"}, CreatedAt: epoch}},
	}
	if d := rollout.Decide(in); !d.Failed || !strings.Contains(d.Reason, "1 host cordoned") {
		t.Errorf("%+v", d)
	}
}
