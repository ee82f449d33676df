// Package pebble is the event store that is built in: one Pebble database in a
// directory.
//
//	e class hour mark → event
//	t class period tenant subject mark → the hour of that period
//	i id → class, hour, mark
//	m name → what the store knows of itself
//
// A class is the days that events are kept. All of a class that expire together
// are one range. A subject is one thing whose timeline somebody reads: a
// deployment, a service, an instance, a version, a rollout, a task; a host, without
// a tenant; nothing, for the tenant as a whole. Hours rise with the marks: see
// events.Hour. So the periods of a class, one after the other, are in order; they
// are as long as the hours fit into a byte, so that a seldom one is found in few.
package pebble

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	lsm "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/disk"
	"github.com/miosa/miosa/events"
	"github.com/miosa/miosa/pebbledb"
)

// Config says where and how.
type Config struct {
	Dir string // made if it is not there
	Log *slog.Logger
	// MinFree is how many bytes of Dir's disk stay free: with less, Append
	// refuses. 0: 1 % of the disk, but at least 256 MB and at most 2 GB.
	MinFree uint64
	Now     func() time.Time // nil: time.Now

	fs vfs.FS // nil: the disk
}

// Sizes that bound the memory.
const (
	tableBytes = 4 << 20
	tables     = 3
	cacheBytes = 16 << 20
	blockBytes = 8 << 10
	openFiles  = 100
)

// Store implements events.Store.
type Store struct {
	now  func() time.Time
	room disk.Guard
	db   *pebbledb.DB

	// What follows, to doubt, is that of who writes.
	last   uint64 // mark of the newest event
	hour   uint32 // that it is kept under
	doubt  bool   // a write failed: what of it is there must be read anew
	synced atomic.Uint64

	mu      sync.RWMutex        // guards classes
	classes map[uint16][]bucket // of each class its living hours, rising; none: only leftovers
}

// bucket is all of a class that expires together.
type bucket struct {
	hour  uint32
	first uint64 // its first mark
}

// Open opens the store in Config.Dir, or makes it. A store that was killed
// opens with all that it acknowledged.
func Open(c Config) (*Store, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	s := &Store{now: c.Now}
	s.room = disk.Guard{Dir: c.Dir, Log: c.Log, Min: c.MinFree, Share: 100, Least: 256 << 20, Most: 2 << 30, What: "events", Refused: "events wait in the records"}
	var err error
	s.db, err = pebbledb.Open(pebbledb.Config{
		Dir: c.Dir, Log: c.Log, FS: c.fs, Store: "event store", Failing: "events wait in the records, and the oldest are lost once there are too many",
		Options: lsm.Options{
			CacheSize: cacheBytes, MemTableSize: tableBytes, MemTableStopWritesThreshold: tables, MaxOpenFiles: openFiles,
			BytesPerSync: 1 << 20, FlushDelayDeleteRange: time.Second,
		},
		BlockBytes: blockBytes, FileBytes: 8 << 20, Filters: true, Quick: 3,
		FormatKey: metaKey("format"), Format: format,
	})
	if err != nil {
		return nil, err
	}
	if err := s.recall(); err != nil {
		return nil, errors.Join(fmt.Errorf("open event store %s: %w", c.Dir, err), s.db.Close())
	}
	return s, nil
}

// format is the version of the keys.
const format = 1

