// Package pebble is the history that is built in: one small Pebble database in
// a directory.
//
//	r tenant deployment service source hour → rows
//
// A row is added to the end of its hour's value by a merge, so that there is no
// journal of our own, nothing to take up after a kill, and next to nothing in
// memory: of each source the last row, which the next is told against. A pass
// is one synced batch: every 15 seconds one wait for the disk.
package pebble

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	lsm "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/disk"
	"github.com/miosa/miosa/metrics"
	"github.com/miosa/miosa/pebbledb"
)

// Config says where and how.
type Config struct {
	Dir string // made if it is not there
	Log *slog.Logger
	// MinFree is how many bytes of Dir's disk stay free: with less, Append
	// refuses. 0: 2 % of the disk, but at least 512 MB and at most 4 GB.
	MinFree uint64
	// MaxBytes bounds the database: past it Append refuses until something
	// expires. 0: 4 GB, a day of some 50,000 instances.
	MaxBytes uint64

	fs vfs.FS // nil: the disk
}

// Sizes that bound the memory. There is little to cache: who looks at a
// history looks at another hour each time.
const (
	tableBytes = 2 << 20
	cacheBytes = 1 << 20
	blockBytes = 16 << 10
	openFiles  = 64
	maxBytes   = 4 << 30
)

// format is the version of keys and rows.
const format = 1

// Store implements metrics.Store.
type Store struct {
	cfg  Config
	room disk.Guard
	db   *pebbledb.DB

	sources map[metrics.Owner]*source // that of who writes
	full    atomic.Bool               // past MaxBytes

	kept, refused atomic.Uint64 // samples
}

// source is what the next row of one is told against.
type source struct {
	key   []byte
	hour  uint32
	at    time.Time
	state state
}

var _ metrics.Store = (*Store)(nil)

