// Package spool keeps what the instances of a host log on its disk until the
// log store has it. An instance's lines are acknowledged to its guest once they
// are synced here; they are numbered as they leave, so that what a full spool
// had to drop leaves no hole in the numbers: one marker with the exact count
// stands in its place. A number that may have reached the store is never given
// to another line: what was on its way once is pinned until it is taken.
//
// Counted is by what the guest numbers: each piece of a line that was too long
// counts as one.
package spool

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/disk"
	"github.com/miosa/miosa/logs"
)

// Shipper brings batches to the log store. On error any of them may have been
// taken or not: the same are sent again, for as long as it takes.
// miosa.NotFound says that the deployment of one of them is unknown (Forbidden,
// Invalid and TooLarge that one is refused for good in another way): sent
// alone, it is given up with all that its instance holds.
type Shipper interface {
	Ship(ctx context.Context, hostID string, batches []logs.Batch) error
}

// Config says what a spool may take.
type Config struct {
	Dir     string // absolute; nothing else is in it
	HostID  string
	Shipper Shipper
	// InstanceBytes bounds one instance's files, 0: 64 MB; TotalBytes those of
	// all, 0: 1 GB. Past it the oldest lines that were never on their way are
	// dropped, of the total's from whoever holds the most.
	InstanceBytes, TotalBytes int64
	// FreeBytes is what other users of the disk are left, 0: 512 MB, negative:
	// nothing. Beneath it the spool makes do with a 64th of TotalBytes.
	FreeBytes int64
	// Full is whether a tenant has as many bytes of lines stored as its plan
	// allows, and how many MB that is: its apps' lines are dropped meanwhile. It
	// is asked once for each batch of lines, and must not wait for anything. nil:
	// never.
	Full func(tenantID string) (mostMB int, full bool)
	Log  *slog.Logger
}

const (
	minSegment = 1 << 10
	maxSegment = 4 << 20
	looksEvery = time.Second // at the free space
)

// Spool is one host's. Its methods may be called from several goroutines at
// once.
type Spool struct {
	cfg          Config
	log          *slog.Logger
	segmentBytes int64
	uptime       uint64 // names this running of the machine
	total        atomic.Int64
	woken        chan struct{}
	failing      bool // Run's alone: a failure to ship has been logged and is not over

	mu        sync.Mutex // guards instances
	instances map[string]*Instance

	relief sync.Mutex // guards looked and low; held while room is made
	looked time.Time
	low    bool
}

// New checks the configuration and starts nothing.
func New(cfg Config) (*Spool, error) {
	if !filepath.IsAbs(cfg.Dir) || cfg.HostID == "" || cfg.Shipper == nil || cfg.Log == nil {
		return nil, miosa.Errorf(miosa.Internal, "the log spool's configuration is not complete")
	}
	for _, v := range []struct {
		at    *int64
		value int64
	}{{&cfg.InstanceBytes, 64 << 20}, {&cfg.TotalBytes, 1 << 30}, {&cfg.FreeBytes, 512 << 20}} {
		if *v.at == 0 {
			*v.at = v.value
		}
	}
	return &Spool{
		cfg: cfg, log: cfg.Log.With("host", cfg.HostID), uptime: uptime(), woken: make(chan struct{}, 1), instances: map[string]*Instance{},
		segmentBytes: min(max(cfg.InstanceBytes/16, minSegment), maxSegment),
	}, nil
}

// uptime is a number that changes whenever the machine starts.
func uptime() uint64 {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return 0 // then every start counts as one of the machine, which costs nothing but some pinned lines
	}
	h := fnv.New64a()
	h.Write(b)
	return h.Sum64() | 1
}

const overSuffix = ".over"

