package main

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/miosa/miosa/control"
	"github.com/miosa/miosa/trace"
)

// trace makes the tracer, if one is wanted, and what control feeds it by.
func (p *platform) trace(ctx context.Context) (control.Observer, error) {
	if p.cfg.otlpTraces == "" {
		return nil, nil
	}
	// Its connections end with the tracer, not with ctx: the last spans go then.
	exporter, err := trace.OTLP(context.WithoutCancel(ctx), p.cfg.otlpTraces)
	if err != nil {
		return nil, err
	}
	p.tracer, err = trace.New(trace.Config{Exporter: exporter, Version: version, Cell: p.data.id, Log: p.log})
	if err != nil {
		return nil, err
	}
	return p.tracer, nil
}

// traceFigures are the tracer's at /metrics.
func traceFigures(t *trace.Tracer) prometheus.Collector {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "miosa_traces_dropped_total", Help: "Spans and observations that were lost on the way to the tracing backend.",
	}, func() float64 { return float64(t.Dropped()) })
}
