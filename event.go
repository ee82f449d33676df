package miosa

import "time"

// Event is one thing that happened, why, and who asked: the timeline of a
// deployment, and the audit trail of every mutation.
type Event struct {
	ID           string
	TenantID     string
	DeploymentID string
	ServiceID    string
	InstanceID   string
	VersionID    string
	RolloutID    string
	HostID       string
	TaskID       string
	WorkspaceID  string // external_workspace_id of its deployment when it happened
	Type         string // "rollout.flipped", "instance.crashed" …: noun.past_tense
	Message      string // in words
	Actor        string // key ID, or "control", "agent"
	RequestID    string
	At           time.Time
	Details      map[string]string
	Revision     int64
}
