package cell

import (
	"fmt"
	"time"

	"github.com/miosa/miosa"
)

// Registered is a host's record after its agent said what it is, and the event
// that tells of it. known is the record before, the zero one for a new host:
// what only control decides about it is kept.
func Registered(now time.Time, known, is miosa.Host) (miosa.Host, miosa.Event) {
	is.CreatedAt, is.Schedulable, is.Drain, is.Revision = known.CreatedAt, known.Schedulable, known.Drain, known.Revision
	if known.ID == "" {
		is.CreatedAt, is.Schedulable = now, true
	}
	is.Liveness, is.UpdatedAt = miosa.Alive, now
	kind, message := arrival(known, is)
	return is, miosa.Event{HostID: is.ID, Type: kind, Message: message, Actor: "agent", At: now}
}

// arrival puts a host's registration into words for its timeline.
func arrival(was, is miosa.Host) (kind, message string) {
	words := fmt.Sprintf("version %s, %d vCPUs, %d MB of memory", is.Version, is.Capacity.VCPUs, is.Capacity.MemoryMB)
	if was.ID == "" {
		return "host.joined", words
	}
	if was.Version != is.Version {
		words += "; before it was version " + was.Version
	}
	if was.Liveness != miosa.Alive {
		words += "; it was " + string(was.Liveness)
	}
	return "host.returned", "its agent started again and took over what runs there: " + words
}

// Observed is what an agent's report makes of what was known of an instance,
// with the events that tell of it; not ok: it tells nothing new. A report that
// is older than what is known changes nothing, and nothing follows the end.
func Observed(i miosa.Instance, known, is miosa.Observation) (next miosa.Observation, events []miosa.Event, ok bool) {
	if is.Seq <= known.Seq || known.State.Terminal() {
		return known, nil, false
	}
	is.HostID, is.Revision = i.HostID, known.Revision
	tell := transition
	if i.Once() {
		tell = transitionOnce
	}
	if kind, message, tells := tell(known, is); tells {
		events = append(events, miosa.Event{
			TenantID: i.TenantID, DeploymentID: i.DeploymentID, ServiceID: i.ServiceID, InstanceID: i.ID, TaskID: i.TaskID,
			VersionID: i.VersionID, HostID: i.HostID, Type: kind, Message: message, Actor: "agent", At: is.ReportedAt,
		})
	}
	return is, events, true
}

// Refused reports whether a host must not go on with an attempt by what is known of
// it. A report that is not refused is leave to begin: it is of the one boot that the
// attempt has on record, which is written once. Whoever reports another has lost what
// it knew, or was told to begin by somebody who did not know.
func Refused(i miosa.Instance, known, is miosa.Observation) bool {
	switch {
	case !i.Once():
		return false
	case known.Boot > 0 && !is.StartedAt.Equal(known.StartedAt):
		return true
	case is.State.Terminal():
		return false
	}
	return known.State.Terminal() || known.Boot == 0 && i.Goal != miosa.GoalRun
}

// transitionOnce is transition for an attempt, whose task tells how it ended.
func transitionOnce(was, is miosa.Observation) (kind, message string, ok bool) {
	f := is.Failure
	switch {
	case is.State == miosa.Healthy && was.State != miosa.Healthy:
		return "instance.launched", "its command was started", true
	case is.State == miosa.Failed:
		return "instance.failed", f.Message, true
	case is.State == miosa.Stopped && f.Kind == miosa.FailureCompleted:
		return "instance.stopped", "its command ended with exit code 0", true
	case is.State == miosa.Stopped && f.Message != "":
		return "instance.stopped", "stopped: " + f.Message, true
	}
	return transition(was, is)
}

// transition puts a change of state into words for the timeline.
func transition(was, is miosa.Observation) (kind, message string, ok bool) {
	crashed := is.Failure.At.After(was.Failure.At) && is.State != miosa.Unhealthy
	switch {
	case is.State == miosa.Failed && was.State != miosa.Failed:
		return "instance.failed", is.Failure.Message + "; it is not tried again", true
	case is.State == miosa.Stopped && was.State != miosa.Stopped && is.Failure.Kind == miosa.FailureDisconnected:
		return "instance.stopped", is.Failure.Message, true
	case is.State == miosa.Stopped && was.State != miosa.Stopped:
		return "instance.stopped", "stopped", true
	case crashed && is.State == miosa.Pending:
		return "instance.crashed", fmt.Sprintf("%s; the next boot comes at %s", is.Failure.Message, is.NextRestartAt.Format(time.TimeOnly)), true
	case is.State == miosa.Unhealthy && was.State != miosa.Unhealthy:
		return "instance.became_unhealthy", is.Failure.Message + "; it gets no more requests", true
	case is.State == miosa.Healthy && was.State != miosa.Healthy:
		return "instance.became_healthy", fmt.Sprintf("healthy after %s", is.HealthyAt.Sub(is.StartedAt).Round(10*time.Millisecond)), true
	case is.State == miosa.Starting && is.Boot > was.Boot:
		return "instance.started", fmt.Sprintf("boot %d began", is.Boot), true
	case is.State == miosa.Starting && is.VMID != "" && was.VMID == "":
		return "instance.booted", "its virtual machine runs", true
	case is.State == miosa.Starting && len(is.Phases) > len(was.Phases) && is.Phases[len(is.Phases)-1].Name == "app_started":
		return "instance.launched", "its run command was started", true
	case is.ClockSetBack.At.After(was.ClockSetBack.At):
		return "instance.clock_set_back", fmt.Sprintf("the guest's clock was %s ahead of its host's: it was set back", is.ClockSetBack.By.Round(time.Millisecond)), true
	}
	return "", "", false
}
