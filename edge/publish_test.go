package edge

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/miosa/miosa/bench/load"
	"github.com/miosa/miosa/routing"
)

// TestPublishesUnderLoad replaces all backends several times, as publishes
// do, while requests and WebSockets go on: nothing fails, and each WebSocket
// is kept or closed in order.
func TestPublishesUnderLoad(t *testing.T) {
	g, _ := newRig(t, Config{})
	version := func(name string) *httptest.Server {
		return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/ws" {
				w.Header().Set("X-App-Version", name)
				_, _ = io.Copy(w, r.Body)
				return
			}
			c, err := websocket.Accept(w, r, nil)
			if err != nil {
				return
			}
			defer func() { _ = c.CloseNow() }()
			for {
				kind, p, err := c.Read(context.Background())
				if err != nil || c.Write(context.Background(), kind, p) != nil {
					return
				}
			}
		}))
	}
	pool := func(id, name string, s *httptest.Server) map[string]routing.Pool {
		p := poolOf(at(id, s.Listener.Addr().String()))
		p.VersionID, p.Drain = name, 5*time.Second // closing in order takes a slow machine its time
		return map[string]routing.Pool{"app.test": p}
	}
	old, oldID := version("0"), "ri_0"
	g.route(pool(oldID, "0", old))

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var report load.Report
	var loading sync.WaitGroup
	loading.Go(func() {
		var err error
		report, err = load.Run(ctx, load.Config{
			Addr: g.addr, Host: "app.test", Workers: 4, MinRequests: 2000, PostEvery: 3,
			WebSockets: 20, WSInterval: 20 * time.Millisecond, WSEcho: true,
		})
		if err != nil {
			t.Error(err)
		}
	})
	for _, name := range []string{"1", "2", "3", "4"} {
		// Not before all WebSockets hang on the version that is to leave.
		g.awaitTunnels(oldID, 20)
		next, id := version(name), "ri_"+name
		g.route(pool(id, name, next))
		if err := g.feed.await(t.Context(), func(r routing.Report) bool { return r.InFlight[oldID] == 0 }); err != nil {
			t.Fatal(err)
		}
		old.Close()
		old, oldID = next, id
	}
	g.awaitTunnels(oldID, 20)
	cancel()
	loading.Wait()
	old.Close()
	t.Log(report)
	if !report.Clean() || report.Requests < 2000 || report.WSEnded != 20 || report.Reopened != 0 || report.WSClosed != 4*20 {
		t.Error("not clean")
	}
	for _, v := range []string{"0", "1", "2", "3"} {
		if report.Versions[v] == 0 {
			t.Errorf("version %s never answered", v)
		}
	}
}

func (g *rig) awaitTunnels(instance string, n int) {
	for g.tunnelsTo(instance) < n {
		time.Sleep(time.Millisecond) //nolint:forbidigo // polls a state that has no event, with a deadline around it
	}
}

func (g *rig) tunnelsTo(instance string) int {
	g.rt.mu.Lock()
	defer g.rt.mu.Unlock()
	n := 0
	for _, t := range g.rt.tunnels {
		if t.app.backend.InstanceID == instance {
			n++
		}
	}
	return n
}
