package guest

import (
	"context"
	"errors"

	wire "github.com/miosa/miosa/wire/guest"
)

// channel carries messages between the outbox and whichever host is there,
// connection after connection.
type channel struct {
	transport transport
	out       *outbox
	boots     chan wire.Boot // the first one only
	stops     chan wire.Stop
}

func newChannel(t transport, out *outbox) *channel {
	return &channel{transport: t, out: out, boots: make(chan wire.Boot, 1), stops: make(chan wire.Stop, 4)}
}

// run serves connections until ctx ends or the transport fails for good.
func (c *channel) run(ctx context.Context) error {
	var in *wire.Conn
	for {
		rwc, fresh, err := c.transport.Dial(ctx)
		if err != nil {
			return err
		}
		out := wire.NewConn(rwc)
		// What was read of a stream that goes on may be half a frame of the
		// host that has just come.
		if fresh {
			in = out
		}
		epoch := c.out.connect()
		written := make(chan struct{})
		go func() {
			defer close(written)
			if c.write(ctx, out, epoch) != nil {
				_ = rwc.Close() // ends the reading too, where the stream is broken
			}
		}()
		c.read(in)
		c.out.disconnect(epoch)
		_ = rwc.Close()
		<-written
	}
}

// write sends what the outbox picks until the connection is over.
func (c *channel) write(ctx context.Context, conn *wire.Conn, epoch int) error {
	for {
		m, ok := c.out.next(ctx, epoch)
		if !ok {
			return nil
		}
		if err := conn.WriteMessage(m); err != nil {
			return err
		}
	}
}

// read obeys messages until the stream ends. What can't be understood is
// passed over: the host may be newer.
func (c *channel) read(conn *wire.Conn) {
	for {
		m, err := conn.ReadMessage()
		if _, invalid := errors.AsType[*wire.InvalidMessageError](err); invalid {
			continue
		}
		if err != nil {
			return
		}
		switch {
		case m.Attach != nil:
			c.out.attach(*m.Attach)
		case m.Ack != nil:
			c.out.ack(*m.Ack)
		case m.Ping != nil:
			c.out.send(wire.Message{Pong: m.Ping})
		case m.Boot != nil:
			select {
			case c.boots <- *m.Boot:
			default: // a host that repeats itself: the machine boots once
			}
		case m.Stop != nil:
			select {
			case c.stops <- *m.Stop:
			default:
			}
		}
	}
}
