package store

import (
	"net/netip"
	"time"

	"github.com/miosa/miosa"
)

// Instances are the assignments, without what was Observed of them.
var Instances = shape[miosa.Instance, instanceRecord]{
	name: kindInstance, schema: 1,
	key:      func(v miosa.Instance) string { return InstanceKey(v.TenantID, v.DeploymentID, v.ID) },
	record:   instanceToRecord,
	noun:     instanceRecord.noun,
	revision: func(v *miosa.Instance) *int64 { return &v.Revision },
	refs:     func(v miosa.Instance) []ref { return idRef(v.ID, v.TenantID, v.DeploymentID) },
}.kind()

type instanceRecord struct {
	ID                  string              `json:"id,omitempty"`
	TenantID            string              `json:"tenant_id,omitempty"`
	DeploymentID        string              `json:"deployment_id,omitempty"`
	EnvironmentID       string              `json:"environment_id,omitempty"`
	ServiceID           string              `json:"service_id,omitempty"`
	VersionID           string              `json:"version_id,omitempty"`
	Slot                int                 `json:"slot,omitempty"`
	Replaces            string              `json:"replaces,omitempty"`
	TaskID              string              `json:"task_id,omitempty"`
	Attempt             int                 `json:"attempt,omitempty"`
	Limit               time.Duration       `json:"limit_ns,omitempty"`
	Attribution         attributionRecord   `json:"attribution,omitzero"`
	Spec                serviceSpecRecord   `json:"spec,omitzero"`
	Restart             restartPolicyRecord `json:"restart,omitzero"`
	StopAfterDisconnect time.Duration       `json:"stop_after_disconnect_ns,omitempty"`
	Proven              bool                `json:"proven,omitempty"`
	PriorFailures       int                 `json:"prior_failures,omitempty"`
	Goal                miosa.Goal          `json:"goal,omitempty"`
	GoalReason          string              `json:"goal_reason,omitempty"`
	GoalSince           time.Time           `json:"goal_since,omitzero"`
	DrainSeconds        int                 `json:"drain_seconds,omitempty"`
	Logs                logLimitRecord      `json:"logs,omitzero"`
	Words               []noticeRecord      `json:"words,omitempty"`
	HostID              string              `json:"host_id,omitempty"`
	Region              string              `json:"region,omitempty"`
	Zone                string              `json:"zone,omitempty"`
	Generation          int64               `json:"generation,omitempty"`
	RestartNonce        int                 `json:"restart_nonce,omitempty"`
	ReplaceAsked        bool                `json:"replace_asked,omitempty"`
	BootSpec            []byte              `json:"boot_spec,omitempty"`
	Reasons             []string            `json:"reasons,omitempty"`
	ScheduledAt         time.Time           `json:"scheduled_at,omitzero"`
	CreatedAt           time.Time           `json:"created_at,omitzero"`
	UpdatedAt           time.Time           `json:"updated_at,omitzero"`
	CreatedReason       string              `json:"created_reason,omitempty"`
}

func instanceToRecord(v miosa.Instance) instanceRecord {
	return instanceRecord{
		ID:                  v.ID,
		TenantID:            v.TenantID,
		DeploymentID:        v.DeploymentID,
		EnvironmentID:       v.EnvironmentID,
		ServiceID:           v.ServiceID,
		VersionID:           v.VersionID,
		Slot:                v.Slot,
		Replaces:            v.Replaces,
		TaskID:              v.TaskID,
		Attempt:             v.Attempt,
		Limit:               v.Limit,
		Attribution:         attributionToRecord(v.Attribution),
		Spec:                serviceSpecToRecord(v.Spec),
		Restart:             restartPolicyToRecord(v.Restart),
		StopAfterDisconnect: v.StopAfterDisconnect,
		Proven:              v.Proven,
		PriorFailures:       v.PriorFailures,
		Goal:                v.Goal,
		GoalReason:          v.GoalReason,
		GoalSince:           utc(v.GoalSince),
		DrainSeconds:        v.DrainSeconds,
		Logs:                logLimitToRecord(v.Logs),
		Words:               each(v.Notices, noticeToRecord),
		HostID:              v.HostID,
		Region:              v.Region,
		Zone:                v.Zone,
		Generation:          v.Generation,
		RestartNonce:        v.RestartNonce,
		ReplaceAsked:        v.ReplaceAsked,
		BootSpec:            v.BootSpec,
		Reasons:             v.Reasons,
		ScheduledAt:         utc(v.ScheduledAt),
		CreatedAt:           utc(v.CreatedAt),
		UpdatedAt:           utc(v.UpdatedAt),
		CreatedReason:       v.CreatedReason,
	}
}

