package guest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/erofs/go-erofs"

	"github.com/miosa/miosa/vmm/bundle"
	wire "github.com/miosa/miosa/wire/guest"
)

// These tests boot real VMs with QEMU under software emulation, without the
// drivers: PID 1 against a real kernel. They are slow (2 to 10 s a boot) and
// assert no times; the limit is only for a VM that hangs.
const vmLimit = 3 * time.Minute

// fixture is what all VM tests share: a bundle with this tree's miosa-init,
// and a release image.
type fixture struct {
	bundle bundle.Bundle
	image  string
	skip   string
}

var shared = sync.OnceValues(func() (*fixture, error) {
	for _, tool := range []string{"qemu-system-x86_64", "mkfs.ext4", "go"} {
		if _, err := exec.LookPath(tool); err != nil {
			return &fixture{skip: tool + " is not installed"}, nil
		}
	}
	if _, err := bundle.Find(""); err != nil {
		return &fixture{skip: err.Error()}, nil
	}
	dir := os.Getenv("MIOSA_GUEST_TEST_DIR")
	build := func(out, pkg string) error {
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if b, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", pkg, err, b)
		}
		return nil
	}
	if err := build(filepath.Join(dir, "miosa-init"), "../cmd/miosa-init"); err != nil {
		return nil, err
	}
	if err := build(filepath.Join(dir, "app"), "./testdata/app"); err != nil {
		return nil, err
	}
	// A cache of its own, with the machine's kernel: what the machine uses
	// stays as it is.
	cache, err := bundle.DefaultCacheDir()
	if err != nil {
		return nil, err
	}
	if err := os.Symlink(filepath.Join(cache, "kernel"), filepath.Join(dir, "kernel")); err != nil {
		return nil, err
	}
	b, err := bundle.Ensure(context.Background(), bundle.Config{CacheDir: dir, InitBinary: filepath.Join(dir, "miosa-init")})
	if err != nil {
		return nil, err
	}
	image := filepath.Join(dir, "base.erofs")
	return &fixture{bundle: b, image: image}, writeImage(image, filepath.Join(dir, "app"))
})

// TestMain gives the shared files a directory that goes with the test.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "guest-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if err := os.Setenv("MIOSA_GUEST_TEST_DIR", dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

func writeImage(path, app string) (err error) {
	program, err := os.ReadFile(app)
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := erofs.Create(f)
	tree := fstest.MapFS{
		"app":           {Mode: fs.ModeDir | 0o755},
		"app/app":       {Data: program, Mode: 0o755},
		"app/plain.txt": {Data: []byte("hello"), Mode: 0o644},
		"app/script":    {Data: []byte("#!/usr/bin/python3\n"), Mode: 0o755},
		"etc":           {Mode: fs.ModeDir | 0o755},
		"etc/passwd":    {Data: []byte("root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001::/home/web:/bin/sh\n"), Mode: 0o644},
		"etc/group":     {Data: []byte("root:x:0:\nweb:x:1001:\n"), Mode: 0o644},
	}
	if err := w.CopyFrom(tree); err != nil {
		return err
	}
	return w.Close()
}

// vm is one running QEMU.
type vm struct {
	t    *testing.T
	dir  string
	cmd  *exec.Cmd
	done chan struct{}

	retries int // connections that the guest did not answer on
}

// boot starts a VM and makes sure that nothing of it outlives the test.
func boot(t *testing.T) *vm {
	t.Helper()
	return bootWith(t, "tsc_early_khz="+strconv.Itoa(tscKHz(t)))
}

