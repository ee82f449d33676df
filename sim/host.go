package sim

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/control"
	"github.com/miosa/miosa/health"
	"github.com/miosa/miosa/lifecycle"
	"github.com/miosa/miosa/liveness"
	"github.com/miosa/miosa/store"
)

// host is one machine: its agent (which may crash) and its VMs (which live on).
type host struct {
	s     *Sim
	id    string
	n     int
	epoch int  // of the agent
	lane  lane // from control
	up    lane // to it: beats
	slots map[string]*occupant
	ended map[string]bool // as the agent remembers
	next  int
	full  bool // its disk: nothing boots

	at             *decider      // whom it is connected to
	session, beats int64         // of its present connection
	skew           time.Duration // of its clock, against the others'
	contact        time.Time     // when the last beat was sent that was acknowledged; at first when the machine started
	since, back    time.Time     // it is not heard, and was again
	cut            bool          // off from control: nothing comes through, either way
	muted          bool          // what it says does not come through, what it is told does
	dead, gone     bool          // nothing runs there; for good
	frozen         bool          // nothing happens there: its processor stands still, agent and VMs alike
	missed         []func()      // what would have happened meanwhile, in order
	thawed         time.Time     // when it last ran again
	troubled       time.Time     // when something last went wrong there
}

// clock is the time of day as the host has it.
func (h *host) clock() time.Time { return h.s.clock().Add(h.skew) }

// heard reports whether what it says comes through.
func (h *host) heard() bool { return !h.cut && !h.muted && !h.frozen }

// awake is what happens on the host at that time, or once it runs again.
func (h *host) awake(do func()) func() {
	return func() {
		if h.frozen {
			h.missed = append(h.missed, do)
			return
		}
		do()
	}
}

// after has something happen on the host.
func (h *host) after(d time.Duration, do func()) { h.s.after(d, h.awake(do)) }

func (h *host) inOrder(l *lane, d time.Duration, do func()) { h.s.inOrder(l, d, h.awake(do)) }

// occupant is one instance on a host.
type occupant struct {
	h       *host
	machine *lifecycle.Machine
	saved   miosa.Observation // what is on disk
	in      miosa.Instance
	vm      *vm
	wake    time.Time
	timer   int // the one that counts
	reports lane
	lost    bool // with the disk it was written on: what was not reported never is
}

// vm is one booted machine with the app in it.
type vm struct {
	boot     int
	alive    bool
	serving  bool // accepts and answers well
	deaf     bool // accepts and says nothing
	stopping bool
	over     bool // its app has ended
	injured  bool // a fault was injected
	addr     netip.AddrPort
	words    lane // what the guest says
	flights  []*flight
	on       *host
}

func newHost(s *Sim, n int) *host {
	h := &host{s: s, id: fmt.Sprintf("host_%026d", n), n: n, slots: map[string]*occupant{}, ended: map[string]bool{}, contact: s.now, skew: s.apart()}
	h.beat()
	return h
}

// beat is a sign of life of the agent, every now and then.
func (h *host) beat() {
	h.beats++
	e, at, sent := cell.Beat{Host: h.id, Session: h.session, Seq: h.beats}, h.at, h.s.now
	say := func() {
		if !h.heard() || at == nil || at.ended {
			return
		}
		at.feed(e)
		if !at.paused && sent.After(h.contact) {
			h.contact = sent
		}
	}
	h.s.inOrder(&h.up, h.s.between(100*time.Microsecond, 10*time.Millisecond), say)
	if h.s.cfg.Faults && h.s.chance(0.01) { // it comes twice, out of order
		h.s.after(h.s.between(time.Millisecond, 5*time.Second), say)
	}
	h.after(liveness.BeatEvery, h.beat)
}

func (h *host) noun() miosa.Host {
	return miosa.Host{
		ID: h.id, Name: fmt.Sprintf("h%d", h.n), Region: "here", Zone: fmt.Sprintf("z%d", h.n%3), Driver: "sim",
		// Room for twenty: about all that users want at once, but not two versions
		// of everything.
		Capacity: miosa.Resources{VCPUs: 8, MemoryMB: 10240, DiskMB: 65536}, Overcommit: 4,
		Schedulable: true, Liveness: miosa.Alive,
	}
}

