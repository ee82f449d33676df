package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/miosa/miosa/disk"
	historydb "github.com/miosa/miosa/metrics/pebble"
	history "github.com/miosa/miosa/metrics/plane"
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

var (
	buildDesc = prometheus.NewDesc("miosa_build_info", "Always 1: what runs.", []string{"version", "goversion"}, nil)
	freeDesc  = prometheus.NewDesc("miosa_data_disk_free_bytes", "Free on the disk of the data directory.", nil, nil)
	sizeDesc  = prometheus.NewDesc("miosa_data_disk_size_bytes", "Size of the disk of the data directory.", nil, nil)

	historySamplesDesc = prometheus.NewDesc("miosa_history_samples_total", "Samples that the built-in history kept.", nil, nil)
	historyDroppedDesc = prometheus.NewDesc("miosa_history_dropped_samples_total",
		"Samples it did not keep: refused, for want of room or a failing disk; foreign, of what is not there or is somebody else's.", []string{"reason"}, nil)
	historyDiskDesc = prometheus.NewDesc("miosa_history_disk_bytes", "What the built-in history takes up.", nil, nil)
)

// whole collects what is of the platform, and of no part of it.
type whole struct {
	dir     string // of the data
	figures *historydb.Store
	history *history.Plane
}

// Describe and Collect make it a collector for a registry.
func (w whole) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{buildDesc, freeDesc, sizeDesc, historySamplesDesc, historyDroppedDesc, historyDiskDesc} {
		out <- d
	}
}

// Collect gives the figures of this moment.
func (w whole) Collect(out chan<- prometheus.Metric) {
	metric := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	metric(buildDesc, prometheus.GaugeValue, 1, version, runtime.Version())
	if free, size, err := disk.Stat(w.dir); err == nil {
		metric(freeDesc, prometheus.GaugeValue, float64(free))
		metric(sizeDesc, prometheus.GaugeValue, float64(size))
	}
	kept := w.figures.Stats()
	metric(historySamplesDesc, prometheus.CounterValue, float64(kept.Kept))
	metric(historyDroppedDesc, prometheus.CounterValue, float64(kept.Refused), "refused")
	metric(historyDroppedDesc, prometheus.CounterValue, float64(w.history.Dropped()), "foreign")
	metric(historyDiskDesc, prometheus.GaugeValue, float64(kept.DiskBytes))
}

// registry has the figures of every part: docs/metrics.md lists them.
func (p *platform) registry() (*prometheus.Registry, error) {
	registry := prometheus.NewRegistry()
	for _, c := range []prometheus.Collector{
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		whole{p.data.dir, p.figures, p.history}, p.control, p.agent, p.plane, p.router,
	} {
		if err := registry.Register(c); err != nil {
			return nil, err
		}
	}
	if p.tracer != nil {
		if err := registry.Register(traceFigures(p.tracer)); err != nil {
			return nil, err
		}
	}
	return registry, nil
}

// serveMetrics serves the figures of every part until ctx ends.
func (p *platform) serveMetrics(ctx context.Context, l net.Listener) error {
	registry, err := p.registry()
	if err != nil {
		return err
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
