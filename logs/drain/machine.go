package drain

import (
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/logs"
)

const (
	// linger is the pause between reads while lines trickle in: they go
	// together then.
	linger = time.Second
	// startsAgo bounds how long ago a drain that nothing is remembered of begins.
	startsAgo = time.Hour
	// margin is how much later than their times lines may have arrived, and how
	// far clocks may be apart, where the order of arrival is not known any more.
	margin = 5 * time.Minute
	// patientFailures is how many failures in a row a batch waits out in memory.
	// After more it is read again when its turn comes: receivers may be away for
	// long, and there may be many.
	patientFailures = 3
	// maxRefusals is how many batches in a row a receiver may refuse before the
	// fault is looked for elsewhere than in them.
	maxRefusals = 3
)

// machine decides one drain's delivery: what to read, to send, and when to try
// again. It is fed events and returns what to do next; it has no effects.
//
// One batch is under way at a time. Its parts (one, unless the receiver finds
// it too large) are sent until each is taken or given up; then the cursor moves
// behind it. Nothing else moves the cursor, so that what was not settled is
// sent again by whoever goes on from it.
type machine struct {
	revision int64 // of the drain's record
	created  time.Time
	progress Progress

	queue    [][]Line // parts of the batch that are not settled
	whole    bool     // none is settled yet
	next     Cursor   // behind the batch
	all      bool     // nothing more was there when it was read
	idle     bool     // all is delivered, as far as is known
	readAt   time.Time
	failures int  // in a row
	unread   bool // the last failure was of the log store
	held     bool // the last failure is for somebody to mend
	refusals int  // in a row
	due      time.Time
}

// event is what the machine is told.
type event interface{ event() }

type (
	// begun: the drain is taken up.
	begun struct{}
	// located: where the store is, and since when it has all lines.
	located struct {
		last logs.Mark
		kept time.Time // what is older may have expired
	}
	// came: what a read brought that began at that time.
	came struct {
		lines []Line
		next  Cursor
		all   bool
		at    time.Time
	}
	// forgotten: the order of arrival is not known as far back as the cursor.
	forgotten struct{}
	// unread: the lines could not be read. chance is in [0, 1).
	unread struct {
		words  string
		chance float64
	}
	// answered: what came of sending the first part. chance is in [0, 1).
	answered struct {
		answer
		chance float64
	}
	// rested: the wait is over.
	rested struct{}
)

func (begun) event()     {}
func (located) event()   {}
func (came) event()      {}
func (forgotten) event() {}
func (unread) event()    {}
func (answered) event()  {}
func (rested) event()    {}

// effect is what to do next. An event tells what came of it.
type effect interface{ effect() }

type (
	// locate asks for the store's newest mark.
	locate struct{}
	// fetch reads a batch behind the cursor.
	fetch struct{ from Cursor }
	// send gives lines to the receiver.
	send struct{ lines []Line }
	// rest waits until then, and first for an arrival if asked to.
	rest struct {
		until   time.Time
		arrival bool
	}
)

func (locate) effect() {}
func (fetch) effect()  {}
func (send) effect()   {}
func (rest) effect()   {}

// handle takes what happened and returns the next effect.
func (m *machine) handle(now time.Time, ev event) effect {
	switch e := ev.(type) {
	case forgotten:
		return locate{}
	case located:
		m.byTime(now, e)
	case came:
		m.startBatch(e)
	case unread:
		m.fail(now, again, e.words, 0, e.chance)
		m.unread = true
	case answered:
		m.settle(now, e)
	}
	switch {
	case m.failures > 0 && now.Before(m.due):
		return rest{until: m.due}
	case !m.progress.begun():
		return locate{}
	case len(m.queue) > 0:
		return send{m.queue[0]}
	case m.all:
		m.all, m.idle = false, true
		return rest{until: m.readAt.Add(linger), arrival: true}
	}
	return fetch{m.progress.Cursor}
}

// byTime sets the cursor to read by time what may not have been delivered, and
// then what arrives from now on.
func (m *machine) byTime(now time.Time, e located) {
	since, until := m.progress.Cursor.At.Add(-margin), now.Add(margin)
	missing := m.progress.Cursor.At
	if !m.progress.begun() {
		since, until, missing = m.created, now.Add(time.Millisecond), m.created
		if oldest := now.Add(-startsAgo); since.Before(oldest) {
			since = oldest
			m.gap(missing, since)
		}
	}
	if missing.Before(e.kept) {
		m.gap(missing, e.kept)
	}
	m.progress.Cursor = Cursor{Done: e.last, Since: since, Until: until, At: now}
}

