package api

import (
	"encoding/base64"
	"encoding/binary"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/logs"
)

// The first byte of a cursor says what it is, and in which form.
const (
	placeForm = 'l'
	tailForm  = 'f'
)

// placeCursor is the cursor of a page that ended there.
func placeCursor(p logs.Place) string {
	return base64.RawURLEncoding.EncodeToString(appendPlace([]byte{placeForm}, p))
}

// parsePlace reads one. Its words are the caller's: it can name any place, but
// no scope.
func parsePlace(cursor string) (logs.Place, bool) {
	r := openCursor(cursor, placeForm)
	p := r.place()
	return p, r.done()
}

func appendPlace(b []byte, p logs.Place) []byte {
	b = binary.AppendVarint(b, p.Time.UnixMicro())
	b = appendText(b, p.InstanceID)
	return appendPosition(b, p.Position)
}

func appendPosition(b []byte, p logs.Position) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, p.Epoch), p.Seq)
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// tailMark is a place in a stream of logs: what a client got so far.
type tailMark struct {
	// live: the backlog is sent, and so is all that arrived up to mark: of that
	// arrival what is not behind within (zero: all of it). Otherwise the
	// backlog is sent up to place, and mark was the last one when it began.
	live   bool
	mark   logs.Mark
	within logs.Position
	// place is the furthest in time that was sent, or when the stream began.
	place logs.Place
	// sent are lines that may have arrived after mark, and were sent with the
	// backlog. When it is live, no arrival behind until holds any of them.
	sent  []span
	until logs.Mark
}

// span is a row of an instance's lines, both ends in it.
type span struct {
	instance string
	from, to logs.Position
}

func (s span) holds(instance string, p logs.Position) bool {
	return s.instance == instance && !p.Less(s.from) && !s.to.Less(p)
}

// maxSpans bounds a mark: an ID of 4 KB at most. More than that takes as many
// instances, or reads of a backlog one after the other; the oldest matter least.
const maxSpans = 64

func (m *tailMark) String() string {
	b := []byte{tailForm, 0}
	if m.live {
		b[1] = 1
	}
	b = binary.AppendUvarint(b, uint64(m.mark))
	b = appendPosition(b, m.within)
	b = appendPlace(b, m.place)
	b = binary.AppendUvarint(b, uint64(m.until))
	kept := m.sent[max(0, len(m.sent)-maxSpans):]
	b = binary.AppendUvarint(b, uint64(len(kept)))
	for _, s := range kept {
		b = appendPosition(appendPosition(appendText(b, s.instance), s.from), s.to)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func parseTailMark(id string) (tailMark, bool) {
	r := openCursor(id, tailForm)
	live := r.number()
	m := tailMark{
		live: live == 1, mark: logs.Mark(r.number()), within: r.position(), place: r.place(), until: logs.Mark(r.number()),
	}
	n := r.number()
	if live > 1 || n > maxSpans || m.within != (logs.Position{}) && m.mark == 0 {
		return tailMark{}, false
	}
	for range n {
		m.sent = append(m.sent, span{r.text(), r.position(), r.position()})
	}
	return m, r.done()
}

// cursorReader reads what the append functions wrote. Anything else makes it bad.
type cursorReader struct {
	b   []byte
	bad bool
}

func openCursor(cursor string, form byte) *cursorReader {
	b, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil || len(cursor) > 8<<10 || len(b) == 0 || b[0] != form {
		return &cursorReader{bad: true}
	}
	return &cursorReader{b: b[1:]}
}

func (r *cursorReader) done() bool { return !r.bad && len(r.b) == 0 }

func (r *cursorReader) take(n int) {
	if n <= 0 || r.bad {
		r.b, r.bad = nil, true
		return
	}
	r.b = r.b[n:]
}

func (r *cursorReader) number() uint64 {
	v, n := binary.Uvarint(r.b)
	r.take(n)
	return v
}

func (r *cursorReader) position() logs.Position {
	return logs.Position{Epoch: r.number(), Seq: r.number()}
}

// text is an instance's ID, or nothing: a store may make a key of it.
func (r *cursorReader) text() string {
	n := r.number()
	if n > uint64(len(r.b)) {
		r.b, r.bad = nil, true
	}
	if r.bad || n == 0 {
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	if miosa.IDPrefix(s) != miosa.PrefixInstance {
		r.bad = true
	}
	return s
}

// lastMicro is the end of the year 9999, which times end with.
const lastMicro = 253402300799_999999

func (r *cursorReader) place() logs.Place {
	micro, n := binary.Varint(r.b)
	r.take(n)
	if micro < 0 || micro > lastMicro {
		r.bad = true
	}
	return logs.Place{Time: time.UnixMicro(micro).UTC(), InstanceID: r.text(), Position: r.position()}
}
