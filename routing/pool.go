package routing

import "slices"

// Equal reports whether both pools route alike, so that a router can keep
// the one it has.
func (p Pool) Equal(q Pool) bool {
	return p.TenantID == q.TenantID &&
		p.DeploymentID == q.DeploymentID &&
		p.ServiceID == q.ServiceID &&
		p.VersionID == q.VersionID &&
		p.Sticky == q.Sticky &&
		p.Drain == q.Drain &&
		slices.Equal(p.Backends, q.Backends)
}
