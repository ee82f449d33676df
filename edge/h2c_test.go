package edge

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/sys/unix"

	"github.com/miosa/miosa/routing"
)

// framesApp is an app made of frames: on each connection it sends the settings
// and then does what a test wants with each frame, until that says that it is
// enough.
type framesApp struct {
	addr  string
	dials atomic.Int64
	calls atomic.Int64 // streams that were begun
}

// wire is one connection to it.
type wire struct {
	*http2.Framer
	conn net.Conn
	dial int64 // which, from 1 on
	call int64 // which the present one is
}

func newFramesApp(t testing.TB, settings []http2.Setting, serve func(w *wire, f http2.Frame) bool) *framesApp {
	t.Helper()
	a := &framesApp{}
	a.addr = rawApp(t, func(c net.Conn, br *bufio.Reader) {
		w := &wire{Framer: http2.NewFramer(c, br), conn: c, dial: a.dials.Add(1)}
		w.SetMaxReadFrameSize(1 << 20)
		if _, err := br.Discard(len(http2.ClientPreface)); err != nil || w.WriteSettings(settings...) != nil {
			return
		}
		for {
			f, err := w.ReadFrame()
			if err != nil {
				return
			}
			switch f := f.(type) {
			case *http2.SettingsFrame:
				if !f.IsAck() {
					_ = w.WriteSettingsAck()
				}
			case *http2.PingFrame:
				if !f.IsAck() {
					_ = w.WritePing(true, f.Data)
				}
			case *http2.HeadersFrame:
				w.call = a.calls.Add(1)
			}
			if !serve(w, f) {
				return
			}
		}
	})
	return a
}

// head sends a head: names and values.
func (w *wire) head(stream uint32, end bool, fields ...string) {
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		_ = enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	const most = 16 << 10 // of a frame
	first := block.Next(most)
	_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: first, EndHeaders: block.Len() == 0, EndStream: end})
	for block.Len() > 0 {
		part := block.Next(most)
		_ = w.WriteContinuation(stream, block.Len() == 0, part)
	}
}

// begins is the stream that the frame begins; 0: none.
func begins(f http2.Frame) uint32 {
	if h, ok := f.(*http2.HeadersFrame); ok {
		return h.StreamID
	}
	return 0
}

// ends is the stream whose request the frame ends; 0: none.
func ends(f http2.Frame) uint32 {
	if h := f.Header(); (h.Type == http2.FrameHeaders || h.Type == http2.FrameData) && h.Flags.Has(http2.FlagDataEndStream) {
		return h.StreamID
	}
	return 0
}

