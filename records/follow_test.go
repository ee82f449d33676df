package records_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/records"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/memory"
)

// troubled is a store that fails now and then, and tells who reads.
type troubled struct {
	*memory.Store
	failures atomic.Int32                          // still to come, of revisions, scans and batches of a watch
	got      func(string)                          // told of each key that is read
	after    func(ctx context.Context, key string) // called before a read is answered
}

func (s *troubled) fails() bool {
	n := s.failures.Load()
	return n > 0 && s.failures.CompareAndSwap(n, n-1)
}

var errTrouble = errors.New("no answer")

func (s *troubled) Get(ctx context.Context, key string) (store.Entry, error) {
	e, err := s.Store.Get(ctx, key)
	if s.got != nil {
		s.got(key)
	}
	if s.after != nil {
		s.after(ctx, key)
	}
	return e, err
}

func (s *troubled) Revision(ctx context.Context) (int64, error) {
	if s.fails() {
		return 0, errTrouble
	}
	return s.Store.Revision(ctx)
}

func (s *troubled) Scan(ctx context.Context, prefix string, o store.ScanOptions) iter.Seq2[store.Entry, error] {
	if s.fails() {
		return func(yield func(store.Entry, error) bool) { yield(store.Entry{}, errTrouble) }
	}
	return s.Store.Scan(ctx, prefix, o)
}

func (s *troubled) Watch(ctx context.Context, prefix string, after int64) iter.Seq2[store.Batch, error] {
	return func(yield func(store.Batch, error) bool) {
		for b, err := range s.Store.Watch(ctx, prefix, after) {
			if s.fails() {
				yield(store.Batch{}, errTrouble)
				return
			}
			if !yield(b, err) || err != nil {
				return
			}
		}
	}
}

type saver interface {
	Helper()
	Fatal(...any)
}

func save[T any](t saver, s store.Store, k store.Kind[T], v T) {
	t.Helper()
	if _, err := store.Update(context.Background(), s, func(tx *store.Tx) error { return store.Save(tx, k, v) }); err != nil {
		t.Fatal(err)
	}
}

func remove[T any](t saver, s store.Store, k store.Kind[T], v T) {
	t.Helper()
	if _, err := store.Update(context.Background(), s, func(tx *store.Tx) error { return store.Remove(tx, k, v) }); err != nil {
		t.Fatal(err)
	}
}

func deployment(n int, slug string) miosa.Deployment {
	return miosa.Deployment{ID: fmt.Sprintf("dep_%d", n), TenantID: fmt.Sprintf("ten_%d", n%3), Slug: slug}
}

