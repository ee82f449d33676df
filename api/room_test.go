package api_test

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api"
	"github.com/miosa/miosa/store"
)

// TestEveryLimitHoldsAtOnce: sixteen at a time ask for what there is room for
// four of; four get it, and the others are told which limit it is.
func TestEveryLimitHoldsAtOnce(t *testing.T) {
	p := start(t, api.Config{})
	p.want(201, "POST", "/admin/plans", map[string]any{
		"name": "tiny", "max_deployments": 5, "max_environments": 6, "max_webhooks": 4, "max_log_drains": 4, "max_registries": 4, "max_api_keys": 4, "max_releases": 4,
	}, p.bearer(p.Admin))
	tenant := p.AddTenant("small")
	p.want(200, "PATCH", "/admin/tenants/"+tenant.ID, map[string]any{"plan": "tiny"}, p.bearer(p.Admin))
	key := p.bearer(p.AddKey(miosa.RolePlatform, tenant.ID, ""))
	dep := p.want(201, "POST", "/deployments", map[string]any{"name": "first"}, key).text("data.id")
	for what, ask := range map[string]func(n int) answer{
		"deployments": func(n int) answer {
			return p.call("POST", "/deployments", map[string]any{"name": fmt.Sprint("app ", n)}, key)
		},
		"environments": func(n int) answer {
			return p.call("POST", "/deployments/"+dep+"/environments", map[string]any{"name": fmt.Sprint("e", n)}, key)
		},
		"webhooks": func(int) answer {
			return p.call("POST", "/webhooks", map[string]any{"url": "https://example.com"}, key)
		},
		"logins to registries": func(n int) answer {
			return p.call("POST", "/registries", map[string]any{"host": fmt.Sprintf("r%d.example", n), "username": "ann", "password": "x"}, key)
		},
		"log drains": func(int) answer {
			return p.call("POST", "/log-drains", map[string]any{"url": "https://logs.example/in"}, key)
		},
		"API keys": func(int) answer {
			return p.call("POST", "/admin/api-keys", map[string]any{"role": "user", "tenant_id": tenant.ID}, p.bearer(p.Admin))
		},
		"releases": func(n int) answer {
			return p.call("POST", "/deployments/"+dep+"/releases", fmt.Sprint("bytes ", n), key, "Content-Type: application/zstd")
		},
	} {
		t.Run(what, func(t *testing.T) {
			var made atomic.Int64
			var all sync.WaitGroup
			for n := range 16 {
				all.Go(func() {
					a := ask(n)
					for a.Status == http.StatusTooManyRequests { // uploads at once
						a = ask(n)
					}
					switch {
					case a.Status == http.StatusCreated:
						made.Add(1)
					case a.Status != http.StatusPaymentRequired || a.code() != "quota_exceeded" || !strings.Contains(a.text("message"), "plan tiny allows") ||
						!strings.Contains(a.text("message"), what) || !strings.Contains(a.text("message"), "or ask the operator"):
						t.Errorf("%d %s", a.Status, a.Raw)
					}
				})
			}
			all.Wait()
			if made.Load() != 4 {
				t.Errorf("%d were made", made.Load())
			}
		})
	}
	// What goes makes room.
	keys, _ := p.want(200, "GET", "/admin/api-keys?tenant_id="+tenant.ID, nil, p.bearer(p.Admin)).at("data").([]any)
	p.want(200, "DELETE", "/admin/api-keys/"+keys[0].(map[string]any)["id"].(string), nil, p.bearer(p.Admin))
	p.want(201, "POST", "/admin/api-keys", map[string]any{"role": "user", "tenant_id": tenant.ID}, p.bearer(p.Admin))
	p.want(200, "DELETE", "/deployments/"+dep, nil, key)
	p.want(201, "POST", "/deployments", map[string]any{"name": "another"}, key)
	// Nobody else is narrowed.
	p.want(201, "POST", "/deployments", map[string]any{"name": "another"})
}

func TestServicesAreLimited(t *testing.T) {
	p := start(t, api.Config{})
	p.want(201, "POST", "/admin/plans", map[string]any{"name": "tiny", "max_services": 2}, p.bearer(p.Admin))
	p.want(200, "PATCH", "/admin/tenants/"+p.Tenant.ID, map[string]any{"plan": "tiny"}, p.bearer(p.Admin))
	dep := p.deploy("x")
	body := map[string]any{"release_id": p.upload(dep, "x"), "run_command": "/app"}
	with := func(names ...string) answer {
		var services []any
		for _, name := range names {
			services = append(services, map[string]any{"name": name, "type": "worker", "run_command": "/app"})
		}
		body["services"] = services
		return p.call("POST", "/deployments/"+dep+"/publish?wait=true", body)
	}
	if a := with("a", "b", "c"); a.Status != 402 || !strings.Contains(a.text("message"), "2 services a version") {
		t.Errorf("%d %s", a.Status, a.Raw)
	}
	for n := range 5 {
		if a := with(fmt.Sprint("a", n), fmt.Sprint("b", n)); a.Status != 200 {
			t.Fatalf("%d %s", a.Status, a.Raw)
		}
		p.settled(dep)
	}
	if a := with("one-more"); a.Status != 402 || !strings.Contains(a.text("message"), "10 services") {
		t.Errorf("%d %s", a.Status, a.Raw)
	}
	if a := with("a0"); a.Status != 200 {
		t.Errorf("a name that it had: %d %s", a.Status, a.Raw)
	}
}

