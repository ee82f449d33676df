package qemu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/miosa/miosa/vmm/bundle"
	"github.com/miosa/miosa/vmm/vmmtest"
)

// insideVar marks the process that runs in a network namespace of its own.
const insideVar = "MIOSA_TEST_NAMESPACE"

// TestMain runs everything, as root, in a network namespace that nothing else
// is in, and gives the tests a directory that goes with them.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == starterArgument {
		os.Exit(starter())
	}
	if os.Geteuid() == 0 && os.Getenv(insideVar) == "" {
		os.Exit(runInside())
	}
	if os.Geteuid() == 0 {
		if lo, err := netlink.LinkByName("lo"); err == nil {
			if err := netlink.LinkSetUp(lo); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
	}
	dir, err := os.MkdirTemp("", "qemu-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	shared.dir = dir
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

func runInside() int {
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideVar+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			return exit.ExitCode()
		}
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// shared is built once: a bundle with this tree's miosa-init, a base image.
var shared struct {
	once   sync.Once
	dir    string
	bundle bundle.Bundle
	base   string
	skip   string
	err    error
}

// prepare skips the test where no VM can be run, and says why.
func prepare(t testing.TB) (b bundle.Bundle, base string) {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a real VM: not in short mode")
	}
	shared.once.Do(func() {
		for _, tool := range []string{"qemu-system-x86_64", "mkfs.ext4", "go"} {
			if _, err := exec.LookPath(tool); err != nil {
				shared.skip = tool + " is not installed"
				return
			}
		}
		if _, err := bundle.Find(""); err != nil {
			shared.skip = err.Error()
			return
		}
		shared.bundle, shared.err = buildBundle(shared.dir)
		if shared.err == nil {
			shared.base, shared.err = vmmtest.BuildBase(shared.dir, "../..")
		}
	})
	if shared.skip != "" {
		t.Skip("no real VM: " + shared.skip)
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.bundle, shared.base
}

// buildBundle makes a cache of its own from the machine's kernel: what the
// machine uses stays as it is.
func buildBundle(dir string) (bundle.Bundle, error) {
	init := filepath.Join(dir, "miosa-init")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", init, "../../cmd/miosa-init")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return bundle.Bundle{}, fmt.Errorf("build miosa-init: %w\n%s", err, out)
	}
	cache, err := bundle.DefaultCacheDir()
	if err != nil {
		return bundle.Bundle{}, err
	}
	if err := os.Symlink(filepath.Join(cache, "kernel"), filepath.Join(dir, "kernel")); err != nil {
		return bundle.Bundle{}, err
	}
	return bundle.Ensure(context.Background(), bundle.Config{CacheDir: dir, InitBinary: init})
}

var quiet = slog.New(slog.DiscardHandler)
