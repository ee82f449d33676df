package lifecycle_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/health"
	"github.com/miosa/miosa/lifecycle"
)

// model is a host that does what the machine asks, and looks whether that is
// allowed.
type model struct {
	*rapid.T
	m        *lifecycle.Machine
	now      time.Time
	running  map[int]bool // boots whose VM may exist
	probing  bool
	released bool
	jumped   time.Duration // how far the clock went back, all in all
	saved    miosa.Observation
	last     miosa.Observation // before the event
	phases   []miosa.Phase     // at the last look
	heard    time.Time         // what was told last of control; zero: nothing
	begun    int               // boots asked for
}

func TestMachineKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInstance(t)
		w := &model{T: t, m: lifecycle.New(in), now: epoch, running: map[int]bool{}}
		w.feed(lifecycle.Assigned{Instance: in})
		for range rapid.IntRange(1, 60).Draw(t, "length") {
			w.step()
		}
		w.stop()
	})
}

func drawInstance(t *rapid.T) miosa.Instance {
	in := miosa.Instance{
		ID: "ri_1", HostID: "host_1", Generation: 1, Goal: miosa.GoalRun,
		Proven:              rapid.Bool().Draw(t, "proven"),
		PriorFailures:       rapid.IntRange(0, health.Budget).Draw(t, "prior"),
		StopAfterDisconnect: rapid.SampledFrom([]time.Duration{0, 0, 10 * time.Second, time.Hour}).Draw(t, "stop after disconnect"),
		Restart:             miosa.RestartPolicy{Mode: rapid.SampledFrom([]miosa.RestartMode{"", miosa.RestartAlways, miosa.RestartOnFailure, miosa.RestartNever}).Draw(t, "policy")},
		Spec: miosa.ServiceSpec{
			Port: rapid.SampledFrom([]int{0, 8080}).Draw(t, "port"),
			Health: miosa.HealthCheck{
				Grace:     rapid.SampledFrom([]time.Duration{0, time.Millisecond, time.Minute}).Draw(t, "grace"),
				Interval:  rapid.SampledFrom([]time.Duration{0, time.Millisecond, time.Hour}).Draw(t, "interval"),
				Threshold: rapid.IntRange(0, 4).Draw(t, "threshold"),
			},
		},
	}
	if rapid.IntRange(0, 2).Draw(t, "task") == 0 {
		in.TaskID, in.Spec.Port = "task_1", 0
		in.Limit = rapid.SampledFrom([]time.Duration{0, time.Millisecond, time.Minute}).Draw(t, "limit")
	}
	// A host that lost its state is told of an instance that control knows.
	if rapid.IntRange(0, 9).Draw(t, "known") == 0 {
		in.Observed = miosa.Observation{
			State: rapid.SampledFrom([]miosa.InstanceState{miosa.Pending, miosa.Starting, miosa.Healthy, miosa.Unhealthy, miosa.Stopping}).Draw(t, "observed"),
			Boot:  rapid.IntRange(0, 5).Draw(t, "boots"), Seq: 9, StartedAt: epoch.Add(-time.Hour), NextRestartAt: epoch,
		}
	}
	return in
}

