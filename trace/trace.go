// Package trace tells a tracing backend of rollouts and placements, as
// OpenTelemetry spans over OTLP. It is a loop beside control, which feeds it
// with the records it sees; it decides nothing and holds nobody up: what it
// cannot take or send in time is dropped and counted.
//
// A rollout may outlive the process that began it. So the IDs of its trace and
// spans are derived from the records' IDs, and every span is made from the
// times on the records when it ends: those of before and after a restart are
// one trace.
package trace

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/schedule"
)

const (
	mostFed     = 4096 // observations that wait to be made into spans
	mostSpans   = 8192 // spans that wait to be sent
	mostAtOnce  = 512  // spans in one call
	gatherFor   = time.Second
	sendTimeout = 30 * time.Second
	lastTimeout = 2 * time.Second // for what is left at the end
)

// Exporter sends ended spans away: see OTLP.
type Exporter interface {
	ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error
	Shutdown(ctx context.Context) error
}

// Config is what a Tracer needs.
type Config struct {
	Exporter Exporter
	Version  string // of the platform
	Cell     string
	Log      *slog.Logger
}

// Tracer makes spans of what it is fed with. Loaded, Changed and Placed never
// block, and may be called from several goroutines at once.
type Tracer struct {
	cfg     Config
	fed     chan any
	maker   *maker
	out     *outbox
	dropped atomic.Uint64
}

// What a Tracer is fed with.
type (
	loaded  []any
	changed struct {
		put  []any
		gone []string
	}
	placed struct {
		instance miosa.Instance
		waited   []string
		answer   schedule.Answer
	}
)

// New checks the configuration and starts nothing.
func New(cfg Config) (*Tracer, error) {
	if cfg.Exporter == nil || cfg.Log == nil {
		return nil, miosa.Errorf(miosa.Internal, "the tracer needs an exporter and a log")
	}
	t := &Tracer{cfg: cfg, fed: make(chan any, mostFed)}
	t.out = &outbox{dropped: &t.dropped, ready: make(chan struct{}, 1)}
	provider := sdk.NewTracerProvider(
		sdk.WithSampler(sdk.AlwaysSample()), sdk.WithIDGenerator(derived{}), sdk.WithSpanProcessor(t.out),
		sdk.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "miosa"), attribute.String("service.version", cfg.Version), attribute.String("miosa.cell", cfg.Cell),
		)),
	)
	t.maker = newMaker(provider.Tracer("github.com/miosa/miosa/trace"))
	return t, nil
}

// Dropped counts the spans and observations that were lost.
func (t *Tracer) Dropped() uint64 { return t.dropped.Load() }

func (t *Tracer) feed(v any) {
	select {
	case t.fed <- v:
	default:
		t.dropped.Add(1)
	}
}

// Loaded takes all records; none of them is news.
func (t *Tracer) Loaded(nouns []any) { t.feed(loaded(nouns)) }

// Changed takes the records that one commit put, and the IDs of those that it
// deleted.
func (t *Tracer) Changed(put []any, gone []string) { t.feed(changed{put, gone}) }

// Placed takes where an instance was placed, and what it had waited for.
func (t *Tracer) Placed(i miosa.Instance, waited []string, a schedule.Answer) {
	t.feed(placed{i, waited, a})
}

// Run makes and sends spans until ctx ends, and then what is left, if it goes
// quickly.
func (t *Tracer) Run(ctx context.Context) error {
	sendCtx, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	last := make(chan struct{})
	var sending sync.WaitGroup
	sending.Go(func() { t.send(sendCtx, last) })
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case v := <-t.fed:
			t.maker.apply(v)
		}
	}
	for n := len(t.fed); n > 0; n-- {
		t.maker.apply(<-t.fed)
	}
	close(last)
	defer time.AfterFunc(lastTimeout, cut).Stop()
	sending.Wait()
	return nil
}

// send empties the outbox whenever there is something in it, and a last time;
// ctx cuts it off.
func (t *Tracer) send(ctx context.Context, last <-chan struct{}) {
	failing := false
	for ended := false; !ended; {
		select {
		case <-last:
			ended = true
		case <-t.out.ready:
			// Others follow the first span, most times.
			select {
			case <-last:
				ended = true
			case <-time.After(gatherFor):
			}
		}
		for spans := t.out.take(mostAtOnce); len(spans) > 0; spans = t.out.take(mostAtOnce) {
			err := t.export(ctx, spans)
			if err != nil && !failing {
				t.cfg.Log.Warn("traces cannot be sent; they are dropped", "err", err)
			} else if err == nil && failing {
				t.cfg.Log.Info("traces are sent again", "dropped", t.Dropped())
			}
			failing = err != nil
		}
	}
	if err := t.cfg.Exporter.Shutdown(ctx); err != nil {
		t.cfg.Log.Debug("end the sending of traces", "err", err)
	}
}

func (t *Tracer) export(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	err := ctx.Err()
	if err == nil {
		err = t.cfg.Exporter.ExportSpans(ctx, spans)
	}
	if err != nil {
		t.dropped.Add(uint64(len(spans)))
	}
	return err
}

// outbox holds ended spans until they are sent: a span processor that never
// blocks.
type outbox struct {
	dropped *atomic.Uint64
	ready   chan struct{}

	mu    sync.Mutex // guards spans
	spans []sdk.ReadOnlySpan
}

// OnStart does nothing: spans are made when they end.
func (o *outbox) OnStart(context.Context, sdk.ReadWriteSpan) {}

// OnEnd keeps the span, or counts it as dropped.
func (o *outbox) OnEnd(s sdk.ReadOnlySpan) {
	o.mu.Lock()
	if len(o.spans) >= mostSpans {
		o.dropped.Add(1)
	} else {
		o.spans = append(o.spans, s)
	}
	o.mu.Unlock()
	select {
	case o.ready <- struct{}{}:
	default:
	}
}

func (o *outbox) take(most int) []sdk.ReadOnlySpan {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := min(most, len(o.spans))
	out := o.spans[:n:n]
	if o.spans = o.spans[n:]; len(o.spans) == 0 {
		o.spans = nil
	}
	return out
}

// Shutdown has nothing to give back.
func (o *outbox) Shutdown(context.Context) error { return nil }

// ForceFlush does nothing: send is on it.
func (o *outbox) ForceFlush(context.Context) error { return nil }
