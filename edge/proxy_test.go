package edge

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/netip"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/balance"
	"github.com/miosa/miosa/routing"
)

func TestRequestReachesTheAppAsItWas(t *testing.T) {
	g := one(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s host=%s ct=%s multi=%q body=%s", r.Method, r.RequestURI, r.Host, r.Header.Get("Content-Type"), r.Header.Values("X-Multi"), b)
	})
	got := g.do("PATCH", "http://app.test/a%2Fb//c?q=%20;x", strings.NewReader("hello"), "Content-Type", "text/x", "X-Multi", "1", "X-Multi", "2", "Host", "APP.test:8080")
	if want := `PATCH /a%2Fb//c?q=%20;x host=APP.test:8080 ct=text/x multi=["1" "2"] body=hello`; got.body != want {
		t.Errorf("got  %s\nwant %s", got.body, want)
	}
}

func TestHostForms(t *testing.T) {
	g, _ := newRig(t, Config{})
	a := at("ri_a", app(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%s %s", r.Host, r.RequestURI) }))
	g.route(map[string]routing.Pool{"app.test": poolOf(a), "::1": poolOf(a)})
	for name, c := range map[string]struct{ request, status, body string }{
		"plain":             {"GET / HTTP/1.1\r\nHost: app.test", "200", "app.test /"},
		"case, dot, port":   {"GET / HTTP/1.1\r\nHost: App.TEST.:99", "200", "App.TEST.:99 /"},
		"ipv6":              {"GET / HTTP/1.1\r\nHost: [0::1]:80", "200", "[0::1]:80 /"},
		"absolute":          {"GET http://app.test/x?y HTTP/1.1\r\nHost: other.test", "200", "app.test /x?y"},
		"absolute, no path": {"GET http://app.test HTTP/1.1\r\nHost: app.test", "200", "app.test /"},
		"options star":      {"OPTIONS * HTTP/1.1\r\nHost: app.test", "200", ""},
		"get star":          {"GET * HTTP/1.1\r\nHost: app.test", "400", ""},
		"ftp":               {"GET ftp://app.test/ HTTP/1.1\r\nHost: app.test", "400", ""},
		"no host, 1.1":      {"GET / HTTP/1.1", "400", ""},
		"no host, 1.0":      {"GET / HTTP/1.0", "400", ""},
		"empty host":        {"GET / HTTP/1.1\r\nHost:", "400", ""},
		"two hosts":         {"GET / HTTP/1.1\r\nHost: app.test\r\nHost: app.test", "400", ""},
		"bad host":          {"GET / HTTP/1.1\r\nHost: app.test/x", "400", ""},
		"userinfo":          {"GET / HTTP/1.1\r\nHost: a@app.test", "400", ""},
		"unknown":           {"GET / HTTP/1.1\r\nHost: nobody.test", "404", ""},
		"connect":           {"CONNECT app.test:443 HTTP/1.1\r\nHost: app.test", "405", ""},
	} {
		got := g.raw(c.request + "\r\nConnection: close\r\n\r\n")
		if !strings.HasPrefix(got, "HTTP/1.1 "+c.status) && !strings.HasPrefix(got, "HTTP/1.0 "+c.status) || !strings.HasSuffix(got, c.body) {
			t.Errorf("%s: want %s %q, got:\n%s", name, c.status, c.body, got)
		}
	}
}

// TestSmuggling sends requests that two parsers may read in two ways; the app
// must see either nothing, or one request framed in one way.
func TestSmuggling(t *testing.T) {
	heads := make(chan string, 16)
	g := oneRaw(t, Config{}, func(c net.Conn, br *bufio.Reader) {
		for {
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			b, _ := io.ReadAll(req.Body)
			heads <- fmt.Sprintf("%s %s te=%v cl=%d body=%q", req.Method, req.URL.Path, req.TransferEncoding, req.ContentLength, b)
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	})
	const post = "POST /front HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n"
	for name, request := range map[string]string{
		"te and cl":          post + "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: app.test\r\n\r\n",
		"two lengths":        post + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
		"te twice":           post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
		"te unknown":         post + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"te with tab":        post + "Transfer-Encoding:\tchunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: app.test\r\n\r\n",
		"space before colon": post + "Transfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
		"plus length":        post + "Content-Length: +5\r\n\r\nhello",
		"cr in value":        post + "X: a\rTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nhello",
		"nul in value":       post + "X: a\x00b\r\nContent-Length: 5\r\n\r\nhello",
		"bad name":           post + "X(y): a\r\nContent-Length: 5\r\n\r\nhello",
		"h2c upgrade":        "GET /front HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
	} {
		c := g.dial()
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		c.Close()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var seen []string
		for len(heads) > 0 {
			seen = append(seen, <-heads)
		}
		if res.StatusCode >= 400 && len(seen) == 0 {
			continue
		}
		if res.StatusCode != 200 || len(seen) != 1 || strings.Contains(seen[0], "/smuggled") || strings.Contains(seen[0], "te=[chunked] cl=5") {
			t.Errorf("%s: status %d, the app saw %q", name, res.StatusCode, seen)
		}
	}
}

func TestHeadersToTheApp(t *testing.T) {
	seen := make(chan http.Header, 1)
	handler := func(w http.ResponseWriter, r *http.Request) { seen <- r.Header }
	lie := []string{
		"X-Forwarded-For", "6.6.6.6", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "evil.test", "Forwarded", "for=6.6.6.6",
		"X-Real-Ip", "6.6.6.6", "X_Forwarded_For", "6.6.6.6", "Connection", "X-Hop, keep-alive", "X-Hop", "1",
		"Proxy-Authorization", "secret", "Te", "trailers, deflate", "X-Keep_Me", "yes",
	}
	t.Run("untrusted", func(t *testing.T) {
		g := one(t, Config{}, handler)
		g.get("http://app.test/", lie...)
		h := <-seen
		for name, want := range map[string]string{
			"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "app.test",
			"Forwarded": "for=127.0.0.1;host=app.test;proto=http", "X-Real-Ip": "", "X-Hop": "", "Connection": "",
			"Proxy-Authorization": "", "Te": "trailers", "X-Keep_me": "yes",
		} {
			if got := strings.Join(h[name], "|"); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		for name := range h {
			if strings.Contains(name, "_") && strings.HasPrefix(name, "X_") {
				t.Errorf("%s went through", name)
			}
		}
	})
	t.Run("trusted", func(t *testing.T) {
		g := one(t, Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}, handler)
		g.get("http://app.test/", lie...)
		h := <-seen
		for name, want := range map[string]string{
			"X-Forwarded-For": "6.6.6.6, 127.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.test",
			"Forwarded": "for=6.6.6.6, for=127.0.0.1;host=app.test;proto=http", "X-Real-Ip": "6.6.6.6",
		} {
			if got := strings.Join(h[name], "|"); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
	})
}

func TestRequestID(t *testing.T) {
	g := one(t, Config{}, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Header.Get("X-Request-Id")) })
	if got := g.get("http://app.test/", "X-Request-Id", "abc-123"); got.body != "abc-123" || got.Header.Get("X-Request-Id") != "abc-123" {
		t.Errorf("a sane one was not kept: %s %v", got.body, got.Header)
	}
	for _, id := range []string{"", "a b", "<script>", strings.Repeat("x", 129)} {
		got := g.get("http://app.test/", "X-Request-Id", id)
		if miosa.IDPrefix(got.body) != "req" || got.Header.Get("X-Request-Id") != got.body {
			t.Errorf("%q: the app saw %q, the client %q", id, got.body, got.Header.Get("X-Request-Id"))
		}
	}
}

func TestAnswersComeBackAsTheyWere(t *testing.T) {
	for name, c := range map[string]struct {
		method, raw string
		status      int
		body        string
		header      map[string]string
	}{
		"length":          {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\nhello", 200, "hello", map[string]string{"Set-Cookie": "a=1|b=2", "Content-Type": ""}},
		"chunked":         {"GET", "HTTP/1.1 201 Made\r\nTransfer-Encoding: chunked\r\nContent-Type: a/b\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n", 201, "hello", map[string]string{"Content-Type": "a/b"}},
		"until close":     {"GET", "HTTP/1.1 200 OK\r\n\r\nhello", 200, "hello", nil},
		"http 1.0":        {"GET", "HTTP/1.0 200 OK\r\n\r\nhello", 200, "hello", nil},
		"no reason":       {"GET", "HTTP/1.1 418\r\nContent-Length: 0\r\n\r\n", 418, "", nil},
		"bare newlines":   {"GET", "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", 200, "hello", nil},
		"head":            {"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 200, "", map[string]string{"Content-Length": "5"}},
		"head chunked":    {"HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, "", nil},
		"204":             {"GET", "HTTP/1.1 204 No Content\r\n\r\n", 204, "", nil},
		"304":             {"GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\nETag: x\r\n\r\n", 304, "", map[string]string{"Etag": "x"}},
		"te and cl":       {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 500\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 200, "hello", nil},
		"te twice":        {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 200, "hello", nil},
		"te in a list":    {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked , chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 200, "hello", nil},
		"another coding":  {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n", 502, "", nil},
		"hop by hop":      {"GET", "HTTP/1.1 200 OK\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: x\r\nContent-Length: 0\r\n\r\n", 200, "", map[string]string{"X-Hop": "", "Keep-Alive": "", "Proxy-Authenticate": ""}},
		"informational":   {"GET", "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, "ok", map[string]string{"Link": ""}},
		"long head":       {"GET", "HTTP/1.1 200 OK\r\nX-Long: " + strings.Repeat("x", 20_000) + "\r\nContent-Length: 2\r\n\r\nok", 200, "ok", map[string]string{"X-Long": strings.Repeat("x", 20_000)}},
		"garbage":         {"GET", "SSH-2.0-OpenSSH\r\n\r\n", 502, "", nil},
		"two lengths":     {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 502, "", nil},
		"negative length": {"GET", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", 502, "", nil},
		"odd coding":      {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", 502, "", nil},
		"folded":          {"GET", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n", 502, "", nil},
		"control char":    {"GET", "HTTP/1.1 200 OK\r\nX: a\x01b\r\nContent-Length: 0\r\n\r\n", 502, "", nil},
		"space in name":   {"GET", "HTTP/1.1 200 OK\r\nX y: a\r\nContent-Length: 0\r\n\r\n", 502, "", nil},
		"status 99":       {"GET", "HTTP/1.1 099 Odd\r\nContent-Length: 0\r\n\r\n", 502, "", nil},
		"101 unasked":     {"GET", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", 502, "", nil},
		"half a head":     {"GET", "HTTP/1.1 200 OK\r\nContent-Le", 502, "", nil},
		"endless head":    {"GET", "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: "+strings.Repeat("y", 1000)+"\r\n", 400), 502, "", nil},
		"endless 1xx":     {"GET", strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 100), 502, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			g := oneRaw(t, Config{}, func(conn net.Conn, br *bufio.Reader) {
				if _, err := readHead(br); err == nil {
					_, _ = io.WriteString(conn, c.raw)
				}
			})
			got := g.do(c.method, "http://app.test/", nil)
			if got.StatusCode != c.status || c.status < 500 && got.body != c.body {
				t.Fatalf("status %d, body %q, want %d, %q", got.StatusCode, got.body, c.status, c.body)
			}
			for name, want := range c.header {
				if value := strings.Join(got.Header[name], "|"); value != want {
					t.Errorf("%s: %q, want %q", name, value, want)
				}
			}
		})
	}
}

func TestCutOffAnswersDoNotLookWhole(t *testing.T) {
	for name, raw := range map[string]string{
		"length":  "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello",
		"chunked": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
		"events":  "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
	} {
		g := oneRaw(t, Config{}, func(c net.Conn, br *bufio.Reader) {
			if _, err := readHead(br); err == nil {
				_, _ = io.WriteString(c, raw)
			}
		})
		res, err := g.http.Get("http://app.test/")
		if err == nil {
			_, err = io.ReadAll(res.Body)
			res.Body.Close()
		}
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// Trailers and streams come through whatever either side speaks.
func TestTrailersBothWays(t *testing.T) {
	for _, announce := range []bool{true, false} {
		handler := func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			prefix := http.TrailerPrefix
			if announce {
				w.Header().Set("Trailer", "X-Sum")
				prefix = ""
			}
			_, _ = io.WriteString(w, "body")
			w.(http.Flusher).Flush()
			w.Header().Set(prefix+"X-Sum", "of "+r.Trailer.Get("X-Check")+" by "+r.Proto)
		}
		for proto, g := range map[string]*rig{"HTTP/1.1": one(t, Config{}, handler), "HTTP/2.0": oneH2C(t, Config{}, handler)} {
			for _, client := range []*http.Client{g.http, g.http2Client()} {
				req, _ := http.NewRequest("POST", "http://app.test/", io.MultiReader(strings.NewReader("streamed")))
				req.Trailer = http.Header{"X-Check": {"42"}}
				res, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || string(b) != "body" || res.Trailer.Get("X-Sum") != "of 42 by "+proto {
					t.Errorf("announced %v, %s to %s: %q, trailer %v, %v", announce, res.Proto, proto, b, res.Trailer, err)
				}
			}
		}
	}
}

func TestInformationalAnswersArePassedOn(t *testing.T) {
	g := one(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		_, _ = io.WriteString(w, "ok")
	})
	var hints []string
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		hints = append(hints, strconv.Itoa(code)+h.Get("Link"))
		return nil
	}})
	req, _ := http.NewRequestWithContext(ctx, "GET", "http://app.test/", nil)
	res, err := g.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if len(hints) != 1 || hints[0] != "103</style.css>" || res.Header.Get("Link") != "" {
		t.Errorf("%q, then %v", hints, res.Header)
	}
}

func TestBodiesOfAllSizes(t *testing.T) {
	g := one(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Length", strconv.FormatInt(r.ContentLength, 10))
		b, _ := io.ReadAll(r.Body)
		_, _ = w.Write(b)
	})
	for _, size := range []int{0, 1, wholeBody - 1, wholeBody, wholeBody + 1, 1 << 20, 20 << 20} {
		body := strings.Repeat("0123456789abcdef", size/16+1)[:size]
		for _, chunked := range []bool{false, true} {
			var r io.Reader = strings.NewReader(body)
			if chunked {
				r = io.MultiReader(r)
			}
			got := g.do("POST", "http://app.test/", r)
			if got.StatusCode != 200 || got.body != body {
				t.Errorf("%d bytes, chunked %v: status %d, %d bytes back", size, chunked, got.StatusCode, len(got.body))
			}
			if want := strconv.Itoa(size); !chunked && got.Header.Get("X-Length") != want {
				t.Errorf("%d bytes: the app was told %s", size, got.Header.Get("X-Length"))
			}
		}
	}
}

func TestHTTP2(t *testing.T) {
	g := one(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "X-Sum")
		fmt.Fprintf(w, "%s %s %s", r.Proto, r.Header.Get("X-Forwarded-For"), b)
		w.Header().Set("X-Sum", "1")
	})
	client := g.http2Client()
	big := strings.Repeat("x", 300_000)
	for _, body := range []string{"", "small", big} {
		res, err := client.Post("http://app.test/", "text/plain", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.ProtoMajor != 2 || string(b) != "HTTP/1.1 127.0.0.1 "+body || res.Trailer.Get("X-Sum") != "1" {
			t.Errorf("%d bytes: %s, %d bytes back, trailer %v, %v", len(body), res.Proto, len(b), res.Trailer, err)
		}
	}
}

// http2Client speaks it without TLS, to the router.
func (g *rig) http2Client() *http.Client {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: &protocols, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", g.addr)
	}}
	g.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// However it comes: an app that answers somebody who takes nothing is not held
// up for ever.
func TestAClientThatReadsNothingIsLetGo(t *testing.T) {
	certificate := httptest.NewTLSServer(nil)
	defer certificate.Close()
	withTLS := &tls.Config{Certificates: certificate.TLS.Certificates}
	const request = "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n"
	for name, c := range map[string]struct {
		tls *tls.Config
		ask func(*rig) io.Closer
	}{
		"HTTP/1.1": {ask: func(g *rig) io.Closer {
			c := g.dial()
			_, _ = io.WriteString(c, request)
			return c
		}},
		"HTTP/1.1 over TLS": {tls: withTLS, ask: func(g *rig) io.Closer {
			c := tls.Client(g.dial(), &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // the test's own
			_, _ = io.WriteString(c, request)
			return c
		}},
		"HTTP/2": {ask: func(g *rig) io.Closer {
			res, err := g.http2Client().Get("http://app.test/")
			if err != nil {
				return http.NoBody // let go before it had the head
			}
			return res.Body
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			refused := make(chan struct{})
			g := one(t, Config{TLS: c.tls, StallTimeout: 200 * time.Millisecond}, func(w http.ResponseWriter, _ *http.Request) {
				defer close(refused)
				for p := make([]byte, 64<<10); ; {
					if _, err := w.Write(p); err != nil {
						return
					}
				}
			})
			client := c.ask(g)
			defer client.Close()
			select {
			case <-refused:
			case <-time.After(60 * time.Second):
				t.Error("the app is still answering")
			}
		})
	}
}

// An app that is silent for long is not a client that reads nothing.
func TestAStreamOutlivesSilence(t *testing.T) {
	g := one(t, Config{StallTimeout: 2 * time.Second}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: x\n\n")
		w.(http.Flusher).Flush()
		time.Sleep(3 * time.Second) //nolint:forbidigo // the silence itself
		_, _ = io.WriteString(w, "data: y\n\n")
	})
	for name, client := range map[string]*http.Client{"HTTP/1.1": g.http, "HTTP/2": g.http2Client()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			res, err := client.Get("http://app.test/")
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if b, err := io.ReadAll(res.Body); err != nil || string(b) != "data: x\n\ndata: y\n\n" {
				t.Errorf("%q, %v", b, err)
			}
		})
	}
}

