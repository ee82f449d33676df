package edge

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// ports are the router's ports that lead to services which speak raw TCP. The
// loop alone sets, drops and closes.
type ports struct {
	rt *Router

	mu     sync.Mutex // guards what follows
	of     map[int]*port
	pipes  map[*pipe]struct{}
	closed bool

	open atomic.Int64 // connections of clients, on all ports
}

// port is one of them, for as long as the table names it.
type port struct {
	entry
	number   int
	ports    *ports
	open     atomic.Int64 // connections of clients
	failed   atomic.Bool  // it could not be listened on
	listener net.Listener // nil while it is not; guarded by ports.mu

	mu      sync.Mutex // guards clients
	clients map[netip.Prefix]int
}

func newPorts(rt *Router) *ports {
	return &ports{rt: rt, of: map[int]*port{}, pipes: map[*pipe]struct{}{}}
}

// set makes p the pool of the port, and listens there if nobody did.
func (ps *ports) set(number int, p *pool) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if known := ps.of[number]; known != nil {
		close(known.pool.Swap(p).replaced)
		return
	}
	t := &port{number: number, ports: ps, clients: map[netip.Prefix]int{}}
	t.pool.Store(p)
	ps.of[number] = t
	ps.listen(t)
}

// drop closes the port. Connections go on: they drain with their backends.
func (ps *ports) drop(number int) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	t := ps.of[number]
	if t == nil {
		return
	}
	delete(ps.of, number)
	close(t.pool.Swap(nil).replaced)
	t.unlisten()
}

// retry listens on the ports that could not be had before.
func (ps *ports) retry() {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for _, t := range ps.of {
		if t.listener == nil {
			ps.listen(t)
		}
	}
}

// listen holds the lock.
func (ps *ports) listen(t *port) {
	if ps.closed {
		return
	}
	lc := net.ListenConfig{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3}}
	l, err := lc.Listen(context.Background(), "tcp", net.JoinHostPort(ps.rt.cfg.PortHost, strconv.Itoa(t.number)))
	if err != nil {
		if !t.failed.Swap(true) {
			ps.rt.log.Error("a port of a service cannot be listened on: it is tried again every few seconds", "port", t.number, "err", err)
		}
		return
	}
	if t.failed.Swap(false) {
		ps.rt.log.Info("a port of a service is listened on at last", "port", t.number)
	}
	t.listener = l
	go t.accept(l)
}

// unlisten holds the lock of ports.
func (t *port) unlisten() {
	if t.listener != nil {
		_ = t.listener.Close()
		t.listener = nil
	}
}

// close ends the listening on all ports, for good.
func (ps *ports) close() {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.closed = true
	for _, t := range ps.of {
		t.unlisten()
	}
}

// all are the ports, in order.
func (ps *ports) all() []*port {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	out := make([]*port, 0, len(ps.of))
	for _, t := range ps.of {
		out = append(out, t)
	}
	slices.SortFunc(out, func(a, b *port) int { return a.number - b.number })
	return out
}

// await waits for the connections, and ends those on which nothing goes on; when
// ctx is done, all.
func (ps *ports) await(ctx context.Context, l *loop) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		ps.mu.Lock()
		left := len(ps.pipes)
		ps.mu.Unlock()
		if left == 0 {
			return
		}
		l.cutAll(ctx.Err() == nil)
		<-tick.C
	}
}

// accept takes connections until the listener is closed.
func (t *port) accept(l net.Listener) {
	rt := t.ports.rt
	for {
		conn, err := l.Accept()
		switch {
		case err == nil:
		case errors.Is(err, net.ErrClosed):
			return
		default: // of this connection, or for want of something of ours
			if !errors.Is(err, syscall.ECONNABORTED) {
				rt.log.Error("no connection to be taken", "port", t.number, "err", err)
				select {
				case <-time.After(50 * time.Millisecond):
				case <-rt.stopped:
				}
			}
			continue
		}
		s := t.session(conn)
		if client, ok := conn.(*net.TCPConn); ok && t.admit(s) {
			go t.serve(s, client)
			continue
		}
		_ = conn.Close()
		s.done(5)
	}
}

