package edge

import (
	"encoding/binary"
	"slices"
	"testing"
)

// frameEnds reads whole frames the plain way: where each ends, and whether
// one of them is a close frame. It stops at what is no frame.
func frameEnds(p []byte) (ends []int, closed bool) {
	at := 0
	for {
		rest := p[at:]
		if len(rest) < 2 {
			return ends, closed
		}
		head, size := 2, uint64(rest[1]&0x7f)
		switch size {
		case 126:
			head = 4
			if len(rest) < head {
				return ends, closed
			}
			size = uint64(binary.BigEndian.Uint16(rest[2:]))
		case 127:
			head = 10
			if len(rest) < head {
				return ends, closed
			}
			size = binary.BigEndian.Uint64(rest[2:])
			if size>>63 != 0 {
				return ends, closed
			}
		}
		if rest[1]&0x80 != 0 {
			head += 4
		}
		if uint64(len(rest)) < uint64(head) || uint64(len(rest)-head) < size {
			return ends, closed
		}
		at += head + int(size)
		ends = append(ends, at)
		closed = closed || rest[0]&0x0f == 8
	}
}

func frame(opcode byte, masked bool, size int) []byte {
	out := []byte{0x80 | opcode}
	var mask byte
	if masked {
		mask = 0x80
	}
	switch {
	case size < 126:
		out = append(out, mask|byte(size))
	case size < 1<<16:
		out = binary.BigEndian.AppendUint16(append(out, mask|126), uint16(size))
	default:
		out = binary.BigEndian.AppendUint64(append(out, mask|127), uint64(size))
	}
	if masked {
		out = append(out, 1, 2, 3, 4)
	}
	return append(out, make([]byte, size)...)
}

func FuzzFrameTracker(f *testing.F) {
	f.Add(frame(1, false, 5), uint8(1))
	f.Add(slices.Concat(frame(2, true, 0), frame(9, true, 125), frame(1, false, 126), frame(8, false, 2)), uint8(3))
	f.Add(slices.Concat(frame(1, false, 70_000), frame(8, true, 0)), uint8(255))
	f.Add([]byte{0x81, 127, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3}, uint8(2))
	f.Fuzz(func(t *testing.T, p []byte, piece uint8) {
		want, wantClosed := frameEnds(p)
		var got []int
		var tracker frameTracker
		step := int(piece) + 1
		for at := 0; at < len(p); {
			chunk := p[at:min(at+step, len(p))]
			for len(chunk) > 0 {
				n := tracker.advance(chunk)
				if n <= 0 || n > len(chunk) {
					t.Fatalf("advanced %d of %d bytes", n, len(chunk))
				}
				at += n
				chunk = chunk[n:]
				if tracker.boundary() {
					got = append(got, at)
				}
			}
		}
		if !slices.Equal(got, want) || tracker.closed != wantClosed {
			t.Fatalf("boundaries %v closed %v, want %v and %v", got, tracker.closed, want, wantClosed)
		}
	})
}

func TestCloseFrame(t *testing.T) {
	for _, masked := range []bool{false, true} {
		var tracker frameTracker
		p := closeFrame(closeGoingAway, masked)
		if n := tracker.advance(p); n != len(p) || !tracker.boundary() || !tracker.closed {
			t.Errorf("masked %v: % x is no close frame", masked, p)
		}
		if got := binary.BigEndian.Uint16(p[len(p)-2:]); got != 1001 {
			t.Errorf("code %d", got)
		}
	}
}
