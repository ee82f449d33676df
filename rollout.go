package miosa

import "time"

// RolloutKind is why a version is being made live.
type RolloutKind string

const (
	RolloutPublish  RolloutKind = "publish"
	RolloutPromote  RolloutKind = "promote"
	RolloutRollback RolloutKind = "rollback"
	RolloutRestart  RolloutKind = "restart" // same release, new version: changed spec, variables, or a rolling restart
)

// RolloutStep only moves forward: pulling (where there is an image to pull) →
// starting → flipping → draining → done; pulling, starting and flipping →
// failed or cancelled. From draining on there is no way back but another rollout.
type RolloutStep string

const (
	StepPulling   RolloutStep = "pulling"   // the image comes from its registry; nothing runs yet
	StepStarting  RolloutStep = "starting"  // new instances beside the old, waiting for health
	StepFlipping  RolloutStep = "flipping"  // route table names the new ones; routers acknowledge
	StepDraining  RolloutStep = "draining"  // active version flipped; old instances leave
	StepDone      RolloutStep = "done"      //
	StepFailed    RolloutStep = "failed"    // old version stays live
	StepCancelled RolloutStep = "cancelled" // by a rollback, or the deployment's deletion
)

// Terminal reports whether the step is an end.
func (s RolloutStep) Terminal() bool {
	return s == StepDone || s == StepFailed || s == StepCancelled
}

// Rollout is one change of an environment's active version. At most one per
// environment is live (pulling, starting or flipping).
type Rollout struct {
	ID            string
	TenantID      string
	DeploymentID  string
	EnvironmentID string
	Kind          RolloutKind
	TargetID      string // version to make live
	FromID        string // version live when it began; "" for the first
	Promote       bool   // false: only prove that it becomes healthy
	Step          RolloutStep
	StepSince     time.Time
	Deadline      time.Time // of the present step
	Requester     string    // key ID
	Reason        string    // why it ended as it did, or what it waits for
	CancelledBy   string    // rollout that asks for it to end, or a key where no other takes its place
	Traceparent   string    // of the request that asked for it (W3C Trace Context); "": none
	CreatedAt     time.Time
	UpdatedAt     time.Time
	FinishedAt    time.Time
	Revision      int64
}

// Live reports whether the rollout still decides what the environment runs:
// from draining on the next one may begin.
func (r Rollout) Live() bool {
	return r.ID != "" && (r.Step == StepPulling || r.Step == StepStarting || r.Step == StepFlipping)
}
