package client

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"
)

// answerPatience is how long a connection that takes nothing more is read for
// the answer that may lie in it.
const answerPatience = 5 * time.Second

// dial opens a connection as net/http does by itself.
func dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &patientConn{Conn: c, closed: make(chan struct{})}, nil
}

// patientConn lets an answer win over a failed write. Whoever refuses a request
// answers before all of it came, and may close then: to write fails, while the
// answer lies there to be read. net/http reads and writes at once, and reports
// what ends first.
type patientConn struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

func (c *patientConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		timer := time.NewTimer(answerPatience)
		defer timer.Stop()
		select {
		case <-c.closed: // the reader is done: with the answer, or without
		case <-timer.C:
		}
	}
	return n, err
}

func (c *patientConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
