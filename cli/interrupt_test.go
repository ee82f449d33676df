package cli_test

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/cli"
	"github.com/miosa/miosa/client"
)

// watched tells when a text has been written.
type watched struct {
	mu    sync.Mutex
	text  strings.Builder // guarded by mu
	want  string
	found chan struct{}
	once  sync.Once
}

func watch(want string) *watched { return &watched{want: want, found: make(chan struct{})} }

func (w *watched) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text.Write(b)
	if strings.Contains(w.text.String(), w.want) {
		w.once.Do(func() { close(w.found) })
	}
	return len(b), nil
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

func (s *shell) file(name string) string {
	s.t.Helper()
	path := filepath.Join(s.t.TempDir(), name)
	if err := os.WriteFile(path, []byte(name), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// nobody is a terminal at which nothing is typed.
type nobody struct{ asked, end chan struct{} }

func (n *nobody) Read([]byte) (int, error) {
	close(n.asked)
	<-n.end
	return 0, io.EOF
}

// TestInterruptedWhileAsking: Ctrl-C ends a command that waits for its input,
// and nothing was done.
func TestInterruptedWhileAsking(t *testing.T) {
	for _, args := range [][]string{{"rm", "hello"}, {"env", "set", "hello", "KEY"}, {"drains", "add", "https://logs.example/x", "--token"}} {
		t.Run(args[0], func(t *testing.T) {
			s, _ := logged(t, 1)
			n := &nobody{make(chan struct{}), make(chan struct{})}
			defer close(n.end)
			s.terminal, s.typing = true, n
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			code := make(chan int, 1)
			go func() { code <- s.run(ctx, io.Discard, args...) }()
			<-n.asked
			cancel()
			if c := <-code; c != 130 {
				t.Errorf("exit %d", c)
			}
			s.terminal = false
			for _, list := range [][]string{{"deployments", "get", "hello"}, {"env", "ls", "hello"}, {"drains"}} {
				if got := s.prints(list...); strings.Contains(got, "KEY") || strings.Contains(got, "logs.example") {
					t.Errorf("%v: %s", list, got)
				}
			}
		})
	}
}

func TestInterruptedPublishGoesOn(t *testing.T) {
	for name, terminal := range map[string]bool{"plain": false, "terminal": true} {
		t.Run(name, func(t *testing.T) {
			s := newShell(t)
			s.terminal = terminal
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			out := watch("0 of 1 instances healthy")
			go func() {
				<-out.found
				cancel()
			}()
			code := s.run(ctx, out, "publish", s.file("app.tar"), "--name", "hello", "--run", "/app/held")
			text := out.String()
			if code != 130 || !strings.Contains(text, "goes on without this command") || !strings.Contains(text, "miosa events hello -f") {
				t.Errorf("exit %d:\n%s", code, text)
			}
			if spins := strings.Contains(text, "\x1b[K"); spins && !terminal {
				t.Errorf("a spinner where there is no terminal:\n%q", text)
			}
			s.p.Control.Release()
			s.settle()
			var ps strings.Builder
			if s.run(t.Context(), &ps, "ps", "hello"); !strings.Contains(ps.String(), "healthy") {
				t.Errorf("the publish did not go on:\n%s", ps.String())
			}
		})
	}
}

func TestEventsAreFollowed(t *testing.T) {
	s := newShell(t)
	var quiet strings.Builder
	s.run(t.Context(), &quiet, "publish", s.file("a.tar"), "--name", "hello", "--run", "/app/server")
	s.settle()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	first, out := watch(`"id"`), watch("version 2")
	code := make(chan int)
	go func() {
		code <- s.run(ctx, io.MultiWriter(first, out), "events", "hello", "-f", "-n", "1", "--json")
	}()
	<-first.found // it follows
	s.run(t.Context(), &quiet, "publish", s.file("b.tar"), "--name", "hello", "--wait=false")
	<-out.found
	cancel()
	if c := <-code; c != 130 {
		t.Errorf("exit %d, want 130", c)
	}
	for line := range strings.Lines(strings.TrimSpace(out.String())) {
		var e resource.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.ID == "" {
			t.Errorf("not one event a line: %q", line)
		}
	}
}

func TestEveryCommandTakesJSON(t *testing.T) {
	s := newShell(t)
	for _, args := range [][]string{
		{"publish", s.file("a.tar"), "--name", "hello", "--run", "/app/server"}, {"publish", s.file("b.tar"), "--name", "hello", "--wait=false"},
		{"ps"}, {"ps", "hello"}, {"instances", "ls"}, {"scale", "hello", "2"}, {"restart", "hello"}, {"versions", "hello"}, {"rollback", "hello"},
		{"promote", "hello", "2"}, {"env", "set", "hello", "A=b"}, {"env", "ls", "hello"}, {"env", "rm", "hello", "A"}, {"events", "hello"},
		{"why", "hello"}, {"deployments", "ls"}, {"deployments", "get", "hello"}, {"rm", "hello", "--yes"},
	} {
		var out strings.Builder
		if code := s.run(t.Context(), &out, append(args, "--json")...); code != 0 {
			t.Errorf("%v: exit %d: %s", args, code, out.String())
		}
		if !json.Valid([]byte(out.String())) {
			t.Errorf("%v prints no JSON:\n%s", args, out.String())
		}
		s.settle()
	}
}

func TestWhichContext(t *testing.T) {
	s := newShell(t)
	known := s.context
	var out strings.Builder
	s.context = ""
	if code := s.run(t.Context(), &out, "ps"); code != 5 {
		t.Errorf("no platform known: exit %d: %s", code, out.String())
	}
	if !strings.Contains(out.String(), "no platform is running: start one with") {
		t.Errorf("no platform known: %s", out.String())
	}
	if err := client.RememberContext(known); err != nil {
		t.Fatal(err)
	}
	if code := s.run(t.Context(), &out, "ps"); code != 0 {
		t.Errorf("the remembered platform: exit %d: %s", code, out.String())
	}
	gone := filepath.Join(t.TempDir(), "context.json")
	raw, _ := json.Marshal(client.Context{APIURL: "http://127.0.0.1:1", APIKey: s.p.Key})
	if err := os.WriteFile(gone, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	out.Reset()
	if code := s.run(t.Context(), &out, "ps", "--context", gone); code != 5 || !strings.Contains(out.String(), "Is the platform running?") {
		t.Errorf("a platform that does not answer: exit %d: %s", code, out.String())
	}
	raw, _ = json.Marshal(client.Context{APIURL: s.p.URL, APIKey: "msk_p_0000000000000000000000000000000000000000"})
	if err := os.WriteFile(gone, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	out.Reset()
	if code := s.run(t.Context(), &out, "ps", "--context", gone); code != 1 || !strings.Contains(out.String(), "mints new ones") {
		t.Errorf("an old key: exit %d: %s", code, out.String())
	}
}

func TestRemovalIsAskedForAtATerminal(t *testing.T) {
	s := newShell(t)
	var out strings.Builder
	s.run(t.Context(), &out, "publish", s.file("a.tar"), "--name", "hello", "--run", "/app/server", "--wait=false")
	s.terminal = true
	s.stdin = "no\n"
	if code := s.run(t.Context(), &out, "rm", "hello"); code != 1 {
		t.Errorf("a no: exit %d", code)
	}
	s.stdin = "hello\n"
	if code := s.run(t.Context(), &out, "rm", "hello"); code != 0 {
		t.Errorf("a yes: exit %d: %s", code, out.String())
	}
}

func TestCompletion(t *testing.T) {
	s := newShell(t)
	for _, shell := range []string{"bash", "zsh", "fish"} {
		var out strings.Builder
		if code := s.run(t.Context(), &out, "completion", shell); code != 0 || out.Len() < 500 {
			t.Errorf("completion %s: exit %d, %d bytes", shell, code, out.Len())
		}
	}
	if cli.ExitCode(nil) != 0 {
		t.Error("no error is no failure")
	}
}
