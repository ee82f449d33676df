package client_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miosa/miosa/api"
	"github.com/miosa/miosa/api/apitest"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/client"
	"github.com/miosa/miosa/store/memory"
)

// proxy stands before an API and may spoil what goes through.
type proxy struct {
	*httptest.Server
	requests atomic.Int64
	spoil    atomic.Pointer[func(n int64, w http.ResponseWriter, r *http.Request) bool] // true: it answered
}

func start(t *testing.T) (*apitest.Platform, *proxy, *client.Client) {
	t.Helper()
	p := apitest.Start(t, memory.New(time.Now), api.Config{})
	px := &proxy{}
	px.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := px.requests.Add(1)
		if f := px.spoil.Load(); f != nil && (*f)(n, w, r) {
			return
		}
		p.Handler.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		px.CloseClientConnections()
		px.Close()
	})
	c, err := client.New(client.Config{URL: px.URL, Key: p.Key})
	if err != nil {
		t.Fatal(err)
	}
	return p, px, c
}

func (p *proxy) once(f func(w http.ResponseWriter, r *http.Request) bool) {
	done := &atomic.Bool{}
	g := func(_ int64, w http.ResponseWriter, r *http.Request) bool {
		return !done.Swap(true) && f(w, r)
	}
	p.spoil.Store(&g)
}

func app(content string) client.Artifact {
	return client.Artifact{MediaType: "application/zstd", Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(content)), nil }}
}

func TestPublish(t *testing.T) {
	_, _, c := start(t)
	ctx := t.Context()
	dep, err := c.CreateDeployment(ctx, resource.DeploymentCreate{Name: "hello"})
	if err != nil {
		t.Fatal(err)
	}
	var sent int64
	a := app("bytes")
	a.Sent = func(n, _ int64) { sent = n }
	rel, err := c.Upload(ctx, dep.ID, a)
	if err != nil || sent != 5 || rel.SizeBytes != 5 {
		t.Fatalf("upload: %+v, %d sent, %v", rel, sent, err)
	}
	out, err := c.Publish(ctx, dep.Slug, resource.Publish{ReleaseID: rel.ID, RunCommand: "/app"}, client.Wait())
	if err != nil || !out.Promoted || out.Version.State != "ready" {
		t.Fatalf("publish: %+v, %v", out, err)
	}
	all, err := client.Collect(c.Instances(ctx, dep.ID))
	if err != nil || len(all) != 1 || all[0].State != "healthy" {
		t.Errorf("instances: %+v, %v", all, err)
	}
	if _, err := c.DeleteDeployment(ctx, dep.ID); err != nil {
		t.Fatal(err)
	}
	_, err = c.Deployment(ctx, dep.ID)
	if client.Code(err) != "deployment_not_found" || client.Status(err) != 404 {
		t.Errorf("a deleted deployment: %v", err)
	}
	e, ok := errors.AsType[*client.Error](err)
	if !ok || e.RequestID == "" || e.Message == "" {
		t.Errorf("the error: %+v", e)
	}
}

// TestLostAnswersAreAskedForAgain: what was done is not done twice.
func TestLostAnswersAreAskedForAgain(t *testing.T) {
	for name, spoil := range map[string]func(p *apitest.Platform) func(w http.ResponseWriter, r *http.Request) bool{
		"cut before": func(*apitest.Platform) func(http.ResponseWriter, *http.Request) bool {
			return func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }
		},
		"cut after": func(p *apitest.Platform) func(http.ResponseWriter, *http.Request) bool {
			return func(_ http.ResponseWriter, r *http.Request) bool {
				p.Handler.ServeHTTP(httptest.NewRecorder(), r) // done, and the answer lost
				panic(http.ErrAbortHandler)
			}
		},
		"503": func(*apitest.Platform) func(http.ResponseWriter, *http.Request) bool {
			return func(w http.ResponseWriter, _ *http.Request) bool {
				w.WriteHeader(http.StatusServiceUnavailable)
				return true
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, px, c := start(t)
			px.once(spoil(p))
			dep, err := c.CreateDeployment(t.Context(), resource.DeploymentCreate{Name: "once"})
			if err != nil || px.requests.Load() != 2 {
				t.Fatalf("%v after %d requests", err, px.requests.Load())
			}
			px.once(spoil(p))
			if _, err := c.Upload(t.Context(), dep.ID, app("bytes")); err != nil {
				t.Fatal(err)
			}
			all, err := client.Collect(c.Deployments(t.Context()))
			if err != nil || len(all) != 1 {
				t.Errorf("%d deployments, %v", len(all), err)
			}
		})
	}
}

