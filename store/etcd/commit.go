package etcd

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/miosa/miosa/store"
)

// Commit applies the transaction if its conditions hold.
func (s *Store) Commit(ctx context.Context, txn store.Txn) (int64, error) {
	if err := txn.Check(); err != nil {
		return 0, err
	}
	if err := s.space.admit(len(txn.Put) > 0); err != nil {
		return 0, err
	}
	reclaims := s.reclaimer.runs.Load()
	revision, err := s.commit(ctx, txn)
	switch {
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		// Whoever held the lease lost it: take a new one.
		s.leases.forget()
		revision, err = s.commit(ctx, txn)
	case errors.Is(err, rpctypes.ErrNoSpace) && s.engine != nil:
		// The quota was reached, perhaps by what is only history.
		if reclaimErr := s.reclaim(ctx, reclaims); reclaimErr != nil {
			return 0, translate(ctx, errors.Join(err, reclaimErr))
		}
		revision, err = s.commit(ctx, txn)
	}
	if err == nil && len(txn.Delete) > 0 {
		s.reclaimer.futile.Store(false)
	}
	return revision, err
}

func (s *Store) commit(ctx context.Context, txn store.Txn) (int64, error) {
	ops := make([]clientv3.Op, 0, len(txn.Put)+len(txn.Delete))
	for _, p := range txn.Put {
		var opts []clientv3.OpOption
		if p.TTL > 0 {
			lease, err := s.lease(ctx, p.TTL)
			if err != nil {
				return 0, err
			}
			opts = append(opts, clientv3.WithLease(lease))
		}
		ops = append(ops, clientv3.OpPut(p.Key, string(p.Value), opts...))
	}
	for _, key := range txn.Delete {
		ops = append(ops, clientv3.OpDelete(key))
	}
	conditions := make([]clientv3.Cmp, len(txn.If))
	for i, c := range txn.If {
		conditions[i] = clientv3.Compare(clientv3.ModRevision(c.Key), "=", c.Revision)
	}
	r, err := do(ctx, s, func(ctx context.Context) (*clientv3.TxnResponse, error) {
		return s.client.Txn(ctx).If(conditions...).Then(ops...).Commit()
	})
	if err != nil {
		return 0, err
	}
	if !r.Succeeded {
		return 0, store.ErrConflict
	}
	return r.Header.Revision, nil
}
