package sim

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/routing"
)

// router holds a table and sends requests by it.
type router struct {
	s        *Sim
	id       string
	table    routing.Table
	inFlight map[string]int
	updates  lane
	reports  lane
	next     int
	doors    []string // of the table: host names and ports, sorted
	silent   bool     // cut off from control: serves on from the table it has
	// behind: it was cut off for longer than control waits for a router, and
	// has not had a table since. What it loses is nobody's fault.
	behind bool
}

func newRouter(s *Sim, n int) *router {
	r := &router{s: s, id: fmt.Sprintf("router-%d", n), inFlight: map[string]int{}}
	r.beat()
	r.traffic()
	return r
}

func (r *router) send(u routing.Update) {
	epoch := r.s.epoch
	r.s.inOrder(&r.updates, r.s.between(200*time.Microsecond, 80*time.Millisecond), func() {
		if epoch == r.s.epoch && !r.silent {
			r.apply(u)
		}
	})
}

// apply goes over to the next table. Where an update is missing it asks for the
// whole one, as it is then.
func (r *router) apply(u routing.Update) {
	if u.Generation <= r.table.Generation {
		return
	}
	if u.Whole {
		u = routing.Table{Generation: u.Generation, Routes: u.Routes, Ports: u.Ports}.Whole()
	}
	if !r.table.Apply(u) {
		r.send(r.s.table.Whole())
		return
	}
	r.doors = doors(r.table)
	r.report()
}

// fallSilent cuts the router off from control for a while. Then it gets the
// newest table, as any router that connects.
func (r *router) fallSilent(d time.Duration) {
	if r.silent {
		return
	}
	r.s.trace("%s is cut off for %s", r.id, d)
	r.silent = true
	// Its last report may be two seconds old; beyond that control gives it up.
	r.s.after(cell.RouterTimeout-3*time.Second, func() { r.behind = r.behind || r.silent })
	r.s.after(d, func() {
		r.s.trace("%s is back", r.id)
		r.silent = false
		r.apply(r.s.table.Whole())
		r.report()
		// What it had sent off before is still on its way.
		r.s.after(2*miosa.DefaultDrain, func() { r.behind = r.silent })
	})
}

func (r *router) report() {
	if r.silent {
		return
	}
	rep := routing.Report{RouterID: r.id, Generation: r.table.Generation, InFlight: map[string]int{}, At: r.s.clock()}
	maps.Copy(rep.InFlight, r.inFlight)
	r.s.inOrder(&r.reports, r.s.between(200*time.Microsecond, 20*time.Millisecond), func() {
		r.s.tell(cell.Reported{Report: rep})
	})
}

func (r *router) beat() {
	r.report()
	r.s.after(2*time.Second, r.beat)
}

// doors are where clients may knock: the table's host names, and its ports.
func doors(t routing.Table) []string {
	all := sortedIDs(t.Routes)
	for _, number := range slices.Sorted(maps.Keys(t.Ports)) {
		all = append(all, door(number))
	}
	return all
}

func door(port int) string { return fmt.Sprint("port ", port) }

// poolBehind is the pool that a door leads to.
func poolBehind(t routing.Table, at string) (routing.Pool, bool) {
	if number, ok := strings.CutPrefix(at, "port "); ok {
		n, _ := strconv.Atoi(number)
		p, open := t.Ports[n]
		return p, open
	}
	p, open := t.Routes[at]
	return p, open
}

// traffic is one request, or raw connection, at one door after the other.
func (r *router) traffic() {
	if len(r.doors) > 0 {
		r.request(r.doors[r.s.rng.IntN(len(r.doors))])
	}
	r.s.after(r.s.between(5*time.Millisecond, 3*time.Second), r.traffic)
}

func (r *router) request(at string) {
	pool, _ := poolBehind(r.table, at)
	if pool.VersionID == "" {
		return
	}
	r.s.report.Requests++
	if pool.Protocol == miosa.ProtocolTCP {
		r.s.report.Connections++
	}
	excused := r.behind
	for range pool.Backends {
		r.next++
		b := pool.Backends[r.next%len(pool.Backends)]
		o := r.s.at(b)
		if o == nil || !o.vm.alive || !o.vm.serving {
			// Refused: tried on the next one. A backend that was told to stop while
			// a router still holds it is what must never be.
			if o != nil && o.vm.alive && o.vm.stopping && !o.vm.injured && !r.behind && !r.s.jumpedLately() {
				r.s.fail("request to %s refused by %s, which was told to stop while a router held it", at, b.InstanceID)
			}
			if o == nil && r.s.cfg.Faults || o != nil && o.vm.injured || o != nil && o.vm.deaf {
				excused = true
			}
			continue
		}
		r.begin(at, b.InstanceID, o.vm, pool.Drain)
		return
	}
	r.s.check.noBackend(at, pool, excused)
}

// at finds the VM behind an address.
func (s *Sim) at(b routing.Backend) *occupant {
	for _, h := range s.hosts {
		if o := h.slots[b.InstanceID]; o != nil && o.vm != nil && o.vm.addr == b.Address && b.Address != (netip.AddrPort{}) {
			return o
		}
	}
	return nil
}

func (r *router) begin(at, instance string, v *vm, limit time.Duration) {
	took := r.s.between(time.Millisecond, time.Second)
	if r.s.chance(0.05) {
		took = r.s.between(time.Second, 2*limit) // a long one: may pass the drain limit
	}
	began := r.s.now
	r.inFlight[instance]++
	r.s.after(took, func() {
		if r.inFlight[instance]--; r.inFlight[instance] <= 0 {
			delete(r.inFlight, instance)
			if _, open := poolBehind(r.table, at); open {
				r.report()
			}
		}
		switch {
		case v.alive && !v.stopping:
		case v.injured, r.behind, r.s.jumpedLately():
			r.s.report.Excused++
		case r.s.now.Sub(began) >= limit:
			r.s.report.Excused++
		default:
			r.s.report.Lost++
			r.s.fail("a request of %s to %s was cut after %s, within the drain limit, by no fault", at, instance, r.s.now.Sub(began))
		}
	})
}

// jumpedLately: deadlines that the clock jumped over came early.
func (s *Sim) jumpedLately() bool {
	return !s.jumped.IsZero() && s.now.Sub(s.jumped) < 5*time.Minute
}
