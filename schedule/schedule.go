// Package schedule matches a request for capacity against the fleet: filters,
// each with a sentence for the user, then a score that spreads replicas over
// hosts and zones. It is pure.
package schedule

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/miosa/miosa"
)

// Host is one machine with what is promised on it.
type Host struct {
	miosa.Host
	Used miosa.Resources
}

// Request asks for room for one instance.
type Request struct {
	Resources miosa.Resources
	Regions   []string       // empty: any
	Avoid     []string       // hosts not to use
	Peers     map[string]int // host ID → instances of the same service and version there
}

// Answer is where the instance goes, or why nowhere.
type Answer struct {
	HostID string // "" when nothing fits
	Region string
	Zone   string
	// Reasons say what each filter turned down, one sentence each, and end
	// with what would fit.
	Reasons []string
	// How it came to that: how many hosts there are, how many fit, and how many
	// each filter turned down, in order.
	Fleet      int
	Candidates int
	TurnedDown []TurnedDown
}

// TurnedDown is how many hosts a filter turned down.
type TurnedDown struct {
	Filter string
	Hosts  int
}

// filter turns hosts down for one reason.
type filter struct {
	name string
	ok   func(r *Request, h *Host) bool
	// why tells the user, given how many hosts the filter turned down.
	why func(r *Request, n int) string
}

// filters in the order in which they are applied: a host counts for the first
// one that turns it down. A new constraint is one entry.
var filters = []filter{
	{"alive",
		func(_ *Request, h *Host) bool { return h.Liveness == miosa.Alive },
		func(_ *Request, n int) string { return hosts(n) + " not answering" }},
	{"schedulable",
		func(_ *Request, h *Host) bool { return h.Schedulable },
		func(_ *Request, n int) string { return hosts(n) + " cordoned" }},
	{"region",
		func(r *Request, h *Host) bool { return len(r.Regions) == 0 || slices.Contains(r.Regions, h.Region) },
		func(r *Request, n int) string { return hosts(n) + " not in " + strings.Join(r.Regions, " or ") }},
	{"avoid",
		func(r *Request, h *Host) bool { return !slices.Contains(r.Avoid, h.ID) },
		func(_ *Request, n int) string { return hosts(n) + " where it failed before" }},
	{"gpu",
		func(r *Request, h *Host) bool { return r.Resources.GPU <= free(h).GPU },
		func(r *Request, n int) string {
			return fmt.Sprintf("%s without %d free GPU", hosts(n), r.Resources.GPU)
		}},
	{"memory",
		func(r *Request, h *Host) bool { return r.Resources.MemoryMB <= free(h).MemoryMB },
		func(r *Request, n int) string {
			return fmt.Sprintf("%s without %d MB of free memory", hosts(n), r.Resources.MemoryMB)
		}},
	{"cpu",
		func(r *Request, h *Host) bool { return r.Resources.VCPUs <= free(h).VCPUs },
		func(r *Request, n int) string {
			return fmt.Sprintf("%s without %d free vCPU", hosts(n), r.Resources.VCPUs)
		}},
	{"disk",
		func(r *Request, h *Host) bool { return r.Resources.DiskMB <= free(h).DiskMB },
		func(r *Request, n int) string {
			return fmt.Sprintf("%s without %d MB of free disk", hosts(n), r.Resources.DiskMB)
		}},
}

func hosts(n int) string {
	if n == 1 {
		return "1 host"
	}
	return fmt.Sprintf("%d hosts", n)
}

// Free is what a host still has to promise. vCPUs are promised Overcommit
// times over: an idle app uses none.
func Free(h Host) miosa.Resources { return free(&h) }

func free(h *Host) miosa.Resources {
	over := h.Overcommit
	if over <= 0 {
		over = 1
	}
	return miosa.Resources{
		VCPUs:    int(float64(h.Capacity.VCPUs)*over) - h.Used.VCPUs,
		MemoryMB: h.Capacity.MemoryMB - h.Used.MemoryMB,
		DiskMB:   h.Capacity.DiskMB - h.Used.DiskMB,
		GPU:      h.Capacity.GPU - h.Used.GPU,
	}
}

