package edge

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
)

// call is one attempt of a request at a backend that speaks HTTP/2 without TLS
// (h2c).
type call struct {
	x       *exchange
	backend *backend
	cancel  context.CancelFunc
	started time.Time
	within  time.Duration // the answer has to begin, once the request was sent

	ended   atomic.Int32 // why it was interrupted
	events  atomic.Bool  // it carries a stream of events, which has no end by itself
	settled atomic.Bool  // its answer began
	active  atomic.Int64 // since started: when bytes last came, from either side
	body    atomic.Int64 // since started: when the request was sent, less a nanosecond to be no zero
	timer   *time.Timer
	in      atomic.Pointer[intake]

	conn *h2c        // that it has a place on; nil while it waits for one
	sent atomic.Bool // its head was
}

// Why a call is interrupted besides what upstream has.
const (
	endedBySilence  int32 = 100 + iota // no answer began in time
	endedByIdleness                    // nothing was said for long
)

// interrupt makes the call end; the first reason stays.
func (c *call) interrupt(why int32) {
	c.ended.CompareAndSwap(0, why)
	c.cancel()
	if in := c.in.Load(); in != nil {
		in.interrupt()
	}
}

// moved notes that bytes came.
func (c *call) moved() { c.active.Store(int64(time.Since(c.started))) }

// bodyCame notes that the whole request is here.
func (c *call) bodyCame() {
	c.body.Store(int64(time.Since(c.started)) + 1)
	c.wakeAfter(c.within)
}

// wakeAfter has the call looked at again, unless it is over. Who reads the body
// may go on for a while then.
func (c *call) wakeAfter(d time.Duration) {
	c.timer.Reset(d)
	if c.ended.Load() != 0 {
		c.timer.Stop()
	}
}

// look interrupts a call that takes too long: an answer has to begin in time
// once the request was sent, and something has to be said now and then.
func (c *call) look() {
	if c.ended.Load() != 0 {
		return
	}
	idle := c.x.rt.cfg.IdleTimeout
	now := time.Since(c.started)
	left, why := time.Duration(c.active.Load())+idle-now, endedByIdleness
	if sent := time.Duration(c.body.Load()); sent != 0 && !c.settled.Load() {
		left, why = sent+c.within-now, endedBySilence
	}
	if left <= 0 {
		c.interrupt(why)
		return
	}
	c.wakeAfter(left)
}

// call brings the request to one backend over HTTP/2.
func (x *exchange) call(b *backend) outcome {
	ctx, cancel := context.WithCancel(x.r.Context())
	c := &call{x: x, backend: b, cancel: cancel, started: time.Now(), within: x.responseTimeout()}
	c.body.Store(1)
	// The timer is there before it can fire.
	c.timer = time.AfterFunc(time.Hour, func() { c.look() })
	c.timer.Reset(c.within)
	b.mu.Lock()
	b.calls[c] = struct{}{}
	b.mu.Unlock()
	defer func() {
		c.settled.Store(true)
		b.mu.Lock()
		delete(b.calls, c)
		b.mu.Unlock()
		c.ended.CompareAndSwap(0, -1)
		c.timer.Stop()
		cancel()
	}()
	var err error
	if c.conn, err = b.place(ctx, x.rt); err != nil {
		return x.callFailed(c, err)
	}
	defer b.finish(c.conn)
	if x.body.streamed { // it takes as long as it takes
		c.body.Store(0)
		c.timer.Reset(x.rt.cfg.IdleTimeout)
	}
	hints := &informational{x: x, sent: &c.sent}
	req, err := x.outgoing(httptrace.WithClientTrace(ctx, hints.trace()), c)
	if err != nil {
		c.conn.cc.Release()
		return lostUnanswered
	}
	res, err := c.conn.cc.RoundTrip(req)
	hints.stop()
	if err != nil {
		return x.callFailed(c, err)
	}
	defer res.Body.Close()
	c.settled.Store(true)
	if x.in != nil {
		x.in.settle()
	}
	c.moved()
	c.timer.Reset(x.rt.cfg.IdleTimeout)
	x.relay(c, res)
	return answered
}

