package guest

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	wire "github.com/miosa/miosa/wire/guest"
)

func TestRunPhasesStopsAtTheFirstFailure(t *testing.T) {
	var ran, done []string
	step := func(name string, err error) phase {
		return phase{name, func(context.Context) error { ran = append(ran, name); return err }}
	}
	broken := errors.New("broken")
	err := runPhases(t.Context(), []phase{step("a", nil), step("b", broken), step("c", nil)}, func(name string) { done = append(done, name) })
	if !errors.Is(err, broken) || err.Error() != "b: broken" {
		t.Errorf("error %v", err)
	}
	if !slices.Equal(ran, []string{"a", "b"}) || !slices.Equal(done, []string{"a"}) {
		t.Errorf("ran %v, done %v", ran, done)
	}
	told := cannotStart(wire.ExitNotFound, "The command is not there.")
	if err := runPhases(t.Context(), []phase{step("a", told)}, func(string) {}); err.Error() != "The command is not there." {
		t.Errorf("a customer's words became %q", err)
	}
}

func TestPhasesAreTheProtocols(t *testing.T) {
	var names []string
	for _, p := range new(Init).phases() {
		names = append(names, p.name)
	}
	want := []string{"mount", "modules", "channel", "configure", "network", "root", "switch_root", "prepare"}
	if !slices.Equal(names, want) {
		t.Errorf("phases %v, want %v", names, want)
	}
}