// admit counts a connection in, unless there are too many: of the router, of
// the port or of the client. Where it reports false, failed says so.
func (t *port) admit(s *session) bool {
	cfg := &t.ports.rt.cfg
	s.from = networkOf(s.client)
	all, here := t.ports.open.Add(1), t.open.Add(1)
	if all > int64(cfg.MaxRawConns) || here > int64(cfg.MaxConnsPerPort) {
		s.failed = overloaded.code
	}
	t.mu.Lock()
	t.clients[s.from]++
	if s.failed == "" && t.clients[s.from] > cfg.MaxConnsPerClient && !t.ports.rt.trusts(s.client) {
		s.failed = tooManyOfClient
	}
	t.mu.Unlock()
	if s.failed != "" {
		t.leave(s)
	}
	return s.failed == ""
}

// tooManyOfClient says in the access log that one address had too many
// connections.
const tooManyOfClient = "client_limit"

// leave counts a connection out.
func (t *port) leave(s *session) {
	t.mu.Lock()
	if t.clients[s.from]--; t.clients[s.from] <= 0 {
		delete(t.clients, s.from)
	}
	t.mu.Unlock()
	t.open.Add(-1)
	t.ports.open.Add(-1)
}

// networkOf is what counts as one client: an address, of IPv6 the network that
// a client as a rule has to itself.
func networkOf(addr netip.Addr) netip.Prefix {
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	p, err := addr.Prefix(bits)
	if err != nil {
		return netip.Prefix{} // not known: all such are one
	}
	return p
}

// rawConnsFor is how many raw connections may be open where so many files may.
func rawConnsFor(files uint64) int {
	const each = 6
	return int(min(max(files/2/each, 16), 1<<20))
}

// openFiles is how many files the process may have open.
func openFiles() uint64 {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 1024
	}
	return limit.Cur
}

// session is one client's connection to the port: an exchange without a request.
type session struct {
	exchange
	port    *port
	from    netip.Prefix // what its client counts as
	in, out int64        // bytes from the client, and to it
}

func (t *port) session(client net.Conn) *session {
	rt := t.ports.rt
	s := &session{exchange: exchange{rt: rt, started: time.Now(), entry: &t.entry, pool: t.pool.Load()}, port: t}
	s.now, s.tried = s.started, s.array[:0]
	s.client = rt.peerOf(client.RemoteAddr().String()).addr
	return s
}

// serve connects one client with a backend.
func (t *port) serve(s *session, client *net.TCPConn) {
	b, app := t.connect(s)
	if b == nil {
		t.leave(s) // before its client knows: it may come again
		reset(client)
		s.done(5)
		return
	}
	p := newPipe(s, b, client, app)
	p.run()
	b.release()
	t.leave(s)
	s.failed = p.why()
	s.done(2)
}

// done counts and logs the connection, in the class of status codes that a
// request with that outcome would be in.
func (s *session) done(class int) {
	s.port.stats.class[class].Add(1)
	if s.rt.accessLog != nil {
		s.rt.accessLog.add(s, time.Since(s.started))
	}
}

// connect finds a backend that takes the connection, and counts it in there.
// Where there is none, failed says why.
func (t *port) connect(s *session) (*backend, *net.TCPConn) {
	until := s.started.Add(s.rt.cfg.BackendWait)
	for {
		p, b := t.acquire(&s.exchange)
		if p != nil {
			s.pool = p
		}
		if b == nil {
			pause := time.Until(until)
			if p == nil || pause <= 0 {
				s.failed = noBackend.code
				if s.retries > 0 {
					s.failed = unreachable.code
				}
				return nil, nil
			}
			timer := time.NewTimer(min(pause, 100*time.Millisecond))
			select {
			case <-p.replaced:
			case <-timer.C:
			}
			timer.Stop()
			s.tried, s.now = s.tried[:0], time.Now()
			continue
		}
		s.instance = b.InstanceID
		conn, err := b.connect(context.Background(), s.rt.cfg.DialTimeout)
		if app, ok := conn.(*net.TCPConn); ok && err == nil {
			b.dialWorked()
			return b, app
		}
		b.release()
		if err != nil && ownShortage(err) {
			s.rt.log.Error("no connection to be had", "instance", b.InstanceID, "err", err)
			s.failed = overloaded.code
			return nil, nil
		}
		b.dialFailed(time.Now())
		s.tried = append(s.tried, b)
		s.retries++
		t.stats.retries.Add(1)
		s.now = time.Now()
	}
}

// reset closes a connection so that its end is told that something is wrong.
func reset(conn *net.TCPConn) {
	_ = conn.SetLinger(0)
	_ = conn.Close()
}
