package schedule

import (
	"slices"

	"github.com/miosa/miosa"
)

// scratch is what a placement works with, kept for the next one.
type scratch struct {
	sizes []miosa.Size
	// What the request says of single hosts: the epoch that it is valid in in the
	// upper half, then the peers, and the bits below.
	marks []uint64
	epoch uint32
	open  []bool // regions that are asked for
	match []bool // classes that have the labels
	// By zone: hosts that fit.
	fit  []int
	text []byte
}

const (
	markFailed = 1 << iota
	markImage
	markDown // avoided, or has a peer that it must be apart from
	markPeer // and above: how many

	mostPeers = 1<<29 - 1
)

// pick is the best host so far.
type pick struct {
	rank uint64 // peers, has no image, failed: less is better
	key  int
	slot int32
}

// The ranks below those of hosts with peers.
const (
	rankImage  = 0      // has the image
	rankPlain  = 1 << 1 // has not
	rankPeer   = 1 << 2 // and above: with peers
	rankNobody = 1<<64 - 1
)

// Place picks the host for a request. Among those that fit it takes the one
// whose zone has the fewest peers, then the one with the fewest peers itself,
// then one that has the image, then one where the slot did not fail, then by
// policy, then the lowest ID: the answer never depends on the order in which
// hosts were put. It promises nothing.
//
// It looks at each block of the regions and labels asked for, at most once, and
// at the hosts of those blocks where some have room and some do not; beyond that
// at the hosts that the request names (Avoid, Failed), at those that have peers
// or the image, and, in the order of the policy, at those that are passed over
// because they have peers. So it grows with a sixtieth of the hosts, by some
// nanoseconds each, and with the service that is placed; in the worst case, when
// some hosts of each block fit, or all have peers, with the hosts. It allocates
// once to place, and twice to say why there is no place.
func (f *Fleet) Place(r Request) Answer {
	want := roomOf(r.Resources)
	var counts [filters]int
	best, candidates := f.decide(&r, want, &counts)
	a := Answer{Fleet: f.present, Candidates: candidates}
	if best.rank == rankNobody {
		f.explain(&a, r, want, &counts)
		return a
	}
	h := &f.hosts[best.slot]
	z := &f.zones[h.zone]
	a.HostID, a.Region, a.Zone = h.id, f.regions[z.region], z.name
	n := 0
	for _, count := range counts {
		if count > 0 {
			n++
		}
	}
	if n > 0 {
		a.TurnedDown = turnedDown(make([]TurnedDown, 0, n), &counts)
	}
	return a
}

func turnedDown(out []TurnedDown, counts *[filters]int) []TurnedDown {
	for filter, n := range counts {
		if n > 0 {
			out = append(out, TurnedDown{filterNames[filter], n})
		}
	}
	return out
}

// decide picks the host (of rank rankNobody if there is none) and counts how
// many fit, and how many each filter turned down.
func (f *Fleet) decide(r *Request, want room, counts *[filters]int) (best pick, candidates int) {
	f.begin(r)
	counts[notAlive], counts[notStarting], counts[notSchedulable] = f.dead, f.failing, f.cordoned
	for z := range f.zones {
		f.s.fit[z] = f.count(z, want, counts)
	}
	f.markDown(r, want, counts)
	level := 0
	for z, n := range f.s.fit {
		if peers := r.Peers.inZone(z); n > 0 && (candidates == 0 || peers < level) {
			level = peers
		}
		candidates += n
	}
	best = pick{rank: rankNobody}
	if candidates == 0 {
		return best, 0
	}
	least := f.withImage(&best, r, want, level)
	for z, n := range f.s.fit {
		if n > 0 && r.Peers.inZone(z) == level {
			f.search(&best, z, want, least)
		}
	}
	return best, candidates
}

// withImage looks at the hosts with the image, in zones with so many peers, and
// gives back the best rank that is still to be expected of any: where most have
// it, the search soon meets one of them.
func (f *Fleet) withImage(best *pick, r *Request, want room, level int) uint64 {
	img := f.images[r.Image]
	if img == nil || r.Image == "" {
		return rankPlain
	}
	enough := len(img.on) > f.present/8
	for i := range img.on {
		slot := img.on[i].slot
		if m := f.mark(slot, markImage); m >= markDown || enough && best.rank < rankPlain {
			continue // with peers it is not better than one without and without the image
		}
		if h := &f.hosts[slot]; h.state == usable && f.s.fit[h.zone] > 0 && f.s.match[h.class] && want.lacks(&h.room) == fits && r.Peers.inZone(int(h.zone)) == level {
			f.consider(best, f.rank(slot), h.key, slot)
		}
	}
	if enough && best.rank < rankPlain {
		return rankImage
	}
	return rankPlain
}

