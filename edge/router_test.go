package edge

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miosa/miosa/routing"
)

// testFeed hands tables to one router and keeps what it reports.
type testFeed struct {
	mu      sync.Mutex // guards table and reports
	table   routing.Table
	changed chan struct{}
	reports []routing.Report
	told    chan struct{}
}

func newTestFeed() *testFeed {
	return &testFeed{changed: make(chan struct{}), told: make(chan struct{})}
}

func (f *testFeed) Updates(ctx context.Context) iter.Seq[routing.Update] {
	return func(yield func(routing.Update) bool) {
		seen := int64(0)
		for {
			f.mu.Lock()
			t, changed := f.table, f.changed
			f.mu.Unlock()
			if t.Generation > seen {
				seen = t.Generation
				if !yield(t.Whole()) {
					return
				}
				continue
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}
}

func (f *testFeed) Report(_ context.Context, r routing.Report) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reports = append(f.reports, r)
	close(f.told)
	f.told = make(chan struct{})
	return nil
}

// set publishes the next generation and returns its number.
func (f *testFeed) set(routes map[string]routing.Pool) int64 {
	return f.publish(routing.Table{Routes: routes})
}

func (f *testFeed) publish(t routing.Table) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	t.Generation = f.table.Generation + 1
	f.table = t
	close(f.changed)
	f.changed = make(chan struct{})
	return f.table.Generation
}

// await waits for a report that satisfies want.
func (f *testFeed) await(ctx context.Context, want func(routing.Report) bool) error {
	for {
		f.mu.Lock()
		told := f.told
		if n := len(f.reports); n > 0 && want(f.reports[n-1]) {
			f.mu.Unlock()
			return nil
		}
		f.mu.Unlock()
		select {
		case <-told:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// rig is a running router with its feed.
type rig struct {
	t    testing.TB
	rt   *Router
	feed *testFeed
	addr string
	log  *lockedBuffer // the access log
	said *lockedBuffer // what the router tells its operator
	http *http.Client
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// epoch is a moment, for what is told the time.
var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// testKey makes the cookies of routers in tests.
var testKey = []byte("0123456789abcdef")

// newRig starts a router; stop ends it early and waits for it.
func newRig(t testing.TB, cfg Config) (_ *rig, stop func()) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.RouterID, cfg.Listener = "router-1", listener
	if cfg.StickyKey == nil {
		cfg.StickyKey = testKey
	}
	g := &rig{t: t, feed: newTestFeed(), addr: listener.Addr().String(), log: &lockedBuffer{}, said: &lockedBuffer{}}
	if cfg.AccessLog == nil {
		cfg.AccessLog = g.log
	}
	if cfg.StopGrace == 0 {
		cfg.StopGrace = 2 * time.Second
	}
	if cfg.DialTimeout == 0 {
		cfg.DialTimeout = 30 * time.Second // a busy machine may take 2 s
	}
	g.rt, err = New(cfg, g.feed, slog.New(slog.NewTextHandler(g.said, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.rt.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("router ended: %v", err)
		}
	})
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, g.addr)
		},
		DisableCompression:  true,
		MaxIdleConnsPerHost: 100,
	}
	g.http = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		stop()
	})
	return g, stop
}

// route makes the pools the table and waits until the router says so.
func (g *rig) route(routes map[string]routing.Pool) {
	g.t.Helper()
	g.publish(routing.Table{Routes: routes})
}

func (g *rig) publish(t routing.Table) {
	g.t.Helper()
	generation := g.feed.publish(t)
	if err := g.feed.await(g.t.Context(), func(r routing.Report) bool { return r.Generation >= generation }); err != nil {
		g.t.Fatal(err)
	}
}

// at is a backend for an address.
func at(id, addr string) routing.Backend {
	return routing.Backend{InstanceID: id, Address: netip.MustParseAddrPort(addr)}
}

func poolOf(backends ...routing.Backend) routing.Pool {
	return routing.Pool{TenantID: "ten_1", DeploymentID: "dep_1", ServiceID: "svc_1", VersionID: "ver_1", Backends: backends}
}

