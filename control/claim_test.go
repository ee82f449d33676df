package control_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/control"
	"github.com/miosa/miosa/lifecycle"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/memory"
)

// claimant is a host's agent with one attempt, over everything that may happen to
// it: it forgets what it knew, hears of the attempt late, and its reports arrive in
// any order, more than once, or not at all.
type claimant struct {
	*rapid.T
	store   *memory.Store
	now     time.Time
	machine *lifecycle.Machine // nil: it knows nothing of the attempt
	saved   miosa.Observation  // on its disk
	sent    []miosa.Observation
	told    []miosa.Instance // assignments as they were
	running bool
	begun   int
	ends    map[miosa.InstanceState]bool // on record
}

// TestAnAttemptIsBegunOnce: whatever the order of claims, repeats, losses and ends,
// what control takes lets one machine begin, once.
func TestAnAttemptIsBegunOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := &claimant{T: t, store: memory.New(time.Now), now: time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC), ends: map[miosa.InstanceState]bool{}}
		in := miosa.Instance{
			ID: "ri_1", TenantID: tenant, DeploymentID: deployment, HostID: hostID, Goal: miosa.GoalRun, Generation: 1,
			TaskID: "task_1", Attempt: 1, Limit: time.Minute, Spec: miosa.ServiceSpec{Health: miosa.HealthCheck{Type: miosa.HealthNone}},
			StopAfterDisconnect: rapid.SampledFrom([]time.Duration{0, 4 * time.Minute}).Draw(t, "stop after disconnect"),
		}
		c.update(func(tx *store.Tx) error { return store.Save(tx, store.Instances, in) })
		c.told = []miosa.Instance{in}
		for range rapid.IntRange(1, 40).Draw(t, "length") {
			c.step()
		}
	})
}

func (c *claimant) update(fn func(tx *store.Tx) error) {
	if _, err := store.Update(context.Background(), c.store, fn); err != nil && miosa.CodeOf(err) != miosa.NotFound {
		c.Fatal(err)
	}
}

// record is the attempt as it is on record.
func (c *claimant) record() miosa.Instance {
	in, err := store.Get(context.Background(), c.store, store.Instances, store.InstanceKey(tenant, deployment, "ri_1"))
	if err != nil {
		c.Fatal(err)
	}
	in.Observed, _ = store.Get(context.Background(), c.store, store.Observations, store.ObservationKey(tenant, deployment, "ri_1"))
	return in
}

func (c *claimant) step() {
	c.now = c.now.Add(rapid.SampledFrom([]time.Duration{1, time.Millisecond, time.Second, 30 * time.Second, 5 * time.Minute}).Draw(c.T, "later"))
	switch rapid.IntRange(0, 10).Draw(c.T, "event") {
	case 0, 1: // it is told of the attempt, perhaps as it was long ago
		in := rapid.SampledFrom(c.told).Draw(c.T, "told")
		if c.machine == nil {
			c.machine = lifecycle.New(in)
		}
		c.feed(lifecycle.Assigned{Instance: in})
	case 2, 3, 4: // a report arrives, perhaps a former one or one that did before
		if len(c.sent) > 0 {
			o := rapid.SampledFrom(c.sent).Draw(c.T, "report")
			c.report(o, rapid.IntRange(0, 3).Draw(c.T, "answered") > 0)
		}
	case 5: // its agent starts again, on the disk that it has
		if c.machine != nil && c.saved.State != "" && !c.saved.State.Terminal() {
			c.machine = lifecycle.Resume(c.machine.Instance(), c.saved, c.now)
			if !c.running {
				c.feed(lifecycle.Vanished{Boot: c.saved.Boot})
			}
		}
	case 6: // or on an empty one
		c.machine, c.saved, c.running = nil, miosa.Observation{}, false
	case 7:
		if c.running {
			c.feed(lifecycle.Reached{Boot: 1, Name: "app_started", At: c.now})
		}
	case 8:
		if c.running {
			c.feed(lifecycle.Exited{Boot: 1, Failure: miosa.Failure{Kind: miosa.FailureExit, ExitCode: rapid.IntRange(0, 1).Draw(c.T, "code")}})
		}
	case 9: // control tells it to stop
		c.update(func(tx *store.Tx) error {
			in, err := store.Load(tx, store.Instances, store.InstanceKey(tenant, deployment, "ri_1"))
			if err != nil {
				return err
			}
			in.Goal = miosa.GoalStop
			in.Generation++
			return store.Save(tx, store.Instances, in)
		})
	case 10:
		c.feed(lifecycle.Tick{})
	}
	c.told = append(c.told, c.record())
}

