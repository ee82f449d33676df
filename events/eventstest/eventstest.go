// Package eventstest is the suite that every events.Store must pass.
package eventstest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/events"
)

// Fixture is one store under test.
type Fixture struct {
	// Open opens the store, with the clock given. Opened again it has what it
	// had, and what was opened before is used no more. It ends with the test.
	Open func(now func() time.Time) events.Store
}

// Run runs the suite. make makes a fixture whose store is empty; it may be
// called many times in a test.
func Run(t *testing.T, fixture func(t *testing.T) Fixture) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, s events.Store, clock *clock)
	}{
		{"an empty store", empty},
		{"what was appended is read", everyField},
		{"the store keeps its own copy", ownCopy},
		{"what is held already is dropped", dedup},
		{"what is no event is refused", refused},
		{"both directions, and pages of them", pages},
		{"every field of a scope", scopes},
		{"a task's timeline is over its attempts", tasks},
		{"tenants never cross", tenants},
		{"a host's timeline is over all tenants", hosts},
		{"classes are read as one", classes},
		{"each expires by its class", expiry},
		{"late and early clocks", clocks},
		{"places of events, and of none", places},
		{"a read is of what there was", readWhile},
		{"an ended context ends calls", ended},
	} {
		t.Run(c.name, func(t *testing.T) {
			clock := &clock{now: start()}
			c.run(t, fixture(t).Open(clock.time), clock)
		})
	}
	t.Run("opened again it has what it had", func(t *testing.T) { reopened(t, fixture(t)) })
	t.Run("any order of calls", func(t *testing.T) { model(t, fixture) })
}

type clock struct{ now time.Time }

func (c *clock) time() time.Time { return c.now }

func start() time.Time { return time.Date(2026, 3, 14, 15, 26, 53, 589793238, time.UTC) }

type numbered struct{ n byte }

func (r *numbered) Read(b []byte) (int, error) {
	clear(b)
	b[len(b)-1] = r.n
	return len(b), nil
}

// ID is one that was minted at a time, told apart by n.
func ID(prefix string, at time.Time, n int) string {
	id, err := miosa.NewID(prefix, at, &numbered{byte(n)}) //nolint:gosec // small
	if err != nil {
		panic(err)
	}
	return id
}

// event is the n-th, so many seconds after the start.
func event(n int) events.Kept {
	at := start().Add(time.Duration(n) * time.Second)
	return events.Kept{Days: 30, Event: miosa.Event{
		ID: ID(miosa.PrefixEvent, at, n), TenantID: "ten_1", DeploymentID: "dep_1", Type: "rollout.started",
		Message: fmt.Sprintf("event %d", n), Actor: "control", At: at, Revision: int64(n),
	}}
}

type tester interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Context() context.Context
}

func put(t tester, s events.Store, all ...events.Kept) {
	t.Helper()
	if err := s.Append(t.Context(), all); err != nil {
		t.Fatal(err)
	}
}

