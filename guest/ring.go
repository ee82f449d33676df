package guest

import wire "github.com/miosa/miosa/wire/guest"

// lineOverhead is what one stored line costs besides its text, so that many
// empty lines can't fill the memory either.
const lineOverhead = 64

// ring keeps the last lines, up to a number of bytes, until the host
// acknowledges them.
type ring struct {
	lines []wire.Line // lines[head:], consecutive numbers
	head  int
	bytes int
	max   int
	last  uint64 // number of the last line added
}

func lineCost(text []byte) int { return len(text) + lineOverhead }

// fits reports whether a line can be added without losing another.
func (r *ring) fits(text []byte) bool { return r.bytes+lineCost(text) <= r.max }

// add numbers the line and stores it; the oldest ones make room.
func (r *ring) add(l wire.Line) {
	for !r.fits(l.Text) && r.head < len(r.lines) {
		r.drop()
	}
	r.last++
	l.N = r.last
	r.lines = append(r.lines, l)
	r.bytes += lineCost(l.Text)
}

func (r *ring) drop() {
	r.bytes -= lineCost(r.lines[r.head].Text)
	r.lines[r.head] = wire.Line{}
	r.head++
	if r.head > 1024 && r.head > len(r.lines)/2 {
		n := copy(r.lines, r.lines[r.head:])
		clear(r.lines[n:])
		r.lines, r.head = r.lines[:n], 0
	}
}

// ack forgets lines up to and including n and reports whether there were any.
func (r *ring) ack(n uint64) bool {
	freed := false
	for r.head < len(r.lines) && r.lines[r.head].N <= n {
		r.drop()
		freed = true
	}
	return freed
}

// from returns stored lines from number n on, at most count and bytes of text
// (but at least one), and how many from n on are lost.
func (r *ring) from(n uint64, count, bytes int) (lines []wire.Line, gap uint64) {
	stored := r.lines[r.head:]
	if len(stored) == 0 || n > r.last {
		return nil, 0
	}
	if first := stored[0].N; n < first {
		gap = first - n
	} else {
		stored = stored[n-first:]
	}
	size := 0
	for i, l := range stored {
		size += len(l.Text)
		if i == count || i > 0 && size > bytes {
			stored = stored[:i]
			break
		}
	}
	return append([]wire.Line(nil), stored...), gap
}
