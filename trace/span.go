package trace

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	otel "go.opentelemetry.io/otel/trace"
)

// span is one span, before it has IDs.
type span struct {
	trace      string // what its trace is named after
	id, parent string // what it and its parent are named after; parent "": the root
	name       string
	start, end time.Time
	attributes []attribute.KeyValue
	failed     string // a word for why; "": it did not
	link       string // a caller's traceparent
}

func traceID(name string) otel.TraceID {
	sum := sha256.Sum256([]byte("trace " + name))
	return otel.TraceID(sum[:16])
}

func spanID(name string) otel.SpanID {
	sum := sha256.Sum256([]byte("span " + name))
	return otel.SpanID(sum[:8])
}

type idsKey struct{}

type ids struct {
	trace otel.TraceID
	span  otel.SpanID
}

// derived gives spans the IDs that their context names.
type derived struct{}

func (derived) NewIDs(ctx context.Context) (otel.TraceID, otel.SpanID) {
	i, _ := ctx.Value(idsKey{}).(ids)
	return i.trace, i.span
}

func (derived) NewSpanID(ctx context.Context, _ otel.TraceID) otel.SpanID {
	i, _ := ctx.Value(idsKey{}).(ids)
	return i.span
}

// emit makes the span and ends it.
func (s *span) emit(tracer otel.Tracer) {
	i := ids{traceID(s.trace), spanID(s.id)}
	ctx := context.WithValue(context.Background(), idsKey{}, i)
	if s.parent != "" {
		ctx = otel.ContextWithRemoteSpanContext(ctx, otel.NewSpanContext(otel.SpanContextConfig{
			TraceID: i.trace, SpanID: spanID(s.parent), TraceFlags: otel.FlagsSampled, Remote: true,
		}))
	}
	options := []otel.SpanStartOption{otel.WithTimestamp(s.start), otel.WithAttributes(s.attributes...)}
	if caller, ok := parseTraceparent(s.link); ok {
		options = append(options, otel.WithLinks(otel.Link{SpanContext: caller}))
	}
	_, made := tracer.Start(ctx, s.name, options...)
	if s.failed != "" {
		made.SetStatus(codes.Error, s.failed)
	}
	if s.end.Before(s.start) {
		s.end = s.start
	}
	made.End(otel.WithTimestamp(s.end))
}

// parseTraceparent reads the header of W3C Trace Context.
func parseTraceparent(header string) (otel.SpanContext, bool) {
	parts := strings.Split(header, "-")
	if len(parts) < 4 || len(parts[0]) != 2 || parts[0] == "ff" {
		return otel.SpanContext{}, false
	}
	trace, err := otel.TraceIDFromHex(parts[1])
	if err != nil {
		return otel.SpanContext{}, false
	}
	span, err := otel.SpanIDFromHex(parts[2])
	if err != nil {
		return otel.SpanContext{}, false
	}
	flags, err := hex.DecodeString(parts[3])
	if err != nil || len(flags) != 1 {
		return otel.SpanContext{}, false
	}
	return otel.NewSpanContext(otel.SpanContextConfig{TraceID: trace, SpanID: span, TraceFlags: otel.TraceFlags(flags[0]), Remote: true}), true
}