// An app that takes connections and no calls is asked a few times, and its
// clients are told.
func TestAnAppThatTakesNoCallsIsNotAskedForEver(t *testing.T) {
	idle := func(*wire, http2.Frame) bool { return true }
	goAway := func(code http2.ErrCode) func(*wire, http2.Frame) bool {
		return func(w *wire, f http2.Frame) bool {
			if begins(f) != 0 {
				_ = w.WriteGoAway(0, code, nil)
			}
			return true
		}
	}
	none := []http2.Setting{{ID: http2.SettingMaxConcurrentStreams, Val: 0}}
	for name, c := range map[string]struct {
		settings []http2.Setting
		serve    func(*wire, http2.Frame) bool
		code     string
		says     string
	}{
		"allows none": {none, idle, "unreachable", allowsNone},
		"goes away before any call": {nil, func(w *wire, f http2.Frame) bool {
			if s, ok := f.(*http2.SettingsFrame); ok && !s.IsAck() {
				_ = w.WriteGoAway(0, http2.ErrCodeNo, nil)
			}
			return true
		}, "", ""},
		"goes away at each call": {nil, goAway(http2.ErrCodeNo), "refused", ""},
		"goes away in anger":     {nil, goAway(http2.ErrCodeEnhanceYourCalm), "refused", ""},
		"refuses each call": {nil, func(w *wire, f http2.Frame) bool {
			if id := begins(f); id != 0 {
				_ = w.WriteRSTStream(id, http2.ErrCodeRefusedStream)
			}
			return true
		}, "refused", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newFramesApp(t, c.settings, c.serve)
			g, _ := newRig(t, Config{ResponseTimeout: 20 * time.Second})
			g.route(map[string]routing.Pool{"app.test": h2cPool(at("ri_a", a.addr))})
			requests := int64(0)
			for _, method := range []string{"GET", "POST"} {
				for _, body := range []io.Reader{nil, strings.NewReader("whole"), io.MultiReader(strings.NewReader("streamed"))} {
					requests++
					got := g.do(method, "http://app.test/", body)
					if got.StatusCode != 502 && got.StatusCode != 503 || !strings.Contains(got.body, c.code) {
						t.Errorf("%s: %d %s", method, got.StatusCode, got.body)
					}
				}
			}
			// A wait of a second, with a look at once and every tenth; and what is
			// refused at first is tried again without a wait.
			const looks = 11
			if dials, calls := a.dials.Load(), a.calls.Load(); dials > (looks+refusedAtOnce)*requests || calls > refusedMost*requests {
				t.Errorf("%d connections and %d calls for %d requests", dials, calls, requests)
			}
			if c.says != "" {
				if err := g.feed.await(t.Context(), func(r routing.Report) bool { return r.Faults["ri_a"] == c.says }); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// Calls of which an app takes one a connection have so many connections and no
// more: the others wait for a place.
func TestCallsWaitForAPlace(t *testing.T) {
	arrived, release := make(chan struct{}, h2cMost), make(chan struct{})
	var dials atomic.Int64
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		select {
		case arrived <- struct{}{}:
		default: // there are enough
		}
		<-release
	}))
	s.Config.Protocols, s.Config.HTTP2 = &protocols, &http.HTTP2Config{MaxConcurrentStreams: 1}
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			dials.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	g, _ := newRig(t, Config{})
	g.route(map[string]routing.Pool{"app.test": h2cPool(at("ri_a", s.Listener.Addr().String()))})
	var asking sync.WaitGroup
	for range h2cMost + 20 {
		asking.Go(func() {
			res, err := g.http.Get("http://app.test/") //nolint:noctx // a test's
			if err != nil {
				t.Error(err)
				return
			}
			res.Body.Close()
			if res.StatusCode != 200 {
				t.Error(res.Status)
			}
		})
	}
	for range h2cMost {
		<-arrived
	}
	close(release)
	asking.Wait()
	if n := dials.Load(); n != h2cMost {
		t.Errorf("%d connections", n)
	}
}

// A call that the app may have looked at is not made again where it must not be
// made twice.
func TestACallThatIsResetIsMadeOnce(t *testing.T) {
	for _, code := range []http2.ErrCode{http2.ErrCodeProtocol, http2.ErrCodeInternal, http2.ErrCodeCancel, http2.ErrCodeNo} {
		t.Run(code.String(), func(t *testing.T) {
			a := newFramesApp(t, nil, func(w *wire, f http2.Frame) bool {
				if id := ends(f); id != 0 {
					_ = w.WriteRSTStream(id, code)
				}
				return true
			})
			g, _ := newRig(t, Config{BackendWait: time.Millisecond})
			g.route(map[string]routing.Pool{"app.test": h2cPool(at("ri_a", a.addr))})
			for n, body := range []io.Reader{nil, strings.NewReader("whole"), io.MultiReader(strings.NewReader("streamed"))} {
				if got := g.do("POST", "http://app.test/", body); got.StatusCode != 502 || !strings.Contains(got.body, "no_response") {
					t.Errorf("%d %s", got.StatusCode, got.body)
				}
				if calls := a.calls.Load(); calls != int64(n+1) {
					t.Errorf("%d calls for %d requests", calls, n+1)
				}
			}
		})
	}
}

// Trailers that come while a call is refused go with the next attempt.
func TestTrailersOfARefusedCall(t *testing.T) {
	a := newFramesApp(t, nil, func(w *wire, f http2.Frame) bool {
		if id := begins(f); id != 0 {
			_ = w.WriteRSTStream(id, http2.ErrCodeRefusedStream)
		}
		return true
	})
	g, _ := newRig(t, Config{})
	g.route(map[string]routing.Pool{"app.test": h2cPool(at("ri_a", a.addr), at("ri_b", h2cApp(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = fmt.Fprintf(w, "%q %q %q", r.Trailer["X-One"], r.Trailer["X-Two"], r.Trailer["Upgrade"])
	})))})
	c := g.dial()
	br := bufio.NewReader(c)
	for range 200 {
		_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\nTrailer: X-One, X-Two\r\n\r\n4\r\nbody\r\n")
		_, _ = io.WriteString(c, "0\r\nX-One: 1\r\nX-Two: 2\r\nX-Two: 3\r\n\r\n")
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if want := `["1"] ["2" "3"] []`; err != nil || res.StatusCode != 200 && !strings.Contains(string(body), "refused") || res.StatusCode == 200 && string(body) != want {
			t.Fatalf("%s %s, %v", res.Status, body, err)
		}
	}
	if a.calls.Load() == 0 {
		t.Error("nothing was refused")
	}
}

