package pull_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api"
	"github.com/miosa/miosa/api/apitest"
	"github.com/miosa/miosa/artifact"
	"github.com/miosa/miosa/artifact/artifacttest"
	"github.com/miosa/miosa/outbound"
	"github.com/miosa/miosa/registry/pull"
	"github.com/miosa/miosa/registry/registrytest"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/memory"
)

// world is an API that pulls from a real registry.
type world struct {
	*apitest.Platform
	t     *testing.T
	cfg   pull.Config
	blobs artifact.Blobs
	now   *pull.Puller
	end   func()
	key   string // of who calls; "": the platform's first tenant
	log   *apitest.Log
}

type uploads struct{ blobs artifact.Blobs }

func (u uploads) Receive(ctx context.Context, up artifact.Upload) (artifact.Stored, error) {
	return artifact.Receive(ctx, u.blobs, up, artifact.Limits{})
}

// opener opens what apitest's sealer sealed: it is no secret there.
type opener struct{ secret string }

func (o opener) Open(context.Context, string, string, []byte) ([]byte, error) {
	return []byte(o.secret), nil
}

// Status is the present puller's: a platform has another one after each start.
func (w *world) Status(id string) (miosa.PullStatus, bool) { return w.now.Status(id) }

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, log: &apitest.Log{}, blobs: artifacttest.NewMemory(time.Now), cfg: pull.Config{
		Dir: t.TempDir(), Guard: outbound.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("::1/128")}}, Pause: time.Microsecond,
	}}
	records := memory.New(time.Now)
	w.Platform = apitest.Start(t, records, api.Config{}, func(d *api.Deps) { d.Pulls = w })
	w.begin("secret")
	t.Cleanup(func() { w.end() })
	return w
}

// begin starts a puller, as a start of the platform does.
func (w *world) begin(secret string) {
	w.t.Helper()
	p, err := pull.New(w.cfg, w.Store, uploads{w.blobs}, opener{secret}, slog.New(slog.NewTextHandler(w.log, nil)))
	if err != nil {
		w.t.Fatal(err)
	}
	w.now = p
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	var done sync.WaitGroup
	done.Go(func() { _ = p.Run(ctx, w.Handler) })
	var once sync.Once
	w.end = func() {
		once.Do(func() {
			cancel()
			done.Wait()
			_ = p.Close()
		})
	}
}

// call asks the API and reads its answer.
func (w *world) call(method, path string, body any) (int, map[string]any) {
	w.t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		w.t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(w.t.Context(), method, w.URL+"/api/v1"+path, bytes.NewReader(raw))
	if err != nil {
		w.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+cmp.Or(w.key, w.Key))
	r.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	var out map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		w.t.Fatal(err)
	}
	return resp.StatusCode, out
}

// tenant is the same world for another tenant.
func (w *world) tenant(slug string) *world {
	w.t.Helper()
	other := *w
	other.key = w.AddKey(miosa.RolePlatform, w.AddTenant(slug).ID, "")
	return &other
}

// drip stands in front of a registry and lets the last layer of an image come byte
// by byte: for minutes, if it has 100,000.
func drip(t *testing.T, host string, img v1.Image) string {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := layers[len(layers)-1].Digest()
	if err != nil {
		t.Fatal(err)
	}
	return registrytest.Front(t, host, func(w http.ResponseWriter, q *http.Request) bool {
		if !strings.HasSuffix(q.URL.Path, digest.String()) {
			return false
		}
		for q.Context().Err() == nil {
			if _, err := w.Write([]byte("x")); err != nil {
				break
			}
			_ = http.NewResponseController(w).Flush()
			select {
			case <-time.After(10 * time.Millisecond):
			case <-q.Context().Done():
			}
		}
		return true
	})
}

// empty checks that no layer lies there.
func (w *world) empty() {
	w.t.Helper()
	left := 0
	err := filepath.WalkDir(w.cfg.Dir, func(_ string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			left++
		}
		return err
	})
	if err != nil || left > 0 {
		w.t.Errorf("%d files stayed (%v)", left, err)
	}
}

