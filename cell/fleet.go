package cell

import (
	"slices"
	"strings"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/schedule"
)

// fleet is the hosts with what is promised on them.
type fleet struct {
	hosts []schedule.Host            // in order of ID
	used  map[string]miosa.Resources // by host ID, also of hosts that have not come yet
}

func newFleet() *fleet { return &fleet{used: map[string]miosa.Resources{}} }

func (f *fleet) find(id string) (int, bool) {
	return slices.BinarySearchFunc(f.hosts, id, func(h schedule.Host, id string) int { return strings.Compare(h.ID, id) })
}

func (f *fleet) put(h miosa.Host) {
	next := schedule.Host{Host: h, Used: f.used[h.ID]}
	if n, ok := f.find(h.ID); ok {
		f.hosts[n] = next
	} else {
		f.hosts = slices.Insert(f.hosts, n, next)
	}
}

func (f *fleet) remove(id string) {
	if n, ok := f.find(id); ok {
		f.hosts = slices.Delete(f.hosts, n, n+1)
	}
}

func (f *fleet) promise(id string, r miosa.Resources) { f.add(id, r) }

func (f *fleet) release(id string, r miosa.Resources) {
	f.add(id, miosa.Resources{VCPUs: -r.VCPUs, MemoryMB: -r.MemoryMB, DiskMB: -r.DiskMB, GPU: -r.GPU})
}

func (f *fleet) add(id string, r miosa.Resources) {
	used := schedule.Add(f.used[id], r)
	if used == (miosa.Resources{}) {
		delete(f.used, id)
	} else {
		f.used[id] = used
	}
	if n, ok := f.find(id); ok {
		f.hosts[n].Used = used
	}
}
