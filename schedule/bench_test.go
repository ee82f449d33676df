package schedule_test

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

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

// BenchmarkPlace places, and promises what it placed and takes it back, so that
// the fleet stays as full as it is; the plain form only places.
func BenchmarkPlace(b *testing.B) {
	for _, hosts := range []int{5000, 50000} {
		for name, fill := range map[string]int{"half_full": 500, "nearly_full": 970} {
			b.Run(fmt.Sprintf("hosts=%d/%s", hosts, name), func(b *testing.B) {
				c := newCrowd(hosts, fill)
				for _, kind := range []string{"any", "region", "label", "gpu", "apart", "too_large", "no_such_label"} {
					b.Run(kind, func(b *testing.B) { c.benchmark(b, kind) })
				}
			})
		}
	}
}

func (c *crowd) benchmark(b *testing.B, kind string) {
	services, requests := c.requests(kind)
	f := c.model.fleet
	for _, r := range requests {
		f.Place(r) // its peers are new to the fleet
	}
	b.Run("fleet", func(b *testing.B) {
		measure(b, 1, func(n int) int {
			r := &requests[n%len(requests)]
			a := f.Place(*r)
			if a.HostID == "" {
				return 0
			}
			f.Promise(a.HostID, r.Resources)
			r.Peers.Add(a.HostID)
			r.Peers.Remove(a.HostID)
			f.Release(a.HostID, r.Resources)
			return 1
		})
	})
	b.Run("plain", func(b *testing.B) {
		measure(b, 1, func(n int) int {
			n %= len(requests)
			if a := plain(schedule.Spread, requests[n], c.services[services[n]].on, c.list); a.HostID == "" {
				return 0
			}
			return 1
		})
	})
}

// measure reports the time of this process beside that of the clock (the machine
// may be busy with something else), for each of so many placements at a time.
func measure(b *testing.B, each int, place func(n int) (placed int)) {
	b.ReportAllocs()
	placed, before := 0, processorTime()
	for n := 0; b.Loop(); n++ {
		placed += place(n)
	}
	spent, asked := processorTime()-before, float64(b.N)*float64(each)
	b.ReportMetric(float64(spent.Nanoseconds())/asked, "cpu-ns/each")
	b.ReportMetric(asked/spent.Seconds(), "each/cpu-s")
	b.ReportMetric(100*float64(placed)/asked, "%placed")
}

func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkReplicas places so many replicas of one service, one after the other.
func BenchmarkReplicas(b *testing.B) {
	c := newCrowd(5000, 500)
	for _, replicas := range []int{1000, 2000, 4000, 8000} {
		for _, kind := range []string{"any", "apart"} {
			if kind == "apart" && replicas > 4000 {
				continue // more than there are hosts
			}
			b.Run(fmt.Sprintf("replicas=%d/%s", replicas, kind), func(b *testing.B) {
				measure(b, replicas, func(int) int {
					f := c.model.fleet.Clone()
					var p schedule.Peers
					r := schedule.Request{Resources: miosa.DefaultResources(), Peers: &p, Image: "one", Apart: kind == "apart"}
					for range replicas {
						a := f.Place(r)
						if a.HostID == "" {
							b.Fatal(a.Reasons)
						}
						f.Promise(a.HostID, r.Resources)
						f.AddImage(a.HostID, r.Image)
						p.Add(a.HostID)
					}
					return replicas
				})
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
				measure(b, 1, func(n int) int {
					change(n)
					return 1
				})
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
