package descriptors

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What somebody left open reaches a child until it is marked, and no longer
// than that, whichever way it is marked.
func TestNoChildInherits(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("s"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, mark := range map[string]func() error{"at once": CloseOnExec, "one by one": markEach} {
		fd, err := unix.Open(secret, unix.O_RDONLY, 0) // as a parent without O_CLOEXEC leaves it
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if !childHas(t, secret) {
			t.Fatalf("%s: a child does not inherit what it should before", name)
		}
		if err := mark(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if childHas(t, secret) {
			t.Errorf("%s: a child inherited %s", name, secret)
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
			t.Errorf("%s: our own is closed: %v", name, err)
		}
	}
}

// childHas reports whether a program that is started now has the file open.
func childHas(t *testing.T, path string) bool {
	t.Helper()
	out, err := exec.Command("ls", "-l", "/proc/self/fd").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(out), path)
}
