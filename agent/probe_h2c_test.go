package agent

import (
	"context"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/miosa/miosa"
)

// A health check over HTTP/2 makes one connection, and none is left of it,
// however the app receives it.
func TestAHealthCheckOverHTTP2HasOneConnection(t *testing.T) {
	serve := func(settings []http2.Setting, on func(*http2.Framer, *http2.HeadersFrame)) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					fr := http2.NewFramer(c, c)
					if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil || fr.WriteSettings(settings...) != nil {
						return
					}
					for {
						f, err := fr.ReadFrame()
						if err != nil {
							return
						}
						switch f := f.(type) {
						case *http2.SettingsFrame:
							if !f.IsAck() {
								_ = fr.WriteSettingsAck()
							}
						case *http2.HeadersFrame:
							on(fr, f)
						}
					}
				}()
			}
		}()
		return l.Addr().String()
	}
	nothing := func(*http2.Framer, *http2.HeadersFrame) {}
	for name, addr := range map[string]string{
		"allows no requests": serve([]http2.Setting{{ID: http2.SettingMaxConcurrentStreams, Val: 0}}, nothing),
		"goes away": serve(nil, func(fr *http2.Framer, _ *http2.HeadersFrame) {
			_ = fr.WriteGoAway(0, http2.ErrCodeNo, nil)
		}),
		"refuses": serve(nil, func(fr *http2.Framer, f *http2.HeadersFrame) {
			_ = fr.WriteRSTStream(f.StreamID, http2.ErrCodeRefusedStream)
		}),
		"resets": serve(nil, func(fr *http2.Framer, f *http2.HeadersFrame) {
			_ = fr.WriteRSTStream(f.StreamID, http2.ErrCodeProtocol)
		}),
	} {
		for _, how := range []miosa.HealthType{miosa.HealthHTTP, miosa.HealthGRPC} {
			t.Run(name+"/"+string(how), func(t *testing.T) {
				var dials atomic.Int64
				closed := make(chan struct{}, 1000)
				p := newProber(func(ctx context.Context, network, addr string) (net.Conn, error) {
					c, err := new(net.Dialer).DialContext(ctx, network, addr)
					if err != nil {
						return nil, err
					}
					dials.Add(1)
					return &countedConn{Conn: c, closed: closed}, nil
				})
				ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
				defer cancel()
				if detail, err := p.ask(ctx, how, miosa.HealthCheck{Path: "/"}, subject{addr: addr, h2c: true, public: public}); err == nil {
					t.Errorf("healthy: %s", detail)
				}
				if n := dials.Load(); n != 1 {
					t.Errorf("%d connections were made", n)
				}
				select {
				case <-closed:
				case <-time.After(30 * time.Second):
					t.Error("its connection is not closed")
				}
			})
		}
	}
}

// countedConn says so when it is closed.
type countedConn struct {
	net.Conn
	closed chan<- struct{}
}

func (c *countedConn) Close() error {
	select {
	case c.closed <- struct{}{}:
	default:
	}
	return c.Conn.Close()
}
