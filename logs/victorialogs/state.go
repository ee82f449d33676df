package victorialogs

import (
	"time"

	"github.com/miosa/miosa/logs"
)

// record is one entry of the journal: a change of the state. A snapshot is a
// run of records that build the state anew.
type record struct {
	Generation uint64     `json:"generation,omitempty"` // of the process that writes from here on
	Mark       logs.Mark  `json:"mark,omitempty"`       // of the newest arrival
	Floor      logs.Mark  `json:"floor,omitempty"`      // the newest mark whose place in the order is forgotten
	Arrivals   []arrival  `json:"arrivals,omitempty"`
	Instances  []instance `json:"instances,omitempty"`
	Usage      []used     `json:"usage,omitempty"` // to be added
	Purged     []purged   `json:"purged,omitempty"`
	Expired    int64      `json:"expired,omitempty"`  // Unix ns
	SetBack    bool       `json:"set_back,omitempty"` // Expired is earlier than before: the clock had been ahead
	Longest    int        `json:"longest,omitempty"`  // days of the longest class, with Expired
}

// arrival is a batch without its lines.
type arrival struct {
	Mark   logs.Mark   `json:"mark"`
	Stamp  uint64      `json:"stamp"`
	At     int64       `json:"at"` // when it arrived, Unix ns
	Origin logs.Origin `json:"origin"`
	Epoch  uint64      `json:"epoch"`
	First  uint64      `json:"first"`
	Count  uint64      `json:"count"`
	From   int64       `json:"from"` // the first line's time, Unix ns
	To     int64       `json:"to"`   // the last line's
	Days   int         `json:"days"`
}

// owner names an instance.
type owner struct{ tenant, instance string }

// instance is what is remembered of one for as long as lines of it are kept.
type instance struct {
	Tenant     string `json:"tenant"`
	Deployment string `json:"deployment"`
	ID         string `json:"id"`
	Epoch      uint64 `json:"epoch"`
	Seq        uint64 `json:"seq"`
	From       int64  `json:"from"` // time of its first line, Unix ns
	To         int64  `json:"to"`   // of its last
	Days       int    `json:"days"` // the most that any batch of it had
}

// used is what a tenant logged in an hour.
type used struct {
	Tenant string `json:"tenant"`
	Begin  int64  `json:"begin"` // Unix s
	Lines  uint64 `json:"lines"`
	Bytes  uint64 `json:"bytes"`
}

type hour struct {
	tenant string
	begin  int64
}

// purged hides a deployment's lines up to a stamp. Stamps grow with each
// Append, failed ones included, and over restarts: the generation is their
// upper part. So what an Append left behind that nobody was told of is hidden
// too, which marks, given to what succeeded only, could not do.
type purged struct {
	Tenant     string `json:"tenant"`
	Deployment string `json:"deployment"`
	Stamp      uint64 `json:"stamp"`
	At         int64  `json:"at"` // Unix ns
}

type deployment struct{ tenant, id string }

// keepUsage is how long counters are kept: longer than any month is billed.
const keepUsage = 400 * day

// state is the journal's sum.
type state struct {
	generation, counter uint64 // of the next stamp; counter starts anew with each process
	mark, floor         logs.Mark
	arrivals            []*arrival // by mark; purged ones are left out
	instances           map[string]map[string]*instance
	usage               map[string]map[int64]logs.Usage
	purged              map[deployment]purged
	expired             int64
}

// counterBits are for the appends of one process: a thousand a second for
// thirty years; above them is room for sixteen million starts.
const counterBits = 40

// stamp is the next one.
func (s *state) stamp() uint64 {
	s.counter++
	return s.generation<<counterBits | s.counter
}

func newState() *state {
	return &state{
		instances: map[string]map[string]*instance{}, usage: map[string]map[int64]logs.Usage{}, purged: map[deployment]purged{},
	}
}

func (s *state) apply(r record) {
	s.generation = max(s.generation, r.Generation)
	s.mark, s.floor = max(s.mark, r.Mark), max(s.floor, r.Floor)
	for i := range r.Instances {
		s.remember(r.Instances[i])
	}
	for i := range r.Arrivals {
		a := &r.Arrivals[i]
		s.mark = max(s.mark, a.Mark)
		s.arrivals = append(s.arrivals, a)
		s.remember(instance{
			Tenant: a.Origin.TenantID, Deployment: a.Origin.DeploymentID, ID: a.Origin.InstanceID,
			Epoch: a.Epoch, Seq: a.First + a.Count - 1, From: a.From, To: a.To, Days: a.Days,
		})
	}
	for _, u := range r.Usage {
		hours := s.usage[u.Tenant]
		if hours == nil {
			hours = map[int64]logs.Usage{}
			s.usage[u.Tenant] = hours
		}
		hours[u.Begin] = logs.Usage{Lines: hours[u.Begin].Lines + u.Lines, Bytes: hours[u.Begin].Bytes + u.Bytes}
	}
	for _, p := range r.Purged {
		s.purged[deployment{p.Tenant, p.Deployment}] = p
		s.dropArrivals(func(a *arrival) bool {
			return a.Stamp <= p.Stamp && a.Origin.TenantID == p.Tenant && a.Origin.DeploymentID == p.Deployment
		})
	}
	switch {
	case r.SetBack:
		s.expired = r.Expired
	case r.Expired > s.expired:
		s.expired = r.Expired
		s.expire(time.Duration(r.Longest) * day)
	}
}

