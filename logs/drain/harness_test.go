package drain_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/logs"
	"github.com/miosa/miosa/logs/drain"
	logmemory "github.com/miosa/miosa/logs/memory"
	"github.com/miosa/miosa/logs/plane"
	"github.com/miosa/miosa/outbound"
	"github.com/miosa/miosa/records"
	"github.com/miosa/miosa/secret"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/memory"
)

const host = "host_00000000000000000000000001"

// patience bounds every wait of these tests.
const patience = 90 * time.Second

// world is a log plane with what it stands on, and a forwarder that can be
// ended and started anew.
type world struct {
	t       *testing.T
	records store.Store
	kept    *logmemory.Store
	plane   *plane.Plane
	box     *secret.Box
	dir     string
	guard   outbound.Guard
	log     *safeBuffer

	mu    sync.Mutex
	now   func() time.Time // guarded by mu
	seq   map[string]uint64
	f     *drain.Forwarder
	end   context.CancelFunc
	ended chan error
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		t: t, records: memory.New(time.Now), dir: t.TempDir(), now: time.Now, seq: map[string]uint64{}, log: &safeBuffer{},
		guard: outbound.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}},
	}
	keeper, err := secret.OpenFileKeeper(filepath.Join(w.dir, "master.key"))
	if err != nil {
		t.Fatal(err)
	}
	w.box = secret.NewBox(keeper, store.DataKeys{Store: w.records})
	w.kept = logmemory.New(func() time.Time {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.now()
	})
	w.plane = plane.New(w.kept, records.New(w.records), slog.New(slog.NewTextHandler(w.log, nil)))
	t.Cleanup(func() {
		w.stop()
		if t.Failed() {
			t.Log(w.log.String())
		}
	})
	return w
}

// start runs a forwarder on what the last one left.
func (w *world) start() {
	w.t.Helper()
	f, err := drain.Open(drain.Config{File: filepath.Join(w.dir, "drains.db"), Guard: w.guard}, w.plane, records.New(w.records), w.box,
		slog.New(slog.NewTextHandler(w.log, nil)))
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	w.f, w.end, w.ended = f, cancel, make(chan error, 1)
	go func() { w.ended <- f.Run(ctx) }()
}

func (w *world) stop() {
	w.t.Helper()
	if w.f == nil {
		return
	}
	w.end()
	if err := <-w.ended; err != nil {
		w.t.Error(err)
	}
	if err := w.f.Close(); err != nil {
		w.t.Error(err)
	}
	w.f = nil
}

// cursors is the file that a forwarder left.
func (w *world) cursors() []byte {
	w.t.Helper()
	raw, err := os.ReadFile(filepath.Join(w.dir, "drains.db"))
	if err != nil {
		w.t.Fatal(err)
	}
	return raw
}

func (w *world) update(fn func(tx *store.Tx) error) int64 {
	w.t.Helper()
	revision, err := store.Update(w.t.Context(), w.records, fn)
	if err != nil {
		w.t.Fatal(err)
	}
	return revision
}

