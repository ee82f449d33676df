// Package logstest is the suite that every logs.Store must pass.
package logstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/logs"
)

// Fixture is one store under test.
type Fixture struct {
	// Open opens the store. Opened again it has what it had, and what was
	// opened before is used no more. It ends with the test.
	Open func(t *testing.T) logs.Store
	// Forget makes the store forget the order in which everything so far
	// arrived; lines kept for a month stay. nil: that cannot be made to happen.
	Forget func(t *testing.T, s logs.Store)
}

// Run runs the suite. make makes a fixture whose store is empty.
func Run(t *testing.T, fixture func(t *testing.T) Fixture) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, s logs.Store)
	}{
		{"an empty store", empty},
		{"what was appended is read", everyField},
		{"any bytes", anyBytes},
		{"the store keeps its own copy", ownCopy},
		{"what is held already is dropped", dedup},
		{"a batch that is partly known is shortened", shortened},
		{"a newer epoch begins anew, an older one is dropped", epochs},
		{"instances of one name in two tenants are two", twoTenantsOneName},
		{"times that tie", ties},
		{"since and until", edges},
		{"every field of a scope", scopes},
		{"a task's lines, over its attempts", tasks},
		{"tenants never cross", tenants},
		{"breaking off ends a page", pages},
		{"arrivals in order", arrivals},
		{"arrivals of a scope", arrivalsScope},
		{"arrivals to the time of the call", arrivalsEnd},
		{"lines expire by their class", expiry},
		{"a clock that was ahead hides nothing later", expiryAhead},
		{"expired bit by bit", expirySteps},
		{"retention at its edges", expiryEdges},
		{"lines expire while they are read", expireWhileRead},
		{"a purge takes one deployment", purge},
		{"usage by whole hours", usage},
		{"many append at once", concurrent},
		{"the same appended at once", concurrentSame},
		{"lines come in while others are read", readWhile},
		{"a read is of one moment", oneMoment},
		{"an ended context ends calls", ended},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, fixture(t).Open(t)) })
	}
	t.Run("opened again it has what it had", func(t *testing.T) { reopened(t, fixture(t)) })
	t.Run("forgotten arrivals are gone", func(t *testing.T) { forgotten(t, fixture(t)) })
	t.Run("any order of calls", func(t *testing.T) { model(t, fixture) })
}

// start is a time with microseconds, in the middle of an hour.
func start() time.Time { return time.Date(2026, 3, 14, 15, 26, 53, 589793000, time.UTC) }

func origin(tenant, deployment, service, instance string) logs.Origin {
	return logs.Origin{
		TenantID: tenant, DeploymentID: deployment, ServiceID: service, InstanceID: instance,
		VersionID: "ver_1", HostID: "hst_1", WorkspaceID: "workspace one",
	}
}

func app() logs.Origin { return origin("ten_1", "dep_1", "svc_1", "ins_1") }

// batch makes lines with the texts, a second apart from at on.
func batch(o logs.Origin, epoch, first uint64, at time.Time, texts ...string) logs.Kept {
	b := logs.Kept{Batch: logs.Batch{Origin: o, Epoch: epoch, First: first}, Days: 30}
	for i, text := range texts {
		b.Lines = append(b.Lines, logs.Line{Time: at.Add(time.Duration(i) * time.Second), Stream: logs.Stdout, Text: []byte(text)})
	}
	return b
}

func appendTo(t *testing.T, s logs.Store, batches ...logs.Kept) []logs.Arrival {
	t.Helper()
	came, err := s.Append(t.Context(), batches)
	if err != nil {
		t.Fatalf("append: %v", err)
	}
	return came
}

func read(t testing.TB, s logs.Store, q logs.Query) []logs.Entry {
	t.Helper()
	all, err := collect(s.Read(t.Context(), q))
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	return all
}

func collect[V any](seq iter.Seq2[V, error]) ([]V, error) {
	var all []V
	for v, err := range seq {
		if err != nil {
			return all, err
		}
		all = append(all, v)
	}
	return all, nil
}

func since(t *testing.T, s logs.Store, after logs.Mark, scope logs.Scope) []logs.Arrival {
	t.Helper()
	all, err := collect(s.Arrivals(t.Context(), after, scope))
	if err != nil {
		t.Fatalf("arrivals: %v", err)
	}
	return all
}

func texts(entries []logs.Entry) []string {
	all := []string{}
	for i := range entries {
		all = append(all, string(entries[i].Text))
	}
	return all
}

// arrived are the lines as "first text" of each arrival's, in order.
func arrived(came []logs.Arrival) []string {
	all := []string{}
	for _, a := range came {
		for i, l := range a.Batch.Lines {
			all = append(all, fmt.Sprintf("%s %d/%d %s", a.Batch.Origin.InstanceID, a.Batch.Epoch, a.Batch.First+uint64(i), l.Text))
		}
	}
	return all
}

func want[V comparable](t *testing.T, what string, got, want []V) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func tenant(id string) logs.Query { return logs.Query{Scope: logs.Scope{TenantID: id}} }

func held(t *testing.T, s logs.Store, tenantID, instanceID string) logs.Position {
	t.Helper()
	p, err := s.Held(t.Context(), tenantID, instanceID)
	if err != nil {
		t.Fatalf("held: %v", err)
	}
	return p
}

func last(t *testing.T, s logs.Store) logs.Mark {
	t.Helper()
	m, err := s.Last(t.Context())
	if err != nil {
		t.Fatalf("last: %v", err)
	}
	return m
}

func empty(t *testing.T, s logs.Store) {
	if p := held(t, s, "ten_1", "ins_1"); p != (logs.Position{}) {
		t.Errorf("holds %v", p)
	}
	if got := read(t, s, tenant("ten_1")); len(got) != 0 {
		t.Errorf("reads %v", got)
	}
	if m := last(t, s); m != 0 {
		t.Errorf("last mark %d", m)
	}
	if got := since(t, s, 0, logs.Scope{TenantID: "ten_1"}); len(got) != 0 {
		t.Errorf("arrivals %v", got)
	}
	if u, err := s.Usage(t.Context(), "ten_1", time.Time{}, start()); u != (logs.Usage{}) || err != nil {
		t.Errorf("usage %v, %v", u, err)
	}
	if err := s.Expire(t.Context(), start()); err != nil {
		t.Errorf("expire: %v", err)
	}
	if err := s.Purge(t.Context(), "ten_1", "dep_1"); err != nil {
		t.Errorf("purge: %v", err)
	}
	if came := appendTo(t, s); len(came) != 0 {
		t.Errorf("nothing appended: %v", came)
	}
}

func same(t *testing.T, got logs.Entry, o logs.Origin, p logs.Position, l logs.Line) {
	t.Helper()
	if got.Origin != o || got.Position != p || !got.Time.Equal(l.Time) || got.Time.Location() != time.UTC || got.Stream != l.Stream ||
		!bytes.Equal(got.Text, l.Text) || got.Partial != l.Partial || got.Lost != l.Lost {
		t.Errorf("got %+v\nwant %+v at %v of %+v", got, l, p, o)
	}
}

