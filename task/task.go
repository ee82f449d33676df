// Package task is one task, step by step: attempts that begin, wait, run and end, and
// what becomes of the task by them. It decides; cell carries out.
//
// A task is as far as its newest attempt, and an attempt is what its record says. It
// runs at most once, which is not decided here: a host begins it when its boot is on
// record, and never without (cell.Refused). What is decided here is that the next
// attempt is not begun before the record has the end of the one before, and what that
// end is called. Every state that is not terminal has a deadline:
//
//	pending   NextAt, where an attempt is to begin; WaitWithin for a host to begin it
//	starting  what a boot may take, its command's limit, and what an end may take
//	running   the same, counted from the same moment
//
// then the attempt is told to stop, and LostAfter what that may take nobody waits any
// more. On a host that is not heard all wait for what becomes of the host.
package task

import (
	"fmt"
	"strings"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/lifecycle"
)

const (
	// WaitWithin is how long an attempt may wait for a host.
	WaitWithin = 24 * time.Hour
	// BeginTries bounds the attempts that no host came to begin.
	BeginTries = 3
	// DisconnectAfter is after how long without control a host stops an attempt that
	// another one may follow: it has ended before a silent host counts as lost.
	DisconnectAfter = 4 * time.Minute
	// Margin is what a host has beyond all that it goes by until it is told to end an
	// attempt, and until that end is on record.
	Margin = 2 * time.Minute
	// LostAfter is how long after that nobody waits for the end any more.
	LostAfter = 10 * time.Minute
)

// pauses are between attempts: after the first, the second …
var pauses = []time.Duration{time.Second, 2 * time.Second, 5 * time.Second, 30 * time.Second, 5 * time.Minute}

func pause(n int) time.Duration { return pauses[min(max(n, 1), len(pauses))-1] }

// Input is a task and what it rests on, at one moment.
type Input struct {
	Now  time.Time
	Task miosa.Task
	// Attempt is the newest, Observed joined; nil: none was begun, or its record is
	// gone.
	Attempt *miosa.Instance
	Host    miosa.Liveness // of its host; "": it has none, or one that left the fleet
	Deleted bool           // the task's deployment is
	Version miosa.Version  // ID "": it is gone
	Drain   string         // why its host's drain has it stopped; "": it has not
}

// Decision is what follows.
type Decision struct {
	Task    miosa.Task // as it is to be
	Changed bool       // it is another than it was
	Begin   bool       // the attempt Task.Attempt is to be made, with this very change
	Stop    string     // why the attempt is to stop now; "": it is not
	Wake    time.Time  // when to decide again, if nothing happens before; zero: never
}

// Decide is the one step from here. It is first match, in the order of its cases.
func Decide(in Input) Decision {
	d := &decision{Input: in, Decision: Decision{Task: in.Task}}
	t := &d.Decision.Task
	switch {
	case t.State.Terminal():
		return d.Decision
	case t.Between():
		d.between(t)
	case in.Attempt == nil:
		d.end(t, miosa.TaskLost, "the record of its attempt is gone: nobody knows how it ended")
	case in.Attempt.State().Terminal():
		d.over(t)
	default:
		d.underWay(t)
	}
	d.Changed = markOf(t) != markOf(&in.Task)
	return d.Decision
}

// decision is one under way.
type decision struct {
	Input
	Decision
}

// mark is what a change of a task shows by.
type mark struct {
	state, ending               miosa.TaskState
	reason, instance, host      string
	attempt, neverBegan         int
	next, deadline, since, over time.Time
}

func markOf(t *miosa.Task) mark {
	return mark{t.State, t.Ending, t.Reason, t.InstanceID, t.HostID, t.Attempt, t.NeverBegan, t.NextAt, t.Deadline, t.StartedAt, t.FinishedAt}
}

// end is terminal.
func (d *decision) end(t *miosa.Task, state miosa.TaskState, reason string) {
	t.State, t.Reason, t.FinishedAt = state, reason, d.Now
	t.Ending, t.NextAt, t.Deadline = "", time.Time{}, time.Time{}
}