func newID(t testing.TB, prefix string) string {
	t.Helper()
	id, err := miosa.NewID(prefix, time.Now(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// app is one instance of a tenant's deployment.
type app struct{ tenant, deployment, service, instance, task string }

// addApp makes a deployment, a service and an instance.
func (w *world) addApp(tenant, slug, workspace string) app {
	w.t.Helper()
	a := app{tenant, newID(w.t, miosa.PrefixDeployment), newID(w.t, miosa.PrefixService), newID(w.t, miosa.PrefixInstance), ""}
	w.update(func(tx *store.Tx) error {
		if err := store.Save(tx, store.Tenants, miosa.Tenant{ID: tenant, Plan: "default"}); err != nil {
			return err
		}
		if err := store.Save(tx, store.Deployments, miosa.Deployment{
			ID: a.deployment, TenantID: tenant, Slug: slug, Attribution: miosa.Attribution{WorkspaceID: workspace},
		}); err != nil {
			return err
		}
		return store.Save(tx, store.Services, miosa.Service{ID: a.service, TenantID: tenant, DeploymentID: a.deployment, Name: "web"})
	})
	return w.addInstance(a)
}

// addAttempt makes an attempt at a task of the same deployment.
func (w *world) addAttempt(a app) app {
	w.t.Helper()
	a.service, a.task = "", newID(w.t, miosa.PrefixTask)
	return w.addInstance(a)
}

// addInstance makes another instance of the same service.
func (w *world) addInstance(a app) app {
	w.t.Helper()
	a.instance = newID(w.t, miosa.PrefixInstance)
	w.update(func(tx *store.Tx) error {
		return store.Save(tx, store.Instances, miosa.Instance{
			ID: a.instance, TenantID: a.tenant, DeploymentID: a.deployment, ServiceID: a.service, TaskID: a.task, HostID: host, Spec: miosa.ServiceSpec{ServiceID: a.service},
		})
	})
	return a
}

// write ships lines as the instance's host does.
func (w *world) write(a app, texts ...string) {
	w.t.Helper()
	w.mu.Lock()
	now := w.now()
	first := w.seq[a.instance] + 1
	w.seq[a.instance] += uint64(len(texts))
	w.mu.Unlock()
	b := logs.Batch{Origin: logs.Origin{TenantID: a.tenant, DeploymentID: a.deployment, InstanceID: a.instance}, Epoch: 1, First: first}
	for _, text := range texts {
		b.Lines = append(b.Lines, logs.Line{Time: now.UTC().Truncate(time.Microsecond), Stream: logs.Stdout, Text: []byte(text)})
	}
	if err := w.plane.Ship(w.t.Context(), host, []logs.Batch{b}); err != nil {
		w.t.Fatal(err)
	}
}

// addDrain makes a drain; change narrows it.
func (w *world) addDrain(tenant string, kind miosa.DrainType, url, ca string, change func(d *miosa.LogDrain)) miosa.LogDrain {
	w.t.Helper()
	d := miosa.LogDrain{
		ID: newID(w.t, miosa.PrefixLogDrain), TenantID: tenant, Name: "test", Type: kind, Target: url, CA: ca, CreatedAt: time.Now().UTC(),
	}
	d.URL = w.seal(d, "url", url)
	if change != nil {
		change(&d)
	}
	return w.saveDrain(d)
}

func (w *world) seal(d miosa.LogDrain, part, plain string) []byte {
	w.t.Helper()
	sealed, err := w.box.Seal(w.t.Context(), d.TenantID, miosa.DrainAAD(d.ID, part), []byte(plain))
	if err != nil {
		w.t.Fatal(err)
	}
	return sealed
}

func (w *world) saveDrain(d miosa.LogDrain) miosa.LogDrain {
	w.t.Helper()
	d.Revision = w.update(func(tx *store.Tx) error { return store.Save(tx, store.LogDrains, d) })
	return d
}

// await waits until the condition holds.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-deadline:
			t.Fatalf("waited in vain: %s", what)
		case <-tick.C:
		}
	}
}

// awaitStatus waits for a status of a drain.
func (w *world) awaitStatus(d miosa.LogDrain, what string, holds func(s miosa.DrainStatus) bool) miosa.DrainStatus {
	w.t.Helper()
	var s miosa.DrainStatus
	defer func() {
		if w.t.Failed() {
			w.t.Logf("the status is %+v", s)
		}
	}()
	await(w.t, what, func() bool {
		s = w.f.Status(d)
		return holds(s)
	})
	return s
}

// awaitBegun waits until a drain reads arrivals as they come. What is written
// at the very moment in which one begins may come twice.
func (w *world) awaitBegun(d miosa.LogDrain) {
	w.t.Helper()
	w.awaitStatus(d, d.Target+" has begun", func(miosa.DrainStatus) bool { return w.f.Begun(d.ID) })
}

// authority is a certificate authority of a test's own.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a test's own authority"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert, key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}))}
}

// issue makes a certificate for 127.0.0.1, as PEM and ready for use.
func (a authority) issue(t *testing.T) (certPEM, keyPEM []byte, pair tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "receiver"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})
	keyPEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if pair, err = tls.X509KeyPair(certPEM, keyPEM); err != nil {
		t.Fatal(err)
	}
	return certPEM, keyPEM, pair
}

// numbered are the texts "NAME from" … "NAME to-1".
func numbered(name string, from, to int) []string {
	var out []string
	for n := from; n < to; n++ {
		out = append(out, fmt.Sprintf("%s %d", name, n))
	}
	return out
}
