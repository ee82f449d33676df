package sim

import (
	"context"
	"fmt"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/lifecycle"
	"github.com/miosa/miosa/store"
)

// What a task's command does, besides finishes, crashes and missing: endless runs on
// until it is stopped, stubborn does not care that it is asked to.
const (
	endless  behaviour = "endless"
	stubborn behaviour = "stubborn"
)

// runTask has something run once in an app's live version.
func (u *users) runTask(a *app) {
	env, err := store.Get(context.Background(), u.s.store, store.Environments, store.EnvironmentKey(a.env.TenantID, a.dep.ID, a.env.ID))
	if err != nil || env.ActiveVersionID == "" {
		return
	}
	kinds := []behaviour{finishes, finishes, finishes, crashes, missing, endless, stubborn}
	t := miosa.Task{
		ID: u.id(miosa.PrefixTask), TenantID: a.env.TenantID, DeploymentID: a.dep.ID, EnvironmentID: a.env.ID, VersionID: env.ActiveVersionID,
		Command: string(kinds[u.s.rng.IntN(len(kinds))]), Limit: u.s.between(30*time.Second, 10*time.Minute).Round(time.Second), Retries: u.s.rng.IntN(3),
		State: miosa.TaskPending, CreatedAt: u.s.clock(),
	}
	u.s.trace("run %s %s in %s, limit %s, retries %d", t.ID, t.Command, a.dep.Name, t.Limit, t.Retries)
	u.s.report.Tasks++
	err = u.update(func(tx *store.Tx) error {
		dep, err := store.Load(tx, store.Deployments, store.DeploymentKey(a.dep.TenantID, a.dep.ID))
		if err != nil || !dep.DeletedAt.IsZero() {
			return err
		}
		tx.SetIndex(store.LiveTaskKey(t.TenantID, t.ID), t.DeploymentID, 0)
		return store.Save(tx, store.Tasks, t)
	})
	if err != nil && miosa.CodeOf(err) != miosa.NotFound {
		u.s.fail("run: %v", err)
	}
}

// stopTask asks for one of an app's tasks to stop.
func (u *users) stopTask(a *app) {
	var open []miosa.Task
	for _, id := range sortedIDs(u.s.check.tasks) {
		if t := u.s.check.tasks[id]; t.DeploymentID == a.dep.ID && !t.State.Terminal() {
			open = append(open, t)
		}
	}
	if len(open) == 0 {
		return
	}
	pick := open[u.s.rng.IntN(len(open))]
	u.s.trace("stop of %s asked for", pick.ID)
	err := u.update(func(tx *store.Tx) error {
		t, err := store.Load(tx, store.Tasks, store.TaskKey(pick.TenantID, pick.DeploymentID, pick.ID))
		if err != nil || t.State.Terminal() {
			return err
		}
		t.StopAskedAt = u.s.clock()
		return store.Save(tx, store.Tasks, t)
	})
	if err != nil && miosa.CodeOf(err) != miosa.NotFound {
		u.s.fail("stop: %v", err)
	}
}

// injureTask picks the machine of an attempt.
func (s *Sim) injureTask(how func(o *occupant)) {
	var all []*occupant
	for _, h := range s.hosts {
		for _, id := range sortedIDs(h.slots) {
			if o := h.slots[id]; o.in.Once() && o.vm != nil && o.vm.alive {
				all = append(all, o)
			}
		}
	}
	if len(all) > 0 {
		how(all[s.rng.IntN(len(all))])
	}
}

// run is one start of a task's command, as it really happened: nothing that goes wrong
// touches what is noted here.
type run struct {
	instance, task string
	on             *host
	vm             *vm
	began          time.Time
	skew           time.Duration // of all clocks, then
	ended          miosa.FailureKind
	code           int
	stopped        bool // it ended as it was asked to
}

// goesOn reports whether the command runs, as far as its host does.
func (r *run) goesOn() bool { return r.vm.alive && !r.vm.over }

// runs: an attempt's command is started. It is so once, by who has it on record, and
// while nothing else of the task runs; what is frozen does not.
func (c *checker) runs(o *occupant) {
	id := o.in.ID
	i := c.instances[id]
	thawed := o.h.thawed.After(c.s.now.Add(-time.Minute))
	switch {
	case c.ledger[id] != nil:
		c.s.fail("the command of %s is started a second time, on %s", id, o.h.id)
	case i.Observed.Boot == 0:
		c.s.fail("the command of %s is started, and nothing of that is on record", id)
	case !i.Observed.StartedAt.Equal(o.machine.Observation().StartedAt):
		c.s.fail("the command of %s is started on %s by a boot that is not the one on record", id, o.h.id)
	}
	for _, other := range c.ledger {
		if other.task == o.in.TaskID && other.goesOn() && !other.on.frozen && !thawed {
			c.s.fail("the command of %s is started while %s of the same task still runs on %s", id, other.instance, other.on.id)
		}
	}
	if t := c.tasks[o.in.TaskID]; t.State == miosa.TaskSucceeded {
		c.s.fail("the command of %s is started, and %s has succeeded", id, t.ID)
	}
	c.ledger[id] = &run{instance: id, task: o.in.TaskID, on: o.h, vm: o.vm, began: c.s.now, skew: c.s.skew}
}

