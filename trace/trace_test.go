package trace_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/schedule"
	"github.com/miosa/miosa/trace"
)

// receiver is an OTLP/HTTP endpoint.
type receiver struct {
	*httptest.Server
	t       *testing.T
	mu      sync.Mutex // guards all below
	spans   []*tracev1.Span
	raw     bytes.Buffer
	headers http.Header
	status  int // 0: all is well
	got     chan struct{}
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{t: t, got: make(chan struct{}, 1)}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body := io.Reader(req.Body)
	if req.Header.Get("Content-Encoding") == "gzip" {
		var err error
		if body, err = gzip.NewReader(req.Body); err != nil {
			r.t.Error(err)
			return
		}
	}
	raw, err := io.ReadAll(body)
	if err != nil {
		r.t.Error(err)
	}
	var in collector.ExportTraceServiceRequest
	if err := proto.Unmarshal(raw, &in); err != nil {
		r.t.Errorf("not OTLP: %v", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if req.Method != http.MethodPost || req.URL.Path != "/v1/traces" || req.Header.Get("Content-Type") != "application/x-protobuf" {
		r.t.Errorf("%s %s, %s", req.Method, req.URL, req.Header.Get("Content-Type"))
	}
	r.headers = req.Header
	if r.status != 0 {
		w.WriteHeader(r.status)
		return
	}
	r.raw.Write(raw)
	for _, of := range in.ResourceSpans {
		for _, scope := range of.ScopeSpans {
			r.spans = append(r.spans, scope.Spans...)
		}
	}
	out, err := proto.Marshal(&collector.ExportTraceServiceResponse{})
	if err != nil {
		r.t.Error(err)
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	if _, err := w.Write(out); err != nil {
		r.t.Error(err)
	}
	select {
	case r.got <- struct{}{}:
	default:
	}
}

// until waits for a span of the name.
func (r *receiver) until(name string) {
	r.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		if len(r.named(name)) > 0 {
			return
		}
		select {
		case <-r.got:
		case <-deadline:
			r.t.Fatalf("no span %q", name)
		}
	}
}

func (r *receiver) named(name string) []*tracev1.Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*tracev1.Span
	for _, s := range r.spans {
		if s.Name == name {
			out = append(out, s)
		}
	}
	return out
}

// tracer runs one against the receiver.
func (r *receiver) tracer() (tr *trace.Tracer, stop func()) {
	exporter, err := trace.OTLP(r.t.Context(), r.URL)
	if err != nil {
		r.t.Fatal(err)
	}
	tr, err = trace.New(trace.Config{Exporter: exporter, Version: "test", Cell: "cell", Log: slog.New(slog.NewTextHandler(r.t.Output(), nil))})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(r.t.Context())
	done := make(chan error, 1)
	go func() { done <- tr.Run(ctx) }()
	return tr, func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
	}
}

const (
	secretWord  = "hunter2-is-secret"
	traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
)

var began = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func after(ms int) time.Time { return began.Add(time.Duration(ms) * time.Millisecond) }

// life is a publish of version 2 over version 1, record by record.
type life struct {
	rollout  miosa.Rollout
	instance miosa.Instance
	observed miosa.Observation
	old      miosa.Instance
}

func newLife() *life {
	l := &life{
		rollout: miosa.Rollout{
			ID: "rol_1", TenantID: "ten_1", DeploymentID: "dep_1", EnvironmentID: "env_1", Kind: miosa.RolloutPublish, TargetID: "ver_2", FromID: "ver_1",
			Promote: true, Step: miosa.StepStarting, StepSince: after(0), CreatedAt: after(0), Requester: "key_1", Traceparent: traceparent, Revision: 1,
			Reason: secretWord,
		},
		instance: miosa.Instance{
			ID: "ri_new", DeploymentID: "dep_1", EnvironmentID: "env_1", ServiceID: "svc_1", VersionID: "ver_2", HostID: "host_1", Region: "local",
			CreatedAt: after(5), ScheduledAt: after(5), Goal: miosa.GoalRun, BootSpec: []byte(secretWord), GoalReason: secretWord, CreatedReason: secretWord,
		},
		old: miosa.Instance{ID: "ri_old", EnvironmentID: "env_1", VersionID: "ver_1", CreatedAt: began.Add(-time.Hour), Goal: miosa.GoalRun},
	}
	l.instance.Spec.Name, l.instance.Spec.Command = "web", "/app --token="+secretWord
	l.observed = miosa.Observation{InstanceID: "ri_new", Seq: 1, State: miosa.Starting, Boot: 1, StartedAt: after(10)}
	return l
}

func (l *life) step(s miosa.RolloutStep, at time.Time) miosa.Rollout {
	l.rollout.Step, l.rollout.StepSince = s, at
	l.rollout.Revision++
	if s.Terminal() {
		l.rollout.FinishedAt = at
	}
	return l.rollout
}

