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
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	lsm "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/freespace"
	"github.com/miosa/miosa/metrics"
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
	free func(dir string) (free, size uint64, err error)

	open sync.RWMutex // held to read by whoever uses db, to write by Close
	db   *lsm.DB      // nil: closed

	mu      sync.Mutex // guards the rest, and the order of appends
	sources map[metrics.Owner]*source
	scarce  bool

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
	s := &Store{cfg: c, free: freespace.Stat, sources: map[metrics.Owner]*source{}}
	db, err := open(c)
	if lsm.IsCorruptionError(err) || errors.Is(err, fs.ErrNotExist) {
		c.Log.Error("the history of figures is damaged; it is begun anew", "dir", c.Dir, "err", err)
		if err := os.RemoveAll(c.Dir); err != nil {
			return nil, fmt.Errorf("begin the history in %s anew: %w", c.Dir, err)
		}
		db, err = open(c)
	}
	if err != nil {
		return nil, fmt.Errorf("open the history in %s: %w", c.Dir, err)
	}
	s.db = db
	return s, nil
}

var errNewer = errors.New("its format is newer than this program's")

func open(c Config) (*lsm.DB, error) {
	cache := lsm.NewCache(cacheBytes)
	defer cache.Unref()
	options := &lsm.Options{
		Cache: cache, MemTableSize: tableBytes, MemTableStopWritesThreshold: 3, MaxOpenFiles: openFiles,
		L0CompactionThreshold: 4, LBaseMaxBytes: 16 << 20, FormatMajorVersion: lsm.FormatNewest,
		CompactionConcurrencyRange: func() (lower, upper int) { return 1, 1 },
		Logger:                     logger{c.Log},
	}
	for i := range options.Levels {
		level := &options.Levels[i]
		level.BlockSize, level.IndexBlockSize = blockBytes, blockBytes
		level.Compression = func() *sstable.CompressionProfile { return sstable.BalancedCompression }
	}
	for i := range options.TargetFileSizes {
		options.TargetFileSizes[i] = 4 << 20
	}
	db, err := lsm.Open(c.Dir, options)
	if err != nil {
		return nil, err
	}
	if err := checkFormat(db); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

func checkFormat(db *lsm.DB) error {
	value, closer, err := db.Get(formatKey)
	if errors.Is(err, lsm.ErrNotFound) {
		return db.Set(formatKey, binary.AppendUvarint(nil, format), lsm.Sync)
	}
	if err != nil {
		return err
	}
	version, _ := binary.Uvarint(value)
	if err := closer.Close(); err != nil {
		return err
	}
	if version > format {
		return fmt.Errorf("%w: %d, not %d", errNewer, version, format)
	}
	return nil
}

// enter begins a use of the database, which leave ends.
func (s *Store) enter(ctx context.Context) (leave func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.open.RLock()
	if s.db == nil {
		s.open.RUnlock()
		return nil, miosa.Errorf(miosa.Unavailable, "the history of figures is closed")
	}
	return s.open.RUnlock, nil
}

// Close waits for the calls that use the database and closes it.
func (s *Store) Close() error {
	s.open.Lock()
	defer s.open.Unlock()
	if s.db == nil {
		return nil
	}
	err := s.db.Close()
	s.db = nil
	if err != nil {
		return fmt.Errorf("close the history: %w", err)
	}
	return nil
}

// Append keeps a pass: one batch, synced.
func (s *Store) Append(ctx context.Context, pass metrics.Pass) error {
	if err := metrics.Check(pass); err != nil {
		return err
	}
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.room(); err != nil {
		s.refused.Add(uint64(len(pass.Samples)))
		return err
	}
	at := pass.At.UTC().Truncate(time.Millisecond)
	hour := hourOf(at)
	ms := at.UnixMilli() - int64(hour)*3600_000
	batch := s.db.NewBatch()
	var row []byte
	told := make([]metrics.Owner, 0, len(pass.Samples))
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
		told = append(told, sample.Owner)
		if err = batch.Merge(hourKey(src.key, hour), row, nil); err != nil {
			break
		}
	}
	if err == nil {
		err = batch.Commit(lsm.Sync)
	}
	err = errors.Join(err, batch.Close())
	if err != nil {
		// Whether it is kept is not known: the next rows stand alone, and the same
		// pass may come again.
		for _, o := range told {
			delete(s.sources, o)
		}
		s.refused.Add(uint64(len(pass.Samples)))
		return fmt.Errorf("keep samples: %w", err)
	}
	s.kept.Add(uint64(len(told)))
	return nil
}

// room is nil, or the miosa.NoSpace to refuse with; s.mu is held. Pebble ends
// the process when its disk is full: it must not come to that.
func (s *Store) room() error {
	free, size, err := s.free(s.cfg.Dir)
	if err != nil {
		return fmt.Errorf("look at the disk of %s: %w", s.cfg.Dir, err)
	}
	limit := s.cfg.MinFree
	if limit == 0 {
		limit = min(max(size/50, 512<<20), 4<<30)
	}
	used := s.db.Metrics().DiskSpaceUsage()
	scarce := free < limit || used > s.cfg.MaxBytes
	if scarce != s.scarce {
		s.scarce = scarce
		if scarce {
			s.cfg.Log.Error("no room for figures: the history has a gap", "dir", s.cfg.Dir, "free", free, "min_free", limit, "used", used, "most", s.cfg.MaxBytes)
		} else {
			s.cfg.Log.Info("room for figures again", "dir", s.cfg.Dir)
		}
	}
	if scarce {
		return miosa.Errorf(miosa.NoSpace, "there is no room for figures in %s: %d MB are free, %d MB are used by them", s.cfg.Dir, free>>20, used>>20)
	}
	return nil
}

// Read yields what the scope admits. Whoever takes a row must not call the
// store meanwhile: Close waits for the read.
func (s *Store) Read(ctx context.Context, scope metrics.Scope, since, until time.Time) iter.Seq2[metrics.Row, error] {
	return func(yield func(metrics.Row, error) bool) {
		leave, err := s.enter(ctx)
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
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	oldest := hourOf(later(now.Add(-metrics.Kept)))
	batch := s.db.NewBatch()
	it, err := s.db.NewIter(&lsm.IterOptions{LowerBound: []byte{kindRows}, UpperBound: []byte{kindRows + 1}})
	if err != nil {
		return errors.Join(err, batch.Close())
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
	err = errors.Join(err, it.Error(), it.Close())
	if err == nil && !batch.Empty() {
		err = batch.Commit(lsm.NoSync)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for o, src := range s.sources {
		if now.Sub(src.at) > time.Hour {
			delete(s.sources, o)
		}
	}
	return errors.Join(err, batch.Close())
}

// Stats are the store's own figures.
type Stats struct {
	Kept, Refused uint64 // samples, since it was opened
	DiskBytes     uint64
}

// Stats tells them.
func (s *Store) Stats() Stats {
	out := Stats{Kept: s.kept.Load(), Refused: s.refused.Load()}
	s.open.RLock()
	defer s.open.RUnlock()
	if s.db != nil {
		out.DiskBytes = s.db.Metrics().DiskSpaceUsage()
	}
	return out
}

// logger passes on what Pebble reports as wrong.
type logger struct{ log *slog.Logger }

func (logger) Infof(string, ...any) {}

func (l logger) Errorf(format string, args ...any) {
	l.log.Error("history engine", "error", fmt.Sprintf(format, args...))
}

// Fatalf must not return: Pebble has lost its footing, and a new start
// recovers from the write-ahead log.
func (l logger) Fatalf(format string, args ...any) {
	panic("history engine: " + fmt.Sprintf(format, args...))
}