// outgoing is the request as the app is to see it.
func (x *exchange) outgoing(ctx context.Context, c *call) (*http.Request, error) {
	r := x.r
	target := x.target
	if strings.HasPrefix(target, "//") {
		target = "//" + r.Host + target // else it would be taken for a host name
	}
	out := &http.Request{
		Method: r.Method,
		URL:    &url.URL{Scheme: "http", Host: c.backend.Address.String(), Opaque: target},
		Host:   r.Host, Header: http.Header{},
		Proto: "HTTP/2.0", ProtoMajor: 2,
	}
	x.eachField(func(name, value string) { out.Header[name] = append(out.Header[name], value) })
	if out.Header["User-Agent"] == nil {
		out.Header["User-Agent"] = []string{""} // else net/http says its own
	}
	switch {
	case x.body.streamed:
		if x.in == nil {
			x.in = newIntake(x)
		}
		x.in.call.Store(c)
		c.in.Store(x.in)
		if x.in.read.Load() { // for an attempt before
			c.bodyCame()
		}
		body, err := x.in.again()
		if err != nil {
			return nil, err
		}
		out.Body, out.ContentLength, out.Trailer = body, r.ContentLength, body.trailer
	case len(x.body.whole) > 0:
		whole := string(x.body.whole) // the transport may read on after its answer
		out.Body, out.ContentLength = io.NopCloser(strings.NewReader(whole)), int64(len(whole))
	case expectsLength(r):
		out.Body = http.NoBody
	}
	return out.WithContext(ctx), nil
}

// callFailed says how a call ended that had no answer.
func (x *exchange) callFailed(c *call, err error) outcome {
	b := c.backend
	dialled, noDial := errors.AsType[*dialError](err)
	switch why := c.ended.Load(); {
	case x.r.Context().Err() != nil:
		x.gone()
		return gaveUp
	case why == endedByDrain:
		x.page(drainedTooSoon)
		return gaveUp
	case why == endedByStop:
		x.page(stoppingSoon)
		return gaveUp
	case why != 0:
		x.page(tooSlow)
		return gaveUp
	case noDial && ownShortage(dialled.err):
		x.rt.log.Error("no connection to be had", "instance", b.InstanceID, "err", err)
		x.page(overloaded)
		return gaveUp
	case errors.Is(err, errNotH2C):
		x.page(notH2C)
		return gaveUp
	case noDial:
		return notReached
	}
	if x.in != nil {
		if client := x.in.failed(); errors.Is(client, os.ErrDeadlineExceeded) {
			x.page(slowBody)
			return gaveUp
		} else if client != nil {
			x.page(badBody)
			return gaveUp
		}
	}
	if c.refused(err) {
		return refused
	}
	return lostUnanswered
}

// refused reports whether the backend is known not to have looked at the call:
// it said so, or went before the call was sent. It may be made again, whatever
// it asks for.
func (c *call) refused(err error) bool {
	if stream, ok := errors.AsType[http2.StreamError](err); ok {
		return stream.Code == http2.ErrCodeRefusedStream
	}
	if strings.HasPrefix(err.Error(), refusedByGoAway) {
		return true
	}
	return !c.sent.Load() && (c.conn.cc.Err() != nil || c.conn.cc.Available() == 0)
}

// refusedByGoAway begins what net/http says where GOAWAY names a stream before
// the call's as the last that is looked at. It has no name for that.
const refusedByGoAway = "http2: Transport received "

// relay sends the answer to the client as it comes.
func (x *exchange) relay(c *call, res *http.Response) {
	lengths := res.Header["Content-Length"]
	if res.StatusCode < 200 || res.StatusCode > 999 || slices.ContainsFunc(lengths, func(v string) bool { return v != lengths[0] }) {
		x.page(badResponse)
		return
	}
	h := x.w.Header()
	clear(h)
	for name, values := range res.Header {
		if !hopByHop(name) {
			h[name] = values
		}
	}
	if lengths != nil && res.ContentLength >= 0 && res.StatusCode != http.StatusNoContent {
		h["Content-Length"] = []string{strconv.FormatInt(res.ContentLength, 10)}
	}
	if h["Content-Type"] == nil {
		h["Content-Type"] = nil // else net/http guesses one
	}
	announced := false
	for name := range res.Trailer {
		if trailerAllowed(name) {
			announced = true
			h.Add("Trailer", name)
		}
	}
	h["X-Request-Id"] = []string{x.id}
	x.stick(h, x.pool, c.backend)
	events := strings.HasPrefix(strings.ToLower(res.Header.Get("Content-Type")), "text/event-stream")
	c.events.Store(events)
	x.firstByte = time.Since(x.started)
	x.begin(res.StatusCode)

	if x.r.Method == http.MethodHead || res.StatusCode == http.StatusNoContent || res.StatusCode == http.StatusNotModified || res.Body == http.NoBody {
		return
	}
	flusher, _ := x.w.(http.Flusher)
	rerr, werr := x.copyAnswer(c, res, flusher)
	switch {
	case werr != nil:
		x.failed = "client_gone"
	case rerr == nil:
		x.relayTrailers(res, announced, flusher)
	default:
		x.cutOff(c, rerr, isGRPC(res.Header), events)
	}
}

