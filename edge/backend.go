package edge

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/miosa/miosa/routing"
)

// backend is one instance at one address, with the connections to it. All
// pools that name it share it.
type backend struct {
	routing.Backend
	token string // stands for it in a cookie

	inFlight atomic.Int64 // requests and upgraded connections; see entry.acquire
	retired  atomic.Bool  // in no pool any more
	idle     chan<- routing.Backend

	failures atomic.Int32 // failed dials in a row
	sideline atomic.Int64 // Unix nanoseconds: not picked before, if there is another

	mu      sync.Mutex             // guards the two below
	resting []*upstream            // a stack: the most recently used is taken first
	conns   map[*upstream]struct{} // all that are open
}

// How long a backend is passed over after a failed dial: it doubles from the
// first to the longest. Short, because the health probes and control have the
// last word; this only saves requests from trying in vain until then.
const (
	sidelineFirst   = 100 * time.Millisecond
	sidelineLongest = 5 * time.Second
)

func newBackend(id routing.Backend, token string, idle chan<- routing.Backend) *backend {
	return &backend{Backend: id, token: token, idle: idle, conns: map[*upstream]struct{}{}}
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
	n := b.failures.Add(1)
	pause := sidelineLongest
	if n < 7 {
		pause = min(sidelineLongest, sidelineFirst<<(n-1))
	}
	b.sideline.Store(now.Add(pause).UnixNano())
}

func (b *backend) dialWorked() {
	if b.failures.Load() != 0 {
		b.failures.Store(0)
		b.sideline.Store(0)
	}
}

// take returns the connection that was given back last, nil when there is
// none. Only one that rested no longer than atMost counts (0: any), and with
// check it is looked at first whether the backend has hung up.
func (b *backend) take(now time.Time, atMost time.Duration, check bool) *upstream {
	for {
		b.mu.Lock()
		n := len(b.resting)
		if n == 0 {
			b.mu.Unlock()
			return nil
		}
		c := b.resting[n-1]
		if atMost > 0 && now.Sub(c.rested) > atMost {
			b.mu.Unlock()
			return nil // those below rest longer still
		}
		b.resting[n-1] = nil
		b.resting = b.resting[:n-1]
		b.mu.Unlock()
		if c.expires.IsZero() || now.Before(c.expires) {
			c.readWithin(now, headTimeoutMin)
			if !check || c.quiet() {
				c.reused = true
				return c
			}
		}
		c.close()
	}
}

// give lets a connection rest for the next request, if it may.
func (b *backend) give(c *upstream, now time.Time, atMost int) {
	c.rested = now
	b.mu.Lock()
	// Checked under the lock that drain takes: a connection given back to a
	// retired backend would never be closed.
	keep := !b.retired.Load() && len(b.resting) < atMost
	if keep {
		b.resting = append(b.resting, c)
	}
	b.mu.Unlock()
	if !keep {
		c.close()
	}
}

// drain closes what rests.
func (b *backend) drain() {
	b.mu.Lock()
	resting := b.resting
	b.resting = nil
	b.mu.Unlock()
	for _, c := range resting {
		c.close()
	}
}

// sweep closes what has rested since before the time given, and what the
// backend has hung up on.
func (b *backend) sweep(now, before time.Time) {
	b.mu.Lock()
	var stale []*upstream
	kept := b.resting[:0]
	for _, c := range b.resting {
		c.readWithin(now, headTimeoutMin)
		if c.rested.Before(before) || !c.expires.IsZero() && now.After(c.expires) || !c.quiet() {
			stale = append(stale, c)
		} else {
			kept = append(kept, c)
		}
	}
	clear(b.resting[len(kept):])
	b.resting = kept
	b.mu.Unlock()
	for _, c := range stale {
		c.close()
	}
}

// cut ends everything in flight but the tunnels, or only the streams of events.
func (b *backend) cut(why int32, eventsOnly bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		if !c.tunnelled.Load() && (!eventsOnly || c.events.Load()) {
			c.interrupt(why)
		}
	}
}

// dial opens a connection.
func (b *backend) dial(ctx context.Context, timeout time.Duration) (*upstream, error) {
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
	c := newUpstream(conn, b)
	b.mu.Lock()
	b.conns[c] = struct{}{}
	b.mu.Unlock()
	return c, nil
}

// ownShortage reports whether a dial failed for want of something of ours: it
// says nothing about the backend.
func ownShortage(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) ||
		errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENOMEM)
}
