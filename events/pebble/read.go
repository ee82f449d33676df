package pebble

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"

	lsm "github.com/cockroachdb/pebble/v2"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/events"
)

// How much is read at once, without yielding in between: so many that are
// asked for, at first and then, and so many that are looked at.
const (
	firstPage = 24
	laterPage = 256
	looked    = 2048
)

// Read yields what the query names.
func (s *Store) Read(ctx context.Context, q events.Query) iter.Seq2[events.Entry, error] {
	return func(yield func(events.Entry, error) bool) {
		if !q.Operator && q.TenantID == "" {
			yield(events.Entry{}, miosa.Errorf(miosa.Internal, "a read of events without a tenant"))
			return
		}
		end := s.synced.Load() // what comes later is not of this read
		for n := firstPage; ; n = laterPage {
			page, at, err := s.page(ctx, q, end, n)
			for _, e := range page {
				if !yield(e, nil) {
					return
				}
			}
			if err != nil {
				yield(events.Entry{}, err)
				return
			}
			if at == 0 {
				return
			}
			q.After = at
		}
	}
}

// page reads a part; at is the mark of the last event that it looked at, 0 when
// there is nothing behind it.
func (s *Store) page(ctx context.Context, q events.Query, end uint64, n int) (page []events.Entry, at events.Mark, err error) {
	leave, err := s.db.Enter(ctx)
	if err != nil {
		return nil, 0, err
	}
	defer leave()
	walks, closeAll, err := s.walks(&q, end)
	if err == nil {
		page, at, err = s.gather(walks, &q, n)
	}
	if err = errors.Join(err, closeAll()); err != nil {
		return page, 0, fmt.Errorf("read events: %w", err)
	}
	return page, at, nil
}

func (s *Store) gather(walks []*walk, q *events.Query, n int) (page []events.Entry, at events.Mark, err error) {
	for range looked {
		var next *walk
		for _, w := range walks {
			if w.ok && (next == nil || q.Backward == (w.at.seq > next.at.seq)) {
				next = w
			}
		}
		if next == nil {
			return page, 0, nil
		}
		p := next.at
		var e events.Entry
		_, err := s.db.Get(p.key(), func(value []byte) error {
			var err error
			e.Event, err = events.Decode(value)
			return err
		})
		if err != nil {
			return page, 0, err
		}
		// Without an ID it expired, and its place on the timeline is left over.
		if at = events.Mark(p.seq); e.ID != "" && q.Holds(&e.Event) {
			e.Mark = at
			if page = append(page, e); len(page) == n {
				return page, at, nil
			}
		}
		if err := next.step(); err != nil {
			return page, 0, err
		}
	}
	return page, at, nil
}

// walk goes over one class of a timeline, or of everything.
type walk struct {
	it       *lsm.Iterator
	days     uint16
	all      bool // everything, not a timeline
	backward bool
	spans    []span // still to go through, in order
	now      span
	ok       bool
	at       place
}

// span is a range of keys: all of a class, or a timeline's of a period of it.
type span struct {
	lower, upper []byte
	period       uint32
}

// walks are those that the query needs, each at its first event. closeAll is
// never nil.
func (s *Store) walks(q *events.Query, end uint64) (all []*walk, closeAll func() error, err error) {
	var its []*lsm.Iterator
	closeAll = func() error {
		var err error
		for _, it := range its {
			err = errors.Join(err, it.Close())
		}
		return err
	}
	// Marks [from, to).
	from, to := uint64(0), end+1
	if q.After != 0 && q.Backward {
		to = min(to, uint64(q.After))
	} else if q.After != 0 {
		from = uint64(q.After) + 1
	}
	if from >= to {
		return nil, closeAll, nil
	}
	line, everything := timelineOf(&q.Scope)
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, days := range slices.Sorted(maps.Keys(s.classes)) {
		w := &walk{days: days, all: everything, backward: q.Backward}
		w.spans = spans(s.classes[days], days, line, everything, from, to)
		if len(w.spans) == 0 {
			continue
		}
		if q.Backward {
			slices.Reverse(w.spans)
		}
		if w.it, err = s.db.NewIter(&lsm.IterOptions{LowerBound: []byte{kindEvent}, UpperBound: []byte{kindTimeline + 1}}); err != nil {
			return nil, closeAll, err
		}
		its = append(its, w.it)
		if err := w.next(); err != nil {
			return nil, closeAll, err
		}
		all = append(all, w)
	}
	return all, closeAll, nil
}

// timelineOf is the narrowest one that has all of the scope.
func timelineOf(s *events.Scope) (line timeline, everything bool) {
	switch {
	case s.TenantID != "":
		return timeline{s.TenantID, cmp.Or(s.InstanceID, s.TaskID, s.RolloutID, s.VersionID, s.ServiceID, s.DeploymentID)}, false
	case s.HostID != "":
		return timeline{"", s.HostID}, false
	}
	return timeline{}, true
}

// spans are what holds marks of [from, to) in the living buckets of a class.
func spans(all []bucket, days uint16, line timeline, everything bool, from, to uint64) []span {
	var out []span
	for i, b := range all {
		if b.first >= to || i+1 < len(all) && all[i+1].first <= from {
			continue
		}
		lower, upper := max(from, b.first), to
		if everything {
			// Hours rise with the marks: all of a class is one row.
			key := place{days, b.hour, upper}.key()
			if len(out) > 0 {
				out[0].upper = key
			} else {
				out = append(out, span{lower: place{days, b.hour, lower}.key(), upper: key})
			}
			continue
		}
		in := b.hour / period
		if len(out) > 0 && out[len(out)-1].period == in {
			continue // its first bucket's span has them all
		}
		key := line.on(days, in)
		out = append(out, span{
			lower: binary.BigEndian.AppendUint64(bytes.Clone(key), lower), upper: binary.BigEndian.AppendUint64(bytes.Clone(key), upper), period: in,
		})
	}
	return out
}

// next begins the next span that has something.
func (w *walk) next() error {
	for w.ok = false; !w.ok && len(w.spans) > 0; {
		w.now, w.spans = w.spans[0], w.spans[1:]
		if w.backward {
			w.ok = w.it.SeekLT(w.now.upper)
		} else {
			w.ok = w.it.SeekGE(w.now.lower)
		}
		if err := w.look(); err != nil {
			return err
		}
	}
	return w.it.Error()
}

// step goes one event further.
func (w *walk) step() error {
	if w.backward {
		w.ok = w.it.Prev()
	} else {
		w.ok = w.it.Next()
	}
	if err := w.look(); err != nil {
		return err
	}
	if !w.ok {
		return w.next()
	}
	return nil
}

// look reads where the iterator is; outside of the span it is nowhere.
func (w *walk) look() error {
	if !w.ok {
		return w.it.Error()
	}
	key := w.it.Key()
	if bytes.Compare(key, w.now.lower) < 0 || bytes.Compare(key, w.now.upper) >= 0 {
		w.ok = false
		return nil
	}
	if w.all {
		p, err := parsePlace(key[1:])
		w.at = p
		return err
	}
	value, err := w.it.ValueAndErr()
	if err != nil {
		return err
	}
	if len(value) != 1 || len(key) < 8 {
		return errKey
	}
	w.at = place{w.days, w.now.period*period + uint32(value[0]), binary.BigEndian.Uint64(key[len(key)-8:])}
	return nil
}
