package edge

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa/routing"
)

// scripted is a connection whose other side sends what it was given, a few
// bytes at a time, and hangs up.
type scripted struct {
	net.Conn
	left []byte
	step int
}

func (c *scripted) Read(p []byte) (int, error) {
	if len(c.left) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), c.step)], c.left)
	c.left = c.left[n:]
	return n, nil
}

func (c *scripted) Write(p []byte) (int, error)      { return len(p), nil }
func (c *scripted) Close() error                     { return nil }
func (c *scripted) SetDeadline(time.Time) error      { return nil }
func (c *scripted) SetReadDeadline(time.Time) error  { return nil }
func (c *scripted) SetWriteDeadline(time.Time) error { return nil }

// taken is what a client gets.
type taken struct {
	header   http.Header
	statuses []int
	body     bytes.Buffer
}

func (w *taken) Header() http.Header         { return w.header }
func (w *taken) WriteHeader(status int)      { w.statuses = append(w.statuses, status) }
func (w *taken) Write(p []byte) (int, error) { return w.body.Write(p) }
func (w *taken) Flush()                      {}

// final are the statuses that end an exchange.
func (w *taken) final() (out []int) {
	for _, s := range w.statuses {
		if s >= 200 {
			out = append(out, s)
		}
	}
	return out
}

// FuzzAnswer reads whatever an app may send in answer to a request, all the way
// to the client, beside net/http's reading of the same.
func FuzzAnswer(f *testing.F) {
	for _, w := range wrongAnswers {
		f.Add(strings.ReplaceAll(w.answer, "%[1]s", "0123456789")+w.surplus, w.method, 7)
	}
	f.Add("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3;x=y\r\nabc\r\n0\r\nX-Sum: 1\r\nHost: x\r\n\r\n", "GET", 1)
	f.Add("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "GET", 100)
	f.Add("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "GET", 100)
	f.Add("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", "GET", 100)
	f.Add("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n", "GET", 3)
	f.Add("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "POST", 5)
	f.Add("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", "GET", 100)
	f.Add("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5, max=1\r\nContent-Length: 1\r\n\r\nab", "GET", 100)

	rt, err := New(Config{RouterID: "router-1", Addr: "127.0.0.1:0", StickyKey: testKey}, newTestFeed(), slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, sent, method string, step int) {
		if method != "HEAD" && method != "POST" {
			method = "GET"
		}
		req, err := http.NewRequestWithContext(context.Background(), method, "http://app.test/", nil)
		if err != nil {
			t.Fatal(err)
		}
		conn := &scripted{left: []byte(sent), step: 1 + (step%4096+4096)%4096}
		b := newBackend(routing.Backend{InstanceID: "ri_a"}, "token", make(chan routing.Backend, 1), new(busy))
		c := newUpstream(conn, b)
		w := &taken{header: http.Header{}}
		x := &exchange{rt: rt, w: w, r: req, id: "req_1", started: time.Now(), peer: &peer{}, pool: &pool{}, entry: &entry{}}
		x.now = x.started
		how, keep := x.receive(c)

		final := w.final()
		switch {
		case how == answered || how == gaveUp:
			if len(final) != 1 || final[0] != x.status || !x.begun {
				t.Fatalf("%d: statuses %v, logged %d", how, w.statuses, x.status)
			}
		case len(final) > 0 || keep:
			t.Fatalf("%d: statuses %v, kept %t", how, w.statuses, keep)
		}
		for name, values := range w.header {
			for _, v := range values {
				if !isToken(strings.TrimPrefix(name, http.TrailerPrefix)) || strings.ContainsAny(v, "\r\n\x00") {
					t.Fatalf("%q: %q", name, v)
				}
			}
		}
		if how == gaveUp && (keep || final[0] < 500) {
			t.Fatalf("status %d, kept %t", final[0], keep)
		}
		if how != answered {
			return
		}
		used := len(sent) - len(conn.left) - c.br.Buffered()

		all := strings.NewReader(sent)
		br := bufio.NewReader(all)
		std, err := http.ReadResponse(br, req)
		for err == nil && std.StatusCode < 200 {
			std, err = http.ReadResponse(br, req)
		}
		if err != nil {
			return // it is stricter about heads
		}
		body, err := io.ReadAll(std.Body)
		if std.StatusCode != x.status {
			t.Fatalf("status %d, net/http reads %d", x.status, std.StatusCode)
		}
		if whole := err == nil; !x.aborted && (whole && !bytes.Equal(body, w.body.Bytes()) || !whole && keep) {
			t.Fatalf("%q, kept %t; net/http reads %q, %v", w.body.Bytes(), keep, body, err)
		}
		if left := all.Len() + br.Buffered(); keep && used != len(sent)-left {
			t.Fatalf("kept after %d bytes, net/http reads %d", used, len(sent)-left)
		}
	})
}
