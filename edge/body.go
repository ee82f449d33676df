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
	read     bool // all of it came from the client, and none of it streams
}

// wholeBody is the largest body that is read whole.
const wholeBody = 32 << 10

// buffers are as large as the largest body read whole, and serve for copying.
var buffers = sync.Pool{New: func() any { b := make([]byte, wholeBody); return &b }}

// bodyStreams reports whether the request's body is not one to read whole.
func bodyStreams(r *http.Request) bool {
	return r.ContentLength < 0 || r.ContentLength > wholeBody || r.ContentLength > 0 && expectsContinue(r)
}

func expectsContinue(r *http.Request) bool { return hasToken(r.Header["Expect"], "100-continue") }

// openBody reads a small body, and makes ready for the streaming of another.
func (x *exchange) openBody() (failure, bool) {
	r := x.r
	if r.ContentLength == 0 || r.Body == nil || r.Body == http.NoBody {
		return failure{}, true
	}
	if bodyStreams(r) {
		x.body.expects = expectsContinue(r)
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
	x.body.read = true
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

// bodyRead reports whether all of the request's body has come from the client.
func (x *exchange) bodyRead() bool {
	switch {
	case x.r.ContentLength == 0 || x.r.Body == nil || x.r.Body == http.NoBody:
		return true
	case x.up != nil:
		return x.up.read.Load()
	case x.in != nil:
		return x.in.read.Load()
	}
	return x.body.read
}

// What is left of a body when the answer is out is read and thrown away, so
// that a client that writes all of it before it reads finds the answer, but
// not for longer or of more than this.
const (
	drainTime  = 5 * time.Second
	drainBytes = 16 << 20
)

// drainBody sees the request's body out after the answer. If not all of it
// came, the client knows by now that its connection ends.
func (x *exchange) drainBody() {
	if x.up != nil && x.up.sent() {
		return
	}
	if x.in != nil {
		x.in.end(x.r.ProtoMajor == 1)
		return
	}
	if x.up == nil && (x.bodyRead() || x.r.ProtoMajor != 1) {
		return
	}
	if x.r.ProtoMajor != 1 { // the end of the stream says that no more is wanted
		x.stopUpload()
		return
	}
	_ = http.NewResponseController(x.w).Flush() // the client has its answer meanwhile
	switch {
	case x.up != nil:
		x.up.discard(time.Now().Add(drainTime))
		<-x.up.done
	case !x.body.expects: // who waits for 100 (Continue) sends nothing
		rc := http.NewResponseController(x.w)
		_ = rc.SetReadDeadline(time.Now().Add(drainTime))
		n, _ := io.CopyN(io.Discard, x.r.Body, drainBytes)
		x.bytesIn.Add(n)
	}
	// net/http would read on for what it takes for little.
	if !x.bodyRead() {
		_ = http.NewResponseController(x.w).SetReadDeadline(longAgo)
	}
}

// stopUpload ends the upload at once.
func (x *exchange) stopUpload() {
	if x.up != nil {
		x.up.discard(longAgo)
		<-x.up.done
	}
	if x.in != nil {
		x.in.end(false)
	}
}

// upload is a streaming body on its way to a backend, by a goroutine of its
// own, so that the answer can come back meanwhile.
type upload struct {
	x      *exchange
	c      *upstream
	done   chan struct{}
	read   atomic.Bool // all of it came from the client
	client error       // reading from the client failed; read after done
	whole  bool        // all of it was sent; read after done
	ended  time.Time   // read after done

	mu    sync.Mutex // guards until, and orders it with the client's read deadline
	until time.Time  // nobody wants the rest: it is read and thrown away, but not after this
}

// startUpload starts sending the body.
func (x *exchange) startUpload(c *upstream) {
	x.body.started = true
	x.up = &upload{x: x, c: c, done: make(chan struct{})}
	go x.up.run()
}

func (up *upload) run() {
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
	var until time.Time // the read deadline set
	var got, discarded int64
	unwanted := false // the app takes no more
	for {
		now := time.Now()
		until = up.allow(now, until)
		n, err := x.r.Body.Read(p[before : len(p)-2])
		x.bytesIn.Add(int64(n))
		if got += int64(n); err == io.EOF || got == x.r.ContentLength {
			// Said before the last of it is sent: the app may answer at once.
			up.read.Store(true)
		}
		switch {
		case unwanted || up.discarding():
			unwanted = true
			if discarded += int64(n); discarded > drainBytes {
				return
			}
		case n > 0:
			out := p[before : before+n]
			if chunked {
				var size [before]byte
				line := append(strconv.AppendInt(size[:0], int64(n), 16), "\r\n"...)
				start := before - len(line)
				copy(p[start:], line)
				out = append(p[start:before+n], "\r\n"...)
			}
			c.writeWithin(now, x.rt.cfg.StallTimeout)
			if _, werr := c.Write(out); werr != nil {
				unwanted = true // the answer, if there is one, says why
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			if !unwanted {
				up.client = err
				// The app must not take half a body for a whole one.
				c.interrupt(endedByUpload)
			}
			return
		}
	}
	// Without this the deadline would strike while the answer is awaited.
	up.allow(time.Time{}, time.Time{})
	if unwanted {
		return
	}
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

// allow gives the client time for its next bytes, from now on; a zero now
// takes the deadline away. What is only thrown away has one that stays.
func (up *upload) allow(now, until time.Time) time.Time {
	up.mu.Lock()
	defer up.mu.Unlock()
	stall := up.x.rt.cfg.StallTimeout
	switch {
	case now.IsZero():
		until = time.Time{}
	case !up.until.IsZero():
		until = up.until
	case until.Sub(now) >= stall/2:
		return until
	default:
		until = now.Add(stall)
	}
	rc := http.NewResponseController(up.x.w)
	_ = rc.SetReadDeadline(until)
	if !now.IsZero() && up.c.ended.Load() != 0 {
		_ = rc.SetReadDeadline(longAgo)
	}
	return until
}

// discard has the rest of the body thrown away, for as long as it comes until
// the time given.
func (up *upload) discard(until time.Time) {
	select {
	case <-up.done: // the connection may be another request's by now
		return
	default:
	}
	up.mu.Lock()
	defer up.mu.Unlock()
	up.until = until
	_ = http.NewResponseController(up.x.w).SetReadDeadline(until)
	_ = up.c.SetWriteDeadline(longAgo)
}

func (up *upload) discarding() bool {
	up.mu.Lock()
	defer up.mu.Unlock()
	return !up.until.IsZero()
}

// extend gives the app time to answer that begins when it has the whole body.
// It reports false when that time is over.
func (up *upload) extend(c *upstream) bool {
	left := up.x.responseTimeout()
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

// sentGrace is how long the last bytes of a body that has been read may take
// to be written: as a rule they are, and the goroutine only has to say so.
const sentGrace = 250 * time.Millisecond

// sent reports whether all of the body was sent to the app. It waits for that
// only if all of it has come.
func (up *upload) sent() bool {
	select {
	case <-up.done:
		return up.whole
	default:
	}
	if !up.read.Load() {
		return false
	}
	_ = up.c.SetWriteDeadline(time.Now().Add(sentGrace))
	<-up.done
	up.c.writeUntil = time.Time{}
	return up.whole
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
