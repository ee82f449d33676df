package pebble

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/logs"
)

// said is what was logged.
type said struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func roomy(string) (free, size uint64, err error) { return 1 << 40, 1 << 40, nil }

// TestDiskThatFails: whatever write fails, the process goes on, appends are
// refused with what to do, what is held is read, and the next start has all that
// was acknowledged.
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
	writes := []errorfs.OpKind{errorfs.OpFileWrite, errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo, errorfs.OpCreate, errorfs.OpReuseForWrite}
	syncs := writes[1:4]
	for name, c := range map[string]struct {
		hit  func(op errorfs.Op) bool
		err  error
		code miosa.Code
	}{
		"log of writes":          {of(writes, ".log"), errors.New("input/output error"), miosa.Unavailable},
		"sync of it":             {of(syncs, ".log"), errors.New("input/output error"), miosa.Unavailable},
		"new log of writes":      {of(writes[4:], ".log"), errors.New("input/output error"), miosa.Unavailable},
		"full":                   {of(writes, ".log"), syscall.ENOSPC, miosa.NoSpace},
		"list of tables":         {of(writes, "MANIFEST"), errors.New("input/output error"), miosa.Unavailable},
		"everything that writes": {func(op errorfs.Op) bool { return op.Kind.ReadOrWrite() == errorfs.OpIsWrite }, errors.New("input/output error"), miosa.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var failing atomic.Bool
			mem := vfs.NewCrashableMem()
			fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
				if failing.Load() && c.hit(op) {
					return c.err
				}
				return nil
			}))
			var out said
			const dir = "/logs"
			s, err := Open(Config{Dir: dir, Log: slog.New(slog.NewTextHandler(&out, nil)), MinFree: 1, fs: fs})
			if err != nil {
				t.Fatal(err)
			}
			s.room.Stat = roomy
			acked := uint64(0)
			text := strings.Repeat("some text ", 3000)
			add := func() error {
				_, err := s.Append(t.Context(), []logs.Kept{kept("ins", acked+1, time.Unix(int64(acked), 0), fmt.Sprint(acked+1), text, text)})
				if err == nil {
					acked += 3
				}
				return err
			}
			for range 100 {
				if err := add(); err != nil {
					t.Fatal(err)
				}
			}
			failing.Store(true)
			// Until a table is full, and beyond. A write that only took too long, as on
			// a busy machine, is not the end.
			for n := 0; !s.engine.over(); n++ {
				if n == 3000 {
					t.Fatal("3000 appends to a failing disk, and it did not end")
				}
				_ = add()
			}
			err = add()
			if miosa.CodeOf(err) != c.code || !strings.Contains(err.Error(), "start the platform again") {
				t.Errorf("append: %v", err)
			}
			if err := s.Purge(t.Context(), "ten", "dep"); miosa.CodeOf(err) != c.code {
				t.Errorf("purge: %v", err)
			}
			if err := s.Expire(t.Context(), time.Now()); miosa.CodeOf(err) != c.code {
				t.Errorf("expire: %v", err)
			}
			read := func(s *Store) (n uint64) {
				t.Helper()
				for e, err := range s.Read(t.Context(), logs.Query{Scope: logs.Scope{TenantID: "ten"}}) {
					if err != nil {
						t.Fatal(err)
					}
					if n++; e.Position.Seq != n {
						t.Fatalf("line %d is %d", n, e.Position.Seq)
					}
				}
				return n
			}
			if n := read(s); n < acked {
				t.Errorf("%d lines can be read, %d were acknowledged", n, acked)
			}
			if log := out.String(); strings.Count(log, "log store failed") != 1 || !strings.Contains(log, dir) {
				t.Errorf("the operator is told:\n%s", log)
			}
			if err := s.Close(); miosa.CodeOf(err) != c.code {
				t.Errorf("close: %v", err)
			}
			// Power is lost: only what was synced is left.
			left := mem.CrashClone(vfs.CrashCloneCfg{RNG: rand.New(rand.NewPCG(1, 2))})
			again, err := Open(Config{Dir: dir, Log: slog.New(slog.DiscardHandler), MinFree: 1, fs: left})
			if err != nil {
				t.Fatal(err)
			}
			defer again.Close()
			again.room.Stat = roomy
			if n := read(again); n < acked {
				t.Errorf("%d lines after a new start, %d were acknowledged", n, acked)
			}
			if p, err := again.Held(t.Context(), "ten", "ins"); err != nil || p.Seq < acked {
				t.Errorf("held: %v, %v", p, err)
			}
		})
	}
}

// TestDiskThatStalls: tables cannot be written for a while. Appends are refused
// in time, and go on when it is over, with nothing twice.
func TestDiskThatStalls(t *testing.T) {
	var failing atomic.Bool
	mem := vfs.NewCrashableMem()
	var out said
	s, err := Open(Config{Dir: "/logs", Log: slog.New(slog.NewTextHandler(&out, nil)), MinFree: 1, fs: errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if failing.Load() && op.Kind == errorfs.OpCreate && strings.Contains(op.Path, ".sst") {
			<-time.After(time.Millisecond) // a disk takes its time; it is tried again at once
			return syscall.ENOSPC
		}
		return nil
	}))})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.engine.patience = 200 * time.Millisecond
	s.room.Stat = roomy
	failing.Store(true)
	text := strings.Repeat("some text ", 6000)
	acked, refused := uint64(0), 0
	for n := 0; acked < 4000; n++ {
		if n == 20000 {
			t.Fatalf("%d lines are acknowledged, %d times it was refused", acked, refused)
		}
		_, err := s.Append(t.Context(), []logs.Kept{kept("ins", acked+1, time.Unix(int64(acked), 0), text, text, text, text, text)})
		switch {
		case err == nil:
			acked += 5
		case miosa.CodeOf(err) == miosa.Unavailable:
			// A busy machine may be too slow by itself.
			if refused++; refused >= 3 && strings.Contains(out.String(), "tries again") {
				failing.Store(false)
			}
		default:
			t.Fatal(err)
		}
	}
	if refused == 0 {
		t.Error("it was never refused")
	}
	n := uint64(0)
	for e, err := range s.Read(t.Context(), logs.Query{Scope: logs.Scope{TenantID: "ten"}}) {
		if n++; err != nil || e.Position.Seq != n {
			t.Fatalf("line %d is %d, %v", n, e.Position.Seq, err)
		}
	}
	if n != acked {
		t.Errorf("%d lines, %d were acknowledged", n, acked)
	}
	if log := out.String(); !strings.Contains(log, "tries again") || strings.Count(log, "\n") > 20 || strings.Contains(log, "log store failed") {
		t.Errorf("the operator is told:\n%s", log)
	}
}