// bootWith gives the kernel some more words.
func bootWith(t *testing.T, words string) *vm {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a real VM: not in short mode")
	}
	f, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	if f.skip != "" {
		t.Skip("no real VM: " + f.skip)
	}
	// Short: socket paths have 107 bytes.
	dir, err := os.MkdirTemp("", "gvm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	disk := filepath.Join(dir, "data.ext4")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 256<<20); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard", disk).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v\n%s", err, out)
	}
	v := &vm{t: t, dir: dir, done: make(chan struct{})}
	v.cmd = exec.Command("qemu-system-x86_64",
		"-M", "microvm", "-accel", "tcg,thread=single", "-cpu", "max", "-m", "128", "-smp", "1",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-chardev", "file,id=con,path="+filepath.Join(dir, "console.log"), "-serial", "chardev:con",
		"-kernel", f.bundle.Kernel, "-initrd", f.bundle.Initrd,
		"-append", "console=ttyS0 reboot=t panic=-1 quiet "+strings.Join(f.bundle.KernelArgs(), " ")+" "+words,
		"-qmp", "unix:"+filepath.Join(dir, "qmp.sock")+",server=on,wait=off",
		"-device", "virtio-serial-device",
		"-chardev", "socket,id=ctl,path="+filepath.Join(dir, "ctl.sock")+",server=on,wait=off",
		"-device", "virtserialport,chardev=ctl,name=ctl",
		"-drive", "file="+f.image+",if=none,id=d0,format=raw,readonly=on,file.locking=off", "-device", "virtio-blk-device,drive=d0",
		"-drive", "file="+disk+",if=none,id=d1,format=raw,cache=unsafe,discard=unmap", "-device", "virtio-blk-device,drive=d1",
		"-netdev", "user,id=n0,restrict=on", "-device", "virtio-net-device,netdev=n0,mac=52:54:00:00:00:02",
	)
	v.cmd.Stderr = os.Stderr
	v.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // also when the tests are cut short
	if err := v.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = v.cmd.Wait()
		close(v.done)
	}()
	t.Cleanup(func() {
		_ = v.cmd.Process.Kill()
		<-v.done
		if t.Failed() {
			b, _ := os.ReadFile(filepath.Join(dir, "console.log"))
			t.Logf("console:\n%s", b)
		}
	})
	return v
}

func tscKHz(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "cpu MHz") {
			_, value, _ := strings.Cut(line, ":")
			mhz, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			return int(mhz * 1000)
		}
	}
	t.Skip("the processor's frequency is not known")
	return 0
}

// host is the other end of the channel, for one connection.
type host struct {
	t    *testing.T
	nc   net.Conn
	conn *wire.Conn
	s    *wire.Session
}

// dial connects, attaches, and waits for the guest's answer; as every host
// must, it connects anew when none comes.
func (v *vm) dial(s *wire.Session) (*host, wire.Hello) {
	v.t.Helper()
	for giveUp := time.Now().Add(vmLimit); time.Now().Before(giveUp); {
		nc, err := net.Dial("unix", filepath.Join(v.dir, "ctl.sock"))
		if err != nil {
			select {
			case <-v.done:
				v.t.Fatal("QEMU ended before the test could connect")
			case <-v.t.Context().Done():
				v.t.Fatal("cut short")
			case <-time.After(5 * time.Millisecond): // its socket is about to appear
			}
			continue
		}
		h := &host{t: v.t, nc: nc, conn: wire.NewConn(nc), s: s}
		if hello, err := h.attach(); err == nil {
			_ = nc.SetDeadline(giveUp)
			return h, hello
		}
		_ = nc.Close()
		v.retries++
	}
	v.t.Fatal("the guest did not say hello")
	return nil, wire.Hello{}
}

// attach sends Attach and waits for its Hello.
func (h *host) attach() (wire.Hello, error) {
	if err := h.nc.SetDeadline(time.Now().Add(wire.HelloTimeout)); err != nil {
		return wire.Hello{}, err
	}
	if err := h.conn.WriteMessage(h.s.Connect(rand.Uint64() | 1)); err != nil {
		return wire.Hello{}, err
	}
	for {
		m, err := h.conn.ReadMessage()
		if err != nil {
			return wire.Hello{}, err
		}
		if m, ok, err := h.s.Receive(m); err != nil {
			return wire.Hello{}, err
		} else if ok {
			return *m.Hello, nil
		}
	}
}

func (h *host) send(m wire.Message) {
	h.t.Helper()
	if err := h.conn.WriteMessage(m); err != nil {
		h.t.Fatal(err)
	}
}

// receive returns the next message that counts.
func (h *host) receive() wire.Message {
	h.t.Helper()
	for {
		m, err := h.conn.ReadMessage()
		if err != nil {
			h.t.Fatalf("the channel broke: %v", err)
		}
		m, ok, err := h.s.Receive(m)
		if err != nil {
			h.t.Fatal(err)
		}
		if ok {
			return m
		}
	}
}

