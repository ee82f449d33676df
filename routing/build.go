package routing

import (
	"cmp"
	"slices"
	"time"

	"github.com/miosa/miosa"
)

// Site is one environment of a deployment, as routing sees it.
type Site struct {
	Hosts     []string // host names: lower case, no port
	Service   miosa.Service
	Tenant    string
	Versions  []string // to serve, most wanted first: the first with a serving instance is served
	Instances []miosa.Instance
}

// Build makes the table of all sites. It is the only place that decides who
// gets traffic: instances that are healthy and meant to run.
func Build(generation int64, sites []Site) Table {
	t := Table{Generation: generation, Routes: make(map[string]Pool, len(sites))}
	for _, s := range sites {
		p := s.pool()
		for _, h := range s.Hosts {
			t.Routes[h] = p
		}
	}
	return t
}

func (s Site) pool() Pool {
	drain := time.Duration(s.Service.DrainSeconds) * time.Second
	if drain <= 0 {
		drain = miosa.DefaultDrain
	}
	p := Pool{
		TenantID: s.Tenant, DeploymentID: s.Service.DeploymentID, ServiceID: s.Service.ID,
		Sticky: s.Service.Sticky, Drain: drain,
	}
	for i, v := range s.Versions {
		if i == 0 {
			p.VersionID = v
		}
		if b := s.backends(v); len(b) > 0 {
			p.VersionID, p.Backends = v, b
			break
		}
	}
	return p
}

func (s Site) backends(version string) []Backend {
	var out []Backend
	for _, i := range s.Instances {
		if i.VersionID == version && i.ServiceID == s.Service.ID && i.Serving() {
			out = append(out, Backend{InstanceID: i.ID, Address: i.Observed.Addr})
		}
	}
	slices.SortFunc(out, func(a, b Backend) int { return cmp.Compare(a.InstanceID, b.InstanceID) })
	return out
}

// SameRoutes reports whether two tables route alike, generations aside.
func SameRoutes(a, b Table) bool {
	if len(a.Routes) != len(b.Routes) {
		return false
	}
	for h, p := range a.Routes {
		q, ok := b.Routes[h]
		if !ok || !p.Equal(q) {
			return false
		}
	}
	return true
}
