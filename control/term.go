package control

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/miosa/miosa/store"
)

// ErrSucceeded is why a control plane ends that another has taken over from.
var ErrSucceeded = errors.New("another control plane has begun to decide on the same records, and this one ends")

// Term is the time in which one control plane decides. It ends when the next
// begins one: whatever an earlier one still writes is refused from then on, however
// long it was paused or cut off in between. The zero Term is of a store in which
// nobody has begun one.
type Term struct{ revision int64 }

// BeginTerm ends the term of whoever decided until now.
func BeginTerm(ctx context.Context, s store.Store) (Term, error) {
	revision, err := store.Update(ctx, s, func(tx *store.Tx) error {
		last, err := tx.Index(store.TermKey)
		if err != nil {
			return err
		}
		n := 0
		if last != "" {
			if n, err = strconv.Atoi(last); err != nil {
				return fmt.Errorf("read the number of the last term: %w", err)
			}
		}
		tx.SetIndex(store.TermKey, strconv.Itoa(n+1), 0)
		return nil
	})
	if err != nil {
		return Term{}, fmt.Errorf("begin to decide: %w", err)
	}
	return Term{revision}, nil
}

// Require has the transaction fail with store.ErrConflict once the term is over.
func (t Term) Require(tx *store.Tx) { tx.Require(store.TermKey, t.revision) }

// Over reports whether another term has begun.
func (t Term) Over(ctx context.Context, s store.Store) (bool, error) {
	e, err := s.Get(ctx, store.TermKey)
	return err == nil && e.Revision != t.revision, err
}
