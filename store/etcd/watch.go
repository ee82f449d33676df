package etcd

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/miosa/miosa/store"
)

// leaderPause is how long a watch waits before it begins anew at a cluster
// that has no leader.
const leaderPause = 200 * time.Millisecond

// Watch yields the changes under prefix after a revision until ctx ends.
func (s *Store) Watch(ctx context.Context, prefix string, after int64) iter.Seq2[store.Batch, error] {
	return func(yield func(store.Batch, error) bool) {
		for ctx.Err() == nil {
			next, err := s.follow(ctx, prefix, after, yield)
			switch {
			case err == nil || ctx.Err() != nil:
				return
			case !errors.Is(err, rpctypes.ErrNoLeader):
				yield(store.Batch{}, err)
				return
			}
			after = next
			timer := time.NewTimer(leaderPause)
			select {
			case <-ctx.Done():
			case <-timer.C:
			}
			timer.Stop()
		}
	}
}

// follow is one watch. It returns the last revision it yielded, and nil if
// the reader had enough.
func (s *Store) follow(ctx context.Context, prefix string, after int64, yield func(store.Batch, error) bool) (int64, error) {
	if err := s.health.err(); err != nil {
		return after, err
	}
	watchCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.health.ctx, cancel)()
	if !s.local {
		// A member that lost its cluster must not leave us waiting for ever.
		watchCtx = clientv3.WithRequireLeader(watchCtx)
	}
	changes := s.client.Watch(watchCtx, prefix,
		clientv3.WithPrefix(), clientv3.WithRev(max(after, 0)+1), clientv3.WithProgressNotify())
	for {
		var r clientv3.WatchResponse
		var open bool
		select {
		case r, open = <-changes:
		case <-s.health.ctx.Done():
			return after, s.health.err()
		}
		if !open {
			return after, cmp.Or(s.health.err(), translate(ctx, context.Canceled))
		}
		if r.CompactRevision != 0 {
			return after, store.ErrCompacted
		}
		if err := r.Err(); err != nil {
			return after, translate(ctx, err)
		}
		if err := s.applied(ctx, r.Events); err != nil {
			return after, err
		}
		// etcd never splits a revision between responses.
		for _, batch := range batches(r.Events) {
			if ctx.Err() != nil || !yield(batch, nil) {
				return after, nil
			}
			after = batch.Revision
		}
	}
}

// applied waits until local reads see the events: etcd announces a commit a
// moment before it can be read.
func (s *Store) applied(ctx context.Context, events []*clientv3.Event) error {
	if !s.local || len(events) == 0 || s.engine.Server.KV().Rev() >= events[len(events)-1].Kv.ModRevision {
		return nil
	}
	_, err := do(ctx, s, func(ctx context.Context) (*clientv3.GetResponse, error) {
		return s.client.Get(ctx, "/", clientv3.WithCountOnly()) // linearizable: behind all that is committed
	})
	return err
}

func batches(events []*clientv3.Event) []store.Batch {
	var all []store.Batch
	for _, e := range events {
		change := store.Change{Entry: entry(e.Kv)}
		if e.Type == clientv3.EventTypeDelete {
			change.Value, change.Deleted = nil, true
		}
		if n := len(all); n == 0 || all[n-1].Revision != change.Revision {
			all = append(all, store.Batch{Revision: change.Revision})
		}
		last := &all[len(all)-1]
		last.Changes = append(last.Changes, change)
	}
	return all
}
