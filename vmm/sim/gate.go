package sim

import (
	"net"
	"sync"
	"time"

	"github.com/miosa/miosa/wire/guest"
)

// knockTime is how long a knock may take, as in package guest.
const knockTime = 5 * time.Second

// gate is the gate before a simulated app: a connection is let in at its first
// read, so that who does not knock holds up nobody.
type gate struct {
	net.Listener
	guest.Gate
}

// Accept takes a connection that has yet to knock.
func (g *gate) Accept() (net.Conn, error) {
	conn, err := g.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &visitor{Conn: conn, gate: g.Gate}, nil
}

// visitor is a connection to the gate.
type visitor struct {
	net.Conn
	gate guest.Gate
	once sync.Once
	err  error
}

func (v *visitor) Read(p []byte) (int, error) {
	v.once.Do(v.enter)
	if v.err != nil {
		return 0, v.err
	}
	return v.Conn.Read(p)
}

func (v *visitor) enter() {
	if v.err = v.SetReadDeadline(time.Now().Add(knockTime)); v.err != nil {
		return
	}
	if v.err = v.gate.Admit(v.Conn); v.err == nil {
		v.err = v.gate.Welcome(v.Conn)
	}
	if v.err != nil {
		v.Close() // and not a word
		return
	}
	v.err = v.SetReadDeadline(time.Time{})
}
