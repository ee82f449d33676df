package guest

import (
	"context"
	"errors"
	"io"

	wire "github.com/miosa/miosa/wire/guest"
)

// channel carries messages between the outbox and whichever host is there,
// connection after connection.
type channel struct {
	transport transport
	out       *outbox
	boots     chan wire.Boot // the first one only
	stops     chan wire.Stop
	checks    chan wire.Check
	clock     clock
}

func newChannel(t transport, out *outbox) *channel {
	return &channel{transport: t, out: out, boots: make(chan wire.Boot, 1), stops: make(chan wire.Stop, 4), checks: make(chan wire.Check), clock: clock{kernel: ownClock()}}
}

// connection is the way to one host.
type connection struct {
	stream  io.ReadWriteCloser
	in, out *wire.Conn
	epoch   int           // the outbox's
	free    chan struct{} // closed when nobody else reads from in; nil: nobody does
}

// dial waits for a host. last is the reader of the connection before, if any:
// what was read of a stream that goes on may be half a frame of this host's.
func (c *channel) dial(ctx context.Context, last *wire.Conn) (*connection, error) {
	stream, fresh, err := c.transport.Dial(ctx)
	if err != nil {
		return nil, err
	}
	conn := &connection{stream: stream, epoch: c.out.connect()}
	conn.in, conn.out = framed(stream, fresh, last)
	return conn, nil
}

// framed is a new stream's reader and writer; last is the reader before, as in dial.
func framed(stream io.ReadWriter, fresh bool, last *wire.Conn) (in, out *wire.Conn) {
	out = wire.NewConn(stream)
	if fresh || last == nil {
		return out, out
	}
	return last, out
}

// run serves connections until ctx ends or the transport fails for good. conn
// is one that is open already, or nil.
func (c *channel) run(ctx context.Context, conn *connection) (err error) {
	var last *wire.Conn
	for {
		if conn == nil {
			if conn, err = c.dial(ctx, last); err != nil {
				return err
			}
		}
		c.serve(ctx, conn)
		conn, last = nil, conn.in
	}
}

// serve talks to one host until it has gone.
func (c *channel) serve(ctx context.Context, conn *connection) {
	written := make(chan struct{})
	go func() {
		defer close(written)
		if c.write(ctx, conn) != nil {
			_ = conn.stream.Close() // ends the reading too, where the stream is broken
		}
	}()
	if conn.free != nil {
		<-conn.free
	}
	c.read(conn.in)
	c.out.disconnect(conn.epoch)
	_ = conn.stream.Close()
	<-written
}

// write sends what the outbox picks until the connection is over.
func (c *channel) write(ctx context.Context, conn *connection) error {
	for {
		m, ok := c.out.next(ctx, conn.epoch)
		if !ok {
			return nil
		}
		if err := conn.out.WriteMessage(m); err != nil {
			return err
		}
	}
}

// read obeys messages until the stream ends.
func (c *channel) read(in *wire.Conn) {
	for {
		m, err := next(in)
		if err != nil {
			return
		}
		c.obey(m)
	}
}

// next is the next message. What can't be understood is passed over: the host
// may be newer.
func next(in *wire.Conn) (wire.Message, error) {
	for {
		m, err := in.ReadMessage()
		if _, invalid := errors.AsType[*wire.InvalidMessageError](err); !invalid {
			return m, err
		}
	}
}

// obey does what the host says.
func (c *channel) obey(m wire.Message) {
	switch {
	case m.Attach != nil:
		c.out.attach(*m.Attach)
	case m.Ack != nil:
		c.out.ack(*m.Ack)
	case m.Ping != nil:
		c.out.send(wire.Message{Pong: &wire.Ping{Seq: m.Ping.Seq, Clock: c.clock.read()}})
	case m.Adjust != nil:
		c.clock.adjust(*m.Adjust)
	case m.Boot != nil:
		select {
		case c.boots <- *m.Boot:
		default: // a host that repeats itself: the machine boots once
		}
	case m.Check != nil:
		select {
		case c.checks <- *m.Check:
		default: // one is being carried out, or the command does not run yet
		}
	case m.Stop != nil:
		select {
		case c.stops <- *m.Stop:
		default:
		}
	}
}