// send brings one assignment, in order.
func (h *host) send(i miosa.Instance) {
	h.inOrder(&h.lane, h.s.between(100*time.Microsecond, 10*time.Millisecond), func() {
		if !h.cut {
			h.assign(i)
		}
	})
}

// reconnect is a new stream from control: everything it knows, anew.
func (h *host) reconnect() {
	h.s.sessions++
	h.at, h.session, h.beats = h.s.control, h.s.sessions, 0
	h.inOrder(&h.lane, h.s.between(time.Millisecond, 100*time.Millisecond), func() {
		if h.cut {
			return // it connects when it can
		}
		known := map[string]bool{}
		for _, i := range h.s.instances() {
			if i.HostID == h.id && !i.State().Terminal() {
				known[i.ID] = true
				h.assign(h.s.check.asKnown(i))
			}
		}
		for _, id := range sortedIDs(h.slots) {
			if o := h.slots[id]; !known[id] {
				gone := o.in
				gone.Goal = miosa.GoalStop
				gone.Generation++
				h.assign(gone)
			}
		}
	})
}

// cutOff parts the host and control for a while. What runs there goes on, and
// serves whom routers send.
func (h *host) cutOff(d time.Duration) { h.part(d, &h.cut, "is cut off") }

// mute parts them one way only: control is heard, and does not hear.
func (h *host) mute(d time.Duration) { h.part(d, &h.muted, "is not heard, and hears,") }

func (h *host) part(d time.Duration, parted *bool, words string) {
	if !h.heard() {
		return
	}
	h.s.trace("%s %s for %s", h.id, words, d)
	*parted, h.since, h.troubled = true, h.s.now, h.s.now
	h.s.after(d, func() {
		if h.gone {
			return
		}
		h.s.trace("%s is back", h.id)
		*parted, h.back, h.troubled = false, h.s.now, h.s.now
		h.reconnect()
	})
}

// freeze stops all of the machine for a while: to itself no time has passed.
func (h *host) freeze(d time.Duration) {
	if !h.heard() {
		return
	}
	h.s.trace("%s freezes for %s", h.id, d)
	h.s.report.Frozen++
	h.frozen, h.since, h.troubled = true, h.s.now, h.s.now
	h.s.after(d, func() {
		if h.gone {
			return
		}
		h.s.trace("%s runs again", h.id)
		h.frozen, h.back, h.thawed, h.troubled = false, h.s.now, h.s.now, h.s.now
		missed := h.missed
		h.missed = nil
		for _, do := range missed {
			do()
		}
		h.reconnect()
	})
}

// cutLately: what runs there may be lost to control, and ended when the host is
// heard again, while routers still see it through its drain.
func (h *host) cutLately() bool {
	return !h.heard() || !h.back.IsZero() && h.s.now.Sub(h.back) < miosa.DefaultDrain
}

// die is the end of all that runs on the host; its machine is back after a while,
// with its disk.
func (h *host) die(d time.Duration) {
	if !h.heard() {
		return
	}
	h.s.trace("%s dies, for %s", h.id, d)
	h.end()
	h.s.after(d, func() {
		if h.gone {
			return
		}
		h.cut, h.dead, h.back, h.contact = false, false, h.s.now, h.s.now
		h.crashAgent()
	})
}

// goForGood is the end of the host.
func (h *host) goForGood() {
	h.s.trace("%s dies for good", h.id)
	h.gone = true
	h.end()
}

// end ends all that runs there.
func (h *host) end() {
	h.troubled = h.s.now
	if h.dead = true; h.heard() {
		h.since = h.s.now
	}
	h.cut, h.frozen, h.missed = true, false, nil
	h.epoch++
	for _, id := range sortedIDs(h.slots) {
		if v := h.slots[id].vm; v != nil {
			v.alive, v.serving, v.injured = false, false, true
			h.s.sever(v)
		}
	}
}

