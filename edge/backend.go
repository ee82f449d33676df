package edge

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/miosa/miosa/balance"
	"github.com/miosa/miosa/routing"
)

// backend is one instance at one address, with the connections to it. All
// pools that name it share it.
type backend struct {
	routing.Backend
	token string // stands for it in a cookie

	inFlight atomic.Int64 // requests and upgraded connections; see entry.acquire
	listed   atomic.Bool  // on the list busy
	retired  atomic.Bool  // in no pool any more
	idle     chan<- routing.Backend
	busy     *busy

	failures atomic.Int32 // failed dials in a row
	sideline atomic.Int64 // Unix nanoseconds: not picked before, if there is another

	complain func(routing.Backend, string)                         // says in the app's log what is wrong with it; may be nil
	greet    func(context.Context, net.Conn, netip.AddrPort) error // Config.Greet

	freed chan struct{} // holds something when a call over HTTP/2 that waits may find a place

	mu      sync.Mutex             // guards what follows
	reuse   reuse                  // decides about what rests
	cooling queue                  // served a moment ago
	resting []*upstream            // a stack: the most recently used is taken first
	conns   map[*upstream]struct{} // all that are open
	calls   map[*call]struct{}     // under way over HTTP/2
	pipes   map[*pipe]struct{}     // raw TCP
	h2      []*h2c                 // open over HTTP/2
	opening *opening               // one more of those; nil: none is being opened
	mute    int                    // connections in a row on which it said nothing before it closed them
	noH2C   bool                   // it is taken to speak something else than HTTP/2
	said    map[string]bool        // what complain was told of by sayOnce
}

func newBackend(id routing.Backend, token string, idle chan<- routing.Backend, busy *busy) *backend {
	return &backend{Backend: id, token: token, idle: idle, busy: busy, conns: map[*upstream]struct{}{}, calls: map[*call]struct{}{}, pipes: map[*pipe]struct{}{}, said: map[string]bool{}, freed: make(chan struct{}, 1)}
}

// enter counts one request or connection in, where counts see it.
func (b *backend) enter() {
	b.inFlight.Add(1)
	if !b.listed.Load() {
		b.busy.list(b)
	}
}

// release counts one request or upgraded connection out.
func (b *backend) release() {
	if b.inFlight.Add(-1) == 0 && b.retired.Load() {
		select {
		case b.idle <- b.Backend:
		default: // the loop is busy and counts again within a second
		}
	}
}

func (b *backend) sidelined(now time.Time) bool {
	until := b.sideline.Load()
	return until != 0 && now.UnixNano() < until
}

func (b *backend) dialFailed(now time.Time) {
	pause := balance.Sideline(int(b.failures.Add(1)))
	b.sideline.Store(now.Add(pause).UnixNano())
}

func (b *backend) dialWorked() {
	if b.failures.Load() != 0 {
		b.failures.Store(0)
		b.sideline.Store(0)
	}
}

// keeps reports whether the backend's connections serve more than one request.
func (b *backend) keeps(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.reuse.keeps(now)
}

// take returns the connection that has rested for least, but long enough; nil
// when there is none. For a request that may not be sent twice it is one that
// the backend is not about to close. The caller looks at it before it writes.
func (b *backend) take(now time.Time, twice bool) *upstream {
	b.mu.Lock()
	defer b.mu.Unlock()
	rest := b.reuse.rest()
	for b.cooling.len() > 0 && now.Sub(b.cooling.first().rested) >= rest {
		b.resting = append(b.resting, b.cooling.pop())
	}
	// A connection in excess rests no longer.
	if len(b.resting) == 0 && int64(b.cooling.len()) > restFree+b.inFlight.Load() {
		b.resting = append(b.resting, b.cooling.pop())
	}
	for i := len(b.resting) - 1; i >= 0; i-- {
		c := b.resting[i]
		if !twice && !b.reuse.safe(now.Sub(c.rested)) {
			continue
		}
		b.resting = slices.Delete(b.resting, i, i+1)
		if c.expires.IsZero() || now.Before(c.expires) {
			return c
		}
		c.discard()
	}
	return nil
}

// give lets a connection rest for the next request, if it may. What an app
// sent too much and can be seen by now ends that.
func (b *backend) give(c *upstream, now time.Time, atMost int) {
	c.rested = now
	c.served++
	if c.br.Buffered() > 0 {
		b.reject(c, surplus, now)
		return
	}
	b.mu.Lock()
	// Checked under the lock that drain takes: a connection given back to a
	// retired backend would never be closed.
	keep := !b.retired.Load() && b.reuse.keeps(now) && len(b.resting)+b.cooling.len() < atMost
	if keep {
		b.cooling.push(c)
	}
	b.mu.Unlock()
	if !keep {
		c.close()
	}
}

// reject closes a connection on which something else was found than quiet,
// and draws the conclusion about the backend.
func (b *backend) reject(c *upstream, found condition, now time.Time) {
	c.close()
	if found == surplus {
		b.distrust(sentTooMuch)
		return
	}
	b.mu.Lock()
	b.reuse.hungUp(now, c.served, now.Sub(c.rested))
	b.mu.Unlock()
}

// sentTooMuch is said in the app's own log.
const sentTooMuch = "the app sent more than the one answer that a request has, or a body where there is none: from now on each of its connections serves one request, so that no client gets another's answer"

