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
	"sync"
	"time"

	lsm "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/freespace"
	"github.com/miosa/miosa/metering"
	"github.com/miosa/miosa/usage"
)

// Config says where.
type Config struct {
	Dir string // made if it is not there
	Log *slog.Logger
	// MinFree is how many bytes of Dir's disk stay free: with less, Commit
	// refuses, so that the engine never meets a full disk. 0: 64 MB.
	MinFree uint64
}

// Sizes that bound the memory.
const (
	tableBytes = 1 << 20
	cacheBytes = 4 << 20
)

// Store implements usage.Store. Make it with Open.
type Store struct {
	open sync.RWMutex // held to read by whoever uses db, to write by Close
	db   *lsm.DB      // nil: closed

	dir     string
	minFree uint64

	write sync.Mutex // held from reading rows that are added to until the sum is written
}

// Open opens the store in Config.Dir, or makes it. A store that was killed
// opens with all that it committed.
func Open(c Config) (*Store, error) {
	cache := lsm.NewCache(cacheBytes)
	defer cache.Unref()
	options := &lsm.Options{
		Cache: cache, MemTableSize: tableBytes, MaxOpenFiles: 100, FormatMajorVersion: lsm.FormatNewest,
		FlushDelayDeleteRange: time.Second, Logger: logger{c.Log},
	}
	for i := range options.Levels {
		options.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		options.Levels[i].Compression = func() *sstable.CompressionProfile { return sstable.BalancedCompression }
	}
	db, err := lsm.Open(c.Dir, options)
	if err != nil {
		return nil, fmt.Errorf("open usage store %s: %w", c.Dir, err)
	}
	s := &Store{db: db, dir: c.Dir, minFree: cmp.Or(c.MinFree, 64<<20)}
	if err := s.check(); err != nil {
		return nil, errors.Join(fmt.Errorf("open usage store %s: %w", c.Dir, err), db.Close())
	}
	return s, nil
}

// format is the version of keys and values.
const format = 1

func (s *Store) check() error {
	version, err := s.number(metaKey("format"))
	switch {
	case err != nil:
		return err
	case version == 0:
		return s.db.Set(metaKey("format"), binary.AppendUvarint(nil, format), lsm.Sync)
	case version > format:
		return fmt.Errorf("its format %d is newer than this program's, %d", version, format)
	}
	return nil
}

// Close waits for the calls that use the database at the moment and closes it.
func (s *Store) Close() error {
	s.open.Lock()
	defer s.open.Unlock()
	if s.db == nil {
		return nil
	}
	err := s.db.Close()
	s.db = nil
	if err != nil {
		return fmt.Errorf("close usage store: %w", err)
	}
	return nil
}

// enter begins a use of the database, which leave ends.
func (s *Store) enter(ctx context.Context) (leave func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.open.RLock()
	if s.db == nil {
		s.open.RUnlock()
		return nil, miosa.Errorf(miosa.Unavailable, "the usage store is closed")
	}
	return s.open.RUnlock, nil
}

// get calls use with the value under key, which is its own only that long, if
// there is one.
func (s *Store) get(key []byte, use func(value []byte) error) (found bool, err error) {
	value, closer, err := s.db.Get(key)
	if errors.Is(err, lsm.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, errors.Join(use(value), closer.Close())
}

// number reads a uvarint; absent is 0.
func (s *Store) number(key []byte) (n uint64, err error) {
	_, err = s.get(key, func(value []byte) error {
		n, _ = binary.Uvarint(value)
		return nil
	})
	return n, err
}

// Account implements usage.Store.
func (s *Store) Account(ctx context.Context, instanceID string) (a usage.Account, err error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return a, err
	}
	defer leave()
	found, err := s.get(accountKey(instanceID), func(value []byte) (err error) {
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
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if err := s.room(); err != nil {
		return err
	}
	s.write.Lock()
	defer s.write.Unlock()
	b := s.db.NewBatch()
	defer b.Close() //nolint:errcheck // of a batch in memory
	if err := s.fill(b, c); err != nil {
		return fmt.Errorf("keep usage: %w", err)
	}
	if err := b.Commit(lsm.Sync); err != nil {
		return fmt.Errorf("keep usage: %w", err)
	}
	return nil
}

// room is nil, or the miosa.NoSpace to refuse with.
func (s *Store) room() error {
	free, _, err := freespace.Stat(s.dir)
	if err != nil {
		return fmt.Errorf("look at the disk of %s: %w", s.dir, err)
	}
	if free < s.minFree {
		return miosa.Errorf(miosa.NoSpace, "the disk of %s is nearly full: usage is not kept", s.dir)
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
			if _, err := s.get(key, func(value []byte) (err error) {
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
	sampled, err := s.number(metaKey("sampled"))
	if err != nil || c.Sampled < 0 || uint64(c.Sampled) <= sampled {
		return err
	}
	return b.Set(metaKey("sampled"), binary.AppendUvarint(nil, uint64(c.Sampled)), nil)
}

// Sampled implements usage.Store.
func (s *Store) Sampled(ctx context.Context) (metering.Hour, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	n, err := s.number(metaKey("sampled"))
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
	leave, err := s.enter(ctx)
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
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	s.write.Lock()
	defer s.write.Unlock()
	b := s.db.NewBatch()
	defer b.Close() //nolint:errcheck // of a batch in memory
	it, err := s.db.NewIter(&lsm.IterOptions{LowerBound: []byte{kindAccount}, UpperBound: []byte{kindAccount + 1}})
	if err != nil {
		return fmt.Errorf("expire usage: %w", err)
	}
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		var a usage.Account
		if a, err = parseAccount(string(it.Key()[1:]), it.Value()); err == nil && a.Seen < before {
			err = b.Delete(it.Key(), nil)
		}
	}
	err = errors.Join(err, it.Error(), it.Close(), b.DeleteRange(hourKey(0), hourKey(before), nil))
	if err == nil {
		err = b.Commit(lsm.Sync)
	}
	if err != nil {
		return fmt.Errorf("expire usage: %w", err)
	}
	return nil
}

// logger passes on what Pebble reports as wrong.
type logger struct{ log *slog.Logger }

func (logger) Infof(string, ...any) {}

func (l logger) Errorf(format string, args ...any) {
	l.log.Error("usage store engine", "error", fmt.Sprintf(format, args...))
}

// Fatalf must not return: Pebble has lost its footing, and a new start
// recovers from the write-ahead log.
func (l logger) Fatalf(format string, args ...any) {
	panic("usage store engine: " + fmt.Sprintf(format, args...))
}
