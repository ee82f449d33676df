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
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/freespace"
)

// Config says where and how.
type Config struct {
	Dir string // made if it is not there
	Log *slog.Logger
	// MinFree is how many bytes of Dir's disk stay free: with less, Append
	// refuses. 0: 2 % of the disk, but at least 512 MB and at most 4 GB.
	MinFree uint64
	fs      vfs.FS           // nil: the disk
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
	now    func() time.Time
	room   freespace.Guard
	engine *engine

	open sync.RWMutex // held to read by whoever uses db, to write by Close
	db   *lsm.DB      // nil: closed

	// turn is held by who writes, and guards all below to applied.
	turn    chan struct{}
	held    map[string]position
	used    map[string]counter
	letters map[string]*letterSet
	last    uint64 // mark of the newest arrival
	applied uint64 // batches applied, synced or not

	synced  atomic.Uint64 // of applied, how many are surely synced
	durable atomic.Uint64 // of last, up to where it is synced

	expired atomic.Int64 // microseconds: by when Expire was last asked; 0: not yet

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
	if c.fs == nil {
		c.fs = vfs.Default
	}
	e := newEngine(c.Log, c.Dir)
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
		Logger:                      e,
		EventListener:               &lsm.EventListener{BackgroundError: e.background},
		FS:                          &guarded{c.fs, e},
	}
	// Reading makes no work for writers.
	options.Experimental.ReadSamplingMultiplier = -1
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
	var db *lsm.DB
	err := e.do(func() (err error) {
		if err := makeDir(options.FS, c.Dir); err != nil {
			return err
		}
		db, err = lsm.Open(c.Dir, options)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open log store %s: %w", c.Dir, err)
	}
	s := &Store{
		now: c.Now, db: db, engine: e, turn: make(chan struct{}, 1), held: map[string]position{}, used: map[string]counter{},
		letters: map[string]*letterSet{}, plain: map[bucket]bool{}, views: map[*view]struct{}{},
	}
	s.room = freespace.Guard{Dir: c.Dir, Log: c.Log, Min: c.MinFree, Share: 50, Least: 512 << 20, Most: 4 << 30, What: "logs", Refused: "logs are not stored"}
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("open log store %s: %w", c.Dir, err), db.Close())
	}
	return s, nil
}

// makeDir makes the directory so that it outlives a loss of power; Pebble sees
// to what is in it.
func makeDir(fs vfs.FS, dir string) error {
	if err := fs.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	parent, err := fs.OpenDir(fs.PathDir(dir))
	if err != nil {
		return err
	}
	return errors.Join(parent.Sync(), parent.Close())
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

// take begins a write, which release ends.
func (s *Store) take(ctx context.Context) error {
	timer := time.NewTimer(s.engine.patience)
	defer timer.Stop()
	if s.engine.over() {
		return s.engine.unwell()
	}
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-s.engine.failed:
		return s.engine.unwell()
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return miosa.Errorf(miosa.Unavailable, "the disk of the log store does not keep up")
	}
}

// release ends a write that came to err. One that is stalled ends later, if
// ever.
func (s *Store) release(err error) {
	if late, ok := errors.AsType[*stalled](err); ok {
		go func() {
			s.engine.log.Info("a stalled write to the log store ended", "err", <-late.done)
			s.recall()
			<-s.turn
		}()
		return
	}
	if err != nil {
		s.recall()
	}
	<-s.turn
}

// recall forgets what is remembered of the database, which may be ahead of it.
func (s *Store) recall() {
	clear(s.held)
	clear(s.used)
	clear(s.letters)
	if s.engine.over() {
		return
	}
	if last, err := s.newest(); err == nil {
		s.last = last
	}
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
	snapshot *lsm.Snapshot // nil: nothing is written any more
	lsm.Reader
}

func (s *Store) look(ctx context.Context) (*view, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	db := s.db
	v := &view{s: s, Reader: db}
	if s.engine.over() {
		return v, nil
	}
	var snapshot *lsm.Snapshot
	err = s.engine.do(func() error {
		snapshot = db.NewSnapshot()
		return nil
	})
	if s.engine.over() {
		return v, nil
	}
	if err != nil {
		return nil, err
	}
	v.snapshot, v.Reader = snapshot, snapshot
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
	if !open || v.s.engine.over() {
		return nil
	}
	return v.s.engine.do(v.snapshot.Close)
}

// Close waits for the calls that use the database at the moment and closes it;
// calls and reads that go on end with miosa.Unavailable.
func (s *Store) Close() error {
	s.open.Lock()
	defer s.open.Unlock()
	if s.db == nil {
		return nil
	}
	db := s.db
	s.db = nil
	if s.engine.over() {
		// It would wait for what never ends. Nothing is lost: it is as if the
		// process had been killed.
		return fmt.Errorf("close log store: %w", s.engine.unwell())
	}
	err := s.engine.do(func() error {
		for v := range s.views {
			_ = v.snapshot.Close()
		}
		return db.Close()
	})
	clear(s.views)
	if err != nil {
		return fmt.Errorf("close log store: %w", err)
	}
	return nil
}
