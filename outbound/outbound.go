// Package outbound calls the addresses that customers name: receivers of their
// logs and events. Such an address is a stranger's wish, made from inside the
// operator's network: it must not reach what only the operator may.
package outbound

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"github.com/miosa/miosa"
)

const (
	dialTimeout      = 10 * time.Second
	handshakeTimeout = 10 * time.Second
	headerTimeout    = 30 * time.Second
	idleTimeout      = 90 * time.Second
	// headerBytes bounds the headers of an answer; its body is its reader's.
	headerBytes = 64 << 10
)

// global is all of IPv6 that IANA gives out for the public. netip takes what
// lies outside for public too: site-local addresses (RFC 3879), and those that
// carry an IPv4 address, which might be a private one (RFC 4291, 2765, 6052,
// 8215).
var global = netip.MustParsePrefix("2000::/3")

// inside are the ranges that lead into somebody's own network though netip
// does not say so: shared address space (RFC 6598), benchmarking (RFC 2544),
// protocol assignments (RFC 6890), "this network" (RFC 791), reserved
// (RFC 1112), and the tunnels that carry an IPv4 address inside IPv6 (RFC 3056;
// RFC 4380, which is among the protocol assignments).
var inside = []netip.Prefix{
	netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("192.0.0.0/24"), netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("2001::/23"),
}

// Guard says where a customer's wish may lead: to public addresses, and to
// what the operator allows besides. The zero Guard allows public ones only.
type Guard struct {
	Allow []netip.Prefix
	// Only what Allow holds, and no public address: for what is spoken without
	// TLS.
	Only bool
	// Cell are the addresses of the cell's machines, asked for at each dial: none
	// of them is called, nor any of this machine's, unless Allow holds it by
	// itself (or, of the loopback, at all). nil: this machine's alone.
	Cell func(context.Context) ([]netip.Addr, error)
}

// Permits reports whether an address may be connected to, as far as its number
// tells: what is our own is found out at the dial.
func (g Guard) Permits(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	for _, p := range g.Allow {
		if p.Contains(a) {
			return true
		}
	}
	if g.Only || !a.IsGlobalUnicast() || a.IsPrivate() || a.Is6() && !global.Contains(a) {
		return false
	}
	for _, p := range inside {
		if p.Contains(a) {
			return false
		}
	}
	return true
}

// Dialer connects to permitted addresses only, and never to our own. It asks
// once the name has been resolved, for each address that is tried, so that no
// answer of a name server can change in between. The error is a *miosa.Error
// Forbidden that does not say which address it was, or why: Why has the words
// for whoever gave the name. It is Passing where our own addresses could not be
// told: nothing was refused.
func (g Guard) Dialer() *net.Dialer {
	return &net.Dialer{Timeout: dialTimeout, ControlContext: func(ctx context.Context, _, address string, _ syscall.RawConn) error {
		a, err := netip.ParseAddrPort(address)
		if err != nil {
			return fmt.Errorf("address %q: %w", address, err)
		}
		ours, err := g.own(ctx, a.Addr())
		switch {
		case err != nil:
			e := miosa.Wrap(err, miosa.Forbidden, unreached) // for all we know it is our own
			e.Passing = true
			return e
		case !g.Permits(a.Addr()), ours && !g.named(a.Addr()):
			return miosa.Errorf(miosa.Forbidden, unreached)
		}
		return nil
	}}
}

// Client is ClientTLS with the system's certificate authorities.
func (g Guard) Client() *http.Client { return g.ClientTLS(nil) }

// ClientTLS is an HTTP client over the guard's dialer. It knows no proxy of the
// environment's and follows no redirect: the answer is what the receiver said.
// Every request needs a deadline of its own.
func (g Guard) ClientTLS(config *tls.Config) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext:            g.Dialer().DialContext,
			TLSClientConfig:        config,
			TLSHandshakeTimeout:    handshakeTimeout,
			ResponseHeaderTimeout:  headerTimeout,
			MaxResponseHeaderBytes: headerBytes,
			IdleConnTimeout:        idleTimeout,
			MaxIdleConnsPerHost:    2,
			ForceAttemptHTTP2:      true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Unresolved says why a name has no address, without what the error says
// besides: which name server was asked, and from where.
func Unresolved(err *net.DNSError) string {
	switch {
	case err.IsNotFound:
		return "no such host"
	case err.IsTimeout:
		return "the name servers do not answer in time"
	}
	return "the name servers fail"
}
