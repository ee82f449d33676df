package edge

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/miosa/miosa/routing"
)

// echoApp is a WebSocket echo that says how each of its connections ended.
func echoApp(t testing.TB, id string, ends chan<- websocket.StatusCode) string {
	return app(t, func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Errorf("accept: %v", err)
			return
		}
		defer func() { _ = c.CloseNow() }()
		c.SetReadLimit(-1)
		_ = c.Write(context.Background(), websocket.MessageText, []byte(id))
		for {
			kind, p, err := c.Read(context.Background())
			if err != nil {
				ends <- websocket.CloseStatus(err)
				return
			}
			if err := c.Write(context.Background(), kind, p); err != nil {
				ends <- -1
				return
			}
		}
	})
}

func (g *rig) websocket(host string) *websocket.Conn {
	g.t.Helper()
	c, _, err := websocket.Dial(g.t.Context(), "ws://"+host+"/chat", &websocket.DialOptions{HTTPClient: g.http})
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = c.CloseNow() })
	c.SetReadLimit(-1)
	return c
}

func read(t testing.TB, c *websocket.Conn) string {
	t.Helper()
	_, p, err := c.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return string(p)
}

func TestWebSocketEchoes(t *testing.T) {
	g, _ := newRig(t, Config{})
	ends := make(chan websocket.StatusCode, 1)
	g.route(map[string]routing.Pool{"app.test": poolOf(at("ri_a", echoApp(t, "a", ends)))})
	c := g.websocket("app.test")
	if got := read(t, c); got != "a" {
		t.Fatal(got)
	}
	for _, size := range []int{0, 1, 125, 126, 65_535, 65_536, 1 << 20} {
		msg := strings.Repeat("x", size)
		if err := c.Write(t.Context(), websocket.MessageText, []byte(msg)); err != nil {
			t.Fatal(err)
		}
		if got := read(t, c); got != msg {
			t.Fatalf("%d bytes became %d", size, len(got))
		}
	}
	// The count is held for as long as the connection lives.
	if n := g.rt.table.find("app.test").pool.Load().backends[0].inFlight.Load(); n != 1 {
		t.Errorf("%d in flight", n)
	}
	if err := c.Close(websocket.StatusNormalClosure, "bye"); err != nil {
		t.Error(err)
	}
	if code := <-ends; code != websocket.StatusNormalClosure {
		t.Errorf("the app saw %v", code)
	}
}

func TestWebSocketsOfALeavingBackendAreClosedInOrder(t *testing.T) {
	const n = 20
	g, _ := newRig(t, Config{})
	ends := make(chan websocket.StatusCode, n)
	old := poolOf(at("ri_a", echoApp(t, "old", ends)))
	old.Drain = 5 * time.Second // closing in order takes a slow machine its time
	g.route(map[string]routing.Pool{"app.test": old})
	var clients sync.WaitGroup
	codes := make([]websocket.StatusCode, n)
	for i := range n {
		c := g.websocket("app.test")
		if got := read(t, c); got != "old" {
			t.Fatal(got)
		}
		clients.Go(func() {
			for k := 0; ; k++ {
				// Talking all the time, so that closes fall between frames.
				msg := fmt.Sprint(k, strings.Repeat("x", k*37%3000))
				if c.Write(t.Context(), websocket.MessageText, []byte(msg)) != nil {
					// The close came first; the read says which.
					msg = ""
				}
				_, p, err := c.Read(t.Context())
				if err != nil {
					codes[i] = websocket.CloseStatus(err)
					return
				}
				if msg != "" && string(p) != msg {
					t.Errorf("%d bytes became %d", len(msg), len(p))
				}
			}
		})
	}
	next := poolOf(at("ri_b", echoApp(t, "new", make(chan websocket.StatusCode, 1))))
	g.route(map[string]routing.Pool{"app.test": next})
	if got := read(t, g.websocket("app.test")); got != "new" {
		t.Error(got)
	}
	clients.Wait()
	for i, code := range codes {
		if code != websocket.StatusGoingAway {
			t.Errorf("client %d saw %v", i, code)
		}
		if code := <-ends; code != websocket.StatusGoingAway {
			t.Errorf("the app saw %v", code)
		}
	}
	if err := g.feed.await(t.Context(), func(r routing.Report) bool { return r.InFlight["ri_a"] == 0 }); err != nil {
		t.Fatal(err)
	}
}

