package store

import (
	"slices"
	"strconv"
	"strings"

	"github.com/miosa/miosa"
)

// Every key of a tenant's things begins /v1/t/{tenant}/, then the short name
// of the kind, then (where there is one) the deployment: one prefix lists a
// deployment's or a whole tenant's records of a kind.
const (
	root          = "/v1/"
	tenantsRoot   = root + "t/"
	idRoot        = root + "id/"
	tenantRoot    = root + "tenant/"
	tenantSlugs   = root + "tslug/"
	planRoot      = root + "plan/"
	apiKeyRoot    = root + "key/"
	apiKeyIDRoot  = root + "keyid/"
	hostRoot      = root + "host/"
	outboxRoot    = root + "outbox/"
	publicPorts   = root + "port/"
	noOne         = "-" // stands for an absent tenant or deployment in a key
	segDeployment = "dep"
	segEnv        = "env"
	segVars       = "vars"
	segService    = "svc"
	segVersion    = "ver"
	segRelease    = "rel"
	segRollout    = "rol"
	segInstance   = "ri"
	segTask       = "task"
	segObserved   = "obs"
	segEvent      = "evt"
	segLogDrain   = "ldr"
	segWebhook    = "whk"
	segRegistry   = "reg"
)

// Prefixes of what does not belong to one tenant. AllTenants covers every
// tenant's records of every kind: List with a kind picks that kind's.
const (
	AllTenants = tenantsRoot
	AllRecords = root
)

// TenantKey is where a tenant's record lies; TenantsPrefix lists them.
func TenantKey(id string) string { return tenantRoot + id }

// TenantsPrefix lists the tenants' own records.
func TenantsPrefix() string { return tenantRoot }

// TenantSlugKey is the index entry slug → tenant ID.
func TenantSlugKey(slug string) string { return tenantSlugs + slug }

// PlanKey is where a plan lies.
func PlanKey(name string) string { return planRoot + name }

// PlansPrefix lists the plans.
func PlansPrefix() string { return planRoot }

// APIKeyKey is where the API key of that hash lies.
func APIKeyKey(hash string) string { return apiKeyRoot + hash }

// APIKeysPrefix lists the API keys.
func APIKeysPrefix() string { return apiKeyRoot }

// APIKeyIDKey is the index entry key ID → hash; Save and Remove keep it.
func APIKeyIDKey(id string) string { return apiKeyIDRoot + id }

// HostKey is where a host's record lies.
func HostKey(id string) string { return hostRoot + id }

// HostsPrefix lists the hosts.
func HostsPrefix() string { return hostRoot }

// IDKey is the index entry of a tenant-owned ID → its place, "tenant/deployment"; Save and
// Remove keep it.
func IDKey(id string) string { return idRoot + id }

func tenantScoped(tenant string, parts ...string) string {
	if tenant == "" {
		tenant = noOne
	}
	return tenantsRoot + tenant + "/" + strings.Join(parts, "/")
}

// of is the prefix of a kind within one deployment, or within the whole
// tenant when deployment is "".
func of(tenant, segment, deployment string) string {
	if deployment == "" {
		return tenantScoped(tenant, segment, "")
	}
	return tenantScoped(tenant, segment, deployment, "")
}

// DeploymentKey is where a deployment lies.
func DeploymentKey(tenant, id string) string { return tenantScoped(tenant, segDeployment, id) }

// DeploymentsOf lists a tenant's deployments.
func DeploymentsOf(tenant string) string { return of(tenant, segDeployment, "") }

// SlugKey is the index entry slug → deployment ID within a tenant.
func SlugKey(tenant, slug string) string { return tenantScoped(tenant, "slug", slug) }

// EnvironmentKey is where an environment lies.
func EnvironmentKey(tenant, deployment, id string) string {
	return tenantScoped(tenant, segEnv, deployment, id)
}

// EnvironmentsOf lists a deployment's environments; the tenant's with deployment "".
func EnvironmentsOf(tenant, deployment string) string { return of(tenant, segEnv, deployment) }

// EnvironmentNameKey is the index entry name → environment ID within a deployment.
func EnvironmentNameKey(tenant, deployment, name string) string {
	return tenantScoped(tenant, "envname", deployment, name)
}

// VarsKey is where an environment's variables lie.
func VarsKey(tenant, deployment, environment string) string {
	return tenantScoped(tenant, segVars, deployment, environment)
}

// VarSetsOf lists the variable sets of a deployment; the tenant's with deployment "".
func VarSetsOf(tenant, deployment string) string { return of(tenant, segVars, deployment) }

// ServiceKey is where a service lies.
func ServiceKey(tenant, deployment, id string) string {
	return tenantScoped(tenant, segService, deployment, id)
}

// ServicesOf lists a deployment's services; the tenant's with deployment "".
func ServicesOf(tenant, deployment string) string { return of(tenant, segService, deployment) }

