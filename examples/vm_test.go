package examples_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/artifact"
	"github.com/miosa/miosa/artifact/erofs"
	"github.com/miosa/miosa/artifact/local"
	"github.com/miosa/miosa/network"
	"github.com/miosa/miosa/network/user"
	"github.com/miosa/miosa/vmm"
	"github.com/miosa/miosa/vmm/bundle"
	"github.com/miosa/miosa/vmm/qemu"
	"github.com/miosa/miosa/vmm/vmmtest"
	"github.com/miosa/miosa/wire/guest"
)

var quiet = slog.New(slog.DiscardHandler)

// machine boots packed examples in VMs of this test's own, reached through
// ports on loopback: it needs no root.
type machine struct {
	driver   *qemu.Driver
	network  network.Network
	releases *local.Blobs
	images   *erofs.Images
	dir      string
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	if testing.Short() {
		t.Skip("boots real VMs: not in short mode")
	}
	for _, tool := range []string{"qemu-system-x86_64", "mkfs.ext4"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("no real VM: %s is not installed", tool)
		}
	}
	guestBundle, err := bundle.Find("")
	if err != nil {
		t.Skipf("no real VM: %v", err)
	}
	dir, err := os.MkdirTemp("", "examples-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	// VMs run as users of their own, who must get to their sockets.
	if err := os.Chmod(dir, 0o711); err != nil { //nolint:gosec // only to be passed through
		t.Fatal(err)
	}
	m := &machine{dir: dir}
	if m.driver, err = qemu.New(qemu.Config{
		DataDir: dir, CellID: "0badf00d", RunDir: filepath.Join(dir, "run"), Accel: "tcg",
		Kernel: guestBundle.Kernel, Initrd: guestBundle.Initrd, Digest: guestBundle.Digest,
	}, quiet); err != nil {
		t.Fatal(err)
	}
	if m.network, err = user.New(user.Config{File: filepath.Join(dir, "ports")}, quiet); err != nil {
		t.Fatal(err)
	}
	if m.releases, err = local.New(local.Config{Dir: filepath.Join(dir, "blobs")}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		none := func(string) bool { return false }
		_, err := m.driver.Reclaim(context.Background(), none)
		if err := errors.Join(err, m.network.Close(context.Background()), m.releases.Close()); err != nil {
			t.Error(err)
		}
	})
	if m.images, err = erofs.New(erofs.Config{Dir: filepath.Join(dir, "images")}, m.releases); err != nil {
		t.Fatal(err)
	}
	return m
}

// boot uploads a packed example as the platform does, and starts its command.
func (m *machine) boot(t *testing.T, name, command string, memoryMB int) (*app, *vmmtest.Session, vmm.VM) {
	t.Helper()
	f, err := os.Open(packed(t, name, "1"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	stored, err := artifact.Receive(t.Context(), m.releases, artifact.Upload{Kind: miosa.KindRootFS, Body: f}, artifact.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	base, err := m.images.Ensure(t.Context(), stored.Blob.SHA256, miosa.KindRootFS)
	if err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(m.dir, name+".ext4")
	if err := vmmtest.BuildData(disk); err != nil {
		t.Fatal(err)
	}
	at, err := m.network.Attach(t.Context(), name, 8080, 0)
	if err != nil {
		t.Fatal(err)
	}
	vm, err := m.driver.Start(t.Context(), vmm.Spec{
		ID: name + "-1", VCPUs: 1, MemoryMB: memoryMB, BaseDisk: base, DataDisk: disk, NIC: at.NIC, UID: at.UID,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(vm.Kill(context.Background()), m.network.Detach(context.Background(), name)); err != nil {
			t.Error(err)
		}
	})
	s := vmmtest.Open(t, vm)
	s.Boot(name, at, command)
	return &app{
		t: t, url: "http://" + at.Address.String(),
		http: &http.Client{Transport: &http.Transport{DialContext: network.Dialer(m.network)}},
	}, s, vm
}

func text(lines []guest.Line) string {
	var b strings.Builder
	for _, l := range lines {
		b.Write(l.Text)
		b.WriteByte('\n')
	}
	return b.String()
}

// fromDebianOrSkip skips what would download Debian's packages unasked.
func fromDebianOrSkip(t *testing.T) {
	t.Helper()
	if os.Getenv(packedFromDebian) == "" {
		t.Skip("packs an interpreter from Debian's packages (35 MB to download): run examples/check")
	}
}

// TestInVM runs the examples as instances run: packed, uploaded, as an image,
// in a VM.
func TestInVM(t *testing.T) {
	m := newMachine(t)
	t.Run("hello", func(t *testing.T) {
		a, s, _ := m.boot(t, "hello", "/app/server", 128)
		s.Phase("listening")
		a.expect("GET", "/", "", 200, "Hello from MIOSA")
		a.expect("GET", "/env", "", 200, "PORT")
		s.Stop(patience)
		if exit := s.Exit(); exit.Code != 0 || !exit.Stopped {
			t.Errorf("exit %+v, want a clean stop; it said:\n%s", exit, text(s.Lines))
		}
	})
	t.Run("crasher", func(t *testing.T) {
		_, s, _ := m.boot(t, "crasher", "/app/server", 128)
		if exit := s.Exit(); exit.Code != 3 || !strings.Contains(text(s.Lines), "DATABASE_PASSWORD is not set") {
			t.Errorf("exit %+v; it said:\n%s", exit, text(s.Lines))
		}
	})
	t.Run("five-hundred", func(t *testing.T) {
		a, s, _ := m.boot(t, "five-hundred", "/app/server", 128)
		s.Phase("listening")
		a.expect("GET", "/healthz", "", 500, "the cache is gone")
	})
	t.Run("leaky", func(t *testing.T) {
		_, s, _ := m.boot(t, "leaky", "/app/server", 128)
		s.Phase("listening")
		if exit := s.Exit(); !exit.OOM || exit.Signal != "SIGKILL" {
			t.Errorf("exit %+v, want an OOM kill; it said:\n%s", exit, text(s.Lines))
		}
	})
	t.Run("python", func(t *testing.T) {
		fromDebianOrSkip(t)
		a, s, _ := m.boot(t, "python", "/usr/bin/python3 /app/app.py", 256)
		s.Phase("listening")
		a.expect("GET", "/healthz", "", 200, "true")
		a.expect("POST", "/", "kept on the disk", 201, "kept")
		a.expect("GET", "/", "", 200, "kept on the disk")
		a.expect("POST", "/fill", "", 200, "No space left")
		a.expect("POST", "/", "does not fit", 507, "could not be kept")
		s.Stop(patience)
		if exit := s.Exit(); exit.Code != 0 || !exit.Stopped {
			t.Errorf("exit %+v, want a clean stop; it said:\n%s", exit, text(s.Lines))
		}
	})
	t.Run("node-chat", func(t *testing.T) {
		fromDebianOrSkip(t)
		a, s, _ := m.boot(t, "node-chat", "/usr/bin/node /app/server.js", 512)
		s.Phase("listening")
		a.expect("GET", "/healthz", "", 200, "ok")
		one, two := a.dial(), a.dial()
		a.say(one, "from a VM")
		a.hear(two, "from a VM")
		s.Stop(patience)
		a.closedWith(two, 1001)
		a.closedWith(one, 1001)
		if exit := s.Exit(); exit.Code != 0 || !exit.Stopped {
			t.Errorf("exit %+v, want a clean stop; it said:\n%s", exit, text(s.Lines))
		}
	})
}
