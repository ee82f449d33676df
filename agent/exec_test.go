package agent_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/agent"
	"github.com/miosa/miosa/wire/guest"
)

func openExec(t *testing.T, a *agent.Agent, o guest.ExecOpen) *agent.ExecSession {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := a.OpenExec(ctx, instanceID, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// rest is all output of a session, and how it ended.
func rest(t *testing.T, s *agent.ExecSession) (out string, ended guest.ExecEnded) {
	t.Helper()
	for {
		m, err := s.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if m.ExecOutput != nil {
			out += string(m.ExecOutput.Data)
		}
		if m.ExecEnded != nil {
			if _, err := s.Receive(); !errors.Is(err, io.EOF) {
				t.Errorf("behind the end: %v", err)
			}
			return out, *m.ExecEnded
		}
	}
}

func wantError(t *testing.T, err error, code miosa.Code, public string) {
	t.Helper()
	e, ok := errors.AsType[*miosa.Error](err)
	if !ok || e.Code != code || e.Public != public {
		t.Errorf("error is %v, want %s %s", err, code, public)
	}
}

func TestExecSessions(t *testing.T) {
	r := newRig(t, "sim serve")
	stop := r.start()
	if _, err := r.agent.OpenExec(t.Context(), "ri_other", guest.ExecOpen{}); err == nil {
		t.Error("a session in an instance of another host")
	} else {
		wantError(t, err, miosa.Unavailable, "instance_unreachable")
	}
	r.control.until(t, miosa.Healthy)

	out, ended := rest(t, openExec(t, r.agent, guest.ExecOpen{Argv: []string{"env"}, Env: []string{"TERM=vt100"}}))
	if !strings.Contains(out, "TERM=vt100\n") || ended.Code != 0 {
		t.Errorf("the environment is %q, %+v", out, ended)
	}
	if _, ended := rest(t, openExec(t, r.agent, guest.ExecOpen{Argv: []string{"exit", "3"}})); ended.Code != 3 {
		t.Errorf("exit 3: %+v", ended)
	}
	if _, ended := rest(t, openExec(t, r.agent, guest.ExecOpen{Argv: []string{"no-such"}})); ended.Code != 127 || ended.Message == "" {
		t.Errorf("what is not there: %+v", ended)
	}

	// The cleanup closes those before; two more fit.
	cat := openExec(t, r.agent, guest.ExecOpen{Argv: []string{"cat"}})
	if _, err := r.agent.OpenExec(t.Context(), instanceID, guest.ExecOpen{Argv: []string{"cat"}}); err == nil {
		t.Error("a fifth session")
	} else {
		wantError(t, err, miosa.Conflict, "exec_sessions_busy")
	}
	if err := cat.Input([]byte("words"), true); err != nil {
		t.Fatal(err)
	}
	if out, ended := rest(t, cat); out != "words" || ended.Code != 0 || cat.Room() != guest.ExecWindow {
		t.Errorf("cat: %q, %+v, room for %d", out, ended, cat.Room())
	}
	cat.Close()

	// The agent's end is the session's, and not the instance's.
	asleep := openExec(t, r.agent, guest.ExecOpen{Argv: []string{"sleep", "1h"}})
	if m, err := asleep.Receive(); err != nil || m.ExecOpened == nil {
		t.Fatal(m, err)
	}
	stop()
	_, err := asleep.Receive()
	wantError(t, err, miosa.Unavailable, "")
	asleep.Close()

	defer r.start()()
	r.control.untilBoot(t, miosa.Healthy, 1)
	select {
	case <-r.agent.Ready():
	case <-time.After(patience):
		t.Fatal("the agent is not ready")
	}
	last := openExec(t, r.agent, guest.ExecOpen{Argv: []string{"sleep", "1h"}})
	if m, err := last.Receive(); err != nil || m.ExecOpened == nil {
		t.Fatal(m, err)
	}
	r.control.assign(func(in *miosa.Instance) { in.Goal = miosa.GoalStop })
	_, err = last.Receive()
	wantError(t, err, miosa.Gone, "instance_ended")
	r.control.until(t, miosa.Stopped)
	if _, err := r.agent.OpenExec(t.Context(), instanceID, guest.ExecOpen{}); err == nil {
		t.Error("a session in an instance that has ended")
	} else {
		wantError(t, err, miosa.Unavailable, "instance_unreachable")
	}
}