// gap notes that lines between may be missing; two gaps become one.
func (m *machine) gap(from, until time.Time) {
	if m.progress.GapFrom.IsZero() || from.Before(m.progress.GapFrom) {
		m.progress.GapFrom = from
	}
	if until.After(m.progress.GapUntil) {
		m.progress.GapUntil = until
	}
}

// startBatch makes what was read the batch under way.
func (m *machine) startBatch(e came) {
	if m.unread {
		m.failures, m.unread = 0, false // the store answers again
	}
	m.next, m.all, m.readAt = e.next, e.all, e.at
	m.idle = m.idle && e.all && len(e.lines) == 0
	switch {
	case m.progress.Cursor.byTime():
		m.next.At = m.progress.Cursor.At
	case e.all:
		m.next.At = e.at
	default:
		m.next.At = m.progress.Cursor.At
		if n := len(e.lines); n > 0 && e.lines[n-1].Time.After(m.next.At) {
			m.next.At = e.lines[n-1].Time
		}
	}
	if len(e.lines) == 0 {
		m.progress.Cursor = m.next
		return
	}
	m.queue, m.whole = [][]Line{e.lines}, true
}

// settle judges the answer to the first part.
func (m *machine) settle(now time.Time, e answered) {
	part := m.queue[0]
	n := uint64(len(part))
	p := &m.progress
	switch {
	case e.verdict == taken:
		rejected := min(e.rejected, n)
		p.Delivered, p.Dropped, p.DeliveredAt, p.Proven = p.Delivered+n-rejected, p.Dropped+rejected, now, m.revision
		p.Error, p.ErrorAt = "", time.Time{}
		if rejected > 0 {
			p.Error, p.ErrorAt = e.words, now
		}
		m.refusals = 0
	case e.verdict == tooLarge && n > 1:
		m.queue, m.whole = append([][]Line{part[:n/2], part[n/2:]}, m.queue[1:]...), false
		return
	case e.verdict == tooLarge, e.verdict == refused && p.Proven == m.revision && m.refusals < maxRefusals:
		p.Dropped += n
		p.Error, p.ErrorAt = e.words, now
		m.refusals++
	case e.verdict == refused:
		// It has taken nothing so far, or nothing any more: the fault is hardly
		// in the lines.
		p.Proven, m.refusals = 0, 0
		m.fail(now, mend, e.words, e.after, e.chance)
		return
	default:
		m.fail(now, e.verdict, e.words, e.after, e.chance)
		return
	}
	m.failures, m.held, m.whole = 0, false, false
	if m.queue = m.queue[1:]; len(m.queue) == 0 {
		m.queue = nil
		p.Cursor = m.next
	}
}

func (m *machine) fail(now time.Time, v verdict, words string, after time.Duration, chance float64) {
	m.failures++
	m.unread = false
	m.held = v == mend
	m.due = now.Add(max(backoff(m.failures, chance), after))
	m.progress.Error, m.progress.ErrorAt = words, now
	if m.failures > patientFailures && m.whole {
		m.queue, m.whole, m.all = nil, false, false
	}
}

// status is how it goes.
func (m *machine) status() status {
	s := status{Progress: m.progress, state: miosa.DrainDelivering}
	if m.failures > 0 {
		s.next, s.state = m.due, miosa.DrainRetrying
		if m.held {
			s.state = miosa.DrainFailed
		}
	}
	c := m.progress.Cursor
	switch {
	case m.idle:
	case c.byTime() && c.Place.Time.IsZero():
		s.behind = c.Since
	case c.byTime():
		s.behind = c.Place.Time
	default:
		s.behind = c.At
	}
	return s
}

// status is a drain's progress with what is not remembered.
type status struct {
	Progress
	state  miosa.DrainState
	next   time.Time // attempt
	behind time.Time // of what is not delivered the oldest is about so old; zero: nothing is waiting
}

func (s status) at(now time.Time) miosa.DrainStatus {
	out := miosa.DrainStatus{
		State: s.state, Error: s.Error, ErrorAt: s.ErrorAt, NextAttempt: s.next, DeliveredAt: s.DeliveredAt,
		Delivered: s.Delivered, Dropped: s.Dropped, GapFrom: s.GapFrom, GapUntil: s.GapUntil,
	}
	if !s.behind.IsZero() {
		out.Lag = max(now.Sub(s.behind), 0)
	}
	return out
}