// Place picks the host for a request. Among those that fit it takes the one
// with the fewest peers, then the zone with the fewest peers, then the one
// with the largest free share of memory, then the lowest ID: the answer never
// depends on the order of fleet.
func Place(r Request, fleet []Host) Answer {
	rejected := make([]int, len(filters))
	zonePeers := map[string]int{}
	var fit []*Host
	for i := range fleet {
		h := &fleet[i]
		zonePeers[h.Region+"/"+h.Zone] += r.Peers[h.ID]
		if f := firstRejection(&r, h); f >= 0 {
			rejected[f]++
			continue
		}
		fit = append(fit, h)
	}
	answer := Answer{Fleet: len(fleet), Candidates: len(fit)}
	for i, n := range rejected {
		if n > 0 {
			answer.TurnedDown = append(answer.TurnedDown, TurnedDown{filters[i].name, n})
		}
	}
	if len(fit) == 0 {
		answer.Reasons = explain(&r, fleet, rejected)
		return answer
	}
	best := slices.MinFunc(fit, func(a, b *Host) int {
		return cmp.Or(
			cmp.Compare(r.Peers[a.ID], r.Peers[b.ID]),
			cmp.Compare(zonePeers[a.Region+"/"+a.Zone], zonePeers[b.Region+"/"+b.Zone]),
			-cmp.Compare(memoryShare(a), memoryShare(b)),
			cmp.Compare(a.ID, b.ID),
		)
	})
	answer.HostID, answer.Region, answer.Zone = best.ID, best.Region, best.Zone
	return answer
}

func firstRejection(r *Request, h *Host) int {
	return slices.IndexFunc(filters, func(f filter) bool { return !f.ok(r, h) })
}

// memoryShare is the free memory in thousandths, so that hosts of about the
// same fill compare equal and the tie falls to the ID.
func memoryShare(h *Host) int {
	if h.Capacity.MemoryMB <= 0 {
		return 0
	}
	return free(h).MemoryMB * 1000 / h.Capacity.MemoryMB
}

func explain(r *Request, fleet []Host, rejected []int) []string {
	if len(fleet) == 0 {
		return []string{"no host has joined yet"}
	}
	var reasons []string
	for i, n := range rejected {
		if n > 0 {
			reasons = append(reasons, filters[i].why(r, n))
		}
	}
	if s, ok := nearest(r, fleet); ok {
		reasons = append(reasons, s)
	}
	return reasons
}

// nearest names the largest size that would fit now, or the region that has room.
func nearest(r *Request, fleet []Host) (string, bool) {
	probe := *r
	if len(r.Regions) > 0 {
		probe.Regions = nil
		for i := range fleet {
			if firstRejection(&probe, &fleet[i]) < 0 {
				return "it would fit in region " + fleet[i].Region, true
			}
		}
		probe.Regions = r.Regions
	}
	sizes := miosa.Sizes()
	for i := len(sizes) - 1; i >= 0; i-- {
		probe.Resources = sizes[i].Resources
		probe.Resources.GPU = r.Resources.GPU
		if probe.Resources.MemoryMB >= r.Resources.MemoryMB && probe.Resources.VCPUs >= r.Resources.VCPUs {
			continue
		}
		for j := range fleet {
			if firstRejection(&probe, &fleet[j]) < 0 {
				return "size " + sizes[i].Slug + " would fit", true
			}
		}
	}
	return "", false
}

// Add counts an instance's resources as promised on its host.
func Add(a, b miosa.Resources) miosa.Resources {
	return miosa.Resources{VCPUs: a.VCPUs + b.VCPUs, MemoryMB: a.MemoryMB + b.MemoryMB, DiskMB: a.DiskMB + b.DiskMB, GPU: a.GPU + b.GPU}
}
