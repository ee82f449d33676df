package qemu

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/miosa/miosa/vmm/bundle"
	"github.com/miosa/miosa/vmm/vmmtest"
)

// placeVar names the directory of everything a run of these tests makes; it
// marks the process that runs inside.
const placeVar = "MIOSA_TEST_PLACE"

// TestMain runs the tests in a process of their own, as root in a network
// namespace that nothing else is in. Whatever ends that process, a timeout
// too, no VM and no file of it is left.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == starterArgument {
		os.Exit(starter())
	}
	place := os.Getenv(placeVar)
	if place == "" {
		os.Exit(runInside())
	}
	if os.Geteuid() == 0 {
		if lo, err := netlink.LinkByName("lo"); err == nil {
			if err := netlink.LinkSetUp(lo); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
	}
	shared.dir = place
	os.Exit(m.Run())
}

func runInside() int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	self, err := os.Executable()
	if err != nil {
		return fail(err)
	}
	place, err := os.MkdirTemp("", "qt") // short: socket paths have 107 bytes
	if err != nil {
		return fail(err)
	}
	defer sweepPlace(place)
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), placeVar+"="+place)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNET
	}
	// The terminal's Ctrl-C reaches the inside too; we stay to sweep.
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt, syscall.SIGTERM)
	runtime.LockOSThread() // Pdeathsig means the thread
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return max(exit.ExitCode(), 1)
	}
	if err != nil {
		return fail(err)
	}
	return 0
}

// sweepPlace ends what still runs for a directory below place, and removes it.
func sweepPlace(place string) {
	dirs, err := filepath.Glob(filepath.Join(place, hostDir+"*"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	for _, dir := range dirs {
		d := &Driver{config: Config{DataDir: dir, RunDir: filepath.Join(dir, "run"), CellID: testCell(dir)}, log: quiet}
		if os.Geteuid() == 0 {
			d.cgroups, _ = findGroups("/sys/fs/cgroup")
		}
		if ended, err := d.Reclaim(context.Background(), func(string) bool { return false }); err != nil || len(ended) > 0 {
			fmt.Fprintln(os.Stderr, "ended after the tests:", ended, err)
		}
	}
	if err := os.RemoveAll(place); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

// hostDir begins the names of data directories: a comma must survive QEMU's
// syntax.
const hostDir = "h,"

// testCell is a cell id that only this directory has.
func testCell(dir string) string {
	sum := crc32.ChecksumIEEE([]byte(dir))
	return fmt.Sprintf("%08x", sum)
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
