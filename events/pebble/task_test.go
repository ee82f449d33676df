package pebble

import (
	"log/slog"
	"reflect"
	"slices"
	"testing"
	"time"

	lsm "github.com/cockroachdb/pebble/v2"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/events"
)

// beforeTasks is what a store had of one event that is on every timeline, written by
// the last binary that knew no tasks.
var beforeTasks = [][2]string{
	{"e\x00\x1e\x00\a\xa1 \x00\x00\x00\x00\x00\x00\x00\x01", `{"v":1,"id":"evt_01m9x5b6000000000000000000","tenant_id":"ten","deployment_id":"dep","service_id":"svc","instance_id":"ri","version_id":"ver","rollout_id":"rol","host_id":"host","type":"rollout.started","message":"old","actor":"control","at":"2027-01-15T08:00:00Z"}`},
	{"ievt_01m9x5b6000000000000000000", "\x00\x1e\x00\a\xa1 \x00\x00\x00\x00\x00\x00\x00\x01"},
	{"mformat", "\x01"},
	{"mlast", "\x00\x00\x00\a\xa1 \x00\x00\x00\x00\x00\x00\x00\x01"},
	{"t\x00\x1e\x00\x00\n,\x00host\x00\x00\x00\x00\x00\x00\x00\x00\x01", " "},
	{"t\x00\x1e\x00\x00\n,ten\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01", " "},
	{"t\x00\x1e\x00\x00\n,ten\x00dep\x00\x00\x00\x00\x00\x00\x00\x00\x01", " "},
	{"t\x00\x1e\x00\x00\n,ten\x00ri\x00\x00\x00\x00\x00\x00\x00\x00\x01", " "},
	{"t\x00\x1e\x00\x00\n,ten\x00rol\x00\x00\x00\x00\x00\x00\x00\x00\x01", " "},
	{"t\x00\x1e\x00\x00\n,ten\x00svc\x00\x00\x00\x00\x00\x00\x00\x00\x01", " "},
	{"t\x00\x1e\x00\x00\n,ten\x00ver\x00\x00\x00\x00\x00\x00\x00\x00\x01", " "},
}

// TestStoreFromBeforeTasks: it is read as it was, with the events of tasks that came
// since beside it; and an event of none is still written as it was then.
func TestStoreFromBeforeTasks(t *testing.T) {
	at := time.Unix(1_800_000_000, 0).UTC()
	now := func() time.Time { return at }
	old := miosa.Event{
		ID: "evt_01m9x5b6000000000000000000", TenantID: "ten", DeploymentID: "dep", ServiceID: "svc", InstanceID: "ri", VersionID: "ver", RolloutID: "rol",
		HostID: "host", Type: "rollout.started", Message: "old", Actor: "control", At: at,
	}
	dir := t.TempDir()
	s, err := Open(Config{Dir: dir, Log: slog.New(slog.DiscardHandler), MinFree: 1, Now: now})
	if err != nil {
		t.Fatal(err)
	}
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
	s = open(t, dir, now)
	check := func(scope events.Scope, want ...miosa.Event) {
		t.Helper()
		for _, backward := range []bool{false, true} {
			var got []miosa.Event
			for e, err := range s.Read(t.Context(), events.Query{Scope: scope, Backward: backward}) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, e.Event)
			}
			if backward {
				slices.Reverse(got)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%+v, backward %v: %+v, want %+v", scope, backward, got, want)
			}
		}
	}
	for _, scope := range []events.Scope{{}, {DeploymentID: "dep"}, {ServiceID: "svc"}, {InstanceID: "ri"}, {VersionID: "ver"}, {RolloutID: "rol"}, {HostID: "host"}} {
		scope.TenantID = "ten"
		check(scope, old)
	}
	check(events.Scope{Operator: true, HostID: "host"}, old)
	check(events.Scope{TenantID: "ten", TaskID: "task"})
	fresh := old
	fresh.ID, fresh.ServiceID, fresh.InstanceID, fresh.TaskID, fresh.Type = "evt_01m9x5b6000000000000000001", "", "ri2", "task", "task.started"
	if err := s.Append(t.Context(), []events.Kept{{Event: old, Days: 30}, {Event: fresh, Days: 30}}); err != nil {
		t.Fatal(err)
	}
	check(events.Scope{TenantID: "ten", TaskID: "task"}, fresh)
	check(events.Scope{TenantID: "ten", RolloutID: "rol"}, old, fresh)
	check(events.Scope{TenantID: "ten", ServiceID: "svc"}, old)

	s = open(t, t.TempDir(), now)
	if err := s.Append(t.Context(), []events.Kept{{Event: old, Days: 30}}); err != nil {
		t.Fatal(err)
	}
	it, err := s.db.NewIter(&lsm.IterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var written [][2]string
	for ok := it.First(); ok; ok = it.Next() {
		written = append(written, [2]string{string(it.Key()), string(it.Value())})
	}
	if err := it.Close(); err != nil || !slices.Equal(written, beforeTasks) {
		t.Errorf("%v, written is\n%q\nwas\n%q", err, written, beforeTasks)
	}
}
