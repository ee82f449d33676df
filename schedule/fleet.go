package schedule

import (
	"maps"
	"slices"
	"strconv"

	"github.com/miosa/miosa"
)

// Fleet is all hosts with what is promised on them, kept up to date by each
// change. Its owner calls it from one goroutine, Place included.
//
// Its hosts lie in blocks of up to 64 (see block). All that changes one host
// costs a look-up by ID, O(log hosts) to find its block, and the move of what
// comes after it there: one to five microseconds from 5,000 to 50,000 hosts.
// AddImage and RemoveImage move a word for each host that has the image. What
// the fleet knows of a host, about 300 bytes, it forgets when the host is removed
// and nothing is promised or counted on it any more.
type Fleet struct {
	policy Policy
	slots  map[string]int32 // host ID → its place in hosts
	hosts  []host
	vacant []int32

	// Hosts: all, those that are not alive, of the rest those that are failing, and
	// of that rest those that are cordoned.
	present, dead, failing, cordoned int

	// Small numbers for names. Those of regions and zones are for ever.
	regions       []string
	zones         []zone
	zoneByName    map[zoneName]int32
	classes       []class
	classByLabels map[string]int32
	vacantClasses []int32
	groups        []group
	groupByName   map[groupName]int32
	vacantGroups  []int32

	limit        int // of hosts in a block; blockSize but in tests
	blocks       []block
	spans        []span // of the blocks
	vacantBlocks []int32

	images map[string]*image

	owner  *layout // of what is not shared with a clone
	layout *layout // which hosts there are, and in which zones; nil: not named yet

	s scratch
}

// layout is a name that nothing else has: its address.
type layout struct{ _ byte }

// host is what there is to know of one.
type host struct {
	state    state
	zone     int32
	class    int32
	group    int32 // of one that is usable
	room     room  // free
	key      int   // that it has in its group
	id       string
	capacity room
	used     room
	held     int // images on it
}

// state says for which filter a host counts whatever the request.
type state uint8

const (
	absent state = iota // not in the fleet, but something is promised on it
	dead
	failing
	cordoned
	usable
)

// room is what placing asks for and hosts have.
type room struct{ gpu, memory, cpu, disk int }

func roomOf(r miosa.Resources) room {
	return room{gpu: r.GPU, memory: r.MemoryMB, cpu: r.VCPUs, disk: r.DiskMB}
}

func (r room) resources() miosa.Resources {
	return miosa.Resources{VCPUs: r.cpu, MemoryMB: r.memory, DiskMB: r.disk, GPU: r.gpu}
}

func (r room) plus(o room) room {
	return room{r.gpu + o.gpu, r.memory + o.memory, r.cpu + o.cpu, r.disk + o.disk}
}

func (r room) minus(o room) room {
	return room{r.gpu - o.gpu, r.memory - o.memory, r.cpu - o.cpu, r.disk - o.disk}
}

type zoneName struct{ region, name string }

// zone is one zone of one region.
type zone struct {
	region int32
	name   string
	usable int // hosts
	groups []int32
}

// class is all hosts with the same labels.
type class struct {
	labels map[string]string
	name   string
	hosts  int
}

// image counts the instances of one image by host.
type image struct {
	owner *layout
	on    []imageOn // in order of slot
}

type imageOn struct{ slot, n int32 }

// NewFleet is a fleet without hosts that is filled by a policy.
func NewFleet(policy Policy) *Fleet {
	return &Fleet{
		policy: policy, limit: blockSize, owner: new(layout),
		slots: map[string]int32{}, zoneByName: map[zoneName]int32{}, classByLabels: map[string]int32{},
		groupByName: map[groupName]int32{}, images: map[string]*image{},
		s: scratch{sizes: miosa.Sizes()},
	}
}

// Len is how many hosts are in the fleet.
func (f *Fleet) Len() int { return f.present }

// Promised is what is promised on a host, whether or not it is in the fleet.
func (f *Fleet) Promised(host string) miosa.Resources {
	if slot, ok := f.slots[host]; ok {
		return f.hosts[slot].used.resources()
	}
	return miosa.Resources{}
}

// Free is what a host of the fleet still has to promise; see the function of
// that name.
func (f *Fleet) Free(host string) (miosa.Resources, bool) {
	slot, ok := f.slots[host]
	if !ok || f.hosts[slot].state == absent {
		return miosa.Resources{}, false
	}
	return f.hosts[slot].room.resources(), true
}

// Put takes a host's newest state in: a new one, or one that the fleet knows.
// What is promised on it stays promised, even if that is more than it has now.
func (f *Fleet) Put(v miosa.Host) {
	slot := f.slot(v.ID)
	next := cordoned
	switch {
	case v.Liveness != miosa.Alive:
		next = dead
	case v.Failing:
		next = failing
	case v.Schedulable:
		next = usable
	}
	zone := f.zone(v.Region, v.Zone)
	h := &f.hosts[slot]
	capacity := roomOf(v.Capacity)
	capacity.cpu = vcpus(capacity.cpu, v.Overcommit)
	if h.state == next && h.zone == zone && h.capacity == capacity && maps.Equal(f.classes[h.class].labels, v.Labels) {
		return
	}
	if h.state == absent || h.zone != zone {
		f.layout = nil
	}
	class := f.class(v.Labels)
	f.classes[class].hosts++ // before take, which may take the last one away
	f.take(slot)
	h.state, h.zone, h.class, h.capacity = next, zone, class, capacity
	h.room = capacity.minus(h.used)
	f.give(slot)
}

