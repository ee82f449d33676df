// Package pebbledb is the Pebble database that each of the built-in stores lies
// in: opened, entered, written in turn and closed, and over alone when its disk
// fails.
//
// Pebble has no way to go on once its log of writes, or its list of tables,
// could not be written: it calls Logger.Fatalf, which must not return, or it
// panics. That ends the database's part here, and not the process: the goroutine
// that met it goes no further (see guarded, for nearly all there is to meet),
// nothing is written any more, and what is held can still be read. The next
// start recovers from the log of writes.
package pebbledb

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	lsm "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/miosa/miosa"
)

// Patience is how long one write waits for the disk. It is then refused for
// now, and may yet be done. Opening, which may have to write much of what was
// recovered, is given ten times as long.
const Patience = 30 * time.Second

// Config says where, how, and in whose words.
type Config struct {
	Dir string // made if it is not there
	Log *slog.Logger
	FS  vfs.FS // nil: the disk

	Store   string // what it is to its operator: "log store"
	Failing string // what a disk that fails comes to: "logs are not stored"

	// Options are the store's own. The file system, the logger and what is told
	// of events are set here.
	Options    lsm.Options
	BlockBytes int   // of tables, before compression; 0: 4 KB
	FileBytes  int64 // of a table; 0: 2 MB, and twice as much from level to level
	Filters    bool  // whether a table knows which keys it lacks
	Quick      int   // on how many of the upper levels tables are compressed in little time

	FormatKey []byte // where the version of keys and values stands
	Format    uint64
	// Upgrade puts into the batch what makes a database of an earlier format, or a
	// new one, one of the present; nil: there is nothing to do.
	Upgrade func(d *DB, b *lsm.Batch) error

	Patience time.Duration // 0: Patience
}

// DB is a database. Make it with Open. Between Enter and what ends that, it may
// be used.
type DB struct {
	engine *engine

	open sync.RWMutex // held to read by whoever uses db, to write by Close
	db   *lsm.DB      // nil: closed

	turn chan struct{} // held by who writes
	late atomic.Bool   // a write that was refused may yet be done

	looking sync.Mutex // guards views
	views   map[*View]struct{}

	measuring atomic.Bool
	bytes     atomic.Uint64
}

// Open opens the database in Config.Dir, or makes it. One that was killed opens
// with all that it acknowledged. One of a later format is an error.
func Open(c Config) (*DB, error) {
	if c.FS == nil {
		c.FS = vfs.Default
	}
	e := &engine{
		log: c.Log, dir: c.Dir, store: c.Store, failing: c.Failing, patience: cmp.Or(c.Patience, Patience), failed: make(chan struct{}),
	}
	d := &DB{engine: e, turn: make(chan struct{}, 1), views: map[*View]struct{}{}}
	options := c.options(e)
	var db *lsm.DB
	err := e.within(10*e.patience, func() (err error) {
		if err := makeDir(options.FS, c.Dir); err != nil {
			return err
		}
		db, err = lsm.Open(c.Dir, options)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open %s %s: %w", c.Store, c.Dir, err)
	}
	d.db = db
	if err := d.format(&c); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s %s: %w", c.Store, c.Dir, err), d.Close())
	}
	return d, nil
}

