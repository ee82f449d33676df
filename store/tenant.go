package store

import (
	"time"

	"github.com/miosa/miosa"
)

// Tenants are kept by ID.
var Tenants = shape[miosa.Tenant, tenantRecord]{
	name: kindTenant, schema: 1,
	key:      func(v miosa.Tenant) string { return TenantKey(v.ID) },
	record:   tenantToRecord,
	noun:     tenantRecord.noun,
	revision: func(v *miosa.Tenant) *int64 { return &v.Revision },
}.kind()

type tenantRecord struct {
	ID        string    `json:"id,omitempty"`
	Name      string    `json:"name,omitempty"`
	Slug      string    `json:"slug,omitempty"`
	Plan      string    `json:"plan,omitempty"`
	CreatedAt time.Time `json:"created_at,omitzero"`
	UpdatedAt time.Time `json:"updated_at,omitzero"`
}

func tenantToRecord(v miosa.Tenant) tenantRecord {
	return tenantRecord{
		ID:        v.ID,
		Name:      v.Name,
		Slug:      v.Slug,
		Plan:      v.Plan,
		CreatedAt: utc(v.CreatedAt),
		UpdatedAt: utc(v.UpdatedAt),
	}
}

func (r tenantRecord) noun() miosa.Tenant {
	return miosa.Tenant{
		ID:        r.ID,
		Name:      r.Name,
		Slug:      r.Slug,
		Plan:      r.Plan,
		CreatedAt: r.CreatedAt,
		UpdatedAt: r.UpdatedAt,
	}
}

// Plans are kept by name.
var Plans = shape[miosa.Plan, planRecord]{
	name: kindPlan, schema: 1,
	key:      func(v miosa.Plan) string { return PlanKey(v.Name) },
	record:   planToRecord,
	noun:     planRecord.noun,
	revision: func(v *miosa.Plan) *int64 { return &v.Revision },
}.kind()

type planRecord struct {
	Name               string    `json:"name,omitempty"`
	GPU                bool      `json:"gpu,omitempty"`
	LogDays            int       `json:"log_days,omitempty"`
	EventDays          int       `json:"event_days,omitempty"`
	MaxReplicas        int       `json:"max_replicas,omitempty"`
	MaxInstances       int       `json:"max_instances,omitempty"`
	MaxVCPUs           int       `json:"max_vcpus,omitempty"`
	MaxMemoryMB        int       `json:"max_memory_mb,omitempty"`
	MaxDiskMB          int       `json:"max_disk_mb,omitempty"`
	MaxDeployments     int       `json:"max_deployments,omitempty"`
	MaxLogRate         int       `json:"max_log_rate,omitempty"`
	MaxEnvironments    int       `json:"max_environments,omitempty"`
	MaxServices        int       `json:"max_services,omitempty"`
	MaxWebhooks        int       `json:"max_webhooks,omitempty"`
	MaxLogDrains       int       `json:"max_log_drains,omitempty"`
	MaxRegistries      int       `json:"max_registries,omitempty"`
	MaxAPIKeys         int       `json:"max_api_keys,omitempty"`
	MaxReleases        int       `json:"max_releases,omitempty"`
	MaxStorageMB       int       `json:"max_storage_mb,omitempty"`
	MaxLogStorageMB    int       `json:"max_log_storage_mb,omitempty"`
	MaxPublicPorts     int       `json:"max_public_ports,omitempty"`
	MaxTasks           int       `json:"max_tasks,omitempty"`
	MaxExecSessions    int       `json:"max_exec_sessions,omitempty"`
	MaxExecMinutes     int       `json:"max_exec_minutes,omitempty"`
	MaxExecIdleMinutes int       `json:"max_exec_idle_minutes,omitempty"`
	CreatedAt          time.Time `json:"created_at,omitzero"`
	UpdatedAt          time.Time `json:"updated_at,omitzero"`
}

func planToRecord(v miosa.Plan) planRecord {
	return planRecord{
		Name:            v.Name,
		GPU:             v.GPU,
		LogDays:         v.LogDays,
		EventDays:       v.EventDays,
		MaxReplicas:     v.MaxReplicas,
		MaxInstances:    v.MaxInstances,
		MaxVCPUs:        v.MaxVCPUs,
		MaxMemoryMB:     v.MaxMemoryMB,
		MaxDiskMB:       v.MaxDiskMB,
		MaxDeployments:  v.MaxDeployments,
		MaxLogRate:      v.MaxLogRate,
		MaxEnvironments: v.MaxEnvironments,
		MaxServices:     v.MaxServices,
		MaxWebhooks:     v.MaxWebhooks,
		MaxLogDrains:    v.MaxLogDrains,
		MaxRegistries:   v.MaxRegistries,
		MaxAPIKeys:      v.MaxAPIKeys,
		MaxReleases:     v.MaxReleases,
		MaxStorageMB:    v.MaxStorageMB,
		MaxLogStorageMB: v.MaxLogStorageMB,
		MaxPublicPorts:  v.MaxPublicPorts,
		MaxTasks:        v.MaxTasks,
		MaxExecSessions: v.MaxExecSessions, MaxExecMinutes: v.MaxExecMinutes, MaxExecIdleMinutes: v.MaxExecIdleMinutes,
		CreatedAt: utc(v.CreatedAt),
		UpdatedAt: utc(v.UpdatedAt),
	}
}

