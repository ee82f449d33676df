package cli_test

import (
	"context"
	"io"
	"os"
	"strings"
	"testing"
)

// TestRegistry logs in, lists and logs out; the password comes from standard
// input and is shown nowhere.
func TestRegistry(t *testing.T) {
	s := newShell(t)
	if out := s.says(0, "registry"); !strings.Contains(out, "No logins") {
		t.Error(out)
	}
	s.stdin = "a secret to hide\n"
	if out := s.says(0, "registry", "login", "registry.example:5000", "--username", "ann"); !strings.Contains(out, "Images from registry.example:5000 are pulled as ann.") {
		t.Error(out)
	}
	if out := s.says(0, "registry", "login", "docker.io", "-u", "bob", "--password-stdin", "--json"); strings.Contains(out, "secret") || !strings.Contains(out, `"username": "bob"`) {
		t.Error(out)
	}
	for _, name := range []string{"registry", "registries"} {
		if out := s.says(0, name, "ls"); !strings.Contains(out, "registry.example:5000  ann") || !strings.Contains(out, "docker.io") || strings.Contains(out, "secret") {
			t.Error(out)
		}
	}
	s.says(0, "registry", "logout", "docker.io")
	if out := s.says(3, "registry", "logout", "docker.io"); !strings.Contains(out, "no login to docker.io") {
		t.Error(out)
	}
	for _, args := range [][]string{
		{"login"}, {"login", "registry.example"}, {"login", "registry.example", "--password-stdin"}, {"logout"}, {"login", "not a host", "--username", "ann"},
	} {
		if out := s.says(2, append([]string{"registry"}, args...)...); out == "" {
			t.Errorf("%v says nothing", args)
		}
	}
	s.stdin = ""
	if out := s.says(2, "registry", "login", "registry.example", "--username", "ann"); !strings.Contains(out, "the password is empty") {
		t.Error(out)
	}
	none := s.file("none.pem")
	if err := os.WriteFile(none, []byte("no PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.says(2, "registry", "login", "registry.example", "--ca", none)
	// An image stands for itself.
	s.says(2, "publish", "a.tar", "--image", "nginx", "--name", "shop")
	s.says(2, "publish", "--image", "nginx", "--kind", "oci", "--name", "shop")
	s.says(2, "publish", "a.tar", "--platform", "linux/amd64", "--name", "shop")
}

// TestInterruptedWhileAskingForTheUser: Ctrl-C ends that, too.
func TestInterruptedWhileAskingForTheUser(t *testing.T) {
	s := newShell(t)
	person, program := terminal(t)
	s.typing = program
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	code := make(chan int, 1)
	go func() { code <- s.run(ctx, program, "registry", "login", "registry.example") }()
	readTo(t, person, "Username: ")
	cancel()
	if c := <-code; c != 130 {
		t.Errorf("exit %d", c)
	}
	// Else the read would go on after the test.
	if _, err := io.WriteString(person, "\n"); err != nil {
		t.Fatal(err)
	}
	if out := s.says(0, "registry"); !strings.Contains(out, "No logins") {
		t.Error(out)
	}
}
