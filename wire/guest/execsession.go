package guest

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
)

// ErrExecWindow: more input than ExecWindow has room for.
var ErrExecWindow = errors.New("more input than the window of an exec session has room for")

// ExecError is a guest that does not keep to the rules of exec sessions.
type ExecError struct{ Reason string }

func (e *ExecError) Error() string { return "the guest breaks the rules of exec sessions: " + e.Reason }

// MaxExecMessage bounds what ExecEnded.Message comes to the host as, in bytes.
const MaxExecMessage = 1 << 10

// ExecSession is the host's side of one exec session on a port: it passes over
// what an earlier one left there, keeps to the window, and believes nothing that
// breaks the rules. One goroutine may call Receive, any the others.
type ExecSession struct {
	conn   *Conn
	nonce  uint64
	opened bool // Receive's alone, like ended
	ended  bool

	mu      sync.Mutex // guards way
	way     int        // bytes of input that ExecTaken has not told of
	writing sync.Mutex // keeps input in the order in which it was taken into way
}

// OpenExec begins a session. The nonce of o is any number but 0 that was not used
// on this VM lately, also by an earlier process: a random one.
func OpenExec(port io.ReadWriter, o ExecOpen) (*ExecSession, error) {
	s := &ExecSession{conn: NewConn(port), nonce: o.Nonce}
	return s, s.conn.WriteMessage(Message{ExecOpen: &o})
}

// Receive waits for the next thing that the guest says of the session: ExecOpened
// first, or ExecEnded at once; then ExecOutput and ExecTaken; ExecEnded last. After
// that io.EOF. An ExecError for a guest that breaks the rules, or the stream's own,
// which never is io.EOF.
func (s *ExecSession) Receive() (Message, error) {
	if s.ended {
		return Message{}, io.EOF
	}
	for {
		m, err := s.conn.ReadMessage()
		if _, invalid := errors.AsType[*InvalidMessageError](err); invalid {
			continue // newer than we are, or nonsense; the stream is still in step
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return m, err
		}
		told, ok, err := s.judge(m)
		if err != nil || ok {
			return told, err
		}
	}
}

// judge makes of a message what the session's user may believe; ok is false for
// what is none of it.
func (s *ExecSession) judge(m Message) (_ Message, ok bool, err error) {
	broken := func(format string, args ...any) (Message, bool, error) {
		return Message{}, false, &ExecError{fmt.Sprintf(format, args...)}
	}
	switch {
	case m.ExecOpened != nil && m.ExecOpened.Nonce == s.nonce:
		if s.opened {
			return broken("it began twice")
		}
		s.opened = true
	case m.ExecOutput != nil && m.ExecOutput.Nonce == s.nonce:
		switch o := m.ExecOutput; {
		case !s.opened:
			return broken("output before it began")
		case len(o.Data) > ExecChunk:
			return broken("a message with %d bytes of output", len(o.Data))
		case o.Stream != Stdout && o.Stream != Stderr:
			return broken("output of %.20q", o.Stream)
		}
	case m.ExecTaken != nil && m.ExecTaken.Nonce == s.nonce:
		s.mu.Lock()
		defer s.mu.Unlock()
		if n := m.ExecTaken.Bytes; n < 0 || n > s.way {
			return broken("%d bytes of input taken where %d were on their way", n, s.way)
		}
		s.way -= m.ExecTaken.Bytes
	case m.ExecEnded != nil && m.ExecEnded.Nonce == s.nonce:
		s.ended = true
		e := *m.ExecEnded
		if e.Code < 0 || e.Code > 255 {
			return broken("exit code %d", e.Code)
		}
		e.Message = strings.Map(func(r rune) rune {
			if strconv.IsPrint(r) {
				return r
			}
			return '?' // it is shown on terminals
		}, strings.ToValidUTF8(e.Message[:min(len(e.Message), MaxExecMessage)], "\uFFFD"))
		m.ExecEnded = &e
	default:
		return Message{}, false, nil // of another session, or a Pong
	}
	return m, true, nil
}

// Room is how many bytes of input may be sent now.
func (s *ExecSession) Room() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return ExecWindow - s.way
}

// Input sends data, in messages of at most ExecChunk, and the input's end with eof.
// ErrExecWindow where there is no room for all of it: nothing is sent then.
func (s *ExecSession) Input(data []byte, eof bool) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	fits := s.way+len(data) <= ExecWindow
	if fits {
		s.way += len(data)
	}
	s.mu.Unlock()
	if !fits {
		return ErrExecWindow
	}
	for len(data) > 0 || eof {
		chunk := data[:min(len(data), ExecChunk)]
		data = data[len(chunk):]
		last := eof && len(data) == 0
		if err := s.conn.WriteMessage(Message{ExecInput: &ExecInput{Nonce: s.nonce, Data: chunk, EOF: last}}); err != nil {
			return err
		}
		if last {
			return nil
		}
	}
	return nil
}

// Resize tells of the terminal's size, in characters.
func (s *ExecSession) Resize(rows, cols int) error {
	return s.conn.WriteMessage(Message{ExecResize: &ExecResize{Nonce: s.nonce, Rows: rows, Cols: cols}})
}

// Signal sends one of Linux's signals, by its number.
func (s *ExecSession) Signal(number int) error {
	return s.conn.WriteMessage(Message{ExecSignal: &ExecSignal{Nonce: s.nonce, Signal: number}})
}

// Ping tells the guest that its host is still there: see ExecPing.
func (s *ExecSession) Ping() error { return s.conn.WriteMessage(Message{Ping: &Ping{Seq: s.nonce}}) }
