package sim

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/balance"
	"github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/routing"
)

// router is the real machine of one, and the requests that go by what it says. Its
// time is s.now: it measures spans alone, by a clock that nobody sets.
type router struct {
	s       *Sim
	id      string
	machine *balance.Machine
	life    int           // of its process, counted
	table   routing.Table // as the machine's effects made it
	doors   []string      // of the table: host names and ports, sorted
	turns   map[string]uint64
	targets map[routing.Backend]*target
	flights []*flight // in order of their beginning
	tunnels uint64    // opened so far
	updates lane
	reports lane
	at      *decider // whose feed it has
	stream  int      // the subscription that counts
	wake    time.Time
	timer   int  // the one that counts
	silent  bool // cut off from control: serves on from the table it has
	down    bool

	heard  time.Time // when a report last reached control
	lapsed time.Time // until when control last had to take it for dead
}

// target is a backend as the router's process has it.
type target struct {
	inFlight  int
	retired   bool
	left      time.Time // when it was retired
	failures  int
	sidelined time.Time // until then
}

// flight is a request, a raw connection or a tunnel.
type flight struct {
	r      *router
	at     string
	to     routing.Backend
	vm     *vm
	began  time.Time
	limit  time.Duration    // drain of its pool
	tunnel balance.TunnelID // 0: none
	over   bool
}

// ending is how a flight ended.
type ending int

const (
	finished ending = iota // by itself, or a tunnel in order
	cut                    // by its router, at the end of a drain
	severed                // by the end of its VM, or of its router
)

func newRouter(s *Sim, n int) *router {
	r := &router{s: s, id: fmt.Sprintf("router-%d", n), heard: s.now}
	r.start()
	r.traffic()
	return r
}

// start is a process that knows nothing yet.
func (r *router) start() {
	r.life++
	r.timer++
	r.machine = balance.NewMachine(r.id)
	r.table = routing.Table{Routes: map[string]routing.Pool{}, Ports: map[int]routing.Pool{}}
	r.doors, r.wake, r.down = nil, time.Time{}, false
	r.turns, r.targets = map[string]uint64{}, map[routing.Backend]*target{}
	r.subscribe()
}

// crash is a SIGKILL of the router, and its next start a little later. What went
// through it is lost, by a fault that was injected.
func (r *router) crash() {
	if r.down {
		return
	}
	r.s.trace("%s crashes", r.id)
	r.down = true
	r.life++
	for _, f := range slices.Clone(r.flights) {
		r.s.report.Excused++
		r.land(f)
	}
	r.s.after(r.s.between(100*time.Millisecond, 20*time.Second), r.start)
}

// subscribe takes the feed up anew: the whole table comes, once there is one, and
// nothing of what was on its way before.
func (r *router) subscribe() {
	r.stream++
	r.at = r.s.control
	if r.at.table.Generation > 0 {
		r.send(r.at.table.Whole())
	}
}

// follow has the router turn to whoever decides now.
func (r *router) follow() {
	if r.at != r.s.control && !r.silent && !r.down {
		r.subscribe()
	}
}

// send is an update on its way to the router.
func (r *router) send(u routing.Update) {
	if u.Whole { // what a router keeps is its own
		u = routing.Table{Generation: u.Generation, Routes: u.Routes, Ports: u.Ports}.Whole()
	}
	stream := r.stream
	here := func() bool { return stream == r.stream && !r.at.ended && !r.silent && !r.down }
	if r.s.cfg.Faults && r.s.chance(0.01) {
		// The next update shows that one is missing; if there is none, the stream is
		// found broken after a while.
		r.s.trace("%s does not get table %d", r.id, u.Generation)
		r.s.after(r.s.between(time.Second, 8*time.Second), func() {
			if here() {
				r.subscribe()
			}
		})
		return
	}
	r.s.inOrder(&r.updates, r.s.between(200*time.Microsecond, 80*time.Millisecond), func() {
		if here() {
			r.feed(balance.Updated{Update: u})
		}
	})
}

// fallSilent cuts the router off from control for a while. Then it takes the feed
// up again.
func (r *router) fallSilent(d time.Duration) {
	if r.silent {
		return
	}
	r.s.trace("%s is cut off for %s", r.id, d)
	r.silent = true
	r.s.after(d, func() {
		r.s.trace("%s is back", r.id)
		r.silent = false
		r.subscribe()
	})
}

// behind: control took it for dead, for want of reports, and what it had sent off
// meanwhile may still be on its way. What it loses is nobody's fault.
func (r *router) behind() bool {
	return r.unheard() || !r.lapsed.IsZero() && r.s.now.Sub(r.lapsed) < 2*miosa.DefaultDrain
}

// unheard: control has not heard it for so long that it gives it up, or is about to.
func (r *router) unheard() bool { return r.s.now.Sub(r.heard) > cell.RouterTimeout-time.Second }

