// Package storetest is the suite that every store.Store must pass.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/store"
)

// Store is a store whose history can be compacted, as all adapters' can.
type Store interface {
	store.Store
	// Compact forgets the changes up to and including a revision.
	Compact(ctx context.Context, revision int64) error
}

// Run runs the suite. open makes an empty store and ends it with the test.
func Run(t *testing.T, open func(t *testing.T) Store) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, s Store)
	}{
		{"an absent entry has revision 0", absent},
		{"what was put is got", putGet},
		{"the store keeps its own copy", ownCopy},
		{"conditions", conditions},
		{"a transaction is applied whole or not at all", atomic},
		{"all changes of a transaction have its revision", oneRevision},
		{"a transaction without changes verifies", verifyOnly},
		{"malformed transactions are refused", malformed},
		{"as many operations as allowed", fullTransaction},
		{"counters under contention", counter},
		{"scans are ordered", scanOrder},
		{"scan limits", scanLimits},
		{"a scan sees one revision", scanSnapshot},
		{"ten thousand keys", manyKeys},
		{"large values", largeValues},
		{"a watch yields commits in order", watchOrder},
		{"a watch looks back", watchHistory},
		{"a watch ends with its context", watchEnds},
		{"watches lose and repeat nothing", watchLoad},
		{"a watch resumes where it was", watchResume},
		{"what was watched can be read", watchThenRead},
		{"a compacted revision ends the watch", compacted},
		{"entries disappear after their TTL", ttl},
		{"a later put decides about expiry", ttlReplaced},
		{"no two services have one port", publicPorts},
		{"an ended context ends calls", ended},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
}

func absent(t *testing.T, s Store) {
	e, err := s.Get(t.Context(), "/nothing")
	if err != nil || e.Revision != 0 || e.Value != nil {
		t.Errorf("%+v, %v", e, err)
	}
	if n := len(scan(t, s, "", store.ScanOptions{})); n != 0 {
		t.Errorf("an empty store scans %d entries", n)
	}
}

func putGet(t *testing.T, s Store) {
	for _, value := range []string{"first", "", "second"} {
		revision := put(t, s, "/a", value)
		e := get(t, s, "/a")
		if string(e.Value) != value || e.Revision != revision || e.Key != "/a" {
			t.Errorf("%+v, put %q at %d", e, value, revision)
		}
		if now, err := s.Revision(t.Context()); err != nil || now != revision {
			t.Errorf("the store is at %d, %v; committed at %d", now, err, revision)
		}
	}
	commit(t, s, store.Txn{Delete: []string{"/a"}})
	if e := get(t, s, "/a"); e.Revision != 0 {
		t.Errorf("deleted: %+v", e)
	}
	before, _ := s.Revision(t.Context())
	if after := commit(t, s, store.Txn{Delete: []string{"/a"}}); after != before {
		t.Errorf("deleting nothing went from %d to %d", before, after)
	}
}

func ownCopy(t *testing.T, s Store) {
	value := []byte("value")
	commit(t, s, store.Txn{Put: []store.Put{{Key: "/a", Value: value}}})
	clear(value)
	if e := get(t, s, "/a"); string(e.Value) != "value" {
		t.Errorf("got %q", e.Value)
	}
}

func conditions(t *testing.T, s Store) {
	first := put(t, s, "/a", "1")
	for _, c := range []struct {
		name  string
		conds []store.Condition
		ok    bool
	}{
		{"none", nil, true},
		{"present", []store.Condition{{Key: "/a", Revision: first}}, true},
		{"older", []store.Condition{{Key: "/a", Revision: first - 1}}, false},
		{"newer", []store.Condition{{Key: "/a", Revision: first + 1}}, false},
		{"present, but is to be absent", []store.Condition{{Key: "/a"}}, false},
		{"absent", []store.Condition{{Key: "/b"}}, true},
		{"absent, but is to be there", []store.Condition{{Key: "/b", Revision: first}}, false},
		{"one of two", []store.Condition{{Key: "/a", Revision: first}, {Key: "/b", Revision: first}}, false},
		{"both", []store.Condition{{Key: "/a", Revision: first}, {Key: "/b"}}, true},
	} {
		revision, err := s.Commit(t.Context(), store.Txn{If: c.conds, Put: []store.Put{{Key: "/result", Value: []byte(c.name)}}})
		if ok := err == nil; ok != c.ok || !ok && (!errors.Is(err, store.ErrConflict) || revision != 0) {
			t.Errorf("%s: %d, %v", c.name, revision, err)
		}
		if done := string(get(t, s, "/result").Value) == c.name; done != c.ok {
			t.Errorf("%s: written %v", c.name, done)
		}
	}
	// Deleted and put again is another revision: no condition mistakes it.
	commit(t, s, store.Txn{Delete: []string{"/a"}})
	put(t, s, "/a", "1")
	_, err := s.Commit(t.Context(), store.Txn{If: []store.Condition{{Key: "/a", Revision: first}}, Delete: []string{"/a"}})
	if !errors.Is(err, store.ErrConflict) {
		t.Errorf("after it was put again: %v", err)
	}
}

