package vmmtest

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa/network"
	"github.com/miosa/miosa/vmm"
	"github.com/miosa/miosa/wire/guest"
)

// limit is for what hangs; a VM under emulation on a busy machine takes up to
// half a minute to its hello.
const limit = 3 * time.Minute

// Session is the agent's side of one VM's control channel: it keeps the lines,
// each once and in order, and acknowledges them.
type Session struct {
	t     testing.TB
	conn  net.Conn
	wire  *guest.Conn
	state *guest.Session

	Hello guest.Hello
	Lines []guest.Line // all so far, over every connection that Resume made
	Gap   uint64       // lines lost
}

// Open dials the VM and waits for its hello.
func Open(t testing.TB, vm vmm.VM) *Session {
	t.Helper()
	s := &Session{t: t, state: guest.NewSession(0)}
	s.Resume(vm)
	return s
}

// Resume dials again, after Close, and goes on after the last line.
func (s *Session) Resume(vm vmm.VM) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	c, err := vm.Dial(ctx)
	if err != nil {
		s.t.Fatalf("dial: %v", err)
	}
	s.t.Cleanup(func() { c.Close() })
	s.conn, s.wire = c, guest.NewConn(c)
	s.send(s.state.Connect(rand.Uint64() | 1))
	s.Hello = *s.until("hello", func(m guest.Message) bool { return m.Hello != nil }).Hello
}

// Close drops the connection, as an agent does that dies.
func (s *Session) Close() { s.conn.Close() }

// Boot sends the boot configuration of an app that listens on port 8080, if the
// attachment has an address.
func (s *Session) Boot(id string, a network.Attachment, command string) {
	s.t.Helper()
	port := 0
	if a.Address.IsValid() {
		port = 8080
	}
	b := &guest.Boot{
		Version: guest.MaxVersion, InstanceID: id, Boot: 1, Command: command,
		Env:      []string{"PORT=" + strconv.Itoa(port)},
		Hostname: "suite", Nameservers: a.Nameservers,
		UnixNano: time.Now().UnixNano(), Port: port, Gate: a.Gate, Entropy: make([]byte, 32),
		Network: &guest.Network{MAC: a.NIC.MAC, Address: a.NIC.Guest.String()},
	}
	if a.NIC.Gateway.IsValid() {
		b.Network.Gateway = a.NIC.Gateway.String()
	}
	for i := range b.Entropy {
		b.Entropy[i] = byte(rand.Uint32())
	}
	s.send(guest.Message{Boot: b})
}

func (s *Session) send(m guest.Message) {
	s.t.Helper()
	if err := s.wire.WriteMessage(m); err != nil {
		s.t.Fatalf("write to the guest: %v", err)
	}
}

// next reads one message that counts; lines are kept and acknowledged.
func (s *Session) next() (guest.Message, error) {
	s.t.Helper()
	_ = s.conn.SetReadDeadline(time.Now().Add(limit))
	for {
		m, err := s.wire.ReadMessage()
		if err != nil {
			return m, err
		}
		m, ok, err := s.state.Receive(m)
		if err != nil {
			s.t.Fatalf("the guest is out of step: %v", err)
		}
		if !ok {
			continue
		}
		if m.Lines != nil {
			s.Gap += m.Lines.Gap
			s.Lines = append(s.Lines, m.Lines.Lines...)
			err = s.wire.WriteMessage(guest.Message{Ack: &guest.Ack{N: s.state.After()}})
		}
		return m, err
	}
}

func (s *Session) until(what string, found func(guest.Message) bool) guest.Message {
	s.t.Helper()
	for {
		m, err := s.next()
		if err != nil {
			s.t.Fatalf("waiting for %s: %v", what, err)
		}
		if found(m) {
			return m
		}
		if m.Exit != nil {
			s.t.Fatalf("waiting for %s: the command ended: %+v; %s", what, *m.Exit, s.text())
		}
	}
}

// Phase waits for a phase of the boot.
func (s *Session) Phase(name string) {
	s.t.Helper()
	s.until("phase "+name, func(m guest.Message) bool { return m.Phase != nil && m.Phase.Name == name })
}

// Stdout waits until the command has written so many lines.
func (s *Session) Stdout(count int) []string {
	s.t.Helper()
	for {
		if out := s.stdout(); len(out) >= count {
			return out
		}
		s.until("lines", func(m guest.Message) bool { return m.Lines != nil })
	}
}

func (s *Session) stdout() []string {
	var out []string
	for _, l := range s.Lines {
		if l.Stream == guest.Stdout {
			out = append(out, string(l.Text))
		}
	}
	return out
}

// Exit waits for the guest's exit report and acknowledges its last line.
func (s *Session) Exit() guest.Exit {
	s.t.Helper()
	exit := *s.until("exit", func(m guest.Message) bool { return m.Exit != nil }).Exit
	// The VM may be gone before it reads this.
	_ = s.wire.WriteMessage(guest.Message{Ack: &guest.Ack{N: exit.LastLine, Exit: true}})
	return exit
}

// Clock asks what the guest's clocks read: sometime between asked and answered.
func (s *Session) Clock() (c guest.Clock, asked, answered time.Time) {
	s.t.Helper()
	seq := rand.Uint64() | 1
	asked = time.Now()
	s.send(guest.Message{Ping: &guest.Ping{Seq: seq}})
	pong := s.until("pong", func(m guest.Message) bool { return m.Pong != nil && m.Pong.Seq == seq }).Pong
	if pong.Clock == nil {
		s.t.Fatal("the guest does not tell its clocks")
	}
	return *pong.Clock, asked, time.Now()
}

// Adjust tells the guest what its clocks are to do.
func (s *Session) Adjust(a guest.Adjust) {
	s.t.Helper()
	s.send(guest.Message{Adjust: &a})
}

// Stop asks the guest to stop.
func (s *Session) Stop(deadline time.Duration) {
	s.t.Helper()
	s.send(guest.Message{Stop: &guest.Stop{Deadline: deadline}})
}

// End reads until the connection ends, and reports whether the guest told
// how its command ended.
func (s *Session) End() (reported bool) {
	s.t.Helper()
	for {
		m, err := s.next()
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
			return reported
		case err != nil:
			if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
				s.t.Fatalf("the connection did not end: %v", err)
			}
			return reported
		case m.Exit != nil:
			reported = true
		}
	}
}

// text are the last lines, for a failure's report.
func (s *Session) text() string {
	var text strings.Builder
	for _, l := range s.Lines[max(0, len(s.Lines)-20):] {
		text.WriteString("\n" + string(l.Stream) + ": " + string(l.Text))
	}
	return text.String()
}
