package pebble

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/miosa/miosa/logs"
)

// A chunk is bounded so that one line is never far from where reading begins.
const (
	chunkLines = 256
	chunkBytes = 64 << 10 // of text; one line may be as long
)

// A line's flags.
const (
	flagStream  = 3 // 0 stdout, 1 stderr, 2 system
	flagPartial = 4
	flagLost    = 8
)

var errChunk = errors.New("a chunk is damaged")

// encode appends a chunk of lines, which begin at micro:
//
//	0, version, host, workspace, count, last - first microsecond,
//	size of the columns, columns (time steps; line flags; lost; text sizes), texts
func encode(b []byte, o *logs.Origin, lines []logs.Line, micro int64) []byte {
	b = append(b, 0) // room for another form
	for _, s := range []string{o.VersionID, o.HostID, o.WorkspaceID} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	b = binary.AppendUvarint(b, uint64(len(lines)))
	b = binary.AppendVarint(b, lines[len(lines)-1].Time.UnixMicro()-micro)
	columns := make([]byte, 0, 6*len(lines))
	was := micro
	for i := range lines {
		at := lines[i].Time.UnixMicro()
		columns = binary.AppendVarint(columns, at-was)
		was = at
	}
	for i := range lines {
		columns = append(columns, lineFlags(&lines[i]))
	}
	for i := range lines {
		if lines[i].Lost > 0 {
			columns = binary.AppendUvarint(columns, lines[i].Lost)
		}
	}
	for i := range lines {
		columns = binary.AppendUvarint(columns, uint64(len(lines[i].Text)))
	}
	b = binary.AppendUvarint(b, uint64(len(columns)))
	b = append(b, columns...)
	for i := range lines {
		b = append(b, lines[i].Text...)
	}
	return b
}

func lineFlags(l *logs.Line) (f byte) {
	switch l.Stream {
	case logs.Stderr:
		f = 1
	case logs.System:
		f = 2
	}
	if l.Partial {
		f |= flagPartial
	}
	if l.Lost > 0 {
		f |= flagLost
	}
	return f
}

// chunk is a chunk as far as it is decoded without looking at its lines. Its
// bytes are the value's.
type chunk struct {
	version, host, workspace []byte
	count                    int
	span                     int64 // microseconds from the first to the last line
	columns, texts           []byte
}

func open(value []byte) (c chunk, err error) {
	r := reader{b: value}
	r.byte()
	c.version, c.host, c.workspace = r.bytes(), r.bytes(), r.bytes()
	c.count = int(r.uvarint())
	c.span = r.varint()
	c.columns, c.texts = r.bytes(), r.b
	if r.bad || c.count > len(c.columns) {
		return c, errChunk
	}
	return c, nil
}

// lines decodes the lines into the slice, from micro on. Their texts are the
// value's.
func (c *chunk) lines(into []logs.Line, micro int64) ([]logs.Line, error) {
	into = into[:0]
	r := reader{b: c.columns}
	for range c.count {
		micro += r.varint()
		into = append(into, logs.Line{Time: time.UnixMicro(micro).UTC()})
	}
	lost := false
	for i := range into {
		f := r.byte()
		l := &into[i]
		switch f & flagStream {
		case 0:
			l.Stream = logs.Stdout
		case 1:
			l.Stream = logs.Stderr
		default:
			l.Stream = logs.System
		}
		l.Partial = f&flagPartial != 0
		if f&flagLost != 0 {
			l.Lost = 1
			lost = true
		}
	}
	for i := 0; lost && i < len(into); i++ {
		if into[i].Lost > 0 {
			into[i].Lost = r.uvarint()
		}
	}
	texts := c.texts
	for i := range into {
		n := r.uvarint()
		if r.bad || n > uint64(len(texts)) {
			return nil, errChunk
		}
		into[i].Text, texts = texts[:n:n], texts[n:]
	}
	return into, nil
}

// reader takes bytes off the front; bad: there were too few.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.bad = true
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) bytes() []byte {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}
