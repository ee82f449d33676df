package edge

import (
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"
)

// proxiedListener has connections of trusted proxies begin with a PROXY
// protocol header, of version 1 or 2, which names the client. Those of anybody
// else are clients' own: what they begin with is a request, and a header there
// is refused as a malformed one.
type proxiedListener struct {
	net.Listener
	rt     *Router
	warned atomic.Int64 // Unix seconds
}

func (l *proxiedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if !l.rt.peerOf(conn.RemoteAddr().String()).trusted {
		return conn, nil
	}
	raw := &heardConn{Conn: conn}
	// The header is read by whoever serves the connection: here it would hold
	// up all others.
	return &proxiedConn{
		raw: raw, Conn: proxyproto.NewConn(raw, proxyproto.WithPolicy(proxyproto.REQUIRE), proxyproto.SetReadHeaderTimeout(l.rt.cfg.HeadTimeout)),
		from: l,
	}, nil
}

// bad has an operator know that a proxy does not do as configured; a minute
// may pass between two such lines.
func (l *proxiedListener) bad(c *proxiedConn, err error) {
	now, last := time.Now().Unix(), l.warned.Load()
	if now-last < 60 || !l.warned.CompareAndSwap(last, now) {
		return
	}
	l.rt.log.Warn("a trusted proxy's connection has no valid PROXY protocol header: have the proxy send one, or start without --proxy-protocol",
		slog.String("proxy", c.raw.RemoteAddr().String()), slog.Any("err", err))
}

type proxiedConn struct {
	*proxyproto.Conn
	raw  *heardConn
	from *proxiedListener
}

func (c *proxiedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	// A probe that only connects is none to complain of.
	if err != nil && c.ProxyHeader() == nil && c.raw.heard.Load() {
		c.from.bad(c, err)
	}
	return n, err
}

func (c *proxiedConn) CloseWrite() error { return closeWriteOf(c.raw.Conn) }

// heardConn knows whether anything has come.
type heardConn struct {
	net.Conn
	heard atomic.Bool
}

func (c *heardConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 && !c.heard.Load() {
		c.heard.Store(true)
	}
	return n, err
}

// secure reports whether the client speaks TLS to the proxy, which says so, or
// took it on the port of HTTPS: had it not ended TLS there, this were no
// connection for HTTP.
func (c *proxiedConn) secure() bool {
	h := c.ProxyHeader()
	if h == nil || h.Command.IsLocal() {
		return false
	}
	if tlvs, err := h.TLVs(); err == nil {
		for _, tlv := range tlvs {
			if tlv.Type == proxyproto.PP2_TYPE_SSL && len(tlv.Value) > 0 {
				return tlv.Value[0]&tlvparse.PP2_BITFIELD_CLIENT_SSL != 0
			}
		}
	}
	_, to, ok := h.TCPAddrs()
	return ok && to.Port == 443
}