func TestExpectContinue(t *testing.T) {
	for name, c := range map[string]struct {
		app  func(net.Conn, *bufio.Reader)
		want string
	}{
		"wanted": {func(c net.Conn, br *bufio.Reader) {
			head, _ := readHead(br)
			if !strings.Contains(head, "Expect: 100-continue") {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
			b := make([]byte, 5)
			_, _ = io.ReadFull(br, b)
			_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n%s", b)
		}, "HTTP/1.1 100 Continue|HTTP/1.1 200 OK"},
		"refused": {func(c net.Conn, br *bufio.Reader) {
			_, _ = readHead(br)
			_, _ = io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
		}, "HTTP/1.1 413 Request Entity Too Large"},
		"not understood": {func(c net.Conn, br *bufio.Reader) {
			_, _ = readHead(br)
			b := make([]byte, 5)
			_, _ = io.ReadFull(br, b)
			_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n%s", b)
		}, "HTTP/1.1 100 Continue|HTTP/1.1 200 OK"},
	} {
		t.Run(name, func(t *testing.T) {
			g := oneRaw(t, Config{}, c.app)
			conn := g.dial()
			br := bufio.NewReader(conn)
			_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
			var lines []string
			line, err := br.ReadString('\n')
			lines = append(lines, strings.TrimSpace(line))
			if strings.Contains(line, "100 Continue") {
				_, _ = readHead(br)
				_, _ = io.WriteString(conn, "hello")
				line, err = br.ReadString('\n')
				lines = append(lines, strings.TrimSpace(line))
			}
			if got := strings.Join(lines, "|"); got != c.want {
				t.Errorf("%s (%v), want %s", got, err, c.want)
			}
		})
	}
}

func TestAnswerBeforeTheBodyIsSent(t *testing.T) {
	g := oneRaw(t, Config{}, func(c net.Conn, br *bufio.Reader) {
		_, _ = readHead(br)
		_, _ = io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
		_, _ = io.Copy(io.Discard, br)
	})
	conn := g.dial()
	_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 1000000\r\n\r\nthe beginning")
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 413 || string(b) != "no" {
		t.Errorf("%d %q %v", res.StatusCode, b, err)
	}
}

func TestStreamsBothWaysAtOnce(t *testing.T) {
	g := one(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		w.WriteHeader(200)
		_ = rc.Flush()
		br := bufio.NewReader(r.Body)
		for {
			line, err := br.ReadString('\n')
			if err != nil {
				return
			}
			_, _ = io.WriteString(w, "echo "+line)
			_ = rc.Flush()
		}
	})
	pr, pw := io.Pipe()
	req, _ := http.NewRequestWithContext(t.Context(), "POST", "http://app.test/", pr)
	res, err := g.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	br := bufio.NewReader(res.Body)
	for i := range 5 {
		fmt.Fprintf(pw, "%d\n", i)
		if line, err := br.ReadString('\n'); err != nil || line != fmt.Sprintf("echo %d\n", i) {
			t.Fatalf("%q, %v", line, err)
		}
	}
	pw.Close()
	if _, err := br.ReadByte(); err != io.EOF {
		t.Errorf("%v, want the end", err)
	}
}

