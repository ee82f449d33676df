package control

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/memory"
)

// TestLogsArePurgedBeforeTheRecord: a purge that fails, or is cut short, leaves
// the record that it is begun again by; without one asked for, lines stay.
func TestLogsArePurgedBeforeTheRecord(t *testing.T) {
	s := memory.New(time.Now)
	_, err := store.Update(t.Context(), s, func(tx *store.Tx) error {
		return store.Save(tx, store.Deployments, miosa.Deployment{ID: "dep_1", TenantID: "ten_1", DeletedAt: time.Now(), PurgeLogs: true})
	})
	if err != nil {
		t.Fatal(err)
	}
	asked, away := 0, errors.New("the log store is away")
	c := &Control{store: s, cfg: Options{PurgeLogs: func(_ context.Context, tenant, deployment string) error {
		if asked++; tenant != "ten_1" || deployment != "dep_1" {
			t.Errorf("purged %s of %s", deployment, tenant)
		}
		return away
	}}}
	there := func() bool {
		_, err := store.Get(t.Context(), s, store.Deployments, store.DeploymentKey("ten_1", "dep_1"))
		return err == nil
	}
	for n := range 2 {
		if err := c.purge(t.Context(), cell.Purge{Tenant: "ten_1", Deployment: "dep_1", Logs: true}); !errors.Is(err, away) || asked != n+1 || !there() {
			t.Fatalf("%v, asked %d times, the record is there: %v", err, asked, there())
		}
	}
	away = nil
	if err := c.purge(t.Context(), cell.Purge{Tenant: "ten_1", Deployment: "dep_1", Logs: true}); err != nil || asked != 3 || there() {
		t.Fatalf("%v, asked %d times, the record is there: %v", err, asked, there())
	}
	if err := c.purge(t.Context(), cell.Purge{Tenant: "ten_1", Deployment: "dep_2"}); err != nil || asked != 3 {
		t.Fatalf("%v, asked %d times", err, asked)
	}
}

// TestThePurgeSeesToTheBillFirst: until what its instances used can be billed
// without them, the records stay.
func TestThePurgeSeesToTheBillFirst(t *testing.T) {
	s := memory.New(time.Now)
	_, err := store.Update(t.Context(), s, func(tx *store.Tx) error {
		return errors.Join(
			store.Save(tx, store.Deployments, miosa.Deployment{ID: "dep_1", TenantID: "ten_1", DeletedAt: time.Now()}),
			store.Save(tx, store.Instances, miosa.Instance{ID: "ri_1", TenantID: "ten_1", DeploymentID: "dep_1", HostID: "host_1"}),
		)
	})
	if err != nil {
		t.Fatal(err)
	}
	key := store.InstanceKey("ten_1", "dep_1", "ri_1")
	away := errors.New("the usage store is away")
	opened := 0
	c := &Control{store: s, cfg: Options{OpenAccounts: func(ctx context.Context, tenant, deployment string) error {
		if _, err := store.Get(ctx, s, store.Instances, key); err != nil || tenant != "ten_1" || deployment != "dep_1" {
			t.Errorf("accounts of %s of %s are opened too late: %v", deployment, tenant, err)
		}
		opened++
		return away
	}}}
	if err := c.purge(t.Context(), cell.Purge{Tenant: "ten_1", Deployment: "dep_1"}); !errors.Is(err, away) {
		t.Errorf("%v", err)
	}
	if _, err := store.Get(t.Context(), s, store.Instances, key); err != nil {
		t.Errorf("the records are gone: %v", err)
	}
	away = nil
	if err := c.purge(t.Context(), cell.Purge{Tenant: "ten_1", Deployment: "dep_1"}); err != nil || opened != 2 {
		t.Errorf("%v, opened %d times", err, opened)
	}
	if _, err := store.Get(t.Context(), s, store.Instances, key); miosa.CodeOf(err) != miosa.NotFound {
		t.Errorf("the records are there: %v", err)
	}
}

// A purge that fails is begun again, and not many times a second: what refused
// it may stay broken until somebody sees to it.
func TestAPurgeThatFailsIsBegunAgain(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	m := cell.NewMachine(cell.Config{Hosts: func(miosa.Tenant, miosa.Deployment, miosa.Environment) []string { return nil }})
	purges := func(ev cell.Event) (n int) {
		for _, effect := range m.Handle(now, ev) {
			if _, ok := effect.(cell.Purge); ok {
				n++
			}
		}
		return n
	}
	nouns := []any{
		miosa.Deployment{ID: "dep_1", TenantID: "ten_1", State: miosa.DeploymentStopped, DeletedAt: now},
		miosa.Environment{ID: "env_1", TenantID: "ten_1", DeploymentID: "dep_1"},
	}
	if n := purges(cell.Loaded{Revision: 1, Nouns: nouns}); n != 1 {
		t.Fatalf("purged %d times", n)
	}
	began := now
	for range 3 {
		if n := purges(cell.Purged{Deployment: "dep_1", Err: errors.New("the log store is away")}); n != 0 {
			t.Fatal("purged again at once")
		}
		now = m.Wake()
		if n := purges(cell.Tick{}); n != 1 {
			t.Fatalf("purged %d times", n)
		}
	}
	if took := now.Sub(began); took < 3*time.Second {
		t.Errorf("three times in %s", took)
	}
}

// TestAPurgeTakesTasksAlong: with what says of them that they have not ended.
func TestAPurgeTakesTasksAlong(t *testing.T) {
	s := memory.New(time.Now)
	_, err := store.Update(t.Context(), s, func(tx *store.Tx) error {
		for _, id := range []string{"task_1", "task_2"} {
			tx.SetIndex(store.LiveTaskKey("ten_1", id), "dep_1", 0)
			if err := store.Save(tx, store.Tasks, miosa.Task{ID: id, TenantID: "ten_1", DeploymentID: "dep_1", State: miosa.TaskPending}); err != nil {
				return err
			}
		}
		return store.Save(tx, store.Deployments, miosa.Deployment{ID: "dep_1", TenantID: "ten_1", DeletedAt: time.Now()})
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := PurgeRecords(t.Context(), s, cell.Purge{Tenant: "ten_1", Deployment: "dep_1"}); err != nil {
		t.Fatal(err)
	}
	for _, prefix := range []string{store.TasksOf("ten_1", ""), store.LiveTasksOf("ten_1"), store.IDKey("task_")} {
		for e, err := range s.Scan(t.Context(), prefix, store.ScanOptions{}) {
			t.Errorf("%s is left, %v", e.Key, err)
		}
	}
}
