package schedule

import (
	"fmt"
	"slices"
)

// SetLimit makes blocks small, so that few hosts are many blocks. The fleet is
// empty yet.
func (f *Fleet) SetLimit(hosts int) { f.limit = hosts }

// Wear makes a young fleet as old as one that was asked four thousand million
// times: its epochs begin anew soon, with old marks about.
func (f *Fleet) Wear() {
	if f.s.epoch < 1<<31 {
		f.s.epoch = 1<<32 - 3
	}
}

// Check compares what the fleet keeps with what it keeps it from.
func (f *Fleet) Check() error {
	present, byState, inZone := 0, [usable + 1]int{}, make([]int, len(f.zones))
	inClass, inGroup := make([]int, len(f.classes)), make([]int, len(f.groups))
	for id, slot := range f.slots {
		h := &f.hosts[slot]
		if h.id != id {
			return fmt.Errorf("%s is found where %q is", id, h.id)
		}
		byState[h.state]++
		if h.state == absent {
			if h.held == 0 && h.used == (room{}) {
				return fmt.Errorf("%s is remembered for nothing", id)
			}
			continue
		}
		present++
		inClass[h.class]++
		if h.room != h.capacity.minus(h.used) {
			return fmt.Errorf("%s has %+v free of %+v with %+v promised", id, h.room, h.capacity, h.used)
		}
		if h.state == usable {
			inZone[h.zone]++
			inGroup[h.group]++
		}
	}
	if len(f.slots)+len(f.vacant) != len(f.hosts) {
		return fmt.Errorf("%d hosts and %d vacant in %d places", len(f.slots), len(f.vacant), len(f.hosts))
	}
	if f.present != present || f.dead != byState[dead] || f.failing != byState[failing] || f.cordoned != byState[cordoned] {
		return fmt.Errorf("%d hosts, %d of them dead, %d failing and %d cordoned; there are %d, %v", f.present, f.dead, f.failing, f.cordoned, present, byState)
	}
	for c := range f.classes {
		if f.classes[c].hosts != inClass[c] || inClass[c] == 0 && !slices.Contains(f.vacantClasses, int32(c)) {
			return fmt.Errorf("%d hosts of class %d, and %d are counted", inClass[c], c, f.classes[c].hosts)
		}
	}
	blocks := 0
	for z := range f.zones {
		if f.zones[z].usable != inZone[z] {
			return fmt.Errorf("%d hosts of zone %d, and %d are counted", inZone[z], z, f.zones[z].usable)
		}
		for _, g := range f.zones[z].groups {
			if err := f.checkGroup(g, inGroup[g]); err != nil {
				return fmt.Errorf("group %d of zone %d: %w", g, z, err)
			}
			blocks += len(f.groups[g].blocks)
		}
	}
	if blocks+len(f.vacantBlocks) != len(f.blocks) {
		return fmt.Errorf("%d blocks are used and %d vacant of %d", blocks, len(f.vacantBlocks), len(f.blocks))
	}
	return nil
}

func (f *Fleet) checkGroup(number int32, hosts int) error {
	g := &f.groups[number]
	if g.n != hosts || hosts == 0 {
		return fmt.Errorf("%d hosts, and %d are counted", hosts, g.n)
	}
	seen := 0
	var last *entry
	for _, b := range g.blocks {
		s := &f.spans[b]
		if s.n == 0 || int(s.n) > f.limit {
			return fmt.Errorf("a block of %d", s.n)
		}
		tight := *s
		tight.n = 0
		for i := range s.n {
			e := &f.blocks[b][i]
			h := &f.hosts[e.slot]
			if h.group != number || h.key != e.key || h.key != f.key(h) || h.room != e.room || h.capacity.gpu > 0 != g.gpu {
				return fmt.Errorf("%+v is of %+v", e, h)
			}
			if last != nil && !f.before(last, e.key, h.id) {
				return fmt.Errorf("%s is out of order", h.id)
			}
			if (&s.least).lacks(&e.room) != fits || e.room.lacks(&s.most) != fits {
				return fmt.Errorf("%+v is outside of %+v", e, s)
			}
			tight.widen(&e.room)
			tight.n++
			last = e
			seen++
		}
		if !s.loose && tight != *s {
			return fmt.Errorf("%+v is said of a block that has %+v", s, tight)
		}
	}
	if seen != hosts {
		return fmt.Errorf("%d of %d hosts", seen, hosts)
	}
	return nil
}