func (r instanceRecord) noun() miosa.Instance {
	return miosa.Instance{
		ID:                  r.ID,
		TenantID:            r.TenantID,
		DeploymentID:        r.DeploymentID,
		EnvironmentID:       r.EnvironmentID,
		ServiceID:           r.ServiceID,
		VersionID:           r.VersionID,
		Slot:                r.Slot,
		Replaces:            r.Replaces,
		TaskID:              r.TaskID,
		Attempt:             r.Attempt,
		Limit:               r.Limit,
		Attribution:         r.Attribution.noun(),
		Spec:                r.Spec.noun(),
		Restart:             r.Restart.noun(),
		StopAfterDisconnect: r.StopAfterDisconnect,
		Proven:              r.Proven,
		PriorFailures:       r.PriorFailures,
		Goal:                r.Goal,
		GoalReason:          r.GoalReason,
		GoalSince:           r.GoalSince,
		DrainSeconds:        r.DrainSeconds,
		Logs:                r.Logs.noun(),
		Notices:             each(r.Words, noticeRecord.noun),
		HostID:              r.HostID,
		Region:              r.Region,
		Zone:                r.Zone,
		Generation:          r.Generation,
		RestartNonce:        r.RestartNonce,
		ReplaceAsked:        r.ReplaceAsked,
		BootSpec:            r.BootSpec,
		Reasons:             r.Reasons,
		ScheduledAt:         r.ScheduledAt,
		CreatedAt:           r.CreatedAt,
		UpdatedAt:           r.UpdatedAt,
		CreatedReason:       r.CreatedReason,
	}
}

type noticeRecord struct {
	ID   string    `json:"id,omitempty" store:"identity"`
	At   time.Time `json:"at,omitzero"`
	Text string    `json:"text,omitempty"`
}

func noticeToRecord(v miosa.Notice) noticeRecord {
	return noticeRecord{
		ID:   v.ID,
		At:   utc(v.At),
		Text: v.Text,
	}
}

func (r noticeRecord) noun() miosa.Notice {
	return miosa.Notice{
		ID:   r.ID,
		At:   r.At,
		Text: r.Text,
	}
}

// Observations are the agents' reports, by instance.
var Observations = shape[miosa.Observation, observationRecord]{
	name: kindObservation, schema: 1,
	key:      func(v miosa.Observation) string { return ObservationKey(v.TenantID, v.DeploymentID, v.InstanceID) },
	record:   observationToRecord,
	noun:     observationRecord.noun,
	revision: func(v *miosa.Observation) *int64 { return &v.Revision },
}.kind()

type observationRecord struct {
	InstanceID    string              `json:"instance_id,omitempty"`
	TenantID      string              `json:"tenant_id,omitempty"`
	DeploymentID  string              `json:"deployment_id,omitempty"`
	HostID        string              `json:"host_id,omitempty"`
	Generation    int64               `json:"generation,omitempty"`
	Seq           int64               `json:"seq,omitempty"`
	State         miosa.InstanceState `json:"state,omitempty"`
	VMID          string              `json:"vm_id,omitempty"`
	Addr          netip.AddrPort      `json:"addr,omitzero"`
	Boot          int                 `json:"boot,omitempty"`
	RestartCount  int                 `json:"restart_count,omitempty"`
	Failures      int                 `json:"failures,omitempty"`
	StartedAt     time.Time           `json:"started_at,omitzero"`
	HealthyAt     time.Time           `json:"healthy_at,omitzero"`
	StoppedAt     time.Time           `json:"stopped_at,omitzero"`
	NextRestartAt time.Time           `json:"next_restart_at,omitzero"`
	LastProbeAt   time.Time           `json:"last_probe_at,omitzero"`
	LastProbe     string              `json:"last_probe,omitempty"`
	Failure       failureRecord       `json:"failure,omitzero"`
	Phases        []phaseRecord       `json:"phases,omitempty"`
	ClockSetBack  clockSetBackRecord  `json:"clock_set_back,omitzero"`
	ReportedAt    time.Time           `json:"reported_at,omitzero"`
}

