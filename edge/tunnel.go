package edge

import (
	"errors"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miosa/miosa/balance"
)

// tunnel is an upgraded connection: bytes both ways until either side ends.
// WebSocket frames are followed, so that the router can close one in order.
type tunnel struct {
	id        balance.TunnelID
	websocket bool
	idle      time.Duration
	app       *upstream
	toClient  half
	toApp     half
	active    atomic.Int64 // Unix nanoseconds: when bytes last came from either side

	mu      sync.Mutex // guards asked, and orders it with the read deadlines
	asked   bool
	expired atomic.Bool // the deadlines are final
}

// half is one direction of a tunnel.
type half struct {
	tunnel   *tunnel
	src, dst net.Conn
	stall    time.Duration
	masked   bool // frames towards the app are

	mu     sync.Mutex // guards the rest, and keeps whole what is written
	frames frameTracker
	code   uint16    // of the close frame to put in at the next boundary
	ended  bool      // a close frame was put in: what comes after it is dropped
	until  time.Time // the write deadline set
	sent   int64
}

// closeGrace is how long both sides have to answer a close frame.
const closeGrace = 3 * time.Second

// cutGrace is what remains of that when the drain window is over.
const cutGrace = 500 * time.Millisecond

// tunnelBuffer is what each direction of a tunnel copies through; most carry
// small messages, and there may be very many.
const tunnelBuffer = 4 << 10

var tunnelBuffers = sync.Pool{New: func() any { b := make([]byte, tunnelBuffer); return &b }}

// tunnel takes over both connections after the app agreed to upgrade.
func (x *exchange) tunnel(c *upstream, res response) {
	h := x.w.Header()
	h["X-Request-Id"] = []string{x.id}
	x.stick(h, x.pool, c.backend)
	var head strings.Builder
	head.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + res.upgrade + "\r\n")
	delete(h, "Content-Length")
	if err := h.Write(&head); err != nil { // a strings.Builder takes everything
		panic(err)
	}
	head.WriteString("\r\n")

	hijacker, ok := x.w.(http.Hijacker)
	if !ok {
		clear(h)
		x.page(badResponse)
		return
	}
	client, brw, err := hijacker.Hijack()
	if err != nil {
		x.gone()
		return
	}
	defer client.Close()
	x.status, x.upgraded, x.firstByte = res.status, true, time.Since(x.started)

	_ = c.SetDeadline(time.Time{})
	c.stayInterrupted()
	t := &tunnel{
		id:        balance.TunnelID(x.rt.lastTunnel.Add(1)),
		websocket: strings.EqualFold(res.upgrade, "websocket"),
		idle:      x.rt.cfg.IdleTimeout,
		app:       c,
		toClient:  half{src: c.Conn, dst: client, stall: x.rt.cfg.StallTimeout},
		toApp:     half{src: client, dst: c.Conn, stall: x.rt.cfg.StallTimeout, masked: true},
	}
	t.toClient.tunnel, t.toApp.tunnel = t, t
	c.tunnelled.Store(true)
	t.active.Store(time.Now().UnixNano())
	// What either side sent right behind its head.
	early, _ := brw.Reader.Peek(brw.Reader.Buffered())
	first, _ := c.br.Peek(c.br.Buffered())
	// Known before the client knows of it, and not asked to close before its
	// head is out: whoever asks waits for the lock.
	t.toClient.mu.Lock()
	x.rt.openTunnel(t, c.backend)
	defer x.rt.closeTunnel(t)
	_ = client.SetWriteDeadline(time.Now().Add(x.rt.cfg.StallTimeout))
	_, err = client.Write([]byte(head.String()))
	t.toClient.mu.Unlock()
	if err != nil {
		x.failed = "client_gone"
		return
	}
	if t.toApp.write(early) != nil || t.toClient.write(first) != nil {
		return
	}
	var other sync.WaitGroup
	other.Go(func() { t.copy(&t.toApp, &t.toClient) })
	t.copy(&t.toClient, &t.toApp)
	other.Wait()
	if t.expired.Load() {
		x.failed = "drained"
	}
	x.bytesOut = t.toClient.count()
	x.bytesIn.Add(t.toApp.count()) // behind the request's body
}