func TestEventsComeAtOnce(t *testing.T) {
	next := make(chan struct{})
	g := one(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.(http.Flusher).Flush()
		for range next {
			_, _ = io.WriteString(w, "data: x\n\n")
			w.(http.Flusher).Flush()
		}
	})
	res, err := g.http.Get("http://app.test/") // its head comes before any event
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	br := bufio.NewReader(res.Body)
	for range 3 {
		next <- struct{}{}
		if line, err := br.ReadString('\n'); err != nil || line != "data: x\n" {
			t.Fatalf("%q, %v", line, err)
		}
		_, _ = br.ReadString('\n')
	}
	close(next)
	if _, err := br.ReadByte(); err != io.EOF {
		t.Error(err)
	}
}

func TestClientThatLeavesEndsTheRequest(t *testing.T) {
	started, ended := make(chan struct{}), make(chan struct{})
	g := one(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		close(started)
		<-r.Context().Done()
		close(ended)
	})
	ctx, cancel := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, "GET", "http://app.test/", nil)
	failed := make(chan error, 1)
	go func() {
		_, err := g.http.Do(req) //nolint:bodyclose // it fails
		failed <- err
	}()
	<-started
	cancel()
	<-ended
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestPages(t *testing.T) {
	g, _ := newRig(t, Config{BackendWait: time.Millisecond})
	g.route(map[string]routing.Pool{
		"empty.test":  poolOf(),
		"new.test":    {},
		"jobs.test":   {TenantID: "ten_1", DeploymentID: "dep_1", VersionID: "ver_1"},
		"closed.test": poolOf(at("ri_a", closedPort(t))),
		"slow.test":   poolOf(at("ri_b", app(t, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))),
	})
	g.rt.cfg.ResponseTimeout = 20 * time.Millisecond
	codes := map[string]string{"nobody.test": "unknown_host", "jobs.test": "no_http"}
	for host, status := range map[string]int{"nobody.test": 404, "jobs.test": 404, "empty.test": 503, "new.test": 503, "closed.test": 502, "slow.test": 504} {
		js := g.get("http://"+host+"/", "Accept", "application/json")
		var body struct {
			Error struct {
				Code, Message string
				RequestID     string `json:"request_id"`
			}
			Message string
		}
		if err := json.Unmarshal([]byte(js.body), &body); err != nil || js.StatusCode != status || body.Error.Code == "" ||
			body.Message == "" || body.Error.RequestID == "" || body.Error.RequestID != js.Header.Get("X-Request-Id") {
			t.Errorf("%s: %d %s, %v", host, js.StatusCode, js.body, err)
		}
		if want := codes[host]; want != "" && body.Error.Code != want {
			t.Errorf("%s: %s, not %s", host, body.Error.Code, want)
		}
		if (js.Header.Get("Retry-After") != "") != (status == 503 || status == 502) {
			t.Errorf("%s: Retry-After %q", host, js.Header.Get("Retry-After"))
		}
		html := g.get("http://"+host+"/", "Accept", "text/html,application/xhtml+xml,*/*;q=0.8")
		if html.StatusCode != status || !strings.HasPrefix(html.body, "<!doctype html>") || !strings.Contains(html.body, html.Header.Get("X-Request-Id")) {
			t.Errorf("%s: %d %s", host, html.StatusCode, html.body)
		}
		if strings.Contains(strings.ToLower(html.body+js.body), "miosa") {
			t.Errorf("%s: the page names a brand", host)
		}
		if head := g.do("HEAD", "http://"+host+"/", nil); head.StatusCode != status || head.body != "" {
			t.Errorf("%s: HEAD gives %d %q", host, head.StatusCode, head.body)
		}
	}
}

