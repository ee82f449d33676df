package liveness

import (
	"fmt"
	"time"
)

const (
	// AtOnceHosts, or AtOncePercent of the fleet if that is more, is how many
	// hosts' instances are granted whole within any minute. Of three hosts the
	// loss of one is so always healed at once.
	AtOnceHosts   = 3
	AtOncePercent = 10
	// PiecesPercent of the fleet's instances, at least one, are granted within
	// any minute beyond that.
	PiecesPercent = 5
	// HoldPercent is how much of a fleet of at least HoldFrom hosts may be silent
	// without it being taken for a fault of ours.
	HoldPercent = 80
	HoldFrom    = 5

	minute = time.Minute
)

// brakes bound what is granted.
type brakes struct {
	waiting list // suspect hosts, not granted whole

	recent map[string]time.Duration // by host: granted whole within the last minute
	whole  []given                  // the same, oldest first; older ones of a host lie on
	pieces []given
	spent  int // by pieces
	slowed bool

	held      bool
	proceeded bool // an operator said so; until half of the fleet answers
}

// given is what was granted at one moment.
type given struct {
	at   time.Duration
	host string
	n    int
}

// forget drops what was granted a minute ago.
func (m *Machine) forget() {
	for len(m.whole) > 0 && m.clock-m.whole[0].at >= minute {
		if g := m.whole[0]; m.recent[g.host] == g.at {
			delete(m.recent, g.host)
		}
		m.whole = m.whole[1:]
	}
	for len(m.pieces) > 0 && m.clock-m.pieces[0].at >= minute {
		m.spent -= m.pieces[0].n
		m.pieces = m.pieces[1:]
	}
}

func (m *Machine) atOnce() int { return max(AtOnceHosts, m.fleet*AtOncePercent/100) }
func (m *Machine) share() int  { return max(1, m.instances*PiecesPercent/100) }

// nextGrant is when more is granted, if anything waits for it.
func (m *Machine) nextGrant() (at time.Duration, waits bool) {
	if m.waiting.n == 0 || m.held {
		return 0, false
	}
	for n, givens := range [][]given{m.whole, m.pieces} {
		if len(givens) > 0 && (n == 0 || !waits || givens[0].at+minute < at) {
			at, waits = givens[0].at+minute, true
		}
	}
	return at, waits
}

// grant lets go of what the brakes allow.
func (m *Machine) grant() {
	m.forget()
	for h := m.waiting.first(); h != nil; h = m.waiting.first() {
		rest := max(0, h.instances-h.granted)
		_, again := m.recent[h.id]
		switch left := m.share() - m.spent; {
		case rest == 0:
			m.granted(h, 0)
		case again || len(m.recent) < m.atOnce():
			m.recent[h.id] = m.clock
			m.whole = append(m.whole, given{at: m.clock, host: h.id})
			m.granted(h, rest)
		case left > 0:
			n := min(left, rest)
			m.pieces = append(m.pieces, given{at: m.clock, n: n})
			m.spent += n
			m.granted(h, n)
		default:
			if !m.slowed {
				m.slowed = true
				m.announce("replacement.slowed", m.slowWords())
			}
			return
		}
	}
	if m.slowed {
		m.slowed = false
		m.announce("replacement.caught_up", "every instance of the silent hosts may be replaced by now")
	}
}

// granted lets go of n more of the host's instances.
func (m *Machine) granted(h *host, n int) {
	h.granted += n
	h.all = h.granted >= h.instances
	m.out = append(m.out, Grant{Host: h.id, Instances: n, All: h.all})
	if !h.all {
		return
	}
	h.queue.leave()
	m.mayBeDone(h)
	if h.place.in == &m.overdue {
		m.silent.pushFront(&h.place) // where lose looks
	}
}

func (m *Machine) slowWords() string {
	waiting := 0
	for d := m.waiting.front; d != nil; d = d.next {
		waiting += max(0, d.host.instances-d.host.granted)
	}
	return fmt.Sprintf("%s silent: within a minute the instances of %d hosts and %d more are replaced; %d wait",
		areHosts(m.silent.n+m.overdue.n), m.atOnce(), m.share(), waiting)
}

// hold stops everything while most of the fleet is silent.
func (m *Machine) hold() {
	silent := m.quiet.n + m.silent.n + m.overdue.n
	answer := m.fleet - silent
	half := 2*answer >= m.fleet
	if m.fleet < HoldFrom {
		half = answer > 0
	}
	switch {
	case half:
		m.proceeded = false
		if m.held {
			m.held = false
			m.begin()
			m.out = append(m.out, Hold{false})
			m.announce("replacement.resumed", fmt.Sprintf("%d of %d hosts answer again: who is still silent in %s is replaced", answer, m.fleet, long(Window)))
		}
	case m.held || m.proceeded || m.waiting.n+m.silent.n+m.overdue.n == 0:
	case m.fleet < HoldFrom && answer == 0, m.fleet >= HoldFrom && silent*100 > HoldPercent*m.fleet:
		m.held = true
		m.out = append(m.out, Hold{true})
		until := "half of them answer"
		if m.fleet < HoldFrom {
			until = "one of them answers"
		}
		m.announce("replacement.held", fmt.Sprintf("%d of %d hosts are silent, which is likelier a fault of the control plane or its network: nothing is replaced until %s or an operator says that it is real", silent, m.fleet, until))
	}
}

func (m *Machine) proceed() {
	if !m.held {
		return
	}
	m.held, m.proceeded = false, true
	m.out = append(m.out, Hold{false})
	m.announce("replacement.resumed", "an operator said that the silence is real")
}
