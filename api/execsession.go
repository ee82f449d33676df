package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/wire/guest"
)

const (
	// execResizeEvery spaces the sizes that a guest hears of: the last one counts.
	execResizeEvery = 50 * time.Millisecond
	// execSilence is how long a client that says now and then that it is there may
	// say nothing.
	execSilence = time.Minute
	// execSignals bounds the signals that wait for the guest.
	execSignals = 64
	// execLastWrite is how long a client may take what it is told when the session
	// ends, or is being told then.
	execLastWrite = 5 * time.Second
	// execNoteWithin bounds the writing of the event that tells of a session's end.
	execNoteWithin = 10 * time.Second
)

// execution is one session on its way from a client to a guest. Four goroutines
// work for it, and the first to find its end tells the others: one reads what the
// client says, one hands that to the guest as it takes it, one hands the guest's
// words to the client, and one looks at the clock.
//
// A WebSocket's own pings are of no use here: a client may read nothing for long,
// as one does whose output goes to a pager, and they would end its connection.
type execution struct {
	c         *call
	conn      *websocket.Conn
	instance  miosa.Instance
	workspace string
	leave     func() // gives its place in the instance back
	id        string
	session   ExecSession
	open      guest.ExecOpen
	longest   time.Duration // negative: for ever
	idle      time.Duration // negative: for ever
	began     time.Time
	moved     atomic.Int64 // Unix nanoseconds when something last came, either way
	heard     atomic.Int64 // … and when the client last said that it is there; 0: it never does
	writing   atomic.Bool  // the client is being told something, and may be slow to take it
	telling   atomic.Bool  // … or that we are there

	mu      sync.Mutex // guards what follows
	input   []byte
	eof     bool
	signals []int
	size    *[2]int // rows and columns that the guest has not heard of
	wake    chan struct{}
}

// execEnd is how a session ended: with its command's end, or with an error.
type execEnd struct {
	ended *guest.ExecEnded
	err   error // told to the client
	gone  error // of a client that nothing can be told any more
}

func (e *execution) serve(ctx context.Context) {
	var err error
	if e.open, err = execRequest(ctx, e.conn); err != nil {
		e.fail(ctx, err)
		return
	}
	if e.id, err = e.c.s.newID(miosa.PrefixExec); err != nil {
		e.fail(ctx, err)
		return
	}
	details := e.c.execDetails(e.id, e.open)
	// The event comes first: there is no session without one.
	if err := e.note(ctx, "exec.started", fmt.Sprintf("%s opens a session in it: %s", e.c.who(), details["command"]), details); err != nil {
		e.fail(ctx, err)
		return
	}
	e.began = e.c.s.now()
	e.moved.Store(e.began.UnixNano())
	// Nothing is begun for a client that has gone, and what it says meanwhile is kept.
	// The reader ends with the connection alone: nothing else ends a read and leaves it
	// fit to tell why.
	reading := make(chan execEnd, 1)
	opening, leave := context.WithCancel(ctx)
	defer leave()
	go func() {
		defer leave()
		reading <- e.guarded(func() execEnd { return e.listen(context.WithoutCancel(ctx)) })
	}()
	if e.session, err = e.c.s.runner.OpenExec(opening, e.instance.HostID, e.instance.ID, e.open); err != nil {
		end := execEnd{err: err}
		switch {
		case ctx.Err() != nil:
			end = execEnd{err: errStopping}
		case opening.Err() != nil:
			end = <-reading
		}
		e.end(ctx, end, details)
		return
	}
	end := e.run(ctx, reading)
	_ = e.session.Close() // it ends whatever still runs
	e.end(ctx, end, details)
}