func everyField(t *testing.T, s logs.Store) {
	o := app()
	o.WorkspaceID = "Käse & <Brot>\n" + strings.Repeat("ß", 100)
	at := start()
	lines := []logs.Line{
		{Time: at, Stream: logs.System, Text: []byte("boot 1")},
		{Time: at, Stream: logs.Stdout, Text: []byte("the beginning "), Partial: true},
		{Time: at.Add(time.Microsecond), Stream: logs.Stderr, Text: []byte("warning")},
		{Time: at.Add(2 * time.Microsecond), Stream: logs.Stdout, Text: []byte("and the end")},
		{Time: at.Add(time.Hour), Stream: logs.System, Text: []byte("18446744073709551615 lines were lost"), Lost: 1<<64 - 1},
		{Time: at.Add(72 * time.Hour), Stream: logs.Stdout, Text: []byte("much later"), Partial: true},
	}
	came := appendTo(t, s, logs.Kept{Batch: logs.Batch{Origin: o, Epoch: 7, First: 41, Lines: slices.Clone(lines)}, Days: 30})
	if len(came) != 1 || came[0].Batch.Origin != o || came[0].Batch.First != 41 || came[0].Batch.Epoch != 7 || len(came[0].Batch.Lines) != len(lines) {
		t.Errorf("append returned %+v", came)
	}
	got := read(t, s, tenant("ten_1"))
	if len(got) != len(lines) {
		t.Fatalf("%d lines, want %d: %v", len(got), len(lines), texts(got))
	}
	for i := range lines {
		same(t, got[i], o, logs.Position{Epoch: 7, Seq: 41 + uint64(i)}, lines[i])
	}
	if p := held(t, s, "ten_1", "ins_1"); p != (logs.Position{Epoch: 7, Seq: 46}) {
		t.Errorf("holds %v", p)
	}
	o.WorkspaceID = ""
	o.InstanceID = "ins_2"
	appendTo(t, s, batch(o, 0, 1, at, "without a workspace"))
	if got := read(t, s, logs.Query{Scope: logs.Scope{TenantID: "ten_1", InstanceID: "ins_2"}}); len(got) != 1 || got[0].Origin != o {
		t.Errorf("without a workspace: %+v", got)
	}
}

func anyBytes(t *testing.T, s logs.Store) {
	long := bytes.Repeat([]byte("0123456789abcdef"), logs.MaxText/16)
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	values := [][]byte{nil, {}, {0}, []byte("\xff\xfe"), []byte("\r"), all, long, {}, []byte(`{"a":"b\n"}`), []byte("ünï"), long[:logs.MaxText-1]}
	b := logs.Kept{Batch: logs.Batch{Origin: app(), Epoch: 1, First: 1}, Days: 30}
	for range 4 {
		for _, text := range values {
			b.Lines = append(b.Lines, logs.Line{Time: start(), Stream: logs.Stdout, Text: text})
		}
	}
	appendTo(t, s, b)
	got := read(t, s, tenant("ten_1"))
	if len(got) != len(b.Lines) {
		t.Fatalf("%d lines, want %d", len(got), len(b.Lines))
	}
	for i := range got {
		if !bytes.Equal(got[i].Text, b.Lines[i].Text) {
			t.Errorf("line %d: %d bytes, want %d", i, len(got[i].Text), len(b.Lines[i].Text))
		}
	}
}

func ownCopy(t *testing.T, s logs.Store) {
	b := batch(app(), 1, 1, start(), "text")
	appendTo(t, s, b)
	clear(b.Lines[0].Text)
	b.Lines[0].Stream = logs.System
	if got := read(t, s, tenant("ten_1")); len(got) != 1 || string(got[0].Text) != "text" || got[0].Stream != logs.Stdout {
		t.Errorf("got %q", texts(got))
	}
	for e := range s.Read(t.Context(), tenant("ten_1")) {
		clear(e.Text)
	}
	want(t, "after a reader wrote", texts(read(t, s, tenant("ten_1"))), []string{"text"})
}

func dedup(t *testing.T, s logs.Store) {
	b := batch(app(), 1, 1, start(), "a", "b", "c")
	appendTo(t, s, b)
	for range 2 {
		if came := appendTo(t, s, b); len(came) != 0 {
			t.Errorf("the same again came as %v", came)
		}
	}
	if came := appendTo(t, s, batch(app(), 1, 2, start(), "b")); len(came) != 0 {
		t.Errorf("a part again came as %v", came)
	}
	want(t, "lines", texts(read(t, s, tenant("ten_1"))), []string{"a", "b", "c"})
	want(t, "arrivals", arrived(since(t, s, 0, tenant("ten_1").Scope)), []string{"ins_1 1/1 a", "ins_1 1/2 b", "ins_1 1/3 c"})
	// Twice within one call.
	later := start().Add(time.Minute)
	came := appendTo(t, s, batch(app(), 1, 4, later, "d", "e"), batch(app(), 1, 4, later, "d", "e"), batch(app(), 1, 5, later.Add(time.Second), "e", "f"))
	want(t, "twice in one call", arrived(came), []string{"ins_1 1/4 d", "ins_1 1/5 e", "ins_1 1/6 f"})
	want(t, "lines", texts(read(t, s, tenant("ten_1"))), []string{"a", "b", "c", "d", "e", "f"})
	u, err := s.Usage(t.Context(), "ten_1", start().Truncate(time.Hour), start().Add(time.Hour))
	if err != nil || u != (logs.Usage{Lines: 6, Bytes: 6}) {
		t.Errorf("what was dropped was counted: %v, %v", u, err)
	}
}

func shortened(t *testing.T, s logs.Store) {
	appendTo(t, s, batch(app(), 1, 1, start(), "a", "b", "c"))
	came := appendTo(t, s, batch(app(), 1, 2, start().Add(time.Second), "b", "c", "d", "e"))
	want(t, "what was new", arrived(came), []string{"ins_1 1/4 d", "ins_1 1/5 e"})
	got := read(t, s, tenant("ten_1"))
	want(t, "lines", texts(got), []string{"a", "b", "c", "d", "e"})
	for i, e := range got {
		if e.Position != (logs.Position{Epoch: 1, Seq: uint64(i) + 1}) {
			t.Errorf("%q is at %v", e.Text, e.Position)
		}
	}
	if p := held(t, s, "ten_1", "ins_1"); p != (logs.Position{Epoch: 1, Seq: 5}) {
		t.Errorf("holds %v", p)
	}
}