func (l *life) healthy() miosa.Observation {
	o := l.observed
	o.Seq, o.State, o.HealthyAt = 2, miosa.Healthy, after(300)
	o.Failure.LastLines = []string{secretWord}
	o.LastProbe = secretWord
	for n, name := range []string{"boot_decided", "image_ready", "vmm_started", "pid1_started", "app_started", "listening", "healthy"} {
		o.Phases = append(o.Phases, miosa.Phase{Name: name, At: after(10 + 40*n)})
	}
	o.Phases = append(o.Phases, miosa.Phase{Name: "a guest's lie", At: began.AddDate(100, 0, 0)})
	l.observed = o
	return o
}

func text(s *tracev1.Span, key string) string {
	for _, a := range s.Attributes {
		if a.Key == key {
			return strings.TrimSpace(a.Value.String())
		}
	}
	return ""
}

// A publish that outlives the process that began it is one whole trace.
func TestAPublishOverARestartIsOneTrace(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-token="+"abc")
	r := newReceiver(t)
	l := newLife()
	tr, stop := r.tracer()
	version := miosa.Version{ID: "ver_2", Number: 2}
	version.Vars = []miosa.Var{{Key: "TOKEN", Sealed: []byte(secretWord), Preview: secretWord}}
	tr.Loaded([]any{l.old, miosa.Observation{InstanceID: "ri_old", Seq: 5, State: miosa.Healthy, HealthyAt: began.Add(-time.Hour)}})
	tr.Changed([]any{version, l.rollout}, nil)
	tr.Placed(l.instance, []string{"1 host without 512 MB of free memory"}, schedule.Answer{
		HostID: "host_1", Fleet: 3, Candidates: 2, TurnedDown: []schedule.TurnedDown{{Filter: "memory", Hosts: 1}},
	})
	tr.Changed([]any{l.instance, l.observed}, nil)
	r.until("schedule")
	stop()

	tr, stop = r.tracer()
	tr.Loaded([]any{version, l.rollout, l.instance, l.observed, l.old, miosa.Observation{InstanceID: "ri_old", Seq: 5, State: miosa.Healthy, HealthyAt: began.Add(-time.Hour)}})
	tr.Changed([]any{l.healthy()}, nil)
	tr.Changed([]any{l.step(miosa.StepFlipping, after(301))}, nil)
	tr.Changed([]any{l.step(miosa.StepDraining, after(310))}, nil)
	tr.Changed([]any{l.rollout}, nil) // once more
	l.old.Goal, l.old.GoalSince = miosa.GoalDrain, after(311)
	tr.Changed([]any{l.old}, nil)
	l.old.Goal = miosa.GoalStop
	tr.Changed([]any{l.old, miosa.Observation{InstanceID: "ri_old", Seq: 6, State: miosa.Stopped, HealthyAt: began.Add(-time.Hour), StoppedAt: after(900)}}, nil)
	tr.Changed([]any{l.step(miosa.StepDone, after(901))}, nil)
	r.until("publish")
	stop()

	var names []string
	byID := map[string]*tracev1.Span{}
	for _, s := range r.spans {
		names = append(names, s.Name)
		if string(s.TraceId) != string(r.spans[0].TraceId) {
			t.Errorf("%s is of another trace", s.Name)
		}
		if byID[string(s.SpanId)] != nil {
			t.Errorf("%s has the ID of %s", s.Name, byID[string(s.SpanId)].Name)
		}
		byID[string(s.SpanId)] = s
	}
	slices.Sort(names)
	if want := []string{"app_started", "boot 1", "drain", "draining", "flipping", "healthy", "image_ready", "instance", "listening", "pid1_started", "publish", "schedule", "starting", "vmm_started"}; !slices.Equal(names, want) {
		t.Errorf("spans %q\nwant  %q", names, want)
	}
	for name, parent := range map[string]string{
		"starting": "publish", "flipping": "publish", "draining": "publish", "instance": "publish", "drain": "publish",
		"schedule": "instance", "boot 1": "instance", "vmm_started": "boot 1", "healthy": "boot 1",
	} {
		if s := r.named(name)[0]; byID[string(s.ParentSpanId)] == nil || byID[string(s.ParentSpanId)].Name != parent {
			t.Errorf("%s is not under %s", name, parent)
		}
	}
	root := r.named("publish")[0]
	if len(root.ParentSpanId) != 0 || root.StartTimeUnixNano != uint64(after(0).UnixNano()) || root.EndTimeUnixNano != uint64(after(901).UnixNano()) {
		t.Errorf("%v", root)
	}
	if len(root.Links) != 1 || fmt.Sprintf("00-%x-%x-01", root.Links[0].TraceId, root.Links[0].SpanId) != traceparent {
		t.Errorf("links %v", root.Links)
	}
	if text(root, "miosa.version.number") != "int_value:2" || text(root, "miosa.rollout.result") != `string_value:"done"` {
		t.Errorf("%v", root.Attributes)
	}
	schedule := r.named("schedule")[0]
	if text(schedule, "miosa.schedule.candidates") != "int_value:2" || text(schedule, "miosa.schedule.filter.memory") != "int_value:1" || text(schedule, "miosa.host.id") != `string_value:"host_1"` {
		t.Errorf("%v", schedule.Attributes)
	}
	if bytes.Contains(r.raw.Bytes(), []byte(secretWord)) {
		t.Error("a secret went out")
	}
	if r.headers.Get("X-Token") != "abc" {
		t.Errorf("headers %v", r.headers)
	}
	if n := tr.Dropped(); n != 0 {
		t.Errorf("%d dropped", n)
	}
}

