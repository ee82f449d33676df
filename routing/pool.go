package routing

import "slices"

// Equal reports whether both pools route alike, so that a router can keep
// the one it has.
func (p Pool) Equal(q Pool) bool {
	return p.TenantID == q.TenantID &&
		p.DeploymentID == q.DeploymentID &&
		p.ServiceID == q.ServiceID &&
		p.VersionID == q.VersionID &&
		p.Protocol == q.Protocol &&
		p.Sticky == q.Sticky &&
		p.Drain == q.Drain &&
		p.ResponseTimeout == q.ResponseTimeout &&
		slices.Equal(p.Backends, q.Backends)
}

// Answers reports whether requests have somebody to go to: a backend, or the
// word that the version serves no HTTP.
func (p Pool) Answers() bool { return len(p.Backends) > 0 || p.Workers() }

// Workers reports whether the pool's version has workers only.
func (p Pool) Workers() bool { return p.VersionID != "" && p.ServiceID == "" }