// between begins the next attempt, if there is to be one.
func (d *decision) between(t *miosa.Task) {
	v := d.Version
	_, runs := t.Spec(v)
	switch wait := t.NextAt.Sub(d.Now); {
	case d.Deleted:
		d.end(t, miosa.TaskStopped, "its deployment was deleted")
	case !t.StopAskedAt.IsZero():
		d.end(t, miosa.TaskStopped, "it was stopped by request"+d.before(t))
	case d.archived() != "":
		d.end(t, miosa.TaskFailed, d.archived()+d.before(t))
	case !runs:
		d.end(t, miosa.TaskFailed, fmt.Sprintf("version %d has no such service", v.Number))
	case wait > 0 && wait <= pauses[len(pauses)-1]: // else the clock went back
		d.Wake = t.NextAt
	default:
		d.Begin = true
		t.Attempt++
		t.State, t.Reason = miosa.TaskPending, fmt.Sprintf("attempt %d waits for a host", t.Attempt)
		t.NextAt, t.Deadline, t.Ending = time.Time{}, d.Now.Add(WaitWithin), ""
		t.InstanceID, t.HostID, t.Region, t.StartedAt = "", "", "", time.Time{}
		t.Exited, t.ExitCode, t.Signal, t.LastLines = false, 0, "", nil
	}
}

// archived tells why nothing of its version can be begun any more; "": it can.
func (d *decision) archived() string {
	switch {
	case d.Version.ID == "":
		return "its version was deleted"
	case d.Version.State == miosa.VersionArchived:
		return fmt.Sprintf("version %d was archived", d.Version.Number)
	}
	return ""
}

// before tells which attempt did not come to begin.
func (d *decision) before(t *miosa.Task) string {
	if t.Attempt == 0 {
		return " before it began"
	}
	return fmt.Sprintf(" before attempt %d", t.Attempt+1)
}

// over takes in how an attempt ended.
func (d *decision) over(t *miosa.Task) {
	i := d.Attempt
	f := &i.Observed.Failure
	d.follow(t)
	t.Exited = f.Kind == miosa.FailureExit || f.Kind == miosa.FailureCompleted
	t.ExitCode, t.Signal, t.LastLines = 0, f.Signal, f.LastLines
	if t.Exited {
		t.ExitCode = f.ExitCode
	}
	counted := t.Attempt - t.NeverBegan
	state, reason := outcome(t, i)
	switch {
	case state == "" && t.NeverBegan < BeginTries:
		t.NeverBegan++
		d.again(t, pause(t.NeverBegan), reason)
	case state == "":
		d.end(t, miosa.TaskFailed, "no host could begin it: "+reason)
	case (state == miosa.TaskFailed || state == miosa.TaskLost) && !f.Kind.Permanent() && d.wanted(t) && counted <= t.Retries:
		d.again(t, pause(counted), reason)
	default:
		d.end(t, state, reason)
	}
}

// wanted: nobody asked for the task to end.
func (d *decision) wanted(t *miosa.Task) bool {
	return t.Ending == "" && t.StopAskedAt.IsZero() && !d.Deleted
}

// StopAfterDisconnect is what the attempt of that number has: none where no other may
// follow it, which lets it outlast any absence of control.
func StopAfterDisconnect(t *miosa.Task) time.Duration {
	if t.Attempt-t.NeverBegan > t.Retries {
		return 0
	}
	return DisconnectAfter
}

// again has another attempt follow.
func (d *decision) again(t *miosa.Task, after time.Duration, why string) {
	t.State = miosa.TaskPending
	t.Reason = fmt.Sprintf("attempt %d: %s; the next one follows in %s", t.Attempt, why, after)
	t.NextAt, t.Deadline, t.Ending = d.Now.Add(after), time.Time{}, ""
	d.Wake = t.NextAt
}

// outcome is what an attempt's end makes of its task, and why; "": it certainly never
// came to start its command. It is first match: an end of the command's own is what
// happened, whatever was asked of it.
func outcome(t *miosa.Task, i *miosa.Instance) (state miosa.TaskState, reason string) {
	o := &i.Observed
	f := &o.Failure
	unknown := f.Kind == miosa.FailureVM || f.Kind == miosa.FailureHostLost
	_, claimed := lifecycle.PhaseAt(*o, lifecycle.Claimed)
	switch {
	case f.Kind == miosa.FailureCompleted:
		return miosa.TaskSucceeded, "its command exited with code 0"
	case f.Kind == miosa.FailureLimit:
		return miosa.TaskTimedOut, f.Message
	case o.State == miosa.Failed && ofItsOwn(f.Kind):
		return miosa.TaskFailed, f.Message
	case t.Ending != "" && (o.Boot == 0 || !unknown):
		return t.Ending, t.Reason
	case o.Boot == 0, f.Kind == miosa.FailureHost, !claimed && !unknown:
		return "", why(f, "it was not begun")
	}
	return miosa.TaskLost, why(f, "it was stopped, and nobody knows by whom")
}

// ofItsOwn reports whether a command's end, or its want of a beginning, is its own.
func ofItsOwn(k miosa.FailureKind) bool {
	switch k {
	case miosa.FailureExit, miosa.FailureSignal, miosa.FailureOOM, miosa.FailureBoot,
		miosa.FailureNotFound, miosa.FailureNotExecutable, miosa.FailureWrongArch, miosa.FailureImage:
		return true
	}
	return false
}

