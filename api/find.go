package api

import (
	"cmp"
	"context"
	"slices"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/store"
)

// Everything that a handler reads goes through these: they are where a
// tenant ends. What belongs to another tenant, to another workspace than the
// key's, or to a deleted deployment is not there.

// deploymentID turns the path's ID or slug into an ID.
func (c *call) deploymentID(ctx context.Context, ref string) (string, error) {
	if miosa.IDPrefix(ref) == miosa.PrefixDeployment {
		return ref, nil
	}
	// Only a slug may become part of a key.
	if !validLabel(ref, maxSlug) {
		return "", absent("deployment", ref)
	}
	e, err := c.s.store.Get(ctx, store.SlugKey(c.tenant.ID, ref))
	if err != nil {
		return "", err
	}
	if e.Revision == 0 {
		return "", absent("deployment", ref)
	}
	return string(e.Value), nil
}

// deployment is the one the path names.
func (c *call) deployment() (miosa.Deployment, error) {
	return c.deploymentBy(c.r.PathValue("id"))
}

func (c *call) deploymentBy(ref string) (miosa.Deployment, error) {
	ctx := c.r.Context()
	id, err := c.deploymentID(ctx, ref)
	if err != nil {
		return miosa.Deployment{}, err
	}
	dep, err := store.Get(ctx, c.s.store, store.Deployments, store.DeploymentKey(c.tenant.ID, id))
	return c.reach(dep, ref, err)
}

// txDeployment is deployment inside a transaction, so that it rests on what was read.
func (c *call) txDeployment(tx *store.Tx, ref string) (miosa.Deployment, error) {
	id, err := c.deploymentID(c.r.Context(), ref)
	if err != nil {
		return miosa.Deployment{}, err
	}
	dep, err := store.Load(tx, store.Deployments, store.DeploymentKey(c.tenant.ID, id))
	return c.reach(dep, ref, err)
}

func (c *call) reach(dep miosa.Deployment, ref string, err error) (miosa.Deployment, error) {
	if miosa.CodeOf(err) == miosa.NotFound {
		return miosa.Deployment{}, absent("deployment", ref)
	}
	if err != nil {
		return miosa.Deployment{}, err
	}
	if !dep.DeletedAt.IsZero() || !c.sees(dep.Attribution) {
		return miosa.Deployment{}, absent("deployment", ref)
	}
	return dep, nil
}

// txEnvironment is a deployment's environment by name or ID.
func (c *call) txEnvironment(tx *store.Tx, dep miosa.Deployment, name string) (miosa.Environment, error) {
	id := name
	if miosa.IDPrefix(name) != miosa.PrefixEnvironment {
		if !validLabel(name, maxEnvironment) {
			return miosa.Environment{}, absent("environment", name)
		}
		var err error
		if id, err = tx.Index(store.EnvironmentNameKey(dep.TenantID, dep.ID, name)); err != nil {
			return miosa.Environment{}, err
		}
		if id == "" {
			return miosa.Environment{}, absent("environment", name)
		}
	}
	return store.Load(tx, store.Environments, store.EnvironmentKey(dep.TenantID, dep.ID, id))
}

func (c *call) environment(dep miosa.Deployment, name string) (miosa.Environment, error) {
	ctx := c.r.Context()
	id := name
	if miosa.IDPrefix(name) != miosa.PrefixEnvironment {
		if !validLabel(name, maxEnvironment) {
			return miosa.Environment{}, absent("environment", name)
		}
		e, err := c.s.store.Get(ctx, store.EnvironmentNameKey(dep.TenantID, dep.ID, name))
		if err != nil {
			return miosa.Environment{}, err
		}
		if e.Revision == 0 {
			return miosa.Environment{}, absent("environment", name)
		}
		id = string(e.Value)
	}
	return store.Get(ctx, c.s.store, store.Environments, store.EnvironmentKey(dep.TenantID, dep.ID, id))
}

// locate finds what the path names by its ID alone, and its deployment.
func (c *call) locate(name, prefix, noun string) (store.Location, miosa.Deployment, error) {
	id, err := c.pathID(name, prefix, noun)
	if err != nil {
		return store.Location{}, miosa.Deployment{}, err
	}
	return c.locateID(id, noun)
}

func (c *call) locateID(id, noun string) (store.Location, miosa.Deployment, error) {
	ctx := c.r.Context()
	at, err := store.Locate(ctx, c.s.store, id)
	if err != nil && miosa.CodeOf(err) != miosa.NotFound {
		return store.Location{}, miosa.Deployment{}, err
	}
	if err != nil || at.TenantID != c.tenant.ID {
		return store.Location{}, miosa.Deployment{}, absent(noun, id)
	}
	dep, err := store.Get(ctx, c.s.store, store.Deployments, store.DeploymentKey(c.tenant.ID, at.DeploymentID))
	if _, err = c.reach(dep, id, err); miosa.CodeOf(err) == miosa.NotFound {
		err = absent(noun, id)
	}
	return at, dep, err
}

