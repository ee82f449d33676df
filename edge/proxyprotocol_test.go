package edge

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"

	"github.com/miosa/miosa/routing"
)

const plainRequest = "GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n"

// loopback trusts whoever connects in a test.
var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

// proxied is a router behind proxies that send PROXY protocol headers, and an
// app that says what it was told.
func proxied(t *testing.T, trusted ...string) (_ *rig, stop func()) {
	cfg := Config{ProxyProtocol: true, TrustedProxies: loopback}
	for _, p := range trusted {
		cfg.TrustedProxies = append(cfg.TrustedProxies, netip.MustParsePrefix(p))
	}
	g, stop := newRig(t, cfg)
	g.route(map[string]routing.Pool{"app.test": poolOf(at("ri_a", app(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "%s %s;", r.Header.Get("X-Forwarded-For"), r.Header.Get("X-Forwarded-Proto"))
	})))})
	return g, stop
}

// header is a PROXY protocol header of version 2.
func header(t *testing.T, from, to string, command proxyproto.ProtocolVersionAndCommand, tlvs ...proxyproto.TLV) string {
	h := proxyproto.HeaderProxyFromAddrs(2, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from)), net.TCPAddrFromAddrPort(netip.MustParseAddrPort(to)))
	h.Command = command
	if err := h.SetTLVs(tlvs); err != nil {
		t.Fatal(err)
	}
	raw, err := h.Format()
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func overTLS(t *testing.T, client uint8) proxyproto.TLV {
	tlv, err := tlvparse.PP2SSL{Client: client, Verify: 1}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return tlv
}

