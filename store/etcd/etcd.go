// Package etcd is the durable store: an etcd inside the process (Open), or a
// cluster outside of it (Connect).
//
// The one inside has no listener: a port on loopback would let every local
// process read what lies here. It is a cluster of one member, and everything
// acknowledged is on disk.
package etcd

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/miosa/miosa/store"
)

// Config is what Open needs to know.
type Config struct {
	Dir string // of the database; made if it is not there
	// Log takes the engine's warnings and errors; nil drops them.
	Log *slog.Logger
	// Retain is how long old revisions are kept for a watch to resume from;
	// 0: 10 minutes. At least a second.
	Retain time.Duration
	// Quota bounds the database file, in bytes; 0: 8 GB.
	Quota int64
	// Reserve is how much free disk puts leave alone, in bytes; 0: 192 MiB.
	// The engine cannot go on once its log finds no room (it takes 64 MB at a
	// time), so nothing is accepted shortly before that.
	Reserve int64
}

// Store implements store.Store.
type Store struct {
	client *clientv3.Client
	leases leases
	log    *slog.Logger
	// local reads are answered by the process's own member without a round of
	// raft: right for a cluster of one, where what is acknowledged is applied.
	// Watch waits for what it saw to be applied too.
	local bool

	// Of an engine inside the process only.
	engine    *embed.Etcd
	lock      *os.File
	space     *space
	quota     int64
	reclaimer reclaimer
	health    *health
}

// Connect uses a cluster outside of the process. The client stays its
// owner's, who closes it.
func Connect(client *clientv3.Client) *Store {
	return &Store{client: client, log: slog.New(slog.DiscardHandler), health: newHealth()}
}

// Get returns the entry under key; Revision 0 when there is none.
func (s *Store) Get(ctx context.Context, key string) (store.Entry, error) {
	r, err := do(ctx, s, func(ctx context.Context) (*clientv3.GetResponse, error) {
		return s.client.Get(ctx, key, s.read()...)
	})
	if err != nil {
		return store.Entry{}, err
	}
	if len(r.Kvs) == 0 {
		return store.Entry{Key: key}, nil
	}
	return entry(r.Kvs[0]), nil
}

// Revision is the newest committed revision.
func (s *Store) Revision(ctx context.Context) (int64, error) {
	r, err := do(ctx, s, func(ctx context.Context) (*clientv3.GetResponse, error) {
		return s.client.Get(ctx, "/", s.read(clientv3.WithCountOnly())...)
	})
	if err != nil {
		return 0, err
	}
	return r.Header.Revision, nil
}

// Compact forgets the changes up to and including a revision, but for the
// store's newest: a watch from before it ends with ErrCompacted.
func (s *Store) Compact(ctx context.Context, revision int64) error {
	newest, err := s.Revision(ctx)
	if err != nil {
		return err
	}
	_, err = do(ctx, s, func(ctx context.Context) (*clientv3.CompactResponse, error) {
		// etcd keeps the changes of the revision that it compacts to, deletes
		// included, and lets a watch begin there.
		return s.client.Compact(ctx, min(revision+1, newest), clientv3.WithCompactPhysical())
	})
	if errors.Is(err, store.ErrCompacted) {
		return nil // as much, or more, was forgotten before
	}
	return err
}

func (s *Store) read(opts ...clientv3.OpOption) []clientv3.OpOption {
	if s.local {
		opts = append(opts, clientv3.WithSerializable())
	}
	return opts
}