func atomic(t *testing.T, s Store) {
	put(t, s, "/keep", "old")
	txn := store.Txn{
		If:     []store.Condition{{Key: "/absent", Revision: 12345}},
		Put:    []store.Put{{Key: "/new", Value: []byte("x")}, {Key: "/keep", Value: []byte("x")}},
		Delete: []string{"/gone"},
	}
	put(t, s, "/gone", "old")
	if _, err := s.Commit(t.Context(), txn); !errors.Is(err, store.ErrConflict) {
		t.Errorf("err %v", err)
	}
	if got, want := keys(scan(t, s, "", store.ScanOptions{})), []string{"/gone", "/keep"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	txn.If = nil
	commit(t, s, txn)
	if got, want := keys(scan(t, s, "", store.ScanOptions{})), []string{"/keep", "/new"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func oneRevision(t *testing.T, s Store) {
	put(t, s, "/a", "old")
	before, _ := s.Revision(t.Context())
	revision := commit(t, s, store.Txn{Put: []store.Put{{Key: "/a", Value: []byte("x")}, {Key: "/b", Value: []byte("x")}}})
	if revision <= before {
		t.Errorf("committed at %d, before it was %d", revision, before)
	}
	for _, e := range scan(t, s, "/", store.ScanOptions{}) {
		if e.Revision != revision {
			t.Errorf("%s is at %d, committed at %d", e.Key, e.Revision, revision)
		}
	}
}

func verifyOnly(t *testing.T, s Store) {
	revision := put(t, s, "/a", "x")
	got, err := s.Commit(t.Context(), store.Txn{If: []store.Condition{{Key: "/a", Revision: revision}}})
	if err != nil || got != revision {
		t.Errorf("%d, %v", got, err)
	}
	if _, err := s.Commit(t.Context(), store.Txn{If: []store.Condition{{Key: "/a"}}}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("err %v", err)
	}
}

func malformed(t *testing.T, s Store) {
	many := func(n int) (txn store.Txn) {
		for i := range n {
			txn.Put = append(txn.Put, store.Put{Key: fmt.Sprint("/many/", i)})
		}
		return txn
	}
	for name, txn := range map[string]store.Txn{
		"too many":      many(store.MaxOps + 1),
		"put twice":     {Put: []store.Put{{Key: "/a"}, {Key: "/a"}}},
		"put, deleted":  {Put: []store.Put{{Key: "/a"}}, Delete: []string{"/a"}},
		"deleted twice": {Delete: []string{"/a", "/a"}},
		"no key":        {Put: []store.Put{{}}},
	} {
		if _, err := s.Commit(t.Context(), txn); err == nil || errors.Is(err, store.ErrConflict) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := keys(scan(t, s, "", store.ScanOptions{})); len(got) != 0 {
		t.Errorf("left behind: %v", got)
	}
}

func fullTransaction(t *testing.T, s Store) {
	var txn store.Txn
	for i := range store.MaxOps {
		txn.Put = append(txn.Put, store.Put{Key: fmt.Sprintf("/full/%03d", i), Value: []byte("x")})
		txn.If = append(txn.If, store.Condition{Key: fmt.Sprintf("/full/%03d", i)})
	}
	commit(t, s, txn)
	if n := len(scan(t, s, "/full/", store.ScanOptions{KeysOnly: true})); n != store.MaxOps {
		t.Errorf("%d entries", n)
	}
}

// counter has many goroutines add to one value by compare-and-swap.
func counter(t *testing.T, s Store) {
	const workers, each = 16, 20
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for done := 0; done < each; {
				e, err := s.Get(t.Context(), "/counter")
				if err != nil {
					t.Error(err)
					return
				}
				n, _ := strconv.Atoi(string(e.Value))
				_, err = s.Commit(t.Context(), store.Txn{
					If:  []store.Condition{{Key: "/counter", Revision: e.Revision}},
					Put: []store.Put{{Key: "/counter", Value: []byte(strconv.Itoa(n + 1))}},
				})
				switch {
				case err == nil:
					done++
				case !errors.Is(err, store.ErrConflict):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if got, want := string(get(t, s, "/counter").Value), strconv.Itoa(workers*each); got != want {
		t.Errorf("counted %s, want %s", got, want)
	}
}

func scanOrder(t *testing.T, s Store) {
	all := []string{"/a", "/a/1", "/a/10", "/a/2", "/a0", "/b/1", "/b/\xff", "/b/\xff\xff", "/c"}
	for _, i := range []int{5, 0, 3, 8, 1, 7, 2, 6, 4} {
		put(t, s, all[i], "value of "+all[i])
	}
	reversed := slices.Clone(all)
	slices.Reverse(reversed)
	for _, c := range []struct {
		prefix string
		opts   store.ScanOptions
		want   []string
	}{
		{"", store.ScanOptions{}, all},
		{"", store.ScanOptions{Descending: true}, reversed},
		{"/a", store.ScanOptions{}, all[:5]},
		{"/a/", store.ScanOptions{}, all[1:4]},
		{"/a/", store.ScanOptions{Descending: true}, reversed[5:8]},
		{"/b/", store.ScanOptions{}, all[5:8]},
		{"/b/\xff", store.ScanOptions{Descending: true}, []string{"/b/\xff\xff", "/b/\xff"}},
		{"/nothing", store.ScanOptions{}, nil},
		{"/nothing", store.ScanOptions{Descending: true}, nil},
		{"/a/", store.ScanOptions{After: "/a/1"}, all[2:4]},
		{"/a/", store.ScanOptions{After: "/a/11"}, all[3:4]},
		{"/a/", store.ScanOptions{After: "/a/2"}, nil},
		{"/a/", store.ScanOptions{After: "/a/2", Descending: true}, []string{"/a/10", "/a/1"}},
		{"/a/", store.ScanOptions{After: "/a/15", Descending: true}, []string{"/a/10", "/a/1"}},
		{"/a/", store.ScanOptions{After: "/a/1", Descending: true}, nil},
	} {
		got := scan(t, s, c.prefix, c.opts)
		if !slices.Equal(keys(got), c.want) {
			t.Errorf("scan %q %+v: got %q, want %q", c.prefix, c.opts, keys(got), c.want)
		}
		for _, e := range got {
			if string(e.Value) != "value of "+e.Key || e.Revision == 0 {
				t.Errorf("%+v", e)
			}
		}
	}
	for _, e := range scan(t, s, "/a", store.ScanOptions{KeysOnly: true}) {
		if e.Value != nil || e.Revision == 0 {
			t.Errorf("keys only: %+v", e)
		}
	}
}

// scanLimits walks pages of every size, both ways.
func scanLimits(t *testing.T, s Store) {
	var want []string
	for i := range 10 {
		want = append(want, fmt.Sprintf("/page/%d", i))
		put(t, s, want[i], "x")
	}
	put(t, s, "/pagf", "x")
	for _, descending := range []bool{false, true} {
		want := slices.Clone(want)
		if descending {
			slices.Reverse(want)
		}
		for size := 1; size <= 11; size++ {
			var got []string
			for opts := (store.ScanOptions{Limit: size, Descending: descending}); ; {
				page := scan(t, s, "/page/", opts)
				if len(page) > size {
					t.Errorf("a page of %d has %d", size, len(page))
				}
				if len(page) == 0 {
					break
				}
				got = append(got, keys(page)...)
				opts.After = page[len(page)-1].Key
			}
			if !slices.Equal(got, want) {
				t.Errorf("pages of %d, descending %v: %v", size, descending, got)
			}
		}
	}
	// A scan may be left early, and begun again.
	seq := s.Scan(t.Context(), "/page/", store.ScanOptions{})
	for range 2 {
		for e, err := range seq {
			if err != nil || e.Key != want[0] {
				t.Errorf("%+v, %v", e, err)
			}
			break
		}
	}
}

func scanSnapshot(t *testing.T, s Store) {
	const n = 3000 // more than a page of any adapter
	fillWith(t, s, "/snap/", n)
	for _, descending := range []bool{false, true} {
		var got int
		for e, err := range s.Scan(t.Context(), "/snap/", store.ScanOptions{Descending: descending}) {
			if err != nil {
				t.Fatal(err)
			}
			if got == 0 {
				commit(t, s, store.Txn{
					Put:    []store.Put{{Key: "/snap/00001", Value: []byte("changed")}, {Key: "/snap/new", Value: []byte("x")}, {Key: "/snap/02998", Value: []byte("changed")}},
					Delete: []string{"/snap/01500"},
				})
			}
			if string(e.Value) != e.Key {
				t.Errorf("%s holds %q", e.Key, e.Value)
			}
			got++
		}
		if got != n {
			t.Errorf("descending %v: %d entries, want %d", descending, got, n)
		}
		commit(t, s, store.Txn{
			Put: []store.Put{
				{Key: "/snap/00001", Value: []byte("/snap/00001")}, {Key: "/snap/01500", Value: []byte("/snap/01500")},
				{Key: "/snap/02998", Value: []byte("/snap/02998")},
			},
			Delete: []string{"/snap/new"},
		})
	}
}

func manyKeys(t *testing.T, s Store) {
	const n = 10_000
	fillWith(t, s, "/many/", n)
	put(t, s, "/manx", "x")
	put(t, s, "/many0", "x")
	i := 0
	for e, err := range s.Scan(t.Context(), "/many/", store.ScanOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("/many/%05d", i); e.Key != want || string(e.Value) != want {
			t.Fatalf("%d: %s holds %q", i, e.Key, e.Value)
		}
		i++
	}
	if i != n {
		t.Errorf("%d keys, want %d", i, n)
	}
	last := scan(t, s, "/many/", store.ScanOptions{Descending: true, Limit: 2})
	if got, want := keys(last), []string{"/many/09999", "/many/09998"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func largeValues(t *testing.T, s Store) {
	value := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	for i := range 8 {
		commit(t, s, store.Txn{Put: []store.Put{{Key: fmt.Sprint("/large/", i), Value: value}}})
	}
	n := 0
	for _, e := range scan(t, s, "/large/", store.ScanOptions{}) {
		if !bytes.Equal(e.Value, value) {
			t.Errorf("%s holds %d other bytes", e.Key, len(e.Value))
		}
		n++
	}
	if n != 8 {
		t.Errorf("%d entries", n)
	}
}

func watchOrder(t *testing.T, s Store) {
	put(t, s, "/w/before", "x")
	w := watch(t, s, "/w/", revision(t, s))

	r1 := put(t, s, "/w/a", "1")
	put(t, s, "/elsewhere", "x")
	r2 := commit(t, s, store.Txn{Put: []store.Put{{Key: "/w/a", Value: []byte("2")}, {Key: "/other", Value: []byte("x")}, {Key: "/w/b", Value: []byte("1")}}})
	r3 := commit(t, s, store.Txn{Put: []store.Put{{Key: "/w/c", Value: nil}}, Delete: []string{"/w/a"}})
	for _, want := range []string{
		fmt.Sprintf("%d: /w/a=1", r1),
		fmt.Sprintf("%d: /w/a=2 /w/b=1", r2),
		fmt.Sprintf("%d: /w/a deleted /w/c=", r3),
	} {
		if got := describe(t, w.next(t)); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func watchHistory(t *testing.T, s Store) {
	start := revision(t, s)
	var want []string
	for i := range 5 {
		r := put(t, s, "/h/a", strconv.Itoa(i))
		want = append(want, fmt.Sprintf("%d: /h/a=%d", r, i))
	}
	for skip := range want {
		after := start
		if skip > 0 {
			after, _ = strconv.ParseInt(strings.Split(want[skip-1], ":")[0], 10, 64)
		}
		w := watch(t, s, "/h/", after)
		for _, want := range want[skip:] {
			if got := describe(t, w.next(t)); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
		w.stop()
	}
	// From a revision yet to come on, nothing before it shows.
	w := watch(t, s, "/h/", revision(t, s)+1)
	put(t, s, "/h/a", "not seen")
	r := put(t, s, "/h/a", "seen")
	if got, want := describe(t, w.next(t)), fmt.Sprintf("%d: /h/a=seen", r); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func watchEnds(t *testing.T, s Store) {
	for _, cancelled := range []bool{true, false} {
		ctx, cancel := context.WithCancel(t.Context())
		if cancelled {
			cancel()
		}
		done := make(chan error, 1)
		start := revision(t, s)
		go func() {
			for _, err := range s.Watch(ctx, "/", start) {
				if err != nil {
					done <- err
					return
				}
				cancel() // in the middle of it
			}
			done <- nil
		}()
		if !cancelled {
			put(t, s, "/a", "x")
		}
		if err := <-done; err != nil {
			t.Errorf("cancelled before %v: %v", cancelled, err)
		}
		cancel()
	}
}

// watchLoad has several watchers follow several writers.
func watchLoad(t *testing.T, s Store) {
	const writers, each, watchers = 8, 100, 4
	start := revision(t, s)
	var wg sync.WaitGroup
	follow := func() {
		w := watch(t, s, "/load/", start)
		next := make([]int, writers)
		last, seen := start, 0
		for seen < writers*each {
			b := w.next(t)
			if b.Revision <= last {
				t.Errorf("revision %d after %d", b.Revision, last)
				return
			}
			last = b.Revision
			if len(b.Changes) != 2 {
				t.Errorf("commit %d came with %d changes", b.Revision, len(b.Changes))
				return
			}
			var writer, n int
			if _, err := fmt.Sscanf(string(b.Changes[0].Value), "%d %d", &writer, &n); err != nil || n != next[writer] {
				t.Errorf("writer %d: got %d, want %d (%v)", writer, n, next[writer], err)
				return
			}
			next[writer]++
			seen++
		}
		w.stop()
	}
	for range watchers {
		wg.Go(follow)
	}
	for writer := range writers {
		wg.Go(func() {
			for i := range each {
				value := fmt.Appendf(nil, "%d %d", writer, i)
				if _, err := s.Commit(t.Context(), store.Txn{Put: []store.Put{
					{Key: fmt.Sprintf("/load/%d/a", writer), Value: value}, {Key: fmt.Sprintf("/load/%d/b", writer), Value: value},
				}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	follow() // the same again, all of it from history
}

// watchResume breaks the watch off again and again while writes go on.
func watchResume(t *testing.T, s Store) {
	const n = 200
	at := revision(t, s)
	var wg sync.WaitGroup
	defer wg.Wait() // the last change is seen before its commit has returned
	wg.Go(func() {
		for i := range n {
			if _, err := s.Commit(t.Context(), store.Txn{Put: []store.Put{{Key: "/r/a", Value: []byte(strconv.Itoa(i))}}}); err != nil {
				t.Error(err)
			}
		}
	})
	for seen := 0; seen < n; {
		w := watch(t, s, "/r/", at)
		for range min(7, n-seen) {
			b := w.next(t)
			if got := string(b.Changes[0].Value); got != strconv.Itoa(seen) {
				t.Fatalf("got %s, want %d", got, seen)
			}
			at = b.Revision
			seen++
		}
		w.stop()
	}
}

// watchThenRead reads each change at once: a store that announces before it
// applies would send its readers into the past.
func watchThenRead(t *testing.T, s Store) {
	const n = 500
	w := watch(t, s, "/wr/", revision(t, s))
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for i := range n {
			if _, err := s.Commit(t.Context(), store.Txn{Put: []store.Put{{Key: "/wr/a", Value: []byte(strconv.Itoa(i))}}}); err != nil {
				t.Error(err)
			}
		}
	})
	for range n {
		b := w.next(t)
		if e := get(t, s, "/wr/a"); e.Revision < b.Revision {
			t.Errorf("saw revision %d and read %d", b.Revision, e.Revision)
		}
	}
}

func compacted(t *testing.T, s Store) {
	start := revision(t, s)
	for i := range 10 {
		put(t, s, "/c/a", strconv.Itoa(i))
	}
	keep := revision(t, s)
	r := put(t, s, "/c/a", "kept")
	if err := s.Compact(t.Context(), keep); err != nil {
		t.Fatal(err)
	}
	for _, after := range []int64{0, start, keep - 1} {
		for b, err := range s.Watch(t.Context(), "/c/", after) {
			if !errors.Is(err, store.ErrCompacted) {
				t.Errorf("after %d: %+v, %v", after, b, err)
			}
			break
		}
	}
	w := watch(t, s, "/c/", keep)
	if got, want := describe(t, w.next(t)), fmt.Sprintf("%d: /c/a=kept", r); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if e := get(t, s, "/c/a"); string(e.Value) != "kept" {
		t.Errorf("%+v", e)
	}
}

func ttl(t *testing.T, s Store) {
	start := revision(t, s)
	w := watch(t, s, "/t/", start)
	began := time.Now()
	commit(t, s, store.Txn{Put: []store.Put{
		{Key: "/t/short", Value: []byte("x"), TTL: 1500 * time.Millisecond},
		{Key: "/t/long", Value: []byte("x"), TTL: time.Hour},
		{Key: "/t/kept", Value: []byte("x")},
	}})
	w.next(t)
	b := w.next(t)
	if got, want := describe(t, b), fmt.Sprintf("%d: /t/short deleted", b.Revision); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if lived := time.Since(began); lived < 2*time.Second {
		t.Errorf("1.5 s, in whole seconds 2, were %s", lived)
	}
	if got, want := keys(scan(t, s, "/t/", store.ScanOptions{})), []string{"/t/kept", "/t/long"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func ttlReplaced(t *testing.T, s Store) {
	expiring := func(key string) store.Put {
		return store.Put{Key: key, Value: []byte("x"), TTL: time.Second}
	}
	start := revision(t, s)
	commit(t, s, store.Txn{Put: []store.Put{expiring("/t/kept"), expiring("/t/again"), expiring("/t/witness")}})
	put(t, s, "/t/kept", "now for good")
	commit(t, s, store.Txn{Put: []store.Put{{Key: "/t/again", Value: []byte("y"), TTL: time.Hour}}})
	w := watch(t, s, "/t/witness", start)
	w.next(t)
	if b := w.next(t); !b.Changes[0].Deleted {
		t.Errorf("%+v", b)
	}
	if got, want := keys(scan(t, s, "/t/", store.ScanOptions{})), []string{"/t/again", "/t/kept"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// publicPorts: however many ask at once, each gets another port, until there is
// none left; one that is given back is there for the next.
func publicPorts(t *testing.T, s Store) {
	const ports, askers, each = 24, 4, 8 // more are wanted than there are
	r := store.PortRange{First: 30000, Last: 30000 + ports - 1}
	var mu sync.Mutex
	holders := map[int]string{}
	var asking sync.WaitGroup
	for n := range askers {
		asking.Go(func() {
			for i := range each {
				var got [2]int
				ids := [2]string{fmt.Sprintf("svc_%d_%d_a", n, i), fmt.Sprintf("svc_%d_%d_b", n, i)}
				_, err := store.Update(t.Context(), s, func(tx *store.Tx) (err error) {
					for k, id := range ids { // two in one transaction, or none
						if got[k], err = store.ClaimPort(tx, r, id); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					if miosa.CodeOf(err) != miosa.Unavailable {
						t.Error(err)
					}
					continue
				}
				mu.Lock()
				for k, port := range got {
					if other := holders[port]; other != "" || port < r.First || port > r.Last {
						t.Errorf("port %d for %s, held by %q", port, ids[k], other)
					}
					holders[port] = ids[k]
				}
				mu.Unlock()
			}
		})
	}
	asking.Wait()
	if len(holders) != ports {
		t.Errorf("%d of %d ports were given away", len(holders), ports)
	}
	for port, id := range holders {
		for _, by := range []string{"svc_other", id} { // it is nobody else's to give back
			if _, err := store.Update(t.Context(), s, func(tx *store.Tx) error {
				return store.ReleasePort(tx, miosa.Service{ID: by, PublicPort: port})
			}); err != nil {
				t.Fatal(err)
			}
			var again int
			_, err := store.Update(t.Context(), s, func(tx *store.Tx) (err error) {
				again, err = store.ClaimPort(tx, r, "svc_next")
				return err
			})
			if by == id && (err != nil || again != port) || by != id && miosa.CodeOf(err) != miosa.Unavailable {
				t.Errorf("given back by %s: %d, %v", by, again, err)
			}
		}
		break
	}
	_, err := store.Update(t.Context(), s, func(tx *store.Tx) error {
		_, err := store.ClaimPort(tx, store.PortRange{}, "svc_x")
		return err
	})
	if miosa.CodeOf(err) != miosa.Invalid || !strings.Contains(err.Error(), "--tcp-ports") {
		t.Error(err)
	}
}

func ended(t *testing.T, s Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Get(ctx, "/a"); !errors.Is(err, context.Canceled) {
		t.Errorf("get: %v", err)
	}
	if _, err := s.Commit(ctx, store.Txn{Put: []store.Put{{Key: "/a"}}}); !errors.Is(err, context.Canceled) {
		t.Errorf("commit: %v", err)
	}
	for _, err := range s.Scan(ctx, "/", store.ScanOptions{}) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("scan: %v", err)
		}
	}
}

// watcher runs a watch in a goroutine of its own.
type watcher struct {
	batches chan store.Batch
	errs    chan error
	stop    func()
}

func watch(t *testing.T, s Store, prefix string, after int64) *watcher {
	ctx, cancel := context.WithCancel(t.Context())
	w := &watcher{batches: make(chan store.Batch), errs: make(chan error, 1)}
	var wg sync.WaitGroup
	w.stop = func() { cancel(); wg.Wait() }
	t.Cleanup(w.stop)
	wg.Go(func() {
		for b, err := range s.Watch(ctx, prefix, after) {
			if err != nil {
				w.errs <- err
				return
			}
			select {
			case w.batches <- b:
			case <-ctx.Done():
				return
			}
		}
	})
	return w
}

// next waits for a batch; the test binary's own deadline bounds it.
func (w *watcher) next(t *testing.T) store.Batch {
	t.Helper()
	select {
	case b := <-w.batches:
		return b
	case err := <-w.errs:
		t.Fatalf("the watch ended: %v", err)
		return store.Batch{}
	}
}

func describe(t *testing.T, b store.Batch) string {
	t.Helper()
	var parts []string
	for _, c := range b.Changes {
		if c.Revision != b.Revision {
			t.Errorf("%s is at %d in the batch of %d", c.Key, c.Revision, b.Revision)
		}
		if c.Deleted {
			if c.Value != nil {
				t.Errorf("%s was deleted and holds %q", c.Key, c.Value)
			}
			parts = append(parts, c.Key+" deleted")
			continue
		}
		parts = append(parts, c.Key+"="+string(c.Value))
	}
	slices.Sort(parts) // within a commit there is no order
	return fmt.Sprintf("%d: %s", b.Revision, strings.Join(parts, " "))
}

func revision(t *testing.T, s Store) int64 {
	t.Helper()
	r, err := s.Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func get(t *testing.T, s Store, key string) store.Entry {
	t.Helper()
	e, err := s.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func put(t *testing.T, s Store, key, value string) int64 {
	t.Helper()
	return commit(t, s, store.Txn{Put: []store.Put{{Key: key, Value: []byte(value)}}})
}

func commit(t *testing.T, s Store, txn store.Txn) int64 {
	t.Helper()
	r, err := s.Commit(t.Context(), txn)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func scan(t *testing.T, s Store, prefix string, opts store.ScanOptions) []store.Entry {
	t.Helper()
	return collect(t, s.Scan(t.Context(), prefix, opts))
}

func collect(t *testing.T, seq iter.Seq2[store.Entry, error]) []store.Entry {
	t.Helper()
	var all []store.Entry
	for e, err := range seq {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

func keys(entries []store.Entry) []string {
	var all []string
	for _, e := range entries {
		all = append(all, e.Key)
	}
	return all
}

// fillWith puts n keys, each holding its own name.
func fillWith(t *testing.T, s Store, prefix string, n int) {
	t.Helper()
	for i := 0; i < n; {
		var txn store.Txn
		for range min(store.MaxOps, n-i) {
			key := fmt.Sprintf("%s%05d", prefix, i)
			txn.Put = append(txn.Put, store.Put{Key: key, Value: []byte(key)})
			i++
		}
		commit(t, s, txn)
	}
}
