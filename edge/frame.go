package edge

import "encoding/binary"

// frameTracker follows the WebSocket frames (RFC 6455, 5.2) of one direction
// as their bytes pass, however they are cut up, to know where one may be put
// in between. It keeps no payload.
type frameTracker struct {
	head    [10]byte // of the frame under way: without the mask, which is skipped with the payload
	have    int      // bytes of it seen
	payload uint64   // bytes of mask and payload still to come
	closing bool     // the frame under way is a close frame
	closed  bool     // a close frame has passed in full
	broken  bool     // not WebSocket frames: there is no boundary any more
}

// boundary reports whether a frame may be put in here.
func (f *frameTracker) boundary() bool {
	return !f.broken && f.have == 0 && f.payload == 0
}

// advance follows p to the end of the frame under way, or to the end of p if
// that comes first, and returns how many bytes that was.
func (f *frameTracker) advance(p []byte) int {
	if f.broken {
		return len(p)
	}
	n := 0
	for n < len(p) {
		if f.payload > 0 && f.have == 0 {
			step := min(f.payload, uint64(len(p)-n))
			f.payload -= step
			n += int(step)
			if f.payload == 0 {
				f.end()
				return n
			}
			continue
		}
		f.head[f.have] = p[n]
		f.have++
		n++
		if f.have < f.headLen() {
			continue
		}
		if !f.begin() {
			return len(p)
		}
		if f.payload == 0 {
			f.end()
			return n
		}
	}
	return n
}

// headLen is the length of the header as far as its bytes tell.
func (f *frameTracker) headLen() int {
	if f.have < 2 {
		return 2
	}
	switch f.head[1] & 0x7f {
	case 126:
		return 4
	case 127:
		return 10
	}
	return 2
}

// begin reads a complete header; it reports false for one that cannot be.
func (f *frameTracker) begin() bool {
	switch size := f.head[1] & 0x7f; size {
	case 126:
		f.payload = uint64(binary.BigEndian.Uint16(f.head[2:]))
	case 127:
		f.payload = binary.BigEndian.Uint64(f.head[2:])
	default:
		f.payload = uint64(size)
	}
	if f.payload>>63 != 0 {
		f.broken = true
		return false
	}
	if f.head[1]&0x80 != 0 {
		f.payload += 4
	}
	f.closing = f.head[0]&0x0f == 8
	f.have = 0
	return true
}

func (f *frameTracker) end() {
	f.closed = f.closed || f.closing
	f.closing = false
}

// Close codes (RFC 6455, 7.4.1 and its registry).
const (
	closeGoingAway      = 1001
	closeServiceRestart = 1012
)

// closeFrame is a whole close frame without a reason; towards a server it is
// masked. A mask of zeros is legal and hides nothing worth hiding here.
func closeFrame(code uint16, masked bool) []byte {
	frame := []byte{0x88, 2}
	if masked {
		frame = []byte{0x88, 0x82, 0, 0, 0, 0}
	}
	return binary.BigEndian.AppendUint16(frame, code)
}
