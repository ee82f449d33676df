package spool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miosa/miosa/disk"
	"github.com/miosa/miosa/logs"
	"github.com/miosa/miosa/wire/guest"
)

const (
	originFile   = "origin.json"
	positionFile = "position"
	// oweFor is how long dropped lines wait for their marker when no line is
	// let through that it could stand before.
	oweFor = time.Second
	// keepBuffer is how much of what was written last stays allocated.
	keepBuffer = 64 << 10
)

// Instance is one instance's part of the spool. Its methods may be called from
// several goroutines at once.
type Instance struct {
	s      *Spool
	id     string
	dir    string
	origin logs.Origin

	mu       sync.Mutex // guards all below
	segments []*segment // oldest first
	active   *os.File   // of the last segment; nil: the next line begins another
	safe     int64      // so much of the active segment is on the disk; of the others all is
	synced   bool       // everything held is on the disk
	undone   bool       // a write failed and left something behind it
	place    *os.File   // the position's file
	pos      position
	guest    spot // the guest's last line held, also when only in debt
	debt     debt
	bucket   bucket
	planMB   int   // of stored lines, when there was too much last
	bytes    int64 // of all segments
	recent   []Recent
	buf      []byte
	ended    bool // nothing more comes: it is removed once all is shipped
	gone     bool // nothing is kept: the store wants none of it, or it was removed
	closed   bool
	failing  bool // an error has been logged and is not over
	adrift   bool // what is in memory may not be what is on the disk: see reload
	// heldUntil: the store took others' lines, and not this one's.
	heldUntil time.Time
}

// Recent is one of the last lines of an app that were found at opening.
type Recent struct {
	Boot int
	N    uint64
	Text []byte
}

// ID is the instance's.
func (i *Instance) ID() string { return i.id }

// Append takes a guest's lines, numbered as guest.Session hands them on; those
// it holds are left out. now is when they came: a line's time is that less its
// age, and no earlier than the line before. On error none of them is held: the guest must be asked
// for them again (see After), and not be told that they are.
func (i *Instance) Append(now time.Time, boot int, batch *guest.Lines) error {
	if len(batch.Lines) == 0 {
		return nil
	}
	i.mu.Lock()
	err := i.append(now, boot, batch)
	i.mu.Unlock()
	if err != nil {
		return fmt.Errorf("spool the lines of instance %s: %w", i.id, err)
	}
	i.s.wake()
	i.s.relieve(now)
	return nil
}

func (i *Instance) append(now time.Time, boot int, batch *guest.Lines) error {
	w := writing{i: i, now: now, began: i.guest, guest: i.guest, debt: i.debt, last: i.pos.last}
	bucket := i.bucket
	full := i.full()
	first := spot{uint32(boot), batch.Lines[0].N}
	if between := first.n - 1; i.guest.less(first) {
		if i.guest.boot == first.boot {
			between -= i.guest.n
		}
		if between > batch.Gap {
			return errHole // what came between was given up again: the guest has it
		}
	}
	if gap := batch.Gap; gap > 0 && i.guest.less(first) {
		if i.guest.boot == first.boot {
			gap = min(gap, first.n-i.guest.n-1) // some of it may be held, though not synced
		}
		w.pay()
		w.guest = spot{first.boot, first.n - 1}
		switch {
		case gap > 0 && i.pos.done == nobodyKnows:
			// Where it is not known what the store has, that may be those.
			r := (&hole{doubtful: true, unknown: true, from: w.guest, time: w.last}).record()
			w.recs = append(w.recs, r)
		case gap > 0:
			w.marker(w.last, gap, "… "+lines(gap)+" lost here: the instance's log buffer was full …")
		}
	}
	for _, l := range batch.Lines {
		at := spot{uint32(boot), l.N}
		if !i.guest.less(at) {
			continue
		}
		stream := logs.Stream(l.Stream)
		if !stream.Valid() {
			stream = logs.System
		}
		if stream != logs.System {
			over, ok := flags(1<<overPlan), false
			if !full {
				over, ok = i.bucket.admit(now, len(l.Text))
			}
			if !ok {
				if w.debt.none() {
					w.debt.since = now.UnixMicro()
				}
				w.debt.limited++
				w.debt.over |= over
				w.guest = at
				continue
			}
		}
		w.pay()
		w.line(at, now.Add(-batch.Age(l)).UnixMicro(), stream, l.Text, l.Partial)
	}
	if err := w.commit(); err != nil {
		i.bucket = bucket
		return err
	}
	return nil
}

