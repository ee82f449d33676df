package pebble

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/miosa/miosa/metrics"
	"github.com/miosa/miosa/metrics/metricstest"
	"github.com/miosa/miosa/pebbledb/pebbledbtest"
)

// onDisk is the store as the suite of failing disks uses it: a pass of 100
// sources is a thing.
type onDisk struct {
	*Store
	noise *rand.ChaCha8
}

const sources = 100

func passAt(n int) time.Time { return metricstest.Begin.Add(time.Duration(n) * metrics.Interval) }

func (s onDisk) Add(n int) error {
	pass := metrics.Pass{At: passAt(n)}
	for i := range sources {
		var v metrics.Values
		for f := range figures {
			v.Set(metrics.Figure(f), int64(s.noise.Uint64()>>1)) //nolint:gosec // any number
		}
		pass.Samples = append(pass.Samples, metrics.Sample{Owner: metricstest.Owner(1, 1, 1, i+1), Values: v})
	}
	return s.Append(context.Background(), pass)
}

func (s onDisk) Held() (n int, err error) {
	first := metricstest.Owner(1, 1, 1, 1)
	of := map[string]int{}
	for r, err := range s.Read(context.Background(), metrics.Scope{TenantID: first.TenantID, DeploymentID: first.DeploymentID}, time.Time{}, passAt(10000)) {
		if err != nil {
			return n, err
		}
		if of[r.Owner.SourceID]++; !r.At.Equal(passAt(of[r.Owner.SourceID])) {
			return n, fmt.Errorf("row %d of %s is of %s", of[r.Owner.SourceID], r.Owner.SourceID, r.At)
		}
	}
	n = of[first.SourceID]
	for id, rows := range of {
		if rows != n || len(of) != sources {
			return n, fmt.Errorf("%d sources; %d rows of %s, %d of %s", len(of), n, first.SourceID, rows, id)
		}
	}
	return n, nil
}

func TestDiskThatFailsAtAnyWrite(t *testing.T) {
	pebbledbtest.FailingDisk(t, func(fs vfs.FS, log *slog.Logger) (pebbledbtest.Store, error) {
		s, err := Open(Config{Dir: "/metrics", Log: log, MinFree: 1, fs: fs})
		if err != nil {
			return nil, err
		}
		s.room.Stat = func(string) (free, size uint64, err error) { return 1 << 40, 1 << 40, nil }
		return onDisk{s, rand.NewChaCha8([32]byte{})}, nil
	})
}
