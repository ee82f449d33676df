package routing

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/miosa/miosa"
)

// Site is one environment of a deployment, as routing sees it.
type Site struct {
	Hosts      []string // host names: lower case, no port
	Tenant     string
	Deployment string
	Versions   []Served // most wanted first: the first that can answer is served
	Ports      []Port   // of its services that speak raw TCP
	Instances  []miosa.Instance
}

// Served is one version that a site may serve, and the service of it that its
// requests go to.
type Served struct {
	Version string
	// Service is the zero one where the version serves no HTTP: then that is its
	// answer.
	Service miosa.Service
	Spec    miosa.ServiceSpec // of that service in the version
}

// Port is a port of the routers' that leads to a service.
type Port struct {
	Number   int
	Versions []Served // as Site.Versions; each names the service
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
		for _, port := range s.Ports {
			if t.Ports == nil {
				t.Ports = map[int]Pool{}
			}
			of := s
			of.Versions = port.Versions
			p := of.pool()
			if p.Sticky.Mode != miosa.StickyClientIP {
				p.Sticky = miosa.Sticky{} // there is nothing else to tell clients by
			}
			t.Ports[port.Number] = p
		}
	}
	return t
}

func (s Site) pool() Pool {
	p := Pool{TenantID: s.Tenant, DeploymentID: s.Deployment, Drain: miosa.DefaultDrain}
	for i, v := range s.Versions {
		b := s.backends(v)
		answers := len(b) > 0 || v.Service.ID == ""
		if i > 0 && !answers {
			continue
		}
		p.VersionID, p.ServiceID, p.Sticky, p.Backends = v.Version, v.Service.ID, v.Service.Sticky, b
		p.Protocol = v.Spec.Protocol
		p.ResponseTimeout = cmp.Or(v.Spec.ResponseTimeout, miosa.DefaultResponseTimeout)
		if p.Drain = time.Duration(v.Service.DrainSeconds) * time.Second; p.Drain <= 0 {
			p.Drain = miosa.DefaultDrain
		}
		if answers {
			break
		}
	}
	return p
}

func (s Site) backends(v Served) []Backend {
	var out []Backend
	for _, i := range s.Instances {
		if i.VersionID == v.Version && i.ServiceID == v.Service.ID && i.Serving() {
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
	return maps.EqualFunc(a.Ports, b.Ports, Pool.Equal)
}

// Pools yields all pools: of host names, and of ports as ":30001". In no order.
func (t Table) Pools() iter.Seq2[string, Pool] {
	return func(yield func(string, Pool) bool) {
		for host, p := range t.Routes {
			if !yield(host, p) {
				return
			}
		}
		for port, p := range t.Ports {
			if !yield(":"+strconv.Itoa(port), p) {
				return
			}
		}
	}
}