// VersionKey is where a version lies.
func VersionKey(tenant, deployment, id string) string {
	return tenantScoped(tenant, segVersion, deployment, id)
}

// VersionsOf lists a deployment's versions, oldest first; the tenant's with deployment "".
func VersionsOf(tenant, deployment string) string { return of(tenant, segVersion, deployment) }

// ReleaseKey is where a release lies.
func ReleaseKey(tenant, deployment, id string) string {
	return tenantScoped(tenant, segRelease, deployment, id)
}

// ReleasesOf lists a deployment's releases, oldest first; the tenant's with deployment "".
func ReleasesOf(tenant, deployment string) string { return of(tenant, segRelease, deployment) }

// ReleaseSHAKey is the index entry digest → release ID within a deployment.
func ReleaseSHAKey(tenant, deployment, sha string) string {
	return tenantScoped(tenant, "relsha", deployment, sha)
}

// StoredReleasesOf lists the index entries of ReleaseSHAKey of a whole tenant.
func StoredReleasesOf(tenant string) string { return tenantScoped(tenant, "relsha", "") }

// RolloutKey is where a rollout lies.
func RolloutKey(tenant, deployment, id string) string {
	return tenantScoped(tenant, segRollout, deployment, id)
}

// RolloutsOf lists a deployment's rollouts, oldest first; the tenant's with deployment "".
func RolloutsOf(tenant, deployment string) string { return of(tenant, segRollout, deployment) }

// LiveKey is the index entry environment → its one live rollout's ID.
func LiveKey(tenant, environment string) string { return tenantScoped(tenant, "live", environment) }

// FenceKey is the index entry of an environment that every decision about it
// writes: see Tx.Fence.
func FenceKey(tenant, environment string) string { return tenantScoped(tenant, "fence", environment) }

// TermKey counts the control planes that have begun to decide, one after the
// other.
const TermKey = root + "term"

// InstanceKey is where an instance's assignment lies.
func InstanceKey(tenant, deployment, id string) string {
	return tenantScoped(tenant, segInstance, deployment, id)
}

// InstancesOf lists a deployment's instances, oldest first; the tenant's with deployment "".
func InstancesOf(tenant, deployment string) string { return of(tenant, segInstance, deployment) }

// ObservationKey is where the agent's report on an instance lies.
func ObservationKey(tenant, deployment, instance string) string {
	return tenantScoped(tenant, segObserved, deployment, instance)
}

// ObservationsOf lists the reports on a deployment's instances; the tenant's with deployment "".
func ObservationsOf(tenant, deployment string) string { return of(tenant, segObserved, deployment) }

// TaskKey is where a task lies.
func TaskKey(tenant, deployment, id string) string {
	return tenantScoped(tenant, segTask, deployment, id)
}

// TasksOf lists a deployment's tasks, oldest first; the tenant's with deployment "".
func TasksOf(tenant, deployment string) string { return of(tenant, segTask, deployment) }

// LiveTaskKey is the index entry of a task that has not ended → its deployment. Who
// makes the task writes it, and control deletes it with the task's end.
func LiveTaskKey(tenant, id string) string { return tenantScoped(tenant, "tasklive", id) }

// LiveTasksOf lists the index entries of LiveTaskKey of a whole tenant.
func LiveTasksOf(tenant string) string { return tenantScoped(tenant, "tasklive", "") }

// OutboxKey is where an event lies until the event store has it.
func OutboxKey(id string) string { return outboxRoot + id }

// OutboxPrefix lists the events in transit.
func OutboxPrefix() string { return outboxRoot }

// PublicPortKey is the index entry of a port of the routers' → the service that
// has it.
func PublicPortKey(port int) string { return publicPorts + strconv.Itoa(port) }

// FormerEventsOf lists a tenant's events (with "" those of none) where they
// were kept before there was an event store.
func FormerEventsOf(tenant string) string { return of(tenant, segEvent, "") }

// FormerEventPlace is the tenant and the deployment of such a place, each ""
// when it has none; ok is false for any other key.
func FormerEventPlace(key string) (tenant, deployment string, ok bool) {
	rest, found := strings.CutPrefix(key, tenantsRoot)
	seg := strings.Split(rest, "/")
	if !found || len(seg) != 4 || seg[1] != segEvent {
		return "", "", false
	}
	named := func(s string) string {
		if s == noOne {
			return ""
		}
		return s
	}
	return named(seg[0]), named(seg[2]), true
}

// WebhookKey is where a webhook lies.
func WebhookKey(tenant, id string) string { return tenantScoped(tenant, segWebhook, noOne, id) }

// WebhooksOf lists a tenant's webhooks, oldest first.
func WebhooksOf(tenant string) string { return of(tenant, segWebhook, "") }

// RegistryLoginKey is where a login to a registry lies.
func RegistryLoginKey(tenant, id string) string { return tenantScoped(tenant, segRegistry, noOne, id) }