// zeros has no length that the sender could promise.
type zeros struct{ left int }

func (z *zeros) Read(p []byte) (int, error) {
	n := min(len(p), z.left)
	if z.left -= n; n == 0 {
		return 0, io.EOF
	}
	clear(p[:n])
	return n, nil
}

func TestStoredBytesAreLimited(t *testing.T) {
	p := start(t, api.Config{})
	p.want(201, "POST", "/admin/plans", map[string]any{"name": "tiny", "max_storage_mb": 2}, p.bearer(p.Admin))
	p.want(200, "PATCH", "/admin/tenants/"+p.Tenant.ID, map[string]any{"plan": "tiny"}, p.bearer(p.Admin))
	dep := p.deploy("x")
	path := "/deployments/" + dep + "/releases"
	send := func(size int) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), "POST", p.URL+"/api/v1"+path, &zeros{size})
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/zstd")
		resp := p.Do(req)
		raw, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(raw)
	}
	p.want(201, "POST", path, strings.Repeat("x", 1_500_000), "Content-Type: application/zstd")
	if a := p.want(402, "POST", path, strings.Repeat("y", 600_000), "Content-Type: application/zstd"); !strings.Contains(a.text("message"), "plan tiny allows 2 MB of releases") {
		t.Errorf("%s", a.Raw)
	}
	before := p.Uploads.Received()
	if status, raw := send(600_000); status != 402 || p.Uploads.Received() != before {
		t.Errorf("of unknown length: %d %s", status, raw)
	}
	if status, raw := send(400_000); status != 201 {
		t.Errorf("what fits: %d %s", status, raw)
	}
	// The same bytes again cost nothing, if they are promised.
	sum := sha256.Sum256(make([]byte, 400_000))
	p.want(200, "POST", path, string(make([]byte, 400_000)), "Content-Type: application/zstd", "Digest: sha-256="+base64.StdEncoding.EncodeToString(sum[:]))
}

// A plan's record of before has none of the newer limits: it has the default's.
func TestAnOlderPlanHasTheDefaultLimits(t *testing.T) {
	p := start(t, api.Config{})
	p.Update(func(tx *store.Tx) error {
		return store.Save(tx, store.Plans, miosa.Plan{Name: "older", MaxDeployments: 3, MaxInstances: 3, MaxReplicas: 3})
	})
	a := p.want(200, "GET", "/admin/plans/older", nil, p.bearer(p.Admin))
	if a.at("data.max_environments") != float64(miosa.DefaultPlan().MaxEnvironments) || a.at("data.max_storage_mb") != float64(miosa.DefaultPlan().MaxStorageMB) ||
		a.at("data.max_log_storage_mb") != float64(miosa.DefaultPlan().MaxLogStorageMB) {
		t.Errorf("%s", a.Raw)
	}
	p.want(200, "PATCH", "/admin/plans/older", map[string]any{"max_environments": -1}, p.bearer(p.Admin))
	p.want(200, "PATCH", "/admin/tenants/"+p.Tenant.ID, map[string]any{"plan": "older"}, p.bearer(p.Admin))
	dep := p.deploy("x")
	for n := range miosa.DefaultPlan().MaxEnvironments {
		p.want(201, "POST", "/deployments/"+dep+"/environments", map[string]any{"name": fmt.Sprint("e", n)})
	}
}

// TestNoNameOfAnotherWorkspace: a key that does not see a deployment does not
// read of it, whatever it asks.
func TestNoNameOfAnotherWorkspace(t *testing.T) {
	p := start(t, api.Config{})
	p.want(201, "POST", "/deployments", map[string]any{"name": "Secret Project", "external_workspace_id": "one"})
	other := p.bearer(p.AddKey(miosa.RoleUser, p.Tenant.ID, "two"))
	a := p.want(409, "POST", "/deployments", map[string]any{"name": "secret - project"}, other)
	if a.code() != "name_taken" || strings.Contains(a.Raw, "secret-project") || strings.Contains(a.Raw, "there is a deployment") {
		t.Errorf("%s", a.Raw)
	}
	own := p.bearer(p.AddKey(miosa.RoleUser, p.Tenant.ID, "one"))
	if a := p.want(409, "POST", "/deployments", map[string]any{"name": "secret - project"}, own); !strings.Contains(a.text("message"), `"secret-project"`) {
		t.Errorf("%s", a.Raw)
	}
}
