package schedule

import "slices"

// The hosts of a group are kept in the order in which the policy fills them,
// then in that of their IDs, and cut into blocks. What a block's hosts have free
// at least and at most is known, so that it is passed over, or counted, as a
// whole where that says enough.

// blockSize is how many hosts a block may have.
const blockSize = 64

// entry is a host in its block.
type entry struct {
	key  int // less is filled first
	slot int32
	room room // free
}

// span bounds what a block's hosts have free.
type span struct {
	least, most room
	n           int32
	loose       bool // hosts have left since: it may be less wide
}

// block has the first span.n of its entries.
type block [blockSize]entry

// group is the hosts of one zone with the same labels that may be placed on, and
// with GPUs or without.
type group struct {
	zone, class int32
	gpu         bool
	n           int
	blocks      []int32 // in order
}

type groupName struct {
	zone, class int32
	gpu         bool
}

func (s *span) widen(r *room) {
	if s.n == 0 {
		s.least, s.most, s.loose = *r, *r, false
		return
	}
	s.least = room{min(s.least.gpu, r.gpu), min(s.least.memory, r.memory), min(s.least.cpu, r.cpu), min(s.least.disk, r.disk)}
	s.most = room{max(s.most.gpu, r.gpu), max(s.most.memory, r.memory), max(s.most.cpu, r.cpu), max(s.most.disk, r.disk)}
}

// tighten makes a block's span what its hosts have.
func (f *Fleet) tighten(b int32) {
	s := &f.spans[b]
	n := s.n
	s.n = 0
	for i := range n {
		s.widen(&f.blocks[b][i].room)
		s.n++
	}
	s.loose = false
}

// before reports whether an entry comes before a host of this key and ID.
func (f *Fleet) before(e *entry, key int, id string) bool {
	return e.key < key || e.key == key && f.hosts[e.slot].id < id
}

// locate finds the block (by its place in the group) and the place in it where
// a host of this key and ID is, or would be. The group has blocks.
func (f *Fleet) locate(g *group, key int, id string) (at, pos int) {
	lo, hi := 1, len(g.blocks) // the first block of those that begin after it
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if e := &f.blocks[g.blocks[mid]][0]; f.before(e, key, id) || f.hosts[e.slot].id == id && e.key == key {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	at = lo - 1
	b := g.blocks[at]
	lo, hi = 0, int(f.spans[b].n)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if f.before(&f.blocks[b][mid], key, id) {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return at, lo
}

// enter puts a usable host into its group's blocks.
func (f *Fleet) enter(slot int32) {
	h := &f.hosts[slot]
	h.key = f.key(h)
	g := &f.groups[h.group]
	if len(g.blocks) == 0 {
		g.blocks = append(g.blocks, f.newBlock())
	}
	at, pos := f.locate(g, h.key, h.id)
	if b := g.blocks[at]; int(f.spans[b].n) == f.limit {
		next := f.newBlock()
		g.blocks = slices.Insert(g.blocks, at+1, next)
		if at+2 == len(g.blocks) && pos == f.limit {
			at, pos = at+1, 0 // hosts that come in order fill their blocks
		} else {
			f.move(b, next, f.limit/2)
			if half := int(f.spans[b].n); pos > half {
				at, pos = at+1, pos-half
			}
		}
	}
	b := g.blocks[at]
	s, es := &f.spans[b], &f.blocks[b]
	copy(es[pos+1:s.n+1], es[pos:s.n])
	es[pos] = entry{h.key, slot, h.room}
	s.widen(&h.room)
	s.n++
	g.n++
}

// leave takes a usable host out of its group's blocks.
func (f *Fleet) leave(slot int32) {
	h := &f.hosts[slot]
	g := &f.groups[h.group]
	at, pos := f.locate(g, h.key, h.id)
	b := g.blocks[at]
	s, es := &f.spans[b], &f.blocks[b]
	copy(es[pos:s.n-1], es[pos+1:s.n])
	s.n--
	s.loose = true
	g.n--
	switch {
	case s.n == 0:
		g.blocks = slices.Delete(g.blocks, at, at+1)
		f.vacantBlocks = append(f.vacantBlocks, b)
	case int(s.n) < f.limit/4:
		f.join(g, at)
	}
}

// join makes one block of a small one and its smaller neighbour, if they leave
// room for more.
func (f *Fleet) join(g *group, at int) {
	into := at
	switch size := func(at int) int32 { return f.spans[g.blocks[at]].n }; {
	case len(g.blocks) == 1:
		return
	case at+1 == len(g.blocks) || at > 0 && size(at-1) < size(at+1):
		into = at - 1
	}
	a, b := g.blocks[into], g.blocks[into+1]
	if int(f.spans[a].n+f.spans[b].n) > f.limit*3/4 {
		return
	}
	n := copy(f.blocks[a][f.spans[a].n:], f.blocks[b][:f.spans[b].n])
	f.spans[a].n += int32(n) //nolint:gosec // at most blockSize
	f.tighten(a)
	g.blocks = slices.Delete(g.blocks, into+1, into+2)
	f.vacantBlocks = append(f.vacantBlocks, b)
}

// move gives what a block has from a place on to an empty one.
func (f *Fleet) move(from, to int32, place int) {
	s := &f.spans[from]
	f.spans[to].n = int32(copy(f.blocks[to][:], f.blocks[from][place:s.n])) //nolint:gosec // at most blockSize
	s.n = int32(place)                                                      //nolint:gosec // likewise
	f.tighten(from)
	f.tighten(to)
}

func (f *Fleet) newBlock() int32 {
	if n := len(f.vacantBlocks); n > 0 {
		b := f.vacantBlocks[n-1]
		f.vacantBlocks = f.vacantBlocks[:n-1]
		f.spans[b] = span{}
		return b
	}
	f.blocks = append(f.blocks, block{})
	f.spans = append(f.spans, span{})
	return int32(len(f.blocks) - 1) //nolint:gosec // a fleet has fewer hosts
}