// deployments are the tenant's, by ID; deleted and other workspaces' ones left out.
func (c *call) deployments() (map[string]miosa.Deployment, error) {
	all := map[string]miosa.Deployment{}
	for dep, err := range store.List(c.r.Context(), c.s.store, store.Deployments, store.DeploymentsOf(c.tenant.ID), store.ScanOptions{}) {
		if err != nil {
			return nil, err
		}
		if dep.DeletedAt.IsZero() && c.sees(dep.Attribution) {
			all[dep.ID] = dep
		}
	}
	return all, nil
}

// collect lists a kind, newest first, keeping what passes.
func collect[T any](c *call, k store.Kind[T], prefix string, keep func(T) bool) ([]T, error) {
	var out []T
	for v, err := range store.List(c.r.Context(), c.s.store, k, prefix, store.ScanOptions{Descending: true}) {
		if err != nil {
			return nil, err
		}
		if keep == nil || keep(v) {
			out = append(out, v)
		}
	}
	return out, nil
}

// servicesOf are an environment's services, oldest first, by name among those
// made together.
func (c *call) servicesOf(env miosa.Environment) ([]miosa.Service, error) {
	all, err := collect(c, store.Services, store.ServicesOf(env.TenantID, env.DeploymentID), func(s miosa.Service) bool {
		return s.EnvironmentID == env.ID
	})
	slices.SortFunc(all, func(a, b miosa.Service) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.Name, b.Name))
	})
	return all, err
}

// standing is what is live in an environment, and what is to be.
type standing struct {
	active, target miosa.Version // zero: none
	rollout        string        // the ID of the one that goes on, or ""
}

// names reports whether a service is part of either; the others have left.
func (st standing) names(service string) bool {
	_, live := st.active.Service(service)
	_, wanted := st.target.Service(service)
	return live || wanted
}

// routed is the ID of the service that requests go to: until something is
// live, of what is to be; "" where there are workers only.
func (st standing) routed() string {
	v := st.active
	if v.ID == "" {
		v = st.target
	}
	spec, _ := v.Routed()
	return spec.ServiceID
}

func (c *call) standing(env miosa.Environment) (st standing, err error) {
	version := func(id string) (miosa.Version, error) {
		v, err := c.version(miosa.Deployment{TenantID: env.TenantID, ID: env.DeploymentID}, id)
		if miosa.CodeOf(err) == miosa.NotFound {
			err = nil
		}
		return v, err
	}
	if st.active, err = version(env.ActiveVersionID); err != nil {
		return st, err
	}
	if st.rollout, err = c.liveRollout(env); err != nil || st.rollout == "" {
		return st, err
	}
	r, err := store.Get(c.r.Context(), c.s.store, store.Rollouts, store.RolloutKey(env.TenantID, env.DeploymentID, st.rollout))
	switch {
	case miosa.CodeOf(err) == miosa.NotFound:
		return st, nil
	case err == nil && r.Live():
		st.target, err = version(r.TargetID)
	}
	return st, err
}

// instances of a deployment (all of the tenant's with "") with what their
// agents reported, newest first.
func (c *call) instances(deployment string, keep func(miosa.Instance) bool) ([]miosa.Instance, error) {
	ctx := c.r.Context()
	seen := map[string]miosa.Observation{}
	for o, err := range store.List(ctx, c.s.store, store.Observations, store.ObservationsOf(c.tenant.ID, deployment), store.ScanOptions{}) {
		if err != nil {
			return nil, err
		}
		seen[o.InstanceID] = o
	}
	var out []miosa.Instance
	for i, err := range store.List(ctx, c.s.store, store.Instances, store.InstancesOf(c.tenant.ID, deployment), store.ScanOptions{}) {
		if err != nil {
			return nil, err
		}
		i.Observed = seen[i.ID]
		if keep == nil || keep(i) {
			out = append(out, i)
		}
	}
	slices.SortFunc(out, func(a, b miosa.Instance) int { return cmp.Compare(b.ID, a.ID) })
	return out, nil
}

// instance is one with its agent's report.
func (c *call) instance(at store.Location, id string) (miosa.Instance, error) {
	ctx := c.r.Context()
	i, err := store.Get(ctx, c.s.store, store.Instances, store.InstanceKey(at.TenantID, at.DeploymentID, id))
	if err != nil {
		return miosa.Instance{}, err
	}
	o, err := store.Get(ctx, c.s.store, store.Observations, store.ObservationKey(at.TenantID, at.DeploymentID, id))
	if err != nil && miosa.CodeOf(err) != miosa.NotFound {
		return miosa.Instance{}, err
	}
	i.Observed = o
	return i, nil
}

// version is one of a deployment's; the zero version for "".
func (c *call) version(dep miosa.Deployment, id string) (miosa.Version, error) {
	if id == "" {
		return miosa.Version{}, nil
	}
	return store.Get(c.r.Context(), c.s.store, store.Versions, store.VersionKey(dep.TenantID, dep.ID, id))
}

// plan is the tenant's; the default one where it was never written down.
func (c *call) plan() (miosa.Plan, error) {
	return c.planOf(c.tenant)
}

func (c *call) planOf(t miosa.Tenant) (miosa.Plan, error) {
	p, err := store.Get(c.r.Context(), c.s.store, store.Plans, store.PlanKey(t.Plan))
	if miosa.CodeOf(err) == miosa.NotFound {
		return miosa.DefaultPlan(), nil
	}
	return p, err
}
