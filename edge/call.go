package edge

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
)

// call is one attempt of a request at a backend that speaks HTTP/2 without TLS
// (h2c). net/http's transport has the connections: it sends a call again by
// itself only when the backend has said that it did not look at it.
type call struct {
	x       *exchange
	backend *backend
	cancel  context.CancelFunc
	started time.Time

	ended   atomic.Int32 // why it was interrupted
	events  atomic.Bool  // it carries a stream of events, which has no end by itself
	settled atomic.Bool  // its answer began
	active  atomic.Int64 // since started: when bytes last came, from either side
	body    atomic.Int64 // since started: when the request was sent, less a nanosecond to be no zero
	timer   *time.Timer
	in      atomic.Pointer[intake]
}

// Why a call is interrupted besides what upstream has.
const (
	endedBySilence  int32 = 100 + iota // no answer began in time
	endedByIdleness                    // nothing was said for long
)

// receiveWindow is what an app may send of one answer before its client has
// taken it.
const receiveWindow = 256 << 10

// http2 is the transport to the backend.
func (b *backend) http2(cfg *Config) *http.Transport {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.h2 != nil {
		return b.h2
	}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	dial, stall := cfg.DialTimeout, cfg.StallTimeout
	b.h2 = &http.Transport{
		Protocols: protocols,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := b.connect(ctx, dial)
			if err != nil {
				return nil, &dialError{err}
			}
			return &h2cConn{Conn: conn, backend: b}, nil
		},
		DisableCompression:     true,
		IdleConnTimeout:        cfg.RestTimeout,
		MaxResponseHeaderBytes: maxHead,
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerStream: receiveWindow,
			WriteByteTimeout:          stall,
		},
	}
	return b.h2
}

// dialError is a failed dial: nothing was sent.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// What is said in the app's own log.
const (
	speaksNoH2C = "the app does not speak HTTP/2 without TLS (h2c), as its service says it does: have it do so, or publish it with protocol http1"
	speaksH2C   = "the app speaks HTTP/2 where HTTP/1.1 was spoken to it: publish it with protocol h2c, as gRPC servers need"
)

var errNotH2C = errors.New("the app does not speak h2c")

// muteMost is how many connections in a row an app may close without a word
// before it is taken to speak something else.
const muteMost = 3

// h2cConn is a connection to a backend, up to whose first frame it is open
// whether HTTP/2 is spoken there.
type h2cConn struct {
	net.Conn
	backend *backend
	head    [frameHead]byte // of the first frame
	got     int
	spoken  atomic.Bool // it is
	failed  atomic.Bool // before that
}

// frameHead is how long the head of a frame is.
const frameHead = 9

// isSettings reports whether b may begin the SETTINGS frame with which every
// HTTP/2 server begins.
func isSettings(b []byte) bool {
	const settings = 4
	for i, c := range b {
		switch {
		case i == 0 && c != 0, // longer than any
			i == 3 && c != settings, i == 4 && c != 0, // not one, or an answer to one
			i > 4 && c != 0: // of a stream
			return false
		}
	}
	return true
}

func (c *h2cConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.spoken.Load() {
		return n, err
	}
	b := c.backend
	c.got += copy(c.head[c.got:], p[:n])
	switch {
	case !isSettings(c.head[:c.got]):
		b.sayOnce(speaksNoH2C)
		return 0, errNotH2C
	case c.got == frameHead:
		c.spoken.Store(true)
		b.dialWorked()
		b.heard(true)
	}
	return n, c.judge(err)
}

func (c *h2cConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	return n, c.judge(err)
}

// judge counts a connection that ended before anything was said on it.
func (c *h2cConn) judge(err error) error {
	if err == nil || c.spoken.Load() || errors.Is(err, net.ErrClosed) || c.failed.Swap(true) {
		return err
	}
	if c.backend.heard(false) {
		c.backend.sayOnce(speaksNoH2C)
		return errNotH2C
	}
	return err
}