// RegistryLoginsOf lists a tenant's logins to registries, oldest first.
func RegistryLoginsOf(tenant string) string { return of(tenant, segRegistry, "") }

// LogDrainKey is where a log drain lies.
func LogDrainKey(tenant, id string) string { return tenantScoped(tenant, segLogDrain, id) }

// LogDrainsOf lists a tenant's log drains, oldest first.
func LogDrainsOf(tenant string) string { return of(tenant, segLogDrain, "") }

// IdempotencyKey is where the first response to an idempotency key is kept;
// hash is made from route and key.
func IdempotencyKey(tenant, hash string) string { return tenantScoped(tenant, "idem", hash) }

// RoomKey is the index entry of a tenant that every transaction writes which
// adds what the plan limits: what it counted stays true until it commits.
func RoomKey(tenant string) string { return tenantScoped(tenant, "room") }

// APIKeyOfKey is the index entry of a tenant's API key that is not revoked → its hash.
func APIKeyOfKey(tenant, id string) string { return tenantScoped(tenant, "apikey", id) }

// DataKeyKey is where a tenant's wrapped data key lies.
func DataKeyKey(tenant string) string { return tenantScoped(tenant, "datakey") }

// ParseKey says which noun a key holds: its kind's name and its ID (a plan's
// name, an API key's hash, for variables the environment's ID, for
// observations the instance's). ok is false for index entries and foreign keys.
func ParseKey(key string) (kind, id string, ok bool) {
	rest, found := strings.CutPrefix(key, root)
	if !found {
		return "", "", false
	}
	seg := strings.Split(rest, "/")
	if slices.Contains(seg, "") {
		return "", "", false
	}
	id = seg[len(seg)-1]
	switch {
	case len(seg) == 2:
		switch seg[0] + "/" {
		case tenantRoot[len(root):]:
			return kindTenant, id, true
		case planRoot[len(root):]:
			return kindPlan, id, true
		case apiKeyRoot[len(root):]:
			return kindAPIKey, id, true
		case hostRoot[len(root):]:
			return kindHost, id, true
		case outboxRoot[len(root):]:
			return kindEvent, id, true
		}
	case len(seg) == 4 && seg[0] == "t" && seg[2] == segDeployment:
		return kindDeployment, id, true
	case len(seg) == 4 && seg[0] == "t" && seg[2] == segLogDrain:
		return kindLogDrain, id, true
	case len(seg) == 5 && seg[0] == "t":
		if kind := kindOfSegment(seg[2]); kind != "" {
			return kind, id, true
		}
	}
	return "", "", false
}

// kindOfSegment names the kinds that live under a deployment.
func kindOfSegment(segment string) string {
	switch segment {
	case segEnv:
		return kindEnvironment
	case segVars:
		return kindVars
	case segService:
		return kindService
	case segVersion:
		return kindVersion
	case segRelease:
		return kindRelease
	case segRollout:
		return kindRollout
	case segInstance:
		return kindInstance
	case segTask:
		return kindTask
	case segObserved:
		return kindObservation
	case segEvent:
		return kindEvent
	case segWebhook:
		return kindWebhook
	case segRegistry:
		return kindRegistryLogin
	}
	return ""
}

// kindOfPrefix is the one kind a prefix can hold, "" when it may hold several.
func kindOfPrefix(prefix string) string {
	// What follows a complete kind segment can only narrow it further.
	rest, found := strings.CutPrefix(prefix, tenantsRoot)
	if !found {
		kind, _, _ := ParseKey(prefix + "x")
		return kind
	}
	seg := strings.Split(rest, "/")
	switch {
	case len(seg) < 3:
		return ""
	case seg[1] == segDeployment:
		return kindDeployment
	case seg[1] == segLogDrain:
		return kindLogDrain
	}
	return kindOfSegment(seg[1])
}

// Location is where a tenant-owned thing lives, found by its ID alone.
type Location struct {
	TenantID     string
	DeploymentID string // a deployment's own ID for itself; "" for tenants, API keys and hosts
	Key          string // of its record
}

// locationKey is the record key of an ID at a place.
func locationKey(id, tenant, deployment string) string {
	switch miosa.IDPrefix(id) {
	case miosa.PrefixDeployment:
		return DeploymentKey(tenant, id)
	case miosa.PrefixEnvironment:
		return EnvironmentKey(tenant, deployment, id)
	case miosa.PrefixService:
		return ServiceKey(tenant, deployment, id)
	case miosa.PrefixVersion:
		return VersionKey(tenant, deployment, id)
	case miosa.PrefixRelease:
		return ReleaseKey(tenant, deployment, id)
	case miosa.PrefixRollout:
		return RolloutKey(tenant, deployment, id)
	case miosa.PrefixInstance:
		return InstanceKey(tenant, deployment, id)
	case miosa.PrefixTask:
		return TaskKey(tenant, deployment, id)
	}
	return ""
}