// full reports whether nothing more of the app is to be stored; i.mu is held.
func (i *Instance) full() bool {
	if i.s.cfg.Full == nil {
		return false
	}
	most, full := i.s.cfg.Full(i.origin.TenantID)
	if full {
		i.planMB = most
	}
	return full
}

// Limit changes how much the app may log, from now on. What was dropped so far
// is told of with the limit that it was over.
func (i *Instance) Limit(now time.Time, l Limit) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if l = l.withDefaults(); l == i.bucket.limit {
		return
	}
	if err := i.payOld(now, true); err != nil {
		i.complain("write a marker", err)
	}
	i.bucket.set(l, now)
}

// System adds a line of the platform's own.
func (i *Instance) System(now time.Time, text string) error {
	i.mu.Lock()
	w := writing{i: i, now: now, began: i.guest, guest: i.guest, debt: i.debt, last: i.pos.last}
	w.pay()
	w.line(i.guest, now.UnixMicro(), logs.System, []byte(text), false)
	err := w.commit()
	i.mu.Unlock()
	if err != nil {
		return fmt.Errorf("spool a line of instance %s: %w", i.id, err)
	}
	i.s.wake()
	return nil
}

// Lose tells of lines of a boot, the last one numbered n, that Append could not
// take and that the guest no longer has.
func (i *Instance) Lose(now time.Time, boot int, n uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	at := spot{uint32(boot), n}
	if !i.guest.less(at) {
		return
	}
	lost := n
	if i.guest.boot == at.boot {
		lost -= i.guest.n
	}
	if i.debt.none() {
		i.debt.since = now.UnixMicro()
	}
	i.debt.unstored = min(i.debt.unstored+min(lost, mostLost), mostLost)
	i.guest, i.synced = at, false
}

// Sync makes what was appended outlive a power cut: what After says then may be
// acknowledged.
func (i *Instance) Sync(now time.Time) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.payOld(now, false); err != nil {
		return fmt.Errorf("spool the lines of instance %s: %w", i.id, err)
	}
	if err := i.sync(); err != nil {
		return fmt.Errorf("sync the log spool of instance %s: %w", i.id, err)
	}
	return nil
}

// After is the last line of a boot that is safe on the disk.
func (i *Instance) After(boot int) uint64 {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.pos.guest.boot != uint32(boot) {
		return 0
	}
	return i.pos.guest.n
}

// Held is the last line of a boot that was appended, safe or not yet.
func (i *Instance) Held(boot int) uint64 {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.guest.boot != uint32(boot) {
		return 0
	}
	return i.guest.n
}

// Recent are the last lines that were found when the spool was opened, told
// once.
func (i *Instance) Recent() []Recent {
	i.mu.Lock()
	defer i.mu.Unlock()
	recent := i.recent
	i.recent = nil
	return recent
}

// End says that nothing more comes. What is held is shipped and then removed.
func (i *Instance) End(now time.Time) {
	i.mu.Lock()
	if err := i.payOld(now, true); err != nil {
		i.complain("write the last of a log spool", err)
	}
	i.ended = true
	i.mu.Unlock()
	i.s.wake()
}

var (
	errClosed = errors.New("the log spool is closed")
	errHole   = errors.New("lines are missing before these")
)

// writing are records on their way to the disk, and what the instance is to be
// once they are there. The instance's mu is held.
type writing struct {
	i     *Instance
	now   time.Time
	began spot // the guest's last line held when it began
	recs  []record
	guest spot
	debt  debt
	last  int64
}

func (w *writing) line(at spot, micros int64, stream logs.Stream, text []byte, partial bool) {
	w.last = max(w.last, min(micros, w.now.UnixMicro()))
	before := w.guest
	for len(text) > logs.MaxText {
		w.recs = append(w.recs, record{time: w.last, stream: streamNumber(stream), partial: true, guest: before, text: text[:logs.MaxText]})
		text = text[logs.MaxText:]
	}
	w.guest = at
	w.recs = append(w.recs, record{time: w.last, stream: streamNumber(stream), partial: partial, guest: at, text: text})
}

func (w *writing) marker(micros int64, lost uint64, text string) {
	w.last = max(w.last, micros)
	w.recs = append(w.recs, record{time: w.last, lost: min(lost, mostLost), guest: w.guest, text: []byte(text)})
}

