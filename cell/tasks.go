package cell

import (
	"fmt"
	"slices"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/task"
)

// toldAgain is how often a host is told again to end an attempt of which it does not
// tell that it has.
const toldAgain = 5 * time.Minute

// tasks decides what becomes of the environment's tasks.
func (p *pass) tasks() {
	if len(p.members.tasks) == 0 {
		return
	}
	newest := map[string]*miosa.Instance{} // by task ID
	for n := range p.members.attempts {
		i := &p.members.attempts[n]
		if t := p.members.task(i.TaskID); t != nil && i.Attempt == t.Attempt {
			newest[t.ID] = i
		}
	}
	for n := range p.members.tasks {
		if p.full() {
			return
		}
		p.task(p.members.tasks[n], newest[p.members.tasks[n].ID])
	}
}

func (p *pass) task(t miosa.Task, attempt *miosa.Instance) {
	in := task.Input{Now: p.now, Task: t, Attempt: attempt, Deleted: p.deleted()}
	in.Version, _ = p.version(t.VersionID)
	if attempt != nil {
		in.Host = p.m.w.hosts[attempt.HostID].Liveness
		if step := p.m.hostDrains.steps[attempt.ID]; step.Leave {
			in.Drain = step.Reason
		}
	}
	d := task.Decide(in)
	p.wakeAt(d.Wake)
	if d.Stop != "" {
		p.stopAttempt(*attempt, d.Stop)
	}
	if d.Begin {
		p.beginAttempt(&d.Task)
	}
	if !d.Changed {
		return
	}
	d.Task.UpdatedAt = p.now
	p.commit.Put = append(p.commit.Put, d.Task)
	switch is := d.Task; {
	case is.State.Terminal():
		p.taskEvent("task."+string(is.State), is.Reason, is)
		p.unseal(attempt)
	case !is.NextAt.Equal(t.NextAt) && !is.NextAt.IsZero():
		p.taskEvent("task.retried", is.Reason, is)
		p.unseal(attempt)
	case is.State == miosa.TaskRunning && t.State != is.State:
		p.taskEvent("task.started", fmt.Sprintf("the command of attempt %d was started", is.Attempt), is)
	}
}

// beginAttempt makes the attempt that a task is at.
func (p *pass) beginAttempt(t *miosa.Task) {
	v, _ := p.version(t.VersionID)
	spec, _ := t.Spec(v)
	i := miosa.Instance{
		TenantID: t.TenantID, DeploymentID: t.DeploymentID, EnvironmentID: t.EnvironmentID, VersionID: t.VersionID,
		TaskID: t.ID, Attempt: t.Attempt, Limit: t.Limit, Attribution: t.Attribution,
		Spec: spec, Restart: miosa.RestartPolicy{Mode: miosa.RestartNever}, StopAfterDisconnect: task.StopAfterDisconnect(t),
		Goal: miosa.GoalRun, GoalSince: p.now, CreatedAt: p.now, UpdatedAt: p.now, CreatedReason: fmt.Sprintf("attempt %d of %s", t.Attempt, t.ID),
	}
	wishes := p.wishes(&i)
	i.Logs = wishes.Logs
	p.bytes += recordBytes
	for _, variable := range v.Vars {
		p.bytes += 2 * len(variable.Sealed)
	}
	// Rather where no attempt of it came to nothing.
	if p.place(&i, wishes, p.neverBegan(&i)); i.HostID == "" {
		p.place(&i, wishes, nil)
	}
	p.commit.Create = append(p.commit.Create, i)
}

// wishes are what an attempt wants of its host: what its service does, but that its
// replicas are kept apart.
func (p *pass) wishes(i *miosa.Instance) miosa.Service {
	s, _ := p.service(i.Spec.ServiceID)
	if v, ok := p.version(i.VersionID); ok {
		s = v.Settled(s)
	}
	s.Apart = false
	return s
}

// stopAttempt has one stopped, at once where it has not begun: it never will then.
func (p *pass) stopAttempt(i miosa.Instance, reason string) {
	i.Goal, i.GoalReason, i.GoalSince = miosa.GoalStop, reason, p.now
	p.assign(i)
	if i.Observed.Boot == 0 {
		p.finish(i, reason)
	}
}

// tellAgain reports whether a host that answers is to be told once more to stop one:
// it may have lost what it knew of it, and told of its end as of something else.
func (p *pass) tellAgain(i *miosa.Instance, host miosa.Host) bool {
	if host.Liveness != miosa.Alive {
		return false
	}
	due := i.UpdatedAt.Add(toldAgain)
	if p.now.Before(due) {
		p.wakeAt(due)
	}
	return !p.now.Before(due)
}

// unseal drops what an attempt that has ended booted with: it is never booted again.
func (p *pass) unseal(attempt *miosa.Instance) {
	if attempt == nil || len(attempt.BootSpec) == 0 || !attempt.State().Terminal() {
		return
	}
	i := *attempt
	i.BootSpec = nil
	p.commit.Put = append(p.commit.Put, i)
}

// neverBegan are the hosts that did not come to begin attempts of the same task.
func (p *pass) neverBegan(i *miosa.Instance) (hosts []string) {
	for n := range p.members.attempts {
		o := &p.members.attempts[n]
		if o.TaskID == i.TaskID && o.Observed.Failure.Kind == miosa.FailureHost && !slices.Contains(hosts, o.HostID) {
			hosts = append(hosts, o.HostID)
		}
	}
	return hosts
}

func (p *pass) taskEvent(kind, message string, t miosa.Task) {
	p.commit.Events = append(p.commit.Events, miosa.Event{
		TenantID: t.TenantID, DeploymentID: t.DeploymentID, VersionID: t.VersionID, TaskID: t.ID, InstanceID: t.InstanceID, HostID: t.HostID,
		Type: kind, Message: message, Actor: "control", At: p.now,
	})
}
