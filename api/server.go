// Package api is the platform's public HTTP API. It writes what customers
// want into the store (deployments, versions to roll out, replicas,
// variables) and reads back what control and the agents made of it; it starts
// nothing itself.
//
// There is one list of routes (routes.go). The mux, the OpenAPI document and
// the reference page are made from it, and all conventions (envelopes,
// errors, request IDs, keys and tenants, idempotency, ETags, pages, limits)
// are kept in one place for all of them (server.go, call.go).
package api

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/artifact"
	"github.com/miosa/miosa/logs"
	"github.com/miosa/miosa/outbound"
	"github.com/miosa/miosa/ration"
	"github.com/miosa/miosa/schedule"
	"github.com/miosa/miosa/store"
)

// BasePath is where the API begins.
const BasePath = "/api/v1"

// Config is what an operator decides about the API.
type Config struct {
	// PublicURL is where one environment of a deployment is served.
	PublicURL func(miosa.Tenant, miosa.Deployment, miosa.Environment) string
	// PublicPorts are the routers' ports for services that speak raw TCP; the zero
	// range: there are none, and such services are refused.
	PublicPorts store.PortRange
	// Regions are offered to customers.
	Regions []miosa.Region
	// Version of the binary, for the OpenAPI document.
	Version string
	// Storage names the blob backend on releases, e.g. "local".
	Storage string
	// MaxLogDays is for how long at most logs can be kept; 0: logs.MaxDays.
	MaxLogDays int
	// MaxWait bounds how long one request waits for a rollout; 0: 15 minutes.
	MaxWait time.Duration
	// Targets are the addresses that customers may name, of receivers of their
	// logs and events; those it allows besides public ones also without TLS.
	Targets outbound.Guard
	// Placement is the deciding machine's, for dry runs; "": schedule.Spread.
	Placement schedule.Policy
	// Heartbeat is the pause between comments on an idle event stream; 0: 15 s.
	Heartbeat time.Duration
}

// Uploads takes artefacts in: streamed, verified, kept under their digest.
type Uploads interface {
	Receive(ctx context.Context, upload artifact.Upload) (artifact.Stored, error)
}

// Sealer encrypts a value under its tenant's data key. What opens it must
// bring the same additional data: see miosa.VarAAD.
type Sealer interface {
	Seal(ctx context.Context, tenantID, aad string, plaintext []byte) ([]byte, error)
}

// Deps are the parts of the platform that the API stands on.
type Deps struct {
	Store   store.Store
	Uploads Uploads
	// Memory is what long documents are read with, shared with whatever else
	// reads strangers' bytes; nil: as much of its own.
	Memory  *ration.Pool
	Secrets Sealer
	Logs    LogReader // nil: logs are not kept here
	Drains  Drains    // nil: logs are not forwarded here
	Events  EventReader
	// Webhooks send events on; nil: nothing here does.
	Webhooks WebhookSender
	Pulls    Pulls         // nil: no images are pulled here
	Metrics  MetricsReader // nil: no history of figures is kept here
	Usage    UsageReader   // nil: usage is not kept here
	Execs    Execs         // nil: no commands can be run in instances
	Log      *slog.Logger
	Now      func() time.Time                // nil: time.Now
	Random   io.Reader                       // nil: crypto/rand
	Ready    func(ctx context.Context) error // why the platform cannot serve yet; nil: it always can
}

// Server answers the API. It is safe for concurrent use.
//
// Requests may last long (a publish that is waited for, an event stream): the
// http.Server around it needs a BaseContext that ends at shutdown, and no
// WriteTimeout. Reading of bodies is bounded here. Exec sessions, whose
// connections the http.Server knows no more, are what Wait waits for.
type Server struct {
	cfg       Config
	store     store.Store
	uploads   Uploads
	receiving receiving
	memory    *ration.Pool
	rooms     rooms
	dryRuns   dryRuns
	secrets   Sealer
	logs      LogReader
	drains    Drains
	events    EventReader
	webhooks  WebhookSender
	pulls     Pulls
	metrics   MetricsReader
	usage     UsageReader
	runner    Execs
	execs     execSessions
	log       *slog.Logger
	now       func() time.Time
	random    io.Reader
	ready     func(ctx context.Context) error
	mux       *http.ServeMux
	openapi   []byte
	reference []byte
}

// New checks the configuration and makes a server; it starts nothing.
func New(cfg Config, deps Deps) (*Server, error) {
	switch {
	case cfg.PublicURL == nil:
		return nil, errors.New("api: no public URL is configured")
	case deps.Store == nil, deps.Uploads == nil, deps.Secrets == nil, deps.Events == nil, deps.Log == nil:
		return nil, errors.New("api: store, uploads, secrets, events and log are needed")
	}
	if cfg.MaxLogDays == 0 {
		cfg.MaxLogDays = logs.MaxDays
	}
	if cfg.MaxWait == 0 {
		cfg.MaxWait = 15 * time.Minute
	}
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = 15 * time.Second
	}
	if cfg.Storage == "" {
		cfg.Storage = "local"
	}
	s := &Server{
		cfg: cfg, store: deps.Store, uploads: deps.Uploads, receiving: receiving{n: map[string]int{}}, memory: deps.Memory, rooms: rooms{of: map[string]*room{}}, dryRuns: newDryRuns(), secrets: deps.Secrets, logs: deps.Logs, drains: deps.Drains, events: deps.Events, webhooks: deps.Webhooks, pulls: deps.Pulls, metrics: deps.Metrics, usage: deps.Usage, runner: deps.Execs, log: deps.Log,
		now: deps.Now, random: deps.Random, ready: deps.Ready, mux: http.NewServeMux(),
	}
	if s.memory == nil {
		s.memory = artifact.NewMemory()
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.random == nil {
		s.random = rand.Reader
	}
	all := routes()
	if err := s.register(all); err != nil {
		return nil, err
	}
	doc := describe(all, cfg.Version)
	var err error
	if s.openapi, err = doc.json(); err != nil {
		return nil, err
	}
	if s.reference, err = doc.page(); err != nil {
		return nil, err
	}
	return s, nil
}

// newID mints an ID; its time is the server's.
func (s *Server) newID(prefix string) (string, error) { return miosa.NewID(prefix, s.now(), s.random) }
