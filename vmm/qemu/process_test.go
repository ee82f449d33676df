package qemu

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miosa/miosa/vmm"
)

func TestParseStat(t *testing.T) {
	line := "42 (q) emu (x)) S 1 42 42 0 -1 4194304 1 2 3 4 150 50 7 8 20 0 3 0 9876 1000000 54321 18446744073709551615 0 0"
	s, err := parseStat([]byte(line))
	if err != nil || s.cpu != 2*time.Second || s.startTime != 9876 || s.rssPages != 54321 {
		t.Errorf("%+v, %v", s, err)
	}
	for _, bad := range []string{"", "1 (x", "1 (x) S 1 2", strings.Replace(line, "9876", "x", 1)} {
		if s, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q was read as %+v", bad, s)
		}
	}
}

func TestAHeldProcess(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	p, err := openProcess(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if p.exited() || p.startTime == 0 {
		t.Errorf("a running process: exited %t, started %d", p.exited(), p.startTime)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.wait(canceled); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting in vain: %v", err)
	}
	p2, err := openProcess(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p2.close()
	if err := p2.kill(); err != nil {
		t.Fatal(err)
	}
	if err := p2.wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !p.exited() {
		t.Error("a zombie has not exited")
	}
	if code, signal := p.reap(); code != -1 || signal != "SIGKILL" {
		t.Errorf("reaped %d %s", code, signal)
	}
	if code, signal := p.reap(); code != -1 || signal != "" {
		t.Errorf("reaped twice: %d %s", code, signal)
	}
	if err := p.kill(); err != nil {
		t.Errorf("killing the dead: %v", err)
	}
	if _, err := openProcess(cmd.Process.Pid); !errors.Is(err, vmm.ErrGone) {
		t.Errorf("opening the dead: %v", err)
	}
}

// A guest that prints for ever fills nothing: neither while we read, nor
// while we are away.
func TestConsoleIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), consoleFile)
	c, err := newConsole(path)
	if err != nil {
		t.Fatal(err)
	}
	guest, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(guest)
	chunk := []byte(strings.Repeat("x", 1000))
	for sent := 0; sent < 300<<10; {
		n, err := unix.Write(guest, chunk)
		if errors.Is(err, unix.EAGAIN) {
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(guest), Events: unix.POLLOUT}}, -1); err != nil && !errors.Is(err, unix.EINTR) {
				t.Fatal(err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		sent += n
	}
	if _, err := unix.Write(guest, []byte("the end")); err != nil {
		t.Fatal(err)
	}
	c.finish()
	if tail := c.bytes(); len(tail) != consoleKeep || !strings.HasSuffix(string(tail), "xthe end") {
		t.Errorf("%d bytes are kept, ending in %q", len(tail), tail[max(0, len(tail)-20):])
	}

	// Nobody reads: the pipe is full at some point, and that is all.
	sent := 0
	for {
		n, err := unix.Write(guest, chunk)
		if err != nil {
			if !errors.Is(err, unix.EAGAIN) {
				t.Fatal(err)
			}
			break
		}
		sent += n
	}
	if sent > 1<<20 {
		t.Errorf("%d bytes went into a pipe", sent)
	}
	back, err := openConsole(path)
	if err != nil {
		t.Fatal(err)
	}
	back.finish()
	if got := len(back.bytes()); got == 0 || got > sent {
		t.Errorf("%d of %d bytes were found again", got, sent)
	}
}

func TestKVMAnswerIsKept(t *testing.T) {
	dir := t.TempDir()
	d := &Driver{config: Config{CacheDir: dir, Digest: "0123456789abcdef0123", Accel: "auto"}, log: quiet}
	if err := writeAnswer(d.answerFile(), "kvm"); err != nil {
		t.Fatal(err)
	}
	if accel, err := d.Accel(t.Context()); err != nil || accel != "kvm" {
		t.Errorf("accel is %q, %v", accel, err)
	}
	for _, spoilt := range []string{"", "{", `{"boot_id":"another","accel":"kvm"}`, `{"boot_id":"` + bootID() + `","accel":"warp"}`} {
		if err := os.WriteFile(d.answerFile(), []byte(spoilt), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := readAnswer(d.answerFile()); got != "" {
			t.Errorf("%q was read as %q", spoilt, got)
		}
	}
	if other := (&Driver{config: Config{CacheDir: dir, Digest: "another"}}); other.answerFile() == d.answerFile() {
		t.Error("two bundles share an answer")
	}
	if none := (&Driver{config: Config{Digest: "x"}}); none.answerFile() != "" {
		t.Error("an answer is kept without a cache")
	}
}
