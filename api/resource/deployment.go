package resource

import "time"

// Deployment is one app.
type Deployment struct {
	ID                    string         `json:"id"`
	TenantID              string         `json:"tenant_id"`
	OwnerID               *string        `json:"owner_id" doc:"The API key that made it."`
	WorkspaceID           *string        `json:"workspace_id"`
	ProjectID             *string        `json:"project_id"`
	Name                  string         `json:"name"`
	Slug                  string         `json:"slug" doc:"Made from the name at creation; unique per tenant; part of public_url."`
	SourceType            string         `json:"source_type"`
	State                 string         `json:"state" enum:"pending,building,running,stopped,failed"`
	Health                *string        `json:"health" enum:"ok,degraded,down" doc:"How what is live in production does, beside state: degraded when an instance that is wanted is missing, fails or crash-loops, down when the service that requests go to, or one of protocol tcp, has no healthy one; null while nothing is live."`
	Reasons               []string       `json:"reasons" doc:"Why health is not ok, in words."`
	ActiveVersionID       *string        `json:"active_version_id" doc:"The version that is live in production."`
	ActiveReleaseID       *string        `json:"active_release_id"`
	RunningArtifactSHA256 *string        `json:"running_artifact_sha256"`
	RunCommand            *string        `json:"run_command"`
	DeploymentProduct     string         `json:"deployment_product"`
	LinkedDatabaseID      *string        `json:"linked_database_id"`
	CustomDomainID        *string        `json:"custom_domain_id"`
	RolloutID             *string        `json:"rollout_id" doc:"The rollout that goes on in production now, if one does."`
	Metadata              map[string]any `json:"metadata"`
	Attributed
	PublicURL     string    `json:"public_url" doc:"Where production is served; there from creation on."`
	AutoSubdomain string    `json:"auto_subdomain" doc:"Host name of public_url."`
	CreatedAt     time.Time `json:"created_at"`
	UpdatedAt     time.Time `json:"updated_at"`
}

// DeploymentCreate is the body that makes a deployment.
type DeploymentCreate struct {
	Name         string         `json:"name" required:"true" doc:"1–100 characters."`
	SourceType   string         `json:"source_type,omitempty" enum:"upload,repo,sandbox" doc:"Only upload is served; it is the default."`
	RepoURL      string         `json:"repo_url,omitempty" doc:"Accepted for compatibility; nothing is built from it."`
	Branch       string         `json:"branch,omitempty" doc:"Accepted for compatibility."`
	BuildCommand string         `json:"build_command,omitempty" doc:"Accepted for compatibility."`
	RunCommand   string         `json:"run_command,omitempty" doc:"Default for its publishes."`
	AutoDeploy   bool           `json:"auto_deploy,omitempty" doc:"Accepted for compatibility."`
	ProjectID    string         `json:"project_id,omitempty"`
	Database     any            `json:"database,omitempty" doc:"true or an object asks for a database binding; this platform offers none: 422."`
	Metadata     map[string]any `json:"metadata,omitempty"`
	Attribution
}

// DeploymentPatch changes a deployment; absent fields stay.
type DeploymentPatch struct {
	Name                *string        `json:"name,omitempty" doc:"The slug, and with it the address, stays."`
	RunCommand          *string        `json:"run_command,omitempty" doc:"Takes effect at the next publish."`
	ProjectID           *string        `json:"project_id,omitempty"`
	Metadata            map[string]any `json:"metadata,omitempty" doc:"Replaces the whole object."`
	ExternalWorkspaceID *string        `json:"external_workspace_id,omitempty"`
	ExternalUserID      *string        `json:"external_user_id,omitempty"`
	ExternalProjectID   *string        `json:"external_project_id,omitempty"`
}

