package schedule_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/schedule"
)

// crowd is a large fleet with many small services on it, in both forms.
type crowd struct {
	rnd      *rand.Rand
	model    *model
	list     []plainHost // of the plain form
	services []*plainPeers
}

// newCrowd has so many hosts in 3 zones of 2 regions, of three sizes, whose
// memory is promised up to about fill thousandths.
func newCrowd(hosts, fill int) *crowd {
	c := &crowd{rnd: rand.New(rand.NewPCG(5, 6)), model: newModel(schedule.Spread)}
	for n := range hosts {
		h := miosa.Host{
			ID: fmt.Sprintf("host_%026d", n), Region: []string{"eu", "eu", "us"}[n%3], Zone: []string{"a", "b", "c"}[n%3],
			Liveness: miosa.Alive, Schedulable: n%100 != 0, Overcommit: 8,
			Capacity: miosa.Resources{VCPUs: 16 << (n % 3), MemoryMB: 65536 << (n % 3), DiskMB: 524288 << (n % 3)},
		}
		if n%50 == 0 {
			h.Capacity.GPU = 4
		}
		if n%10 == 0 {
			h.Labels = map[string]string{"disk": "nvme"}
		}
		if n%200 == 1 {
			h.Liveness = miosa.Suspect
		}
		c.model.fleet.Put(h)
		c.list = append(c.list, plainHost{Host: h, Images: map[string]int{}})
	}
	for range hosts {
		c.services = append(c.services, newPeers())
	}
	sizes := miosa.Sizes()
	for n := range c.list {
		h := &c.list[n]
		for h.Used.MemoryMB*1000 < h.Capacity.MemoryMB*(fill-100+c.rnd.IntN(200)) {
			r := sizes[c.rnd.IntN(len(sizes))].Resources
			if free := h.free(); r.MemoryMB > free.MemoryMB || r.VCPUs > free.VCPUs || r.DiskMB > free.DiskMB {
				break
			}
			c.hold(h, c.rnd.IntN(len(c.services)), r)
		}
	}
	return c
}

func image(service int) string { return fmt.Sprint("image_", service) }

func (c *crowd) hold(h *plainHost, service int, r miosa.Resources) {
	c.model.fleet.Promise(h.ID, r)
	c.model.fleet.AddImage(h.ID, image(service))
	c.services[service].add(h.ID)
	h.Used = schedule.Add(h.Used, r)
	h.Images[image(service)]++
}

// requests are what is placed one after the other.
func (c *crowd) requests(kind string) (services []int, requests []schedule.Request) {
	sizes := miosa.Sizes()
	for range 1000 {
		s := c.rnd.IntN(len(c.services))
		r := schedule.Request{Resources: sizes[c.rnd.IntN(len(sizes))].Resources, Peers: c.services[s].peers, Image: image(s)}
		switch kind {
		case "region":
			r.Regions = []string{"us"}
		case "label":
			r.Labels = map[string]string{"disk": "nvme"}
		case "gpu":
			r.Resources.GPU = 1
		case "apart":
			r.Apart = true
		case "too_large":
			r.Resources.MemoryMB = 1 << 20
		case "no_such_label":
			r.Labels = map[string]string{"disk": "tape"}
		}
		services, requests = append(services, s), append(requests, r)
	}
	return services, requests
}

// BenchmarkPlace places, and promises what it placed while another instance
// leaves, so that the fleet stays as full as it is.
func BenchmarkPlace(b *testing.B) {
	for _, hosts := range []int{5000, 50000} {
		for _, fleet := range []struct {
			name string
			fill int
		}{{"half_full", 500}, {"nearly_full", 970}} {
			c := newCrowd(hosts, fleet.fill)
			for _, kind := range []string{"any", "region", "label", "gpu", "apart", "too_large", "no_such_label"} {
				services, requests := c.requests(kind)
				name := fmt.Sprintf("hosts=%d/%s/%s", hosts, fleet.name, kind)
				b.Run(name+"/fleet", func(b *testing.B) {
					b.ReportAllocs()
					placed := 0
					for n := 0; b.Loop(); n++ {
						a := c.model.fleet.Place(requests[n%1000])
						if a.HostID == "" {
							continue
						}
						placed++
						c.model.fleet.Promise(a.HostID, requests[n%1000].Resources)
						requests[n%1000].Peers.Add(a.HostID)
						requests[n%1000].Peers.Remove(a.HostID)
						c.model.fleet.Release(a.HostID, requests[n%1000].Resources)
					}
					report(b, placed)
				})
				b.Run(name+"/plain", func(b *testing.B) {
					b.ReportAllocs()
					placed := 0
					for n := 0; b.Loop(); n++ {
						r := requests[n%1000]
						a := plain(schedule.Spread, r, c.services[services[n%1000]].on, c.list)
						if a.HostID != "" {
							placed++
						}
					}
					report(b, placed)
				})
			}
		}
	}
}

func report(b *testing.B, placed int) {
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "answers/s")
	b.ReportMetric(100*float64(placed)/float64(b.N), "%placed")
}

// BenchmarkReplicas places so many replicas of one service, one after the other.
func BenchmarkReplicas(b *testing.B) {
	for _, replicas := range []int{1000, 2000, 4000, 8000} {
		c := newCrowd(5000, 500)
		for _, kind := range []string{"", "apart"} {
			if kind != "" && replicas > 4000 {
				continue
			}
			b.Run(fmt.Sprintf("replicas=%d%s", replicas, kind), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					f := c.model.fleet.Clone()
					var p schedule.Peers
					r := schedule.Request{Resources: miosa.DefaultResources(), Peers: &p, Image: "one", Apart: kind != ""}
					for range replicas {
						a := f.Place(r)
						if a.HostID == "" {
							b.Fatal(a.Reasons)
						}
						f.Promise(a.HostID, r.Resources)
						f.AddImage(a.HostID, r.Image)
						p.Add(a.HostID)
					}
				}
				b.ReportMetric(float64(b.N)*float64(replicas)/b.Elapsed().Seconds(), "placements/s")
			})
		}
	}
}

// BenchmarkChange is what keeps a fleet up to date.
func BenchmarkChange(b *testing.B) {
	for _, hosts := range []int{5000, 50000} {
		c := newCrowd(hosts, 500)
		f := c.model.fleet
		at := func(n int) *plainHost { return &c.list[n*7919%len(c.list)] }
		run := func(name string, change func(n int)) {
			b.Run(fmt.Sprintf("hosts=%d/%s", hosts, name), func(b *testing.B) {
				b.ReportAllocs()
				for n := 0; b.Loop(); n++ {
					change(n)
				}
			})
		}
		size := miosa.DefaultResources()
		run("promise_and_release", func(n int) {
			f.Promise(at(n).ID, size)
			f.Release(at(n).ID, size)
		})
		run("put_unchanged", func(n int) { f.Put(at(n).Host) })
		run("cordon_and_uncordon", func(n int) {
			h := at(n).Host
			h.Schedulable = !h.Schedulable
			f.Put(h)
			f.Put(at(n).Host)
		})
		run("remove_and_put", func(n int) {
			f.Remove(at(n).ID)
			f.Put(at(n).Host)
		})
		run("add_and_remove_image", func(n int) {
			f.AddImage(at(n).ID, "image_7")
			f.RemoveImage(at(n).ID, "image_7")
		})
		run("clone", func(int) { f.Clone() })
	}
}