func TestCloseWaitsForTheEndOfAFrame(t *testing.T) {
	// The app sends half a frame, and the rest when it is told.
	half, rest := make(chan struct{}), make(chan struct{})
	g, _ := newRig(t, Config{})
	pool := poolOf(at("ri_a", rawApp(t, func(c net.Conn, br *bufio.Reader) {
		if _, err := readHead(br); err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n\x81\x06abc")
		close(half)
		<-rest
		_, _ = io.WriteString(c, "def\x81\x03dropped")
		_, _ = io.Copy(io.Discard, br)
	})))
	pool.Drain = 20 * time.Second
	g.route(map[string]routing.Pool{"app.test": pool})
	c := g.dial()
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	br := bufio.NewReader(c)
	if head, err := readHead(br); err != nil || !strings.HasPrefix(head, "HTTP/1.1 101") {
		t.Fatal(head, err)
	}
	<-half
	first := make([]byte, 5)
	if _, err := io.ReadFull(br, first); err != nil || string(first) != "\x81\x06abc" {
		t.Fatalf("%q %v", first, err)
	}
	g.rt.mu.Lock()
	for _, tun := range g.rt.tunnels {
		tun.ask(closeGoingAway)
	}
	g.rt.mu.Unlock()
	close(rest)
	// The client answers, as it must, and leaves.
	_, _ = io.WriteString(c, "\x88\x82\x00\x00\x00\x00\x03\xe9")
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, _ := io.ReadAll(br)
	if want := "def\x88\x02\x03\xe9"; string(got) != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestAppThatVanishesIsARestart(t *testing.T) {
	g := oneRaw(t, Config{}, func(c net.Conn, br *bufio.Reader) {
		if _, err := readHead(br); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x03abc")
		}
	})
	c := g.dial()
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	br := bufio.NewReader(c)
	if _, err := readHead(br); err != nil {
		t.Fatal(err)
	}
	got, _ := io.ReadAll(br)
	if want := "\x81\x03abc\x88\x02\x03\xf4"; string(got) != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// oddApp upgrades to a protocol of its own: an echo between two words.
func oddApp(c net.Conn, br *bufio.Reader) {
	if _, err := readHead(br); err != nil {
		return
	}
	_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: odd/1\r\n\r\nfirst ")
	_, _ = io.Copy(c, br)
	_, _ = io.WriteString(c, " last")
}

const oddRequest = "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: odd/1\r\n\r\n"

// tunnelled sends all, ends its direction and returns what comes behind the
// answer's head.
func (g *rig) tunnelled(all string) string {
	g.t.Helper()
	c := g.dial()
	_, _ = io.WriteString(c, all)
	br := bufio.NewReader(c)
	if _, err := readHead(br); err != nil {
		g.t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		g.t.Fatal(err)
	}
	got, _ := io.ReadAll(br)
	return string(got)
}

func TestOtherProtocolsPassAsBytes(t *testing.T) {
	g := oneRaw(t, Config{}, oddApp)
	if got := g.tunnelled(oddRequest + "early \xff\x88\x01"); got != "first early \xff\x88\x01 last" {
		t.Errorf("%q", got)
	}
}

// A body may come before the other protocol: attaching to a container is asked
// for so. Where it streams, the app may answer as if no upgrade were asked for.
func TestUpgradeBehindABody(t *testing.T) {
	const body = `{"Tty":true}`
	g := one(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		sent, _ := io.ReadAll(r.Body)
		if r.Header.Get("Upgrade") == "" {
			fmt.Fprintf(w, "%d bytes and no upgrade", len(sent))
			return
		}
		if string(sent) != body || r.Header.Get("Upgrade") != "tcp" {
			t.Errorf("%q, %v", sent, r.Header)
		}
		c, brw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nfirst ")
		_, _ = io.Copy(c, brw)
		_, _ = io.WriteString(c, " last")
	})
	for name, early := range map[string]string{"by itself": "", "with bytes of the other protocol": "early "} {
		t.Run(name, func(t *testing.T) {
			c := g.dial()
			_, _ = fmt.Fprintf(c, "POST /exec/1/start HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: %d\r\n\r\n%s%s", len(body), body, early)
			br := bufio.NewReader(c)
			if head, err := readHead(br); err != nil || !strings.HasPrefix(head, "HTTP/1.1 101 ") {
				t.Fatal(head, err)
			}
			_, _ = io.WriteString(c, "late")
			if err := c.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got, _ := io.ReadAll(br); string(got) != "first "+early+"late last" {
				t.Errorf("%q", got)
			}
		})
	}
	for name, request := range map[string]string{
		"chunked": "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
		"large":   fmt.Sprintf("Content-Length: %d\r\n\r\n%s", 3+wholeBody, strings.Repeat("x", 3+wholeBody)),
	} {
		t.Run(name, func(t *testing.T) {
			got := g.raw("POST / HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade, close\r\nUpgrade: tcp\r\n" + request)
			if !strings.HasPrefix(got, "HTTP/1.1 200 ") || !strings.Contains(got, " bytes and no upgrade") {
				t.Errorf("%q", got)
			}
		})
	}
}

