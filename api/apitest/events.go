package apitest

import (
	"cmp"
	"context"
	"iter"
	"slices"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/events"
	"github.com/miosa/miosa/store"
)

// Events reads events out of the outbox, which nobody here empties, in the
// order of their commits.
type Events struct{ store store.Store }

// all are the events so far. The n-th has mark n+1.
func (v *Events) all(ctx context.Context) ([]events.Entry, error) {
	found, err := store.Collect(store.List(ctx, v.store, store.Events, store.OutboxPrefix(), store.ScanOptions{}))
	if err != nil {
		return nil, err
	}
	slices.SortFunc(found, func(a, b miosa.Event) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), cmp.Compare(a.ID, b.ID))
	})
	var out []events.Entry
	for n, e := range found {
		if e.DeploymentID != "" {
			dep, err := store.Get(ctx, v.store, store.Deployments, store.DeploymentKey(e.TenantID, e.DeploymentID))
			if err != nil && miosa.CodeOf(err) != miosa.NotFound {
				return nil, err
			}
			e.WorkspaceID = dep.WorkspaceID
		}
		out = append(out, events.Entry{Event: e, Mark: events.Mark(n + 1)}) //nolint:gosec // small
	}
	return out, nil
}

// Read yields what the query names.
func (v *Events) Read(ctx context.Context, q events.Query) iter.Seq2[events.Entry, error] {
	return func(yield func(events.Entry, error) bool) {
		all, err := v.all(ctx)
		if err != nil {
			yield(events.Entry{}, err)
			return
		}
		if q.Backward {
			slices.Reverse(all)
		}
		for _, e := range all {
			behind := q.After == 0 || !q.Backward && e.Mark > q.After || q.Backward && e.Mark < q.After
			if behind && q.Holds(&e.Event) && !yield(e, nil) {
				return
			}
		}
	}
}

// List is a page, the newest first.
func (v *Events) List(ctx context.Context, scope events.Scope, after string, limit int) (page []miosa.Event, more bool, err error) {
	q := events.Query{Scope: scope, Backward: true}
	if after != "" {
		if q.After, _, err = v.Place(ctx, after); err != nil || q.After == 0 {
			return nil, false, err
		}
	}
	for e, err := range v.Read(ctx, q) {
		if err != nil {
			return nil, false, err
		}
		if len(page) == limit {
			return page, true, nil
		}
		page = append(page, e.Event)
	}
	return page, false, nil
}

// Count is how many there are.
func (v *Events) Count(ctx context.Context, scope events.Scope, after string, most int) (total, upTo int, err error) {
	for e, err := range v.Read(ctx, events.Query{Scope: scope, Backward: true}) {
		if err != nil {
			return 0, 0, err
		}
		if total++; e.ID == after {
			upTo = total
		}
		if total == most {
			break
		}
	}
	if upTo == 0 && after != "" {
		upTo = total
	}
	return total, upTo, nil
}

// Last is the newest event's mark.
func (v *Events) Last(ctx context.Context) (events.Mark, error) {
	all, err := v.all(ctx)
	return events.Mark(len(all)), err
}

// Place is an event's mark, zero for one that is not there.
func (v *Events) Place(ctx context.Context, id string) (events.Mark, bool, error) {
	all, err := v.all(ctx)
	for _, e := range all {
		if e.ID == id {
			return e.Mark, true, err
		}
	}
	return 0, false, err
}

// Follow yields what came after the mark and then each as it comes.
func (v *Events) Follow(ctx context.Context, after events.Mark, scope events.Scope) iter.Seq2[events.Entry, error] {
	return func(yield func(events.Entry, error) bool) {
		revision, err := v.store.Revision(ctx)
		for err == nil {
			for e, rerr := range v.Read(ctx, events.Query{Scope: events.Scope{Operator: true}, After: after}) {
				if err = rerr; err != nil {
					break
				}
				if after = e.Mark; scope.Holds(&e.Event) && !yield(e, nil) {
					return
				}
			}
			var batch store.Batch
			for batch, err = range v.store.Watch(ctx, store.OutboxPrefix(), revision) {
				revision = batch.Revision
				break
			}
			if ctx.Err() != nil {
				return
			}
		}
		if ctx.Err() == nil {
			yield(events.Entry{}, err)
		}
	}
}