// feed hands the machine an event and carries out what it says.
func (r *router) feed(ev balance.Event) {
	for _, effect := range r.machine.Handle(r.s.now, ev) {
		r.carryOut(effect)
	}
	at := r.machine.Wake()
	if _, ok := ev.(balance.Tick); ok && !at.IsZero() && !at.After(r.s.now) {
		r.s.fail("%s wants to be woken at once, right after it was", r.id)
	}
	if at.IsZero() || at.Equal(r.wake) {
		return
	}
	r.wake = at
	r.timer++
	timer := r.timer
	r.s.after(max(at.Sub(r.s.now), 0), func() {
		if timer == r.timer && !r.down {
			r.wake = time.Time{}
			r.feed(balance.Tick{})
		}
	})
}

// soon feeds an event that the process hears of a moment later, if it lives.
func (r *router) soon(ev balance.Event) {
	life := r.life
	r.s.after(r.s.between(0, 2*time.Millisecond), func() {
		if life == r.life {
			r.feed(ev)
		}
	})
}

func (r *router) carryOut(effect balance.Effect) {
	switch e := effect.(type) {
	case balance.SetPool:
		r.table.Routes[e.Host] = e.Pool
		r.turns[e.Host] = 0
		r.doors = doors(r.table)
	case balance.DropHost:
		delete(r.table.Routes, e.Host)
		r.doors = doors(r.table)
	case balance.SetPort:
		r.table.Ports[e.Port] = e.Pool
		r.turns[door(e.Port)] = 0
		r.doors = doors(r.table)
	case balance.DropPort:
		delete(r.table.Ports, e.Port)
		r.doors = doors(r.table)
	case balance.Admit:
		r.target(e.Backend).retired = false
	case balance.Retire:
		t := r.target(e.Backend)
		t.retired, t.left = true, r.s.now
	case balance.Forget:
		if n := r.target(e.Backend).inFlight; n > 0 {
			r.s.fail("%s forgets %s, where %d are in flight", r.id, e.Backend.InstanceID, n)
		}
		delete(r.targets, e.Backend)
	case balance.Cut:
		r.s.report.Cuts++
		for _, f := range slices.Clone(r.flights) {
			if f.to == e.Backend {
				r.end(f, cut)
			}
		}
	case balance.CloseTunnel:
		for _, f := range r.flights {
			if f.tunnel == e.Tunnel {
				r.s.after(r.s.between(time.Millisecond, 900*time.Millisecond), func() { r.end(f, finished) })
			}
		}
	case balance.Fetch:
		r.s.trace("%s misses an update", r.id)
		r.s.report.Gaps++
		r.subscribe()
	case balance.Count:
		counts := map[routing.Backend]int{}
		for b, t := range r.targets {
			if t.inFlight > 0 {
				counts[b] = t.inFlight
			}
		}
		r.feed(balance.Counted{InFlight: counts})
	case balance.Report:
		r.report(e.Report)
	}
}

// target is what the process keeps of a backend.
func (r *router) target(b routing.Backend) *target {
	t := r.targets[b]
	if t == nil {
		t = &target{}
		r.targets[b] = t
	}
	return t
}

