// Package pebble is the log store that is built in: one Pebble database in a
// directory.
//
//	c class hour tenant deployment service instance time epoch seq → chunk
//	l class hour tenant deployment service instance → the letters of its lines
//	p tenant instance → the instance's last position, and whose it is
//	a mark → the keys of the arrival's chunks
//	u tenant hour → lines, bytes
//	m name → what the store knows of itself
//
// A class is the days that lines are kept. A chunk is a run of one instance's
// lines within one hour, so that all of a class that expire together are one
// range, a deployment's of an hour are one range, and so are an instance's.
// Chunks are stored as they are: Pebble's blocks, compressed, hold many.
//
// Appends are applied one after the other and wait for the disk together. What
// is not yet synced can be read, but nobody is told that it is held, and no
// mark is given out for it.
package pebble

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	lsm "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable"

	"github.com/miosa/miosa"
)

// Config says where and how.
type Config struct {
	Dir string // made if it is not there
	Log *slog.Logger
	// MinFree is how many bytes of Dir's disk stay free: with less, Append
	// refuses. 0: 2 % of the disk, but at least 512 MB and at most 4 GB.
	MinFree uint64
	Now     func() time.Time // nil: time.Now; only how long the order of arrival is kept depends on it
}

// Sizes that bound the memory: the tables being filled and flushed, the cache
// of decompressed blocks, what is remembered of instances and hours.
const (
	tableBytes = 16 << 20
	tables     = 4
	cacheBytes = 24 << 20
	blockBytes = 32 << 10
	openFiles  = 500

	cachedPositions = 20000
	cachedHours     = 4096
)

// order is for how long at least the order of arrival is known.
const order = 2 * time.Hour

// Store implements logs.Store.
type Store struct {
	log  *slog.Logger
	now  func() time.Time
	disk disk

	open sync.RWMutex // held to read by whoever uses db, to write by Close
	db   *lsm.DB      // nil: closed

	write   sync.Mutex // guards what is written, and all below to durable
	held    map[string]position
	used    map[string]counter
	letters map[string]*letterSet
	last    uint64 // mark of the newest arrival
	applied uint64 // batches applied, synced or not

	synced  atomic.Uint64 // of applied, how many are surely synced
	durable atomic.Uint64 // of last, up to where it is synced

	hours buckets
	plain map[bucket]bool // from before there were letters; changed by no one but load

	looking sync.Mutex // guards views
	views   map[*view]struct{}
}

// Open opens the store in Config.Dir, or makes it. A store that was killed
// opens with all that it acknowledged.
func Open(c Config) (*Store, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	cache := lsm.NewCache(cacheBytes)
	defer cache.Unref()
	options := &lsm.Options{
		Cache:                       cache,
		MemTableSize:                tableBytes,
		MemTableStopWritesThreshold: tables,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       24,
		LBaseMaxBytes:               64 << 20,
		MaxOpenFiles:                openFiles,
		BytesPerSync:                1 << 20,
		FormatMajorVersion:          lsm.FormatNewest,
		CompactionConcurrencyRange:  func() (lower, upper int) { return 1, max(1, runtime.GOMAXPROCS(0)/2) },
		FlushDelayDeleteRange:       time.Second,
		Logger:                      logger{c.Log},
	}
	for i := range options.Levels {
		level := &options.Levels[i]
		level.BlockSize = blockBytes
		level.IndexBlockSize = blockBytes
		level.FilterPolicy = bloom.FilterPolicy(10)
		level.Compression = func() *sstable.CompressionProfile { return sstable.BalancedCompression }
		if i < 3 {
			level.Compression = func() *sstable.CompressionProfile { return sstable.SnappyCompression }
		}
	}
	for i := range options.TargetFileSizes {
		options.TargetFileSizes[i] = 16 << 20
	}
	db, err := lsm.Open(c.Dir, options)
	if err != nil {
		return nil, fmt.Errorf("open log store %s: %w", c.Dir, err)
	}
	s := &Store{log: c.Log, now: c.Now, db: db, held: map[string]position{}, used: map[string]counter{},
		letters: map[string]*letterSet{}, plain: map[bucket]bool{}, views: map[*view]struct{}{},
	}
	s.disk = disk{dir: c.Dir, log: c.Log, min: c.MinFree, stat: stat}
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("open log store %s: %w", c.Dir, err), db.Close())
	}
	return s, nil
}

// format is the version of keys and chunks: 2 has letters.
const format = 2

