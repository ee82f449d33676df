package api_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api"
	"github.com/miosa/miosa/api/apitest"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/memory"
)

// mortal is the store as a process sees it that dies: after a commit that
// keeps something under an idempotency key nothing gets through any more.
type mortal struct {
	store.Store
	mu    sync.Mutex
	armed bool // guarded by mu
	dead  bool // guarded by mu
}

var errDied = errors.New("the process died")

func (m *mortal) Commit(ctx context.Context, txn store.Txn) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return 0, errDied
	}
	revision, err := m.Store.Commit(ctx, txn)
	for _, p := range txn.Put {
		if m.armed && strings.Contains(p.Key, "/idem/") && bytes.Contains(p.Value, []byte(`"done":false`)) {
			m.armed, m.dead = false, true
			return 0, errDied
		}
	}
	return revision, err
}

func (m *mortal) Get(ctx context.Context, key string) (store.Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return store.Entry{}, errDied
	}
	return m.Store.Get(ctx, key)
}

// fallible is a platform whose API can die.
type fallible struct {
	platform
	mortal *mortal
	deps   api.Deps
}

func startFallible(t *testing.T) *fallible {
	t.Helper()
	f := &fallible{mortal: &mortal{Store: memory.New(time.Now)}}
	f.platform = platform{apitest.Start(t, f.mortal.Store, api.Config{}, func(d *api.Deps) {
		d.Store = f.mortal
		f.deps = *d
	}), t}
	return f
}

// die has the API die once it has done what the next request asks.
func (f *fallible) die() {
	f.mortal.mu.Lock()
	defer f.mortal.mu.Unlock()
	f.mortal.armed = true
}

// restart replaces an API that died by a new one; false: it did not die.
func (f *fallible) restart() bool {
	f.t.Helper()
	f.mortal.mu.Lock()
	died := f.mortal.dead
	f.mortal.armed, f.mortal.dead = false, false
	f.mortal.mu.Unlock()
	if !died {
		return false
	}
	next, err := api.New(api.Config{PublicURL: apitest.PublicURL, Regions: []miosa.Region{{ID: "local", Slug: "local"}}}, f.deps)
	if err != nil {
		f.t.Fatal(err)
	}
	server := httptest.NewServer(next)
	f.t.Cleanup(server.Close)
	f.URL = server.URL
	return true
}

// wishes are the records that requests make, and how many requests are on
// record; what control makes of them does not count.
func (f *fallible) wishes() (keys []string, requests int) {
	f.t.Helper()
	for e, err := range f.Store.Scan(f.t.Context(), store.AllRecords, store.ScanOptions{}) {
		if err != nil {
			f.t.Fatal(err)
		}
		noun, err := store.Decode(e)
		if err != nil {
			continue // an index entry
		}
		switch noun := noun.(type) {
		case miosa.Event:
			if strings.HasPrefix(noun.Actor, "key_") {
				requests++
			}
		case miosa.Instance, miosa.Observation:
		default:
			keys = append(keys, e.Key)
		}
	}
	return keys, requests
}

