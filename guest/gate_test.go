package guest

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	wire "github.com/miosa/miosa/wire/guest"
)

// gateTime bounds each wait of a loaded machine.
const gateTime = time.Minute

// gated is an app behind a gate, both of this process, on loopback.
type gated struct {
	t    *testing.T
	app  *net.TCPListener
	gate *gate
	at   *net.TCPAddr
}

func newGated(t *testing.T) *gated {
	t.Helper()
	local := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}
	app, err := net.ListenTCP("tcp4", local)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { app.Close() })
	free, err := net.ListenTCP("tcp4", local)
	if err != nil {
		t.Fatal(err)
	}
	at := free.Addr().(*net.TCPAddr)
	free.Close()
	g, err := openGate(wire.Boot{
		Port: app.Addr().(*net.TCPAddr).Port, Network: &wire.Network{Address: "127.0.0.1/8"},
		Gate: &wire.Gate{Port: at.Port, Knock: bytes.Repeat([]byte{1}, wire.PasswordBytes), Answer: bytes.Repeat([]byte{2}, wire.PasswordBytes)},
	})
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(g.run)
	t.Cleanup(func() {
		g.listener.Close()
		running.Wait()
	})
	return &gated{t, app, g, at}
}

func (g *gated) dial() *net.TCPConn {
	g.t.Helper()
	conn, err := net.DialTCP("tcp4", nil, g.at)
	if err == nil {
		err = conn.SetDeadline(time.Now().Add(gateTime))
	}
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { conn.Close() })
	return conn
}

// pair is a connection let in, from both its ends.
func (g *gated) pair() (client, app *net.TCPConn) {
	g.t.Helper()
	client = g.dial()
	if err := g.gate.Enter(client); err != nil {
		g.t.Fatal(err)
	}
	return client, g.accept()
}

func (g *gated) accept() *net.TCPConn {
	g.t.Helper()
	if err := g.app.SetDeadline(time.Now().Add(gateTime)); err != nil {
		g.t.Fatal(err)
	}
	app, err := g.app.AcceptTCP()
	if err == nil {
		err = app.SetDeadline(time.Now().Add(gateTime))
	}
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { app.Close() })
	return app
}

func said(t *testing.T, conn net.Conn, want string) {
	t.Helper()
	got, err := io.ReadAll(conn)
	if err != nil || string(got) != want {
		t.Errorf("read %d bytes that begin %.40q, and %v; want %d", len(got), got, err, len(want))
	}
}

// What is not the password, short or long, leads nowhere and gets no word; the
// app hears of none of it.
func TestAGateKeepsStrangersOut(t *testing.T) {
	g := newGated(t)
	almost := bytes.Clone(g.gate.Knock)
	almost[len(almost)-1]++
	for name, knock := range map[string][]byte{
		"a request":         []byte("GET / HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\n\r\n"),
		"almost":            almost,
		"a part":            g.gate.Knock[:len(g.gate.Knock)-1],
		"nothing":           nil,
		"the answer":        g.gate.Answer,
		"almost, then it":   append(bytes.Clone(almost), g.gate.Knock...),
		"zeros, many times": make([]byte, 1<<16),
	} {
		conn := g.dial()
		_, _ = conn.Write(knock) // it may be closed already
		_ = conn.CloseWrite()
		if got, _ := io.ReadAll(conn); len(got) > 0 {
			t.Errorf("%s: was told %q", name, got)
		}
	}
	// The first that the app hears is who knows the password.
	client, app := g.pair()
	if _, err := client.Write([]byte("it is me")); err != nil {
		t.Fatal(err)
	}
	client.CloseWrite()
	said(t, app, "it is me")
}

// The end of one direction is not the end of the other, and nothing is lost.
func TestAGatePassesHalfCloses(t *testing.T) {
	g := newGated(t)
	much := strings.Repeat("0123456789abcdef", 1<<18) // 4 MB: more than lies in any buffer
	for _, first := range []string{"client", "app"} {
		one, other := g.pair()
		if first == "app" {
			one, other = other, one
		}
		written := make(chan error, 1)
		go func() {
			_, err := io.WriteString(one, much)
			written <- errors.Join(err, one.CloseWrite())
		}()
		said(t, other, much)
		if err := <-written; err != nil {
			t.Error(err)
		}
		if _, err := io.WriteString(other, "and the answer"); err != nil {
			t.Errorf("after the %s's end: %v", first, err)
		}
		other.CloseWrite()
		said(t, one, "and the answer")
	}
}

// A reset is no end: half an answer must not be taken for a whole one.
func TestAGatePassesResets(t *testing.T) {
	g := newGated(t)
	client, app := g.pair()
	if _, err := io.WriteString(app, "half"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(client, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(app.SetLinger(0), app.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after the app's reset: %v", err)
	}
	client, app = g.pair()
	if err := errors.Join(client.SetLinger(0), client.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := app.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after the client's reset: %v", err)
	}
}

// Where the app listens no more nobody is told that it took the connection.
func TestAGateBeforeNobody(t *testing.T) {
	g := newGated(t)
	g.app.Close()
	if err := g.gate.Enter(g.dial()); err == nil {
		t.Error("welcomed, though no app listens")
	}
}

// However many come and say nothing, who knocks gets in, and only so many are
// awaited.
func TestAGateIsNotFilledUp(t *testing.T) {
	g := newGated(t)
	silent := make([]*net.TCPConn, 4*maxUnknown)
	for i := range silent {
		silent[i] = g.dial()
	}
	client, app := g.pair()
	if _, err := io.WriteString(app, "welcome"); err != nil {
		t.Fatal(err)
	}
	app.Close()
	said(t, client, "welcome")
	// Each but the last ones was shown out.
	for _, conn := range silent[:len(silent)-maxUnknown] {
		if n, err := conn.Read(make([]byte, 1)); n > 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("read %d bytes, %v", n, err)
		}
	}
	g.gate.mu.Lock()
	defer g.gate.mu.Unlock()
	if n := len(g.gate.unknown); n > maxUnknown {
		t.Errorf("%d are awaited", n)
	}
}

// Who took the port in the machine's place is found out before anything is
// said to him.
func TestWhoListensInTheGatesPlaceIsFoundOut(t *testing.T) {
	g := newGated(t)
	here, there := net.Pipe()
	defer here.Close()
	go func() {
		defer there.Close()
		knock := make([]byte, wire.PasswordBytes)
		if _, err := io.ReadFull(there, knock); err == nil {
			_, _ = there.Write(knock)
		}
	}()
	if err := g.gate.Enter(here); !errors.Is(err, wire.ErrWrongAnswer) {
		t.Errorf("entered: %v", err)
	}
}

func TestAGateNeedsPasswordsAndAnAddress(t *testing.T) {
	boot := wire.Boot{Port: 80, Network: &wire.Network{Address: "fd00::2/64"}, Gate: &wire.Gate{Port: 61009}}
	if _, err := openGate(boot); err == nil {
		t.Error("opened at an IPv6 address")
	}
	if err := boot.Gate.Admit(bytes.NewReader(nil)); err == nil {
		t.Error("without a password everybody is let in")
	}
	if boot.Gate.String() != "gate at port 61009" {
		t.Errorf("it is %v", boot.Gate)
	}
}
