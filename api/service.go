package api

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/store"
)

// serviceViews are the services of one environment of a deployment, or of
// all with "". Without left, those that no live or wanted version names are
// not among them.
func (c *call) serviceViews(environment string, dep miosa.Deployment, left bool) ([]resource.Service, error) {
	var envs []miosa.Environment
	if environment != "" {
		env, err := c.environment(dep, environment)
		if err != nil {
			return nil, err
		}
		envs = append(envs, env)
	} else {
		var err error
		if envs, err = collect(c, store.Environments, store.EnvironmentsOf(dep.TenantID, dep.ID), nil); err != nil {
			return nil, err
		}
		slices.Reverse(envs)
	}
	instances, err := c.instances(dep.ID, func(i miosa.Instance) bool { return !i.Once() })
	if err != nil {
		return nil, err
	}
	out := []resource.Service{}
	for _, env := range envs {
		st, err := c.standing(env)
		if err != nil {
			return nil, err
		}
		services, err := c.servicesOf(env)
		if err != nil {
			return nil, err
		}
		for _, s := range services {
			if _, live := st.active.Service(s.ID); !live {
				s = st.target.Settled(s)
			}
			if left || st.names(s.ID) {
				out = append(out, serviceView(s, st, instances, c.hostOf(dep, env)))
			}
		}
	}
	return out, nil
}

func (s *Server) listServices(c *call) (rows[resource.Service], error) {
	dep, err := c.deployment()
	if err != nil {
		return rows[resource.Service]{}, err
	}
	f := c.filter()
	if !(filter{project: f.project, workspace: f.workspace, user: f.user, extProject: f.extProject}).passes("", dep.ProjectID, dep.Attribution) {
		return rows[resource.Service]{}, nil
	}
	views, err := c.serviceViews(c.r.URL.Query().Get("environment"), dep, isTrue(c.r.URL.Query().Get("all")))
	if err != nil {
		return rows[resource.Service]{}, err
	}
	views = slices.DeleteFunc(views, func(v resource.Service) bool { return !f.stateIs(v.State) })
	// IDs minted within one millisecond have no order; names do.
	key := func(v resource.Service) string {
		return fmt.Sprintf("%020d:%s:%s", v.CreatedAt.UnixNano(), v.Name, v.ID)
	}
	slices.SortFunc(views, func(a, b resource.Service) int { return strings.Compare(key(a), key(b)) })
	return rowsOf(views, true, key, func(v resource.Service) (resource.Service, error) {
		return v, nil
	}), nil
}

func (s *Server) getService(c *call, _ none) (resource.Service, error) {
	at, dep, err := c.locate("id", miosa.PrefixService, "service")
	if err != nil {
		return resource.Service{}, err
	}
	return c.showService(at, dep)
}

func (c *call) showService(at store.Location, dep miosa.Deployment) (resource.Service, error) {
	ctx := c.r.Context()
	service, err := store.Get(ctx, c.s.store, store.Services, at.Key)
	if err != nil {
		return resource.Service{}, err
	}
	env, err := store.Get(ctx, c.s.store, store.Environments, store.EnvironmentKey(dep.TenantID, dep.ID, service.EnvironmentID))
	if err != nil {
		return resource.Service{}, err
	}
	st, err := c.standing(env)
	if err != nil {
		return resource.Service{}, err
	}
	instances, err := c.instances(dep.ID, func(i miosa.Instance) bool { return i.ServiceID == service.ID })
	if err != nil {
		return resource.Service{}, err
	}
	c.etag = service.Revision
	return serviceView(service, st, instances, c.hostOf(dep, env)), nil
}

// serviceChange is what one request wants of a service.
type serviceChange struct {
	patch   resource.ServicePatch
	size    *miosa.Size // of a resize
	restart bool        // a new version even if nothing frozen changes
	event   string      // its type
	message string      // with one %s, the service's name
}

// frozen reports whether a new version is needed.
func (s serviceChange) frozen() bool {
	p := s.patch
	return s.restart || s.size != nil || p.RunCommand != nil || p.Port != nil || p.SpokenPatch != (resource.SpokenPatch{}) || p.HealthCheck != nil || p.Resources != nil
}

