package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
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
		var fs syscall.Statfs_t
		s.err = syscall.Statfs(s.dir, &fs)
		s.free = fs.Bavail * uint64(fs.Bsize) //nolint:gosec // a block size is positive
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

// reclaim makes room within the quota: it drops old revisions, gives the
// freed pages back to the file system and lifts the alarm that stops writes.
func (s *Store) reclaim(ctx context.Context) error {
	if err := s.health.enter(); err != nil {
		return err
	}
	defer s.health.leave()
	s.reclaiming.Lock()
	defer s.reclaiming.Unlock()
	server := s.engine.Server
	if backend := server.Backend(); backend.Size() >= s.quota {
		revision, err := s.Revision(ctx)
		if err != nil {
			return err
		}
		if err := s.Compact(ctx, revision); err != nil {
			return err
		}
		if err := backend.Defrag(); err != nil {
			return fmt.Errorf("defragment: %w", err)
		}
		if size := backend.Size(); size >= s.quota {
			return fmt.Errorf("%d MB of records, the quota is %d MB", size>>20, s.quota>>20)
		}
		s.log.WarnContext(ctx, "database quota was reached; reclaimed what was history")
	}
	_, err := server.Alarm(ctx, &pb.AlarmRequest{
		MemberID: uint64(server.MemberID()), Action: pb.AlarmRequest_DEACTIVATE, Alarm: pb.AlarmType_NOSPACE,
	})
	if err != nil {
		return errors.Join(errors.New("lift the database's alarm"), err)
	}
	return nil
}
