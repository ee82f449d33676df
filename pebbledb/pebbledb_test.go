package pebbledb_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	lsm "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/pebbledb"
	"github.com/miosa/miosa/pebbledb/pebbledbtest"
)

const dir = "/things"

func open(fs vfs.FS, log *slog.Logger, patience time.Duration) (*things, error) {
	db, err := pebbledb.Open(pebbledb.Config{
		Dir: dir, Log: log, FS: fs, Store: "store of things", Failing: "things are not kept",
		Options:   lsm.Options{CacheSize: 1 << 20, MemTableSize: 1 << 20, MemTableStopWritesThreshold: 2},
		FormatKey: []byte("format"), Format: 2, Patience: patience,
	})
	return &things{db: db, noise: rand.NewChaCha8([32]byte{})}, err
}

// things is a store of the numbers from 1 on.
type things struct {
	db        *pebbledb.DB
	noise     *rand.ChaCha8
	forgotten atomic.Int64
}

func key(n int) []byte { return binary.BigEndian.AppendUint64([]byte("n"), uint64(n)) } //nolint:gosec // small

func (s *things) Add(n int) error {
	leave, err := s.db.Enter(context.Background())
	if err != nil {
		return err
	}
	defer leave()
	return s.db.Write(context.Background(), func() { s.forgotten.Add(1) }, func() error {
		value := make([]byte, 20<<10)
		_, _ = s.noise.Read(value)
		b := s.db.NewBatch()
		if err := b.Set(key(n), value, nil); err != nil {
			return err
		}
		return s.db.Commit(b)
	})
}

func (s *things) Held() (n int, err error) {
	leave, err := s.db.Enter(context.Background())
	if err != nil {
		return 0, err
	}
	defer leave()
	it, err := s.db.NewIter(&lsm.IterOptions{LowerBound: key(0), UpperBound: key(1 << 60)})
	if err != nil {
		return 0, err
	}
	for ok := it.First(); ok; ok = it.Next() {
		if n++; string(it.Key()) != string(key(n)) {
			return n, errors.Join(fmt.Errorf("%d is missing", n), it.Close())
		}
	}
	return n, errors.Join(it.Error(), it.Close())
}

func (s *things) Close() error { return s.db.Close() }

func TestDiskThatFailsAtAnyWrite(t *testing.T) {
	pebbledbtest.FailingDisk(t, func(fs vfs.FS, log *slog.Logger) (pebbledbtest.Store, error) { return open(fs, log, 10*time.Second) })
}

