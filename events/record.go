package events

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/miosa/miosa"
)

// record is the stored shape of an event. Rules for changing it: fields are
// only added, never renamed, retyped or given another meaning; what an older
// binary must not read raises recordSchema. An event is never rewritten, so
// that what a newer binary added stays as it is.
type record struct {
	Schema       int               `json:"v"`
	ID           string            `json:"id"`
	TenantID     string            `json:"tenant_id,omitempty"`
	WorkspaceID  string            `json:"workspace_id,omitempty"`
	DeploymentID string            `json:"deployment_id,omitempty"`
	ServiceID    string            `json:"service_id,omitempty"`
	InstanceID   string            `json:"instance_id,omitempty"`
	VersionID    string            `json:"version_id,omitempty"`
	RolloutID    string            `json:"rollout_id,omitempty"`
	TaskID       string            `json:"task_id,omitempty"`
	HostID       string            `json:"host_id,omitempty"`
	Type         string            `json:"type,omitempty"`
	Message      string            `json:"message,omitempty"`
	Actor        string            `json:"actor,omitempty"`
	RequestID    string            `json:"request_id,omitempty"`
	At           time.Time         `json:"at,omitzero"`
	Details      map[string]string `json:"details,omitempty"`
	Revision     int64             `json:"revision,omitempty"`
}

const recordSchema = 1

// Encode is an event as adapters keep it.
func Encode(e *miosa.Event) ([]byte, error) {
	at := e.At
	if !at.IsZero() {
		at = at.UTC().Round(0)
	}
	return json.Marshal(record{
		Schema: recordSchema, ID: e.ID, TenantID: e.TenantID, WorkspaceID: e.WorkspaceID, DeploymentID: e.DeploymentID,
		ServiceID: e.ServiceID, InstanceID: e.InstanceID, VersionID: e.VersionID, RolloutID: e.RolloutID, TaskID: e.TaskID, HostID: e.HostID,
		Type: e.Type, Message: e.Message, Actor: e.Actor, RequestID: e.RequestID, At: at, Details: e.Details, Revision: e.Revision,
	})
}

// Decode is the event that Encode wrote.
func Decode(raw []byte) (miosa.Event, error) {
	var r record
	if err := json.Unmarshal(raw, &r); err != nil {
		return miosa.Event{}, fmt.Errorf("read event: %w", err)
	}
	if r.Schema > recordSchema {
		return miosa.Event{}, fmt.Errorf("event %s was written by a newer version of miosa", r.ID)
	}
	return miosa.Event{
		ID: r.ID, TenantID: r.TenantID, WorkspaceID: r.WorkspaceID, DeploymentID: r.DeploymentID,
		ServiceID: r.ServiceID, InstanceID: r.InstanceID, VersionID: r.VersionID, RolloutID: r.RolloutID, TaskID: r.TaskID, HostID: r.HostID,
		Type: r.Type, Message: r.Message, Actor: r.Actor, RequestID: r.RequestID, At: r.At, Details: r.Details, Revision: r.Revision,
	}, nil
}