// recall reads the newest mark and the buckets. It is the caller's turn to
// write, or nobody knows the store yet.
func (s *Store) recall() error {
	s.last, s.hour = 0, 0
	_, err := s.db.Get(metaKey("last"), func(value []byte) error {
		p, err := parsePlace(value)
		s.last, s.hour = p.seq, p.hour
		return err
	})
	if err != nil {
		return err
	}
	classes := map[uint16][]bucket{}
	it, err := s.db.NewIter(&lsm.IterOptions{LowerBound: []byte{kindEvent}, UpperBound: []byte{kindTimeline + 1}})
	if err != nil {
		return err
	}
	// The first key of each bucket leads to the next.
	for ok := it.First(); ok && it.Key()[0] == kindEvent; {
		p, err := parsePlace(it.Key()[1:])
		if err != nil {
			return errors.Join(err, it.Close())
		}
		classes[p.days] = append(classes[p.days], bucket{p.hour, p.seq})
		ok = it.SeekGE(place{p.days, p.hour + 1, 0}.key())
	}
	for ok := it.SeekGE([]byte{kindTimeline}); ok; {
		days := binary.BigEndian.Uint16(it.Key()[1:])
		classes[days] = append(classes[days], []bucket{}...)
		ok = it.SeekGE(periodKey(days+1, 0))
	}
	if err := it.Close(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.classes, s.doubt = classes, false
	s.synced.Store(s.last)
	return nil
}

// Close waits for the calls that use the database at the moment and closes it;
// calls and reads that go on end with miosa.Unavailable.
func (s *Store) Close() error { return s.db.Close() }

// Append makes the events durable.
func (s *Store) Append(ctx context.Context, kept []events.Kept) error {
	for i := range kept {
		if err := kept[i].Check(); err != nil {
			return err
		}
	}
	leave, err := s.db.Enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if err := s.room.Room(s.now()); err != nil {
		return err
	}
	if err := s.write(ctx, func() error { return s.append(kept) }); err != nil {
		return fmt.Errorf("append events: %w", err)
	}
	return nil
}

// write calls f when it is its turn, and what is remembered is as it is kept.
func (s *Store) write(ctx context.Context, f func() error) error {
	return s.db.Write(ctx, func() { s.doubt = true }, func() error {
		if s.doubt {
			if err := s.recall(); err != nil {
				return err
			}
		}
		return f()
	})
}

func (s *Store) append(kept []events.Kept) error {
	b := s.db.NewBatch()
	var places []place
	fresh := map[string]bool{}
	last, hour, now := s.last, s.hour, s.now()
	for i := range kept {
		k := &kept[i]
		held, err := s.db.Get(idKey(k.ID), func([]byte) error { return nil })
		if err != nil {
			return err
		}
		if held || fresh[k.ID] {
			continue
		}
		fresh[k.ID] = true
		last++
		hour = uint32(events.Hour(k.At, now, int32(hour)))      //nolint:gosec // hours are small and not negative
		p := place{days: uint16(k.Days), hour: hour, seq: last} //nolint:gosec // checked
		if err := s.put(b, &k.Event, p); err != nil {
			return err
		}
		places = append(places, p)
	}
	if len(places) == 0 {
		return nil // what is known was synced when it came
	}
	if err := b.Set(metaKey("last"), place{hour: hour, seq: last}.append(nil), nil); err != nil {
		return err
	}
	if err := s.db.Commit(b); err != nil {
		return err
	}
	s.last, s.hour = last, hour
	s.mu.Lock()
	for _, p := range places {
		if all := s.classes[p.days]; len(all) == 0 || all[len(all)-1].hour < p.hour {
			s.classes[p.days] = append(all, bucket{p.hour, p.seq})
		}
	}
	s.mu.Unlock()
	s.synced.Store(last)
	return nil
}

// put writes an event and its place on every timeline that it is on.
func (s *Store) put(b *lsm.Batch, e *miosa.Event, p place) error {
	raw, err := events.Encode(e)
	if err != nil {
		return err
	}
	if err := b.Set(p.key(), raw, nil); err != nil {
		return err
	}
	if err := b.Set(idKey(e.ID), p.append(nil), nil); err != nil {
		return err
	}
	on := func(t timeline) error {
		k := binary.BigEndian.AppendUint64(t.on(p.days, p.hour/period), p.seq)
		return b.Set(k, []byte{byte(p.hour % period)}, nil)
	}
	if e.HostID != "" {
		if err := on(timeline{"", e.HostID}); err != nil {
			return err
		}
	}
	if e.TenantID == "" {
		return nil
	}
	subjects := []string{""}
	for _, id := range []string{e.DeploymentID, e.ServiceID, e.InstanceID, e.VersionID, e.RolloutID, e.TaskID} {
		if id != "" && !slices.Contains(subjects, id) {
			subjects = append(subjects, id)
		}
	}
	for _, id := range subjects {
		if err := on(timeline{e.TenantID, id}); err != nil {
			return err
		}
	}
	return nil
}

// Last is the mark of the newest event, also of one that expired.
func (s *Store) Last(ctx context.Context) (events.Mark, error) {
	leave, err := s.db.Enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	return events.Mark(s.synced.Load()), nil
}

// Place is the mark of an event, or where its hour begins.
func (s *Store) Place(ctx context.Context, id string) (m events.Mark, held bool, err error) {
	leave, err := s.db.Enter(ctx)
	if err != nil {
		return 0, false, err
	}
	defer leave()
	synced := s.synced.Load()
	_, err = s.db.Get(idKey(id), func(value []byte) error {
		p, err := parsePlace(value)
		m, held = events.Mark(p.seq), p.seq <= synced
		return err
	})
	if err != nil {
		return 0, false, fmt.Errorf("place of event %s: %w", id, err)
	}
	if held {
		return m, true, nil
	}
	hour := uint32(events.Hour(miosa.IDTime(id), s.now(), 0)) //nolint:gosec // not negative
	first := synced + 1
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, all := range s.classes {
		for _, b := range all {
			if b.hour >= hour {
				first = min(first, b.first)
				break
			}
		}
	}
	return events.Mark(first - 1), false, nil
}