func TestParseModules(t *testing.T) {
	got, err := parseModules("virtio_ring.ko 0\nvsock.ko 19\n")
	if err != nil || !slices.Equal(got, []kernelModule{{"virtio_ring.ko", 0}, {"vsock.ko", 19}}) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"x.ko\n", "x.ko y\n", "../x.ko 0\n"} {
		if _, err := parseModules(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestModuleLoaderKnowsTheMachinesDevices(t *testing.T) {
	sysfs := t.TempDir()
	write(t, sysfs, "bus/virtio/devices/virtio0/device", "0x0003\n", 0o644)
	write(t, sysfs, "bus/virtio/devices/virtio1/device", "0x0013\n", 0o644)
	l := &moduleLoader{sysfs: sysfs}
	if !l.present(virtioConsole) || !l.present(virtioVsock) || l.present(1) {
		t.Errorf("devices %v", l.loaded)
	}
}

func TestFindSerial(t *testing.T) {
	sysfs := t.TempDir()
	if got := findSerial(sysfs, "/dev", portName); got != "" {
		t.Errorf("found %s in nothing", got)
	}
	write(t, sysfs, "class/virtio-ports/vport0p1/name", "other\n", 0o644)
	write(t, sysfs, "class/virtio-ports/vport0p2/name", "ctl\n", 0o644)
	if got := findSerial(sysfs, "/dev", portName); got != "/dev/vport0p2" {
		t.Errorf("found %q", got)
	}
}

func TestFindInterface(t *testing.T) {
	sysfs := t.TempDir()
	write(t, sysfs, "class/net/lo/address", "00:00:00:00:00:00\n", 0o644)
	write(t, sysfs, "class/net/eth0/address", "52:54:00:aa:bb:cc\n", 0o644)
	write(t, sysfs, "class/net/eth0/ifindex", "2\n", 0o644)
	if got, err := findInterface(sysfs); err != nil || got != (nic{"eth0", "52:54:00:aa:bb:cc", 2}) {
		t.Errorf("found %+v, %v", got, err)
	}
	if err := os.RemoveAll(filepath.Join(sysfs, "class/net/eth0")); err != nil {
		t.Fatal(err)
	}
	if got, err := findInterface(sysfs); err != nil || got != (nic{}) {
		t.Errorf("found %+v where there is none, %v", got, err)
	}
}

func TestAcknowledgement(t *testing.T) {
	ack := func(kind uint16, seq uint32, errno int32) []byte {
		b := make([]byte, 36)
		binary.NativeEndian.PutUint32(b, 36)
		binary.NativeEndian.PutUint16(b[4:], kind)
		binary.NativeEndian.PutUint32(b[8:], seq)
		binary.NativeEndian.PutUint32(b[16:], uint32(-errno))
		return b
	}
	other := ack(unix.RTM_NEWLINK, 1, 0)
	for name, c := range map[string]struct {
		packet []byte
		code   int
		ok     bool
	}{
		"success":   {ack(unix.NLMSG_ERROR, 1, 0), 0, true},
		"failure":   {ack(unix.NLMSG_ERROR, 1, int32(unix.EPERM)), int(unix.EPERM), true},
		"another's": {ack(unix.NLMSG_ERROR, 2, 0), 0, false},
		"second":    {append(other, ack(unix.NLMSG_ERROR, 1, int32(unix.EEXIST))...), int(unix.EEXIST), true},
		"nothing":   {nil, 0, false},
		"short":     {make([]byte, 20), 0, false},
	} {
		if code, ok := acknowledgement(c.packet, 1); code != c.code || ok != c.ok {
			t.Errorf("%s: %d, %v", name, code, ok)
		}
	}
}

const kernelMessages = `<6>[    1.619794] Run /init as init process
<6>[    9.200000] oom-kill:constraint=CONSTRAINT_NONE
<3>[    9.211111] Out of memory: Killed process 57 (app) total-vm:123kB, anon-rss:1kB
`

func TestKernelLog(t *testing.T) {
	if at, ok := firstInstruction([]byte(kernelMessages)); !ok || at.Round(time.Microsecond) != 1619794*time.Microsecond {
		t.Errorf("first instruction at %v, %v", at, ok)
	}
	if _, ok := firstInstruction([]byte("<6>[ x] Run /init as init process\nRun /init")); ok {
		t.Error("a time was made up")
	}
	if !oomKilled([]byte(kernelMessages), 57) || oomKilled([]byte(kernelMessages), 5) || oomKilled([]byte(kernelMessages), 7) {
		t.Error("the wrong process")
	}
}

func TestReadStats(t *testing.T) {
	root := t.TempDir()
	write(t, root, "proc/meminfo", "MemTotal:   1000 kB\nMemFree: 1 kB\nMemAvailable:  400 kB\n", 0o644)
	write(t, root, "proc/stat", "cpu  10 0 20 1000 500 1 2 3 4 5\ncpu0 1 2\n", 0o644)
	write(t, root, "proc/loadavg", "0.50 0.40 0.30 1/100 1000\n", 0o644)
	write(t, root, "proc/vmstat", "nr_x 1\noom_kill 3\n", 0o644)
	s := readStats(root)
	if s.MemTotal != 1000<<10 || s.MemUsed != 600<<10 || s.CPUMS != 360 || s.Load1 != 0.5 || s.OOMKills != 3 || s.DiskTotal == 0 {
		t.Errorf("%+v", s)
	}
	if s := readStats(t.TempDir()); s.MemTotal != 0 || s.CPUMS != 0 {
		t.Errorf("from nothing: %+v", s)
	}
}

func TestRefusesToRunBesideOthers(t *testing.T) {
	if os.Getpid() == 1 {
		t.Skip("this is PID 1")
	}
	killAll(0, unix.SIGKILL) // or there would be no more of this test
}

func TestExitOfFailures(t *testing.T) {
	for reason, code := range map[string]int{wire.ExitNotFound: 127, wire.ExitNotExecutable: 126, wire.ExitWrongArch: 126, wire.ExitSetup: -1} {
		if e := setupExit(cannotStart(reason, "words")); e.Reason != reason || e.Code != code || e.Message != "words" {
			t.Errorf("%s: %+v", reason, e)
		}
	}
	if e := setupExit(errors.New("network: x")); e.Reason != wire.ExitSetup || e.Message != "network: x" {
		t.Errorf("%+v", e)
	}
}

func TestTookForMemory(t *testing.T) {
	log := func() []byte { return []byte(kernelMessages) }
	for name, c := range map[string]struct {
		exit wire.Exit
		pid  int
		rose bool
		want bool
	}{
		"named in the log":         {wire.Exit{Code: -1, Signal: "SIGKILL"}, 57, false, true},
		"counted":                  {wire.Exit{Code: -1, Signal: "SIGKILL"}, 58, true, true},
		"killed by someone":        {wire.Exit{Code: -1, Signal: "SIGKILL"}, 58, false, false},
		"a shell's child":          {wire.Exit{Code: 137}, 58, true, true},
		"exit code 137 for itself": {wire.Exit{Code: 137}, 58, false, false},
		"another signal":           {wire.Exit{Code: -1, Signal: "SIGSEGV"}, 57, true, false},
		"clean":                    {wire.Exit{}, 57, true, false},
	} {
		if got := tookForMemory(c.exit, c.pid, c.rose, log); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestImageDirsExist(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tmp")
	if err := mkdirExact(dir, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o777 || info.Mode()&os.ModeSticky == 0 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := mkdirExact(dir, 0o755); err != nil {
		t.Errorf("an existing one: %v", err)
	}
}
