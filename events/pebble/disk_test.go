package pebble

import (
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/miosa/miosa/events"
	"github.com/miosa/miosa/pebbledb/pebbledbtest"
)

// onDisk is the store as the suite of failing disks uses it.
type onDisk struct {
	*Store
	noise *rand.ChaCha8
}

func (s onDisk) Add(n int) error {
	noise := make([]byte, 10<<10)
	_, _ = s.noise.Read(noise)
	k := nth(n)
	k.Details = map[string]string{"noise": hex.EncodeToString(noise)}
	return s.Append(context.Background(), []events.Kept{k})
}

func (s onDisk) Held() (n int, err error) {
	for _, scope := range []events.Scope{{Operator: true}, {TenantID: "ten", DeploymentID: "dep"}} {
		n = 0
		for e, err := range s.Read(context.Background(), events.Query{Scope: scope}) {
			if err != nil {
				return n, err
			}
			if n++; e.Message != strconv.Itoa(n) || e.Mark != events.Mark(n) { //nolint:gosec // small
				return n, fmt.Errorf("event %d is %s at %d", n, e.Message, e.Mark)
			}
		}
	}
	return n, nil
}

func TestDiskThatFailsAtAnyWrite(t *testing.T) {
	pebbledbtest.FailingDisk(t, func(fs vfs.FS, log *slog.Logger) (pebbledbtest.Store, error) {
		s, err := Open(Config{Dir: "/events", Log: log, MinFree: 1, fs: fs})
		if err != nil {
			return nil, err
		}
		s.room.Stat = func(string) (free, size uint64, err error) { return 1 << 40, 1 << 40, nil }
		return onDisk{s, rand.NewChaCha8([32]byte{})}, nil
	})
}