// app serves a handler on loopback.
func app(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// rawApp hands every connection to serve, and ends it afterwards.
func rawApp(t testing.TB, serve func(net.Conn, *bufio.Reader)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var open sync.WaitGroup
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	open.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[c] = true
			mu.Unlock()
			open.Go(func() {
				defer c.Close()
				serve(c, bufio.NewReader(c))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range conns {
			c.Close()
		}
		mu.Unlock()
		open.Wait()
	})
	return l.Addr().String()
}

// readHead reads one request's head, without a body.
func readHead(br *bufio.Reader) (string, error) {
	var sb strings.Builder
	for {
		line, err := br.ReadString('\n')
		sb.WriteString(line)
		if err != nil || line == "\r\n" {
			return sb.String(), err
		}
	}
}

// one serves the handler as the only app of "app.test".
func one(t testing.TB, cfg Config, h http.HandlerFunc) *rig {
	t.Helper()
	g, _ := newRig(t, cfg)
	g.route(map[string]routing.Pool{"app.test": poolOf(at("ri_a", app(t, h)))})
	return g
}

func oneRaw(t testing.TB, cfg Config, serve func(net.Conn, *bufio.Reader)) *rig {
	t.Helper()
	g, _ := newRig(t, cfg)
	g.route(map[string]routing.Pool{"app.test": poolOf(at("ri_a", rawApp(t, serve)))})
	return g
}

// raw sends bytes to the router and reads all that comes back.
func (g *rig) raw(request string) string {
	g.t.Helper()
	c := g.dial()
	if _, err := io.WriteString(c, request); err != nil {
		g.t.Fatal(err)
	}
	out, err := io.ReadAll(c)
	if err != nil {
		out = append(out, "<"+err.Error()+">"...)
	}
	return string(out)
}

func (g *rig) dial() net.Conn {
	g.t.Helper()
	c, err := net.Dial("tcp", g.addr)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		g.t.Fatal(err)
	}
	return c
}

type answerTo struct {
	*http.Response
	body string
}

func (g *rig) do(method, target string, body io.Reader, header ...string) answerTo {
	g.t.Helper()
	req, err := http.NewRequestWithContext(g.t.Context(), method, target, body)
	if err != nil {
		g.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
		} else {
			req.Header.Add(header[i], header[i+1])
		}
	}
	res, err := g.http.Do(req)
	if err != nil {
		g.t.Fatalf("%s %s: %v", method, target, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		g.t.Fatalf("%s %s: %v", method, target, err)
	}
	return answerTo{res, string(b)}
}

func (g *rig) get(target string, header ...string) answerTo {
	g.t.Helper()
	return g.do("GET", target, nil, header...)
}

func TestNewRefuses(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for name, cfg := range map[string]Config{
		"no id":      {Addr: "127.0.0.1:0", StickyKey: testKey},
		"no address": {RouterID: "r", StickyKey: testKey},
		"proxies":    {RouterID: "r", Addr: "127.0.0.1:0", StickyKey: testKey, ProxyProtocol: true},
		"short key":  {RouterID: "r", Addr: "127.0.0.1:0", StickyKey: []byte("short")},
		"no key":     {RouterID: "r", Addr: "127.0.0.1:0"},
	} {
		if _, err := New(cfg, newTestFeed(), log); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestRunListensAndEnds(t *testing.T) {
	rt, err := New(Config{RouterID: "r", Addr: "127.0.0.1:0", StickyKey: testKey}, newTestFeed(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- rt.Run(ctx) }()
	rt.feed.(*testFeed).set(nil)
	<-rt.Ready()
	res, err := http.Get("http://" + rt.Addr().String())
	if err != nil || res.StatusCode != 404 {
		t.Errorf("%v, %v", res, err)
	} else {
		res.Body.Close()
	}
	http.DefaultClient.CloseIdleConnections()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", rt.Addr().String()); err == nil {
		t.Error("it still listens")
	}
}

// TestFlipsLoseNothing flips one host name between backends as fast as it
// can, under load, and has each backend that left refuse connections the
// moment the router acknowledged the flip and has nothing in flight there.
func TestFlipsLoseNothing(t *testing.T) {
	flips := 1500
	if testing.Short() {
		flips = 200
	}
	g, _ := newRig(t, Config{BackendWait: time.Nanosecond})
	start := func(i int) (routing.Backend, *httptest.Server) {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.Copy(w, r.Body); err != nil {
				return
			}
			_, _ = io.WriteString(w, "ok")
		}))
		return at("ri_"+string(rune('a'+i%20)), s.Listener.Addr().String()), s
	}
	b, s := start(0)
	g.route(map[string]routing.Pool{"app.test": poolOf(b)})

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var clients sync.WaitGroup
	counts := make([]int, 4)
	for i := range counts {
		clients.Go(func() {
			for ctx.Err() == nil {
				method, body := "GET", ""
				if i%2 == 1 { // not to be sent twice: nothing but the order of things protects it
					method, body = "POST", "hello "
				}
				req, err := http.NewRequest(method, "http://app.test/", strings.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				res, err := g.http.Do(req)
				if err != nil {
					t.Errorf("request lost: %v", err)
					return
				}
				got, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || res.StatusCode != 200 || string(got) != body+"ok" {
					t.Errorf("%s: status %d, body %q, %v", method, res.StatusCode, got, err)
					return
				}
				counts[i]++
			}
		})
	}
	for i := 1; i <= flips && !t.Failed(); i++ {
		next, server := start(i)
		generation := g.feed.set(map[string]routing.Pool{"app.test": poolOf(next)})
		if err := g.feed.await(ctx, func(r routing.Report) bool {
			return r.Generation >= generation && r.InFlight[b.InstanceID] == 0
		}); err != nil {
			t.Fatal(err)
		}
		// From here on a request there would be refused, or cut.
		s.Listener.Close()
		s.CloseClientConnections()
		s.Close()
		b, s = next, server
	}
	cancel()
	clients.Wait()
	s.Close()
	total := 0
	for _, n := range counts {
		total += n
	}
	t.Logf("%d flips, %d requests, 0 to fail", flips, total)
}

