package drain

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	collector "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	otel "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/miosa/miosa/logs"
)

func lineOf(stream logs.Stream, text string) Line {
	l := Line{Deployment: "shop", Service: "web"}
	l.Time, l.Stream, l.Text = time.Date(2026, 3, 14, 15, 26, 53, 589793000, time.UTC), stream, []byte(text)
	l.Origin = logs.Origin{
		TenantID: "ten_1", DeploymentID: "dep_1", ServiceID: "svc_1", InstanceID: "ri_1", VersionID: "ver_1", HostID: "host_1", WorkspaceID: `a "b" ]c\`,
	}
	l.Position = logs.Position{Epoch: 2, Seq: 17}
	return l
}

// taskLine is one that an attempt at a task wrote.
func taskLine(text string) Line {
	l := lineOf(logs.Stdout, text)
	l.Service, l.Origin.ServiceID, l.Origin.TaskID = "", "", "task_1"
	return l
}

func TestSyslogLines(t *testing.T) {
	const data = `[miosa@32473 id="ri_1.2.17" deployment_id="dep_1" service_id="svc_1" version_id="ver_1" host_id="host_1" external_workspace_id="a \"b\" \]c\\"`
	gap := lineOf(logs.System, "12 lines were lost")
	gap.Lost = 12
	long := lineOf(logs.Stdout, "half of")
	long.Partial = true
	for _, x := range []struct {
		line Line
		want string
	}{
		{lineOf(logs.Stdout, "GET / 200"), "<14>1 2026-03-14T15:26:53.589793Z shop web ri_1 stdout " + data + "] GET / 200"},
		{lineOf(logs.Stderr, "panic"), "<11>1 2026-03-14T15:26:53.589793Z shop web ri_1 stderr " + data + "] panic"},
		{lineOf(logs.System, "booted"), "<13>1 2026-03-14T15:26:53.589793Z shop web ri_1 system " + data + "] booted"},
		{gap, "<12>1 2026-03-14T15:26:53.589793Z shop web ri_1 system " + data + ` lost="12"] 12 lines were lost`},
		{long, "<14>1 2026-03-14T15:26:53.589793Z shop web ri_1 stdout " + data + ` partial="true"] half of`},
		{taskLine("migrated"), "<14>1 2026-03-14T15:26:53.589793Z shop - ri_1 stdout " + strings.Replace(data, `service_id="svc_1"`, `task_id="task_1"`, 1) + "] migrated"},
		{lineOf(logs.Stdout, ""), "<14>1 2026-03-14T15:26:53.589793Z shop web ri_1 stdout " + data + "] "},
		{lineOf(logs.Stdout, "é"), "<14>1 2026-03-14T15:26:53.589793Z shop web ri_1 stdout " + data + "] \xef\xbb\xbfé"},
		{lineOf(logs.Stdout, "\ufeffa\xffb"), "<14>1 2026-03-14T15:26:53.589793Z shop web ri_1 stdout " + data + "] \xef\xbb\xbfa\ufffdb"},
		{lineOf(logs.Stdout, "a\x00b\nc\rd\te\x1b[31m"), "<14>1 2026-03-14T15:26:53.589793Z shop web ri_1 stdout " + data + `] a\x00b\x0ac\x0dd` + "\t" + `e\x1b[31m`},
	} {
		if got := string(appendSyslog(nil, &x.line, "")); got != x.want {
			t.Errorf("%q\n got %q\nwant %q", x.line.Text, got, x.want)
		}
	}
	got := string(syslog([]Line{lineOf(logs.Stdout, "é"), lineOf(logs.Stdout, "b")}, "abc@41058"))
	if !strings.Contains(got, " stdout [abc@41058][miosa@32473 ") {
		t.Errorf("no token in %q", got)
	}
}

var syslogHeader = regexp.MustCompile(`^<(\d{1,3})>1 \S+ [!-~]{1,255} [!-~]{1,48} [!-~]{1,128} [!-~]{1,32} \[`)

// TestSyslogFrames: whatever an app writes and a customer names, a receiver
// finds the frames again, and each is one line of valid UTF-8.
func TestSyslogFrames(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var lines []Line
		for range rapid.IntRange(1, 5).Draw(t, "lines") {
			l := lineOf(rapid.SampledFrom([]logs.Stream{logs.Stdout, logs.Stderr, logs.System}).Draw(t, "stream"), "")
			l.Text = rapid.SliceOf(rapid.Byte()).Draw(t, "text")
			l.Deployment, l.Service = rapid.String().Draw(t, "deployment"), rapid.String().Draw(t, "service")
			l.Origin.WorkspaceID = rapid.String().Draw(t, "workspace")
			lines = append(lines, l)
		}
		b := syslog(lines, "")
		for i := range lines {
			length, rest, ok := bytes.Cut(b, []byte(" "))
			n, err := strconv.Atoi(string(length))
			if !ok || err != nil || n > len(rest) {
				t.Fatalf("frame %d: length %q", i, length)
			}
			frame := rest[:n]
			b = rest[n:]
			if !utf8.Valid(frame) || bytes.ContainsAny(frame, "\n\r\x00\x1b") || !syslogHeader.Match(frame) {
				t.Fatalf("frame %d: %q", i, frame)
			}
		}
		if len(b) > 0 {
			t.Fatalf("%d bytes behind the last frame", len(b))
		}
	})
}

func TestNDJSONLines(t *testing.T) {
	plain := lineOf(logs.Stderr, "a\xff<b>\n\"c\"")
	plain.Origin.WorkspaceID = ""
	got, err := ndjson([]Line{plain, lineOf(logs.Stdout, ""), taskLine("migrated")})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"id":"ri_1.2.17","ts":"2026-03-14T15:26:53.589793Z","stream":"stderr","line":"a` + "\ufffd" + `<b>\n\"c\"","deployment":"shop","service":"web",` +
		`"deployment_id":"dep_1","service_id":"svc_1","runtime_instance_id":"ri_1","version_id":"ver_1","host_id":"host_1","external_workspace_id":null}` + "\n" +
		`{"id":"ri_1.2.17","ts":"2026-03-14T15:26:53.589793Z","stream":"stdout","line":"","deployment":"shop","service":"web",` +
		`"deployment_id":"dep_1","service_id":"svc_1","runtime_instance_id":"ri_1","version_id":"ver_1","host_id":"host_1","external_workspace_id":"a \"b\" ]c\\"}` + "\n" +
		`{"id":"ri_1.2.17","ts":"2026-03-14T15:26:53.589793Z","stream":"stdout","line":"migrated","deployment":"shop","service":"",` +
		`"deployment_id":"dep_1","service_id":"","task_id":"task_1","runtime_instance_id":"ri_1","version_id":"ver_1","host_id":"host_1","external_workspace_id":"a \"b\" ]c\\"}` + "\n"
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestNDJSONAnyText: one object a line, whatever the text is.
func TestNDJSONAnyText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := lineOf(logs.Stdout, "")
		l.Text = rapid.SliceOf(rapid.Byte()).Draw(t, "text")
		got, err := ndjson([]Line{l, l})
		if err != nil || bytes.Count(got, []byte("\n")) != 2 {
			t.Fatalf("%v: %q", err, got)
		}
		for raw := range bytes.Lines(got) {
			var v ndjsonLine
			if err := json.Unmarshal(raw, &v); err != nil || v.Line != l.text() {
				t.Fatalf("%v: %q", err, raw)
			}
		}
	})
}