// unfrozen reports whether the service's own record changes.
func (s serviceChange) unfrozen() bool {
	p := s.patch
	return p.DesiredReplicas != nil || p.Regions != nil || p.Sticky != nil || p.Restart != nil || p.Disruption != nil ||
		p.StopAfterDisconnectSeconds != nil || p.Placement != nil || p.Logs != nil || p.Metadata != nil
}

func (s *Server) patchService(c *call, in resource.ServicePatch) (resource.Service, error) {
	at, _, err := c.locate("id", miosa.PrefixService, "service")
	if err != nil {
		return resource.Service{}, err
	}
	return c.changeService(at, serviceChange{patch: in, event: "service.changed", message: "service %s was changed"})
}

func (s *Server) restartService(c *call, _ none) (resource.Service, error) {
	at, _, err := c.locate("id", miosa.PrefixService, "service")
	if err != nil {
		return resource.Service{}, err
	}
	return c.changeService(at, serviceChange{restart: true, event: "restart.requested", message: "a rolling restart of service %s was asked for"})
}

func (s *Server) scaleDeployment(c *call, in resource.Scale) (resource.Deployment, error) {
	if in.Instances == nil {
		return resource.Deployment{}, invalidField("instances", "is needed: how many there are to be")
	}
	return c.changeNamed(in.Environment, in.Service, serviceChange{
		patch: resource.ServicePatch{DesiredReplicas: in.Instances},
		event: "service.scaled", message: fmt.Sprintf("service %%s was scaled to %d", *in.Instances),
	})
}

func (s *Server) resizeDeployment(c *call, in resource.Resize) (resource.Deployment, error) {
	var slugs []string
	for _, size := range miosa.Sizes() {
		if size.Slug == in.Size {
			return c.changeNamed(in.Environment, in.Service, serviceChange{
				size: &size, event: "service.resized", message: fmt.Sprintf("service %%s was resized to %s", size.Slug),
			})
		}
		slugs = append(slugs, size.Slug)
	}
	return resource.Deployment{}, invalidField("size", "must be one of "+strings.Join(slugs, ", "))
}

// changeNamed changes the service of a deployment that the body names.
func (c *call) changeNamed(environment, name string, change serviceChange) (resource.Deployment, error) {
	at, _, err := c.named(environment, name)
	if err != nil {
		return resource.Deployment{}, err
	}
	change.patch.Metadata = nil
	if _, err := c.changeService(at, change); err != nil {
		return resource.Deployment{}, err
	}
	return c.showMade()
}

// named is the service of the path's deployment that a body names.
func (c *call) named(environment, name string) (store.Location, miosa.Service, error) {
	fail := func(err error) (store.Location, miosa.Service, error) {
		return store.Location{}, miosa.Service{}, err
	}
	dep, err := c.deployment()
	if err != nil {
		return fail(err)
	}
	env, err := c.environment(dep, cmp.Or(environment, miosa.Production))
	if err != nil {
		return fail(err)
	}
	st, err := c.standing(env)
	if err != nil {
		return fail(err)
	}
	services, err := c.servicesOf(env)
	if err != nil {
		return fail(err)
	}
	service, err := pick(services, st, name)
	if err != nil {
		return fail(err)
	}
	return store.Location{TenantID: dep.TenantID, DeploymentID: dep.ID, Key: store.ServiceKey(dep.TenantID, dep.ID, service.ID)}, service, nil
}

// pick finds a service by name or ID, of those that are live or to be; without
// one, that which requests go to, or the only one.
func pick(services []miosa.Service, st standing, name string) (miosa.Service, error) {
	services = slices.DeleteFunc(services, func(s miosa.Service) bool { return !st.names(s.ID) })
	if len(services) == 0 {
		return miosa.Service{}, conflict("nothing_published", "nothing was published yet, so there is no service: publish first")
	}
	var found []miosa.Service
	for _, s := range services {
		if name == "" && s.ID == st.routed() || name != "" && (s.Name == name || s.ID == name) {
			found = append(found, s)
		}
	}
	switch {
	case len(found) > 0:
		// What is to be may have another one of a name.
		if n := slices.IndexFunc(found, func(s miosa.Service) bool { _, live := st.active.Service(s.ID); return live }); n > 0 {
			return found[n], nil
		}
		return found[0], nil
	case name != "":
		return miosa.Service{}, absent("service", name)
	case len(services) == 1:
		return services[0], nil
	}
	return miosa.Service{}, invalidField("service", "is needed: requests go to none of the services")
}

