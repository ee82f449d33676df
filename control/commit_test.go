package control

import (
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/memory"
)

// What control writes of an instance that nobody had reported on holds only as long
// as nobody has: its host may report in the meantime.
func TestAnEndOfOursTakesNoReportsPlace(t *testing.T) {
	s, ctx := memory.New(time.Now), t.Context()
	term, err := BeginTerm(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	seen, err := s.Revision(ctx)
	if err != nil {
		t.Fatal(err)
	}
	over := func(id string) miosa.Observation {
		return miosa.Observation{InstanceID: id, TenantID: "ten_1", DeploymentID: "dep_1", Seq: 1, State: miosa.Stopped, Failure: miosa.Failure{Kind: miosa.FailureHostLost}}
	}
	reported := over("ri_1")
	reported.Failure = miosa.Failure{Kind: miosa.FailureExit}
	if _, err := store.Update(ctx, s, func(tx *store.Tx) error { return store.Save(tx, store.Observations, reported) }); err != nil {
		t.Fatal(err)
	}
	for id, conflicts := range map[string]bool{"ri_1": true, "ri_2": false} {
		e := cell.Commit{Tenant: "ten_1", Environment: "env_" + id, Seen: seen, Put: []any{over(id)}}
		_, err := store.Try(ctx, s, func(tx *store.Tx) error { return Write(tx, term, &e, nil, time.Now(), rand.Reader) })
		if errors.Is(err, store.ErrConflict) != conflicts || !conflicts && err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
	o, err := store.Get(ctx, s, store.Observations, store.ObservationKey("ten_1", "dep_1", "ri_1"))
	if err != nil || o.Failure.Kind != miosa.FailureExit {
		t.Errorf("the report is now %+v, %v", o, err)
	}
}

// What leaves since another serves in its place stays where that one has had news in
// the meantime.
func TestWhoTakesAPlaceIsAsItWas(t *testing.T) {
	s, ctx := memory.New(time.Now), t.Context()
	term, err := BeginTerm(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	heir := miosa.Instance{ID: "ri_1", TenantID: "ten_1", DeploymentID: "dep_1", HostID: "host_1", Goal: miosa.GoalRun}
	report := miosa.Observation{InstanceID: "ri_1", TenantID: "ten_1", DeploymentID: "dep_1", HostID: "host_1", Seq: 1, State: miosa.Healthy}
	save := func() {
		t.Helper()
		if heir.Revision, err = store.Update(ctx, s, func(tx *store.Tx) error {
			return errors.Join(store.Save(tx, store.Instances, heir), store.Save(tx, store.Observations, report))
		}); err != nil {
			t.Fatal(err)
		}
	}
	save()
	was := heir
	was.Observed = report
	was.Observed.Revision = heir.Revision
	write := func() error {
		e := cell.Commit{Tenant: "ten_1", Environment: "env_1", Seen: heir.Revision, Heirs: []miosa.Instance{was}}
		_, err := store.Try(ctx, s, func(tx *store.Tx) error { return Write(tx, term, &e, nil, time.Now(), rand.Reader) })
		return err
	}
	report.State = miosa.Unhealthy
	if _, err := store.Update(ctx, s, func(tx *store.Tx) error { return store.Save(tx, store.Observations, report) }); err != nil {
		t.Fatal(err)
	}
	if err := write(); !errors.Is(err, store.ErrConflict) {
		t.Errorf("after it was reported unhealthy: %v", err)
	}
	report.State, report.Revision = miosa.Healthy, 0
	save()
	was = heir
	was.Observed = report
	was.Observed.Revision = heir.Revision
	if err := write(); err != nil {
		t.Error(err)
	}
}
