package schedule_test

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/schedule"
)

// model is a fleet that is kept plainly, beside the one that is tested.
type model struct {
	policy schedule.Policy
	fleet  *schedule.Fleet
	hosts  map[string]miosa.Host
	used   map[string]miosa.Resources
	images map[string]map[string]int // host → image → instances
}

func newModel(policy schedule.Policy) *model {
	return &model{
		policy: policy, fleet: schedule.NewFleet(policy),
		hosts: map[string]miosa.Host{}, used: map[string]miosa.Resources{}, images: map[string]map[string]int{},
	}
}

// modelOf is a fleet of these hosts, put in this order.
func modelOf(policy schedule.Policy, hosts []plainHost) *model {
	m := newModel(policy)
	for _, h := range hosts {
		m.put(h.Host)
		m.promise(h.ID, h.Used)
		for image, n := range h.Images {
			for range n {
				m.addImage(h.ID, image)
			}
		}
	}
	return m
}

func (m *model) put(h miosa.Host) {
	m.hosts[h.ID] = h
	m.fleet.Put(h)
}

func (m *model) remove(host string) {
	delete(m.hosts, host)
	m.fleet.Remove(host)
}

func (m *model) promise(host string, r miosa.Resources) {
	m.used[host] = schedule.Add(m.used[host], r)
	m.fleet.Promise(host, r)
}

func (m *model) release(host string, r miosa.Resources) {
	m.used[host] = schedule.Add(m.used[host], miosa.Resources{VCPUs: -r.VCPUs, MemoryMB: -r.MemoryMB, DiskMB: -r.DiskMB, GPU: -r.GPU})
	m.fleet.Release(host, r)
}

func (m *model) addImage(host, image string) {
	if m.images[host] == nil {
		m.images[host] = map[string]int{}
	}
	m.images[host][image]++
	m.fleet.AddImage(host, image)
}

func (m *model) removeImage(host, image string) {
	if m.images[host][image] > 0 {
		m.images[host][image]--
	}
	m.fleet.RemoveImage(host, image)
}

// clone is a copy of both.
func (m *model) clone() *model {
	c := &model{policy: m.policy, fleet: m.fleet.Clone(), hosts: maps.Clone(m.hosts), used: maps.Clone(m.used), images: map[string]map[string]int{}}
	for host, images := range m.images {
		c.images[host] = maps.Clone(images)
	}
	return c
}

func (m *model) plain() []plainHost {
	out := make([]plainHost, 0, len(m.hosts))
	for _, h := range m.hosts { // in any order
		out = append(out, plainHost{h, m.used[h.ID], m.images[h.ID]})
	}
	return out
}

// plainPeers are peers that are counted plainly, beside those that are tested.
type plainPeers struct {
	peers *schedule.Peers
	on    map[string]int
}

func newPeers() *plainPeers { return &plainPeers{new(schedule.Peers), map[string]int{}} }

func (p *plainPeers) add(host string) {
	p.on[host]++
	p.peers.Add(host)
}

func (p *plainPeers) remove(host string) {
	if p.on[host] > 0 {
		p.on[host]--
	}
	p.peers.Remove(host)
}

func hostID(n int) string { return fmt.Sprintf("host_%02d", n) }

// A few of each kind, so that they meet.
var (
	someHost   = rapid.Map(rapid.IntRange(0, 23), hostID)
	someHosts  = rapid.SliceOfN(someHost, 0, 6)
	someRegion = rapid.SampledFrom([]string{"eu", "eu", "us"})
	someZone   = rapid.SampledFrom([]string{"a", "a", "a", "b"})
	someImage  = rapid.SampledFrom([]string{"app", "db"})
	someLabels = rapid.SampledFrom([]map[string]string{nil, nil, nil, {}, {"gpu": "h100"}, {"disk": "nvme"}, {"gpu": "h100", "disk": "nvme"}, {"gpu": ""}})
	someLife   = rapid.SampledFrom([]miosa.Liveness{miosa.Alive, miosa.Alive, miosa.Alive, miosa.Alive, miosa.Alive, miosa.Alive, miosa.Suspect, miosa.Lost})
	overcommit = rapid.SampledFrom([]float64{0, 0, 1, 1.15, 4, 0.5, -1, math.NaN(), math.Inf(1)})
	capacity   = someResources(12)
	demand     = someResources(4)
)

