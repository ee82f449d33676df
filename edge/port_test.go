package edge

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/routing"
)

// tcpApp hands every connection to serve, and ends it afterwards.
func tcpApp(t testing.TB, serve func(*net.TCPConn)) string {
	t.Helper()
	return rawApp(t, func(c net.Conn, _ *bufio.Reader) { serve(c.(*net.TCPConn)) })
}

// named says who it is, and then gives back what it gets: through memory of its
// own, since this process's pipes are counted as the router's.
func named(name string) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		_, _ = io.WriteString(c, name+"\n")
		_, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
	}
}

func tcpPool(backends ...routing.Backend) routing.Pool {
	p := poolOf(backends...)
	p.Protocol = miosa.ProtocolTCP
	return p
}

// freePort is one that nobody listens on.
func freePort(t testing.TB) int {
	t.Helper()
	_, port, err := net.SplitHostPort(closedPort(t))
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (g *rig) leads(port int, p routing.Pool) {
	g.t.Helper()
	g.publish(routing.Table{Ports: map[int]routing.Pool{port: p}})
}

type talk struct {
	*net.TCPConn
	br   *bufio.Reader
	name string // of who answers
}

// session is a connection to the port, to whoever says its name first.
func (g *rig) session(port int) (talk, error) {
	g.t.Helper()
	c, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return talk{}, err
	}
	g.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	s := talk{TCPConn: c.(*net.TCPConn), br: bufio.NewReader(c)}
	s.name, err = s.br.ReadString('\n')
	s.name = strings.TrimSpace(s.name)
	return s, err
}

func (s talk) echo(text string) error {
	if _, err := io.WriteString(s, text+"\n"); err != nil {
		return err
	}
	got, err := s.br.ReadString('\n')
	if err == nil && got != text+"\n" {
		err = errors.New("came back as " + got)
	}
	return err
}

// Bytes go both ways as they are, and so does the end of each way, however much
// there is and whoever speaks first.
func TestRawBytesBothWays(t *testing.T) {
	g, _ := newRig(t, Config{PortHost: "127.0.0.1"})
	port := freePort(t)
	// It says how much came once its client has said all, and closes only then.
	g.leads(port, tcpPool(at("ri_a", tcpApp(t, func(c *net.TCPConn) {
		n, err := io.Copy(io.Discard, c)
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, strconv.FormatInt(n, 10)+"\n")
		_ = c.CloseWrite()
	}))))
	for _, size := range []int{0, 1, pipePiece, pipePiece + 1, 20 << 20} {
		c, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(c)
		c.Close()
		if err != nil || string(got) != strconv.Itoa(size)+"\n" {
			t.Errorf("%d bytes: %q, %v", size, got, err)
		}
	}
	// The other way round: the app ends first, and listens on.
	said := make(chan string, 1)
	g.leads(port, tcpPool(at("ri_b", tcpApp(t, func(c *net.TCPConn) {
		_, _ = io.WriteString(c, "hello\n")
		_ = c.CloseWrite()
		b, _ := io.ReadAll(c)
		said <- string(b)
	}))))
	s, err := g.session(port)
	if err != nil || s.name != "hello" {
		t.Fatal(s.name, err)
	}
	if _, err := s.br.ReadByte(); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	_, _ = io.WriteString(s, "still here")
	s.CloseWrite()
	if got := <-said; got != "still here" {
		t.Errorf("%q", got)
	}
}

// Connections go round over the instances; one that takes none is passed over.
func TestRawConnectionsAreShared(t *testing.T) {
	g, _ := newRig(t, Config{PortHost: "127.0.0.1"})
	port := freePort(t)
	g.leads(port, tcpPool(at("ri_a", tcpApp(t, named("a"))), at("ri_b", tcpApp(t, named("b"))), at("ri_c", closedPort(t))))
	got := map[string]int{}
	for range 20 {
		s, err := g.session(port)
		if err != nil {
			t.Fatal(err)
		}
		got[s.name]++
	}
	if got["a"] < 5 || got["b"] < 5 {
		t.Errorf("%v", got)
	}
}

