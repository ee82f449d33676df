package guest

import (
	"context"
	"net"
	"path/filepath"
	"testing"
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
	watchListener(ctx, "/proc", l.Addr().(*net.TCPAddr).Port, func(hint string) {
		hints = append(hints, hint)
		cancel() // it would go on watching for a wider one
	})
	if len(hints) != 1 || hints[0] != hintLoopback {
		t.Errorf("hints %q", hints)
	}
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