// Open opens the store in Config.Dir, or makes it. A store that is damaged is
// begun anew: a day of figures to look at keeps no platform from
// starting. One of a newer program is an error.
func Open(c Config) (*Store, error) {
	if c.MaxBytes == 0 {
		c.MaxBytes = maxBytes
	}
	s := &Store{cfg: c, sources: map[metrics.Owner]*source{}}
	s.room = disk.Guard{Dir: c.Dir, Log: c.Log, Min: c.MinFree, Share: 50, Least: 512 << 20, Most: 4 << 30, What: "figures", Refused: "their history has a gap"}
	var err error
	s.db, err = open(c)
	if lsm.IsCorruptionError(err) || errors.Is(err, fs.ErrNotExist) {
		c.Log.Error("the history of figures is damaged; it is begun anew", "dir", c.Dir, "err", err)
		if err := os.RemoveAll(c.Dir); err != nil {
			return nil, fmt.Errorf("begin the history in %s anew: %w", c.Dir, err)
		}
		s.db, err = open(c)
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

func open(c Config) (*pebbledb.DB, error) {
	return pebbledb.Open(pebbledb.Config{
		Dir: c.Dir, Log: c.Log, FS: c.fs, Store: "history of figures", Failing: "figures are not kept: their history has a gap",
		Options: lsm.Options{
			CacheSize: cacheBytes, MemTableSize: tableBytes, MemTableStopWritesThreshold: 3, MaxOpenFiles: openFiles, LBaseMaxBytes: 16 << 20,
		},
		BlockBytes: blockBytes, FileBytes: 4 << 20, FormatKey: formatKey, Format: format,
	})
}

// Close waits for the calls that use the database and closes it.
func (s *Store) Close() error { return s.db.Close() }

// Append keeps a pass: one batch, synced.
func (s *Store) Append(ctx context.Context, pass metrics.Pass) error {
	if err := metrics.Check(pass); err != nil {
		return err
	}
	kept, err := s.append(ctx, &pass)
	if err != nil {
		s.refused.Add(uint64(len(pass.Samples)))
		return fmt.Errorf("keep samples: %w", err)
	}
	s.kept.Add(uint64(kept))
	return nil
}

func (s *Store) append(ctx context.Context, pass *metrics.Pass) (kept int, err error) {
	if err := s.roomy(); err != nil {
		return 0, err
	}
	leave, err := s.db.Enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	// Whether what failed is kept is not known: the next rows stand alone, and the
	// same pass may come again.
	err = s.db.Write(ctx, func() { clear(s.sources) }, func() (err error) {
		batch := s.db.NewBatch()
		if kept, err = s.fill(batch, pass); err != nil {
			return err
		}
		return s.db.Commit(batch)
	})
	return kept, err
}

// fill puts a pass into the batch.
func (s *Store) fill(batch *lsm.Batch, pass *metrics.Pass) (kept int, err error) {
	at := pass.At.UTC().Truncate(time.Millisecond)
	hour := hourOf(at)
	ms := at.UnixMilli() - int64(hour)*3600_000
	var row []byte
	for n := range pass.Samples {
		sample := &pass.Samples[n]
		src := s.sources[sample.Owner]
		if src == nil {
			src = &source{key: sourceKey(sample.Owner)}
			s.sources[sample.Owner] = src
		} else if !at.After(src.at) {
			continue
		}
		row = appendRow(row[:0], &src.state, src.hour != hour, ms, &sample.Values)
		src.hour, src.at = hour, at
		if err := batch.Merge(hourKey(src.key, hour), row, nil); err != nil {
			return 0, err
		}
		kept++
	}
	return kept, nil
}

// roomy is nil, or the miosa.NoSpace to refuse with.
func (s *Store) roomy() error {
	if err := s.room.Room(time.Now()); err != nil {
		return err
	}
	used := s.db.DiskBytes()
	full := used > s.cfg.MaxBytes
	if s.full.Swap(full) != full {
		if full {
			s.cfg.Log.Error("no room for figures: the history has a gap", "dir", s.cfg.Dir, "used", used, "most", s.cfg.MaxBytes)
		} else {
			s.cfg.Log.Info("room for figures again", "dir", s.cfg.Dir)
		}
	}
	if full {
		return miosa.Wrap(fmt.Errorf("%s uses %d MB", s.cfg.Dir, used>>20), miosa.NoSpace, "there is no room for more figures")
	}
	return nil
}

// Read yields what the scope admits. Whoever takes a row must not call the
// store meanwhile: Close waits for the read.
func (s *Store) Read(ctx context.Context, scope metrics.Scope, since, until time.Time) iter.Seq2[metrics.Row, error] {
	return func(yield func(metrics.Row, error) bool) {
		leave, err := s.db.Enter(ctx)
		if err != nil {
			yield(metrics.Row{}, err)
			return
		}
		it, err := s.iterate(scope)
		if err != nil {
			leave()
			yield(metrics.Row{}, err)
			return
		}
		err = s.each(ctx, it, scope, since, until, yield)
		err = errors.Join(err, it.Close())
		leave()
		if err != nil {
			yield(metrics.Row{}, err)
		}
	}
}

func (s *Store) iterate(scope metrics.Scope) (*lsm.Iterator, error) {
	if scope.TenantID == "" || scope.DeploymentID == "" {
		return nil, miosa.Errorf(miosa.Internal, "a read of figures names no tenant or no deployment")
	}
	low := prefix(scope.TenantID, scope.DeploymentID, scope.ServiceID, scope.SourceID)
	return s.db.NewIter(&lsm.IterOptions{LowerBound: low, UpperBound: after(low)})
}

func (s *Store) each(ctx context.Context, it *lsm.Iterator, scope metrics.Scope, since, until time.Time, yield func(metrics.Row, error) bool) error {
	first, last := hourOf(later(since)), hourOf(later(until))
	for ok := it.First(); ok; {
		owner, hour, valid := parseKey(it.Key())
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case !valid || !scope.Admits(owner):
			ok = it.Next()
			continue
		case hour < first:
			ok = it.SeekGE(hourKey(sourceKey(owner), first))
			continue
		case hour > last:
			ok = it.SeekGE(after(sourceKey(owner)))
			continue
		}
		value, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		begin := time.Unix(int64(hour)*3600, 0).UTC()
		end, newest := false, time.Time{}
		whole := rows(value, func(ms int64, v *metrics.Values) bool {
			at := begin.Add(time.Duration(ms) * time.Millisecond)
			// What was kept by two processes may overlap.
			if at.Before(since) || !at.Before(until) || !at.After(newest) {
				return true
			}
			newest = at
			end = !yield(metrics.Row{Owner: owner, At: at, Values: *v}, nil)
			return !end
		})
		if end {
			return nil
		}
		if !whole {
			s.cfg.Log.Warn("an hour of figures cannot be read to its end", "source", owner.SourceID, "hour", begin)
		}
		ok = it.Next()
	}
	return it.Error()
}

// later bounds a time to what hours can say.
func later(t time.Time) time.Time {
	if t.Unix() < 0 {
		return time.Unix(0, 0)
	}
	if t.Unix() > 1<<40 {
		return time.Unix(1<<40, 0)
	}
	return t
}

// Expire drops the hours that ended before metrics.Kept ago, and forgets the
// sources that are silent.
func (s *Store) Expire(ctx context.Context, now time.Time) error {
	leave, err := s.db.Enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	err = s.db.Write(ctx, func() { clear(s.sources) }, func() error {
		for o, src := range s.sources {
			if now.Sub(src.at) > time.Hour {
				delete(s.sources, o)
			}
		}
		return s.expire(hourOf(later(now.Add(-metrics.Kept))))
	})
	if err != nil {
		return fmt.Errorf("expire samples: %w", err)
	}
	return nil
}

func (s *Store) expire(oldest uint32) error {
	batch := s.db.NewBatch()
	it, err := s.db.NewIter(&lsm.IterOptions{LowerBound: []byte{kindRows}, UpperBound: []byte{kindRows + 1}})
	if err != nil {
		return err
	}
	for ok := it.First(); ok && err == nil; {
		owner, hour, valid := parseKey(it.Key())
		if valid && hour >= oldest {
			ok = it.SeekGE(after(sourceKey(owner)))
			continue
		}
		err = batch.Delete(it.Key(), nil)
		ok = it.Next()
	}
	if err = errors.Join(err, it.Error(), it.Close()); err != nil || batch.Empty() {
		return err
	}
	return s.db.Commit(batch)
}

// Stats are the store's own figures.
type Stats struct {
	Kept, Refused uint64 // samples, since it was opened
	DiskBytes     uint64
}

// Stats tells them.
func (s *Store) Stats() Stats {
	return Stats{Kept: s.kept.Load(), Refused: s.refused.Load(), DiskBytes: s.db.DiskBytes()}
}
