package webhook

import (
	"cmp"
	"net/http"
	"slices"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/events"
)

// ladder is how long to wait after each failed attempt: ten attempts within
// about 23 hours.
var ladder = []time.Duration{
	5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute,
	time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour,
}

const (
	// downAfter so many events that failed, and none that went well since, the
	// receiver is taken to be down: until it answers well again a further event
	// is begun only once in probeEvery.
	downAfter  = 3
	probeEvery = 10 * time.Minute
	// maxAside bounds the events that wait for another attempt, maxAsked those
	// that somebody asked for besides.
	maxAside, maxAsked = 32, 64
	// recent is how many deliveries are remembered.
	recent = 50
	// ourStep is the step of the ladder after what is no fault of the receiver's.
	ourStep = 2
	// longestHold bounds what a receiver may ask for by Retry-After.
	longestHold = 24 * time.Hour
)

// State is where a webhook stands: all that outlives the process.
type State struct {
	Begun  bool        `json:"begun"`  // Cursor counts
	Cursor events.Mark `json:"cursor"` // everything up to it was tried at least once
	// Aside are those of before it that wait for another attempt.
	Aside          []Retry    `json:"aside,omitempty"`
	FailedAt       time.Time  `json:"failed_at,omitzero"` // the last failure
	HoldUntil      time.Time  `json:"hold_until,omitzero"`
	DeliveredAt    time.Time  `json:"delivered_at,omitzero"`
	FailingSince   time.Time  `json:"failing_since,omitzero"`
	DisabledAt     time.Time  `json:"disabled_at,omitzero"`
	DisabledReason string     `json:"disabled_reason,omitempty"`
	Recent         []Delivery `json:"recent,omitempty"`
}

// Retry is an event that was set aside.
type Retry struct {
	Item
	Attempts int       `json:"attempts,omitempty"`
	Next     time.Time `json:"next"`
	Since    time.Time `json:"since"`
	Failed   time.Time `json:"failed,omitzero"` // the last attempt
	// Then is when it was to be tried, before it was tried early because the
	// receiver is back: that attempt does not count.
	Then  time.Time `json:"then,omitzero"`
	Asked bool      `json:"asked,omitempty"` // somebody wants it at once
}

// Delivery is a miosa.Delivery as it is kept.
type Delivery struct {
	EventID   string              `json:"event_id"`
	Type      string              `json:"type,omitempty"`
	State     miosa.DeliveryState `json:"state"`
	Attempts  int                 `json:"attempts,omitempty"`
	Status    int                 `json:"status,omitempty"`
	Error     string              `json:"error,omitempty"`
	LatencyUS int64               `json:"latency_us,omitempty"`
	AttemptAt time.Time           `json:"attempt_at"`
	NextAt    time.Time           `json:"next_at,omitzero"`
}

func (d Delivery) noun() miosa.Delivery {
	return miosa.Delivery{
		EventID: d.EventID, Type: d.Type, State: d.State, Attempts: d.Attempts, Status: d.Status, Error: d.Error,
		Latency: time.Duration(d.LatencyUS) * time.Microsecond, AttemptAt: d.AttemptAt, NextAt: d.NextAt,
	}
}

// Item is an event to be sent.
type Item struct {
	EventID string      `json:"event_id"`
	Type    string      `json:"type,omitempty"`
	Mark    events.Mark `json:"mark,omitempty"` // 0: not known
}

// Event is what the machine is told.
type Event interface{ event() }

type (
	// Configured is what its owner wants.
	Configured struct {
		Paused    bool
		ResumedAt time.Time
	}
	// Fetched answers Fetch: the next items, and up to where that is all.
	Fetched struct {
		Items []Item
		End   events.Mark
		Err   error
	}
	// Attempted answers Attempt. Chance is in [0, 1).
	Attempted struct {
		Outcome
		Chance float64
	}
	// Arrived says that there may be further events.
	Arrived struct{}
	// Asked says that somebody wants an event to be sent now.
	Asked struct{ Item }
	// Tick is the time that Wake named.
	Tick struct{}
)

func (Configured) event() {}
func (Fetched) event()    {}
func (Attempted) event()  {}
func (Arrived) event()    {}
func (Asked) event()      {}
func (Tick) event()       {}

// Outcome is how an attempt went.
type Outcome struct {
	Status     int    // of the answer; 0: there was none
	Error      string // in words; "" with 2xx
	Latency    time.Duration
	RetryAfter time.Duration // what the receiver asked for; 0: nothing
	Type       string        // of the event
	// Missing: the event is not kept any more.
	Missing bool
	// Ours: the receiver was not asked. It cannot help what fails here.
	Ours bool
}

// Effect is what the machine wants done: one thing at a time, Fetch and Attempt
// answered.
type Effect interface{ effect() }

type (
	// Fetch reads the next events behind a mark.
	Fetch struct{ After events.Mark }
	// Attempt sends one event.
	Attempt struct{ Item }
	// Disable tells the owner that the platform gave up.
	Disable struct{ Reason string }
)

