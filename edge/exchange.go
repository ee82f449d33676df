package edge

import (
	"cmp"
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
	up      *upload // of a body that streams, once it has begun
	in      *intake // the same where the backend speaks HTTP/2

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
	begun     bool // the client has a status: see begin
	served    bool // all was done that could be
	aborted   bool // the answer must not look complete
	stalling  bool // the client has to take what is being sent
	once      bool // the backend's connection serves this request alone
}

// statusClientGone is logged, and never sent, for a client that did not wait.
const statusClientGone = 499

// outcome is how an attempt at a backend ended.
type outcome int

const (
	answered       outcome = iota // the client has its answer, whole or cut off
	notReached                    // the dial failed: nothing was sent
	lostUnanswered                // sent in part or whole, and no byte came back
	refused                       // the backend did not look at it
	gaveUp                        // the client left, or exchange.page was called
)

// ServeHTTP takes one request through. It is the handler of the router's own
// server, and may be mounted in another.
func (rt *Router) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := &exchange{rt: rt, w: w, r: r, started: time.Now()}
	defer x.end()
	x.now = x.started
	x.tried = x.array[:0]
	defer x.done()
	x.serve()
	x.served = true
}

// serve finds out who asks for what, and sees that there is an answer.
func (x *exchange) serve() {
	rt, r := x.rt, x.r
	x.peer = rt.peerFor(r)
	x.client = rt.clientOf(x.peer, r.Header)
	x.id = r.Header.Get("X-Request-Id")
	if !saneRequestID(x.id) {
		id, err := miosa.NewID(miosa.PrefixRequest, x.started, rand.Reader)
		if err != nil { // the system's random source does not fail
			panic(err)
		}
		x.id = id
	}
	if f, ok := x.admit(); ok {
		x.forward()
	} else {
		x.page(f)
	}
}

// begin sends the status and the header, which make the answer: the one place
// from which a client gets a status. A body that is not all here by now has
// its client write on, and perhaps for ever: its connection ends with the
// answer.
func (x *exchange) begin(status int) {
	if x.r.ProtoMajor == 1 && !x.bodyRead() {
		x.w.Header()["Connection"] = []string{"close"}
		// Else net/http reads on before it sends the header, for as long as
		// that takes.
		_ = http.NewResponseController(x.w).EnableFullDuplex()
	}
	x.begun, x.status = true, status
	x.w.WriteHeader(status)
}