// load reads what the store keeps in memory, and checks that it can read it.
func (s *Store) load() error {
	version, err := s.number(metaKey("format"))
	if err != nil {
		return err
	}
	if version > format {
		return fmt.Errorf("its format %d is newer than this program's, %d", version, format)
	}
	if err := s.hours.load(s.db); err != nil {
		return err
	}
	if version < format {
		if err := s.upgrade(); err != nil {
			return err
		}
	}
	err = s.get(metaKey("plain"), func(value []byte) error {
		for ; len(value) >= bucketSize; value = value[bucketSize:] {
			s.plain[bucketOf(append([]byte{kindChunk}, value[:bucketSize]...))] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	if s.last, err = s.newest(); err != nil {
		return err
	}
	s.durable.Store(s.last)
	return nil
}

// upgrade makes a store of any earlier format, or a new one, one of the
// present. What there is has no letters, and no hour of it will: until it
// expires, it is searched line by line.
func (s *Store) upgrade() error {
	b := s.db.NewBatch()
	var plain []byte
	for _, in := range s.hours.list() {
		plain = append(plain, in.key()[1:]...)
	}
	err := errors.Join(b.Set(metaKey("plain"), plain, nil), b.Set(metaKey("format"), binary.AppendUvarint(nil, format), nil))
	if err != nil {
		return err
	}
	return b.Commit(lsm.Sync)
}

// newest is the mark of the newest arrival, also of one that is forgotten.
func (s *Store) newest() (uint64, error) {
	mark, err := s.number(metaKey("forgotten"))
	if err != nil {
		return 0, err
	}
	it, err := s.db.NewIter(&lsm.IterOptions{LowerBound: []byte{kindArrival}, UpperBound: []byte{kindArrival + 1}})
	if err != nil {
		return 0, err
	}
	if it.Last() {
		mark = max(mark, markOf(it.Key()))
	}
	return mark, it.Close()
}

// number reads a uvarint; absent is 0.
func (s *Store) number(key []byte) (n uint64, err error) {
	err = s.get(key, func(value []byte) error {
		n, _ = binary.Uvarint(value)
		return nil
	})
	return n, err
}

// get calls use with the value under key, which is its own only that long, if
// there is one.
func (s *Store) get(key []byte, use func(value []byte) error) error {
	value, closer, err := s.db.Get(key)
	if errors.Is(err, lsm.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(use(value), closer.Close())
}

// enter begins a use of the database, which leave ends; in between the caller
// neither enters again nor waits for anybody.
func (s *Store) enter(ctx context.Context) (leave func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.open.RLock()
	if s.db == nil {
		s.open.RUnlock()
		return nil, miosa.Errorf(miosa.Unavailable, "the log store is closed")
	}
	return s.open.RUnlock, nil
}

// view is the store as it was at one moment, for a read of several passes.
// What came later would have holes in it: a line that was read, with one before
// it that was not.
type view struct {
	s        *Store
	snapshot *lsm.Snapshot
}

func (s *Store) look(ctx context.Context) (*view, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	v := &view{s, s.db.NewSnapshot()}
	s.looking.Lock()
	defer s.looking.Unlock()
	s.views[v] = struct{}{}
	return v, nil
}

// close ends the view, unless the store's end did.
func (v *view) close() error {
	v.s.open.RLock()
	defer v.s.open.RUnlock()
	v.s.looking.Lock()
	_, open := v.s.views[v]
	delete(v.s.views, v)
	v.s.looking.Unlock()
	if !open {
		return nil
	}
	return v.snapshot.Close()
}

// Close waits for the calls that use the database at the moment and closes it;
// calls and reads that go on end with miosa.Unavailable.
func (s *Store) Close() error {
	s.open.Lock()
	defer s.open.Unlock()
	if s.db == nil {
		return nil
	}
	for v := range s.views {
		_ = v.snapshot.Close()
		delete(s.views, v)
	}
	err := s.db.Close()
	s.db = nil
	if err != nil {
		return fmt.Errorf("close log store: %w", err)
	}
	return nil
}

// logger passes on what Pebble reports as wrong; what it does all the time
// is of no interest.
type logger struct{ log *slog.Logger }

func (logger) Infof(string, ...any) {}

func (l logger) Errorf(format string, args ...any) {
	l.log.Error("log store engine", "error", fmt.Sprintf(format, args...))
}

// Fatalf must not return: Pebble has lost its footing, and a new start
// recovers from the write-ahead log.
func (l logger) Fatalf(format string, args ...any) {
	panic("log store engine: " + fmt.Sprintf(format, args...))
}