// start publishes and does not wait.
func (w *world) start(dep, image string) (version, rollout string) {
	w.t.Helper()
	status, out := w.call("POST", "/deployments/"+dep+"/publish", map[string]any{"image": image})
	version, _ = at(out, "data.version.id").(string)
	rollout, _ = at(out, "data.rollout.id").(string)
	if status != 202 || version == "" || rollout == "" {
		w.t.Fatalf("%d %v", status, out)
	}
	return version, rollout
}

func at(v any, path string) any {
	for name := range strings.SplitSeq(path, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[name]
	}
	return v
}

func (w *world) deploy(name string) string {
	w.t.Helper()
	status, made := w.call("POST", "/deployments", map[string]any{"name": name})
	id, ok := at(made, "data.id").(string)
	if !ok {
		w.t.Fatalf("%d %v", status, made)
	}
	return id
}

// publish waits for the end.
func (w *world) publish(dep string, image any) map[string]any {
	w.t.Helper()
	status, out := w.call("POST", "/deployments/"+dep+"/publish?wait=true", map[string]any{"image": image})
	if status != 200 {
		w.t.Fatalf("%d %v", status, out)
	}
	return out
}

func app(t *testing.T, seed uint64, size int) v1.Image {
	t.Helper()
	return registrytest.Image(t, "amd64", v1.Config{Cmd: []string{"/app"}, ExposedPorts: map[string]struct{}{"9090/tcp": {}}},
		registrytest.Layer(t, map[string]string{"app": "#!/bin/sh\n"}), registrytest.Layer(t, map[string]string{"data": registrytest.Noise(seed, size)}))
}

// TestPublish takes an image from the registry to a live version, with what it
// says of itself, and never pulls it again.
func TestPublish(t *testing.T) {
	ca := registrytest.NewCA(t)
	r := registrytest.Start(t, registrytest.Options{CA: ca, User: "ann", Password: "secret"})
	img := app(t, 1, 50_000)
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	r.Push(t, "shop:1.4", img)
	w := newWorld(t)
	dep := w.deploy("shop")
	out := w.publish(dep, r.Host+"/shop:1.4")
	if m, _ := at(out, "data.version.error_message").(string); at(out, "data.version.state") != "failed" || !strings.Contains(m, "unknown authority") || !strings.Contains(m, "miosa registry login "+r.Host+" --ca") {
		t.Errorf("without its authority: %v: %s", at(out, "data.version.state"), m)
	}
	if status, out := w.call("POST", "/registries", map[string]any{"host": r.Host, "ca_certificate": string(ca.PEM)}); status != 201 {
		t.Fatal(out)
	}
	out = w.publish(dep, r.Host+"/shop:1.4")
	if m, _ := at(out, "data.version.error_message").(string); !strings.Contains(m, "wants a login") {
		t.Errorf("without a login: %s", m)
	}
	if status, out := w.call("POST", "/registries", map[string]any{"host": r.Host, "username": "ann", "password": "secret", "ca_certificate": string(ca.PEM)}); status != 200 {
		t.Fatal(out)
	}
	out = w.publish(dep, map[string]any{"reference": r.Host + "/shop:1.4", "platform": "linux/amd64"})
	for path, want := range map[string]any{
		"data.promoted": true, "data.version.state": "ready", "data.version.image.digest": digest.String(), "data.version.image.reference": r.Host + "/shop:1.4",
		"data.version.image.platform": "linux/amd64", "data.version.image.pull": nil, "data.version.runtime_port": 9090.0, "data.release.kind": "oci",
		"data.release.image.digest": digest.String(), "data.version.runtime_image": r.Host + "/shop:1.4@" + digest.String(), "data.version.artifact_sha256": at(out, "data.release.sha256"),
	} {
		if got := at(out, path); got != want {
			t.Errorf("%s: got %v, wanted %v", path, got, want)
		}
	}
	first := at(out, "data.release.id")
	// The same again is the same release; a restart's version says where it is from.
	if out := w.publish(dep, r.Host+"/shop@"+digest.String()); at(out, "data.release.id") != first || at(out, "data.promoted") != true {
		t.Errorf("the same image again is %v", at(out, "data"))
	}
	if status, out := w.call("POST", "/deployments/"+dep+"/publish?wait=true", map[string]any{"release_id": first}); status != 200 || at(out, "data.version.image.digest") != digest.String() {
		t.Errorf("published as a release: %d %v", status, at(out, "data.version.image"))
	}
	if status, out := w.call("POST", "/deployments/"+dep+"/rollback", map[string]any{}); status != 200 {
		t.Errorf("rollback: %d %v", status, out)
	}
}