// txNames holds when a service is part of what is live in its environment, or
// is to be: one that has left is not there for who wants to change it.
func (c *call) txNames(tx *store.Tx, dep miosa.Deployment, env miosa.Environment, service string) error {
	live, err := c.txLive(tx, env)
	if err != nil {
		return err
	}
	ids := []string{env.ActiveVersionID}
	if live.Live() {
		ids = append(ids, live.TargetID)
	}
	for _, id := range ids {
		v, err := c.version(dep, id) // its services never change
		if err != nil && miosa.CodeOf(err) != miosa.NotFound {
			return err
		}
		if _, ok := v.Service(service); ok {
			return nil
		}
	}
	return absent("service", service)
}

// changeService writes the change. What a version freezes makes a new version
// of the same release and rolls it out; the rest is the service's own record.
func (c *call) changeService(at store.Location, change serviceChange) (resource.Service, error) {
	wait, err := c.patience(false)
	if err != nil {
		return resource.Service{}, err
	}
	plan, err := c.plan()
	if err != nil {
		return resource.Service{}, err
	}
	err = c.updateRoom(func(tx *store.Tx) error { return c.txChange(tx, at, change, plan) })
	if err != nil {
		return resource.Service{}, err
	}
	if c.made.Rollout != "" && wait > 0 {
		begun, ended, err := c.awaitMade(wait)
		if err != nil {
			return resource.Service{}, err
		}
		if ended && !isLive(begun) {
			return resource.Service{}, conflict("rollout_"+string(begun.Step), "the change did not go live: "+begun.Reason)
		}
		if ended && c.status == http.StatusAccepted {
			c.status = http.StatusOK
		}
	}
	dep, err := c.deploymentBy(c.made.Deployment)
	if err != nil {
		return resource.Service{}, err
	}
	view, err := c.showService(at, dep)
	if c.made.Rollout != "" {
		// Also when it is over already: it is how the caller learns the end.
		view.RolloutID = str(c.made.Rollout)
	}
	return view, err
}

// txChange writes a change of a service.
func (c *call) txChange(tx *store.Tx, at store.Location, change serviceChange, plan miosa.Plan) error {
	dep, err := c.txDeployment(tx, at.DeploymentID)
	if err != nil {
		return err
	}
	service, err := store.Load(tx, store.Services, at.Key)
	if err != nil {
		return err
	}
	// Under /deployments the caller knows the deployment's ETag, not this one's.
	if strings.HasPrefix(c.route.Pattern, "/services/") {
		err = c.match(service.Revision)
	} else {
		err = c.txMatchDeployment(tx, dep)
	}
	if err != nil {
		return err
	}
	env, err := store.Load(tx, store.Environments, store.EnvironmentKey(dep.TenantID, dep.ID, service.EnvironmentID))
	if err != nil {
		return err
	}
	if err := c.txNames(tx, dep, env, service.ID); err != nil {
		return err
	}
	if change.unfrozen() {
		if service, err = c.txService(tx, service, change.patch, plan); err != nil {
			return err
		}
		if err := c.txOverrule(tx, env, service.ID, change.patch); err != nil {
			return err
		}
	}
	var begun miosa.Rollout
	if change.frozen() {
		if begun, err = c.txRefreeze(tx, &dep, env, service, change, plan); err != nil {
			return err
		}
	}
	c.made = made{Deployment: dep.ID, Rollout: begun.ID}
	return c.audit(tx, miosa.Event{
		DeploymentID: dep.ID, ServiceID: service.ID, VersionID: begun.TargetID, RolloutID: begun.ID,
		Type: change.event, Message: fmt.Sprintf(change.message, service.Name),
	})
}