func (Fetch) effect()   {}
func (Attempt) effect() {}
func (Disable) effect() {}

// Machine decides what one webhook does next.
//
// Events are begun in the order of the timeline, one at a time. One that fails
// is set aside and tried again by its own ladder, and those behind it go on: so
// the order holds as long as nothing fails, and one that the receiver can't
// digest stops no other. When the receiver fails several in a row it is taken
// to be down, and hardly anything further is begun until it answers well: what
// happens meanwhile waits in the event store.
type Machine struct {
	ladder []time.Duration
	state  State
	paused bool
	ready  []Item // fetched, in order, none begun
	busy   bool
	now    Item // of the attempt under way
	end    bool // nothing is behind the cursor
	failed bool // the last Fetch failed
	again  time.Time
	dirty  bool
}

// NewMachine goes on from a state. A nil ladder is ten attempts in a day.
func NewMachine(state State, steps []time.Duration) *Machine {
	state.Aside, state.Recent = slices.Clone(state.Aside), slices.Clone(state.Recent)
	if steps == nil {
		steps = ladder
	}
	return &Machine{state: state, ladder: steps}
}

// State is where it stands; changed says whether that is another than at the
// last call.
func (m *Machine) State() (s State, changed bool) {
	changed, m.dirty = m.dirty, false
	s = m.state
	s.Aside, s.Recent = slices.Clone(s.Aside), slices.Clone(s.Recent)
	return s, changed
}

func (m *Machine) disabled() bool { return !m.state.DisabledAt.IsZero() }

// down: the receiver answers nothing well.
func (m *Machine) down() bool {
	n := 0
	for _, r := range m.state.Aside {
		if r.Failed.After(m.state.DeliveredAt) {
			n++
		}
	}
	return n >= downAfter
}

// free is when a further event may be begun; ok is false when none may, before
// something that was set aside is done with.
func (m *Machine) free() (at time.Time, ok bool) {
	if len(m.state.Aside) >= maxAside {
		return time.Time{}, false
	}
	if m.down() {
		return later(m.state.FailedAt.Add(probeEvery), m.state.HoldUntil), true
	}
	return m.state.HoldUntil, true
}

// Handle takes what happened and returns what to do.
func (m *Machine) Handle(now time.Time, ev Event) []Effect {
	var effects []Effect
	switch e := ev.(type) {
	case Configured:
		m.configure(now, e)
	case Fetched:
		m.busy = false
		m.fetched(now, e)
	case Attempted:
		m.busy = false
		if reason := m.attempted(now, e); reason != "" {
			m.state.DisabledAt, m.state.DisabledReason = now, reason
			m.ready = nil
			effects = append(effects, Disable{reason})
		}
		m.dirty = true
	case Arrived:
		m.end = false
	case Asked:
		m.ask(now, e.Item)
	}
	return append(effects, m.decide(now)...)
}

func (m *Machine) configure(now time.Time, e Configured) {
	m.paused = e.Paused
	// What was fetched was by the former filter.
	m.ready, m.end = nil, false
	if m.disabled() && e.ResumedAt.After(m.state.DisabledAt) {
		m.state.DisabledAt, m.state.DisabledReason = time.Time{}, ""
		m.state.HoldUntil, m.state.FailingSince = time.Time{}, time.Time{}
		for n, r := range m.state.Aside {
			m.state.Aside[n] = Retry{Item: r.Item, Next: now, Since: now}
		}
		m.dirty = true
	}
}

func (m *Machine) fetched(now time.Time, e Fetched) {
	if m.failed = e.Err != nil; m.failed {
		m.again = now.Add(m.ladder[0])
		return
	}
	m.ready = e.Items
	if len(e.Items) == 0 {
		m.end = true
		if e.End > m.state.Cursor {
			m.state.Cursor, m.dirty = e.End, true
		}
	}
}

func (m *Machine) ask(now time.Time, i Item) {
	for n := range m.state.Aside {
		if r := &m.state.Aside[n]; r.EventID == i.EventID {
			r.Asked, r.Next, m.dirty = true, now, true
			return
		}
	}
	if len(m.state.Aside) < maxAside+maxAsked {
		m.state.Aside = append(m.state.Aside, Retry{Item: i, Next: now, Since: now, Asked: true})
		m.dirty = true
	}
}