func observationToRecord(v miosa.Observation) observationRecord {
	return observationRecord{
		InstanceID:    v.InstanceID,
		TenantID:      v.TenantID,
		DeploymentID:  v.DeploymentID,
		HostID:        v.HostID,
		Generation:    v.Generation,
		Seq:           v.Seq,
		State:         v.State,
		VMID:          v.VMID,
		Addr:          v.Addr,
		Boot:          v.Boot,
		RestartCount:  v.RestartCount,
		Failures:      v.Failures,
		StartedAt:     utc(v.StartedAt),
		HealthyAt:     utc(v.HealthyAt),
		StoppedAt:     utc(v.StoppedAt),
		NextRestartAt: utc(v.NextRestartAt),
		LastProbeAt:   utc(v.LastProbeAt),
		LastProbe:     v.LastProbe,
		Failure:       failureToRecord(v.Failure),
		Phases:        each(v.Phases, phaseToRecord),
		ClockSetBack:  clockSetBackToRecord(v.ClockSetBack),
		ReportedAt:    utc(v.ReportedAt),
	}
}

func (r observationRecord) noun() miosa.Observation {
	return miosa.Observation{
		InstanceID:    r.InstanceID,
		TenantID:      r.TenantID,
		DeploymentID:  r.DeploymentID,
		HostID:        r.HostID,
		Generation:    r.Generation,
		Seq:           r.Seq,
		State:         r.State,
		VMID:          r.VMID,
		Addr:          r.Addr,
		Boot:          r.Boot,
		RestartCount:  r.RestartCount,
		Failures:      r.Failures,
		StartedAt:     r.StartedAt,
		HealthyAt:     r.HealthyAt,
		StoppedAt:     r.StoppedAt,
		NextRestartAt: r.NextRestartAt,
		LastProbeAt:   r.LastProbeAt,
		LastProbe:     r.LastProbe,
		Failure:       r.Failure.noun(),
		Phases:        each(r.Phases, phaseRecord.noun),
		ClockSetBack:  r.ClockSetBack.noun(),
		ReportedAt:    r.ReportedAt,
	}
}

type clockSetBackRecord struct {
	At time.Time     `json:"at,omitzero"`
	By time.Duration `json:"by_ns,omitempty"`
}

func clockSetBackToRecord(v miosa.ClockSetBack) clockSetBackRecord {
	return clockSetBackRecord{At: utc(v.At), By: v.By}
}

func (r clockSetBackRecord) noun() miosa.ClockSetBack {
	return miosa.ClockSetBack{At: r.At, By: r.By}
}

type failureRecord struct {
	Kind      miosa.FailureKind `json:"kind,omitempty"`
	Message   string            `json:"message,omitempty"`
	ExitCode  int               `json:"exit_code,omitempty"`
	Signal    string            `json:"signal,omitempty"`
	At        time.Time         `json:"at,omitzero"`
	LastLines []string          `json:"last_lines,omitempty"`
}

func failureToRecord(v miosa.Failure) failureRecord {
	return failureRecord{
		Kind:      v.Kind,
		Message:   v.Message,
		ExitCode:  v.ExitCode,
		Signal:    v.Signal,
		At:        utc(v.At),
		LastLines: v.LastLines,
	}
}

func (r failureRecord) noun() miosa.Failure {
	return miosa.Failure{
		Kind:      r.Kind,
		Message:   r.Message,
		ExitCode:  r.ExitCode,
		Signal:    r.Signal,
		At:        r.At,
		LastLines: r.LastLines,
	}
}

type phaseRecord struct {
	Name string    `json:"name,omitempty"`
	At   time.Time `json:"at,omitzero"`
}

func phaseToRecord(v miosa.Phase) phaseRecord {
	return phaseRecord{
		Name: v.Name,
		At:   utc(v.At),
	}
}

func (r phaseRecord) noun() miosa.Phase {
	return miosa.Phase{
		Name: r.Name,
		At:   r.At,
	}
}
