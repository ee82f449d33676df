package plane_test

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/miosa/miosa/logs"
)

// What is sent twice is counted once, and what was lost is counted as lost.
func TestLinesAreCounted(t *testing.T) {
	b := newBench(t)
	run := batch("a", 1, 3)
	run.Lines[1].Stream, run.Lines[1].Lost, run.Lines[1].Text = logs.System, 70, []byte("lost")
	for range 2 {
		if err := b.plane.Ship(t.Context(), "host_a", []logs.Batch{run}); err != nil {
			t.Fatal(err)
		}
	}
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(b.plane); err != nil {
		t.Fatal(err)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	if err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP miosa_logs_bytes_total Bytes of their text.
# TYPE miosa_logs_bytes_total counter
miosa_logs_bytes_total 20
# HELP miosa_logs_lines_total Log lines that were stored, those of the platform included.
# TYPE miosa_logs_lines_total counter
miosa_logs_lines_total 3
# HELP miosa_logs_lost_lines_total Lines of apps that were lost before they came here: over their limit, or a spool or ring was full.
# TYPE miosa_logs_lost_lines_total counter
miosa_logs_lost_lines_total 70
`), "miosa_logs_bytes_total", "miosa_logs_lines_total", "miosa_logs_lost_lines_total"); err != nil {
		t.Error(err)
	}
}
