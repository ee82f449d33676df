package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/miosa/miosa"
)

// Tx is one optimistic transaction: reads go to the store and are remembered
// as conditions, writes are gathered and committed together if every
// condition still holds. It sees its own writes. It belongs to one goroutine,
// for the duration of the function it was given to.
type Tx struct {
	ctx      context.Context
	store    Store
	reads    map[string]Entry
	order    []string // keys of reads, as first read
	writes   map[string]*write
	written  []string // keys of writes, as first written
	revision int64
	// stale is the key and revision of the first record that was to be saved
	// over a newer one.
	stale Condition
}

type write struct {
	value   []byte // nil: delete
	ttl     time.Duration
	deleted bool
}

// How often Update tries, and how long it waits in between: at the first
// conflict up to firstPause, doubled each time up to lastPause. All tries
// together wait less than 4 s.
const (
	updateTries = 64
	firstPause  = 500 * time.Microsecond
	lastPause   = 64 * time.Millisecond
)

// Update runs fn and commits what it wrote, provided that nothing it read by
// key was changed meanwhile; otherwise it runs fn again, on fresh records.
// fn must have no effects but those on tx and on variables it sets anew each
// time. An error of fn ends Update as it is, and nothing is written.
//
// It returns the revision of the commit, which is the Revision of everything
// saved; when nothing was written, a revision at which all that was read
// stood so. When somebody else keeps getting in between the error is a
// *miosa.Error Unavailable; when the caller saves a record that it read
// before Update and that has changed since, a Conflict. Both wrap ErrConflict.
func Update(ctx context.Context, s Store, fn func(tx *Tx) error) (revision int64, err error) {
	var stale Condition
	pause := firstPause
	for try := range updateTries {
		tx := newTx(ctx, s)
		revision, err = tx.run(fn)
		if !errors.Is(err, ErrConflict) {
			return revision, err
		}
		if tx.stale.Key != "" && tx.stale == stale {
			// fn brings the same outdated record again: no try will help.
			return 0, &miosa.Error{
				Code:    miosa.Conflict,
				Message: "it was changed by somebody else; read it again and repeat",
				Err:     ErrConflict,
			}
		}
		stale = tx.stale
		if try == updateTries-1 {
			break
		}
		wait := rand.N(pause) //nolint:gosec // chance keeps the tries apart, it guards nothing
		if err := sleep(ctx, wait); err != nil {
			return 0, err
		}
		pause = min(2*pause, lastPause)
	}
	return 0, &miosa.Error{
		Code:    miosa.Unavailable,
		Message: "too many are changing the same thing at once; try again",
		Err:     ErrConflict,
	}
}

// Try is Update with a single try: ErrConflict comes through as it is.
func Try(ctx context.Context, s Store, fn func(tx *Tx) error) (revision int64, err error) {
	return newTx(ctx, s).run(fn)
}

// Dry runs fn and commits nothing: it returns the entries that would have been
// written, in the order in which they were, each without a Revision.
func Dry(ctx context.Context, s Store, fn func(tx *Tx) error) ([]Entry, error) {
	tx := newTx(ctx, s)
	if err := fn(tx); err != nil {
		return nil, err
	}
	var out []Entry
	for _, key := range tx.written {
		if w := tx.writes[key]; !w.deleted {
			out = append(out, Entry{Key: key, Value: w.value})
		}
	}
	return out, nil
}

func newTx(ctx context.Context, s Store) *Tx {
	return &Tx{ctx: ctx, store: s, reads: map[string]Entry{}, writes: map[string]*write{}}
}

func (tx *Tx) run(fn func(tx *Tx) error) (int64, error) {
	if err := fn(tx); err != nil {
		return 0, err
	}
	txn := Txn{}
	for _, key := range tx.order {
		txn.If = append(txn.If, Condition{Key: key, Revision: tx.reads[key].Revision})
	}
	for _, key := range tx.written {
		w := tx.writes[key]
		if w.deleted {
			txn.Delete = append(txn.Delete, key)
			continue
		}
		txn.Put = append(txn.Put, Put{Key: key, Value: w.value, TTL: w.ttl})
	}
	revision, err := tx.store.Commit(tx.ctx, txn)
	if err != nil {
		return 0, err
	}
	tx.revision = revision
	return revision, nil
}

// Revision is the transaction's revision, once it has been committed: the
// Revision of everything saved in it. Before that 0.
func (tx *Tx) Revision() int64 { return tx.revision }

// read is the entry under key as the transaction began to see it.
func (tx *Tx) read(key string) (Entry, error) {
	if e, ok := tx.reads[key]; ok {
		return e, nil
	}
	e, err := tx.store.Get(tx.ctx, key)
	if err != nil {
		return Entry{}, err
	}
	e.Key = key
	tx.reads[key] = e
	tx.order = append(tx.order, key)
	return e, nil
}

