package apitest

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/miosa/miosa/metrics"
)

// Figures is a history that tests write.
type Figures struct {
	mu   sync.Mutex // guards rows
	rows []metrics.Row
}

// Add adds a sample; pairs are figures and their stored values.
func (f *Figures) Add(owner metrics.Owner, at time.Time, pairs ...int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := metrics.Row{Owner: owner, At: at.UTC()}
	for i := 0; i < len(pairs); i += 2 {
		r.Values.Set(metrics.Figure(pairs[i]), pairs[i+1]) //nolint:gosec // a test's
	}
	f.rows = append(f.rows, r)
}

// Draw is what a scope looked like.
func (f *Figures) Draw(_ context.Context, scope metrics.Scope, want metrics.Want) (metrics.Shaped, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	rows := slices.Clone(f.rows)
	slices.SortStableFunc(rows, func(a, b metrics.Row) int {
		return cmp.Or(cmp.Compare(a.Owner.ServiceID, b.Owner.ServiceID), cmp.Compare(a.Owner.SourceID, b.Owner.SourceID), a.At.Compare(b.At))
	})
	s := metrics.NewShaper(want)
	for _, r := range rows {
		if scope.Admits(r.Owner) {
			s.Add(r)
		}
	}
	return s.Done(), nil
}
