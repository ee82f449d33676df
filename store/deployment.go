package store

import (
	"time"

	"github.com/miosa/miosa"
)

// Deployments are kept by tenant.
var Deployments = shape[miosa.Deployment, deploymentRecord]{
	name: kindDeployment, schema: 1,
	key:      func(v miosa.Deployment) string { return DeploymentKey(v.TenantID, v.ID) },
	record:   deploymentToRecord,
	noun:     deploymentRecord.noun,
	revision: func(v *miosa.Deployment) *int64 { return &v.Revision },
	refs:     func(v miosa.Deployment) []ref { return idRef(v.ID, v.TenantID, v.ID) },
}.kind()

type deploymentRecord struct {
	ID          string                `json:"id,omitempty"`
	TenantID    string                `json:"tenant_id,omitempty"`
	Name        string                `json:"name,omitempty"`
	Slug        string                `json:"slug,omitempty"`
	SourceType  string                `json:"source_type,omitempty"`
	ProjectID   string                `json:"project_id,omitempty"`
	RunCommand  string                `json:"run_command,omitempty"`
	OwnerID     string                `json:"owner_id,omitempty"`
	Attribution attributionRecord     `json:"attribution,omitzero"`
	Metadata    map[string]any        `json:"metadata,omitempty"`
	State       miosa.DeploymentState `json:"state,omitempty"`
	CreatedAt   time.Time             `json:"created_at,omitzero"`
	UpdatedAt   time.Time             `json:"updated_at,omitzero"`
	DeletedAt   time.Time             `json:"deleted_at,omitzero"`
	PurgeLogs   bool                  `json:"purge_logs,omitempty"`
}

func deploymentToRecord(v miosa.Deployment) deploymentRecord {
	return deploymentRecord{
		ID:          v.ID,
		TenantID:    v.TenantID,
		Name:        v.Name,
		Slug:        v.Slug,
		SourceType:  v.SourceType,
		ProjectID:   v.ProjectID,
		RunCommand:  v.RunCommand,
		OwnerID:     v.OwnerID,
		Attribution: attributionToRecord(v.Attribution),
		Metadata:    v.Metadata,
		State:       v.State,
		CreatedAt:   utc(v.CreatedAt),
		UpdatedAt:   utc(v.UpdatedAt),
		DeletedAt:   utc(v.DeletedAt),
		PurgeLogs:   v.PurgeLogs,
	}
}

func (r deploymentRecord) noun() miosa.Deployment {
	return miosa.Deployment{
		ID:          r.ID,
		TenantID:    r.TenantID,
		Name:        r.Name,
		Slug:        r.Slug,
		SourceType:  r.SourceType,
		ProjectID:   r.ProjectID,
		RunCommand:  r.RunCommand,
		OwnerID:     r.OwnerID,
		Attribution: r.Attribution.noun(),
		Metadata:    r.Metadata,
		State:       r.State,
		CreatedAt:   r.CreatedAt,
		UpdatedAt:   r.UpdatedAt,
		DeletedAt:   r.DeletedAt,
		PurgeLogs:   r.PurgeLogs,
	}
}

// Environments are kept by deployment.
var Environments = shape[miosa.Environment, environmentRecord]{
	name: kindEnvironment, schema: 1,
	key:      func(v miosa.Environment) string { return EnvironmentKey(v.TenantID, v.DeploymentID, v.ID) },
	record:   environmentToRecord,
	noun:     environmentRecord.noun,
	revision: func(v *miosa.Environment) *int64 { return &v.Revision },
	refs:     func(v miosa.Environment) []ref { return idRef(v.ID, v.TenantID, v.DeploymentID) },
}.kind()

type environmentRecord struct {
	ID                string                  `json:"id,omitempty"`
	TenantID          string                  `json:"tenant_id,omitempty"`
	DeploymentID      string                  `json:"deployment_id,omitempty"`
	Name              string                  `json:"name,omitempty"`
	ActiveVersionID   string                  `json:"active_version_id,omitempty"`
	PreviousVersionID string                  `json:"previous_version_id,omitempty"`
	ActiveSince       time.Time               `json:"active_since,omitzero"`
	VarsRevision      int64                   `json:"vars_revision,omitempty"`
	ToldHealth        miosa.EnvironmentHealth `json:"told_health,omitempty"`
	CreatedAt         time.Time               `json:"created_at,omitzero"`
	UpdatedAt         time.Time               `json:"updated_at,omitzero"`
}

