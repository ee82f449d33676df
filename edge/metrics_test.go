package edge

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/miosa/miosa/routing"
)

func TestMetrics(t *testing.T) {
	g, stop := newRig(t, Config{})
	g.route(map[string]routing.Pool{"app.test": poolOf(at("ri_a", app(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = w.Write([]byte("hello"))
	}))), "quiet.test": poolOf()})
	for _, path := range []string{"/", "/", "/no"} {
		g.get("http://app.test" + path)
	}
	g.http.CloseIdleConnections()
	stop() // every request has been counted

	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(g.rt)
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var name strings.Builder
			name.WriteString(f.GetName())
			for _, l := range m.GetLabel() {
				name.WriteString(" " + l.GetName() + "=" + l.GetValue())
			}
			switch {
			case m.Counter != nil:
				got[name.String()] = m.Counter.GetValue()
			case m.Gauge != nil:
				got[name.String()] = m.Gauge.GetValue()
			case m.Histogram != nil:
				got[name.String()] = float64(m.Histogram.GetSampleCount())
				last := uint64(0)
				for _, b := range m.Histogram.GetBucket() {
					if b.GetCumulativeCount() < last || b.GetCumulativeCount() > m.Histogram.GetSampleCount() {
						t.Errorf("buckets are not cumulative: %v", m.Histogram.GetBucket())
					}
					last = b.GetCumulativeCount()
				}
				if m.Histogram.GetSampleSum() <= 0 {
					t.Error("three requests took no time")
				}
			}
		}
	}
	want := map[string]float64{
		"miosa_router_requests_total class=2xx host=app.test": 2,
		"miosa_router_requests_total class=4xx host=app.test": 1,
		"miosa_router_request_seconds host=app.test":          3,
		"miosa_router_retries_total host=app.test":            0,
		"miosa_router_received_bytes_total host=app.test":     0,
		"miosa_router_sent_bytes_total host=app.test":         15,
		"miosa_router_in_flight host=app.test":                0,
		"miosa_router_hosts":                                  2,
		"miosa_router_access_log_lost_total":                  0,
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}
