// Package oteltest runs a log drain against an OpenTelemetry collector: the
// official one, with its OTLP receiver, in this process.
package oteltest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
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

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/yamlprovider"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/otelcol"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/service/telemetry/otelconftelemetry"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/logs"
	"github.com/miosa/miosa/logs/drain"
	logmemory "github.com/miosa/miosa/logs/memory"
	"github.com/miosa/miosa/logs/plane"
	"github.com/miosa/miosa/outbound"
	view "github.com/miosa/miosa/records"
	"github.com/miosa/miosa/secret"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/memory"
)

const (
	host     = "host_00000000000000000000000001"
	patience = time.Minute
)

// sink is an exporter that keeps what the pipeline brings, or fails.
type sink struct {
	component.StartFunc
	component.ShutdownFunc

	mu      sync.Mutex
	failing bool // guarded by mu
	failed  int  // guarded by mu
	records []record
}

// record is one log record as it came out of the collector.
type record struct {
	body, severity string
	at             time.Time
	resource       map[string]any
	attributes     map[string]any
}

func (s *sink) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

func (s *sink) ConsumeLogs(_ context.Context, in plog.Logs) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failing {
		s.failed++
		return errors.New("the sink is closed for now")
	}
	for _, r := range in.ResourceLogs().All() {
		for _, scope := range r.ScopeLogs().All() {
			for _, l := range scope.LogRecords().All() {
				s.records = append(s.records, record{
					l.Body().Str(), l.SeverityText(), l.Timestamp().AsTime(), r.Resource().Attributes().AsRaw(), l.Attributes().AsRaw(),
				})
			}
		}
	}
	return nil
}

func (s *sink) fail(v bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failing = v
}

func (s *sink) all() []record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]record(nil), s.records...)
}

func (s *sink) failures() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// collect runs a collector with that configuration; the function ends it.
func (s *sink) collect(t *testing.T, yaml string) (end func()) {
	t.Helper()
	kind := component.MustNewType("sink")
	exporters := exporter.NewFactory(kind, func() component.Config { return &struct{}{} },
		exporter.WithLogs(func(context.Context, exporter.Settings, component.Config) (exporter.Logs, error) { return s, nil }, component.StabilityLevelStable))
	receivers := otlpreceiver.NewFactory()
	col, err := otelcol.NewCollector(otelcol.CollectorSettings{
		BuildInfo: component.NewDefaultBuildInfo(),
		Factories: func() (otelcol.Factories, error) {
			return otelcol.Factories{
				Receivers: map[component.Type]receiver.Factory{receivers.Type(): receivers},
				Exporters: map[component.Type]exporter.Factory{kind: exporters},
				Telemetry: otelconftelemetry.NewFactory(),
			}, nil
		},
		DisableGracefulShutdown: true,
		ConfigProviderSettings: otelcol.ConfigProviderSettings{ResolverSettings: confmap.ResolverSettings{
			URIs: []string{"yaml:" + yaml}, ProviderFactories: []confmap.ProviderFactory{yamlprovider.NewFactory()},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- col.Run(ctx) }()
	await(t, "the collector runs", func() bool {
		select {
		case err := <-ended:
			t.Fatalf("the collector ended: %v", err)
		default:
		}
		return col.GetState() == otelcol.StateRunning
	})
	return sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

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

// certificate makes a self-signed one for 127.0.0.1.
func certificate(t *testing.T, dir string) (certFile, keyFile, ca string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "collector"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, raw []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: raw}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	certFile, keyFile = write("cert.pem", "CERTIFICATE", raw), write("key.pem", "PRIVATE KEY", der)
	return certFile, keyFile, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}))
}