func sortedIDs[T any](m map[string]T) []string {
	ids := make([]string, 0, len(m))
	for id := range m {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func (h *host) assign(i miosa.Instance) {
	o := h.slots[i.ID]
	if o == nil {
		if i.State().Terminal() || h.ended[i.ID] {
			return
		}
		o = &occupant{h: h, machine: lifecycle.New(i), in: i}
		h.slots[i.ID] = o
	}
	if i.Generation >= o.in.Generation {
		o.in = i
	}
	o.feed(lifecycle.Assigned{Instance: i})
}

// crashAgent is a SIGKILL of the agent and its next start.
func (h *host) crashAgent() {
	h.s.trace("agent of %s crashes", h.id)
	h.epoch++
	h.troubled = h.s.now
	for _, id := range sortedIDs(h.slots) {
		o := h.slots[id]
		if o.saved.State == "" {
			delete(h.slots, id) // nothing was written down yet: control tells it again
			if o.vm != nil {
				o.vm.alive = false
			}
			continue
		}
		o.machine = lifecycle.Resume(o.in, o.saved, h.clock())
		o.wake = time.Time{}
		o.timer++
		o.report(o.saved)
		lost := o.vm == nil || !o.vm.alive || o.vm.boot != o.saved.Boot
		epoch := h.epoch
		h.after(h.s.between(time.Millisecond, 300*time.Millisecond), func() {
			if epoch != h.epoch {
				return
			}
			if lost && o.saved.State != miosa.Pending {
				if o.vm != nil {
					o.vm.alive = false
				}
				o.feed(lifecycle.Vanished{Boot: o.saved.Boot, Message: "gone while the agent was away"})
				return
			}
			if o.vm != nil && o.vm.alive {
				o.replay(o.vm)
			}
			o.feed(lifecycle.Tick{})
		})
	}
	h.reconnect()
}

// loseDisk is the end of all that the host knew and ran; the machine comes
// back with an empty disk.
func (h *host) loseDisk() {
	h.s.trace("%s loses its disk", h.id)
	clear(h.ended)
	h.epoch++
	h.troubled = h.s.now
	for _, id := range sortedIDs(h.slots) {
		o := h.slots[id]
		o.lost = true
		if o.vm != nil {
			o.vm.alive, o.vm.serving, o.vm.injured = false, false, true
			h.s.sever(o.vm)
		}
		delete(h.slots, id)
	}
	h.reconnect()
}

// fill makes its disk full for a while.
func (h *host) fill(d time.Duration) {
	h.s.trace("the disk of %s is full for %s", h.id, d)
	h.troubled = h.s.now
	h.full = true
	h.s.after(d, func() { h.full = false })
}

// replay is the guest saying hello again: an app that started while the agent
// was away is told of.
func (o *occupant) replay(v *vm) {
	if v.serving || v.deaf {
		o.feed(lifecycle.Reached{Boot: v.boot, Name: "app_started", At: o.h.clock()})
		o.feed(lifecycle.Reached{Boot: v.boot, Name: "listening", At: o.h.clock(), Hint: "any"})
	}
}

func (o *occupant) feed(ev lifecycle.Event) {
	if o.h.slots[o.in.ID] != o {
		return
	}
	s := o.h.s
	for _, ev := range []lifecycle.Event{lifecycle.Heard{Ago: s.now.Sub(o.h.contact)}, ev} {
		for _, effect := range o.machine.Handle(o.h.clock(), ev) {
			o.carryOut(effect)
		}
	}
	at := o.machine.Wake()
	if at.IsZero() || at.Equal(o.wake) {
		return
	}
	o.wake = at
	o.timer++
	timer := o.timer
	o.later(max(at.Sub(o.h.clock()), 0), func() {
		if timer == o.timer {
			o.wake = time.Time{}
			o.feed(lifecycle.Tick{})
		}
	})
}

// later does something unless the agent has crashed meanwhile.
func (o *occupant) later(d time.Duration, do func()) {
	epoch := o.h.epoch
	o.h.after(d, func() {
		if epoch == o.h.epoch {
			do()
		}
	})
}

func (o *occupant) carryOut(effect lifecycle.Effect) {
	s := o.h.s
	switch e := effect.(type) {
	case lifecycle.Boot:
		if o.vm != nil && o.vm.alive {
			s.fail("%s boots while the VM of boot %d still runs", o.in.ID, o.vm.boot)
		}
		if in := o.machine.Instance(); !in.Proven && in.RestartNonce == 0 && e.Boot > health.RolloutBoots {
			s.fail("%s, of a version that was never healthy, is booted for the %dth time", in.ID, e.Boot)
		}
		o.boot(e.Boot)
	case lifecycle.Probe:
		o.probe(e)
	case lifecycle.StopGuest:
		o.stop(e.Boot)
	case lifecycle.Kill:
		if v := o.vm; v != nil {
			v.alive, v.serving = false, false
			o.vm = nil
			s.sever(v)
		}
	case lifecycle.Report:
		s.check.observed(o, e.Observation)
		o.saved = e.Observation
		o.report(e.Observation)
		s.trace("%s %s boot %d %s", o.in.ID, e.Observation.State, e.Observation.Boot, e.Observation.Failure.Message)
		if e.Observation.State.Terminal() {
			delete(o.h.slots, o.in.ID)
			o.h.ended[o.in.ID] = true
		}
	}
}

// report brings an observation to the store, in order, whatever happens to
// the agent: the reporter keeps it on disk.
func (o *occupant) report(obs miosa.Observation) {
	s, hostID, epoch := o.h.s, o.h.id, o.h.epoch
	o.h.inOrder(&o.reports, s.between(500*time.Microsecond, 30*time.Millisecond), func() {
		if o.lost {
			return
		}
		if !o.h.heard() { // said again when it can be; later ones say more
			o.h.after(time.Second, func() { o.report(obs) })
			return
		}
		record := func() {
			_, err := store.Update(context.Background(), s.store, func(tx *store.Tx) error {
				return control.Record(tx, hostID, obs, s.clock(), s)
			})
			if err != nil && miosa.CodeOf(err) != miosa.NotFound {
				s.fail("report of %s refused: %v", obs.InstanceID, err)
			}
			if o.in.Once() {
				o.answered(obs, epoch, err)
			}
		}
		lost := 0.01
		if o.in.Once() && obs.State == miosa.Starting {
			lost = 0.1
		}
		if s.cfg.Faults && s.chance(lost) { // its answer is lost, and it comes again, late
			_, _ = store.Update(context.Background(), s.store, func(tx *store.Tx) error {
				return control.Record(tx, hostID, obs, s.clock(), s)
			})
			s.after(s.between(time.Millisecond, 5*time.Second), record)
			return
		}
		record()
	})
}

func (o *occupant) boot(n int) {
	s := o.h.s
	s.report.Boots++
	behaviour := behaviourOf(o.in.Spec.Command)
	v := &vm{boot: n, on: o.h}
	o.vm = v
	o.later(s.between(10*time.Millisecond, 500*time.Millisecond), func() {
		if o.vm != v {
			return
		}
		o.feed(lifecycle.Reached{Boot: n, Name: "image_ready", At: o.h.clock()})
		if o.h.full {
			v.injured = true
			o.feed(lifecycle.NotStarted{Boot: n, Failure: miosa.Failure{Kind: miosa.FailureHost, Message: "the host's disk is full"}})
			return
		}
		if s.cfg.Faults && s.chance(0.01) {
			o.feed(lifecycle.NotStarted{Boot: n, Failure: miosa.Failure{Kind: miosa.FailureHost, Message: "the host could not start the virtual machine"}})
			return
		}
		o.h.next++
		v.alive = true
		v.addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(o.h.n), byte(o.h.next >> 8), byte(o.h.next)}), uint16(max(o.in.Spec.Port, 1)))
		o.feed(lifecycle.Started{Boot: n, VMID: fmt.Sprintf("%s-%d", o.in.ID, n), Addr: v.addr, At: o.h.clock()})
		// From here on things happen in the VM, agent or no agent.
		o.h.after(s.between(500*time.Millisecond, 4*time.Second), func() { o.inside(v, behaviour) })
	})
}

