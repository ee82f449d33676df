package api

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/rollout"
	"github.com/miosa/miosa/store"
)

// defaultPort is what a web service listens on when nobody says: the app is
// told by PORT.
const defaultPort = 8080

// publication is a publish on its way into the store.
type publication struct {
	c       *call
	in      resource.Publish
	plan    miosa.Plan
	dep     miosa.Deployment
	env     miosa.Environment
	release miosa.Release
	dry     bool                 // its bytes need not be there: what they are does not bear on where they run
	vars    map[string]miosa.Var // to set with it, sealed
	active  miosa.Version        // of the environment; zero before the first
	all     []miosa.Service
	ports   int // given away by this publish
	version miosa.Version
	rollout miosa.Rollout
}

func (s *Server) publish(c *call, in resource.Publish) (resource.Published, error) {
	wait, err := c.patience(false)
	if err != nil {
		return resource.Published{}, err
	}
	if err := c.checkPublish(&in, false); err != nil {
		return resource.Published{}, err
	}
	plan, err := c.plan()
	if err != nil {
		return resource.Published{}, err
	}
	vars, err := c.publishedVars(in)
	if err != nil {
		return resource.Published{}, err
	}
	err = c.updateRoom(func(tx *store.Tx) error {
		p := &publication{c: c, in: in, plan: plan, vars: maps.Clone(vars)}
		if err := p.write(tx); err != nil {
			return err
		}
		c.made = made{Deployment: p.dep.ID, Environment: p.env.ID, Version: p.version.ID, Release: p.release.ID, Rollout: p.rollout.ID}
		return nil
	})
	if err != nil {
		return resource.Published{}, err
	}
	begun, ended, err := c.awaitMade(wait)
	if err != nil {
		return resource.Published{}, err
	}
	if ended {
		c.status = http.StatusOK
	}
	return c.published(begun)
}

// awaitMade is the rollout that was begun, and whether it is decided, as seen
// within the limit; 0: as it stands.
func (c *call) awaitMade(limit time.Duration) (r miosa.Rollout, ended bool, err error) {
	ctx := c.r.Context()
	r, err = store.Get(ctx, c.s.store, store.Rollouts, store.RolloutKey(c.tenant.ID, c.made.Deployment, c.made.Rollout))
	switch {
	case miosa.CodeOf(err) == miosa.NotFound:
		return r, false, deletedMeanwhile()
	case err != nil || limit == 0:
		return r, false, err
	}
	return c.s.await(ctx, r, r.Revision, limit)
}

func deletedMeanwhile() error {
	return conflict("deployment_deleted", "the deployment was deleted meanwhile")
}