// Whatever is written and removed, however slow the follower is, and whatever
// fails or is compacted away meanwhile: in the end it has what the store has.
func TestFollowersEndWithWhatIsThere(t *testing.T) {
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			kept := memory.New(time.Now)
			for n := range 3 {
				save(t, kept, store.Tenants, miosa.Tenant{ID: fmt.Sprintf("ten_%d", n)})
			}
			s := &troubled{Store: kept}
			gate := make(chan struct{}, 1)
			gate <- struct{}{}
			have, wholes, last := map[string]string{}, 0, int64(0)
			f := records.Follower{Store: s, Kinds: []string{store.Deployments.Name()}, Take: func(_ context.Context, b records.Batch) error {
				<-gate
				defer func() { gate <- struct{}{} }()
				if b.Whole {
					clear(have)
					wholes++
				} else if b.Revision <= last {
					t.Errorf("seed %d: revision %d after %d", seed, b.Revision, last)
				}
				last = b.Revision
				for _, r := range b.Records {
					if r.Gone {
						delete(have, r.ID)
						continue
					}
					d, err := records.As[miosa.Deployment](r)
					if err != nil || d.Revision != r.Revision || d.ID != r.ID || r.Kind != store.Deployments.Name() || r.Key != store.Deployments.Key(d) {
						t.Errorf("seed %d: %+v, %v", seed, r, err)
					}
					have[r.ID] = d.Slug
				}
				return nil
			}}
			if seed%2 == 0 {
				f.List = records.OfTenants(s, store.DeploymentsOf)
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			failures := 0
			go func() {
				defer close(ended)
				f.Run(ctx, func(err error) {
					failures++
					if !errors.Is(err, errTrouble) {
						t.Errorf("seed %d: %v", seed, err)
					}
				})
			}()
			want := map[string]string{}
			held := false
			for step := range 80 {
				n := random.IntN(9)
				id := deployment(n, "").ID
				switch random.IntN(9) {
				case 0:
					remove(t, kept, store.Deployments, deployment(n, ""))
					delete(want, id)
				case 1:
					save(t, kept, store.Hosts, miosa.Host{ID: "host_1", Name: fmt.Sprint(step)}) // of no interest
				case 2:
					if revision, err := kept.Revision(t.Context()); err != nil {
						t.Fatal(err)
					} else if err := kept.Compact(t.Context(), revision); err != nil {
						t.Fatal(err)
					}
				case 3:
					s.failures.Store(random.Int32N(4))
				case 4: // it hangs, or goes on
					if held {
						gate <- struct{}{}
					} else {
						<-gate
					}
					held = !held
				case 5:
					synctest.Wait()
				default:
					want[id] = fmt.Sprint(step)
					save(t, kept, store.Deployments, deployment(n, want[id]))
				}
			}
			if held {
				gate <- struct{}{}
			}
			s.failures.Store(0)
			time.Sleep(time.Minute) //nolint:forbidigo // of the bubble: longer than any pause
			synctest.Wait()
			if !maps.Equal(have, want) {
				t.Errorf("seed %d: it has %v, there is %v", seed, have, want)
			}
			if wholes < failures {
				t.Errorf("seed %d: listed %d times after %d failures", seed, wholes, failures)
			}
			cancel()
			<-ended
		})
	}
}

// What came in between is not known: it lists again at once, and tells nobody of
// a failure.
func TestFollowListsAgainWhereItFellBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New(time.Now)
		save(t, s, store.Deployments, deployment(1, "a"))
		gate := make(chan struct{})
		var told []string
		f := records.Follower{Store: s, Take: func(_ context.Context, b records.Batch) error {
			for _, r := range b.Records {
				if d, err := records.As[miosa.Deployment](r); err == nil {
					told = append(told, fmt.Sprint(b.Whole, " ", d.Slug))
				}
			}
			<-gate
			return nil
		}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.Follow(ctx) }()
		synctest.Wait()
		for _, slug := range []string{"b", "c"} {
			save(t, s, store.Deployments, deployment(1, slug))
		}
		revision, err := s.Revision(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Compact(ctx, revision); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		gate <- struct{}{}
		synctest.Wait()
		if want := []string{"true a", "true c"}; !slices.Equal(told, want) || !time.Now().Equal(began) {
			t.Errorf("told %q after %s, want %q at once", told, time.Since(began), want)
		}
		cancel()
		close(gate)
		if err := <-done; err != nil {
			t.Errorf("the end of its context is the error %v", err)
		}
	})
}

// What Take cannot do with ends Follow; what cannot be read is told as it is.
func TestFollowTellsOfWhatItCannotRead(t *testing.T) {
	s := memory.New(time.Now)
	key := store.DeploymentKey("ten_1", "dep_1")
	for _, value := range []string{`{"kind":"deployment","schema":99,"data":{}}`, "broken"} {
		if _, err := s.Commit(t.Context(), store.Txn{Put: []store.Put{{Key: key, Value: []byte(value)}}}); err != nil {
			t.Fatal(err)
		}
		f := records.Follower{Store: s, Take: func(_ context.Context, b records.Batch) error {
			if len(b.Records) != 1 || b.Records[0].ID != "dep_1" || b.Records[0].Gone {
				t.Errorf("told %+v", b)
			}
			_, err := b.Records[0].Noun()
			return err
		}}
		err := f.Follow(t.Context())
		if err == nil || errors.Is(err, store.ErrNewerSchema) != (value != "broken") {
			t.Errorf("%s: %v", value, err)
		}
	}
}