// copy moves bytes of one direction until its source ends, then lets the
// other know.
func (t *tunnel) copy(h, back *half) {
	buffer := tunnelBuffers.Get().(*[]byte)
	defer tunnelBuffers.Put(buffer)
	var err error
	for {
		if err = t.await(h.src); err != nil {
			break
		}
		var n int
		n, err = h.src.Read(*buffer)
		if n > 0 {
			t.active.Store(time.Now().UnixNano())
			if werr := h.write((*buffer)[:n]); werr != nil {
				// The destination is gone: what it sent before may still come.
				t.linger(back)
				return
			}
			if h.answered() {
				break
			}
		}
		if err != nil && !t.idles(err) {
			break
		}
	}
	if t.websocket {
		if !h.masked {
			// The app went away without a word: its clients need not guess.
			h.close(closeServiceRestart)
		}
		t.linger(back)
	}
	closeWrite(h.dst)
}

// await sets the read deadline, unless the tunnel was asked to close and has
// one that stays.
func (t *tunnel) await(src net.Conn) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.asked {
		return nil
	}
	err := src.SetReadDeadline(time.Now().Add(t.idle))
	if t.app.ended.Load() != 0 {
		t.kill()
	}
	return err
}

// kill ends the tunnel without a word.
func (t *tunnel) kill() {
	_ = t.toClient.src.SetDeadline(longAgo)
	_ = t.toClient.dst.SetDeadline(longAgo)
}

// idles reports whether a failed read is only one direction being silent
// while the other is not.
func (t *tunnel) idles(err error) bool {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.asked && time.Since(time.Unix(0, t.active.Load())) < t.idle
}

// linger bounds how long the other direction goes on after one has ended.
func (t *tunnel) linger(back *half) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.asked {
		t.asked = true
		_ = back.src.SetReadDeadline(time.Now().Add(closeGrace))
	}
}

// ask closes the tunnel in order: a close frame each way where frames are
// spoken, then a moment for the answers; what speaks no frames is told by the
// end of the stream.
func (t *tunnel) ask(code uint16) {
	t.mu.Lock()
	if !t.asked {
		t.asked = true
		until := time.Now().Add(closeGrace)
		_ = t.toClient.src.SetReadDeadline(until)
		_ = t.toApp.src.SetReadDeadline(until)
	}
	t.mu.Unlock()
	if t.websocket {
		t.toClient.close(code)
		t.toApp.close(code)
		return
	}
	closeWrite(t.toClient.dst)
	closeWrite(t.toApp.dst)
}

// expire is ask when the time is over: whatever either side is doing, the
// tunnel ends within cutGrace.
func (t *tunnel) expire() {
	t.mu.Lock()
	t.asked = true
	t.expired.Store(true)
	until := time.Now().Add(cutGrace)
	_ = t.toClient.src.SetDeadline(until)
	_ = t.toApp.src.SetDeadline(until)
	t.mu.Unlock()
	t.ask(closeGoingAway)
}

// write passes p on, with the close frame put in where it is due.
func (h *half) write(p []byte) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.tunnel.websocket {
		return h.send(p)
	}
	for len(p) > 0 {
		if h.code != 0 && !h.ended {
			n := h.frames.advance(p)
			if err := h.send(p[:n]); err != nil {
				return err
			}
			p = p[n:]
			if err := h.put(); err != nil {
				return err
			}
			continue
		}
		// Frames are followed to the last, also those that are dropped: one of
		// them may be the answer to the close.
		for at := 0; at < len(p); {
			at += h.frames.advance(p[at:])
		}
		if h.ended {
			return nil
		}
		return h.send(p)
	}
	return nil
}

// put writes the close frame if this is the place for it. It holds the lock.
func (h *half) put() error {
	if h.code == 0 || h.ended || !h.frames.boundary() {
		return nil
	}
	h.ended = true
	if h.frames.closed {
		return nil // that side has said it already
	}
	return h.send(closeFrame(h.code, h.masked))
}

// close puts in a close frame, now or at the end of the frame under way.
func (h *half) close(code uint16) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.code == 0 {
		h.code = code
		_ = h.put() // a failed write is seen by the copying
	}
}

// answered reports whether a close frame was put in and the source has sent
// its own.
func (h *half) answered() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ended && h.frames.closed
}

func (h *half) send(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	if now := time.Now(); h.until.Sub(now) < h.stall/2 && !h.tunnel.expired.Load() {
		h.until = now.Add(h.stall)
		_ = h.dst.SetWriteDeadline(h.until)
	}
	n, err := h.dst.Write(p)
	h.sent += int64(n)
	return err
}

func (h *half) count() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sent
}

func closeWrite(conn net.Conn) { _ = closeWriteOf(conn) }