// checkPublish finds what is wrong with a publish whatever it is of, and
// settles its source and defaults. A dry one need not say what is published.
func (c *call) checkPublish(in *resource.Publish, dry bool) error {
	if in.SourceSandboxID != "" && in.ReleaseID == "" && miosa.IDPrefix(in.SourceSandboxID) == miosa.PrefixRelease {
		in.ReleaseID, in.SourceSandboxID = in.SourceSandboxID, ""
	}
	if in.SourceSandboxID != "" {
		return &miosa.Error{
			Code: miosa.Invalid, Public: "source_not_supported",
			Message: "sandboxes are not served here: upload a release and publish its release_id, or publish an image from a registry",
		}
	}
	var f faults
	switch {
	case in.Image != nil && (in.ReleaseID != "" || in.ArtifactSHA256 != ""):
		f.add("image", "and release_id or artifact_sha256 are given: name one source")
	case in.Image != nil:
		f.image("image", in.Image)
	case in.ReleaseID == "" && in.ArtifactSHA256 == "" && !dry:
		f.add("release_id", "is needed: upload a release first, or name artifact_sha256, or an image in a registry")
	case in.ReleaseID != "" && in.ArtifactSHA256 != "":
		f.add("artifact_sha256", "and release_id are given: name one source")
	}
	if in.ArtifactSHA256 = strings.ToLower(in.ArtifactSHA256); in.ArtifactSHA256 != "" && !isSHA256(in.ArtifactSHA256) {
		f.add("artifact_sha256", "must be 64 hexadecimal digits")
	}
	if in.Kind == "" {
		in.Kind = "auto"
	}
	f.oneOf("kind", in.Kind, "auto", "static", "dynamic")
	if in.Environment == "" {
		in.Environment = miosa.Production
	}
	f.command("run_command", in.RunCommand)
	f.port("port", in.Port)
	f.path("health_check_path", in.HealthCheckPath)
	f.metadata("metadata", in.Metadata)
	for key, value := range inOrder(in.Variables) {
		f.variable("variables."+key, key, value)
	}
	if len(in.Services) > maxServices {
		f.add("services", "may be at most %d", maxServices)
	}
	seen := map[string]bool{}
	for n := range in.Services {
		s, field := &in.Services[n], fmt.Sprintf("services[%d]", n)
		f.label(field+".name", s.Name, maxSlug)
		if seen[s.Name] {
			f.add(field+".name", "%q is given twice", s.Name)
		}
		seen[s.Name] = true
		if s.Type == "" {
			s.Type = string(miosa.ServiceWeb)
		}
		f.oneOf(field+".type", s.Type, "web", "api", "worker")
		f.command(field+".run_command", s.RunCommand)
		f.port(field+".port", s.Port)
		if s.Type == "worker" && s.Port != nil {
			f.add(field+".port", "a worker has none")
		}
		spec := miosa.ServiceSpec{Name: s.Name, Type: miosa.ServiceType(s.Type)}
		f.spoken(field+".", &spec, s.SpokenPatch)
		f.path(field+".health_check_path", s.HealthCheckPath)
		spec.Health = f.health(field+".health_check", miosa.DefaultHealthCheck(), s.HealthCheck)
		f.suits(field+".", spec)
		f.between(field+".desired_replicas", s.DesiredReplicas, 0, maxReplicas)
		f.resources(field+".resources", miosa.DefaultResources(), s.Resources)
		f.restart(field+".restart", miosa.RestartPolicy{}, s.Restart)
		if s.Sticky != nil {
			f.sticky(field+".sticky", *s.Sticky)
		}
		if s.Regions != nil {
			c.regions(&f, field+".regions", *s.Regions)
		}
		f.disruption(field+".disruption", miosa.MaxUnavailable{}, s.Disruption)
		if s.StopAfterDisconnectSeconds != nil {
			f.stopAfterDisconnect(field+".stop_after_disconnect_seconds", *s.StopAfterDisconnectSeconds)
		}
		if s.Placement != nil && s.Placement.Labels != nil {
			f.labels(field+".placement.labels", *s.Placement.Labels)
		}
	}
	return f.err()
}

func isSHA256(v string) bool {
	return len(v) == 64 && strings.Trim(v, "0123456789abcdef") == ""
}

// write is the one transaction of a publish.
func (p *publication) write(tx *store.Tx) error {
	var err error
	if p.dep, err = p.c.txDeployment(tx, p.c.r.PathValue("id")); err != nil {
		return err
	}
	if err := p.c.txMatchDeployment(tx, p.dep); err != nil {
		return err
	}
	if p.env, err = p.c.txEnvironment(tx, p.dep, p.in.Environment); err != nil {
		return err
	}
	if most := planLimit(p.plan, func(plan miosa.Plan) int { return plan.MaxServices }); most >= 0 && len(p.in.Services) > most {
		return quota(fmt.Sprintf("plan %s allows %d services a version, and these are %d: publish fewer, or ask the operator for another plan", p.plan.Name, most, len(p.in.Services)))
	}
	if err := p.c.txNoRollout(tx, p.env); err != nil {
		return err
	}
	var image miosa.Image
	if p.dry && p.in.ReleaseID == "" && p.in.ArtifactSHA256 == "" {
		p.release.Kind = miosa.KindOCI
	} else if p.in.Image != nil {
		if p.c.s.pulls == nil {
			return &miosa.Error{Code: miosa.Unavailable, Public: "images_not_pulled", Message: "no images are pulled from here: upload a release"}
		}
		image = miosa.Image{Reference: p.in.Image.Reference, Platform: p.in.Image.Platform, WorkspaceID: p.c.key.WorkspaceID}
		p.release.Kind = miosa.KindOCI
	} else if p.release, err = p.source(tx); err != nil {
		return err
	}
	if p.release.Kind == miosa.KindStatic || p.in.Kind == "static" {
		return &miosa.Error{
			Code: miosa.Invalid, Public: "kind_not_supported",
			Message: "static sites are not served by this version of the platform: publish a rootfs or oci release",
		}
	}
	if p.active, err = p.c.version(p.dep, p.env.ActiveVersionID); err != nil {
		return err
	}
	if p.all, err = p.c.servicesOf(p.env); err != nil {
		return err
	}
	specs, err := p.specs(tx)
	if err != nil {
		return err
	}
	if err := p.c.room(tx, p.plan, p.env, p.named(specs)); err != nil {
		return err
	}
	var f faults
	attribution, err := p.c.attribution(&f, p.in.Attribution)
	if err == nil {
		err = f.err()
	}
	if err != nil {
		return err
	}
	if attribution == (miosa.Attribution{}) {
		attribution = p.dep.Attribution
	}
	if err := p.setVars(tx); err != nil {
		return err
	}
	promote := p.in.Promote == nil || *p.in.Promote
	p.version, p.rollout, err = p.c.startVersion(tx, &p.dep, p.env, miosa.Version{
		Kind: p.release.Kind, Services: specs, Image: cmp.Or(image, p.release.Image), Attribution: attribution, Metadata: p.in.Metadata,
	}, miosa.RolloutPublish, promote)
	if err != nil {
		return err
	}
	return p.c.audit(tx, miosa.Event{
		DeploymentID: p.dep.ID, VersionID: p.version.ID, RolloutID: p.rollout.ID, Type: "publish.requested",
		Message: fmt.Sprintf("publish of version %d to %s was asked for", p.version.Number, p.env.Name),
	})
}

