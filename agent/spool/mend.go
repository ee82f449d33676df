package spool

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/miosa/miosa/disk"
)

// hole is a place where records are missing that were on the disk once, and
// where their marker goes: behind the segment with that number or, with whole,
// into a segment of its own that stands for all from covers on.
type hole struct {
	number, covers uint64
	whole          bool
	time           int64
	from, to       spot // the guest's last line before the hole, and in it
	unknown        bool // how many lines
	doubtful       bool // the store may have them
	cut            bool // the power went while it was written; perhaps that is all
}

func (h *hole) lost() uint64 {
	if h.unknown || h.to.boot != h.from.boot || h.to.n < h.from.n {
		return 0
	}
	return min(h.to.n-h.from.n, mostLost)
}

func (h *hole) record() record {
	r := record{time: h.time, lost: h.lost(), guest: h.from, unknown: h.unknown || h.from.boot < h.to.boot}
	if h.from.less(h.to) {
		r.guest = h.to
	}
	text := "… " + lines(h.lost()) + " lost here: the host's log spool was damaged …"
	switch {
	case h.cut:
		text = "… lines may be missing here: the host went down while it kept them …"
	case h.doubtful:
		text = "… lines may be missing here, how many is not known: the host's log spool was damaged …"
	case r.unknown:
		text = "… lines were lost here, how many is not known: the host's log spool was damaged …"
	case h.lost() == 0:
		text = "… words of the platform were lost here: the host's log spool was damaged …"
	}
	r.text = []byte(text)
	return r
}

// holes looks for what is missing. Behind a record that cannot be read nothing
// of its segment is believed: an app's text may look like a record. Segments are
// numbered without a hole, and the position knows how far all had come.
func (i *Instance) holes(found []*foundSegment, known, cut, doubtful bool) []hole {
	var out []hole
	next := max(i.pos.next.segment, 1) // the number that is due
	if !known && len(found) > 0 {
		next = found[0].number
	}
	h := hole{number: next, covers: next, whole: true, from: i.pos.done, unknown: !known}
	if i.pos.done == nobodyKnows {
		h.from, h.unknown = spot{}, true
	}
	broken := false // something is missing since h.from
	for k, f := range found {
		if f.covers > next {
			broken = true
			h.number, h.covers, h.whole = f.number-1, next, true
		}
		// Of the first segment what is shipped stands before the rest.
		shipped := k == 0 && known && f.number == i.pos.next.segment && i.pos.next.index > 0
		if f.count > 0 {
			if h.to = f.before; broken || !shipped && h.jump(&f.segment) {
				if h.time == 0 {
					h.time = f.first
				}
				out = append(out, h)
			}
			broken = false
			h = hole{number: f.number, time: f.last, from: f.guest}
			if shipped && i.pos.done == nobodyKnows {
				h.unknown = f.count <= i.pos.next.index
			} else if shipped && h.from.less(i.pos.done) {
				h.from = i.pos.done
			}
		} else if f.torn {
			h.number, h.whole = f.number, true
			h.covers = min(next, f.number)
		}
		broken = broken || f.torn && (k < len(found)-1 || shipped && f.count < i.pos.next.index || f.short(i.pos.safe) || cut && f.changed)
		if next = f.number + 1; !h.whole {
			h.covers = next
		}
	}
	torn := len(found) > 0 && found[len(found)-1].torn
	h.to = i.pos.guest
	h.to.n -= min(h.to.n, i.pos.owed.limited+i.pos.owed.unstored)
	if h.time == 0 {
		h.time = i.pos.last
	}
	switch {
	case !doubtful && known && h.from.less(h.to) && h.to.n > 0: // else all of that boot is owed for
		out = append(out, h)
	case doubtful || !known && len(found) > 0 || broken && cut:
		h.unknown = true
		out = append(out, h)
	case broken:
		h.unknown = true // it may have held the word of lines that were lost before
		out = append(out, h)
	case torn && cut:
		h.unknown, h.cut = true, true
		out = append(out, h)
	}
	// Where the last word on how far shipping came may be gone, the store may
	// have what is missing here: none of it is counted as lost.
	if cut || i.pos.done == nobodyKnows {
		for k := range out {
			if out[k].lost() > 0 {
				out[k].unknown, out[k].doubtful = true, true
			}
		}
	}
	return out
}

// short: less of it can be read than was on the disk for sure.
func (f *foundSegment) short(safe extent) bool {
	return f.number < safe.segment || f.number == safe.segment && f.size < safe.size
}

// jump reports whether lines are missing between what is before and the
// segment, as far as its first record can tell.
func (h *hole) jump(s *segment) bool {
	if h.unknown || s.unclear || s.before.boot != h.from.boot || s.before.n <= h.from.n {
		return false
	}
	return !s.vague || s.before.n > h.from.n+1
}

// mend cuts off what cannot be read, and leaves a marker in each hole.
func (i *Instance) mend(found []*foundSegment, holes []hole) error {
	var kept []*segment
	for _, f := range found {
		var whole, behind *hole
		for k := range holes {
			switch h := &holes[k]; {
			case h.whole && h.number <= f.number && (len(kept) == 0 || h.number > kept[len(kept)-1].number):
				whole = h
			case !h.whole && h.number == f.number:
				behind = h
			}
		}
		if whole != nil {
			s, err := i.mark(&segment{number: whole.number}, whole)
			if err != nil {
				return err
			}
			kept = append(kept, s)
			if whole.number == f.number {
				continue
			}
		}
		switch {
		case f.size == 0:
			if err := i.unlink(f.number); err != nil {
				return err
			}
			continue
		case behind != nil:
			if _, err := i.mark(&f.segment, behind); err != nil {
				return err
			}
		case f.torn:
			if err := os.Truncate(filepath.Join(i.dir, segmentName(f.number)), f.size); err != nil {
				return err
			}
		}
		kept = append(kept, &f.segment)
	}
	if n := len(holes); n > 0 && holes[n-1].whole && (len(kept) == 0 || kept[len(kept)-1].number < holes[n-1].number) {
		s, err := i.mark(&segment{number: holes[n-1].number}, &holes[n-1])
		if err != nil {
			return err
		}
		kept = append(kept, s)
	}
	i.segments = kept
	for _, s := range kept {
		i.grow(s.size)
		i.pos.last = max(i.pos.last, s.last)
		if i.guest.less(s.guest) {
			i.guest = s.guest
		}
	}
	return nil
}

// mark writes a hole's marker at the end of a segment, or as all of it: in
// place, where a full disk has room. Cut short, what is there is no record, and
// is found so again.
func (i *Instance) mark(s *segment, h *hole) (*segment, error) {
	r := h.record()
	b, at := r.append(nil), s.size
	if h.whole {
		*s = segment{number: h.number, covers: h.covers, size: segmentHead}
		b, at = append(segmentHeader(s.number, s.covers), b...), 0
	}
	f, err := os.OpenFile(filepath.Join(i.dir, segmentName(s.number)), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if _, err = f.WriteAt(b, at); err == nil {
		err = f.Truncate(at + int64(len(b)))
	}
	if err == nil {
		err = unix.Fdatasync(int(f.Fd()))
	}
	s.add(&r)
	return s, errors.Join(err, f.Close(), disk.SyncDir(i.dir))
}
