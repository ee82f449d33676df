package apitest

import (
	"context"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/logs"
)

// Logs is a log store in memory that can be read and followed.
type Logs struct {
	mu       sync.Mutex
	arrivals []logs.Arrival // guarded by mu; the n-th has mark n+1
	gone     logs.Mark      // guarded by mu: no order of arrival is known before
	arrived  chan struct{}  // guarded by mu; closed by the next Append
}

// NewLogs makes an empty one.
func NewLogs() *Logs { return &Logs{arrived: make(chan struct{})} }

// Append keeps a batch.
func (l *Logs) Append(b logs.Batch) logs.Mark {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := logs.Mark(len(l.arrivals) + 1)
	l.arrivals = append(l.arrivals, logs.Arrival{Mark: m, Batch: b})
	close(l.arrived)
	l.arrived = make(chan struct{})
	return m
}

// Write keeps lines of an instance, of stdout, that were written a
// millisecond after each other; it goes on where the instance was.
func (l *Logs) Write(of logs.Origin, from time.Time, texts ...string) {
	b := logs.Batch{Origin: of, Epoch: 1, First: 1}
	for _, a := range l.since(0) {
		if a.Batch.Origin.InstanceID == of.InstanceID {
			b.First += uint64(len(a.Batch.Lines))
		}
	}
	for i, text := range texts {
		b.Lines = append(b.Lines, logs.Line{Time: from.Add(time.Duration(i) * time.Millisecond).UTC().Truncate(time.Microsecond), Stream: logs.Stdout, Text: []byte(text)})
	}
	l.Append(b)
}

// Forget the order of arrival before a mark.
func (l *Logs) Forget(before logs.Mark) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gone = before
}

// Purge drops every line of a deployment; arrivals keep their marks.
func (l *Logs) Purge(ctx context.Context, tenantID, deploymentID string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.arrivals {
		if b := &l.arrivals[i].Batch; b.Origin.TenantID == tenantID && b.Origin.DeploymentID == deploymentID {
			b.Lines = nil
		}
	}
	return ctx.Err()
}

// Usage is what a tenant logged.
func (l *Logs) Usage(ctx context.Context, tenantID string, since, until time.Time) (u logs.Usage, err error) {
	for _, a := range l.since(0) {
		for _, line := range a.Batch.Lines {
			if hour := line.Time.Truncate(time.Hour); a.Batch.Origin.TenantID == tenantID && !hour.Before(since.Truncate(time.Hour)) && hour.Before(until) {
				u.Lines, u.Bytes = u.Lines+1, u.Bytes+uint64(len(line.Text))
			}
		}
	}
	return u, ctx.Err()
}

func (l *Logs) since(after logs.Mark) []logs.Arrival {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.arrivals[min(int(after), len(l.arrivals)):]) //nolint:gosec // bounded
}

// Read yields what there is at the time of the call.
func (l *Logs) Read(ctx context.Context, q logs.Query) iter.Seq2[logs.Entry, error] {
	var found []logs.Entry
	for _, a := range l.since(0) {
		for _, b := range runs(a.Batch, q.Scope) {
			for i, line := range b.Lines {
				e := logs.Entry{Line: line, Origin: b.Origin, Position: logs.Position{Epoch: b.Epoch, Seq: b.First + uint64(i)}}
				p := logs.PlaceOf(&e)
				behind := q.After == (logs.Place{}) || q.After.Before(p)
				if q.Backward {
					behind = q.After == (logs.Place{}) || p.Before(q.After)
				}
				if behind && (q.Since.IsZero() || !line.Time.Before(q.Since)) && (q.Until.IsZero() || line.Time.Before(q.Until)) {
					found = append(found, e)
				}
			}
		}
	}
	slices.SortFunc(found, func(a, b logs.Entry) int {
		if logs.PlaceOf(&a).Before(logs.PlaceOf(&b)) != q.Backward {
			return -1
		}
		return 1
	})
	return func(yield func(logs.Entry, error) bool) {
		for _, e := range found {
			if err := ctx.Err(); err != nil {
				yield(logs.Entry{}, err)
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// Last is the mark of the newest arrival.
func (l *Logs) Last(context.Context) (logs.Mark, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return logs.Mark(len(l.arrivals)), nil
}

// Arrivals yields what came after the mark, to the newest.
func (l *Logs) Arrivals(after logs.Mark, scope logs.Scope) iter.Seq2[logs.Arrival, error] {
	return func(yield func(logs.Arrival, error) bool) {
		l.mu.Lock()
		gone := after < l.gone
		l.mu.Unlock()
		if gone {
			yield(logs.Arrival{}, miosa.Errorf(miosa.Gone, "the order of arrival is no longer known so far back"))
			return
		}
		for _, a := range l.since(after) {
			for _, b := range runs(a.Batch, scope) {
				if !yield(logs.Arrival{Mark: a.Mark, Batch: b}, nil) {
					return
				}
			}
		}
	}
}

// Follow goes on with each as it comes.
func (l *Logs) Follow(ctx context.Context, after logs.Mark, scope logs.Scope) iter.Seq2[logs.Arrival, error] {
	return func(yield func(logs.Arrival, error) bool) {
		for {
			l.mu.Lock()
			arrived, last := l.arrived, logs.Mark(len(l.arrivals))
			l.mu.Unlock()
			for a, err := range l.Arrivals(after, scope) {
				if !yield(a, err) || err != nil {
					return
				}
				last = max(last, a.Mark)
			}
			after = max(after, last)
			select {
			case <-ctx.Done():
				return
			case <-arrived:
			}
		}
	}
}

// runs are what the scope holds of a batch: rows without a hole.
func runs(b logs.Batch, scope logs.Scope) []logs.Batch {
	if !scope.Admits(b.Origin) {
		return nil
	}
	var out []logs.Batch
	for i := range b.Lines {
		if !scope.Holds(&b.Lines[i]) {
			continue
		}
		at := b.First + uint64(i)
		if n := len(out) - 1; n >= 0 && out[n].First+uint64(len(out[n].Lines)) == at {
			out[n].Lines = append(out[n].Lines, b.Lines[i])
			continue
		}
		out = append(out, logs.Batch{Origin: b.Origin, Epoch: b.Epoch, First: at, Lines: []logs.Line{b.Lines[i]}})
	}
	return out
}