// source is the release to publish.
func (p *publication) source(tx *store.Tx) (miosa.Release, error) {
	id := p.in.ReleaseID
	if id == "" {
		var err error
		if id, err = tx.Index(store.ReleaseSHAKey(p.dep.TenantID, p.dep.ID, p.in.ArtifactSHA256)); err != nil {
			return miosa.Release{}, err
		}
		if id == "" {
			return miosa.Release{}, notFound("release_not_found", "no release of this deployment has that artifact_sha256: upload it first")
		}
	}
	if miosa.IDPrefix(id) != miosa.PrefixRelease {
		return miosa.Release{}, absent("release", id)
	}
	r, err := store.Load(tx, store.Releases, store.ReleaseKey(p.dep.TenantID, p.dep.ID, id))
	if err == nil && r.State == miosa.ReleaseArchived {
		err = releaseGone(r)
	}
	return r, err
}

func releaseGone(r miosa.Release) error {
	return &miosa.Error{
		Code: miosa.Gone, Public: "release_archived",
		Message: fmt.Sprintf("the bytes of release %s were removed: upload it again", r.ID),
	}
}

// specs freezes the services of the version, making those that are new.
func (p *publication) specs(tx *store.Tx) ([]miosa.ServiceSpec, error) {
	asked := p.in.Services
	if len(asked) == 0 {
		asked = p.sameServices()
	}
	var specs []miosa.ServiceSpec
	for _, a := range asked {
		spec, err := p.spec(tx, a)
		if err != nil {
			return nil, err
		}
		specs = append(specs, spec)
	}
	return specs, nil
}

// sameServices are the active version's, or one called web; what the request
// says at its top level goes to the one that stands for the whole.
func (p *publication) sameServices() []resource.PublishService {
	var out []resource.PublishService
	for _, s := range p.active.Services {
		out = append(out, resource.PublishService{Name: s.Name, Type: string(s.Type)})
	}
	if len(out) == 0 {
		out = []resource.PublishService{{Name: "web", Type: string(miosa.ServiceWeb)}}
	}
	main := primary(p.active).Name
	for n := range out {
		if main == "" || out[n].Name == main {
			out[n].RunCommand, out[n].Port, out[n].HealthCheckPath = p.in.RunCommand, p.in.Port, p.in.HealthCheckPath
		}
	}
	return out
}