// begin marks what the request says of hosts, regions and labels.
func (f *Fleet) begin(r *Request) {
	s := &f.s
	if s.epoch++; s.epoch == 0 {
		clear(s.marks) // the epochs begin anew
		s.epoch = 1
	}
	if n := len(f.hosts) - len(s.marks); n > 0 {
		s.marks = append(s.marks, make([]uint64, n)...)
	}
	s.fit, s.match = s.fit[:0], s.match[:0]
	for range f.zones {
		s.fit = append(s.fit, 0)
	}
	for c := range f.classes {
		s.match = append(s.match, len(r.Labels) == 0 || labelled(f.classes[c].labels, r.Labels))
	}
	f.openRegions(r.Regions)
	for _, id := range r.Failed {
		if slot, ok := f.slots[id]; ok {
			f.mark(slot, markFailed)
		}
	}
	if r.Peers == nil {
		return
	}
	r.Peers.resolve(f)
	for i := range r.Peers.hosts {
		if e := &r.Peers.hosts[i]; e.n > 0 && e.slot >= 0 {
			f.mark(e.slot, markPeer*uint64(min(e.n, mostPeers))) //nolint:gosec // it is positive
		}
	}
}

func (f *Fleet) openRegions(wanted []string) {
	f.s.open = f.s.open[:0]
	for _, region := range f.regions {
		f.s.open = append(f.s.open, len(wanted) == 0 || slices.Contains(wanted, region))
	}
}

// mark adds to what is marked of a host, and gives that back.
func (f *Fleet) mark(slot int32, bits uint64) uint64 {
	m := &f.s.marks[slot]
	if *m>>32 != uint64(f.s.epoch) {
		*m = uint64(f.s.epoch) << 32
	}
	*m |= bits
	return *m & (1<<32 - 1)
}

// marked is what is marked of a host: the lower half.
func (f *Fleet) marked(slot int32) uint64 {
	if m := f.s.marks[slot]; m>>32 == uint64(f.s.epoch) {
		return m & (1<<32 - 1)
	}
	return 0
}

// count is how many of a zone's hosts have the room, those that are to be marked
// down included; counts gets the others.
func (f *Fleet) count(z int, want room, counts *[filters]int) int {
	zone := &f.zones[z]
	if !f.s.open[zone.region] {
		counts[otherRegion] += zone.usable
		return 0
	}
	fit := 0
	for _, g := range zone.groups {
		g := &f.groups[g]
		if !f.s.match[g.class] {
			counts[otherLabel] += g.n
			continue
		}
		for _, b := range g.blocks {
			s := &f.spans[b]
			least, most := want.lacks(&s.least), want.lacks(&s.most)
			if least != fits && least != most && s.loose {
				f.tighten(b)
				least, most = want.lacks(&s.least), want.lacks(&s.most)
			}
			switch least {
			case fits:
				fit += int(s.n)
			case most: // none before turns any down, and this one all
				counts[least] += int(s.n)
			default:
				es := f.blocks[b][:s.n]
				for i := range es {
					if filter := want.lacks(&es[i].room); filter == fits {
						fit++
					} else {
						counts[filter]++
					}
				}
			}
		}
	}
	return fit
}

// markDown marks the hosts that the request says not to use, and counts them for
// that.
func (f *Fleet) markDown(r *Request, want room, counts *[filters]int) {
	for _, id := range r.Avoid {
		if slot, ok := f.slots[id]; ok {
			f.turnDown(slot, avoided, want, counts)
		}
	}
	if !r.Apart || r.Peers == nil {
		return
	}
	for i := range r.Peers.hosts {
		if e := &r.Peers.hosts[i]; e.n > 0 && e.slot >= 0 {
			f.turnDown(e.slot, apart, want, counts)
		}
	}
}

func (f *Fleet) turnDown(slot int32, filter int, want room, counts *[filters]int) {
	h := &f.hosts[slot]
	if h.state != usable || f.marked(slot)&markDown != 0 {
		return
	}
	f.mark(slot, markDown)
	if !f.s.open[f.zones[h.zone].region] || !f.s.match[h.class] {
		return
	}
	if was := want.lacks(&h.room); was == fits {
		f.s.fit[h.zone]--
	} else {
		counts[was]--
	}
	counts[filter]++
}

// search looks for a better host in a zone. Of none is the rank less than least,
// but of hosts that were considered.
func (f *Fleet) search(best *pick, z int, want room, least uint64) {
	for _, g := range f.zones[z].groups {
		if g := &f.groups[g]; f.s.match[g.class] {
			f.searchGroup(best, g, want, least)
		}
	}
}

