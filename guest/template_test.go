package guest

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	wire "github.com/miosa/miosa/wire/guest"
)

// oneHost is a transport with one host, who is there already.
type oneHost struct{ conn chan io.ReadWriteCloser }

func (o oneHost) Dial(ctx context.Context) (io.ReadWriteCloser, bool, error) {
	select {
	case c := <-o.conn:
		return c, true, nil
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
}

// A copy that has begun to speak because its configuration is late still takes
// that in whole, however it comes.
func TestACopyIsToldLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		host, inside := net.Pipe()
		defer host.Close()
		i := &Init{console: io.Discard, out: newTestOutbox(1 << 10)}
		i.out.template = true
		there := oneHost{make(chan io.ReadWriteCloser, 1)}
		there.conn <- inside
		i.channel = newChannel(there, i.out)
		listened := make(chan error, 1)
		go func() { listened <- i.listen(ctx) }()

		conn := wire.NewConn(host)
		if err := conn.WriteMessage(wire.Message{Attach: &wire.Attach{Nonce: 7, Quiet: true}}); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if m, err := conn.ReadMessage(); err != nil || m.Hello == nil || m.Hello.Nonce != 7 || time.Since(began) != quietFor {
			t.Fatalf("%+v, %v after %s", m, err, time.Since(began))
		}
		var frame bytes.Buffer
		if err := wire.NewConn(&frame).WriteMessage(wire.Message{Boot: &wire.Boot{InstanceID: "ri_x"}}); err != nil {
			t.Fatal(err)
		}
		for frame.Len() > 0 {
			if _, err := host.Write(frame.Next(10)); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if len(i.channel.boots) != 1 || len(listened) != 1 {
			t.Fatalf("%d configurations came, and %d times it went on", len(i.channel.boots), len(listened))
		}
		// And it hears what comes then.
		if err := conn.WriteMessage(wire.Message{Stop: &wire.Stop{}}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if len(i.channel.stops) != 1 {
			t.Error("a stop was not heard")
		}
	})
}