// spec is one service's frozen part: what the request says; else what the
// active version has; else what the deployment and the image say.
func (p *publication) spec(tx *store.Tx, a resource.PublishService) (miosa.ServiceSpec, error) {
	spec := miosa.ServiceSpec{
		Name: a.Name, Health: miosa.DefaultHealthCheck(), Resources: miosa.DefaultResources(), Command: p.dep.RunCommand,
	}
	for _, s := range p.active.Services {
		if s.Name == a.Name && !p.in.Reset {
			spec = s
		}
	}
	if p.in.Reset {
		spec.Command = "" // also the deployment's is one that the request does not say
	}
	raw := spec.Protocol == miosa.ProtocolTCP && a.Protocol == nil || a.Protocol != nil && *a.Protocol == string(miosa.ProtocolTCP)
	service, settings, err := p.service(tx, a, raw && a.Type != string(miosa.ServiceWorker))
	if err != nil {
		return miosa.ServiceSpec{}, err
	}
	spec.Settings = settings
	spec.ServiceID, spec.Type = service.ID, service.Type
	spec.ReleaseID, spec.SHA256, spec.Kind = p.release.ID, p.release.SHA256, p.release.Kind
	if a.RunCommand != "" {
		spec.Command = a.RunCommand
	}
	switch {
	case spec.Type == miosa.ServiceWorker:
		spec.Port = 0
	case a.Port != nil:
		spec.Port = *a.Port
	}
	// An image that is yet to come is asked for the rest when it is there.
	if p.release.ID != "" {
		if err := ofRelease(&spec, p.release); err != nil {
			return miosa.ServiceSpec{}, err
		}
	}
	var f faults
	f.spoken("", &spec, a.SpokenPatch)
	if a.HealthCheckPath != "" {
		spec.Health = f.health("health_check", spec.Health, &resource.HealthPatch{Path: &a.HealthCheckPath})
	}
	spec.Health = f.health("health_check", spec.Health, a.HealthCheck)
	if a.HealthCheckPath != "" || a.HealthCheck != nil {
		f.suits("", spec)
	}
	spec.Resources = f.resources("resources", spec.Resources, a.Resources)
	if err := f.err(); err != nil {
		return miosa.ServiceSpec{}, err
	}
	return spec, fits(p.plan, a.Name, spec.Resources)
}

// named are the services that a version's specs are of, as this publish leaves
// them.
func (p *publication) named(specs []miosa.ServiceSpec) (out []miosa.Service) {
	for _, s := range p.all {
		if slices.ContainsFunc(specs, func(spec miosa.ServiceSpec) bool { return spec.ServiceID == s.ID }) {
			out = append(out, s)
		}
	}
	return out
}

// known is the place in all of the service that a name stands for, below 0
// where a new one is to be made. One that is live keeps its name; of those that
// left, the last one of that type takes it again.
func (p *publication) known(name, kind string) (int, error) {
	found := -1
	for n, s := range p.all {
		if s.Name != name {
			continue
		}
		_, live := p.active.Service(s.ID)
		switch {
		case live && string(s.Type) != kind:
			return 0, conflict("service_type_differs", fmt.Sprintf("service %s is of type %s: one of type %s needs another name", s.Name, s.Type, kind))
		case live:
			return n, nil
		case string(s.Type) == kind:
			found = n
		}
	}
	return found, nil
}

// service finds a service of the environment by name, or makes it; one that
// speaks raw TCP has a port of the routers'. The record of one that there is
// stays otherwise as it is: what the publish says of it comes with the version.
func (p *publication) service(tx *store.Tx, a resource.PublishService, raw bool) (miosa.Service, miosa.ServiceSettings, error) {
	c, now := p.c, p.c.s.now().UTC()
	fail := func(err error) (miosa.Service, miosa.ServiceSettings, error) {
		return miosa.Service{}, miosa.ServiceSettings{}, err
	}
	n, err := p.known(a.Name, a.Type)
	if err != nil {
		return fail(err)
	}
	if n >= 0 {
		s := p.all[n]
		if raw && s.PublicPort == 0 {
			if s, err = store.Load(tx, store.Services, store.ServiceKey(s.TenantID, s.DeploymentID, s.ID)); err != nil {
				return fail(err)
			}
			if s.PublicPort, err = p.publicPort(tx, s.ID); err != nil {
				return fail(err)
			}
			s.UpdatedAt = now
			if err := store.Save(tx, store.Services, s); err != nil {
				return fail(err)
			}
		}
		set := p.settings(s.Restart, a)
		p.all[n] = settled(s, set)
		return s, set, nil
	}
	if err := roomForService(p.plan, len(p.all)); err != nil {
		return fail(err)
	}
	id, err := c.s.newID(miosa.PrefixService)
	if err != nil {
		return fail(err)
	}
	s := miosa.Service{
		ID: id, TenantID: p.dep.TenantID, DeploymentID: p.dep.ID, EnvironmentID: p.env.ID, Name: a.Name,
		Type: miosa.ServiceType(a.Type), DesiredReplicas: 1, Sticky: miosa.Sticky{Mode: miosa.StickyNone},
		Restart: miosa.RestartPolicy{Mode: miosa.RestartAlways}, CreatedAt: now, UpdatedAt: now,
	}
	set := p.settings(s.Restart, a)
	s = settled(s, set)
	if raw {
		if s.PublicPort, err = p.publicPort(tx, s.ID); err != nil {
			return fail(err)
		}
	}
	p.all = append(p.all, s)
	return s, set, store.Save(tx, store.Services, s)
}

