package main

import (
	"context"
	"encoding/json"
	"fmt"
	"html/template"
	"log"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// app is the server's state, shared by all requests.
type app struct {
	version  string
	hostname string
	instance string
	started  time.Time
	out      *log.Logger

	requests atomic.Int64
	inFlight atomic.Int64
	sockets  atomic.Int64
	open     sync.WaitGroup // one for each WebSocket

	stopping context.Context // ends when the app was asked to stop
	stop     context.CancelFunc

	leakMu sync.Mutex // guards leaked
	leaked [][]byte
}

func newApp(version string, out *log.Logger) *app {
	hostname, err := os.Hostname()
	if err != nil {
		hostname = "unknown"
	}
	a := &app{
		version:  version,
		hostname: hostname,
		instance: envOr("MIOSA_RUNTIME_INSTANCE_ID", "local"),
		started:  time.Now(),
		out:      out,
	}
	a.stopping, a.stop = context.WithCancel(context.Background())
	return a
}

func (a *app) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", a.greet)
	mux.HandleFunc("GET /healthz", a.health)
	mux.HandleFunc("GET /ws", a.echo)
	mux.HandleFunc("GET /work", a.work)
	mux.HandleFunc("GET /sleep", a.sleep)
	mux.HandleFunc("GET /env", a.env)
	mux.HandleFunc("GET /bytes", a.bytes)
	mux.HandleFunc("POST /crash", a.crash)
	mux.HandleFunc("POST /leak", a.leak)
	mux.HandleFunc("POST /log", a.log)
	return a.logged(mux)
}

// logged adds the version to every answer and a line per request to stdout;
// health probes come every few seconds and are left out.
func (a *app) logged(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-App-Version", a.version)
		w.Header().Set("X-App-Instance", a.instance)
		if r.URL.Path == "/healthz" {
			next.ServeHTTP(w, r)
			return
		}
		a.requests.Add(1)
		a.inFlight.Add(1)
		defer a.inFlight.Add(-1)
		begin := time.Now()
		next.ServeHTTP(w, r)
		a.out.Printf("%s %s %.1fms", r.Method, r.URL.RequestURI(), float64(time.Since(begin).Microseconds())/1000)
	})
}

// greeting is what GET / answers.
type greeting struct {
	Message       string  `json:"message"`
	Version       string  `json:"version"`
	Hostname      string  `json:"hostname"`
	Instance      string  `json:"instance"`
	Requests      int64   `json:"requests"`
	WebSockets    int64   `json:"websockets"`
	UptimeSeconds float64 `json:"uptime_seconds"`
}

var page = template.Must(template.New("greeting").Parse(`<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{.Message}}</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 34rem; margin: 12vh auto; padding: 0 1rem; }
  dt { color: #666; } dd { margin: 0 0 .6rem; font-family: ui-monospace, monospace; }
</style>
<h1>{{.Message}}</h1>
<p>This page was served by a process in a microVM of its own.</p>
<dl>
  <dt>version</dt><dd>{{.Version}}</dd>
  <dt>host name</dt><dd>{{.Hostname}}</dd>
  <dt>instance</dt><dd>{{.Instance}}</dd>
  <dt>requests answered</dt><dd>{{.Requests}}</dd>
  <dt>up for</dt><dd>{{printf "%.1f" .UptimeSeconds}} s</dd>
</dl>
</html>
`))

func (a *app) greet(w http.ResponseWriter, r *http.Request) {
	g := greeting{
		Message:       "Hello from MIOSA",
		Version:       a.version,
		Hostname:      a.hostname,
		Instance:      a.instance,
		Requests:      a.requests.Load(),
		WebSockets:    a.sockets.Load(),
		UptimeSeconds: time.Since(a.started).Seconds(),
	}
	w.Header().Set("Cache-Control", "no-store")
	if strings.Contains(r.Header.Get("Accept"), "text/html") {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		if err := page.Execute(w, g); err != nil {
			a.out.Printf("write page: %v", err)
		}
		return
	}
	a.writeJSON(w, g)
}

