package load_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/miosa/miosa/bench/load"
)

func serve(t *testing.T, h http.HandlerFunc) (addr string) {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// ended is a context that is over: the load makes its minimum and stops.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func TestAllGood(t *testing.T) {
	var n atomic.Int64
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "app.test" || r.URL.Path != "/x" {
			t.Errorf("asked for %s%s", r.Host, r.URL.Path)
		}
		if n.Add(1)%2 == 0 {
			w.Header().Set("X-App-Version", "1")
			return
		}
		_, _ = io.WriteString(w, `{"name": "app", "version": "2"}`)
	})
	got, err := load.Run(ended(), load.Config{Addr: addr, Host: "app.test", Path: "/x", Workers: 4, MinRequests: 12_345, PostEvery: 3})
	if err != nil {
		t.Fatal(err)
	}
	if !got.Clean() || got.Requests != 12_345 || got.Versions["1"]+got.Versions["2"] != 12_345 || got.Versions["1"] != 12_345/2 {
		t.Errorf("%+v", got)
	}
	if s := got.String(); !strings.HasPrefix(s, "0 failed of 12,345 requests") {
		t.Error(s)
	}
	if got.Latency.Quantile(0.5) <= 0 || got.Latency.Quantile(0.5) > got.Latency.Quantile(0.99) || got.Latency.Quantile(0.99) > got.Latency.Max() {
		t.Errorf("p50 %s, p99 %s, max %s", got.Latency.Quantile(0.5), got.Latency.Quantile(0.99), got.Latency.Max())
	}
}

func TestEveryFailureIsCountedByItsKind(t *testing.T) {
	var n, status, reset, short atomic.Int64
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch n.Add(1) % 40 {
		case 10:
			status.Add(1)
			http.Error(w, "deliberately", http.StatusBadGateway)
		case 15:
			status.Add(1)
			http.NotFound(w, r)
		case 20:
			reset.Add(1)
			c, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nX-Half") // of a head
			c.Close()
		case 30:
			short.Add(1)
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "far too short")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
	})
	got, err := load.Run(ended(), load.Config{Addr: addr, Host: "app.test", Workers: 3, MinRequests: 2000})
	if err != nil {
		t.Fatal(err)
	}
	want := map[load.Kind]int64{load.Status: status.Load(), load.Reset: reset.Load(), load.Short: short.Load()}
	total := int64(0)
	for kind, n := range want {
		total += n
		if got.ByKind[kind] != n || n == 0 {
			t.Errorf("%s: counted %d, there were %d", kind, got.ByKind[kind], n)
		}
	}
	if got.Failed != total || got.Requests != 2000 || got.During != 0 || got.Clean() {
		t.Errorf("failed %d of %d, there were %d", got.Failed, got.Requests, total)
	}
	if len(got.Samples) == 0 || len(got.Samples) > 20 {
		t.Errorf("%d samples", len(got.Samples))
	}
}

func TestRequestsAfterTheEndAreToldApart(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var n atomic.Int64
	addr := serve(t, func(http.ResponseWriter, *http.Request) {
		if n.Add(1) == 10 {
			cancel()
		}
	})
	var made atomic.Int64
	got, err := load.Run(ctx, load.Config{Addr: addr, Host: "app.test", Workers: 1, MinRequests: 30, Made: &made})
	if err != nil || got.Requests != 30 || got.During != 10 || made.Load() != 30 {
		t.Errorf("%d of %d, %v", got.During, got.Requests, err)
	}
}

func TestRefusedAndTimeout(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	got, err := load.Run(ended(), load.Config{Addr: addr, Host: "app.test", Workers: 2, MinRequests: 20})
	if err != nil || got.ByKind[load.Refused] != 20 || got.Failed != 20 {
		t.Errorf("%v, %v", got, err)
	}

	release := make(chan struct{})
	slow := serve(t, func(http.ResponseWriter, *http.Request) { <-release })
	got, err = load.Run(ended(), load.Config{Addr: slow, Host: "app.test", Workers: 1, MinRequests: 2, Timeout: 20 * time.Millisecond})
	close(release)
	if err != nil || got.ByKind[load.Timeout] != 2 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestAKeptConnectionThatWasClosedIsNoFailure(t *testing.T) {
	var n atomic.Int64
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1)%5 != 0 {
			return
		}
		// Answer in full, then close without having said so.
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
		c.Close()
	})
	got, err := load.Run(ended(), load.Config{Addr: addr, Host: "app.test", Workers: 1, MinRequests: 100})
	if err != nil || !got.Clean() || got.Reopened == 0 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestWebSockets(t *testing.T) {
	var connections atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var kept atomic.Int64
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Errorf("accept: %v", err)
			return
		}
		defer func() { _ = c.CloseNow() }()
		nth := connections.Add(1)
		for said := 1; ; said++ {
			kind, p, err := c.Read(r.Context())
			if err != nil {
				return
			}
			if err := c.Write(r.Context(), kind, p); err != nil {
				return
			}
			switch nth {
			case 1, 2:
				_ = c.Close(websocket.StatusGoingAway, "")
				return
			case 3:
				_ = c.Close(websocket.StatusServiceRestart, "")
				return
			case 4:
				return // cut
			case 5:
				_ = c.Close(websocket.StatusInternalError, "")
				return
			}
			if said == 3 && kept.Add(1) == 4 { // all four are in and talk
				cancel()
			}
		}
	})
	got, err := load.Run(ctx, load.Config{Addr: addr, Host: "app.test", WebSockets: 4, WSInterval: 5 * time.Millisecond, WSEcho: true})
	if err != nil {
		t.Fatal(err)
	}
	if got.WSClosed != 3 || got.WSAborted != 2 || got.WSEnded != 4 || got.WSOpened != 9 || got.WSRefused != 0 || got.Clean() {
		t.Errorf("%s", got)
	}
	if got.WSMessages < 12 {
		t.Errorf("%d messages", got.WSMessages)
	}
}

func TestConfigIsChecked(t *testing.T) {
	if _, err := load.Run(t.Context(), load.Config{Addr: "127.0.0.1:1"}); err == nil {
		t.Error("no host name, and no error")
	}
}

func TestQuantilesAreWithinASixteenth(t *testing.T) {
	var h load.Histogram
	for i := range 10_000 {
		h.Add(time.Duration(i+1) * time.Microsecond)
	}
	for _, q := range []float64{0.01, 0.5, 0.9, 0.99, 1} {
		exact := time.Duration(q*10_000) * time.Microsecond
		if got := h.Quantile(q); got < exact || got > exact+exact/15 {
			t.Errorf("p%v is %v, exactly %v", q*100, got, exact)
		}
	}
	if got := new(load.Histogram).Quantile(0.5); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
}
