package spool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// cursor is the place of a record: the number of its segment, and what is
// before it there.
type cursor struct {
	segment uint64
	index   int
	offset  int64
}

// debt are lines that were dropped and that no marker tells of yet.
type debt struct {
	limited  uint64 // over the limit
	unstored uint64 // the disk took nothing
	since    int64  // µs
	over     flags  // what limits limited were over; not stored
}

func (d debt) none() bool { return d.limited == 0 && d.unstored == 0 }

// position is how far an instance's spool has come. It is written in place,
// turn by turn into two slots: a full disk can't hinder it, and a torn slot
// leaves the other.
type position struct {
	turn   uint64
	epoch  uint64
	seq    uint64 // the last one shipped
	next   cursor // what comes after it; the offset is not stored
	sent   uint64 // no later segment than this was ever on its way
	last   int64  // time of the last line
	guest  spot   // the guest's last line that is on the disk, or in owed
	owed   debt   // at guest
	done   spot   // the guest's last line up to seq
	uptime uint64 // of which running of the machine this is
	// safe: so much was on the disk, of that segment and of all before it. What
	// cannot be read of it is damaged, and not cut short by our end. Zero: an
	// older version of ours wrote it.
	safe extent
}

// extent is the first bytes of a segment.
type extent struct {
	segment uint64
	size    int64
}

// nobodyKnows is a position's done when an older one is all there is.
var nobodyKnows = spot{boot: math.MaxUint32}

const (
	slotSize  = 512
	slotBody  = 124
	slotMore  = slotBody + 4 + 16 // with what came later, which has a checksum of its own
	slotMagic = 0x4d53504f53303031
)

func (p *position) encode() []byte {
	b := make([]byte, 0, slotSize)
	for _, v := range []uint64{
		slotMagic, p.turn, p.epoch, p.seq, p.next.segment, uint64(p.next.index), p.sent, uint64(p.last),
		p.guest.n, p.owed.limited, p.owed.unstored, uint64(p.owed.since), p.uptime, uint64(p.done.boot), p.done.n,
	} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	b = binary.LittleEndian.AppendUint32(b, p.guest.boot)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	b = binary.LittleEndian.AppendUint64(b, p.safe.segment)
	b = binary.LittleEndian.AppendUint64(b, uint64(p.safe.size))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return b[:slotSize]
}

func decodePosition(b []byte) (p position, ok bool) {
	if len(b) < slotBody+4 || crc32.Checksum(b[:slotBody], castagnoli) != binary.LittleEndian.Uint32(b[slotBody:]) {
		return p, false
	}
	var safe extent
	if len(b) >= slotMore+4 && !blank(b[slotBody+4:slotMore+4]) {
		if crc32.Checksum(b[:slotMore], castagnoli) != binary.LittleEndian.Uint32(b[slotMore:]) {
			return p, false
		}
		safe = extent{binary.LittleEndian.Uint64(b[slotBody+4:]), int64(binary.LittleEndian.Uint64(b[slotBody+12:]))}
	}
	v := func(i int) uint64 { return binary.LittleEndian.Uint64(b[8*i:]) }
	return position{
		turn: v(1), epoch: v(2), seq: v(3), next: cursor{segment: v(4), index: int(v(5))}, sent: v(6), last: int64(v(7)),
		guest:  spot{binary.LittleEndian.Uint32(b[slotBody-4:]), v(8)},
		owed:   debt{limited: v(9), unstored: v(10), since: int64(v(11))},
		uptime: v(12), done: spot{uint32(v(13)), v(14)}, safe: safe,
	}, v(0) == slotMagic
}

// readPosition is the newer sound slot; ok false when there is none. bad: a
// slot was written and cannot be read: torn by a power cut, or damaged.
func readPosition(f *os.File) (p position, ok, bad bool, err error) {
	for i := range int64(2) {
		b := make([]byte, slotSize)
		n, err := f.ReadAt(b, i*slotSize)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, unix.EIO) {
			return p, false, false, err
		}
		if q, sound := decodePosition(b); !sound {
			bad = bad || errors.Is(err, unix.EIO) || !blank(b[:n])
		} else if !ok || q.turn > p.turn {
			p, ok = q, true
		}
	}
	return p, ok, bad, nil
}

// blank: it was never written.
func blank(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// write makes p the newest. Without sync it outlives us, with it a power cut.
func (p *position) write(f *os.File, sync bool) error {
	p.turn++
	if _, err := f.WriteAt(p.encode(), int64(p.turn%2)*slotSize); err != nil {
		return err
	}
	if sync {
		return unix.Fdatasync(int(f.Fd()))
	}
	return nil
}
