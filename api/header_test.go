package api_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/miosa/miosa/api"
)

func zipped(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestCompressedBodies(t *testing.T) {
	p := start(t, api.Config{})
	for n, encoding := range []string{"gzip", "GZIP", "x-gzip", "identity, gzip"} {
		a := p.want(201, "POST", "/deployments", zipped(t, fmt.Sprintf(`{"name": "app %d"}`, n)), "Content-Encoding: "+encoding)
		if a.text("data.name") != fmt.Sprint("app ", n) {
			t.Errorf("%s: %s", encoding, a.Raw)
		}
	}
	p.want(201, "POST", "/deployments", `{"name": "plain"}`, "Content-Encoding: identity")
	for _, c := range []struct {
		status   int
		code     string
		encoding string
		body     string
	}{
		{415, "unsupported_content_encoding", "br", "x"},
		{415, "unsupported_content_encoding", "deflate", "x"},
		{415, "unsupported_content_encoding", "gzip, gzip", zipped(t, zipped(t, `{"name": "twice"}`))},
		{400, "malformed_body", "gzip", `{"name": "not compressed"}`},
		{400, "malformed_body", "gzip", zipped(t, `{"name": "cut off"}`)[:20]},
		{400, "malformed_json", "gzip", zipped(t, `{"name": `)},
		{413, "body_too_large", "gzip", zipped(t, `{"name": "`+strings.Repeat("x", 8<<20)+`"}`)},
		{422, "validation_failed", "gzip", zipped(t, "{\"name\": \"\xff\"}")},
		{422, "validation_failed", "gzip", ""},
	} {
		a := p.want(c.status, "POST", "/deployments", c.body, "Content-Encoding: "+c.encoding)
		if a.code() != c.code || c.status == 415 && a.Header.Get("Accept-Encoding") != "gzip" {
			t.Errorf("%s: %s", c.encoding, a.Raw)
		}
	}
	// Compressed or not, it is the same request.
	first := p.want(201, "POST", "/deployments", `{"name": "again"}`, "Idempotency-Key: k")
	if again := p.want(201, "POST", "/deployments", zipped(t, `{"name": "again"}`), "Idempotency-Key: k", "Content-Encoding: gzip"); again.Raw != first.Raw {
		t.Errorf("%s", again.Raw)
	}
	dep := first.text("data.id")
	if a := p.want(415, "POST", "/deployments/"+dep+"/releases", zipped(t, "tar"), "Content-Type: application/x-tar", "Content-Encoding: gzip"); !strings.Contains(a.text("message"), "application/gzip") {
		t.Errorf("%s", a.Raw)
	}
}

// raw sends header lines as they are.
func (p platform) raw(method, path, body string, lines ...string) int {
	p.t.Helper()
	conn, err := (&net.Dialer{}).DialContext(p.t.Context(), "tcp", strings.TrimPrefix(p.URL, "http://"))
	if err != nil {
		p.t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "%s /api/v1%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n%s\r\n\r\n%s", method, path, len(body), strings.Join(lines, "\r\n"), body)
	raw, err := io.ReadAll(conn)
	if err != nil {
		p.t.Fatal(err)
	}
	var status int
	if _, err := fmt.Sscanf(string(raw), "HTTP/1.1 %d", &status); err != nil {
		p.t.Fatalf("%q", raw)
	}
	return status
}

func TestHeaderLines(t *testing.T) {
	p := start(t, api.Config{})
	dep := p.deploy("x")
	auth := "Authorization: Bearer " + p.Key
	tag := func() string { return p.want(200, "GET", "/deployments/"+dep, nil).Header.Get("ETag") }
	change := func(lines ...string) int {
		return p.raw("PATCH", "/deployments/"+dep, `{"run_command": "/a"}`, append(lines, auth)...)
	}
	for _, c := range []struct {
		status int
		lines  []string
	}{
		{412, []string{`If-Match: "1"`, `If-Match: "2"`}},
		{200, []string{`If-Match: "1"`, "If-Match: TAG"}},
		{200, []string{"If-Match: TAG", `If-Match: "1"`}},
		{412, []string{"If-Match:", `If-Match: "1"`}},
		{200, []string{"If-Match:", "If-Match: TAG"}},
		{200, []string{`If-Match: "1" , TAG`}},
		{200, []string{"If-Match: W/TAG"}},
		{412, []string{`If-Match: W/"1"`, `If-Match: "2", W/"3"`}},
		{200, []string{"If-Match: *"}},
		{200, []string{"if-match:   TAG  "}},
		{200, nil},
	} {
		lines := []string{}
		for _, l := range c.lines {
			lines = append(lines, strings.ReplaceAll(l, "TAG", tag()))
		}
		if status := change(lines...); status != c.status {
			t.Errorf("%q: %d, want %d", lines, status, c.status)
		}
	}
	for _, ok := range []string{"Bearer  ", "bearer ", "BEARER   ", "Bearer \t"} {
		if status := p.raw("GET", "/deployments", "", "Authorization: "+ok+p.Key); status != 200 {
			t.Errorf("%q: %d", ok, status)
		}
	}
	for _, bad := range []string{"Bearer" + p.Key, "Bearer  " + p.Key + " " + p.Key, "Bearer ", p.Key, "Basic  " + p.Key} {
		if status := p.raw("GET", "/deployments", "", "Authorization: "+bad); status != 401 {
			t.Errorf("%q: %d", bad, status)
		}
	}
	// The key's own answer, however the header is written.
	body := `{"url": "https://example.com"}`
	for _, line := range []string{auth, "Authorization: bearer   " + p.Key} {
		if status := p.raw("POST", "/webhooks", body, line, "Content-Type: application/json", "Idempotency-Key: k"); status != 201 {
			t.Errorf("%q: %d", line, status)
		}
	}
	if a := p.want(200, "GET", "/webhooks", nil); a.at("page.total") != 1.0 {
		t.Errorf("%v webhooks", a.at("page.total"))
	}
	// Two lines of Accept are one list.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", p.URL+"/api/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header["Accept"] = []string{"application/json;q=0.1", "text/event-stream"}
	if got := p.Do(req).Header.Get("Content-Type"); !strings.HasPrefix(got, "text/event-stream") {
		t.Errorf("%s", got)
	}
}
