// Package memory is a usage store that lasts as long as its process: for tests
// and simulations.
package memory

import (
	"cmp"
	"context"
	"iter"
	"slices"
	"sync"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/metering"
	"github.com/miosa/miosa/usage"
)

// Store implements usage.Store. Make it with New.
type Store struct {
	mu       sync.Mutex // guards all below
	accounts map[string]usage.Account
	rows     map[place]usage.Row
	sampled  metering.Hour
}

type place struct {
	hour    metering.Hour
	subject usage.Subject
}

// New makes an empty store.
func New() *Store {
	return &Store{accounts: map[string]usage.Account{}, rows: map[place]usage.Row{}}
}

// Account implements usage.Store.
func (s *Store) Account(ctx context.Context, instanceID string) (usage.Account, error) {
	if err := ctx.Err(); err != nil {
		return usage.Account{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.accounts[instanceID]
	if !ok {
		return a, miosa.Errorf(miosa.NotFound, "no usage of instance %q is known", instanceID)
	}
	return a, nil
}

// Commit implements usage.Store.
func (s *Store) Commit(ctx context.Context, c usage.Change) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range c.Accounts {
		s.accounts[a.InstanceID] = a
	}
	for _, add := range c.Add {
		at := place{add.Hour, add.Subject}
		add.Amount = add.Plus(s.rows[at].Amount)
		s.rows[at] = add
	}
	s.sampled = max(s.sampled, c.Sampled)
	return nil
}

// Rows implements usage.Store.
func (s *Store) Rows(ctx context.Context, q usage.Query) iter.Seq2[usage.Row, error] {
	return func(yield func(usage.Row, error) bool) {
		s.mu.Lock()
		var found []usage.Row
		for at, r := range s.rows {
			if at.hour >= q.Since && at.hour < q.Until && q.Admits(r.Subject) {
				found = append(found, r)
			}
		}
		s.mu.Unlock()
		slices.SortFunc(found, func(a, b usage.Row) int {
			return cmp.Or(cmp.Compare(a.Hour, b.Hour), cmp.Compare(a.TenantID, b.TenantID), cmp.Compare(a.DeploymentID, b.DeploymentID),
				cmp.Compare(a.ServiceID, b.ServiceID), cmp.Compare(a.WorkspaceID, b.WorkspaceID), cmp.Compare(a.UserID, b.UserID), cmp.Compare(a.ProjectID, b.ProjectID))
		})
		for _, r := range found {
			if err := ctx.Err(); err != nil {
				yield(usage.Row{}, err)
				return
			}
			if !yield(r, nil) {
				return
			}
		}
	}
}

// Sampled implements usage.Store.
func (s *Store) Sampled(ctx context.Context) (metering.Hour, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sampled, ctx.Err()
}

// Expire implements usage.Store.
func (s *Store) Expire(ctx context.Context, before metering.Hour) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, a := range s.accounts {
		if a.Seen < before {
			delete(s.accounts, id)
		}
	}
	for at := range s.rows {
		if at.hour < before {
			delete(s.rows, at)
		}
	}
	return nil
}
