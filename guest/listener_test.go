package guest

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	wire "github.com/miosa/miosa/wire/guest"
)

func TestReadListeners(t *testing.T) {
	for _, c := range []struct {
		fixture   string
		dualStack bool
		want      string
	}{
		{"none", true, ""},
		{"any4", true, hintAny},
		{"loopback4", true, hintLoopback},
		{"other", true, hintAny},
		{"any6", true, hintAny},
		{"any6", false, hintIPv6},
		{"loopback6", true, hintLoopback},
		{"mapped", true, hintLoopback},
		{"both", false, hintIPv6},
	} {
		r, err := readListeners(filepath.Join("testdata/proc", c.fixture), 8080, func(int) bool { return c.dualStack })
		if err != nil || r.hint() != c.want {
			t.Errorf("%s (dual stack %v): %q, %v; want %q", c.fixture, c.dualStack, r.hint(), err, c.want)
		}
	}
}

func TestWatchListenerOnThisMachine(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var hints []string
	session, err := unix.Getsid(0)
	if err != nil {
		t.Fatal(err)
	}
	watchListener(ctx, "/proc", l.Addr().(*net.TCPAddr).Port, 0, session, func(p wire.Phase) {
		if hints = append(hints, p.AddrHint); p.Detached {
			t.Error("a socket of this session counts as detached")
		}
		cancel() // it would go on watching for a wider one
	})
	if len(hints) != 1 || hints[0] != hintLoopback {
		t.Errorf("hints %q", hints)
	}
}

// Whoever listens in a session of its own, as a daemon does, is told apart.
func TestWhoListensIsTold(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	own, err := unix.Getsid(0)
	if err != nil {
		t.Fatal(err)
	}
	r, err := readListeners("/proc", port, takesIPv4)
	if err != nil {
		t.Fatal(err)
	}
	if !listens("/proc", r.sockets, own) {
		t.Error("this process listens, and is not seen")
	}
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	daemon := exec.CommandContext(t.Context(), "sh", "-c", "echo; read line")
	daemon.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	daemon.ExtraFiles = []*os.File{file}
	in, err := daemon.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := daemon.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		in.Close()
		_ = daemon.Wait() // it ends without a line
	}()
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if !listens("/proc", r.sockets, daemon.Process.Pid) {
		t.Error("the daemon's session listens, and is not seen")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	if listens("/proc", r.sockets, own) {
		t.Error("this process has left the socket to the daemon, and counts as listening")
	}
}

// An app that listens on other ports than its own is told of, once it has had
// time to open all of them.
func TestWatchListenerElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		began := time.Now()
		var told [][]int
		watchListener(ctx, filepath.Join("testdata/proc", "any4"), 81, 61009, 1, func(p wire.Phase) {
			hint, elsewhere := p.AddrHint, p.Ports
			if hint != "" || time.Since(began) < elsewhereAfter {
				t.Errorf("after %v: hint %q", time.Since(began), hint)
			}
			told = append(told, elsewhere)
			time.AfterFunc(time.Minute, cancel)
		})
		if len(told) != 1 || !slices.Contains(told[0], 8080) {
			t.Errorf("told %v", told)
		}
	})
}

func TestTakesIPv4(t *testing.T) {
	for network, want := range map[string]bool{"tcp": true, "tcp6": false} {
		l, err := net.Listen(network, "[::]:0")
		if err != nil {
			t.Skipf("no IPv6 on this machine: %v", err)
		}
		if got := takesIPv4(l.Addr().(*net.TCPAddr).Port); got != want {
			t.Errorf("a listener of %s on [::]: takes IPv4 = %v", network, got)
		}
		_ = l.Close()
	}
}
