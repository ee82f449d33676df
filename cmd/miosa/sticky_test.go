package main

import (
	"bytes"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/miosa/miosa/bench/rig"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/etcd"
)

// A client's session stays with its instance when the whole platform is ended and
// started again.
func TestSessionsOutliveThePlatform(t *testing.T) {
	j, root := start(t, rig.Options{Driver: "sim"})
	dep, err := j.Create(j.ctx, "app")
	if err != nil {
		t.Fatal(err)
	}
	rel, err := j.Upload(j.ctx, dep, filepath.Join(root, "bin", "examples", "hello.tar.zst"))
	if err != nil {
		t.Fatal(err)
	}
	const replicas = 3
	published, err := j.Publish(j.ctx, dep, map[string]any{"release_id": rel, "services": []map[string]any{{
		"name": "web", "type": "web", "run_command": "sim serve", "port": 8080, "health_check_path": "/",
		"desired_replicas": replicas, "sticky": map[string]any{"mode": "cookie"},
	}}})
	if err != nil || !published.Promoted {
		t.Fatalf("publish: %+v, %v", published, err)
	}
	// try is the status that a client with a cookie gets, and the cookie, "": none.
	try := func(cookie string) (status int, set string) {
		t.Helper()
		req, err := http.NewRequestWithContext(j.ctx, http.MethodGet, j.Context.HTTPURL+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "app.default.localhost"
		if cookie != "" {
			req.Header.Set("Cookie", cookie)
		}
		answer, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		set, _, _ = strings.Cut(answer.Header.Get("Set-Cookie"), ";")
		return answer.StatusCode, set
	}
	ask := func(cookie string) string {
		t.Helper()
		status, set := try(cookie)
		if status != http.StatusOK {
			t.Fatalf("it answers %d", status)
		}
		return set
	}
	if _, err := j.AwaitHealthy(j.ctx, dep, replicas); err != nil {
		t.Fatal(err)
	}
	sessions := map[string]bool{}
	j.until("every instance has a session", func() bool {
		sessions[ask("")] = true
		return len(sessions) == replicas
	})
	if err := j.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := j.Up(j.ctx); err != nil {
		t.Fatal(err)
	}
	// The simulated VMs ended with the process. As long as its agent has not said so,
	// the records have them as healthy: what counts is who answers.
	j.until("every instance is routed to", func() bool {
		now := map[string]bool{}
		for range 2 * replicas {
			status, set := try("")
			if status != http.StatusOK {
				return false
			}
			now[set] = true
		}
		return len(now) == replicas
	})
	for cookie := range sessions {
		if moved := ask(cookie); moved != "" {
			t.Errorf("the session %s is another one: %s", cookie, moved)
		}
	}
}

// The platform's own key is there at every start. Where the master key that sealed
// it is gone, and sealed nothing else, that keeps nobody from starting.
func TestTheStickyKeyIsKept(t *testing.T) {
	dir := t.TempDir()
	var said bytes.Buffer
	begin := func(seal bool) (string, error) {
		t.Helper()
		p := &platform{log: slog.New(slog.NewTextHandler(&said, nil))}
		var err error
		if p.data, err = openData(dir); err != nil {
			t.Fatal(err)
		}
		defer p.data.close()
		if p.store, err = etcd.Open(t.Context(), etcd.Config{Dir: p.data.path("etcd")}); err != nil {
			t.Fatal(err)
		}
		defer p.store.Close()
		vault, _, err := p.openKeys(t.Context())
		if err != nil {
			return "", err
		}
		if seal {
			if _, err := p.firstRecords(t.Context()); err != nil {
				t.Fatal(err)
			}
			for tenant, err := range store.List(t.Context(), p.store, store.Tenants, store.TenantsPrefix(), store.ScanOptions{}) {
				if err != nil {
					t.Fatal(err)
				}
				if _, err := vault.Seal(t.Context(), tenant.ID, "test", []byte("x")); err != nil {
					t.Fatal(err)
				}
			}
		}
		key, err := vault.Derive(t.Context(), stickyPurpose)
		if err != nil {
			t.Fatal(err)
		}
		return string(key), nil
	}
	first, err := begin(false)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := begin(false); err != nil || again != first {
		t.Errorf("another key at the next start, or %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "keys", "master.key")); err != nil {
		t.Fatal(err)
	}
	second, err := begin(true)
	if err != nil || second == first || !strings.Contains(said.String(), "made anew") {
		t.Errorf("without the master key: %v, said\n%s", err, said.String())
	}
	if again, err := begin(false); err != nil || again != second {
		t.Errorf("another key at the next start, or %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "keys", "master.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := begin(false); err == nil || !strings.Contains(err.Error(), "is missing") {
		t.Errorf("without the master key of what a tenant sealed: %v", err)
	}
}