// Answers that HTTP/2 can carry and nobody can make sense of are the app's
// fault, and nothing of the request is left behind.
func TestOddAnswersOverHTTP2(t *testing.T) {
	for name, c := range map[string]struct {
		method string
		head   []string
		body   string
		status int
		length string // said to the client
	}{
		"status 42":            {"POST", []string{":status", "42"}, "", 502, ""},
		"status 099":           {"POST", []string{":status", "099"}, "", 502, ""},
		"status 0":             {"POST", []string{":status", "0"}, "x", 502, ""},
		"status 1000":          {"POST", []string{":status", "1000"}, "", 502, ""},
		"status -500":          {"POST", []string{":status", "-500"}, "x", 502, ""},
		"status 999":           {"POST", []string{":status", "999"}, "x", 999, ""},
		"length":               {"POST", []string{":status", "200", "content-length", "1"}, "x", 200, "1"},
		"lengths that agree":   {"POST", []string{":status", "200", "content-length", "1", "content-length", "1"}, "x", 200, ""},
		"lengths that differ":  {"POST", []string{":status", "200", "content-length", "1", "content-length", "2"}, "x", 502, ""},
		"a length of words":    {"POST", []string{":status", "200", "content-length", "1x"}, "x", 200, ""},
		"a negative length":    {"POST", []string{":status", "200", "content-length", "-1"}, "x", 200, ""},
		"a length in a list":   {"POST", []string{":status", "200", "content-length", "1, 1"}, "x", 200, ""},
		"HEAD":                 {"HEAD", []string{":status", "200", "content-length", "5"}, "", 200, "5"},
		"HEAD, not a number":   {"HEAD", []string{":status", "200", "content-length", "+5"}, "", 200, ""},
		"HEAD, two lengths":    {"HEAD", []string{":status", "200", "content-length", "5", "content-length", "6"}, "", 502, ""},
		"304":                  {"GET", []string{":status", "304", "content-length", "500"}, "", 304, ""},
		"304 without a length": {"GET", []string{":status", "304"}, "", 304, ""},
		"204":                  {"GET", []string{":status", "204", "content-length", "5"}, "", 204, ""},
	} {
		t.Run(name, func(t *testing.T) {
			a := newFramesApp(t, nil, func(w *wire, f http2.Frame) bool {
				if id := begins(f); id != 0 { // the body may still come
					w.head(id, c.body == "", c.head...)
					if c.body != "" {
						_ = w.WriteData(id, true, []byte(c.body))
					}
				}
				return true
			})
			g, _ := newRig(t, Config{})
			g.route(map[string]routing.Pool{"app.test": h2cPool(at("ri_a", a.addr))})
			conn := g.dial()
			request := c.method + " / HTTP/1.1\r\nHost: app.test\r\n"
			switch {
			case c.method != "POST":
				request += "\r\n"
			case c.status == 502: // begun, and never ended
				request += "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n"
			default:
				request += "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"
			}
			_, _ = io.WriteString(conn, request)
			res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: c.method})
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			if err != nil || res.StatusCode != c.status || res.StatusCode != 502 && string(body) != c.body {
				t.Errorf("%s %q, %v", res.Status, body, err)
			}
			if got := res.Header["Content-Length"]; res.StatusCode != 502 && strings.Join(got, "|") != c.length {
				t.Errorf("length %q", got)
			}
			conn.Close()
		})
	}
	awaitNo(t, "edge.(*intake).run")
}