// settings are what the publish, which was checked, says of a service's own
// record; restart is what that says.
func (p *publication) settings(restart miosa.RestartPolicy, a resource.PublishService) (set miosa.ServiceSettings) {
	var f faults
	if p.in.Reset {
		restart = miosa.RestartPolicy{Mode: miosa.RestartAlways}
		set = miosa.ServiceSettings{
			SetsRegions: true, Sticky: miosa.Sticky{Mode: miosa.StickyNone}, Restart: restart,
			SetsMaxUnavailable: true, SetsStopAfterDisconnect: true, SetsLabels: true, SetsApart: true,
		}
	}
	if a.DesiredReplicas != nil {
		set.SetsReplicas, set.Replicas = true, *a.DesiredReplicas
	}
	if a.Regions != nil {
		set.SetsRegions, set.Regions = true, p.c.regions(&f, "regions", *a.Regions)
	}
	if a.Sticky != nil {
		set.Sticky = f.sticky("sticky", *a.Sticky)
	}
	if a.Restart != nil {
		set.Restart = f.restart("restart", restart, a.Restart)
		set.Restart.Mode = cmp.Or(set.Restart.Mode, miosa.RestartAlways)
	}
	if a.Disruption != nil && a.Disruption.MaxUnavailable != nil {
		set.SetsMaxUnavailable, set.MaxUnavailable = true, f.disruption("disruption", miosa.MaxUnavailable{}, a.Disruption)
	}
	if a.StopAfterDisconnectSeconds != nil {
		set.SetsStopAfterDisconnect, set.StopAfterDisconnect = true, f.stopAfterDisconnect("stop_after_disconnect_seconds", *a.StopAfterDisconnectSeconds)
	}
	if a.Placement != nil && a.Placement.Labels != nil {
		set.SetsLabels, set.Labels = true, *a.Placement.Labels
	}
	if a.Placement != nil && a.Placement.Apart != nil {
		set.SetsApart, set.Apart = true, *a.Placement.Apart
	}
	return set
}

// settled is a service as a version that brings the settings has it.
func settled(s miosa.Service, set miosa.ServiceSettings) miosa.Service {
	return miosa.Version{Services: []miosa.ServiceSpec{{ServiceID: s.ID, Settings: set}}}.Settled(s)
}

// publicPort gives one more service of the version a port.
func (p *publication) publicPort(tx *store.Tx, serviceID string) (int, error) {
	port, err := p.c.txPublicPort(tx, p.plan, serviceID, p.ports)
	p.ports++
	return port, err
}

// publishedVars are the variables that a publish sets, sealed: that is done
// before anything is written.
func (c *call) publishedVars(in resource.Publish) (map[string]miosa.Var, error) {
	if len(in.Variables) == 0 {
		return nil, nil
	}
	dep, err := c.deployment()
	if err != nil {
		return nil, err
	}
	env, err := c.environment(dep, in.Environment)
	if err != nil {
		return nil, err
	}
	values := map[string]*string{}
	for key, value := range in.Variables {
		values[key] = &value
	}
	return c.sealVars(dep, env, values, false)
}

// setVars merges them into those of the environment. A secret is not
// overwritten: who publishes a value has it in a file.
func (p *publication) setVars(tx *store.Tx) error {
	if len(p.vars) == 0 {
		return nil
	}
	vars, err := store.Load(tx, store.VarSets, store.VarsKey(p.dep.TenantID, p.dep.ID, p.env.ID))
	if err != nil && miosa.CodeOf(err) != miosa.NotFound {
		return err
	}
	var f faults
	for _, v := range vars.Vars {
		if _, given := p.vars[v.Key]; given && v.Secret {
			f.add("variables."+v.Key, "is a secret of %s, which a publish does not overwrite: leave it out here, or remove the secret first", p.env.Name)
		}
	}
	if err := f.err(); err != nil {
		return err
	}
	values := map[string]*string{}
	for key, value := range p.in.Variables {
		values[key] = &value
	}
	vars.TenantID, vars.DeploymentID, vars.EnvironmentID = p.dep.TenantID, p.dep.ID, p.env.ID
	touched, err := merge(&vars, values, p.vars, false)
	if err != nil {
		return err
	}
	if err := p.c.saveVars(tx, p.env, vars); err != nil {
		return err
	}
	return p.c.audit(tx, miosa.Event{
		DeploymentID: p.dep.ID, Type: "variables.changed",
		Message: fmt.Sprintf("variables of %s were set with a publish: %s", p.env.Name, summary(touched)),
	})
}

