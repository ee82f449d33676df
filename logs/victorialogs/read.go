package victorialogs

import (
	"context"
	"iter"
	"slices"
	"time"

	"github.com/miosa/miosa/logs"
)

// The times that VictoriaLogs can hold lines of, widely.
var (
	earliest = time.Date(1970, 1, 2, 0, 0, 0, 0, time.UTC)
	latest   = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
)

// source yields entries in the direction of reading, page by page; an empty
// page is the end.
type source interface {
	page(ctx context.Context) ([]logs.Entry, error)
}

// cursor stands in a source.
type cursor struct {
	source
	entries []logs.Entry
	ended   bool
}

func (c *cursor) fill(ctx context.Context) error {
	for len(c.entries) == 0 && !c.ended {
		entries, err := c.page(ctx)
		if err != nil {
			return err
		}
		c.entries, c.ended = entries, len(entries) == 0
	}
	return nil
}

// Read implements logs.Store: it merges what the endpoints hold, and the
// newest lines in memory. The same line is in two of them, or in one twice,
// next to itself.
func (s *Store) Read(ctx context.Context, q logs.Query) iter.Seq2[logs.Entry, error] {
	return func(yield func(logs.Entry, error) bool) {
		if err := ctx.Err(); err != nil {
			yield(logs.Entry{}, err)
			return
		}
		if q.TenantID == "" {
			return // no scope without a tenant admits anything
		}
		cursors := s.cursors(&q)
		var last logs.Place
		for {
			first, err := head(ctx, cursors, q.Backward)
			if err != nil {
				yield(logs.Entry{}, err)
				return
			}
			if first == nil {
				return
			}
			e := first.entries[0]
			first.entries = first.entries[1:]
			if place := logs.PlaceOf(&e); place != last {
				last = place
				if !yield(e, nil) {
					return
				}
			}
		}
	}
}

// head is the cursor whose entry is next; nil at the end.
func head(ctx context.Context, cursors []*cursor, backward bool) (*cursor, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var first *cursor
	for _, c := range cursors {
		if err := c.fill(ctx); err != nil {
			return nil, err
		}
		if !c.ended && (first == nil || compare(&c.entries[0], &first.entries[0], backward) < 0) {
			first = c
		}
	}
	return first, nil
}

func compare(a, b *logs.Entry, backward bool) int {
	p, r := logs.PlaceOf(a), logs.PlaceOf(b)
	switch {
	case p.Before(r) != backward && p != r:
		return -1
	case p == r:
		return 0
	}
	return 1
}

func (s *Store) cursors(q *logs.Query) []*cursor {
	from, to := earliest, latest
	if q.Since.After(from) {
		from = q.Since.UTC()
	}
	if !q.Until.IsZero() && q.Until.Before(to) {
		to = q.Until.UTC()
	}
	after := q.After
	after.Time = after.Time.UTC()
	s.mu.Lock()
	oldest, newest := s.state.span(&q.Scope)
	told := s.told
	cursors := []*cursor{{source: &held{s.found(q, after)}}}
	s.mu.Unlock()
	if q.After != (logs.Place{}) {
		// Windows begin where the last page ended.
		if q.Backward && after.Time.Before(to) {
			to = after.Time.Add(1)
		} else if !q.Backward && after.Time.After(from) {
			from = after.Time
		}
		// A place outside of the bounds admits all of them, or nothing.
		if q.Backward && !after.Time.Before(to) || !q.Backward && after.Time.Before(from) {
			after = logs.Place{}
		}
	}
	if !from.Before(to) {
		return cursors
	}
	for i := range s.classes {
		cursors = append(cursors, &cursor{source: &pages{
			store: s, class: i, scope: q.Scope, backward: q.Backward, from: from, to: to, after: after, told: told,
			oldest: oldest, newest: newest, width: time.Hour, limit: min(32, s.config.Page),
		}})
	}
	return cursors
}

