package records_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/records"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/memory"
)

// look is a view and how often the store was asked.
type look struct {
	*testing.T
	kept  *troubled
	view  *records.View
	reads int
}

func newLook(t *testing.T) *look {
	l := &look{T: t, kept: &troubled{Store: memory.New(time.Now)}}
	l.kept.got = func(string) { l.reads++ }
	l.view = records.New(l.kept)
	return l
}

// follow runs the view until the end of the test.
func (l *look) follow() (stop func()) {
	ctx, cancel := context.WithCancel(l.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.view.Run(ctx, func(err error) { l.Log(err) })
	}()
	synctest.Wait()
	return func() { cancel(); <-ended }
}

// slug is a deployment's, and whether the store was asked for it.
func (l *look) slug(n int) (string, bool) {
	l.Helper()
	before := l.reads
	d, err := records.Get(l.Context(), l.view, store.Deployments, store.Deployments.Key(deployment(n, "")))
	if miosa.CodeOf(err) == miosa.NotFound {
		return "none", l.reads > before
	}
	if err != nil {
		l.Fatal(err)
	}
	return d.Slug, l.reads > before
}

func (l *look) want(n int, slug string, asked bool) {
	l.Helper()
	if s, a := l.slug(n); s != slug || a != asked {
		l.Errorf("deployment %d is %q, the store asked: %t; want %q, %t", n, s, a, slug, asked)
	}
}

func TestAViewRemembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLook(t)
		l.want(1, "none", true)
		l.want(1, "none", true) // that may change at any moment
		save(t, l.kept.Store, store.Deployments, deployment(1, "a"))
		l.want(1, "a", true)
		l.want(1, "a", false)
		// Nobody tells it of changes: it is believed for a minute.
		save(t, l.kept.Store, store.Deployments, deployment(1, "b"))
		time.Sleep(time.Minute - time.Second) //nolint:forbidigo // of the bubble
		l.want(1, "a", false)
		time.Sleep(time.Second) //nolint:forbidigo // of the bubble
		l.want(1, "b", true)
		// Asked for as it is now, and remembered so.
		save(t, l.kept.Store, store.Deployments, deployment(1, "c"))
		if d, err := records.Fresh(t.Context(), l.view, store.Deployments, store.Deployments.Key(deployment(1, ""))); err != nil || d.Slug != "c" {
			t.Errorf("fresh: %q, %v", d.Slug, err)
		}
		l.want(1, "c", false)
		l.view.Forget(store.DeploymentKey("ten_1", "dep_1"))
		l.want(1, "c", true)
	})
}

func TestAViewHearsOfChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLook(t)
		save(t, l.kept.Store, store.Deployments, deployment(1, "a"))
		save(t, l.kept.Store, store.Deployments, deployment(2, "x"))
		stop := l.follow()
		l.want(1, "a", true)
		l.want(2, "x", true)
		time.Sleep(time.Hour) //nolint:forbidigo // of the bubble
		l.want(1, "a", false)
		save(t, l.kept.Store, store.Deployments, deployment(1, "b"))
		synctest.Wait()
		l.want(1, "b", true)
		l.want(1, "b", false)
		l.want(2, "x", false)
		remove(t, l.kept.Store, store.Deployments, deployment(1, ""))
		synctest.Wait()
		l.want(1, "none", true)

		// It missed something: nothing is believed any more.
		l.kept.failures.Store(1)
		save(t, l.kept.Store, store.Deployments, deployment(2, "y"))
		time.Sleep(time.Minute) //nolint:forbidigo // of the bubble: it follows again
		l.want(2, "y", true)
		// Nor for long while it can't follow at all.
		l.kept.failures.Store(1 << 20)
		save(t, l.kept.Store, store.Deployments, deployment(2, "z"))
		time.Sleep(time.Minute) //nolint:forbidigo // of the bubble
		l.want(2, "z", true)
		l.want(2, "z", false)
		stop()
		// Or has ended.
		time.Sleep(time.Minute) //nolint:forbidigo // of the bubble
		l.want(2, "z", true)
	})
}

// A record that changes while it is read is not remembered as it was.
func TestAChangeWhileARecordIsRead(t *testing.T) {
	for _, way := range []string{"a change", "forgotten"} {
		synctest.Test(t, func(t *testing.T) {
			l := newLook(t)
			save(t, l.kept.Store, store.Deployments, deployment(1, "a"))
			defer l.follow()()
			l.kept.after = func(context.Context, string) {
				l.kept.after = nil
				save(t, l.kept.Store, store.Deployments, deployment(1, "b"))
				if way == "forgotten" {
					l.view.Forget("")
				}
				synctest.Wait()
			}
			l.want(1, "a", true) // as it was when it was asked for
			l.want(1, "b", true)
			l.want(1, "b", false)
		})
	}
}

// What a view says once it has heard of everything is what the store says, but
// for what is large.
func TestAViewIsAsTheStoreIs(t *testing.T) {
	for seed := range uint64(30) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 2))
			l := newLook(t)
			if seed%3 > 0 {
				defer l.follow()()
			}
			instance := func(n int) miosa.Instance {
				return miosa.Instance{ID: fmt.Sprintf("ri_%d", n), TenantID: "ten_1", DeploymentID: "dep_1", BootSpec: []byte("sealed"), Notices: []miosa.Notice{{ID: "w"}}}
			}
			for step := range 200 {
				i := instance(random.IntN(6))
				key := store.Instances.Key(i)
				switch random.IntN(6) {
				case 0:
					remove(t, l.kept.Store, store.Instances, i)
				case 1, 2:
					i.Slot = step
					save(t, l.kept.Store, store.Instances, i)
				case 3:
					l.view.Forget(key)
				default:
					if seed%3 == 0 {
						time.Sleep(time.Minute) //nolint:forbidigo // of the bubble
					}
					synctest.Wait()
					got, err := records.Get(t.Context(), l.view, store.Instances, key)
					want, wantErr := store.Get(t.Context(), l.kept.Store, store.Instances, key)
					want.BootSpec, want.Notices = nil, nil
					if miosa.CodeOf(err) != miosa.CodeOf(wantErr) || !reflect.DeepEqual(got, want) {
						t.Fatalf("seed %d, step %d: %+v, %v; the store says %+v, %v", seed, step, got, err, want, wantErr)
					}
				}
			}
		})
	}
}

func TestAViewRemembersPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLook(t)
		defer l.follow()()
		const id = "ri_01jz0000000000000000000001"
		i := miosa.Instance{ID: id, TenantID: "ten_1", DeploymentID: "dep_1"}
		if _, err := l.view.Locate(t.Context(), id); miosa.CodeOf(err) != miosa.NotFound {
			t.Errorf("before it is there: %v", err)
		}
		save(t, l.kept.Store, store.Instances, i)
		for range 2 {
			if at, err := l.view.Locate(t.Context(), id); err != nil || at.Key != store.Instances.Key(i) {
				t.Errorf("%+v, %v", at, err)
			}
		}
		if l.reads != 2 {
			t.Errorf("the store was asked %d times", l.reads)
		}
		remove(t, l.kept.Store, store.Instances, i)
		synctest.Wait()
		if _, err := l.view.Locate(t.Context(), id); miosa.CodeOf(err) != miosa.NotFound {
			t.Errorf("when it is gone: %v", err)
		}
	})
}