// A service says itself how long its answers may take to begin, and one that
// says more than the router waits for by itself is waited for.
func TestEachServiceHasItsResponseTimeout(t *testing.T) {
	g, _ := newRig(t, Config{ResponseTimeout: 20 * time.Millisecond})
	late, asked := make(chan struct{}), make(chan struct{}, 2)
	at := at("ri_a", app(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		asked <- struct{}{}
		select {
		case <-late:
		case <-r.Context().Done():
		}
	}))
	patient, hasty := poolOf(at), poolOf(at)
	patient.ResponseTimeout, hasty.ResponseTimeout = time.Hour, 10*time.Millisecond
	g.route(map[string]routing.Pool{"patient.test": patient, "hasty.test": hasty})
	for _, body := range []func() io.Reader{
		func() io.Reader { return nil },
		func() io.Reader { return io.MultiReader(strings.NewReader("streamed")) },
	} {
		waited := make(chan answerTo, 1)
		go func() { waited <- g.do("POST", "http://patient.test/", body()) }()
		<-asked
		got := g.do("POST", "http://hasty.test/", body())
		<-asked
		if got.StatusCode != 504 || !strings.Contains(got.body, "did not answer in time") {
			t.Errorf("hasty: %d %s", got.StatusCode, got.body)
		}
		// The router's own limit has passed as well by now.
		late <- struct{}{}
		if got := <-waited; got.StatusCode != 200 {
			t.Errorf("patient: %d %s", got.StatusCode, got.body)
		}
	}
}