func (c *claimant) feed(ev lifecycle.Event) {
	if c.machine == nil {
		return
	}
	for _, effect := range c.machine.Handle(c.now, ev) {
		switch e := effect.(type) {
		case lifecycle.Boot:
			if c.running = true; c.begun > 0 {
				c.Fatal("it is begun a second time")
			}
			c.begun++
			if o := c.record().Observed; o.Boot == 0 {
				c.Fatal("it begins, and nothing of that is on record")
			}
		case lifecycle.Kill:
			c.running = false
		case lifecycle.Report:
			c.saved = e.Observation
			c.sent = append(c.sent, e.Observation)
		}
	}
	if c.machine.Observation().State.Terminal() {
		c.machine = nil
	}
}

// report brings one to control, whose answer may be lost.
func (c *claimant) report(o miosa.Observation, answered bool) {
	_, err := store.Update(context.Background(), c.store, func(tx *store.Tx) error {
		return control.Record(tx, hostID, o, c.now, rand.Reader)
	})
	is := c.record().Observed
	if c.ends[is.State] = true; is.State.Terminal() && len(slices.DeleteFunc(slices.Collect(maps.Keys(c.ends)), func(s miosa.InstanceState) bool { return !s.Terminal() })) > 1 {
		c.Fatalf("it ended as %v", c.ends)
	}
	switch {
	case err == nil && !is.StartedAt.Equal(o.StartedAt) && is.Boot > 0:
		c.Fatalf("a report of a boot from %s is taken, and that of %s is on record", o.StartedAt, is.StartedAt)
	case err != nil && miosa.CodeOf(err) != miosa.NotFound:
		c.Fatal(err)
	case !answered:
	case err == nil && o.State.Terminal():
	case err != nil:
		if c.machine != nil {
			in := c.machine.Instance()
			in.Goal = miosa.GoalStop
			in.Generation++
			c.feed(lifecycle.Assigned{Instance: in})
		}
	default:
		c.feed(lifecycle.Taken{Began: o.StartedAt})
	}
}

// What is on record of an attempt decides who may go on with it.
func TestWhoMayGoOnWithAnAttempt(t *testing.T) {
	first, second := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC), time.Date(2026, 1, 1, 12, 0, 1, 0, time.UTC)
	none := miosa.Observation{}
	of := func(began time.Time, seq int64, state miosa.InstanceState) miosa.Observation {
		return miosa.Observation{InstanceID: "ri_1", TenantID: tenant, DeploymentID: deployment, Boot: 1, StartedAt: began, ReportedAt: began, Seq: seq, State: state}
	}
	for n, c := range []struct {
		goal      miosa.Goal
		known, is miosa.Observation
		taken     bool
	}{
		{miosa.GoalRun, none, of(first, 1, miosa.Starting), true},
		{miosa.GoalRun, of(first, 1, miosa.Starting), of(first, 1, miosa.Starting), true}, // its answer was lost
		{miosa.GoalRun, of(first, 5, miosa.Healthy), of(first, 1, miosa.Starting), true},
		{miosa.GoalRun, of(first, 1, miosa.Starting), of(second, 1, miosa.Starting), false}, // its host lost what it knew
		{miosa.GoalRun, of(first, 1, miosa.Starting), of(second, 9, miosa.Starting), false},
		{miosa.GoalRun, of(first, 1, miosa.Starting), of(second, 9, miosa.Failed), false},
		{miosa.GoalRun, of(first, 1, miosa.Starting), of(first, 2, miosa.Failed), true},
		{miosa.GoalRun, of(first, 2, miosa.Stopped), of(first, 1, miosa.Starting), false},
		{miosa.GoalRun, of(first, 2, miosa.Stopped), of(first, 3, miosa.Healthy), false}, // it was written off
		{miosa.GoalRun, of(first, 2, miosa.Stopped), of(first, 3, miosa.Stopped), true},
		{miosa.GoalStop, none, of(first, 1, miosa.Starting), false},
		{miosa.GoalStop, none, of(first, 1, miosa.Stopped), true},
		{miosa.GoalStop, of(first, 1, miosa.Starting), of(first, 2, miosa.Healthy), true},
	} {
		s := memory.New(time.Now)
		_, err := store.Update(context.Background(), s, func(tx *store.Tx) error {
			if err := store.Save(tx, store.Instances, miosa.Instance{ID: "ri_1", TenantID: tenant, DeploymentID: deployment, HostID: hostID, Goal: c.goal, TaskID: "task_1"}); err != nil {
				return err
			}
			if c.known.Seq == 0 {
				return nil
			}
			return store.Save(tx, store.Observations, c.known)
		})
		if err != nil {
			t.Fatal(err)
		}
		_, err = store.Update(context.Background(), s, func(tx *store.Tx) error { return control.Record(tx, hostID, c.is, first, rand.Reader) })
		if want := map[bool]miosa.Code{false: miosa.NotFound}[c.taken]; miosa.CodeOf(err) != want {
			t.Errorf("%s: %v, and should be %q", fmt.Sprint(n), err, want)
		}
	}
}
