package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/miosa/miosa/disk"
)

const (
	defaultReserve = 192 << 20
	defaultQuota   = 8 << 30
	// spaceAge is how long a look at the free disk space is trusted. At
	// 20,000 puts of 1 KB a second no more than a few MB come in meanwhile.
	spaceAge = 100 * time.Millisecond
)

// space refuses writes shortly before the disk is full.
type space struct {
	dir     string
	reserve uint64

	mu     sync.Mutex // guards the rest
	free   uint64
	err    error
	looked time.Time
}

// admit checks that there is room. Deletes may use half of the reserve: they
// are the way out.
func (s *space) admit(puts bool) error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); s.looked.IsZero() || now.Sub(s.looked) > spaceAge {
		s.free, _, s.err = disk.Stat(s.dir)
		s.looked = now
	}
	need := s.reserve
	if !puts {
		need /= 2
	}
	if s.err == nil && s.free < need {
		return noSpace(fmt.Sprintf("the platform's disk is full (%d MB left where the database is); free some space", s.free>>20), nil)
	}
	return nil
}

// forget makes the next admit look anew.
func (s *space) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looked = time.Time{}
}

// reclaimer makes room within the quota, one call at a time.
type reclaimer struct {
	mu   sync.Mutex // held while room is made
	runs atomic.Int64
	// futile says that the last run found the quota filled by live records:
	// until some are deleted, another would find the same, slowly.
	futile atomic.Bool
}

// reclaim drops old revisions, gives the freed pages back to the file system
// and lifts the alarm that stops writes. seen is the number of runs before
// the write that found no room.
func (s *Store) reclaim(ctx context.Context, seen int64) error {
	if err := s.health.enter(); err != nil {
		return err
	}
	defer s.health.leave()
	s.reclaimer.mu.Lock()
	defer s.reclaimer.mu.Unlock()
	if s.reclaimer.runs.Load() != seen {
		return nil // somebody else has just done it
	}
	if s.reclaimer.futile.Load() {
		return errors.New("the records fill the quota")
	}
	defer s.reclaimer.runs.Add(1)
	revision, err := s.Revision(ctx)
	if err != nil {
		return err
	}
	if err := s.Compact(ctx, revision); err != nil {
		return err
	}
	server := s.engine.Server
	if err := server.Backend().Defrag(); err != nil {
		return fmt.Errorf("defragment: %w", err)
	}
	// Room for a single record would only bring us back at once.
	if size := server.Backend().Size(); size > s.quota-s.quota/16 {
		s.reclaimer.futile.Store(true)
		return fmt.Errorf("%d MB of records, the quota is %d MB", size>>20, s.quota>>20)
	}
	_, err = server.Alarm(ctx, &pb.AlarmRequest{
		MemberID: uint64(server.MemberID()), Action: pb.AlarmRequest_DEACTIVATE, Alarm: pb.AlarmType_NOSPACE,
	})
	if err != nil {
		return fmt.Errorf("lift the database's alarm: %w", err)
	}
	s.log.WarnContext(ctx, "database quota was reached; reclaimed what was history")
	return nil
}
