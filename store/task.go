package store

import (
	"time"

	"github.com/miosa/miosa"
)

// Tasks are kept by deployment.
var Tasks = shape[miosa.Task, taskRecord]{
	name: kindTask, schema: 1,
	key:      func(v miosa.Task) string { return TaskKey(v.TenantID, v.DeploymentID, v.ID) },
	record:   taskToRecord,
	noun:     taskRecord.noun,
	revision: func(v *miosa.Task) *int64 { return &v.Revision },
	refs:     func(v miosa.Task) []ref { return idRef(v.ID, v.TenantID, v.DeploymentID) },
}.kind()

type taskRecord struct {
	ID            string            `json:"id,omitempty"`
	TenantID      string            `json:"tenant_id,omitempty"`
	DeploymentID  string            `json:"deployment_id,omitempty"`
	EnvironmentID string            `json:"environment_id,omitempty"`
	VersionID     string            `json:"version_id,omitempty"`
	ServiceID     string            `json:"service_id,omitempty"`
	Command       string            `json:"command,omitempty"`
	Resources     resourcesRecord   `json:"resources,omitzero"`
	Limit         time.Duration     `json:"limit_ns,omitempty"`
	Retries       int               `json:"retries,omitempty"`
	Attribution   attributionRecord `json:"attribution,omitzero"`
	Metadata      map[string]any    `json:"metadata,omitempty"`
	CreatedBy     string            `json:"created_by,omitempty"`
	StopAskedAt   time.Time         `json:"stop_asked_at,omitzero"`
	StopAskedBy   string            `json:"stop_asked_by,omitempty"`
	State         miosa.TaskState   `json:"state,omitempty"`
	Reason        string            `json:"reason,omitempty"`
	Attempt       int               `json:"attempt,omitempty"`
	NeverBegan    int               `json:"never_began,omitempty"`
	NextAt        time.Time         `json:"next_at,omitzero"`
	Deadline      time.Time         `json:"deadline,omitzero"`
	Ending        miosa.TaskState   `json:"ending,omitempty"`
	InstanceID    string            `json:"instance_id,omitempty"`
	HostID        string            `json:"host_id,omitempty"`
	Region        string            `json:"region,omitempty"`
	StartedAt     time.Time         `json:"started_at,omitzero"`
	Exited        bool              `json:"exited,omitempty"`
	ExitCode      int               `json:"exit_code,omitempty"`
	Signal        string            `json:"signal,omitempty"`
	LastLines     []string          `json:"last_lines,omitempty"`
	FinishedAt    time.Time         `json:"finished_at,omitzero"`
	CreatedAt     time.Time         `json:"created_at,omitzero"`
	UpdatedAt     time.Time         `json:"updated_at,omitzero"`
}

func taskToRecord(v miosa.Task) taskRecord {
	return taskRecord{
		ID:            v.ID,
		TenantID:      v.TenantID,
		DeploymentID:  v.DeploymentID,
		EnvironmentID: v.EnvironmentID,
		VersionID:     v.VersionID,
		ServiceID:     v.ServiceID,
		Command:       v.Command,
		Resources:     resourcesToRecord(v.Resources),
		Limit:         v.Limit,
		Retries:       v.Retries,
		Attribution:   attributionToRecord(v.Attribution),
		Metadata:      v.Metadata,
		CreatedBy:     v.CreatedBy,
		StopAskedAt:   utc(v.StopAskedAt),
		StopAskedBy:   v.StopAskedBy,
		State:         v.State,
		Reason:        v.Reason,
		Attempt:       v.Attempt,
		NeverBegan:    v.NeverBegan,
		NextAt:        utc(v.NextAt),
		Deadline:      utc(v.Deadline),
		Ending:        v.Ending,
		InstanceID:    v.InstanceID,
		HostID:        v.HostID,
		Region:        v.Region,
		StartedAt:     utc(v.StartedAt),
		Exited:        v.Exited,
		ExitCode:      v.ExitCode,
		Signal:        v.Signal,
		LastLines:     v.LastLines,
		FinishedAt:    utc(v.FinishedAt),
		CreatedAt:     utc(v.CreatedAt),
		UpdatedAt:     utc(v.UpdatedAt),
	}
}

func (r taskRecord) noun() miosa.Task {
	return miosa.Task{
		ID:            r.ID,
		TenantID:      r.TenantID,
		DeploymentID:  r.DeploymentID,
		EnvironmentID: r.EnvironmentID,
		VersionID:     r.VersionID,
		ServiceID:     r.ServiceID,
		Command:       r.Command,
		Resources:     r.Resources.noun(),
		Limit:         r.Limit,
		Retries:       r.Retries,
		Attribution:   r.Attribution.noun(),
		Metadata:      r.Metadata,
		CreatedBy:     r.CreatedBy,
		StopAskedAt:   r.StopAskedAt,
		StopAskedBy:   r.StopAskedBy,
		State:         r.State,
		Reason:        r.Reason,
		Attempt:       r.Attempt,
		NeverBegan:    r.NeverBegan,
		NextAt:        r.NextAt,
		Deadline:      r.Deadline,
		Ending:        r.Ending,
		InstanceID:    r.InstanceID,
		HostID:        r.HostID,
		Region:        r.Region,
		StartedAt:     r.StartedAt,
		Exited:        r.Exited,
		ExitCode:      r.ExitCode,
		Signal:        r.Signal,
		LastLines:     r.LastLines,
		FinishedAt:    r.FinishedAt,
		CreatedAt:     r.CreatedAt,
		UpdatedAt:     r.UpdatedAt,
	}
}
