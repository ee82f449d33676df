package spool

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miosa/miosa/disk"
	"github.com/miosa/miosa/lifecycle"
	"github.com/miosa/miosa/logs"
)

// create makes an instance's directory.
func (s *Spool) create(o logs.Origin, now time.Time) (*Instance, error) {
	dir := filepath.Join(s.cfg.Dir, o.InstanceID)
	if err := disk.MakeDir(dir, 0o700); err != nil {
		return nil, err
	}
	b, err := encodeOrigin(o)
	if err == nil {
		err = disk.Replace(filepath.Join(dir, originFile), b, 0o600)
	}
	if err != nil {
		return nil, err
	}
	return s.open(o.InstanceID, now)
}

// open reads an instance's directory.
func (s *Spool) open(id string, now time.Time) (_ *Instance, err error) {
	i := &Instance{s: s, id: id, dir: filepath.Join(s.cfg.Dir, id), bucket: newBucket(Limit{}, now)}
	if i.origin, err = readOrigin(i.dir, id); err != nil {
		return nil, err
	}
	if i.place, err = os.OpenFile(filepath.Join(i.dir, positionFile), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, i.place.Close())
		}
	}()
	var known, bad bool
	if i.pos, known, bad, err = readPosition(i.place); err != nil {
		return nil, err
	}
	err = i.load(now, known, bad)
	return i, err
}

// load reads the segments, mends what is damaged, and leaves the position
// written. known: there was a position; bad: one that may be newer is damaged.
func (i *Instance) load(now time.Time, known, bad bool) error {
	found, err := i.found(known)
	if err != nil {
		return err
	}
	cut := i.pos.uptime != i.s.uptime
	doubtful := bad && !(known && cut) // the death of our process tears no slot, only a power cut does
	owed := i.pos.owed
	i.guest, i.debt = spot{}, debt{}
	if n := len(found); n > 0 && cut {
		// How far it had come before the power went is not known for sure.
		i.pos.sent = max(i.pos.sent, found[n-1].number)
	}
	i.pos.uptime = i.s.uptime
	if !known && len(found) == 0 {
		i.pos.last = now.UnixMicro() // before this it had nothing to say
	}
	if !known && len(found) > 0 || bad {
		i.pos.done = nobodyKnows
	}
	holes := i.holes(found, known, cut, doubtful)
	// What was numbered last is not known either when the newest word on it is
	// gone: those numbers may be the store's already.
	damaged := doubtful || bad || slices.ContainsFunc(holes, func(h hole) bool { return !h.cut })
	sound := i.resume(found)
	if len(holes) > 0 && holes[0].whole && holes[0].number < i.pos.next.segment {
		i.pos.next = cursor{segment: holes[0].number, offset: segmentHead}
	}
	if damaged || !sound || !known {
		if damaged || known {
			i.s.log.Error("a log spool is damaged: its lines are numbered anew", "instance", i.id, "gaps", len(holes))
		}
		i.pos.epoch, i.pos.seq, i.pos.sent = i.nextEpoch(now), 0, 0
		// Before anything is mended: cut short, it is found damaged again.
		if err := i.pos.write(i.place, true); err != nil {
			return err
		}
	}
	if err := i.mend(found, holes); err != nil {
		return err
	}
	if i.guest.less(i.pos.guest) {
		i.guest, i.debt = i.pos.guest, owed
	}
	if n := len(i.segments); n > 0 {
		last := i.segments[n-1]
		if i.active, err = os.OpenFile(filepath.Join(i.dir, segmentName(last.number)), os.O_RDWR, 0o600); err != nil {
			return err
		}
		if err := unix.Fdatasync(int(i.active.Fd())); err != nil {
			return errors.Join(err, i.active.Close())
		}
		i.safe, i.undone = last.size, false
		if last.dropped {
			if err := i.seal(); err != nil {
				return err
			}
		}
	}
	i.pos.guest, i.pos.owed, i.pos.safe, i.synced = i.guest, i.debt, i.extent(), true
	return errors.Join(i.pos.write(i.place, true), disk.SyncDir(i.dir))
}

// nextEpoch is higher than every earlier one, also than one whose word is lost
// while the clock went back.
func (i *Instance) nextEpoch(now time.Time) uint64 {
	epoch := max(uint64(now.UnixNano()), i.pos.epoch+1)
	if info, err := i.place.Stat(); err == nil {
		epoch = max(epoch, uint64(info.ModTime().UnixNano())+1)
	}
	return epoch
}

