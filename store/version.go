package store

import (
	"time"

	"github.com/miosa/miosa"
)

// Versions are kept by deployment.
var Versions = shape[miosa.Version, versionRecord]{
	name: kindVersion, schema: 1,
	key:      func(v miosa.Version) string { return VersionKey(v.TenantID, v.DeploymentID, v.ID) },
	record:   versionToRecord,
	noun:     versionRecord.noun,
	revision: func(v *miosa.Version) *int64 { return &v.Revision },
	refs:     func(v miosa.Version) []ref { return idRef(v.ID, v.TenantID, v.DeploymentID) },
}.kind()

type versionRecord struct {
	ID            string              `json:"id,omitempty"`
	TenantID      string              `json:"tenant_id,omitempty"`
	DeploymentID  string              `json:"deployment_id,omitempty"`
	EnvironmentID string              `json:"environment_id,omitempty"`
	Number        int                 `json:"number,omitempty"`
	Kind          miosa.Kind          `json:"kind,omitempty"`
	State         miosa.VersionState  `json:"state,omitempty"`
	Services      []serviceSpecRecord `json:"services,omitempty"`
	Routed        string              `json:"routed_service_id,omitempty"`
	Image         imageRecord         `json:"image,omitzero"`
	Vars          []varRecord         `json:"vars,omitempty"`
	Attribution   attributionRecord   `json:"attribution,omitzero"`
	Metadata      map[string]any      `json:"metadata,omitempty"`
	CreatedBy     string              `json:"created_by,omitempty"`
	ErrorMessage  string              `json:"error_message,omitempty"`
	LastLines     []string            `json:"last_lines,omitempty"`
	PromotedAt    time.Time           `json:"promoted_at,omitzero"`
	ArchivedAt    time.Time           `json:"archived_at,omitzero"`
	CreatedAt     time.Time           `json:"created_at,omitzero"`
	UpdatedAt     time.Time           `json:"updated_at,omitzero"`
}

func versionToRecord(v miosa.Version) versionRecord {
	return versionRecord{
		ID:            v.ID,
		TenantID:      v.TenantID,
		DeploymentID:  v.DeploymentID,
		EnvironmentID: v.EnvironmentID,
		Number:        v.Number,
		Kind:          v.Kind,
		State:         v.State,
		Services:      each(v.Services, serviceSpecToRecord),
		Routed:        v.RoutedServiceID,
		Image:         imageRecord(v.Image),
		Vars:          each(v.Vars, varToRecord),
		Attribution:   attributionToRecord(v.Attribution),
		Metadata:      v.Metadata,
		CreatedBy:     v.CreatedBy,
		ErrorMessage:  v.ErrorMessage,
		LastLines:     v.LastLines,
		PromotedAt:    utc(v.PromotedAt),
		ArchivedAt:    utc(v.ArchivedAt),
		CreatedAt:     utc(v.CreatedAt),
		UpdatedAt:     utc(v.UpdatedAt),
	}
}

func (r versionRecord) noun() miosa.Version {
	return miosa.Version{
		ID:              r.ID,
		TenantID:        r.TenantID,
		DeploymentID:    r.DeploymentID,
		EnvironmentID:   r.EnvironmentID,
		Number:          r.Number,
		Kind:            r.Kind,
		State:           r.State,
		Services:        each(r.Services, serviceSpecRecord.noun),
		RoutedServiceID: r.Routed,
		Image:           miosa.Image(r.Image),
		Vars:            each(r.Vars, varRecord.noun),
		Attribution:     r.Attribution.noun(),
		Metadata:        r.Metadata,
		CreatedBy:       r.CreatedBy,
		ErrorMessage:    r.ErrorMessage,
		LastLines:       r.LastLines,
		PromotedAt:      r.PromotedAt,
		ArchivedAt:      r.ArchivedAt,
		CreatedAt:       r.CreatedAt,
		UpdatedAt:       r.UpdatedAt,
	}
}

// Releases are kept by deployment.
var Releases = shape[miosa.Release, releaseRecord]{
	name: kindRelease, schema: 1,
	key:      func(v miosa.Release) string { return ReleaseKey(v.TenantID, v.DeploymentID, v.ID) },
	record:   releaseToRecord,
	noun:     releaseRecord.noun,
	revision: func(v *miosa.Release) *int64 { return &v.Revision },
	refs:     func(v miosa.Release) []ref { return idRef(v.ID, v.TenantID, v.DeploymentID) },
}.kind()

