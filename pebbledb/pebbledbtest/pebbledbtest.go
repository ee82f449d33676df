// Package pebbledbtest shows what becomes of a store over package pebbledb when
// its disk fails.
package pebbledbtest

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/miosa/miosa"
)

// Store is a store as the suite uses it.
type Store interface {
	// Add keeps the n-th thing, from 1 on. Some 30 are to fill more than one
	// table in memory (256 KB at first).
	Add(n int) error
	// Held is how many are read; an error when any before the last is missing.
	Held() (int, error)
	Close() error
}

// Disk is one in memory whose writes fail on demand.
type Disk struct {
	vfs.FS
	mem    *vfs.MemFS
	writes atomic.Int64
}

// NewDisk makes one; fails says for each write, the n-th, whether it fails.
func NewDisk(fails func(op errorfs.Op, n int64) error) *Disk {
	d := &Disk{mem: vfs.NewCrashableMem()}
	d.FS = errorfs.Wrap(d.mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		n := int64(0)
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			n = d.writes.Add(1)
		}
		return fails(op, n)
	}))
	return d
}

// ReuseForWrite is what errorfs has no faults for: a file that is used again.
func (d *Disk) ReuseForWrite(old, name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if err := d.Rename(old, name); err != nil {
		return nil, err
	}
	return d.OpenReadWrite(name, category)
}

// Writes is how many there were.
func (d *Disk) Writes() int64 { return d.writes.Load() }

// Left is what is on the disk when power is lost: what was synced, and of the
// rest some.
func (d *Disk) Left(percent int) vfs.FS {
	return d.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(1, 2))}) //nolint:gosec // to be repeated
}

// Said is what was logged.
type Said struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *Said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *Said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// Log is a logger into it.
func (s *Said) Log() *slog.Logger { return slog.New(slog.NewTextHandler(s, nil)) }

// things is how many a store is given.
const things = 60

// FailingDisk runs a store over disks that fail at one write or from one on,
// for many of them: the process goes on, writes are refused with what to do,
// what is held is read, and the next start has all that was acknowledged.
func FailingDisk(t *testing.T, open func(fs vfs.FS, log *slog.Logger) (Store, error)) {
	whole := NewDisk(func(errorfs.Op, int64) error { return nil })
	s, err := open(whole, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= things; n++ {
		if err := s.Add(n); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	total := whole.Writes()
	for name, c := range map[string]struct {
		err  error
		code miosa.Code
		last bool // it fails for good
	}{
		"once":     {syscall.EIO, miosa.Unavailable, false},
		"for good": {syscall.ENOSPC, miosa.NoSpace, true},
	} {
		t.Run(name, func(t *testing.T) {
			for first := int64(1); first <= total; first += 1 + first/6 {
				failing := func(_ errorfs.Op, n int64) error {
					if n == first || c.last && n > first {
						return c.err
					}
					return nil
				}
				t.Run(fmt.Sprint("write ", first), func(t *testing.T) { failingDisk(t, open, NewDisk(failing), c.code, c.last) })
			}
		})
	}
}

func failingDisk(t *testing.T, open func(fs vfs.FS, log *slog.Logger) (Store, error), disk *Disk, code miosa.Code, last bool) {
	var said Said
	acked, tried := 0, 0
	s, err := open(disk, said.Log())
	if err == nil {
		for err == nil && tried < things {
			tried++
			if err = s.Add(tried); err == nil {
				acked++
			}
		}
		refused(t, s, &said, err, code)
		if last && err == nil && acked < things {
			t.Errorf("%d are acknowledged without an error", acked)
		}
		if held, err := s.Held(); err != nil || held < acked {
			t.Errorf("%d can be read, %v; %d were acknowledged", held, err, acked)
		}
		if cerr := s.Close(); err != nil && miosa.CodeOf(cerr) != code {
			t.Errorf("close: %v", cerr)
		}
	}
	for _, percent := range []int{0, 50} {
		again, err := open(disk.Left(percent), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		held, err := again.Held()
		if err != nil || held < acked || held > tried {
			t.Errorf("%d after a new start, %v; %d were acknowledged of %d", held, err, acked, tried)
		}
		if err := again.Add(held + 1); err != nil {
			t.Errorf("after a new start: %v", err)
		}
		if err := again.Close(); err != nil {
			t.Error(err)
		}
	}
}

// refused looks at what a write is refused with.
func refused(t *testing.T, s Store, said *Said, err error, code miosa.Code) {
	if err == nil {
		return
	}
	if miosa.CodeOf(err) != code || !strings.Contains(err.Error(), "start the platform again") {
		t.Errorf("refused with %v", err)
	}
	if err := s.Add(things + 1); miosa.CodeOf(err) != code {
		t.Errorf("refused again with %v", err)
	}
	if log := said.String(); strings.Count(log, "store failed") != 1 || !strings.Contains(log, "start the platform again") {
		t.Errorf("the operator is told:\n%s", log)
	}
}