// note writes an event.
func (e *execution) note(ctx context.Context, kind, message string, details map[string]string) error {
	id, err := e.c.s.newID(miosa.PrefixEvent)
	if err != nil {
		return err
	}
	in := e.instance
	_, err = store.Update(ctx, e.c.s.store, func(tx *store.Tx) error {
		return store.Save(tx, store.Events, miosa.Event{
			ID: id, TenantID: in.TenantID, DeploymentID: in.DeploymentID, ServiceID: in.ServiceID, InstanceID: in.ID, VersionID: in.VersionID,
			HostID: in.HostID, WorkspaceID: e.workspace, Type: kind, Message: message, Details: details,
			At: e.c.s.now().UTC(), Actor: e.c.key.ID, RequestID: e.c.id,
		})
	})
	return err
}

// end tells the client how it ended, and then everybody.
func (e *execution) end(ctx context.Context, end execEnd, details map[string]string) {
	e.leave() // a client may take its time to go
	details = maps.Clone(details)
	seconds := e.c.s.now().Sub(e.began).Seconds()
	details["seconds"] = strconv.FormatFloat(seconds, 'f', 1, 64)
	var how string
	switch {
	case end.ended != nil:
		details["exit_code"] = strconv.Itoa(end.ended.Code)
		how = "with exit code " + details["exit_code"]
		if end.ended.Message != "" {
			how += ": " + end.ended.Message
		}
	case end.gone != nil:
		how, details["reason"] = "as its client has gone", "client_gone"
	default:
		_, body := problem(end.err, e.c.id)
		how, details["reason"] = "early: "+body.Error.Message, body.Error.Code
	}
	// First what everybody may read: a client may take its time, and who asks for the
	// events after it finds this one.
	noting, cancel := context.WithTimeout(context.WithoutCancel(ctx), execNoteWithin)
	defer cancel()
	if err := e.note(noting, "exec.ended", fmt.Sprintf("the session of %s ended %s", e.c.who(), how), details); err != nil {
		e.c.s.log.Error("tell of the end of an exec session", "session", e.id, "instance", e.instance.ID, "err", err)
	}
	switch {
	case end.ended != nil:
		telling, cancel := context.WithTimeout(context.WithoutCancel(ctx), execLastWrite)
		defer cancel()
		e.tell(telling, resource.ExecEvent{Type: "ended", ExitCode: &end.ended.Code, Message: end.ended.Message})
		_ = e.conn.Close(websocket.StatusNormalClosure, "")
	case end.err != nil:
		e.fail(ctx, end.err)
	}
}

// fail tells the client of an error, and ends the connection.
func (e *execution) fail(ctx context.Context, err error) {
	e.leave()
	status, body := problem(err, e.c.id)
	if status >= 500 && !isContext(err) && miosa.CodeOf(err) == miosa.Internal {
		e.c.s.log.Error("exec session failed", "request", e.c.id, "instance", e.instance.ID, "err", err)
	}
	// The request's context may have ended: that is what is to be told, then.
	telling, cancel := context.WithTimeout(context.WithoutCancel(ctx), execOpenWithin)
	defer cancel()
	e.tell(telling, resource.ExecEvent{Type: "error", Error: &body.Error})
	_ = e.conn.Close(websocket.StatusInternalError, body.Error.Code)
}

// tell sends the client a message.
func (e *execution) tell(ctx context.Context, event resource.ExecEvent) {
	raw, err := json.Marshal(event)
	if err == nil {
		err = e.write(ctx, websocket.MessageText, raw)
	}
	if err != nil {
		_ = e.conn.CloseNow() // it hears nothing more; its reader finds that
	}
}

func (e *execution) write(ctx context.Context, kind websocket.MessageType, raw []byte) error {
	e.writing.Store(true)
	defer e.writing.Store(false)
	return e.conn.Write(ctx, kind, raw)
}

