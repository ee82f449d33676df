package edge

import (
	"context"
	"log/slog"
	"maps"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miosa/miosa/metrics"
	"github.com/miosa/miosa/routing"
)

// TestTrafficOfServices: two host names of one service are one source, and
// what a host name counted stays counted when it is dropped.
func TestTrafficOfServices(t *testing.T) {
	g, _ := newRig(t, Config{})
	backend := at("ri_a", app(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/bad" {
			w.WriteHeader(http.StatusBadGateway)
		}
	}))
	other := poolOf(at("ri_b", app(t, func(http.ResponseWriter, *http.Request) {})))
	other.ServiceID = "svc_2"
	routes := map[string]routing.Pool{"app.test": poolOf(backend), "www.test": poolOf(backend), "other.test": other, "quiet.test": {
		TenantID: "ten_1", DeploymentID: "dep_1", ServiceID: "svc_3", Backends: []routing.Backend{backend},
	}}
	g.route(maps.Clone(routes))
	s := newSampler("router-1")
	if pass := s.pass(g.rt, time.Now()); len(pass.Samples) != 0 {
		t.Errorf("before any request: %+v", pass)
	}
	until := func(service string, requests, errors int64) (last metrics.Values) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		for {
			for _, sample := range s.pass(g.rt, time.Now()).Samples {
				if want := (metrics.Owner{TenantID: "ten_1", DeploymentID: "dep_1", ServiceID: service, SourceID: "router-1"}); sample.Owner != want {
					continue
				}
				n, _ := sample.Values.Get(metrics.Requests)
				bad, _ := sample.Values.Get(metrics.Errors)
				if n == requests && bad == errors {
					return sample.Values
				}
				if n > requests || bad > errors {
					t.Fatalf("%s had %d requests, %d bad; want %d, %d", service, n, bad, requests, errors)
				}
			}
			select {
			case <-ctx.Done():
				t.Fatalf("%s does not come to %d requests, %d of them bad", service, requests, errors)
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
	for _, url := range []string{"http://app.test/", "http://www.test/", "http://www.test/bad", "http://www.test/", "http://other.test/"} {
		g.get(url)
	}
	until("svc_1", 4, 1)
	v := until("svc_2", 1, 0)
	if _, ok := v.Get(metrics.CPU); ok {
		t.Error("a service has a processor")
	}
	delete(routes, "www.test")
	g.route(maps.Clone(routes))
	v = until("svc_1", 4, 1)
	if n, ok := v.Get(metrics.LatencyP99); ok {
		t.Errorf("nobody asked, and the latency is %d", n)
	}
	g.get("http://app.test/")
	until("svc_1", 5, 1)
	// It comes back, and begins anew.
	routes["www.test"] = poolOf(backend)
	g.route(maps.Clone(routes))
	g.get("http://www.test/")
	until("svc_1", 6, 1)
	for _, sample := range s.pass(g.rt, time.Now()).Samples {
		if sample.Owner.ServiceID == "svc_3" {
			t.Error("a service that nobody asked for has figures")
		}
	}
	delete(routes, "other.test")
	g.route(maps.Clone(routes))
	if pass := s.pass(g.rt, time.Now()); len(pass.Samples) != 1 || len(s.services) != 1 {
		t.Errorf("a service that is gone: %+v", pass)
	}
}

func TestQuantiles(t *testing.T) {
	var b [latencyBuckets]uint64
	if q, ok := quantile(&b, 0.5); ok {
		t.Errorf("of nothing: %s", q)
	}
	b[5] = 100 // from 1024 µs to 2048 µs
	for q, want := range map[float64]time.Duration{0.5: 1536 * time.Microsecond, 0.99: 2037760, 1: 2048 * time.Microsecond} {
		if got, ok := quantile(&b, q); !ok || got != want {
			t.Errorf("%v: %s, want %s", q, got, want)
		}
	}
	b[0] = 300
	if got, _ := quantile(&b, 0.5); got != 64*time.Microsecond*2/3 {
		t.Errorf("median %s", got)
	}
	b[latencyBuckets-1] = 10000
	if got, _ := quantile(&b, 0.99); got != LatencyBound(latencyBuckets-2) {
		t.Errorf("above all bounds: %s", got)
	}
}

// shipped is what a router hands over.
type shipped chan metrics.Pass

func (s shipped) ShipTraffic(_ context.Context, _ string, pass metrics.Pass) error {
	s <- pass
	return nil
}

func TestTrafficIsHandedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		took := make(shipped, 10)
		rt, err := New(Config{RouterID: "router-1", Addr: "127.0.0.1:0", StickyKey: testKey, Traffic: took}, newTestFeed(), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		p := &pool{Pool: poolOf(), replaced: make(chan struct{})}
		rt.table.set("app.test", p)
		rt.table.find("app.test").stats.class[2].Add(7)
		go rt.measure(t.Context())
		began := time.Now()
		pass := <-took
		if n, _ := pass.Samples[0].Values.Get(metrics.Requests); n != 7 || time.Since(began) != metrics.Interval {
			t.Errorf("%+v after %s", pass, time.Since(began))
		}
	})
}
