// Package store is the port to the platform's records: transactions with
// optimistic concurrency, ordered scans, and a watch that resumes. etcd and
// memory are its adapters, storetest their conformance suite.
//
// Two layers live here. Store is what an adapter implements: bytes under
// keys. Above it, Kind and Tx give the domain's nouns: versioned records,
// read-your-own-writes transactions that preserve fields a newer binary
// wrote, and keys laid out by tenant.
package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"
)

// Store holds bytes under keys, ordered. Revisions count the whole store's
// commits and only grow. All methods may be called from several goroutines.
type Store interface {
	// Get returns the entry under key; Revision 0 when there is none.
	Get(ctx context.Context, key string) (Entry, error)
	// Scan yields the entries whose keys begin with prefix, in key order
	// (descending if asked), all from one revision.
	Scan(ctx context.Context, prefix string, opts ScanOptions) iter.Seq2[Entry, error]
	// Commit applies all of the transaction or nothing. When a condition
	// fails the error is ErrConflict. It returns the new revision; the
	// present one when nothing was changed (a delete of what is not there
	// changes nothing). A *miosa.Error NoSpace says that the store is full,
	// Unavailable that it could not answer: then the transaction may have
	// been applied all the same.
	Commit(ctx context.Context, txn Txn) (int64, error)
	// Watch yields every change under prefix ("": all) after the given
	// revision, in commit order, each commit's changes together, until ctx
	// ends (then the sequence just ends). What it yielded can be read at once.
	// When that revision is compacted away the error is ErrCompacted: list
	// again and watch from there.
	Watch(ctx context.Context, prefix string, after int64) iter.Seq2[Batch, error]
	// Revision is the newest committed revision.
	Revision(ctx context.Context) (int64, error)
}

// Entry is one stored value.
type Entry struct {
	Key      string
	Value    []byte
	Revision int64 // of its last change; 0: absent
}

// ScanOptions narrow a scan.
type ScanOptions struct {
	After      string // exclusive: start behind this key in scan order; one under the prefix, or ""
	Limit      int    // 0: all
	Descending bool
	KeysOnly   bool
}

// Txn is a set of conditions and changes. At most MaxOps changes and as many
// conditions; each key is changed at most once. Without changes it only
// verifies its conditions.
type Txn struct {
	If     []Condition
	Put    []Put
	Delete []string
}

// MaxOps bounds the changes, and the conditions, of one transaction (etcd's limit).
const MaxOps = 128

// Check reports what no store would accept: too many operations, or a key
// changed twice. Adapters call it first.
func (t Txn) Check() error {
	if n := len(t.Put) + len(t.Delete); n > MaxOps || len(t.If) > MaxOps {
		return fmt.Errorf("transaction of %d conditions and %d changes: at most %d each", len(t.If), n, MaxOps)
	}
	seen := make(map[string]struct{}, len(t.Put)+len(t.Delete))
	changes := func(key string) error {
		if key == "" {
			return errors.New("transaction changes the empty key")
		}
		if _, twice := seen[key]; twice {
			return fmt.Errorf("transaction changes %s twice", key)
		}
		seen[key] = struct{}{}
		return nil
	}
	for _, p := range t.Put {
		if err := changes(p.Key); err != nil {
			return err
		}
	}
	for _, key := range t.Delete {
		if err := changes(key); err != nil {
			return err
		}
	}
	return nil
}

// CeilSeconds is d in whole seconds, never less: the resolution of a TTL.
func CeilSeconds(d time.Duration) time.Duration {
	return (d + time.Second - 1).Truncate(time.Second)
}

// PrefixEnd is the first key behind all that begin with prefix; "" when there
// is none.
func PrefixEnd(prefix string) string {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] < 0xff {
			return prefix[:i] + string([]byte{prefix[i] + 1})
		}
	}
	return ""
}

// Condition holds when the key's present revision is Revision (0: absent).
type Condition struct {
	Key      string
	Revision int64
}

// Put stores a value; with TTL it disappears by itself that long afterwards
// (never earlier; whole seconds).
type Put struct {
	Key   string
	Value []byte
	TTL   time.Duration
}

// Batch is one commit's changes under a watched prefix.
type Batch struct {
	Revision int64
	Changes  []Change
}

// Change is one key's new value; Deleted has Entry.Value nil.
type Change struct {
	Entry
	Deleted bool
}

type storeError string

func (e storeError) Error() string { return string(e) }

const (
	// ErrConflict: somebody else changed what the transaction read.
	ErrConflict = storeError("the record was changed by somebody else")
	// ErrCompacted: the watch's starting revision is no longer kept.
	ErrCompacted = storeError("the revision to watch from is no longer kept")
	// ErrNewerSchema: the record was written by a newer binary in a shape
	// this one must not touch.
	ErrNewerSchema = storeError("the record was written by a newer version of miosa")
)
