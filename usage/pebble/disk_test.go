package pebble

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/metering"
	"github.com/miosa/miosa/pebbledb/pebbledbtest"
	"github.com/miosa/miosa/usage"
)

// onDisk is the store as the suite of failing disks uses it: a line that is
// counted is a thing.
type onDisk struct {
	*Store
	noise *rand.ChaCha8
}

func (s onDisk) Add(n int) error {
	noise := make([]byte, 10<<10)
	_, _ = s.noise.Read(noise)
	return s.Commit(context.Background(), usage.Change{
		Add:      []usage.Row{{Hour: 1, Subject: usage.Subject{TenantID: "ten"}, Amount: metering.Amount{LogLines: 1}}},
		Accounts: []usage.Account{{InstanceID: "ri", Name: hex.EncodeToString(noise), LogSeq: uint64(n)}}, //nolint:gosec // small
	})
}

// Held counts by the row, which must be of the same moment as the account: no
// older than what was read of it before, no newer than what is read after. They
// can differ, for a write that is refused may come to be seen in between.
func (s onDisk) Held() (n int, err error) {
	before, err := s.lines()
	if err != nil {
		return before, err
	}
	for r, err := range s.Rows(context.Background(), usage.Query{Until: 9}) {
		if err != nil {
			return n, err
		}
		n += int(r.LogLines) //nolint:gosec // small
	}
	after, err := s.lines()
	if err == nil && (n < before || n > after) {
		err = fmt.Errorf("the row has %d, the account had %d before and %d after", n, before, after)
	}
	return n, err
}

// lines counts by the account.
func (s onDisk) lines() (int, error) {
	a, err := s.Account(context.Background(), "ri")
	if miosa.CodeOf(err) == miosa.NotFound {
		return 0, nil
	}
	return int(a.LogSeq), err //nolint:gosec // small
}

func TestDiskThatFailsAtAnyWrite(t *testing.T) {
	pebbledbtest.FailingDisk(t, func(fs vfs.FS, log *slog.Logger) (pebbledbtest.Store, error) {
		s, err := Open(Config{Dir: "/usage", Log: log, MinFree: 1, fs: fs})
		if err != nil {
			return nil, err
		}
		s.room.Stat = func(string) (free, size uint64, err error) { return 1 << 40, 1 << 40, nil }
		return onDisk{s, rand.NewChaCha8([32]byte{})}, nil
	})
}

// TestDiskThatTakesTooLong: what was refused and may yet be made is not added
// once more in the meantime.
func TestDiskThatTakesTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var slow atomic.Bool
		disk := pebbledbtest.NewDisk(func(op errorfs.Op, _ int64) error {
			if slow.Load() && op.Kind == errorfs.OpFileSyncData && strings.HasSuffix(op.Path, ".log") {
				<-time.After(time.Minute)
			}
			return nil
		})
		var said bytes.Buffer
		s, err := Open(Config{Dir: "/usage", Log: slog.New(slog.NewTextHandler(&said, nil)), MinFree: 1, fs: disk})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		s.room.Stat = func(string) (free, size uint64, err error) { return 1 << 40, 1 << 40, nil }
		change := usage.Change{
			Sampled: 7, Accounts: []usage.Account{{InstanceID: "ri", LogSeq: 1}},
			Add: []usage.Row{{Hour: 1, Subject: usage.Subject{TenantID: "ten"}, Amount: metering.Amount{LogLines: 1}}},
		}
		slow.Store(true)
		if err := s.Commit(t.Context(), change); miosa.CodeOf(err) != miosa.Unavailable {
			t.Errorf("commit: %v", err)
		}
		slow.Store(false)
		if a, err := s.Account(t.Context(), "ri"); miosa.CodeOf(err) != miosa.Unavailable {
			t.Errorf("what nobody knows: %+v, %v", a, err)
		}
		if n, err := s.Sampled(t.Context()); miosa.CodeOf(err) != miosa.Unavailable {
			t.Errorf("what nobody knows: %d, %v", n, err)
		}
		<-time.After(time.Minute)
		synctest.Wait()
		a, err := s.Account(t.Context(), "ri")
		n, nerr := s.Sampled(t.Context())
		if a.LogSeq != 1 || n != 7 || err != nil || nerr != nil {
			t.Errorf("once it is made: %+v, %v; %d, %v", a, err, n, nerr)
		}
	})
}
