package schedule_test

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/schedule"
)

// The plain form of Place: it looks at every host, and says each rule once. What
// the fleet answers is compared with it.

// plainHost is one machine with what is on it.
type plainHost struct {
	miosa.Host
	Used   miosa.Resources
	Images map[string]int // image → instances of it here
}

func (h *plainHost) free() miosa.Resources {
	return schedule.Free(schedule.Host{Host: h.Host, Used: h.Used})
}

// query is a request with its peers counted by host.
type query struct {
	schedule.Request
	peers map[string]int
}

// plainFilter turns hosts down for one reason.
type plainFilter struct {
	name string
	ok   func(r *query, h *plainHost) bool
	// why tells the user, given how many hosts the filter turned down.
	why func(r *query, n int) string
}

// plainFilters in the order in which they are applied.
var plainFilters = []plainFilter{
	{"alive",
		func(_ *query, h *plainHost) bool { return h.Liveness == miosa.Alive },
		func(_ *query, n int) string { return hosts(n) + " not answering" }},
	{"starting",
		func(_ *query, h *plainHost) bool { return !h.Failing },
		func(_ *query, n int) string { return hosts(n) + " that could not start anything of late" }},
	{"schedulable",
		func(_ *query, h *plainHost) bool { return h.Schedulable },
		func(_ *query, n int) string { return hosts(n) + " cordoned" }},
	{"region",
		func(r *query, h *plainHost) bool { return len(r.Regions) == 0 || slices.Contains(r.Regions, h.Region) },
		func(r *query, n int) string { return hosts(n) + " not in " + strings.Join(r.Regions, " or ") }},
	{"label",
		func(r *query, h *plainHost) bool {
			for k, v := range r.Labels {
				if have, ok := h.Labels[k]; !ok || have != v {
					return false
				}
			}
			return true
		},
		func(r *query, n int) string {
			var wanted []string
			for _, k := range slices.Sorted(maps.Keys(r.Labels)) {
				wanted = append(wanted, k+"="+r.Labels[k])
			}
			return hosts(n) + " without the label " + strings.Join(wanted, " and ")
		}},
	{"avoid",
		func(r *query, h *plainHost) bool { return !slices.Contains(r.Avoid, h.ID) },
		func(_ *query, n int) string { return hosts(n) + " where it failed before" }},
	{"apart",
		func(r *query, h *plainHost) bool { return !r.Apart || r.peers[h.ID] == 0 },
		func(_ *query, n int) string { return hosts(n) + " with a replica already" }},
	{"gpu",
		func(r *query, h *plainHost) bool { return r.Resources.GPU <= h.free().GPU },
		func(r *query, n int) string { return fmt.Sprintf("%s without %d free GPU", hosts(n), r.Resources.GPU) }},
	{"memory",
		func(r *query, h *plainHost) bool { return r.Resources.MemoryMB <= h.free().MemoryMB },
		func(r *query, n int) string {
			return fmt.Sprintf("%s without %d MB of free memory", hosts(n), r.Resources.MemoryMB)
		}},
	{"cpu",
		func(r *query, h *plainHost) bool { return r.Resources.VCPUs <= h.free().VCPUs },
		func(r *query, n int) string {
			return fmt.Sprintf("%s without %d free vCPU", hosts(n), r.Resources.VCPUs)
		}},
	{"disk",
		func(r *query, h *plainHost) bool { return r.Resources.DiskMB <= h.free().DiskMB },
		func(r *query, n int) string {
			return fmt.Sprintf("%s without %d MB of free disk", hosts(n), r.Resources.DiskMB)
		}},
}

func hosts(n int) string {
	if n == 1 {
		return "1 host"
	}
	return fmt.Sprintf("%d hosts", n)
}

func plain(policy schedule.Policy, r schedule.Request, peers map[string]int, fleet []plainHost) schedule.Answer {
	return plainPlace(policy, &query{r, peers}, fleet)
}

func plainPlace(policy schedule.Policy, r *query, fleet []plainHost) schedule.Answer {
	rejected := make([]int, len(plainFilters))
	zonePeers := map[[2]string]int{}
	var fit []*plainHost
	for i := range fleet {
		h := &fleet[i]
		zonePeers[[2]string{h.Region, h.Zone}] += r.peers[h.ID]
		if f := firstRejection(r, h); f >= 0 {
			rejected[f]++
			continue
		}
		fit = append(fit, h)
	}
	answer := schedule.Answer{Fleet: len(fleet), Candidates: len(fit)}
	for i, n := range rejected {
		if n > 0 {
			answer.TurnedDown = append(answer.TurnedDown, schedule.TurnedDown{Filter: plainFilters[i].name, Hosts: n})
		}
	}
	if len(fit) == 0 {
		answer.Reasons = plainReasons(policy, r, fleet, rejected)
		return answer
	}
	best := slices.MinFunc(fit, func(a, b *plainHost) int {
		return cmp.Or(
			cmp.Compare(zonePeers[[2]string{a.Region, a.Zone}], zonePeers[[2]string{b.Region, b.Zone}]),
			cmp.Compare(r.peers[a.ID], r.peers[b.ID]),
			falseFirst(r.Image == "" || a.Images[r.Image] == 0, r.Image == "" || b.Images[r.Image] == 0),
			falseFirst(slices.Contains(r.Failed, a.ID), slices.Contains(r.Failed, b.ID)),
			cmp.Compare(order(policy, a), order(policy, b)),
			cmp.Compare(a.ID, b.ID),
		)
	})
	answer.HostID, answer.Region, answer.Zone = best.ID, best.Region, best.Zone
	return answer
}

func firstRejection(r *query, h *plainHost) int {
	return slices.IndexFunc(plainFilters, func(f plainFilter) bool { return !f.ok(r, h) })
}

func falseFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// order is what the policy sorts by, the best first: the free memory in
// thousandths, so that hosts of about the same fill compare equal and the tie
// falls to the ID.
func order(policy schedule.Policy, h *plainHost) int {
	if h.Capacity.MemoryMB <= 0 {
		return 0
	}
	share := h.free().MemoryMB * 1000 / h.Capacity.MemoryMB
	if policy == schedule.Pack {
		return share
	}
	return -share
}

func plainReasons(policy schedule.Policy, r *query, fleet []plainHost, rejected []int) []string {
	if len(fleet) == 0 {
		return []string{"no host has joined yet"}
	}
	var reasons []string
	for i, n := range rejected {
		if n > 0 {
			reasons = append(reasons, plainFilters[i].why(r, n))
		}
	}
	if s, ok := nearest(policy, r, fleet); ok {
		reasons = append(reasons, s)
	}
	return reasons
}

// nearest names the region where it would be placed if it could be any, or the
// largest size that would fit now.
func nearest(policy schedule.Policy, r *query, fleet []plainHost) (string, bool) {
	probe := *r
	if len(r.Regions) > 0 {
		probe.Regions = nil
		if a := plainPlace(policy, &probe, fleet); a.HostID != "" {
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
