package edge

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/miosa/miosa/routing"
)

// greetings are a way to greet, and how often it was gone.
type greetings struct {
	said  atomic.Int64
	wrong atomic.Pointer[netip.AddrPort] // whoever listens there is not who it should be
}

var errStranger = errors.New("a stranger")

func (g *greetings) greet(_ context.Context, conn net.Conn, to netip.AddrPort) error {
	g.said.Add(1)
	if wrong := g.wrong.Load(); wrong != nil && *wrong == to {
		return errStranger
	}
	if _, err := conn.Write([]byte("let me in\n")); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, 5))
	return err
}

// gatekeeper answers requests on connections that were greeted.
func gatekeeper(c net.Conn, br *bufio.Reader) {
	if line, err := br.ReadString('\n'); err != nil || line != "let me in\n" {
		return
	}
	if _, err := io.WriteString(c, "enter"); err != nil {
		return
	}
	for {
		if _, err := readHead(br); err != nil {
			return
		}
		if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
			return
		}
	}
}

// A connection is greeted once, before its first request; requests after that
// are as ever.
func TestABackendIsGreetedOnceAConnection(t *testing.T) {
	var said greetings
	g := oneRaw(t, Config{Greet: said.greet}, gatekeeper)
	for range 5 {
		if status, body := g.fetch(); status != http.StatusOK || body != "ok" {
			t.Fatalf("%d %q", status, body)
		}
	}
	// Each greeting is of a new connection; a connection serves many requests.
	if n := said.said.Load(); n < 1 || n > 5 {
		t.Errorf("greeted %d times", n)
	}
}

// Whoever does not answer the greeting gets no request: another backend does.
func TestWhoDoesNotAnswerAGreetingGetsNoRequest(t *testing.T) {
	var heard atomic.Int64
	stranger := rawApp(t, func(_ net.Conn, br *bufio.Reader) {
		if _, err := br.ReadByte(); err == nil {
			heard.Add(1)
		}
	})
	var said greetings
	at1 := netip.MustParseAddrPort(stranger)
	said.wrong.Store(&at1)
	g, _ := newRig(t, Config{Greet: said.greet})
	g.route(map[string]routing.Pool{"app.test": poolOf(at("ri_a", stranger), at("ri_b", rawApp(t, gatekeeper)))})
	for range 10 {
		if status, body := g.fetch(); status != http.StatusOK || body != "ok" {
			t.Fatalf("%d %q", status, body)
		}
	}
	g.route(map[string]routing.Pool{"app.test": poolOf(at("ri_a", stranger))})
	if status, _ := g.fetch(); status != http.StatusBadGateway {
		t.Errorf("with strangers alone: %d", status)
	}
	if n := heard.Load(); n > 0 {
		t.Errorf("the stranger heard %d times of a request", n)
	}
}

func (g *rig) fetch() (int, string) {
	g.t.Helper()
	resp, err := g.http.Get("http://app.test/")
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}