func (a *app) health(w http.ResponseWriter, _ *http.Request) {
	if a.stopping.Err() != nil {
		http.Error(w, "stopping", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// echo sends every message back, and closes with 1001 (going away) when the
// app is asked to stop, so that clients know to connect again.
func (a *app) echo(w http.ResponseWriter, r *http.Request) {
	// Before the hijack: Shutdown waits for this request until then, so
	// waitSockets never misses one.
	a.open.Add(1)
	defer a.open.Done()
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true}) // an echo has no session to protect
	if err != nil {
		return // Accept has answered
	}
	a.sockets.Add(1)
	defer a.sockets.Add(-1)
	defer conn.CloseNow()

	goneAway := context.AfterFunc(a.stopping, func() {
		_ = conn.Close(websocket.StatusGoingAway, "stopping") // a peer that left already is no concern
	})
	defer goneAway()
	for {
		kind, message, err := conn.Read(r.Context())
		if err != nil {
			return
		}
		if err := conn.Write(r.Context(), kind, message); err != nil {
			return
		}
	}
}

// waitSockets returns when every WebSocket is closed, or ctx ends: Shutdown
// does not wait for them.
func (a *app) waitSockets(ctx context.Context) error {
	closed := make(chan struct{})
	go func() {
		a.open.Wait()
		close(closed)
	}()
	select {
	case <-closed:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%d websockets still open: %w", a.sockets.Load(), ctx.Err())
	}
}

func (a *app) work(w http.ResponseWriter, r *http.Request) {
	d, ok := milliseconds(w, r, 10_000)
	if !ok {
		return
	}
	rounds := 0
	for end := time.Now().Add(d); time.Now().Before(end); rounds++ {
		if r.Context().Err() != nil {
			return
		}
	}
	a.writeJSON(w, map[string]any{"worked_ms": d.Milliseconds(), "rounds": rounds})
}

func (a *app) sleep(w http.ResponseWriter, r *http.Request) {
	d, ok := milliseconds(w, r, 60_000)
	if !ok {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		a.writeJSON(w, map[string]any{"slept_ms": d.Milliseconds()})
	case <-r.Context().Done():
	}
}

func (a *app) env(w http.ResponseWriter, _ *http.Request) {
	names := []string{}
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		names = append(names, name)
	}
	slices.Sort(names)
	a.writeJSON(w, names)
}

// bytes answers with so many bytes.
func (a *app) bytes(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.ParseInt(r.URL.Query().Get("n"), 10, 64)
	if err != nil || n < 0 || n > 1<<40 {
		http.Error(w, "n: a number from 0 to 2^40", http.StatusUnprocessableEntity)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	for block := make([]byte, 64<<10); n > 0; n -= int64(len(block)) {
		block = block[:min(int64(len(block)), n)]
		if _, err := w.Write(block); err != nil {
			return // the client left
		}
	}
}

func (a *app) crash(http.ResponseWriter, *http.Request) {
	fmt.Fprintln(os.Stderr, "hello: asked to crash: exiting with code 1")
	os.Exit(1)
}

func (a *app) leak(w http.ResponseWriter, r *http.Request) {
	mb, err := strconv.Atoi(r.URL.Query().Get("mb"))
	if err != nil || mb < 1 || mb > 4096 {
		http.Error(w, "mb: a number from 1 to 4096", http.StatusUnprocessableEntity)
		return
	}
	block := make([]byte, mb<<20)
	for i := 0; i < len(block); i += 4096 {
		block[i] = 1 // touched, so that the memory is really taken
	}
	a.leakMu.Lock()
	a.leaked = append(a.leaked, block)
	blocks := len(a.leaked)
	a.leakMu.Unlock()
	a.writeJSON(w, map[string]any{"leaked_mb": mb, "blocks": blocks})
}

// log writes so many numbered lines to standard output, as fast as they are
// taken, and answers before the first.
func (a *app) log(w http.ResponseWriter, r *http.Request) {
	lines, err := strconv.Atoi(r.URL.Query().Get("lines"))
	if err != nil || lines < 1 || lines > 10_000_000 {
		http.Error(w, "lines: a number from 1 to 10000000", http.StatusUnprocessableEntity)
		return
	}
	w.WriteHeader(http.StatusAccepted)
	go func() {
		// Whole lines in each write: others write to the same place.
		var out []byte
		for n := range lines {
			out = fmt.Appendf(out, "line %d of %d\n", n+1, lines)
			if len(out) < 3<<10 && n+1 < lines {
				continue
			}
			if _, err := a.out.Writer().Write(out); err != nil {
				a.out.Printf("write lines: %v", err)
				return
			}
			out = out[:0]
		}
	}()
}

// milliseconds reads ?ms=, from 0 to limit, or answers 422.
func milliseconds(w http.ResponseWriter, r *http.Request, limit int) (time.Duration, bool) {
	ms, err := strconv.Atoi(r.URL.Query().Get("ms"))
	if err != nil || ms < 0 || ms > limit {
		http.Error(w, fmt.Sprintf("ms: a number from 0 to %d", limit), http.StatusUnprocessableEntity)
		return 0, false
	}
	return time.Duration(ms) * time.Millisecond, true
}

func (a *app) writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(v); err != nil {
		a.out.Printf("write answer: %v", err)
	}
}