// attempted notes how the attempt went; the reason is one to disable for.
func (m *Machine) attempted(now time.Time, e Attempted) (reason string) {
	item := m.now
	item.Type = cmp.Or(item.Type, e.Type)
	at := slices.IndexFunc(m.state.Aside, func(r Retry) bool { return r.EventID == item.EventID })
	r := Retry{Item: item, Since: now}
	if at >= 0 {
		r = m.state.Aside[at]
		r.Item = item
		m.state.Aside = slices.Delete(m.state.Aside, at, at+1)
	}
	if len(m.ready) > 0 && m.ready[0].EventID == item.EventID {
		m.ready = m.ready[1:]
		m.state.Cursor = max(m.state.Cursor, item.Mark)
	}
	r.Attempts++
	then := r.Then
	r.Asked, r.Then = false, time.Time{}
	d := Delivery{
		EventID: item.EventID, Type: item.Type, Attempts: r.Attempts, Status: e.Status, Error: e.Error, LatencyUS: e.Latency.Microseconds(), AttemptAt: now,
	}
	switch {
	case e.Missing:
		d.State = miosa.DeliveryGivenUp
	case e.Status >= 200 && e.Status < 300:
		d.State = miosa.DeliveryDelivered
		m.succeeded(now)
	case e.Ours:
		d.State = miosa.DeliveryWaiting
		r.Attempts--
		d.Attempts--
		r.Then = then
		r.Next = later(now.Add(m.ladder[min(ourStep, len(m.ladder)-1)]), m.state.HoldUntil)
		d.NextAt = r.Next
		m.setAside(r)
	default:
		d.State = miosa.DeliveryWaiting
		if then.IsZero() {
			// Tried early it says nothing new of the receiver.
			r.Failed, m.state.FailedAt = now, now
		}
		if m.state.FailingSince.IsZero() {
			m.state.FailingSince = now
		}
		if hold := min(e.RetryAfter, longestHold); hold > 0 {
			m.state.HoldUntil = later(m.state.HoldUntil, now.Add(hold))
		}
		switch {
		case e.Status == http.StatusGone:
			reason = "the receiver answered 410 Gone: it wants no more"
		case !then.IsZero():
			r.Attempts--
			d.Attempts--
		case r.Attempts > len(m.ladder):
			d.State = miosa.DeliveryGivenUp
			if m.state.DeliveredAt.Before(r.Since) {
				reason = "nothing could be delivered for a day; the last attempt: " + cmp.Or(e.Error, http.StatusText(e.Status))
			}
		}
		if d.State == miosa.DeliveryWaiting {
			// A fifth more or less, so that webhooks that failed together don't
			// come again together.
			pause := time.Duration(float64(m.ladder[max(1, min(r.Attempts, len(m.ladder)))-1]) * (0.8 + 0.4*e.Chance))
			if !then.IsZero() {
				pause = max(then.Sub(now), m.ladder[0])
			}
			r.Next = later(now.Add(pause), m.state.HoldUntil)
			d.NextAt = r.Next
			m.setAside(r)
		}
	}
	m.state.Recent = slices.DeleteFunc(m.state.Recent, func(was Delivery) bool { return was.EventID == d.EventID })
	m.state.Recent = append(m.state.Recent, d)
	m.state.Recent = m.state.Recent[max(0, len(m.state.Recent)-recent):]
	return reason
}

// setAside keeps an event for another attempt.
func (m *Machine) setAside(r Retry) {
	m.state.Aside = append(m.state.Aside, r)
	slices.SortFunc(m.state.Aside, func(a, b Retry) int { return cmp.Or(cmp.Compare(a.Mark, b.Mark), a.Since.Compare(b.Since)) })
}

// succeeded: what waits for a receiver that was down is tried at once.
func (m *Machine) succeeded(now time.Time) {
	if m.down() {
		for n := range m.state.Aside {
			if r := &m.state.Aside[n]; r.Next.After(now) {
				r.Then, r.Next = r.Next, now
			}
		}
	}
	m.state.DeliveredAt, m.state.FailingSince, m.state.HoldUntil = now, time.Time{}, time.Time{}
}

func (m *Machine) decide(now time.Time) []Effect {
	if m.busy || m.paused || m.disabled() || !m.state.Begun {
		return nil
	}
	held := now.Before(m.state.HoldUntil)
	for _, r := range m.state.Aside {
		if !now.Before(r.Next) && (r.Asked || !held) {
			return m.attempt(r.Item)
		}
	}
	if at, ok := m.free(); !ok || now.Before(at) {
		return nil
	}
	switch {
	case len(m.ready) > 0:
		return m.attempt(m.ready[0])
	case !m.end && (!m.failed || !now.Before(m.again)):
		m.busy = true
		return []Effect{Fetch{m.state.Cursor}}
	}
	return nil
}

func (m *Machine) attempt(i Item) []Effect {
	m.busy, m.now = true, i
	return []Effect{Attempt{i}}
}

// Wake is when to tick next; zero: not before something happens.
func (m *Machine) Wake() time.Time {
	if m.busy || m.paused || m.disabled() || !m.state.Begun {
		return time.Time{}
	}
	var at time.Time
	consider := func(t time.Time) {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	for _, r := range m.state.Aside {
		if r.Asked {
			consider(r.Next)
		} else {
			consider(later(r.Next, m.state.HoldUntil))
		}
	}
	free, ok := m.free()
	switch {
	case !ok:
	case len(m.ready) > 0:
		consider(free)
	case !m.end && m.failed:
		consider(later(m.again, free))
	case !m.end:
		consider(free)
	}
	return at
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
