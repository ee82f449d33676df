package outbound_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/miosa/miosa/outbound"
)

// The words for a name that cannot be resolved tell nobody where it was asked for.
func TestWhyTellsNoAddress(t *testing.T) {
	err := &url.Error{Op: "Post", URL: "https://receiver/?token=hidden", Err: &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{
		Err: "read udp 10.1.2.3:5353->10.0.0.53:53: i/o timeout", Name: "receiver", Server: "10.0.0.53:53", IsTimeout: true,
	}}}
	if got, want := outbound.Why(err), "the receiver's name cannot be resolved: the name servers do not answer in time"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// Whatever the other end sends, nothing of it is repeated.
func TestWhyRepeatsNothing(t *testing.T) {
	client := outbound.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}.Client()
	tlsServer := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(tlsServer.Close)
	if _, err := client.Get(tlsServer.URL); err == nil || !strings.Contains(outbound.Why(err), "unknown authority") {
		t.Errorf("an unknown authority: %q of %v", outbound.Why(err), err)
	}
	for _, answer := range []string{
		"SSH-2.0-sesame\r\n", "HTTP/1.1 sesame\r\n\r\n", "HTTP/1.1 200 OK\r\nsesame\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: sesame\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: sesame\r\n\r\n",
		"HTTP/1.1 200 OK\r\nA: " + strings.Repeat("sesame", 40000) + "\r\n\r\n", "sesame", "",
	} {
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = bufio.NewReader(conn).ReadString('\n')
				fmt.Fprint(conn, answer)
				conn.Close()
			}
		}()
		for _, scheme := range []string{"http://", "https://"} {
			resp, err := client.Get(scheme + l.Addr().String())
			if err == nil {
				resp.Body.Close()
				t.Errorf("%.40q is an answer", answer)
				continue
			}
			if words := outbound.Why(err); words == "" || strings.Contains(words, "sesame") || strings.Contains(words, "SSH") || strings.Contains(words, "127.0.0.1") {
				t.Errorf("%.40q: %q", answer, words)
			}
		}
	}
}
