package edge

import (
	"net"
	"sync/atomic"
	"time"
)

// stallListener gives every connection a write deadline that moves on with
// each write: a client that reads nothing is let go, one that reads a stream
// for days is not.
type stallListener struct {
	net.Listener
	stall time.Duration
}

func (l stallListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3})
	}
	return &stallConn{Conn: conn, stall: l.stall}, nil
}

type stallConn struct {
	net.Conn
	stall time.Duration
	until atomic.Int64 // the write deadline set, Unix nanoseconds
}

func (c *stallConn) Write(p []byte) (int, error) {
	now := time.Now()
	if until := c.until.Load(); until-now.UnixNano() < int64(c.stall)/2 {
		at := now.Add(c.stall)
		c.until.Store(at.UnixNano())
		_ = c.Conn.SetWriteDeadline(at)
	}
	return c.Conn.Write(p)
}

// SetDeadline and SetWriteDeadline are for those who know better: the deadline
// is theirs until they take it away, as net/http does after a TLS handshake.
func (c *stallConn) SetDeadline(t time.Time) error {
	c.theirs(t)
	return c.Conn.SetDeadline(t)
}

func (c *stallConn) SetWriteDeadline(t time.Time) error {
	c.theirs(t)
	return c.Conn.SetWriteDeadline(t)
}

func (c *stallConn) theirs(t time.Time) {
	if t.IsZero() {
		c.until.Store(0)
	} else {
		c.until.Store(1<<63 - 1)
	}
}

func (c *stallConn) CloseWrite() error { return closeWriteOf(c.Conn) }

func closeWriteOf(conn net.Conn) error {
	if c, ok := conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return conn.Close()
}