// ran: it ended, by itself or as it was asked to.
func (c *checker) ran(o *occupant, f miosa.Failure, stopped bool) {
	if r := c.ledger[o.in.ID]; r != nil && r.ended == "" {
		r.ended, r.code, r.stopped = f.Kind, f.ExitCode, stopped
	}
}

// attempted: an attempt is made when the one before has ended on record.
func (c *checker) attempted(i miosa.Instance) {
	c.s.report.Attempts++
	c.made[i.ID] = c.s.now
	for _, id := range sortedIDs(c.instances) {
		if o := c.instances[id]; o.TaskID == i.TaskID && !o.Observed.State.Terminal() {
			c.s.fail("%s is made while %s of the same task is %s", i.ID, id, o.State())
		}
	}
	if t := c.tasks[i.TaskID]; i.Attempt > 1+t.Retries+t.NeverBegan {
		c.s.fail("%s is attempt %d of %s, which has %d retries, and %d that never began", i.ID, i.Attempt, t.ID, t.Retries, t.NeverBegan)
	}
}

// tasked takes a change of a task in.
func (c *checker) tasked(t miosa.Task) {
	was := c.tasks[t.ID]
	switch {
	case was.State.Terminal() && (t.State != was.State || t.Reason != was.Reason || t.ExitCode != was.ExitCode):
		c.s.fail("%s was %s and is %s", t.ID, was.State, t.State)
	case t.State != was.State && !was.State.CanBecome(t.State):
		c.s.fail("%s went from %s to %s", t.ID, was.State, t.State)
	case t.State.Terminal() && !was.State.Terminal():
		c.s.trace("%s %s: %s", t.ID, t.State, t.Reason)
		c.outcome(t, was.Between())
	}
	c.tasks[t.ID] = t
}

// outcome: what is written down of a task is what happened to its last attempt, or
// that the next one was not to be made any more.
func (c *checker) outcome(t miosa.Task, between bool) {
	c.s.report.TaskEnds[t.State]++
	r := c.ledger[t.InstanceID]
	own := r != nil && r.ended != "" && !r.stopped
	switch t.State {
	case miosa.TaskSucceeded:
		if !own || r.ended != miosa.FailureCompleted {
			c.s.fail("%s succeeded, and its command did not: %+v", t.ID, r)
		}
	case miosa.TaskFailed:
		if t.Exited && (!own || r.code != t.ExitCode) {
			c.s.fail("%s failed with code %d, and its command did not: %+v", t.ID, t.ExitCode, r)
		}
	case miosa.TaskTimedOut:
		t0, limit := time.Time{}, t.Limit-max(0, c.s.jumps)-2*time.Second
		if r != nil {
			t0 = r.began
		}
		if r == nil || c.s.now.Sub(t0) < limit {
			c.s.fail("%s timed out, and its command began at %s with a limit of %s", t.ID, t0.Format("15:04:05"), t.Limit)
		}
	case miosa.TaskStopped:
		if own && !between && !c.troubled(t) {
			c.s.fail("%s was stopped, and its command had ended by itself: %+v", t.ID, r)
		}
	case miosa.TaskLost:
		if !c.troubled(t) {
			c.s.fail("%s is lost, and nothing went wrong: %s", t.ID, t.Reason)
		}
	}
}

// troubled reports whether something went wrong around a task's last attempt.
func (c *checker) troubled(t miosa.Task) bool {
	r, made := c.ledger[t.InstanceID], c.made[t.InstanceID]
	if r != nil && r.vm.injured {
		return true
	}
	for _, h := range c.s.hosts {
		if h.id == t.HostID && (h.troubled.After(made) || !h.heard()) {
			return true
		}
	}
	return false
}

// settledTasks: in the end every task has ended but those that wait for room, and what
// says that they have not is there for those alone.
func (c *checker) settledTasks() error {
	open := map[string]bool{}
	for _, id := range sortedIDs(c.tasks) {
		t := c.tasks[id]
		if t.State.Terminal() {
			continue
		}
		i, placed := c.instances[t.InstanceID]
		if a := c.s.users.appOf(t.DeploymentID); a == nil || a.deleted {
			return fmt.Errorf("in the end %s of a deleted app is %s: %s", id, t.State, t.Reason)
		}
		if !placed || i.HostID != "" || c.room(i.Spec.Resources) {
			return fmt.Errorf("in the end %s is %s: %s", id, t.State, t.Reason)
		}
		open[id] = true
	}
	for e, err := range c.s.store.Scan(context.Background(), store.LiveTasksOf(c.s.users.tenant.ID), store.ScanOptions{KeysOnly: true}) {
		if err != nil {
			return err
		}
		id := e.Key[len(store.LiveTasksOf(c.s.users.tenant.ID)):]
		if !open[id] {
			return fmt.Errorf("in the end %s has not ended by its index", id)
		}
		delete(open, id)
	}
	for _, id := range sortedIDs(open) {
		return fmt.Errorf("in the end %s has ended by its index", id)
	}
	for _, id := range sortedIDs(c.ledger) {
		r := c.ledger[id]
		if t := c.tasks[r.task]; r.goesOn() && !r.on.gone && (t.ID == "" || t.State.Terminal()) {
			return fmt.Errorf("in the end %s of %s, which is over, runs on %s", id, r.task, r.on.id)
		}
	}
	return nil
}