func TestProxyProtocol(t *testing.T) {
	g, stop := proxied(t, "192.0.2.0/24")
	for name, c := range map[string]struct{ header, forwarded, want string }{
		"version 1":                     {"PROXY TCP4 203.0.113.7 198.51.100.1 40000 80\r\n", "", "203.0.113.7 http;"},
		"version 1, IPv6":               {"PROXY TCP6 2001:db8::7 2001:db8::1 40000 80\r\n", "", "2001:db8::7 http;"},
		"version 1, port of HTTPS":      {"PROXY TCP4 203.0.113.7 198.51.100.1 40000 443\r\n", "", "203.0.113.7 https;"},
		"version 1, unknown":            {"PROXY UNKNOWN\r\n", "", "127.0.0.1 http;"},
		"version 2":                     {header(t, "203.0.113.7:40000", "198.51.100.1:80", proxyproto.PROXY), "", "203.0.113.7 http;"},
		"version 2, IPv6":               {header(t, "[2001:db8::7]:40000", "[2001:db8::1]:80", proxyproto.PROXY), "", "2001:db8::7 http;"},
		"version 2, TLS":                {header(t, "203.0.113.7:40000", "198.51.100.1:8443", proxyproto.PROXY, overTLS(t, tlvparse.PP2_BITFIELD_CLIENT_SSL)), "", "203.0.113.7 https;"},
		"version 2, no TLS on 443":      {header(t, "203.0.113.7:40000", "198.51.100.1:443", proxyproto.PROXY, overTLS(t, 0)), "", "203.0.113.7 http;"},
		"the proxy itself":              {header(t, "203.0.113.7:40000", "198.51.100.1:443", proxyproto.LOCAL), "", "127.0.0.1 http;"},
		"a client that poses":           {"PROXY TCP4 203.0.113.7 198.51.100.1 40000 80\r\n", "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n", "203.0.113.7 http;"},
		"a proxy of ours behind it":     {"PROXY TCP4 192.0.2.9 198.51.100.1 40000 80\r\n", "X-Forwarded-For: 203.0.113.8\r\nX-Forwarded-Proto: https\r\n", "203.0.113.8, 192.0.2.9 https;"},
		"proxies that each say a thing": {"PROXY TCP4 192.0.2.9 198.51.100.1 40000 80\r\n", "X-Forwarded-Proto: HTTPS, http\r\n", "192.0.2.9 https;"},
	} {
		t.Run(name, func(t *testing.T) {
			got := g.raw(c.header + strings.Replace(plainRequest, "\r\n\r\n", "\r\n"+c.forwarded+"\r\n", 1))
			if !strings.HasPrefix(got, "HTTP/1.1 200 ") || !strings.HasSuffix(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
	stop()
	for client, n := range map[string]int{"203.0.113.7": 6, "203.0.113.8": 1, "2001:db8::7": 2, "192.0.2.9": 1, "127.0.0.1": 2} {
		if got := strings.Count(g.log.String(), `"client":"`+client+`"`); got < n {
			t.Errorf("the log names %s %d times, want %d:\n%s", client, got, n, g.log)
		}
	}
	if said := g.said.String(); strings.Contains(said, "PROXY") {
		t.Error(said)
	}
}

// All requests of a connection have the client that its header names.
func TestProxyProtocolOnce(t *testing.T) {
	g, _ := proxied(t)
	got := g.raw("PROXY TCP4 203.0.113.7 198.51.100.1 40000 80\r\nGET / HTTP/1.1\r\nHost: app.test\r\n\r\n" + plainRequest)
	if strings.Count(got, "203.0.113.7 http;") != 2 {
		t.Errorf("%q", got)
	}
}

// A trusted proxy without the header is not served, and its operator told why.
func TestProxyProtocolIsAMust(t *testing.T) {
	for name, request := range map[string]string{
		"none":      plainRequest,
		"malformed": "PROXY TCP4 203.0.113.7 nowhere 1 2\r\n" + plainRequest,
		"too long":  "PROXY TCP4 " + strings.Repeat("1", 200) + "\r\n" + plainRequest,
	} {
		t.Run(name, func(t *testing.T) {
			g, stop := proxied(t)
			if got := g.raw(request); strings.Contains(got, "127.0.0.1 http;") || strings.Contains(got, "HTTP/1.1 200") {
				t.Errorf("%q", got)
			}
			stop()
			if said := g.said.String(); strings.Count(said, "have the proxy send one") != 1 || !strings.Contains(said, "proxy=127.0.0.1:") {
				t.Error(said)
			}
		})
	}
	t.Run("a probe that only connects", func(t *testing.T) {
		g, stop := proxied(t)
		c := g.dial()
		c.Close()
		if got := g.raw("PROXY UNKNOWN\r\n" + plainRequest); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
			t.Errorf("%q", got)
		}
		stop()
		if said := g.said.String(); strings.Contains(said, "PROXY") {
			t.Error(said)
		}
	})
}

// Who is no proxy of ours does not get to name another as the client.
func TestProxyProtocolFromAnybody(t *testing.T) {
	g, _ := newRig(t, Config{ProxyProtocol: true, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
	g.route(map[string]routing.Pool{"app.test": poolOf(at("ri_a", app(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Header.Get("X-Forwarded-For"))
	})))})
	if got := g.raw("PROXY TCP4 203.0.113.7 198.51.100.1 40000 80\r\n" + plainRequest); !strings.HasPrefix(got, "HTTP/1.1 400 ") {
		t.Errorf("%q", got)
	}
	if got := g.raw(plainRequest); !strings.HasSuffix(got, "127.0.0.1") {
		t.Errorf("%q", got)
	}
}

// A proxy that takes its time with the header holds up nobody else, and not
// for ever.
func TestProxyProtocolThatIsLate(t *testing.T) {
	g, _ := newRig(t, Config{ProxyProtocol: true, TrustedProxies: loopback, HeadTimeout: 100 * time.Millisecond})
	g.route(map[string]routing.Pool{"app.test": poolOf(at("ri_a", app(t, func(w http.ResponseWriter, _ *http.Request) {})))})
	late := g.dial()
	_, _ = io.WriteString(late, "PROXY TCP4 ")
	if got := g.raw("PROXY UNKNOWN\r\n" + plainRequest); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Errorf("%q", got)
	}
	if got, err := io.ReadAll(late); err == nil && strings.Contains(string(got), "200") {
		t.Errorf("%q", got)
	}
}

// An end of one direction passes through it, as anywhere else.
func TestProxyProtocolBeforeATunnel(t *testing.T) {
	g := oneRaw(t, Config{ProxyProtocol: true, TrustedProxies: loopback}, oddApp)
	if got := g.tunnelled("PROXY UNKNOWN\r\n" + oddRequest + "early"); got != "first early last" {
		t.Errorf("%q", got)
	}
}
