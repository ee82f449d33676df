// Package liveness judges hosts by their agents' beats: alive, suspect when
// silent, lost when silent for long. It says too how many of the instances of
// silent hosts may be replaced by now, and which hosts cannot start anything. It
// is pure, and keeps nothing that must outlast a crash.
//
//	alive    → suspect  after SuspectAfter of silence
//	suspect  → alive    at its next beat; where it comes and goes, after Steady
//	                    of beats without a pause
//	suspect  → lost     once all its instances may be replaced, and either silent
//	                    for LostAfter or all of them are replaced
//	lost     → alive    as suspect does
//
// # Silence
//
// Silence is not told by the clock's difference alone, which may jump, but by
// time that was attended: between two events no more than Stride counts, and
// nothing where the clock went back. So a jump, or a pause of who decides, is no
// host's silence. After a pause of more than SuspectAfter, and after a start,
// nobody is judged for Window, the time in which agents connect again. Who cannot
// write to the store judges nobody; once it can, silence counts anew.
//
// # Brakes
//
// A suspect host's instances wait for a Grant, first come first served: within
// any minute those of AtOnceHosts hosts, or of AtOncePercent of the fleet if that
// is more, whole; beyond that PiecesPercent of the fleet's instances. The fleet is
// every host but the lost. When more than HoldPercent of at least HoldFrom hosts
// are silent, or all of fewer, nothing is granted and nobody is lost: it is
// likelier us, and there would be nowhere to go. That ends when half of them
// answer (of fewer than HoldFrom: any), and Window more has passed for the others;
// or when an operator says so. Quiet hosts, which missed two beats, count as
// silent here, because hosts that went silent together are not suspect in one
// moment. Another decider knows nothing of what was granted: see Window.
//
// # A host that comes and goes
//
// At its third suspicion within FlapWindow a host is kept suspect until it has
// answered for Steady without a pause: its instances are replaced once, instead of
// replacements being started and called off each time.
//
// # Wiring
//
// Feed it, from the one goroutine that owns it: Known for every record (with what
// it says) and Gone; Counted whenever that changes; Beat; Writable by what becomes
// of commits; StartFailed and StartSucceeded from observations as they arrive, not
// from those that were loaded; and Tick at Wake, after all other events that wait.
// Judge goes into the host's record, tried again until it is there. Grant and Hold
// are kept beside the world, in memory alone: the decision about an environment
// takes one for each instance that it begins to replace on a suspect host. When a
// host is lost its instances end as stopped with the reason host_lost. When it is
// alive again they are compared with what replaces them, by generation. Instances
// with a stop_after_disconnect also wait as MayReplace says, on lost hosts too.
package liveness

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/miosa/miosa"
)

const (
	// BeatEvery is how often an agent beats.
	BeatEvery = 2 * time.Second
	// QuietAfter is the silence after which a host does not count as answering:
	// two beats were missed.
	QuietAfter = 5 * time.Second
	// SuspectAfter is the silence after which a host is suspect.
	SuspectAfter = 10 * time.Second
	// LostAfter is the silence after which a suspect host is lost, unless
	// configured otherwise.
	LostAfter = 5 * time.Minute
	// Window is how long nobody is judged after a start or a long pause: agents
	// connect again within it.
	Window = 30 * time.Second
	// Stride is the most that counts as attended between two events.
	Stride = 2 * time.Second
	// Flaps suspicions within FlapWindow make a host one that comes and goes,
	// which has to answer for Steady without being quiet to be alive again.
	Flaps      = 3
	FlapWindow = 10 * time.Minute
	Steady     = time.Minute
	// tickEvery is the longest between two looks, so that a pause of who decides
	// is told from silence.
	tickEvery = time.Second
)

// Config is what may differ between cells.
type Config struct {
	LostAfter time.Duration // at least SuspectAfter; 0: LostAfter
}

// Machine judges all hosts. One goroutine owns it.
type Machine struct {
	lostAfter time.Duration
	hosts     map[string]*host

	last      time.Time     // the last event, by the clock
	clock     time.Duration // attended so far
	looked    time.Duration // the last Tick
	from      time.Duration // no silence counts from before
	judgeFrom time.Duration // nobody is judged before
	mute      bool          // the store takes no writes

	// Where the hosts of the fleet stand, each list in the order in which its hosts
	// were last heard. Overdue hosts are silent for long enough to be lost, but their
	// instances may not be replaced yet.
	fresh, quiet, silent, overdue list
	fleet                         int  // hosts that are not lost
	instances                     int  // on them
	replaced                      list // of them, what may be lost early
	untold                        list // judged while the store took no writes

	brakes
	failing list // in the order in which it ends
	out     []Effect
}

