package agent_test

import (
	"context"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/vmm"
)

// ledger is a control that writes reports down as the real one does, and whose
// answers may be lost.
type ledger struct {
	*control
	away, mute atomic.Bool  // nothing comes through to it, or from it
	asked      atomic.Int64 // reports that were brought
}

func (l *ledger) Observe(_ context.Context, _ string, o miosa.Observation) error {
	defer l.change(func() { l.asked.Add(1) })
	if l.away.Load() {
		return miosa.Errorf(miosa.Unavailable, "nobody is there")
	}
	var err error
	l.change(func() {
		if cell.Refused(l.in, l.observed, o) {
			err = miosa.Errorf(miosa.NotFound, "it has begun otherwise")
		} else if next, _, ok := cell.Observed(l.in, l.observed, o); ok {
			l.observed = next
		}
	})
	if l.mute.Load() {
		return miosa.Errorf(miosa.Unavailable, "the answer was lost")
	}
	return err
}

// untilAsked waits until so many reports more were brought.
func (l *ledger) untilAsked(t *testing.T, more int64) {
	t.Helper()
	deadline := time.After(patience)
	for want := l.asked.Load() + more; ; {
		l.mu.Lock()
		changed := l.changed
		l.mu.Unlock()
		if l.asked.Load() >= want {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("%d reports of %d", l.asked.Load(), want)
		case <-changed:
		}
	}
}

// starts counts the VMs that are started.
type starts struct {
	vmm.Driver
	n atomic.Int64
}

func (s *starts) Start(ctx context.Context, spec vmm.Spec) (vmm.VM, error) {
	s.n.Add(1)
	return s.Driver.Start(ctx, spec)
}

// attempt is a rig with an attempt at a task.
func attempt(t *testing.T, command string) (*rig, *ledger, *starts) {
	r := newRig(t, command)
	r.control.in.TaskID, r.control.in.Attempt, r.control.in.ServiceID = "task_1", 1, ""
	r.control.in.Spec.Port, r.control.in.Spec.Health.Type = 0, miosa.HealthNone
	l, s := &ledger{control: r.control}, &starts{Driver: r.driver}
	r.link, r.vmm, r.logs = l, s, nil
	return r, l, s
}

// An attempt's VM is started once control has its claim, however often its answers
// are lost, and only once.
func TestAnAttemptWaitsForItsClaim(t *testing.T) {
	r, l, s := attempt(t, "sim exit 0 after=50ms")
	l.away.Store(true)
	stop := r.start()
	defer func() { stop() }()
	l.untilAsked(t, 2)
	if n := s.n.Load(); n > 0 {
		t.Fatalf("%d started without leave", n)
	}
	l.mute.Store(true)
	l.away.Store(false)
	l.untilAsked(t, 2)
	if n := s.n.Load(); n > 0 {
		t.Fatalf("%d started before control's answer", n)
	}
	l.mute.Store(false)
	l.until(t, miosa.Stopped)
	if f := l.last().Failure; f.Kind != miosa.FailureCompleted || s.n.Load() != 1 {
		t.Errorf("%+v after %d starts", f, s.n.Load())
	}
}

// What another has begun already is not begun again by who heard of it late, or has
// lost what it knew.
func TestAnAttemptThatHasBegunElsewhere(t *testing.T) {
	r, l, s := attempt(t, "sim serve")
	other := miosa.Observation{State: miosa.Starting, Boot: 1, Seq: 1, StartedAt: time.Now().Add(-time.Minute)}
	stale := &late{ledger: l}
	l.observed, r.link = other, stale
	stop := r.start()
	defer func() { stop() }()
	l.untilAsked(t, 2) // its claim, and its end
	if o := l.last(); !o.StartedAt.Equal(other.StartedAt) || o.State != miosa.Starting || s.n.Load() > 0 {
		t.Errorf("%+v after %d starts", o, s.n.Load())
	}
	// Told how it stands, it says that nobody knows how it ended.
	stale.knows.Store(true)
	stop()
	stop = r.start()
	l.until(t, miosa.Failed)
	if o := l.last(); o.Failure.Kind != miosa.FailureVM || s.n.Load() > 0 {
		t.Errorf("%+v after %d starts", o, s.n.Load())
	}
}