// pay writes the marker of what was dropped: one, as a torn write may keep the
// first of two and with it the word that all is paid.
func (w *writing) pay() {
	d, over := w.debt, w.i.bucket.limit.words(w.debt.over, w.i.planMB)
	switch {
	case d.none():
		return
	case d.unstored == 0:
		over = "… " + lines(d.limited) + " dropped here: " + over + " …"
	case d.limited == 0:
		over = "… " + lines(d.unstored) + " lost here: the host's disk was full …"
	default:
		over = "… " + lines(d.limited+d.unstored) + " lost here: " + grouped(d.limited) + " as " + over + ", " + grouped(d.unstored) + " as the host's disk was full …"
	}
	w.marker(min(d.since, w.now.UnixMicro()), d.limited+d.unstored, over)
	w.debt = debt{}
}

func (w *writing) commit() error {
	i := w.i
	if i.closed {
		return errClosed
	}
	if err := i.moored(w.now); err != nil {
		return err
	}
	if i.guest != w.began {
		return errHole // it was read anew
	}
	if len(w.recs) > 0 && !i.gone {
		if err := i.write(w.recs); err != nil {
			return err
		}
	}
	if len(w.recs) > 0 || w.guest != i.guest {
		i.synced = false
	}
	i.guest, i.debt, i.pos.last = w.guest, w.debt, w.last
	return nil
}

// payOld writes the markers of what has waited for long enough.
func (i *Instance) payOld(now time.Time, all bool) error {
	if i.debt.none() || !all && now.UnixMicro()-i.debt.since < oweFor.Microseconds() {
		return nil
	}
	w := writing{i: i, now: now, began: i.guest, guest: i.guest, debt: i.debt, last: i.pos.last}
	w.pay()
	return w.commit()
}

// write puts the records behind the last one: all of them or, on error, none.
func (i *Instance) write(recs []record) error {
	if i.active != nil && i.segments[len(i.segments)-1].size >= i.s.segmentBytes {
		if err := i.seal(); err != nil {
			return err
		}
	}
	if i.active == nil {
		if err := i.begin(); err != nil {
			return err
		}
	}
	seg := i.segments[len(i.segments)-1]
	if i.undone {
		if err := i.active.Truncate(seg.size); err != nil {
			return err
		}
		i.undone = false
	}
	i.buf = i.buf[:0]
	for k := range recs {
		i.buf = recs[k].append(i.buf)
	}
	if _, err := i.active.WriteAt(i.buf, seg.size); err != nil {
		i.undone = i.active.Truncate(seg.size) != nil
		return err
	}
	for k := range recs {
		seg.add(&recs[k])
	}
	i.grow(int64(len(i.buf)))
	if cap(i.buf) > keepBuffer { // there may be thousands of instances
		i.buf = nil
	}
	for i.bytes > i.s.cfg.InstanceBytes {
		if dropped, err := i.drop(); err != nil {
			i.complain("drop the oldest of a log spool", err)
			break
		} else if !dropped {
			break
		}
	}
	return nil
}

func (i *Instance) grow(n int64) {
	i.bytes += n
	i.s.total.Add(n)
}

// begin makes the next segment.
func (i *Instance) begin() error {
	number := max(i.pos.next.segment, 1)
	if n := len(i.segments); n > 0 {
		number = max(number, i.segments[n-1].number+1)
	}
	name := filepath.Join(i.dir, segmentName(number))
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.WriteAt(segmentHeader(number, number), 0); err == nil {
		err = disk.SyncDir(i.dir)
	}
	if err != nil {
		return errors.Join(err, f.Close(), os.Remove(name))
	}
	i.active, i.undone, i.safe = f, false, segmentHead
	i.segments = append(i.segments, &segment{number: number, covers: number, size: segmentHead})
	i.grow(segmentHead)
	return nil
}

// seal ends the active segment, as synced.
func (i *Instance) seal() error {
	if i.undone {
		if err := i.active.Truncate(i.segments[len(i.segments)-1].size); err != nil {
			return err
		}
		i.undone = false
	}
	if err := i.flush(); err != nil {
		return err
	}
	err := i.active.Close()
	i.active = nil
	return err
}

// extent is what is on the disk for sure.
func (i *Instance) extent() extent {
	n := len(i.segments)
	if n == 0 {
		return i.pos.safe
	}
	last := i.segments[n-1]
	if i.active == nil {
		return extent{last.number, last.size}
	}
	return extent{last.number, i.safe}
}

// flush brings the active segment to the disk. Where that fails, nothing written
// since the last time is believed: a second try would succeed without it.
func (i *Instance) flush() error {
	err := unix.Fdatasync(int(i.active.Fd()))
	if err != nil {
		i.adrift = true
	}
	return err
}