// heard notes whether a connection was spoken on before it was closed. It
// reports whether one too many was not.
func (b *backend) heard(spoken bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mute++; spoken {
		b.mute = 0
	}
	return b.mute >= muteMost
}

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

// sent notes that the whole request was.
func (c *call) sent() {
	c.body.Store(int64(time.Since(c.started)) + 1)
	c.timer.Reset(c.x.responseTimeout())
}

// look interrupts a call that takes too long: an answer has to begin in time
// once the request was sent, and something has to be said now and then.
func (c *call) look() {
	idle := c.x.rt.cfg.IdleTimeout
	now := time.Since(c.started)
	left, why := time.Duration(c.active.Load())+idle-now, endedByIdleness
	if sent := time.Duration(c.body.Load()); sent != 0 && !c.settled.Load() {
		left, why = sent+c.x.responseTimeout()-now, endedBySilence
	}
	if left <= 0 {
		c.interrupt(why)
		return
	}
	c.timer.Reset(left)
}

// call brings the request to one backend over HTTP/2.
func (x *exchange) call(b *backend) outcome {
	ctx, cancel := context.WithCancel(x.r.Context())
	c := &call{x: x, backend: b, cancel: cancel, started: time.Now()}
	first := x.rt.cfg.IdleTimeout
	if !x.body.streamed {
		c.body.Store(1)
		first = x.responseTimeout()
	}
	// The timer is there before it can fire.
	c.timer = time.AfterFunc(time.Hour, func() { c.look() })
	c.timer.Reset(first)
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
	hints := &informational{x: x}
	req, err := x.outgoing(httptrace.WithClientTrace(ctx, hints.trace()), c)
	if err != nil {
		return lostUnanswered
	}
	res, err := b.http2(&x.rt.cfg).RoundTrip(req)
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
		body, err := x.in.again()
		if err != nil {
			return nil, err
		}
		out.Body, out.GetBody, out.ContentLength = body, x.in.again, r.ContentLength
		if len(r.Trailer) > 0 {
			// The values come with the end of the body, into this very map.
			out.Trailer = r.Trailer
			for name := range out.Trailer {
				if !trailerAllowed(name) {
					delete(out.Trailer, name)
				}
			}
		}
	case len(x.body.whole) > 0:
		whole := string(x.body.whole) // the transport may read on after its answer
		out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(whole)), nil }
		out.Body, _ = out.GetBody()
		out.ContentLength = int64(len(whole))
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
	case noDial:
		b.dialFailed(time.Now())
		return notReached
	case errors.Is(err, errNotH2C) || b.told(speaksNoH2C):
		x.page(notH2C)
		return gaveUp
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
	return lostUnanswered
}

// relay sends the answer to the client as it comes.
func (x *exchange) relay(c *call, res *http.Response) {
	h := x.w.Header()
	clear(h)
	for name, values := range res.Header {
		if !hopByHop(name) {
			h[name] = values
		}
	}
	if res.Header["Content-Length"] != nil && res.StatusCode != http.StatusNoContent {
		h["Content-Length"] = res.Header["Content-Length"]
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

	if res.ContentLength == 0 && res.Body == http.NoBody {
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

// informational passes answers on that come before the final one, while that
// has not come.
type informational struct {
	x    *exchange
	mu   sync.Mutex // guards over, and orders what is sent
	over bool
	seen int
}

func (i *informational) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
		i.mu.Lock()
		defer i.mu.Unlock()
		if i.seen++; i.seen > maxInformational {
			return errBadHead
		}
		// 100 is net/http's to send: when the body is first read.
		if i.over || code == http.StatusContinue || code == http.StatusSwitchingProtocols || !i.x.r.ProtoAtLeast(1, 1) {
			return nil
		}
		h := i.x.w.Header()
		for name, values := range header {
			if !hopByHop(name) {
				h[name] = values
			}
		}
		i.x.w.WriteHeader(code)
		clear(h)
		return nil
	}}
}

func (i *informational) stop() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.over = true
}
