// Package memory is the log store in memory: for the simulation and for
// tests. Every call looks at everything; nothing in it starts a goroutine.
package memory

import (
	"bytes"
	"context"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/logs"
)

// order is for how long the order of arrival is known.
const order = 2 * time.Hour

// Store implements logs.Store.
type Store struct {
	now func() time.Time

	mu       sync.Mutex // guards all below
	lines    []kept     // in the order of arrival
	held     map[instance]logs.Position
	usage    map[hour]logs.Usage
	arrivals []arrival // after gone, in order
	last     logs.Mark
	gone     logs.Mark // up to and including this, the order is forgotten
}

type kept struct {
	logs.Entry
	until time.Time
}

type instance struct{ tenant, id string }

type hour struct {
	tenant string
	begin  int64 // Unix seconds
}

type arrival struct {
	logs.Arrival
	at time.Time
}

// New makes an empty store, which forgets the order of arrival by the given
// clock.
func New(now func() time.Time) *Store {
	return &Store{now: now, held: map[instance]logs.Position{}, usage: map[hour]logs.Usage{}}
}

// Append keeps the batches.
func (s *Store) Append(ctx context.Context, batches []logs.Kept) ([]logs.Arrival, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var came []logs.Arrival
	for _, b := range batches {
		fresh, ok := s.fresh(b.Batch)
		if !ok {
			continue
		}
		s.last++
		came = append(came, logs.Arrival{Mark: s.last, Batch: fresh})
		own := fresh
		own.Lines = slices.Clone(fresh.Lines)
		for i := range own.Lines {
			l := &own.Lines[i]
			l.Text = bytes.Clone(l.Text)
			l.Time = l.Time.UTC().Truncate(time.Microsecond)
			s.lines = append(s.lines, kept{
				Entry: logs.Entry{Line: *l, Origin: own.Origin, Position: logs.Position{Epoch: own.Epoch, Seq: own.First + uint64(i)}},
				until: l.Time.Add(time.Duration(b.Days) * 24 * time.Hour),
			})
			h := hour{own.Origin.TenantID, l.Time.Truncate(time.Hour).Unix()}
			u := s.usage[h]
			s.usage[h] = logs.Usage{Lines: u.Lines + 1, Bytes: u.Bytes + uint64(len(l.Text))}
		}
		s.arrivals = append(s.arrivals, arrival{logs.Arrival{Mark: s.last, Batch: own}, s.now()})
		s.held[instance{own.Origin.TenantID, own.Origin.InstanceID}] = logs.Position{Epoch: own.Epoch, Seq: own.First + uint64(len(own.Lines)) - 1}
	}
	return came, nil
}

// fresh is what is new of a batch.
func (s *Store) fresh(b logs.Batch) (logs.Batch, bool) {
	held := s.held[instance{b.Origin.TenantID, b.Origin.InstanceID}]
	if b.Epoch < held.Epoch {
		return b, false
	}
	if b.Epoch == held.Epoch && b.First <= held.Seq {
		known := held.Seq - b.First + 1
		if known >= uint64(len(b.Lines)) {
			return b, false
		}
		b.First, b.Lines = held.Seq+1, b.Lines[known:]
	}
	return b, len(b.Lines) > 0
}

// Held is the instance's last position.
func (s *Store) Held(ctx context.Context, tenantID, instanceID string) (logs.Position, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held[instance{tenantID, instanceID}], ctx.Err()
}

