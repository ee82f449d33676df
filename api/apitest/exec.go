package apitest

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"net"
	"sync/atomic"

	"github.com/miosa/miosa/api"
	"github.com/miosa/miosa/wire/guest"
)

// Guests run exec sessions on the ports that Dial leads to, whichever instance is
// meant.
type Guests struct {
	Dial   func(ctx context.Context) (net.Conn, error)
	Asked  chan guest.ExecOpen // each session, if there is room
	Failed error               // of every OpenExec; nil: none
	host   atomic.Pointer[string]
}

// Host is the one that was asked last.
func (g *Guests) Host() string { return *g.host.Load() }

// OpenExec begins a session.
func (g *Guests) OpenExec(ctx context.Context, host, _ string, o guest.ExecOpen) (api.ExecSession, error) {
	g.host.Store(&host)
	select {
	case g.Asked <- o:
	default:
	}
	if g.Failed != nil {
		return nil, g.Failed
	}
	conn, err := g.Dial(ctx)
	if err != nil {
		return nil, err
	}
	var nonce [8]byte
	_, _ = rand.Read(nonce[:]) // never fails
	o.Nonce = binary.LittleEndian.Uint64(nonce[:]) | 1
	s, err := guest.OpenExec(conn, o)
	return guestSession{s, conn}, err
}

type guestSession struct {
	*guest.ExecSession
	conn net.Conn
}

// Close hangs up.
func (s guestSession) Close() error { return s.conn.Close() }