// run lasts as long as the session.
func (e *execution) run(ctx context.Context, reading <-chan execEnd) execEnd {
	working, cancel := context.WithCancel(ctx)
	var parts sync.WaitGroup
	ends := make(chan execEnd, 4)
	part := func(work func(context.Context) execEnd) {
		parts.Go(func() { ends <- e.guarded(func() execEnd { return work(working) }) })
	}
	part(e.speak)
	part(e.carryIn)
	part(e.watch)
	var end execEnd
	select {
	case end = <-ends:
	case end = <-reading:
	case <-ctx.Done():
	}
	if ctx.Err() != nil && end.ended == nil {
		end = execEnd{err: errStopping}
	}
	if end.err == nil && end.gone == nil && end.ended == nil {
		_ = e.conn.CloseNow() // it could not be written to
		end = <-reading
	}
	cancel()
	_ = e.session.Close()
	// One that is telling the client something may end with that, so that the client
	// can be told why. One that takes nothing is told nothing.
	defer time.AfterFunc(execLastWrite, func() { _ = e.conn.CloseNow() }).Stop()
	parts.Wait()
	return end
}

var errSilent = errors.New("the client says no more that it is there")

var errStopping = &miosa.Error{Code: miosa.Unavailable, Public: "platform_stopping", Message: "the platform is stopping: connect again in a while"}

// guarded lets a fault of ours end one session, and not the platform.
func (e *execution) guarded(work func() execEnd) (end execEnd) {
	defer func() {
		if p := recover(); p != nil {
			e.c.s.log.Error("exec session panicked", "session", e.id, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			end = execEnd{err: fmt.Errorf("panic: %v", p)}
		}
	}()
	return work()
}

// listen takes what the client says. It never waits for the guest: pings are
// answered, and signals heard, behind input that nobody takes.
func (e *execution) listen(ctx context.Context) execEnd {
	for {
		kind, raw, err := e.conn.Read(ctx)
		if why, told := errors.AsType[*miosa.Error](readError(err)); told {
			return execEnd{err: why}
		}
		if err != nil {
			return execEnd{gone: err}
		}
		if e.heard.Load() != 0 {
			e.heard.Store(e.c.s.now().UnixNano())
		}
		if err := e.take(kind, raw); err != nil {
			return execEnd{err: err}
		}
		select {
		case e.wake <- struct{}{}:
		default:
		}
	}
}

func (e *execution) take(kind websocket.MessageType, raw []byte) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if kind == websocket.MessageBinary {
		e.moved.Store(e.c.s.now().UnixNano())
		if e.eof {
			return invalidField("type", "input behind its end")
		}
		if len(e.input)+len(raw) > resource.ExecBacklog {
			return &miosa.Error{Code: miosa.TooLarge, Public: "exec_input_overflow", Message: fmt.Sprintf("the command does not take its input: at most %d bytes of it are kept", resource.ExecBacklog)}
		}
		e.input = append(e.input, raw...)
		return nil
	}
	var in resource.ExecCommand
	if err := json.Unmarshal(raw, &in); err != nil {
		return invalidField("type", "a text message must be JSON")
	}
	switch in.Type {
	case "alive":
		e.heard.Store(e.c.s.now().UnixNano())
	case "eof":
		e.eof = true
	case "resize":
		if in.Rows < 0 || in.Rows > 4096 || in.Cols < 0 || in.Cols > 4096 {
			return invalidField("rows", "rows and cols must be 0 to 4096")
		}
		e.size = &[2]int{in.Rows, in.Cols}
	case "signal":
		name, ok := miosa.ParseSignal(in.Signal)
		if !ok {
			return invalidField("signal", fmt.Sprintf("%.40q is no signal: INT, TERM, HUP, QUIT, KILL, USR1 … are", in.Signal))
		}
		if number, ok := miosa.SignalNumber(name); ok && len(e.signals) < execSignals {
			e.signals = append(e.signals, number)
		}
	default:
		return invalidField("type", fmt.Sprintf("%.40q is none of resize, signal, eof, alive", in.Type))
	}
	return nil
}

