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
	c := Census{Instances: map[miosa.InstanceState]int{
		miosa.Pending: 0, miosa.Starting: 0, miosa.Healthy: 0, miosa.Unhealthy: 0, miosa.Stopping: 0,
	}}
	for _, i := range m.w.instances {
		if s := i.State(); !s.Terminal() {
			c.Instances[s]++
		}
	}
	for _, r := range m.w.rollouts {
		if r.Live() {
			c.LiveRollouts++
		}
	}
	for _, d := range m.w.deployments {
		if d.DeletedAt.IsZero() {
			c.Deployments = append(c.Deployments, Named{d.TenantID, d.ID, m.w.tenants[d.TenantID].Slug, d.Slug})
		}
	}
	return c
}
