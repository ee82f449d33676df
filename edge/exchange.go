package edge

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/routing"
)

// exchange is one request with its answer, from the client's connection to
// the log line.
type exchange struct {
	rt *Router
	w  http.ResponseWriter
	r  *http.Request

	started time.Time
	now     time.Time // of the attempt under way
	id      string
	host    string // in the table's form
	target  string
	upgrade string // protocol asked for
	peer    *peer
	client  netip.Addr
	cookie  string // of stickiness
	body    body

	entry *entry
	pool  *pool
	tried []*backend // could not be dialled, or lost the request
	array [4]*backend

	// What the log line says.
	status    int
	instance  string
	firstByte time.Duration
	bytesIn   atomic.Int64 // the body may have a goroutine of its own
	bytesOut  int64
	retries   int
	upgraded  bool
	failed    string
	aborted   bool // the answer must not look complete
	stalling  bool // the client has to take what is being sent
}

// statusClientGone is logged, and never sent, for a client that did not wait.
const statusClientGone = 499

// outcome is how an attempt at a backend ended.
type outcome int

const (
	answered       outcome = iota // the client has its answer, whole or cut off
	notReached                    // the dial failed: nothing was sent
	lostUnanswered                // sent in part or whole, and no byte came back
	gaveUp                        // the client left, or exchange.page was called
)

// ServeHTTP takes one request through. It is the handler of the router's own
// server, and may be mounted in another.
func (rt *Router) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := &exchange{rt: rt, w: w, r: r, started: time.Now()}
	x.now = x.started
	x.tried = x.array[:0]
	defer x.done()
	x.peer, _ = r.Context().Value(peerKey{}).(*peer)
	if x.peer == nil {
		x.peer = rt.peerOf(r.RemoteAddr)
	}
	x.client = rt.clientOf(x.peer, r.Header)
	x.id = r.Header.Get("X-Request-Id")
	if !saneRequestID(x.id) {
		id, err := miosa.NewID(miosa.PrefixRequest, x.started, rand.Reader)
		if err != nil { // the system's random source does not fail
			panic(err)
		}
		x.id = id
	}
	if f, ok := x.admit(); !ok {
		x.page(f)
		return
	}
	x.forward()
	if x.aborted {
		panic(http.ErrAbortHandler) // the way to have net/http cut the connection
	}
}

// admit checks the request and finds its entry.
func (x *exchange) admit() (failure, bool) {
	r := x.r
	if r.Method == http.MethodConnect {
		return noTunnels, false
	}
	var ok bool
	if x.host, ok = routing.HostName(r.Host); !ok {
		return badHost, false
	}
	if x.target, ok = targetOf(r); !ok || !isToken(r.Method) {
		return badTarget, false
	}
	if x.entry = x.rt.table.find(x.host); x.entry == nil {
		if !x.rt.applied.Load() {
			return notReady, false
		}
		return unknownHost, false
	}
	x.upgrade = upgradeOf(r)
	return failure{}, true
}

// forward brings the request to backends until one has answered.
func (x *exchange) forward() {
	if f, ok := x.openBody(); !ok {
		x.giveUp(f)
		return
	}
	defer x.body.free()
	last := noBackend
	fresh := false // after a loss, old connections are not to be trusted
	waitUntil := x.started.Add(x.rt.cfg.BackendWait)
	for {
		p, b := x.entry.acquire(x)
		if p == nil {
			x.page(unknownHost)
			return
		}
		x.pool = p
		if b == nil {
			if p.Workers() {
				x.giveUp(noHTTP)
				return
			}
			if !x.await(p, waitUntil) {
				x.giveUp(last)
				return
			}
			continue
		}
		x.instance = b.InstanceID
		how, reused := x.attempt(b, fresh)
		switch how {
		case answered, gaveUp:
			return
		case notReached:
			last = unreachable
			x.tried = append(x.tried, b)
		case lostUnanswered:
			// A connection that had served before may have been closed by an
			// idle backend just as the request went out: that says nothing
			// about the backend, and a new connection to it may be tried. Lost
			// on a new connection, one more backend may try: a request that
			// kills what it meets should not get to meet them all.
			if !x.body.replayable(x.r.Method) || x.upgrade != "" || !reused && fresh && last == lost {
				x.giveUp(lost)
				return
			}
			fresh = true
			if !reused {
				last = lost
				x.tried = append(x.tried, b)
			}
		}
		x.retries++
		x.entry.stats.retries.Add(1)
		x.now = time.Now()
	}
}

