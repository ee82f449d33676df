package pebble

import (
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/logs"
	"github.com/miosa/miosa/pebbledb/pebbledbtest"
)

func roomy(string) (free, size uint64, err error) { return 1 << 40, 1 << 40, nil }

// onDisk is the store as the suite of failing disks uses it.
type onDisk struct {
	*Store
	noise *rand.ChaCha8
}

func openOnDisk(fs vfs.FS, log *slog.Logger) (pebbledbtest.Store, error) {
	s, err := Open(Config{Dir: "/logs", Log: log, MinFree: 1, fs: fs})
	if err != nil {
		return nil, err
	}
	s.room.Stat = roomy
	return onDisk{s, rand.NewChaCha8([32]byte{})}, nil
}

func (s onDisk) Add(n int) error {
	noise := make([]byte, 10<<10)
	_, _ = s.noise.Read(noise)
	b := kept("ins", uint64(n), time.Unix(int64(n), 0), hex.EncodeToString(noise)) //nolint:gosec // small
	_, err := s.Append(context.Background(), []logs.Kept{b})
	return err
}

func (s onDisk) Held() (n int, err error) {
	for e, err := range s.Read(context.Background(), logs.Query{Scope: logs.Scope{TenantID: "ten"}}) {
		if err != nil {
			return n, err
		}
		if n++; e.Position.Seq != uint64(n) { //nolint:gosec // small
			return n, fmt.Errorf("line %d is %d", n, e.Position.Seq)
		}
	}
	return n, nil
}

func TestDiskThatFailsAtAnyWrite(t *testing.T) { pebbledbtest.FailingDisk(t, openOnDisk) }

// TestDiskThatFailed: nothing that writes is done any more, and all that reads
// is.
func TestDiskThatFailed(t *testing.T) {
	var failing atomic.Bool
	disk := pebbledbtest.NewDisk(func(op errorfs.Op, _ int64) error {
		if failing.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return syscall.EIO
		}
		return nil
	})
	store, err := openOnDisk(disk, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s := store.(onDisk)
	if err := s.Add(1); err != nil {
		t.Fatal(err)
	}
	failing.Store(true)
	_, held := s.Store.Held(t.Context(), "ten", "ins") // all is synced: there is nothing to wait for
	for what, err := range map[string]error{
		"append": s.Add(2), "purge": s.Purge(t.Context(), "ten", "dep"), "expire": s.Expire(t.Context(), time.Now()),
	} {
		if miosa.CodeOf(err) != miosa.Unavailable {
			t.Errorf("%s: %v", what, err)
		}
	}
	if held != nil {
		t.Error(held)
	}
	if n, err := s.Held(); n < 1 || err != nil {
		t.Errorf("%d lines, %v", n, err)
	}
	if last, err := s.Last(t.Context()); last != 1 || err != nil {
		t.Errorf("mark %d, %v", last, err)
	}
	arrived := 0
	for _, err := range s.Arrivals(t.Context(), 0, logs.Scope{TenantID: "ten"}) {
		if arrived++; err != nil {
			t.Error(err)
		}
	}
	u, err := s.Usage(t.Context(), "ten", time.Time{}, time.Time{})
	if arrived != 1 || u.Lines < 1 || err != nil {
		t.Errorf("%d arrivals, usage %v, %v", arrived, u, err)
	}
}

// TestDiskThatStalls: tables cannot be written for a while. Appends are refused
// in time, and go on when it is over, with nothing twice.
func TestDiskThatStalls(t *testing.T) {
	var failing atomic.Bool
	var out pebbledbtest.Said
	disk := pebbledbtest.NewDisk(func(op errorfs.Op, _ int64) error {
		if failing.Load() && op.Kind == errorfs.OpCreate && strings.Contains(op.Path, ".sst") {
			return syscall.ENOSPC
		}
		return nil
	})
	s, err := Open(Config{Dir: "/logs", Log: out.Log(), MinFree: 1, fs: disk, patience: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.room.Stat = roomy
	failing.Store(true)
	text := strings.Repeat("some text ", 6000)
	// It stalls after some 80 MB, and goes on for 30 MB once the disk is well.
	acked, healed, refused := uint64(0), uint64(0), 0
	for n := 0; healed == 0 || acked < healed+500; n++ {
		if n == 20000 {
			t.Fatalf("%d lines are acknowledged, %d times it was refused", acked, refused)
		}
		_, err := s.Append(t.Context(), []logs.Kept{kept("ins", acked+1, time.Unix(int64(acked), 0), text, text, text, text, text)})
		switch {
		case err == nil:
			acked += 5
		case miosa.CodeOf(err) == miosa.NoSpace, miosa.CodeOf(err) == miosa.Unavailable:
			// A busy machine may be too slow by itself.
			if refused++; refused >= 3 && strings.Contains(out.String(), "tries again") {
				if failing.Swap(false) {
					healed = acked
				}
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
	if log := out.String(); !strings.Contains(log, "tries again") || strings.Count(log, "\n") > 20 || strings.Contains(log, "store failed") {
		t.Errorf("the operator is told:\n%s", log)
	}
}