func (c *Config) options(e *engine) *lsm.Options {
	o := c.Options
	o.FS = &guarded{c.FS, e}
	o.Logger = e
	o.EventListener = &lsm.EventListener{BackgroundError: e.background, DataCorruption: e.damaged}
	o.FormatMajorVersion = lsm.FormatNewest
	for i := range o.Levels {
		level := &o.Levels[i]
		level.BlockSize, level.IndexBlockSize = c.BlockBytes, c.BlockBytes
		if c.Filters {
			level.FilterPolicy = bloom.FilterPolicy(10)
		}
		level.Compression = func() *sstable.CompressionProfile { return sstable.BalancedCompression }
		if i < c.Quick {
			level.Compression = func() *sstable.CompressionProfile { return sstable.SnappyCompression }
		}
		o.TargetFileSizes[i] = c.FileBytes
	}
	return &o
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

func (d *DB) format(c *Config) error {
	version, err := d.Number(c.FormatKey)
	switch {
	case err != nil:
		return err
	case version > c.Format:
		return fmt.Errorf("its format %d is newer than this program's, %d", version, c.Format)
	case version == c.Format:
		return nil
	}
	b := d.NewBatch()
	if c.Upgrade != nil {
		if err := c.Upgrade(d, b); err != nil {
			return err
		}
	}
	if err := b.Set(c.FormatKey, binary.AppendUvarint(nil, c.Format), nil); err != nil {
		return err
	}
	return d.Commit(b)
}

// Enter begins a use of the database, which leave ends; in between the caller
// neither enters again nor waits for anybody who does.
func (d *DB) Enter(ctx context.Context) (leave func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d.open.RLock()
	if d.db == nil {
		d.open.RUnlock()
		return nil, miosa.Errorf(miosa.Unavailable, "the %s is closed", d.engine.store)
	}
	return d.open.RUnlock, nil
}

// Get calls use with the value under key, which is its own only that long, if
// there is one.
func (d *DB) Get(key []byte, use func(value []byte) error) (found bool, err error) {
	return Get(d.db, key, use)
}

// Get is that of a reader.
func Get(r lsm.Reader, key []byte, use func(value []byte) error) (found bool, err error) {
	value, closer, err := r.Get(key)
	if errors.Is(err, lsm.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, errors.Join(use(value), closer.Close())
}

// Number reads a uvarint; absent is 0.
func (d *DB) Number(key []byte) (n uint64, err error) {
	_, err = d.Get(key, func(value []byte) error {
		n, _ = binary.Uvarint(value)
		return nil
	})
	return n, err
}

// NewIter goes over keys and values.
func (d *DB) NewIter(o *lsm.IterOptions) (*lsm.Iterator, error) { return d.db.NewIter(o) }

// NewBatch is for Commit. Whoever does not come to that lets it go as it is.
func (d *DB) NewBatch() *lsm.Batch { return d.db.NewBatch() }

// Do calls f, which writes, on a goroutine of its own: it may meet the end of
// the database, or take for ever. The error is then miosa.NoSpace or
// miosa.Unavailable, and says what to do.
func (d *DB) Do(f func(db *lsm.DB) error) error {
	db := d.db
	return d.engine.do(func() error { return f(db) })
}

// Commit makes a batch durable. It is used up, whatever comes of it.
func (d *DB) Commit(b *lsm.Batch) error {
	return d.engine.do(func() error { return errors.Join(b.Commit(lsm.Sync), b.Close()) })
}

// Write calls f when it is its turn: writes come one after the other. After an
// error forget is called (unless nil), for what the caller remembers of the
// database may not be what it has. Of a write that takes too long this is so
// once it has come to an end, and nobody's turn comes before.
func (d *DB) Write(ctx context.Context, forget func(), f func() error) error {
	if err := d.takeTurn(ctx); err != nil {
		return err
	}
	err := f()
	d.release(err, forget)
	return err
}

func (d *DB) takeTurn(ctx context.Context) error {
	if d.engine.hasFailed() {
		return d.engine.unwell()
	}
	timer := time.NewTimer(d.engine.patience)
	defer timer.Stop()
	select {
	case d.turn <- struct{}{}:
		return nil
	case <-d.engine.failed:
		return d.engine.unwell()
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return miosa.Errorf(miosa.Unavailable, "the disk of the %s does not keep up", d.engine.store)
	}
}

func (d *DB) release(err error, forget func()) {
	end := func() {
		if err != nil && forget != nil && d.db != nil && !d.engine.hasFailed() {
			forget()
		}
		d.late.Store(false)
		<-d.turn
	}
	if late, ok := errors.AsType[*stalled](err); ok {
		d.late.Store(true)
		go func() {
			d.engine.log.Info("a stalled write ended", "store", d.engine.store, "err", <-late.done)
			d.open.RLock()
			defer d.open.RUnlock()
			end()
		}()
		return
	}
	end()
}

// Settled is nil unless a write that was refused may yet be done. Whoever reads
// to write something else in its place asks first.
func (d *DB) Settled() error {
	if d.late.Load() {
		return miosa.Errorf(miosa.Unavailable, "a write to the %s has not come to an end", d.engine.store)
	}
	return nil
}

// Fail ends the database, for nobody knows what its disk has. What it returns
// says so.
func (d *DB) Fail(cause error) error {
	d.engine.fail(cause)
	return d.engine.unwell()
}

// DiskBytes is what the database takes up on its disk; when it does not say so,
// what it last said.
func (d *DB) DiskBytes() uint64 {
	d.open.RLock()
	defer d.open.RUnlock()
	if d.db != nil && d.measuring.CompareAndSwap(false, true) {
		_ = d.Do(func(db *lsm.DB) error { // an error is no news to anybody
			d.bytes.Store(db.Metrics().DiskSpaceUsage())
			d.measuring.Store(false)
			return nil
		})
	}
	return d.bytes.Load()
}

// View is the database as it was at one moment, for a read of several passes.
// What came later would have holes in it: a line that was read, with one before
// it that was not.
type View struct {
	d        *DB
	snapshot *lsm.Snapshot // nil: nothing is written any more
	lsm.Reader
}

// Look makes a view. It is used between Enter and what ends that.
func (d *DB) Look(ctx context.Context) (*View, error) {
	leave, err := d.Enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	v := &View{d: d, Reader: d.db}
	var snapshot *lsm.Snapshot
	err = d.Do(func(db *lsm.DB) error {
		snapshot = db.NewSnapshot()
		return nil
	})
	if d.engine.hasFailed() {
		return v, nil
	}
	if err != nil {
		return nil, err
	}
	v.snapshot, v.Reader = snapshot, snapshot
	d.looking.Lock()
	defer d.looking.Unlock()
	d.views[v] = struct{}{}
	return v, nil
}

// Close ends the view, unless the database's end did.
func (v *View) Close() error {
	v.d.open.RLock()
	defer v.d.open.RUnlock()
	v.d.looking.Lock()
	_, open := v.d.views[v]
	delete(v.d.views, v)
	v.d.looking.Unlock()
	if !open || v.d.engine.hasFailed() {
		return nil
	}
	return v.d.engine.do(v.snapshot.Close)
}

// Close waits for those that use the database at the moment and closes it;
// whoever comes later is told miosa.Unavailable.
func (d *DB) Close() error {
	d.open.Lock()
	defer d.open.Unlock()
	if d.db == nil {
		return nil
	}
	db := d.db
	d.db = nil
	views := slices.Collect(maps.Keys(d.views))
	clear(d.views)
	// One that is over would wait for what never ends. Nothing is lost: it is as
	// if the process had been killed.
	err := d.engine.do(func() error {
		for _, v := range views {
			_ = v.snapshot.Close()
		}
		return db.Close()
	})
	if err != nil {
		return fmt.Errorf("close %s: %w", d.engine.store, err)
	}
	return nil
}
