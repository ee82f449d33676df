package api

import (
	"slices"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/store"
)

func (s *Server) listVersions(c *call) (rows[resource.Version], error) {
	dep, err := c.deployment()
	if err != nil {
		return rows[resource.Version]{}, err
	}
	f := c.filter()
	inEnvironment := func(miosa.Version) bool { return true }
	if name := c.r.URL.Query().Get("environment"); name != "" {
		env, err := c.environment(dep, name)
		if err != nil {
			return rows[resource.Version]{}, err
		}
		inEnvironment = func(v miosa.Version) bool { return v.EnvironmentID == env.ID }
	}
	found, err := collect(c, store.Versions, store.VersionsOf(dep.TenantID, dep.ID), func(v miosa.Version) bool {
		return inEnvironment(v) && f.passes(string(v.State), dep.ProjectID, v.Attribution)
	})
	return newest(found, func(v miosa.Version) string { return v.ID }, c.showVersion), err
}

// showVersion is a version with its release's figures.
func (c *call) showVersion(v miosa.Version) (resource.Version, error) {
	release, err := store.Get(c.r.Context(), c.s.store, store.Releases, store.ReleaseKey(v.TenantID, v.DeploymentID, primary(v).ReleaseID))
	if err != nil && miosa.CodeOf(err) != miosa.NotFound {
		return resource.Version{}, err
	}
	return c.s.versionResource(v, release.Manifest), nil
}

func (s *Server) getVersion(c *call, _ none) (resource.Version, error) {
	dep, err := c.deployment()
	if err != nil {
		return resource.Version{}, err
	}
	id, err := c.pathID("version_id", miosa.PrefixVersion, "version")
	if err != nil {
		return resource.Version{}, err
	}
	v, err := c.version(dep, id)
	if err != nil {
		return resource.Version{}, err
	}
	c.etag = v.Revision
	return c.showVersion(v)
}

// newestOf are the newest versions made of each release of a deployment.
func (c *call) newestOf(dep miosa.Deployment) (map[string]miosa.Version, error) {
	newest := map[string]miosa.Version{}
	versions, err := collect(c, store.Versions, store.VersionsOf(dep.TenantID, dep.ID), nil)
	for _, v := range slices.Backward(versions) {
		for _, spec := range v.Services {
			newest[spec.ReleaseID] = v
		}
	}
	return newest, err
}

func (s *Server) listReleases(c *call) (rows[resource.Release], error) {
	dep, err := c.deployment()
	if err != nil {
		return rows[resource.Release]{}, err
	}
	f := c.filter()
	found, err := collect(c, store.Releases, store.ReleasesOf(dep.TenantID, dep.ID), func(r miosa.Release) bool {
		return f.passes(string(r.State), dep.ProjectID, r.Attribution)
	})
	if err != nil {
		return rows[resource.Release]{}, err
	}
	made, err := c.newestOf(dep)
	return newest(found, func(r miosa.Release) string { return r.ID }, func(r miosa.Release) (resource.Release, error) {
		return c.releaseResource(r, made[r.ID]), nil
	}), err
}

func (s *Server) getRelease(c *call, _ none) (resource.Release, error) {
	dep, err := c.deployment()
	if err != nil {
		return resource.Release{}, err
	}
	id, err := c.pathID("release_id", miosa.PrefixRelease, "release")
	if err != nil {
		return resource.Release{}, err
	}
	r, err := store.Get(c.r.Context(), s.store, store.Releases, store.ReleaseKey(dep.TenantID, dep.ID, id))
	if err != nil {
		return resource.Release{}, err
	}
	made, err := c.newestOf(dep)
	c.etag = r.Revision
	return c.releaseResource(r, made[r.ID]), err
}

func (s *Server) listRollouts(c *call) (rows[resource.Rollout], error) {
	dep, err := c.deployment()
	if err != nil {
		return rows[resource.Rollout]{}, err
	}
	f := c.filter()
	found, err := collect(c, store.Rollouts, store.RolloutsOf(dep.TenantID, dep.ID), func(r miosa.Rollout) bool {
		return f.stateIs(string(r.Step))
	})
	return newest(found, func(r miosa.Rollout) string { return r.ID }, func(r miosa.Rollout) (resource.Rollout, error) {
		return rolloutResource(r), nil
	}), err
}

func (s *Server) getRollout(c *call, _ none) (resource.Rollout, error) {
	at, _, err := c.locate("rollout_id", miosa.PrefixRollout, "rollout")
	if err != nil {
		return resource.Rollout{}, err
	}
	wait, err := c.patience(false)
	if err != nil {
		return resource.Rollout{}, err
	}
	r, err := store.Get(c.r.Context(), s.store, store.Rollouts, at.Key)
	if err != nil {
		return resource.Rollout{}, err
	}
	if wait > 0 && r.Step != miosa.StepDraining && !r.Step.Terminal() {
		if r, _, err = s.await(c.r.Context(), r, r.Revision, wait); err != nil {
			return resource.Rollout{}, err
		}
	}
	c.etag = r.Revision
	return rolloutResource(r), nil
}
