// Package memory is the store in memory: for the simulation and for tests.
// It keeps to the same contract as the durable store, watches and expiry
// included, and its clock is given to it. Nothing in it starts a goroutine:
// what is due to expire does so when the store is next used, or when a
// waiting Watch reaches that moment.
package memory

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/btree"

	"github.com/miosa/miosa/store"
)

// Store implements store.Store. Entries' values must not be modified.
type Store struct {
	now func() time.Time

	mu        sync.Mutex // guards all below
	tree      *btree.BTreeG[record]
	expiries  *btree.BTreeG[expiry]
	revision  int64
	history   []store.Batch // every commit after compacted, oldest first
	compacted int64
	changed   chan struct{} // closed and replaced at each commit
}

type record struct {
	store.Entry
	expires time.Time // zero: never
}

type expiry struct {
	at  time.Time
	key string
}

// degree of the trees; any small number does.
const degree = 32

// New makes an empty store whose records expire by the given clock.
func New(now func() time.Time) *Store {
	return &Store{
		now: now,
		tree: btree.NewG(degree, func(a, b record) bool {
			return a.Key < b.Key
		}),
		expiries: btree.NewG(degree, func(a, b expiry) bool {
			if !a.at.Equal(b.at) {
				return a.at.Before(b.at)
			}
			return a.key < b.key
		}),
		revision: 1,
		changed:  make(chan struct{}),
	}
}

// Get returns the entry under key; Revision 0 when there is none.
func (s *Store) Get(ctx context.Context, key string) (store.Entry, error) {
	if err := ctx.Err(); err != nil {
		return store.Entry{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	r, ok := s.tree.Get(record{Entry: store.Entry{Key: key}})
	if !ok {
		return store.Entry{Key: key}, nil
	}
	return r.Entry, nil
}

// Scan yields the entries under prefix as they were when it was begun.
func (s *Store) Scan(ctx context.Context, prefix string, opts store.ScanOptions) iter.Seq2[store.Entry, error] {
	return func(yield func(store.Entry, error) bool) {
		if err := ctx.Err(); err != nil {
			yield(store.Entry{}, err)
			return
		}
		s.mu.Lock()
		s.expire()
		snapshot := s.tree.Clone()
		s.mu.Unlock()

		n := 0
		visit := func(r record) bool {
			if !strings.HasPrefix(r.Key, prefix) {
				// Descending starts at or behind the prefix's end.
				return opts.Descending && r.Key > prefix
			}
			if r.Key == opts.After {
				return true
			}
			if err := ctx.Err(); err != nil {
				yield(store.Entry{}, err)
				return false
			}
			e := r.Entry
			if opts.KeysOnly {
				e.Value = nil
			}
			n++
			return yield(e, nil) && n != opts.Limit
		}
		at := func(key string) record { return record{Entry: store.Entry{Key: key}} }
		switch after := opts.After; {
		case !opts.Descending:
			snapshot.AscendGreaterOrEqual(at(max(prefix, after)), visit)
		case after != "":
			snapshot.DescendLessOrEqual(at(after), visit)
		default:
			if end := store.PrefixEnd(prefix); end != "" {
				snapshot.DescendLessOrEqual(at(end), visit)
			} else {
				snapshot.Descend(visit)
			}
		}
	}
}

// Commit applies the transaction if its conditions hold.
func (s *Store) Commit(ctx context.Context, txn store.Txn) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := txn.Check(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	for _, c := range txn.If {
		r, _ := s.tree.Get(record{Entry: store.Entry{Key: c.Key}})
		if r.Revision != c.Revision {
			return 0, fmt.Errorf("%s is at revision %d, expected %d: %w", c.Key, r.Revision, c.Revision, store.ErrConflict)
		}
	}
	batch := store.Batch{Revision: s.revision + 1}
	for _, p := range txn.Put {
		r := record{Entry: store.Entry{Key: p.Key, Value: bytes.Clone(p.Value), Revision: batch.Revision}}
		if r.Value == nil {
			r.Value = []byte{}
		}
		if p.TTL > 0 {
			r.expires = s.now().Add(store.CeilSeconds(p.TTL))
		}
		s.replace(r)
		batch.Changes = append(batch.Changes, store.Change{Entry: r.Entry})
	}
	for _, key := range txn.Delete {
		if change, ok := s.remove(key, batch.Revision); ok {
			batch.Changes = append(batch.Changes, change)
		}
	}
	s.commit(batch)
	return s.revision, nil
}

// Revision is the newest committed revision.
func (s *Store) Revision(ctx context.Context) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	return s.revision, nil
}

// Watch yields the changes under prefix after a revision until ctx ends.
func (s *Store) Watch(ctx context.Context, prefix string, after int64) iter.Seq2[store.Batch, error] {
	return func(yield func(store.Batch, error) bool) {
		for ctx.Err() == nil {
			s.mu.Lock()
			s.expire()
			if after < s.compacted {
				s.mu.Unlock()
				yield(store.Batch{}, store.ErrCompacted)
				return
			}
			pending := s.since(after)
			changed := s.changed
			wait := s.untilExpiry()
			s.mu.Unlock()

			for _, batch := range pending {
				after = batch.Revision
				if ctx.Err() != nil {
					return
				}
				if batch = under(batch, prefix); len(batch.Changes) > 0 && !yield(batch, nil) {
					return
				}
			}
			if len(pending) > 0 {
				continue
			}
			if !pause(ctx, changed, wait) {
				return
			}
		}
	}
}

// pause waits for a commit, or for wait (0: for ever); false when ctx ended.
func pause(ctx context.Context, changed <-chan struct{}, wait time.Duration) bool {
	var due <-chan time.Time
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-ctx.Done():
		return false
	case <-changed:
	case <-due:
	}
	return true
}