func TestWantsHTML(t *testing.T) {
	for accept, want := range map[string]bool{
		"": false, "*/*": false, "text/html": true, "application/json": false,
		"text/html,application/json": true, "application/json, text/html": false,
		"text/html;q=0.5, application/json": false, "application/json;q=0.1,TEXT/HTML": true,
		"application/problem+json": false, "text/html;q=0": false,
	} {
		if got := wantsHTML([]string{accept}); got != want {
			t.Errorf("%q: %v", accept, got)
		}
	}
}

// closedPort is an address that refuses connections.
func closedPort(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestRetries(t *testing.T) {
	ok := func(t *testing.T) routing.Backend {
		return at("ri_z", app(t, func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			_, _ = io.WriteString(w, "ok"+string(b))
		}))
	}
	// dies takes the request and closes without a word.
	dies := func(t *testing.T, id string, met *atomic.Int32) routing.Backend {
		return at(id, rawApp(t, func(c net.Conn, br *bufio.Reader) {
			if _, err := readHead(br); err == nil {
				met.Add(1)
			}
		}))
	}
	t.Run("dial failed: anything goes on elsewhere", func(t *testing.T) {
		g, _ := newRig(t, Config{})
		g.route(map[string]routing.Pool{"app.test": poolOf(at("ri_a", closedPort(t)), at("ri_b", closedPort(t)), ok(t))})
		for range 6 {
			if got := g.do("POST", "http://app.test/", strings.NewReader("1")); got.StatusCode != 200 || got.body != "ok1" {
				t.Fatal(got.Status, got.body)
			}
			if got := g.do("POST", "http://app.test/", io.MultiReader(strings.NewReader("2"))); got.StatusCode != 200 || got.body != "ok2" {
				t.Fatal(got.Status, got.body)
			}
		}
	})
	t.Run("lost: only what may be done twice", func(t *testing.T) {
		for method, want := range map[string]int{"GET": 200, "HEAD": 200, "PUT": 200, "DELETE": 200, "POST": 502, "PATCH": 502} {
			var met atomic.Int32
			g, _ := newRig(t, Config{})
			g.route(map[string]routing.Pool{"app.test": poolOf(dies(t, "ri_a", &met), ok(t))})
			statuses := []int{}
			for range 2 { // one of the two meets the one that dies first
				var body io.Reader
				if method == "PUT" || method == "POST" {
					body = strings.NewReader("x")
				}
				statuses = append(statuses, g.do(method, "http://app.test/", body).StatusCode)
			}
			if met.Load() != 1 || max(statuses[0], statuses[1]) != want {
				t.Errorf("%s: %v, %d deaths", method, statuses, met.Load())
			}
		}
	})
	t.Run("a killer meets two backends at most", func(t *testing.T) {
		var met atomic.Int32
		g, _ := newRig(t, Config{})
		g.route(map[string]routing.Pool{"app.test": poolOf(dies(t, "ri_a", &met), dies(t, "ri_b", &met), dies(t, "ri_c", &met), dies(t, "ri_d", &met))})
		if got := g.get("http://app.test/"); got.StatusCode != 502 || met.Load() != 2 {
			t.Errorf("%s after %d backends", got.Status, met.Load())
		}
	})
	t.Run("kept connections that died are replaced", func(t *testing.T) {
		// Each connection serves one request and is then closed in silence. The
		// next request waits for that: one that crosses the close on its way is
		// lost by nobody's fault, and a POST is then rightly not sent twice.
		closed := make(chan struct{}, 1)
		g := oneRaw(t, Config{}, func(c net.Conn, br *bufio.Reader) {
			if _, err := readHead(br); err == nil {
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				_ = c.Close()
				closed <- struct{}{}
			}
		})
		for _, method := range []string{"GET", "POST", "GET", "POST", "DELETE", "POST"} {
			if got := g.do(method, "http://app.test/", nil); got.StatusCode != 200 {
				t.Errorf("%s: %s", method, got.Status)
			}
			<-closed
		}
	})
}

