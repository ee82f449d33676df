package miosa

import (
	"strings"
	"time"
)

// DeploymentState is what the customer sees of a deployment as a whole.
type DeploymentState string

const (
	DeploymentPending  DeploymentState = "pending"  // nothing published
	DeploymentBuilding DeploymentState = "building" // first publish going on
	DeploymentRunning  DeploymentState = "running"  // an active version serves
	DeploymentStopped  DeploymentState = "stopped"  // scaled to nothing
	DeploymentFailed   DeploymentState = "failed"   // the first publish failed
)

// Deployment is one app of a tenant.
type Deployment struct {
	ID         string
	TenantID   string
	Name       string // 1–100 characters
	Slug       string // DNS label made from the name, unique per tenant
	SourceType string // "upload"
	ProjectID  string
	RunCommand string // default for its publishes
	OwnerID    string // the key that created it
	Attribution
	Metadata  map[string]any
	State     DeploymentState // written by control
	CreatedAt time.Time
	UpdatedAt time.Time
	DeletedAt time.Time // set once deletion was asked for; the API then answers 404
	PurgeLogs bool      // its log lines go with it, as was asked for with the deletion
	Revision  int64
}

// The environments every deployment has from the start.
const (
	Production = "production"
	Staging    = "staging"
)

// EnvironmentHealth is how what is live in an environment does, beside its
// state, which says what is wanted of it.
type EnvironmentHealth string

const (
	EnvironmentOK       EnvironmentHealth = "ok"       // every instance that is wanted is healthy
	EnvironmentDegraded EnvironmentHealth = "degraded" // some are missing, fail or crash-loop
	EnvironmentDown     EnvironmentHealth = "down"     // no instance of a service that requests or connections go to is healthy
)

// Environment is one place a deployment runs in: it has its own variables,
// domains and active version.
type Environment struct {
	ID                string
	TenantID          string
	DeploymentID      string
	Name              string
	ActiveVersionID   string            // what is live; written by control
	PreviousVersionID string            // what was live before it: an empty rollback's target
	ActiveSince       time.Time         // when the rollout that made it active began
	VarsRevision      int64             // counts changes of its variables
	ToldHealth        EnvironmentHealth // what the last event of its health said; "": none was needed. Written by control
	CreatedAt         time.Time
	UpdatedAt         time.Time
	Revision          int64
}

// Vars are the environment variables of one Environment. Values are sealed
// under the tenant's data key.
type Vars struct {
	TenantID      string
	DeploymentID  string
	EnvironmentID string
	Vars          []Var // sorted by key
	Revision      int64
}

// MaxVarName is the longest name of a variable, in bytes.
const MaxVarName = 256

// ValidVarName reports whether a variable may be called so: letters, digits and
// "_", "." and "-", beginning with a letter or "_". (Java and Node have them with
// dots and dashes; a shell cannot name those, and hands them on or not.)
func ValidVarName(name string) bool {
	for i, c := range []byte(name) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_'
		if !letter && (i == 0 || (c < '0' || c > '9') && c != '.' && c != '-') {
			return false
		}
	}
	return name != "" && len(name) <= MaxVarName
}

// PlatformVar reports whether a variable is the platform's alone: what an image
// says of it is overridden, and nobody else may set it.
func PlatformVar(name string) bool { return name == "PORT" || strings.HasPrefix(name, "MIOSA_") }

// Var is one variable; Preview never reveals the value.
type Var struct {
	Key       string
	Sealed    []byte
	Preview   string
	Secret    bool
	UpdatedAt time.Time
}

// VarAAD is the additional data that a variable's value is sealed with: it ties
// the ciphertext to its place, so that one moved to another environment or key
// does not open.
func VarAAD(environmentID, key string) string { return environmentID + "/" + key }

// ServiceType says whether requests are routed to a service.
type ServiceType string

const (
	ServiceWeb       ServiceType = "web"
	ServiceAPI       ServiceType = "api"
	ServiceWorker    ServiceType = "worker" // no port: healthy while its process runs
	ServiceStaticWeb ServiceType = "static_web"
)

// Service is one process type of a deployment in one environment. It holds
// only what may change without a new version.
type Service struct {
	ID              string
	TenantID        string
	DeploymentID    string
	EnvironmentID   string
	Name            string
	Type            ServiceType
	DesiredReplicas int
	Regions         []string // empty: any
	Sticky          Sticky
	Restart         RestartPolicy
	// MaxUnavailable is how many of its instances may be missing by our own doing.
	MaxUnavailable MaxUnavailable
	// StopAfterDisconnect has a host that has not reached control for so long stop
	// its instances, so that none ever runs twice: MinStopAfterDisconnect to
	// MaxStopAfterDisconnect; 0: never.
	StopAfterDisconnect time.Duration
	Labels              map[string]string // that a host must have, all of them
	Apart               bool              // never two of its replicas on one host
	DrainSeconds        int               // how long requests in flight may go on; 0: DefaultDrain
	Logs                LogLimit
	// PublicPort is the router's port that leads to it where it speaks raw TCP:
	// 1–65535, of no other service of the cell, the same over all versions; 0: it
	// has none.
	PublicPort int
	Metadata   map[string]any
	CreatedAt  time.Time
	UpdatedAt  time.Time
	Revision   int64
}

// StickyMode says what ties a client to a backend.
type StickyMode string

const (
	StickyNone     StickyMode = "none"
	StickyCookie   StickyMode = "cookie"
	StickyClientIP StickyMode = "client_ip"
	StickyHeader   StickyMode = "header"
)

// Sticky ties requests of one client to one backend.
type Sticky struct {
	Mode StickyMode
	Name string // of the cookie or header
}

// RestartMode says after which exits an instance is booted again.
type RestartMode string

const (
	RestartAlways    RestartMode = "always"
	RestartOnFailure RestartMode = "on_failure"
	RestartNever     RestartMode = "never"
)

// RestartPolicy is a service's answer to exits, and its configured restart.
type RestartPolicy struct {
	Mode   RestartMode
	MaxAge time.Duration // replaced, make before break, when older; 0: never
}

// What Service.StopAfterDisconnect may be, and how many Labels one may ask for.
const (
	MinStopAfterDisconnect = 10 * time.Second
	MaxStopAfterDisconnect = 24 * time.Hour
	MaxLabels              = 20
)

// LogLimit is how much each instance of a service may log; what is over it is
// dropped, and counted in the log. It bounds bytes as well: 256 for each line a
// second, or what the default has if that is more, and an hour of that a day.
// The zero value is what its host allows.
type LogLimit struct {
	LinesPerSecond int  // for long; 0: what its host allows, or with a Burst of its own too
	Burst          int  // at once, after a silence; 0: four seconds' worth
	Unlimited      bool // as many as it likes; the others are 0
}

// DefaultDrain is how long requests in flight may go on at an instance that
// left the route table, before it is stopped.
const DefaultDrain = 30 * time.Second
