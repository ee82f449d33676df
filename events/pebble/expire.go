package pebble

import (
	"bytes"
	"context"
	"fmt"
	"time"

	lsm "github.com/cockroachdb/pebble/v2"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/events"
)

// An event's ID is known at least so long, and so much longer than the event.
const (
	idKept  = 7 * 24 * time.Hour
	idGrace = 24 * time.Hour
)

// Expire drops what has been kept for its days by now, an hour of a class at a
// time; its places on the timelines go by the period.
func (s *Store) Expire(ctx context.Context, now time.Time) error {
	leave, err := s.db.Enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if err := s.write(ctx, func() error { return s.expire(now) }); err != nil {
		return fmt.Errorf("expire events: %w", err)
	}
	return nil
}

func (s *Store) expire(now time.Time) error {
	b := s.db.NewBatch()
	due := map[uint16]int{}
	known := now.Add(-idKept) // IDs from then on are
	s.mu.RLock()
	for days, all := range s.classes {
		n := 0
		for n < len(all) && !events.Expires(int32(all[n].hour), int(days)).After(now) { //nolint:gosec // hours are small
			n++
		}
		if n > 0 {
			due[days] = n
		}
		if n < len(all) {
			if at := time.Unix(int64(all[n].hour)*3600, 0); at.Before(known) {
				known = at
			}
		}
	}
	s.mu.RUnlock()
	if len(due) == 0 {
		return nil
	}
	for days, n := range due {
		last := s.classes[days][n-1].hour
		if err := b.DeleteRange(place{days, 0, 0}.key(), place{days, last + 1, 0}.key(), nil); err != nil {
			return err
		}
	}
	for days := range s.classes {
		// All periods that have expired to their end.
		if dead := now.Add(-time.Duration(days)*24*time.Hour).Unix()/3600/period - 1; dead >= 0 {
			if err := b.DeleteRange(periodKey(days, 0), periodKey(days, uint32(dead)+1), nil); err != nil { //nolint:gosec // small
				return err
			}
		}
	}
	first, err := miosa.NewID(miosa.PrefixEvent, known.Add(-idGrace), bytes.NewReader(make([]byte, 10)))
	if err != nil {
		return err
	}
	if err := b.DeleteRange([]byte{kindID}, idKey(first), nil); err != nil {
		return err
	}
	if err := s.db.Commit(b); err != nil {
		return err
	}
	s.mu.Lock()
	for days, n := range due {
		s.classes[days] = s.classes[days][n:]
	}
	s.mu.Unlock()
	// Space is freed when the deletion reaches the tables.
	return s.db.Do(func(db *lsm.DB) error { _, err := db.AsyncFlush(); return err })
}
