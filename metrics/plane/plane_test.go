package plane_test

import (
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/metrics"
	historymemory "github.com/miosa/miosa/metrics/memory"
	"github.com/miosa/miosa/metrics/plane"
	"github.com/miosa/miosa/records"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/memory"
)

func id(prefix string, n int) string { return fmt.Sprintf("%s_%026d", prefix, n) }

func owner(n int) metrics.Owner {
	return metrics.Owner{TenantID: id("ten", n), DeploymentID: id("dep", n), ServiceID: id("svc", n), SourceID: id("ri", n)}
}

func router(n int) metrics.Owner {
	o := owner(n)
	o.SourceID = "router-1"
	return o
}

// newPlane has records of tenants 1 and 2, each with an instance on a host of
// its own.
func newPlane(t *testing.T) (*plane.Plane, *historymemory.Store) {
	t.Helper()
	kept, history := memory.New(time.Now), &historymemory.Store{}
	for n := 1; n <= 2; n++ {
		o := owner(n)
		if _, err := store.Update(t.Context(), kept, func(tx *store.Tx) error {
			return errors.Join(
				store.Save(tx, store.Services, miosa.Service{ID: o.ServiceID, TenantID: o.TenantID, DeploymentID: o.DeploymentID}),
				store.Save(tx, store.Instances, miosa.Instance{ID: o.SourceID, TenantID: o.TenantID, DeploymentID: o.DeploymentID, ServiceID: o.ServiceID, HostID: id("host", n)}),
			)
		}); err != nil {
			t.Fatal(err)
		}
	}
	return plane.New(history, records.New(kept), slog.New(slog.DiscardHandler)), history
}

func sample(o metrics.Owner, f metrics.Figure, n int64) metrics.Sample {
	s := metrics.Sample{Owner: o}
	s.Values.Set(f, n)
	return s
}

func count(t *testing.T, history *historymemory.Store, n int) (rows int) {
	t.Helper()
	o := owner(n)
	for _, err := range history.Read(t.Context(), metrics.Scope{TenantID: o.TenantID, DeploymentID: o.DeploymentID}, time.Time{}, time.Now().Add(time.Hour)) {
		if err != nil {
			t.Fatal(err)
		}
		rows++
	}
	return rows
}

// Whatever a host claims, nothing comes into the history of an instance but
// from the host that it is on, under the names that the records have.
func TestHostsSpeakForTheirOwn(t *testing.T) {
	p, history := newPlane(t)
	mixed := owner(1)
	mixed.TenantID = owner(2).TenantID
	elsewhere := owner(1)
	elsewhere.DeploymentID = owner(2).DeploymentID
	service := owner(1)
	service.ServiceID = owner(2).ServiceID
	slash := owner(1)
	slash.TenantID, slash.DeploymentID = owner(1).TenantID+"/ri", owner(1).DeploymentID
	before := p.Dropped()
	lies := []metrics.Owner{mixed, elsewhere, service, slash, owner(2), owner(3), router(1), {}, {SourceID: owner(1).SourceID}}
	for _, lie := range lies {
		// One liar among them keeps nobody's figures away.
		err := p.Ship(t.Context(), id("host", 1), metrics.Pass{At: time.Now(), Samples: []metrics.Sample{sample(lie, metrics.CPU, 1), sample(owner(1), metrics.CPU, 1)}})
		if err != nil {
			t.Errorf("%+v: %v", lie, err)
		}
	}
	if err := p.Ship(t.Context(), id("host", 2), metrics.Pass{At: time.Now().Add(time.Second), Samples: []metrics.Sample{sample(owner(1), metrics.CPU, 99)}}); err != nil {
		t.Error(err)
	}
	if got := p.Dropped() - before; got != uint64(len(lies)+1) {
		t.Errorf("%d were dropped, want %d", got, len(lies)+1)
	}
	if count(t, history, 1) == 0 || count(t, history, 2) != 0 {
		t.Errorf("%d and %d rows", count(t, history, 1), count(t, history, 2))
	}
	for r := range history.Read(t.Context(), metrics.Scope{TenantID: owner(1).TenantID, DeploymentID: owner(1).DeploymentID}, time.Time{}, time.Now().Add(time.Hour)) {
		if n, _ := r.Values.Get(metrics.CPU); n != 1 {
			t.Errorf("%+v", r)
		}
	}
}