// txService writes what a service may change without a version.
func (c *call) txService(tx *store.Tx, s miosa.Service, p resource.ServicePatch, plan miosa.Plan) (miosa.Service, error) {
	var f faults
	if p.DesiredReplicas != nil {
		f.between("desired_replicas", p.DesiredReplicas, 0, maxReplicas)
		s.DesiredReplicas = *p.DesiredReplicas
	}
	if p.Regions != nil {
		s.Regions = c.regions(&f, "regions", *p.Regions)
	}
	if p.Sticky != nil {
		s.Sticky = f.sticky("sticky", *p.Sticky)
	}
	s.Restart = f.restart("restart", s.Restart, p.Restart)
	s.MaxUnavailable = f.disruption("disruption", s.MaxUnavailable, p.Disruption)
	if p.StopAfterDisconnectSeconds != nil {
		s.StopAfterDisconnect = f.stopAfterDisconnect("stop_after_disconnect_seconds", *p.StopAfterDisconnectSeconds)
	}
	if p.Placement != nil {
		if p.Placement.Labels != nil {
			s.Labels = f.labels("placement.labels", *p.Placement.Labels)
		}
		if p.Placement.Apart != nil {
			s.Apart = *p.Placement.Apart
		}
	}
	s.Logs = f.logLimit("logs", s.Logs, p.Logs)
	f.metadata("metadata", p.Metadata)
	if p.Metadata != nil {
		s.Metadata = p.Metadata
	}
	if err := f.err(); err != nil {
		return s, err
	}
	if p.Logs != nil {
		if err := fitsLogs(plan, s.Name, s.Logs); err != nil {
			return s, err
		}
	}
	if p.DesiredReplicas != nil {
		if err := c.room(tx, plan, miosa.Environment{}, []miosa.Service{s}); err != nil {
			return s, err
		}
	}
	s.UpdatedAt = c.s.now().UTC()
	return s, store.Save(tx, store.Services, s)
}

// txOverrule takes from the version that is being rolled out what it brings of a
// service and the patch says otherwise: who speaks last is right.
func (c *call) txOverrule(tx *store.Tx, env miosa.Environment, service string, p resource.ServicePatch) error {
	if p.DesiredReplicas == nil && p.Regions == nil && p.Sticky == nil && p.Restart == nil &&
		p.Disruption == nil && p.StopAfterDisconnectSeconds == nil && p.Placement == nil {
		return nil
	}
	live, err := c.txLive(tx, env)
	if err != nil || !live.Live() {
		return err
	}
	v, err := store.Load(tx, store.Versions, store.VersionKey(env.TenantID, env.DeploymentID, live.TargetID))
	if err != nil {
		return err
	}
	n := slices.IndexFunc(v.Services, func(spec miosa.ServiceSpec) bool { return spec.ServiceID == service })
	if n < 0 || !v.PromotedAt.IsZero() {
		return nil
	}
	v.Services = slices.Clone(v.Services)
	set := &v.Services[n].Settings
	if p.DesiredReplicas != nil {
		set.SetsReplicas, set.Replicas = false, 0
	}
	if p.Regions != nil {
		set.SetsRegions, set.Regions = false, nil
	}
	if p.Sticky != nil {
		set.Sticky = miosa.Sticky{}
	}
	if p.Restart != nil {
		set.Restart = miosa.RestartPolicy{}
	}
	if p.Disruption != nil && p.Disruption.MaxUnavailable != nil {
		set.SetsMaxUnavailable, set.MaxUnavailable = false, miosa.MaxUnavailable{}
	}
	if p.StopAfterDisconnectSeconds != nil {
		set.SetsStopAfterDisconnect, set.StopAfterDisconnect = false, 0
	}
	if p.Placement != nil && p.Placement.Labels != nil {
		set.SetsLabels, set.Labels = false, nil
	}
	if p.Placement != nil && p.Placement.Apart != nil {
		set.SetsApart, set.Apart = false, false
	}
	v.UpdatedAt = c.s.now().UTC()
	return store.Save(tx, store.Versions, v)
}

