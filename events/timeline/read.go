package timeline

import (
	"context"
	"errors"
	"iter"
	"slices"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/events"
	"github.com/miosa/miosa/store"
)

// List is up to limit events of a scope, the newest first, those still in the
// outbox among them: whoever just changed something finds it. After is the ID
// of the event where the last page ended; "": from the newest. more says that
// there are others behind them.
func (t *Timeline) List(ctx context.Context, scope events.Scope, after string, limit int) (page []miosa.Event, more bool, err error) {
	pending, err := t.pending(ctx)
	if err != nil {
		return nil, false, err
	}
	q := events.Query{Scope: scope, Backward: true}
	if after != "" {
		at := slices.IndexFunc(pending, func(e miosa.Event) bool { return e.ID == after })
		m, held, err := t.kept.Place(ctx, after)
		switch {
		case err != nil:
			return nil, false, err
		case held, at < 0:
			if pending = nil; m == 0 {
				return nil, false, nil
			}
			if q.After = m; !held {
				q.After++ // what is before the hour of an event that is gone
			}
		default:
			pending = pending[at+1:]
		}
	}
	var stored []miosa.Event
	first := events.Mark(0)
	for e, err := range t.kept.Read(ctx, q) {
		if err != nil {
			return nil, false, err
		}
		if first == 0 {
			first = e.Mark
		}
		if stored = append(stored, e.Event); len(stored) > limit {
			break
		}
	}
	for _, e := range pending {
		if !scope.Holds(&e) {
			continue
		}
		// It may have been moved while this looked: then it is among those that
		// were read, or behind what was read, or newer than that.
		if slices.ContainsFunc(stored, func(s miosa.Event) bool { return s.ID == e.ID }) {
			continue
		}
		m, held, err := t.kept.Place(ctx, e.ID)
		if err != nil {
			return nil, false, err
		}
		if !held || m > first {
			page = append(page, e)
		}
	}
	if page = append(page, stored...); len(page) > limit {
		return page[:limit], true, nil
	}
	return page, false, nil
}

// Count is how many events a scope has, those still in the outbox among them,
// as far as the newest most of them. upTo is how many of these there are up to
// and with the one that the ID after names, the newest first: 0 for "", all for
// one that is not among them.
func (t *Timeline) Count(ctx context.Context, scope events.Scope, after string, most int) (total, upTo int, err error) {
	pending, err := t.pending(ctx)
	if err != nil {
		return 0, 0, err
	}
	first := events.Mark(0)
	for e, err := range t.kept.Read(ctx, events.Query{Scope: scope, Backward: true}) {
		if err != nil {
			return 0, 0, err
		}
		if first == 0 {
			first = e.Mark
		}
		if total++; e.ID == after {
			upTo = total
		}
		if total == most {
			break
		}
	}
	newer, found := 0, upTo
	for _, e := range pending {
		if !scope.Holds(&e) {
			continue
		}
		m, held, err := t.kept.Place(ctx, e.ID)
		if err != nil {
			return 0, 0, err
		}
		if held && m <= first {
			continue // it was moved before this looked
		}
		if newer++; e.ID == after {
			upTo = newer
		}
	}
	if found > 0 {
		upTo = found + newer
	}
	total = min(total+newer, most)
	if upTo > total || upTo == 0 && after != "" {
		upTo = total
	}
	return total, upTo, nil
}

// pending is what is in the outbox, the newest first.
func (t *Timeline) pending(ctx context.Context) ([]miosa.Event, error) {
	var all []miosa.Event
	where := workspaces{t.records, map[string]string{}}
	for entry, err := range t.records.Scan(ctx, store.OutboxPrefix(), store.ScanOptions{}) {
		if err != nil {
			return nil, err
		}
		e, ok, _ := decode(entry)
		if !ok {
			continue
		}
		if e.WorkspaceID, err = where.of(ctx, &e); err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b miosa.Event) int { return inOrder(itemOf("", b), itemOf("", a)) })
	return all, nil
}

// Read yields what the store has of a query: see events.Store.
func (t *Timeline) Read(ctx context.Context, q events.Query) iter.Seq2[events.Entry, error] {
	return t.kept.Read(ctx, q)
}

// Last is the mark of the newest event.
func (t *Timeline) Last(ctx context.Context) (events.Mark, error) { return t.kept.Last(ctx) }

// onItsWay is how long Place waits for an event that is in the outbox still.
const onItsWay = 10 * time.Second

// Place is the mark of an event: see events.Store. It waits for one that is
// still in the outbox; when that takes too long, the mark is the newest.
func (t *Timeline) Place(ctx context.Context, id string) (events.Mark, bool, error) {
	timer := time.NewTimer(onItsWay)
	defer timer.Stop()
	for {
		arrived := t.Arrived()
		m, held, err := t.kept.Place(ctx, id)
		if err != nil || held {
			return m, held, err
		}
		e, err := t.records.Get(ctx, store.OutboxKey(id))
		if err != nil {
			return 0, false, err
		}
		if e.Revision == 0 {
			// Moved between the two looks, or not there at all.
			return t.kept.Place(ctx, id)
		}
		select {
		case <-ctx.Done():
			return 0, false, ctx.Err()
		case <-arrived:
		case <-timer.C:
			m, err := t.kept.Last(ctx)
			return m, false, err
		}
	}
}

// Arrived is closed when something arrives at the store after the call.
func (t *Timeline) Arrived() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.moved
}

// Follow yields what arrived after the mark and then each event as it comes,
// once and in order, until ctx ends. Who reads slowly keeps nobody waiting:
// everyone reads from the store at a pace of his own.
func (t *Timeline) Follow(ctx context.Context, after events.Mark, scope events.Scope) iter.Seq2[events.Entry, error] {
	return func(yield func(events.Entry, error) bool) {
		for {
			arrived := t.Arrived()
			newest, err := t.kept.Last(ctx)
			if err != nil {
				stop(ctx, err, yield)
				return
			}
			if newest > after {
				for e, err := range t.kept.Read(ctx, events.Query{Scope: scope, After: after}) {
					if err != nil {
						stop(ctx, err, yield)
						return
					}
					if !yield(e, nil) {
						return
					}
					newest = max(newest, e.Mark)
				}
				after = newest
			}
			select {
			case <-ctx.Done():
				return
			case <-arrived:
			}
		}
	}
}

// stop yields an error, unless the caller's own end is what it was.
func stop(ctx context.Context, err error, yield func(events.Entry, error) bool) {
	if ctx.Err() == nil || !errors.Is(err, ctx.Err()) {
		yield(events.Entry{}, err)
	}
}
