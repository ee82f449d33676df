package rollout

import (
	"time"

	"github.com/miosa/miosa"
)

// Asked is what somebody wants made of an environment.
type Asked struct {
	ID          string // of the new rollout
	Kind        miosa.RolloutKind
	Target      miosa.Version
	Promote     bool   // make it live; else it only proves itself
	Requester   string // who asked, by the ID of the key
	Traceparent string
}

// Begin is the rollout that was asked for. live is the one that goes on in the
// environment, the zero one if there is none: called off is how it is to be
// written, nil if it stays as it is. One that has not begun to flip yet ends by
// the new one; one that flips at this moment comes to its end first.
func Begin(now time.Time, a Asked, env miosa.Environment, live miosa.Rollout) (begun miosa.Rollout, calledOff *miosa.Rollout) {
	begun = miosa.Rollout{
		ID: a.ID, TenantID: env.TenantID, DeploymentID: env.DeploymentID, EnvironmentID: env.ID, Kind: a.Kind,
		TargetID: a.Target.ID, FromID: env.ActiveVersionID, Promote: a.Promote, Step: miosa.StepStarting, StepSince: now,
		Deadline: now.Add(StartWithin(a.Target)), Requester: a.Requester, CreatedAt: now, UpdatedAt: now, Traceparent: a.Traceparent,
	}
	if !a.Target.Pulled() {
		begun.Step, begun.Deadline, begun.Reason = miosa.StepPulling, now.Add(PullDeadline), "pulling "+a.Target.Image.Reference
	}
	if live.Live() && live.Step != miosa.StepFlipping {
		live.CancelledBy, live.UpdatedAt = a.ID, now
		calledOff = &live
	}
	return begun, calledOff
}

// CallOff ends a live rollout by who asks for it. It reports false where there is
// nothing to write: it is over, or called off already.
func CallOff(now time.Time, live miosa.Rollout, by string) (miosa.Rollout, bool) {
	if !live.Live() || live.CancelledBy != "" {
		return live, false
	}
	live.CancelledBy, live.UpdatedAt = by, now
	return live, true
}
