package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/miosa/miosa/api/resource"
)

// ExecSession is a command that runs in an instance. Output calls for Copy; input
// goes through Write. Close must be called, and ends what still runs.
type ExecSession struct {
	conn    *websocket.Conn
	silence time.Duration
	over    context.Context // ends with Close
	close   context.CancelFunc

	mu   sync.Mutex // guards way and gone
	way  int        // bytes of input that nobody has taken yet
	gone bool       // nothing is taken any more
	room *sync.Cond
}

// ErrExecBroke is an exec session that broke off: how its command ended is not
// known.
var ErrExecBroke = errors.New("the connection to the instance broke off")

// Exec begins a session. The command runs, or cannot be run: Copy tells.
func (c *Client) Exec(ctx context.Context, instance string, open resource.ExecCommand) (*ExecSession, error) {
	return c.exec(ctx, "/runtime-instances/"+instance+"/exec", open)
}

// ExecAsOperator begins one in any tenant's instance, with the operator's key.
func (c *Client) ExecAsOperator(ctx context.Context, instance string, open resource.ExecCommand) (*ExecSession, error) {
	return c.exec(ctx, "/admin/runtime-instances/"+instance+"/exec", open)
}

func (c *Client) exec(ctx context.Context, path string, open resource.ExecCommand) (*ExecSession, error) {
	if c.broken != nil {
		return nil, c.broken
	}
	conn, err := c.dialExec(ctx, path)
	if err != nil {
		return nil, err
	}
	conn.SetReadLimit(resource.MaxExecMessage)
	s := &ExecSession{conn: conn, silence: c.silence}
	s.room = sync.NewCond(&s.mu)
	s.over, s.close = context.WithCancel(context.WithoutCancel(ctx))
	open.Type = "open"
	if err := s.say(open); err != nil {
		_ = s.Close()
		return nil, fmt.Errorf("%w: %w", ErrExecBroke, err)
	}
	go s.alive()
	return s, nil
}

// dialExec connects, again where that may help: nothing has been run yet.
func (c *Client) dialExec(ctx context.Context, path string) (conn *websocket.Conn, err error) {
	err = c.try(ctx, nil, func(key string) error {
		to, resp, err := websocket.Dial(ctx, c.base+path, &websocket.DialOptions{ //nolint:bodyclose // the library has closed it
			HTTPClient: c.http, Subprotocols: []string{resource.ExecProtocol},
			HTTPHeader: http.Header{"Authorization": {"Bearer " + key}, "User-Agent": {c.agent}},
		})
		switch {
		case err == nil && to.Subprotocol() != resource.ExecProtocol:
			_ = to.CloseNow()
			return &notAPIError{base: c.origin(), answer: "another protocol"}
		case err == nil:
			conn = to
			return nil
		case resp != nil && resp.StatusCode != http.StatusSwitchingProtocols:
			return c.problem(resp)
		}
		return &connectionError{base: c.origin(), err: err}
	})
	return conn, err
}

// say sends a text message.
func (s *ExecSession) say(m resource.ExecCommand) error {
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return s.conn.Write(s.over, websocket.MessageText, raw)
}

// alive tells the platform that we are there, however slowly its words are taken.
func (s *ExecSession) alive() {
	tick := time.NewTicker(resource.ExecAlive)
	defer tick.Stop()
	for {
		select {
		case <-s.over.Done():
			return
		case <-tick.C:
			if s.say(resource.ExecCommand{Type: "alive"}) != nil {
				return // Copy finds it
			}
		}
	}
}

// Write sends input, as the command takes it. io.ErrClosedPipe once nothing is taken
// any more.
func (s *ExecSession) Write(b []byte) (n int, err error) {
	for n < len(b) {
		s.mu.Lock()
		for s.way >= resource.ExecWindow && !s.gone {
			s.room.Wait()
		}
		if s.gone {
			s.mu.Unlock()
			return n, io.ErrClosedPipe
		}
		next := b[n:min(len(b), n+min(resource.ExecWindow-s.way, resource.ExecWindow/2))]
		s.way += len(next)
		s.mu.Unlock()
		if err := s.conn.Write(s.over, websocket.MessageBinary, next); err != nil {
			return n, err
		}
		n += len(next)
	}
	return n, nil
}

// CloseWrite is the input's end.
func (s *ExecSession) CloseWrite() error { return s.say(resource.ExecCommand{Type: "eof"}) }

// Resize tells of the terminal's size, in characters.
func (s *ExecSession) Resize(rows, cols int) error {
	return s.say(resource.ExecCommand{Type: "resize", Rows: rows, Cols: cols})
}

// Signal sends a signal by its name: INT, TERM …
func (s *ExecSession) Signal(name string) error {
	return s.say(resource.ExecCommand{Type: "signal", Signal: name})
}

// Copy writes the command's output until it ends, and returns how it ended: its exit
// code, with a message where it could not be run. An Error is the platform's own
// word on an early end, ErrExecBroke the connection's; another error is one of the
// writers'. started, if any, is called once the command runs.
func (s *ExecSession) Copy(stdout, stderr io.Writer, started func(session string)) (ended resource.ExecEvent, err error) {
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.gone = true
		s.room.Broadcast()
	}()
	for {
		kind, raw, err := s.read()
		if err != nil {
			return ended, fmt.Errorf("%w: %w", ErrExecBroke, err)
		}
		if kind == websocket.MessageBinary {
			to := stdout
			if len(raw) > 0 && raw[0] == resource.ExecStderr {
				to = stderr
			}
			if len(raw) > 1 {
				if _, err := to.Write(raw[1:]); err != nil {
					return ended, err
				}
			}
			continue
		}
		var e resource.ExecEvent
		if err := json.Unmarshal(raw, &e); err != nil {
			return ended, fmt.Errorf("%w: what came is no message: %w", ErrExecBroke, err)
		}
		switch e.Type {
		case "started":
			if started != nil {
				started(e.SessionID)
			}
		case "taken":
			s.mu.Lock()
			s.way = max(s.way-e.Bytes, 0)
			s.room.Broadcast()
			s.mu.Unlock()
		case "ended":
			if e.ExitCode == nil {
				e.ExitCode = new(0)
			}
			return e, nil
		case "error":
			problem := &Error{Code: "internal", Message: "the session was ended"}
			if e.Error != nil {
				problem = &Error{Code: e.Error.Code, Message: e.Error.Message, RequestID: e.Error.RequestID}
			}
			return ended, problem
		}
	}
}

// read waits for a message. The platform says something now and then.
func (s *ExecSession) read() (websocket.MessageType, []byte, error) {
	ctx, cancel := context.WithTimeout(s.over, s.silence)
	defer cancel()
	kind, raw, err := s.conn.Read(ctx)
	if err != nil && ctx.Err() != nil && s.over.Err() == nil {
		err = fmt.Errorf("nothing was heard for %v", s.silence)
	}
	if err != nil {
		// The library's words are about frames.
		if i := strings.LastIndex(err.Error(), ": "); websocket.CloseStatus(err) == -1 && i >= 0 {
			err = errors.New(err.Error()[i+2:])
		}
	}
	return kind, raw, err
}

// Closed is closed once Close was called.
func (s *ExecSession) Closed() <-chan struct{} { return s.over.Done() }

// Close ends the session.
func (s *ExecSession) Close() error {
	s.close()
	return s.conn.CloseNow()
}
