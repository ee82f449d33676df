// Package memory is the event store in memory: for the simulation and for
// tests. It goes through everything at every read.
package memory

import (
	"context"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/events"
)

// Store implements events.Store.
type Store struct {
	now func() time.Time

	mu   sync.Mutex // guards all below
	kept []kept     // by mark
	ids  map[string]events.Mark
	last events.Mark
	hour int32 // of the newest
	fail error
}

type kept struct {
	events.Entry
	hour int32
	days int
}

// New makes an empty store.
func New(now func() time.Time) *Store {
	return &Store{now: now, ids: map[string]events.Mark{}}
}

// Fail makes every further Append end with err; nil: no longer.
func (s *Store) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

// Append keeps what is new.
func (s *Store) Append(ctx context.Context, all []events.Kept) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for i := range all {
		if err := all[i].Check(); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	for _, k := range all {
		if s.ids[k.ID] != 0 {
			continue
		}
		s.last++
		s.hour = events.Hour(k.At, s.now(), s.hour)
		e := k.Event
		e.Details = maps.Clone(e.Details)
		s.kept = append(s.kept, kept{events.Entry{Event: e, Mark: s.last}, s.hour, k.Days})
		s.ids[k.ID] = s.last
	}
	return nil
}

// Read yields what the query names of what there is at the beginning.
func (s *Store) Read(ctx context.Context, q events.Query) iter.Seq2[events.Entry, error] {
	return func(yield func(events.Entry, error) bool) {
		if err := ctx.Err(); err != nil {
			yield(events.Entry{}, err)
			return
		}
		if !q.Operator && q.TenantID == "" {
			yield(events.Entry{}, miosa.Errorf(miosa.Internal, "a read of events without a tenant"))
			return
		}
		s.mu.Lock()
		all := slices.Clone(s.kept)
		s.mu.Unlock()
		if q.Backward {
			slices.Reverse(all)
		}
		for i := range all {
			e := all[i].Entry
			behind := q.After == 0 || !q.Backward && e.Mark > q.After || q.Backward && e.Mark < q.After
			if !behind || !q.Holds(&e.Event) {
				continue
			}
			if err := ctx.Err(); err != nil {
				yield(events.Entry{}, err)
				return
			}
			e.Details = maps.Clone(e.Details)
			if !yield(e, nil) {
				return
			}
		}
	}
}

// Last is the mark of the newest event, also of one that expired.
func (s *Store) Last(ctx context.Context) (events.Mark, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last, ctx.Err()
}

// Place is the mark of an event, or where its hour begins.
func (s *Store) Place(ctx context.Context, id string) (events.Mark, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.ids[id]; m != 0 {
		return m, true, ctx.Err()
	}
	hour := events.Hour(miosa.IDTime(id), s.now(), 0)
	for _, k := range s.kept {
		if k.hour >= hour {
			return k.Mark - 1, false, ctx.Err()
		}
	}
	return s.last, false, ctx.Err()
}

// Expire drops what has been kept for its days.
func (s *Store) Expire(ctx context.Context, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept = slices.DeleteFunc(s.kept, func(k kept) bool {
		gone := !events.Expires(k.hour, k.days).After(now)
		if gone {
			delete(s.ids, k.ID)
		}
		return gone
	})
	return ctx.Err()
}