// TestKilledInTheMiddle ends the puller with half a layer there. The next one
// goes on; the version never hangs.
func TestKilledInTheMiddle(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	r.Push(t, "shop:1", app(t, 2, 2<<20))
	cutter := registrytest.Cut(t, r.Host, 500<<10, 1<<30)
	w := newWorld(t)
	w.end()
	w.cfg.Pause = time.Hour // it rests after the first cut: there it is ended
	w.begin("")
	dep := w.deploy("shop")
	const config = 64 << 10 // is smaller, and no layer
	status, out := w.call("POST", "/deployments/"+dep+"/publish", map[string]any{"image": "http://" + cutter.Host + "/shop:1"})
	if status != 202 || at(out, "data.rollout.step") != "pulling" || at(out, "data.release") != nil {
		t.Fatalf("%d %v", status, out)
	}
	// A second one has to wait, as for any rollout.
	if status, out := w.call("POST", "/deployments/"+dep+"/publish", map[string]any{"image": "http://" + cutter.Host + "/shop:1"}); status != 409 || at(out, "error.code") != "rollout_in_progress" {
		t.Errorf("a second one: %d %v", status, out)
	}
	version, _ := at(out, "data.version.id").(string)
	rollout, _ := at(out, "data.rollout.id").(string)
	poll(t, func() bool {
		_, out := w.call("GET", "/deployments/"+dep+"/versions/"+version, nil)
		done, _ := at(out, "data.image.pull.bytes_done").(float64)
		all, _ := at(out, "data.image.pull.bytes").(float64)
		return cutter.Done() > 0 && done > config && done < all
	})
	w.end()
	parts, err := filepath.Glob(filepath.Join(w.cfg.Dir, w.Tenant.ID, "*", "*.part"))
	var kept int64
	for _, part := range parts {
		if info, err := os.Stat(part); err == nil {
			kept += info.Size()
		}
	}
	if err != nil || kept == 0 {
		t.Fatalf("nothing is left of it (%v)", err)
	}
	cutter.Left(0)
	w.cfg.Pause = time.Microsecond
	w.begin("")
	_, out = w.call("GET", "/rollouts/"+rollout+"?wait=true", nil)
	if at(out, "data.step") != "draining" && at(out, "data.step") != "done" {
		t.Errorf("it came to %v", at(out, "data"))
	}
}

// TestNothingIsHeldWhileLayersCome: a pull that waits for its registry has none of
// the memory that others read with.
func TestNothingIsHeldWhileLayersCome(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	r.Push(t, "shop:1", app(t, 7, 1000))
	asked, let := make(chan struct{}, 8), make(chan struct{})
	front := registrytest.Front(t, r.Host, func(_ http.ResponseWriter, q *http.Request) bool {
		if q.Method == http.MethodGet && strings.Contains(q.URL.Path, "/blobs/") {
			select {
			case asked <- struct{}{}:
			default:
			}
			select {
			case <-let:
			case <-q.Context().Done():
			}
		}
		return false
	})
	w := newWorld(t)
	w.end()
	w.cfg.Memory = artifact.NewMemory()
	w.begin("")
	dep := w.deploy("shop")
	status, out := w.call("POST", "/deployments/"+dep+"/publish", map[string]any{"image": "http://" + front + "/shop:1"})
	if status != 202 {
		t.Fatalf("%d %v", status, out)
	}
	version, _ := at(out, "data.version.id").(string)
	<-asked // the config
	if now, _ := w.cfg.Memory.Held(); now != 0 {
		t.Errorf("%d MB are held while the config comes", now>>20)
	}
	let <- struct{}{}
	poll(t, func() bool {
		s, _ := w.Status(version)
		return s.State == miosa.PullFetching
	})
	<-asked
	if now, _ := w.cfg.Memory.Held(); now != 0 {
		t.Errorf("%d MB are held while layers come", now>>20)
	}
	close(let)
	rollout, _ := at(out, "data.rollout.id").(string)
	if _, out = w.call("GET", "/rollouts/"+rollout+"?wait=true", nil); at(out, "data.step") != "draining" && at(out, "data.step") != "done" {
		t.Errorf("it came to %v", at(out, "data"))
	}
}

