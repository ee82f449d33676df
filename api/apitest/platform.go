// Package apitest runs the API over a store, with a small control plane of
// its own that behaves: it moves rollouts, makes instances and writes the
// records that the real one writes. Tests of the API, of the client and of
// the commands stand on it.
package apitest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api"
	"github.com/miosa/miosa/artifact"
	"github.com/miosa/miosa/secret"
	"github.com/miosa/miosa/store"
)

// Platform is a running API with one tenant, "default", and its keys.
type Platform struct {
	URL      string
	Store    store.Store
	Tenant   miosa.Tenant
	UserKey  string
	Key      string // platform
	Admin    string
	Control  *Control
	Uploads  *Uploads
	Logs     *Logs
	Drains   *Drains
	Events   *Events
	Webhooks *Webhooks
	Figures  *Figures
	Usage    *Usage
	Handler  *api.Server
	Log      *Log

	t testing.TB
}

// Start runs a platform over a store until the test ends. Fields of cfg that
// a test does not care about are filled in; change may change the parts.
func Start(t testing.TB, s store.Store, cfg api.Config, change ...func(*api.Deps)) *Platform {
	t.Helper()
	p := &Platform{Store: s, t: t, Uploads: &Uploads{}, Logs: NewLogs(), Drains: &Drains{}, Events: &Events{s}, Webhooks: &Webhooks{}, Figures: &Figures{}, Usage: &Usage{}, Log: &Log{}}
	if cfg.PublicURL == nil {
		cfg.PublicURL = PublicURL
	}
	if cfg.Regions == nil {
		cfg.Regions = []miosa.Region{{ID: "local", Name: "This machine", Slug: "local", Country: "none", City: "none", Available: true}}
	}
	log := slog.New(slog.NewTextHandler(p.Log, nil))
	deps := api.Deps{
		Store: s, Uploads: p.Uploads, Secrets: Sealer{}, Log: log,
		Logs: p.Logs, Drains: p.Drains, Events: p.Events, Webhooks: p.Webhooks, Metrics: p.Figures, Usage: p.Usage,
	}
	for _, fn := range change {
		fn(&deps)
	}
	handler, err := api.New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	p.Handler = handler
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	p.Control = &Control{store: s, released: make(chan struct{})}
	revision, err := s.Revision(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() { p.Control.run(ctx, revision) })
	server := httptest.NewUnstartedServer(handler)
	server.Config.BaseContext = func(net.Listener) context.Context { return ctx }
	server.Config.ErrorLog = slog.NewLogLogger(slog.NewTextHandler(p.Log, nil), slog.LevelWarn)
	server.Start()
	t.Cleanup(func() {
		cancel()
		server.CloseClientConnections()
		server.Close()
		done.Wait()
	})
	p.URL = server.URL
	p.Tenant = p.AddTenant("default")
	p.UserKey = p.AddKey(miosa.RoleUser, p.Tenant.ID, "")
	p.Key = p.AddKey(miosa.RolePlatform, p.Tenant.ID, "")
	p.Admin = p.AddKey(miosa.RoleAdmin, "", "")
	return p
}

// PublicURL is as `miosa up` has it.
func PublicURL(t miosa.Tenant, d miosa.Deployment, e miosa.Environment) string {
	label := d.Slug
	if e.Name != miosa.Production {
		label += "--" + e.Name
	}
	return fmt.Sprintf("http://%s.%s.localhost:7080", label, t.Slug)
}

// AddTenant makes a tenant.
func (p *Platform) AddTenant(slug string) miosa.Tenant {
	p.t.Helper()
	t := miosa.Tenant{ID: ID(p.t, miosa.PrefixTenant), Name: slug, Slug: slug, Plan: "default", CreatedAt: time.Now(), UpdatedAt: time.Now()}
	p.Update(func(tx *store.Tx) error {
		if _, _, err := tx.Claim(store.TenantSlugKey(slug), t.ID); err != nil {
			return err
		}
		return store.Save(tx, store.Tenants, t)
	})
	return t
}