// copyAnswer copies the body as it comes.
func (x *exchange) copyAnswer(c *call, res *http.Response, flusher http.Flusher) (rerr, werr error) {
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	held := res.ContentLength < 0 || res.ContentLength > 4<<10
	for {
		if held && flusher != nil {
			x.stalls(true)
			flusher.Flush()
		}
		x.stalls(false)
		n, err := res.Body.Read(*buffer)
		if n > 0 {
			c.moved()
			x.stalls(true)
			m, werr := x.w.Write((*buffer)[:n])
			x.bytesOut += int64(m)
			if werr != nil {
				return nil, werr
			}
		}
		held = n < len(*buffer) // else there may be more at hand
		switch {
		case err == io.EOF:
			return nil, nil
		case err != nil:
			return err, nil
		}
	}
}

// relayTrailers passes on what followed the body.
func (x *exchange) relayTrailers(res *http.Response, announced bool, flusher http.Flusher) {
	h := x.w.Header()
	for name, values := range res.Trailer {
		if !trailerAllowed(name) {
			continue
		}
		// A trailer that was not announced needs an answer that is chunked already.
		if !announced && flusher != nil {
			flusher.Flush()
			announced = true
		}
		for _, v := range values {
			if validValue(v) {
				h.Add(http.TrailerPrefix+name, v)
			}
		}
	}
}

// cutOff ends an answer that did not come to its end. It must not look whole:
// a gRPC client is told so, a stream of events may end anywhere.
func (x *exchange) cutOff(c *call, err error, grpc, events bool) {
	why := c.ended.Load()
	switch x.failed = "cut_off"; {
	case why == endedByDrain:
		x.failed = "drained"
	case x.r.Context().Err() != nil:
		x.failed = "client_gone"
	}
	switch {
	case grpc && x.r.ProtoMajor == 2 && x.r.Context().Err() == nil:
		code, message := grpcUnavailable, "The application ended the call before it was over."
		if stream, ok := errors.AsType[http2.StreamError](err); ok && why == 0 {
			code = grpcOf(stream.Code)
		}
		switch why {
		case endedByDrain:
			message = drainedTooSoon.message
		case endedByStop:
			message = stoppingSoon.message
		case endedByIdleness:
			message = "Nothing was said for too long."
		}
		x.endGRPC(code, message)
	case events && (why == endedByDrain || why == endedByStop):
	default:
		x.aborted = true
	}
}

// grpcOf is what a call has come to whose stream was reset (gRPC over HTTP/2,
// "Errors").
func grpcOf(code http2.ErrCode) int {
	switch code {
	case http2.ErrCodeRefusedStream:
		return grpcUnavailable
	case http2.ErrCodeCancel:
		return grpcCancelled
	case http2.ErrCodeEnhanceYourCalm:
		return grpcResourceExhausted
	}
	return grpcInternal
}

// informational passes answers on that come before the final one. They come in
// the goroutine that reads for all calls of the connection, which waits for no
// client: they are sent by another, and what one cannot take in time is dropped.
type informational struct {
	x    *exchange
	sent *atomic.Bool // the request's head was

	mu      sync.Mutex // guards what follows
	over    bool
	seen    int
	size    int // of all of them
	waiting []hint
	sending chan struct{} // not nil: somebody sends; closed when all is sent
}

type hint struct {
	code   int
	header textproto.MIMEHeader
}

func (i *informational) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{WroteHeaders: func() { i.sent.Store(true) }, Got1xxResponse: i.take}
}

// take never waits.
func (i *informational) take(code int, header textproto.MIMEHeader) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.seen++; i.seen > maxInformational {
		return errBadHead
	}
	for name, values := range header {
		for _, v := range values {
			i.size += len(name) + len(v)
		}
	}
	// 100 is net/http's to send: when the body is first read.
	if i.over || i.size > maxHead || code == http.StatusContinue || code == http.StatusSwitchingProtocols || !i.x.r.ProtoAtLeast(1, 1) {
		return nil
	}
	i.waiting = append(i.waiting, hint{code, header})
	if i.sending == nil {
		i.sending = make(chan struct{})
		go i.send(i.sending)
	}
	return nil
}

func (i *informational) send(done chan struct{}) {
	defer close(done)
	for {
		i.mu.Lock()
		if len(i.waiting) == 0 {
			i.sending = nil
			i.mu.Unlock()
			return
		}
		next := i.waiting[0]
		i.waiting = i.waiting[1:]
		i.mu.Unlock()
		h := i.x.w.Header()
		for name, values := range next.header {
			if !hopByHop(name) {
				h[name] = values
			}
		}
		i.x.w.WriteHeader(next.code)
		clear(h)
	}
}

// stop returns once nothing is sent any more: the final answer may follow.
func (i *informational) stop() {
	i.mu.Lock()
	i.over = true
	sending := i.sending
	i.mu.Unlock()
	if sending != nil {
		<-sending
	}
}
