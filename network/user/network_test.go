package user

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/network"
	"github.com/miosa/miosa/vmm"
	"github.com/miosa/miosa/wire/guest"
)

func open(t *testing.T, config Config) *Network {
	t.Helper()
	n, err := New(config, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func attach(t *testing.T, n *Network, instance string) network.Attachment {
	t.Helper()
	a, err := n.Attach(context.Background(), instance, 8080, 0)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestPortsAreKeptOverRestarts(t *testing.T) {
	config := Config{File: filepath.Join(t.TempDir(), "ports.json")}
	first := open(t, config)
	a, b := attach(t, first, "ri_a"), attach(t, first, "ri_b")
	if a.Address == b.Address || a.Index == b.Index {
		t.Errorf("two instances share %v and %v", a, b)
	}
	if !a.Address.Addr().IsLoopback() || a.NIC.Forward != a.Address || a.NIC.GuestPort != a.Gate.Port || a.Gate.Port == 8080 || a.NIC.Tap != "" {
		t.Errorf("attachment is %+v", a)
	}

	second := open(t, config)
	if again := attach(t, second, "ri_a"); fmt.Sprint(again) != fmt.Sprint(a) {
		t.Errorf("after a restart %v, before %v", again, a)
	}
	if err := second.Reclaim(t.Context(), func(i string) bool { return i == "ri_b" }); err != nil {
		t.Fatal(err)
	}
	if err := second.Detach(t.Context(), "ri_unknown"); err != nil {
		t.Error(err)
	}
	third := open(t, config)
	if again := attach(t, third, "ri_b"); fmt.Sprint(again) != fmt.Sprint(b) {
		t.Errorf("after reclaiming %v, before %v", again, b)
	}
	if _, known := third.ports["ri_a"]; known {
		t.Error("the reclaimed instance is still known")
	}
	if err := third.Detach(t.Context(), "ri_b"); err != nil {
		t.Fatal(err)
	}
	if len(open(t, config).ports) != 0 {
		t.Error("the detached instance is still known")
	}
}

// What listens nowhere needs no port, and none is forwarded to it.
func TestAWorkerHasNoPort(t *testing.T) {
	config := Config{File: filepath.Join(t.TempDir(), "ports.json"), FirstPort: 20000, LastPort: 20000}
	n := open(t, config)
	first := attach(t, n, "ri_web")
	for _, n := range []*Network{n, open(t, config)} {
		a, err := n.Attach(t.Context(), "ri_worker", 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		if a.NIC.Forward.IsValid() || a.Address.IsValid() || a.Index == first.Index || !a.NIC.Guest.IsValid() || len(a.Nameservers) == 0 {
			t.Errorf("attachment is %+v", a)
		}
		base := vmm.Spec{ID: "ri_worker-1", VCPUs: 1, MemoryMB: 128, BaseDisk: "/base", DataDisk: "/data", NIC: a.NIC}
		if err := base.Check(); err != nil {
			t.Errorf("no driver could start it: %v", err)
		}
	}
	if err := n.Detach(t.Context(), "ri_web"); err != nil {
		t.Fatal(err)
	}
	// One that takes to listening gets a port then, and keeps its index.
	again := attach(t, n, "ri_worker")
	if again.Address.Port() != 20000 || again.Index == first.Index {
		t.Errorf("attachment is %+v", again)
	}
}

func TestPortsInUseAreLeftAlone(t *testing.T) {
	// Two neighbouring ports, of which one is in use.
	var held net.Listener
	var first int
	for {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		if next, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port+1)); err == nil && port < 65535 {
			next.Close()
			held, first = l, port
			break
		}
		l.Close()
	}
	defer held.Close()
	n := open(t, Config{File: filepath.Join(t.TempDir(), "ports.json"), FirstPort: first, LastPort: first + 1})
	if a := attach(t, n, "ri_a"); int(a.Address.Port()) != first+1 {
		t.Errorf("port %d was given out; %d is in use", a.Address.Port(), first)
	}
	_, err := n.Attach(t.Context(), "ri_b", 80, 0)
	if miosa.CodeOf(err) != miosa.Unavailable {
		t.Errorf("attaching without a free port: %v", err)
	}
}

func TestManyAtOnce(t *testing.T) {
	n := open(t, Config{File: filepath.Join(t.TempDir(), "ports.json")})
	var wg sync.WaitGroup
	got := make([]network.Attachment, 20)
	for i := range got {
		wg.Go(func() { got[i] = attach(t, n, fmt.Sprintf("ri_%d", i)) })
	}
	wg.Wait()
	seen := make(map[string]bool)
	for _, a := range got {
		if seen[a.Address.String()] {
			t.Errorf("%s was given out twice", a.Address)
		}
		seen[a.Address.String()] = true
	}
}

func TestBadRequests(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for _, config := range []Config{{}, {File: "ports.json"}, {File: "/x", FirstPort: 9, LastPort: 8}, {File: "/x", LastPort: 70000}} {
		if _, err := New(config, log); err == nil {
			t.Errorf("%+v was accepted", config)
		}
	}
	n := open(t, Config{File: filepath.Join(t.TempDir(), "ports.json")})
	if _, err := n.Attach(t.Context(), "", 80, 0); miosa.CodeOf(err) != miosa.Invalid {
		t.Errorf("no name: %v", err)
	}
	if _, err := n.Attach(t.Context(), "ri", 70000, 0); miosa.CodeOf(err) != miosa.Invalid {
		t.Errorf("port 70000: %v", err)
	}
}

func TestAGateLeavesTheAppItsPort(t *testing.T) {
	n := open(t, Config{File: filepath.Join(t.TempDir(), "ports.json")})
	a, err := n.Attach(t.Context(), "ri_a", gatePort, 0)
	if err != nil || a.NIC.GuestPort == gatePort || a.Gate.Port != a.NIC.GuestPort {
		t.Errorf("attachment is %+v, %v", a, err)
	}
}

// guarded listens where an attachment leads to, as the guest of gate does, and
// echoes what comes.
func guarded(t *testing.T, at network.Attachment, gate guest.Gate) {
	t.Helper()
	l, err := net.Listen("tcp4", at.Address.String())
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				if gate.Admit(conn) == nil && gate.Welcome(conn) == nil {
					_, _ = io.Copy(conn, conn)
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		serving.Wait()
	})
}

// echoes reports whether a network's own way leads to the guest.
func echoes(t *testing.T, n *Network, at network.Attachment) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, err := network.Dialer(n)(ctx, "tcp", at.Address.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("hello")); err != nil {
		return err
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "hello" {
		return fmt.Errorf("read %q, %w", got, err)
	}
	return nil
}

func TestOnlyTheSameKeyPassesAGate(t *testing.T) {
	config := Config{File: filepath.Join(t.TempDir(), "ports.json"), Key: make([]byte, keyBytes)}
	n := open(t, config)
	a := attach(t, n, "ri_a")
	guarded(t, a, *a.Gate)
	// Us, and us after a restart.
	for _, n := range []*Network{n, open(t, config)} {
		if err := echoes(t, n, a); err != nil {
			t.Error(err)
		}
	}
	other := config
	other.Key = bytes.Repeat([]byte{1}, keyBytes)
	if err := echoes(t, open(t, other), a); err == nil {
		t.Error("another key passed")
	}
	kept, err := os.ReadFile(config.File)
	if err != nil || bytes.Contains(kept, a.Gate.Knock) || strings.Contains(string(kept), base64.StdEncoding.EncodeToString(a.Gate.Knock)) {
		t.Errorf("the file holds %s, %v", kept, err)
	}
}

// The passwords are a boot's own, and nobody else's.
func TestPasswordsAreOfOneBoot(t *testing.T) {
	n := open(t, Config{File: filepath.Join(t.TempDir(), "ports.json")})
	seen := map[string]bool{}
	var last network.Attachment
	for _, instance := range []string{"ri_a", "ri_a", "ri_b", "ri_b"} {
		last = attach(t, n, instance)
		seen[string(last.Gate.Knock)], seen[string(last.Gate.Answer)] = true, true
	}
	if len(seen) != 8 {
		t.Errorf("%d passwords of 4 boots", len(seen))
	}
	// Who listened there in an earlier boot's place is found out.
	guarded(t, last, *last.Gate)
	attach(t, n, "ri_b")
	if err := echoes(t, n, last); err == nil {
		t.Error("the gate of an earlier boot was passed")
	}
	if err := n.Detach(t.Context(), "ri_b"); err != nil {
		t.Fatal(err)
	}
	if err := echoes(t, n, last); miosa.CodeOf(err) != miosa.NotFound {
		t.Errorf("no instance is there: %v", err)
	}
}

// The operator is told of who took an instance's port, once a boot.
func TestWhoTookAPortIsToldOf(t *testing.T) {
	var said bytes.Buffer
	n, err := New(Config{File: filepath.Join(t.TempDir(), "ports.json")}, slog.New(slog.NewTextHandler(&said, nil)))
	if err != nil {
		t.Fatal(err)
	}
	for boot := range 2 {
		a := attach(t, n, "ri_a")
		other := *a.Gate
		other.Answer = make([]byte, guest.PasswordBytes)
		for range 3 {
			here, there := net.Pipe()
			go func() {
				if other.Admit(there) == nil {
					_ = other.Welcome(there)
				}
				there.Close()
			}()
			if err := n.Greet(t.Context(), here, a.Address); !errors.Is(err, guest.ErrWrongAnswer) {
				t.Errorf("greeted: %v", err)
			}
			here.Close()
		}
		if told := strings.Count(said.String(), "something else listens"); told != boot+1 || !strings.Contains(said.String(), "ri_a") {
			t.Errorf("boot %d: told %d times:\n%s", boot+1, told, said.String())
		}
	}
}

// A guest that an earlier platform attached has no gate, and is served on.
func TestAGuestFromBeforeThereWereGates(t *testing.T) {
	config := Config{File: filepath.Join(t.TempDir(), "ports.json")}
	a := attach(t, open(t, config), "ri_a")
	if err := os.WriteFile(config.File, fmt.Appendf(nil, `{"ri_a":{"index":0,"port":%d}}`, a.Address.Port()), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", a.Address.String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if conn, err := l.Accept(); err == nil {
			_, _ = io.Copy(conn, conn)
			conn.Close()
		}
	}()
	if err := echoes(t, open(t, config), a); err != nil {
		t.Error(err)
	}
}

// Who asks does not wait for longer than he wants to.
func TestGreetingIsCalledOff(t *testing.T) {
	n := open(t, Config{File: filepath.Join(t.TempDir(), "ports.json")})
	a := attach(t, n, "ri_a")
	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_, _ = io.ReadFull(there, make([]byte, guest.PasswordBytes))
		cancel()
	}()
	if err := n.Greet(ctx, here, a.Address); !errors.Is(err, context.Canceled) {
		t.Errorf("greeted: %v", err)
	}
}

func TestAKeyOfTheWrongLength(t *testing.T) {
	if _, err := New(Config{File: "/ports", Key: make([]byte, 16)}, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a key of 16 bytes was taken")
	}
}