// ChangesSince is every commit after a revision, oldest first, as a Watch of
// everything would yield them: for the simulation, which collects changes
// itself. Those before the last Compact are gone.
func (s *Store) ChangesSince(revision int64) []store.Batch {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	return slices.Clone(s.since(revision))
}

// Compact forgets the changes up to and including a revision: a watch from
// before it ends with ErrCompacted.
func (s *Store) Compact(_ context.Context, revision int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	revision = min(revision, s.revision)
	if revision <= s.compacted {
		return nil
	}
	s.history = slices.Clone(s.since(revision))
	s.compacted = revision
	return nil
}

// Len is how many entries there are.
func (s *Store) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	return s.tree.Len()
}

// since is the part of history after a revision. The caller holds mu; the
// result may be read without it, history is only appended to.
func (s *Store) since(revision int64) []store.Batch {
	i, _ := slices.BinarySearchFunc(s.history, revision+1, func(b store.Batch, r int64) int {
		return int(b.Revision - r)
	})
	return s.history[i:len(s.history):len(s.history)]
}

// replace puts a record into the trees. The caller holds mu.
func (s *Store) replace(r record) {
	old, had := s.tree.ReplaceOrInsert(r)
	if had && !old.expires.IsZero() {
		s.expiries.Delete(expiry{old.expires, old.Key})
	}
	if !r.expires.IsZero() {
		s.expiries.ReplaceOrInsert(expiry{r.expires, r.Key})
	}
}

// remove takes a record out of the trees. The caller holds mu.
func (s *Store) remove(key string, revision int64) (store.Change, bool) {
	old, had := s.tree.Delete(record{Entry: store.Entry{Key: key}})
	if !had {
		return store.Change{}, false
	}
	if !old.expires.IsZero() {
		s.expiries.Delete(expiry{old.expires, old.Key})
	}
	return store.Change{Entry: store.Entry{Key: key, Revision: revision}, Deleted: true}, true
}

// commit makes a batch the newest revision, unless it changed nothing. The
// caller holds mu.
func (s *Store) commit(batch store.Batch) {
	if len(batch.Changes) == 0 {
		return
	}
	s.revision = batch.Revision
	s.history = append(s.history, batch)
	close(s.changed)
	s.changed = make(chan struct{})
}

// expire removes what is due, as one commit. The caller holds mu.
func (s *Store) expire() {
	if s.expiries.Len() == 0 {
		return
	}
	now := s.now()
	batch := store.Batch{Revision: s.revision + 1}
	for {
		next, ok := s.expiries.Min()
		if !ok || next.at.After(now) {
			break
		}
		if change, ok := s.remove(next.key, batch.Revision); ok {
			batch.Changes = append(batch.Changes, change)
		}
	}
	s.commit(batch)
}

// untilExpiry is how long the next record still has; 0 when none expires. The
// caller holds mu.
func (s *Store) untilExpiry() time.Duration {
	next, ok := s.expiries.Min()
	if !ok {
		return 0
	}
	return max(next.at.Sub(s.now()), time.Millisecond)
}

// under is the part of a batch that lies under a prefix.
func under(b store.Batch, prefix string) store.Batch {
	if prefix == "" {
		return b
	}
	part := store.Batch{Revision: b.Revision}
	for _, c := range b.Changes {
		if strings.HasPrefix(c.Key, prefix) {
			part.Changes = append(part.Changes, c)
		}
	}
	return part
}
