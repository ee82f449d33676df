package edge

import (
	"context"
	"errors"
	"net"
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
}

// port is one of them, for as long as the table names it.
type port struct {
	entry
	number   int
	ports    *ports
	open     atomic.Int64 // connections of clients
	failed   atomic.Bool  // it could not be listened on
	listener net.Listener // nil while it is not; guarded by ports.mu
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
	t := &port{number: number, ports: ps}
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
		client, ok := conn.(*net.TCPConn)
		if !ok || t.open.Add(1) > int64(rt.cfg.MaxConnsPerPort) {
			t.open.Add(-1)
			t.stats.class[5].Add(1)
			_ = conn.Close()
			continue
		}
		go t.serve(client)
	}
}

// serve connects one client with a backend.
func (t *port) serve(client *net.TCPConn) {
	defer t.open.Add(-1)
	rt := t.ports.rt
	x := &exchange{rt: rt, started: time.Now(), entry: &t.entry}
	x.now, x.tried = x.started, x.array[:0]
	x.client = rt.peerOf(client.RemoteAddr().String()).addr
	b, app := t.connect(x)
	if b == nil {
		t.stats.class[5].Add(1)
		reset(client)
		return
	}
	defer b.release()
	p := newPipe(t, b, client, app)
	p.run()
	t.stats.class[2].Add(1)
}

// connect finds a backend that takes the connection, and counts it in there.
func (t *port) connect(x *exchange) (*backend, *net.TCPConn) {
	until := x.started.Add(x.rt.cfg.BackendWait)
	for {
		p, b := t.acquire(x)
		if p == nil {
			return nil, nil
		}
		if b == nil {
			pause := time.Until(until)
			if pause <= 0 {
				return nil, nil
			}
			timer := time.NewTimer(min(pause, 100*time.Millisecond))
			select {
			case <-p.replaced:
			case <-timer.C:
			}
			timer.Stop()
			x.tried, x.now = x.tried[:0], time.Now()
			continue
		}
		conn, err := b.connect(context.Background(), x.rt.cfg.DialTimeout)
		if app, ok := conn.(*net.TCPConn); ok && err == nil {
			b.dialWorked()
			return b, app
		}
		b.release()
		if err != nil && ownShortage(err) {
			x.rt.log.Error("no connection to be had", "instance", b.InstanceID, "err", err)
			return nil, nil
		}
		b.dialFailed(time.Now())
		x.tried = append(x.tried, b)
		t.stats.retries.Add(1)
		x.now = time.Now()
	}
}

// reset closes a connection so that its end is told that something is wrong.
func reset(conn *net.TCPConn) {
	_ = conn.SetLinger(0)
	_ = conn.Close()
}