// Prefetch reads several keys at once, for what comes after to find them here.
func (tx *Tx) Prefetch(keys ...string) error {
	found := make([]Entry, len(keys))
	g, ctx := errgroup.WithContext(tx.ctx)
	g.SetLimit(prefetchAtOnce)
	for n, key := range keys {
		if _, ok := tx.reads[key]; ok {
			continue
		}
		g.Go(func() (err error) {
			found[n], err = tx.store.Get(ctx, key)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for n, key := range keys {
		if _, ok := tx.reads[key]; !ok {
			found[n].Key = key
			tx.reads[key] = found[n]
			tx.order = append(tx.order, key)
		}
	}
	return nil
}

// prefetchAtOnce bounds the reads of a Prefetch that are under way.
const prefetchAtOnce = 32

func (tx *Tx) write(key string, w write) {
	if _, ok := tx.writes[key]; !ok {
		tx.written = append(tx.written, key)
	}
	tx.writes[key] = &w
}

// Load reads one record; that it stays as it is, or stays absent, becomes a
// condition of the transaction. The error is a *miosa.Error NotFound, its
// Public code "<kind>_not_found", when there is none.
func Load[T any](tx *Tx, k Kind[T], key string) (T, error) {
	var none T
	e, err := tx.read(key)
	if err != nil {
		return none, err
	}
	if w, ok := tx.writes[key]; ok {
		if w.deleted {
			return none, k.absent(key)
		}
		return k.unmarshal(Entry{Key: key, Value: w.value, Revision: e.Revision})
	}
	if e.Revision == 0 {
		return none, k.absent(key)
	}
	return k.unmarshal(e)
}

// Save creates or replaces v's record. With v.Revision other than 0 the
// stored record must still have that revision. Fields that a newer binary
// added to the stored record are kept; one of a newer schema is not touched:
// ErrNewerSchema. The new Revision is the transaction's.
func Save[T any](tx *Tx, k Kind[T], v T) error { return SaveFor(tx, k, v, 0) }

// Create is Save of what has an ID that was made just now: that it is not there yet
// is not looked up, and becomes a condition.
func Create[T any](tx *Tx, k Kind[T], v T) error {
	if key := k.key(v); tx.reads[key].Key == "" {
		tx.reads[key] = Entry{Key: key}
		tx.order = append(tx.order, key)
	}
	return Save(tx, k, v)
}

// SaveFor is Save of a record that disappears ttl after the commit, never
// earlier; 0 keeps it.
func SaveFor[T any](tx *Tx, k Kind[T], v T, ttl time.Duration) error {
	key := k.key(v)
	if kind, _, ok := ParseKey(key); !ok || kind != k.name {
		return fmt.Errorf("save %s: %q is no key for one: an id is missing or malformed", k.name, key)
	}
	old, err := tx.current(key, *k.revision(&v))
	if err != nil {
		return err
	}
	value, err := k.marshal(v, old)
	if err != nil {
		return err
	}
	tx.write(key, write{value: value, ttl: ttl})
	if old == nil {
		for _, r := range k.refs(v) {
			tx.write(r.key, write{value: []byte(r.value), ttl: ttl})
		}
	}
	return nil
}

// Remove deletes v's record and the index entries that Save keeps for it
// (names and other entries are their owner's). With v.Revision other than 0
// the stored record must still have that revision; otherwise an absent one
// is as good as removed.
func Remove[T any](tx *Tx, k Kind[T], v T) error {
	key := k.key(v)
	old, err := tx.current(key, *k.revision(&v))
	if err != nil {
		return err
	}
	if old != nil {
		if _, err := k.open(Entry{Key: key, Value: old}); err != nil {
			return err
		}
	}
	tx.write(key, write{deleted: true})
	for _, r := range k.refs(v) {
		tx.write(r.key, write{deleted: true})
	}
	return nil
}

// current is the value that a write replaces, the transaction's own one if
// there is one; nil when there is none. A revision other than 0 must be the
// stored record's.
func (tx *Tx) current(key string, revision int64) ([]byte, error) {
	e, err := tx.read(key)
	if err != nil {
		return nil, err
	}
	if revision != 0 && revision != e.Revision {
		tx.stale = Condition{Key: key, Revision: revision}
		return nil, fmt.Errorf("%s at revision %d, expected %d: %w", key, e.Revision, revision, ErrConflict)
	}
	if w, ok := tx.writes[key]; ok {
		return w.value, nil
	}
	return e.Value, nil
}

// Index reads an index entry, "" when there is none; that it stays so becomes
// a condition.
func (tx *Tx) Index(key string) (value string, err error) {
	e, err := tx.read(key)
	if err != nil {
		return "", err
	}
	if w, ok := tx.writes[key]; ok {
		return string(w.value), nil
	}
	return string(e.Value), nil
}

// SetIndex writes an index entry, whatever was there; with a ttl it
// disappears that long after the commit, never earlier; 0 keeps it.
func (tx *Tx) SetIndex(key, value string, ttl time.Duration) {
	tx.write(key, write{value: []byte(value), ttl: ttl})
}

// Claim writes an index entry unless another value stands there: then it
// returns that holder and ok is false.
func (tx *Tx) Claim(key, value string) (holder string, ok bool, err error) {
	holder, err = tx.Index(key)
	switch {
	case err != nil:
		return "", false, err
	case holder == "":
		tx.SetIndex(key, value, 0)
		return value, true, nil
	}
	return holder, holder == value, nil
}

// Fence is for what was decided on a picture of the store as of the revision
// seen: it writes the index entry, unless another fenced transaction has done so
// since, which the picture lacks. Then the error wraps ErrConflict.
func (tx *Tx) Fence(key string, seen int64) error {
	e, err := tx.read(key)
	if err != nil {
		return err
	}
	if e.Revision > seen {
		tx.stale = Condition{Key: key, Revision: seen}
		return fmt.Errorf("%s at revision %d, seen up to %d: %w", key, e.Revision, seen, ErrConflict)
	}
	tx.SetIndex(key, strconv.FormatInt(seen, 10), 0)
	return nil
}

// Require makes it a condition that what lies under key is of that revision, 0:
// that nothing does, without a look at it. It is for keys that the transaction does
// not read afterwards.
func (tx *Tx) Require(key string, revision int64) {
	if _, ok := tx.reads[key]; !ok {
		tx.order = append(tx.order, key)
	}
	tx.reads[key] = Entry{Key: key, Revision: revision}
}

// DropIndex deletes an index entry, if it is there.
func (tx *Tx) DropIndex(key string) {
	tx.write(key, write{deleted: true})
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
