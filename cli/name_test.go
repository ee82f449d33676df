package cli_test

import (
	"bytes"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/client"
)

func (s *shell) client() *client.Client {
	s.t.Helper()
	c, err := client.New(client.Config{URL: s.p.URL, Key: s.p.Key})
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// A name that two deployments have leads to neither: every command says so, and
// shows both.
func TestANameOfTwoIsRefused(t *testing.T) {
	s := newShell(t)
	c := s.client()
	one, err := c.CreateDeployment(t.Context(), resource.DeploymentCreate{Name: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	two, err := c.CreateDeployment(t.Context(), resource.DeploymentCreate{Name: "other"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.UpdateDeployment(t.Context(), two.ID, resource.DeploymentPatch{Name: new("shop")}); err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	if err := os.WriteFile("v1.tar", []byte("one"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"rm", "shop", "--yes"}, {"rm", "shop", "--yes", "--purge-logs"}, {"deployments", "get", "shop"}, {"env", "set", "shop", "A=b"}, {"env", "ls", "shop"}, {"env", "rm", "shop", "A"},
		{"scale", "shop", "2"}, {"plan", "scale", "shop", "2"}, {"plan", "publish", "shop"}, {"restart", "shop"}, {"versions", "shop"}, {"rollback", "shop"}, {"promote", "shop", "1"}, {"ps", "shop"}, {"logs", "shop"}, {"log-limit", "shop"},
		{"events", "shop"}, {"top", "shop"}, {"why", "shop"}, {"why", "shop", "1"}, {"publish", "v1.tar", "--name", "shop", "--run", "/app"},
		{"drains", "add", "https://logs.example", "--deployment", "shop"}, {"webhooks", "add", "https://example.com", "--deployment", "shop"},
	} {
		var out bytes.Buffer
		code := s.run(t.Context(), &out, args...)
		if code != 2 || !strings.Contains(out.String(), one.ID) || !strings.Contains(out.String(), two.ID) || !strings.Contains(out.String(), "2 deployments are called") {
			t.Errorf("%v: exit %d: %s", args, code, &out)
		}
	}
	all, err := client.Collect(c.Deployments(t.Context()))
	if err != nil || len(all) != 2 {
		t.Errorf("%d deployments, %v", len(all), err)
	}
	var out bytes.Buffer
	if code := s.run(t.Context(), &out, "rm", two.ID, "--yes"); code != 0 {
		t.Errorf("by its ID: exit %d: %s", code, &out)
	}
	if code := s.run(t.Context(), &out, "rm", "shop", "--yes"); code != 0 {
		t.Errorf("alone: exit %d: %s", code, &out)
	}
}

// An é is one whether it is one character or two.
func TestNamesAreComparedAsTheyLook(t *testing.T) {
	s := newShell(t)
	c := s.client()
	const composed, decomposed = "Caf\u00e9 \u65e5\u672c", "Cafe\u0301 \u65e5\u672c"
	made, err := c.CreateDeployment(t.Context(), resource.DeploymentCreate{Name: decomposed})
	if err != nil {
		t.Fatal(err)
	}
	if made.Name != composed {
		t.Errorf("kept as %+q", made.Name)
	}
	if _, err := c.CreateDeployment(t.Context(), resource.DeploymentCreate{Name: composed}); client.Code(err) != "name_taken" {
		t.Errorf("the same again: %v", err)
	}
	for _, name := range []string{composed, decomposed} {
		var out bytes.Buffer
		if code := s.run(t.Context(), &out, "deployments", "get", name, "--json"); code != 0 || !strings.Contains(out.String(), made.ID) {
			t.Errorf("%+q: exit %d: %s", name, code, &out)
		}
	}
}

func TestASecretStaysOne(t *testing.T) {
	s := newShell(t)
	c := s.client()
	if _, err := c.CreateDeployment(t.Context(), resource.DeploymentCreate{Name: "x"}); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, args := range [][]string{
		{"env", "set", "x", "TOKEN=a long first value", "--secret"}, {"env", "set", "x", "TOKEN=a long second value", "PLAIN=a long plain value"},
	} {
		if code := s.run(t.Context(), &out, args...); code != 0 {
			t.Fatalf("%v: exit %d: %s", args, code, &out)
		}
	}
	vars, err := client.Collect(c.Vars(t.Context(), "x", "production"))
	if err != nil || len(vars) != 2 {
		t.Fatalf("%v, %v", vars, err)
	}
	if v := vars[1]; v.Key != "TOKEN" || !v.IsSecret || strings.Contains(v.Preview, "a") {
		t.Errorf("%+v", v)
	}
	if v := vars[0]; v.IsSecret {
		t.Errorf("%+v", v)
	}
}

// terminal is a pseudo-terminal: the person's side of it, and the program's.
func terminal(t *testing.T) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no pseudo-terminal to be had: %v", err)
	}
	t.Cleanup(func() { person.Close() })
	if err := unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminal to be had: %v", err)
	}
	t.Cleanup(func() { program.Close() })
	return person, program
}

// What is typed at a terminal for a secret is not shown there, and the terminal
// is as before afterwards.
func TestASecretIsNotShownWhileItIsTyped(t *testing.T) {
	s := newShell(t)
	c := s.client()
	if _, err := c.CreateDeployment(t.Context(), resource.DeploymentCreate{Name: "x"}); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"env", "set", "x", "TOKEN", "--secret"}, {"drains", "add", "https://logs.example/in", "--token"}, {"drains", "add", "https://logs.example/in", "--header", "X-Key"},
	} {
		person, program := terminal(t)
		before, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		s.typing = program
		ended := make(chan int)
		go func() { ended <- s.run(t.Context(), program, args...) }()
		seen := readTo(t, person, "(it is not shown): ")
		if _, err := io.WriteString(person, "correct-horse\n"); err != nil {
			t.Fatal(err)
		}
		if code := <-ended; code != 0 {
			t.Errorf("%v: exit %d", args, code)
		}
		if _, err := io.WriteString(program, "THE END\n"); err != nil {
			t.Fatal(err)
		}
		if seen += readTo(t, person, "THE END"); strings.Contains(seen, "correct") {
			t.Errorf("%v shows %q", args, seen)
		}
		after, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS)
		if err != nil || after.Lflag != before.Lflag {
			t.Errorf("the terminal is left as %#x, it was %#x (%v)", after.Lflag, before.Lflag, err)
		}
	}
	vars, err := client.Collect(c.Vars(t.Context(), "x", "production"))
	if err != nil || len(vars) != 1 || !vars[0].IsSecret {
		t.Errorf("%v, %v", vars, err)
	}
}

// readTo reads until something was seen, and returns all of it.
func readTo(t *testing.T, f *os.File, what string) string {
	t.Helper()
	var seen []byte
	b := make([]byte, 1)
	for !bytes.Contains(seen, []byte(what)) {
		if _, err := f.Read(b); err != nil {
			t.Fatalf("%q, then %v", seen, err)
		}
		seen = append(seen, b[0])
	}
	return string(seen)
}