// TestDiskThatFails: whatever part of the database cannot be written, it is over
// alone.
func TestDiskThatFails(t *testing.T) {
	of := func(kinds []errorfs.OpKind, part string) func(op errorfs.Op) bool {
		return func(op errorfs.Op) bool {
			for _, k := range kinds {
				if op.Kind == k && strings.Contains(op.Path, part) {
					return true
				}
			}
			return false
		}
	}
	writes := []errorfs.OpKind{errorfs.OpFileWrite, errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo, errorfs.OpCreate, errorfs.OpRename}
	for name, c := range map[string]struct {
		hit  func(op errorfs.Op) bool
		err  error
		code miosa.Code
	}{
		"log of writes":          {of(writes, ".log"), syscall.EIO, miosa.Unavailable},
		"sync of it":             {of(writes[1:4], ".log"), syscall.EIO, miosa.Unavailable},
		"new log of writes":      {of(writes[4:], ".log"), syscall.EIO, miosa.Unavailable},
		"full":                   {of(writes, ".log"), syscall.ENOSPC, miosa.NoSpace},
		"over its quota":         {of(writes, ".log"), syscall.EDQUOT, miosa.NoSpace},
		"list of tables":         {of(writes, "MANIFEST"), syscall.EIO, miosa.Unavailable},
		"everything that writes": {func(op errorfs.Op) bool { return op.Kind.ReadOrWrite() == errorfs.OpIsWrite }, syscall.EIO, miosa.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var failing atomic.Bool
			disk := pebbledbtest.NewDisk(func(op errorfs.Op, _ int64) error {
				if failing.Load() && c.hit(op) {
					return c.err
				}
				return nil
			})
			var said pebbledbtest.Said
			s, err := open(disk, said.Log(), 10*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			acked := 0
			for ; acked < 100; acked++ {
				if err := s.Add(acked + 1); err != nil {
					t.Fatal(err)
				}
			}
			view, err := s.db.Look(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			failing.Store(true)
			// Until a table is full, and beyond.
			for ; err == nil; acked++ {
				if acked == 3000 {
					t.Fatal("all that was given to a failing disk is acknowledged")
				}
				err = s.Add(acked + 1)
			}
			acked--
			if miosa.CodeOf(err) != c.code || !errors.Is(err, c.err) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "start the platform again") {
				t.Errorf("refused with %v", err)
			}
			if e, ok := errors.AsType[*miosa.Error](err); !ok || strings.Contains(e.Message, dir) {
				t.Errorf("customers read where it is: %v", e)
			}
			if err := s.db.Do(func(*lsm.DB) error { panic("it is not called any more") }); miosa.CodeOf(err) != c.code {
				t.Errorf("do: %v", err)
			}
			if n, err := s.Held(); err != nil || n < acked {
				t.Errorf("%d can be read, %v; %d were acknowledged", n, err, acked)
			}
			if s.db.DiskBytes() != 0 {
				t.Error("it was never measured, and says how large it is")
			}
			if log := said.String(); strings.Count(log, "store failed") != 1 || !strings.Contains(log, "things are not kept") || !strings.Contains(log, dir) {
				t.Errorf("the operator is told:\n%s", log)
			}
			late, err := s.db.Look(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range []*pebbledb.View{view, late} {
				if found, err := pebbledb.Get(v, key(100), func([]byte) error { return nil }); !found || err != nil {
					t.Errorf("a view: %v, %v", found, err)
				}
				if err := v.Close(); err != nil {
					t.Error(err)
				}
			}
			if err := s.Close(); miosa.CodeOf(err) != c.code {
				t.Errorf("close: %v", err)
			}
			again, err := open(disk.Left(0), slog.New(slog.DiscardHandler), 0)
			if err != nil {
				t.Fatal(err)
			}
			defer again.Close()
			if n, err := again.Held(); err != nil || n < acked {
				t.Errorf("%d after a new start, %v; %d were acknowledged", n, err, acked)
			}
		})
	}
}

// TestTablesThatCannotBeWritten: writes go on as long as they can, then they
// are refused in time, and all goes on when it is over. The disk is not asked
// as fast as it answers.
func TestTablesThatCannotBeWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failing atomic.Bool
		var asked atomic.Int64
		disk := pebbledbtest.NewDisk(func(op errorfs.Op, _ int64) error {
			if failing.Load() && op.Kind == errorfs.OpCreate && strings.Contains(op.Path, ".sst") {
				asked.Add(1)
				return syscall.ENOSPC
			}
			return nil
		})
		var said pebbledbtest.Said
		s, err := open(disk, said.Log(), 0)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		failing.Store(true)
		began := time.Now()
		acked := 0
		for ; err == nil && acked < 1000; acked++ {
			err = s.Add(acked + 1)
		}
		acked--
		if miosa.CodeOf(err) != miosa.NoSpace || !strings.Contains(err.Error(), "make some on the disk of "+dir) {
			t.Errorf("after %d: refused with %v", acked, err)
		}
		if err := s.Add(acked + 1); miosa.CodeOf(err) != miosa.Unavailable {
			t.Errorf("refused again with %v", err)
		}
		took := time.Since(began)
		if took != 2*pebbledb.Patience || asked.Load() > int64(took/(100*time.Millisecond))+1 {
			t.Errorf("asked %d times in %s", asked.Load(), took)
		}
		if s.db.Settled() == nil || s.forgotten.Load() != 0 {
			t.Error("what is refused may yet be done, and is called settled")
		}
		failing.Store(false)
		<-time.After(time.Minute)
		synctest.Wait()
		if s.db.Settled() != nil || s.forgotten.Load() != 1 {
			t.Errorf("%v; forgotten %d times", s.db.Settled(), s.forgotten.Load())
		}
		// It was done after all.
		if n, err := s.Held(); err != nil || n != acked+1 {
			t.Errorf("%d of %d, %v", n, acked, err)
		}
		if err := s.Add(acked + 2); err != nil {
			t.Error(err)
		}
		if log := said.String(); !strings.Contains(log, "tries again") || strings.Count(log, "\n") > 10 || strings.Contains(log, "store failed") {
			t.Errorf("the operator is told:\n%s", log)
		}
	})
}

