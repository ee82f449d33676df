package store

import (
	"time"

	"github.com/miosa/miosa"
)

// Events are only in transit here: written with the change they tell of, then
// moved to the event store.
var Events = shape[miosa.Event, eventRecord]{
	name: kindEvent, schema: 1,
	key:      func(v miosa.Event) string { return OutboxKey(v.ID) },
	record:   eventToRecord,
	noun:     eventRecord.noun,
	revision: func(v *miosa.Event) *int64 { return &v.Revision },
}.kind()

type eventRecord struct {
	ID           string            `json:"id,omitempty"`
	TenantID     string            `json:"tenant_id,omitempty"`
	DeploymentID string            `json:"deployment_id,omitempty"`
	ServiceID    string            `json:"service_id,omitempty"`
	InstanceID   string            `json:"instance_id,omitempty"`
	VersionID    string            `json:"version_id,omitempty"`
	RolloutID    string            `json:"rollout_id,omitempty"`
	HostID       string            `json:"host_id,omitempty"`
	TaskID       string            `json:"task_id,omitempty"`
	WorkspaceID  string            `json:"workspace_id,omitempty"`
	Type         string            `json:"type,omitempty"`
	Message      string            `json:"message,omitempty"`
	Actor        string            `json:"actor,omitempty"`
	RequestID    string            `json:"request_id,omitempty"`
	At           time.Time         `json:"at,omitzero"`
	Details      map[string]string `json:"details,omitempty"`
}

func eventToRecord(v miosa.Event) eventRecord {
	return eventRecord{
		ID:           v.ID,
		TenantID:     v.TenantID,
		DeploymentID: v.DeploymentID,
		ServiceID:    v.ServiceID,
		InstanceID:   v.InstanceID,
		VersionID:    v.VersionID,
		RolloutID:    v.RolloutID,
		HostID:       v.HostID,
		TaskID:       v.TaskID,
		WorkspaceID:  v.WorkspaceID,
		Type:         v.Type,
		Message:      v.Message,
		Actor:        v.Actor,
		RequestID:    v.RequestID,
		At:           utc(v.At),
		Details:      v.Details,
	}
}

func (r eventRecord) noun() miosa.Event {
	return miosa.Event{
		ID:           r.ID,
		TenantID:     r.TenantID,
		DeploymentID: r.DeploymentID,
		ServiceID:    r.ServiceID,
		InstanceID:   r.InstanceID,
		VersionID:    r.VersionID,
		RolloutID:    r.RolloutID,
		HostID:       r.HostID,
		TaskID:       r.TaskID,
		WorkspaceID:  r.WorkspaceID,
		Type:         r.Type,
		Message:      r.Message,
		Actor:        r.Actor,
		RequestID:    r.RequestID,
		At:           r.At,
		Details:      r.Details,
	}
}