func (f *Fleet) searchGroup(best *pick, g *group, want room, least uint64) {
	own, epoch := uint64(rankNobody), uint64(f.s.epoch)<<32
	for _, b := range g.blocks {
		if want.lacks(&f.spans[b].most) != fits {
			continue
		}
		es := f.blocks[b][:f.spans[b].n]
		if best.rank < least || best.rank == least && best.key < es[0].key {
			return // what follows is filled later
		}
		for i := range es {
			e := &es[i]
			rank := uint64(rankPlain)
			if f.s.marks[e.slot] >= epoch {
				rank = f.rank(e.slot)
			}
			// One of this group that is as good and comes before is taken.
			if rank >= own || rank > best.rank || want.lacks(&e.room) != fits {
				continue
			}
			f.consider(best, rank, e.key, e.slot)
			if own = rank; rank <= least {
				return // what follows is filled later
			}
		}
	}
}

// rank is that of a host: rankNobody if it is marked down.
func (f *Fleet) rank(slot int32) uint64 {
	m := f.marked(slot)
	if m&markDown != 0 {
		return rankNobody
	}
	rank := m / markPeer * rankPeer
	if m&markImage == 0 {
		rank |= rankPlain
	}
	if m&markFailed != 0 {
		rank |= 1
	}
	return rank
}

// consider makes a host that fits the best if it is.
func (f *Fleet) consider(best *pick, rank uint64, key int, slot int32) {
	if rank < best.rank || rank == best.rank && (key < best.key || key == best.key && f.hosts[slot].id < f.hosts[best.slot].id) {
		*best = pick{rank, key, slot}
	}
}

// inZone is how many peers there are in a zone of the fleet that they are
// resolved in.
func (p *Peers) inZone(z int) int {
	if p == nil {
		return 0
	}
	return p.zones[z]
}

// reasons is an Answer's memory, in one piece.
type reasons struct {
	turnedDown [filters]TurnedDown
	sentences  [filters + 1]string
}

// explain says what turned the hosts down, and what would fit.
func (f *Fleet) explain(a *Answer, r Request, want room, counts *[filters]int) {
	if f.present == 0 {
		a.Reasons = []string{"no host has joined yet"}
		return
	}
	memory := new(reasons)
	a.TurnedDown = turnedDown(memory.turnedDown[:0], counts)
	var ends [filters + 1]int
	text, n := f.s.text[:0], 0
	for filter, count := range counts {
		if count > 0 {
			text = sentence(text, &r, filter, count)
			ends[n] = len(text)
			n++
		}
	}
	before := len(text)
	if text = f.nearest(text, &r, want); len(text) > before {
		ends[n] = len(text)
		n++
	}
	f.s.text = text
	all, begin := string(text), 0
	a.Reasons = memory.sentences[:0]
	for _, end := range ends[:n] {
		a.Reasons = append(a.Reasons, all[begin:end])
		begin = end
	}
}

// nearest appends the region where it would be placed if it could be any, or the
// largest size that would fit now.
func (f *Fleet) nearest(text []byte, r *Request, want room) []byte {
	if len(r.Regions) > 0 {
		probe := *r
		probe.Regions = nil
		var counts [filters]int
		if best, _ := f.decide(&probe, want, &counts); best.rank != rankNobody {
			return append(append(text, "it would fit in region "...), f.regions[f.zones[f.hosts[best.slot].zone].region]...)
		}
		f.openRegions(r.Regions) // and the marks are the same
	}
	for i := len(f.s.sizes) - 1; i >= 0; i-- {
		size := roomOf(f.s.sizes[i].Resources)
		size.gpu = want.gpu
		if size.memory >= want.memory && size.cpu >= want.cpu {
			continue
		}
		if f.hasRoom(size) {
			return append(append(append(text, "size "...), f.s.sizes[i].Slug...), " would fit"...)
		}
	}
	return text
}

// hasRoom reports whether any host has the room, of those that may be used.
func (f *Fleet) hasRoom(want room) bool {
	for z := range f.zones {
		if !f.s.open[f.zones[z].region] {
			continue
		}
		for _, g := range f.zones[z].groups {
			if g := &f.groups[g]; f.s.match[g.class] && f.groupHasRoom(g, want) {
				return true
			}
		}
	}
	return false
}

func (f *Fleet) groupHasRoom(g *group, want room) bool {
	for _, b := range g.blocks {
		if want.lacks(&f.spans[b].most) != fits {
			continue
		}
		es := f.blocks[b][:f.spans[b].n]
		for i := range es {
			if want.lacks(&es[i].room) == fits && f.marked(es[i].slot)&markDown == 0 {
				return true
			}
		}
	}
	return false
}
