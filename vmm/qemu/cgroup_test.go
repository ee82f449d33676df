package qemu

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miosa/miosa/vmm"
)

func TestLimits(t *testing.T) {
	small, large := vmm.Spec{VCPUs: 1, MemoryMB: 512}, vmm.Spec{VCPUs: 4, MemoryMB: 4096, CPUShares: 100}
	if got, want := limitsOf(small, "tcg"), (limits{(512 + 192 + 32) << 20, 1024, 150 * time.Millisecond, 129}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got, want := limitsOf(large, "kvm"), (limits{(4096 + 96 + 128) << 20, 100, 450 * time.Millisecond, 132}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	for shares, want := range map[int64]int64{2: 1, 1024: 100, 4096: 400, 262144: 10000} {
		if got := weight(shares); got != want {
			t.Errorf("%d shares are weight %d, want %d", shares, got, want)
		}
	}
}

func TestV1Mounts(t *testing.T) {
	for line, want := range map[string]string{
		"31 23 0:26 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory":          "/sys/fs/cgroup/memory memory",
		"32 23 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:10 - cgroup cgroup rw,cpu,cpuacct": "/sys/fs/cgroup/cpu,cpuacct cpu",
		"33 23 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw":                                "",
		"34 23 0:29 / / rw - ext4 /dev/vda rw":                                                       "",
		"":                                                                                           "",
	} {
		dir, has, ok := v1Mount(line)
		if !ok {
			if want != "" {
				t.Errorf("%q was not understood", line)
			}
			continue
		}
		if dirWant, c, _ := strings.Cut(want, " "); dir != dirWant || !slices.Contains(has, c) {
			t.Errorf("%q is %s with %v, want %s", line, dir, has, want)
		}
	}
	text := "9:name=systemd:/x\n4:memory:/process/a\n3:cpu,cpuacct:/b\n0::/\n"
	for controller, want := range map[string]string{"memory": "/process/a", "cpu": "/b", "pids": "/"} {
		if got := pathIn(text, controller); got != want {
			t.Errorf("%s is in %s, want %s", controller, got, want)
		}
	}
}

// There is no unified hierarchy with controllers here to try, so what is
// written into a false one is checked. That processes start inside is tested by
// TestV2GroupIsEntered.
func TestV2Files(t *testing.T) {
	root := t.TempDir()
	leaf := "miosa/0badcafe/ri_a-1"
	plantV2(t, root, "cpuset cpu io memory pids", leaf)
	all, err := findGroups(root)
	if err != nil {
		t.Fatal(err)
	}
	v2, ok := all.(groupsV2)
	if !ok {
		t.Fatalf("found %T", all)
	}
	g, err := v2.make(leaf, limitsOf(vmm.Spec{VCPUs: 2, MemoryMB: 1024}, "kvm"))
	if err != nil {
		t.Fatal(err)
	}
	if err := g.boundDisk(diskLimits{"254:0", 1 << 20, 300}); err != nil {
		t.Fatal(err)
	}
	if err := g.boundDisk(diskLimits{"", 1 << 20, 300}); !errors.Is(err, errNoDisk) {
		t.Errorf("a disk that is none: %v", err)
	}
	for file, want := range map[string]string{
		"cgroup.subtree_control":                "+memory +cpu +pids +io",
		"miosa/cgroup.subtree_control":          "+memory +cpu +pids +io",
		"miosa/0badcafe/cgroup.subtree_control": "+memory +cpu +pids +io",
		leaf + "/memory.max":                    "1207959552",
		leaf + "/memory.swap.max":               "0",
		leaf + "/memory.oom.group":              "1",
		leaf + "/cpu.weight":                    "200",
		leaf + "/cpu.max":                       "250000 100000",
		leaf + "/pids.max":                      "130",
		leaf + "/io.max":                        "254:0 rbps=1048576 wbps=1048576 riops=300 wiops=300",
	} {
		if b, err := os.ReadFile(filepath.Join(root, file)); err != nil || string(b) != want {
			t.Errorf("%s is %q, %v; want %q", file, b, err, want)
		}
	}
	if names := v2.list("miosa/0badcafe"); !slices.Equal(names, []string{"ri_a-1"}) {
		t.Errorf("groups are %v", names)
	}
	if g.oomKilled() {
		t.Error("an OOM kill nobody counted")
	}
	if err := os.WriteFile(filepath.Join(root, leaf, "memory.events"), []byte("low 0\nmax 4\noom 1\noom_kill 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if !g.oomKilled() {
		t.Error("the OOM kill was not seen")
	}
	if err := v2.find("miosa/0badcafe/unknown").remove(); err != nil {
		t.Errorf("removing what is not there: %v", err)
	}

	// Without a controller for disks, all else is bounded.
	if err := os.WriteFile(filepath.Join(root, "cgroup.controllers"), []byte("cpu memory pids\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if some, err := findGroups(root); err != nil || some != (groupsV2{root, false}) {
		t.Errorf("without one for disks: %v, %v", some, err)
	} else if err := some.find(leaf).boundDisk(diskLimits{"254:0", 1, 1}); !errors.Is(err, errNoDiskController) {
		t.Errorf("without one for disks: %v", err)
	}
	if err := os.WriteFile(filepath.Join(root, "cgroup.controllers"), []byte("cpu\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if some, err := findGroups(root); some != nil || err != nil {
		t.Errorf("without controllers: %v, %v", some, err)
	}
}

func TestIOMax(t *testing.T) {
	for l, want := range map[diskLimits]string{
		{"8:0", 5, 7}:   "8:0 rbps=5 wbps=5 riops=7 wiops=7",
		{"8:0", -1, 7}:  "8:0 riops=7 wiops=7",
		{"8:0", 5, -1}:  "8:0 rbps=5 wbps=5",
		{"8:0", -1, -1}: "",
	} {
		if got := ioMax(l); got != want {
			t.Errorf("%+v is %q, want %q", l, got, want)
		}
	}
}

// A process in a group reads no faster than its limit: the kernel's doing, but
// with our files, device and way into the group.
func TestDiskLimitHolds(t *testing.T) {
	h := newHost(t)
	d := h.driver(t)
	v1, ok := d.cgroups.(groupsV1)
	if !ok || v1.disk == "" {
		t.Skip("no cgroup v1 controller for disks that we may use (v2's files are tested against a false root)")
	}
	file := filepath.Join(h.config.DataDir, "data")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(bytes.Repeat([]byte("x"), 8<<20)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
	device := wholeDisk(file)
	if device == "" {
		t.Skipf("%s lies on no block device", file)
	}
	g, err := v1.make(d.groupPath("ri_a-1"), limits{memoryBytes: 1 << 30, cpuShares: 2, cpuQuota: cpuPeriod, pids: 9})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.removeLeftovers("ri_a-1"); err != nil {
			t.Error(err)
		}
	}()
	if err := g.boundDisk(diskLimits{device, 4 << 20, -1}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := aside(func() error {
		attr := &syscall.SysProcAttr{}
		started, err := g.enter(attr)
		if err != nil {
			return err
		}
		defer started()
		cmd := exec.Command("dd", "if="+file, "of=/dev/null", "iflag=direct", "bs=1M", "status=none")
		cmd.SysProcAttr = attr
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	// 8 MB at 4 MB/s. However slow the machine is, it takes no less.
	if took := time.Since(began); took < time.Second {
		t.Errorf("8 MB were read in %s, at a limit of 4 MB/s", took)
	}
}

// unified has v2's groups without any controller: where v1 has them all, the
// way into a group can still be gone.
type unified struct{ groupsV2 }

func (u unified) make(path string, _ limits) (group, error) {
	g := u.find(path)
	return g, os.MkdirAll(filepath.Join(u.root, path), 0o755) //nolint:gosec // the kernel's
}

// The thread that a VM is forked from has another root by then, and another
// user.
func TestV2GroupIsEntered(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("cgroups need root")
	}
	var u unified
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			u.root = dir
		}
	}
	if u.root == "" {
		t.Skip("no cgroup v2 is mounted")
	}
	t.Cleanup(func() { _ = os.Remove(filepath.Join(u.root, "miosa")) }) // another's groups keep it
	h := newHost(t)
	d := h.driver(t)
	d.cgroups = u
	spec, _ := h.spec(t, "ri_a")
	vm := start(t, d, spec)
	b, err := os.ReadFile(procFile(vm.Handle().PID, "cgroup"))
	if want := "0::/" + d.groupPath(spec.ID) + "\n"; err != nil || !strings.Contains(string(b), want) {
		t.Errorf("it is in %q, %v; want %q", b, err, want)
	}
	if err := vm.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rest := left(t, vm.Handle()); len(rest) > 0 {
		t.Errorf("left behind: %v", rest)
	}
}

// That disks are not bounded is said once, and keeps no VM from starting.
func TestUnboundDisksAreSaidOnce(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("cgroups need root")
	}
	h := newHost(t)
	config := h.config
	config.CgroupRoot = t.TempDir()
	plantV2(t, config.CgroupRoot, "cpu memory pids", h.driver(t).groupPath("ri_a-1"), h.driver(t).groupPath("ri_b-1"))
	var log bytes.Buffer
	d, err := New(config, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"ri_a-1", "ri_b-1"} {
		g, err := d.makePlaces(vmm.Spec{ID: id, VCPUs: 1, MemoryMB: 128}, "tcg")
		if err != nil {
			t.Fatal(err)
		}
		d.boundDisk(g, "/")
	}
	if n := strings.Count(log.String(), "not bounded"); n != 1 {
		t.Errorf("said %d times:\n%s", n, &log)
	}
}

// plantV2 makes files like cgroup v2's.
func plantV2(t *testing.T, root, controllers string, groups ...string) {
	t.Helper()
	plant := func(dir string, files ...string) {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if err := os.WriteFile(filepath.Join(root, dir, f), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	plant("", "cgroup.subtree_control")
	for _, g := range groups {
		for dir := filepath.Dir(g); dir != "."; dir = filepath.Dir(dir) {
			plant(dir, "cgroup.subtree_control")
		}
		plant(g, "memory.max", "memory.swap.max", "memory.oom.group", "cpu.weight", "cpu.max", "pids.max", "io.max")
	}
	if err := os.WriteFile(filepath.Join(root, "cgroup.controllers"), []byte(controllers+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// pathIn finds a controller's path in /proc/PID/cgroup.
func pathIn(text, controller string) string {
	for line := range strings.Lines(text) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) == 3 && slices.Contains(strings.Split(parts[1], ","), controller) {
			return parts[2]
		}
	}
	return "/"
}