func (s *state) remember(n instance) {
	of := s.instances[n.Tenant]
	if of == nil {
		of = map[string]*instance{}
		s.instances[n.Tenant] = of
	}
	had := of[n.ID]
	if had == nil {
		of[n.ID] = &n
		return
	}
	if (logs.Position{Epoch: had.Epoch, Seq: had.Seq}).Less(logs.Position{Epoch: n.Epoch, Seq: n.Seq}) {
		had.Epoch, had.Seq = n.Epoch, n.Seq
	}
	had.From, had.To, had.Days = min(had.From, n.From), max(had.To, n.To), max(had.Days, n.Days)
}

func (s *state) dropArrivals(gone func(*arrival) bool) {
	kept := make([]*arrival, 0, len(s.arrivals))
	for _, a := range s.arrivals {
		if !gone(a) {
			kept = append(kept, a)
		}
	}
	s.arrivals = kept
}

// expire drops what says nothing any more at s.expired.
func (s *state) expire(longest time.Duration) {
	over := func(last int64, days int) bool { return last+int64(days)*int64(day) <= s.expired }
	s.dropArrivals(func(a *arrival) bool { return over(a.To, a.Days) })
	for tenant, of := range s.instances {
		for id, n := range of {
			if over(n.To, n.Days) {
				delete(of, id)
			}
		}
		if len(of) == 0 {
			delete(s.instances, tenant)
		}
	}
	for tenant, hours := range s.usage {
		for begin := range hours {
			if time.Unix(begin, 0).Add(keepUsage).UnixNano() <= s.expired {
				delete(hours, begin)
			}
		}
		if len(hours) == 0 {
			delete(s.usage, tenant)
		}
	}
	for d, p := range s.purged {
		// Two days more: VictoriaLogs drops whole days, of lines that may have
		// been ahead of our clock.
		if p.At+int64(longest+2*day) <= s.expired {
			delete(s.purged, d)
		}
	}
}

// forget drops the order of what arrived before.
func (s *state) forget(before time.Time) {
	n := 0
	for n < len(s.arrivals) && s.arrivals[n].At < before.UnixNano() {
		s.floor = s.arrivals[n].Mark
		n++
	}
	// A new array now and then, so that the front of the old is freed.
	if s.arrivals = s.arrivals[n:]; n > 0 && cap(s.arrivals) > 2*len(s.arrivals)+1024 {
		s.arrivals = append([]*arrival(nil), s.arrivals...)
	}
}

func (s *state) held(who owner) logs.Position {
	if n := s.instances[who.tenant][who.instance]; n != nil {
		return logs.Position{Epoch: n.Epoch, Seq: n.Seq}
	}
	return logs.Position{}
}

// shows reports whether a line that was stored with the stamp may be read.
func (s *state) shows(stamp uint64, o *logs.Origin, at time.Time, days int) bool {
	if at.UnixNano()+int64(days)*int64(day) <= s.expired {
		return false
	}
	p, was := s.purged[deployment{o.TenantID, o.DeploymentID}]
	return !was || stamp > p.Stamp
}

// span is when the scope's instances logged, as far as is known: where to look
// first. Zero when nothing is known.
func (s *state) span(scope *logs.Scope) (from, to time.Time) {
	var first, last int64
	for id, n := range s.instances[scope.TenantID] {
		if scope.InstanceID != "" && scope.InstanceID != id || scope.DeploymentID != "" && scope.DeploymentID != n.Deployment {
			continue
		}
		if first == 0 || n.From < first {
			first = n.From
		}
		last = max(last, n.To)
	}
	if first == 0 {
		return time.Time{}, time.Time{}
	}
	return time.Unix(0, first).UTC(), time.Unix(0, last).UTC()
}

// snapshot yields records that build the state, none of them large.
func (s *state) snapshot(yield func(record) error) error {
	const most = 1000
	if err := yield(record{Generation: s.generation, Mark: s.mark, Floor: s.floor}); err != nil {
		return err
	}
	var r record
	put := func(last bool) error {
		if !last && len(r.Instances)+len(r.Usage)+len(r.Purged)+len(r.Arrivals) < most {
			return nil
		}
		err := yield(r)
		r = record{}
		return err
	}
	for _, of := range s.instances {
		for _, n := range of {
			r.Instances = append(r.Instances, *n)
			if err := put(false); err != nil {
				return err
			}
		}
	}
	for tenant, hours := range s.usage {
		for begin, u := range hours {
			r.Usage = append(r.Usage, used{tenant, begin, u.Lines, u.Bytes})
			if err := put(false); err != nil {
				return err
			}
		}
	}
	for _, p := range s.purged {
		r.Purged = append(r.Purged, p)
		if err := put(false); err != nil {
			return err
		}
	}
	for _, a := range s.arrivals {
		r.Arrivals = append(r.Arrivals, *a)
		if err := put(false); err != nil {
			return err
		}
	}
	// Last, and with no days of a class: what is left has not expired.
	r.Expired, r.Longest = s.expired, 3650
	return put(true)
}