// report is a report on its way. One that is lost is not repeated: the next says
// all that it said.
func (r *router) report(rep routing.Report) {
	if r.silent || r.s.cfg.Faults && r.s.chance(0.01) {
		return
	}
	at := r.at
	r.s.inOrder(&r.reports, r.s.between(200*time.Microsecond, 20*time.Millisecond), func() {
		if at == r.s.control {
			if r.unheard() {
				r.lapsed = r.s.now
			}
			r.heard = r.s.now
		}
		at.feed(cell.Reported{Report: rep})
	})
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
	if len(r.doors) > 0 && !r.down {
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
	excused := r.behind()
	c := r.s.client(at)
	tried := make([]bool, len(pool.Backends))
	for {
		standing := func(i int) balance.Standing {
			t := r.targets[pool.Backends[i]]
			switch {
			case tried[i]:
				return balance.Tried
			case t != nil && r.s.now.Before(t.sidelined):
				return balance.Sidelined
			}
			return balance.Usable
		}
		r.turns[at]++
		i, returned := balance.Pick(pool.Backends, c.tie(pool), r.turns[at], standing)
		if returned {
			for n, b := range pool.Backends {
				if t := r.targets[b]; t != nil && !tried[n] {
					t.sidelined = time.Time{}
				}
			}
		}
		if i < 0 {
			break
		}
		b := pool.Backends[i]
		o := r.s.at(b)
		if o == nil || !o.vm.alive || !o.vm.serving || o.h.frozen {
			// Refused: tried on the next one. A backend that was told to stop while
			// a router still holds it is what must never be.
			if o != nil && o.vm.alive && o.vm.stopping && !o.vm.injured && !r.behind() && !r.s.jumpedLately() {
				r.s.fail("request to %s refused by %s, which was told to stop while a router held it", at, b.InstanceID)
			}
			if o == nil && r.s.cfg.Faults || o != nil && (o.vm.injured || o.vm.deaf || o.h.frozen) {
				excused = true
			}
			tried[i] = true
			t := r.target(b)
			t.failures++
			t.sidelined = r.s.now.Add(balance.Sideline(t.failures))
			continue
		}
		c.came(r.s, pool, standing, b.InstanceID)
		r.begin(at, pool, b, o.vm)
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

func (r *router) begin(at string, pool routing.Pool, b routing.Backend, v *vm) {
	f := &flight{r: r, at: at, to: b, vm: v, began: r.s.now, limit: pool.Drain}
	t := r.target(b)
	t.inFlight++
	t.failures, t.sidelined = 0, time.Time{}
	r.flights, v.flights = append(r.flights, f), append(v.flights, f)
	took := r.s.between(time.Millisecond, time.Second)
	switch {
	case r.s.chance(0.05):
		took = r.s.between(time.Second, 2*f.limit) // a long one: may pass the drain limit
	case r.s.chance(0.04):
		took = r.s.between(10*time.Second, 10*time.Minute)
		if pool.Protocol != miosa.ProtocolTCP {
			r.tunnels++
			r.s.report.Tunnels++
			f.tunnel = balance.TunnelID(r.tunnels)
			r.soon(balance.Opened{Tunnel: f.tunnel, Backend: b})
		}
	}
	if r.s.cfg.Faults && r.s.chance(0.001) {
		r.soon(balance.Faulted{Backend: b, Why: "the app sent more than the one answer that a request has"})
	}
	v.on.after(took, func() { r.end(f, finished) })
}

// land takes a flight off the books.
func (r *router) land(f *flight) {
	f.over = true
	is := func(other *flight) bool { return other == f }
	r.flights, f.vm.flights = slices.DeleteFunc(r.flights, is), slices.DeleteFunc(f.vm.flights, is)
}

func (r *router) end(f *flight, how ending) {
	if f.over {
		return
	}
	r.land(f)
	t := r.target(f.to)
	t.inFlight--
	if f.tunnel != 0 {
		r.soon(balance.Closed{Tunnel: f.tunnel})
	}
	if t.inFlight == 0 && t.retired && !r.s.chance(0.05) { // else the process was too busy to hear of it
		r.soon(balance.Idle{Backend: f.to})
	}
	age := r.s.now.Sub(f.began)
	switch {
	case how == finished:
	case how == cut:
		r.s.report.Excused++
		if drained := r.s.now.Sub(t.left); !t.retired || drained < balance.Window(f.limit) {
			r.s.fail("%s cuts a request to %s %s after that left its table, within the drain limit", r.id, f.to.InstanceID, drained)
		}
	case f.vm.injured, f.vm.on.cutLately(), r.behind(), r.s.jumpedLately(), age >= f.limit && f.tunnel == 0:
		r.s.report.Excused++
	default:
		r.s.report.Lost++
		r.s.fail("a request of %s to %s was cut after %s, within the drain limit, by no fault", f.at, f.to.InstanceID, age)
	}
}

// sever ends what is in flight at a VM that takes no more, or is gone.
func (s *Sim) sever(v *vm) {
	for _, f := range slices.Clone(v.flights) {
		f.r.end(f, severed)
	}
}

// jumpedLately: deadlines that the clock jumped over came early.
func (s *Sim) jumpedLately() bool {
	return !s.jumped.IsZero() && s.now.Sub(s.jumped) < 5*time.Minute
}

// client is one of a few who come again and again to the same door, through any
// router.
type client struct {
	name   string
	cookie string // the instance that it stands for
	// chosen had its last request, among those that could have had it.
	chosen string
	among  []string
}

// client is one of a door's.
func (s *Sim) client(at string) *client {
	name := fmt.Sprint(at, " client ", s.rng.IntN(4))
	c := s.clients[name]
	if c == nil {
		c = &client{name: name}
		s.clients[name] = c
	}
	return c
}

// tie is what ties the client to a backend of the pool.
func (c *client) tie(pool routing.Pool) balance.Tie {
	switch pool.Sticky.Mode {
	case miosa.StickyCookie:
		return balance.Tie{
			Tied: c.cookie != "", Key: routing.KeyOf(c.cookie),
			At: slices.IndexFunc(pool.Backends, func(b routing.Backend) bool { return b.InstanceID == c.cookie }),
		}
	case miosa.StickyClientIP, miosa.StickyHeader:
		return balance.Tie{Tied: true, Key: routing.KeyOf(c.name), At: -1}
	}
	return balance.Tie{}
}

// came notes who had the client's request. It goes where its last one went, by
// whichever router, as long as that backend is there: or to one that was not there
// then.
func (c *client) came(s *Sim, pool routing.Pool, standing func(i int) balance.Standing, chosen string) {
	if cmp.Or(pool.Sticky.Mode, miosa.StickyNone) == miosa.StickyNone {
		return
	}
	var usable []string
	for i, b := range pool.Backends {
		if standing(i) == balance.Usable {
			usable = append(usable, b.InstanceID)
		}
	}
	if chosen != c.chosen && slices.Contains(usable, c.chosen) && slices.Contains(c.among, chosen) {
		s.fail("%s went to %s and now goes to %s, though both were there then and are now", c.name, c.chosen, chosen)
	}
	c.chosen, c.among = chosen, usable
	if pool.Sticky.Mode == miosa.StickyCookie && c.tie(pool).At < 0 {
		c.cookie = chosen
	}
}