// found is what the newest lines in memory have for the query. The caller
// holds s.mu.
func (s *Store) found(q *logs.Query, after logs.Place) []logs.Entry {
	var found []logs.Entry
	for _, k := range s.recent.batches {
		if !q.Admits(k.Origin) {
			continue
		}
		for i := range k.Lines {
			l := &k.Lines[i]
			if !q.Since.IsZero() && l.Time.Before(q.Since) || !q.Until.IsZero() && !l.Time.Before(q.Until) ||
				!s.state.shows(k.stamp, &k.Origin, l.Time, k.Days) || !q.Holds(l) {
				continue
			}
			e := k.entry(i)
			if p := logs.PlaceOf(&e); after == (logs.Place{}) || q.Backward && p.Before(after) || !q.Backward && after.Before(p) {
				e.Text = slices.Clone(e.Text)
				found = append(found, e)
			}
		}
	}
	slices.SortFunc(found, func(a, b logs.Entry) int { return compare(&a, &b, q.Backward) })
	return found
}

// held is a source of one page.
type held struct{ entries []logs.Entry }

func (h *held) page(context.Context) ([]logs.Entry, error) {
	all := h.entries
	h.entries = nil
	return all, nil
}

// pages is what one endpoint holds, asked for in windows of time: an hour
// first, at the end where reading begins, then ever wider, and a few lines
// first, then ever more: nobody says how many will be wanted. So the last lines
// of a busy tenant do not cost a sort of all that it has. The windows begin at
// what the state knows of the scope; the last reaches to the bounds, so that a
// state that was lost, or knows too little, hides nothing.
type pages struct {
	store          *Store
	class          int
	scope          logs.Scope
	backward       bool
	from, to       time.Time // what is left: [from, to)
	after          logs.Place
	told           uint64 // what came later is left out: a read is of one moment
	oldest, newest time.Time
	width          time.Duration
	limit          int
}

// window is the next part of [from, to), and whether it is the last.
func (p *pages) window() (from, to time.Time, last bool) {
	from, to = p.from, p.to
	switch {
	case p.oldest.IsZero():
	case p.backward:
		begin := p.newest
		if to.Before(begin) {
			begin = to
		}
		if begin = begin.Add(-p.width); begin.After(from) && begin.After(p.oldest) {
			from = begin
		}
	default:
		end := p.oldest
		if from.After(end) {
			end = from
		}
		if end = end.Add(p.width); end.Before(to) && end.Before(p.newest) {
			to = end
		}
	}
	return from, to, from.Equal(p.from) && to.Equal(p.to)
}

func (p *pages) page(ctx context.Context) ([]logs.Entry, error) {
	for p.from.Before(p.to) {
		from, to, last := p.window()
		var q logsql
		q.scope(&p.scope)
		q.between(from, to, p.after, p.backward)
		var found []stored
		if err := p.store.query(ctx, target{p.class, p.scope.TenantID}, q.text(p.backward, p.limit), func(e stored) { found = append(found, e) }); err != nil {
			return nil, err
		}
		switch {
		case len(found) >= p.limit:
			// There may be more in the window, even of the same instant.
			p.after = logs.PlaceOf(&found[len(found)-1].Entry)
			if p.backward {
				p.to = p.after.Time.Add(1)
			} else {
				p.from = p.after.Time
			}
			p.limit = min(4*p.limit, p.store.config.Page)
		case last:
			p.from = p.to
		default:
			p.after = logs.Place{}
			if p.backward {
				p.to = from
			} else {
				p.from = to
			}
			p.width *= 8
		}
		if entries := p.store.shown(found, &p.scope, p.told); len(entries) > 0 {
			return entries, nil
		}
	}
	return nil, nil
}

// shown is what of the lines a reader may see. The scope's own check is the
// exact one: the query narrows a search only. What this process was told after
// the stamp is left out; a higher one that it never gave is from before the
// state was lost.
func (s *Store) shown(found []stored, scope *logs.Scope, told uint64) []logs.Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	entries := make([]logs.Entry, 0, len(found))
	given := s.state.generation<<counterBits | s.state.counter
	for i := range found {
		f := &found[i]
		if (f.stamp <= told || f.stamp > given) && scope.Admits(f.Origin) && scope.Holds(&f.Line) && s.state.shows(f.stamp, &f.Origin, f.Time, f.days) {
			entries = append(entries, f.Entry)
		}
	}
	return entries
}