func TestWhatIsNotTriedAgain(t *testing.T) {
	_, px, c := start(t)
	_, err := c.CreateDeployment(t.Context(), resource.DeploymentCreate{})
	if client.Code(err) != "validation_failed" || px.requests.Load() != 1 {
		t.Errorf("a wrong request: %v, sent %d times", err, px.requests.Load())
	}
	if e, ok := errors.AsType[*client.Error](err); !ok || len(e.Fields) != 1 || e.Fields[0].Field != "name" {
		t.Errorf("fields: %+v", e)
	}
	bad := errors.New("the file is gone")
	_, err = c.Upload(t.Context(), "x", client.Artifact{Open: func() (io.ReadCloser, error) { return nil, bad }})
	if !errors.Is(err, bad) || px.requests.Load() != 1 {
		t.Errorf("a file that can't be read: %v, sent %d times", err, px.requests.Load())
	}
	f := func(_ int64, w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, "<html>a proxy's words</html>")
		return true
	}
	px.spoil.Store(&f)
	if _, err := c.Tenant(t.Context()); !client.NotAPI(err) || !strings.Contains(err.Error(), "418") {
		t.Errorf("not the API's own answer: %v", err)
	}
	nobody, err := client.New(client.Config{URL: "http://127.0.0.1:1", Key: "msk_p_x", Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nobody.Tenant(t.Context()); !client.Unreachable(err) {
		t.Errorf("nobody there: %v", err)
	}
	for _, url := range []string{"", "127.0.0.1:7070", "ftp://x", "http://"} {
		if _, err := client.New(client.Config{URL: url, Key: "k"}); err == nil {
			t.Errorf("%q is taken for a URL", url)
		}
	}
}

func TestListsGoThroughAllPages(t *testing.T) {
	p, px, c := start(t)
	dep, err := c.CreateDeployment(t.Context(), resource.DeploymentCreate{Name: "x"})
	if err != nil {
		t.Fatal(err)
	}
	const n = 130
	for range n {
		if _, err := c.SetVars(t.Context(), dep.ID, resource.VarsMerge{Env: map[string]*string{"A": new("b")}}); err != nil {
			t.Fatal(err)
		}
	}
	before := px.requests.Load()
	all, err := client.Collect(c.Events(t.Context(), dep.ID, client.Query("type", "variables")))
	if err != nil || len(all) != n || px.requests.Load() != before+2 {
		t.Errorf("%d events in %d requests, %v", len(all), px.requests.Load()-before, err)
	}
	_ = p
}

// TestFollowSurvivesBrokenConnections: every event once, in order, although
// the connection breaks again and again.
func TestFollowSurvivesBrokenConnections(t *testing.T) {
	_, px, c := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if _, err := c.CreateDeployment(ctx, resource.DeploymentCreate{Name: "x"}); err != nil {
		t.Fatal(err)
	}
	cut := func(_ int64, w http.ResponseWriter, r *http.Request) bool { return false }
	px.spoil.Store(&cut)
	const n = 30
	seen := make(chan resource.Event)
	go func() {
		defer close(seen)
		for e, err := range c.Follow(ctx, "x", 1) {
			if err != nil {
				t.Error(err)
				return
			}
			select {
			case seen <- e:
			case <-ctx.Done():
				return
			}
		}
	}()
	if e := <-seen; e.Type != "deployment.created" {
		t.Fatalf("%s first", e.Type)
	}
	want := map[string]bool{}
	for i := range n {
		if i%10 == 5 {
			px.CloseClientConnections()
		}
		if _, err := c.SetVars(ctx, "x", resource.VarsMerge{Env: map[string]*string{"A": new("b")}}); err != nil {
			t.Fatal(err)
		}
		e := <-seen
		if e.Type != "variables.changed" || want[e.ID] {
			t.Fatalf("event %d: %s %s", i, e.Type, e.ID)
		}
		want[e.ID] = true
	}
	cancel()
	for range seen {
		continue
	}
}

func TestFileArtifact(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct{ content, media, kind string }{
		"a.tar.zst": {"\x28\xb5\x2f\xfdxx", "application/zstd", ""}, "b.tgz": {"\x1f\x8b\x08\x00", "application/gzip", ""},
		"c.tar": {"some tar", "application/x-tar", ""}, "d.oci.tar": {"some tar", "application/x-tar", ""}, "e": {"x", "application/x-tar", ""},
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		a, err := client.FileArtifact(path)
		if err != nil || a.MediaType != c.media || a.Kind != c.kind {
			t.Errorf("%s: %s %q, %v", name, a.MediaType, a.Kind, err)
		}
	}
	if _, err := client.FileArtifact(dir); err == nil {
		t.Error("a directory is taken")
	}
}

func TestContexts(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	if _, err := client.RememberedContext(); !errors.Is(err, client.ErrNoPlatform) {
		t.Errorf("nothing remembered: %v", err)
	}
	path := filepath.Join(t.TempDir(), "context.json")
	for content, ok := range map[string]bool{
		`{"api_url":"http://x","api_key":"msk_p_1","admin_key":"msk_a_1","http_url":"http://y"}`: true, `{}`: false, `{"api_url":"http://x"}`: false, `{`: false,
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := client.ReadContext(path); (err == nil) != ok {
			t.Errorf("%s: %v", content, err)
		}
	}
	for range 2 {
		if err := client.RememberContext(path); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := client.RememberedContext(); err != nil || got != path {
		t.Errorf("remembered %q, %v", got, err)
	}
}