// A new version takes new connections at once; the ones to the old go on until
// the drain is over, and control hears how many there are.
func TestRawConnectionsDrain(t *testing.T) {
	g, _ := newRig(t, Config{PortHost: "127.0.0.1"})
	port := freePort(t)
	pool := tcpPool(at("ri_a", tcpApp(t, named("old"))))
	pool.Drain = 2 * time.Second
	g.leads(port, pool)
	old, err := g.session(port)
	if err != nil {
		t.Fatal(err)
	}
	short, err := g.session(port)
	if err != nil {
		t.Fatal(err)
	}
	pool.Backends = []routing.Backend{at("ri_b", tcpApp(t, named("new")))}
	g.leads(port, pool)
	if next, err := g.session(port); err != nil || next.name != "new" {
		t.Fatal(next.name, err)
	}
	if err := old.echo("goes on"); err != nil {
		t.Fatal(err)
	}
	short.Close()
	if err := g.feed.await(t.Context(), func(r routing.Report) bool { return r.InFlight["ri_a"] == 1 }); err != nil {
		t.Fatal(err)
	}
	if _, err := old.br.ReadByte(); err == nil { // until the drain is over
		t.Error("something came")
	}
	if err := g.feed.await(t.Context(), func(r routing.Report) bool { return r.InFlight["ri_a"] == 0 }); err != nil {
		t.Fatal(err)
	}
}

// A port that is gone refuses; one that somebody else has is told of, tried
// again, and holds up nothing.
func TestPortsComeAndGo(t *testing.T) {
	g, _ := newRig(t, Config{PortHost: "127.0.0.1"})
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port, other := taken.Addr().(*net.TCPAddr).Port, freePort(t)
	addr := tcpApp(t, named("a"))
	pools := map[int]routing.Pool{port: tcpPool(at("ri_a", addr)), other: tcpPool(at("ri_a", addr))}
	g.publish(routing.Table{Ports: pools})
	if s, err := g.session(other); err != nil || s.name != "a" {
		t.Fatal(err)
	}
	if !strings.Contains(g.said.String(), "cannot be listened on") {
		t.Errorf("%s", g.said.String())
	}
	failed := `# HELP miosa_router_tcp_port_failed 1 where the router cannot listen on the port of a raw TCP service: somebody else has it.
# TYPE miosa_router_tcp_port_failed gauge
miosa_router_tcp_port_failed{port="` + strconv.Itoa(port) + `"} 1
miosa_router_tcp_port_failed{port="` + strconv.Itoa(other) + `"} 0
`
	if err := testutil.CollectAndCompare(g.rt, strings.NewReader(failed), "miosa_router_tcp_port_failed"); err != nil {
		t.Error(err)
	}
	taken.Close()
	g.rt.ports.retry() // as every few seconds
	s, err := g.session(port)
	if err != nil || s.name != "a" {
		t.Fatal(err)
	}
	g.publish(routing.Table{})
	if _, err := g.session(other); err == nil {
		t.Error("a port that is gone takes connections")
	}
}

// Where no instance takes a connection, and where there are too many, the
// client hears of it.
func TestRawConnectionsAreRefused(t *testing.T) {
	g, _ := newRig(t, Config{PortHost: "127.0.0.1", BackendWait: time.Millisecond, MaxConnsPerPort: 2})
	port := freePort(t)
	g.leads(port, tcpPool())
	if _, err := g.session(port); err == nil {
		t.Error("nobody's name came")
	}
	g.leads(port, tcpPool(at("ri_a", tcpApp(t, named("a")))))
	var open []talk
	for range 2 {
		s, err := g.session(port)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, s)
	}
	if _, err := g.session(port); err == nil {
		t.Error("one too many was served")
	}
	for _, s := range open {
		if err := s.echo("well"); err != nil {
			t.Error(err)
		}
	}
}

