package guest

import (
	"errors"
	"fmt"
	"io"
)

// PasswordBytes is the length of each of a gate's passwords.
const PasswordBytes = 32

// Gate is what PID 1 keeps before the app where others than the platform reach
// the guest's port. Who connects says Knock and is answered with Answer once
// the app has taken the connection; what follows, both ways, is the app's. The
// answer is proof as well: whoever took the port in the machine's place does
// not know it, and gets no request. Both passwords are new with each boot.
type Gate struct {
	Port   int    `json:"port"` // that the gate listens on, at the guest's own address
	Knock  []byte `json:"knock"`
	Answer []byte `json:"answer"`
}

// Errors of a gate's two sides.
var (
	ErrWrongKnock  = errors.New("who connects does not know the gate's password")
	ErrWrongAnswer = errors.New("who listens is not the instance's gate")
)

// Enter is the way in: it knocks and waits for the answer. Until it returned
// nil nothing else may be written. Deadlines are the caller's to set.
func (g Gate) Enter(conn io.ReadWriter) error {
	if _, err := conn.Write(g.Knock); err != nil {
		return err
	}
	return expect(conn, g.Answer, ErrWrongAnswer)
}

// Admit reads the knock of who connected.
func (g Gate) Admit(conn io.Reader) error { return expect(conn, g.Knock, ErrWrongKnock) }

// Welcome answers who was admitted.
func (g Gate) Welcome(conn io.Writer) error {
	_, err := conn.Write(g.Answer)
	return err
}

// String keeps the passwords out of logs.
func (g Gate) String() string { return fmt.Sprintf("gate at port %d", g.Port) }

// GoString does, too.
func (g Gate) GoString() string { return g.String() }

// expect reads a password to its end, whatever comes: how long it takes tells
// nothing of where it went wrong.
func expect(conn io.Reader, want []byte, wrong error) error {
	if len(want) != PasswordBytes {
		return wrong // without one there is no way in
	}
	var got [PasswordBytes]byte
	if _, err := io.ReadFull(conn, got[:]); err != nil {
		return err
	}
	differs := byte(0)
	for i, b := range got {
		differs |= b ^ want[i]
	}
	if differs != 0 {
		return wrong
	}
	return nil
}