// flushed is a store whose things lie in tables, and none of them in memory.
func flushed(t *testing.T, fs vfs.FS, log *slog.Logger) *things {
	t.Helper()
	s, err := open(fs, log, 0)
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 10; n++ {
		if err := s.Add(n); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.db.Do(func(db *lsm.DB) error { return db.Flush() }); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = open(fs, log, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestDiskThatCannotBeRead: it says so to whoever reads, and is read when it can
// be.
func TestDiskThatCannotBeRead(t *testing.T) {
	var failing atomic.Bool
	disk := pebbledbtest.NewDisk(func(op errorfs.Op, _ int64) error {
		if failing.Load() && op.Kind == errorfs.OpFileReadAt && strings.Contains(op.Path, ".sst") {
			return syscall.EIO
		}
		return nil
	})
	s := flushed(t, disk, slog.New(slog.DiscardHandler))
	failing.Store(true)
	if _, err := s.Held(); miosa.CodeOf(err) != miosa.Unavailable || !errors.Is(err, syscall.EIO) {
		t.Errorf("read: %v", err)
	}
	failing.Store(false)
	if n, err := s.Held(); n != 10 || err != nil {
		t.Errorf("%d things, %v", n, err)
	}
}

// TestDamagedTable: whoever reads it gets an error, on the goroutine that reads;
// all else goes on.
func TestDamagedTable(t *testing.T) {
	mem := vfs.NewMem()
	var said pebbledbtest.Said
	disk := &damaging{FS: mem}
	s := flushed(t, disk, said.Log())
	disk.damaged.Store(true)
	for range 3 {
		if _, err := s.Held(); !lsm.IsCorruptionError(err) {
			t.Errorf("read: %v", err)
		}
	}
	if err := s.Add(11); err != nil {
		t.Error(err)
	}
	if log := said.String(); !strings.Contains(log, "store is damaged") || !strings.Contains(log, ".sst") || strings.Contains(log, "store failed") {
		t.Errorf("the operator is told:\n%s", log)
	}
}

// damaging is a disk that gives back other bytes than it was given, in the
// middle of tables.
type damaging struct {
	vfs.FS
	damaged atomic.Bool
}

func (d *damaging) Open(name string, options ...vfs.OpenOption) (vfs.File, error) {
	f, err := d.FS.Open(name, options...)
	if err != nil || !strings.HasSuffix(name, ".sst") {
		return f, err
	}
	return damagedFile{f, d}, nil
}

type damagedFile struct {
	vfs.File
	disk *damaging
}

func (f damagedFile) ReadAt(b []byte, at int64) (int, error) {
	n, err := f.File.ReadAt(b, at)
	if f.disk.damaged.Load() && n > 10<<10 {
		b[n/2] ^= 1
	}
	return n, err
}

func TestFormat(t *testing.T) {
	mem := vfs.NewMem()
	at := func(format uint64, upgrade func(*pebbledb.DB, *lsm.Batch) error) (*pebbledb.DB, error) {
		return pebbledb.Open(pebbledb.Config{
			Dir: dir, Log: slog.New(slog.DiscardHandler), FS: mem, Store: "store of things", FormatKey: []byte("format"), Format: format, Upgrade: upgrade,
		})
	}
	upgrades := 0
	upgrade := func(d *pebbledb.DB, b *lsm.Batch) error {
		n, err := d.Number([]byte("upgrades"))
		upgrades++
		return errors.Join(err, b.Set([]byte("upgrades"), binary.AppendUvarint(nil, n+1), nil))
	}
	for i, c := range []struct{ format, upgrades uint64 }{{2, 1}, {2, 1}, {3, 2}} {
		d, err := at(c.format, upgrade)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := d.Number([]byte("upgrades")); n != c.upgrades || err != nil {
			t.Errorf("%d: %d upgrades, %v", i, n, err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if upgrades != 2 {
		t.Errorf("%d upgrades", upgrades)
	}
	if _, err := at(2, upgrade); err == nil || !strings.Contains(err.Error(), "format 3 is newer") {
		t.Errorf("an older program: %v", err)
	}
	broken := errors.New("it cannot be read")
	if _, err := at(4, func(*pebbledb.DB, *lsm.Batch) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("an upgrade that fails: %v", err)
	}
	d, err := at(3, nil) // and is as it was
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

func TestWritesComeInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := open(vfs.NewMem(), slog.New(slog.DiscardHandler), 0)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		inside, leave := make(chan struct{}), make(chan struct{})
		done := make(chan error)
		failed := errors.New("no")
		go func() {
			done <- s.db.Write(t.Context(), func() { s.forgotten.Add(1) }, func() error {
				close(inside)
				<-leave
				return failed
			})
		}()
		<-inside
		if err := s.db.Write(t.Context(), nil, func() error { return nil }); miosa.CodeOf(err) != miosa.Unavailable {
			t.Errorf("another's turn: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.db.Write(ctx, nil, func() error { return nil }); !errors.Is(err, context.Canceled) {
			t.Errorf("who does not wait: %v", err)
		}
		close(leave)
		if err := <-done; !errors.Is(err, failed) || s.forgotten.Load() != 1 {
			t.Errorf("%v; forgotten %d times", err, s.forgotten.Load())
		}
		if err := s.db.Write(t.Context(), nil, func() error { return nil }); err != nil {
			t.Error(err)
		}
	})
}

func TestNothingIsLeftAfterClose(t *testing.T) {
	before := runtime.NumGoroutine()
	s, err := open(vfs.NewMem(), slog.New(slog.DiscardHandler), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Add(1); err != nil {
		t.Fatal(err)
	}
	if n := s.db.DiskBytes(); n == 0 {
		t.Error("it takes up nothing")
	}
	view, err := s.db.Look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []io.Closer{s, s, view, view} {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := s.Add(2); miosa.CodeOf(err) != miosa.Unavailable {
		t.Errorf("a closed one: %v", err)
	}
	deadline := time.After(10 * time.Second)
	for runtime.NumGoroutine() > before {
		select {
		case <-deadline:
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, were %d\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
		default:
			runtime.Gosched()
		}
	}
}