func epochs(t *testing.T, s logs.Store) {
	at := start()
	appendTo(t, s, batch(app(), 3, 10, at, "old 10", "old 11"))
	came := appendTo(t, s, batch(app(), 5, 1, at.Add(2*time.Second), "new 1", "new 2"))
	want(t, "of the newer epoch", arrived(came), []string{"ins_1 5/1 new 1", "ins_1 5/2 new 2"})
	for _, b := range []logs.Kept{
		batch(app(), 3, 12, at.Add(time.Minute), "of an older epoch"),
		batch(app(), 4, 100, at.Add(time.Minute), "of another older epoch"),
	} {
		if came := appendTo(t, s, b); len(came) != 0 {
			t.Errorf("came %v", came)
		}
	}
	if p := held(t, s, "ten_1", "ins_1"); p != (logs.Position{Epoch: 5, Seq: 2}) {
		t.Errorf("holds %v", p)
	}
	want(t, "lines", texts(read(t, s, tenant("ten_1"))), []string{"old 10", "old 11", "new 1", "new 2"})
	q := tenant("ten_1")
	q.Backward = true
	want(t, "backward", texts(read(t, s, q)), []string{"new 2", "new 1", "old 11", "old 10"})
}

func twoTenantsOneName(t *testing.T, s logs.Store) {
	other := origin("ten_2", "dep_1", "svc_1", "ins_1")
	appendTo(t, s, batch(app(), 1, 1, start(), "one"))
	appendTo(t, s, batch(other, 1, 1, start(), "two", "more"))
	want(t, "the first", texts(read(t, s, tenant("ten_1"))), []string{"one"})
	want(t, "the second", texts(read(t, s, tenant("ten_2"))), []string{"two", "more"})
	if p, q := held(t, s, "ten_1", "ins_1"), held(t, s, "ten_2", "ins_1"); p.Seq != 1 || q.Seq != 2 {
		t.Errorf("hold %v and %v", p, q)
	}
}

func ties(t *testing.T, s logs.Store) {
	at := start()
	tied := func(o logs.Origin, epoch, first uint64, texts ...string) logs.Kept {
		b := batch(o, epoch, first, at, texts...)
		for i := range b.Lines {
			b.Lines[i].Time = at
		}
		return b
	}
	// The order of instances is that of their IDs, whatever their services.
	a, b, c := origin("ten_1", "dep_2", "svc_9", "ins_a"), origin("ten_1", "dep_1", "svc_1", "ins_b"), origin("ten_1", "dep_1", "svc_0", "ins_c")
	appendTo(t, s, tied(c, 1, 1, "c1"), tied(b, 1, 1, "b1", "b2"))
	appendTo(t, s, tied(a, 9, 9, "a9", "a10"), tied(b, 1, 3, "b3"))
	appendTo(t, s, tied(a, 10, 1, "a1 of the next epoch"))
	order := []string{"a9", "a10", "a1 of the next epoch", "b1", "b2", "b3", "c1"}
	q := tenant("ten_1")
	want(t, "forward", texts(read(t, s, q)), order)
	q.Backward = true
	slices.Reverse(order)
	want(t, "backward", texts(read(t, s, q)), order)
	for cut := range order {
		all := read(t, s, q)
		q := q
		q.After = logs.PlaceOf(&all[cut])
		want(t, "backward after "+order[cut], texts(read(t, s, q)), order[cut+1:])
		q.Backward = false
		back := slices.Clone(order[:cut])
		slices.Reverse(back)
		want(t, "forward after "+order[cut], texts(read(t, s, q)), back)
	}
}

func edges(t *testing.T, s logs.Store) {
	at := start().Truncate(time.Hour)
	var lines []logs.Line
	for _, d := range []time.Duration{-time.Microsecond, 0, time.Microsecond, time.Hour - time.Microsecond, time.Hour} {
		lines = append(lines, logs.Line{Time: at.Add(d), Stream: logs.Stdout, Text: []byte(d.String())})
	}
	appendTo(t, s, logs.Kept{Batch: logs.Batch{Origin: app(), Epoch: 1, First: 1, Lines: lines}, Days: 30})
	all := texts(read(t, s, tenant("ten_1")))
	for i := range len(lines) {
		for j := range len(lines) {
			for _, backward := range []bool{false, true} {
				expect := []string{}
				if i < j {
					expect = slices.Clone(all[i:j])
				}
				if backward {
					slices.Reverse(expect)
				}
				q := logs.Query{Scope: logs.Scope{TenantID: "ten_1"}, Since: lines[i].Time, Until: lines[j].Time, Backward: backward}
				want(t, fmt.Sprintf("[%s, %s)", lines[i].Text, lines[j].Text), texts(read(t, s, q)), expect)
			}
		}
	}
	q := tenant("ten_1")
	q.Since = at.Add(1)
	want(t, "since a nanosecond later", texts(read(t, s, q)), all[2:])
	q = tenant("ten_1")
	q.Until = at.Add(1)
	want(t, "until a nanosecond later", texts(read(t, s, q)), all[:2])
	q.Until = at.In(time.FixedZone("", 3600))
	want(t, "until, in another zone", texts(read(t, s, q)), all[:1])
}

// family are instances that differ in one field each.
func family() []logs.Origin {
	full := logs.Origin{TenantID: "ten_1", DeploymentID: "dep_1", ServiceID: "svc_1", InstanceID: "ins_1", VersionID: "ver_1", HostID: "hst_1", WorkspaceID: "w1"}
	all := []logs.Origin{full}
	for i, change := range []func(o *logs.Origin){
		func(o *logs.Origin) { o.DeploymentID = "dep_2" },
		func(o *logs.Origin) { o.ServiceID = "svc_2" },
		func(*logs.Origin) {},
		func(o *logs.Origin) { o.VersionID = "ver_2" },
		func(o *logs.Origin) { o.HostID = "hst_2" },
		func(o *logs.Origin) { o.WorkspaceID = "w2" },
		func(o *logs.Origin) { o.WorkspaceID = "" },
		func(o *logs.Origin) { o.DeploymentID = "dep_11" },
		func(o *logs.Origin) { o.ServiceID = "svc_11" },
		func(o *logs.Origin) { o.ServiceID, o.TaskID = "", "task_1" },
		func(o *logs.Origin) { o.ServiceID, o.TaskID = "", "task_1" },
		func(o *logs.Origin) { o.ServiceID, o.TaskID = "", "task_11" },
		func(o *logs.Origin) { o.ServiceID = "" },
	} {
		o := full
		o.InstanceID = fmt.Sprintf("ins_1%d", i)
		change(&o)
		all = append(all, o)
	}
	return all
}