// Figures of an instance that was placed a moment ago are kept, though it was asked
// for before it was.
func TestAHostSpeaksAtOnce(t *testing.T) {
	o, kept, history := owner(1), memory.New(time.Now), &historymemory.Store{}
	p := plane.New(history, records.New(kept), slog.New(slog.DiscardHandler))
	for n, host := range []string{"", id("host", 2), id("host", 1)} {
		if _, err := store.Update(t.Context(), kept, func(tx *store.Tx) error {
			return store.Save(tx, store.Instances, miosa.Instance{ID: o.SourceID, TenantID: o.TenantID, DeploymentID: o.DeploymentID, ServiceID: o.ServiceID, HostID: host})
		}); err != nil {
			t.Fatal(err)
		}
		if err := p.Ship(t.Context(), id("host", 1), metrics.Pass{At: time.Now(), Samples: []metrics.Sample{sample(o, metrics.CPU, 1)}}); err != nil {
			t.Fatal(err)
		}
		if got := count(t, history, 1); got != n/2 {
			t.Errorf("on host %q: %d rows", host, got)
		}
	}
}

func TestRoutersSpeakAsThemselves(t *testing.T) {
	p, history := newPlane(t)
	other := router(1)
	other.SourceID = "router-2"
	gone := router(1)
	gone.ServiceID = id("svc", 9)
	pass := metrics.Pass{At: time.Now(), Samples: []metrics.Sample{
		sample(owner(1), metrics.Requests, 1), sample(other, metrics.Requests, 1), sample(gone, metrics.Requests, 1), sample(router(2), metrics.Requests, 5),
	}}
	if err := p.ShipTraffic(t.Context(), "router-1", pass); err != nil {
		t.Fatal(err)
	}
	if count(t, history, 1) != 0 || count(t, history, 2) != 1 || p.Dropped() != 3 {
		t.Errorf("%d and %d rows, %d dropped", count(t, history, 1), count(t, history, 2), p.Dropped())
	}
}

func TestClocksThatAreWrong(t *testing.T) {
	p, history := newPlane(t)
	for _, off := range []time.Duration{2 * time.Minute, 1000 * time.Hour, -25 * time.Hour} {
		err := p.Ship(t.Context(), id("host", 1), metrics.Pass{At: time.Now().Add(off), Samples: []metrics.Sample{sample(owner(1), metrics.CPU, 1)}})
		if miosa.CodeOf(err) != miosa.Invalid {
			t.Errorf("%s off: %v", off, err)
		}
	}
	if n := count(t, history, 1); n != 0 {
		t.Errorf("%d rows", n)
	}
}

// What is shown begins with what grew since just before it.
func TestDrawnFromBeforeItsBeginning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := newPlane(t)
		begin := time.Now()
		for n := range 9 {
			if err := p.Ship(t.Context(), id("host", 1), metrics.Pass{At: time.Now(), Samples: []metrics.Sample{sample(owner(1), metrics.CPU, int64(n)*1500)}}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(metrics.Interval) //nolint:forbidigo // in the bubble
		}
		grid := metrics.NewGrid(begin.Add(time.Minute), begin.Add(2*time.Minute), metrics.Interval)
		o := owner(1)
		got, err := p.Draw(t.Context(), metrics.Scope{TenantID: o.TenantID, DeploymentID: o.DeploymentID}, metrics.Want{Grid: grid, Figures: metrics.OfInstances(), Sources: 5})
		if err != nil || len(got.Sources) != 1 {
			t.Fatalf("%+v, %v", got, err)
		}
		for i, v := range got.Total[metrics.CPU].Values {
			if v < 0.0999 || v > 0.1001 {
				t.Errorf("point %d is %v", i, v)
			}
		}
	})
}

func TestOldSamplesGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, history := newPlane(t)
		if err := p.Ship(t.Context(), id("host", 1), metrics.Pass{At: time.Now(), Samples: []metrics.Sample{sample(owner(1), metrics.CPU, 1)}}); err != nil {
			t.Fatal(err)
		}
		go func() {
			if err := p.Run(t.Context()); err != nil {
				t.Error(err)
			}
		}()
		time.Sleep(23 * time.Hour) //nolint:forbidigo // in the bubble
		synctest.Wait()
		if count(t, history, 1) != 1 {
			t.Error("it went too early")
		}
		time.Sleep(2 * time.Hour) //nolint:forbidigo // in the bubble
		synctest.Wait()
		if count(t, history, 1) != 0 {
			t.Error("it stays")
		}
	})
}
