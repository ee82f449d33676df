package miosa

import "time"

// Image is what a version is made of when it comes from a registry: its bytes
// are pulled once, into a release, and never again.
type Image struct {
	Reference string // as it was asked for, in full: "docker.io/library/nginx:1.27"
	Platform  string // "linux/amd64"
	// Digest is that of the manifest that the reference meant when it was pulled,
	// "sha256:…"; "" until then.
	Digest string
	// WorkspaceID is whose logins it is pulled with; "": the tenant's own.
	WorkspaceID string
	Failure     string // why it could not be pulled, in the customer's words
}

// RegistryLogin is how a tenant's images are pulled from one registry.
type RegistryLogin struct {
	ID          string
	TenantID    string
	WorkspaceID string // for publishes by keys of that external_workspace_id; "": by those of the tenant itself
	Host        string // "registry.example:5000"
	User        string // "": nobody, there is only a CA
	Secret      []byte // sealed: see RegistryAAD
	CA          string // certificates that the registry is trusted by besides the system's, PEM; "": none
	OwnerID     string // the key that set it last
	CreatedAt   time.Time
	UpdatedAt   time.Time
	Revision    int64
}

// RegistryAAD is the additional data that a login's secret is sealed with.
func RegistryAAD(loginID string) string { return loginID + "/secret" }

// PullState says what a pull is at.
type PullState string

const (
	PullWaiting   PullState = "waiting"   // for others to end
	PullResolving PullState = "resolving" // asks the registry what the reference means
	PullFetching  PullState = "fetching"  // gets the layers
	PullUnpacking PullState = "unpacking" // reads them, as every upload is read
)

// PullStatus is how far a pull has come.
type PullStatus struct {
	State              PullState
	Layers, LayersDone int
	Bytes, BytesDone   int64 // packed, of all layers
}