func TestSidelining(t *testing.T) {
	b := newBackend(at("ri_a", "127.0.0.1:1"), "", nil, new(busy))
	now := epoch
	if b.sidelined(now) {
		t.Error("sidelined from the first")
	}
	last := time.Duration(0)
	for range 20 {
		b.dialFailed(now)
		pause := time.Unix(0, b.sideline.Load()).Sub(now)
		if pause < last || pause < balance.Sideline(1) || pause > balance.Sideline(20) {
			t.Fatalf("%v after %v", pause, last)
		}
		last = pause
		if !b.sidelined(now) || b.sidelined(now.Add(pause)) {
			t.Fatal("not sidelined for its pause")
		}
	}
	if last != balance.Sideline(1000) {
		t.Errorf("ends at %v", last)
	}
	b.dialWorked()
	if b.sidelined(now) {
		t.Error("still sidelined after it answered")
	}
}

func TestAllSidelinedComeBack(t *testing.T) {
	p := &pool{Pool: poolOf(at("ri_a", "127.0.0.1:1"), at("ri_b", "127.0.0.1:2"))}
	for _, id := range p.Backends {
		b := newBackend(id, "", nil, new(busy))
		b.dialFailed(epoch)
		p.backends = append(p.backends, b)
	}
	x := &exchange{r: &http.Request{}, now: epoch}
	if p.pick(x) == nil {
		t.Error("none is picked while all are sidelined")
	}
	x.tried = append(x.tried, p.backends...)
	if b := p.pick(x); b != nil {
		t.Error("picked one that this request has tried")
	}
}

func TestRoundRobinIsEven(t *testing.T) {
	p := &pool{}
	for i := range 5 {
		id := at("ri_"+strconv.Itoa(i), "127.0.0.1:"+strconv.Itoa(i+1))
		p.Backends = append(p.Backends, id)
		p.backends = append(p.backends, newBackend(id, "", nil, new(busy)))
	}
	count := func(n int) map[string]int {
		got := map[string]int{}
		for range n {
			got[p.pick(&exchange{r: &http.Request{}, now: epoch}).InstanceID]++
		}
		return got
	}
	for id, n := range count(1000) {
		if n != 200 {
			t.Errorf("%s has %d of 1000", id, n)
		}
	}
	p.backends[2].dialFailed(epoch)
	for id, n := range count(2000) {
		if id == "ri_2" || n < 450 || n > 550 {
			t.Errorf("with one sidelined, %s has %d of 2000", id, n)
		}
	}
}