// inside is the app's life after the kernel and PID 1 came up.
func (o *occupant) inside(v *vm, b behaviour) {
	if !v.alive || v.stopping {
		return
	}
	s := o.h.s
	if o.in.Once() {
		o.inTask(v, b)
		return
	}
	if b == missing {
		o.exit(v, miosa.Failure{Kind: miosa.FailureNotFound, Message: "not found"})
		return
	}
	s.check.runsAlone(o)
	o.say(v, lifecycle.Reached{Boot: v.boot, Name: "app_started", At: o.h.clock()})
	start := s.between(20*time.Millisecond, 2*time.Second)
	if b == slow {
		start = s.between(10*time.Second, 40*time.Second)
	}
	o.h.after(start, func() {
		if !v.alive || v.stopping {
			return
		}
		switch b {
		case crashes:
			o.exit(v, miosa.Failure{Kind: miosa.FailureExit, ExitCode: 1, Message: "exited with code 1"})
			return
		case never:
			return
		case sick:
			v.deaf = true
		case finishes:
			o.exit(v, miosa.Failure{Kind: miosa.FailureExit, Message: "exited with code 0"})
			return
		default:
			v.serving = true
		}
		o.say(v, lifecycle.Reached{Boot: v.boot, Name: "listening", At: o.h.clock(), Hint: "any"})
		if b == flaky {
			o.h.after(s.between(30*time.Second, 20*time.Minute), func() {
				if v.alive && !v.stopping {
					v.injured = true
					o.exit(v, miosa.Failure{Kind: miosa.FailureExit, ExitCode: 2, Message: "exited with code 2"})
				}
			})
		}
	})
}