// await waits a moment for the pool to change, or for a backend that could
// not be dialled to come up. It reports false when waiting has no point any
// more. Nothing of the request is lost while it waits.
func (x *exchange) await(p *pool, until time.Time) bool {
	if p.VersionID == "" && len(p.Backends) == 0 {
		return false // nothing was published yet
	}
	left := time.Until(until)
	if left <= 0 || !x.body.unsent() {
		return false
	}
	if x.entry.waiting.Add(1) > x.rt.cfg.MaxWaiting {
		x.entry.waiting.Add(-1)
		return false
	}
	defer x.entry.waiting.Add(-1)
	pause := left
	if len(p.Backends) > 0 {
		pause = min(left, 100*time.Millisecond)
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-p.replaced:
	case <-timer.C:
		if len(p.Backends) == 0 {
			return false
		}
	case <-x.r.Context().Done():
		return false
	}
	x.tried = x.tried[:0]
	x.now = time.Now()
	return true
}

// attempt brings the request to one backend.
func (x *exchange) attempt(b *backend, fresh bool) (how outcome, reused bool) {
	defer b.release()
	c := x.connect(b, fresh)
	if c == nil {
		if x.status != 0 || x.r.Context().Err() != nil {
			x.gone()
			return gaveUp, false
		}
		return notReached, false
	}
	reused = c.reused
	// The client leaving ends it all.
	stop := context.AfterFunc(x.r.Context(), func() { c.interrupt(endedByClient) })
	keep := false
	defer func() {
		if stop() && keep && c.ended.Load() == 0 {
			b.give(c, time.Now(), x.rt.cfg.MaxIdlePerBackend)
		} else {
			c.close()
		}
	}()
	how, keep = x.converse(c)
	return how, reused
}

// connect takes a resting connection or dials. A request that may not be sent
// twice takes none that has rested for long: the backend might just be
// hanging up.
func (x *exchange) connect(b *backend, fresh bool) *upstream {
	if !fresh {
		var c *upstream
		if x.body.replayable(x.r.Method) && x.upgrade == "" {
			c = b.take(x.now, 0, false)
		} else {
			c = b.take(x.now, time.Second, true)
		}
		if c != nil {
			return c
		}
	}
	c, err := b.dial(x.r.Context(), x.rt.cfg.DialTimeout)
	switch {
	case err == nil:
		b.dialWorked()
		return c
	case x.r.Context().Err() != nil:
	case ownShortage(err):
		x.rt.log.Error("no connection to be had", "instance", b.InstanceID, "err", err)
		x.page(overloaded)
	default:
		b.dialFailed(time.Now())
	}
	return nil
}

// converse sends the request and brings the answer back. It reports how that
// ended, and whether the connection may serve another request.
func (x *exchange) converse(c *upstream) (how outcome, keep bool) {
	c.writeWithin(x.now, x.rt.cfg.StallTimeout)
	c.readWithin(x.now, x.rt.cfg.ResponseTimeout)
	c.out = x.appendHead(c.out[:0])
	if !x.body.streamed {
		if n := len(x.body.whole); n > 0 {
			c.out = append(c.out, x.body.whole...)
			defer func() { // a large scratch is not kept for every connection
				if cap(c.out) > 16<<10 {
					c.out = nil
				}
			}()
		}
		if _, err := c.Write(c.out); err != nil {
			return x.lostOn(c, err), false
		}
		return x.receive(c, nil)
	}
	if x.body.expects {
		return x.converseExpecting(c)
	}
	up, err := x.startUpload(c, c.out)
	if err != nil {
		return x.lostOn(c, err), false
	}
	how, keep = x.receive(c, up)
	whole := up.finish()
	return how, keep && whole
}

// lostOn says how a conversation ended that broke off before any byte of an
// answer.
func (x *exchange) lostOn(c *upstream, err error) outcome {
	switch c.ended.Load() {
	case endedByClient:
		x.gone()
		return gaveUp
	case endedByDrain:
		x.page(drainedTooSoon)
		return gaveUp
	case endedByStop:
		x.page(stoppingSoon)
		return gaveUp
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		x.page(tooSlow)
		return gaveUp
	}
	return lostUnanswered
}

// gone notes that the client left.
func (x *exchange) gone() {
	if x.status == 0 {
		x.status, x.failed = statusClientGone, "client_gone"
	}
}

// giveUp answers with the failure, unless nobody waits for it.
func (x *exchange) giveUp(f failure) {
	if x.r.Context().Err() != nil {
		x.gone()
		return
	}
	x.page(f)
}

func (x *exchange) hasTried(b *backend) bool {
	return slices.Contains(x.tried, b)
}

// done counts and logs the request.
func (x *exchange) done() {
	took := time.Since(x.started)
	if e := x.entry; e != nil {
		class := x.status / 100
		if x.status == statusClientGone || class > 5 {
			class = 0
		}
		e.stats.class[class].Add(1)
		e.stats.in.Add(uint64(x.bytesIn.Load()))
		e.stats.out.Add(uint64(x.bytesOut))
		if !x.upgraded {
			e.stats.observe(took)
		}
	}
	if x.rt.accessLog != nil {
		x.rt.accessLog.add(x, took)
	}
}