func someResources(most int) *rapid.Generator[miosa.Resources] {
	return rapid.Custom(func(t *rapid.T) miosa.Resources {
		n := rapid.IntRange(0, most)
		return miosa.Resources{VCPUs: n.Draw(t, "cpu"), MemoryMB: 256 * n.Draw(t, "memory"), DiskMB: 1024 * n.Draw(t, "disk"), GPU: max(0, n.Draw(t, "gpu")-most/2)}
	})
}

func drawHost(t *rapid.T) miosa.Host {
	return miosa.Host{
		ID: someHost.Draw(t, "host"), Region: someRegion.Draw(t, "region"), Zone: someZone.Draw(t, "zone"),
		Liveness: someLife.Draw(t, "liveness"), Schedulable: rapid.IntRange(0, 7).Draw(t, "schedulable") > 0, Failing: rapid.IntRange(0, 9).Draw(t, "failing") == 0,
		Capacity: capacity.Draw(t, "capacity"), Overcommit: overcommit.Draw(t, "overcommit"), Labels: someLabels.Draw(t, "labels"),
	}
}

func drawRequest(t *rapid.T) schedule.Request {
	r := schedule.Request{Resources: demand.Draw(t, "wanted"), Image: rapid.SampledFrom([]string{"", "app", "app", "db", "none"}).Draw(t, "image")}
	if rapid.Bool().Draw(t, "a size") {
		r.Resources = rapid.SampledFrom(miosa.Sizes()).Draw(t, "size").Resources
	}
	switch rapid.IntRange(0, 7).Draw(t, "constraint") {
	case 0, 1:
		r.Regions = rapid.SliceOfN(rapid.SampledFrom([]string{"eu", "us", "mars"}), 1, 2).Draw(t, "regions")
	case 2:
		r.Labels = someLabels.Draw(t, "wanted labels")
	case 3:
		r.Apart = true
	case 4:
		r.Avoid = someHosts.Draw(t, "avoid")
	case 5:
		r.Failed = someHosts.Draw(t, "failed")
	case 6:
		r.Regions, r.Labels, r.Apart = []string{"eu"}, someLabels.Draw(t, "wanted labels"), true
		r.Avoid, r.Failed = someHosts.Draw(t, "avoid"), someHosts.Draw(t, "failed")
	}
	return r
}

