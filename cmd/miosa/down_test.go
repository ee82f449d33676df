package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A platform that is on its way out already, by SIGTERM or by a first Ctrl-C,
// takes the signal of `miosa down` for a word to leave its instances running.
func TestDownStopsWhatAnEndingPlatformLeaves(t *testing.T) {
	dir := t.TempDir()
	lock, err := os.Create(filepath.Join(dir, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	// It ends by any signal, holds the lock until then, and stops nothing.
	ending := exec.Cmd{Path: "/bin/sh", Args: []string{"miosa", "-c", "read nothing", "up"}, ExtraFiles: []*os.File{lock}}
	stdin, err := ending.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	if err := ending.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- ending.Wait() }()
	if _, err := lock.WriteString(strconv.Itoa(ending.Process.Pid)); err != nil {
		t.Fatal(err)
	}
	lock.Close()
	const instance = "ri_01jz0000000000000000000000"
	state := `{"schema":1,"instance":{"ID":"` + instance + `"},"observation":{"InstanceID":"` + instance + `","State":"healthy","Boot":1},"vm":{"ID":"` + instance + `-1"}}`
	if err := os.MkdirAll(filepath.Join(dir, "agent", instance), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "agent", instance, "state.json"), []byte(state), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	down := downCommand()
	down.SetOut(&out)
	down.SetErr(&out)
	down.SetArgs([]string{"--data", dir})
	err = down.ExecuteContext(t.Context())
	stdin.Close()
	<-ended
	t.Logf("%s%v", &out, err)
	// Where no guest bundle is built it cannot stop them, and says so.
	if err == nil && !strings.Contains(out.String(), "left running") {
		t.Errorf("it says %q", out.String())
	}
}