func TestOTLPRecords(t *testing.T) {
	gap := lineOf(logs.System, "gap")
	gap.Lost, gap.Partial = 12, true
	other := lineOf(logs.Stdout, "other")
	other.Origin.InstanceID, other.Origin.WorkspaceID = "ri_2", ""
	raw, err := otlp([]Line{lineOf(logs.Stderr, "bad \xff"), gap, other, taskLine("migrated")}, time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	var got collector.ExportLogsServiceRequest
	if err := proto.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.GetResourceLogs()) != 3 {
		t.Fatalf("%d resources", len(got.GetResourceLogs()))
	}
	attrs := func(r *otel.ResourceLogs) string {
		var all []string
		for _, a := range r.GetResource().GetAttributes() {
			all = append(all, a.GetKey()+"="+a.GetValue().GetStringValue())
		}
		return strings.Join(all, " ")
	}
	if want := `service.name=shop-web service.namespace=shop service.instance.id=ri_1 service.version=ver_1 host.id=host_1 ` +
		`miosa.deployment.id=dep_1 miosa.service.id=svc_1 miosa.external_workspace_id=a "b" ]c\`; attrs(got.GetResourceLogs()[0]) != want {
		t.Errorf("resource %s\nwant     %s", attrs(got.GetResourceLogs()[0]), want)
	}
	if a := attrs(got.GetResourceLogs()[1]); strings.Contains(a, "workspace") || !strings.Contains(a, "ri_2") {
		t.Errorf("resource %s", a)
	}
	if want := `service.name=shop service.namespace=shop service.instance.id=ri_1 service.version=ver_1 host.id=host_1 ` +
		`miosa.deployment.id=dep_1 miosa.task.id=task_1 miosa.external_workspace_id=a "b" ]c\`; attrs(got.GetResourceLogs()[2]) != want {
		t.Errorf("resource %s\nwant     %s", attrs(got.GetResourceLogs()[2]), want)
	}
	records := got.GetResourceLogs()[0].GetScopeLogs()[0].GetLogRecords()
	if r := records[0]; r.GetBody().GetStringValue() != "bad \ufffd" || r.GetSeverityText() != "ERROR" || r.GetTimeUnixNano() != 1773502013589793000 {
		t.Errorf("record %v", r)
	}
	if r := records[1]; r.GetSeverityText() != "WARN" || len(r.GetAttributes()) != 4 {
		t.Errorf("record %v", r)
	}
}

func TestPartialSuccess(t *testing.T) {
	body := func(n int64, words string) []byte {
		raw, err := proto.Marshal(&collector.ExportLogsServiceResponse{
			PartialSuccess: &collector.ExportLogsPartialSuccess{RejectedLogRecords: n, ErrorMessage: words},
		})
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	for _, x := range []struct {
		body     []byte
		rejected uint64
		ok       bool
	}{{nil, 0, true}, {body(3, "too old"), 3, true}, {body(-5, ""), 0, true}, {[]byte("<html>"), 0, false}} {
		n, err := partial(x.body)
		if n != x.rejected || (err == nil) != x.ok {
			t.Errorf("partial(%q) = %d, %v", x.body, n, err)
		}
	}
}
