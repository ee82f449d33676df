package miosa

import (
	"maps"
	"slices"
	"time"
)

// VersionState moves one way: created → building → ready|failed, ready → archived.
type VersionState string

const (
	VersionCreated  VersionState = "created"
	VersionBuilding VersionState = "building" // its first rollout goes on
	VersionReady    VersionState = "ready"    // was healthy; may be promoted
	VersionFailed   VersionState = "failed"   // never became healthy; never promotable
	VersionArchived VersionState = "archived" // collected by retention
)

// Kind says what a version or release is made of.
type Kind string

const (
	KindRootFS Kind = "rootfs" // a tar of a Linux root file system
	KindOCI    Kind = "oci"    // an OCI image
	KindStatic Kind = "static" // a directory of files, served by the edge
)

// Version is frozen: what runs, exactly, in one environment.
type Version struct {
	ID            string
	TenantID      string
	DeploymentID  string
	EnvironmentID string // it was made for
	Number        int    // counts up per deployment
	Kind          Kind
	State         VersionState
	Services      []ServiceSpec
	// RoutedServiceID is the service that the environment's host names lead to
	// while this version is live, as RoutedService decided when the version was
	// made: ask Routed, which also knows versions from before it was written down.
	RoutedServiceID string
	Image           Image // that it is pulled from; the zero one of what was uploaded
	Vars            []Var // the environment's variables as they were
	Attribution
	Metadata     map[string]any
	CreatedBy    string // key ID
	ErrorMessage string // why it failed, in the customer's words
	LastLines    []string
	PromotedAt   time.Time
	ArchivedAt   time.Time
	CreatedAt    time.Time
	UpdatedAt    time.Time
	Revision     int64
}

// Pulled reports whether the version has its bytes: until its image is there, its
// services name no release, and no port where the image is to say it.
func (v Version) Pulled() bool {
	for _, s := range v.Services {
		if s.ReleaseID == "" {
			return false
		}
	}
	return true
}

// Service finds a spec by service ID.
func (v Version) Service(serviceID string) (ServiceSpec, bool) {
	for _, s := range v.Services {
		if s.ServiceID == serviceID {
			return s, true
		}
	}
	return ServiceSpec{}, false
}

// Settled is one of the environment's services as this version has it. What a
// publish says of it beside the frozen part is kept with the version, holds for
// the version's instances from the first one on, and becomes the service's own
// in the moment in which the version is made live for the first time: one that
// fails, or is only proven, changes nothing of what is live.
func (v Version) Settled(s Service) Service {
	spec, ok := v.Service(s.ID)
	if !ok || !v.PromotedAt.IsZero() {
		return s
	}
	set := spec.Settings
	if set.SetsReplicas {
		s.DesiredReplicas = set.Replicas
	}
	if set.SetsRegions {
		s.Regions = set.Regions
	}
	if set.Sticky.Mode != "" {
		s.Sticky = set.Sticky
	}
	if set.Restart.Mode != "" {
		s.Restart = set.Restart
	}
	if set.SetsMaxUnavailable {
		s.MaxUnavailable = set.MaxUnavailable
	}
	if set.SetsStopAfterDisconnect {
		s.StopAfterDisconnect = set.StopAfterDisconnect
	}
	if set.SetsLabels {
		s.Labels = set.Labels
	}
	if set.SetsApart {
		s.Apart = set.Apart
	}
	return s
}

// SameSettings reports whether what a version may bring of a service is the same
// of both.
func (s Service) SameSettings(o Service) bool {
	return s.DesiredReplicas == o.DesiredReplicas && slices.Equal(s.Regions, o.Regions) && s.Sticky == o.Sticky && s.Restart == o.Restart &&
		s.MaxUnavailable == o.MaxUnavailable && s.StopAfterDisconnect == o.StopAfterDisconnect && maps.Equal(s.Labels, o.Labels) && s.Apart == o.Apart
}

// Routed is the service that requests to this version go to. It depends on
// nothing but the version itself. It is false for one that serves no HTTP: its
// services are workers, or speak raw TCP.
func (v Version) Routed() (ServiceSpec, bool) {
	if s, ok := v.Service(v.RoutedServiceID); ok && s.Protocol.HTTP() {
		return s, true
	}
	return v.Service(RoutedService(v.Services))
}

