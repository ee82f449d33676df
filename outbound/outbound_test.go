package outbound_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/outbound"
)

func TestPermits(t *testing.T) {
	var closed outbound.Guard
	open := outbound.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("::1/128")}}
	for _, x := range []struct {
		addr         string
		closed, open bool
	}{
		{"93.184.216.34", true, true},
		{"2606:2800:220:1::1", true, true},
		{"::ffff:93.184.216.34", true, true},
		{"127.0.0.1", false, false},
		{"::ffff:127.0.0.1", false, false},
		{"::1", false, true},
		{"10.1.2.3", false, true},
		{"::ffff:10.1.2.3", false, true},
		{"10.2.2.3", false, false},
		{"192.168.0.1", false, false},
		{"172.16.0.1", false, false},
		{"169.254.169.254", false, false},
		{"fe80::1%eth0", false, false},
		{"fd00:ec2::254", false, false},
		{"100.64.0.1", false, false},
		{"0.0.0.0", false, false},
		{"0.1.2.3", false, false},
		{"255.255.255.255", false, false},
		{"240.0.0.1", false, false},
		{"224.0.0.1", false, false},
		{"::", false, false},
		{"64:ff9b::7f00:1", false, false},
		{"64:ff9b:1::7f00:1", false, false},
		{"::7f00:1", false, false},        // IPv4-compatible
		{"::ffff:0:7f00:1", false, false}, // IPv4-translated
		{"fec0::1", false, false},         // site-local
		{"100::1", false, false},          // to be discarded
		{"2001:0:7f00:1::", false, false},
		{"2001:2::1", false, false},
		{"2a00:1450:4001:81b::200e", true, true},
		{"2002:7f00:1::", false, false},
	} {
		a := netip.MustParseAddr(x.addr)
		if got := closed.Permits(a); got != x.closed {
			t.Errorf("Permits(%s) = %v, want %v", x.addr, got, x.closed)
		}
		if got := open.Permits(a); got != x.open {
			t.Errorf("Permits(%s) with what the operator allows = %v, want %v", x.addr, got, x.open)
		}
		only := outbound.Guard{Allow: open.Allow, Only: true}
		if got := only.Permits(a); got != (x.open && !x.closed) {
			t.Errorf("Permits(%s) of allowed ones only = %v", x.addr, got)
		}
	}
}

func TestClient(t *testing.T) {
	asked := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		case "/endless":
			w.Header().Set("X-Endless", strings.Repeat("x", 200<<10))
		}
	}))
	t.Cleanup(s.Close)

	// By a name as well as by an address: what counts is where it leads.
	for _, url := range []string{s.URL, strings.Replace(s.URL, "127.0.0.1", "localhost", 1)} {
		_, err := outbound.Guard{}.Client().Get(url)
		if miosa.CodeOf(err) != miosa.Forbidden {
			t.Errorf("Get(%s) = %v, want forbidden", url, err)
		}
	}
	if asked != 0 {
		t.Fatal("a loopback server was asked")
	}
	allowed := outbound.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	resp, err := allowed.Client().Get(s.URL + "/moved")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusFound || asked != 1 {
		t.Errorf("status %d after %d requests, want the redirect itself after 1", resp.StatusCode, asked)
	}
	if _, err := allowed.Client().Get(s.URL + "/endless"); err == nil || !strings.Contains(err.Error(), "headers exceeded") {
		t.Errorf("headers without an end: %v", err)
	}
}

func TestUnresolvedTellsNoAddress(t *testing.T) {
	// A name server at which nobody listens any more, asked from an address of ours.
	gone, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := gone.LocalAddr().String()
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", at)
	}}
	_, err = resolver.LookupHost(t.Context(), "receiver.example.com")
	dns, ok := errors.AsType[*net.DNSError](err)
	if !ok || !strings.Contains(dns.Err, "127.0.0.1") {
		t.Fatalf("%v has no address that might be told", err)
	}
	if said := outbound.Unresolved(dns); strings.Contains(said, "127.0.0.1") || said == "" {
		t.Errorf("%q", said)
	}
	for want, err := range map[string]*net.DNSError{
		"no such host": {Err: "x", IsNotFound: true}, "the name servers do not answer in time": {Err: "x", IsTimeout: true},
	} {
		if got := outbound.Unresolved(err); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
