package pebble

import (
	"context"
	"fmt"
	"time"

	lsm "github.com/cockroachdb/pebble/v2"

	"github.com/miosa/miosa/logs"
)

// How long the last position of an instance is known after its last line
// expired, and a tenant's usage after its hour.
const (
	positionGrace = 7 * 24 * time.Hour
	usageKept     = 10 * 366 * 24 * time.Hour
)

// Expire drops what has been kept for its days by now, an hour of a class at a
// time, and forgets the order of arrivals long ago.
func (s *Store) Expire(ctx context.Context, now time.Time) error {
	leave, err := s.db.Enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if err := s.db.Write(ctx, s.recall, func() error { return s.expire(now) }); err != nil {
		return fmt.Errorf("expire logs: %w", err)
	}
	return nil
}

func (s *Store) expire(now time.Time) error {
	b := s.db.NewBatch()
	clear(s.letters)
	var due []bucket
	if back := time.UnixMicro(s.expired.Load()).Sub(now); back < 0 || back >= logs.SetBack {
		s.expired.Store(now.UnixMicro()) // it is our turn: nobody else does
	}
	for _, in := range s.hours.list() {
		if in.expires().After(now) {
			continue
		}
		due = append(due, in)
		err := b.DeleteRange(in.key(), in.end(), nil)
		if err == nil {
			err = b.DeleteRange(lettersKey(in, nil), lettersEnd(in), nil)
		}
		if err != nil {
			return err
		}
	}
	err := s.forget(b, now.Add(-order))
	if err == nil && len(due) > 0 {
		err = s.forgetPositions(b, now)
	}
	if err == nil {
		err = s.db.Commit(b)
	}
	if err != nil || len(due) == 0 {
		return err
	}
	for _, in := range due {
		s.hours.remove(in)
	}
	// Space is freed when the deletion reaches the tables.
	return s.db.Do(func(db *lsm.DB) error { _, err := db.AsyncFlush(); return err })
}

// forgetPositions deletes those of instances all of whose lines are gone for
// long, and usage of long ago. The turn is held.
func (s *Store) forgetPositions(b *lsm.Batch, now time.Time) error {
	it, err := s.db.NewIter(&lsm.IterOptions{LowerBound: []byte{kindPosition}, UpperBound: []byte{kindUsage + 1}})
	if err != nil {
		return err
	}
	limit, old := now.Add(-positionGrace).Unix(), hourOf(now.Add(-usageKept).UnixMicro())
	for ok := it.First(); ok; ok = it.Next() {
		key := it.Key()
		var drop bool
		if key[0] == kindPosition {
			p, err := decodePosition(it.Value())
			if err != nil {
				_ = it.Close()
				return err
			}
			drop = p.until < limit
		} else {
			drop = hourOfUsage(key) < old
		}
		if !drop {
			continue
		}
		if err := b.Delete(key, nil); err != nil {
			_ = it.Close()
			return err
		}
		delete(s.held, string(key))
		delete(s.used, string(key))
	}
	return it.Close()
}

// Purge drops every line of a deployment at once. The positions of its
// instances stay known, so that a host that sends again changes nothing.
func (s *Store) Purge(ctx context.Context, tenantID, deploymentID string) error {
	leave, err := s.db.Enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if tenantID == "" || deploymentID == "" {
		return nil
	}
	path := names(nil, tenantID, deploymentID)
	if err := s.db.Write(ctx, s.recall, func() error { return s.purge(path) }); err != nil {
		return fmt.Errorf("purge logs of deployment %s: %w", deploymentID, err)
	}
	return nil
}

func (s *Store) purge(path []byte) error {
	it, err := s.db.NewIter(&lsm.IterOptions{LowerBound: []byte{kindChunk}, UpperBound: []byte{kindChunk + 1}})
	if err != nil {
		return err
	}
	b := s.db.NewBatch()
	for _, in := range s.hours.list() {
		lower := append(in.key(), path...)
		upper := behind(lower)
		if it.SeekGEWithLimit(lower, upper) != lsm.IterValid {
			continue
		}
		err := b.DeleteRange(lower, upper, nil)
		if err == nil {
			lower = lettersKey(in, path)
			err = b.DeleteRange(lower, behind(lower), nil)
		}
		if err != nil {
			_ = it.Close()
			return err
		}
	}
	if err := it.Close(); err != nil {
		return err
	}
	clear(s.letters)
	return s.db.Commit(b)
}