// end leaves the client's connection as its next request may find it, or cuts
// it: without a status of its own no request ends, since net/http would call
// that a success.
func (x *exchange) end() {
	if !x.served { // a panic is on its way to net/http, which cuts the connection
		x.stopUpload()
		return
	}
	if x.aborted || !x.begun && !x.upgraded {
		x.stopUpload()
		panic(http.ErrAbortHandler) // the way to have net/http cut the connection
	}
	if !x.upgraded {
		x.drainBody()
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
	refusals := 0
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
		case refused:
			// As a rule the backend's server is about to leave that connection,
			// and the next one is good.
			if refusals++; refusals == refusedMost {
				x.giveUp(turnedAway)
				return
			}
			last = turnedAway
			if refusals > refusedAtOnce {
				x.tried = append(x.tried, b)
			}
		case lostUnanswered:
			// A connection that had served before may have been closed by an
			// idle backend just as the request went out: that says nothing
			// about the backend, and a new connection to it may be tried. Lost
			// on a new connection, one more backend may try: a request that
			// kills what it meets should not get to meet them all.
			if !x.body.replayable(x.r.Method) || x.upgrade != "" && x.pool.Protocol != miosa.ProtocolH2C || !reused && fresh && last == lost {
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

// A request that backends refuse is made refusedMost times in all, a few of
// those at once and at the same backend.
const (
	refusedMost   = 6
	refusedAtOnce = 2
)

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
	switch {
	case x.pool.Protocol == miosa.ProtocolH2C:
		return x.call(b), false
	case x.in != nil && x.in.began():
		// The body was begun for a backend of another version, which spoke HTTP/2.
		x.page(lost)
		return gaveUp, false
	}
	c := x.connect(b, fresh)
	if c == nil {
		if x.status != 0 || x.r.Context().Err() != nil {
			x.gone()
			return gaveUp, false
		}
		return notReached, false
	}
	reused = c.served > 0
	c.watchFor(x.r.Context()) // the client leaving ends it all
	keep := false
	defer func() {
		if c.unwatch() && keep && c.ended.Load() == 0 {
			b.give(c, time.Now(), x.rt.cfg.MaxIdlePerBackend)
		} else {
			c.close()
		}
	}()
	how, keep = x.converse(c)
	return how, reused
}

// connect takes a connection that rests, or dials, and begins to write the
// request on it, with its body if that is at hand. It passes over those where
// there is something to read by then: that is no answer to this request.
func (x *exchange) connect(b *backend, fresh bool) *upstream {
	x.once = !b.keeps(x.now)
	for !fresh && !x.once {
		c := b.take(x.now, x.body.replayable(x.r.Method) && x.upgrade == "")
		if c == nil {
			break
		}
		x.prepare(c)
		found := c.ask()
		if found == quiet {
			return c
		}
		b.reject(c, found, x.now)
		x.once = !b.keeps(x.now)
	}
	c, err := b.dial(x.r.Context(), x.rt.cfg.DialTimeout)
	switch {
	case err == nil:
		x.prepare(c)
		switch c.ask() {
		case quiet:
			b.dialWorked()
			return c
		case surplus:
			why := spokeFirst
			if c.got >= frameHead && isSettings(c.first[:frameHead]) {
				why = speaksH2C
			}
			c.close()
			b.distrust(why)
			x.page(badResponse)
			return nil
		case hungUp: // nothing was sent: it is as if the dial had failed
			c.close()
		}
		b.dialFailed(time.Now())
	case x.r.Context().Err() != nil:
	case ownShortage(err):
		x.rt.log.Error("no connection to be had", "instance", b.InstanceID, "err", err)
		x.page(overloaded)
	default:
		b.dialFailed(time.Now())
	}
	return nil
}

// spokeFirst is said in the app's own log.
const spokeFirst = "the app sent something before it was asked: what listens on its port does not speak HTTP, or sends answers that nobody asked for"

// prepare makes all ready for the request to be written.
func (x *exchange) prepare(c *upstream) {
	c.writeWithin(x.now, x.rt.cfg.StallTimeout)
	c.readWithin(x.now, x.responseTimeout())
	c.out = x.appendHead(c.out[:0])
	if !x.body.streamed {
		c.out = append(c.out, x.body.whole...)
	}
}

// responseTimeout is how long the answer may take to begin.
func (x *exchange) responseTimeout() time.Duration {
	return cmp.Or(x.pool.ResponseTimeout, x.rt.cfg.ResponseTimeout)
}

// converse sends the rest of the request and brings the answer back. It reports
// how that ended, and whether the connection may serve another request.
func (x *exchange) converse(c *upstream) (how outcome, keep bool) {
	if !x.body.streamed {
		defer func() { // a large scratch is not kept for every connection
			if cap(c.out) > 16<<10 {
				c.out = nil
			}
		}()
		if how, ok := x.send(c); !ok {
			return how, false
		}
		return x.receive(c)
	}
	if x.body.expects {
		return x.converseExpecting(c)
	}
	if how, ok := x.send(c); !ok {
		return how, false
	}
	return x.converseStreaming(c)
}

// send writes what is left of the request. Where that was interrupted, it looks
// whether what is there by then came before it.
func (x *exchange) send(c *upstream) (how outcome, ok bool) {
	if err := c.finish(); err != nil {
		return x.lostOn(c, err), false
	}
	if c.wasInterrupted() && c.spokeBefore(c.asked) {
		c.backend.distrust(sentTooMuch)
		return lostUnanswered, false
	}
	return 0, true
}

// converseStreaming sends the body while the answer comes.
func (x *exchange) converseStreaming(c *upstream) (how outcome, keep bool) {
	x.startUpload(c)
	how, keep = x.receive(c)
	return how, keep && x.up.sent()
}

// lostOn says how a conversation ended that broke off before any byte of an
// answer.
func (x *exchange) lostOn(c *upstream, err error) outcome {
	switch c.ended.Load() {
	case endedByClient, endedByUpload:
		x.clientFailed()
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
	if c.served > 0 {
		c.backend.reject(c, hungUp, x.now)
	}
	return lostUnanswered
}

// clientFailed answers a client whose body broke off or stood still, and notes
// that one is gone. To net/http a client that stands still has left, so the
// upload has the word.
func (x *exchange) clientFailed() {
	if x.up != nil {
		<-x.up.done
		switch {
		case x.up.client == nil:
		case errors.Is(x.up.client, os.ErrDeadlineExceeded):
			x.page(slowBody)
			return
		case x.r.Context().Err() == nil:
			x.page(badBody)
			return
		}
	}
	x.gone()
}

// gone notes that the client left.
func (x *exchange) gone() {
	if x.status == 0 {
		x.status, x.failed = statusClientGone, "client_gone"
	}
}

// giveUp answers with the failure, unless nobody waits for it.
func (x *exchange) giveUp(f failure) {
	if x.r.Context().Err() != nil && f != slowBody {
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
		if x.status == statusClientGone || class < 0 || class > 5 {
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
