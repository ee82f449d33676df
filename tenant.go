package miosa

import "time"

// Tenant is one customer organisation; everything it owns carries its ID.
type Tenant struct {
	ID        string
	Name      string
	Slug      string // a DNS label, unique in the cell; part of every public URL
	Plan      string // name of its Plan
	CreatedAt time.Time
	UpdatedAt time.Time
	Revision  int64 // of the record; set by the store
}

// Plan says what its tenants may use. A zero limit means none.
type Plan struct {
	Name           string
	GPU            bool
	LogDays        int // how long log lines are kept
	EventDays      int // how long events are kept; 0: 30
	MaxReplicas    int // per service
	MaxInstances   int // per tenant, old and new sides of a publish together
	MaxVCPUs       int // per instance
	MaxMemoryMB    int // per instance
	MaxDiskMB      int // per instance
	MaxDeployments int
	// MaxLogRate is how many log lines a second a service may be allowed per
	// instance; 0: the default plan's, negative: any number.
	MaxLogRate int
	// As MaxLogRate: 0 is the default plan's, negative any number.
	MaxEnvironments int // of a deployment
	MaxServices     int // of a version; an environment keeps five times as many names
	MaxWebhooks     int // of the tenant
	MaxLogDrains    int // of the tenant
	MaxRegistries   int // that the tenant is logged in to
	MaxAPIKeys      int // of the tenant, revoked ones aside
	MaxReleases     int // whose bytes are kept, in all deployments
	MaxStorageMB    int // of releases whose bytes are kept
	MaxLogStorageMB int // of the tenant's log text of the last LogDays; what is over it is not kept
	MaxPublicPorts  int // of raw TCP services of the tenant, those of former versions that can come back among them
	// As MaxLogRate: exec sessions that an instance may have at once, and how many
	// minutes one may last, and bring nothing either way.
	MaxExecSessions, MaxExecMinutes, MaxExecIdleMinutes int
	// As MaxLogRate: tasks of the tenant that have not ended.
	MaxTasks  int
	CreatedAt time.Time
	UpdatedAt time.Time
	Revision  int64
}

// DefaultPlan is what a tenant has when nothing else is said.
func DefaultPlan() Plan {
	return Plan{
		Name: "default", LogDays: 7, MaxReplicas: 50, MaxInstances: 200,
		MaxVCPUs: 8, MaxMemoryMB: 16384, MaxDiskMB: 102400, MaxDeployments: 1000,
		MaxLogRate:      50_000,
		MaxEnvironments: 20, MaxServices: 20, MaxWebhooks: 20, MaxLogDrains: 200, MaxRegistries: 50, MaxAPIKeys: 200, MaxReleases: 10000, MaxStorageMB: 100000, MaxLogStorageMB: 50000, MaxPublicPorts: 20,
		MaxTasks: 100, MaxExecSessions: 4, MaxExecMinutes: 12 * 60, MaxExecIdleMinutes: 30,
	}
}

// Role is what an API key may do.
type Role string

const (
	RoleUser     Role = "user"     // msk_u_: one tenant's resources
	RolePlatform Role = "platform" // msk_p_: one tenant, tenant-wide automation
	RoleAdmin    Role = "admin"    // msk_a_: the operator
)

// APIKey is a credential; only the hash of the secret is ever stored.
type APIKey struct {
	ID          string
	Hash        string // hex SHA-256 of the whole key
	Hint        string // the first characters, to recognise it by
	Name        string
	Role        Role
	TenantID    string // "" for an admin key
	WorkspaceID string // restricts the key to one external_workspace_id
	Ephemeral   bool   // minted by `miosa up` for its context file; ended at the next start
	CreatedAt   time.Time
	RevokedAt   time.Time
	Revision    int64
}

// Attribution is how a white-label customer names its own customers; it is
// stored, returned, and filters every list.
type Attribution struct {
	WorkspaceID string
	UserID      string
	ProjectID   string
}