// Read yields what the query names.
func (s *Store) Read(ctx context.Context, q logs.Query) iter.Seq2[logs.Entry, error] {
	return func(yield func(logs.Entry, error) bool) {
		for _, e := range s.found(&q) {
			if err := ctx.Err(); err != nil {
				yield(logs.Entry{}, err)
				return
			}
			if !yield(e, nil) {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(logs.Entry{}, err)
		}
	}
}

func (s *Store) found(q *logs.Query) []logs.Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []logs.Entry
	for i := range s.lines {
		e := s.lines[i].Entry
		after := true
		if q.After != (logs.Place{}) {
			if q.Backward {
				after = logs.PlaceOf(&e).Before(q.After)
			} else {
				after = q.After.Before(logs.PlaceOf(&e))
			}
		}
		if after && q.Admits(e.Origin) && (q.Since.IsZero() || !e.Time.Before(q.Since)) && (q.Until.IsZero() || e.Time.Before(q.Until)) && q.Holds(&e.Line) {
			e.Text = bytes.Clone(e.Text)
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b logs.Entry) int {
		switch p, r := logs.PlaceOf(&a), logs.PlaceOf(&b); {
		case p.Before(r) != q.Backward && (p.Before(r) || r.Before(p)):
			return -1
		case p.Before(r) || r.Before(p):
			return 1
		}
		return 0
	})
	return all
}

// Last is the newest arrival's mark.
func (s *Store) Last(ctx context.Context) (logs.Mark, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last, ctx.Err()
}

// Arrivals yields what came after the mark.
func (s *Store) Arrivals(ctx context.Context, after logs.Mark, scope logs.Scope) iter.Seq2[logs.Arrival, error] {
	s.mu.Lock()
	gone := after < s.gone
	var came []arrival
	for _, a := range s.arrivals {
		if a.Mark > after {
			came = append(came, a)
		}
	}
	s.mu.Unlock()
	return func(yield func(logs.Arrival, error) bool) {
		if gone {
			yield(logs.Arrival{}, miosa.Errorf(miosa.Gone, "the order of arrival is no longer known so far back: read by time"))
			return
		}
		for _, a := range came {
			if err := ctx.Err(); err != nil {
				yield(logs.Arrival{}, err)
				return
			}
			if !scope.Admits(a.Batch.Origin) {
				continue
			}
			for _, run := range runs(a.Batch, scope) {
				if !yield(logs.Arrival{Mark: a.Mark, Batch: run}, nil) {
					return
				}
			}
		}
	}
}

// runs are the batch's lines that the scope holds, cut where one is left out:
// within a batch no number is missing.
func runs(b logs.Batch, scope logs.Scope) []logs.Batch {
	var cut []logs.Batch
	open := false
	for i := range b.Lines {
		if !scope.Holds(&b.Lines[i]) {
			open = false
			continue
		}
		if !open {
			cut = append(cut, logs.Batch{Origin: b.Origin, Epoch: b.Epoch, First: b.First + uint64(i)})
			open = true
		}
		run := &cut[len(cut)-1]
		l := b.Lines[i]
		l.Text = bytes.Clone(l.Text)
		run.Lines = append(run.Lines, l)
	}
	return cut
}

// Expire drops what has been kept for its days.
func (s *Store) Expire(ctx context.Context, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = slices.DeleteFunc(s.lines, func(k kept) bool { return !k.until.After(now) })
	for len(s.arrivals) > 0 && now.Sub(s.arrivals[0].at) > order {
		s.gone = s.arrivals[0].Mark
		s.arrivals = s.arrivals[1:]
	}
	return ctx.Err()
}

// Purge drops every line of a deployment. What was held of its instances
// stays known, so that a host that sends again changes nothing.
func (s *Store) Purge(ctx context.Context, tenantID, deploymentID string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	of := func(o logs.Origin) bool { return o.TenantID == tenantID && o.DeploymentID == deploymentID }
	s.lines = slices.DeleteFunc(s.lines, func(k kept) bool { return of(k.Origin) })
	s.arrivals = slices.DeleteFunc(s.arrivals, func(a arrival) bool { return of(a.Batch.Origin) })
	return ctx.Err()
}

// Usage is what a tenant logged; Expire and Purge take nothing from it.
func (s *Store) Usage(ctx context.Context, tenantID string, since, until time.Time) (logs.Usage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var sum logs.Usage
	for h, u := range s.usage {
		begin := time.Unix(h.begin, 0)
		if h.tenant == tenantID && (since.IsZero() || !begin.Before(since)) && (until.IsZero() || begin.Before(until)) {
			sum.Lines += u.Lines
			sum.Bytes += u.Bytes
		}
	}
	return sum, ctx.Err()
}