// TestFleet: whatever happened to it, a fleet answers what the plain form does,
// to the last word and number; and so does a copy of it.
func TestFleet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first := newModel(rapid.SampledFrom([]schedule.Policy{schedule.Spread, schedule.Pack}).Draw(t, "policy"))
		first.fleet.SetLimit(rapid.SampledFrom([]int{2, 3, 8, 64}).Draw(t, "limit"))
		models := []*model{first}
		peers := []*plainPeers{newPeers(), newPeers()}
		which := func(t *rapid.T) *model { return models[rapid.IntRange(0, len(models)-1).Draw(t, "model")] }
		some := func(t *rapid.T) *plainPeers { return peers[rapid.IntRange(0, 1).Draw(t, "peers")] }
		put := func(t *rapid.T) {
			m, h := which(t), drawHost(t)
			if old, ok := m.hosts[h.ID]; ok && rapid.Bool().Draw(t, "almost the same") {
				switch rapid.IntRange(0, 3).Draw(t, "but") {
				case 0:
					old.Liveness, old.Schedulable = h.Liveness, h.Schedulable
				case 1:
					old.Capacity = h.Capacity
				case 2:
					old.Labels = h.Labels
				}
				h = old
			}
			m.put(h)
		}
		place := func(t *rapid.T) {
			m, p, r := which(t), some(t), drawRequest(t)
			if rapid.IntRange(0, 7).Draw(t, "peers asked") > 0 {
				r.Peers = p.peers
			} else {
				p = new(plainPeers)
			}
			for range rapid.IntRange(1, 3).Draw(t, "times") {
				got, want := m.fleet.Place(r), plain(m.policy, r, p.on, m.plain())
				if !reflect.DeepEqual(got, want) {
					t.Fatalf("%+v\ngot  %+v\nwant %+v\nof %+v", r, got, want, m.plain())
				}
				if got.HostID == "" {
					return
				}
				m.promise(got.HostID, r.Resources)
				if r.Image != "" {
					m.addImage(got.HostID, r.Image)
				}
				if r.Peers != nil {
					p.add(got.HostID)
				}
			}
		}
		for range rapid.IntRange(0, 20).Draw(t, "hosts") {
			put(t)
		}
		t.Repeat(map[string]func(*rapid.T){
			"put": put, "place": place, "place again": place, "place once more": place,
			"remove":  func(t *rapid.T) { which(t).remove(someHost.Draw(t, "host")) },
			"promise": func(t *rapid.T) { which(t).promise(someHost.Draw(t, "host"), demand.Draw(t, "resources")) },
			"release": func(t *rapid.T) { which(t).release(someHost.Draw(t, "host"), demand.Draw(t, "resources")) },
			"release all": func(t *rapid.T) {
				m, host := which(t), someHost.Draw(t, "host")
				m.release(host, m.used[host])
			},
			"add image":    func(t *rapid.T) { which(t).addImage(someHost.Draw(t, "host"), someImage.Draw(t, "image")) },
			"remove image": func(t *rapid.T) { which(t).removeImage(someHost.Draw(t, "host"), someImage.Draw(t, "image")) },
			"add peer":     func(t *rapid.T) { some(t).add(someHost.Draw(t, "host")) },
			"remove peer":  func(t *rapid.T) { some(t).remove(someHost.Draw(t, "host")) },
			"wear":         func(t *rapid.T) { which(t).fleet.Wear() },
			"clone": func(t *rapid.T) {
				models = append(models[max(0, len(models)-2):], which(t).clone())
			},
			"clone peers": func(t *rapid.T) {
				p := some(t)
				old := p.peers
				p.peers = old.Clone()
				old.Add(someHost.Draw(t, "host"))
			},
			"": func(t *rapid.T) {
				for _, m := range models {
					if err := m.fleet.Check(); err != nil {
						t.Fatal(err)
					}
					if m.fleet.Len() != len(m.hosts) {
						t.Fatalf("%d hosts of %d", m.fleet.Len(), len(m.hosts))
					}
				}
				for _, p := range peers {
					for n := range 24 {
						if got := p.peers.On(hostID(n)); got != p.on[hostID(n)] {
							t.Fatalf("%d peers on %s of %d", got, hostID(n), p.on[hostID(n)])
						}
					}
				}
			},
		})
	})
}

// TestLargeFleet is the same over many hosts, in blocks as they are.
func TestLargeFleet(t *testing.T) {
	for _, policy := range []schedule.Policy{schedule.Spread, schedule.Pack} {
		t.Run(string(policy), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(1, 2))
			m := newModel(policy)
			for n := range 1200 {
				m.put(largeHost(rnd, n))
			}
			sizes := miosa.Sizes()
			var placed []string
			p := newPeers()
			for n := range 250 {
				// What changes between two placements: some hosts of all kinds.
				for range 20 {
					host := fmt.Sprintf("host_%05d", rnd.IntN(1200))
					switch rnd.IntN(8) {
					case 0:
						m.remove(host)
					case 1:
						m.put(largeHost(rnd, rnd.IntN(1200)))
					case 2:
						m.addImage(host, "app")
					default:
						m.promise(host, sizes[rnd.IntN(len(sizes))].Resources)
					}
				}
				r := schedule.Request{Resources: sizes[rnd.IntN(len(sizes))].Resources, Peers: p.peers, Apart: n%7 == 0, Image: []string{"", "app"}[n%2]}
				if n%5 == 0 {
					r.Regions = []string{"us"}
				}
				if n%11 == 0 {
					r.Resources.GPU = 1
				}
				if n%13 == 0 {
					r.Labels = map[string]string{"disk": "nvme"}
				}
				if n%3 == 0 {
					r.Failed, r.Avoid = placed[max(0, len(placed)-3):], placed[:min(2, len(placed))]
				}
				got, want := m.fleet.Place(r), plain(policy, r, p.on, m.plain())
				if !reflect.DeepEqual(got, want) {
					t.Fatalf("%+v\ngot  %+v\nwant %+v", r, got, want)
				}
				if got.HostID != "" {
					placed = append(placed, got.HostID)
					m.promise(got.HostID, r.Resources)
					m.addImage(got.HostID, "app")
					p.add(got.HostID)
				}
			}
			if err := m.fleet.Check(); err != nil {
				t.Fatal(err)
			}
			if len(placed) < 125 {
				t.Errorf("only %d were placed", len(placed))
			}
		})
	}
}

