package guest

import (
	"bytes"
	"errors"
	"io"
	"syscall"

	wire "github.com/miosa/miosa/wire/guest"
)

// splitter cuts a stream of bytes into lines. A line longer than
// wire.MaxLine comes in pieces, all but the last marked partial.
type splitter struct {
	emit func(text []byte, partial bool)
	rest []byte
}

// write takes the next bytes of the stream.
func (s *splitter) write(p []byte) {
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			break
		}
		if len(s.rest) == 0 {
			s.cut(p[:i])
		} else {
			s.rest = append(s.rest, p[:i]...)
			s.cut(s.rest)
			s.rest = s.rest[:0]
		}
		p = p[i+1:]
	}
	s.rest = append(s.rest, p...)
	for len(s.rest) > wire.MaxLine {
		s.emit(s.rest[:wire.MaxLine], true)
		s.rest = s.rest[:copy(s.rest, s.rest[wire.MaxLine:])]
	}
}

// cut emits a whole line, without its newline.
func (s *splitter) cut(line []byte) {
	for len(line) > wire.MaxLine {
		s.emit(line[:wire.MaxLine], true)
		line = line[wire.MaxLine:]
	}
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	s.emit(line, false)
}

// close emits what stands after the last newline.
func (s *splitter) close() {
	if len(s.rest) > 0 {
		s.cut(s.rest)
		s.rest = nil
	}
}

// forward reads the stream to its end and stores its lines.
func forward(r io.Reader, stream wire.Stream, out *outbox) {
	s := &splitter{emit: func(text []byte, partial bool) { out.line(stream, text, partial) }}
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		s.write(buf[:n])
		if err != nil && !errors.Is(err, syscall.EINTR) {
			s.close()
			return
		}
	}
}