// An attempt goes on beside an agent that starts again, and ends with its VM or with
// what its host knew of it.
func TestAnAttemptAndARestartOfItsAgent(t *testing.T) {
	for name, c := range map[string]struct {
		meanwhile func(t *testing.T, r *rig)
		kind      miosa.FailureKind
	}{
		"goes on": {func(*testing.T, *rig) {}, miosa.FailureCompleted},
		"its VM is gone": {func(t *testing.T, r *rig) {
			if _, err := r.driver.Reclaim(t.Context(), func(string) bool { return false }); err != nil {
				t.Fatal(err)
			}
		}, miosa.FailureVM},
		"its state is gone": {func(t *testing.T, r *rig) {
			if err := os.RemoveAll(filepath.Join(r.dir, "agent")); err != nil {
				t.Fatal(err)
			}
		}, miosa.FailureVM},
		"its state cannot be read": {func(t *testing.T, r *rig) {
			if err := os.WriteFile(filepath.Join(r.dir, "agent", instanceID, "state.json"), []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, miosa.FailureVM},
		"its host goes down": {func(t *testing.T, r *rig) {
			if err := r.agent.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
		}, miosa.FailureVM},
	} {
		t.Run(name, func(t *testing.T) {
			r, l, s := attempt(t, "sim exit 0 after=1s")
			stop := r.start()
			l.until(t, miosa.Healthy)
			stop()
			c.meanwhile(t, r)
			stop = r.start()
			defer stop()
			deadline := time.After(patience)
			for !l.last().State.Terminal() {
				select {
				case <-deadline:
					t.Fatalf("it is %s", l.last().State)
				case <-time.After(5 * time.Millisecond):
				}
			}
			if f := l.last().Failure; f.Kind != c.kind || s.n.Load() != 1 {
				t.Errorf("%+v after %d starts", f, s.n.Load())
			}
		})
	}
}

// late tells of the attempt as it was before it began, until it knows.
type late struct {
	*ledger
	knows atomic.Bool
}

func (l *late) Assignments(ctx context.Context, host string) iter.Seq2[[]miosa.Instance, error] {
	return func(yield func([]miosa.Instance, error) bool) {
		for some, err := range l.ledger.Assignments(ctx, host) {
			for n := range some {
				if !l.knows.Load() {
					some[n].Observed = miosa.Observation{}
				}
			}
			if !yield(some, err) {
				return
			}
		}
	}
}

// An attempt's command is ended at its limit.
func TestAnAttemptsLimit(t *testing.T) {
	r, l, s := attempt(t, "sim idle")
	r.control.in.Limit = 200 * time.Millisecond
	stop := r.start()
	defer func() { stop() }()
	l.until(t, miosa.Stopped)
	if f := l.last().Failure; f.Kind != miosa.FailureLimit || !strings.Contains(f.Message, "200ms") || s.n.Load() != 1 {
		t.Errorf("%+v after %d starts", f, s.n.Load())
	}
}

// Told to stop before it has leave to begin, it never does.
func TestAnAttemptThatIsStoppedBeforeItBegins(t *testing.T) {
	r, l, s := attempt(t, "sim idle")
	l.away.Store(true)
	stop := r.start()
	defer func() { stop() }()
	l.untilAsked(t, 1)
	l.assign(func(in *miosa.Instance) { in.Goal = miosa.GoalStop })
	l.away.Store(false)
	l.until(t, miosa.Stopped)
	if n := s.n.Load(); n > 0 {
		t.Errorf("%d starts", n)
	}
}