func largeHost(rnd *rand.Rand, n int) miosa.Host {
	h := miosa.Host{
		ID: fmt.Sprintf("host_%05d", n), Region: []string{"eu", "eu", "us"}[n%3], Zone: []string{"a", "b", "a"}[n%3],
		Liveness: miosa.Alive, Schedulable: rnd.IntN(20) > 0, Overcommit: 2,
		Capacity: miosa.Resources{VCPUs: 4 << rnd.IntN(3), MemoryMB: 8192 << rnd.IntN(3), DiskMB: 65536 << rnd.IntN(2), GPU: max(0, rnd.IntN(20)-17)},
	}
	if rnd.IntN(30) == 0 {
		h.Liveness = miosa.Suspect
	}
	if rnd.IntN(10) == 0 {
		h.Labels = map[string]string{"disk": "nvme"}
	}
	return h
}

// A host's place among the fleet's is what is known of it, not when it came.
func TestHostsThatChange(t *testing.T) {
	half := miosa.Resources{VCPUs: 1, MemoryMB: 512, DiskMB: 1024}
	host := miosa.Host{ID: "one", Region: "eu", Zone: "a", Liveness: miosa.Alive, Schedulable: true, Capacity: miosa.Resources{VCPUs: 2, MemoryMB: 1024, DiskMB: 2048}}
	f := schedule.NewFleet(schedule.Spread)
	f.Promise("one", half) // before it joins
	reasons := func(r miosa.Resources, regions ...string) string {
		a := f.Place(schedule.Request{Resources: r, Regions: regions})
		if a.HostID != "" {
			return a.HostID + " in " + a.Region + "/" + a.Zone
		}
		return strings.Join(a.Reasons, "; ")
	}
	check := func(step, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %q, want %q", step, got, want)
		}
		if err := f.Check(); err != nil {
			t.Errorf("%s: %v", step, err)
		}
	}
	check("no host", reasons(half), "no host has joined yet")
	f.Put(host)
	check("joined", reasons(half), "one in eu/a")
	f.Promise("one", half)
	check("full", reasons(half), "1 host without 512 MB of free memory")
	check("full, and nothing is asked for", reasons(miosa.Resources{}), "one in eu/a")
	smaller := host
	smaller.Capacity.MemoryMB = 512
	f.Put(smaller)
	check("smaller than what is promised", reasons(miosa.Resources{}), "1 host without 0 MB of free memory")
	if free, ok := f.Free("one"); !ok || free.MemoryMB != -512 {
		t.Errorf("%+v is free", free)
	}
	f.Release("one", half)
	check("as much as is promised", reasons(miosa.Resources{}), "one in eu/a")
	f.Remove("one")
	check("removed", reasons(half), "no host has joined yet")
	if _, ok := f.Free("one"); ok {
		t.Error("a host that is gone has something free")
	}
	host.Region, host.Zone = "us", "z"
	f.Put(host)
	check("back, elsewhere", reasons(half), "one in us/z")
	check("where it was", reasons(half, "eu"), "1 host not in eu; it would fit in region us")
	f.Promise("one", half)
	check("what was promised still is", reasons(half), "1 host without 512 MB of free memory")
	f.Release("one", half)
	f.Release("one", half)
	if got := f.Promised("one"); got != (miosa.Resources{}) {
		t.Errorf("%+v is promised", got)
	}
	f.Remove("one")
	check("gone for good", reasons(half), "no host has joined yet")
}

func TestFree(t *testing.T) {
	for _, c := range []struct {
		vcpus      int
		overcommit float64
		want       int
	}{
		{8, 0, 8}, {8, 1, 8}, {8, 1.5, 12}, {3, 1.5, 4}, {4, 0.5, 2}, {8, -1, 8}, {8, math.NaN(), 8},
		{100, 1.15, 115}, // which a float has as 114.99…
		{1, math.Inf(1), 1 << 40}, {0, math.Inf(1), 0}, {1 << 30, 1 << 30, 1 << 40},
	} {
		h := schedule.Host{Host: miosa.Host{Capacity: miosa.Resources{VCPUs: c.vcpus, MemoryMB: 10}, Overcommit: c.overcommit}, Used: miosa.Resources{VCPUs: 1, MemoryMB: 11}}
		if got := schedule.Free(h); got != (miosa.Resources{VCPUs: c.want - 1, MemoryMB: -1}) {
			t.Errorf("%d vCPUs promised %v times over, less one: %+v", c.vcpus, c.overcommit, got)
		}
	}
}

