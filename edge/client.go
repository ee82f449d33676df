package edge

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"

	"github.com/miosa/miosa/routing"
)

// peer is the other end of a client's connection, or the one that a PROXY
// protocol header names in its place.
type peer struct {
	addr    netip.Addr
	name    string // as in X-Forwarded-For
	trusted bool   // a proxy of ours: what it says of its client holds
	secure  bool   // it speaks TLS to a proxy that said so in a PROXY protocol header
}

type peerKey struct{}

// withPeer has a connection's peer be found out once for all its requests, by
// the first: who a proxy's client is may be known late.
func (rt *Router) withPeer(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, peerKey{}, sync.OnceValue(func() *peer {
		p := rt.peerOf(conn.RemoteAddr().String())
		if c, ok := conn.(*proxiedConn); ok {
			p.secure = c.secure()
		}
		return p
	}))
}

func (rt *Router) peerFor(r *http.Request) *peer {
	if of, ok := r.Context().Value(peerKey{}).(func() *peer); ok {
		return of()
	}
	return rt.peerOf(r.RemoteAddr)
}

func (rt *Router) peerOf(remote string) *peer {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return &peer{name: "unknown"} // a listener of another family
	}
	p := &peer{addr: ap.Addr().Unmap().WithZone("")}
	p.name = p.addr.String()
	p.trusted = rt.trusts(p.addr)
	return p
}

func (rt *Router) trusts(addr netip.Addr) bool {
	for _, prefix := range rt.cfg.TrustedProxies {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}

// origin is what the app is told about where the request came from.
type origin struct {
	forwardedFor string
	proto        string
	host         string
	forwarded    string
}

// clientOf is the address of the client itself: the peer's, or behind proxies
// of ours the last address in X-Forwarded-For that is not one of theirs.
func (rt *Router) clientOf(p *peer, h http.Header) netip.Addr {
	if !p.trusted {
		return p.addr
	}
	client := p.addr
	hops := strings.Split(strings.Join(h.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0; i-- {
		addr, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		client = addr.Unmap().WithZone("")
		if !rt.trusts(client) {
			break
		}
	}
	return client
}

func (x *exchange) origin() origin {
	p, r := x.peer, x.r
	o := origin{forwardedFor: p.name, proto: "http", host: r.Host}
	if r.TLS != nil || p.secure {
		o.proto = "https"
	}
	node := p.name
	if p.addr.Is6() {
		node = `"[` + node + `]"`
	}
	host := r.Host
	if strings.IndexByte(host, ':') >= 0 {
		host = `"` + host + `"`
	}
	o.forwarded = "for=" + node + ";host=" + host + ";proto=" + o.proto
	if !p.trusted {
		return o
	}
	if prior := r.Header.Values("X-Forwarded-For"); len(prior) > 0 {
		o.forwardedFor = strings.Join(prior, ", ") + ", " + o.forwardedFor
	}
	if prior := r.Header.Values("Forwarded"); len(prior) > 0 {
		o.forwarded = strings.Join(prior, ", ") + ", " + o.forwarded
	}
	if prior := forwardedProto(r); prior == "http" || prior == "https" {
		o.proto = prior
	}
	if prior := r.Header.Get("X-Forwarded-Host"); prior != "" {
		if _, ok := routing.HostName(prior); ok {
			o.host = prior
		}
	}
	return o
}

// forwardedProto is what the first of several proxies says that its client
// speaks.
func forwardedProto(r *http.Request) string {
	first, _, _ := strings.Cut(r.Header.Get("X-Forwarded-Proto"), ",")
	return strings.ToLower(strings.TrimSpace(first))
}

// secure reports whether the client speaks TLS, to us or to a proxy of ours.
func (x *exchange) secure() bool {
	return x.r.TLS != nil || x.peer.secure || x.peer.trusted && forwardedProto(x.r) == "https"
}

// saneRequestID reports whether a client's own request ID may be kept: it
// goes into headers, pages and logs as it is.
func saneRequestID(id string) bool {
	if id == "" || len(id) > 128 {
		return false
	}
	for i := range len(id) {
		switch c := id[i]; {
		case 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9':
		case strings.IndexByte("-_.:/+=@", c) >= 0:
		default:
			return false
		}
	}
	return true
}
