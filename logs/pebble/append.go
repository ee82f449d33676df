package pebble

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"time"

	lsm "github.com/cockroachdb/pebble/v2"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/logs"
)

// applyBytes is how much of an Append is applied at once, in bytes.
const applyBytes = 4 << 20

// position is an instance's last, and where its lines lie.
type position struct {
	logs.Position
	deployment, owner string
	until             int64 // Unix seconds until when the position is kept at least
}

func (p *position) encode() []byte {
	b := binary.AppendUvarint(nil, p.Epoch)
	b = binary.AppendUvarint(b, p.Seq)
	b = binary.AppendVarint(b, p.until)
	return names(b, p.deployment, p.owner)
}

func decodePosition(value []byte) (p position, err error) {
	r := reader{b: value}
	p.Epoch, p.Seq, p.until = r.uvarint(), r.uvarint(), r.varint()
	parts := bytes.Split(r.b, []byte{0})
	if r.bad || len(parts) != 3 {
		return p, fmt.Errorf("position: %w", errChunk)
	}
	p.deployment, p.owner = string(parts[0]), string(parts[1])
	return p, nil
}

// counter is what a tenant logged in an hour.
type counter struct{ lines, bytes uint64 }

func (c counter) encode() []byte {
	return binary.AppendUvarint(binary.AppendUvarint(nil, c.lines), c.bytes)
}

func decodeCounter(value []byte) counter {
	r := reader{b: value}
	return counter{r.uvarint(), r.uvarint()}
}

// Append makes the batches durable. Appends that run at the same time share
// their wait for the disk.
func (s *Store) Append(ctx context.Context, batches []logs.Kept) ([]logs.Arrival, error) {
	for i := range batches {
		if err := valid(&batches[i]); err != nil {
			return nil, err
		}
	}
	leave, err := s.db.Enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := s.room.Room(time.Now()); err != nil {
		return nil, err
	}
	letters := lettersOf(batches)
	var came []logs.Arrival
	var t ticket
	err = s.db.Write(ctx, s.recall, func() (err error) {
		came, t, err = s.apply(batches, letters)
		return err
	})
	if err == nil {
		err = s.settle(t)
	}
	if err != nil {
		return nil, fmt.Errorf("append logs: %w", err)
	}
	return came, nil
}

// valid refuses what has no place in a key.
func valid(b *logs.Kept) error {
	o := &b.Origin
	for _, id := range []string{o.TenantID, o.DeploymentID, o.ServiceID, o.TaskID, o.InstanceID} {
		for i := range len(id) {
			if id[i] < 0x21 || id[i] > 0x7e {
				return miosa.Errorf(miosa.Invalid, "the ID %q of a log batch has bytes that no ID has", id)
			}
		}
	}
	switch {
	case o.TenantID == "" || o.InstanceID == "":
		return miosa.Errorf(miosa.Invalid, "a log batch needs the IDs of its tenant and of its instance")
	case o.ServiceID != "" && o.TaskID != "":
		return miosa.Errorf(miosa.Invalid, "a log batch is of service %s or of task %s, not of both", o.ServiceID, o.TaskID)
	case isTask(o.ServiceID) || o.TaskID != "" && !isTask(o.TaskID):
		return miosa.Errorf(miosa.Invalid, "the ID %q of a log batch is not one of its kind", ownerOf(o))
	case b.First == 0:
		return miosa.Errorf(miosa.Invalid, "the lines of an instance are numbered from 1, not from 0")
	case b.Days < 1 || b.Days > logs.MaxDays:
		return miosa.Errorf(miosa.Invalid, "log lines are kept for 1 to %d days, not for %d", logs.MaxDays, b.Days)
	}
	return nil
}

// ticket says what of the log of writes must be synced.
type ticket struct {
	batch   []*lsm.Batch // to wait for
	applied uint64
	last    uint64
}

// apply writes what is new, without waiting for the disk. The turn is held.
func (s *Store) apply(batches []logs.Kept, letters [][]uint16) (came []logs.Arrival, t ticket, err error) {
	w := writer{s: s, b: s.db.NewBatch(), usage: map[usageAt]counter{}}
	for i := range batches {
		fresh, ok, err := w.fresh(&batches[i].Batch)
		if err != nil {
			return nil, t, err
		}
		if !ok {
			continue
		}
		s.last++
		if err := w.add(&fresh, letters[i], batches[i].Days, s.last); err != nil {
			return nil, t, err
		}
		came = append(came, logs.Arrival{Mark: logs.Mark(s.last), Batch: fresh})
		if w.b.Len() >= applyBytes {
			if err := w.commit(&t); err != nil {
				return nil, t, err
			}
			w.b = s.db.NewBatch()
		}
	}
	if err := w.commit(&t); err != nil {
		return nil, t, err
	}
	t.applied, t.last = s.applied, s.last
	s.shrink()
	return came, t, nil
}