// Publish is the body of a publish. Exactly one source is named.
type Publish struct {
	ReleaseID       string            `json:"release_id,omitempty"`
	ArtifactSHA256  string            `json:"artifact_sha256,omitempty" doc:"Digest of an artefact already uploaded to this deployment, hex."`
	Image           *PublishImage     `json:"image,omitempty" doc:"An image to pull from a registry: its reference, or an object."`
	SourceSandboxID string            `json:"source_sandbox_id,omitempty" doc:"A release ID given here is taken as release_id."`
	Kind            string            `json:"kind,omitempty" enum:"auto,static,dynamic" doc:"auto: told by the release."`
	Environment     string            `json:"environment,omitempty" doc:"Default production."`
	RunCommand      string            `json:"run_command,omitempty" doc:"Default: that of the active version, of the deployment, of the image."`
	Port            *int              `json:"port,omitempty" doc:"1–65535. Default: that of the active version, the image's first exposed port, 8080."`
	HealthCheckPath string            `json:"health_check_path,omitempty" doc:"Default: that of the active version, /."`
	Services        []PublishService  `json:"services,omitempty" doc:"Several services of one version; default is one, web."`
	Reset           bool              `json:"reset,omitempty" doc:"What a service does not say is the default, not what the active version or the deployment has; only desired_replicas and logs stay as they are."`
	Variables       map[string]string `json:"variables,omitempty" doc:"Plain variables of the environment to set with it; those that are not named stay. A secret is not overwritten."`
	Promote         *bool             `json:"promote,omitempty" doc:"Default true. false: only prove that it becomes healthy."`
	DataServices    []any             `json:"data_services,omitempty" doc:"Accepted for compatibility; bindings are the operator's."`
	Metadata        map[string]any    `json:"metadata,omitempty"`
	Attribution
}

// PublishService is one service of a version.
type PublishService struct {
	Name       string `json:"name" required:"true"`
	Type       string `json:"type,omitempty" enum:"web,api,worker,static_web" doc:"Default web. A worker has no port."`
	RunCommand string `json:"run_command,omitempty"`
	Port       *int   `json:"port,omitempty"`
	SpokenPatch
	HealthCheckPath            string           `json:"health_check_path,omitempty"`
	HealthCheck                *HealthPatch     `json:"health_check,omitempty"`
	DesiredReplicas            *int             `json:"desired_replicas,omitempty"`
	Resources                  *ResourcesPatch  `json:"resources,omitempty"`
	Regions                    *[]string        `json:"regions,omitempty" doc:"Slugs of /compute/regions; empty: any. As desired_replicas and all that follows, no part of the version: it becomes the service's own when the version is live for the first time."`
	Sticky                     *Sticky          `json:"sticky,omitempty"`
	Restart                    *RestartPatch    `json:"restart,omitempty"`
	Disruption                 *DisruptionPatch `json:"disruption,omitempty"`
	StopAfterDisconnectSeconds *int             `json:"stop_after_disconnect_seconds,omitempty" doc:"10–86400, or 0: never."`
	Placement                  *PlacementPatch  `json:"placement,omitempty"`
}

// Published is the outcome of a publish, or how far it has come.
type Published struct {
	Deployment Deployment `json:"deployment"`
	Version    Version    `json:"version"`
	Release    *Release   `json:"release" doc:"null while its image is pulled."`
	Services   []Service  `json:"services"`
	Rollout    Rollout    `json:"rollout"`
	Promoted   bool       `json:"promoted" doc:"The version is live."`
}

// Promoted is a deployment after a promote or rollback.
type Promoted struct {
	Deployment
	Rollout *Rollout `json:"rollout" doc:"null when the version was live already."`
}

// Rollback is the body of a rollback. Both empty: the version that was active
// before the present one; while a publish that has not yet gone live goes on,
// the active version (the publish is cancelled).
type Rollback struct {
	VersionID   string `json:"version_id,omitempty"`
	ReleaseID   string `json:"release_id,omitempty"`
	Environment string `json:"environment,omitempty" doc:"Default production."`
}