type releaseRecord struct {
	ID           string             `json:"id,omitempty"`
	TenantID     string             `json:"tenant_id,omitempty"`
	DeploymentID string             `json:"deployment_id,omitempty"`
	Kind         miosa.Kind         `json:"kind,omitempty"`
	State        miosa.ReleaseState `json:"state,omitempty"`
	SHA256       string             `json:"sha256,omitempty"`
	SizeBytes    int64              `json:"size_bytes,omitempty"`
	MediaType    string             `json:"media_type,omitempty"`
	Manifest     manifestRecord     `json:"manifest,omitzero"`
	Config       imageConfigRecord  `json:"config,omitzero"`
	Image        imageRecord        `json:"image,omitzero"`
	Notes        []string           `json:"notes,omitempty"`
	Attribution  attributionRecord  `json:"attribution,omitzero"`
	Metadata     map[string]any     `json:"metadata,omitempty"`
	CreatedAt    time.Time          `json:"created_at,omitzero"`
	ReadyAt      time.Time          `json:"ready_at,omitzero"`
	ArchivedAt   time.Time          `json:"archived_at,omitzero"`
}

func releaseToRecord(v miosa.Release) releaseRecord {
	return releaseRecord{
		ID:           v.ID,
		TenantID:     v.TenantID,
		DeploymentID: v.DeploymentID,
		Kind:         v.Kind,
		State:        v.State,
		SHA256:       v.SHA256,
		SizeBytes:    v.SizeBytes,
		MediaType:    v.MediaType,
		Manifest:     manifestToRecord(v.Manifest),
		Config:       imageConfigToRecord(v.Config),
		Image:        imageRecord(v.Image),
		Notes:        v.Notes,
		Attribution:  attributionToRecord(v.Attribution),
		Metadata:     v.Metadata,
		CreatedAt:    utc(v.CreatedAt),
		ReadyAt:      utc(v.ReadyAt),
		ArchivedAt:   utc(v.ArchivedAt),
	}
}

func (r releaseRecord) noun() miosa.Release {
	return miosa.Release{
		ID:           r.ID,
		TenantID:     r.TenantID,
		DeploymentID: r.DeploymentID,
		Kind:         r.Kind,
		State:        r.State,
		SHA256:       r.SHA256,
		SizeBytes:    r.SizeBytes,
		MediaType:    r.MediaType,
		Manifest:     r.Manifest.noun(),
		Config:       r.Config.noun(),
		Image:        miosa.Image(r.Image),
		Notes:        r.Notes,
		Attribution:  r.Attribution.noun(),
		Metadata:     r.Metadata,
		CreatedAt:    r.CreatedAt,
		ReadyAt:      r.ReadyAt,
		ArchivedAt:   r.ArchivedAt,
	}
}

type serviceSpecRecord struct {
	ServiceID string            `json:"service_id,omitempty" store:"identity"`
	Name      string            `json:"name,omitempty"`
	Type      miosa.ServiceType `json:"type,omitempty"`
	ReleaseID string            `json:"release_id,omitempty"`
	SHA256    string            `json:"sha256,omitempty"`
	Kind      miosa.Kind        `json:"kind,omitempty"`
	Command   string            `json:"command,omitempty"`
	Port      int               `json:"port,omitempty"`
	Protocol  miosa.Protocol    `json:"protocol,omitempty"`
	Health    healthCheckRecord `json:"health,omitzero"`
	Signal    string            `json:"stop_signal,omitempty"`
	Grace     time.Duration     `json:"stop_grace_ns,omitempty"`
	Response  time.Duration     `json:"response_timeout_ns,omitempty"`
	Resources resourcesRecord   `json:"resources,omitzero"`
	Settings  settingsRecord    `json:"settings,omitzero"`
}

func serviceSpecToRecord(v miosa.ServiceSpec) serviceSpecRecord {
	return serviceSpecRecord{
		ServiceID: v.ServiceID,
		Name:      v.Name,
		Type:      v.Type,
		ReleaseID: v.ReleaseID,
		SHA256:    v.SHA256,
		Kind:      v.Kind,
		Command:   v.Command,
		Port:      v.Port,
		Protocol:  v.Protocol,
		Health:    healthCheckToRecord(v.Health),
		Signal:    v.StopSignal,
		Grace:     v.StopGrace,
		Response:  v.ResponseTimeout,
		Resources: resourcesToRecord(v.Resources),
		Settings:  settingsToRecord(v.Settings),
	}
}

