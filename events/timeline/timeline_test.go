package timeline_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/events"
	"github.com/miosa/miosa/events/memory"
	"github.com/miosa/miosa/events/timeline"
	"github.com/miosa/miosa/records"
	"github.com/miosa/miosa/store"
	storememory "github.com/miosa/miosa/store/memory"
)

type bench struct {
	*testing.T
	records *storememory.Store
	kept    *memory.Store
	*timeline.Timeline
}

// newBench has two tenants: ten_a on a plan of 3 days with dep_a of workspace
// one, ten_b on the default plan.
func newBench(t *testing.T, limit int) *bench {
	b := &bench{T: t, records: storememory.New(time.Now), kept: memory.New(time.Now)}
	b.Timeline = timeline.New(timeline.Config{Limit: limit}, b.kept, records.New(b.records), slog.New(slog.NewTextHandler(t.Output(), nil)))
	b.update(func(tx *store.Tx) error {
		return errors.Join(
			store.Save(tx, store.Plans, miosa.Plan{Name: "short", EventDays: 3}),
			store.Save(tx, store.Tenants, miosa.Tenant{ID: "ten_a", Slug: "a", Plan: "short"}),
			store.Save(tx, store.Tenants, miosa.Tenant{ID: "ten_b", Slug: "b", Plan: "default"}),
			store.Save(tx, store.Deployments, miosa.Deployment{ID: "dep_a", TenantID: "ten_a", Slug: "a", Attribution: miosa.Attribution{WorkspaceID: "one"}}),
		)
	})
	return b
}

func (b *bench) update(fn func(tx *store.Tx) error) {
	b.Helper()
	if _, err := store.Update(b.Context(), b.records, fn); err != nil {
		b.Fatal(err)
	}
}

func id(t *testing.T, at time.Time) string {
	t.Helper()
	id, err := miosa.NewID(miosa.PrefixEvent, at, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// happen commits an event; its IDs are in no order.
func (b *bench) happen(tenant, message string) miosa.Event {
	b.Helper()
	e := miosa.Event{ID: id(b.T, time.Now()), TenantID: tenant, Type: "thing.happened", Message: message, At: time.Now().UTC()}
	if tenant == "ten_a" {
		e.DeploymentID = "dep_a"
	}
	b.update(func(tx *store.Tx) error { return store.Save(tx, store.Events, e) })
	return e
}

// run runs the loop until the function that it returns is called.
func (b *bench) run() (stop func()) {
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := b.Timeline.Run(ctx); err != nil {
			b.Error(err)
		}
	}()
	return func() { cancel(); <-done }
}

func (b *bench) outbox() (n int) {
	b.Helper()
	for _, err := range b.records.Scan(b.Context(), store.OutboxPrefix(), store.ScanOptions{}) {
		if err != nil {
			b.Fatal(err)
		}
		n++
	}
	return n
}

func (b *bench) stored(scope events.Scope) (messages []string) {
	b.Helper()
	for e, err := range b.kept.Read(b.Context(), events.Query{Scope: scope}) {
		if err != nil {
			b.Fatal(err)
		}
		messages = append(messages, e.Message)
	}
	return messages
}

var all = events.Scope{Operator: true}

func numbers(from, to int) (out []string) {
	for n := from; n <= to; n++ {
		out = append(out, fmt.Sprint(n))
	}
	return out
}

func TestEventsAreMovedInTheOrderOfCommits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 0)
		for n := 1; n <= 300; n++ {
			b.happen([]string{"ten_a", "ten_b", ""}[n%3], fmt.Sprint(n))
		}
		stop := b.run()
		synctest.Wait()
		for n := 301; n <= 320; n++ {
			b.happen("ten_a", fmt.Sprint(n))
			synctest.Wait()
			if got := b.outbox(); got != 0 {
				t.Fatalf("%d events stay in the outbox", got)
			}
		}
		stop()
		if got := b.stored(all); !slices.Equal(got, numbers(1, 320)) {
			t.Errorf("stored %v", got)
		}
		if got := b.stored(events.Scope{TenantID: "ten_a", WorkspaceID: "one"}); len(got) != 120 {
			t.Errorf("%d with their deployment's workspace", len(got))
		}
		// Days come from the plan.
		<-time.After(4 * 24 * time.Hour) // of virtual time
		if err := b.kept.Expire(t.Context(), time.Now()); err != nil {
			t.Fatal(err)
		}
		if a, rest := len(b.stored(events.Scope{TenantID: "ten_a"})), len(b.stored(all)); a != 0 || rest != 200 {
			t.Errorf("after four days: %d of the short plan, %d in all", a, rest)
		}
	})
}

