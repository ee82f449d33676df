package etcd

import (
	"context"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/miosa/miosa/store"
)

// leases are shared by all entries of one TTL: an etcd lease each would cost
// a write and memory each. A lease is granted for longer than asked, and used
// for as long as what it has left suffices; so entries outlive their TTL, by
// at most a 24th of it (an hour at most, a second at least) and a second.
type leases struct {
	mu    sync.Mutex // guards byTTL; held while one is granted, so that only one is
	byTTL map[time.Duration]lease
}

type lease struct {
	id    clientv3.LeaseID
	until time.Time // it lives at least that long; by the monotonic clock
}

// grantMargin covers the time between choosing a lease and the commit.
const grantMargin = time.Second

// maxLeases bounds what is remembered, should callers use ever other TTLs.
const maxLeases = 1024

func (s *Store) lease(ctx context.Context, ttl time.Duration) (clientv3.LeaseID, error) {
	ttl = store.CeilSeconds(ttl)
	s.leases.mu.Lock()
	defer s.leases.mu.Unlock()
	now := time.Now()
	if l, ok := s.leases.byTTL[ttl]; ok && l.until.Sub(now) >= ttl+grantMargin {
		return l.id, nil
	}
	slack := store.CeilSeconds(min(max(ttl/24, time.Second), time.Hour))
	granted := ttl + grantMargin + slack
	r, err := do(ctx, s, func(ctx context.Context) (*clientv3.LeaseGrantResponse, error) {
		return s.client.Grant(ctx, int64(granted/time.Second))
	})
	if err != nil {
		return 0, err
	}
	if s.leases.byTTL == nil || len(s.leases.byTTL) >= maxLeases {
		s.leases.byTTL = map[time.Duration]lease{}
	}
	s.leases.byTTL[ttl] = lease{id: r.ID, until: now.Add(granted)}
	return r.ID, nil
}

func (l *leases) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.byTTL)
}
