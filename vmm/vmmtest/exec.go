package vmmtest

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/vmm"
	"github.com/miosa/miosa/wire/guest"
)

// execSession is one in a VM.
type execSession struct {
	t    *testing.T
	conn net.Conn
	*guest.ExecSession
}

// exec begins a session with a command of the suite's program.
func (b *bench) exec(vm vmm.VM, o guest.ExecOpen, words ...string) *execSession {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), limit)
	defer cancel()
	conn, err := vm.DialExec(ctx)
	if err != nil {
		b.Fatalf("dial for an exec session: %v", err)
	}
	b.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(limit))
	o.Nonce = rand.Uint64() | 1
	if len(o.Argv) == 0 {
		o.Argv = append([]string{b.Program}, words...)
	}
	s, err := guest.OpenExec(conn, o)
	if err != nil {
		b.Fatalf("open an exec session: %v", err)
	}
	return &execSession{b.T, conn, s}
}

func (e *execSession) receive() guest.Message {
	e.t.Helper()
	m, err := e.Receive()
	if err != nil {
		e.t.Fatalf("exec session: %v", err)
	}
	return m
}

// until reads output until it holds the text.
func (e *execSession) until(text string) {
	e.t.Helper()
	for out := ""; !strings.Contains(out, text); {
		m := e.receive()
		if m.ExecEnded != nil {
			e.t.Fatalf("the session ended with %+v, after %q", *m.ExecEnded, out)
		}
		if m.ExecOutput != nil {
			out += string(m.ExecOutput.Data)
		}
	}
}

// end is all output up to the end.
func (e *execSession) end() (stdout []byte, ended guest.ExecEnded) {
	e.t.Helper()
	for {
		m := e.receive()
		switch {
		case m.ExecOutput != nil && m.ExecOutput.Stream == guest.Stdout:
			stdout = append(stdout, m.ExecOutput.Data...)
		case m.ExecEnded != nil:
			return stdout, *m.ExecEnded
		}
	}
}

// send sends data as fast as the window allows, and the end of input.
func (e *execSession) send(data []byte) {
	for len(data) > 0 {
		n := min(len(data), 10_000)
		if err := e.Input(data[:n], n == len(data)); errors.Is(err, guest.ErrExecWindow) {
			time.Sleep(time.Millisecond) //nolint:forbidigo // who receives makes room
			continue
		} else if err != nil {
			e.t.Errorf("send input: %v", err)
			return
		}
		data = data[n:]
	}
}

func execSessions(t *testing.T, b *bench) {
	vm, s, a := b.serving(b.driver, "ri_a")

	echo := b.exec(vm, guest.ExecOpen{}, "echo", "hello")
	if out, ended := echo.end(); string(out) != "hello\n" || ended.Code != 0 {
		t.Errorf("echo: %q, %+v", out, ended)
	}
	echo.conn.Close()
	exit := b.exec(vm, guest.ExecOpen{}, "exit", "3")
	if _, ended := exit.end(); ended.Code != 3 {
		t.Errorf("exit 3: %+v", ended)
	}
	missing := b.exec(vm, guest.ExecOpen{Argv: []string{"/no/such"}})
	if _, ended := missing.end(); ended.Code != 127 || ended.Message == "" {
		t.Errorf("what is not there: %+v", ended)
	}

	// More than any buffer on the way holds, both ways at once.
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	cat := b.exec(vm, guest.ExecOpen{}, "cat")
	var sending sync.WaitGroup
	sending.Go(func() { cat.send(data) })
	if out, ended := cat.end(); !bytes.Equal(out, data) || ended.Code != 0 {
		t.Errorf("cat gave %d bytes of %d, %+v", len(out), len(data), ended)
	}
	sending.Wait()

	// With this one, which nobody reads, all four ports are taken.
	flood := b.exec(vm, guest.ExecOpen{}, "flood")
	if _, err := vm.DialExec(t.Context()); miosa.CodeOf(err) != miosa.Conflict {
		t.Errorf("a session more than there are ports: %v", err)
	}
	s.Clock()
	b.wantAnswer(a)
	for _, e := range []*execSession{exit, missing, cat, flood} {
		e.conn.Close()
	}

	// Cut off in its middle, with output on its way, the port serves the next.
	for range 2 * guest.ExecPorts {
		next := b.exec(vm, guest.ExecOpen{TTY: true, Rows: 30, Cols: 100}, "size")
		next.until("30x100")
		if err := next.Resize(50, 120); err != nil {
			t.Fatal(err)
		}
		next.until("50x120")
		next.conn.Close()
	}

	// A restart of the agent: the driver has it all from the handle.
	s.Close()
	adopted, err := b.Driver(t).Adopt(t.Context(), vm.Handle())
	if err != nil {
		t.Fatalf("adopt: %v", err)
	}
	again := b.exec(adopted, guest.ExecOpen{}, "echo", "again")
	if out, ended := again.end(); string(out) != "again\n" || ended.Code != 0 {
		t.Errorf("echo after adoption: %q, %+v", out, ended)
	}
	again.conn.Close()
	last := b.exec(adopted, guest.ExecOpen{}, "cat")
	last.receive() // it runs
	if err := adopted.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m, err := last.Receive(); err == nil {
		t.Errorf("a session outlived its vm: %+v", m)
	}
	if _, err := adopted.DialExec(t.Context()); err == nil || miosa.CodeOf(err) == miosa.Unavailable {
		t.Errorf("a killed vm can be dialled for a session: %v", err)
	}
	b.wantGone(adopted)
}
