package pebble

import (
	"log/slog"
	"slices"
	"testing"
	"time"

	lsm "github.com/cockroachdb/pebble/v2"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/logs"
)

// beforeTasks is what a store had of two lines of an instance of svc, written by
// the last binary that knew no tasks.
var beforeTasks = [][2]string{
	{"a\x00\x00\x00\x00\x00\x00\x00\x01", "\x80\xc8δ\r/c\x00\x1e\x80\a\xa1 ten\x00dep\x00svc\x00ins\x00\x80\x06e\x17(\x98\x80\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01"},
	{"c\x00\x1e\x80\a\xa1 ten\x00dep\x00svc\x00ins\x00\x80\x06e\x17(\x98\x80\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01", "\x00\x03ver\x03hst\x00\x02\x00\x06\x00\x00\x00\x00\x05\x04violaoboe"},
	{"l\x00\x1e\x80\a\xa1 ten\x00dep\x00svc\x00ins\x00", "\x05\xe5\x13\x878\xe3,\xb2\x02\xae7"},
	{"mformat", "\x02"},
	{"mplain", ""},
	{"pten\x00ins\x00", "\x01\x02\x80\xfc\x8a\xb7\rdep\x00svc\x00"},
	{"uten\x00\x80\a\xa1 ", "\x02\t"},
}

// TestStoreFromBeforeTasks: it is read as it was, with the lines of tasks that came
// since beside it; and a service's lines are still written as they were then.
func TestStoreFromBeforeTasks(t *testing.T) {
	dir := t.TempDir()
	at := time.Unix(1_800_000_000, 0)
	s := openIn(t, dir)
	b := s.db.NewBatch()
	for _, x := range beforeTasks {
		if err := b.Set([]byte(x[0]), []byte(x[1]), nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{s.db.Commit(b), s.Close()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	s = openIn(t, dir)
	defer s.Close()
	old := []string{"ins/1 viola", "ins/2 oboe"}
	check := func(scope logs.Scope, want ...string) {
		t.Helper()
		scope.TenantID = "ten"
		for _, backward := range []bool{false, true} {
			got := found(t, s, logs.Query{Scope: scope, Backward: backward})
			if backward {
				slices.Reverse(got)
			}
			if !slices.Equal(got, want) {
				t.Errorf("%+v, backward %v: %q, want %q", scope, backward, got, want)
			}
		}
	}
	search, err := logs.ParseSearch("viola")
	if err != nil {
		t.Fatal(err)
	}
	for _, scope := range []logs.Scope{{}, {DeploymentID: "dep"}, {ServiceID: "svc"}, {InstanceID: "ins"}, {DeploymentID: "dep", ServiceID: "svc", InstanceID: "ins"}} {
		check(scope, old...)
	}
	check(logs.Scope{ServiceID: "svc", Search: search}, old[:1]...)
	origin := kept("ins", 1, at).Origin
	for e, err := range s.Read(t.Context(), logs.Query{Scope: logs.Scope{TenantID: "ten"}}) {
		if err != nil || e.Origin != origin {
			t.Errorf("%+v, %v", e.Origin, err)
		}
	}
	if p, err := s.Held(t.Context(), "ten", "ins"); err != nil || p != (logs.Position{Epoch: 1, Seq: 2}) {
		t.Errorf("holds %v, %v", p, err)
	}
	again, task := kept("ins", 2, at, "oboe", "viola da gamba"), kept("ins2", 1, at, "viola d'amore")
	task.Origin.ServiceID, task.Origin.TaskID = "", "task_1"
	if _, err := s.Append(t.Context(), []logs.Kept{again, task}); err != nil {
		t.Fatal(err)
	}
	old = append(old, "ins/3 viola da gamba")
	check(logs.Scope{ServiceID: "svc"}, old...)
	check(logs.Scope{TaskID: "task_1"}, "ins2/1 viola d'amore")
	check(logs.Scope{TaskID: "svc"})
	check(logs.Scope{ServiceID: "task_1"})
	check(logs.Scope{DeploymentID: "dep", Search: search}, old[0], old[2], "ins2/1 viola d'amore")
	came := 0
	for a, err := range s.Arrivals(t.Context(), 0, logs.Scope{TenantID: "ten", ServiceID: "svc"}) {
		if came += len(a.Batch.Lines); err != nil || a.Batch.Origin != origin {
			t.Errorf("%+v, %v", a.Batch.Origin, err)
		}
	}
	if came != 3 {
		t.Errorf("%d lines arrived of the service", came)
	}

	fresh, err := Open(Config{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler), MinFree: 1, Now: func() time.Time { return at }})
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.Close()
	if _, err := fresh.Append(t.Context(), []logs.Kept{kept("ins", 1, at, "viola", "oboe")}); err != nil {
		t.Fatal(err)
	}
	it, err := fresh.db.NewIter(&lsm.IterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var now [][2]string
	for ok := it.First(); ok; ok = it.Next() {
		now = append(now, [2]string{string(it.Key()), string(it.Value())})
	}
	if err := it.Close(); err != nil || !slices.Equal(now, beforeTasks) {
		t.Errorf("%v, written is\n%q\nwas\n%q", err, now, beforeTasks)
	}
}

// TestOwnersOfNoKind: an ID under which lines would be read as another's is refused.
func TestOwnersOfNoKind(t *testing.T) {
	s := openIn(t, t.TempDir())
	defer s.Close()
	for _, x := range []struct{ service, task string }{{"svc", "task_1"}, {"task_1", ""}, {"", "svc"}, {"", "tas"}, {"", "task_\x00"}} {
		b := kept("ins", 1, time.Unix(0, 0), "text")
		b.Origin.ServiceID, b.Origin.TaskID = x.service, x.task
		if _, err := s.Append(t.Context(), []logs.Kept{b}); miosa.CodeOf(err) != miosa.Invalid {
			t.Errorf("service %q, task %q: %v", x.service, x.task, err)
		}
	}
}
