package guest

import "fmt"

// Negotiate picks the highest version that both sides speak.
func Negotiate(h Hello) (int, error) {
	v := min(h.Max, MaxVersion)
	if v < max(h.Min, MinVersion) {
		return 0, fmt.Errorf("the guest speaks protocol versions %d to %d, this host %d to %d", h.Min, h.Max, MinVersion, MaxVersion)
	}
	return v, nil
}

// OutOfStepError says that the guest's line numbers do not follow from what
// it sent before: a frame was lost or the guest lies. Connecting anew makes
// the guest send everything from the last good line.
type OutOfStepError struct{ Want, Got uint64 }

func (e *OutOfStepError) Error() string {
	return fmt.Sprintf("guest sent line %d, want %d", e.Got, e.Want)
}

// Session is the host's side of one VM's channel over any number of
// connections: it drops what an earlier connection left in the stream, and
// hands on every line once, in order, with its gaps. It does no I/O and is for
// one goroutine:
//
//	s := NewSession(after)
//	for each connection:
//		conn.WriteMessage(s.Connect(nonce))
//		for m := range conn.ReadMessage: m, ok, err := s.Receive(m)
type Session struct {
	after   uint64
	nonce   uint64
	live    bool
	version int
}

// NewSession begins after the last line number that the host holds, 0 for a
// VM that is new to it.
func NewSession(after uint64) *Session { return &Session{after: after, version: MaxVersion} }

// Connect returns what the host must send first on a new connection. The
// nonce is any number but 0 that was not used on this VM lately, also by an
// earlier process: a random one.
func (s *Session) Connect(nonce uint64) Message {
	s.nonce, s.live = nonce, false
	return Message{Attach: &Attach{Version: s.version, After: s.after, Nonce: nonce}}
}

// After is the number of the last line handed on.
func (s *Session) After() uint64 { return s.after }

// Live reports whether the guest has answered on this connection.
func (s *Session) Live() bool { return s.live }

// Version is the negotiated protocol version, once live.
func (s *Session) Version() int { return s.version }

// Receive judges one message from the guest. It returns ok false for one that
// must be ignored. Lines come back without those the host holds, and with a
// Gap counted here. An error ends the connection; after OutOfStepError a new
// one may go on.
func (s *Session) Receive(m Message) (_ Message, ok bool, err error) {
	switch {
	case m.Boot != nil || m.Attach != nil || m.Ack != nil || m.Ping != nil || m.Stop != nil || m.Adjust != nil:
		return Message{}, false, &InvalidMessageError{Reason: "the guest sent a message that only hosts send"}
	case m.Hello != nil:
		if m.Hello.Nonce != s.nonce || s.live {
			return Message{}, false, nil
		}
		if s.version, err = Negotiate(*m.Hello); err != nil {
			return Message{}, false, err
		}
		s.live = true
		return m, true, nil
	case !s.live:
		return Message{}, false, nil
	case m.Lines != nil:
		return s.lines(*m.Lines)
	}
	return m, true, nil
}

func (s *Session) lines(batch Lines) (Message, bool, error) {
	if len(batch.Lines) == 0 {
		return Message{}, false, nil
	}
	for i, l := range batch.Lines {
		if len(l.Text) > MaxLine {
			return Message{}, false, &InvalidMessageError{Reason: "a line is longer than the limit"}
		}
		if want := batch.Lines[0].N + uint64(i); l.N != want || l.N == 0 {
			return Message{}, false, &OutOfStepError{Want: want, Got: l.N}
		}
	}
	lines := batch.Lines
	for len(lines) > 0 && lines[0].N <= s.after {
		lines = lines[1:]
	}
	if len(lines) == 0 {
		return Message{}, false, nil
	}
	gap := lines[0].N - s.after - 1
	if gap > batch.Gap {
		return Message{}, false, &OutOfStepError{Want: s.after + 1 + batch.Gap, Got: lines[0].N}
	}
	s.after = lines[len(lines)-1].N
	return Message{Lines: &Lines{Gap: gap, Lines: lines, Mono: batch.Mono}}, true, nil
}