func (r planRecord) noun() miosa.Plan {
	return miosa.Plan{
		Name:            r.Name,
		GPU:             r.GPU,
		LogDays:         r.LogDays,
		EventDays:       r.EventDays,
		MaxReplicas:     r.MaxReplicas,
		MaxInstances:    r.MaxInstances,
		MaxVCPUs:        r.MaxVCPUs,
		MaxMemoryMB:     r.MaxMemoryMB,
		MaxDiskMB:       r.MaxDiskMB,
		MaxDeployments:  r.MaxDeployments,
		MaxLogRate:      r.MaxLogRate,
		MaxEnvironments: r.MaxEnvironments,
		MaxServices:     r.MaxServices,
		MaxWebhooks:     r.MaxWebhooks,
		MaxLogDrains:    r.MaxLogDrains,
		MaxRegistries:   r.MaxRegistries,
		MaxAPIKeys:      r.MaxAPIKeys,
		MaxReleases:     r.MaxReleases,
		MaxStorageMB:    r.MaxStorageMB,
		MaxLogStorageMB: r.MaxLogStorageMB,
		MaxPublicPorts:  r.MaxPublicPorts,
		MaxTasks:        r.MaxTasks,
		MaxExecSessions: r.MaxExecSessions, MaxExecMinutes: r.MaxExecMinutes, MaxExecIdleMinutes: r.MaxExecIdleMinutes,
		CreatedAt: r.CreatedAt,
		UpdatedAt: r.UpdatedAt,
	}
}

// APIKeys are kept by the hash of the secret.
var APIKeys = shape[miosa.APIKey, apiKeyRecord]{
	name: kindAPIKey, schema: 1,
	key:      func(v miosa.APIKey) string { return APIKeyKey(v.Hash) },
	record:   apiKeyToRecord,
	noun:     apiKeyRecord.noun,
	revision: func(v *miosa.APIKey) *int64 { return &v.Revision },
	refs:     func(v miosa.APIKey) []ref { return []ref{{APIKeyIDKey(v.ID), v.Hash}} },
}.kind()

type apiKeyRecord struct {
	ID          string     `json:"id,omitempty"`
	Hash        string     `json:"hash,omitempty"`
	Hint        string     `json:"hint,omitempty"`
	Name        string     `json:"name,omitempty"`
	Role        miosa.Role `json:"role,omitempty"`
	TenantID    string     `json:"tenant_id,omitempty"`
	WorkspaceID string     `json:"workspace_id,omitempty"`
	Ephemeral   bool       `json:"ephemeral,omitempty"`
	CreatedAt   time.Time  `json:"created_at,omitzero"`
	RevokedAt   time.Time  `json:"revoked_at,omitzero"`
}

func apiKeyToRecord(v miosa.APIKey) apiKeyRecord {
	return apiKeyRecord{
		ID:          v.ID,
		Hash:        v.Hash,
		Hint:        v.Hint,
		Name:        v.Name,
		Role:        v.Role,
		TenantID:    v.TenantID,
		WorkspaceID: v.WorkspaceID,
		Ephemeral:   v.Ephemeral,
		CreatedAt:   utc(v.CreatedAt),
		RevokedAt:   utc(v.RevokedAt),
	}
}

func (r apiKeyRecord) noun() miosa.APIKey {
	return miosa.APIKey{
		ID:          r.ID,
		Hash:        r.Hash,
		Hint:        r.Hint,
		Name:        r.Name,
		Role:        r.Role,
		TenantID:    r.TenantID,
		WorkspaceID: r.WorkspaceID,
		Ephemeral:   r.Ephemeral,
		CreatedAt:   r.CreatedAt,
		RevokedAt:   r.RevokedAt,
	}
}

type attributionRecord struct {
	WorkspaceID string `json:"workspace_id,omitempty"`
	UserID      string `json:"user_id,omitempty"`
	ProjectID   string `json:"project_id,omitempty"`
}

func attributionToRecord(v miosa.Attribution) attributionRecord {
	return attributionRecord{
		WorkspaceID: v.WorkspaceID,
		UserID:      v.UserID,
		ProjectID:   v.ProjectID,
	}
}

func (r attributionRecord) noun() miosa.Attribution {
	return miosa.Attribution{
		WorkspaceID: r.WorkspaceID,
		UserID:      r.UserID,
		ProjectID:   r.ProjectID,
	}
}