// transcript is all that a VM told.
type transcript struct {
	hello  wire.Hello // the first one
	phases []wire.Phase
	lines  []string
	gap    uint64
	stats  []wire.Stats
	exit   *wire.Exit
}

func (tr *transcript) note(m wire.Message) {
	switch {
	case m.Phase != nil:
		tr.phases = append(tr.phases, *m.Phase)
	case m.Lines != nil:
		tr.gap += m.Lines.Gap
		for _, l := range m.Lines.Lines {
			tr.lines = append(tr.lines, string(l.Stream)+" "+string(l.Text))
		}
	case m.Stats != nil:
		tr.stats = append(tr.stats, *m.Stats)
	case m.Exit != nil:
		tr.exit = m.Exit
	}
}

func (tr *transcript) phase(name string) (wire.Phase, bool) {
	for _, p := range tr.phases {
		if p.Name == name {
			return p, true
		}
	}
	return wire.Phase{}, false
}

// until receives up to what stop names.
func (h *host) until(tr *transcript, stop func(wire.Message) bool) {
	h.t.Helper()
	for {
		m := h.receive()
		tr.note(m)
		if m.Lines != nil {
			h.send(wire.Message{Ack: &wire.Ack{N: h.s.After()}})
		}
		if stop(m) {
			return
		}
	}
}

func exit(m wire.Message) bool { return m.Exit != nil }
func phase(name string) func(wire.Message) bool {
	return func(m wire.Message) bool { return m.Phase != nil && m.Phase.Name == name }
}

// finish acknowledges the exit and waits for the machine's end.
func (h *host) finish(v *vm) {
	h.t.Helper()
	h.send(wire.Message{Ack: &wire.Ack{N: h.s.After(), Exit: true}})
	_, _ = io.Copy(io.Discard, h.nc)
	select {
	case <-v.done:
	case <-time.After(vmLimit):
		h.t.Fatal("the VM did not end")
	}
}

func spec(command string) wire.Boot {
	return wire.Boot{
		Version: 1, InstanceID: "ri_test", Boot: 1, Command: command, Hostname: "box",
		Env: []string{"SECRET=xyzzy"}, Nameservers: []string{"10.0.2.3"},
		Network:  &wire.Network{MAC: "52:54:00:00:00:02", Address: "10.0.2.15/24", Gateway: "10.0.2.2"},
		UnixNano: time.Now().UnixNano(), Entropy: []byte("0123456789abcdef0123456789abcdef"),
	}
}

// run boots a VM with the spec and returns all that it told to its end.
func run(t *testing.T, b wire.Boot) transcript {
	t.Helper()
	v := boot(t)
	h, hello := v.dial(wire.NewSession(0))
	defer h.nc.Close()
	tr := transcript{hello: hello}
	h.send(wire.Message{Boot: &b})
	h.until(&tr, exit)
	h.finish(v)
	return tr
}

func TestVMRunsACommand(t *testing.T) {
	b := spec("/app/app env")
	b.User, b.WorkDir = "web", "/app"
	tr := run(t, b)
	if tr.exit.Code != 0 || tr.exit.Reason != "" || tr.exit.LastLine != uint64(len(tr.lines)) {
		t.Errorf("exit = %+v after %d lines", *tr.exit, len(tr.lines))
	}
	text := strings.Join(tr.lines, "\n")
	for _, want := range []string{
		"uid=1000 gid=1001 wd=/app host=box", "home=/home/web", "secret=xyzzy",
		"files=524288", // the most there may be: the command is in Go, which raises it that far
		"10.0.2.15\\tbox", `"nameserver 10.0.2.3\n"`, "write: <nil>", "stdout: <nil>", "stdout again",
		fmt.Sprintf("year=%d", time.Now().UTC().Year()),
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the command's output lacks %q:\n%s", want, text)
		}
	}
	last := int64(-1)
	for _, name := range []string{"mount", "modules", "channel", "configure", "network", "root", "switch_root", "prepare", "start_command", "app_started"} {
		p, ok := tr.phase(name)
		if !ok || p.UptimeMS < last {
			t.Errorf("phase %s: %+v (told: %v)", name, p, ok)
		}
		last = p.UptimeMS
	}
	report, _ := json.Marshal(tr.phases)
	t.Logf("kernel %d ms, hello at %d ms, phases %s", tr.hello.KernelMS, tr.hello.UptimeMS, report)
}