// narrowed are scopes of every field alone and of some together.
func narrowed() []logs.Scope {
	var all []logs.Scope
	for _, s := range []logs.Scope{
		{}, {DeploymentID: "dep_1"}, {DeploymentID: "dep_2"}, {DeploymentID: "dep"}, {ServiceID: "svc_1"}, {ServiceID: "svc_2"},
		{InstanceID: "ins_1"}, {InstanceID: "ins_12"}, {InstanceID: "ins"}, {VersionID: "ver_1"}, {VersionID: "ver_2"}, {HostID: "hst_2"},
		{WorkspaceID: "w1"}, {WorkspaceID: "w2"}, {Stream: logs.Stdout}, {Stream: logs.Stderr}, {Stream: logs.System},
		{DeploymentID: "dep_1", ServiceID: "svc_1"}, {DeploymentID: "dep_2", ServiceID: "svc_2"},
		{DeploymentID: "dep_1", ServiceID: "svc_1", InstanceID: "ins_1"}, {DeploymentID: "dep_2", InstanceID: "ins_1"},
		{ServiceID: "svc_2", InstanceID: "ins_11"}, {InstanceID: "ins_13", VersionID: "ver_2"}, {InstanceID: "ins_13", VersionID: "ver_1"},
		{TaskID: "task_1"}, {TaskID: "task_11"}, {TaskID: "task_"}, {TaskID: "svc_1"}, {ServiceID: "task_1"}, {TaskID: "task_1", ServiceID: "svc_1"},
		{TaskID: "task_1", ServiceID: "task_1"}, {TaskID: "task_1", DeploymentID: "dep_1"}, {TaskID: "task_1", DeploymentID: "dep_2"},
		{TaskID: "task_1", InstanceID: "ins_19"}, {TaskID: "task_1", InstanceID: "ins_1"}, {TaskID: "task_11", DeploymentID: "dep_1", InstanceID: "ins_19"},
		{TaskID: "task_1", Stream: logs.Stderr}, {ServiceID: "svc_1", InstanceID: "ins_19"}, {InstanceID: "ins_19"},
		{WorkspaceID: "w2", Stream: logs.Stderr}, {HostID: "hst_1", DeploymentID: "dep_1", VersionID: "ver_1", WorkspaceID: "w1"},
	} {
		s.TenantID = "ten_1"
		all = append(all, s)
	}
	return all
}

func scopes(t *testing.T, s logs.Store) {
	type one struct {
		o logs.Origin
		l logs.Line
	}
	var all []one
	var batches []logs.Kept
	for i, o := range family() {
		b := batch(o, 1, 1, start().Add(time.Duration(i)*time.Second), o.InstanceID+" out", o.InstanceID+" err", o.InstanceID+" sys")
		b.Lines[1].Stream, b.Lines[2].Stream = logs.Stderr, logs.System
		for j := range b.Lines {
			b.Lines[j].Time = b.Lines[0].Time
			all = append(all, one{o, b.Lines[j]})
		}
		batches = append(batches, b)
	}
	appendTo(t, s, batches...)
	for _, scope := range narrowed() {
		expect := []string{}
		for _, x := range all {
			if scope.Admits(x.o) && scope.Holds(&x.l) {
				expect = append(expect, string(x.l.Text))
			}
		}
		want(t, fmt.Sprintf("%+v", scope), texts(read(t, s, logs.Query{Scope: scope})), expect)
		slices.Reverse(expect)
		want(t, fmt.Sprintf("backward %+v", scope), texts(read(t, s, logs.Query{Scope: scope, Backward: true})), expect)
	}
}

// tasks: what two attempts at a task wrote is read, searched, counted by pages,
// followed and purged as the task's, and as no service's.
func tasks(t *testing.T, s logs.Store) {
	attempt := func(task, instance string) logs.Origin {
		o := origin("ten_1", "dep_1", "", instance)
		o.TaskID = task
		return o
	}
	later := start().Add(3 * time.Hour) // than the first attempt: another hour
	first, second := attempt("task_1", "ins_2"), attempt("task_1", "ins_1")
	first.HostID, second.HostID = "hst_1", "hst_2"
	service := origin("ten_1", "dep_1", "svc_1", "ins_0")
	appendTo(t, s,
		batch(service, 1, 1, start(), "serving"),
		batch(first, 1, 1, start(), "first attempt", "connection refused"),
		batch(attempt("task_2", "ins_3"), 1, 1, start(), "another task"),
		batch(second, 4, 1, later, "second attempt", "Migrated"),
		batch(service, 1, 2, later, "still serving, migrated"))
	of := logs.Scope{TenantID: "ten_1", TaskID: "task_1"}
	both := []string{"first attempt", "connection refused", "second attempt", "Migrated"}
	back := slices.Clone(both)
	slices.Reverse(back)
	for _, scope := range []logs.Scope{of, {TenantID: "ten_1", DeploymentID: "dep_1", TaskID: "task_1"}} {
		got := read(t, s, logs.Query{Scope: scope})
		want(t, "of the task", texts(got), both)
		for i, o := range []logs.Origin{first, first, second, second} {
			if i < len(got) && got[i].Origin != o {
				t.Errorf("line %q is of %+v, want %+v", got[i].Text, got[i].Origin, o)
			}
		}
		want(t, "backward", texts(read(t, s, logs.Query{Scope: scope, Backward: true})), back)
		want(t, "since the second attempt", texts(read(t, s, logs.Query{Scope: scope, Since: later})), both[2:])
		if len(got) == len(both) {
			want(t, "a page behind the first attempt", texts(read(t, s, logs.Query{Scope: scope, After: logs.PlaceOf(&got[1])})), both[2:])
		}
		search, err := logs.ParseSearch("migrated")
		if err != nil {
			t.Fatal(err)
		}
		scope.Search = search
		want(t, "searched", texts(read(t, s, logs.Query{Scope: scope})), both[3:])
	}
	want(t, "an attempt", texts(read(t, s, logs.Query{Scope: logs.Scope{TenantID: "ten_1", TaskID: "task_1", InstanceID: "ins_1"}})), both[2:])
	want(t, "another tenant's", texts(read(t, s, logs.Query{Scope: logs.Scope{TenantID: "ten_2", TaskID: "task_1"}})), []string{})
	want(t, "of the service", texts(read(t, s, logs.Query{Scope: logs.Scope{TenantID: "ten_1", ServiceID: "svc_1"}})), []string{"serving", "still serving, migrated"})
	if got := read(t, s, logs.Query{Scope: logs.Scope{TenantID: "ten_1", DeploymentID: "dep_1"}}); len(got) != 7 {
		t.Errorf("of the deployment: %q", texts(got))
	}
	arrivals := since(t, s, 0, of)
	want(t, "arrivals", arrived(arrivals), []string{"ins_2 1/1 first attempt", "ins_2 1/2 connection refused", "ins_1 4/1 second attempt", "ins_1 4/2 Migrated"})
	for i, o := range []logs.Origin{first, second} {
		if i < len(arrivals) && arrivals[i].Batch.Origin != o {
			t.Errorf("arrival %d is of %+v, want %+v", i, arrivals[i].Batch.Origin, o)
		}
	}
	if p := held(t, s, "ten_1", "ins_1"); p != (logs.Position{Epoch: 4, Seq: 2}) {
		t.Errorf("holds %v", p)
	}
	if err := s.Purge(t.Context(), "ten_1", "dep_1"); err != nil {
		t.Fatal(err)
	}
	want(t, "after the deployment's purge", texts(read(t, s, logs.Query{Scope: of})), []string{})
	want(t, "arrivals after it", arrived(since(t, s, 0, of)), []string{})
}

