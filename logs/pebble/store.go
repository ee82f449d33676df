// Package pebble is the log store that is built in: one Pebble database in a
// directory.
//
//	c class hour tenant deployment owner instance time epoch seq → chunk
//	l class hour tenant deployment owner instance → the letters of its lines
//	p tenant instance → the instance's last position, and whose it is
//	a mark → the keys of the arrival's chunks
//	u tenant hour → lines, bytes
//	m name → what the store knows of itself
//
// A class is the days that lines are kept. An owner is the instance's service, or
// the task that it is an attempt of: their IDs tell which. A chunk is a run of one
// instance's lines within one hour, so that all of a class that expire together
// are one range, a deployment's of an hour are one range, and so are a service's,
// a task's over its attempts, and an instance's.
// Chunks are stored as they are: Pebble's blocks, compressed, hold many.
//
// Appends are applied one after the other and wait for the disk together. What
// is not yet synced can be read, but nobody is told that it is held, and no
// mark is given out for it.
package pebble

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync/atomic"
	"time"

	lsm "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/miosa/miosa/disk"
	"github.com/miosa/miosa/pebbledb"
)

// Config says where and how.
type Config struct {
	Dir string // made if it is not there
	Log *slog.Logger
	// MinFree is how many bytes of Dir's disk stay free: with less, Append
	// refuses. 0: 2 % of the disk, but at least 512 MB and at most 4 GB.
	MinFree uint64
	Now     func() time.Time // nil: time.Now; only how long the order of arrival is kept depends on it

	fs       vfs.FS        // nil: the disk
	patience time.Duration // 0: pebbledb.Patience
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
	now  func() time.Time
	room disk.Guard
	db   *pebbledb.DB

	// What follows, to applied, is that of who writes.
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
}

// Open opens the store in Config.Dir, or makes it. A store that was killed
// opens with all that it acknowledged.
func Open(c Config) (*Store, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	s := &Store{now: c.Now, held: map[string]position{}, used: map[string]counter{}, letters: map[string]*letterSet{}, plain: map[bucket]bool{}}
	s.room = disk.Guard{Dir: c.Dir, Log: c.Log, Min: c.MinFree, Share: 50, Least: 512 << 20, Most: 4 << 30, What: "logs", Refused: "logs are not stored"}
	options := lsm.Options{
		CacheSize: cacheBytes, MemTableSize: tableBytes, MemTableStopWritesThreshold: tables, MaxOpenFiles: openFiles, L0StopWritesThreshold: 24,
		BytesPerSync: 1 << 20, FlushDelayDeleteRange: time.Second,
		CompactionConcurrencyRange: func() (lower, upper int) { return 1, max(1, runtime.GOMAXPROCS(0)/2) },
	}
	// Reading makes no work for writers.
	options.Experimental.ReadSamplingMultiplier = -1
	var err error
	s.db, err = pebbledb.Open(pebbledb.Config{
		Dir: c.Dir, Log: c.Log, FS: c.fs, Store: "log store", Failing: "logs are not stored: hosts keep them in their spools, and lose the oldest once those are full",
		Options: options, BlockBytes: blockBytes, FileBytes: 16 << 20, Filters: true, Quick: 3,
		FormatKey: metaKey("format"), Format: format, Upgrade: s.upgrade, Patience: c.patience,
	})
	if err != nil {
		return nil, err
	}
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("open log store %s: %w", c.Dir, err), s.db.Close())
	}
	return s, nil
}

// format is the version of keys and chunks: 2 has letters.
const format = 2

// load reads what the store keeps in memory.
func (s *Store) load() error {
	if err := s.hours.load(s.db); err != nil {
		return err
	}
	_, err := s.db.Get(metaKey("plain"), func(value []byte) error {
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
func (s *Store) upgrade(db *pebbledb.DB, b *lsm.Batch) error {
	if err := s.hours.load(db); err != nil {
		return err
	}
	var plain []byte
	for _, in := range s.hours.list() {
		plain = append(plain, in.key()[1:]...)
	}
	return b.Set(metaKey("plain"), plain, nil)
}

// newest is the mark of the newest arrival, also of one that is forgotten.
func (s *Store) newest() (uint64, error) {
	mark, err := s.db.Number(metaKey("forgotten"))
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

// recall forgets what is remembered of the database, which may be ahead of it.
func (s *Store) recall() {
	clear(s.held)
	clear(s.used)
	clear(s.letters)
	if last, err := s.newest(); err == nil {
		s.last = last
	}
}

// Close waits for the calls that use the database at the moment and closes it;
// calls and reads that go on end with miosa.Unavailable.
func (s *Store) Close() error { return s.db.Close() }