func (w *model) step() {
	later := rapid.SampledFrom([]time.Duration{
		0, time.Millisecond, 100 * time.Millisecond, time.Second, 10 * time.Second, time.Minute, 11 * time.Minute, -time.Minute,
	}).Draw(w.T, "later")
	w.now = w.now.Add(later)
	w.jumped -= min(later, 0)
	boot := w.m.Observation().Boot + rapid.SampledFrom([]int{0, 0, 0, 0, -1, 1}).Draw(w.T, "boot")
	failure := miosa.Failure{
		Kind:     rapid.SampledFrom([]miosa.FailureKind{miosa.FailureExit, miosa.FailureSignal, miosa.FailureOOM, miosa.FailureNotFound, miosa.FailureImage, miosa.FailureHost}).Draw(w.T, "failure"),
		ExitCode: rapid.IntRange(0, 1).Draw(w.T, "code"), LastLines: make([]string, rapid.IntRange(0, 60).Draw(w.T, "lines")),
	}
	switch rapid.IntRange(0, 16).Draw(w.T, "event") {
	case 0, 1:
		w.tick()
	case 2:
		w.feed(lifecycle.Started{Boot: boot, VMID: fmt.Sprint("vm", boot), Addr: netip.MustParseAddrPort("10.0.0.2:1"), At: w.now})
	case 3, 4:
		w.feed(lifecycle.Reached{Boot: boot, Name: "app_started", At: w.now.Add(w.claim())})
	case 5:
		w.feed(lifecycle.Reached{Boot: boot, Name: "listening", At: w.now.Add(w.claim()), Hint: "any", Detached: rapid.Bool().Draw(w.T, "detached")})
	case 6, 7:
		if w.probing {
			w.feed(lifecycle.Probed{Boot: w.m.Observation().Boot, Result: health.Result{At: w.now, OK: rapid.IntRange(0, 3).Draw(w.T, "ok") > 0}})
		}
	case 8:
		w.feed(lifecycle.Exited{Boot: boot, Failure: failure, Stopped: rapid.IntRange(0, 3).Draw(w.T, "stopped") == 0})
	case 9:
		w.feed(lifecycle.Vanished{Boot: boot})
	case 10:
		w.feed(lifecycle.Silent{Boot: boot})
	case 11:
		w.feed(lifecycle.NotStarted{Boot: boot, Failure: failure})
	case 12:
		in := w.m.Instance()
		in.Generation += int64(rapid.IntRange(-1, 1).Draw(w.T, "generation"))
		switch rapid.IntRange(0, 6).Draw(w.T, "change") {
		case 0:
			if in.Goal == miosa.GoalRun {
				in.Goal = miosa.GoalDrain
			}
		case 1:
			in.Goal = miosa.GoalStop
		case 2, 3:
			in.RestartNonce++
		case 4:
			in.Proven = true
		case 5:
			in.StopAfterDisconnect = rapid.SampledFrom([]time.Duration{0, time.Minute}).Draw(w.T, "stops after")
		}
		w.feed(lifecycle.Assigned{Instance: in})
	case 13:
		w.resume()
	case 14:
		ago := rapid.SampledFrom([]time.Duration{0, 5 * time.Second, 2 * time.Minute, 1 << 62}).Draw(w.T, "ago")
		w.heard = w.now.Add(-ago)
		w.feed(lifecycle.Heard{Ago: ago})
		w.tick()
	case 15, 16:
		w.feed(lifecycle.Taken{Began: w.saved.StartedAt.Add(rapid.SampledFrom([]time.Duration{0, 0, 0, 1}).Draw(w.T, "taken"))})
	}
}

// alone: nothing goes on for longer without control than it may.
func (w *model) alone() {
	state, limit := w.m.Observation().State, w.m.Instance().StopAfterDisconnect
	if limit > 0 && !w.heard.IsZero() && !w.now.Before(w.heard.Add(limit)) && state != miosa.Stopping && !state.Terminal() {
		w.Fatalf("%s at %s, and control was last heard at %s", state, w.now, w.heard)
	}
}

// claim is how far from the host's clock a guest says that something happened.
func (w *model) claim() time.Duration {
	return rapid.SampledFrom([]time.Duration{0, -time.Second, -1 << 62, time.Minute, 1 << 62}).Draw(w.T, "claim")
}

// resume is the agent's process dying and starting again; its VM may be gone.
func (w *model) resume() {
	if w.saved.State == "" || w.saved.State.Terminal() {
		return
	}
	w.m, w.probing, w.heard = lifecycle.Resume(w.m.Instance(), w.saved, w.now), false, time.Time{}
	if rapid.Bool().Draw(w.T, "alive") && !(w.once() && w.saved.State == miosa.Starting && len(w.running) == 0) {
		w.tick()
	} else {
		w.feed(lifecycle.Vanished{Boot: w.saved.Boot})
	}
}

// tick must do all there is to do: a machine that wants another one at the
// same moment would spin.
func (w *model) tick() {
	w.feed(lifecycle.Tick{})
	w.alone()
	if at := w.m.Wake(); !at.IsZero() && !at.After(w.now) {
		w.Fatalf("after a tick at %s it wants one at %s: %+v", w.now, at, w.m.Observation())
	}
}

func (w *model) feed(ev lifecycle.Event) {
	w.last = w.m.Observation()
	boot := w.last.Boot
	if _, ok := ev.(lifecycle.Probed); ok {
		w.probing = false
	}
	for _, effect := range w.m.Handle(w.now, ev) {
		if w.released {
			if _, ok := effect.(lifecycle.Report); !ok {
				w.Fatalf("%T after everything was given back", effect)
			}
		}
		switch e := effect.(type) {
		case lifecycle.Boot:
			if len(w.running) > 0 {
				w.Fatalf("boot %d while %v may run", e.Boot, w.running)
			}
			if e.Boot <= boot && !w.once() { // of those it was claimed before
				w.Fatalf("boot %d after boot %d", e.Boot, boot)
			}
			boot, w.running[e.Boot], w.probing = e.Boot, true, false
			if w.begun++; w.once() && w.begun > 1 {
				w.Fatal("an attempt boots a second time")
			}
		case lifecycle.Kill:
			delete(w.running, e.Boot)
			w.probing = false
		case lifecycle.Probe:
			if w.probing {
				w.Fatal("a second probe before the first came back")
			}
			w.probing = true
		case lifecycle.StopGuest:
			if !w.running[e.Boot] {
				w.Fatalf("asks boot %d to stop, which does not run", e.Boot)
			}
		case lifecycle.Release:
			if len(w.running) > 0 {
				w.Fatalf("gives back what %v runs on", w.running)
			}
			w.released = true
		case lifecycle.Report:
			if e.Observation.Seq <= w.saved.Seq {
				w.Fatalf("report %d after %d", e.Observation.Seq, w.saved.Seq)
			}
			w.saved = e.Observation
		}
	}
	w.look()
}