// host is one host's state.
type host struct {
	id, name string
	liveness miosa.Liveness
	reasons  []string // of the liveness
	unsaid   *Tell    // while the store takes no writes, the last one

	session, seq int64
	heard        time.Duration // by attended time; when it became known, at first
	ever         bool          // heard at all
	steady       time.Duration // since when it beats without being quiet

	suspected [Flaps]time.Duration // the last times, oldest first
	times     int                  // of them

	instances, replaced int
	granted             int // since it is suspect; those that needed nothing included
	all                 bool

	starts       []failedStart
	failing      bool
	failingUntil time.Duration
	failingWhy   string

	place, queue, done, rest, untold node
}

// New is a machine that knows no host yet. Its first event begins the Window.
func New(cfg Config) *Machine {
	return &Machine{
		lostAfter: max(cmp.Or(cfg.LostAfter, LostAfter), SuspectAfter),
		hosts:     map[string]*host{}, judgeFrom: Window,
		brakes: brakes{recent: map[string]time.Duration{}},
	}
}

// Handle takes one event and returns what is to be done, in order.
func (m *Machine) Handle(now time.Time, ev Event) []Effect {
	m.attend(now)
	switch e := ev.(type) {
	case Known:
		m.know(e)
	case Gone:
		m.gone(e)
	case Counted:
		m.count(e)
	case Beat:
		m.beat(e)
	case Writable:
		m.writable(e)
	case Proceed:
		m.proceed()
	case Declared:
		if h := m.hosts[e.Host]; h != nil && h.liveness == miosa.Suspect {
			m.lost(h, "an operator says so")
		}
	case Forgive:
		m.forgive(e)
	case StartFailed:
		m.startFailed(e)
	case StartSucceeded:
		m.startSucceeded(e)
	case Tick:
		m.tick()
	}
	out := m.out
	m.out = nil
	return out
}

// Status is what is known of one host.
type Status struct {
	Liveness miosa.Liveness
	Failing  bool
	// Silence is the attended time since it was last heard, or since it may have
	// been; never more than has passed.
	Silence time.Duration
}

// Status tells of one host, and whether it is known.
func (m *Machine) Status(id string) (Status, bool) {
	h := m.hosts[id]
	if h == nil {
		return Status{}, false
	}
	return Status{h.liveness, h.failing, m.silence(h)}, true
}

// Held reports whether a Hold is on.
func (m *Machine) Held() bool { return m.held }

// Wake is when to send a Tick; zero: when a host is known.
func (m *Machine) Wake() time.Time {
	if len(m.hosts) == 0 {
		return time.Time{}
	}
	at := m.looked + tickEvery
	if due, ok := m.due(); ok {
		at = min(at, due)
	}
	return m.last.Add(max(at-m.clock, 0))
}

// due is the attended time at which something follows from silence alone.
func (m *Machine) due() (at time.Duration, ok bool) {
	if m.mute {
		return 0, false
	}
	by := func(d time.Duration) {
		if !ok || d < at {
			at, ok = d, true
		}
	}
	if h := m.quiet.first(); h != nil {
		by(max(h.heard, m.from) + SuspectAfter)
	}
	if h := m.fresh.first(); h != nil {
		by(max(h.heard, m.from) + SuspectAfter)
	}
	if h := m.silent.first(); h != nil && !m.held {
		by(max(h.heard, m.from) + m.lostAfter)
	}
	if d, waits := m.nextGrant(); waits {
		by(d)
	}
	if h := m.failing.first(); h != nil {
		by(h.failingUntil)
	}
	return max(at, m.judgeFrom), ok
}

// attend counts the time since the last event, as far as it was attended.
func (m *Machine) attend(now time.Time) {
	passed := now.Sub(m.last)
	if m.last.IsZero() {
		passed = 0
	}
	m.last = now
	m.clock += min(max(passed, 0), Stride)
	if passed > SuspectAfter {
		m.begin()
		if len(m.hosts) > 0 && !m.mute {
			m.announce("control.paused", "for "+long(passed)+" nobody looked at the hosts, or the clock was set: none is judged for "+long(Window))
		}
	}
}

