package schedule

import (
	"slices"
	"strconv"
)

// The filters in the order in which they are applied: a host counts for the
// first one that turns it down.
const (
	notAlive = iota
	notStarting
	notSchedulable
	otherRegion
	otherLabel
	avoided
	apart
	noGPU
	noMemory
	noCPU
	noDisk
	filters // how many there are

	fits = -1 // turned down by none
)

// filterNames go into traces.
var filterNames = [filters]string{"alive", "starting", "schedulable", "region", "label", "avoid", "apart", "gpu", "memory", "cpu", "disk"}

// lacks is the filter that turns down who has less than r free.
func (r *room) lacks(free *room) int {
	switch {
	case r.gpu > free.gpu:
		return noGPU
	case r.memory > free.memory:
		return noMemory
	case r.cpu > free.cpu:
		return noCPU
	case r.disk > free.disk:
		return noDisk
	}
	return fits
}

// sentence appends what a filter tells the user, given how many hosts it turned
// down.
func sentence(b []byte, r *Request, filter, n int) []byte {
	b = strconv.AppendInt(b, int64(n), 10)
	if n == 1 {
		b = append(b, " host"...)
	} else {
		b = append(b, " hosts"...)
	}
	amount := func(n int, of string) []byte {
		b = append(b, " without "...)
		b = strconv.AppendInt(b, int64(n), 10)
		return append(b, of...)
	}
	switch filter {
	case notAlive:
		return append(b, " not answering"...)
	case notStarting:
		return append(b, " that could not start anything of late"...)
	case notSchedulable:
		return append(b, " cordoned"...)
	case otherRegion:
		before := " not in "
		for _, region := range r.Regions {
			b = append(append(b, before...), region...)
			before = " or "
		}
		return b
	case otherLabel:
		var few [8]string // without an allocation
		keys := few[:0]
		for k := range r.Labels {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		before := " without the label "
		for _, k := range keys {
			b = append(append(append(append(b, before...), k...), '='), r.Labels[k]...)
			before = " and "
		}
		return b
	case avoided:
		return append(b, " where it failed before"...)
	case apart:
		return append(b, " with a replica already"...)
	case noGPU:
		return amount(r.Resources.GPU, " free GPU")
	case noMemory:
		return amount(r.Resources.MemoryMB, " MB of free memory")
	case noCPU:
		return amount(r.Resources.VCPUs, " free vCPU")
	case noDisk:
		return amount(r.Resources.DiskMB, " MB of free disk")
	}
	return b
}
