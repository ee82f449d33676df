package edge

import (
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// body is a request's body: none, a small one read whole before a backend is
// chosen, or one that streams. A whole one goes out in one write with the
// head, keeps no backend waiting for a slow client and can be sent again.
type body struct {
	whole    []byte
	buffer   *[]byte // the pooled slice under whole
	streamed bool
	expects  bool // the client waits for 100 (Continue)
	started  bool // bytes of it may have reached a backend
}

// wholeBody is the largest body that is read whole.
const wholeBody = 32 << 10

// buffers are as large as the largest body read whole, and serve for copying.
var buffers = sync.Pool{New: func() any { b := make([]byte, wholeBody); return &b }}

// openBody reads a small body, and makes ready for the streaming of another.
func (x *exchange) openBody() (failure, bool) {
	r := x.r
	if r.ContentLength == 0 || r.Body == nil || r.Body == http.NoBody {
		return failure{}, true
	}
	x.body.expects = hasToken(r.Header["Expect"], "100-continue")
	if r.ContentLength < 0 || r.ContentLength > wholeBody || x.body.expects {
		x.body.streamed = true
		// The answer may begin, and go on, while the body still comes.
		_ = http.NewResponseController(x.w).EnableFullDuplex()
		return failure{}, true
	}
	x.body.buffer = buffers.Get().(*[]byte)
	x.body.whole = (*x.body.buffer)[:r.ContentLength]
	// One deadline for all of it: a small body that trickles in is not worth
	// a connection's memory.
	rc := http.NewResponseController(x.w)
	_ = rc.SetReadDeadline(x.started.Add(x.rt.cfg.StallTimeout))
	n, err := io.ReadFull(r.Body, x.body.whole)
	x.bytesIn.Add(int64(n))
	if err != nil {
		x.body.free()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return slowBody, false
		}
		return badBody, false
	}
	// The end of the body has to be read for net/http to watch the connection
	// from here on, and without the deadline.
	var end [1]byte
	_, _ = r.Body.Read(end[:])
	_ = rc.SetReadDeadline(time.Time{})
	return failure{}, true
}

func (b *body) free() {
	if b.buffer != nil {
		buffers.Put(b.buffer)
		b.buffer, b.whole = nil, nil
	}
}

// replayable reports whether the request may be sent again after a backend
// may have seen it.
func (b *body) replayable(method string) bool {
	return !b.streamed && idempotent(method)
}

// unsent reports whether all of the body is still to be had.
func (b *body) unsent() bool { return !b.streamed || !b.started }

// upload is a streaming body on its way to a backend, by a goroutine of its
// own, so that the answer can come back meanwhile.
type upload struct {
	x      *exchange
	c      *upstream
	done   chan struct{}
	stop   atomic.Bool // the answer was complete first
	client error       // reading from the client failed; read after done
	whole  bool        // all of it was sent
	ended  time.Time
}

// startUpload sends the head and starts sending the body.
func (x *exchange) startUpload(c *upstream, head []byte) (*upload, error) {
	// A length that is known comes from a client that is about to send; its
	// first bytes and the head may share a packet. Without a length the
	// client may be waiting for the app to speak first.
	if x.r.ContentLength < 0 && head != nil {
		if _, err := c.Write(head); err != nil {
			return nil, err
		}
		head = nil
	}
	x.body.started = true
	up := &upload{x: x, c: c, done: make(chan struct{})}
	go up.run(head)
	return up, nil
}

func (up *upload) run(head []byte) {
	defer func() {
		up.ended = time.Now()
		close(up.done)
	}()
	x, c := up.x, up.c
	chunked := x.r.ContentLength < 0
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	// Room for a chunk's length before it and its end after it, so that each
	// chunk is one write.
	const before = 16
	p := *buffer
	rc := http.NewResponseController(x.w)
	var until time.Time
	for {
		now := time.Now()
		if until.Sub(now) < x.rt.cfg.StallTimeout/2 {
			until = now.Add(x.rt.cfg.StallTimeout)
			_ = rc.SetReadDeadline(until)
			if c.ended.Load() != 0 || up.stop.Load() {
				_ = rc.SetReadDeadline(longAgo)
			}
		}
		n, err := x.r.Body.Read(p[before : len(p)-2])
		x.bytesIn.Add(int64(n))
		if n > 0 || head != nil {
			out := p[before : before+n]
			if chunked {
				var size [before]byte
				line := append(strconv.AppendInt(size[:0], int64(n), 16), "\r\n"...)
				start := before - len(line)
				copy(p[start:], line)
				out = append(p[start:before+n], "\r\n"...)
			}
			if head != nil {
				out = append(head, out...)
				head = nil
			}
			c.writeWithin(now, x.rt.cfg.StallTimeout)
			if _, werr := c.Write(out); werr != nil {
				return // the answer, if there is one, says why
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			up.client = err
			// The app must not take half a body for a whole one.
			c.interrupt(endedByUpload)
			return
		}
	}
	// Without this the deadline would strike while the answer is awaited.
	_ = rc.SetReadDeadline(time.Time{})
	if chunked {
		end := append((*buffer)[:0], "0\r\n"...)
		for _, name := range sortedNames(x.r.Trailer) {
			if !trailerAllowed(name) {
				continue
			}
			for _, v := range x.r.Trailer[name] {
				if validValue(v) {
					end = appendField(end, name, v)
				}
			}
		}
		if _, err := c.Write(append(end, "\r\n"...)); err != nil {
			return
		}
	}
	up.whole = true
}

// extend gives the app time to answer that begins when it has the whole body.
// It reports false when that time is over.
func (up *upload) extend(c *upstream) bool {
	left := up.x.rt.cfg.ResponseTimeout
	select {
	case <-up.done:
		left -= time.Since(up.ended)
	default:
	}
	if left <= 0 {
		return false
	}
	c.readUntil = time.Time{}
	c.readWithin(time.Now(), left)
	return true
}

// uploadGrace is how long an upload may go on after the answer: as a rule it
// is over, and its goroutine only has to say so.
const uploadGrace = 250 * time.Millisecond

// finish waits for the end of the upload, or stops it if the answer was
// complete long before it. It reports whether all of it was sent.
func (up *upload) finish() bool {
	select {
	case <-up.done:
		return up.whole
	default:
	}
	if flusher, ok := up.x.w.(http.Flusher); ok && up.x.status != 0 {
		flusher.Flush() // the client has its answer meanwhile
	}
	grace := time.NewTimer(uploadGrace)
	defer grace.Stop()
	select {
	case <-up.done:
		return up.whole
	case <-grace.C:
	}
	up.stop.Store(true)
	_ = http.NewResponseController(up.x.w).SetReadDeadline(longAgo)
	_ = up.c.SetWriteDeadline(longAgo)
	<-up.done
	return false
}

func trailerAllowed(name string) bool {
	return isToken(name) && !hopByHop(name) && !ours(name) && !claimed(name) && name != "Host"
}

func validValue(v string) bool {
	for i := range len(v) {
		if c := v[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