// look is what must hold after every event.
func (w *model) look() {
	o := w.m.Observation()
	if !reachable(w.last.State, o.State, 2) {
		w.Fatalf("%s became %s", w.last.State, o.State)
	}
	if o.Boot < w.last.Boot || o.Boot > w.last.Boot+1 {
		w.Fatalf("boot %d after %d", o.Boot, w.last.Boot)
	}
	for _, p := range o.Phases[min(len(o.Phases), len(w.phases)):] {
		// The clock may have been set back since the first.
		if first := o.Phases[0].At; p.At.Before(first) || p.At.After(w.now) && !p.At.Equal(first) {
			w.Fatalf("phase %s at %s, of a boot from %s on, at %s", p.Name, p.At, first, w.now)
		}
	}
	w.phases = o.Phases
	if len(o.Failure.LastLines) > lifecycle.MaxLastLines {
		w.Fatalf("%d log lines kept", len(o.Failure.LastLines))
	}
	if w.last.State.Terminal() && (o.State != w.last.State || o.Seq != w.last.Seq) {
		w.Fatalf("something after the end: %+v", o)
	}
	if o.State.Terminal() {
		if !w.released || len(w.running) > 0 {
			w.Fatalf("%s with %v running, released %t", o.State, w.running, w.released)
		}
		if !w.m.Wake().IsZero() {
			w.Fatal("it wants to be woken after its end")
		}
		return
	}
	if o.State == miosa.Pending && len(w.running) > 0 {
		w.Fatalf("pending while %v may run", w.running)
	}
	if w.once() {
		w.lookOnce(o)
		return
	}
	if o.State != miosa.Pending && len(w.running) != 1 {
		w.Fatalf("%s with %v running", o.State, w.running)
	}
	// Who waits for no time waits for an event that is sure to come: a probe's
	// answer, or the end of a worker that is well.
	if w.m.Wake().IsZero() && !w.probing && !(o.State == miosa.Healthy && w.m.Instance().Spec.Port == 0) {
		w.Fatalf("%s waits for nothing", o.State)
	}
	if o.Failure.Kind == miosa.FailureDisconnected && o.State != miosa.Stopping && o.State != miosa.Stopped {
		w.Fatalf("without control it is %s", o.State)
	}
	if o.Failures > health.Budget+1 {
		w.Fatalf("%d failures on the ladder", o.Failures)
	}
}

func (w *model) once() bool {
	in := w.m.Instance()
	return in.Once()
}

// lookOnce is what must hold of an attempt: it runs where control has taken its
// claim, until its limit, and is not begun a second time.
func (w *model) lookOnce(o miosa.Observation) {
	_, claimed := lifecycle.PhaseAt(o, lifecycle.Claimed)
	switch {
	case w.last.Boot > 0 && o.State == miosa.Pending && w.last.State != miosa.Pending:
		w.Fatal("an attempt that has begun is pending")
	case claimed != (len(w.running) == 1):
		w.Fatalf("%s, claimed %t, with %v running", o.State, claimed, w.running)
	case claimed && w.m.Wake().IsZero() && !(o.State == miosa.Healthy && w.m.Instance().Limit == 0):
		w.Fatalf("%s waits for nothing", o.State)
	}
}

// reachable: by at most so many legal moves.
func reachable(from, to miosa.InstanceState, moves int) bool {
	if from == to || from == "" {
		return true
	}
	if moves == 0 {
		return false
	}
	for _, s := range []miosa.InstanceState{miosa.Pending, miosa.Starting, miosa.Healthy, miosa.Unhealthy, miosa.Stopping, miosa.Stopped, miosa.Failed} {
		if from.CanBecome(s) && reachable(s, to, moves-1) {
			return true
		}
	}
	return false
}

// stop asks for the end and answers nothing any more: it must come within the
// deadlines.
func (w *model) stop() {
	in := w.m.Instance()
	in.Goal = miosa.GoalStop
	in.Generation++
	w.feed(lifecycle.Assigned{Instance: in})
	// A stop that began before the clock jumped back ends that much later.
	limit := w.now.Add(lifecycle.StopGrace(in.Spec) + lifecycle.KillAfter + w.jumped)
	for !w.m.Observation().State.Terminal() {
		at := w.m.Wake()
		if at.IsZero() || at.After(limit) {
			w.Fatalf("told to stop, %s until %s, not %s", w.m.Observation().State, at, limit)
		}
		if at.After(w.now) {
			w.now = at
		}
		w.tick()
	}
}
