package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/vmm"
	"github.com/miosa/miosa/wire/guest"
)

const (
	// execOpenFor is how long a guest may take to begin an exec session: one whose
	// command has just been started serves none for a second.
	execOpenFor = 30 * time.Second
	// execWriteFor is how long it may take to take what it has room for.
	execWriteFor = 30 * time.Second
)

// ExecSession is a command that somebody runs in an instance of this host, beside
// its app. It ends with its VM, and with the agent. One goroutine may call Receive,
// any the others; Close must be called, and ends all of them.
type ExecSession struct {
	session *guest.ExecSession
	conn    net.Conn
	vm      vmm.VM
	ours    context.Context
	first   *guest.Message // read ahead; nil: Receive has had it
	closed  chan struct{}
	once    sync.Once
	leave   func() bool
}

// OpenExec begins a session in an instance, and returns once the guest has answered:
// Receive then has ExecOpened, or ExecEnded for a command that could not be run. ctx
// bounds the beginning. o's nonce is set here. miosa.Conflict: it has as many sessions
// as it can (exec_sessions_busy); miosa.Unavailable: it does not run here now, cannot
// have any, or does not answer.
func (a *Agent) OpenExec(ctx context.Context, instance string, o guest.ExecOpen) (*ExecSession, error) {
	a.mu.Lock()
	x := a.actors[instance]
	a.mu.Unlock()
	if x == nil {
		return nil, notRunning(instance)
	}
	b := x.figures.present()
	if b == nil {
		return nil, notRunning(instance)
	}
	b.mu.Lock()
	vm := b.vm
	b.mu.Unlock()
	if vm == nil {
		return nil, notRunning(instance)
	}
	ctx, cancel := context.WithTimeout(ctx, execOpenFor)
	defer cancel()
	conn, err := vm.DialExec(ctx)
	switch {
	case miosa.CodeOf(err) == miosa.Conflict:
		return nil, &miosa.Error{
			Code: miosa.Conflict, Public: "exec_sessions_busy", Passing: true, Err: err,
			Message: "the instance has as many exec sessions as it can: end one of them",
		}
	case miosa.CodeOf(err) == miosa.Unavailable:
		return nil, &miosa.Error{
			Code: miosa.Unavailable, Public: "exec_unavailable", Err: err,
			Message: "the instance was booted by an earlier version of the platform, which knew no exec sessions: restart it",
		}
	case err != nil:
		return nil, miosa.Wrap(err, miosa.Unavailable, "the instance cannot be reached")
	}
	o.Nonce = nonce()
	s := &ExecSession{conn: conn, vm: vm, ours: b.ours, closed: make(chan struct{})}
	s.leave = context.AfterFunc(b.ours, func() { _ = conn.Close() })
	if err := s.begin(ctx, o); err != nil {
		_ = s.Close()
		return nil, err
	}
	go s.ping()
	return s, nil
}

func notRunning(instance string) error {
	return &miosa.Error{
		Code: miosa.Unavailable, Public: "instance_unreachable", Passing: true,
		Message: "the virtual machine of " + instance + " does not run now, or its host has just been started and has not found it again yet",
	}
}

// begin has the guest run the command.
func (s *ExecSession) begin(ctx context.Context, o guest.ExecOpen) (err error) {
	late := context.AfterFunc(ctx, func() { _ = s.conn.SetReadDeadline(time.Unix(1, 0)) })
	if s.session, err = guest.OpenExec(execConn{s.conn}, o); err != nil {
		late()
		return s.why(err)
	}
	first, err := s.session.Receive()
	if s.ours.Err() != nil {
		late()
		return s.why(s.ours.Err())
	}
	if !late() {
		return miosa.Wrap(ctx.Err(), miosa.Unavailable, "the instance does not answer: it may be busy starting, or have no memory left")
	}
	if err != nil {
		return s.why(err)
	}
	s.first = &first
	return nil
}

// ping tells the guest that we are there.
func (s *ExecSession) ping() {
	tick := time.NewTicker(guest.ExecPing)
	defer tick.Stop()
	for {
		select {
		case <-s.closed:
			return
		case <-tick.C:
			if s.session.Ping() != nil {
				return // Receive says why
			}
		}
	}
}

// Receive is guest.ExecSession's. The errors besides io.EOF: miosa.Gone with the VM's
// end, miosa.Unavailable with the agent's, or where the session broke.
func (s *ExecSession) Receive() (guest.Message, error) {
	if first := s.first; first != nil {
		s.first = nil
		return *first, nil
	}
	m, err := s.session.Receive()
	if err != nil && !errors.Is(err, io.EOF) {
		err = s.why(err)
	}
	return m, err
}

// why puts the end of the stream into words.
func (s *ExecSession) why(err error) error {
	if s.ours.Err() != nil {
		return miosa.Wrap(err, miosa.Unavailable, "the instance's host ends its part: try again")
	}
	if lie, ok := errors.AsType[*guest.ExecError](err); ok {
		return miosa.Wrap(err, miosa.Unavailable, "the session was ended: %v", lie)
	}
	// The stream of a machine that ends may break before its process is seen to end.
	timer := time.NewTimer(lastWords)
	defer timer.Stop()
	select {
	case <-s.vm.Done():
		return &miosa.Error{Code: miosa.Gone, Public: "instance_ended", Message: "the instance has ended, and the command with it", Err: err}
	case <-s.closed:
	case <-timer.C:
	}
	return miosa.Wrap(err, miosa.Unavailable, "the session broke")
}

// Room is guest.ExecSession's, like Input, Resize and Signal.
func (s *ExecSession) Room() int { return s.session.Room() }

// Input sends input.
func (s *ExecSession) Input(data []byte, eof bool) error { return s.session.Input(data, eof) }

// Resize tells of the terminal's size.
func (s *ExecSession) Resize(rows, cols int) error { return s.session.Resize(rows, cols) }

// Signal sends a signal.
func (s *ExecSession) Signal(number int) error { return s.session.Signal(number) }

// Close ends the session, and whatever runs in it.
func (s *ExecSession) Close() error {
	s.once.Do(func() { close(s.closed) })
	s.leave()
	return s.conn.Close()
}

// execConn does not wait for ever for a guest that takes nothing.
type execConn struct{ net.Conn }

func (c execConn) Write(b []byte) (int, error) {
	err := c.SetWriteDeadline(time.Now().Add(execWriteFor))
	n := 0
	if err == nil {
		n, err = c.Conn.Write(b)
	}
	if err != nil {
		_ = c.Close() // half a message may have been sent; whoever reads hears of it
	}
	return n, err
}
