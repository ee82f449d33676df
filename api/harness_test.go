package api_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa/api"
	"github.com/miosa/miosa/api/apitest"
	"github.com/miosa/miosa/store/memory"
)

// answer is what came back.
type answer struct {
	Status int
	Header http.Header
	Body   map[string]any
	Raw    string
}

// at walks into the body: "data.rollout.id".
func (a answer) at(path string) any {
	var v any = a.Body
	for name := range strings.SplitSeq(path, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[name]
	}
	return v
}

func (a answer) text(path string) string {
	s, _ := a.at(path).(string)
	return s
}

func (a answer) code() string { return a.text("error.code") }

// platform is apitest's with a few verbs.
type platform struct {
	*apitest.Platform
	t *testing.T
}

func start(t *testing.T, cfg api.Config) platform {
	t.Helper()
	return platform{apitest.Start(t, memory.New(time.Now), cfg), t}
}

// call sends body (JSON of it, or a string as it is) with headers "Name: value".
func (p platform) call(method, path string, body any, headers ...string) answer {
	p.t.Helper()
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(b)
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			p.t.Fatal(err)
		}
		r = bytes.NewReader(raw)
	}
	if strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "/healthz") && !strings.HasPrefix(path, "/readyz") {
		path = "/api/v1" + path
	}
	req, err := http.NewRequestWithContext(p.t.Context(), method, p.URL+path, r)
	if err != nil {
		p.t.Fatal(err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp := p.Do(req)
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	a := answer{Status: resp.StatusCode, Header: resp.Header, Raw: string(raw)}
	if method != "HEAD" && strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") {
		if err := json.Unmarshal(raw, &a.Body); err != nil {
			p.t.Fatalf("%s %s answers no JSON: %v\n%s", method, path, err, raw)
		}
	}
	return a
}

// want fails unless the answer has the status.
func (p platform) want(status int, method, path string, body any, headers ...string) answer {
	p.t.Helper()
	a := p.call(method, path, body, headers...)
	if a.Status != status {
		p.t.Fatalf("%s %s: status %d, want %d\n%s", method, path, a.Status, status, a.Raw)
	}
	return a
}

func (p platform) bearer(key string) string { return "Authorization: Bearer " + key }

// deploy makes a deployment and returns its ID.
func (p platform) deploy(name string) string {
	p.t.Helper()
	return p.want(201, "POST", "/deployments", map[string]any{"name": name}).text("data.id")
}

// upload makes a release and returns its ID.
func (p platform) upload(dep, bytes string) string {
	p.t.Helper()
	a := p.call("POST", "/deployments/"+dep+"/releases", bytes, "Content-Type: application/zstd")
	if a.Status != 201 && a.Status != 200 {
		p.t.Fatalf("upload: %d %s", a.Status, a.Raw)
	}
	return a.text("data.id")
}

// publish publishes and waits for the end.
func (p platform) publish(dep, release, command string) answer {
	p.t.Helper()
	return p.want(200, "POST", "/deployments/"+dep+"/publish?wait=true", map[string]any{
		"release_id": release, "run_command": command, "port": 8080,
	})
}

// settled waits until no rollout goes on in production.
func (p platform) settled(dep string) {
	p.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for p.call("GET", "/deployments/"+dep, nil).at("data.rollout_id") != nil {
		if time.Now().After(deadline) {
			p.t.Fatal("the rollout does not end")
		}
	}
}