// TestAcquireNeverReachesABackendThatIsDone is the same promise without a
// network: whoever holds a backend after acquire does so while it is counted.
func TestAcquireNeverReachesABackendThatIsDone(t *testing.T) {
	table := newTable()
	idle := make(chan routing.Backend, 1)
	var list busy
	made := 0
	fresh := func() *pool {
		made++
		b := newBackend(at(fmt.Sprint("ri_", made), "127.0.0.1:1"), "token", idle, &list)
		return &pool{Pool: poolOf(b.Backend), backends: []*backend{b}, replaced: make(chan struct{})}
	}
	current := fresh()
	table.set("h", current)
	e := table.find("h")
	var done sync.Map // backends that were found idle after their flip
	stop := make(chan struct{})
	var users sync.WaitGroup
	for range 4 {
		users.Go(func() {
			x := &exchange{r: &http.Request{}}
			for {
				select {
				case <-stop:
					return
				default:
				}
				_, b := e.acquire(x)
				runtime.Gosched()
				if _, isDone := done.Load(b); isDone {
					t.Error("acquired a backend that was done")
				}
				b.release()
			}
		})
	}
	for range 20_000 {
		next := fresh()
		list.count() // which may find nothing in flight just before there is
		table.set("h", next)
		b := current.backends[0]
		for list.count()[b.Backend] != 0 { // users release at once
			select {
			case <-idle:
			default:
			}
		}
		done.Store(b, true)
		current = next
	}
	close(stop)
	users.Wait()
}

// A count looks at the backends that have something in flight, or had since the
// last count, and at no others.
func TestCountLooksAtWhatIsInFlight(t *testing.T) {
	l := newLoop(&Router{table: newTable(), cfg: Config{StickyKey: testKey}}, make(chan routing.Report, 1))
	var pool routing.Pool
	for n := range 5000 {
		pool.Backends = append(pool.Backends, at(fmt.Sprintf("ri_%04d", n), "127.0.0.1:1"))
	}
	of := l.pool(pool).backends
	for _, n := range []int{7, 4999, 7, 2500} {
		of[n].enter()
	}
	want := map[routing.Backend]int{of[7].Backend: 2, of[2500].Backend: 1, of[4999].Backend: 1}
	for range 2 { // what stays in flight stays on the list
		if got := l.busy.count(); !maps.Equal(got, want) || len(l.busy.all) != 3 {
			t.Fatalf("%v in flight, of %d looked at", got, len(l.busy.all))
		}
	}
	of[7].release()
	of[2500].release()
	want = map[routing.Backend]int{of[7].Backend: 1, of[4999].Backend: 1}
	if got := l.busy.count(); !maps.Equal(got, want) || len(l.busy.all) != 2 {
		t.Fatalf("%v in flight, %d left on the list", got, len(l.busy.all))
	}
	of[2500].enter() // it comes back
	want[of[2500].Backend] = 1
	if got := l.busy.count(); !maps.Equal(got, want) {
		t.Fatalf("%v in flight", got)
	}
}

func TestDroppedHostIsUnknown(t *testing.T) {
	g := one(t, Config{}, func(http.ResponseWriter, *http.Request) {})
	if got := g.get("http://app.test/"); got.StatusCode != 200 {
		t.Fatal(got.Status)
	}
	g.route(nil)
	if got := g.get("http://app.test/"); got.StatusCode != 404 {
		t.Fatal(got.Status)
	}
}

func TestFeedIsTakenUpAgain(t *testing.T) {
	feed := &brokenFeed{testFeed: newTestFeed()}
	rt, err := New(Config{RouterID: "r", Addr: "127.0.0.1:0", StickyKey: testKey}, feed, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- rt.Run(ctx) }()
	feed.set(nil)
	<-rt.Ready()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// brokenFeed is lost at once the first time.
type brokenFeed struct {
	*testFeed
	once sync.Once
}

func (f *brokenFeed) Updates(ctx context.Context) iter.Seq[routing.Update] {
	broken := false
	f.once.Do(func() { broken = true })
	if broken {
		return func(func(routing.Update) bool) {}
	}
	return f.testFeed.Updates(ctx)
}

func (f *brokenFeed) Report(context.Context, routing.Report) error {
	return errors.New("nobody there")
}