// TestSlowTenants: two tenants whose registries drip don't have all places.
func TestSlowTenants(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	img := app(t, 8, 100_000)
	r.Push(t, "shop:1", img)
	front := drip(t, r.Host, img)
	w := newWorld(t)
	var slow []string
	for _, slug := range []string{"slow", "slower"} {
		tenant := w.tenant(slug)
		for _, name := range []string{"a", "b"} {
			version, _ := tenant.start(tenant.deploy(name), "http://"+front+"/shop:1")
			slow = append(slow, version)
		}
	}
	poll(t, func() bool {
		fetching := 0
		for _, version := range slow {
			if s, _ := w.Status(version); s.State == miosa.PullFetching {
				fetching++
			}
		}
		return fetching >= 3
	})
	if out := w.publish(w.deploy("shop"), "http://"+r.Host+"/shop:1"); at(out, "data.promoted") != true {
		t.Errorf("beside them: %v", at(out, "data.version"))
	}
}

// TestTrickle: who drips is not listened to for ever, and its place is another's.
func TestTrickle(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	img := app(t, 9, 100_000)
	r.Push(t, "shop:1", img)
	front := drip(t, r.Host, img)
	w := newWorld(t)
	w.end()
	w.cfg.LeastRate, w.cfg.RateOver = 10_000, 500*time.Millisecond
	w.begin("")
	slow := map[string]*world{}
	for _, slug := range []string{"a", "b", "c", "d"} {
		tenant := w.tenant("slow-" + slug)
		_, rollout := tenant.start(tenant.deploy("shop"), "http://"+front+"/shop:1")
		slow[rollout] = tenant
	}
	if out := w.publish(w.deploy("shop"), "http://"+r.Host+"/shop:1"); at(out, "data.promoted") != true {
		t.Errorf("after them: %v", at(out, "data.version"))
	}
	for rollout, tenant := range slow {
		_, out := tenant.call("GET", "/rollouts/"+rollout+"?wait=true", nil)
		if reason, _ := at(out, "data.reason").(string); at(out, "data.step") != "failed" || !strings.Contains(reason, "more slowly than 10 KB a second") {
			t.Errorf("%v", at(out, "data"))
		}
	}
}

// TestTooLong: a pull has its time from when it begins, and a wait for a place has
// an end, too.
func TestTooLong(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	img := app(t, 10, 100_000)
	r.Push(t, "shop:1", img)
	front := drip(t, r.Host, img)
	for words, set := range map[string]func(*pull.Config){
		"it did not come within 500ms":              func(c *pull.Config) { c.Takes = 500 * time.Millisecond },
		"other images were pulled for all of 500ms": func(c *pull.Config) { c.Waits = 500 * time.Millisecond },
	} {
		w := newWorld(t)
		w.end()
		set(&w.cfg)
		w.begin("")
		for _, name := range []string{"a", "b"} {
			w.start(w.deploy(name), "http://"+front+"/shop:1")
		}
		out := w.publish(w.deploy("c"), "http://"+front+"/shop:1")
		if m, _ := at(out, "data.version.error_message").(string); !strings.Contains(m, words) {
			t.Errorf("wanted %s: %s", words, m)
		}
		w.end()
	}
}

// TestCalledOff ends a pull that nobody wants any more.
func TestCalledOff(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	r.Push(t, "shop:1", app(t, 3, 2<<20))
	cutter := registrytest.Cut(t, r.Host, 300<<10, 1<<30)
	w := newWorld(t)
	w.end()
	w.cfg.Pause = time.Hour
	w.begin("")
	dep := w.deploy("shop")
	_, out := w.call("POST", "/deployments/"+dep+"/publish", map[string]any{"image": "http://" + cutter.Host + "/shop:1"})
	version, _ := at(out, "data.version.id").(string)
	poll(t, func() bool { return cutter.Done() > 0 })
	w.Update(func(tx *store.Tx) error {
		rollout, _ := at(out, "data.rollout.id").(string)
		r, err := store.Load(tx, store.Rollouts, store.RolloutKey(w.Tenant.ID, dep, rollout))
		if err != nil {
			return err
		}
		r.CancelledBy = "rol_other"
		return store.Save(tx, store.Rollouts, r)
	})
	poll(t, func() bool {
		_, goes := w.Status(version)
		return !goes
	})
}

