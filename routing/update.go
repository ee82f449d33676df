package routing

import (
	"maps"
	"slices"
)

// Update brings a table from one generation to a later one.
type Update struct {
	// Whole: Routes and Ports are all that there are, whatever was before; From
	// means nothing. The maps are the receiver's to keep.
	Whole      bool
	From       int64 // generation of the table that it is for
	Generation int64 // greater than From
	Routes     map[string]Pool
	Ports      map[int]Pool
	GoneRoutes []string // in order; none of them in Routes
	GonePorts  []int    // in order; none of them in Ports
}

// Whole is the update that makes a table like this one. It takes time in
// proportion to the table: its maps are copied.
func (t Table) Whole() Update {
	return Update{Whole: true, Generation: t.Generation, Routes: maps.Clone(t.Routes), Ports: maps.Clone(t.Ports)}
}

// Apply brings the table to the update's generation, in time in proportion to
// the update. It reports false, and changes nothing, where one in between is
// missing: then a whole one is needed.
func (t *Table) Apply(u Update) bool {
	if u.Whole {
		t.Generation, t.Routes, t.Ports = u.Generation, u.Routes, u.Ports
		return true
	}
	if u.From != t.Generation || u.Generation <= u.From {
		return false
	}
	t.Generation = u.Generation
	if t.Routes == nil {
		t.Routes = map[string]Pool{}
	}
	if t.Ports == nil && len(u.Ports) > 0 {
		t.Ports = map[int]Pool{}
	}
	maps.Copy(t.Routes, u.Routes)
	maps.Copy(t.Ports, u.Ports)
	for _, name := range u.GoneRoutes {
		delete(t.Routes, name)
	}
	for _, port := range u.GonePorts {
		delete(t.Ports, port)
	}
	return true
}

// Merge is what updates come to together, each for the table after the one
// before. It changes none of them, and takes time in proportion to them.
func Merge(updates []Update) Update {
	if len(updates) == 1 {
		return updates[0]
	}
	u := updates[0].clone()
	for _, next := range updates[1:] {
		if next.Whole {
			u = next.clone()
			continue
		}
		u.Generation = next.Generation
		u.Routes, u.GoneRoutes = merge(u.Routes, u.GoneRoutes, next.Routes, next.GoneRoutes)
		u.Ports, u.GonePorts = merge(u.Ports, u.GonePorts, next.Ports, next.GonePorts)
	}
	if u.Whole {
		u.GoneRoutes, u.GonePorts = nil, nil
		return u
	}
	u.GoneRoutes, u.GonePorts = tidy(u.GoneRoutes, u.Routes), tidy(u.GonePorts, u.Ports)
	return u
}

func (u Update) clone() Update {
	u.Routes, u.Ports = maps.Clone(u.Routes), maps.Clone(u.Ports)
	u.GoneRoutes, u.GonePorts = slices.Clone(u.GoneRoutes), slices.Clone(u.GonePorts)
	return u
}

func merge[K string | int](pools map[K]Pool, gone []K, nextPools map[K]Pool, nextGone []K) (map[K]Pool, []K) {
	if pools == nil {
		pools = map[K]Pool{}
	}
	maps.Copy(pools, nextPools)
	for _, key := range nextGone {
		delete(pools, key)
	}
	return pools, append(gone, nextGone...)
}

// tidy leaves out those that came back.
func tidy[K string | int](gone []K, pools map[K]Pool) []K {
	gone = slices.DeleteFunc(gone, func(key K) bool { _, back := pools[key]; return back })
	slices.Sort(gone)
	return slices.Compact(gone)
}