func environmentToRecord(v miosa.Environment) environmentRecord {
	return environmentRecord{
		ID:                v.ID,
		TenantID:          v.TenantID,
		DeploymentID:      v.DeploymentID,
		Name:              v.Name,
		ActiveVersionID:   v.ActiveVersionID,
		PreviousVersionID: v.PreviousVersionID,
		ActiveSince:       utc(v.ActiveSince),
		VarsRevision:      v.VarsRevision,
		ToldHealth:        v.ToldHealth,
		CreatedAt:         utc(v.CreatedAt),
		UpdatedAt:         utc(v.UpdatedAt),
	}
}

func (r environmentRecord) noun() miosa.Environment {
	return miosa.Environment{
		ID:                r.ID,
		TenantID:          r.TenantID,
		DeploymentID:      r.DeploymentID,
		Name:              r.Name,
		ActiveVersionID:   r.ActiveVersionID,
		PreviousVersionID: r.PreviousVersionID,
		ActiveSince:       r.ActiveSince,
		VarsRevision:      r.VarsRevision,
		ToldHealth:        r.ToldHealth,
		CreatedAt:         r.CreatedAt,
		UpdatedAt:         r.UpdatedAt,
	}
}

// VarSets are the variables of each environment.
var VarSets = shape[miosa.Vars, varsRecord]{
	name: kindVars, schema: 1,
	key:      func(v miosa.Vars) string { return VarsKey(v.TenantID, v.DeploymentID, v.EnvironmentID) },
	record:   varsToRecord,
	noun:     varsRecord.noun,
	revision: func(v *miosa.Vars) *int64 { return &v.Revision },
}.kind()

type varsRecord struct {
	TenantID      string      `json:"tenant_id,omitempty"`
	DeploymentID  string      `json:"deployment_id,omitempty"`
	EnvironmentID string      `json:"environment_id,omitempty"`
	Vars          []varRecord `json:"vars,omitempty"`
}

func varsToRecord(v miosa.Vars) varsRecord {
	return varsRecord{
		TenantID:      v.TenantID,
		DeploymentID:  v.DeploymentID,
		EnvironmentID: v.EnvironmentID,
		Vars:          each(v.Vars, varToRecord),
	}
}

func (r varsRecord) noun() miosa.Vars {
	return miosa.Vars{
		TenantID:      r.TenantID,
		DeploymentID:  r.DeploymentID,
		EnvironmentID: r.EnvironmentID,
		Vars:          each(r.Vars, varRecord.noun),
	}
}

// Services are kept by deployment.
var Services = shape[miosa.Service, serviceRecord]{
	name: kindService, schema: 1,
	key:      func(v miosa.Service) string { return ServiceKey(v.TenantID, v.DeploymentID, v.ID) },
	record:   serviceToRecord,
	noun:     serviceRecord.noun,
	revision: func(v *miosa.Service) *int64 { return &v.Revision },
	refs:     func(v miosa.Service) []ref { return idRef(v.ID, v.TenantID, v.DeploymentID) },
}.kind()

type serviceRecord struct {
	ID                  string               `json:"id,omitempty"`
	TenantID            string               `json:"tenant_id,omitempty"`
	DeploymentID        string               `json:"deployment_id,omitempty"`
	EnvironmentID       string               `json:"environment_id,omitempty"`
	Name                string               `json:"name,omitempty"`
	Type                miosa.ServiceType    `json:"type,omitempty"`
	DesiredReplicas     int                  `json:"desired_replicas,omitempty"`
	Regions             []string             `json:"regions,omitempty"`
	Sticky              stickyRecord         `json:"sticky,omitzero"`
	Restart             restartPolicyRecord  `json:"restart,omitzero"`
	MaxUnavailable      maxUnavailableRecord `json:"max_unavailable,omitzero"`
	StopAfterDisconnect time.Duration        `json:"stop_after_disconnect_ns,omitempty"`
	Labels              map[string]string    `json:"labels,omitempty"`
	Apart               bool                 `json:"apart,omitempty"`
	DrainSeconds        int                  `json:"drain_seconds,omitempty"`
	Logs                logLimitRecord       `json:"logs,omitzero"`
	PublicPort          int                  `json:"public_port,omitempty"`
	Metadata            map[string]any       `json:"metadata,omitempty"`
	CreatedAt           time.Time            `json:"created_at,omitzero"`
	UpdatedAt           time.Time            `json:"updated_at,omitzero"`
}

