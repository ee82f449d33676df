package plan

import (
	"slices"
)

// For is the plan as a tenant may see it: what is theirs, by region. Hosts and
// zones are the operator's matter. sees says which of the tenant's deployments
// count, by ID.
func (p *Plan) For(tenant string, sees func(deployment string) bool) Plan {
	theirs := func(s *Subject) bool {
		ok := s.TenantID == tenant && sees(s.DeploymentID)
		s.Tenant = ""
		return ok
	}
	out := Plan{Revision: p.Revision, What: p.What, Unfinished: p.Unfinished}
	out.Services = only(p.Services, func(s *Service) bool { return theirs(&s.Subject) })
	out.Moves = only(p.Moves, func(m *Move) bool {
		m.From, m.To = Place{Region: m.From.Region}, Place{Region: m.To.Region}
		return theirs(&m.Subject)
	})
	out.Starts = only(p.Starts, func(s *Start) bool {
		s.On = Place{Region: s.On.Region}
		return theirs(&s.Subject)
	})
	out.Ends = only(p.Ends, func(e *End) bool {
		e.On = Place{Region: e.On.Region}
		return theirs(&e.Subject)
	})
	out.NoRoom = only(p.NoRoom, func(n *NoRoom) bool { return theirs(&n.Subject) })
	out.Rollouts = only(p.Rollouts, func(r *Rollout) bool { return theirs(&r.Subject) })
	return out
}

// only are copies of those that pass.
func only[T any](all []T, pass func(*T) bool) []T {
	var out []T
	for _, v := range all {
		if pass(&v) {
			out = append(out, v)
		}
	}
	return slices.Clip(out)
}
