package control_test

import (
	"context"
	"crypto/rand"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/control"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/memory"
)

// A guest's clock that was set back is in the timeline, once for each time that
// its host told of.
func TestAClockThatWasSetBackIsAnEvent(t *testing.T) {
	s := memory.New(time.Now)
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	update := func(fn func(tx *store.Tx) error) {
		t.Helper()
		if _, err := store.Update(context.Background(), s, fn); err != nil {
			t.Fatal(err)
		}
	}
	update(func(tx *store.Tx) error {
		return store.Save(tx, store.Instances, miosa.Instance{ID: "ri_1", TenantID: tenant, DeploymentID: deployment, HostID: hostID, Goal: miosa.GoalRun})
	})
	o := miosa.Observation{InstanceID: "ri_1", TenantID: tenant, DeploymentID: deployment, State: miosa.Healthy, StartedAt: now, HealthyAt: now}
	for n, back := range []miosa.ClockSetBack{{}, {At: now, By: 2 * time.Minute}, {At: now, By: 2 * time.Minute}, {At: now.Add(time.Hour), By: 3 * time.Second}} {
		o.Seq, o.ClockSetBack, o.ReportedAt = int64(n+1), back, now.Add(time.Duration(n)*time.Hour)
		update(func(tx *store.Tx) error { return control.Record(tx, hostID, o, o.ReportedAt, rand.Reader) })
	}
	var got []string
	for e, err := range store.List(context.Background(), s, store.Events, store.OutboxPrefix(), store.ScanOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Type == "instance.clock_set_back" {
			got = append(got, e.Message)
		}
	}
	if len(got) != 2 || got[0] != "the guest's clock was 2m0s ahead of its host's: it was set back" || got[1] != "the guest's clock was 3s ahead of its host's: it was set back" {
		t.Errorf("%q", got)
	}
}