// carryIn hands the guest what the client has said, as it has room.
func (e *execution) carryIn(ctx context.Context) execEnd {
	due := time.NewTimer(0)
	defer due.Stop()
	var sized time.Time
	for ended := false; ; {
		select {
		case <-ctx.Done():
			return execEnd{}
		case <-e.wake:
		case <-due.C:
		}
		e.mu.Lock()
		signals, size := e.signals, e.size
		e.signals = nil
		if wait := execResizeEvery - time.Since(sized); size != nil && wait > 0 {
			size = nil
			due.Reset(wait)
		} else {
			e.size = nil
		}
		n := min(len(e.input), max(e.session.Room(), 0))
		data := e.input[:n]
		e.input = e.input[n:]
		last := e.eof && len(e.input) == 0 && !ended
		e.mu.Unlock()

		var err error
		for _, number := range signals {
			err = errors.Join(err, e.session.Signal(number))
		}
		if size != nil {
			sized = time.Now()
			err = errors.Join(err, e.session.Resize(size[0], size[1]))
		}
		if len(data) > 0 || last {
			err = errors.Join(err, e.session.Input(data, last))
			ended = last
		}
		if err != nil {
			<-ctx.Done() // who hears the guest knows why
			return execEnd{}
		}
	}
}

// speak hands the client what the guest says.
func (e *execution) speak(ctx context.Context) execEnd {
	ctx = context.WithoutCancel(ctx) // a write that is cut off breaks the connection
	for {
		m, err := e.session.Receive()
		if err != nil {
			return execEnd{err: err}
		}
		switch {
		case m.ExecOpened != nil:
			e.tell(ctx, resource.ExecEvent{Type: "started", SessionID: e.id})
		case m.ExecOutput != nil:
			e.moved.Store(e.c.s.now().UnixNano())
			kind := byte(resource.ExecStdout)
			if m.ExecOutput.Stream == guest.Stderr {
				kind = resource.ExecStderr
			}
			if err := e.write(ctx, websocket.MessageBinary, append([]byte{kind}, m.ExecOutput.Data...)); err != nil {
				return execEnd{}
			}
			e.moved.Store(e.c.s.now().UnixNano())
		case m.ExecTaken != nil:
			select { // there is room
			case e.wake <- struct{}{}:
			default:
			}
			e.tell(ctx, resource.ExecEvent{Type: "taken", Bytes: m.ExecTaken.Bytes})
		case m.ExecEnded != nil:
			return execEnd{ended: m.ExecEnded}
		}
	}
}

// watch ends the session when its time is over, its key revoked, or its client
// silent, and tells the client that we are there.
func (e *execution) watch(ctx context.Context) execEnd {
	tick := time.NewTicker(e.c.s.cfg.Heartbeat)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return execEnd{}
		case <-tick.C:
		}
		now := e.c.s.now()
		since := func(t *atomic.Int64) time.Duration { return now.Sub(time.Unix(0, t.Load())) }
		switch {
		case e.heard.Load() != 0 && since(&e.heard) > execSilence:
			return execEnd{gone: errSilent}
		case e.longest >= 0 && now.Sub(e.began) >= e.longest:
			return execEnd{err: &miosa.Error{Code: miosa.Limited, Public: "exec_time_limit", Message: fmt.Sprintf("the session has lasted %s, which is the longest that the plan allows", e.longest)}}
		case e.idle >= 0 && since(&e.moved) >= e.idle:
			return execEnd{err: &miosa.Error{Code: miosa.Limited, Public: "exec_idle_limit", Message: fmt.Sprintf("nothing has come for %s, which is the longest that the plan allows", e.idle)}}
		case e.c.revoked(ctx):
			return execEnd{err: &miosa.Error{Code: miosa.Unauthenticated, Public: "invalid_api_key", Message: "the API key that the session was opened with was revoked"}}
		case !e.writing.Load() && !e.telling.Swap(true): // else it has something to take already
			go func() { // it may take its time: until the connection's end
				defer e.telling.Store(false)
				e.tell(context.WithoutCancel(ctx), resource.ExecEvent{Type: "alive"})
			}()
		}
	}
}