// TestDiskFull says so and leaves nothing behind.
func TestDiskFull(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	r.Push(t, "shop:1", app(t, 4, 100_000))
	w := newWorld(t)
	w.end()
	w.cfg.Free = func(string) (uint64, error) { return 1 << 20, nil }
	w.begin("")
	dep := w.deploy("shop")
	out := w.publish(dep, "http://"+r.Host+"/shop:1")
	if m, _ := at(out, "data.version.error_message").(string); at(out, "data.version.state") != "failed" || !strings.Contains(m, "no disk space left") {
		t.Errorf("%v: %s", at(out, "data.version.state"), m)
	}
	w.empty()
}

// TestDiskIsPromisedOnce: of two images that begin together, and each have room
// alone, one is refused at once.
func TestDiskIsPromisedOnce(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	r.Push(t, "shop:1", app(t, 11, 1<<20))
	r.Push(t, "shop:2", app(t, 12, 1<<20))
	asked, let := make(chan struct{}, 8), make(chan struct{})
	front := registrytest.Front(t, r.Host, func(_ http.ResponseWriter, q *http.Request) bool {
		if strings.Contains(q.URL.Path, "/blobs/") {
			asked <- struct{}{}
			select {
			case <-let:
			case <-q.Context().Done():
			}
		}
		return false
	})
	w := newWorld(t)
	w.end()
	// For each the layers, and the archive of them.
	w.cfg.Free = func(string) (uint64, error) { return 512<<20 + 3<<20, nil }
	w.begin("")
	_, rollout := w.start(w.deploy("first"), "http://"+front+"/shop:1")
	<-asked // the config
	let <- struct{}{}
	<-asked // a layer
	out := w.publish(w.deploy("second"), "http://"+r.Host+"/shop:2")
	if m, _ := at(out, "data.version.error_message").(string); !strings.Contains(m, "no disk space left") {
		t.Errorf("the second: %v: %s", at(out, "data.version.state"), m)
	}
	close(let)
	if _, out = w.call("GET", "/rollouts/"+rollout+"?wait=true", nil); at(out, "data.step") != "draining" && at(out, "data.step") != "done" {
		t.Errorf("the first came to %v", at(out, "data"))
	}
	if out := w.publish(w.deploy("third"), "http://"+r.Host+"/shop:2"); at(out, "data.promoted") != true {
		t.Errorf("when it has ended: %v", at(out, "data.version"))
	}
}

// TestDiskFillsUp: what others write while layers come counts, too.
func TestDiskFillsUp(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	r.Push(t, "shop:1", app(t, 13, 3<<20))
	w := newWorld(t)
	w.end()
	var asked atomic.Int64
	w.cfg.Free = func(string) (uint64, error) {
		if asked.Add(1) == 1 {
			return 1 << 40, nil
		}
		return 512<<20 - 1, nil
	}
	w.begin("")
	out := w.publish(w.deploy("shop"), "http://"+r.Host+"/shop:1")
	if m, _ := at(out, "data.version.error_message").(string); at(out, "data.version.state") != "failed" || !strings.Contains(m, "no disk space left") {
		t.Errorf("%v: %s", at(out, "data.version.state"), m)
	}
	w.empty()
}

