package api_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api"
	"github.com/miosa/miosa/client"
)

// dial opens a plain connection to the API.
func (p platform) dial() net.Conn {
	p.t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(p.URL, "http://"))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		p.t.Fatal(err)
	}
	return c
}

// A refusal reaches a client that sends its whole body before it looks for an
// answer, and one that has an answer before it sends any.
func TestRefusalsReachWhoStillSends(t *testing.T) {
	p := start(t, api.Config{})
	dep := p.want(201, "POST", "/deployments", `{"name":"app"}`).text("data.id")
	key := "Authorization: Bearer " + p.Key
	releases := "/api/v1/deployments/" + dep + "/releases"
	const size = 48 << 20 // more than the sockets' buffers hold
	for _, c := range []struct {
		name, method, path string
		headers            []string
		fail               error
		status             int
		code               string
	}{
		{"no key", "POST", releases, nil, nil, 401, "unauthenticated"},
		{"a wrong key", "POST", releases, []string{"Authorization: Bearer msk_wrong"}, nil, 401, "invalid_api_key"},
		{"no such deployment", "POST", "/api/v1/deployments/dep_01h00000000000000000000000/releases", []string{key}, nil, 404, "deployment_not_found"},
		{"no such path", "POST", "/api/v1/nothing", []string{key}, nil, 404, "route_not_found"},
		{"a path that is not clean", "POST", "/api//v1/nothing", []string{key}, nil, 404, "route_not_found"},
		{"no such method", "PUT", releases, []string{key}, nil, 405, "method_not_allowed"},
		{"a type that is not read", "POST", releases, []string{key, "Content-Type: text/html"}, nil, 415, "unsupported_media_type"},
		{"a digest that is none", "POST", releases, []string{key, "Content-Digest: nonsense"}, nil, 422, "digest_malformed"},
		{"a kind that is none", "POST", releases + "?kind=vm", []string{key}, nil, 422, "validation_failed"},
		{"refused by its beginning", "POST", releases, []string{key}, &miosa.Error{Code: miosa.Invalid, Public: "archive_invalid", Message: "no"}, 422, "archive_invalid"},
		{"no memory", "POST", releases, []string{key}, &miosa.Error{Code: miosa.Limited, Public: "uploads_busy", Message: "no"}, 429, "uploads_busy"},
		{"no disk", "POST", releases, []string{key}, &miosa.Error{Code: miosa.NoSpace, Message: "no"}, 507, "no_space"},
		{"JSON that is too large", "POST", "/api/v1/deployments", []string{key}, nil, 413, "body_too_large"},
	} {
		for _, chunked := range []bool{false, true} {
			for _, sends := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s chunked=%t sends=%t", c.name, chunked, sends), func(t *testing.T) {
					if c.fail != nil {
						p.Uploads.RefuseAtOnce(c.fail)
						defer p.Uploads.RefuseAtOnce(nil)
					}
					conn := p.dial()
					length := fmt.Sprintf("Content-Length: %d", size)
					if chunked {
						length = "Transfer-Encoding: chunked"
					}
					head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: api\r\n%s\r\n%s\r\n", c.method, c.path, length, strings.Join(append(c.headers, ""), "\r\n"))
					if _, err := io.WriteString(conn, head); err != nil {
						t.Fatal(err)
					}
					piece := []byte(strings.Repeat("x", 1<<20))
					pieces := size >> 20
					if !sends { // enough that what looks at a body's beginning has it
						pieces = 2
					}
					for i := range pieces {
						var err error
						if chunked {
							_, err = fmt.Fprintf(conn, "%x\r\n%s\r\n", len(piece), piece)
						} else {
							_, err = conn.Write(piece)
						}
						if err != nil {
							t.Fatalf("after %d MB: %v", i, err)
						}
					}
					if chunked && sends {
						if _, err := io.WriteString(conn, "0\r\n\r\n"); err != nil {
							t.Fatal(err)
						}
					}
					resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
					if err != nil {
						t.Fatal(err)
					}
					raw, err := io.ReadAll(resp.Body)
					if err != nil {
						t.Fatal(err)
					}
					var body struct {
						Error struct {
							Code string `json:"code"`
						} `json:"error"`
					}
					if err := json.Unmarshal(raw, &body); err != nil || resp.StatusCode != c.status || body.Error.Code != c.code {
						t.Errorf("answered %d %s %v, want %d %s", resp.StatusCode, raw, err, c.status, c.code)
					}
					if !resp.Close {
						t.Error("the answer does not say that the connection ends")
					}
				})
			}
		}
	}
	// What was read to its end keeps its connection.
	conn := p.dial()
	in := bufio.NewReader(conn)
	for range 3 {
		if _, err := fmt.Fprintf(conn, "POST /api/v1/deployments HTTP/1.1\r\nHost: api\r\n%s\r\nContent-Length: 2\r\n\r\n{}", key); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 422 || resp.Close {
			t.Errorf("answered %s, close %t: %v", resp.Status, resp.Close, err)
		}
	}
}

// The Go client says what the API said, with and without asking first.
func TestClientHearsRefusals(t *testing.T) {
	p := start(t, api.Config{})
	c, err := client.New(client.Config{URL: p.URL, Key: p.Key, Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	dep := p.want(201, "POST", "/deployments", `{"name":"app"}`).text("data.id")
	p.Uploads.RefuseAtOnce(&miosa.Error{Code: miosa.Invalid, Public: "archive_invalid", Message: "no"})
	body := strings.Repeat("x", 48<<20)
	open := func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(body)), nil }
	for range 5 {
		if _, err := c.Upload(t.Context(), dep, client.Artifact{Open: open}); client.Code(err) != "archive_invalid" {
			t.Errorf("refused by its beginning: %v", err)
		}
		if _, err := c.Upload(t.Context(), "dep_01h00000000000000000000000", client.Artifact{Open: open}); client.Code(err) != "deployment_not_found" {
			t.Errorf("refused by its headers: %v", err)
		}
	}
}
