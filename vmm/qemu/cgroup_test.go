package qemu

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

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
// written into a false one is checked. That processes start inside is the
// kernel's own doing (clone3 with CLONE_INTO_CGROUP).
func TestV2Files(t *testing.T) {
	root := t.TempDir()
	plant := func(dir string, files ...string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if err := os.WriteFile(filepath.Join(root, dir, f), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	plant("", "cgroup.subtree_control")
	plant("miosa", "cgroup.subtree_control")
	plant("miosa/0badcafe", "cgroup.subtree_control")
	leaf := "miosa/0badcafe/ri_a-1"
	plant(leaf, "memory.max", "memory.swap.max", "memory.oom.group", "cpu.weight", "cpu.max", "pids.max")
	if err := os.WriteFile(filepath.Join(root, "cgroup.controllers"), []byte("cpuset cpu io memory pids\n"), 0o600); err != nil {
		t.Fatal(err)
	}
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
	for file, want := range map[string]string{
		"cgroup.subtree_control":                "+memory +cpu +pids",
		"miosa/cgroup.subtree_control":          "+memory +cpu +pids",
		"miosa/0badcafe/cgroup.subtree_control": "+memory +cpu +pids",
		leaf + "/memory.max":                    "1207959552",
		leaf + "/memory.swap.max":               "0",
		leaf + "/memory.oom.group":              "1",
		leaf + "/cpu.weight":                    "200",
		leaf + "/cpu.max":                       "250000 100000",
		leaf + "/pids.max":                      "130",
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
	plant(leaf, "memory.events")
	if err := os.WriteFile(filepath.Join(root, leaf, "memory.events"), []byte("low 0\nmax 4\noom 1\noom_kill 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if !g.oomKilled() {
		t.Error("the OOM kill was not seen")
	}
	if err := v2.find("miosa/0badcafe/unknown").remove(); err != nil {
		t.Errorf("removing what is not there: %v", err)
	}

	if err := os.WriteFile(filepath.Join(root, "cgroup.controllers"), []byte("cpu\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if some, err := findGroups(root); some != nil || err != nil {
		t.Errorf("without controllers: %v, %v", some, err)
	}
}