// begin lets silence count anew, and judges nobody while agents may have to
// connect again.
func (m *Machine) begin() { m.from, m.judgeFrom = m.clock, m.clock+Window }

func (m *Machine) judging() bool { return !m.mute && m.clock >= m.judgeFrom }

func (m *Machine) silence(h *host) time.Duration { return m.clock - max(h.heard, m.from) }

// announce is for what is about all hosts.
func (m *Machine) announce(kind, message string) {
	m.out = append(m.out, Tell{Type: kind, Message: message})
}

// judge says how a host is by now, and what happened to it.
func (m *Machine) judge(h *host, kind, message string) {
	t := Tell{h.id, kind, h.name + " " + message}
	if m.mute {
		h.unsaid = &t
		m.untold.push(&h.untold)
		return
	}
	m.out = append(m.out, h.verdict(), t)
}

func (h *host) verdict() Judge {
	reasons := slices.Clone(h.reasons)
	if h.failing {
		reasons = append(reasons, h.failingWhy)
	}
	return Judge{Host: h.id, Liveness: h.liveness, Failing: h.failing, Reasons: reasons}
}

func (m *Machine) know(e Known) {
	if h := m.hosts[e.Host]; h != nil {
		h.name = e.Name
		return
	}
	h := &host{id: e.Host, name: e.Name, liveness: cmp.Or(e.Liveness, miosa.Alive), heard: m.clock, steady: m.clock}
	h.place.host, h.queue.host, h.done.host, h.rest.host, h.untold.host = h, h, h, h, h
	m.hosts[h.id] = h
	if h.liveness != miosa.Alive {
		h.reasons = []string{"it was silent when another control plane decided"}
	}
	if h.liveness != miosa.Lost {
		m.join(h)
	}
	if e.Failing {
		m.setFailing(h, "instances could not be started there")
	}
}

// join makes it one of the fleet.
func (m *Machine) join(h *host) {
	m.fresh.push(&h.place)
	m.fleet++
	m.instances += h.instances
}

// part takes it out of the fleet.
func (m *Machine) part(h *host) {
	if h.place.in == nil {
		return
	}
	h.place.leave()
	h.queue.leave()
	h.done.leave()
	m.fleet--
	m.instances -= h.instances
}

func (m *Machine) gone(e Gone) {
	if h := m.hosts[e.Host]; h != nil {
		m.part(h)
		h.rest.leave()
		h.untold.leave()
		delete(m.hosts, h.id)
	}
}

func (m *Machine) count(e Counted) {
	h := m.hosts[e.Host]
	if h == nil {
		return
	}
	if h.place.in != nil {
		m.instances += e.Instances - h.instances
	}
	h.instances, h.replaced = e.Instances, e.Replaced
	m.mayBeDone(h)
}

// mayBeDone has the next tick look whether it is lost.
func (m *Machine) mayBeDone(h *host) {
	if h.replacedAll() {
		m.replaced.push(&h.done)
	}
}

// replacedAll: it is suspect, and nothing on it waits for a successor.
func (h *host) replacedAll() bool {
	return h.liveness == miosa.Suspect && h.all && h.instances > 0 && h.replaced >= h.instances
}

func (m *Machine) beat(e Beat) {
	h := m.hosts[e.Host]
	if h == nil || cmp.Or(cmp.Compare(e.Session, h.session), cmp.Compare(e.Seq, h.seq)) <= 0 {
		return
	}
	was := m.clock - h.heard
	if was >= QuietAfter || !h.ever {
		h.steady = m.clock
	}
	known := h.ever
	h.session, h.seq, h.heard, h.ever = e.Session, e.Seq, m.clock, true
	if h.place.in != nil {
		m.fresh.push(&h.place)
	}
	if h.liveness == miosa.Alive || m.flaps(h) && m.clock-h.steady < Steady {
		return
	}
	switch {
	case m.flaps(h):
		m.back(h, "it has answered for "+long(m.clock-h.steady)+" without a pause")
	case known:
		m.back(h, "it answers again after "+long(was)+" of silence")
	default:
		m.back(h, "it answers again")
	}
}

// flaps: it comes and goes.
func (m *Machine) flaps(h *host) bool {
	return h.times == Flaps && m.clock-h.suspected[0] <= FlapWindow
}