// Promote is the body of a promote.
type Promote struct {
	Environment string `json:"environment,omitempty" doc:"Default: the one the version was made for."`
}

// Scale sets how many instances of a service there are to be.
type Scale struct {
	Instances   *int   `json:"instances" required:"true" doc:"0 stops the service."`
	Service     string `json:"service,omitempty" doc:"Name or ID; default the one that requests go to."`
	Environment string `json:"environment,omitempty" doc:"Default production."`
}

// Resize gives a service's instances another size.
type Resize struct {
	Size        string `json:"size" required:"true" doc:"A slug of /compute/sizes."`
	Service     string `json:"service,omitempty" doc:"Name or ID; default the one that requests go to."`
	Environment string `json:"environment,omitempty" doc:"Default production."`
}

// Rollout is one change of an environment's active version.
type Rollout struct {
	ID            string     `json:"id"`
	DeploymentID  string     `json:"deployment_id"`
	EnvironmentID string     `json:"environment_id"`
	TenantID      string     `json:"tenant_id"`
	Kind          string     `json:"kind" enum:"publish,promote,rollback,restart"`
	VersionID     string     `json:"version_id" doc:"The version to make live."`
	FromVersionID *string    `json:"from_version_id" doc:"The version that was live when it began."`
	Promote       bool       `json:"promote"`
	Step          string     `json:"step" enum:"pulling,starting,flipping,draining,done,failed,cancelled" doc:"From draining on the version is live."`
	StepSince     time.Time  `json:"step_since"`
	Deadline      time.Time  `json:"deadline" doc:"Of the present step."`
	Reason        *string    `json:"reason" doc:"What it waits for, or why it ended as it did."`
	CreatedBy     *string    `json:"created_by"`
	CreatedAt     time.Time  `json:"created_at"`
	UpdatedAt     time.Time  `json:"updated_at"`
	FinishedAt    *time.Time `json:"finished_at"`
}

// Live reports whether the rollout still goes on.
func (r Rollout) Live() bool {
	switch r.Step {
	case "done", "failed", "cancelled":
		return false
	}
	return true
}

// Environment is one place a deployment runs in.
type Environment struct {
	ID                string     `json:"id"`
	DeploymentID      string     `json:"deployment_id"`
	TenantID          string     `json:"tenant_id"`
	Name              string     `json:"name"`
	Health            *string    `json:"health" enum:"ok,degraded,down" doc:"How what is live in it does, as a deployment's; null while nothing is live."`
	Reasons           []string   `json:"reasons" doc:"Why health is not ok, in words."`
	ActiveVersionID   *string    `json:"active_version_id"`
	PreviousVersionID *string    `json:"previous_version_id" doc:"What was live before: an empty rollback's target."`
	ActiveSince       *time.Time `json:"active_since"`
	RolloutID         *string    `json:"rollout_id" doc:"The rollout that goes on now, if one does."`
	PublicURL         string     `json:"public_url"`
	CreatedAt         time.Time  `json:"created_at"`
	UpdatedAt         time.Time  `json:"updated_at"`
}

// EnvironmentCreate makes an environment.
type EnvironmentCreate struct {
	Name string `json:"name" required:"true" doc:"1–20 lower-case letters, digits and single hyphens."`
}

// Var is an environment variable: never its value.
type Var struct {
	Key       string    `json:"key"`
	Preview   string    `json:"preview"`
	IsSecret  bool      `json:"is_secret"`
	UpdatedAt time.Time `json:"updated_at"`
}

// VarsMerge sets and, by null, deletes variables.
type VarsMerge struct {
	Env         map[string]*string `json:"env" required:"true" doc:"A null value deletes the variable."`
	Environment string             `json:"environment,omitempty" doc:"Default production."`
	IsSecret    bool               `json:"is_secret,omitempty" doc:"Shows nothing of the values in previews. A secret stays one until it is deleted."`
}