func (r serviceSpecRecord) noun() miosa.ServiceSpec {
	return miosa.ServiceSpec{
		ServiceID: r.ServiceID,
		Name:      r.Name,
		Type:      r.Type,
		ReleaseID: r.ReleaseID,
		SHA256:    r.SHA256,
		Kind:      r.Kind,
		Command:   r.Command,
		Port:      r.Port,
		Protocol:  r.Protocol,
		Health:    r.Health.noun(),
		Resources: r.Resources.noun(),
		Settings:  r.Settings.noun(),

		StopSignal: r.Signal, StopGrace: r.Grace, ResponseTimeout: r.Response,
	}
}

type settingsRecord struct {
	SetsReplicas bool                `json:"sets_replicas,omitempty"`
	Replicas     int                 `json:"replicas,omitempty"`
	SetsRegions  bool                `json:"sets_regions,omitempty"`
	Regions      []string            `json:"regions,omitempty"`
	Sticky       stickyRecord        `json:"sticky,omitzero"`
	Restart      restartPolicyRecord `json:"restart,omitzero"`

	SetsMaxUnavailable      bool                 `json:"sets_max_unavailable,omitempty"`
	MaxUnavailable          maxUnavailableRecord `json:"max_unavailable,omitzero"`
	SetsStopAfterDisconnect bool                 `json:"sets_stop_after_disconnect,omitempty"`
	StopAfterDisconnect     time.Duration        `json:"stop_after_disconnect_ns,omitempty"`
	SetsLabels              bool                 `json:"sets_labels,omitempty"`
	Labels                  map[string]string    `json:"labels,omitempty"`
	SetsApart               bool                 `json:"sets_apart,omitempty"`
	Apart                   bool                 `json:"apart,omitempty"`
}

func settingsToRecord(v miosa.ServiceSettings) settingsRecord {
	return settingsRecord{
		SetsReplicas: v.SetsReplicas,
		Replicas:     v.Replicas,
		SetsRegions:  v.SetsRegions,
		Regions:      v.Regions,
		Sticky:       stickyToRecord(v.Sticky),
		Restart:      restartPolicyToRecord(v.Restart),

		SetsMaxUnavailable:      v.SetsMaxUnavailable,
		MaxUnavailable:          maxUnavailableRecord(v.MaxUnavailable),
		SetsStopAfterDisconnect: v.SetsStopAfterDisconnect,
		StopAfterDisconnect:     v.StopAfterDisconnect,
		SetsLabels:              v.SetsLabels,
		Labels:                  v.Labels,
		SetsApart:               v.SetsApart,
		Apart:                   v.Apart,
	}
}

func (r settingsRecord) noun() miosa.ServiceSettings {
	return miosa.ServiceSettings{
		SetsReplicas: r.SetsReplicas,
		Replicas:     r.Replicas,
		SetsRegions:  r.SetsRegions,
		Regions:      r.Regions,
		Sticky:       r.Sticky.noun(),
		Restart:      r.Restart.noun(),

		SetsMaxUnavailable:      r.SetsMaxUnavailable,
		MaxUnavailable:          miosa.MaxUnavailable(r.MaxUnavailable),
		SetsStopAfterDisconnect: r.SetsStopAfterDisconnect,
		StopAfterDisconnect:     r.StopAfterDisconnect,
		SetsLabels:              r.SetsLabels,
		Labels:                  r.Labels,
		SetsApart:               r.SetsApart,
		Apart:                   r.Apart,
	}
}

type healthCheckRecord struct {
	Type      miosa.HealthType `json:"type,omitempty"`
	Path      string           `json:"path,omitempty"`
	Scheme    string           `json:"scheme,omitempty"`
	Host      string           `json:"host,omitempty"`
	Headers   []headerRecord   `json:"headers,omitempty"`
	Command   string           `json:"command,omitempty"`
	Stable    time.Duration    `json:"stable_ns,omitempty"`
	Interval  time.Duration    `json:"interval_ns,omitempty"`
	Timeout   time.Duration    `json:"timeout_ns,omitempty"`
	Grace     time.Duration    `json:"grace_ns,omitempty"`
	Threshold int              `json:"threshold,omitempty"`
}