// moored reads the disk anew if what is in memory may not be there.
func (i *Instance) moored(now time.Time) error {
	if !i.adrift || i.gone {
		return nil
	}
	if n := len(i.segments); i.active != nil && n > 0 {
		if err := os.Truncate(filepath.Join(i.dir, segmentName(i.segments[n-1].number)), i.safe); err != nil {
			return err
		}
		i.guest, i.debt = i.pos.guest, i.pos.owed
	}
	i.reload(now)
	if i.adrift {
		return errTorn
	}
	return nil
}

// reload reads the disk anew, and mends what is damaged there; i.mu is held.
func (i *Instance) reload(now time.Time) {
	if i.active != nil {
		i.active.Close() // read-only from here on
		i.active = nil
	}
	i.grow(-i.bytes)
	i.segments = nil
	guest, debt := i.guest, i.debt
	i.pos.guest, i.pos.owed = guest, debt
	err := i.load(now, true, false)
	i.recent = nil
	if i.adrift = err != nil; err != nil {
		i.active, i.guest, i.debt = nil, guest, debt
		i.complain("read a log spool again", err)
	}
}

// sync brings everything held to the disk. What was dropped and is owed for
// stands in the position.
func (i *Instance) sync() error {
	if i.closed {
		return errClosed
	}
	if err := i.moored(time.Now()); err != nil || i.synced {
		return err
	}
	if i.active != nil {
		if err := i.flush(); err != nil {
			return err
		}
		i.safe = i.segments[len(i.segments)-1].size
	}
	p := i.pos
	p.guest, p.owed, p.safe = i.guest, i.debt, i.extent()
	if !i.gone {
		// What is dropped stands nowhere else; the rest tells a later opening how
		// much there was.
		if err := p.write(i.place, !i.debt.none()); err != nil {
			return err
		}
	}
	i.pos, i.synced, i.failing = p, true, false
	return nil
}

// drop replaces the oldest segment that was never on its way by a marker of
// its lines; false when there is none.
func (i *Instance) drop() (bool, error) {
	k := slices.IndexFunc(i.segments, func(s *segment) bool { return s.number > i.pos.sent && !s.dropped && s.count > 0 })
	if k < 0 {
		return false, nil
	}
	old := i.segments[k]
	if k == len(i.segments)-1 && i.active != nil {
		if err := i.seal(); err != nil {
			return false, err
		}
	}
	next, from := segment{number: old.number, covers: old.number, size: segmentHead}, k
	lost := old.app
	if k > 0 && i.segments[k-1].dropped && i.segments[k-1].number > i.pos.sent {
		from = k - 1
		next.covers = i.segments[from].covers
		lost += i.segments[from].app
	}
	text := "… " + lines(lost) + " lost here: the host's log spool was full …"
	if lost == 0 {
		text = "… words of the platform were lost here: the host's log spool was full …"
	}
	lost = min(lost, mostLost)
	r := record{time: old.last, lost: lost, dropped: true, guest: old.guest, text: []byte(text)}
	if err := i.replace(next.number, r.append(segmentHeader(next.number, next.covers))); err != nil {
		return false, err
	}
	next.add(&r)
	i.grow(next.size - old.size)
	if from < k {
		i.grow(-i.segments[from].size)
		if err := os.Remove(filepath.Join(i.dir, segmentName(i.segments[from].number))); err != nil {
			i.complain("remove a dropped segment", err) // the next opening does, by what the new one covers
		}
	}
	i.segments = slices.Replace(i.segments, from, k+1, &next)
	return true, nil
}

// replace writes a segment anew. Whether it lasts is not this call's error: it is
// in place.
func (i *Instance) replace(number uint64, b []byte) error {
	p, err := disk.Create(filepath.Join(i.dir, segmentName(number)), 0o600)
	if err != nil {
		return err
	}
	if _, err = p.Write(b); err == nil {
		err = p.Commit()
	}
	if !p.Named() {
		return errors.Join(err, p.Discard())
	}
	if err = errors.Join(err, p.Close()); err != nil {
		i.complain("drop the oldest of a log spool", err)
	}
	return nil
}

// complain logs an error once until all is well again.
func (i *Instance) complain(what string, err error) {
	if !i.failing {
		i.s.log.Error("log spool", "instance", i.id, "doing", what, "err", err)
	}
	i.failing = true
}

// close gives the files back.
func (i *Instance) close() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	var err error
	if i.active != nil {
		err = errors.Join(i.sync(), i.active.Close())
		i.active = nil
	}
	if i.place != nil {
		err = errors.Join(err, i.pos.write(i.place, true), i.place.Close())
		i.place = nil
	}
	i.grow(-i.bytes)
	i.closed = true
	return err
}