func (c *call) regions(f *faults, field string, slugs []string) []string {
	var known []string
	for _, r := range c.s.cfg.Regions {
		known = append(known, r.Slug)
	}
	out := []string{}
	for n, slug := range slugs {
		if !slices.Contains(known, slug) {
			f.add(fmt.Sprintf("%s[%d]", field, n), "must be one of %s", strings.Join(known, ", "))
		} else if !slices.Contains(out, slug) {
			out = append(out, slug)
		}
	}
	return out
}

// txRefreeze makes a version like the active one but for one service, and rolls it out.
func (c *call) txRefreeze(tx *store.Tx, dep *miosa.Deployment, env miosa.Environment, s miosa.Service, change serviceChange, plan miosa.Plan) (miosa.Rollout, error) {
	if env.ActiveVersionID == "" {
		return miosa.Rollout{}, &miosa.Error{Code: miosa.Conflict, Public: "nothing_published", Passing: true, Message: fmt.Sprintf(
			"nothing is live in %s yet: command, port, health check and size belong to a version, give them with the publish", env.Name)}
	}
	if err := c.txNoRollout(tx, env); err != nil {
		return miosa.Rollout{}, err
	}
	active, err := store.Load(tx, store.Versions, store.VersionKey(dep.TenantID, dep.ID, env.ActiveVersionID))
	if err != nil {
		return miosa.Rollout{}, err
	}
	specs := slices.Clone(active.Services)
	for n := range specs {
		specs[n].Settings = miosa.ServiceSettings{} // they are the services' own by now
	}
	n := slices.IndexFunc(specs, func(spec miosa.ServiceSpec) bool { return spec.ServiceID == s.ID })
	if n < 0 {
		return miosa.Rollout{}, conflict("service_not_live", fmt.Sprintf("service %s is no part of the live version: publish it", s.Name))
	}
	if err := change.freeze(&specs[n]); err != nil {
		return miosa.Rollout{}, err
	}
	if err := fits(plan, s.Name, specs[n].Resources); err != nil {
		return miosa.Rollout{}, err
	}
	if specs[n].Protocol == miosa.ProtocolTCP && s.PublicPort == 0 {
		if s.PublicPort, err = c.txPublicPort(tx, plan, s.ID, 0); err != nil {
			return miosa.Rollout{}, err
		}
		s.UpdatedAt = c.s.now().UTC()
		if err := store.Save(tx, store.Services, s); err != nil {
			return miosa.Rollout{}, err
		}
	}
	if err := c.room(tx, plan, env, []miosa.Service{s}); err != nil {
		return miosa.Rollout{}, err
	}
	_, begun, err := c.startVersion(tx, dep, env, miosa.Version{
		Kind: active.Kind, Services: specs, RoutedServiceID: active.RoutedServiceID, Image: active.Image, Attribution: active.Attribution, Metadata: active.Metadata,
	}, miosa.RolloutRestart, true)
	return begun, err
}

// freeze applies the change to a version's spec.
func (s serviceChange) freeze(spec *miosa.ServiceSpec) error {
	var f faults
	p := s.patch
	if p.RunCommand != nil {
		f.command("run_command", *p.RunCommand)
		spec.Command = *p.RunCommand
	}
	if p.Port != nil {
		f.port("port", p.Port)
		if spec.Type == miosa.ServiceWorker {
			f.add("port", "a worker has none")
		}
		spec.Port = *p.Port
	}
	f.spoken("", spec, p.SpokenPatch)
	spec.Health = f.health("health_check", spec.Health, p.HealthCheck)
	if p.HealthCheck != nil {
		f.suits("", *spec)
	}
	spec.Resources = f.resources("resources", spec.Resources, p.Resources)
	if s.size != nil {
		gpu, egress := spec.Resources.GPU, spec.Resources.EgressMbps
		spec.Resources = s.size.Resources
		spec.Resources.GPU, spec.Resources.EgressMbps = gpu, egress
	}
	return f.err()
}
