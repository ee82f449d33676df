package pebbledb_test

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	lsm "github.com/cockroachdb/pebble/v2"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/pebbledb"
)

const (
	stageEnv = "MIOSA_TEST_DISK_STAGE"
	diskEnv  = "MIOSA_TEST_DISK"
)

// stage runs a stage of the test in a child process and returns what it printed
// between the marks.
func stage(t *testing.T, name, disk string, flags uintptr) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=1m")
	cmd.Env = append(os.Environ(), stageEnv+"="+name, diskEnv+"="+disk)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: flags, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("stage %s: %v\n%s", name, err, out)
	}
	_, rest, _ := strings.Cut(string(out), "<<")
	result, _, _ := strings.Cut(rest, ">>")
	return result
}

// TestRealDiskThatIsFull fills a tmpfs, in a mount namespace of a child process,
// so that it is gone with the child: the writer's process goes on, and the next
// one, with more room, has all that was acknowledged.
func TestRealDiskThatIsFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a small disk needs root")
	}
	disk := os.Getenv(diskEnv)
	onDisk := func() *things {
		db, err := pebbledb.Open(pebbledb.Config{
			Dir: filepath.Join(disk, "db"), Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Store: "store of things", Failing: "things are not kept",
			Options: lsm.Options{MemTableSize: 1 << 20}, FormatKey: []byte("format"), Format: 1, Patience: 2 * time.Second,
		})
		if err != nil {
			t.Fatal(err)
		}
		return &things{db: db, noise: rand.NewChaCha8([32]byte{})}
	}
	acked := 0
	switch os.Getenv(stageEnv) {
	case "":
		stage(t, "mount", t.TempDir(), syscall.CLONE_NEWNS)
	case "mount":
		if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=16m"); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Sscan(stage(t, "fill", disk, 0), &acked); err != nil || acked == 0 {
			t.Fatalf("%d are acknowledged, %v", acked, err)
		}
		if err := syscall.Mount("tmpfs", disk, "tmpfs", syscall.MS_REMOUNT, "size=64m"); err != nil {
			t.Fatal(err)
		}
		s := onDisk()
		if n, err := s.Held(); err != nil || n < acked {
			t.Errorf("%d after a new start, %v; %d were acknowledged", n, err, acked)
		}
		if err := s.Add(100_000); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	case "fill":
		s := onDisk()
		var err error
		for err == nil {
			if err = s.Add(acked + 1); err == nil {
				acked++
			}
		}
		if miosa.CodeOf(err) != miosa.NoSpace {
			t.Errorf("refused with %v", err)
		}
		if n, err := s.Held(); err != nil || n < acked {
			t.Errorf("%d can be read, %v; %d were acknowledged", n, err, acked)
		}
		if err := s.Close(); err == nil {
			t.Error("it closes as if nothing were the matter")
		}
		fmt.Printf("<<%d>>\n", acked)
	}
}