// shrink forgets some of what can be read again.
func (s *Store) shrink() {
	for k := range s.held {
		if len(s.held) <= cachedPositions {
			break
		}
		delete(s.held, k)
	}
	for k := range s.used {
		if len(s.used) <= cachedHours {
			break
		}
		delete(s.used, k)
	}
	for k := range s.letters {
		if len(s.letters) <= cachedLetters {
			break
		}
		delete(s.letters, k)
	}
}

// settle waits until all that the ticket stands for is synced.
func (s *Store) settle(t ticket) error {
	err := s.db.Do(func(db *lsm.DB) error {
		var failed error
		for _, b := range t.batch {
			if err := b.SyncWait(); err != nil && failed == nil {
				failed = err
			}
			if err := b.Close(); err != nil && failed == nil {
				failed = err
			}
		}
		// Nothing new of its own: what it was known by may still be on its way.
		if len(t.batch) == 0 && s.synced.Load() < t.applied {
			failed = db.LogData(nil, lsm.Sync)
		}
		if failed != nil {
			// What the disk has of it nobody knows, also not by asking again.
			return s.db.Fail(failed)
		}
		return nil
	})
	if err != nil {
		return err
	}
	raise(&s.synced, t.applied)
	raise(&s.durable, t.last)
	return nil
}

func raise(v *atomic.Uint64, to uint64) {
	for {
		was := v.Load()
		if was >= to || v.CompareAndSwap(was, to) {
			return
		}
	}
}

// pending is the ticket of all that is applied so far.
func (s *Store) pending(ctx context.Context) (ticket, error) {
	var t ticket
	err := s.db.Write(ctx, nil, func() error {
		t = ticket{applied: s.applied, last: s.last}
		return nil
	})
	return t, err
}

// usageAt is a tenant's hour.
type usageAt struct {
	tenant string
	hour   int32
}

// writer fills one batch of the database. The turn is held.
type writer struct {
	s     *Store
	b     *lsm.Batch
	usage map[usageAt]counter // what is to be added
	value []byte
	keys  []byte

	letterBuf []uint16
	operand   []byte
}

// fresh is what is new of a batch.
func (w *writer) fresh(b *logs.Batch) (logs.Batch, bool, error) {
	if len(b.Lines) == 0 {
		return *b, false, nil
	}
	held, err := w.s.position(b.Origin.TenantID, b.Origin.InstanceID)
	if err != nil {
		return *b, false, err
	}
	fresh := *b
	if b.Epoch < held.Epoch {
		return fresh, false, nil
	}
	if b.Epoch == held.Epoch && b.First <= held.Seq {
		known := held.Seq - b.First + 1
		if known >= uint64(len(b.Lines)) {
			return fresh, false, nil
		}
		fresh.First, fresh.Lines = held.Seq+1, b.Lines[known:]
	}
	return fresh, true, nil
}

// position is an instance's last, from memory or from disk. The turn is held.
func (s *Store) position(tenant, instance string) (position, error) {
	key := positionKey(tenant, instance)
	if p, ok := s.held[string(key)]; ok {
		return p, nil
	}
	p, err := s.readPosition(key)
	if err == nil {
		s.held[string(key)] = p
	}
	return p, err
}

func (s *Store) readPosition(key []byte) (p position, err error) {
	_, err = s.db.Get(key, func(value []byte) (err error) {
		p, err = decodePosition(value)
		return err
	})
	return p, err
}