func tenants(t *testing.T, s logs.Store) {
	ids := []string{"ten", "ten_", "ten_1", "ten_10", "ten_1!", "tem", "ten~"}
	for _, id := range ids {
		appendTo(t, s, batch(origin(id, "dep", "svc", "ins"), 1, 1, start(), "of "+id))
		appendTo(t, s, batch(origin(id, "dep_", "svc", "ins_of_"+id), 1, 1, start(), "also of "+id))
	}
	for _, id := range ids {
		expect := []string{"of " + id, "also of " + id}
		for _, q := range []logs.Query{{}, {Since: start().Add(-time.Hour)}, {Until: start().Add(time.Hour)}} {
			q.TenantID = id
			want(t, id, texts(read(t, s, q)), expect)
			q.Backward = true
			want(t, id+" backward", texts(read(t, s, q)), []string{expect[1], expect[0]})
			q.InstanceID = "ins"
			want(t, id+" instance", texts(read(t, s, q)), expect[:1])
		}
		want(t, id+" arrivals", arrived(since(t, s, 0, logs.Scope{TenantID: id})), []string{"ins 1/1 of " + id, "ins_of_" + id + " 1/1 also of " + id})
		u, err := s.Usage(t.Context(), id, time.Time{}, start().Add(time.Hour))
		if err != nil || u != (logs.Usage{Lines: 2, Bytes: uint64(len(expect[0]) + len(expect[1]))}) {
			t.Errorf("usage of %s: %v, %v", id, u, err)
		}
	}
	for _, scope := range []logs.Scope{{}, {TenantID: "te"}, {DeploymentID: "dep"}, {InstanceID: "ins"}, {TenantID: "ten_1", InstanceID: "ins_of_ten"}} {
		if got := read(t, s, logs.Query{Scope: scope}); len(got) != 0 {
			t.Errorf("%+v reads %q", scope, texts(got))
		}
		if got := since(t, s, 0, scope); len(got) != 0 {
			t.Errorf("arrivals of %+v: %q", scope, arrived(got))
		}
	}
	if err := s.Purge(t.Context(), "ten_1", "dep"); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		expect := []string{"of " + id, "also of " + id}
		if id == "ten_1" {
			expect = expect[1:]
		}
		want(t, id+" after another's purge", texts(read(t, s, tenant(id))), expect)
	}
}

// interleaved fills the store with lines of several instances over three
// hours, whose times interleave and often tie.
func interleaved(t *testing.T, s logs.Store) []string {
	const instances, rounds, each = 7, 12, 25
	var all []logs.Entry
	seq := make([]uint64, instances)
	for round := range rounds {
		var batches []logs.Kept
		for i := range instances {
			o := origin("ten_1", fmt.Sprintf("dep_%d", i%2), fmt.Sprintf("svc_%d", i%3), fmt.Sprintf("ins_%d", instances-i))
			b := logs.Kept{Batch: logs.Batch{Origin: o, Epoch: 1, First: seq[i] + 1}, Days: 30 + i%2}
			for n := range each {
				seq[i]++
				at := start().Add(time.Duration(round)*15*time.Minute + time.Duration(n/(1+i))*time.Second)
				l := logs.Line{Time: at, Stream: logs.Stdout, Text: fmt.Appendf(nil, "%s line %d", o.InstanceID, seq[i])}
				b.Lines = append(b.Lines, l)
				all = append(all, logs.Entry{Line: l, Origin: o, Position: logs.Position{Epoch: 1, Seq: seq[i]}})
			}
			batches = append(batches, b)
		}
		appendTo(t, s, batches...)
	}
	slices.SortFunc(all, func(a, b logs.Entry) int {
		if logs.PlaceOf(&a).Before(logs.PlaceOf(&b)) {
			return -1
		}
		return 1
	})
	return texts(all)
}

func pages(t *testing.T, s logs.Store) {
	order := interleaved(t, s)
	want(t, "forward", texts(read(t, s, tenant("ten_1"))), order)
	for _, backward := range []bool{false, true} {
		if backward {
			slices.Reverse(order)
		}
		for _, size := range []int{1, 7, 100, 1000} {
			q := tenant("ten_1")
			q.Backward = backward
			got := []string{}
			for {
				n := 0
				for e, err := range s.Read(t.Context(), q) {
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, string(e.Text))
					q.After = logs.PlaceOf(&e)
					if n++; n == size {
						break
					}
				}
				if n < size || size == 1 && len(got) == 50 {
					break
				}
			}
			expect := order
			if size == 1 {
				expect = order[:50]
			}
			if !slices.Equal(got, expect) {
				t.Errorf("pages of %d, backward %v: %d lines, want %d", size, backward, len(got), len(expect))
			}
		}
	}
}

func arrivals(t *testing.T, s logs.Store) {
	o := origin("ten_1", "dep_1", "svc_1", "ins_2")
	var marks []logs.Mark
	for _, batches := range [][]logs.Kept{
		{batch(o, 1, 1, start(), "2a"), batch(app(), 1, 1, start(), "1a", "1b")},
		{batch(app(), 1, 1, start(), "1a", "1b")}, // nothing new
		{batch(app(), 1, 2, start(), "1b", "1c"), batch(o, 1, 2, start().Add(3*time.Hour), "2b", "2c")},
	} {
		for _, a := range appendTo(t, s, batches...) {
			marks = append(marks, a.Mark)
		}
	}
	if len(marks) != 4 || marks[0] < 1 || !slices.IsSorted(marks) || len(slices.Compact(slices.Clone(marks))) != 4 {
		t.Fatalf("marks %v", marks)
	}
	if m := last(t, s); m != marks[3] {
		t.Errorf("last is %d, of %v", m, marks)
	}
	runs := [][]string{{"ins_2 1/1 2a"}, {"ins_1 1/1 1a", "ins_1 1/2 1b"}, {"ins_1 1/3 1c"}, {"ins_2 1/2 2b", "ins_2 1/3 2c"}}
	for i := range len(marks) + 1 {
		after := logs.Mark(0)
		if i > 0 {
			after = marks[i-1]
		}
		want(t, fmt.Sprintf("after mark %d", after), arrived(since(t, s, after, tenant("ten_1").Scope)), slices.Concat(runs[i:]...))
	}
	for _, a := range since(t, s, 0, tenant("ten_1").Scope) {
		if !slices.Contains(marks, a.Mark) {
			t.Errorf("mark %d is none of %v", a.Mark, marks)
		}
		for _, l := range a.Batch.Lines {
			if l.Stream != logs.Stdout || l.Time.Before(start()) {
				t.Errorf("arrived as %+v", l)
			}
		}
	}
	if got := since(t, s, marks[3]+5, tenant("ten_1").Scope); len(got) != 0 {
		t.Errorf("after a later mark: %v", got)
	}
	for a, err := range s.Arrivals(t.Context(), 0, tenant("ten_1").Scope) {
		if err != nil || a.Mark != marks[0] {
			t.Errorf("the first is %d, %v", a.Mark, err)
		}
		break
	}
}

func arrivalsScope(t *testing.T, s logs.Store) {
	type one struct {
		o    logs.Origin
		l    logs.Line
		name string
	}
	var all []one
	for i, o := range family() {
		b := batch(o, 1, 1, start().Add(time.Duration(i)*time.Hour), "out 1", "err", "out 2", "out 3")
		b.Lines[1].Stream = logs.Stderr
		for j, l := range b.Lines {
			all = append(all, one{o, l, fmt.Sprintf("%s 1/%d %s", o.InstanceID, j+1, l.Text)})
		}
		appendTo(t, s, b)
	}
	for _, scope := range narrowed() {
		expect := []string{}
		for _, x := range all {
			if scope.Admits(x.o) && scope.Holds(&x.l) {
				expect = append(expect, x.name)
			}
		}
		// A batch has no holes: what is left out cuts it, and all keep their numbers.
		want(t, fmt.Sprintf("%+v", scope), arrived(since(t, s, 0, scope)), expect)
	}
}