func TestWaitsForABackend(t *testing.T) {
	g, _ := newRig(t, Config{BackendWait: 20 * time.Second})
	g.route(map[string]routing.Pool{"app.test": poolOf()})
	var asked sync.WaitGroup
	asked.Go(func() {
		if got := g.do("POST", "http://app.test/", strings.NewReader("x")); got.body != "came" {
			t.Errorf("%s %s", got.Status, got.body)
		}
	})
	for g.rt.table.find("app.test").waiting.Load() == 0 {
		time.Sleep(time.Millisecond) //nolint:forbidigo // polls a state that has no event, with a deadline around it
	}
	g.route(map[string]routing.Pool{"app.test": poolOf(at("ri_a", app(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "came") })))})
	asked.Wait()
}

// Who waits for a backend is told at once that the version which went live
// meanwhile serves no HTTP.
func TestWaitsForNothingOfWorkers(t *testing.T) {
	g, _ := newRig(t, Config{BackendWait: time.Hour})
	g.route(map[string]routing.Pool{"app.test": poolOf()})
	var asked sync.WaitGroup
	asked.Go(func() {
		if got := g.get("http://app.test/"); got.StatusCode != 404 || !strings.Contains(got.body, "no_http") {
			t.Errorf("%s %s", got.Status, got.body)
		}
	})
	for g.rt.table.find("app.test").waiting.Load() == 0 {
		time.Sleep(time.Millisecond) //nolint:forbidigo // polls a state that has no event, with a deadline around it
	}
	g.route(map[string]routing.Pool{"app.test": {TenantID: "ten_1", DeploymentID: "dep_1", VersionID: "ver_2"}})
	asked.Wait()
}

func TestStickyCookie(t *testing.T) {
	g, _ := newRig(t, Config{})
	var all []routing.Backend
	for _, id := range []string{"ri_a", "ri_b", "ri_c"} {
		all = append(all, at(id, app(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, id) })))
	}
	pool := poolOf(all...)
	pool.Sticky = miosa.Sticky{Mode: miosa.StickyCookie, Name: "stay"}
	g.route(map[string]routing.Pool{"app.test": pool})
	first := g.get("http://app.test/")
	set := first.Header.Get("Set-Cookie")
	if !strings.HasPrefix(set, "stay=") || !strings.Contains(set, "HttpOnly") || !strings.Contains(set, "SameSite=Lax") || strings.Contains(set, "ri_") || strings.Contains(set, "127.") {
		t.Fatal(set)
	}
	cookie, _, _ := strings.Cut(set, ";")
	for range 10 {
		if got := g.get("http://app.test/", "Cookie", cookie); got.body != first.body || got.Header.Get("Set-Cookie") != "" {
			t.Fatalf("%s, then %s with %q", first.body, got.body, got.Header.Get("Set-Cookie"))
		}
	}
	// Another one leaves and comes: nothing moves.
	for _, keep := range [][]routing.Backend{{all[0], all[1]}, {all[1], all[2]}, {all[0], all[2]}} {
		pool.Backends = keep
		stays := keep[0].InstanceID == first.body || keep[1].InstanceID == first.body
		g.route(map[string]routing.Pool{"app.test": pool})
		got := g.get("http://app.test/", "Cookie", cookie)
		if stays != (got.body == first.body) || stays != (got.Header.Get("Set-Cookie") == "") {
			t.Errorf("with %v: from %s to %s, Set-Cookie %q", keep, first.body, got.body, got.Header.Get("Set-Cookie"))
		}
		if again := g.get("http://app.test/", "Cookie", cookie); again.body != got.body {
			t.Errorf("the cookie of one that left draws to %s and to %s", got.body, again.body)
		}
	}
}

// A session stays with its instance over a restart of the router, and is the same
// for another router, where the key is the same: with another one it is not.
func TestSessionsStayOverARestart(t *testing.T) {
	pool := routing.Pool{VersionID: "v", Sticky: miosa.Sticky{Mode: miosa.StickyCookie}}
	for n := range 8 {
		id := "ri_" + strconv.Itoa(n)
		pool.Backends = append(pool.Backends, at(id, app(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, id) })))
	}
	router := func(key []byte) (*rig, func()) {
		g, stop := newRig(t, Config{StickyKey: key})
		g.route(map[string]routing.Pool{"app.test": pool})
		return g, stop
	}
	key := []byte("the same on every router")
	first, stop := router(key)
	sessions := map[string]string{} // the cookie's instance
	for range 40 {
		got := first.get("http://app.test/")
		cookie, _, _ := strings.Cut(got.Header.Get("Set-Cookie"), ";")
		sessions[cookie] = got.body
	}
	if len(sessions) != len(pool.Backends) {
		t.Fatalf("40 clients got %d cookies", len(sessions))
	}
	second, _ := router(key) // beside the first
	stop()
	third, _ := router(key) // after it
	other, _ := router([]byte("that of another platform"))
	moved := 0
	for cookie, instance := range sessions {
		for name, g := range map[string]*rig{"another router": second, "the next start": third} {
			if got := g.get("http://app.test/", "Cookie", cookie); got.body != instance || got.Header.Get("Set-Cookie") != "" {
				t.Errorf("%s: from %s to %s, with %q", name, instance, got.body, got.Header.Get("Set-Cookie"))
			}
		}
		if got := other.get("http://app.test/", "Cookie", cookie); got.Header.Get("Set-Cookie") != "" {
			moved++
		}
	}
	if moved != len(sessions) {
		t.Errorf("with another key %d of %d sessions begin anew", moved, len(sessions))
	}
}