func read(t tester, s events.Store, q events.Query) []events.Entry {
	t.Helper()
	var all []events.Entry
	for e, err := range s.Read(t.Context(), q) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

func messages(all []events.Entry) (out []string) {
	for _, e := range all {
		out = append(out, e.Message)
	}
	return out
}

func tenant(id string) events.Scope { return events.Scope{TenantID: id} }

func want(t *testing.T, s events.Store, q events.Query, numbers ...int) {
	t.Helper()
	var want []string
	for _, n := range numbers {
		want = append(want, fmt.Sprintf("event %d", n))
	}
	if got := messages(read(t, s, q)); !slices.Equal(got, want) {
		t.Errorf("%+v: %q, want %q", q, got, want)
	}
}

func empty(t *testing.T, s events.Store, _ *clock) {
	want(t, s, events.Query{Scope: tenant("ten_1")})
	want(t, s, events.Query{Scope: events.Scope{Operator: true}, Backward: true})
	if m, err := s.Last(t.Context()); m != 0 || err != nil {
		t.Errorf("last %d, %v", m, err)
	}
	if m, held, err := s.Place(t.Context(), event(1).ID); m != 0 || held || err != nil {
		t.Errorf("place %d, %v, %v", m, held, err)
	}
	if err := s.Expire(t.Context(), start()); err != nil {
		t.Error(err)
	}
	put(t, s)
}

func everyField(t *testing.T, s events.Store, _ *clock) {
	k := event(1)
	v := reflect.ValueOf(&k.Event).Elem()
	for f, fv := range v.Fields() {
		if fv.Kind() == reflect.String && f.Name != "ID" {
			fv.SetString("x_" + f.Name)
		}
	}
	k.Details = map[string]string{"key": "välue\x00\n", "": "empty"}
	k.Revision = 77
	k.WorkspaceID, k.Message = "Arbeitsplatz 7 \x00", "any\nwords «»"
	plan := events.Kept{Days: 1, Event: miosa.Event{ID: event(2).ID, Type: "plan.changed", At: start()}}
	put(t, s, k, plan)
	got := read(t, s, events.Query{Scope: events.Scope{Operator: true}})
	if len(got) != 2 || !reflect.DeepEqual(got[0], events.Entry{Event: k.Event, Mark: 1}) || !reflect.DeepEqual(got[1], events.Entry{Event: plan.Event, Mark: 2}) {
		t.Errorf("got  %+v\nwant %+v\n     %+v", got, k, plan)
	}
	for f, fv := range v.Fields() {
		if fv.IsZero() {
			t.Errorf("field %s is not tested", f.Name)
		}
	}
}

func ownCopy(t *testing.T, s events.Store, _ *clock) {
	k := event(1)
	k.Details = map[string]string{"a": "1"}
	put(t, s, k)
	k.Details["a"] = "2"
	q := events.Query{Scope: tenant("ten_1")}
	got := read(t, s, q)
	if got[0].Details["a"] != "1" {
		t.Error("it was changed from outside")
	}
	got[0].Details["a"] = "3"
	if read(t, s, q)[0].Details["a"] != "1" {
		t.Error("it was changed by a reader")
	}
}

func dedup(t *testing.T, s events.Store, _ *clock) {
	again := event(1)
	again.Message = "another"
	put(t, s, event(1), event(2), again)
	put(t, s, event(2), again)
	put(t, s, event(1), event(3), event(2))
	want(t, s, events.Query{Scope: tenant("ten_1")}, 1, 2, 3)
	if m, _ := s.Last(t.Context()); m != 3 {
		t.Errorf("last is %d", m)
	}
}

func refused(t *testing.T, s events.Store, _ *clock) {
	for name, change := range map[string]func(*events.Kept){
		"no ID":            func(k *events.Kept) { k.ID = "" },
		"another's ID":     func(k *events.Kept) { k.ID = "dep" + k.ID[3:] },
		"no days":          func(k *events.Kept) { k.Days = 0 },
		"too many days":    func(k *events.Kept) { k.Days = 3651 },
		"zero in an ID":    func(k *events.Kept) { k.TenantID = "ten\x00dep" },
		"space in an ID":   func(k *events.Kept) { k.HostID = "host 1" },
		"letters in an ID": func(k *events.Kept) { k.InstanceID = "rí" },
		"zero in a task":   func(k *events.Kept) { k.TaskID = "task\x00x" },
	} {
		k := event(2)
		change(&k)
		if err := s.Append(t.Context(), []events.Kept{event(1), k}); miosa.CodeOf(err) != miosa.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	want(t, s, events.Query{Scope: tenant("ten_1")})
}

func pages(t *testing.T, s events.Store, _ *clock) {
	var forward []int
	for n := 1; n <= 600; n++ {
		k := event(n)
		k.At = start().Add(time.Duration(n-600) * 11 * time.Minute) // over days
		k.ID = ID(miosa.PrefixEvent, k.At, n)
		put(t, s, k)
		forward = append(forward, n)
	}
	backward := slices.Clone(forward)
	slices.Reverse(backward)
	for _, scope := range []events.Scope{tenant("ten_1"), {TenantID: "ten_1", DeploymentID: "dep_1"}, {Operator: true}} {
		want(t, s, events.Query{Scope: scope}, forward...)
		want(t, s, events.Query{Scope: scope, Backward: true}, backward...)
		want(t, s, events.Query{Scope: scope, After: 590}, forward[590:]...)
		want(t, s, events.Query{Scope: scope, After: 11, Backward: true}, backward[590:]...)
		want(t, s, events.Query{Scope: scope, After: 600})
		want(t, s, events.Query{Scope: scope, After: 1, Backward: true})
		want(t, s, events.Query{Scope: scope, After: 1 << 40})
		for e, err := range s.Read(t.Context(), events.Query{Scope: scope, After: 7}) {
			if err != nil || e.Message != "event 8" || e.Mark != 8 {
				t.Errorf("%+v, %v", e, err)
			}
			break
		}
	}
}

// subjects are the fields that a scope narrows by.
var subjects = []struct {
	name  string
	event func(*miosa.Event) *string
	scope func(*events.Scope) *string
}{
	{"workspace", func(e *miosa.Event) *string { return &e.WorkspaceID }, func(s *events.Scope) *string { return &s.WorkspaceID }},
	{"deployment", func(e *miosa.Event) *string { return &e.DeploymentID }, func(s *events.Scope) *string { return &s.DeploymentID }},
	{"service", func(e *miosa.Event) *string { return &e.ServiceID }, func(s *events.Scope) *string { return &s.ServiceID }},
	{"instance", func(e *miosa.Event) *string { return &e.InstanceID }, func(s *events.Scope) *string { return &s.InstanceID }},
	{"version", func(e *miosa.Event) *string { return &e.VersionID }, func(s *events.Scope) *string { return &s.VersionID }},
	{"rollout", func(e *miosa.Event) *string { return &e.RolloutID }, func(s *events.Scope) *string { return &s.RolloutID }},
	{"task", func(e *miosa.Event) *string { return &e.TaskID }, func(s *events.Scope) *string { return &s.TaskID }},
	{"host", func(e *miosa.Event) *string { return &e.HostID }, func(s *events.Scope) *string { return &s.HostID }},
}

func scopes(t *testing.T, s events.Store, _ *clock) {
	for i, f := range subjects {
		a, b := event(2*i+1), event(2*i+2)
		*f.event(&a.Event), *f.event(&b.Event) = "x", "y"
		put(t, s, a, b)
	}
	for i, f := range subjects {
		for j, v := range []string{"x", "y", "xx", "z"} {
			scope := tenant("ten_1")
			*f.scope(&scope) = v
			var numbers []int
			if j < 2 {
				numbers = []int{2*i + 1 + j}
			}
			want(t, s, events.Query{Scope: scope}, numbers...)
			want(t, s, events.Query{Scope: scope, Backward: true}, numbers...)
		}
	}
	scope := tenant("ten_1")
	scope.Types = []string{"nothing", "rollout.st"}
	if got := read(t, s, events.Query{Scope: scope}); len(got) != 2*len(subjects) {
		t.Errorf("%d by type", len(got))
	}
	scope.Types = []string{"started"}
	want(t, s, events.Query{Scope: scope})
	scope = events.Scope{TenantID: "ten_1", ServiceID: "x", InstanceID: "x"}
	want(t, s, events.Query{Scope: scope})
}

// tasks: a release command's task with two attempts, among other events of its
// version, its rollout and its deployment.
func tasks(t *testing.T, s events.Store, _ *clock) {
	for n, x := range []struct{ task, instance, service string }{
		{"task_1", "", ""}, {"", "ri_9", "svc_1"}, {"task_1", "ri_1", ""}, {"task_2", "ri_3", ""}, {"task_1", "ri_2", ""}, {"", "", ""}, {"task_11", "", ""},
	} {
		k := event(n)
		k.TaskID, k.InstanceID, k.ServiceID, k.VersionID, k.RolloutID = x.task, x.instance, x.service, "ver_1", "rol_1"
		put(t, s, k)
	}
	for _, scope := range []events.Scope{{}, {DeploymentID: "dep_1"}, {VersionID: "ver_1"}, {RolloutID: "rol_1"}} {
		scope.TenantID, scope.TaskID = "ten_1", "task_1"
		want(t, s, events.Query{Scope: scope}, 0, 2, 4)
		want(t, s, events.Query{Scope: scope, Backward: true}, 4, 2, 0)
		want(t, s, events.Query{Scope: scope, After: 3}, 4)
	}
	want(t, s, events.Query{Scope: events.Scope{TenantID: "ten_1", TaskID: "task_1", InstanceID: "ri_2"}}, 4)
	want(t, s, events.Query{Scope: events.Scope{TenantID: "ten_1", TaskID: "task_1", InstanceID: "ri_3"}})
	want(t, s, events.Query{Scope: events.Scope{TenantID: "ten_1", TaskID: "task_1", DeploymentID: "dep_2"}})
	want(t, s, events.Query{Scope: events.Scope{TenantID: "ten_2", TaskID: "task_1"}})
	want(t, s, events.Query{Scope: events.Scope{TenantID: "ten_1", ServiceID: "svc_1"}}, 1)
	want(t, s, events.Query{Scope: events.Scope{TenantID: "ten_1", DeploymentID: "dep_1"}}, 0, 1, 2, 3, 4, 5, 6)
}

func tenants(t *testing.T, s events.Store, _ *clock) {
	// The same names with three tenants, and nobody's.
	for n, ten := range []string{"ten_1", "ten_11", "ten_2", ""} {
		k := event(n)
		k.TenantID = ten
		for _, f := range subjects {
			*f.event(&k.Event) = "x"
		}
		put(t, s, k)
	}
	for n, ten := range []string{"ten_1", "ten_11", "ten_2"} {
		want(t, s, events.Query{Scope: tenant(ten)}, n)
		want(t, s, events.Query{Scope: events.Scope{Operator: true, TenantID: ten}}, n)
		for _, f := range subjects {
			scope := tenant(ten)
			*f.scope(&scope) = "x"
			want(t, s, events.Query{Scope: scope}, n)
			want(t, s, events.Query{Scope: scope, Backward: true}, n)
		}
	}
	want(t, s, events.Query{Scope: tenant("ten_")})
	want(t, s, events.Query{Scope: tenant("ten_1\x00x")})
	want(t, s, events.Query{Scope: events.Scope{Operator: true}}, 0, 1, 2, 3)
	for _, scope := range []events.Scope{{}, {HostID: "x"}, {DeploymentID: "x"}} {
		n := 0
		for e, err := range s.Read(t.Context(), events.Query{Scope: scope}) {
			if n++; miosa.CodeOf(err) != miosa.Internal {
				t.Errorf("a read without a tenant gave %+v, %v", e, err)
			}
		}
		if n != 1 {
			t.Errorf("a read without a tenant gave %d times something", n)
		}
	}
}

func hosts(t *testing.T, s events.Store, _ *clock) {
	for n, ten := range []string{"ten_1", "", "ten_2", "ten_1"} {
		k := event(n)
		if k.TenantID, k.HostID = ten, "host_1"; n == 3 {
			k.HostID = "host_2"
		}
		put(t, s, k)
	}
	want(t, s, events.Query{Scope: events.Scope{Operator: true, HostID: "host_1"}}, 0, 1, 2)
	want(t, s, events.Query{Scope: events.Scope{Operator: true, HostID: "host_1"}, Backward: true}, 2, 1, 0)
	want(t, s, events.Query{Scope: events.Scope{TenantID: "ten_1", HostID: "host_1"}}, 0)
}

func classes(t *testing.T, s events.Store, _ *clock) {
	var all []int
	for n := range 60 {
		k := event(n)
		k.Days = 1 + 29*(n/7%2) + n%3
		k.At = start().Add(time.Duration(n-60) * 17 * time.Minute)
		put(t, s, k)
		all = append(all, n)
	}
	back := slices.Clone(all)
	slices.Reverse(back)
	for _, scope := range []events.Scope{tenant("ten_1"), {TenantID: "ten_1", DeploymentID: "dep_1"}, {Operator: true}} {
		want(t, s, events.Query{Scope: scope}, all...)
		want(t, s, events.Query{Scope: scope, Backward: true}, back...)
		want(t, s, events.Query{Scope: scope, After: 30}, all[30:]...)
		want(t, s, events.Query{Scope: scope, After: 30, Backward: true}, back[31:]...)
	}
}

func expiry(t *testing.T, s events.Store, clock *clock) {
	var all []events.Kept
	for n := range 100 {
		k := event(n)
		k.At = start().Add(time.Duration(n-100) * time.Hour)
		k.ID = ID(miosa.PrefixEvent, k.At, n)
		k.Days = 1 + n%2*2
		put(t, s, k)
		all = append(all, k)
	}
	for step := range 12 * 24 {
		clock.now = start().Add(time.Duration(step) * 30 * time.Minute)
		if err := s.Expire(t.Context(), clock.now); err != nil {
			t.Fatal(err)
		}
		got := read(t, s, events.Query{Scope: tenant("ten_1")})
		for _, k := range all {
			there := slices.ContainsFunc(got, func(e events.Entry) bool { return e.ID == k.ID })
			over := clock.now.Sub(k.At) - time.Duration(k.Days)*24*time.Hour
			if over < 0 && !there {
				t.Fatalf("%s went %s too early", k.Message, -over)
			}
			if over > time.Hour && there {
				t.Fatalf("%s stays %s too long", k.Message, over)
			}
		}
		if !slices.IsSortedFunc(got, func(a, b events.Entry) int { return int(a.Mark) - int(b.Mark) }) { //nolint:gosec // small
			t.Fatal("not in order")
		}
	}
	if m, _ := s.Last(t.Context()); m != 100 {
		t.Errorf("the newest mark is %d after all has gone", m)
	}
	k := event(100)
	k.At = clock.now
	put(t, s, k)
	if got := read(t, s, events.Query{Scope: tenant("ten_1"), After: 100}); len(got) != 1 || got[0].Mark != 101 {
		t.Errorf("after all has gone: %+v", got)
	}
	want(t, s, events.Query{Scope: tenant("ten_1"), After: 3}, 100)
}

// An agent's clock may be wrong: order and retention don't suffer.
func clocks(t *testing.T, s events.Store, clock *clock) {
	for n, off := range []time.Duration{0, -50 * time.Hour, 900 * time.Hour, 0, -time.Hour} {
		k := event(n)
		k.At = start().Add(off)
		put(t, s, k)
	}
	k := event(5)
	k.At = time.Time{}
	put(t, s, k)
	want(t, s, events.Query{Scope: tenant("ten_1")}, 0, 1, 2, 3, 4, 5)
	want(t, s, events.Query{Scope: tenant("ten_1"), Backward: true}, 5, 4, 3, 2, 1, 0)
	clock.now = start().Add(30*24*time.Hour + 2*time.Hour)
	if err := s.Expire(t.Context(), clock.now); err != nil {
		t.Fatal(err)
	}
	want(t, s, events.Query{Scope: tenant("ten_1")})
}

func places(t *testing.T, s events.Store, clock *clock) {
	for n := range 10 {
		k := event(n)
		k.At = start().Add(time.Duration(n-10) * time.Hour)
		k.ID = ID(miosa.PrefixEvent, k.At, n)
		put(t, s, k)
	}
	at := func(id string) (events.Mark, bool) {
		m, held, err := s.Place(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		return m, held
	}
	for n := range 10 {
		when := start().Add(time.Duration(n-10) * time.Hour)
		if m, held := at(ID(miosa.PrefixEvent, when, n)); m != events.Mark(n+1) || !held {
			t.Errorf("event %d is at %d, %v", n, m, held)
		}
		// Another of that hour: what came before the hour is behind it.
		if m, held := at(ID(miosa.PrefixEvent, when, 200)); m != events.Mark(n) || held {
			t.Errorf("hour %d begins behind %d, %v", n, m, held)
		}
	}
	for id, want := range map[string]events.Mark{
		"": 0, "nonsense": 0, ID(miosa.PrefixEvent, start().Add(-1e5*time.Hour), 0): 0, ID(miosa.PrefixEvent, start(), 0): 10,
	} {
		if m, held := at(id); m != want || held {
			t.Errorf("%q is at %d, %v", id, m, held)
		}
	}
	clock.now = start().Add(60 * 24 * time.Hour)
	if err := s.Expire(t.Context(), clock.now); err != nil {
		t.Fatal(err)
	}
	// All gone: what is resumed from there has all that is still to come.
	if m, held := at(ID(miosa.PrefixEvent, start().Add(-5*time.Hour), 5)); m != 10 || held {
		t.Errorf("an expired one is at %d, %v", m, held)
	}
}

func readWhile(t *testing.T, s events.Store, _ *clock) {
	for n := range 100 {
		put(t, s, event(n))
	}
	n := 0
	for e, err := range s.Read(t.Context(), events.Query{Scope: tenant("ten_1")}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Message != fmt.Sprintf("event %d", n) {
			t.Fatalf("%s where event %d belongs", e.Message, n)
		}
		put(t, s, event(100+n))
		if n++; n > 150 {
			t.Fatal("it runs after its own tail")
		}
	}
	if n != 100 {
		t.Errorf("%d events", n)
	}
}

func ended(t *testing.T, s events.Store, _ *clock) {
	put(t, s, event(1))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Append(ctx, []events.Kept{event(2)}); !errors.Is(err, context.Canceled) {
		t.Errorf("append: %v", err)
	}
	for e, err := range s.Read(ctx, events.Query{Scope: tenant("ten_1")}) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("read %+v, %v", e, err)
		}
	}
	want(t, s, events.Query{Scope: tenant("ten_1")}, 1)
}

func reopened(t *testing.T, f Fixture) {
	clock := &clock{now: start()}
	s := f.Open(clock.time)
	for n := range 50 {
		k := event(n)
		k.Days = 1 + n%3
		k.At = start().Add(time.Duration(n-50) * time.Hour)
		put(t, s, k)
	}
	if err := s.Expire(t.Context(), clock.now); err != nil {
		t.Fatal(err)
	}
	before := read(t, s, events.Query{Scope: tenant("ten_1")})
	s = f.Open(clock.time)
	if after := read(t, s, events.Query{Scope: tenant("ten_1")}); !reflect.DeepEqual(after, before) || len(before) < 20 {
		t.Errorf("%d, before %d", len(after), len(before))
	}
	if m, _ := s.Last(t.Context()); m != 50 {
		t.Errorf("last is %d", m)
	}
	put(t, s, event(49), event(50))
	if got := read(t, s, events.Query{Scope: tenant("ten_1"), After: 50}); len(got) != 1 || got[0].Message != "event 50" || got[0].Mark != 51 {
		t.Errorf("%+v", got)
	}
}

// model compares with a plain list, over any calls.
func model(t *testing.T, fixture func(t *testing.T) Fixture) {
	rapid.Check(t, func(r *rapid.T) {
		clock := &clock{now: start()}
		f := fixture(t)
		s := f.Open(clock.time)
		var list []events.Entry
		ids := []string{"", "a", "b"}
		draw := func(name string) string { return rapid.SampledFrom(ids).Draw(r, name) }
		n := 0
		r.Repeat(map[string]func(*rapid.T){
			"append": func(r *rapid.T) {
				var batch []events.Kept
				for range rapid.IntRange(1, 6).Draw(r, "count") {
					if len(list) > 0 && rapid.IntRange(0, 5).Draw(r, "again") == 0 {
						batch = append(batch, events.Kept{Event: rapid.SampledFrom(list).Draw(r, "which").Event, Days: 30})
						continue
					}
					n++
					k := event(n)
					k.At = clock.now.Add(time.Duration(rapid.IntRange(-3, 3).Draw(r, "off")) * time.Hour)
					k.TenantID, k.Days = "ten_"+draw("tenant"), rapid.IntRange(29, 31).Draw(r, "days")
					for _, f := range subjects {
						*f.event(&k.Event) = draw(f.name)
					}
					batch = append(batch, k)
					list = append(list, events.Entry{Event: k.Event, Mark: events.Mark(n)}) //nolint:gosec // small
				}
				put(r, s, batch...)
			},
			"wait": func(r *rapid.T) {
				clock.now = clock.now.Add(time.Duration(rapid.IntRange(0, 600).Draw(r, "minutes")) * time.Minute)
			},
			"again": func(*rapid.T) { s = f.Open(clock.time) },
			"read": func(r *rapid.T) {
				q := events.Query{Backward: rapid.Bool().Draw(r, "backward"), After: events.Mark(rapid.IntRange(0, n+1).Draw(r, "after"))} //nolint:gosec // small
				if q.Operator = rapid.Bool().Draw(r, "operator"); !q.Operator {
					q.TenantID = "ten_" + draw("tenant")
				}
				for _, f := range subjects {
					if rapid.IntRange(0, 3).Draw(r, "narrow") == 0 {
						*f.scope(&q.Scope) = draw(f.name)
					}
				}
				var want []events.Entry
				for _, e := range list {
					if q.Holds(&e.Event) && (q.After == 0 || q.Backward == (e.Mark < q.After) && e.Mark != q.After) {
						want = append(want, e)
					}
				}
				if q.Backward {
					slices.Reverse(want)
				}
				if got := read(r, s, q); !reflect.DeepEqual(got, want) {
					r.Fatalf("%+v:\ngot  %v\nwant %v", q, messages(got), messages(want))
				}
			},
		})
	})
}