// TestARetryAfterACrashDoesNothingTwice: every mutation is cut off after its
// transaction and before its answer, and asked again of another process.
func TestARetryAfterACrashDoesNothingTwice(t *testing.T) {
	for _, op := range api.Operations() {
		if op.Method == http.MethodGet {
			continue
		}
		t.Run(op.ID, func(t *testing.T) {
			f := startFallible(t)
			w := f.world()
			key := f.Key
			if op.Admin {
				key = f.Admin
			}
			switch {
			case strings.HasPrefix(op.Pattern, "/admin/api-keys/"):
				keys, _ := f.want(200, "GET", "/admin/api-keys", nil, f.bearer(f.Admin)).at("data").([]any)
				for _, k := range keys {
					if k := k.(map[string]any); k["role"] == "user" {
						w.ids["api-keys"] = k["id"].(string)
					}
				}
			case strings.HasPrefix(op.Pattern, "/admin/hosts/"):
				f.Update(func(tx *store.Tx) error {
					return store.Save(tx, store.Hosts, miosa.Host{ID: w.ids["hosts"], Name: "h", Region: "local", Liveness: miosa.Lost})
				})
			case op.ID == "rollback":
				f.publish(w.dep, w.ids["release_id"], "")
				f.settled(w.dep)
			}
			headers := append(headersFor(op), f.bearer(key), "Idempotency-Key: k")
			ask := func() answer { return f.call(op.Method, w.path(op.Pattern), bodyFor(op, w), headers...) }
			f.die()
			first := ask()
			if !f.restart() {
				// What is sent to somebody else is no record: it may come twice. A dry run
				// leaves none.
				if op.ID != "testLogDrain" && op.ID != "redeliver" && !op.Dry || first.Status/100 != 2 {
					t.Fatalf("nothing is kept of it: %d %s", first.Status, first.Raw)
				}
				return
			}
			if first.Status < 500 {
				t.Fatalf("it answers from the grave: %d %s", first.Status, first.Raw)
			}
			before, requests := f.wishes()
			again := ask()
			if again.Status/100 != 2 || again.Header.Get("Idempotency-Replayed") != "true" {
				t.Fatalf("the retry: %d %s", again.Status, again.Raw)
			}
			after, nowRequests := f.wishes()
			if requests != nowRequests || strings.Join(before, "\n") != strings.Join(after, "\n") {
				t.Errorf("%d requests became %d; records\n%s\nbecame\n%s", requests, nowRequests, strings.Join(before, "\n"), strings.Join(after, "\n"))
			}
			if id := again.text("data.id"); strings.HasPrefix(op.ID, "create") && id != "" && !strings.Contains(strings.Join(before, "\n"), id) && op.ID != "createAPIKey" {
				t.Errorf("the retry answers with %s, which was not made", id)
			}
			if third := ask(); third.Raw != again.Raw || third.Status != again.Status {
				t.Errorf("once more it is\n%s, not\n%s", third.Raw, again.Raw)
			}
			if op.ID == "createAPIKey" {
				f.want(200, "GET", "/deployments", nil, f.bearer(again.text("data.key")))
			}
			if (op.ID == "createWebhook" || op.ID == "rotateWebhookSecret") && again.text("data.secret") == "" {
				t.Errorf("the secret is lost: %s", again.Raw)
			}
		})
	}
}

// TestARetryAfterACrashWaitsOn: a publish that is waited for is the same one.
func TestARetryAfterACrashWaitsOn(t *testing.T) {
	f := startFallible(t)
	dep := f.deploy("x")
	body := map[string]any{"release_id": f.upload(dep, "x"), "run_command": "/app/held"}
	ask := func() answer {
		return f.call("POST", "/deployments/"+dep+"/publish?wait=true", body, "Idempotency-Key: k")
	}
	f.die()
	if a := ask(); a.Status < 500 || !f.restart() {
		t.Fatalf("the first: %d %s", a.Status, a.Raw)
	}
	// Two at once: both wait, and both hear the same.
	answers := make([]answer, 2)
	var all sync.WaitGroup
	for n := range answers {
		all.Go(func() { answers[n] = ask() })
	}
	f.Control.Release()
	all.Wait()
	for _, a := range append(answers, ask()) {
		if a.Status != http.StatusOK || a.at("data.promoted") != true || a.Raw != answers[0].Raw {
			t.Errorf("%d %s", a.Status, a.Raw)
		}
	}
	if a := f.want(200, "GET", "/deployments/"+dep+"/versions", nil); a.at("page.total") != 1.0 {
		t.Errorf("%v versions", a.at("page.total"))
	}
}