func TestStickyHeader(t *testing.T) {
	g, _ := newRig(t, Config{})
	pool := routing.Pool{VersionID: "v", Sticky: miosa.Sticky{Mode: miosa.StickyHeader, Name: "X-User"}}
	for _, id := range []string{"ri_a", "ri_b", "ri_c"} {
		pool.Backends = append(pool.Backends, at(id, app(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, id) })))
	}
	g.route(map[string]routing.Pool{"app.test": pool})
	seen := map[string]bool{}
	for user := range 30 {
		first := g.get("http://app.test/", "X-User", strconv.Itoa(user)).body
		seen[first] = true
		if again := g.get("http://app.test/", "X-User", strconv.Itoa(user)).body; again != first {
			t.Errorf("user %d: %s, then %s", user, first, again)
		}
	}
	if len(seen) != 3 {
		t.Errorf("30 users on %d of 3 backends", len(seen))
	}
}

func TestAccessLogAndStats(t *testing.T) {
	g, stop := newRig(t, Config{})
	g.route(map[string]routing.Pool{"app.test": poolOf(at("ri_a", app(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "hello") })))})
	g.do("POST", "http://app.test/a\"b?token=secret", strings.NewReader("1234567"), "User-Agent", "x\\y")
	g.get("http://nobody.test/")
	for host, s := range g.rt.Stats() {
		total := uint64(0)
		for _, n := range s.Latency {
			total += n
		}
		if host != "app.test" || s.Requests[2] != 1 || s.BytesIn != 7 || s.BytesOut != 5 || total != 1 || s.Total <= 0 {
			t.Errorf("%s: %+v", host, s)
		}
	}
	g.http.CloseIdleConnections()
	stop()
	lines := strings.Split(strings.TrimSpace(g.log.String()), "\n")
	if len(lines) != 2 || strings.Contains(g.log.String(), "secret") {
		t.Fatal(g.log.String())
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(lines[0]), &got); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{
		"method": "POST", "host": "app.test", "path": "/a\"b", "status": 200.0, "bytes_in": 7.0, "bytes_out": 5.0,
		"instance": "ri_a", "deployment": "dep_1", "version": "ver_1", "tenant": "ten_1", "client": "127.0.0.1", "user_agent": "x\\y",
	} {
		if got[key] != want {
			t.Errorf("%s: %v, want %v", key, got[key], want)
		}
	}
}

// stuckWriter takes nothing until it is released.
type stuckWriter struct{ release chan struct{} }

func (w stuckWriter) Write(p []byte) (int, error) {
	<-w.release
	return len(p), nil
}

func TestAccessLogNeverHoldsUpARequest(t *testing.T) {
	w := stuckWriter{make(chan struct{})}
	g, stop := newRig(t, Config{AccessLog: w})
	g.rt.accessLog.mu.Lock()
	g.rt.accessLog.batch = make([]byte, logBatchMax)
	g.rt.accessLog.mu.Unlock()
	if got := g.get("http://nobody.test/"); got.StatusCode != 404 && got.StatusCode != 503 {
		t.Error(got.Status)
	}
	close(w.release)
	g.http.CloseIdleConnections()
	stop()
}

func FuzzJSONString(f *testing.F) {
	for _, s := range []string{"", "a\"b\\", "\x00\n\x7f", "é\xff\u2028", "\xe2\x80"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var got string
		if err := json.Unmarshal(appendJSONString(nil, s, 100), &got); err != nil {
			t.Fatalf("%q: %v", appendJSONString(nil, s, 100), err)
		}
		if want := strings.ToValidUTF8(s, ""); len(s) <= 100 && strings.ReplaceAll(got, "\ufffd", "") != strings.ReplaceAll(want, "\ufffd", "") {
			t.Fatalf("%q became %q", s, got)
		}
	})
}

func FuzzParseHead(f *testing.F) {
	f.Add("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n")
	f.Add("HTTP/1.0 304 \nTransfer-Encoding: chunked\n\n")
	f.Fuzz(func(t *testing.T, s string) {
		head, err := readLines(bufio.NewReader(strings.NewReader(s)))
		if err != nil {
			return
		}
		h := http.Header{}
		res, err := parseHead(head, "GET", h)
		if err != nil {
			return
		}
		// Whatever is let through, net/http reads in the same way.
		std, err := http.ReadResponse(bufio.NewReader(strings.NewReader(head)), nil)
		if err != nil {
			return // stricter than we are
		}
		if std.StatusCode != res.status {
			t.Fatalf("status %d, net/http reads %d", res.status, std.StatusCode)
		}
		chunked := len(std.TransferEncoding) == 1 && std.TransferEncoding[0] == "chunked"
		if res.status >= 200 && res.status != 204 && res.status != 304 && (chunked != res.chunked || !chunked && std.ContentLength != res.length) {
			t.Fatalf("chunked %v length %d, net/http reads %v, %d", res.chunked, res.length, chunked, std.ContentLength)
		}
		for name, values := range h {
			for _, v := range values {
				if !isToken(name) || strings.ContainsAny(v, "\r\n\x00") {
					t.Fatalf("%q: %q", name, v)
				}
			}
		}
	})
}