// RoutedService is the ID of the service of a new version that requests are to
// go to: the one named "web", else the first of type web, else the first of
// another type with a port; "" where none speaks HTTP. Versions keep the answer.
func RoutedService(services []ServiceSpec) string {
	id, best := "", 3
	for _, s := range services {
		rank := 2
		switch {
		case s.Type == ServiceWorker || s.Port == 0 && s.Kind != KindStatic || !s.Protocol.HTTP():
			continue
		case s.Name == "web":
			rank = 0
		case s.Type == ServiceWeb || s.Type == ServiceStaticWeb:
			rank = 1
		}
		if rank < best {
			id, best = s.ServiceID, rank
		}
	}
	return id
}

// ServiceSpec is the frozen part of one service in one version.
type ServiceSpec struct {
	ServiceID string
	Name      string
	Type      ServiceType
	ReleaseID string
	SHA256    string // of the release's artefact, hex
	Kind      Kind
	Command   string // run_command; empty: the image's own entry point
	Port      int    // 1–65535; 0 for a worker
	Protocol  Protocol
	Health    HealthCheck
	// StopSignal asks the app to end: a name like "SIGTERM"; empty: the image's
	// own, or SIGTERM. StopGrace is what it has before SIGKILL, at most
	// MaxStopGrace; 0: DefaultStopGrace.
	StopSignal string
	StopGrace  time.Duration
	// ResponseTimeout is how long the router waits for the first byte of an
	// answer, at most MaxResponseTimeout; 0: DefaultResponseTimeout.
	ResponseTimeout time.Duration
	Resources       Resources
	// Settings are what the version brings of its service's own record: see
	// Version.Settled.
	Settings ServiceSettings
}

// ServiceSettings are a change of what a Service holds, as the publish of a
// version asked for it. The zero value changes nothing.
type ServiceSettings struct {
	SetsReplicas bool
	Replicas     int // with SetsReplicas
	SetsRegions  bool
	Regions      []string      // with SetsRegions; empty: any
	Sticky       Sticky        // Mode "": as it is
	Restart      RestartPolicy // Mode "": as it is

	SetsMaxUnavailable      bool
	MaxUnavailable          MaxUnavailable // with SetsMaxUnavailable
	SetsStopAfterDisconnect bool
	StopAfterDisconnect     time.Duration // with SetsStopAfterDisconnect
	SetsLabels              bool
	Labels                  map[string]string // with SetsLabels; all of them
	SetsApart               bool
	Apart                   bool // with SetsApart
}

// Raw reports whether connections to a port of the router's lead to it.
func (s ServiceSpec) Raw() bool {
	return s.Protocol == ProtocolTCP && s.Type != ServiceWorker
}

// DefaultResponseTimeout is how long a router waits for the first byte of an
// answer, and MaxResponseTimeout the longest that a service may ask for.
const (
	DefaultResponseTimeout = 120 * time.Second
	MaxResponseTimeout     = time.Hour
)

// How long an app has between the signal that asks it to end and SIGKILL.
const (
	DefaultStopGrace = 10 * time.Second
	MaxStopGrace     = 300 * time.Second
)

// Protocol is how a service is spoken to.
type Protocol string

const (
	ProtocolHTTP1 Protocol = "http1" // also ""
	ProtocolH2C   Protocol = "h2c"   // HTTP/2 without TLS, as gRPC has it
	ProtocolTCP   Protocol = "tcp"   // bytes, on a port of the router's
)

// HTTP reports whether requests to a host name can be routed to it.
func (p Protocol) HTTP() bool { return p != ProtocolTCP }

// HealthType is what a health check does.
type HealthType string

const (
	HealthHTTP HealthType = "http" // GET Path answers 2xx; over HTTP/2 where the service speaks that
	HealthTCP  HealthType = "tcp"  // the port accepts a connection
	HealthGRPC HealthType = "grpc" // grpc.health.v1.Health/Check answers SERVING
	HealthExec HealthType = "exec" // Command exits with 0 in the instance
	HealthNone HealthType = "none" // the process runs
)

