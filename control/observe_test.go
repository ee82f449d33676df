package control

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/memory"
)

// picky is a store that refuses to write a key; it counts commits.
type picky struct {
	store.Store
	refuse  string
	commits int
}

func (p *picky) Commit(ctx context.Context, t store.Txn) (int64, error) {
	p.commits++
	for _, put := range t.Put {
		if put.Key == p.refuse {
			return 0, miosa.Errorf(miosa.TooLarge, "a record too many")
		}
	}
	return p.Store.Commit(ctx, t)
}

// TestReportsThatComeTogether: a hundred hosts report at once. Each gets its own
// answer, and most are written together.
func TestReportsThatComeTogether(t *testing.T) {
	s := &picky{Store: memory.New(time.Now)}
	instance := func(n int) string { return fmt.Sprintf("ri_%03d", n) }
	const all = 100
	ctx := t.Context()
	for n := range all {
		if n%10 == 3 {
			continue // nobody knows it
		}
		if _, err := store.Update(ctx, s.Store, func(tx *store.Tx) error {
			return store.Save(tx, store.Instances, miosa.Instance{ID: instance(n), TenantID: "ten_1", DeploymentID: "dep_1", HostID: "host_1", Goal: miosa.GoalRun})
		}); err != nil {
			t.Fatal(err)
		}
	}
	s.refuse = store.ObservationKey("ten_1", "dep_1", instance(50))
	in := &intake{store: s, writers: reportWritersAtOnce} // all are busy: the reports gather
	errs := make([]error, all)
	var reports sync.WaitGroup
	for n := range all {
		host := "host_1"
		if n%10 == 7 {
			host = "host_2" // it is not that host's
		}
		reports.Go(func() {
			errs[n] = in.add(ctx, host, miosa.Observation{InstanceID: instance(n), TenantID: "ten_1", DeploymentID: "dep_1", Seq: 1, State: miosa.Starting, Boot: 1})
		})
	}
	for waiting := 0; waiting < all; {
		in.mu.Lock()
		waiting = len(in.waiting)
		in.mu.Unlock()
		runtime.Gosched()
	}
	in.write() // one of the writers is free again
	reports.Wait()
	for n, err := range errs {
		want := miosa.Code("")
		switch {
		case n%10 == 3:
			want = miosa.NotFound
		case n%10 == 7:
			want = miosa.Forbidden
		case n == 50:
			want = miosa.TooLarge
		}
		if err == nil != (want == "") || err != nil && miosa.CodeOf(err) != want {
			t.Errorf("report %d: %v, want %q", n, err, want)
		}
		_, err := store.Get(ctx, s.Store, store.Observations, store.ObservationKey("ten_1", "dep_1", instance(n)))
		if written := err == nil; written != (want == "") {
			t.Errorf("report %d is written: %t", n, written)
		}
	}
	// Four transactions; one fails for the one that is too large, and its reports come
	// one by one, but for those that are refused.
	if s.commits < 4 || s.commits > 4+reportsAtOnce {
		t.Errorf("%d commits for %d reports", s.commits, all)
	}
	if in.writers != reportWritersAtOnce-1 || len(in.waiting) != 0 {
		t.Errorf("%d writers and %d reports are left", in.writers, len(in.waiting))
	}
}