// TestNothingOfOthersIsLogged: registries that say again what they were sent, token
// servers whose answer is none, and signed redirects leave nothing of it in the
// operator's log.
func TestNothingOfOthersIsLogged(t *testing.T) {
	const secret = "hunter2"
	basic := base64.StdEncoding.EncodeToString([]byte("ann:" + secret))
	for name, c := range map[string]struct {
		odd func(host string, w http.ResponseWriter, q *http.Request)
		log string
	}{
		"an echo": {func(_ string, w http.ResponseWriter, q *http.Request) {
			said := q.Header.Get("Authorization")
			if said == "" {
				w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			w.WriteHeader(http.StatusTeapot)
			_, _ = io.WriteString(w, said)
		}, "code=unavailable public=registry_failing status=418"},
		"an echo as a document": {func(_ string, w http.ResponseWriter, q *http.Request) {
			said := q.Header.Get("Authorization")
			if said == "" {
				w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			w.Header().Set("Content-Type", said)
			_, _ = fmt.Fprintf(w, `{"schemaVersion": 2, "mediaType": %q}`, said)
		}, "code=invalid public=image_format"},
		"a token's answer": {func(host string, w http.ResponseWriter, q *http.Request) {
			if q.URL.Path == "/token" {
				_, _ = io.WriteString(w, `{"refresh": "sesame"}`)
				return
			}
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+host+`/token",service="sesame"`)
			w.WriteHeader(http.StatusUnauthorized)
		}, "code=unavailable public=registry_failing"},
		"a signed redirect": {func(_ string, w http.ResponseWriter, q *http.Request) {
			if strings.Contains(q.URL.Path, "/manifests/") {
				http.Redirect(w, q, "http://127.0.0.1:1/x?X-Amz-Signature=sesame", http.StatusTemporaryRedirect)
			}
		}, `public=registry_unreachable status=0 why="connection refused"`},
	} {
		t.Run(name, func(t *testing.T) {
			var host string
			host = registrytest.Front(t, "", func(w http.ResponseWriter, q *http.Request) bool {
				c.odd(host, w, q)
				return true
			})
			w := newWorld(t)
			w.end()
			w.begin(secret)
			if status, out := w.call("POST", "/registries", map[string]any{"host": host, "username": "ann", "password": secret}); status != 201 {
				t.Fatal(out)
			}
			if out := w.publish(w.deploy("shop"), "http://"+host+"/shop:1"); at(out, "data.version.state") != "failed" {
				t.Errorf("%v", at(out, "data.version"))
			}
			w.end()
			text := w.log.String()
			for _, leak := range []string{secret, basic, "sesame", "X-Amz"} {
				if strings.Contains(text, leak) {
					t.Errorf("%s is in the log", leak)
				}
			}
			if !strings.Contains(text, "host="+host) || !strings.Contains(text, c.log) {
				t.Errorf("the log lacks %s", c.log)
			}
			if t.Failed() {
				t.Log(text)
			}
		})
	}
}

// TestNoRoom: what a plan has no room for is not pulled.
func TestNoRoom(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	r.Push(t, "shop:1", app(t, 5, 2_000_000))
	w := newWorld(t)
	w.Update(func(tx *store.Tx) error {
		plan := miosa.DefaultPlan()
		plan.MaxStorageMB = 1
		return store.Save(tx, store.Plans, plan)
	})
	out := w.publish(w.deploy("shop"), "http://"+r.Host+"/shop:1")
	if m, _ := at(out, "data.version.error_message").(string); !strings.Contains(m, "plan default allows 1 MB of releases") {
		t.Errorf("got %s", m)
	}
}

// TestWhatTheImageHolds is told like an upload's faults, and so is what it lacks.
func TestWhatTheImageHolds(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	layer := registrytest.Layer(t, map[string]string{"app": "x"})
	r.Push(t, "mute:1", registrytest.Image(t, "amd64", v1.Config{}, layer))
	r.Push(t, "outside:1", registrytest.Image(t, "amd64", v1.Config{Cmd: []string{"/app"}}, registrytest.Layer(t, map[string]string{"../app": "x"})))
	w := newWorld(t)
	dep := w.deploy("shop")
	for reference, words := range map[string]string{"/mute:1": "the release names no command", "/outside:1": `entry "../app"`, "/nothing:1": "has no"} {
		out := w.publish(dep, "http://"+r.Host+reference)
		if m, _ := at(out, "data.version.error_message").(string); at(out, "data.version.state") != "failed" || !strings.Contains(m, words) {
			t.Errorf("%s: %v: %s", reference, at(out, "data.version.state"), m)
		}
	}
}

// TestManyAtOnce: more than there are places for all come through.
func TestManyAtOnce(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	r.Push(t, "shop:1", app(t, 6, 100_000))
	w := newWorld(t)
	var all sync.WaitGroup
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g"} {
		dep := w.deploy(name)
		all.Go(func() {
			if out := w.publish(dep, "http://"+r.Host+"/shop:1"); at(out, "data.promoted") != true {
				t.Errorf("%s: %v", name, at(out, "data.version"))
			}
		})
	}
	all.Wait()
}

func poll(t *testing.T, fn func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for !fn() {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			t.Fatal(errors.New("it did not come to that in a minute"))
		}
	}
}