func arrivalsEnd(t *testing.T, s logs.Store) {
	appendTo(t, s, batch(app(), 1, 1, start(), "before"))
	seq := s.Arrivals(t.Context(), 0, tenant("ten_1").Scope)
	appendTo(t, s, batch(app(), 1, 2, start(), "after the call"))
	got, err := collect(seq)
	if err != nil {
		t.Fatal(err)
	}
	want(t, "arrivals", arrived(got), []string{"ins_1 1/1 before"})
}

func forgotten(t *testing.T, f Fixture) {
	if f.Forget == nil {
		t.Skip("this store's order of arrival cannot be made to be forgotten")
	}
	s := f.Open(t)
	at := time.Now().UTC().Truncate(time.Microsecond)
	appendTo(t, s, batch(app(), 1, 1, at, "a"))
	marks := appendTo(t, s, batch(app(), 1, 2, at.Add(time.Second), "b"))
	f.Forget(t, s)
	for range 2 {
		if m := last(t, s); m != marks[0].Mark {
			t.Errorf("last is %d, was %d", m, marks[0].Mark)
		}
		if _, err := collect(s.Arrivals(t.Context(), 0, tenant("ten_1").Scope)); miosa.CodeOf(err) != miosa.Gone {
			t.Errorf("arrivals since the beginning: %v", err)
		}
		if got, err := collect(s.Arrivals(t.Context(), marks[0].Mark, tenant("ten_1").Scope)); err != nil || len(got) != 0 {
			t.Errorf("arrivals after the last: %v, %v", got, err)
		}
		s = f.Open(t)
	}
	came := appendTo(t, s, batch(app(), 1, 3, at.Add(2*time.Second), "c"))
	if len(came) != 1 || came[0].Mark <= marks[0].Mark {
		t.Errorf("then came %v, after mark %d", came, marks[0].Mark)
	}
	want(t, "arrivals", arrived(since(t, s, marks[0].Mark, tenant("ten_1").Scope)), []string{"ins_1 1/3 c"})
	want(t, "lines", texts(read(t, s, tenant("ten_1"))), []string{"a", "b", "c"})
}

const day = 24 * time.Hour

func expire(t *testing.T, s logs.Store, now time.Time) {
	t.Helper()
	if err := s.Expire(t.Context(), now); err != nil {
		t.Fatalf("expire: %v", err)
	}
}

func expiry(t *testing.T, s logs.Store) {
	at := start()
	for i, days := range []int{1, 3, 30, 3650} {
		b := batch(origin("ten_1", "dep_1", "svc_1", fmt.Sprintf("ins_%d", i)), 1, 1, at, fmt.Sprintf("%d days", days))
		b.Days = days
		appendTo(t, s, b)
	}
	left := []string{"1 days", "3 days", "30 days", "3650 days"}
	for _, days := range []int{1, 3, 30, 3650} {
		due := at.Add(time.Duration(days) * day)
		expire(t, s, due.Add(-time.Microsecond))
		want(t, fmt.Sprintf("just before %d days", days), texts(read(t, s, tenant("ten_1"))), left)
		expire(t, s, due)
		left = left[1:]
		want(t, fmt.Sprintf("after %d days", days), texts(read(t, s, tenant("ten_1"))), left)
	}
}

// A clock that was ahead for a moment hides nothing that is written later.
func expiryAhead(t *testing.T, s logs.Store) {
	at := start()
	appendTo(t, s, batch(origin("ten_1", "dep_1", "svc_1", "ins_1"), 1, 1, at, "a"))
	expire(t, s, at.AddDate(1, 0, 0))
	expire(t, s, at.Add(time.Minute))
	appendTo(t, s, batch(origin("ten_1", "dep_1", "svc_1", "ins_2"), 1, 1, at.Add(time.Minute), "b"))
	q := tenant("ten_1")
	q.InstanceID = "ins_2"
	want(t, "lines", texts(read(t, s, q)), []string{"b"})
	// A second is nothing: what has expired stays so.
	expire(t, s, at.Add(31*day))
	expire(t, s, at.Add(31*day-time.Second))
	want(t, "after 31 days", texts(read(t, s, q)), nil)
}

func expirySteps(t *testing.T, s logs.Store) {
	// One instance whose plan changes, a line every ten minutes for a day.
	at := start()
	var all []time.Time
	until := map[time.Time]time.Time{}
	for i := range 144 {
		b := batch(app(), 1, uint64(i)+1, at.Add(time.Duration(i)*10*time.Minute), "x")
		b.Days = 1 + i/72
		appendTo(t, s, b)
		all = append(all, b.Lines[0].Time)
		until[b.Lines[0].Time] = b.Lines[0].Time.Add(time.Duration(b.Days) * day)
	}
	for now := at; now.Before(at.Add(4 * day)); now = now.Add(97 * time.Minute) {
		expire(t, s, now)
		have := map[time.Time]bool{}
		for _, e := range read(t, s, tenant("ten_1")) {
			have[e.Time] = true
		}
		for _, l := range all {
			if !have[l] && now.Before(until[l]) {
				t.Fatalf("the line of %s, kept until %s, is gone at %s", l, until[l], now)
			}
			if have[l] && !now.Before(until[l]) {
				t.Fatalf("the line of %s, kept until %s, is there at %s", l, until[l], now)
			}
		}
	}
	came := appendTo(t, s, batch(app(), 1, 145, at.Add(4*day), "still alive"))
	want(t, "then", arrived(came), []string{"ins_1 1/145 still alive"})
	want(t, "lines", texts(read(t, s, tenant("ten_1"))), []string{"still alive"})
}

