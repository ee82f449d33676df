package sim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miosa/miosa/network"
	"github.com/miosa/miosa/network/user"
	"github.com/miosa/miosa/vmm"
	"github.com/miosa/miosa/vmm/vmmtest"
	"github.com/miosa/miosa/wire/guest"
)

var quiet = slog.New(slog.DiscardHandler)

func driver(t *testing.T, host *Host) *Driver {
	t.Helper()
	d, err := New(Config{Host: host}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func newNetwork(t *testing.T) network.Network {
	t.Helper()
	n, err := user.New(user.Config{File: filepath.Join(t.TempDir(), "ports")}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func attach(t *testing.T, n network.Network, instance string) network.Attachment {
	t.Helper()
	a, err := n.Attach(context.Background(), instance, 8080, 0)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestConformance(t *testing.T) {
	vmmtest.Run(t, func(t *testing.T) vmmtest.Fixture {
		ours, other, n := new(Host), new(Host), newNetwork(t)
		t.Cleanup(func() {
			for _, h := range []*Host{ours, other} {
				if _, err := driver(t, h).Reclaim(context.Background(), func(string) bool { return false }); err != nil {
					t.Error(err)
				}
			}
		})
		return vmmtest.Fixture{
			Driver:   func(t *testing.T) vmm.Driver { return driver(t, ours) },
			Stranger: func(t *testing.T) vmm.Driver { return driver(t, other) },
			Dial:     network.Dialer(n),
			Attach:   func(t *testing.T, instance string) network.Attachment { return attach(t, n, instance) },
			Disks:    func(*testing.T, string) (string, string) { return "/base", "/data" },
			Program:  "sim",
			Left: func(_ *testing.T, h vmm.Handle) (left []string) {
				ours.mu.Lock()
				defer ours.mu.Unlock()
				if m, ok := ours.machines[h.ID]; ok && m.handle == h {
					left = append(left, h.ID)
				}
				return left
			},
		}
	})
}

// place is an attachment, and the way to it.
type place struct {
	network.Attachment
	dial func(ctx context.Context, proto, addr string) (net.Conn, error)
}

// boot starts a VM with a command.
func boot(t *testing.T, command string) (vmm.VM, *vmmtest.Session, place) {
	t.Helper()
	n := newNetwork(t)
	a := attach(t, n, "ri_a")
	vm, err := driver(t, nil).Start(t.Context(), vmm.Spec{
		ID: "ri_a-1", VCPUs: 1, MemoryMB: 128, BaseDisk: "/base", DataDisk: "/data", NIC: a.NIC,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = vm.Kill(context.Background()) })
	s := vmmtest.Open(t, vm)
	s.Boot("ri_a", a, command)
	return vm, s, place{a, network.Dialer(n)}
}

// What lies in the ephemeral disk's place gives way to its origin.
func TestTheDiskIsMade(t *testing.T) {
	dir := t.TempDir()
	spec := vmm.Spec{ID: "ri_a-1", VCPUs: 1, MemoryMB: 128, BaseDisk: "/base", DataDisk: filepath.Join(dir, "data"), DataOrigin: filepath.Join(dir, "origin"), NIC: attach(t, newNetwork(t), "ri_a").NIC}
	if _, err := driver(t, nil).Start(t.Context(), spec); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("started without a disk: %v", err)
	}
	for path, content := range map[string]string{spec.DataOrigin: "empty", spec.DataDisk: "another's, and longer"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	vm, err := driver(t, nil).Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = vm.Kill(context.Background()) })
	if got, err := os.ReadFile(spec.DataDisk); string(got) != "empty" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestEnds(t *testing.T) {
	for command, want := range map[string]string{
		"sim exit 3":            "code -3",
		"sim exit 0 after=10ms": "code -0",
		"sim oom":               "code 1 SIGKILL oom",
		"sim not-found":         "code -127 not_found",
		"sim nonsense":          "code -127 setup",
		"sim exit 2 log=3":      "code -2",
	} {
		vm, s, _ := boot(t, command)
		exit := s.Exit()
		got := fmt.Sprintf("code %d", -exit.Code)
		if exit.Code == 0 {
			got = "code -0"
		}
		for _, word := range []string{exit.Signal, exit.Reason} {
			if word != "" {
				got += " " + word
			}
		}
		if exit.OOM {
			got += " oom"
		}
		if got != want {
			t.Errorf("%s: %s, want %s (%+v)", command, got, want, exit)
		}
		<-vm.Done()
	}
}

func TestAnswers(t *testing.T) {
	for command, want := range map[string]int{
		"sim serve": 200,
		"sim 500":   500,
		"sim serve status=302 slow=10ms delay=1ms log=2": 302,
		"/app/server --real":                             200,
		"sim exit 1 after=1h":                            200,
	} {
		_, s, a := boot(t, command)
		s.Phase("listening")
		client := http.Client{
			Timeout:       time.Minute,
			Transport:     &http.Transport{DisableKeepAlives: true, DialContext: a.dial},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
		r, err := client.Get("http://" + a.Address.String())
		if err != nil {
			t.Fatalf("%s: %v", command, err)
		}
		r.Body.Close()
		if r.StatusCode != want {
			t.Errorf("%s answered %d, want %d", command, r.StatusCode, want)
		}
	}
}

// As in a real guest, a gate is before the app.
func TestNobodyElseIsAnswered(t *testing.T) {
	_, s, a := boot(t, "sim serve")
	s.Phase("listening")
	for range 2 {
		client := http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
		if r, err := client.Get("http://" + a.Address.String()); err == nil {
			r.Body.Close()
			t.Errorf("a stranger was answered %d", r.StatusCode)
		}
	}
}

func TestADeafAppIsKilledAtTheDeadline(t *testing.T) {
	vm, s, _ := boot(t, "sim serve deaf")
	s.Phase("listening")
	s.Stop(10 * time.Millisecond)
	if exit := s.Exit(); !exit.KilledAll || !exit.Stopped || exit.Signal != "SIGKILL" {
		t.Errorf("exit is %+v", exit)
	}
	<-vm.Done()
}

func TestWordsThatMeanNothing(t *testing.T) {
	for _, command := range []string{"sim exit", "sim exit x", "sim log -1", "sim 99", "sim serve slow=x", "sim serve what=1", "sim dance"} {
		if b, err := parse(command); err == nil {
			t.Errorf("%q means %+v", command, b)
		}
	}
}

// An app that writes more than is kept waits for its host, as in a real guest:
// not for ever, and lines are lost only then.
func TestAnAppWaitsToWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(vmm.Spec{}, vmm.Handle{})
		m.forget = func() {}
		write := func(count int, want time.Duration) {
			t.Helper()
			began := time.Now()
			for range count {
				m.line(guest.Stdout, "x")
			}
			if took := time.Since(began); took != want {
				t.Errorf("%d lines took %s, want %s", count, took, want)
			}
		}
		free := func(n uint64) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.free(n)
			m.notify()
		}
		write(ringLines, 0)
		time.AfterFunc(patience/4, func() { free(1) })
		write(1, patience/4)
		if first := m.lines[0].N; first != 2 {
			t.Errorf("the first line kept is %d, want 2", first)
		}
		write(100, patience) // and waits no more: nobody takes any
		if first := m.lines[0].N; first != 102 || len(m.lines) != ringLines {
			t.Errorf("%d lines kept from %d on", len(m.lines), first)
		}
		free(102)
		write(2, patience)
		time.AfterFunc(0, func() { m.end(vmm.Exit{}) })
		free(103)
		write(2, 0) // it ends
	})
}