// AddKey mints a key and returns it whole.
func (p *Platform) AddKey(role miosa.Role, tenant, workspace string) string {
	p.t.Helper()
	key, hash, err := secret.NewAPIKey(role, rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	p.Update(func(tx *store.Tx) error {
		return store.Save(tx, store.APIKeys, miosa.APIKey{
			ID: ID(p.t, miosa.PrefixKey), Hash: hash, Hint: key[:10], Role: role, TenantID: tenant, WorkspaceID: workspace, CreatedAt: time.Now(),
		})
	})
	return key
}

// Update writes to the store behind the API's back.
func (p *Platform) Update(fn func(tx *store.Tx) error) {
	p.t.Helper()
	if _, err := store.Update(p.t.Context(), p.Store, fn); err != nil {
		p.t.Fatal(err)
	}
}

// Do sends a request with the platform key.
func (p *Platform) Do(req *http.Request) *http.Response {
	p.t.Helper()
	if req.Header.Get("Authorization") == "" {
		req.Header.Set("Authorization", "Bearer "+p.Key)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// ID mints one.
func ID(t testing.TB, prefix string) string {
	t.Helper()
	id, err := miosa.NewID(prefix, time.Now(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// Uploads takes any bytes for an artefact and forgets them.
type Uploads struct {
	mu       sync.Mutex
	received int                                                             // guarded by mu
	fail     error                                                           // guarded by mu
	refusal  error                                                           // guarded by mu
	verify   func(context.Context, artifact.Upload) (artifact.Stored, error) // guarded by mu
}

// Verify has every further upload taken in by receive, as the platform does it;
// nil: any bytes are taken again.
func (u *Uploads) Verify(receive func(context.Context, artifact.Upload) (artifact.Stored, error)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.verify = receive
}

// Fail makes every further upload end with err; nil: no longer.
func (u *Uploads) Fail(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.fail = err
}

// RefuseAtOnce makes every further upload end with err once its first bytes are
// there; nil: no longer.
func (u *Uploads) RefuseAtOnce(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.refusal = err
}

// Received is how many uploads came to their end.
func (u *Uploads) Received() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.received
}

// Receive reads the body and checks its digest.
func (u *Uploads) Receive(ctx context.Context, upload artifact.Upload) (artifact.Stored, error) {
	u.mu.Lock()
	refusal, verify := u.refusal, u.verify
	u.mu.Unlock()
	if verify != nil {
		return verify(ctx, upload)
	}
	if refusal != nil {
		if _, err := io.ReadFull(upload.Body, make([]byte, 6)); err != nil {
			return artifact.Stored{}, err
		}
		return artifact.Stored{}, refusal
	}
	h := sha256.New()
	n, err := io.Copy(h, upload.Body)
	if _, ok := errors.AsType[*miosa.Error](err); ok {
		return artifact.Stored{}, err
	}
	if err != nil {
		return artifact.Stored{}, &miosa.Error{Code: miosa.Malformed, Message: "the upload was cut off", Err: err}
	}
	sum := hex.EncodeToString(h.Sum(nil))
	if upload.SHA256 != "" && upload.SHA256 != sum {
		return artifact.Stored{}, &miosa.Error{Code: miosa.Invalid, Public: "digest_mismatch", Message: "the bytes are not those that the digest promised"}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.fail != nil {
		return artifact.Stored{}, u.fail
	}
	u.received++
	if upload.Kind == "" {
		upload.Kind = miosa.KindRootFS
	}
	return artifact.Stored{
		Kind: upload.Kind, Blob: artifact.Blob{SHA256: sum, Size: n, StoredAt: time.Now()},
		Manifest: miosa.ArtifactManifest{Files: 3, TotalBytes: n},
	}, nil
}

// Sealer marks values as sealed; it hides nothing, but ties them to their place.
type Sealer struct{}

// Seal can be undone by Open alone, with the same place.
func (Sealer) Seal(_ context.Context, tenant, aad string, plaintext []byte) ([]byte, error) {
	return fmt.Appendf(nil, "sealed(%s,%s)%x", tenant, aad, plaintext), nil
}

// Open undoes Seal.
func (Sealer) Open(_ context.Context, tenant, aad string, sealed []byte) ([]byte, error) {
	prefix := fmt.Sprintf("sealed(%s,%s)", tenant, aad)
	if len(sealed) < len(prefix) || string(sealed[:len(prefix)]) != prefix {
		return nil, errors.New("sealed for another place")
	}
	return hex.DecodeString(string(sealed[len(prefix):]))
}

// Log keeps what was logged, for tests to look at.
type Log struct {
	mu   sync.Mutex
	text []byte // guarded by mu
}

func (l *Log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, b...)
	return len(b), nil
}

func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text)
}