// Remove takes a host out of the fleet. What is promised on it is still known
// if it comes back.
func (f *Fleet) Remove(host string) {
	slot, ok := f.slots[host]
	if !ok || f.hosts[slot].state == absent {
		return
	}
	f.take(slot)
	f.hosts[slot].state = absent
	f.layout = nil
	f.forget(slot)
}

// Promise counts an instance's resources as promised on its host, which need
// not be in the fleet.
func (f *Fleet) Promise(host string, r miosa.Resources) { f.promise(host, roomOf(r)) }

// Release takes back what Promise counted: the instance ended, or never came to
// be.
func (f *Fleet) Release(host string, r miosa.Resources) { f.promise(host, room{}.minus(roomOf(r))) }

func (f *Fleet) promise(host string, r room) {
	slot := f.slot(host)
	h := &f.hosts[slot]
	h.used = h.used.plus(r)
	switch h.state {
	case absent:
		f.forget(slot)
	case usable:
		f.refit(slot, h.room.minus(r))
	default:
		h.room = h.room.minus(r)
	}
}

// AddImage counts one more instance of an image on a host, which need not be in
// the fleet.
func (f *Fleet) AddImage(host, name string) {
	slot := f.slot(host)
	img := f.image(name)
	at, ok := img.find(slot)
	if !ok {
		img.on = slices.Insert(img.on, at, imageOn{slot: slot})
		f.hosts[slot].held++
	}
	img.on[at].n++
}

// RemoveImage counts one less; where there is none it does nothing.
func (f *Fleet) RemoveImage(host, name string) {
	slot, ok := f.slots[host]
	if !ok || f.images[name] == nil {
		return
	}
	if _, ok := f.images[name].find(slot); !ok {
		return
	}
	img := f.image(name)
	at, _ := img.find(slot)
	if img.on[at].n--; img.on[at].n > 0 {
		return
	}
	img.on = slices.Delete(img.on, at, at+1)
	if len(img.on) == 0 {
		delete(f.images, name)
	}
	f.hosts[slot].held--
	f.forget(slot)
}

// Clone is a copy that goes its own way: for what is only tried. It copies about
// 300 bytes a host and what finds an image's counts by its name: one or two
// milliseconds for 5,000 hosts. The counts are copied when they change.
func (f *Fleet) Clone() *Fleet {
	c := *f
	// Each of the two copies an image's counts before it changes them.
	f.owner, c.owner = new(layout), new(layout)
	c.layout, c.s = nil, scratch{sizes: f.s.sizes}
	c.images = maps.Clone(f.images)
	c.slots, c.hosts, c.vacant = maps.Clone(f.slots), slices.Clone(f.hosts), slices.Clone(f.vacant)
	c.regions, c.zones, c.zoneByName = slices.Clone(f.regions), slices.Clone(f.zones), maps.Clone(f.zoneByName)
	for z := range c.zones {
		c.zones[z].groups = slices.Clone(c.zones[z].groups)
	}
	c.classes, c.classByLabels, c.vacantClasses = slices.Clone(f.classes), maps.Clone(f.classByLabels), slices.Clone(f.vacantClasses)
	c.groups, c.groupByName, c.vacantGroups = slices.Clone(f.groups), maps.Clone(f.groupByName), slices.Clone(f.vacantGroups)
	for g := range c.groups {
		c.groups[g].blocks = slices.Clone(c.groups[g].blocks)
	}
	c.blocks, c.spans, c.vacantBlocks = slices.Clone(f.blocks), slices.Clone(f.spans), slices.Clone(f.vacantBlocks)
	return &c
}

// slot is a host's place, which is made if there is none.
func (f *Fleet) slot(id string) int32 {
	if slot, ok := f.slots[id]; ok {
		return slot
	}
	var slot int32
	if n := len(f.vacant); n > 0 {
		slot = f.vacant[n-1]
		f.vacant = f.vacant[:n-1]
	} else {
		f.hosts = append(f.hosts, host{})
		slot = int32(len(f.hosts) - 1) //nolint:gosec // a fleet has fewer hosts
	}
	f.hosts[slot] = host{id: id}
	f.slots[id] = slot
	return slot
}

// forget gives up the place of a host that there is nothing to know of.
func (f *Fleet) forget(slot int32) {
	h := &f.hosts[slot]
	if h.state != absent || h.held > 0 || h.used != (room{}) {
		return
	}
	delete(f.slots, h.id)
	*h = host{}
	f.vacant = append(f.vacant, slot)
}

