// Package memory is a history in memory: what the simulation and the tests
// stand on, and the plainest reading of the port's contract.
package memory

import (
	"cmp"
	"context"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/miosa/miosa/metrics"
)

// Store implements metrics.Store. The zero value is ready.
type Store struct {
	mu   sync.Mutex // guards rows
	rows map[metrics.Owner][]metrics.Row
}

var _ metrics.Store = (*Store)(nil)

// Append keeps a pass.
func (s *Store) Append(ctx context.Context, pass metrics.Pass) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := metrics.Check(pass); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rows == nil {
		s.rows = map[metrics.Owner][]metrics.Row{}
	}
	at := pass.At.UTC().Truncate(time.Millisecond)
	for _, sample := range pass.Samples {
		rows := s.rows[sample.Owner]
		if n := len(rows); n > 0 && !at.After(rows[n-1].At) {
			continue
		}
		s.rows[sample.Owner] = append(rows, metrics.Row{Owner: sample.Owner, At: at, Values: sample.Values})
	}
	return nil
}

// Read yields what the scope admits.
func (s *Store) Read(ctx context.Context, scope metrics.Scope, since, until time.Time) iter.Seq2[metrics.Row, error] {
	return func(yield func(metrics.Row, error) bool) {
		for _, r := range s.find(scope, since, until) {
			if err := ctx.Err(); err != nil {
				yield(metrics.Row{}, err)
				return
			}
			if !yield(r, nil) {
				return
			}
		}
	}
}

func (s *Store) find(scope metrics.Scope, since, until time.Time) []metrics.Row {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []metrics.Row
	for owner, rows := range s.rows {
		if !scope.Admits(owner) {
			continue
		}
		for _, r := range rows {
			if !r.At.Before(since) && r.At.Before(until) {
				out = append(out, r)
			}
		}
	}
	slices.SortStableFunc(out, func(a, b metrics.Row) int {
		return cmp.Or(cmp.Compare(a.Owner.ServiceID, b.Owner.ServiceID), cmp.Compare(a.Owner.SourceID, b.Owner.SourceID), a.At.Compare(b.At))
	})
	return out
}

// Expire drops what is older than metrics.Kept.
func (s *Store) Expire(_ context.Context, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for owner, rows := range s.rows {
		rows = slices.DeleteFunc(rows, func(r metrics.Row) bool { return r.At.Before(now.Add(-metrics.Kept)) })
		if s.rows[owner] = rows; len(rows) == 0 {
			delete(s.rows, owner)
		}
	}
	return nil
}