// expiryEdges: around full hours, with a plan that goes up and down from line to
// line, and lines that come late, also after all others of their hour are gone.
func expiryEdges(t *testing.T, s logs.Store) {
	hour := start().Truncate(time.Hour)
	type kept struct {
		text string
		at   time.Time
		days int
	}
	var all []kept
	put := func(instance string, seq uint64, at time.Time, days int) {
		b := batch(origin("ten_1", "dep_1", "svc_1", instance), 1, seq, at, fmt.Sprintf("%s/%d", instance, seq))
		b.Days = days
		appendTo(t, s, b)
		all = append(all, kept{string(b.Lines[0].Text), at, days})
	}
	for i, at := range []time.Time{
		hour.Add(-time.Microsecond), hour, hour.Add(time.Microsecond), hour.Add(time.Hour - time.Microsecond), hour.Add(time.Hour), hour.Add(time.Hour + time.Microsecond),
	} {
		put("ins_up", uint64(i)+1, at, 1+i)
		put("ins_down", uint64(i)+1, at, 6-i)
		put("ins_zigzag", uint64(i)+1, at, 1+i%2*6)
	}
	check := func(now time.Time) {
		t.Helper()
		expire(t, s, now)
		expect := map[string]bool{}
		for _, k := range all {
			if now.Before(k.at.Add(time.Duration(k.days) * day)) {
				expect[k.text] = true
			}
		}
		for _, text := range texts(read(t, s, tenant("ten_1"))) {
			if !expect[text] {
				t.Fatalf("%s is there at %s", text, now)
			}
			delete(expect, text)
		}
		if len(expect) > 0 {
			t.Fatalf("%v are gone at %s", expect, now)
		}
	}
	late := uint64(0)
	for d := range 8 {
		for _, off := range []time.Duration{-time.Hour, -time.Microsecond, 0, time.Microsecond, time.Hour - time.Microsecond, time.Hour, time.Hour + time.Microsecond, 2 * time.Hour} {
			now := hour.Add(time.Duration(d)*day + off)
			check(now)
			late++
			put(fmt.Sprintf("ins_late_%d", late), 1, hour.Add(30*time.Minute), 2) // a host was away
			check(now)
		}
	}
}

func expireWhileRead(t *testing.T, s logs.Store) {
	order := interleaved(t, s)
	for _, backward := range []bool{false, true} {
		q := tenant("ten_1")
		q.Backward = backward
		left := slices.Clone(order)
		if backward {
			slices.Reverse(left)
		}
		n := 0
		for e, err := range s.Read(t.Context(), q) {
			if err != nil {
				t.Fatal(err)
			}
			// What has gone meanwhile may be left out.
			at := slices.Index(left, string(e.Text))
			if at < 0 || at > 0 && (n < 3 || !backward) {
				t.Fatalf("line %d is %q, want %q", n, e.Text, left[0])
			}
			left = left[at+1:]
			if n++; n == 3 && backward {
				expire(t, s, start().Add(4000*day))
			} else if n == 3 {
				expire(t, s, start())
			}
		}
	}
	want(t, "lines", texts(read(t, s, tenant("ten_1"))), []string{})
}

func purge(t *testing.T, s logs.Store) {
	var batches []logs.Kept
	expect := []string{}
	for h := range 3 {
		for _, dep := range []string{"dep", "dep_1", "dep_10", "dep_2"} {
			b := batch(origin("ten_1", dep, "svc", "ins_of_"+dep), 1, uint64(h)+1, start().Add(time.Duration(h)*5*time.Hour), fmt.Sprintf("%s %d", dep, h))
			b.Days = 3 + h
			batches = append(batches, b)
			if dep != "dep_1" {
				expect = append(expect, string(b.Lines[0].Text))
			}
		}
	}
	appendTo(t, s, batches...)
	for range 2 {
		if err := s.Purge(t.Context(), "ten_1", "dep_1"); err != nil {
			t.Fatal(err)
		}
		want(t, "what is left", texts(read(t, s, tenant("ten_1"))), expect)
		want(t, "of the deployment", texts(read(t, s, logs.Query{Scope: logs.Scope{TenantID: "ten_1", DeploymentID: "dep_1"}})), []string{})
		want(t, "of the instance", texts(read(t, s, logs.Query{Scope: logs.Scope{TenantID: "ten_1", InstanceID: "ins_of_dep_1"}, Backward: true})), []string{})
		if got := since(t, s, 0, logs.Scope{TenantID: "ten_1", DeploymentID: "dep_1"}); len(got) != 0 {
			t.Errorf("arrivals %v", got)
		}
	}
	appendTo(t, s, batch(origin("ten_1", "dep_1", "svc", "ins_after"), 1, 1, start(), "after the purge"))
	want(t, "then", texts(read(t, s, logs.Query{Scope: logs.Scope{TenantID: "ten_1", DeploymentID: "dep_1"}})), []string{"after the purge"})
}

func usage(t *testing.T, s logs.Store) {
	hour := start().Truncate(time.Hour)
	for i := range 5 {
		b := batch(origin("ten_1", fmt.Sprintf("dep_%d", i%2), "svc", fmt.Sprintf("ins_%d", i)), 1, 1, hour.Add(time.Duration(i)*time.Hour), strings.Repeat("x", 1<<i), "", "yy")
		b.Days = 1 + i
		appendTo(t, s, b)
	}
	for i := range 6 {
		for j := range 6 {
			var expect logs.Usage
			for n := i; n < min(j, 5); n++ {
				expect.Lines += 3
				expect.Bytes += 1<<n + 2
			}
			at := func(n int) time.Time { return hour.Add(time.Duration(n) * time.Hour) }
			for _, off := range []time.Duration{0, -time.Second, -time.Hour + time.Microsecond} {
				got, err := s.Usage(t.Context(), "ten_1", at(i).Add(off), at(j).Add(off))
				if err != nil || got != expect {
					t.Errorf("hours %d to %d, %s off: %v, %v; want %v", i, j, off, got, err, expect)
				}
			}
		}
	}
}

func concurrent(t *testing.T, s logs.Store) {
	const writers, rounds, each = 8, 20, 5
	var wg sync.WaitGroup
	var mu sync.Mutex
	marks := map[logs.Mark]bool{}
	for w := range writers {
		wg.Go(func() {
			o := origin("ten_1", "dep_1", "svc_1", fmt.Sprintf("ins_%d", w))
			for r := range rounds {
				b := batch(o, 1, uint64(r*each)+1, start().Add(time.Duration(r)*time.Minute), "1", "2", "3", "4", "5")
				came, err := s.Append(t.Context(), []logs.Kept{b})
				if err != nil || len(came) != 1 {
					t.Errorf("append: %v, %v", came, err)
					return
				}
				mu.Lock()
				if marks[came[0].Mark] {
					t.Errorf("mark %d twice", came[0].Mark)
				}
				marks[came[0].Mark] = true
				mu.Unlock()
				q := logs.Query{Scope: logs.Scope{TenantID: "ten_1", InstanceID: o.InstanceID}}
				if got := read(t, s, q); len(got) != (r+1)*each {
					t.Errorf("%s reads %d lines after %d", o.InstanceID, len(got), (r+1)*each)
				}
			}
		})
	}
	wg.Wait()
	if got := read(t, s, tenant("ten_1")); len(got) != writers*rounds*each {
		t.Errorf("%d lines, want %d", len(got), writers*rounds*each)
	}
	next := map[string]uint64{}
	at := logs.Mark(0)
	for _, a := range since(t, s, 0, tenant("ten_1").Scope) {
		if a.Mark <= at || !marks[a.Mark] || a.Batch.First != next[a.Batch.Origin.InstanceID]+1 {
			t.Errorf("mark %d after %d: %s from %d", a.Mark, at, a.Batch.Origin.InstanceID, a.Batch.First)
		}
		at = a.Mark
		next[a.Batch.Origin.InstanceID] += uint64(len(a.Batch.Lines))
	}
	if len(next) != writers || at != last(t, s) {
		t.Errorf("arrivals of %d instances to mark %d", len(next), at)
	}
}

