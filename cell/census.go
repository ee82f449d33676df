package cell

import "github.com/miosa/miosa"

// Census is how many there are of what.
type Census struct {
	Instances    map[miosa.InstanceState]int // that have not ended
	LiveRollouts int
	Deployments  []Named // that are not being deleted
}

// Named is a deployment with the names that belong to its IDs.
type Named struct{ Tenant, Deployment, TenantSlug, Slug string }

// Census counts what the machine knows.
func (m *Machine) Census() Census {
	c := Census{Instances: map[miosa.InstanceState]int{}, LiveRollouts: m.w.live}
	for _, s := range []miosa.InstanceState{miosa.Pending, miosa.Starting, miosa.Healthy, miosa.Unhealthy, miosa.Stopping} {
		c.Instances[s] = m.w.states[s]
	}
	for _, d := range m.w.deployments {
		if d.ID != "" && d.DeletedAt.IsZero() {
			c.Deployments = append(c.Deployments, Named{d.TenantID, d.ID, m.w.tenants[d.TenantID].Slug, d.Slug})
		}
	}
	return c
}