// HealthCheck is how an instance is judged.
type HealthCheck struct {
	Type    HealthType // "": by the service, see ServiceSpec.HealthType
	Path    string     // of HealthHTTP; of HealthGRPC the service asked about, behind a /
	Scheme  string     // of HealthHTTP: "http" (also ""), or "https" with any certificate
	Host    string     // what HealthHTTP says in Host; "": the environment's managed host name
	Headers []Header   // that HealthHTTP sends besides its own
	Command string     // of HealthExec
	// Stable is how long the process must have run before an instance that
	// nothing is asked of counts as healthy; 0: DefaultStable.
	Stable    time.Duration
	Interval  time.Duration
	Timeout   time.Duration
	Grace     time.Duration // from boot; failures within are tolerated
	Threshold int           // consecutive failures that make it unhealthy
}

// Header is one line of a request's head.
type Header struct{ Name, Value string }

// DefaultStable is how long a process must have run to count as healthy where
// nothing else tells.
const DefaultStable = 10 * time.Second

// HealthType is what the service's health check does: what it says, or else
// what fits: a request where it speaks HTTP, a connection where it has a port,
// and nothing for a worker.
func (s ServiceSpec) HealthType() HealthType {
	switch {
	case s.Health.Type != "":
		return s.Health.Type
	case s.Port == 0:
		return HealthNone
	case s.Protocol == ProtocolTCP:
		return HealthTCP
	}
	return HealthHTTP
}

// DefaultHealthCheck is the mission's: / every 5 s, 2 s timeout, 60 s grace, 3 failures.
func DefaultHealthCheck() HealthCheck {
	return HealthCheck{
		Path: "/", Interval: 5 * time.Second, Timeout: 2 * time.Second,
		Grace: 60 * time.Second, Threshold: 3,
	}
}

// Resources is the size of one instance.
type Resources struct {
	VCPUs      int
	MemoryMB   int
	DiskMB     int // ephemeral disk
	GPU        int // how many
	EgressMbps int // outbound limit; 0: none
}

// DefaultResources is 1 vCPU, 512 MB, 1 GB of ephemeral disk, no GPU.
func DefaultResources() Resources {
	return Resources{VCPUs: 1, MemoryMB: 512, DiskMB: 1024}
}

// Size is a named Resources.
type Size struct {
	Slug      string
	Name      string
	Resources Resources
}

// Sizes are what `resize` and the sizes list offer, smallest first.
func Sizes() []Size {
	return []Size{
		{"micro", "Micro", Resources{VCPUs: 1, MemoryMB: 256, DiskMB: 1024}},
		{"small", "Small", Resources{VCPUs: 1, MemoryMB: 512, DiskMB: 1024}},
		{"medium", "Medium", Resources{VCPUs: 2, MemoryMB: 2048, DiskMB: 4096}},
		{"large", "Large", Resources{VCPUs: 4, MemoryMB: 4096, DiskMB: 8192}},
		{"xlarge", "Extra large", Resources{VCPUs: 8, MemoryMB: 8192, DiskMB: 16384}},
	}
}

// ReleaseState moves one way.
type ReleaseState string

const (
	ReleaseReady    ReleaseState = "ready"
	ReleaseArchived ReleaseState = "archived" // its bytes were collected
)

// Release is an uploaded artefact as one deployment knows it. The bytes are
// content-addressed and shared; the same bytes twice are one release.
type Release struct {
	ID           string
	TenantID     string
	DeploymentID string
	Kind         Kind
	State        ReleaseState
	SHA256       string // hex, of the bytes as uploaded
	SizeBytes    int64
	MediaType    string
	Manifest     ArtifactManifest
	Config       ImageConfig // an OCI image's own defaults
	Image        Image       // that it was pulled from; the zero one of what was uploaded
	// Notes say what its owner should know of how it was taken in, e.g. what
	// was left out: a sentence each, at most MaxNotes.
	Notes []string
	Attribution
	Metadata   map[string]any
	CreatedAt  time.Time
	ReadyAt    time.Time
	ArchivedAt time.Time
	Revision   int64
}

// MaxNotes is how many notes a release may have.
const MaxNotes = 20

// ArtifactManifest is what verification counted.
type ArtifactManifest struct {
	Files      int
	TotalBytes int64 // unpacked
	Entrypoint string
}

// ImageConfig are the defaults that an OCI image carries.
type ImageConfig struct {
	Entrypoint   []string
	Cmd          []string
	Env          []string // KEY=value
	WorkingDir   string
	User         string
	ExposedPorts []int
	Architecture string // Go's name; "" when unknown
	StopSignal   string // as the image writes it: "SIGQUIT", "3"; "": none
}
