// Package webhook is the loop that sends events on to the receivers that
// customers name, signed after the Standard Webhooks convention.
//
// Every event that a webhook is for is sent at least once; machine.go says in
// which order and how often. One goroutine a webhook goes through the event
// store at its own pace with one request under way, so that a receiver that is
// slow or away keeps nobody else waiting.
package webhook

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/events"
	"github.com/miosa/miosa/outbound"
	"github.com/miosa/miosa/records"
	"github.com/miosa/miosa/store"
)

const (
	fetchAtOnce = 20
	// saveEvery is how often a position is written, if it moved: after a crash,
	// what was sent since goes out again.
	saveEvery = time.Second
	// beginTime is how long a new webhook waits for the event of its creation to
	// reach the event store.
	beginTime  = time.Minute
	watchAgain = time.Second
)

// TestType is the type of the event that a test sends.
const TestType = "webhook.tested"

// Source is where events are read from.
type Source interface {
	Read(ctx context.Context, q events.Query) iter.Seq2[events.Entry, error]
	Last(ctx context.Context) (events.Mark, error)
	Place(ctx context.Context, id string) (m events.Mark, held bool, err error)
	// Arrived is closed when something arrives after the call.
	Arrived() <-chan struct{}
}

// Opener opens what was sealed under a tenant's data key.
type Opener interface {
	Open(ctx context.Context, tenantID, aad string, sealed []byte) ([]byte, error)
}

// Config says where things lie and lead.
type Config struct {
	Dir    string         // of the positions; made if it is not there
	Guard  outbound.Guard // where webhooks may lead
	Roots  *x509.CertPool // that receivers' certificates are signed by; nil: the system's
	Render func(miosa.Event) ([]byte, error)
	Ladder []time.Duration  // pauses between attempts; nil: ten attempts within a day
	Now    func() time.Time // nil: time.Now
	Random io.Reader        // nil: crypto/rand
}

// Webhooks runs every webhook. Make it with New.
type Webhooks struct {
	cfg       Config
	source    Source
	records   store.Store
	secrets   Opener
	log       *slog.Logger
	client    *http.Client
	positions positions

	running sync.WaitGroup // every webhook's goroutine

	mu    sync.Mutex // guards hooks
	hooks map[string]*runner
}

// New checks its arguments and starts nothing.
func New(cfg Config, source Source, records store.Store, secrets Opener, log *slog.Logger) (*Webhooks, error) {
	if cfg.Render == nil || source == nil || records == nil || secrets == nil {
		return nil, miosa.Errorf(miosa.Internal, "webhooks need a way to render events, a source, records and secrets")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Random == nil {
		cfg.Random = rand.Reader
	}
	p, err := openPositions(cfg.Dir)
	if err != nil {
		return nil, err
	}
	client := cfg.Guard.Client()
	if t, ok := client.Transport.(*http.Transport); ok && cfg.Roots != nil {
		t.TLSClientConfig = &tls.Config{RootCAs: cfg.Roots, MinVersion: tls.VersionTLS12}
	}
	return &Webhooks{cfg: cfg, source: source, records: records, secrets: secrets, log: log, client: client, positions: p, hooks: map[string]*runner{}}, nil
}

// Run sends events until ctx ends.
func (w *Webhooks) Run(ctx context.Context) error {
	defer w.running.Wait()
	defer w.client.CloseIdleConnections()
	f := records.Follower{
		Store: w.records, Kinds: []string{store.Webhooks.Name()}, List: records.OfTenants(w.records, store.WebhooksOf), Take: w.apply,
	}
	f.Run(ctx, func(err error) { w.log.Error("read the webhooks", "err", err) })
	return nil
}

// apply runs every webhook of the records, and each as it changes.
func (w *Webhooks) apply(ctx context.Context, b records.Batch) error {
	there := map[string]bool{}
	for _, r := range b.Records {
		if r.Gone {
			w.remove(r.ID)
			continue
		}
		there[r.ID] = true
		w.changed(ctx, r)
	}
	if !b.Whole {
		return nil
	}
	w.mu.Lock()
	var gone []string
	for id := range w.hooks {
		if !there[id] {
			gone = append(gone, id)
		}
	}
	w.mu.Unlock()
	for _, id := range gone {
		w.remove(id)
	}
	return w.positions.sweep(func(id string) bool { return there[id] })
}

// changed takes up a webhook as its record has it. One that a newer binary
// wrote, or that cannot be read, is left alone: the others go on.
func (w *Webhooks) changed(ctx context.Context, r records.Record) {
	hook, err := records.As[miosa.Webhook](r)
	if err != nil {
		w.log.Error("a webhook cannot be read", "webhook", r.ID, "err", err)
		return
	}
	w.configure(ctx, hook)
}

// configure starts a webhook, or tells it of a change.
func (w *Webhooks) configure(ctx context.Context, hook miosa.Webhook) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r := w.hooks[hook.ID]; r != nil {
		r.post(func() { r.hook, r.changed = hook, true })
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &runner{w: w, id: hook.ID, hook: hook, cancel: cancel, ended: make(chan struct{}), wake: make(chan struct{}, 1)}
	w.hooks[hook.ID] = r
	w.running.Go(func() {
		defer close(r.ended)
		r.run(ctx)
	})
}

// remove ends a webhook and forgets where it stood.
func (w *Webhooks) remove(id string) {
	w.mu.Lock()
	r := w.hooks[id]
	delete(w.hooks, id)
	w.mu.Unlock()
	if r == nil {
		return
	}
	r.cancel()
	<-r.ended
	if err := w.positions.remove(id); err != nil {
		w.log.Error("forget where a webhook stood", "webhook", id, "err", err)
	}
}

// Status is how a webhook does; the zero one before it has begun.
func (w *Webhooks) Status(id string) miosa.WebhookStatus {
	w.mu.Lock()
	r := w.hooks[id]
	w.mu.Unlock()
	if r == nil {
		return miosa.WebhookStatus{}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := miosa.WebhookStatus{
		DisabledAt: r.state.DisabledAt, DisabledReason: r.state.DisabledReason, DeliveredAt: r.state.DeliveredAt, FailingSince: r.state.FailingSince,
	}
	for _, d := range r.state.Recent {
		s.Recent = append(s.Recent, d.noun())
	}
	return s
}

// Send has a webhook send an event of its tenant at once, whether it did before
// or not. miosa.NotFound: the webhook does not run.
func (w *Webhooks) Send(id, eventID string) error {
	w.mu.Lock()
	r := w.hooks[id]
	w.mu.Unlock()
	if r == nil {
		return miosa.Errorf(miosa.NotFound, "webhook %s does not run", id)
	}
	r.post(func() {
		if len(r.asked) < maxAsked {
			r.asked = append(r.asked, eventID)
		}
	})
	return nil
}
