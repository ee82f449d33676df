// Package schedule matches a request for capacity against the fleet: filters,
// each with a sentence for the user, then a score that keeps replicas apart
// over zones and hosts. It is pure.
package schedule

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/miosa/miosa"
)

// Host is one machine with what is promised on it.
type Host struct {
	miosa.Host
	Used   miosa.Resources
	Images map[string]int // image → instances of it here
}

// Policy is which of the hosts that are equally good a cell fills first.
type Policy string

const (
	Spread Policy = "spread" // the one with the largest free share of memory
	Pack   Policy = "pack"   // the one with the smallest that suffices
)

// Request asks for room for one instance.
type Request struct {
	Resources miosa.Resources
	Regions   []string          // empty: any
	Labels    map[string]string // the host must have them all
	Avoid     []string          // hosts not to use
	Apart     bool              // never on a host with a peer
	Peers     map[string]int    // host ID → instances of the same service and version there
	Image     string            // a host that has it already is better; "": any is as good
	Failed    []string          // hosts where this slot failed before: others are better
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
	{"label",
		func(r *Request, h *Host) bool { return labelled(h.Labels, r.Labels) },
		func(r *Request, n int) string {
			var wanted []string
			for _, k := range slices.Sorted(maps.Keys(r.Labels)) {
				wanted = append(wanted, k+"="+r.Labels[k])
			}
			return hosts(n) + " without the label " + strings.Join(wanted, " and ")
		}},
	{"avoid",
		func(r *Request, h *Host) bool { return !slices.Contains(r.Avoid, h.ID) },
		func(_ *Request, n int) string { return hosts(n) + " where it failed before" }},
	{"apart",
		func(r *Request, h *Host) bool { return !r.Apart || r.Peers[h.ID] <= 0 },
		func(_ *Request, n int) string { return hosts(n) + " with a replica already" }},
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

func labelled(labels, wanted map[string]string) bool {
	for k, v := range wanted {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

// Free is what a host still has to promise, less than nothing where it is
// smaller than it was when it was promised. vCPUs are promised Overcommit times
// over: an idle app uses none.
func Free(h Host) miosa.Resources { return free(&h) }

// most is more than any host has, of anything.
const most = 1 << 40

// vcpus is how many vCPUs may be promised on so many. What the product lacks
// for being a float (1.15 × 100 is a little less than 115) is made up for.
func vcpus(capacity int, overcommit float64) int {
	if overcommit <= 0 || math.IsNaN(overcommit) {
		return capacity
	}
	return int(min(float64(capacity)*min(overcommit, most)+1e-6, most))
}

func free(h *Host) miosa.Resources {
	return miosa.Resources{
		VCPUs:    vcpus(h.Capacity.VCPUs, h.Overcommit) - h.Used.VCPUs,
		MemoryMB: h.Capacity.MemoryMB - h.Used.MemoryMB,
		DiskMB:   h.Capacity.DiskMB - h.Used.DiskMB,
		GPU:      h.Capacity.GPU - h.Used.GPU,
	}
}

// Place picks the host for a request. Among those that fit it takes the one
// whose zone has the fewest peers, then the one with the fewest peers itself,
// then one that has the image, then one where the slot did not fail, then by
// policy, then the lowest ID: the answer never depends on the order of fleet.
func Place(policy Policy, r Request, fleet []Host) Answer {
	rejected := make([]int, len(filters))
	zonePeers := map[zone]int{}
	var fit []*Host
	for i := range fleet {
		h := &fleet[i]
		zonePeers[zoneOf(h)] += r.Peers[h.ID]
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
		answer.Reasons = explain(policy, &r, fleet, rejected)
		return answer
	}
	best := slices.MinFunc(fit, func(a, b *Host) int {
		return cmp.Or(
			cmp.Compare(zonePeers[zoneOf(a)], zonePeers[zoneOf(b)]),
			cmp.Compare(r.Peers[a.ID], r.Peers[b.ID]),
			-compareBool(r.Image != "" && a.Images[r.Image] > 0, r.Image != "" && b.Images[r.Image] > 0),
			compareBool(slices.Contains(r.Failed, a.ID), slices.Contains(r.Failed, b.ID)),
			cmp.Compare(order(policy, a), order(policy, b)),
			cmp.Compare(a.ID, b.ID),
		)
	})
	answer.HostID, answer.Region, answer.Zone = best.ID, best.Region, best.Zone
	return answer
}

// zone names one of a region's.
type zone struct{ region, name string }

func zoneOf(h *Host) zone { return zone{h.Region, h.Zone} }

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// order is what the policy sorts by, the best first.
func order(policy Policy, h *Host) int {
	if policy == Pack {
		return memoryShare(h)
	}
	return -memoryShare(h)
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

func explain(policy Policy, r *Request, fleet []Host, rejected []int) []string {
	if len(fleet) == 0 {
		return []string{"no host has joined yet"}
	}
	var reasons []string
	for i, n := range rejected {
		if n > 0 {
			reasons = append(reasons, filters[i].why(r, n))
		}
	}
	if s, ok := nearest(policy, r, fleet); ok {
		reasons = append(reasons, s)
	}
	return reasons
}

// nearest names the region where it would be placed if it could be any, or the
// largest size that would fit now.
func nearest(policy Policy, r *Request, fleet []Host) (string, bool) {
	probe := *r
	if len(r.Regions) > 0 {
		probe.Regions = nil
		if a := Place(policy, probe, fleet); a.HostID != "" {
			return "it would fit in region " + a.Region, true
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
