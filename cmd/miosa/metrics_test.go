package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/miosa/miosa/bench/rig"
)

var update = flag.Bool("update", false, "write the table of metrics anew")

// exported is one metric of ours.
type exported struct{ name, kind, unit, labels, help string }

var descWords = regexp.MustCompile(`^Desc\{fqName: "([^"]+)", help: "(.*)", constLabels: \{\}, variableLabels: \{(.*)\}\}$`)

// histograms are those that are not there before something was counted.
var histograms = []string{"miosa_router_request_seconds"}

// allExported are the metrics of every part of a platform that runs no VM.
func allExported(t *testing.T) []exported {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := &platform{cfg: platformConfig{data: t.TempDir(), driver: "sim", domain: "localhost", region: "local", zone: "local-a", overcommit: 1}, log: slog.New(slog.DiscardHandler)}
	if p.data, err = openData(p.cfg.data); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	if err := p.assemble(ctx, l); err != nil {
		t.Fatal(err)
	}
	ran := make(chan error, 1)
	go func() { ran <- p.control.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		for _, err := range []error{<-ran, p.close(), p.data.close()} {
			if err != nil {
				t.Error(err)
			}
		}
	})
	registry, err := p.registry()
	if err != nil {
		t.Fatal(err)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	kinds := map[string]string{}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		kinds[f.GetName()] = strings.ToLower(f.GetType().String())
	}
	descs := make(chan *prometheus.Desc, 1000)
	for _, c := range []prometheus.Collector{whole{p.data.dir, p.figures, p.history}, p.control, p.agent, p.plane, p.router, traceFigures(nil)} {
		c.Describe(descs)
	}
	close(descs)
	var all []exported
	for d := range descs {
		m := descWords.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("%s is not understood", d)
		}
		e := exported{name: m[1], help: m[2], labels: m[3]}
		guess := "gauge"
		switch {
		case slices.Contains(histograms, e.name):
			guess = "histogram"
		case strings.HasSuffix(e.name, "_total"):
			guess = "counter"
		}
		if e.kind = kinds[e.name]; e.kind == "" {
			e.kind = guess
		}
		if e.kind != guess && e.kind != "histogram" {
			t.Errorf("%s is a %s: its name says otherwise", e.name, e.kind)
		}
		e.unit = unitOf(e.name)
		all = append(all, e)
	}
	if kinds["miosa_control_instances"] == "" || kinds["miosa_agent_instances"] == "" {
		t.Error("control or the agent gives no figures")
	}
	slices.SortFunc(all, func(a, b exported) int { return strings.Compare(a.name, b.name) })
	return all
}

func unitOf(name string) string {
	name = strings.TrimSuffix(name, "_total")
	for _, u := range []string{"seconds", "bytes", "cores", "cpus"} {
		if strings.HasSuffix(name, "_"+u) {
			return u
		}
	}
	return "–"
}

// TestMetricsAreDocumented: docs/metrics.md lists what is exported, all of it
// and nothing else.
func TestMetricsAreDocumented(t *testing.T) {
	all := allExported(t)
	var table strings.Builder
	table.WriteString("| name | type | unit | labels | meaning |\n|---|---|---|---|---|\n")
	for _, e := range all {
		labels := strings.ReplaceAll(e.labels, ",", ", ")
		if labels == "" {
			labels = "–"
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s | %s |\n", e.name, e.kind, e.unit, labels, e.help)
	}
	root, err := rig.Root()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(root, "docs", "metrics.md")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	begin, rest, ok := strings.Cut(string(raw), "<!-- metrics -->\n")
	_, end, ok2 := strings.Cut(rest, "<!-- end -->")
	if !ok || !ok2 {
		t.Fatal("the table has no place")
	}
	want := begin + "<!-- metrics -->\n" + table.String() + "<!-- end -->" + end
	if want == string(raw) {
		return
	}
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil { //nolint:gosec // a document
			t.Fatal(err)
		}
		return
	}
	have, _, _ := strings.Cut(rest, "<!-- end -->")
	for line := range strings.Lines(table.String()) {
		if !strings.Contains(have, line) {
			t.Errorf("docs/metrics.md lacks: %s", line)
		}
	}
	for line := range strings.Lines(have) {
		if !strings.Contains(table.String(), line) {
			t.Errorf("docs/metrics.md has what is not exported: %s", line)
		}
	}
	t.Error("accept it with: go test ./cmd/miosa -run Documented -update")
}

var (
	selector = regexp.MustCompile(`([a-z_]+)\{([^}]*)\}`)
	matcher  = regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)`)
)

var metricName = regexp.MustCompile(`[a-z_:][a-z0-9_:]*`)

// TestDashboardsAskForWhatThereIs: every metric that an expression of a
// dashboard names is exported, with the labels that it names.
func TestDashboardsAskForWhatThereIs(t *testing.T) {
	known := map[string]string{"up": "job,instance"}
	for _, e := range allExported(t) {
		known[e.name] = e.labels
		if e.kind == "histogram" {
			for _, part := range []string{"_bucket", "_sum", "_count"} {
				known[e.name+part] = e.labels + ",le"
			}
		}
	}
	for _, name := range []string{"process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds", "go_goroutines"} {
		known[name] = "" // of the client library
	}
	root, err := rig.Root()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(root, "deploy", "grafana", "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no dashboards: %v", err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var board map[string]any
		if err := json.Unmarshal(raw, &board); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		asked := expressions(board)
		if len(asked) < 10 {
			t.Errorf("%s asks for %d things", file, len(asked))
		}
		for _, expr := range asked {
			// Labels in braces and behind by and on are no metrics.
			bare := regexp.MustCompile(`\{[^}]*\}|\[[^]]*\]|"[^"]*"|, host\)|\b(by|on|group_left|without)\s*\([^)]*\)|\$[a-z_]+`).ReplaceAllString(expr, " ")
			found := 0
			for _, word := range metricName.FindAllString(bare, -1) {
				if strings.Contains(word, "_") && !slices.Contains([]string{"histogram_quantile", "label_values", "query_result", "clamp_min"}, word) || word == "up" {
					found++
					if _, ok := known[word]; !ok {
						t.Errorf("%s: %q: there is no metric %s", filepath.Base(file), expr, word)
					}
				}
			}
			if found == 0 {
				t.Errorf("%s: %q names no metric", filepath.Base(file), expr)
			}
			for _, m := range selector.FindAllStringSubmatch(expr, -1) {
				for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
					if !slices.Contains(strings.Split(known[m[1]]+",job,instance", ","), l[1]) {
						t.Errorf("%s: %q: %s has no label %s", filepath.Base(file), expr, m[1], l[1])
					}
				}
			}
		}
	}
}

// expressions are all queries of a dashboard, those of its variables too.
func expressions(v any) []string {
	var out []string
	switch v := v.(type) {
	case map[string]any:
		for key, of := range v {
			if text, ok := of.(string); ok && (key == "expr" || key == "definition") {
				out = append(out, text)
				continue
			}
			out = append(out, expressions(of)...)
		}
	case []any:
		for _, of := range v {
			out = append(out, expressions(of)...)
		}
	}
	return out
}
