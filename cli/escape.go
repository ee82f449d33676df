package cli

import (
	"io"
	"sync/atomic"
)

// escapes is what is typed, but for "~." at the beginning of a line, which ends the
// session; "~~" there is "~".
type escapes struct {
	from  io.Reader
	leave func() error
	ended atomic.Bool
	state escapeState
}

type escapeState int

const (
	lineBegins escapeState = iota
	inLine
	tilde // was typed at the beginning of a line, and is held back
)

func (e *escapes) left() bool { return e.ended.Load() }

// Read hands on what was typed. io.EOF ends the input of a session that was left.
func (e *escapes) Read(b []byte) (int, error) {
	if len(b) < 2 {
		return 0, io.ErrShortBuffer
	}
	for {
		typed := b[len(b)/2:] // what is held back may come before each read
		n, err := e.from.Read(typed)
		out, left := e.pass(b[:0], typed[:n])
		if left {
			e.ended.Store(true)
			_ = e.leave() // it is over, however its connection ends
			return len(out), io.EOF
		}
		if len(out) > 0 || err != nil {
			return len(out), err
		}
	}
}

// pass appends to out what of the typed bytes goes on.
func (e *escapes) pass(out, typed []byte) (_ []byte, left bool) {
	for _, c := range typed {
		if e.state == tilde {
			switch c {
			case '.':
				return out, true
			case '~':
				out, e.state = append(out, '~'), inLine
				continue
			}
			out = append(out, '~')
		}
		switch {
		case c == '~' && e.state == lineBegins:
			e.state = tilde
			continue
		case c == '\r' || c == '\n':
			e.state = lineBegins
		default:
			e.state = inLine
		}
		out = append(out, c)
	}
	return out, false
}