func concurrentSame(t *testing.T, s logs.Store) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	total := 0
	for w := range 8 {
		wg.Go(func() {
			for r := range 20 {
				first := uint64(r*3 + 1)
				count := 3 + w%3 // some send more than others
				b := batch(app(), 1, first, start(), slices.Repeat([]string{"x"}, count)...)
				for i := range b.Lines {
					b.Lines[i].Time = start().Add(time.Duration(first) * time.Second)
					b.Lines[i].Text = fmt.Appendf(nil, "line %d", first+uint64(i))
				}
				came, err := s.Append(t.Context(), []logs.Kept{b})
				if err != nil {
					t.Errorf("append: %v", err)
					return
				}
				mu.Lock()
				for _, a := range came {
					total += len(a.Batch.Lines)
				}
				mu.Unlock()
				if p, err := s.Held(t.Context(), "ten_1", "ins_1"); err != nil || p.Seq < first+uint64(count)-1 {
					t.Errorf("holds %v, %v after %d lines from %d", p, err, count, first)
				}
			}
		})
	}
	wg.Wait()
	if got := int(held(t, s, "ten_1", "ins_1").Seq); got != total {
		t.Errorf("%d lines arrived, the last is %d", total, got)
	}
	for i, a := range arrived(since(t, s, 0, tenant("ten_1").Scope)) {
		if expect := fmt.Sprintf("ins_1 1/%d line %d", i+1, i+1); a != expect {
			t.Fatalf("arrival %q, want %q", a, expect)
		}
	}
	seen := map[uint64]bool{}
	for _, e := range read(t, s, tenant("ten_1")) {
		if seen[e.Position.Seq] {
			t.Errorf("%v twice", e.Position)
		}
		seen[e.Position.Seq] = true
	}
	if len(seen) != total {
		t.Errorf("%d lines are read, %d arrived", len(seen), total)
	}
}

func readWhile(t *testing.T, s logs.Store) {
	order := interleaved(t, s)
	n := uint64(0)
	got := []string{}
	for e, err := range s.Read(t.Context(), tenant("ten_1")) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Origin.InstanceID != "ins_new" {
			got = append(got, string(e.Text))
		}
		if n%16 == 0 {
			appendTo(t, s, batch(origin("ten_1", "dep_0", "svc_0", "ins_new"), 1, n/16+1, start().Add(time.Duration(n/16)*time.Minute), "new"))
		}
		n++
	}
	if !slices.Equal(got, order) {
		t.Errorf("%d lines, want %d in their order", len(got), len(order))
	}
}

// oneMoment: who follows leaves out of the arrivals what the backlog had, by
// the first and the last line of each instance. A read that shows a line, and
// not the one before it, which came while it went on, would lose that one.
func oneMoment(t *testing.T, s logs.Store) {
	for _, backward := range []bool{false, true} {
		first := uint64(1)
		if backward {
			first = 2001
		}
		at := start().Add(time.Duration(first) * time.Hour)
		var old []logs.Kept
		for n := range 500 {
			old = append(old,
				batch(app(), 1, first+uint64(n), at.Add(time.Duration(n)*time.Second), "old"),
				batch(origin("ten_1", "dep_1", "svc_1", "ins_2"), 1, first+uint64(n), at.Add(time.Duration(n)*time.Minute), "other"))
		}
		appendTo(t, s, old...)
		q := tenant("ten_1")
		q.Backward = backward
		n := 0
		for e, err := range s.Read(t.Context(), q) {
			if err != nil {
				t.Fatal(err)
			}
			if string(e.Text) == "new" {
				t.Fatalf("backward %v: line %d came after the read began", backward, e.Position.Seq)
			}
			if n++; n%100 != 1 {
				continue
			}
			more := batch(app(), 1, first+500+uint64(n), at.Add(time.Duration(n)*time.Minute+8*time.Minute+20*time.Second), "new", "new")
			more.Lines[1].Time = more.Lines[0].Time.Add(2 * time.Hour)
			if n > 1 {
				more.Lines[0].Time = more.Lines[1].Time // times never go back
			}
			appendTo(t, s, more)
		}
		if err := s.Purge(t.Context(), "ten_1", "dep_1"); err != nil {
			t.Fatal(err)
		}
	}
}

func ended(t *testing.T, s logs.Store) {
	appendTo(t, s, batch(app(), 1, 1, start(), "a", "b"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, appendErr := s.Append(ctx, []logs.Kept{batch(app(), 1, 3, start().Add(time.Minute), "c")})
	_, heldErr := s.Held(ctx, "ten_1", "ins_1")
	_, readErr := collect(s.Read(ctx, tenant("ten_1")))
	_, lastErr := s.Last(ctx)
	_, arrivalsErr := collect(s.Arrivals(ctx, 0, tenant("ten_1").Scope))
	_, usageErr := s.Usage(ctx, "ten_1", start(), start())
	for name, err := range map[string]error{
		"append": appendErr, "held": heldErr, "read": readErr, "last": lastErr, "arrivals": arrivalsErr, "usage": usageErr,
		"expire": s.Expire(ctx, start()), "purge": s.Purge(ctx, "ten_1", "dep_2"),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
	want(t, "lines", texts(read(t, s, tenant("ten_1"))), []string{"a", "b"})
	// It ends a read that has begun, too.
	interleaved(t, s)
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	n, err := 0, error(nil)
	for _, err = range s.Read(ctx, tenant("ten_1")) {
		if n++; n == 1 {
			cancel()
		}
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("after %d lines the read ended with %v", n, err)
	}
}

func reopened(t *testing.T, f Fixture) {
	s := f.Open(t)
	order := interleaved(t, s)
	mark := last(t, s)
	came := arrived(since(t, s, 0, tenant("ten_1").Scope))
	used, err := s.Usage(t.Context(), "ten_1", time.Time{}, start().Add(day))
	if err != nil {
		t.Fatal(err)
	}
	p := held(t, s, "ten_1", "ins_3")
	for range 2 {
		s = f.Open(t)
		want(t, "lines", texts(read(t, s, tenant("ten_1"))), order)
		want(t, "arrivals", arrived(since(t, s, 0, tenant("ten_1").Scope)), came)
		if got := last(t, s); got != mark {
			t.Errorf("the last mark is %d, was %d", got, mark)
		}
		if got := held(t, s, "ten_1", "ins_3"); got != p {
			t.Errorf("holds %v, held %v", got, p)
		}
		if got, err := s.Usage(t.Context(), "ten_1", time.Time{}, start().Add(day)); err != nil || got != used {
			t.Errorf("usage %v, %v; was %v", got, err, used)
		}
	}
	o := origin("ten_1", "dep_0", "svc_1", "ins_3")
	if came := appendTo(t, s, batch(o, p.Epoch, p.Seq, start().Add(day), "known")); len(came) != 0 {
		t.Errorf("what was known came as %v", came)
	}
	if came := appendTo(t, s, batch(o, p.Epoch, p.Seq, start().Add(day), "known", "new")); len(came) != 1 || came[0].Mark <= mark {
		t.Errorf("what was new came as %v", came)
	}
}
