// Package records tells what the store's records are and become: to who follows
// all of a kind, and to who asks for one over and over.
package records

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/miosa/miosa/store"
)

// Record is one record as it is, or the end of one.
type Record struct {
	Kind, ID string // as store.ParseKey gives them
	Key      string
	Revision int64 // of its last change
	Gone     bool

	entry store.Entry
}

// Noun is what the record holds, as store.Decode gives it: nil where it is Gone.
// One that cannot be read, or that a newer binary wrote (store.ErrNewerSchema), is
// an error.
func (r Record) Noun() (any, error) {
	noun, err := store.Decode(r.entry)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", r.Key, err)
	}
	return noun, nil
}

// As is the Noun of a record of one kind, which is not Gone.
func As[T any](r Record) (T, error) {
	noun, err := r.Noun()
	v, ok := noun.(T)
	if err == nil && !ok {
		err = fmt.Errorf("read %s: it holds no %T", r.Key, v)
	}
	return v, err
}

// Batch is what is told at once: all there is, or one commit's changes.
type Batch struct {
	// Whole: it has all there is, and what is not in it is gone. Changes of after
	// Revision may be in it already, and are told again.
	Whole    bool
	Revision int64
	Records  []Record // in the order of their keys where it is Whole
}

// Follower tells of all records of some kinds, and then of each change. Its
// fields are set before it is used.
type Follower struct {
	Store store.Store
	Kinds []string // their names; nil: every kind
	// Prefix is what the keys begin with; "": all of the platform's.
	Prefix string
	// List yields what is there, at least that of Kinds under Prefix; nil: it is
	// scanned for. OfTenants makes it cheap for few records among many.
	List func(ctx context.Context) iter.Seq2[store.Entry, error]
	// Take is told of each Batch, one after the other: a whole one first, a commit's
	// only where something of Kinds is in it, and a whole one again whenever what
	// came in between is not known. Its error ends Follow.
	Take func(ctx context.Context, b Batch) error
}

// Pauses between tries of Run.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 10 * time.Second
)

// Run follows until ctx ends. After an error, which failed is told, it begins
// anew, a while later.
func (f *Follower) Run(ctx context.Context, failed func(error)) {
	for pause := firstPause; ctx.Err() == nil; pause = min(2*pause, lastPause) {
		began := time.Now()
		err := f.Follow(ctx)
		if ctx.Err() != nil {
			return
		}
		failed(err)
		if time.Since(began) > lastPause {
			pause = firstPause
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// Follow follows until ctx ends, which is no error, or until there is one. That a
// watch falls too far behind is none: it lists anew.
func (f *Follower) Follow(ctx context.Context) error {
	for ctx.Err() == nil {
		err := f.once(ctx)
		if err != nil && !errors.Is(err, store.ErrCompacted) && ctx.Err() == nil {
			return fmt.Errorf("follow the records: %w", err)
		}
	}
	return nil
}

// once lists, and watches from there.
func (f *Follower) once(ctx context.Context) error {
	prefix := f.Prefix
	if prefix == "" {
		prefix = store.AllRecords
	}
	revision, err := f.Store.Revision(ctx)
	if err != nil {
		return err
	}
	list := f.List
	if list == nil {
		list = func(ctx context.Context) iter.Seq2[store.Entry, error] {
			return f.Store.Scan(ctx, prefix, store.ScanOptions{})
		}
	}
	all := Batch{Whole: true, Revision: revision}
	for e, err := range list(ctx) {
		if err != nil {
			return err
		}
		if r, ok := f.record(store.Change{Entry: e}); ok {
			all.Records = append(all.Records, r)
		}
	}
	if err := f.Take(ctx, all); err != nil {
		return err
	}
	for commit, err := range f.Store.Watch(ctx, prefix, revision) {
		if err != nil {
			return err
		}
		b := Batch{Revision: commit.Revision}
		for _, c := range commit.Changes {
			if r, ok := f.record(c); ok {
				b.Records = append(b.Records, r)
			}
		}
		if len(b.Records) == 0 {
			continue
		}
		if err := f.Take(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

// record is a change as it is told; ok is false for what is not followed.
func (f *Follower) record(c store.Change) (r Record, ok bool) {
	kind, id, ok := store.ParseKey(c.Key)
	if !ok || f.Kinds != nil && !slices.Contains(f.Kinds, kind) {
		return r, false
	}
	return Record{Kind: kind, ID: id, Key: c.Key, Revision: c.Revision, Gone: c.Deleted, entry: c.Entry}, true
}

// OfTenants lists what lies under prefixes of each tenant, as store.WebhooksOf
// gives them, without reading all that is between.
func OfTenants(s store.Store, prefixes ...func(tenant string) string) func(context.Context) iter.Seq2[store.Entry, error] {
	return func(ctx context.Context) iter.Seq2[store.Entry, error] {
		return func(yield func(store.Entry, error) bool) {
			for t, err := range s.Scan(ctx, store.TenantsPrefix(), store.ScanOptions{KeysOnly: true}) {
				if err != nil {
					yield(store.Entry{}, err)
					return
				}
				_, tenant, ok := store.ParseKey(t.Key)
				if !ok {
					continue
				}
				for _, prefix := range prefixes {
					for e, err := range s.Scan(ctx, prefix(tenant), store.ScanOptions{}) {
						if !yield(e, err) || err != nil {
							return
						}
					}
				}
			}
		}
	}
}
