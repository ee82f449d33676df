package api

import (
	"cmp"
	"net"
	"net/url"
	"strconv"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/health"
	"github.com/miosa/miosa/registry"
	"github.com/miosa/miosa/store"
)

// Here the domain's nouns become the API's shapes.

func attributed(a miosa.Attribution) resource.Attributed {
	return resource.Attributed{
		ExternalWorkspaceID: str(a.WorkspaceID), ExternalUserID: str(a.UserID), ExternalProjectID: str(a.ProjectID),
	}
}

func metadata(m map[string]any) map[string]any {
	if m == nil {
		return map[string]any{}
	}
	return m
}

// labels are those of a host, or that one must have.
func labels(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// primary is the spec that stands for a whole version: that of the service
// that requests go to, or of its first.
func primary(v miosa.Version) miosa.ServiceSpec {
	if s, ok := v.Routed(); ok {
		return s
	}
	if len(v.Services) > 0 {
		return v.Services[0]
	}
	return miosa.ServiceSpec{}
}

// deploymentView is a deployment with what its resource needs besides. Its
// revision is that of the newest record in it.
func (c *call) deploymentView(dep miosa.Deployment) (resource.Deployment, int64, error) {
	env, err := c.environment(dep, miosa.Production)
	if err != nil {
		return resource.Deployment{}, 0, err
	}
	active, err := c.version(dep, env.ActiveVersionID)
	if err != nil && miosa.CodeOf(err) != miosa.NotFound {
		return resource.Deployment{}, 0, err
	}
	rollout, err := c.liveRollout(env)
	if err != nil {
		return resource.Deployment{}, 0, err
	}
	where := c.s.cfg.PublicURL(c.tenant, dep, env)
	condition, err := c.condition(env, active)
	if err != nil {
		return resource.Deployment{}, 0, err
	}
	host := c.hostOf(dep, env)
	spec := primary(active)
	out := resource.Deployment{
		ID: dep.ID, TenantID: dep.TenantID, OwnerID: str(dep.OwnerID), WorkspaceID: str(dep.WorkspaceID),
		ProjectID: str(dep.ProjectID), Name: dep.Name, Slug: dep.Slug, SourceType: dep.SourceType, State: string(dep.State),
		Health: str(string(condition.Health)), Reasons: lines(condition.Reasons),
		ActiveVersionID: str(env.ActiveVersionID), ActiveReleaseID: str(spec.ReleaseID), RunningArtifactSHA256: str(spec.SHA256),
		RunCommand: str(dep.RunCommand), DeploymentProduct: "miosa_deploy", RolloutID: str(rollout),
		Metadata: metadata(dep.Metadata), Attributed: attributed(dep.Attribution),
		PublicURL: where, AutoSubdomain: host, CreatedAt: dep.CreatedAt.UTC(), UpdatedAt: dep.UpdatedAt.UTC(),
	}
	if out.RunCommand == nil {
		out.RunCommand = str(spec.Command)
	}
	return out, max(dep.Revision, env.Revision), nil
}

// condition is how what is live in an environment does.
func (c *call) condition(env miosa.Environment, active miosa.Version) (health.Condition, error) {
	if active.ID == "" {
		return health.Condition{}, nil
	}
	services, err := c.servicesOf(env)
	if err != nil {
		return health.Condition{}, err
	}
	instances, err := c.instances(env.DeploymentID, func(i miosa.Instance) bool { return i.VersionID == active.ID && !i.Once() })
	return health.Environment(c.s.now(), active, services, instances), err
}

// liveRollout is the ID of the rollout that goes on in an environment, or "".
func (c *call) liveRollout(env miosa.Environment) (string, error) {
	e, err := c.s.store.Get(c.r.Context(), store.LiveKey(env.TenantID, env.ID))
	return string(e.Value), err
}

func rolloutResource(r miosa.Rollout) resource.Rollout {
	return resource.Rollout{
		ID: r.ID, DeploymentID: r.DeploymentID, EnvironmentID: r.EnvironmentID, TenantID: r.TenantID, Kind: string(r.Kind),
		VersionID: r.TargetID, FromVersionID: str(r.FromID), Promote: r.Promote, Step: string(r.Step), StepSince: r.StepSince.UTC(),
		Deadline: r.Deadline.UTC(), Reason: str(r.Reason), CreatedBy: str(r.Requester), CreatedAt: r.CreatedAt.UTC(),
		UpdatedAt: r.UpdatedAt.UTC(), FinishedAt: at(r.FinishedAt),
	}
}

func (s *Server) versionResource(v miosa.Version, manifest miosa.ArtifactManifest) resource.Version {
	spec := primary(v)
	out := resource.Version{
		ID: v.ID, DeploymentID: v.DeploymentID, EnvironmentID: v.EnvironmentID, TenantID: v.TenantID, CreatedBy: str(v.CreatedBy),
		ReleaseID: str(spec.ReleaseID), VersionNumber: v.Number, Kind: "dynamic", State: string(v.State),
		ArtifactSHA256: str(spec.SHA256), ArtifactManifest: manifestResource(manifest), Services: []resource.VersionService{},
		Metadata: metadata(v.Metadata), ErrorMessage: str(v.ErrorMessage), LastLogLines: lines(v.LastLines),
		PromotedAt: at(v.PromotedAt), ArchivedAt: at(v.ArchivedAt), Attributed: attributed(v.Attribution),
		CreatedAt: v.CreatedAt.UTC(), UpdatedAt: v.UpdatedAt.UTC(),
	}
	if out.Image = imageResource(v.Image, s.pullOf(v)); v.Image.Digest != "" {
		out.RuntimeImage = new(registry.Pinned(v.Image.Reference, v.Image.Digest))
	}
	if routed, ok := v.Routed(); ok {
		out.RoutedServiceID = str(routed.ServiceID)
	}
	if spec.SHA256 != "" {
		out.ArtifactURI = new("sha256:" + spec.SHA256)
	}
	if v.Kind == miosa.KindStatic {
		out.Kind = "static"
	} else {
		out.RuntimeCommand, out.RuntimePort = str(spec.Command), num(spec.Port)
		if spec.Port != 0 {
			out.HealthCheckPath = str(spec.Health.Path)
		}
	}
	for _, s := range v.Services {
		out.Services = append(out.Services, resource.VersionService{
			ServiceID: s.ServiceID, Name: s.Name, Type: string(s.Type), ReleaseID: s.ReleaseID, RunCommand: str(s.Command),
			Port: num(s.Port), Spoken: spoken(s), HealthCheck: healthResource(s), Resources: resourcesResource(s.Resources),
		})
	}
	return out
}

func lines(l []string) []string {
	if l == nil {
		return []string{}
	}
	return l
}

func manifestResource(m miosa.ArtifactManifest) resource.Manifest {
	return resource.Manifest{Files: m.Files, TotalBytes: m.TotalBytes, Entrypoint: m.Entrypoint}
}

func (c *call) releaseResource(r miosa.Release, latest miosa.Version) resource.Release {
	out := resource.Release{
		ID: r.ID, DeploymentID: r.DeploymentID, TenantID: r.TenantID, Kind: string(r.Kind), State: string(r.State),
		StorageURI: "sha256:" + r.SHA256, StorageBackend: c.s.cfg.Storage, SHA256: r.SHA256, ArtifactSHA256: r.SHA256,
		SizeBytes: r.SizeBytes, ArtifactManifest: manifestResource(r.Manifest), Notes: lines(r.Notes), Image: imageResource(r.Image, nil), Metadata: metadata(r.Metadata),
		Attributed: attributed(r.Attribution), ReadyAt: at(r.ReadyAt), ArchivedAt: at(r.ArchivedAt), CreatedAt: r.CreatedAt.UTC(),
	}
	if latest.ID != "" {
		spec := primary(latest)
		out.DeploymentVersionID, out.ServiceID = str(latest.ID), str(spec.ServiceID)
		out.StartCommand, out.Port, out.HealthCheckPath = str(spec.Command), num(spec.Port), str(spec.Health.Path)
	}
	if out.StartCommand == nil {
		out.StartCommand = str(r.Manifest.Entrypoint)
	}
	return out
}

// hostOf is the host name that leads to an environment.
func (c *call) hostOf(dep miosa.Deployment, env miosa.Environment) string {
	u, err := url.Parse(c.s.cfg.PublicURL(c.tenant, dep, env))
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// spoken is how a service is spoken to, with what is the default.
func spoken(s miosa.ServiceSpec) resource.Spoken {
	return resource.Spoken{
		Protocol:               string(cmp.Or(s.Protocol, miosa.ProtocolHTTP1)),
		ResponseTimeoutSeconds: cmp.Or(s.ResponseTimeout, miosa.DefaultResponseTimeout).Seconds(),
		StopSignal:             str(s.StopSignal), StopGraceSeconds: cmp.Or(s.StopGrace, miosa.DefaultStopGrace).Seconds(),
	}
}

func healthResource(s miosa.ServiceSpec) resource.HealthCheck {
	h := s.Health
	headers := map[string]string{}
	for _, line := range h.Headers {
		headers[line.Name] = line.Value
	}
	return resource.HealthCheck{
		Type: string(s.HealthType()), Scheme: cmp.Or(h.Scheme, "http"), Host: str(h.Host), Headers: headers,
		Command: str(h.Command), StableSeconds: cmp.Or(h.Stable, miosa.DefaultStable).Seconds(),
		Path: h.Path, IntervalSeconds: h.Interval.Seconds(), TimeoutSeconds: h.Timeout.Seconds(),
		GracePeriodSeconds: h.Grace.Seconds(), UnhealthyThreshold: h.Threshold,
	}
}

func resourcesResource(r miosa.Resources) resource.Resources {
	return resource.Resources{VCPUs: r.VCPUs, MemoryMB: r.MemoryMB, DiskMB: r.DiskMB, GPU: r.GPU, EgressMbps: num(r.EgressMbps)}
}

// serviceView joins a service with the version it runs and its instances.
func serviceView(s miosa.Service, st standing, instances []miosa.Instance, host string) resource.Service {
	active := st.active
	spec, live := active.Service(s.ID)
	if !live {
		spec.Health, spec.Resources = miosa.DefaultHealthCheck(), miosa.DefaultResources()
	}
	ready, failed := 0, false
	for _, i := range instances {
		if i.ServiceID != s.ID || i.VersionID != active.ID {
			continue
		}
		switch i.State() {
		case miosa.Healthy:
			ready++
		case miosa.Failed:
			failed = true
		}
	}
	out := resource.Service{
		ID: s.ID, DeploymentID: s.DeploymentID, EnvironmentID: s.EnvironmentID, TenantID: s.TenantID, Type: string(s.Type),
		Name: s.Name, DesiredReplicas: s.DesiredReplicas, ReadyReplicas: ready, Routed: s.ID == st.routed(), RolloutID: str(st.rollout),
		RunCommand: str(spec.Command), Port: num(spec.Port), Spoken: spoken(spec), HealthCheck: healthResource(spec),
		Resources: resourcesResource(spec.Resources), Regions: lines(s.Regions),
		Sticky:     resource.Sticky{Mode: string(s.Sticky.Mode), Name: s.Sticky.Name},
		Restart:    resource.Restart{Policy: string(s.Restart.Mode), MaxAgeSeconds: int(s.Restart.MaxAge / time.Second)},
		Disruption: resource.Disruption{MaxUnavailable: s.MaxUnavailable.String()}, StopAfterDisconnectSeconds: int(s.StopAfterDisconnect / time.Second),
		Placement: resource.Placement{Labels: labels(s.Labels), Apart: s.Apart},
		Logs:      resource.LogLimit{LinesPerSecond: num(s.Logs.LinesPerSecond), Burst: num(s.Logs.Burst), Unlimited: s.Logs.Unlimited},
		Metadata:  metadata(s.Metadata), CreatedAt: s.CreatedAt.UTC(), UpdatedAt: s.UpdatedAt.UTC(),
	}
	if live {
		out.VersionID = str(active.ID)
	}
	if out.PublicPort = num(s.PublicPort); s.PublicPort != 0 && spec.Protocol == miosa.ProtocolTCP {
		out.PublicURL = new("tcp://" + net.JoinHostPort(host, strconv.Itoa(s.PublicPort)))
	}
	if out.Sticky.Mode == "" {
		out.Sticky.Mode = string(miosa.StickyNone)
	}
	if out.Restart.Policy == "" {
		out.Restart.Policy = string(miosa.RestartAlways)
	}
	switch {
	case !live && st.names(s.ID):
		out.State = "starting"
	case !live && active.ID == "":
		out.State = "pending"
	case !live: // it has left
		out.State = "stopped"
	case s.DesiredReplicas == 0:
		out.State = "stopped"
	case ready >= s.DesiredReplicas:
		out.State = "running"
	case ready > 0:
		out.State = "degraded"
	case failed:
		out.State = "failed"
	default:
		out.State = "starting"
	}
	return out
}

func instanceResource(i miosa.Instance) resource.Instance {
	o := i.Observed
	state := i.State()
	out := resource.Instance{
		ID: i.ID, DeploymentID: i.DeploymentID, EnvironmentID: i.EnvironmentID, ServiceID: i.Spec.ServiceID, ServiceName: i.Spec.Name, TaskID: str(i.TaskID),
		VersionID: i.VersionID, ReleaseID: str(i.Spec.ReleaseID), TenantID: i.TenantID, Attributed: attributed(i.Attribution),
		Slot: i.Slot, HostID: str(i.HostID), Region: str(i.Region), Zone: str(i.Zone), VMID: str(o.VMID),
		DesiredState: "running", State: string(state), Reasons: reasons(i), Port: num(i.Spec.Port),
		LastHealthCheckAt: at(o.LastProbeAt), LastHealthCheck: str(o.LastProbe), LastHeartbeatAt: at(o.ReportedAt),
		ScheduledAt: at(i.ScheduledAt), StartedAt: at(o.StartedAt), HealthyAt: at(o.HealthyAt), StoppedAt: at(o.StoppedAt),
		ErrorMessage: str(o.Failure.Message), LastLogLines: lines(o.Failure.LastLines),
		RestartCount: o.RestartCount, NextRestartAt: at(o.NextRestartAt), BootPhases: phases(o.Phases),
		CPULimitMillicores: i.Spec.Resources.VCPUs * 1000, MemoryLimitMB: i.Spec.Resources.MemoryMB, DiskLimitMB: i.Spec.Resources.DiskMB,
		Metadata: map[string]any{}, CreatedAt: i.CreatedAt.UTC(), UpdatedAt: i.UpdatedAt.UTC(),
	}
	if o.ReportedAt.After(out.UpdatedAt) {
		out.UpdatedAt = o.ReportedAt.UTC()
	}
	if i.Goal != miosa.GoalRun || state.Terminal() {
		out.DesiredState = "stopped"
	}
	if o.Addr.IsValid() {
		out.IPAddress = new(o.Addr.Addr().String())
	}
	if i.Spec.Port != 0 {
		out.HealthCheckPath = str(i.Spec.Health.Path)
	}
	switch o.Failure.Kind {
	case miosa.FailureExit, miosa.FailureCompleted:
		out.ExitCode = new(o.Failure.ExitCode)
	}
	return out
}

// reasons say why an instance is in its state.
func reasons(i miosa.Instance) []string {
	o := i.Observed
	out := []string{}
	add := func(s string) {
		if s != "" {
			out = append(out, s)
		}
	}
	switch i.State() {
	case miosa.Pending:
		if i.HostID == "" {
			out = append(out, i.Reasons...)
			if len(out) == 0 {
				add("waiting for a host")
			}
			break
		}
		add(o.Failure.Message)
		if !o.NextRestartAt.IsZero() {
			add("the next boot is at " + o.NextRestartAt.UTC().Format(time.RFC3339))
		} else if o.Failure.Message == "" {
			add("its host is about to boot it")
		}
	case miosa.Starting:
		add(o.Failure.Message)
		add(o.LastProbe)
	case miosa.Unhealthy:
		add(o.LastProbe)
	case miosa.Stopping, miosa.Stopped:
		add(i.GoalReason)
		add(o.Failure.Message)
	case miosa.Failed:
		add(o.Failure.Message)
	}
	if i.ReplaceAsked && i.Goal == miosa.GoalRun {
		add("a restart was asked for: its replacement is on the way")
	}
	if i.HostID != "" && !i.State().Terminal() {
		out = append(out, i.Reasons...) // why it stays where it is
	}
	return out
}

func (c *call) environmentResource(dep miosa.Deployment, env miosa.Environment) (resource.Environment, error) {
	rollout, err := c.liveRollout(env)
	if err != nil {
		return resource.Environment{}, err
	}
	active, err := c.version(dep, env.ActiveVersionID)
	if err != nil && miosa.CodeOf(err) != miosa.NotFound {
		return resource.Environment{}, err
	}
	condition, err := c.condition(env, active)
	if err != nil {
		return resource.Environment{}, err
	}
	return resource.Environment{
		Health: str(string(condition.Health)), Reasons: lines(condition.Reasons),
		ID: env.ID, DeploymentID: env.DeploymentID, TenantID: env.TenantID, Name: env.Name,
		ActiveVersionID: str(env.ActiveVersionID), PreviousVersionID: str(env.PreviousVersionID), ActiveSince: at(env.ActiveSince),
		RolloutID: str(rollout), PublicURL: c.s.cfg.PublicURL(c.tenant, dep, env),
		CreatedAt: env.CreatedAt.UTC(), UpdatedAt: env.UpdatedAt.UTC(),
	}, nil
}

func eventResource(e miosa.Event) resource.Event {
	details := e.Details
	if details == nil {
		details = map[string]string{}
	}
	return resource.Event{
		ID: e.ID, TenantID: str(e.TenantID), DeploymentID: str(e.DeploymentID), ServiceID: str(e.ServiceID),
		RuntimeInstanceID: str(e.InstanceID), VersionID: str(e.VersionID), RolloutID: str(e.RolloutID), TaskID: str(e.TaskID), HostID: str(e.HostID),
		Type: e.Type, Message: e.Message, Actor: e.Actor, RequestID: str(e.RequestID), Details: details, CreatedAt: e.At.UTC(),
	}
}

func tenantResource(t miosa.Tenant) resource.Tenant {
	return resource.Tenant{ID: t.ID, Name: t.Name, Slug: t.Slug, Plan: t.Plan, CreatedAt: t.CreatedAt.UTC(), UpdatedAt: t.UpdatedAt.UTC()}
}

func planResource(p miosa.Plan) resource.Plan {
	return resource.Plan{
		Name: p.Name, GPU: p.GPU, LogDays: p.LogDays, EventDays: p.EventDays, MaxReplicas: p.MaxReplicas, MaxInstances: p.MaxInstances,
		MaxVCPUs: p.MaxVCPUs, MaxMemoryMB: p.MaxMemoryMB, MaxDiskMB: p.MaxDiskMB, MaxDeployments: p.MaxDeployments,
		MaxLogRate:      logRate(p),
		MaxEnvironments: planLimit(p, func(p miosa.Plan) int { return p.MaxEnvironments }), MaxServices: planLimit(p, func(p miosa.Plan) int { return p.MaxServices }), MaxWebhooks: planLimit(p, func(p miosa.Plan) int { return p.MaxWebhooks }), MaxLogDrains: planLimit(p, func(p miosa.Plan) int { return p.MaxLogDrains }), MaxRegistries: planLimit(p, func(p miosa.Plan) int { return p.MaxRegistries }), MaxAPIKeys: planLimit(p, func(p miosa.Plan) int { return p.MaxAPIKeys }), MaxReleases: planLimit(p, func(p miosa.Plan) int { return p.MaxReleases }), MaxStorageMB: planLimit(p, func(p miosa.Plan) int { return p.MaxStorageMB }),
		MaxLogStorageMB: planLimit(p, func(p miosa.Plan) int { return p.MaxLogStorageMB }),
		MaxPublicPorts:  planLimit(p, func(p miosa.Plan) int { return p.MaxPublicPorts }),
		MaxTasks:        planLimit(p, func(p miosa.Plan) int { return p.MaxTasks }),
		MaxExecSessions: planLimit(p, func(p miosa.Plan) int { return p.MaxExecSessions }), MaxExecMinutes: planLimit(p, func(p miosa.Plan) int { return p.MaxExecMinutes }), MaxExecIdleMinutes: planLimit(p, func(p miosa.Plan) int { return p.MaxExecIdleMinutes }),
		CreatedAt: p.CreatedAt.UTC(), UpdatedAt: p.UpdatedAt.UTC(),
	}
}

func apiKeyResource(k miosa.APIKey) resource.APIKey {
	return resource.APIKey{
		ID: k.ID, Name: k.Name, Hint: k.Hint, Role: string(k.Role), TenantID: str(k.TenantID),
		ExternalWorkspaceID: str(k.WorkspaceID), CreatedAt: k.CreatedAt.UTC(), RevokedAt: at(k.RevokedAt),
	}
}

func hostDrainResource(d miosa.HostDrain) *resource.HostDrain {
	if d.Since.IsZero() {
		return nil
	}
	state := "draining"
	switch {
	case !d.DoneAt.IsZero():
		state = "drained"
	case !d.LateAt.IsZero():
		state = "late"
	}
	return &resource.HostDrain{
		Since: d.Since.UTC(), Deadline: at(d.Deadline), Force: d.Force, State: state, Total: d.Total, Left: d.Left,
		Progress: d.Progress, DoneAt: at(d.DoneAt),
	}
}

func hostResource(h miosa.Host) resource.Host {
	return resource.Host{
		ID: h.ID, Name: h.Name, Region: h.Region, Zone: h.Zone, Driver: h.Driver, Capacity: resourcesResource(h.Capacity),
		Overcommit: h.Overcommit, Schedulable: h.Schedulable, Labels: labels(h.Labels), Liveness: string(h.Liveness),
		Failing: h.Failing, Reasons: lines(h.Reasons), Drain: hostDrainResource(h.Drain), Version: h.Version,
		CreatedAt: h.CreatedAt.UTC(), UpdatedAt: h.UpdatedAt.UTC(),
	}
}

func phases(in []miosa.Phase) []resource.Phase {
	out := make([]resource.Phase, 0, len(in))
	for _, p := range in {
		out = append(out, resource.Phase{Name: p.Name, At: p.At.UTC()})
	}
	return out
}