// back makes a host alive that answers again.
func (m *Machine) back(h *host, why string) {
	if h.liveness == miosa.Lost {
		m.join(h)
	}
	h.liveness = miosa.Alive
	h.reasons = nil
	h.queue.leave()
	h.done.leave()
	h.granted, h.all = 0, false
	m.judge(h, "host.returned", "is alive: "+why)
}

func (m *Machine) writable(e Writable) {
	if e.OK == !m.mute {
		return
	}
	m.mute = !e.OK
	if m.mute {
		return
	}
	// Who is silent already has as long to be heard, too, before more follows.
	m.from, m.judgeFrom = m.clock, max(m.judgeFrom, m.clock+SuspectAfter)
	for h := m.untold.first(); h != nil; h = m.untold.first() {
		h.untold.leave()
		m.out = append(m.out, h.verdict(), *h.unsaid)
	}
}

func (m *Machine) forgive(e Forgive) {
	h := m.hosts[e.Host]
	if h == nil {
		return
	}
	h.times, h.starts = 0, nil
	if h.failing {
		m.endFailing(h, "an operator said so")
	}
	if h.liveness != miosa.Alive && h.ever && m.clock-h.heard < QuietAfter {
		m.back(h, "an operator said so, and it answers")
	}
}

// tick is where hosts are judged.
func (m *Machine) tick() {
	m.looked = m.clock
	for h := m.fresh.first(); h != nil && m.silence(h) >= QuietAfter; h = m.fresh.first() {
		m.quiet.push(&h.place)
	}
	if !m.judging() {
		return
	}
	var fell []*host
	for h := m.quiet.first(); h != nil && m.silence(h) >= SuspectAfter; h = m.quiet.first() {
		h.place.leave()
		fell = append(fell, h)
	}
	// Not by the order in which beats of one moment were handed over.
	slices.SortFunc(fell, func(a, b *host) int {
		return cmp.Or(cmp.Compare(a.heard, b.heard), cmp.Compare(a.id, b.id))
	})
	for _, h := range fell {
		m.silent.push(&h.place)
		m.suspect(h)
	}
	m.hold()
	if m.judging() && !m.held {
		m.grant()
		m.lose()
	}
	for h := m.failing.first(); h != nil && m.clock >= h.failingUntil; h = m.failing.first() {
		m.endFailing(h, "that was "+long(FailingFor)+" ago")
	}
}

// suspect takes note of a host that fell silent.
func (m *Machine) suspect(h *host) {
	if h.times < Flaps {
		h.suspected[h.times] = m.clock
		h.times++
	} else {
		copy(h.suspected[:], h.suspected[1:])
		h.suspected[Flaps-1] = m.clock
	}
	if h.liveness == miosa.Alive {
		h.liveness = miosa.Suspect
		h.granted, h.all = h.replaced, false
		h.reasons = []string{unheard(m.silence(h))}
		if m.flaps(h) {
			h.reasons = append(h.reasons, comesAndGoes())
		}
		m.judge(h, "host.suspected", "is suspect: "+strings.Join(h.reasons, "; "))
	}
	if !h.all && h.queue.in == nil {
		m.waiting.push(&h.queue)
	}
	m.mayBeDone(h)
}

// lose ends the suspicion of hosts that were silent for long, or whose instances
// are all replaced. A host whose instances may not be replaced yet is not lost,
// because that would replace them.
func (m *Machine) lose() {
	for h := m.replaced.first(); h != nil; h = m.replaced.first() {
		h.done.leave()
		if h.replacedAll() && (h.place.in == &m.silent || h.place.in == &m.overdue) {
			m.lost(h, unheard(m.silence(h))+", and all its instances are replaced")
		}
	}
	for h := m.silent.first(); h != nil && m.silence(h) >= m.lostAfter; h = m.silent.first() {
		m.longSilent(h)
	}
}

// longSilent ends one host that was silent for long, once its instances may be
// replaced.
func (m *Machine) longSilent(h *host) {
	if !h.all {
		m.overdue.push(&h.place)
		return
	}
	m.lost(h, unheard(m.silence(h)))
}

func (m *Machine) lost(h *host, reason string) {
	m.part(h)
	h.liveness = miosa.Lost
	h.rest.leave()
	h.failing, h.starts = false, nil
	h.reasons = []string{reason}
	m.judge(h, "host.lost", "is lost: "+reason)
}