func serviceToRecord(v miosa.Service) serviceRecord {
	return serviceRecord{
		ID:                  v.ID,
		TenantID:            v.TenantID,
		DeploymentID:        v.DeploymentID,
		EnvironmentID:       v.EnvironmentID,
		Name:                v.Name,
		Type:                v.Type,
		DesiredReplicas:     v.DesiredReplicas,
		Regions:             v.Regions,
		Sticky:              stickyToRecord(v.Sticky),
		Restart:             restartPolicyToRecord(v.Restart),
		MaxUnavailable:      maxUnavailableRecord(v.MaxUnavailable),
		StopAfterDisconnect: v.StopAfterDisconnect,
		Labels:              v.Labels,
		Apart:               v.Apart,
		DrainSeconds:        v.DrainSeconds,
		Logs:                logLimitToRecord(v.Logs),
		PublicPort:          v.PublicPort,
		Metadata:            v.Metadata,
		CreatedAt:           utc(v.CreatedAt),
		UpdatedAt:           utc(v.UpdatedAt),
	}
}

func (r serviceRecord) noun() miosa.Service {
	return miosa.Service{
		ID:                  r.ID,
		TenantID:            r.TenantID,
		DeploymentID:        r.DeploymentID,
		EnvironmentID:       r.EnvironmentID,
		Name:                r.Name,
		Type:                r.Type,
		DesiredReplicas:     r.DesiredReplicas,
		Regions:             r.Regions,
		Sticky:              r.Sticky.noun(),
		Restart:             r.Restart.noun(),
		MaxUnavailable:      miosa.MaxUnavailable(r.MaxUnavailable),
		StopAfterDisconnect: r.StopAfterDisconnect,
		Labels:              r.Labels,
		Apart:               r.Apart,
		DrainSeconds:        r.DrainSeconds,
		Logs:                r.Logs.noun(),
		PublicPort:          r.PublicPort,
		Metadata:            r.Metadata,
		CreatedAt:           r.CreatedAt,
		UpdatedAt:           r.UpdatedAt,
	}
}

type varRecord struct {
	Key       string    `json:"key,omitempty" store:"identity"`
	Sealed    []byte    `json:"sealed,omitempty"`
	Preview   string    `json:"preview,omitempty"`
	Secret    bool      `json:"secret,omitempty"`
	UpdatedAt time.Time `json:"updated_at,omitzero"`
}

func varToRecord(v miosa.Var) varRecord {
	return varRecord{
		Key:       v.Key,
		Sealed:    v.Sealed,
		Preview:   v.Preview,
		Secret:    v.Secret,
		UpdatedAt: utc(v.UpdatedAt),
	}
}

func (r varRecord) noun() miosa.Var {
	return miosa.Var{
		Key:       r.Key,
		Sealed:    r.Sealed,
		Preview:   r.Preview,
		Secret:    r.Secret,
		UpdatedAt: r.UpdatedAt,
	}
}

type stickyRecord struct {
	Mode miosa.StickyMode `json:"mode,omitempty"`
	Name string           `json:"name,omitempty"`
}

func stickyToRecord(v miosa.Sticky) stickyRecord {
	return stickyRecord{
		Mode: v.Mode,
		Name: v.Name,
	}
}

func (r stickyRecord) noun() miosa.Sticky {
	return miosa.Sticky{
		Mode: r.Mode,
		Name: r.Name,
	}
}

type restartPolicyRecord struct {
	Mode   miosa.RestartMode `json:"mode,omitempty"`
	MaxAge time.Duration     `json:"max_age_ns,omitempty"`
}

func restartPolicyToRecord(v miosa.RestartPolicy) restartPolicyRecord {
	return restartPolicyRecord{
		Mode:   v.Mode,
		MaxAge: v.MaxAge,
	}
}

func (r restartPolicyRecord) noun() miosa.RestartPolicy {
	return miosa.RestartPolicy{
		Mode:   r.Mode,
		MaxAge: r.MaxAge,
	}
}

type maxUnavailableRecord struct {
	Count   int `json:"count,omitempty"`
	Percent int `json:"percent,omitempty"`
}

type logLimitRecord struct {
	LinesPerSecond int  `json:"lines_per_second,omitempty"`
	Burst          int  `json:"burst,omitempty"`
	Unlimited      bool `json:"unlimited,omitempty"`
}

func logLimitToRecord(v miosa.LogLimit) logLimitRecord {
	return logLimitRecord{
		LinesPerSecond: v.LinesPerSecond,
		Burst:          v.Burst,
		Unlimited:      v.Unlimited,
	}
}

func (r logLimitRecord) noun() miosa.LogLimit {
	return miosa.LogLimit{
		LinesPerSecond: r.LinesPerSecond,
		Burst:          r.Burst,
		Unlimited:      r.Unlimited,
	}
}