func why(f *miosa.Failure, otherwise string) string {
	if f.Message != "" {
		return f.Message
	}
	return otherwise
}

// follow takes in where the attempt is, and since when its command runs.
func (d *decision) follow(t *miosa.Task) {
	i := d.Attempt
	t.InstanceID, t.HostID, t.Region, t.StartedAt = i.ID, i.HostID, i.Region, i.Observed.HealthyAt
}

// underWay follows an attempt, and has it stopped where it is not to go on.
func (d *decision) underWay(t *miosa.Task) {
	i := d.Attempt
	d.follow(t)
	begun := i.Observed.Boot > 0
	switch {
	case !begun:
		t.Reason = d.waiting(t)
	case i.Observed.HealthyAt.IsZero():
		d.begun(t, miosa.TaskStarting, "its virtual machine starts")
	default:
		d.begun(t, miosa.TaskRunning, "its command runs")
	}
	late := !d.Now.Before(t.Deadline)
	switch {
	case i.Goal != miosa.GoalRun:
		d.stopping(t)
	case !t.StopAskedAt.IsZero():
		d.stop(t, miosa.TaskStopped, "it was stopped by request")
	case d.Deleted:
		d.stop(t, miosa.TaskStopped, "its deployment was deleted")
	case d.Drain != "":
		d.stop(t, miosa.TaskStopped, d.Drain)
	case !begun && d.archived() != "": // it would begin without its variables
		d.stop(t, miosa.TaskFailed, d.archived()+fmt.Sprintf(" before attempt %d began", t.Attempt))
	case late && !begun:
		d.stop(t, miosa.TaskFailed, fmt.Sprintf("it was not begun within %s: %s", WaitWithin, t.Reason))
	case late && d.Host == miosa.Alive:
		d.stop(t, miosa.TaskTimedOut, "its host did not end it at its limit")
	case late: // its host is heard again, or lost
	default:
		d.Wake = t.Deadline
	}
}

// begun is an attempt whose boot is on record. It has a deadline from the moment in
// which that was seen.
func (d *decision) begun(t *miosa.Task, state miosa.TaskState, reason string) {
	i := d.Attempt
	if t.State == miosa.TaskPending {
		t.Deadline = d.Now.Add(lifecycle.BootDeadline + t.Limit + lifecycle.StopGrace(i.Spec) + lifecycle.KillAfter + Margin)
	}
	t.State = state
	switch {
	case t.Ending != "": // its reason stays
	case d.Host != miosa.Alive && len(i.Reasons) > 0:
		t.Reason = strings.Join(i.Reasons, "; ")
	case d.Host != miosa.Alive:
		t.Reason = "its host is not heard: what becomes of it is not known"
	default:
		t.Reason = reason
	}
}

// waiting is why an attempt has not begun.
func (d *decision) waiting(t *miosa.Task) string {
	words := fmt.Sprintf("attempt %d waits for a host", t.Attempt)
	switch i := d.Attempt; {
	case t.Ending != "":
		return t.Reason
	case i.HostID != "":
		return fmt.Sprintf("attempt %d waits for its host to begin it", t.Attempt)
	case len(i.Reasons) > 0:
		return words + ": " + strings.Join(i.Reasons, "; ")
	}
	return words
}

// stop has the attempt stopped, which ends the task once it has.
func (d *decision) stop(t *miosa.Task, ending miosa.TaskState, reason string) {
	d.Stop = reason
	t.Ending, t.Reason = ending, reason
	t.Deadline = d.Now.Add(d.endsWithin())
	d.Wake = t.Deadline
}

// stopping waits for an attempt's end. Where its host is there, and does not tell of
// it for long, nobody ever will; one that is not heard is given that long anew.
func (d *decision) stopping(t *miosa.Task) {
	switch late := !d.Now.Before(t.Deadline); {
	case t.Ending == "":
		d.stop(t, miosa.TaskStopped, why(&miosa.Failure{Message: d.Attempt.GoalReason}, "its attempt was stopped"))
		d.Stop = "" // it is
	case late && d.Host == miosa.Alive:
		d.end(t, miosa.TaskLost, "its host did not tell of its end: nobody knows how it ended")
	case late:
		t.Deadline = d.Now.Add(d.endsWithin())
		d.Wake = t.Deadline
	default:
		d.Wake = t.Deadline
	}
}

// endsWithin is how long the end of an attempt that is to stop is waited for.
func (d *decision) endsWithin() time.Duration {
	return lifecycle.StopGrace(d.Attempt.Spec) + lifecycle.KillAfter + Margin + LostAfter
}
