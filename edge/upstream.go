package edge

import (
	"bufio"
	"net"
	"sync/atomic"
	"syscall"
	"time"
)

// upstream is one connection to a backend. It belongs to one request at a
// time, or rests.
type upstream struct {
	net.Conn
	backend *backend
	br      *bufio.Reader
	raw     syscall.RawConn // nil where the connection has none
	out     []byte          // scratch for a request's head

	reused     bool      // has served a request before
	rested     time.Time // since when
	expires    time.Time // when the backend said that it hangs up; zero if it did not
	readUntil  time.Time // the deadlines set
	writeUntil time.Time

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

// headTimeoutMin is enough to look at a connection that rested.
const headTimeoutMin = time.Second

// longAgo as a deadline makes every pending read and write return.
var longAgo = time.Unix(1, 0)

func newUpstream(conn net.Conn, b *backend) *upstream {
	c := &upstream{Conn: conn, backend: b, br: bufio.NewReaderSize(conn, 4<<10)}
	if sc, ok := conn.(syscall.Conn); ok {
		c.raw, _ = sc.SyscallConn()
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

// interrupt makes whoever uses the connection stop; the first reason stays.
func (c *upstream) interrupt(why int32) {
	c.ended.CompareAndSwap(0, why)
	_ = c.SetDeadline(longAgo)
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

// quiet reports whether the backend has neither hung up nor sent what nobody
// asked for. It asks the kernel without waiting.
func (c *upstream) quiet() bool {
	if c.br.Buffered() > 0 {
		return false
	}
	if c.raw == nil {
		return true
	}
	quiet := false
	err := c.raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		quiet = err == syscall.EAGAIN
		return true
	})
	return err == nil && quiet
}