// inTask is the life of a task's command.
func (o *occupant) inTask(v *vm, b behaviour) {
	s := o.h.s
	if b == missing {
		o.exit(v, miosa.Failure{Kind: miosa.FailureNotFound, Message: "not found"})
		return
	}
	s.check.runs(o)
	o.say(v, lifecycle.Reached{Boot: v.boot, Name: "app_started", At: o.h.clock()})
	// PID 1 has the limit too, by a clock that nobody sets.
	o.h.after(o.in.Limit+lifecycle.StopGrace(o.in.Spec), func() {
		if v.alive && !v.over {
			s.check.ran(o, miosa.Failure{Kind: miosa.FailureLimit}, true)
			o.exit(v, miosa.Failure{Kind: miosa.FailureLimit, Message: "PID 1 ended it at its limit"})
		}
	})
	took := s.between(20*time.Millisecond, 4*time.Minute)
	o.h.after(took, func() {
		if !v.alive || v.over {
			return
		}
		f := miosa.Failure{Kind: miosa.FailureExit, Message: "exited with code 0"}
		switch b {
		case endless, stubborn:
			return
		case crashes:
			f.ExitCode, f.Message = 1+s.rng.IntN(3), "exited with another code"
		default:
		}
		ended := f
		if f.ExitCode == 0 {
			ended.Kind = miosa.FailureCompleted
		}
		s.check.ran(o, ended, false)
		o.exit(v, f)
	})
}

// stopTask is what a task's command does when it is asked to stop.
func (o *occupant) stopTask(v *vm, took time.Duration) {
	o.h.after(took, func() {
		if !v.alive || v.over {
			return
		}
		f := miosa.Failure{Kind: miosa.FailureExit, ExitCode: 143, Message: "exited with code 143"}
		o.h.s.check.ran(o, f, true)
		v.over = true
		o.say(v, lifecycle.Exited{Boot: v.boot, Stopped: true, Failure: f})
		o.h.after(o.h.s.between(time.Millisecond, 300*time.Millisecond), func() { o.vanish(v) })
	})
}

// asKnown is an attempt as a control plane may have it that has not heard yet of a claim
// which it has on record.
func (c *checker) asKnown(i miosa.Instance) miosa.Instance {
	if i.Once() && c.s.cfg.Faults && i.Observed.Boot > 0 && c.s.now.Sub(c.claimed[i.ID]) < 5*time.Second && c.s.chance(0.5) {
		i.Observed = miosa.Observation{}
	}
	return i
}

// afterClaim is what may go wrong between a claim and what follows from it.
func (o *occupant) afterClaim() {
	s, h := o.h.s, o.h
	if !s.cfg.Faults || !s.chance(0.06) {
		return
	}
	what := h.crashAgent
	if s.chance(0.5) {
		what = h.loseDisk
	}
	epoch := h.epoch
	s.after(s.between(0, 5*time.Second), func() {
		if epoch == h.epoch && !h.dead && !h.frozen {
			what()
		}
	})
}

// answered is what an agent hears of a report on an attempt: leave to go on, or that
// it is not to. An answer to an agent that has crashed since is heard by nobody.
func (o *occupant) answered(obs miosa.Observation, epoch int, err error) {
	if err == nil && obs.State == miosa.Starting {
		o.afterClaim()
	}
	o.h.after(o.h.s.between(100*time.Microsecond, 5*time.Millisecond), func() {
		switch {
		case o.h.cut: // it asks again when it can
			o.h.after(time.Second, func() { o.report(obs) })
		case obs.State.Terminal(): // its agent need not remember it any more
			delete(o.h.ended, obs.InstanceID)
		case epoch != o.h.epoch:
		case miosa.CodeOf(err) == miosa.NotFound:
			o.h.s.report.Denied++
			gone := o.in
			gone.Goal = miosa.GoalStop
			gone.Generation++
			gone.Observed = miosa.Observation{}
			o.feed(lifecycle.Assigned{Instance: gone})
		case err == nil && obs.State == miosa.Starting:
			o.feed(lifecycle.Taken{Began: obs.StartedAt})
		}
	})
}