// say brings the guest's words to the agent, if it is there to hear them.
func (o *occupant) say(v *vm, ev lifecycle.Event) {
	if o.vm != v {
		return
	}
	// One stream, on which nothing overtakes: the end of the VM is heard after
	// its last words.
	epoch := o.h.epoch
	o.h.inOrder(&v.words, o.h.s.between(100*time.Microsecond, 5*time.Millisecond), func() {
		if epoch == o.h.epoch {
			o.feed(ev)
		}
	})
}

func (o *occupant) exit(v *vm, f miosa.Failure) {
	o.h.s.report.Crashes++
	v.serving, v.deaf, v.over = false, false, true
	o.say(v, lifecycle.Exited{Boot: v.boot, Failure: f})
	o.h.after(o.h.s.between(time.Millisecond, 300*time.Millisecond), func() { o.vanish(v) })
}

func (o *occupant) vanish(v *vm) {
	if !v.alive {
		return
	}
	v.alive, v.serving = false, false
	o.h.s.sever(v)
	o.say(v, lifecycle.Vanished{Boot: v.boot})
}

func (o *occupant) stop(n int) {
	v, s := o.vm, o.h.s
	if v == nil || v.boot != n {
		return
	}
	v.stopping, v.serving = true, false // an app stops accepting on SIGTERM
	s.sever(v)
	took := s.between(50*time.Millisecond, 2*time.Second)
	if s.chance(0.05) {
		took = 20 * time.Second // deaf to SIGTERM, and PID 1 too
	}
	if o.in.Once() {
		if behaviourOf(o.in.Spec.Command) == stubborn {
			took = 20 * time.Second
		}
		o.stopTask(v, took)
		return
	}
	o.h.after(took, func() {
		if v.alive {
			o.say(v, lifecycle.Exited{Boot: v.boot, Stopped: true})
			o.h.after(s.between(time.Millisecond, 300*time.Millisecond), func() { o.vanish(v) })
		}
	})
}

func (o *occupant) probe(e lifecycle.Probe) {
	s, v := o.h.s, o.vm
	took := s.between(time.Millisecond, 60*time.Millisecond)
	o.later(took, func() {
		r := health.Result{At: o.h.clock(), Detail: "connection refused"}
		switch {
		case v == nil || !v.alive:
		case v.deaf:
			r.Detail = "answered 500"
		case v.serving:
			r.OK, r.Detail = true, "answered 200"
		}
		o.feed(lifecycle.Probed{Boot: e.Boot, Result: r})
	})
}
