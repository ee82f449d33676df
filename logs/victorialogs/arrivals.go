package victorialogs

import (
	"context"
	"iter"
	"math"
	"slices"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/logs"
)

// Arrivals implements logs.Store. It goes by the journal, and asks for the
// lines of each batch that is no longer in memory. VictoriaLogs' own way to
// follow, /select/logsql/tail, would not do: it knows no order of arrival to
// begin from, leaves out what comes late, and shows what no Append reported.
func (s *Store) Arrivals(ctx context.Context, after logs.Mark, scope logs.Scope) iter.Seq2[logs.Arrival, error] {
	s.mu.Lock()
	gone := after < s.state.floor
	var came []*arrival
	inMemory := map[logs.Mark]*kept{}
	if !gone {
		first, _ := slices.BinarySearchFunc(s.state.arrivals, after+1, func(a *arrival, m logs.Mark) int { return int(int64(a.Mark) - int64(m)) })
		for _, a := range s.state.arrivals[first:] {
			if scope.Admits(a.Origin) {
				came = append(came, a)
			}
		}
		for _, k := range s.recent.batches {
			if k.mark > after {
				inMemory[k.mark] = k
			}
		}
	}
	s.mu.Unlock()
	return func(yield func(logs.Arrival, error) bool) {
		if err := ctx.Err(); err != nil {
			yield(logs.Arrival{}, err)
			return
		}
		if gone {
			yield(logs.Arrival{}, miosa.Errorf(miosa.Gone, "the order of arrival is no longer known so far back: read by time"))
			return
		}
		for _, a := range came {
			entries, err := s.arrived(ctx, a, inMemory[a.Mark], &scope)
			if err != nil {
				yield(logs.Arrival{}, err)
				return
			}
			for _, run := range runs(entries) {
				if !yield(logs.Arrival{Mark: a.Mark, Batch: run}, nil) {
					return
				}
			}
		}
	}
}

// arrived are the lines of a batch that the scope holds, by position.
func (s *Store) arrived(ctx context.Context, a *arrival, k *kept, scope *logs.Scope) ([]logs.Entry, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if k != nil {
		all := make([]stored, len(k.Lines))
		for i := range k.Lines {
			all[i] = stored{k.entry(i), k.stamp, k.Days}
			all[i].Text = slices.Clone(all[i].Text)
		}
		return s.shown(all, scope, math.MaxUint64), nil
	}
	class, err := s.classFor(a.Days)
	if err != nil {
		return nil, err
	}
	// All of the batch within its span of time and of positions; its lines may
	// be there twice.
	narrow := *scope
	narrow.InstanceID = a.Origin.InstanceID
	from, to := time.Unix(0, a.From).UTC(), time.Unix(0, a.To+1).UTC()
	var found []stored
	next := logs.Position{Epoch: a.Epoch, Seq: a.First}
	last := logs.Position{Epoch: a.Epoch, Seq: a.First + a.Count - 1}
	for {
		var q logsql
		q.scope(&narrow)
		q.filters = append(q.filters, span(from, to), orders(order(a.Origin.InstanceID, next), order(a.Origin.InstanceID, last)+belowOrder))
		n := 0
		err := s.query(ctx, target{class, scope.TenantID}, q.text(false, s.config.Page), func(e stored) {
			n++
			next = logs.Position{Epoch: e.Position.Epoch, Seq: e.Position.Seq + 1}
			if len(found) == 0 || found[len(found)-1].Position.Less(e.Position) {
				found = append(found, e)
			}
		})
		if err != nil {
			return nil, err
		}
		if n < s.config.Page || last.Less(next) {
			return s.shown(found, scope, math.MaxUint64), nil
		}
	}
}

// runs are the batches that the entries make, with no number missing in any.
func runs(entries []logs.Entry) []logs.Batch {
	var runs []logs.Batch
	for i := range entries {
		e := &entries[i]
		if n := len(runs); n > 0 && runs[n-1].First+uint64(len(runs[n-1].Lines)) == e.Position.Seq {
			runs[n-1].Lines = append(runs[n-1].Lines, e.Line)
			continue
		}
		runs = append(runs, logs.Batch{Origin: e.Origin, Epoch: e.Position.Epoch, First: e.Position.Seq, Lines: []logs.Line{e.Line}})
	}
	return runs
}