// One client cannot have all connections of a port, and all ports together have
// no more than the router can do with.
func TestRawConnectionsAreBounded(t *testing.T) {
	g, _ := newRig(t, Config{PortHost: "127.0.0.1", MaxConnsPerClient: 2, MaxRawConns: 3})
	port, other := freePort(t), freePort(t)
	pool := tcpPool(at("ri_a", tcpApp(t, named("a"))))
	g.publish(routing.Table{Ports: map[int]routing.Pool{port: pool, other: pool}})
	from := func(addr string, port int) (net.Conn, string) {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(addr)}}
		c, err := d.DialContext(t.Context(), "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		name, _ := bufio.NewReader(c).ReadString('\n')
		return c, name
	}
	refused := func(n int, why string) {
		t.Helper()
		g.awaitLines(n)
		if line := logLines(t, g.log)[n-1]; line["error"] != why {
			t.Errorf("line %d: %v, want %s", n, line, why)
		}
	}
	first, name := from("127.0.0.1", port)
	if name != "a\n" {
		t.Fatalf("%q", name)
	}
	if _, name := from("127.0.0.1", port); name != "a\n" {
		t.Fatalf("%q", name)
	}
	if _, name := from("127.0.0.1", port); name != "" {
		t.Error("one too many of a client was served")
	}
	refused(1, tooManyOfClient)
	if _, name := from("127.0.0.2", port); name != "a\n" {
		t.Errorf("another client was not served: %q", name)
	}
	if _, name := from("127.0.0.2", other); name != "" {
		t.Error("one too many of the router was served")
	}
	refused(2, "overloaded")
	first.Close()
	g.awaitLines(3)
	if _, name := from("127.0.0.2", other); name != "a\n" {
		t.Errorf("nobody takes the place that is free: %q", name)
	}
	ended := `# HELP miosa_router_tcp_connections_total Connections to a port of a raw TCP service that ended: served; refused, where no instance took it or there were too many.
# TYPE miosa_router_tcp_connections_total counter
miosa_router_tcp_connections_total{port="` + strconv.Itoa(port) + `",result="refused"} 1
miosa_router_tcp_connections_total{port="` + strconv.Itoa(port) + `",result="served"} 1
miosa_router_tcp_connections_total{port="` + strconv.Itoa(other) + `",result="refused"} 1
miosa_router_tcp_connections_total{port="` + strconv.Itoa(other) + `",result="served"} 0
`
	if err := testutil.CollectAndCompare(g.rt, strings.NewReader(ended), "miosa_router_tcp_connections_total"); err != nil {
		t.Error(err)
	}
}

func TestBoundsOfRawConnections(t *testing.T) {
	for files, want := range map[uint64]int{0: 16, 192: 16, 1024: 85, 524288: 43690, 1<<64 - 1: 1 << 20} {
		if got := rawConnsFor(files); got != want {
			t.Errorf("%d files: %d", files, got)
		}
	}
	for addr, want := range map[string]string{"10.0.0.7": "10.0.0.7/32", "2001:db8::7": "2001:db8::/64"} {
		if got := networkOf(netip.MustParseAddr(addr)).String(); got != want {
			t.Errorf("%s counts as %s", addr, got)
		}
	}
	networkOf(netip.Addr{})
}

// A connection on which nothing goes holds two sockets, and none of the pipes
// that bytes go through.
func TestSilentRawConnectionsHoldNoPipes(t *testing.T) {
	g, _ := newRig(t, Config{PortHost: "127.0.0.1"})
	port := freePort(t)
	g.leads(port, tcpPool(at("ri_a", tcpApp(t, named("a")))))
	before := openPipes(t)
	const sessions = 15
	for range sessions {
		s, err := g.session(port)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.echo("well"); err != nil {
			t.Fatal(err)
		}
	}
	// Those that nobody holds are kept for the next to come, until the garbage
	// collector has been there; a connection that held some would keep four ends,
	// at least until it looks around itself.
	for until := time.Now().Add(pipeLook / 2); ; runtime.Gosched() {
		runtime.GC()
		n := openPipes(t) - before
		if n < sessions {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("%d ends of pipes for %d connections", n, sessions)
		}
	}
}

func openPipes(t *testing.T) (n int) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(to, "pipe:") {
			n++
		}
	}
	return n
}

// Who takes nothing of what is sent is let go.
func TestStalledRawConnectionsEnd(t *testing.T) {
	g, _ := newRig(t, Config{PortHost: "127.0.0.1", StallTimeout: 300 * time.Millisecond})
	port := freePort(t)
	gone := make(chan struct{})
	g.leads(port, tcpPool(at("ri_a", tcpApp(t, func(c *net.TCPConn) {
		_, _ = io.WriteString(c, "a\n")
		for piece := make([]byte, 64<<10); ; {
			if _, err := c.Write(piece); err != nil {
				close(gone)
				return
			}
		}
	}))))
	if _, err := g.session(port); err != nil { // and reads nothing more
		t.Fatal(err)
	}
	<-gone
	g.awaitLines(1)
	if line := logLines(t, g.log)[0]; line["error"] != "stalled" {
		t.Errorf("%v", line)
	}
}

// awaitLines waits until the access log has so many.
func (g *rig) awaitLines(n int) {
	g.t.Helper()
	until := time.Now().Add(30 * time.Second)
	for now := range time.Tick(time.Millisecond) {
		if strings.Count(g.log.String(), "\n") >= n {
			return
		}
		if now.After(until) {
			g.t.Fatalf("%d lines do not come: %s", n, g.log)
		}
	}
}

