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
