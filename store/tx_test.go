package store_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/memory"
)

// require is what helpers need of *testing.T and *rapid.T.
type require interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func ctx() context.Context { return context.Background() }

func raw(t require, s store.Store, key string) []byte {
	t.Helper()
	e, err := s.Get(ctx(), key)
	if err != nil {
		t.Fatal(err)
	}
	return e.Value
}

func put(t require, s store.Store, key string, value []byte) {
	t.Helper()
	if _, err := s.Commit(ctx(), store.Txn{Put: []store.Put{{Key: key, Value: value}}}); err != nil {
		t.Fatal(err)
	}
}

func encode(t require, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func decode(t require, b []byte, v any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber() // int64s must survive
	if err := d.Decode(v); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
}

func update1(t require, s store.Store, fn func(tx *store.Tx) error) int64 {
	t.Helper()
	revision, err := store.Update(ctx(), s, fn)
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

const (
	ten = "ten_01hzzzzzzzzzzzzzzzzzzzzzz1"
	dep = "dep_01hzzzzzzzzzzzzzzzzzzzzzz2"
	env = "env_01hzzzzzzzzzzzzzzzzzzzzzz3"
	key = "key_01hzzzzzzzzzzzzzzzzzzzzzz4"
	hst = "host_01hzzzzzzzzzzzzzzzzzzzzzz5"
)

func TestATransactionSeesItsOwnWrites(t *testing.T) {
	s := newStore()
	d := miosa.Deployment{ID: dep, TenantID: ten, Name: "one"}
	var loaded miosa.Deployment
	var index string
	revision := update1(t, s, func(tx *store.Tx) error {
		if _, err := store.Load(tx, store.Deployments, store.DeploymentKey(ten, dep)); miosa.CodeOf(err) != miosa.NotFound {
			t.Errorf("before: %v", err)
		}
		if err := store.Save(tx, store.Deployments, d); err != nil {
			return err
		}
		var err error
		if loaded, err = store.Load(tx, store.Deployments, store.DeploymentKey(ten, dep)); err != nil {
			return err
		}
		loaded.Name = "two"
		if err := store.Save(tx, store.Deployments, loaded); err != nil {
			return err
		}
		tx.SetIndex(store.SlugKey(ten, "two"), dep, 0)
		index, err = tx.Index(store.SlugKey(ten, "two"))
		return err
	})
	if loaded.ID != dep || loaded.Revision != 0 || index != dep {
		t.Errorf("within: %+v, %q", loaded, index)
	}
	got, err := store.Get(ctx(), s, store.Deployments, store.DeploymentKey(ten, dep))
	if err != nil || got.Name != "two" || got.Revision != revision {
		t.Errorf("after: %+v, %v; committed at %d", got, err, revision)
	}

	update1(t, s, func(tx *store.Tx) error {
		if err := store.Remove(tx, store.Deployments, got); err != nil {
			return err
		}
		tx.DropIndex(store.SlugKey(ten, "two"))
		if _, err := store.Load(tx, store.Deployments, store.DeploymentKey(ten, dep)); miosa.CodeOf(err) != miosa.NotFound {
			t.Errorf("removed: %v", err)
		}
		if index, _ := tx.Index(store.SlugKey(ten, "two")); index != "" {
			t.Errorf("dropped: %q", index)
		}
		return nil
	})
	if s.Len() != 0 {
		t.Errorf("%d entries are left", s.Len())
	}
}

func TestRemovedAndSavedAgainKeepsItsIndex(t *testing.T) {
	s := newStore()
	d := miosa.Deployment{ID: dep, TenantID: ten}
	save := func(tx *store.Tx) error { return store.Save(tx, store.Deployments, d) }
	update1(t, s, save)
	update1(t, s, func(tx *store.Tx) error {
		if err := store.Remove(tx, store.Deployments, d); err != nil {
			return err
		}
		return save(tx)
	})
	if _, err := store.Locate(ctx(), s, dep); err != nil {
		t.Error(err)
	}
}

func TestAbsenceIsACondition(t *testing.T) {
	s := newStore()
	_, err := store.Try(ctx(), s, func(tx *store.Tx) error {
		if holder, err := tx.Index(store.SlugKey(ten, "a")); holder != "" || err != nil {
			t.Errorf("holder %q, %v", holder, err)
		}
		put(t, s, store.SlugKey(ten, "a"), []byte("dep_other"))
		tx.SetIndex(store.SlugKey(ten, "a"), dep, 0)
		return nil
	})
	if !errors.Is(err, store.ErrConflict) {
		t.Errorf("err %v", err)
	}
	if got := raw(t, s, store.SlugKey(ten, "a")); string(got) != "dep_other" {
		t.Errorf("holder %s", got)
	}
}

func TestAReadOnlyTransactionIsOneSnapshot(t *testing.T) {
	s := newStore()
	put(t, s, "/v1/id/a", []byte("1"))
	put(t, s, "/v1/id/b", []byte("1"))
	tries := 0
	var a, b string
	update1(t, s, func(tx *store.Tx) error {
		tries++
		a, _ = tx.Index("/v1/id/a")
		if tries == 1 {
			put(t, s, "/v1/id/a", []byte("2"))
			put(t, s, "/v1/id/b", []byte("2"))
		}
		b, _ = tx.Index("/v1/id/b")
		return nil
	})
	if tries != 2 || a != "2" || b != "2" {
		t.Errorf("after %d tries: a %s, b %s", tries, a, b)
	}
}

func TestUpdateRunsAgainOnAConflict(t *testing.T) {
	s := newStore()
	const workers, rounds = 8, 50
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range rounds {
				if _, err := store.Update(ctx(), s, func(tx *store.Tx) error {
					d, err := store.Load(tx, store.Deployments, store.DeploymentKey(ten, dep))
					if miosa.CodeOf(err) == miosa.NotFound {
						d, err = miosa.Deployment{ID: dep, TenantID: ten}, nil
					}
					if err != nil {
						return err
					}
					d.Name += "x"
					return store.Save(tx, store.Deployments, d)
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	d, err := store.Get(ctx(), s, store.Deployments, store.DeploymentKey(ten, dep))
	if err != nil || len(d.Name) != workers*rounds {
		t.Errorf("%d of %d updates, %v", len(d.Name), workers*rounds, err)
	}
}

func TestUpdateGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		tries := 0
		_, err := store.Update(t.Context(), s, func(tx *store.Tx) error {
			tries++
			if _, err := tx.Index("/v1/id/a"); err != nil {
				return err
			}
			put(t, s, "/v1/id/a", fmt.Append(nil, tries))
			return nil
		})
		if !errors.Is(err, store.ErrConflict) || !miosa.Retryable(err) || tries < 10 {
			t.Errorf("after %d tries: %v (%s)", tries, err, miosa.CodeOf(err))
		}
	})
}

func TestSavingAnOutdatedRecordIsAConflict(t *testing.T) {
	s := newStore()
	d := miosa.Deployment{ID: dep, TenantID: ten}
	save := func(tx *store.Tx) error { return store.Save(tx, store.Deployments, d) }
	d.Revision = update1(t, s, save)
	current := update1(t, s, save)
	for name, change := range map[string]func(tx *store.Tx) error{
		"save":   save,
		"remove": func(tx *store.Tx) error { return store.Remove(tx, store.Deployments, d) },
	} {
		tries := 0
		_, err := store.Update(ctx(), s, func(tx *store.Tx) error { tries++; return change(tx) })
		if miosa.CodeOf(err) != miosa.Conflict || !errors.Is(err, store.ErrConflict) || tries != 2 {
			t.Errorf("%s, after %d tries: %v", name, tries, err)
		}
	}
	d.Revision = current
	update1(t, s, save)
}

func TestErrorsOfTheFunctionEndTheUpdate(t *testing.T) {
	s := newStore()
	mine := errors.New("mine")
	_, err := store.Update(ctx(), s, func(tx *store.Tx) error {
		tx.SetIndex("/v1/id/a", "x", 0)
		return mine
	})
	if !errors.Is(err, mine) || s.Len() != 0 {
		t.Errorf("err %v, %d entries", err, s.Len())
	}
}

func TestSaveNeedsAWholeKey(t *testing.T) {
	s := newStore()
	for _, i := range []miosa.Instance{
		{}, {ID: "ri_1"}, {ID: "ri_1", TenantID: ten}, {TenantID: ten, DeploymentID: dep},
		{ID: "a/b", TenantID: ten, DeploymentID: dep}, {ID: "ri_1", TenantID: "a/b", DeploymentID: dep},
		{ID: "../x", TenantID: ten, DeploymentID: dep},
	} {
		_, err := store.Update(ctx(), s, func(tx *store.Tx) error { return store.Save(tx, store.Instances, i) })
		if err == nil {
			t.Errorf("%+v was saved", i)
		}
	}
}

func TestATransactionTooLargeIsRefused(t *testing.T) {
	s := newStore()
	_, err := store.Update(ctx(), s, func(tx *store.Tx) error {
		for i := range store.MaxOps + 1 {
			tx.SetIndex(fmt.Sprint("/v1/id/", i), "x", 0)
		}
		return nil
	})
	if err == nil || s.Len() != 0 {
		t.Errorf("err %v, %d entries", err, s.Len())
	}
}

func TestEventsDisappear(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	s := memory.New(func() time.Time { return now })
	e := miosa.Event{ID: "evt_1", TenantID: ten, Type: "host.lost"}
	update1(t, s, func(tx *store.Tx) error { return store.SaveFor(tx, store.Events, e, 30*24*time.Hour) })
	now = now.Add(30*24*time.Hour - 1)
	if s.Len() != 1 {
		t.Error("the event is gone too early")
	}
	now = now.Add(1)
	if s.Len() != 0 {
		t.Error("the event is still there")
	}
}

func TestClaim(t *testing.T) {
	s := newStore()
	claim := func(value string) (holder string, ok bool) {
		update1(t, s, func(tx *store.Tx) (err error) {
			holder, ok, err = tx.Claim(store.TenantSlugKey("acme"), value)
			return err
		})
		return holder, ok
	}
	for _, c := range []struct {
		by, holder string
		ok         bool
	}{{"ten_a", "ten_a", true}, {"ten_b", "ten_a", false}, {"ten_a", "ten_a", true}} {
		if holder, ok := claim(c.by); holder != c.holder || ok != c.ok {
			t.Errorf("%s claims: %s, %v", c.by, holder, ok)
		}
	}
}

// What is required to be as it was is not read, and refused when it is not.
func TestRequire(t *testing.T) {
	s := memory.New(time.Now)
	const key = store.TermKey
	write := func(revision int64, other string) (int64, error) {
		return store.Try(ctx(), s, func(tx *store.Tx) error {
			tx.Require(key, revision)
			tx.SetIndex(other, "x", 0)
			return nil
		})
	}
	if _, err := write(0, "/v1/a"); err != nil {
		t.Errorf("nothing was to be there: %v", err)
	}
	revision := update1(t, s, func(tx *store.Tx) error { tx.SetIndex(key, "1", 0); return nil })
	if _, err := write(0, "/v1/b"); !errors.Is(err, store.ErrConflict) {
		t.Errorf("something is there: %v", err)
	}
	if _, err := write(revision, "/v1/c"); err != nil {
		t.Errorf("it is as required: %v", err)
	}
	update1(t, s, func(tx *store.Tx) error { tx.SetIndex(key, "2", 0); return nil })
	if _, err := write(revision, "/v1/d"); !errors.Is(err, store.ErrConflict) {
		t.Errorf("it was written since: %v", err)
	}
}

// Of two transactions that were decided on one picture, one is carried out,
// although they write to nothing that the other does.
func TestFence(t *testing.T) {
	s := memory.New(time.Now)
	key := store.FenceKey("t", "env")
	fenced := func(seen int64) (int64, error) {
		return store.Try(ctx(), s, func(tx *store.Tx) error { return tx.Fence(key, seen) })
	}
	first, err := fenced(0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fenced(first - 1); !errors.Is(err, store.ErrConflict) {
		t.Errorf("decided before the first was seen: %v", err)
	}
	second, err := fenced(first + 5) // others have written since
	if err != nil || second <= first {
		t.Errorf("decided with the first in sight: %d, %v", second, err)
	}
	// One that comes in between its reading and its writing counts as well.
	if _, err := store.Try(ctx(), s, func(tx *store.Tx) error {
		if err := tx.Fence(key, second); err != nil {
			return err
		}
		_, err := fenced(second)
		return err
	}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("both were carried out: %v", err)
	}
	if _, err := store.Update(ctx(), s, func(tx *store.Tx) error { return tx.Fence(key, 1) }); miosa.CodeOf(err) != miosa.Conflict {
		t.Errorf("tried again with the same picture: %v", err)
	}
}

func TestLocate(t *testing.T) {
	s := newStore()
	tenant := miosa.Tenant{ID: ten}
	apiKey := miosa.APIKey{ID: key, Hash: "cafe", TenantID: ten}
	update1(t, s, func(tx *store.Tx) error {
		return errors.Join(
			store.Save(tx, store.Tenants, tenant), store.Save(tx, store.APIKeys, apiKey),
			store.Save(tx, store.Hosts, miosa.Host{ID: hst}),
			store.Save(tx, store.Deployments, miosa.Deployment{ID: dep, TenantID: ten}),
			store.Save(tx, store.Environments, miosa.Environment{ID: env, TenantID: ten, DeploymentID: dep}))
	})
	for id, want := range map[string]store.Location{
		ten: {TenantID: ten, Key: store.TenantKey(ten)},
		key: {TenantID: ten, Key: store.APIKeyKey("cafe")},
		hst: {Key: store.HostKey(hst)},
		dep: {TenantID: ten, DeploymentID: dep, Key: store.DeploymentKey(ten, dep)},
		env: {TenantID: ten, DeploymentID: dep, Key: store.EnvironmentKey(ten, dep, env)},
	} {
		if got, err := store.Locate(ctx(), s, id); err != nil || got != want {
			t.Errorf("%s: %+v, %v", id, got, err)
		}
	}
	for _, id := range []string{
		"", "x", "dep_", "../t/", strings.Replace(dep, "2", "9", 1), strings.Replace(ten, "1", "9", 1),
		strings.Replace(key, "4", "9", 1), strings.Replace(hst, "5", "9", 1), "ri_01hzzzzzzzzzzzzzzzzzzzzzz9",
	} {
		if got, err := store.Locate(ctx(), s, id); miosa.CodeOf(err) != miosa.NotFound {
			t.Errorf("%q: %+v, %v", id, got, err)
		}
	}
	update1(t, s, func(tx *store.Tx) error { return store.Remove(tx, store.APIKeys, apiKey) })
	if _, err := store.Locate(ctx(), s, key); miosa.CodeOf(err) != miosa.NotFound {
		t.Errorf("removed key: %v", err)
	}
}

func TestListPicksItsKind(t *testing.T) {
	s := newStore()
	update1(t, s, func(tx *store.Tx) error {
		var errs []error
		for _, tenant := range []string{"ten_a", "ten_b"} {
			for _, d := range []string{"dep_a", "dep_b"} {
				errs = append(errs, store.Save(tx, store.Deployments, miosa.Deployment{ID: d, TenantID: tenant}))
				for _, i := range []string{"ri_1", "ri_2", "ri_3"} {
					errs = append(errs,
						store.Save(tx, store.Instances, miosa.Instance{ID: d + i, TenantID: tenant, DeploymentID: d}),
						store.Save(tx, store.Observations, miosa.Observation{InstanceID: d + i, TenantID: tenant, DeploymentID: d}))
				}
			}
		}
		return errors.Join(errs...)
	})
	for _, c := range []struct {
		prefix string
		opts   store.ScanOptions
		want   string
	}{
		{prefix: store.InstancesOf("ten_a", "dep_b"), want: "dep_bri_1 dep_bri_2 dep_bri_3"},
		{prefix: store.InstancesOf("ten_a", "dep_b"), opts: store.ScanOptions{Limit: 2}, want: "dep_bri_1 dep_bri_2"},
		{
			prefix: store.InstancesOf("ten_a", "dep_b"),
			opts:   store.ScanOptions{Limit: 1, Descending: true, After: store.InstanceKey("ten_a", "dep_b", "dep_bri_3")},
			want:   "dep_bri_2",
		},
		{prefix: store.InstancesOf("ten_b", ""), want: "dep_ari_1 dep_ari_2 dep_ari_3 dep_bri_1 dep_bri_2 dep_bri_3"},
		{prefix: store.AllTenants, opts: store.ScanOptions{Limit: 7, KeysOnly: true}, want: "dep_ari_1 dep_ari_2 dep_ari_3 dep_bri_1 dep_bri_2 dep_bri_3 dep_ari_1"},
		{prefix: store.InstancesOf("ten_c", "")},
	} {
		all, err := store.Collect(store.List(ctx(), s, store.Instances, c.prefix, c.opts))
		if err != nil {
			t.Error(err)
		}
		var ids []string
		for _, i := range all {
			ids = append(ids, i.ID)
		}
		if got := strings.Join(ids, " "); got != c.want {
			t.Errorf("%s %+v: %s", c.prefix, c.opts, got)
		}
	}
	put(t, s, store.InstanceKey("ten_a", "dep_a", "ri_bad"), []byte("{"))
	if _, err := store.Collect(store.List(ctx(), s, store.Instances, store.AllTenants, store.ScanOptions{})); err == nil {
		t.Error("a broken record was passed over")
	}
}

func TestKeys(t *testing.T) {
	for key, want := range map[string]string{
		store.TenantKey("x"):                    "tenant x",
		store.PlanKey("x"):                      "plan x",
		store.APIKeyKey("x"):                    "api_key x",
		store.HostKey("x"):                      "host x",
		store.DeploymentKey("t", "x"):           "deployment x",
		store.EnvironmentKey("t", "d", "x"):     "environment x",
		store.VarsKey("t", "d", "x"):            "vars x",
		store.ServiceKey("t", "d", "x"):         "service x",
		store.VersionKey("t", "d", "x"):         "version x",
		store.ReleaseKey("t", "d", "x"):         "release x",
		store.RolloutKey("t", "d", "x"):         "rollout x",
		store.InstanceKey("t", "d", "x"):        "instance x",
		store.ObservationKey("t", "d", "x"):     "observation x",
		store.OutboxKey("x"):                    "event x",
		store.WebhookKey("t", "x"):              "webhook x",
		store.RegistryLoginKey("t", "x"):        "registry_login x",
		"/v1/t/t/evt/d/x":                       "event x", // of former versions
		"/v1/t/-/evt/-/x":                       "event x",
		store.TenantSlugKey("x"):                "",
		store.APIKeyIDKey("x"):                  "",
		store.IDKey("x"):                        "",
		store.SlugKey("t", "x"):                 "",
		store.EnvironmentNameKey("t", "d", "x"): "",
		store.ReleaseSHAKey("t", "d", "x"):      "",
		store.LiveKey("t", "x"):                 "",
		store.FenceKey("t", "x"):                "",
		store.IdempotencyKey("t", "x"):          "",
		store.DataKeyKey("t"):                   "",
		store.DeploymentsOf("t"):                "",
		store.InstancesOf("t", "d"):             "",
		"":                                      "",
		"/v1/t/t/dep/x/y":                       "",
		"/v2/plan/x":                            "",
	} {
		kind, id, ok := store.ParseKey(key)
		if got := strings.TrimSpace(kind + " " + id); got != want || ok != (want != "") {
			t.Errorf("%s: %s, %v", key, got, ok)
		}
	}
	if got, want := store.FormerEventsOf(""), "/v1/t/-/evt/"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for key, want := range map[string]string{
		"/v1/t/ten_a/evt/dep_a/evt_1": "ten_a dep_a true", "/v1/t/ten_a/evt/-/evt_1": "ten_a  true", "/v1/t/-/evt/-/evt_1": "  true",
		"/v1/t/ten_a/svc/dep_a/evt_1": "  false", store.OutboxKey("evt_1"): "  false",
	} {
		tenant, deployment, ok := store.FormerEventPlace(key)
		if got := fmt.Sprintf("%s %s %v", tenant, deployment, ok); got != want {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
}

func TestNotFoundNamesTheKind(t *testing.T) {
	s := newStore()
	_, err := store.Get(ctx(), s, store.Deployments, store.DeploymentKey(ten, dep))
	e, ok := errors.AsType[*miosa.Error](err)
	if !ok || e.Code != miosa.NotFound || e.Public != "deployment_not_found" || !strings.Contains(e.Message, "deployment") {
		t.Errorf("%#v", err)
	}
	if _, err := store.Get(ctx(), s, store.APIKeys, store.APIKeyKey("cafe")); strings.Contains(err.Error(), "cafe") {
		t.Errorf("the hash shows: %v", err)
	}
}

func TestIndexEntriesDecodeToNothing(t *testing.T) {
	for _, e := range []store.Entry{
		{Key: store.SlugKey(ten, "a"), Value: []byte(dep)},
		{Key: store.DeploymentKey(ten, dep)},
	} {
		if noun, err := store.Decode(e); noun != nil || err != nil {
			t.Errorf("%s: %v, %v", e.Key, noun, err)
		}
	}
}

func TestMemoryGivesTheSimulationItsChanges(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	s := memory.New(func() time.Time { return now })
	put(t, s, "/a", []byte("1"))
	start, _ := s.Revision(ctx())
	put(t, s, "/b", []byte("2"))
	if _, err := s.Commit(ctx(), store.Txn{Put: []store.Put{{Key: "/c", TTL: time.Second}}, Delete: []string{"/a"}}); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Minute)
	var got []string
	for _, b := range s.ChangesSince(start) {
		for _, c := range b.Changes {
			got = append(got, fmt.Sprintf("%d %s %v", b.Revision-start, c.Key, c.Deleted))
		}
	}
	want := []string{"1 /b false", "2 /c false", "2 /a true", "3 /c true"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// counting counts the reads of single keys.
type counting struct {
	store.Store
	mu   sync.Mutex
	gets []string // guarded by mu
}

func (c *counting) Get(ctx context.Context, key string) (store.Entry, error) {
	c.mu.Lock()
	c.gets = append(c.gets, key)
	c.mu.Unlock()
	return c.Store.Get(ctx, key)
}

func TestWhatIsNewIsNotLookedFor(t *testing.T) {
	s := &counting{Store: newStore()}
	d := miosa.Deployment{ID: dep, TenantID: ten, Name: "one"}
	create := func(tx *store.Tx) error { return store.Create(tx, store.Deployments, d) }
	update1(t, s, create)
	if len(s.gets) > 0 {
		t.Errorf("looked for %v", s.gets)
	}
	if got, err := store.Get(ctx(), s.Store, store.Deployments, store.DeploymentKey(ten, dep)); err != nil || got.Name != "one" {
		t.Errorf("created: %+v, %v", got, err)
	}
	// Where there is one already that is a conflict.
	if _, err := store.Try(ctx(), s, create); !errors.Is(err, store.ErrConflict) {
		t.Errorf("created again: %v", err)
	}
	// What was read before is no longer new.
	d.Name = "two"
	update1(t, s, func(tx *store.Tx) error {
		if _, err := store.Load(tx, store.Deployments, store.DeploymentKey(ten, dep)); err != nil {
			return err
		}
		return create(tx)
	})
	if got, _ := store.Get(ctx(), s.Store, store.Deployments, store.DeploymentKey(ten, dep)); got.Name != "two" {
		t.Errorf("created over what was read: %+v", got)
	}
}

func TestPrefetch(t *testing.T) {
	s := &counting{Store: newStore()}
	var keys []string
	for n := range 50 {
		d := miosa.Deployment{ID: fmt.Sprintf("dep_%026d", n), TenantID: ten, Name: fmt.Sprint(n)}
		keys = append(keys, store.DeploymentKey(ten, d.ID))
		if n != 7 {
			update1(t, s.Store, func(tx *store.Tx) error { return store.Save(tx, store.Deployments, d) })
		}
	}
	load := func(tx *store.Tx) error {
		if err := tx.Prefetch(append(keys, keys[3])...); err != nil {
			return err
		}
		for n, key := range keys {
			d, err := store.Load(tx, store.Deployments, key)
			if absent := miosa.CodeOf(err) == miosa.NotFound; absent != (n == 7) || !absent && d.Name != fmt.Sprint(n) {
				t.Errorf("%d: %+v, %v", n, d, err)
			}
		}
		return store.Save(tx, store.Deployments, miosa.Deployment{ID: dep, TenantID: ten})
	}
	update1(t, s, load)
	if len(s.gets) > len(keys)+2 {
		t.Errorf("%d reads of %d keys", len(s.gets), len(keys))
	}
	// What was fetched is a condition.
	_, err := store.Try(ctx(), s, func(tx *store.Tx) error {
		if err := load(tx); err != nil {
			return err
		}
		update1(t, s.Store, func(tx *store.Tx) error {
			return store.Save(tx, store.Deployments, miosa.Deployment{ID: "dep_" + fmt.Sprintf("%026d", 7), TenantID: ten})
		})
		return nil
	})
	if !errors.Is(err, store.ErrConflict) {
		t.Errorf("changed meanwhile: %v", err)
	}
}

// A dry transaction says what would be written, sees its own writes, and leaves
// the store as it is.
func TestDry(t *testing.T) {
	s := memory.New(time.Now)
	tenant := miosa.Tenant{ID: "ten_00000000000000000000000001", Slug: "acme"}
	if _, err := store.Update(ctx(), s, func(tx *store.Tx) error { return store.Save(tx, store.Tenants, tenant) }); err != nil {
		t.Fatal(err)
	}
	before, err := s.Revision(ctx())
	if err != nil {
		t.Fatal(err)
	}
	entries, err := store.Dry(ctx(), s, func(tx *store.Tx) error {
		v, err := store.Load(tx, store.Tenants, store.TenantKey(tenant.ID))
		if err != nil {
			return err
		}
		v.Slug = "other"
		if err := store.Save(tx, store.Tenants, v); err != nil {
			return err
		}
		if v, err = store.Load(tx, store.Tenants, store.TenantKey(tenant.ID)); err != nil || v.Slug != "other" {
			t.Errorf("its own write: %q, %v", v.Slug, err)
		}
		tx.SetIndex("/v1/index", "x", 0)
		tx.DropIndex("/v1/gone")
		return nil
	})
	if err != nil || len(entries) != 2 || entries[0].Key != store.TenantKey(tenant.ID) || string(entries[1].Value) != "x" {
		t.Fatalf("%+v, %v", entries, err)
	}
	if noun, err := store.Decode(entries[0]); err != nil || noun.(miosa.Tenant).Slug != "other" {
		t.Errorf("%+v, %v", noun, err)
	}
	if now, err := s.Revision(ctx()); err != nil || now != before {
		t.Errorf("revision %d became %d, %v", before, now, err)
	}
	wrong := errors.New("no")
	if _, err := store.Dry(ctx(), s, func(*store.Tx) error { return wrong }); !errors.Is(err, wrong) {
		t.Errorf("an error of its function: %v", err)
	}
}