// The process died when the events were stored and not deleted yet.
func TestACrashBetweenStoringAndDeleting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 0)
		var first []events.Kept
		for n := 1; n <= 10; n++ {
			e := b.happen("ten_a", fmt.Sprint(n))
			if n <= 6 {
				first = append(first, events.Kept{Event: e, Days: 3})
			}
		}
		if err := b.kept.Append(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		stop := b.run()
		synctest.Wait()
		stop()
		if got := b.stored(all); !slices.Equal(got, numbers(1, 10)) || b.outbox() != 0 {
			t.Errorf("stored %v, %d in the outbox", got, b.outbox())
		}
	})
}

// Ended and begun again at any time, nothing is missing or there twice.
func TestBegunAgainAndAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 0)
		for n := 1; n <= 200; n++ {
			ctx, cancel := context.WithCancel(t.Context())
			go b.Timeline.Run(ctx) //nolint:errcheck // it ends with its context
			b.happen("ten_b", fmt.Sprint(n))
			cancel()
			synctest.Wait()
			b.Timeline = timeline.New(timeline.Config{}, b.kept, records.New(b.records), slog.New(slog.DiscardHandler))
		}
		stop := b.run()
		synctest.Wait()
		stop()
		if got := b.stored(all); !slices.Equal(got, numbers(1, 200)) || b.outbox() != 0 {
			t.Errorf("stored %v, %d in the outbox", got, b.outbox())
		}
	})
}

// Events that a former version kept in the records are moved, before those of
// this one, by the order in which they were committed.
func TestEventsOfAFormerVersionAreMoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 0)
		b.happen("ten_a", "new")
		for n := 1; n <= 600; n++ {
			place := []string{"ten_a/evt/dep_a/", "ten_b/evt/-/", "-/evt/-/"}[n%3]
			tenant := strings.TrimSuffix(place[:5], "/")
			if n%3 == 2 {
				tenant = ""
			}
			e := id(t, time.Now().Add(-time.Duration(n)*time.Minute)) // clocks disagree
			data, err := json.Marshal(map[string]any{"id": e, "tenant_id": tenant, "message": fmt.Sprint(n), "type": "a.b", "at": time.Now().UTC()})
			if err != nil {
				t.Fatal(err)
			}
			if n == 77 {
				data = []byte(`"nonsense"`)
			}
			raw := fmt.Appendf(nil, `{"kind":"event","schema":1,"data":%s}`, data)
			if _, err := b.records.Commit(t.Context(), store.Txn{Put: []store.Put{{Key: "/v1/t/" + place + e, Value: raw, TTL: time.Hour}}}); err != nil {
				t.Fatal(err)
			}
		}
		stop := b.run()
		synctest.Wait()
		stop()
		want := append(slices.DeleteFunc(numbers(1, 600), func(n string) bool { return n == "77" }), "new")
		if got := b.stored(all); !slices.Equal(got, want) {
			t.Errorf("stored %v", got)
		}
		left := 0
		for e, err := range b.records.Scan(t.Context(), "/v1/t/", store.ScanOptions{}) {
			if _, _, former := store.FormerEventPlace(e.Key); former && err == nil {
				left++
			}
		}
		if left != 1 {
			t.Errorf("%d are left at their former places; the one that nobody can read is", left)
		}
	})
}

func TestWhenTheDiskOfTheEventStoreIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 100)
		b.kept.Fail(miosa.Errorf(miosa.NoSpace, "the disk is full"))
		defer b.run()()
		for n := 1; n <= 500; n++ {
			b.happen([]string{"ten_a", "ten_b"}[n%2], fmt.Sprint(n))
			synctest.Wait()
		}
		if n := b.outbox(); n > 105 {
			t.Errorf("%d events in the outbox", n)
		}
		// The list goes on showing what there is.
		page, _, err := b.List(t.Context(), all, "", 10)
		if err != nil || page[0].Message != "500" && page[1].Message != "500" {
			t.Errorf("the newest is %+v, %v", page, err)
		}
		waiting, lost := b.Status()
		b.kept.Fail(nil)
		<-time.After(time.Minute) // of virtual time
		synctest.Wait()
		counted := 0
		for e, err := range b.kept.Read(t.Context(), events.Query{Scope: events.Scope{Operator: true, Types: []string{timeline.LostType}}}) {
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			if _, err := fmt.Sscan(e.Details["lost"], &n); err != nil || e.TenantID == "ten_a" && e.WorkspaceID != "one" {
				t.Errorf("%+v, %v", e, err)
			}
			counted += n
		}
		kept := len(b.stored(events.Scope{Operator: true, Types: []string{"thing"}}))
		if counted != lost || kept+counted != 500 || lost == 0 || waiting == 0 || b.outbox() != 0 {
			t.Errorf("%d kept, %d counted as lost, %d lost, %d waited, %d in the outbox", kept, counted, lost, waiting, b.outbox())
		}
	})
}