// published shows how far the publish has come.
func (c *call) published(begun miosa.Rollout) (resource.Published, error) {
	dep, err := c.deploymentBy(c.made.Deployment)
	if miosa.CodeOf(err) == miosa.NotFound {
		return resource.Published{}, deletedMeanwhile()
	}
	if err != nil {
		return resource.Published{}, err
	}
	version, err := c.version(dep, c.made.Version)
	if err != nil {
		return resource.Published{}, err
	}
	var release miosa.Release
	if id := cmp.Or(c.made.Release, primary(version).ReleaseID); id != "" {
		if release, err = store.Get(c.r.Context(), c.s.store, store.Releases, store.ReleaseKey(dep.TenantID, dep.ID, id)); err != nil {
			return resource.Published{}, err
		}
	}
	shown, err := c.showDeployment(dep)
	if err != nil {
		return resource.Published{}, err
	}
	services, err := c.serviceViews(c.made.Environment, dep, true)
	if err != nil {
		return resource.Published{}, err
	}
	// As the version has them.
	place := func(s resource.Service) int {
		return slices.IndexFunc(version.Services, func(spec miosa.ServiceSpec) bool { return spec.ServiceID == s.ID })
	}
	services = slices.DeleteFunc(services, func(s resource.Service) bool { return place(s) < 0 })
	slices.SortFunc(services, func(a, b resource.Service) int { return place(a) - place(b) })
	out := resource.Published{
		Deployment: shown, Version: c.s.versionResource(version, release.Manifest),
		Services: services, Rollout: rolloutResource(begun), Promoted: begun.Promote && isLive(begun),
	}
	if release.ID != "" {
		out.Release = new(c.releaseResource(release, version))
	}
	return out, nil
}

// isLive: the rollout's version has taken over.
func isLive(r miosa.Rollout) bool {
	return r.Step == miosa.StepDraining || r.Step == miosa.StepDone
}

// txNoRollout holds when nothing is under way in the environment. A rollout
// that has flipped and only waits for old instances to leave is no obstacle.
func (c *call) txNoRollout(tx *store.Tx, env miosa.Environment) error {
	live, err := c.txLive(tx, env)
	if err != nil || !live.Live() {
		return err
	}
	return &miosa.Error{
		Code: miosa.Conflict, Public: "rollout_in_progress", Passing: true,
		Message: fmt.Sprintf("a %s goes on in %s (%s, %s): wait for its end, or roll back to cancel it", live.Kind, env.Name, live.ID, live.Step),
	}
}

// txLive is the environment's live rollout, the zero one when there is none.
func (c *call) txLive(tx *store.Tx, env miosa.Environment) (miosa.Rollout, error) {
	id, err := tx.Index(store.LiveKey(env.TenantID, env.ID))
	if err != nil || id == "" {
		return miosa.Rollout{}, err
	}
	r, err := store.Load(tx, store.Rollouts, store.RolloutKey(env.TenantID, env.DeploymentID, id))
	if miosa.CodeOf(err) == miosa.NotFound {
		return miosa.Rollout{}, nil
	}
	return r, err
}

