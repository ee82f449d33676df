// Package schedule matches a request for capacity against the fleet: filters,
// each with a sentence for the user, then a score that keeps replicas apart
// over zones and hosts. It is pure.
package schedule

import (
	"math"

	"github.com/miosa/miosa"
)

// Host is one machine with what is promised on it.
type Host struct {
	miosa.Host
	Used miosa.Resources
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
	Peers     *Peers            // of the same service and version; nil: none
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
func Free(h Host) miosa.Resources {
	free := roomOf(h.Capacity)
	free.cpu = vcpus(free.cpu, h.Overcommit)
	return free.minus(roomOf(h.Used)).resources()
}

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

// Add counts an instance's resources as promised on its host.
func Add(a, b miosa.Resources) miosa.Resources {
	return miosa.Resources{VCPUs: a.VCPUs + b.VCPUs, MemoryMB: a.MemoryMB + b.MemoryMB, DiskMB: a.DiskMB + b.DiskMB, GPU: a.GPU + b.GPU}
}
