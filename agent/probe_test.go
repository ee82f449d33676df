package agent

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	grpchealth "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/miosa/miosa"
)

var public = &url.URL{Scheme: "https", Host: "shop.example"}

// probing asks once, as the actor does.
func probing(t *testing.T, how miosa.HealthType, check miosa.HealthCheck, s subject) (string, bool) {
	t.Helper()
	if s.public == nil {
		s.public = public
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	detail, err := newProber((&net.Dialer{}).DialContext).ask(ctx, how, check, s)
	if err != nil {
		return refusal(err, time.Minute), false
	}
	return detail, true
}

// A health check says what a user's request would: frameworks refuse a host
// name that they do not know, or redirect what did not come over TLS.
func TestAHealthCheckComesAsARequestWould(t *testing.T) {
	var got *http.Request
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r }))
	defer server.Close()
	s := subject{addr: server.Listener.Addr().String(), env: map[string]string{"TOKEN": "s3cret"}}
	if detail, ok := probing(t, miosa.HealthHTTP, miosa.HealthCheck{Path: "/up?full=1"}, s); !ok || detail != "answered 200" {
		t.Fatal(detail)
	}
	if got.Host != "shop.example" || got.Header.Get("X-Forwarded-Proto") != "https" || got.Header.Get("X-Forwarded-Host") != "shop.example" || got.URL.String() != "/up?full=1" || got.Method != http.MethodGet {
		t.Errorf("%s %s %s %v", got.Method, got.Host, got.URL, got.Header)
	}
	check := miosa.HealthCheck{Path: "/", Host: "localhost", Headers: []miosa.Header{
		{Name: "Authorization", Value: "Bearer ${TOKEN}"}, {Name: "X-Forwarded-Proto", Value: "http"}, {Name: "X-Odd", Value: "${NONE}${open"},
	}}
	if detail, ok := probing(t, miosa.HealthHTTP, check, s); !ok {
		t.Fatal(detail)
	}
	if got.Host != "localhost" || got.Header.Get("Authorization") != "Bearer s3cret" || got.Header.Get("X-Forwarded-Proto") != "http" || got.Header.Get("X-Odd") != "${open" {
		t.Errorf("%s %v", got.Host, got.Header)
	}
	s.public = &url.URL{}
	if _, ok := probing(t, miosa.HealthHTTP, miosa.HealthCheck{Path: "/"}, s); !ok || got.Host != s.addr || got.Header.Get("X-Forwarded-Proto") != "" {
		t.Errorf("where nobody knows its name: %s %v", got.Host, got.Header)
	}
}

func TestHealthChecksOverHTTP(t *testing.T) {
	var protocol string
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		protocol = r.Proto
		var code int
		if _, err := fmt.Sscanf(r.URL.Path, "/%d", &code); err != nil {
			code = http.StatusBadRequest // HTTP/2's first line, to a server of HTTP/1.1
		}
		if code/100 == 3 {
			w.Header().Set("Location", "/200")
		}
		w.WriteHeader(code)
	})
	plain, secure := httptest.NewServer(handler), httptest.NewTLSServer(handler)
	defer plain.Close()
	defer secure.Close()
	h2c := httptest.NewUnstartedServer(handler)
	h2c.Config.Protocols = new(http.Protocols)
	h2c.Config.Protocols.SetUnencryptedHTTP2(true)
	h2c.Start()
	defer h2c.Close()
	for _, c := range []struct {
		server *httptest.Server
		scheme string
		h2c    bool
		path   string
		proto  string
		ok     bool
		words  string
	}{
		{plain, "", false, "/204", "HTTP/1.1", true, "answered 204"},
		{plain, "", false, "/503", "HTTP/1.1", false, "answered 503"},
		{plain, "", false, "/301", "HTTP/1.1", false, "a redirect"},
		{secure, "https", false, "/200", "HTTP/1.1", true, "answered 200"},
		{secure, "", false, "/200", "", false, "answered 400"},
		{h2c, "", true, "/200", "HTTP/2.0", true, "answered 200"},
		{plain, "", true, "/200", "HTTP/2.0", false, "answer"},
	} {
		protocol = ""
		detail, ok := probing(t, miosa.HealthHTTP, miosa.HealthCheck{Path: c.path, Scheme: c.scheme}, subject{addr: c.server.Listener.Addr().String(), h2c: c.h2c})
		if ok != c.ok || !strings.Contains(detail, c.words) || protocol != c.proto {
			t.Errorf("%+v: %t, %q over %q", c, ok, detail, protocol)
		}
	}
}

func TestHealthChecksOverTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := subject{addr: l.Addr().String()}
	if detail, ok := probing(t, miosa.HealthTCP, miosa.HealthCheck{}, s); !ok || detail != "accepted a connection" {
		t.Errorf("%t, %q", ok, detail)
	}
	l.Close()
	if detail, ok := probing(t, miosa.HealthTCP, miosa.HealthCheck{}, s); ok || detail != "connection refused" {
		t.Errorf("%t, %q", ok, detail)
	}
}

func TestHealthChecksOverGRPC(t *testing.T) {
	serve := func(register func(*grpc.Server)) subject {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		server := grpc.NewServer()
		register(server)
		go func() { _ = server.Serve(l) }()
		t.Cleanup(server.Stop)
		return subject{addr: l.Addr().String()}
	}
	state := grpchealth.NewServer()
	state.SetServingStatus("shop.Cart", healthpb.HealthCheckResponse_NOT_SERVING)
	with := serve(func(s *grpc.Server) { healthpb.RegisterHealthServer(s, state) })
	without := serve(func(*grpc.Server) {})
	for _, c := range []struct {
		s     subject
		path  string
		ok    bool
		words string
	}{
		{with, "/", true, "answered SERVING"},
		{with, "/shop.Cart", false, "answered NOT_SERVING"},
		{with, "/shop.Nothing", false, "knows no service shop.Nothing"},
		{without, "/", false, "no grpc.health.v1.Health service"},
		{subject{addr: "127.0.0.1:1"}, "/", false, "no gRPC connection"},
	} {
		if detail, ok := probing(t, miosa.HealthGRPC, miosa.HealthCheck{Path: c.path}, c.s); ok != c.ok || !strings.Contains(detail, c.words) {
			t.Errorf("%s: %t, %q, want %q", c.path, ok, detail, c.words)
		}
	}
}
