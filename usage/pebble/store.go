// Package pebble is the usage store that is built in: one small Pebble
// database in a directory.
//
//	r hour tenant deployment service attribution → amounts, the deployment's name
//	a instance → its account
//	m name → what the store knows of itself
//
// Rows that expire together are one range; a tenant's of an hour are another.
package pebble

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"time"

	lsm "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/disk"
	"github.com/miosa/miosa/metering"
	"github.com/miosa/miosa/pebbledb"
	"github.com/miosa/miosa/usage"
)

// Config says where.
type Config struct {
	Dir string // made if it is not there
	Log *slog.Logger
	// MinFree is how many bytes of Dir's disk stay free: with less, Commit
	// refuses. 0: 64 MB.
	MinFree uint64

	fs vfs.FS // nil: the disk
}

// Sizes that bound the memory.
const (
	tableBytes = 1 << 20
	cacheBytes = 4 << 20
)

// Store implements usage.Store. Make it with Open.
type Store struct {
	db   *pebbledb.DB
	room disk.Guard
}

// Open opens the store in Config.Dir, or makes it. A store that was killed
// opens with all that it committed.
func Open(c Config) (*Store, error) {
	db, err := pebbledb.Open(pebbledb.Config{
		Dir: c.Dir, Log: c.Log, FS: c.fs, Store: "usage store", Failing: "hosts keep what their instances used, and log lines are not counted",
		Options: lsm.Options{CacheSize: cacheBytes, MemTableSize: tableBytes, MaxOpenFiles: 100, FlushDelayDeleteRange: time.Second},
		Filters: true, FormatKey: metaKey("format"), Format: format,
	})
	if err != nil {
		return nil, err
	}
	return &Store{db: db, room: disk.Guard{Dir: c.Dir, Log: c.Log, Min: cmp.Or(c.MinFree, 64<<20), What: "usage", Refused: "usage is not kept"}}, nil
}

// format is the version of keys and values.
const format = 1

// Close waits for the calls that use the database at the moment and closes it.
func (s *Store) Close() error { return s.db.Close() }

// Account implements usage.Store.
func (s *Store) Account(ctx context.Context, instanceID string) (a usage.Account, err error) {
	leave, err := s.db.Enter(ctx)
	if err != nil {
		return a, err
	}
	defer leave()
	if err := s.db.Settled(); err != nil {
		return a, err
	}
	found, err := s.db.Get(accountKey(instanceID), func(value []byte) (err error) {
		a, err = parseAccount(instanceID, value)
		return err
	})
	switch {
	case err != nil:
		return a, fmt.Errorf("usage of instance %s: %w", instanceID, err)
	case !found:
		return a, miosa.Errorf(miosa.NotFound, "no usage of instance %q is known", instanceID)
	}
	return a, nil
}

// Commit implements usage.Store. miosa.NoSpace: the disk is nearly full.
func (s *Store) Commit(ctx context.Context, c usage.Change) error {
	leave, err := s.db.Enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if err := s.room.Room(time.Now()); err != nil {
		return err
	}
	err = s.db.Write(ctx, nil, func() error {
		b := s.db.NewBatch()
		if err := s.fill(b, c); err != nil {
			return err
		}
		return s.db.Commit(b)
	})
	if err != nil {
		return fmt.Errorf("keep usage: %w", err)
	}
	return nil
}

func (s *Store) fill(b *lsm.Batch, c usage.Change) error {
	for i := range c.Accounts {
		value, err := marshalAccount(&c.Accounts[i])
		if err != nil {
			return err
		}
		if err := b.Set(accountKey(c.Accounts[i].InstanceID), value, nil); err != nil {
			return err
		}
	}
	sums := map[string]usage.Row{}
	for _, add := range c.Add {
		key := rowKey(add.Hour, add.Subject)
		old, known := sums[string(key)]
		if !known {
			if _, err := s.db.Get(key, func(value []byte) (err error) {
				old.Amount, _, err = parseAmount(value)
				return err
			}); err != nil {
				return err
			}
		}
		add.Amount = add.Plus(old.Amount)
		sums[string(key)] = add
	}
	for key, row := range sums {
		if err := b.Set([]byte(key), marshalAmount(row.Amount, row.Name), nil); err != nil {
			return err
		}
	}
	if c.Sampled == 0 {
		return nil
	}
	sampled, err := s.db.Number(metaKey("sampled"))
	if err != nil || c.Sampled < 0 || uint64(c.Sampled) <= sampled {
		return err
	}
	return b.Set(metaKey("sampled"), binary.AppendUvarint(nil, uint64(c.Sampled)), nil)
}

// Sampled implements usage.Store.
func (s *Store) Sampled(ctx context.Context) (metering.Hour, error) {
	leave, err := s.db.Enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	if err := s.db.Settled(); err != nil {
		return 0, err
	}
	n, err := s.db.Number(metaKey("sampled"))
	return metering.Hour(n), err //nolint:gosec // written by Commit
}

// Rows implements usage.Store.
func (s *Store) Rows(ctx context.Context, q usage.Query) iter.Seq2[usage.Row, error] {
	return func(yield func(usage.Row, error) bool) {
		if err := s.scan(ctx, q, func(r usage.Row) bool { return yield(r, nil) }); err != nil {
			yield(usage.Row{}, err)
		}
	}
}

// scan reads on from hour to hour: of each, the tenant's range.
func (s *Store) scan(ctx context.Context, q usage.Query, take func(usage.Row) bool) (err error) {
	leave, err := s.db.Enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	it, err := s.db.NewIter(&lsm.IterOptions{LowerBound: hourKey(q.Since), UpperBound: hourKey(q.Until)})
	if err != nil {
		return fmt.Errorf("read usage: %w", err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok; {
		if err := ctx.Err(); err != nil {
			return err
		}
		r, err := parseRow(it.Key(), it.Value())
		if err != nil {
			return fmt.Errorf("read usage: %w", err)
		}
		switch {
		case q.TenantID == "" || r.TenantID == q.TenantID:
			if q.Admits(r.Subject) && !take(r) {
				return nil
			}
			ok = it.Next()
		case r.TenantID < q.TenantID:
			ok = it.SeekGE(tenantKey(r.Hour, q.TenantID))
		default:
			ok = it.SeekGE(tenantKey(r.Hour+1, q.TenantID))
		}
	}
	return it.Error()
}

// Expire implements usage.Store.
func (s *Store) Expire(ctx context.Context, before metering.Hour) error {
	leave, err := s.db.Enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if err := s.db.Write(ctx, nil, func() error { return s.expire(before) }); err != nil {
		return fmt.Errorf("expire usage: %w", err)
	}
	return nil
}

func (s *Store) expire(before metering.Hour) error {
	b := s.db.NewBatch()
	it, err := s.db.NewIter(&lsm.IterOptions{LowerBound: []byte{kindAccount}, UpperBound: []byte{kindAccount + 1}})
	if err != nil {
		return err
	}
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		var a usage.Account
		if a, err = parseAccount(string(it.Key()[1:]), it.Value()); err == nil && a.Seen < before {
			err = b.Delete(it.Key(), nil)
		}
	}
	err = errors.Join(err, it.Error(), it.Close(), b.DeleteRange(hourKey(0), hourKey(before), nil))
	if err != nil {
		return err
	}
	return s.db.Commit(b)
}
