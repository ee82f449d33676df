package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// defaultMetrics is where figures are served if nobody says otherwise.
const defaultMetrics = "127.0.0.1:7090"

// listenMetrics opens the listener of /metrics; nil when there is to be none.
// That the default address is taken (by another platform on this machine, say)
// keeps nothing from running.
func listenMetrics(addr string, log *slog.Logger) (net.Listener, error) {
	if addr == "" {
		return nil, nil
	}
	l, err := net.Listen("tcp", addr)
	if addr == defaultMetrics && errors.Is(err, syscall.EADDRINUSE) {
		log.Warn("no /metrics: its address is in use", "addr", addr, "remedy", "choose another with --metrics")
		return nil, nil
	}
	if err != nil {
		return listen("--metrics", addr)
	}
	return l, nil
}

// serveMetrics serves the figures of every part until ctx ends.
func (p *platform) serveMetrics(ctx context.Context, l net.Listener) error {
	registry := prometheus.NewRegistry()
	for _, c := range []prometheus.Collector{
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), p.router,
	} {
		if err := registry.Register(c); err != nil {
			return err
		}
	}
	if p.tracer != nil {
		if err := registry.Register(traceFigures(p.tracer)); err != nil {
			return err
		}
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(p.log.Handler(), slog.LevelWarn)}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(p.log.Handler(), slog.LevelDebug)}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