func healthCheckToRecord(v miosa.HealthCheck) healthCheckRecord {
	return healthCheckRecord{
		Type:      v.Type,
		Path:      v.Path,
		Scheme:    v.Scheme,
		Host:      v.Host,
		Headers:   each(v.Headers, func(h miosa.Header) headerRecord { return headerRecord(h) }),
		Command:   v.Command,
		Stable:    v.Stable,
		Interval:  v.Interval,
		Timeout:   v.Timeout,
		Grace:     v.Grace,
		Threshold: v.Threshold,
	}
}

func (r healthCheckRecord) noun() miosa.HealthCheck {
	return miosa.HealthCheck{
		Type:      r.Type,
		Path:      r.Path,
		Scheme:    r.Scheme,
		Host:      r.Host,
		Headers:   each(r.Headers, func(h headerRecord) miosa.Header { return miosa.Header(h) }),
		Command:   r.Command,
		Stable:    r.Stable,
		Interval:  r.Interval,
		Timeout:   r.Timeout,
		Grace:     r.Grace,
		Threshold: r.Threshold,
	}
}

type headerRecord struct {
	Name  string `json:"name,omitempty"`
	Value string `json:"value,omitempty"`
}

type resourcesRecord struct {
	VCPUs      int `json:"vcpus,omitempty"`
	MemoryMB   int `json:"memory_mb,omitempty"`
	DiskMB     int `json:"disk_mb,omitempty"`
	GPU        int `json:"gpu,omitempty"`
	EgressMbps int `json:"egress_mbps,omitempty"`
}

func resourcesToRecord(v miosa.Resources) resourcesRecord {
	return resourcesRecord{
		VCPUs:      v.VCPUs,
		MemoryMB:   v.MemoryMB,
		DiskMB:     v.DiskMB,
		GPU:        v.GPU,
		EgressMbps: v.EgressMbps,
	}
}

func (r resourcesRecord) noun() miosa.Resources {
	return miosa.Resources{
		VCPUs:      r.VCPUs,
		MemoryMB:   r.MemoryMB,
		DiskMB:     r.DiskMB,
		GPU:        r.GPU,
		EgressMbps: r.EgressMbps,
	}
}

type manifestRecord struct {
	Files      int    `json:"files,omitempty"`
	TotalBytes int64  `json:"total_bytes,omitempty"`
	Entrypoint string `json:"entrypoint,omitempty"`
}

func manifestToRecord(v miosa.ArtifactManifest) manifestRecord {
	return manifestRecord{
		Files:      v.Files,
		TotalBytes: v.TotalBytes,
		Entrypoint: v.Entrypoint,
	}
}

func (r manifestRecord) noun() miosa.ArtifactManifest {
	return miosa.ArtifactManifest{
		Files:      r.Files,
		TotalBytes: r.TotalBytes,
		Entrypoint: r.Entrypoint,
	}
}

type imageConfigRecord struct {
	Entrypoint   []string `json:"entrypoint,omitempty"`
	Cmd          []string `json:"cmd,omitempty"`
	Env          []string `json:"env,omitempty"`
	WorkingDir   string   `json:"working_dir,omitempty"`
	User         string   `json:"user,omitempty"`
	ExposedPorts []int    `json:"exposed_ports,omitempty"`
	Architecture string   `json:"architecture,omitempty"`
	StopSignal   string   `json:"stop_signal,omitempty"`
}

func imageConfigToRecord(v miosa.ImageConfig) imageConfigRecord {
	return imageConfigRecord{
		Entrypoint:   v.Entrypoint,
		Cmd:          v.Cmd,
		Env:          v.Env,
		WorkingDir:   v.WorkingDir,
		User:         v.User,
		ExposedPorts: v.ExposedPorts,
		Architecture: v.Architecture,
		StopSignal:   v.StopSignal,
	}
}

func (r imageConfigRecord) noun() miosa.ImageConfig {
	return miosa.ImageConfig{
		Entrypoint:   r.Entrypoint,
		Cmd:          r.Cmd,
		Env:          r.Env,
		WorkingDir:   r.WorkingDir,
		User:         r.User,
		ExposedPorts: r.ExposedPorts,
		Architecture: r.Architecture,
		StopSignal:   r.StopSignal,
	}
}