// give counts a host where it belongs, once its fields say where; its class
// counts it already.
func (f *Fleet) give(slot int32) {
	h := &f.hosts[slot]
	f.present++
	switch h.state {
	case dead:
		f.dead++
	case failing:
		f.failing++
	case cordoned:
		f.cordoned++
	case usable:
		f.zones[h.zone].usable++
		h.group = f.group(groupName{h.zone, h.class, h.capacity.gpu > 0})
		f.enter(slot)
	case absent:
	}
}

// take undoes give, before the fields change.
func (f *Fleet) take(slot int32) {
	h := &f.hosts[slot]
	switch h.state {
	case absent:
		return
	case dead:
		f.dead--
	case failing:
		f.failing--
	case cordoned:
		f.cordoned--
	case usable:
		f.zones[h.zone].usable--
		f.leave(slot)
		f.dropGroup(h.group)
	}
	f.present--
	if c := &f.classes[h.class]; c.hosts == 1 {
		delete(f.classByLabels, c.name)
		*c = class{}
		f.vacantClasses = append(f.vacantClasses, h.class)
	} else {
		c.hosts--
	}
}

// refit gives a usable host the room that it has now.
func (f *Fleet) refit(slot int32, r room) {
	h := &f.hosts[slot]
	was := h.room
	if was == r {
		return
	}
	h.room = r
	if key := f.key(h); key != h.key {
		f.leave(slot)
		f.enter(slot)
		return
	}
	g := &f.groups[h.group]
	at, pos := f.locate(g, h.key, h.id)
	b := g.blocks[at]
	f.blocks[b][pos].room = r
	f.spans[b].widen(&r)
	f.spans[b].loose = true
}

// key is what a host is filled by: less first.
func (f *Fleet) key(h *host) int {
	share := 0
	if h.capacity.memory > 0 {
		share = h.room.memory * 1000 / h.capacity.memory
	}
	if f.policy == Pack {
		return share
	}
	return -share
}

func (f *Fleet) zone(region, name string) int32 {
	n := zoneName{region, name}
	if z, ok := f.zoneByName[n]; ok {
		return z
	}
	r := slices.Index(f.regions, region)
	if r < 0 {
		r = len(f.regions)
		f.regions = append(f.regions, region)
	}
	f.zones = append(f.zones, zone{region: int32(r), name: name}) //nolint:gosec // there are few
	z := int32(len(f.zones) - 1)                                  //nolint:gosec // there are few
	f.zoneByName[n] = z
	return z
}

func (f *Fleet) class(labels map[string]string) int32 {
	var name []byte
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		name = strconv.AppendQuote(name, k)
		name = strconv.AppendQuote(name, labels[k])
	}
	if c, ok := f.classByLabels[string(name)]; ok {
		return c
	}
	v := class{labels: maps.Clone(labels), name: string(name)}
	var c int32
	if n := len(f.vacantClasses); n > 0 {
		c = f.vacantClasses[n-1]
		f.vacantClasses = f.vacantClasses[:n-1]
		f.classes[c] = v
	} else {
		f.classes = append(f.classes, v)
		c = int32(len(f.classes) - 1) //nolint:gosec // a fleet has fewer hosts
	}
	f.classByLabels[v.name] = c
	return c
}

func (f *Fleet) group(name groupName) int32 {
	if g, ok := f.groupByName[name]; ok {
		return g
	}
	var g int32
	if n := len(f.vacantGroups); n > 0 {
		g = f.vacantGroups[n-1]
		f.vacantGroups = f.vacantGroups[:n-1]
	} else {
		f.groups = append(f.groups, group{})
		g = int32(len(f.groups) - 1) //nolint:gosec // a fleet has fewer hosts
	}
	v := &f.groups[g]
	*v = group{zone: name.zone, class: name.class, gpu: name.gpu, blocks: v.blocks[:0]}
	f.groupByName[name] = g
	f.zones[name.zone].groups = append(f.zones[name.zone].groups, g)
	return g
}

// dropGroup forgets a group that has no hosts any more.
func (f *Fleet) dropGroup(g int32) {
	v := &f.groups[g]
	if v.n > 0 {
		return
	}
	delete(f.groupByName, groupName{v.zone, v.class, v.gpu})
	of := &f.zones[v.zone].groups
	*of = slices.DeleteFunc(*of, func(o int32) bool { return o == g })
	f.vacantGroups = append(f.vacantGroups, g)
}

// image is that of a name, for changing it.
func (f *Fleet) image(name string) *image {
	img := f.images[name]
	switch {
	case img == nil:
		img = &image{owner: f.owner}
		f.images[name] = img
	case img.owner != f.owner:
		img = &image{owner: f.owner, on: slices.Clone(img.on)}
		f.images[name] = img
	}
	return img
}

func (img *image) find(slot int32) (int, bool) {
	return slices.BinarySearchFunc(img.on, slot, func(e imageOn, slot int32) int { return int(e.slot) - int(slot) })
}
