package store

import (
	"time"

	"github.com/miosa/miosa"
)

// Rollouts are kept by deployment.
var Rollouts = shape[miosa.Rollout, rolloutRecord]{
	name: kindRollout, schema: 1,
	key:      func(v miosa.Rollout) string { return RolloutKey(v.TenantID, v.DeploymentID, v.ID) },
	record:   rolloutToRecord,
	noun:     rolloutRecord.noun,
	revision: func(v *miosa.Rollout) *int64 { return &v.Revision },
	refs:     func(v miosa.Rollout) []ref { return idRef(v.ID, v.TenantID, v.DeploymentID) },
}.kind()

type rolloutRecord struct {
	ID            string            `json:"id,omitempty"`
	TenantID      string            `json:"tenant_id,omitempty"`
	DeploymentID  string            `json:"deployment_id,omitempty"`
	EnvironmentID string            `json:"environment_id,omitempty"`
	Kind          miosa.RolloutKind `json:"kind,omitempty"`
	TargetID      string            `json:"target_id,omitempty"`
	FromID        string            `json:"from_id,omitempty"`
	Promote       bool              `json:"promote,omitempty"`
	Step          miosa.RolloutStep `json:"step,omitempty"`
	StepSince     time.Time         `json:"step_since,omitzero"`
	Deadline      time.Time         `json:"deadline,omitzero"`
	Requester     string            `json:"requester,omitempty"`
	Reason        string            `json:"reason,omitempty"`
	CancelledBy   string            `json:"cancelled_by,omitempty"`
	Traceparent   string            `json:"traceparent,omitempty"`
	CreatedAt     time.Time         `json:"created_at,omitzero"`
	UpdatedAt     time.Time         `json:"updated_at,omitzero"`
	FinishedAt    time.Time         `json:"finished_at,omitzero"`
}

func rolloutToRecord(v miosa.Rollout) rolloutRecord {
	return rolloutRecord{
		ID:            v.ID,
		TenantID:      v.TenantID,
		DeploymentID:  v.DeploymentID,
		EnvironmentID: v.EnvironmentID,
		Kind:          v.Kind,
		TargetID:      v.TargetID,
		FromID:        v.FromID,
		Promote:       v.Promote,
		Step:          v.Step,
		StepSince:     utc(v.StepSince),
		Deadline:      utc(v.Deadline),
		Requester:     v.Requester,
		Reason:        v.Reason,
		CancelledBy:   v.CancelledBy,
		Traceparent:   v.Traceparent,
		CreatedAt:     utc(v.CreatedAt),
		UpdatedAt:     utc(v.UpdatedAt),
		FinishedAt:    utc(v.FinishedAt),
	}
}

func (r rolloutRecord) noun() miosa.Rollout {
	return miosa.Rollout{
		ID:            r.ID,
		TenantID:      r.TenantID,
		DeploymentID:  r.DeploymentID,
		EnvironmentID: r.EnvironmentID,
		Kind:          r.Kind,
		TargetID:      r.TargetID,
		FromID:        r.FromID,
		Promote:       r.Promote,
		Step:          r.Step,
		StepSince:     r.StepSince,
		Deadline:      r.Deadline,
		Requester:     r.Requester,
		Reason:        r.Reason,
		CancelledBy:   r.CancelledBy,
		Traceparent:   r.Traceparent,
		CreatedAt:     r.CreatedAt,
		UpdatedAt:     r.UpdatedAt,
		FinishedAt:    r.FinishedAt,
	}
}
