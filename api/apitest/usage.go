package apitest

import (
	"context"
	"iter"
	"slices"
	"sync"

	"github.com/miosa/miosa/usage"
)

// Usage is rows that can be read.
type Usage struct {
	mu   sync.Mutex
	rows []usage.Row // guarded by mu
}

// Add keeps rows.
func (u *Usage) Add(rows ...usage.Row) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.rows = append(u.rows, rows...)
}

// Rows yields what the query names, by hour.
func (u *Usage) Rows(_ context.Context, q usage.Query) iter.Seq2[usage.Row, error] {
	return func(yield func(usage.Row, error) bool) {
		u.mu.Lock()
		all := slices.Clone(u.rows)
		u.mu.Unlock()
		slices.SortStableFunc(all, func(a, b usage.Row) int { return int(a.Hour - b.Hour) })
		for _, r := range all {
			if r.Hour >= q.Since && r.Hour < q.Until && q.Admits(r.Subject) && !yield(r, nil) {
				return
			}
		}
	}
}
