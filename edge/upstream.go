package edge

import (
	"bufio"
	"context"
	"encoding/binary"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// upstream is one connection to a backend. It belongs to one request at a
// time, or rests.
type upstream struct {
	net.Conn
	backend *backend
	br      *bufio.Reader
	raw     syscall.RawConn // nil where the connection has none
	out     []byte          // scratch for a request's head

	peek  func(fd uintptr)           // made once, as is begin: they are called for each request
	first [len(statusLineStart)]byte // what peek saw
	got   int                        // how much of it
	found condition                  // what peek found

	begin  func(fd uintptr)
	looked time.Time // what begin did: when it was about to look,
	asked  time.Time // when to write out,
	wrote  int       // how much of it the kernel took at once,
	wrong  error     // and why it did not

	served     int       // requests before this one
	rested     time.Time // since when
	expires    time.Time // when the backend said that it hangs up; zero if it did not
	readUntil  time.Time // the deadlines set
	writeUntil time.Time

	watch watch // for the client of the present request to leave

	tunnelled atomic.Bool  // it was upgraded, and is ended by other means
	ended     atomic.Int32 // why it was interrupted
	events    atomic.Bool  // it carries a stream of events, which has no end by itself
}

// Why an exchange was ended from outside.
const (
	endedByClient int32 = 1 + iota // the client went away
	endedByDrain                   // the drain window is over
	endedByStop                    // the router stops
	endedByUpload                  // the request's body broke off
)

// longAgo as a deadline makes every pending read and write return.
var longAgo = time.Unix(1, 0)

func newUpstream(conn net.Conn, b *backend) *upstream {
	c := &upstream{Conn: conn, backend: b, br: bufio.NewReaderSize(conn, 4<<10)}
	if sc, ok := conn.(syscall.Conn); ok {
		c.raw, _ = sc.SyscallConn()
	}
	if c.raw != nil {
		_ = c.raw.Control(func(fd uintptr) { _ = dateReceipt(int(fd)) })
	}
	c.peek = func(fd uintptr) {
		n, _, err := syscall.Recvfrom(int(fd), c.first[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		c.got = max(0, n)
		switch {
		case err == syscall.EAGAIN || err == syscall.EINTR:
			c.found = quiet
		case err != nil || n <= 0:
			c.found = hungUp
		default:
			c.found = surplus
			if idleTimeout(c.first[:n]) {
				c.found = hungUp
			}
		}
	}
	c.begin = func(fd uintptr) {
		c.looked = time.Now()
		if c.peek(fd); c.found != quiet {
			return
		}
		c.asked = time.Now()
		n, err := syscall.Write(int(fd), c.out)
		if c.wrote = max(0, n); err != nil && err != syscall.EAGAIN && err != syscall.EINTR {
			c.wrong = err
		}
	}
	return c
}

// close closes the connection for good.
func (c *upstream) close() {
	c.backend.mu.Lock()
	delete(c.backend.conns, c)
	c.backend.mu.Unlock()
	_ = c.Conn.Close()
}

// discard does the same for who holds backend.mu.
func (c *upstream) discard() {
	delete(c.backend.conns, c)
	_ = c.Conn.Close()
}

// interrupt makes whoever uses the connection stop; the first reason stays.
func (c *upstream) interrupt(why int32) {
	c.ended.CompareAndSwap(0, why)
	_ = c.SetDeadline(longAgo)
}

// watch ends a request when its client leaves. Most answers are there before
// anybody could have seen that; only those that take longer than watchAfter
// are watched, since to watch a context costs more than to read a small answer.
type watch struct {
	timer *time.Timer // made once

	mu     sync.Mutex
	client context.Context // of the present request; nil: there is none
	stop   func() bool     // not nil: it is watched
}

const watchAfter = 10 * time.Millisecond

// watchFor interrupts the connection when the client's context ends, until
// unwatch.
func (c *upstream) watchFor(client context.Context) {
	w := &c.watch
	w.mu.Lock()
	w.client = client
	w.mu.Unlock()
	if w.timer == nil {
		w.timer = time.AfterFunc(watchAfter, c.watchNow)
	} else {
		w.timer.Reset(watchAfter)
	}
}

// watchNow may be late and meet the next request, which is watched early then.
func (c *upstream) watchNow() {
	w := &c.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.client != nil && w.stop == nil {
		w.stop = context.AfterFunc(w.client, func() { c.interrupt(endedByClient) })
	}
}

// unwatch reports whether the connection was not, and will not be, interrupted
// for the client's sake.
func (c *upstream) unwatch() bool {
	w := &c.watch
	w.timer.Stop()
	w.mu.Lock()
	stop := w.stop
	w.client, w.stop = nil, nil
	w.mu.Unlock()
	return stop == nil || stop()
}

// readWithin makes reads fail unless they are done in d, or up to a quarter
// more: a deadline already set that lies in between is left alone, since
// setting one costs more than reading a small answer.
func (c *upstream) readWithin(now time.Time, d time.Duration) {
	if left := c.readUntil.Sub(now); left >= d && left <= d+d/4 {
		return
	}
	c.readUntil = now.Add(d + d/4)
	_ = c.SetReadDeadline(c.readUntil)
	c.stayInterrupted()
}

// writeWithin does the same for writes, which may have a goroutine of their
// own.
func (c *upstream) writeWithin(now time.Time, d time.Duration) {
	if left := c.writeUntil.Sub(now); left >= d && left <= d+d/4 {
		return
	}
	c.writeUntil = now.Add(d + d/4)
	_ = c.SetWriteDeadline(c.writeUntil)
	c.stayInterrupted()
}

// stayInterrupted repairs a deadline that was set just after an interrupt.
func (c *upstream) stayInterrupted() {
	if c.ended.Load() != 0 {
		_ = c.SetDeadline(longAgo)
	}
}

// condition is what a look at a connection finds that has no request on it.
type condition int

const (
	quiet   condition = iota // as it should be
	hungUp                   // the backend has closed it, or says that it does
	surplus                  // the backend has sent what nobody asked for
)

// look asks the kernel, without waiting, what there is to read.
func (c *upstream) look() condition { return c.inspect(c.peek) }

// ask begins to write the request that out holds, if the connection is quiet:
// what can be read before the request is written is no answer to it. The look
// and the write follow one another at once, since what comes in between is
// hard to tell from an answer. How the write went, finish says.
func (c *upstream) ask() condition {
	c.wrote, c.wrong = 0, nil
	if c.ended.Load() != 0 { // the kernel knows nothing of our deadlines
		c.wrong = os.ErrDeadlineExceeded
		return quiet
	}
	return c.inspect(c.begin)
}

func (c *upstream) inspect(how func(fd uintptr)) condition {
	if c.br.Buffered() > 0 {
		return surplus
	}
	if c.raw == nil {
		return quiet
	}
	if err := c.raw.Control(how); err != nil {
		return hungUp
	}
	return c.found
}

// finish writes what ask left.
func (c *upstream) finish() error {
	if c.wrong != nil || c.wrote == len(c.out) {
		return c.wrong
	}
	_, err := c.Write(c.out[c.wrote:])
	return err
}

// dateReceipt has the kernel note when it receives what comes on a socket.
func dateReceipt(fd int) error {
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
}

// keepDates has the kernel date packets from now on. It begins to do so a
// moment after the first socket asks, and ends with the last: this one stays
// until it is released.
func keepDates() (release func(), err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := dateReceipt(fd); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return func() { _ = unix.Close(fd) }, nil
}

// atOnce is how long it may take from the look to the end of the write for the
// look to count still: about what the write itself takes.
const atOnce = 50 * time.Microsecond

// wasInterrupted reports whether there may have been more than a moment between
// the last look and the write: on a busy machine it may be a long one, and it
// may come as soon as the look is done.
func (c *upstream) wasInterrupted() bool { return time.Since(c.looked) > atOnce }

// spokeBefore reports whether what can be read came before the request was
// written, which was begun at the time given. As a rule nothing can be read
// yet, and the kernel need not be asked when it came.
func (c *upstream) spokeBefore(written time.Time) bool {
	if c.raw == nil || c.raw.Control(c.peek) != nil || c.got == 0 {
		return false
	}
	var came time.Time
	err := c.raw.Control(func(fd uintptr) {
		var b [1]byte
		control := make([]byte, 256)
		_, n, _, _, err := unix.Recvmsg(int(fd), b[:], control, unix.MSG_PEEK|unix.MSG_DONTWAIT)
		if err != nil {
			return
		}
		messages, err := unix.ParseSocketControlMessage(control[:n])
		if err != nil {
			return
		}
		for _, m := range messages {
			var at unix.Timespec
			if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS && binary.Size(at) <= len(m.Data) {
				if _, err := binary.Decode(m.Data, binary.NativeEndian, &at); err == nil {
					came = time.Unix(at.Unix())
				}
			}
		}
	})
	if err != nil || came.IsZero() || !came.Before(written) {
		return false
	}
	// It is the wall clock's time: not if that was set meanwhile.
	now := time.Now()
	set := now.Round(0).Sub(written.Round(0)) - now.Sub(written)
	return set.Abs() < time.Millisecond
}

// idleTimeout reports whether b begins an answer 408: some servers say so
// before they close a connection that has rested for long.
func idleTimeout(b []byte) bool {
	return len(b) == len(statusLineStart) && string(b[:7]) == "HTTP/1." && string(b[8:]) == " 408"
}

const statusLineStart = "HTTP/1.1 408"