// distrust ends the reuse of the backend's connections, and has it said once.
func (b *backend) distrust(why string) {
	b.mu.Lock()
	news := b.reuse.distrust(why)
	b.mu.Unlock()
	if !news {
		return
	}
	b.drain()
	if b.complain != nil {
		b.complain(b.Backend, why)
	}
}

// sayOnce has it said in the app's own log what is wrong with it, once.
func (b *backend) sayOnce(why string) {
	b.mu.Lock()
	news := !b.said[why]
	b.said[why] = true
	b.mu.Unlock()
	if news && b.complain != nil {
		b.complain(b.Backend, why)
	}
}

// answered notes how long the backend took to begin an answer.
func (b *backend) answered(c *upstream, took time.Duration) {
	b.mu.Lock()
	b.reuse.answered(took, c.served > 0)
	b.mu.Unlock()
}

// drain closes what rests. Where a call is under way over HTTP/2, its end
// closes a retired backend's connection.
func (b *backend) drain() {
	b.mu.Lock()
	resting := append(b.resting, b.cooling.all()...)
	b.resting, b.cooling = nil, queue{}
	var idle []*h2c
	b.h2 = slices.DeleteFunc(b.h2, func(c *h2c) bool {
		if c.calls > 0 {
			return false
		}
		idle = append(idle, c)
		return true
	})
	b.mu.Unlock()
	for _, c := range idle {
		_ = c.cc.Close()
	}
	for _, c := range resting {
		c.close()
	}
}

// sweep closes what has rested since before the time given, and what is not
// fit to carry a request any more.
func (b *backend) sweep(now, before time.Time) {
	type found struct {
		c *upstream
		condition
	}
	b.mu.Lock()
	var stale []found
	fit := func(c *upstream) bool {
		how := c.look()
		if how == quiet && !c.rested.Before(before) && (c.expires.IsZero() || now.Before(c.expires)) {
			return true
		}
		stale = append(stale, found{c, how})
		return false
	}
	b.resting = keepIf(b.resting, fit)
	b.cooling = queue{conns: keepIf(b.cooling.all(), fit)}
	spent := b.spent()
	b.mu.Unlock()
	for _, c := range spent {
		_ = c.cc.Close()
	}
	for _, s := range stale {
		if s.condition == quiet {
			s.c.close()
		} else {
			b.reject(s.c, s.condition, now)
		}
	}
}

// keepIf keeps, in place, what is fit, and the order.
func keepIf(conns []*upstream, fit func(*upstream) bool) []*upstream {
	return slices.DeleteFunc(conns, func(c *upstream) bool { return !fit(c) })
}

// queue is a first-in, first-out line of connections.
type queue struct {
	conns []*upstream
	head  int
}

func (q *queue) len() int         { return len(q.conns) - q.head }
func (q *queue) first() *upstream { return q.conns[q.head] }
func (q *queue) all() []*upstream { return q.conns[q.head:] }
func (q *queue) push(c *upstream) {
	if q.head > 32 && q.head > len(q.conns)/2 { // the front is given back now and then
		n := copy(q.conns, q.conns[q.head:])
		clear(q.conns[n:])
		q.conns, q.head = q.conns[:n], 0
	}
	q.conns = append(q.conns, c)
}

func (q *queue) pop() *upstream {
	c := q.conns[q.head]
	q.conns[q.head] = nil
	if q.head++; q.head == len(q.conns) {
		q.conns, q.head = q.conns[:0], 0
	}
	return c
}

// cut ends everything in flight but the tunnels, or only what would not end by
// itself: streams of events, and raw connections on which nothing goes on.
func (b *backend) cut(why int32, eventsOnly bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		if !c.tunnelled.Load() && (!eventsOnly || c.events.Load()) {
			c.interrupt(why)
		}
	}
	for c := range b.calls {
		if !eventsOnly || c.events.Load() {
			c.interrupt(why)
		}
	}
	for p := range b.pipes {
		if !eventsOnly || p.silent() {
			p.interrupt(why)
		}
	}
}

// dial opens a connection for HTTP/1.1, and has it let in.
func (b *backend) dial(ctx context.Context, timeout time.Duration) (*upstream, error) {
	conn, err := b.connect(ctx, timeout)
	if err != nil {
		return nil, err
	}
	c := newUpstream(conn, b)
	b.mu.Lock()
	b.conns[c] = struct{}{}
	b.mu.Unlock()
	return c, nil
}

// connect opens a connection, and has it let in.
func (b *backend) connect(ctx context.Context, timeout time.Duration) (net.Conn, error) {
	d := net.Dialer{
		Timeout: timeout,
		// A VM that is killed sends no reset: the kernel finds out within
		// 5 + 3 × 1 s, also while a request waits there for its answer.
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: time.Second, Count: 3},
	}
	conn, err := d.DialContext(ctx, "tcp", b.Address.String())
	if err != nil {
		return nil, err
	}
	if b.greet != nil {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		err := b.greet(ctx, conn, b.Address)
		if cancel(); err != nil {
			conn.Close()
			return nil, err
		}
	}
	return conn, nil
}

// ownShortage reports whether a dial failed for want of something of ours: it
// says nothing about the backend.
func ownShortage(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) ||
		errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENOMEM)
}