// awaitNo waits until no goroutine is in the function.
func awaitNo(t *testing.T, function string) {
	t.Helper()
	until := time.Now().Add(30 * time.Second)
	for now := range time.Tick(5 * time.Millisecond) {
		stacks := make([]byte, 4<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		if !bytes.Contains(stacks, []byte(function)) {
			return
		}
		if now.After(until) {
			t.Fatalf("%s goes on:\n%s", function, stacks)
		}
	}
}

// A request that panics leaves no goroutine that waits for its body.
func TestAPanicEndsTheBody(t *testing.T) {
	g, _ := newRig(t, Config{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := &exchange{rt: g.rt, w: w, r: r, started: time.Now()}
		defer x.end()
		x.in = newIntake(x)
		c := &call{x: x, started: x.started, within: time.Hour, timer: time.NewTimer(time.Hour)}
		x.in.call.Store(c)
		body, err := x.in.again()
		if err == nil {
			_, err = body.Read(make([]byte, 1))
		}
		if err != nil {
			t.Error(err)
		}
		panic(http.ErrAbortHandler)
	}))
	defer server.Close()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n")
	if answer, err := io.ReadAll(conn); len(answer) > 0 {
		t.Errorf("%q, %v", answer, err)
	}
	awaitNo(t, "edge.(*intake).run")
}

// The time for an answer counts for each attempt, also where the one before had
// the whole body already.
func TestAnAttemptAfterTheBodyHasItsTime(t *testing.T) {
	a := newFramesApp(t, nil, func(w *wire, f http2.Frame) bool {
		if id := ends(f); id != 0 && w.call == 1 {
			_ = w.WriteRSTStream(id, http2.ErrCodeRefusedStream)
		}
		return true
	})
	g, _ := newRig(t, Config{ResponseTimeout: 100 * time.Millisecond})
	g.route(map[string]routing.Pool{"app.test": h2cPool(at("ri_a", a.addr))})
	got := g.do("POST", "http://app.test/", io.MultiReader(strings.NewReader("streamed")))
	if got.StatusCode != 504 || a.calls.Load() > 2 {
		t.Errorf("%d %s after %d calls", got.StatusCode, got.body, a.calls.Load())
	}
}

// A call that is over is not looked at any more: its timer would hold on to all
// of it.
func TestACallThatIsOverHasNoTimer(t *testing.T) {
	c := &call{started: time.Now(), within: time.Hour, timer: time.NewTimer(time.Hour)}
	c.x = &exchange{rt: &Router{cfg: Config{IdleTimeout: time.Hour}}}
	if c.bodyCame(); !c.timer.Stop() {
		t.Error("a call under way has no timer")
	}
	c.ended.Store(-1)
	c.bodyCame()
	c.look()
	if c.timer.Stop() {
		t.Error("the timer is armed again")
	}
}

// oneConn is a listener for connections that are there already.
type oneConn chan net.Conn

func (l oneConn) Addr() net.Addr { return &net.TCPAddr{} }

