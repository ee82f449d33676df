package resource

import "time"

// Region is a place customers can ask for.
type Region struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Slug      string `json:"slug"`
	Country   string `json:"country"`
	City      string `json:"city"`
	Available bool   `json:"available"`
}

// Size is a named size of instance.
type Size struct {
	Slug      string  `json:"slug"`
	Name      string  `json:"name"`
	VCPUs     int     `json:"vcpus"`
	MemoryMB  int     `json:"memory_mb"`
	DiskGB    int     `json:"disk_gb"`
	PriceHour float64 `json:"price_hour"`
}

// Build would be one build; this platform builds nothing, the list is empty.
type Build struct {
	ID string `json:"id"`
}

// Tenant is one customer organisation.
type Tenant struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Slug      string    `json:"slug" doc:"Unique; part of every public URL."`
	Plan      string    `json:"plan"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// TenantCreate makes a tenant.
type TenantCreate struct {
	Name string `json:"name" required:"true" doc:"1–100 characters."`
	Slug string `json:"slug,omitempty" doc:"Default: made from the name."`
	Plan string `json:"plan,omitempty" doc:"Default: default."`
}

// TenantPatch changes a tenant; its slug stays.
type TenantPatch struct {
	Name *string `json:"name,omitempty"`
	Plan *string `json:"plan,omitempty"`
}

// Plan says what its tenants may use. 0 means none of it.
type Plan struct {
	Name               string    `json:"name"`
	GPU                bool      `json:"gpu"`
	LogDays            int       `json:"log_days"`
	EventDays          int       `json:"event_days" doc:"How long events are kept; 0: 30."`
	MaxReplicas        int       `json:"max_replicas" doc:"Per service."`
	MaxInstances       int       `json:"max_instances" doc:"Per tenant."`
	MaxVCPUs           int       `json:"max_vcpus" doc:"Per instance."`
	MaxMemoryMB        int       `json:"max_memory_mb" doc:"Per instance."`
	MaxDiskMB          int       `json:"max_disk_mb" doc:"Per instance."`
	MaxDeployments     int       `json:"max_deployments"`
	MaxLogRate         int       `json:"max_log_rate" doc:"Log lines a second that a service may be allowed, per instance; -1: any number."`
	MaxEnvironments    int       `json:"max_environments" doc:"Of a deployment. -1: any number."`
	MaxServices        int       `json:"max_services" doc:"Of a version; an environment keeps five times as many names. -1: any number."`
	MaxWebhooks        int       `json:"max_webhooks" doc:"Of the tenant. -1: any number."`
	MaxRegistries      int       `json:"max_registries" doc:"That the tenant has a login to. -1: any number."`
	MaxLogDrains       int       `json:"max_log_drains" doc:"Of the tenant; a workspace has at most 10. -1: any number."`
	MaxAPIKeys         int       `json:"max_api_keys" doc:"Of the tenant, revoked ones aside. -1: any number."`
	MaxReleases        int       `json:"max_releases" doc:"Whose bytes are kept, in all deployments. -1: any number."`
	MaxStorageMB       int       `json:"max_storage_mb" doc:"Of releases whose bytes are kept. -1: any number."`
	MaxLogStorageMB    int       `json:"max_log_storage_mb" doc:"Of the text of the tenant's log lines of the last log_days, before compression, purged ones too; what is over it is dropped, and counted in the log. -1: any number."`
	MaxPublicPorts     int       `json:"max_public_ports" doc:"Of the tenant's services of protocol tcp, those of versions that can be rolled back to among them. -1: any number."`
	MaxTasks           int       `json:"max_tasks" doc:"Of the tenant, that have not ended. -1: any number."`
	MaxExecSessions    int       `json:"max_exec_sessions" doc:"At once, per instance, and 4 at most. -1: any number."`
	MaxExecMinutes     int       `json:"max_exec_minutes" doc:"That an exec session may last. -1: any number."`
	MaxExecIdleMinutes int       `json:"max_exec_idle_minutes" doc:"That an exec session may bring nothing either way. -1: any number."`
	CreatedAt          time.Time `json:"created_at"`
	UpdatedAt          time.Time `json:"updated_at"`
}

// PlanPut makes or changes a plan; absent fields stay, or are the default plan's.
type PlanPut struct {
	Name               string `json:"name,omitempty" doc:"Needed to create: 1–40 lower-case letters, digits, hyphens."`
	GPU                *bool  `json:"gpu,omitempty"`
	LogDays            *int   `json:"log_days,omitempty"`
	EventDays          *int   `json:"event_days,omitempty"`
	MaxReplicas        *int   `json:"max_replicas,omitempty"`
	MaxInstances       *int   `json:"max_instances,omitempty"`
	MaxVCPUs           *int   `json:"max_vcpus,omitempty"`
	MaxMemoryMB        *int   `json:"max_memory_mb,omitempty"`
	MaxDiskMB          *int   `json:"max_disk_mb,omitempty"`
	MaxDeployments     *int   `json:"max_deployments,omitempty"`
	MaxLogRate         *int   `json:"max_log_rate,omitempty" doc:"-1: any number; 0: the default plan's."`
	MaxEnvironments    *int   `json:"max_environments,omitempty" doc:"Of a deployment. -1: any number; 0: the default plan's."`
	MaxServices        *int   `json:"max_services,omitempty" doc:"Of a version; an environment keeps five times as many names. -1: any number; 0: the default plan's."`
	MaxWebhooks        *int   `json:"max_webhooks,omitempty" doc:"Of the tenant. -1: any number; 0: the default plan's."`
	MaxRegistries      *int   `json:"max_registries,omitempty" doc:"That the tenant has a login to. -1: any number; 0: the default plan's."`
	MaxLogDrains       *int   `json:"max_log_drains,omitempty" doc:"Of the tenant; a workspace has at most 10. -1: any number; 0: the default plan's."`
	MaxAPIKeys         *int   `json:"max_api_keys,omitempty" doc:"Of the tenant, revoked ones aside. -1: any number; 0: the default plan's."`
	MaxReleases        *int   `json:"max_releases,omitempty" doc:"Whose bytes are kept, in all deployments. -1: any number; 0: the default plan's."`
	MaxStorageMB       *int   `json:"max_storage_mb,omitempty" doc:"Of releases whose bytes are kept. -1: any number; 0: the default plan's."`
	MaxPublicPorts     *int   `json:"max_public_ports,omitempty" doc:"Of the tenant's services of protocol tcp. -1: any number; 0: the default plan's."`
	MaxTasks           *int   `json:"max_tasks,omitempty" doc:"Of the tenant, that have not ended. -1: any number; 0: the default plan's."`
	MaxExecSessions    *int   `json:"max_exec_sessions,omitempty" doc:"At once, per instance, and 4 at most. -1: any number; 0: the default plan's."`
	MaxExecMinutes     *int   `json:"max_exec_minutes,omitempty" doc:"That an exec session may last. -1: any number; 0: the default plan's."`
	MaxExecIdleMinutes *int   `json:"max_exec_idle_minutes,omitempty" doc:"That an exec session may bring nothing either way. -1: any number; 0: the default plan's."`
	MaxLogStorageMB    *int   `json:"max_log_storage_mb,omitempty" doc:"Of the text of log lines that are kept. -1: any number; 0: the default plan's."`
}

// APIKey is a credential; the secret itself is not part of it.
type APIKey struct {
	ID                  string     `json:"id"`
	Name                string     `json:"name"`
	Hint                string     `json:"hint" doc:"The key's first characters, to recognise it by."`
	Role                string     `json:"role" enum:"user,platform,admin"`
	TenantID            *string    `json:"tenant_id"`
	ExternalWorkspaceID *string    `json:"external_workspace_id" doc:"The key reaches only what carries this workspace."`
	CreatedAt           time.Time  `json:"created_at"`
	RevokedAt           *time.Time `json:"revoked_at"`
}

// APIKeyCreate mints a key.
type APIKeyCreate struct {
	Name                string `json:"name,omitempty"`
	Role                string `json:"role" required:"true" enum:"user,platform,admin"`
	TenantID            string `json:"tenant_id,omitempty" doc:"Needed unless the role is admin."`
	ExternalWorkspaceID string `json:"external_workspace_id,omitempty" doc:"Restricts the key to one workspace."`
}

// APIKeyMinted is a new key with its secret, which is shown this once.
type APIKeyMinted struct {
	APIKey
	Key string `json:"key" doc:"The whole key. It is not stored and cannot be shown again."`
}

// Host is one machine of the fleet.
type Host struct {
	ID          string            `json:"id"`
	Name        string            `json:"name"`
	Region      string            `json:"region"`
	Zone        string            `json:"zone"`
	Driver      string            `json:"driver"`
	Capacity    Resources         `json:"capacity"`
	Overcommit  float64           `json:"overcommit"`
	Schedulable bool              `json:"schedulable"`
	Labels      map[string]string `json:"labels" doc:"What services may require, e.g. disk: nvme."`
	Liveness    string            `json:"liveness" enum:"alive,suspect,lost" doc:"suspect: silent, its instances are being replaced. lost: silent for good, they have ended."`
	Failing     bool              `json:"failing" doc:"It answers, but cannot start anything: it is given no more instances."`
	Reasons     []string          `json:"reasons" doc:"Why it is not alive, or failing."`
	Drain       *HostDrain        `json:"drain" doc:"Its instances are to leave it; null: they are not."`
	Version     string            `json:"version"`
	CreatedAt   time.Time         `json:"created_at"`
	UpdatedAt   time.Time         `json:"updated_at"`
}

// HostDrain is how the drain of a host stands.
type HostDrain struct {
	Since    time.Time  `json:"since"`
	Deadline *time.Time `json:"deadline" doc:"null: none."`
	Force    bool       `json:"force" doc:"What has not left by the deadline is stopped all the same."`
	State    string     `json:"state" enum:"draining,late,drained"`
	Total    int        `json:"total" doc:"Instances when it began."`
	Left     int        `json:"left" doc:"Instances that are still there."`
	Progress string     `json:"progress" doc:"How it stands and what is waited for, in words."`
	DoneAt   *time.Time `json:"done_at"`
}

// HostDrainStart has all instances leave a host.
type HostDrainStart struct {
	DeadlineSeconds *int `json:"deadline_seconds,omitempty" doc:"Until it is told of as late: 0 (never) to 604800; 3600 by default."`
	Force           bool `json:"force,omitempty" doc:"What has not left by the deadline, or at once where there is none, is stopped whatever becomes of its service."`
}

// Health answers healthz and readyz.
type Health struct {
	Status string `json:"status" enum:"ok,unavailable"`
}