// Each connection has its line in the access log once it is over, and a line
// says how it ended.
func TestRawConnectionsAreLogged(t *testing.T) {
	g, stop := newRig(t, Config{PortHost: "127.0.0.1", BackendWait: time.Millisecond, MaxConnsPerPort: 2})
	port := freePort(t)
	ended := g.awaitLines
	g.leads(port, tcpPool())
	if _, err := g.session(port); err == nil {
		t.Error("nobody's name came")
	}
	ended(1)
	g.leads(port, tcpPool(at("ri_a", closedPort(t))))
	if _, err := g.session(port); err == nil {
		t.Error("the name of one who does not listen came")
	}
	ended(2)
	pool := tcpPool(at("ri_b", tcpApp(t, named("b"))))
	pool.Drain = 50 * time.Millisecond
	g.leads(port, pool)
	well, err := g.session(port)
	if err != nil {
		t.Fatal(err)
	}
	held, err := g.session(port)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.session(port); err == nil {
		t.Error("one too many was served")
	}
	ended(3)
	if err := well.echo("1234"); err != nil {
		t.Fatal(err)
	}
	well.Close()
	ended(4)
	g.leads(port, tcpPool())
	ended(5)
	held.Close()
	stop()
	lines := logLines(t, g.log)
	for i, want := range []map[string]any{
		{"error": "unavailable", "bytes_in": 0.0, "bytes_out": 0.0, "deployment": "dep_1", "instance": nil},
		{"error": "unreachable", "instance": "ri_a"},
		{"error": "overloaded", "instance": nil},
		{"error": nil, "bytes_in": 5.0, "bytes_out": 7.0, "instance": "ri_b", "tenant": "ten_1", "version": "ver_1", "client": "127.0.0.1", "port": float64(port), "proto": "tcp"},
		{"error": "drained", "bytes_in": 0.0, "bytes_out": 2.0, "instance": "ri_b"},
	} {
		for key, value := range want {
			if lines[i][key] != value {
				t.Errorf("line %d: %s is %v, want %v", i+1, key, lines[i][key], value)
			}
		}
	}
	if len(lines) != 5 {
		t.Error(g.log)
	}
}

func logLines(t *testing.T, log *lockedBuffer) (lines []map[string]any) {
	t.Helper()
	for line := range strings.Lines(log.String()) {
		var got map[string]any
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatal(line, err)
		}
		lines = append(lines, got)
	}
	return lines
}

// A connection on which nothing goes is ended in the end, and one that its app
// breaks is broken to its client.
func TestSilentRawConnectionsEnd(t *testing.T) {
	g, _ := newRig(t, Config{PortHost: "127.0.0.1", IdleTimeout: 500 * time.Millisecond})
	port := freePort(t)
	g.leads(port, tcpPool(at("ri_a", tcpApp(t, named("a")))))
	s, err := g.session(port)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.br.ReadByte(); err == nil {
		t.Error("something came")
	}
	g.leads(port, tcpPool(at("ri_b", tcpApp(t, func(c *net.TCPConn) {
		_, _ = io.WriteString(c, "b\n")
		var b [1]byte
		_, _ = c.Read(b[:])
		_ = c.SetLinger(0)
	}))))
	if s, err = g.session(port); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(s, "x")
	if _, err := s.br.ReadByte(); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a broken connection ends with %v", err)
	}
}

// A router that stops waits for what goes on, not for the silent.
func TestAStopWaitsForRawConnections(t *testing.T) {
	g, stop := newRig(t, Config{PortHost: "127.0.0.1", StopGrace: time.Hour})
	port := freePort(t)
	g.leads(port, tcpPool(at("ri_a", tcpApp(t, named("a")))))
	silent, err := g.session(port)
	if err != nil {
		t.Fatal(err)
	}
	busy, err := g.session(port)
	if err != nil {
		t.Fatal(err)
	}
	stopped, gone := make(chan struct{}), make(chan struct{})
	go func() {
		stop()
		close(stopped)
	}()
	go func() {
		_, _ = silent.br.ReadByte()
		close(gone)
	}()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for over := false; !over; { // the silent one goes first, however long that takes
		select {
		case <-gone:
			over = true
		case <-tick.C:
		}
		if err := busy.echo("goes on"); err != nil {
			t.Fatal(err)
		}
	}
	busy.Close()
	<-stopped // long before the grace is over
}
