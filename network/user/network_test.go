package user

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/network"
	"github.com/miosa/miosa/vmm"
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
	if !a.Address.Addr().IsLoopback() || a.NIC.Forward != a.Address || a.NIC.GuestPort != 8080 || a.NIC.Tap != "" {
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