// What fails is marked; a placement outside of a rollout has its own trace.
func TestFailuresAndReplacements(t *testing.T) {
	r := newReceiver(t)
	tr, stop := r.tracer()
	l := newLife()
	tr.Changed([]any{miosa.Version{ID: "ver_2", Number: 2}, l.rollout, l.instance, l.observed}, nil)
	o := l.observed
	o.Seq, o.State, o.StoppedAt = 2, miosa.Failed, after(50)
	o.Failure = miosa.Failure{Kind: miosa.FailureExit, At: after(50), Message: secretWord}
	tr.Changed([]any{o}, nil)
	tr.Changed([]any{l.step(miosa.StepFailed, after(60))}, nil)
	other := l.instance
	other.ID, other.CreatedAt, other.ScheduledAt = "ri_other", after(5000), after(6000)
	tr.Placed(other, nil, schedule.Answer{HostID: "host_1", Fleet: 1, Candidates: 1})
	tr.Changed([]any{other, miosa.Observation{InstanceID: "ri_other", Seq: 1, State: miosa.Healthy, Boot: 1, StartedAt: after(6100), HealthyAt: after(7000)}}, nil)
	r.until("publish")
	stop()
	for name, why := range map[string]string{"publish": "failed", "starting": "failed", "boot 1": "exit", "instance": "exit"} {
		if s := r.named(name)[0]; s.Status.GetCode() != tracev1.Status_STATUS_CODE_ERROR || s.Status.GetMessage() != why {
			t.Errorf("%s: %v", name, s.Status)
		}
	}
	whole := r.named("instance")
	if len(whole) != 2 || string(whole[0].TraceId) == string(whole[1].TraceId) || len(whole[1].ParentSpanId) != 0 {
		t.Errorf("%v", whole)
	}
	if s := r.named("schedule"); len(s) != 1 || string(s[0].ParentSpanId) != string(whole[1].SpanId) {
		t.Errorf("%v", s)
	}
	if bytes.Contains(r.raw.Bytes(), []byte(secretWord)) {
		t.Error("a secret went out")
	}
}

// stuck is a backend that never answers, until it is told to.
type stuck struct{ release chan struct{} }

func (s stuck) ExportSpans(ctx context.Context, _ []sdk.ReadOnlySpan) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-s.release:
		return errors.New("no")
	}
}
func (stuck) Shutdown(context.Context) error { return nil }

// A backend that does not answer holds nobody up: what is too much is counted.
func TestASlowBackendHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr, err := trace.New(trace.Config{Exporter: stuck{make(chan struct{})}, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for range 10_000 { // nobody takes them yet
			tr.Changed(nil, nil)
		}
		if n := tr.Dropped(); n != 10_000-4096 {
			t.Errorf("%d dropped", n)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- tr.Run(ctx) }()
		synctest.Wait()
		before := tr.Dropped()
		for n := range 10_000 {
			r := newLife().rollout
			r.ID, r.Step, r.FinishedAt = fmt.Sprint("rol_", n), miosa.StepDone, r.CreatedAt
			tr.Changed([]any{r}, nil)
			if n%1000 == 0 {
				synctest.Wait()
			}
		}
		synctest.Wait()
		if time.Since(began) != 0 {
			t.Errorf("it took %s", time.Since(began))
		}
		if n := tr.Dropped() - before; n != 10_000-8192 {
			t.Errorf("%d dropped", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("it took %s to end", took)
		}
		if n := tr.Dropped() - before; n != 10_000 {
			t.Errorf("%d dropped in the end", n)
		}
	})
}

// A backend that refuses is said once, and is tried again with what comes next.
func TestABackendThatRefuses(t *testing.T) {
	r := newReceiver(t)
	r.status = http.StatusUnauthorized
	tr, stop := r.tracer()
	defer stop()
	send := func(id string) {
		l := newLife()
		l.rollout.ID = id
		tr.Changed([]any{l.step(miosa.StepDone, after(9))}, nil)
	}
	send("rol_1")
	deadline := time.After(20 * time.Second)
	for tr.Dropped() == 0 {
		select {
		case <-deadline:
			t.Fatal("nothing is dropped")
		case <-time.After(10 * time.Millisecond):
		}
	}
	r.mu.Lock()
	r.status = 0
	r.mu.Unlock()
	send("rol_2")
	r.until("publish")
}

func TestEndpoints(t *testing.T) {
	for _, bad := range []string{"", "localhost:4318", "ftp://x", "http://", "https://user:pass@host/", "http://host/?q=1", "http://h#f", "://"} {
		_, err := trace.OTLP(t.Context(), bad)
		if miosa.CodeOf(err) != miosa.Invalid {
			t.Errorf("%q: %v", bad, err)
		}
		if err != nil && strings.Contains(err.Error(), "pass") {
			t.Errorf("it shows the password: %v", err)
		}
	}
}