// A caller finds its own change at once, and pages go on over the seam between
// outbox and store, whichever side their cursor is on.
func TestListsShowWhatIsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 0)
		for n := 1; n <= 10; n++ {
			b.happen("ten_a", fmt.Sprint(n))
		}
		stop := b.run()
		synctest.Wait()
		stop()
		for n := 11; n <= 15; n++ {
			b.happen("ten_a", fmt.Sprint(n))
			b.happen("ten_b", "other")
		}
		scope := events.Scope{TenantID: "ten_a", DeploymentID: "dep_a", WorkspaceID: "one"}
		for size := 1; size <= 16; size++ {
			var got []string
			after := ""
			for more := true; more; {
				var page []miosa.Event
				var err error
				page, more, err = b.List(t.Context(), scope, after, size)
				if err != nil {
					t.Fatal(err)
				}
				for most, want := range map[int][2]int{100: {15, len(got)}, 12: {12, min(len(got), 12)}} {
					if total, upTo, err := b.Count(t.Context(), scope, after, most); total != want[0] || upTo != want[1] || err != nil {
						t.Errorf("behind %d of at most %d: %d, %d, %v", len(got), most, total, upTo, err)
					}
				}
				if len(page) > size || more && len(page) != size {
					t.Fatalf("a page of %d, want %d", len(page), size)
				}
				for _, e := range page {
					got = append(got, e.Message)
					after = e.ID
				}
			}
			slices.Reverse(got)
			if !slices.Equal(got, numbers(1, 15)) {
				t.Errorf("pages of %d: %v", size, got)
			}
		}
		if page, _, err := b.List(t.Context(), events.Scope{TenantID: "ten_a", WorkspaceID: "two"}, "", 100); len(page) != 0 || err != nil {
			t.Errorf("another workspace finds %v, %v", page, err)
		}
		if total, upTo, err := b.Count(t.Context(), scope, id(t, time.Now()), 100); total != 15 || upTo != 15 || err != nil {
			t.Errorf("behind what is not there: %d, %d, %v", total, upTo, err)
		}
	})
}

// A task's timeline has what is on its way as well as what was moved, and nothing
// else of its deployment.
func TestATasksTimeline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 0)
		of := func(task, message string) {
			e := miosa.Event{
				ID: id(t, time.Now()), TenantID: "ten_a", DeploymentID: "dep_a", InstanceID: "ri_" + message, TaskID: task, Type: "task.started", Message: message, At: time.Now().UTC(),
			}
			b.update(func(tx *store.Tx) error { return store.Save(tx, store.Events, e) })
		}
		of("task_1", "1")
		of("task_2", "another")
		b.happen("ten_a", "deployment")
		stop := b.run()
		synctest.Wait()
		stop()
		of("task_1", "2")
		of("task_2", "another")
		scope := events.Scope{TenantID: "ten_a", WorkspaceID: "one", TaskID: "task_1"}
		page, more, err := b.List(t.Context(), scope, "", 10)
		if err != nil || more || len(page) != 2 || page[0].Message != "2" || page[1].Message != "1" || page[0].TaskID != "task_1" {
			t.Errorf("%+v, %v, %v", page, more, err)
		}
		if total, _, err := b.Count(t.Context(), scope, "", 10); total != 2 || err != nil {
			t.Errorf("%d, %v", total, err)
		}
		defer b.run()()
		synctest.Wait()
		var followed []string
		for e, err := range b.Follow(t.Context(), 0, scope) {
			if err != nil {
				t.Fatal(err)
			}
			if followed = append(followed, e.Message); len(followed) == 2 {
				break
			}
		}
		if !slices.Equal(followed, numbers(1, 2)) {
			t.Errorf("followed %v", followed)
		}
	})
}

func TestFollowersMissNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 0)
		defer b.run()()
		ctx, cancel := context.WithCancel(t.Context())
		var got [3][]string
		done := make(chan int)
		for f := range 3 {
			go func() {
				var mine []string
				for e, err := range b.Follow(ctx, 0, events.Scope{TenantID: "ten_b"}) {
					if err != nil {
						t.Error(err)
						break
					}
					mine = append(mine, e.Message)
					<-time.After(time.Duration(f) * time.Millisecond) // of virtual time
				}
				got[f] = mine
				done <- f
			}()
		}
		for n := 1; n <= 100; n++ {
			b.happen("ten_b", fmt.Sprint(n))
			b.happen("ten_a", "other")
			<-time.After(time.Millisecond / 2) // of virtual time
		}
		<-time.After(time.Second) // of virtual time
		cancel()
		for range 3 {
			if f := <-done; !slices.Equal(got[f], numbers(1, 100)) {
				t.Errorf("follower %d: %v", f, got[f])
			}
		}
	})
}