// Open reads what an earlier process of ours left. Until Instance asks for
// them, all count as ended: call it before, and Run after.
func (s *Spool) Open(now time.Time) error {
	if err := disk.MakeDir(s.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("open the log spool: %w", err)
	}
	entries, err := os.ReadDir(s.cfg.Dir)
	if err != nil {
		return fmt.Errorf("open the log spool: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range entries {
		id := e.Name()
		if strings.HasSuffix(id, overSuffix) {
			if err := os.RemoveAll(filepath.Join(s.cfg.Dir, id)); err != nil {
				return fmt.Errorf("open the log spool: %w", err)
			}
			continue
		}
		i, err := s.open(id, now)
		if err != nil {
			// One that cannot be read must not keep the host from its work. It is
			// left where it is: its instance, or the next start, tries again.
			s.log.Error("a log spool cannot be read", "instance", id, "err", err)
			continue
		}
		i.ended = true
		s.instances[id] = i
	}
	return nil
}

// Instance is the handle of an instance that runs here, found or made anew.
func (s *Spool) Instance(now time.Time, o logs.Origin, l Limit) (*Instance, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.instances[o.InstanceID]
	if i == nil {
		var err error
		if i, err = s.create(o, now); err != nil {
			return nil, fmt.Errorf("make the log spool of instance %s: %w", o.InstanceID, err)
		}
		s.instances[o.InstanceID] = i
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.ended = false
	i.bucket = newBucket(l, now)
	return i, nil
}

// Close syncs and closes everything: call it when Run has returned and nobody
// appends any more.
func (s *Spool) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	for _, i := range s.instances {
		err = errors.Join(err, i.close())
	}
	clear(s.instances)
	return err
}

func (s *Spool) wake() {
	select {
	case s.woken <- struct{}{}:
	default:
	}
}

// relieve makes room when all instances together hold too much.
func (s *Spool) relieve(now time.Time) {
	if !s.relief.TryLock() {
		return // somebody does
	}
	defer s.relief.Unlock()
	failed := map[*Instance]bool{}
	for s.total.Load() > s.bound(now) {
		i := s.heaviest(failed)
		if i == nil {
			return
		}
		i.mu.Lock()
		dropped, err := i.drop()
		if err != nil {
			i.complain("drop the oldest of a log spool", err)
		}
		i.mu.Unlock()
		if !dropped {
			failed[i] = true
		}
	}
}

// bound is what all may hold together; s.relief is held.
func (s *Spool) bound(now time.Time) int64 {
	if now.Sub(s.looked).Abs() >= looksEvery {
		s.looked, s.low = now, false
		if s.cfg.FreeBytes > 0 {
			free, _, err := disk.Stat(s.cfg.Dir)
			s.low = err == nil && free < uint64(s.cfg.FreeBytes)
		}
	}
	if s.low {
		return s.cfg.TotalBytes / 64
	}
	return s.cfg.TotalBytes
}

func (s *Spool) heaviest(but map[*Instance]bool) *Instance {
	s.mu.Lock()
	defer s.mu.Unlock()
	var heaviest *Instance
	most := int64(0)
	for _, i := range s.instances {
		i.mu.Lock()
		if bytes := i.bytes; bytes > most && !but[i] {
			heaviest, most = i, bytes
		}
		i.mu.Unlock()
	}
	return heaviest
}

// remove takes an ended instance out of the spool once all is shipped.
func (s *Spool) remove(i *Instance) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.ended || s.instances[i.id] != i || i.more() && !i.gone {
		return
	}
	delete(s.instances, i.id)
	if err := i.discard(); err != nil {
		i.complain("remove a log spool", err)
	}
}

// discard closes and removes the files; i.mu is held.
func (i *Instance) discard() error {
	if i.gone {
		return nil
	}
	i.gone = true
	var err error
	if i.active != nil {
		err = i.active.Close()
		i.active = nil
	}
	err = errors.Join(err, i.place.Close())
	i.place = nil
	i.grow(-i.bytes)
	i.segments, i.debt = nil, debt{}
	// A half removed one must not be taken for a whole one.
	over := i.dir + overSuffix
	if err := errors.Join(err, os.RemoveAll(over), disk.Rename(i.dir, over)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return errors.Join(err, os.RemoveAll(over))
}