// foundSegment is a segment as it was read.
type foundSegment struct {
	segment
	torn    bool
	changed bool  // torn, and not only cut short
	offset  int64 // behind what is shipped of it
}

// found reads the segments. Those that are shipped, and those that others stand
// for, are removed.
func (i *Instance) found(known bool) ([]*foundSegment, error) {
	numbers, err := i.numbers()
	if err != nil {
		return nil, err
	}
	var found []*foundSegment
	var seen spot
	for _, number := range numbers {
		if known && number < i.pos.next.segment {
			if err := i.unlink(number); err != nil {
				return nil, err
			}
			continue
		}
		f, records := &foundSegment{}, 0
		if f.segment, err = scan(i.dir, number, func(r *record, end int64) {
			if records++; number == i.pos.next.segment && records <= i.pos.next.index {
				f.offset = end
			}
			if seen.less(r.guest) {
				seen = r.guest
				i.remember(r)
			}
		}); err != nil && !errors.Is(err, errTorn) {
			return nil, err
		}
		f.torn = err != nil
		if f.torn {
			if f.changed, err = changed(i.dir, number, f.size); err != nil {
				return nil, err
			}
		}
		for n := len(found); n > 0 && found[n-1].number >= f.covers; n-- {
			// It stands for those, too; a crash left them.
			if err := i.unlink(found[n-1].number); err != nil {
				return nil, err
			}
			found = found[:n-1]
		}
		found = append(found, f)
	}
	return found, nil
}

func (i *Instance) remember(r *record) {
	if r.lost > 0 || r.dropped {
		return
	}
	i.recent = append(i.recent, Recent{int(r.guest.boot), r.guest.n, append([]byte(nil), r.text[:min(len(r.text), 2<<10)]...)})
	if len(i.recent) > 2*lifecycle.MaxLastLines {
		i.recent = append([]Recent(nil), i.recent[lifecycle.MaxLastLines:]...)
	}
}

// resume finds where shipping goes on; false when it is not where it was.
func (i *Instance) resume(found []*foundSegment) bool {
	next := i.pos.next
	if len(found) == 0 {
		i.pos.next = cursor{segment: max(next.segment, 1), offset: segmentHead}
		return next.index == 0
	}
	first := found[0]
	if first.number != next.segment {
		i.pos.next = cursor{segment: first.number, offset: segmentHead}
		return next.index == 0
	}
	i.pos.next.index = min(next.index, first.count)
	i.pos.next.offset = max(first.offset, segmentHead)
	return i.pos.next.index == next.index
}

// encodeOrigin writes it twice, each line with its checksum: where one is
// damaged the other one stands.
func encodeOrigin(o logs.Origin) ([]byte, error) {
	b, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	line := fmt.Sprintf("%08x %s\n\n", crc32.Checksum(b, castagnoli), b)
	return []byte(line + line), nil
}

var errOrigin = errors.New("whose lines it holds cannot be read any more")

func readOrigin(dir, id string) (o logs.Origin, err error) {
	b, err := os.ReadFile(filepath.Join(dir, originFile))
	if err != nil {
		return o, err
	}
	for line := range bytes.SplitSeq(b, []byte("\n")) {
		sum, rest, _ := bytes.Cut(line, []byte(" "))
		if string(sum) == fmt.Sprintf("%08x", crc32.Checksum(rest, castagnoli)) && json.Unmarshal(rest, &o) == nil && o.InstanceID == id {
			return o, nil
		}
	}
	return o, errOrigin
}

// numbers are those of the segments on the disk; what else a crash left is
// removed.
func (i *Instance) numbers() ([]uint64, error) {
	entries, err := os.ReadDir(i.dir)
	if err != nil {
		return nil, err
	}
	var numbers []uint64
	for _, e := range entries {
		if n, ok := segmentNumber(e.Name()); ok {
			numbers = append(numbers, n)
		} else if disk.IsLeftover(e.Name()) {
			if err := os.Remove(filepath.Join(i.dir, e.Name())); err != nil {
				return nil, err
			}
		}
	}
	return numbers, nil // ReadDir sorts
}

func (i *Instance) unlink(number uint64) error {
	return os.Remove(filepath.Join(i.dir, segmentName(number)))
}
