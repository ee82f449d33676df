package resource

import "time"

// Version is frozen: what runs, exactly, in one environment.
type Version struct {
	ID               string           `json:"id"`
	DeploymentID     string           `json:"deployment_id"`
	EnvironmentID    string           `json:"environment_id"`
	TenantID         string           `json:"tenant_id"`
	CreatedBy        *string          `json:"created_by"`
	BuildID          *string          `json:"build_id"`
	ReleaseID        *string          `json:"release_id"`
	VersionNumber    int              `json:"version_number" doc:"Counts up per deployment."`
	Kind             string           `json:"kind" enum:"static,dynamic"`
	State            string           `json:"state" enum:"created,building,ready,failed,archived"`
	ArtifactURI      *string          `json:"artifact_uri"`
	ArtifactManifest Manifest         `json:"artifact_manifest"`
	ArtifactSHA256   *string          `json:"artifact_sha256"`
	RuntimeImage     *string          `json:"runtime_image" doc:"The image that it was pulled from, with its digest."`
	Image            *Image           `json:"image" doc:"null for what was uploaded."`
	RuntimeCommand   *string          `json:"runtime_command"`
	RuntimePort      *int             `json:"runtime_port"`
	HealthCheckPath  *string          `json:"health_check_path"`
	Services         []VersionService `json:"services"`
	RoutedServiceID  *string          `json:"routed_service_id" doc:"The one of them that requests go to while this version is live; null where all are workers."`
	BuildLogURI      *string          `json:"build_log_uri"`
	Metadata         map[string]any   `json:"metadata"`
	ErrorMessage     *string          `json:"error_message" doc:"Why it failed."`
	LastLogLines     []string         `json:"last_log_lines" doc:"The last lines of an instance that failed; at most 50."`
	PromotedAt       *time.Time       `json:"promoted_at"`
	ArchivedAt       *time.Time       `json:"archived_at"`
	Attributed
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// VersionService is the frozen part of one service.
type VersionService struct {
	ServiceID  string  `json:"service_id"`
	Name       string  `json:"name"`
	Type       string  `json:"type"`
	ReleaseID  string  `json:"release_id"`
	RunCommand *string `json:"run_command"`
	Port       *int    `json:"port"`
	Spoken
	HealthCheck HealthCheck `json:"health_check"`
	Resources   Resources   `json:"resources"`
}

// Manifest is what verification counted in an artefact.
type Manifest struct {
	Files      int    `json:"files"`
	TotalBytes int64  `json:"total_bytes" doc:"Unpacked."`
	Entrypoint string `json:"entrypoint"`
}

// Release is an uploaded artefact.
type Release struct {
	ID                  string         `json:"id"`
	DeploymentID        string         `json:"deployment_id"`
	DeploymentVersionID *string        `json:"deployment_version_id" doc:"The newest version made of it."`
	ServiceID           *string        `json:"service_id"`
	TenantID            string         `json:"tenant_id"`
	Kind                string         `json:"kind" enum:"static,oci,rootfs"`
	State               string         `json:"state" enum:"ready,archived"`
	StorageURI          string         `json:"storage_uri"`
	StorageBackend      string         `json:"storage_backend"`
	SHA256              string         `json:"sha256"`
	ArtifactSHA256      string         `json:"artifact_sha256"`
	SizeBytes           int64          `json:"size_bytes"`
	ArtifactManifest    Manifest       `json:"artifact_manifest"`
	Image               *Image         `json:"image" doc:"null for what was uploaded."`
	Notes               []string       `json:"notes" doc:"What to know of how it was taken in, e.g. what was left out: a sentence each, at most 20."`
	StartCommand        *string        `json:"start_command"`
	Port                *int           `json:"port"`
	HealthCheckPath     *string        `json:"health_check_path"`
	Metadata            map[string]any `json:"metadata"`
	Attributed
	ReadyAt    *time.Time `json:"ready_at"`
	ArchivedAt *time.Time `json:"archived_at"`
	CreatedAt  time.Time  `json:"created_at"`
}