func (l oneConn) Accept() (net.Conn, error) {
	if c, ok := <-l; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (l oneConn) Close() error {
	close(l)
	return nil
}

// A client that takes nothing holds up nobody else on its app's connection, also
// where the app sends answers that come before the final one.
func TestAClientThatTakesNoHintsHoldsUpNobody(t *testing.T) {
	hinted := make(chan struct{})
	a := newFramesApp(t, nil, func(w *wire, f http2.Frame) bool {
		switch id := begins(f); {
		case id != 0 && w.call == 1:
			for range maxInformational {
				w.head(id, false, ":status", "103", "link", strings.Repeat("x", 200<<10))
			}
			close(hinted)
		case id != 0:
			w.head(id, true, ":status", "204")
		}
		return true
	})
	g, _ := newRig(t, Config{StallTimeout: time.Hour, ResponseTimeout: time.Hour})
	g.route(map[string]routing.Pool{"app.test": h2cPool(at("ri_a", a.addr))})
	// A connection without any buffer: the kernel's take a few MiB.
	stuck, served := net.Pipe()
	listener := make(oneConn, 1)
	listener <- served
	server := &http.Server{Handler: g.rt, ReadHeaderTimeout: time.Hour}
	defer server.Close()
	go func() { _ = server.Serve(listener) }()
	_, _ = io.WriteString(stuck, "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n")
	<-hinted
	if got := g.get("http://app.test/"); got.StatusCode != 204 || a.dials.Load() != 1 {
		t.Errorf("%d %s, on %d connections", got.StatusCode, got.body, a.dials.Load())
	}
	stuck.Close()
}

// An app that once said nothing is believed when it speaks HTTP/2 after all.
func TestAnAppThatSpeaksAfterAll(t *testing.T) {
	var dials atomic.Int64
	a := newFramesApp(t, nil, func(w *wire, f http2.Frame) bool { return begins(f) == 0 })
	g, _ := newRig(t, Config{BackendWait: time.Millisecond})
	l := rawApp(t, func(c net.Conn, _ *bufio.Reader) {
		if dials.Add(1) <= muteMost {
			return
		}
		app, err := net.Dial("tcp", a.addr)
		if err != nil {
			t.Error(err)
			return
		}
		go func() {
			_, _ = io.Copy(app, c)
			app.Close()
		}()
		_, _ = io.Copy(c, app)
	})
	g.route(map[string]routing.Pool{"app.test": h2cPool(at("ri_a", l))})
	var got answerTo
	for dials.Load() < muteMost {
		got = g.do("POST", "http://app.test/", nil)
	}
	if !strings.Contains(got.body, "not_h2c") {
		t.Errorf("%d %s", got.StatusCode, got.body)
	}
	if got = g.do("POST", "http://app.test/", nil); !strings.Contains(got.body, "no_response") {
		t.Errorf("it has spoken, and fails otherwise now: %d %s", got.StatusCode, got.body)
	}
}

// A VM that vanishes acknowledges nothing any more, and nothing ends its
// connections: calls on those end all the same, long before their time is over.
func TestCallsToAVanishedVMEnd(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{})
	a := newFramesApp(t, nil, func(w *wire, f http2.Frame) bool {
		if ends(f) != 0 && w.call == 1 {
			vanish(t, w.conn)
			close(gone)
		}
		return true
	})
	g, _ := newRig(t, Config{ResponseTimeout: time.Hour})
	g.route(map[string]routing.Pool{"app.test": h2cPool(at("ri_a", a.addr))})
	call := func() {
		res, err := g.http.Post("http://app.test/", "", nil) //nolint:noctx // a test's
		if err != nil {
			t.Error(err)
			return
		}
		defer res.Body.Close()
		if body, _ := io.ReadAll(res.Body); res.StatusCode != 502 || !strings.Contains(string(body), "no_response") {
			t.Errorf("%s %s", res.Status, body)
		}
	}
	var calling sync.WaitGroup
	calling.Go(call)
	<-gone
	calling.Go(call) // this one is not even acknowledged
	calling.Wait()
}

// vanish has the kernel throw away whatever comes to the connection.
func vanish(t testing.TB, c net.Conn) {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err == nil {
		nothing := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}}
		if cerr := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing[0]})
		}); cerr != nil {
			err = cerr
		}
	}
	if err != nil {
		t.Error(err)
	}
}
