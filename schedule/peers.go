package schedule

import (
	"maps"
	"slices"
)

// Peers are the instances of one service in one version, counted by host and by
// zone, so that its next instance is placed apart from them. Its owner counts
// each instance when it gets a host and when it ends; the zero value counts
// none yet. It belongs to no fleet, and may be asked about with several, one
// after the other.
//
// Add and Remove cost the same however many there are. Placing costs a step of
// some nanoseconds for each host that has peers; the first one after hosts came,
// went or moved to another zone looks each of them up anew.
type Peers struct {
	hosts []peersOn
	index map[string]int32 // host ID → its place in hosts; nil while they are few
	gone  int              // so many of hosts have none any more

	layout   *layout // that what follows is of
	resolved int     // so many of hosts, from the first, are looked up in it
	zones    []int   // zone → peers there
}

type peersOn struct {
	id         string
	n          int
	slot, zone int32 // -1: no such host in the fleet
}

// fewPeers are found as fast without an index.
const fewPeers = 8

// Add counts one more on a host, which need not be known to any fleet.
func (p *Peers) Add(host string) {
	at := p.find(host)
	if at < 0 {
		at = len(p.hosts)
		p.hosts = append(p.hosts, peersOn{id: host, slot: -1, zone: -1})
		p.gone++ // for the moment
		switch {
		case p.index != nil:
			p.index[host] = int32(at) //nolint:gosec // a fleet has fewer hosts
		case len(p.hosts) > fewPeers:
			p.reindex()
		}
	}
	e := &p.hosts[at]
	if e.n++; e.n == 1 {
		p.gone--
	}
	if at < p.resolved && e.slot >= 0 {
		p.zones[e.zone]++
	}
}

// Remove counts one less on a host; where there is none it does nothing.
func (p *Peers) Remove(host string) {
	at := p.find(host)
	if at < 0 || p.hosts[at].n == 0 {
		return
	}
	e := &p.hosts[at]
	if e.n--; e.n == 0 {
		p.gone++
	}
	if at < p.resolved && e.slot >= 0 {
		p.zones[e.zone]--
	}
	if p.gone > len(p.hosts)/2+fewPeers {
		p.hosts = slices.DeleteFunc(p.hosts, func(e peersOn) bool { return e.n == 0 })
		p.gone, p.layout = 0, nil
		p.reindex()
	}
}

// On is how many there are on a host.
func (p *Peers) On(host string) int {
	if p == nil {
		return 0
	}
	if at := p.find(host); at >= 0 {
		return p.hosts[at].n
	}
	return 0
}

// Clone is a copy that goes its own way.
func (p *Peers) Clone() *Peers {
	c := *p
	c.hosts, c.index, c.zones = slices.Clone(p.hosts), maps.Clone(p.index), slices.Clone(p.zones)
	return &c
}

func (p *Peers) find(host string) int {
	if p.index != nil {
		if at, ok := p.index[host]; ok {
			return int(at)
		}
		return -1
	}
	for at := range p.hosts {
		if p.hosts[at].id == host {
			return at
		}
	}
	return -1
}

func (p *Peers) reindex() {
	p.index = nil
	if len(p.hosts) <= fewPeers {
		return
	}
	p.index = make(map[string]int32, 2*len(p.hosts))
	for at := range p.hosts {
		p.index[p.hosts[at].id] = int32(at) //nolint:gosec // a fleet has fewer hosts
	}
}

// resolve looks up the hosts that are not looked up yet.
func (p *Peers) resolve(f *Fleet) {
	if f.layout == nil {
		f.layout = new(layout)
	}
	if p.layout != f.layout {
		p.layout, p.resolved = f.layout, 0
		p.zones = slices.Grow(p.zones[:0], len(f.zones))[:len(f.zones)]
		clear(p.zones)
	}
	for ; p.resolved < len(p.hosts); p.resolved++ {
		e := &p.hosts[p.resolved]
		e.slot, e.zone = -1, -1
		if slot, ok := f.slots[e.id]; ok && f.hosts[slot].state != absent {
			e.slot, e.zone = slot, f.hosts[slot].zone
			p.zones[e.zone] += e.n
		}
	}
}