// Where a host goes its peers go with it.
func TestPeersFollowTheirHost(t *testing.T) {
	f := schedule.NewFleet(schedule.Spread)
	host := func(id, zone string) miosa.Host {
		return miosa.Host{ID: id, Zone: zone, Liveness: miosa.Alive, Schedulable: true}
	}
	f.Put(host("a1", "a"))
	f.Put(host("b1", "b"))
	f.Put(host("b2", "b"))
	var p schedule.Peers
	p.Add("a1")
	p.Add("elsewhere")
	at := func() string { return f.Place(schedule.Request{Peers: &p}).HostID }
	if got := at(); got != "b1" {
		t.Errorf("%s beside a1", got)
	}
	f.Put(host("a1", "b"))
	f.Put(host("a2", "a"))
	if got := at(); got != "a2" {
		t.Errorf("%s, with a1 in zone b", got)
	}
	f.Remove("a1")
	if got := at(); got != "a2" {
		t.Errorf("%s, with a1 gone", got)
	}
	f.Put(host("elsewhere", "a"))
	if got := at(); got != "b1" {
		t.Errorf("%s, with one in zone a", got)
	}
	p.Remove("elsewhere")
	p.Remove("elsewhere")
	if got := at(); got != "a2" {
		t.Errorf("%s, with none", got)
	}
}

// Of many peers that come and go, as of few, what is left counts.
func TestManyPeers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, p := newModel(schedule.Spread), newPeers()
		for n := range 60 {
			m.put(miosa.Host{ID: hostID(n), Zone: fmt.Sprint(n % 3), Liveness: miosa.Alive, Schedulable: true})
		}
		check := func(what string) {
			r := schedule.Request{Peers: p.peers, Apart: rapid.Bool().Draw(t, "apart")}
			if got, want := m.fleet.Place(r), plain(m.policy, r, p.on, m.plain()); !reflect.DeepEqual(got, want) {
				t.Fatalf("%s: got %+v, want %+v, with %v", what, got, want, p.on)
			}
		}
		for range 2 {
			for _, n := range rapid.SliceOfNDistinct(rapid.IntRange(0, 70), 20, 70, rapid.ID[int]).Draw(t, "come") {
				p.add(hostID(n))
			}
			check("all are there")
			for n, leaving := range rapid.Permutation(slices.Sorted(maps.Keys(p.on))).Draw(t, "leave") {
				p.remove(leaving)
				if n%8 == 0 {
					check("some have left")
				}
				if n%5 == 0 {
					p.add(hostID(n))
				}
			}
			check("most have left")
		}
	})
}

// TestAllocations: what a placement costs in memory does not depend on the fleet.
func TestAllocations(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	f := schedule.NewFleet(schedule.Spread)
	for n := range 500 {
		f.Put(largeHost(rnd, n))
	}
	f.AddImage("host_00004", "app")
	var p schedule.Peers
	fits := schedule.Request{Resources: miosa.DefaultResources(), Peers: &p, Image: "app", Regions: []string{"eu"}, Avoid: []string{"host_00003"}}
	for what, r := range map[string]struct {
		schedule.Request
		most float64
	}{
		"that fits":     {fits, 1},
		"with labels":   {schedule.Request{Resources: miosa.DefaultResources(), Labels: map[string]string{"disk": "nvme"}}, 1},
		"no such label": {schedule.Request{Labels: map[string]string{"disk": "tape", "gpu": "h100"}}, 2},
		"too large":     {schedule.Request{Resources: miosa.Resources{MemoryMB: 1 << 20}, Regions: []string{"eu"}}, 2},
		"and promised":  {fits, 1},
	} {
		got := testing.AllocsPerRun(100, func() {
			a := f.Place(r.Request)
			if what == "and promised" {
				f.Promise(a.HostID, r.Resources)
				f.AddImage(a.HostID, "app")
				f.RemoveImage(a.HostID, "app")
				p.Add(a.HostID)
				p.Remove(a.HostID)
				f.Release(a.HostID, r.Resources)
			}
		})
		if got > r.most {
			t.Errorf("%s: %v allocations", what, got)
		}
	}
}
