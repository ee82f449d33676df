package pebble

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"time"

	lsm "github.com/cockroachdb/pebble/v2"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/logs"
	"github.com/miosa/miosa/pebbledb"
)

// arrivalsAtOnce is how many arrivals are looked at before what was found is
// yielded.
const arrivalsAtOnce = 256

// Last is the mark of the newest arrival that is safely stored.
func (s *Store) Last(ctx context.Context) (logs.Mark, error) {
	leave, err := s.db.Enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	return logs.Mark(s.durable.Load()), nil
}

// Arrivals yields what came after the mark. A batch of which the scope leaves
// lines out comes as several with the same mark: within a batch no number is
// missing.
func (s *Store) Arrivals(ctx context.Context, after logs.Mark, scope logs.Scope) iter.Seq2[logs.Arrival, error] {
	to := s.durable.Load()
	return func(yield func(logs.Arrival, error) bool) {
		for mark := uint64(after); mark < to; {
			came, next, err := s.arrivals(ctx, mark, to, scope)
			for _, a := range came {
				if !yield(a, nil) {
					return
				}
			}
			if err != nil {
				yield(logs.Arrival{}, fmt.Errorf("arrivals after mark %d: %w", mark, err))
				return
			}
			mark = next
		}
		// Also when nothing is left: the mark may be older than what is known.
		if _, _, err := s.arrivals(ctx, max(uint64(after), to), to, scope); err != nil {
			yield(logs.Arrival{}, fmt.Errorf("arrivals after mark %d: %w", after, err))
		}
	}
}

// arrivals are some after the mark; next is how far it came.
func (s *Store) arrivals(ctx context.Context, after, to uint64, scope logs.Scope) (came []logs.Arrival, next uint64, err error) {
	view, err := s.db.Look(ctx)
	if err != nil {
		return nil, after, err
	}
	defer func() { err = errors.Join(err, view.Close()) }()
	leave, err := s.db.Enter(ctx)
	if err != nil {
		return nil, after, err
	}
	defer leave()
	forgotten := uint64(0)
	if _, err := pebbledb.Get(view, metaKey("forgotten"), func(value []byte) error {
		forgotten, _ = binary.Uvarint(value)
		return nil
	}); err != nil {
		return nil, after, err
	}
	if after < forgotten {
		return nil, after, miosa.Errorf(miosa.Gone, "the order in which lines came is no longer known so far back: read them by time")
	}
	it, err := view.NewIter(&lsm.IterOptions{LowerBound: arrivalKey(after + 1), UpperBound: arrivalKey(to + 1)})
	if err != nil {
		return nil, after, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	size := 0
	next = after
	for ok := it.First(); ok; ok = it.Next() {
		mark := markOf(it.Key())
		value, err := it.ValueAndErr()
		if err != nil {
			return came, next, err
		}
		b, found, err := arrived(view, value, scope)
		if err != nil {
			return came, next, err
		}
		for _, run := range b {
			came = append(came, logs.Arrival{Mark: logs.Mark(mark), Batch: run})
		}
		next = mark
		if size += 1 + found>>10; size >= arrivalsAtOnce {
			return came, next, nil
		}
	}
	return came, to, it.Error()
}

// arrived reads the chunks of an arrival, as far as they are still there, as
// the runs that the scope holds; size is how many bytes they were.
func arrived(view lsm.Reader, value []byte, scope logs.Scope) (runs []logs.Batch, size int, err error) {
	r := reader{b: value}
	r.varint()
	for len(r.b) > 0 {
		key := r.bytes()
		if r.bad {
			return nil, size, errChunk
		}
		k, err := parseChunkKey(key)
		if err != nil {
			return nil, size, err
		}
		// Most are another's: that is seen without reading the chunk.
		if string(k.name(0)) != scope.TenantID || scope.DeploymentID != "" && string(k.name(1)) != scope.DeploymentID {
			return nil, size, nil
		}
		var own []byte
		found, err := pebbledb.Get(view, key, func(value []byte) error {
			own = bytes.Clone(value)
			return nil
		})
		if err != nil {
			return nil, size, err
		}
		if !found {
			continue
		}
		size += len(own)
		if runs, err = cut(runs, &k, own, scope); err != nil {
			return nil, size, err
		}
	}
	return runs, size, nil
}

// cut appends a chunk's lines to the runs, as far as the scope holds them.
func cut(runs []logs.Batch, k *chunkKey, value []byte, scope logs.Scope) ([]logs.Batch, error) {
	c, err := open(value)
	if err != nil {
		return nil, err
	}
	service, task := owned(k.name(2))
	o := logs.Origin{
		TenantID: string(k.name(0)), DeploymentID: string(k.name(1)), ServiceID: string(service), InstanceID: string(k.name(3)),
		VersionID: string(c.version), HostID: string(c.host), WorkspaceID: string(c.workspace), TaskID: string(task),
	}
	if !scope.Admits(o) {
		return runs, nil
	}
	lines, err := c.lines(nil, k.micro)
	if err != nil {
		return nil, err
	}
	for i := range lines {
		if !scope.Holds(&lines[i]) {
			continue
		}
		seq := k.first.Seq + uint64(i)
		if n := len(runs); n == 0 || runs[n-1].First+uint64(len(runs[n-1].Lines)) != seq {
			runs = append(runs, logs.Batch{Origin: o, Epoch: k.first.Epoch, First: seq})
		}
		run := &runs[len(runs)-1]
		run.Lines = append(run.Lines, lines[i])
	}
	return runs, nil
}

// forget drops the arrivals of before the given time. The turn is held.
func (s *Store) forget(b *lsm.Batch, before time.Time) error {
	it, err := s.db.NewIter(&lsm.IterOptions{LowerBound: []byte{kindArrival}, UpperBound: arrivalKey(s.durable.Load() + 1)})
	if err != nil {
		return err
	}
	last, err := oldest(it, before.Unix())
	if err := errors.Join(err, it.Close()); err != nil || last == 0 {
		return err
	}
	if err := b.DeleteRange([]byte{kindArrival}, arrivalKey(last+1), nil); err != nil {
		return err
	}
	return b.Set(metaKey("forgotten"), binary.AppendUvarint(nil, last), nil)
}

// oldest is the mark of the last arrival of before the given Unix second, 0
// when there is none. They came in order, so that halving finds it.
func oldest(it *lsm.Iterator, before int64) (uint64, error) {
	if !it.First() {
		return 0, it.Error()
	}
	lo := markOf(it.Key()) // the first that may be young enough
	if !it.Last() {
		return 0, it.Error()
	}
	first, hi := lo, markOf(it.Key())+1
	for lo < hi {
		mid := lo + (hi-lo)/2
		if !it.SeekGE(arrivalKey(mid)) {
			return 0, it.Error()
		}
		r := reader{b: it.Value()}
		if r.varint() < before {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == first {
		return 0, it.Error()
	}
	return lo - 1, it.Error()
}