func TestADuplicateWaitsWithTheFirst(t *testing.T) {
	p := start(t, api.Config{})
	dep := p.deploy("x")
	body := map[string]any{"release_id": p.upload(dep, "x"), "run_command": "/app/held"}
	done := make(chan answer)
	for range 3 {
		go func() { done <- p.call("POST", "/deployments/"+dep+"/publish?wait=true", body, "Idempotency-Key: k") }()
	}
	for p.call("GET", "/deployments/"+dep, nil).at("data.rollout_id") == nil {
		continue
	}
	p.Control.Release()
	for range 3 {
		if a := <-done; a.Status != http.StatusOK || a.at("data.promoted") != true {
			t.Errorf("%d %s", a.Status, a.Raw)
		}
	}
	if a := p.want(200, "GET", "/deployments/"+dep+"/versions", nil); a.at("page.total") != 1.0 {
		t.Errorf("%v versions", a.at("page.total"))
	}
}

// TestPassingRefusalsAreNotRepeated: with the same key the request is done
// once what stood in its way has passed.
func TestPassingRefusalsAreNotRepeated(t *testing.T) {
	p := start(t, api.Config{})
	dep := p.deploy("x")
	path := "/deployments/" + dep
	release := p.upload(dep, "x")
	held := p.want(202, "POST", path+"/publish", map[string]any{"release_id": release, "run_command": "/app/held"})
	body := map[string]any{"release_id": release, "run_command": "/app"}
	version := path + "/versions/" + held.text("data.version.id") + "/promote"
	service := "/services/" + held.at("data.services").([]any)[0].(map[string]any)["id"].(string)
	ask := func() []answer {
		return []answer{
			p.call("POST", version, map[string]any{"environment": "staging"}, "Idempotency-Key: b"), // version_not_ready
			p.call("PATCH", service, map[string]any{"port": 81}, "Idempotency-Key: c"),              // nothing_published
			p.call("POST", path+"/publish?wait=true", body, "Idempotency-Key: a"),                   // rollout_in_progress
		}
	}
	for _, a := range ask() {
		if a.Status != http.StatusConflict {
			t.Fatalf("%d %s", a.Status, a.Raw)
		}
	}
	p.Control.Release()
	p.settled(dep)
	for _, a := range ask()[:1] {
		if a.Status != http.StatusOK {
			t.Errorf("%d %s", a.Status, a.Raw)
		}
	}
	p.settled(dep)
	for n, a := range ask() {
		if a.Status/100 != 2 && a.code() != "rollout_in_progress" {
			t.Errorf("%d: %d %s", n, a.Status, a.Raw)
		}
	}

	p.want(201, "POST", "/admin/plans", map[string]any{"name": "tiny", "max_deployments": 1}, p.bearer(p.Admin))
	p.want(200, "PATCH", "/admin/tenants/"+p.Tenant.ID, map[string]any{"plan": "tiny"}, p.bearer(p.Admin))
	p.want(402, "POST", "/deployments", map[string]any{"name": "y"}, "Idempotency-Key: q")
	p.want(200, "PATCH", "/admin/plans/tiny", map[string]any{"max_deployments": 2}, p.bearer(p.Admin))
	p.want(201, "POST", "/deployments", map[string]any{"name": "y"}, "Idempotency-Key: q")

	p.Uploads.Fail(&miosa.Error{Code: miosa.NoSpace, Message: "the platform's disk is full"})
	p.want(507, "POST", path+"/releases", "more", "Content-Type: application/zstd", "Idempotency-Key: u")
	p.Uploads.Fail(nil)
	p.want(201, "POST", path+"/releases", "more", "Content-Type: application/zstd", "Idempotency-Key: u")
}

// TestAnOlderClaimSaysNothing: what a binary before left of a request that
// died keeps nobody waiting.
func TestAnOlderClaimSaysNothing(t *testing.T) {
	f := startFallible(t)
	f.want(201, "POST", "/deployments", map[string]any{"name": "x"}, "Idempotency-Key: k")
	var place string
	for e, err := range f.Store.Scan(t.Context(), store.AllTenants, store.ScanOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(e.Key, "/idem/") {
			place = e.Key
		}
	}
	f.Update(func(tx *store.Tx) error {
		tx.SetIndex(place, `{"request":"another","owner":"req_1/2","done":false}`, 0)
		return nil
	})
	f.want(409, "POST", "/deployments", map[string]any{"name": "x"}, "Idempotency-Key: k")
}