// TestCollector: the collector understands what is sent, word for word, and
// has every line after its pipeline failed and after it was away.
func TestCollector(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile, ca := certificate(t, dir)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	yaml := fmt.Sprintf(`
receivers: {otlp: {protocols: {http: {endpoint: "%s", tls: {cert_file: "%s", key_file: "%s"}}}}}
exporters: {sink: }
service:
  telemetry: {metrics: {level: none}, logs: {level: error}}
  pipelines: {logs: {receivers: [otlp], exporters: [sink]}}
`, addr, certFile, keyFile)
	var s sink
	end := s.collect(t, yaml)
	t.Cleanup(func() { end() })

	// A platform's log plane, in small.
	records := memory.New(time.Now)
	keeper, err := secret.OpenFileKeeper(filepath.Join(dir, "master.key"))
	if err != nil {
		t.Fatal(err)
	}
	box := secret.NewBox(keeper, store.DataKeys{Store: records})
	id := func(prefix string) string {
		id, err := miosa.NewID(prefix, time.Now(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	tenant, dep, svc, ri := id(miosa.PrefixTenant), id(miosa.PrefixDeployment), id(miosa.PrefixService), id(miosa.PrefixInstance)
	d := miosa.LogDrain{ID: id(miosa.PrefixLogDrain), TenantID: tenant, Name: "collector", Type: miosa.DrainOTLP, CA: ca, CreatedAt: time.Now().UTC()}
	if d.URL, err = box.Seal(t.Context(), tenant, miosa.DrainAAD(d.ID, "url"), []byte("https://"+addr+"/v1/logs")); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Update(t.Context(), records, func(tx *store.Tx) error {
		return errors.Join(
			store.Save(tx, store.Tenants, miosa.Tenant{ID: tenant, Plan: "default"}),
			store.Save(tx, store.Deployments, miosa.Deployment{ID: dep, TenantID: tenant, Slug: "shop", Attribution: miosa.Attribution{WorkspaceID: "w1"}}),
			store.Save(tx, store.Services, miosa.Service{ID: svc, TenantID: tenant, DeploymentID: dep, Name: "web"}),
			store.Save(tx, store.Instances, miosa.Instance{ID: ri, TenantID: tenant, DeploymentID: dep, ServiceID: svc, VersionID: "ver_1", HostID: host}),
			store.Save(tx, store.LogDrains, d),
		)
	}); err != nil {
		t.Fatal(err)
	}
	view := view.New(records)
	lines := plane.New(logmemory.New(time.Now), view, slog.New(slog.DiscardHandler))
	seq := uint64(1)
	began := time.Now().UTC().Truncate(time.Microsecond)
	ship := func(stream logs.Stream, texts ...string) {
		t.Helper()
		b := logs.Batch{Origin: logs.Origin{TenantID: tenant, DeploymentID: dep, InstanceID: ri}, Epoch: 1, First: seq}
		for _, text := range texts {
			b.Lines = append(b.Lines, logs.Line{Time: began, Stream: stream, Text: []byte(text)})
		}
		seq += uint64(len(texts))
		if err := lines.Ship(t.Context(), host, []logs.Batch{b}); err != nil {
			t.Fatal(err)
		}
	}
	f, err := drain.Open(drain.Config{
		File: filepath.Join(dir, "drains.db"), Guard: outbound.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}},
	}, lines, view, box, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, f.Close()); err != nil {
			t.Error(err)
		}
	})

	answer, err := f.Test(t.Context(), d)
	if err != nil || !answer.Delivered || answer.Status != 200 {
		t.Fatalf("test line: %+v, %v", answer, err)
	}
	ship(logs.Stderr, "größer than \xff")
	await(t, "the first line", func() bool { return len(s.all()) >= 2 })
	r := s.all()[1]
	if r.body != "größer than \ufffd" || r.severity != "ERROR" || !r.at.Equal(began) || r.attributes["log.iostream"] != "stderr" || r.attributes["log.record.uid"] != ri+".1.1" {
		t.Errorf("record %+v", r)
	}
	for name, want := range map[string]string{
		"service.name": "shop-web", "service.namespace": "shop", "service.instance.id": ri, "service.version": "ver_1", "host.id": host,
		"miosa.deployment.id": dep, "miosa.service.id": svc, "miosa.external_workspace_id": "w1",
	} {
		if r.resource[name] != want {
			t.Errorf("resource attribute %s is %v, want %s", name, r.resource[name], want)
		}
	}

	const rounds, each = 4, 500
	for round := range rounds {
		switch round {
		case 1:
			s.fail(true)
		case 2:
			end()
		}
		var texts []string
		for n := range each {
			texts = append(texts, fmt.Sprintf("line %d", round*each+n))
		}
		before := s.failures()
		ship(logs.Stdout, texts...)
		switch round {
		case 1:
			await(t, "the pipeline failed", func() bool { return s.failures() > before })
			s.fail(false)
		case 2:
			await(t, "the collector is missed", func() bool { return f.Status(d).State == miosa.DrainRetrying })
			end = s.collect(t, yaml)
		}
		await(t, fmt.Sprintf("round %d is delivered", round), func() bool {
			st := f.Status(d)
			return st.State == miosa.DrainDelivering && st.Delivered >= uint64((round+1)*each+1)
		})
	}
	if st := f.Status(d); st.Dropped != 0 {
		t.Errorf("status %+v", st)
	}
	next := 0
	for _, r := range s.all() {
		if r.body == fmt.Sprintf("line %d", next) {
			next++
		}
	}
	if next != rounds*each {
		t.Errorf("line %d never came, or not in its place", next)
	}
}
