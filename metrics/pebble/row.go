package pebble

import (
	"encoding/binary"
	"time"

	"github.com/miosa/miosa/metrics"
)

// A source's samples of an hour are one value: rows, one after the other, each
// told by what changed since the row before.
//
//	head    byte: whole (stands alone), or in step (Interval after the one before, to the ms)
//	time    whole: ms since the hour began; else the ms beyond Interval, zigzag; in step: none
//	has     uvarint: bits of the figures that are there; whole rows only, and those with newHas
//	changed uvarint: bits of the figures whose value follows; not of whole rows
//	values  zigzag differences to the row before; of whole rows the values
const (
	whole  byte = 1 << iota
	inStep      // the time is exactly Interval later
	newHas      // other figures are there than in the row before
)

// interval in ms.
const interval = int64(metrics.Interval / time.Millisecond)

// state is what a row is told against.
type state struct {
	ms   int64 // since the hour began
	has  uint64
	last [32]int64 // by figure; of one that is not there its last value
}

// figures is how many the program knows; what a newer one stored is skipped.
var figures = len(metrics.Figures())

// appendRow tells a row, and brings the state up to it.
func appendRow(b []byte, s *state, first bool, ms int64, v *metrics.Values) []byte {
	var has, changed uint64
	var next [32]int64
	for f := range figures {
		n, ok := v.Get(metrics.Figure(f))
		if !ok {
			continue
		}
		has |= 1 << f
		next[f] = n
		if n != s.last[f] {
			changed |= 1 << f
		}
	}
	if first {
		*s = state{}
		b = append(b, whole)
		b = binary.AppendUvarint(b, uint64(ms))
		b = binary.AppendUvarint(b, has)
		changed = has
	} else {
		head, late := byte(0), ms-s.ms-interval
		if late == 0 {
			head |= inStep
		}
		if has != s.has {
			head |= newHas
		}
		b = append(b, head)
		if late != 0 {
			b = binary.AppendVarint(b, late)
		}
		if has != s.has {
			b = binary.AppendUvarint(b, has)
		}
		b = binary.AppendUvarint(b, changed)
	}
	for f := range figures {
		if changed&(1<<f) != 0 {
			b = binary.AppendVarint(b, next[f]-s.last[f])
			s.last[f] = next[f]
		}
	}
	s.ms, s.has = ms, has
	return b
}

// rows yields what a value holds, up to where it cannot be read: ok tells
// whether that was its end.
func rows(b []byte, yield func(ms int64, v *metrics.Values) bool) (ok bool) {
	r := reader{b: b}
	var s state
	for begun := false; len(r.b) > 0; begun = true {
		head := r.b[0]
		r.b = r.b[1:]
		var changed uint64
		if head&whole != 0 {
			s = state{ms: int64(r.uvarint())}
			s.has = r.uvarint()
			changed = s.has
		} else {
			if !begun {
				return false
			}
			s.ms += interval
			if head&inStep == 0 {
				s.ms += r.varint()
			}
			if head&newHas != 0 {
				s.has = r.uvarint()
			}
			changed = r.uvarint()
		}
		for f := range s.last {
			if changed&(1<<f) != 0 {
				s.last[f] += r.varint()
			}
		}
		if r.bad || changed>>len(s.last) != 0 {
			return false
		}
		var v metrics.Values
		for f := range figures {
			if s.has&(1<<f) != 0 {
				v.Set(metrics.Figure(f), s.last[f])
			}
		}
		if !yield(s.ms, &v) {
			return true
		}
	}
	return true
}

// reader reads numbers; anything else makes it bad.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	r.take(n)
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	r.take(n)
	return v
}

func (r *reader) take(n int) {
	if n <= 0 {
		r.b, r.bad = nil, true
		return
	}
	r.b = r.b[n:]
}