// add puts a batch into the database's: its chunks with the letters of their
// lines, its arrival, the position.
func (w *writer) add(b *logs.Batch, of []uint16, days int, mark uint64) error {
	w.keys = binary.AppendVarint(w.keys[:0], w.s.now().Unix())
	path := names(nil, b.Origin.TenantID, b.Origin.DeploymentID, ownerOf(&b.Origin), b.Origin.InstanceID)
	seq := b.First
	for lines := b.Lines; len(lines) > 0; {
		micro := lines[0].Time.UnixMicro()
		hour := hourOf(micro)
		n, size, was := 0, 0, micro
		for n < len(lines) && n < chunkLines {
			at := lines[n].Time.UnixMicro()
			// A time that goes back begins a chunk: within one, times are in order.
			if n > 0 && (size+len(lines[n].Text) > chunkBytes || hourOf(at) != hour || at < was) {
				break
			}
			size += len(lines[n].Text)
			was = at
			n++
		}
		in := bucket{uint16(days), hour}
		if err := w.letters(in, path, of); err != nil {
			return err
		}
		key := place(append(in.key(), path...), micro, logs.Position{Epoch: b.Epoch, Seq: seq})
		w.value = encode(w.value[:0], &b.Origin, lines[:n], micro)
		if err := w.b.Set(key, w.value, nil); err != nil {
			return err
		}
		w.keys = binary.AppendUvarint(w.keys, uint64(len(key)))
		w.keys = append(w.keys, key...)
		at := usageAt{b.Origin.TenantID, hour}
		u := w.usage[at]
		w.usage[at] = counter{u.lines + uint64(n), u.bytes + uint64(size)}
		w.s.hours.add(in)
		lines, seq = lines[n:], seq+uint64(n)
	}
	if err := w.b.Set(arrivalKey(mark), w.keys, nil); err != nil {
		return err
	}
	key := positionKey(b.Origin.TenantID, b.Origin.InstanceID)
	p := position{
		Position: logs.Position{Epoch: b.Epoch, Seq: seq - 1}, deployment: b.Origin.DeploymentID, owner: ownerOf(&b.Origin),
		until: b.Lines[len(b.Lines)-1].Time.Unix() + int64(days)*24*3600,
	}
	if was, ok := w.s.held[string(key)]; ok {
		p.until = max(p.until, was.until)
	}
	w.s.held[string(key)] = p
	return w.b.Set(key, p.encode(), nil)
}

// commit applies the batch; the ticket is what to wait for.
func (w *writer) commit(t *ticket) error {
	if w.b.Empty() {
		return w.b.Close()
	}
	for at, add := range w.usage {
		key := usageKey(at.tenant, at.hour)
		have, ok := w.s.used[string(key)]
		if !ok {
			_, err := w.s.db.Get(key, func(value []byte) error {
				have = decodeCounter(value)
				return nil
			})
			if err != nil {
				return err
			}
		}
		have = counter{have.lines + add.lines, have.bytes + add.bytes}
		w.s.used[string(key)] = have
		if err := w.b.Set(key, have.encode(), nil); err != nil {
			return err
		}
	}
	clear(w.usage)
	b := w.b
	if err := w.s.db.Do(func(db *lsm.DB) error { return db.ApplyNoSyncWait(b, lsm.Sync) }); err != nil {
		return err
	}
	t.batch = append(t.batch, w.b)
	w.s.applied++
	return nil
}

// Held is the last position of an instance that is safely stored.
func (s *Store) Held(ctx context.Context, tenantID, instanceID string) (logs.Position, error) {
	leave, err := s.db.Enter(ctx)
	if err != nil {
		return logs.Position{}, err
	}
	defer leave()
	p, err := s.readPosition(positionKey(tenantID, instanceID))
	var t ticket
	if err == nil {
		t, err = s.pending(ctx)
	}
	if err == nil {
		err = s.settle(t)
	}
	if err != nil {
		return logs.Position{}, fmt.Errorf("last position of instance %s: %w", instanceID, err)
	}
	return p.Position, nil
}

// Usage is what a tenant logged; Expire and Purge take nothing from it.
func (s *Store) Usage(ctx context.Context, tenantID string, since, until time.Time) (logs.Usage, error) {
	leave, err := s.db.Enter(ctx)
	if err != nil {
		return logs.Usage{}, err
	}
	defer leave()
	lower := names([]byte{kindUsage}, tenantID)
	it, err := s.db.NewIter(&lsm.IterOptions{LowerBound: lower, UpperBound: behind(lower)})
	if err != nil {
		return logs.Usage{}, fmt.Errorf("usage of tenant %s: %w", tenantID, err)
	}
	first, last := hoursWithin(since, until)
	var sum logs.Usage
	for ok := it.SeekGE(usageKey(tenantID, first)); ok; ok = it.Next() {
		if hourOfUsage(it.Key()) > last {
			break
		}
		u := decodeCounter(it.Value())
		sum.Lines += u.lines
		sum.Bytes += u.bytes
	}
	if err := it.Close(); err != nil {
		return logs.Usage{}, fmt.Errorf("usage of tenant %s: %w", tenantID, err)
	}
	return sum, nil
}

// hoursWithin are the first and the last hour that begin within [since, until).
func hoursWithin(since, until time.Time) (first, last int32) {
	first, last = -1<<31, 1<<31-1
	if !since.IsZero() {
		first = hourOf(ceilMicro(since) + perHour - 1)
	}
	if !until.IsZero() {
		last = hourOf(ceilMicro(until) - 1)
	}
	return first, last
}

// ceilMicro is the first whole microsecond that is not before t.
func ceilMicro(t time.Time) int64 {
	micro := t.UnixMicro()
	if t.Nanosecond()%1000 != 0 {
		micro++
	}
	return micro
}