// startVersion freezes a version of the environment's variables and begins
// its rollout. The deployment is written too: that is what makes two of these
// at once, whatever the environment, count one after the other.
func (c *call) startVersion(tx *store.Tx, dep *miosa.Deployment, env miosa.Environment, v miosa.Version, kind miosa.RolloutKind, promote bool) (miosa.Version, miosa.Rollout, error) {
	fail := func(err error) (miosa.Version, miosa.Rollout, error) { return miosa.Version{}, miosa.Rollout{}, err }
	vars, err := store.Load(tx, store.VarSets, store.VarsKey(env.TenantID, env.DeploymentID, env.ID))
	if err != nil && miosa.CodeOf(err) != miosa.NotFound {
		return fail(err)
	}
	bootable := 0
	for old, err := range store.List(c.r.Context(), c.s.store, store.Versions, store.VersionsOf(dep.TenantID, dep.ID), store.ScanOptions{}) {
		if err != nil {
			return fail(err)
		}
		v.Number = max(v.Number, old.Number)
		if old.EnvironmentID == env.ID && old.State != miosa.VersionArchived {
			bootable++
		}
	}
	if bootable >= maxBootable {
		return fail(&miosa.Error{Code: miosa.Limited, Public: "too_many_versions", Message: fmt.Sprintf(
			"%s has %d versions that could be booted, which is the limit: all but the newest %d are archived within the hour, try again then", env.Name, bootable, keptVersions)})
	}
	v.Number++
	if v.ID, err = c.s.newID(miosa.PrefixVersion); err != nil {
		return fail(err)
	}
	now := c.s.now().UTC()
	v.TenantID, v.DeploymentID, v.EnvironmentID = dep.TenantID, dep.ID, env.ID
	v.State, v.Vars, v.CreatedBy, v.CreatedAt, v.UpdatedAt = miosa.VersionCreated, vars.Vars, c.key.ID, now, now
	if v.RoutedServiceID == "" {
		v.RoutedServiceID = miosa.RoutedService(v.Services)
	}
	if err := store.Save(tx, store.Versions, v); err != nil {
		return fail(err)
	}
	dep.UpdatedAt = now
	if err := store.Save(tx, store.Deployments, *dep); err != nil {
		return fail(err)
	}
	r, err := c.startRollout(tx, env, v, kind, promote)
	return v, r, err
}

// startRollout writes the wish to make a version live, as rollout.Begin has it;
// control does the rest.
func (c *call) startRollout(tx *store.Tx, env miosa.Environment, v miosa.Version, kind miosa.RolloutKind, promote bool) (miosa.Rollout, error) {
	live, err := c.txLive(tx, env)
	if err != nil {
		return miosa.Rollout{}, err
	}
	id, err := c.s.newID(miosa.PrefixRollout)
	if err != nil {
		return miosa.Rollout{}, err
	}
	r, calledOff := rollout.Begin(c.s.now().UTC(), rollout.Asked{
		ID: id, Kind: kind, Target: v, Promote: promote, Requester: c.key.ID, Traceparent: traceparent(c.r.Header.Get("Traceparent")),
	}, env, live)
	if calledOff != nil {
		if err := store.Save(tx, store.Rollouts, *calledOff); err != nil {
			return miosa.Rollout{}, err
		}
	}
	if err := store.Save(tx, store.Rollouts, r); err != nil {
		return miosa.Rollout{}, err
	}
	tx.SetIndex(store.LiveKey(env.TenantID, env.ID), id, 0)
	return r, nil
}

// traceparent is the header as it may be kept: well-formed, or nothing.
func traceparent(header string) string {
	if !validTraceparent.MatchString(header) {
		return ""
	}
	return header
}

var validTraceparent = regexp.MustCompile(`^[0-9a-e][0-9a-f]-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)

// await follows a rollout from a revision on until it is decided: live, or
// ended without that. ended is false when the time is over first.
func (s *Server) await(ctx context.Context, r miosa.Rollout, revision int64, limit time.Duration) (miosa.Rollout, bool, error) {
	wait, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	key := store.RolloutKey(r.TenantID, r.DeploymentID, r.ID)
	decided := func() bool { return r.Step == miosa.StepDraining || r.Step.Terminal() }
	if decided() {
		return r, true, nil
	}
	for {
		for batch, err := range s.store.Watch(wait, key, revision) {
			if err != nil {
				break // compacted: read it and go on from there
			}
			for _, change := range batch.Changes {
				noun, err := store.Decode(change.Entry)
				if err != nil {
					return r, false, err
				}
				if next, ok := noun.(miosa.Rollout); ok {
					r = next
				}
			}
			if decided() {
				return r, true, nil
			}
		}
		if wait.Err() != nil {
			return r, false, nil
		}
		now, err := s.store.Revision(wait)
		if err == nil {
			var next miosa.Rollout
			if next, err = store.Get(wait, s.store, store.Rollouts, key); err == nil {
				r, revision = next, now
			}
		}
		switch {
		case miosa.CodeOf(err) == miosa.NotFound:
			return r, false, deletedMeanwhile()
		case err != nil && wait.Err() == nil:
			return r, false, err
		case decided():
			return r, true, nil
		}
	}
}