func TestUpgradeThatIsRefused(t *testing.T) {
	g := one(t, Config{}, func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", http.StatusForbidden) })
	if got := g.get("http://app.test/", "Connection", "Upgrade", "Upgrade", "websocket"); got.StatusCode != 403 || got.body != "no\n" {
		t.Error(got.Status, got.body)
	}
}

// events streams until its client goes.
func events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	_, _ = io.WriteString(w, "data: x\n\n")
	w.(http.Flusher).Flush()
	<-r.Context().Done()
}

func TestEventStreamsEndCleanlyWithTheDrain(t *testing.T) {
	g, _ := newRig(t, Config{})
	pool := poolOf(at("ri_a", app(t, events)))
	pool.Drain = 200 * time.Millisecond
	g.route(map[string]routing.Pool{"app.test": pool})
	res, err := g.http.Get("http://app.test/")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	g.route(map[string]routing.Pool{"app.test": poolOf()})
	if b, err := io.ReadAll(res.Body); err != nil || string(b) != "data: x\n\n" {
		t.Errorf("%q, %v", b, err)
	}
	if err := g.feed.await(t.Context(), func(r routing.Report) bool { return len(r.InFlight) == 0 }); err != nil {
		t.Fatal(err)
	}
}

func TestDrainCutsWhatNeverEnds(t *testing.T) {
	g, _ := newRig(t, Config{})
	pool := poolOf(at("ri_a", app(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/body" {
			_, _ = io.WriteString(w, "some")
			w.(http.Flusher).Flush()
		}
		<-r.Context().Done()
	})))
	pool.Drain = 200 * time.Millisecond
	g.route(map[string]routing.Pool{"app.test": pool})
	res, err := g.http.Get("http://app.test/body")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var asked sync.WaitGroup
	asked.Go(func() {
		if got := g.get("http://app.test/silent"); got.StatusCode != 504 {
			t.Error(got.Status)
		}
	})
	for g.rt.table.find("app.test").pool.Load().backends[0].inFlight.Load() < 2 {
		time.Sleep(time.Millisecond) //nolint:forbidigo // polls a state that has no event, with a deadline around it
	}
	g.route(nil)
	if b, err := io.ReadAll(res.Body); err == nil {
		t.Errorf("a cut answer looks whole: %q", b)
	}
	asked.Wait()
}

func TestStopClosesInOrder(t *testing.T) {
	g, stop := newRig(t, Config{StopGrace: 20 * time.Second})
	ends := make(chan websocket.StatusCode, 1)
	g.route(map[string]routing.Pool{"ws.test": poolOf(at("ri_a", echoApp(t, "a", ends))), "sse.test": poolOf(at("ri_b", app(t, events)))})
	c := g.websocket("ws.test")
	read(t, c)
	res, err := g.http.Get("http://sse.test/")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var seen sync.WaitGroup
	seen.Go(func() {
		_, _, err := c.Read(t.Context())
		if code := websocket.CloseStatus(err); code != websocket.StatusGoingAway {
			t.Errorf("the client saw %v", err)
		}
	})
	seen.Go(func() {
		if _, err := io.ReadAll(res.Body); err != nil {
			t.Error(err)
		}
	})
	stop()
	seen.Wait()
	if code := <-ends; code != websocket.StatusGoingAway {
		t.Errorf("the app saw %v", code)
	}
	if _, err := net.Dial("tcp", g.addr); !errors.Is(err, io.EOF) && err == nil {
		t.Error("it still listens")
	}
}
