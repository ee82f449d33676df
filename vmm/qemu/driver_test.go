package qemu

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miosa/miosa"

	"github.com/miosa/miosa/network"
	"github.com/miosa/miosa/network/tap"
	"github.com/miosa/miosa/network/user"
	"github.com/miosa/miosa/vmm"
	"github.com/miosa/miosa/vmm/vmmtest"
)

// host is a platform's data directory with its network, for one test.
type host struct {
	config  Config
	network network.Network
}

func newHost(t *testing.T) *host {
	t.Helper()
	b, _ := prepare(t)
	dir, err := os.MkdirTemp(shared.dir, hostDir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	cell := testCell(dir)
	h := &host{config: Config{
		Templates: 2,
		DataDir:   dir, CellID: cell, RunDir: filepath.Join(dir, "run"),
		Kernel: b.Kernel, Initrd: b.Initrd, Digest: b.Digest, Accel: "tcg",
	}}
	if os.Geteuid() == 0 {
		h.network, err = tap.New(tap.Config{CellID: cell, LockFile: filepath.Join(dir, "lock")}, quiet)
	} else {
		h.network, err = user.New(user.Config{File: filepath.Join(dir, "ports")}, quiet)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Whatever went wrong, no VM and no tap outlives the test.
		d := h.driver(t)
		if _, err := d.Reclaim(context.Background(), func(string) bool { return false }); err != nil {
			t.Error(err)
		}
		if d.cgroups != nil {
			if groups, _ := filepath.Glob("/sys/fs/cgroup/*/" + d.groupPath("")); len(groups) > 0 {
				t.Errorf("left behind: %v", groups)
			}
		}
		if err := errors.Join(
			h.network.Reclaim(context.Background(), func(string) bool { return false }),
			h.network.Close(context.Background()),
		); err != nil {
			t.Error(err)
		}
	})
	return h
}

func (h *host) driver(t testing.TB) *Driver {
	t.Helper()
	d, err := New(h.config, quiet)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (h *host) attach(t testing.TB, instance string) network.Attachment {
	t.Helper()
	a, err := h.network.Attach(context.Background(), instance, 8080, 0)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (h *host) disks(t testing.TB, instance string) (base, data string) {
	t.Helper()
	_, base = prepare(t)
	data = filepath.Join(h.config.DataDir, instance+".ext4")
	if _, err := os.Stat(data); errors.Is(err, fs.ErrNotExist) {
		if err := vmmtest.BuildData(data); err != nil {
			t.Fatal(err)
		}
	}
	return base, data
}

func (h *host) spec(t testing.TB, instance string) (vmm.Spec, network.Attachment) {
	a := h.attach(t, instance)
	base, data := h.disks(t, instance)
	return vmm.Spec{ID: instance + "-1", VCPUs: 1, MemoryMB: 128, BaseDisk: base, DataDisk: data, NIC: a.NIC, UID: a.UID}, a
}

// left names what is left of a VM.
func left(_ *testing.T, h vmm.Handle) []string {
	var found []string
	if p, err := openProcess(h.PID); err == nil {
		// A zombie has ended: it waits for its parent, who may be anybody.
		if p.startTime == h.StartTime && !p.exited() {
			found = append(found, fmt.Sprintf("process %d", h.PID))
		}
		p.close()
	}
	if _, err := os.Lstat(h.RunDir); err == nil {
		found = append(found, h.RunDir)
	}
	if h.Cgroup != "" {
		groups, _ := filepath.Glob("/sys/fs/cgroup/*/" + h.Cgroup)
		found = append(found, groups...)
	}
	return found
}

func TestConformance(t *testing.T) {
	vmmtest.Run(t, func(t *testing.T) vmmtest.Fixture {
		ours, other := newHost(t), newHost(t)
		return vmmtest.Fixture{
			Driver:   func(t *testing.T) vmm.Driver { return ours.driver(t) },
			Stranger: func(t *testing.T) vmm.Driver { return other.driver(t) },
			Dial:     network.Dialer(ours.network),
			Attach:   func(t *testing.T, instance string) network.Attachment { return ours.attach(t, instance) },
			Disks:    func(t *testing.T, instance string) (string, string) { return ours.disks(t, instance) },
			Program:  "/app/app",
			Left:     left,
		}
	})
}

func start(t *testing.T, d *Driver, spec vmm.Spec) vmm.VM {
	t.Helper()
	vm, err := d.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("console of %s:\n%s", spec.ID, vm.Console())
		}
		if err := vm.Kill(context.Background()); err != nil {
			t.Error(err)
		}
		if rest := left(t, vm.Handle()); len(rest) > 0 {
			t.Errorf("left behind: %v", rest)
		}
	})
	return vm
}

// ended waits for a VM's end; the limit is for one that hangs.
func ended(t *testing.T, vm vmm.VM) {
	t.Helper()
	timer := time.NewTimer(3 * time.Minute)
	defer timer.Stop()
	select {
	case <-vm.Done():
	case <-timer.C:
		t.Fatalf("vm %s does not end", vm.Handle().ID)
	}
}

func TestPanicIsOnTheConsole(t *testing.T) {
	h := newHost(t)
	spec, a := h.spec(t, "ri_a")
	vm := start(t, h.driver(t), spec)
	s := vmmtest.Open(t, vm)
	s.Boot("ri_a", a, "/app/app crash")
	if s.End() {
		t.Error("a crashed guest reported an exit")
	}
	ended(t, vm)
	if !strings.Contains(string(vm.Console()), "Kernel panic") {
		t.Errorf("console is %q", vm.Console())
	}
}

// The process is confined as the package says.
func TestProcessOwnsNothing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("uids, namespaces and cgroups need root")
	}
	h := newHost(t)
	spec, _ := h.spec(t, "ri_a")
	// A file that somebody left open for every child of ours.
	passwd, err := os.Open("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	defer passwd.Close()
	stray, err := unix.FcntlInt(passwd.Fd(), unix.F_DUPFD, 100)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(stray)
	vm := start(t, h.driver(t), spec)
	vmmtest.Open(t, vm)
	pid := vm.Handle().PID

	status, err := os.ReadFile(procFile(pid, "status"))
	if err != nil {
		t.Fatal(err)
	}
	uid := fmt.Sprintf("%d\t%[1]d\t%[1]d\t%[1]d", spec.UID)
	for _, want := range []string{
		"\nUid:\t" + uid, "\nGid:\t" + uid, "\nGroups:\t \n", "\nNoNewPrivs:\t1", "\nSeccomp:\t2", fmt.Sprintf("\nNSpid:\t%d\t1\n", pid), // alone in its own
		"\nCapInh:\t0000000000000000", "\nCapPrm:\t0000000000000000", "\nCapEff:\t0000000000000000", "\nCapAmb:\t0000000000000000",
	} {
		if !strings.Contains(string(status), want) {
			t.Errorf("status has no %q:\n%s", want, status)
		}
	}
	for _, ns := range []string{"net", "ipc", "uts", "mnt", "pid", "user"} {
		theirs, err := os.Readlink(procFile(pid, "ns/"+ns))
		if err != nil {
			t.Fatal(err)
		}
		if ours, _ := os.Readlink("/proc/self/ns/" + ns); ours == theirs {
			t.Errorf("it shares our %s namespace", ns)
		}
	}
	for _, file := range []string{"uid_map", "gid_map"} {
		b, err := os.ReadFile(procFile(pid, file))
		if want := fmt.Sprint(spec.UID, spec.UID, 1); err != nil || strings.Join(strings.Fields(string(b)), " ") != want {
			t.Errorf("%s is %q, %v; want %s", file, b, err, want)
		}
	}
	limits, err := os.ReadFile(procFile(pid, "limits"))
	if err != nil {
		t.Fatal(err)
	}
	disk, err := os.Stat(spec.DataDisk)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`Max core file size +1 +1 `, `Max open files +1024 +1024 `, fmt.Sprintf(`Max file size +%[1]d +%[1]d `, disk.Size())} {
		if !regexp.MustCompile(want).Match(limits) {
			t.Errorf("limits are not %q:\n%s", want, limits)
		}
	}
	// Its arguments hold the data directory and no other path of ours.
	argv, err := os.ReadFile(procFile(pid, "cmdline"))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(argv), strings.ReplaceAll(h.config.DataDir, ",", ",,")); n > 1 {
		t.Errorf("the data directory is named %d times in %q", n, argv)
	}
	fds, err := os.ReadDir(procFile(pid, "fd"))
	if err != nil || len(fds) == 0 {
		t.Fatal("it has nothing open", err)
	}
	for _, fd := range fds {
		target, err := os.Readlink(procFile(pid, "fd/"+fd.Name()))
		if err == nil && strings.HasPrefix(target, "/") && !slices.Contains([]string{
			"/dev/null", "/dev/urandom", "/dev/net/tun", jailMemory + "/" + memoryName, spec.BaseDisk, spec.DataDisk,
			filepath.Join(vm.Handle().RunDir, consoleFile),
		}, target) {
			t.Errorf("it has %s open", target)
		}
	}
}

// All that a VMM can name is what QEMU itself is made of: nothing of the host's
// root, nothing of another's, and nothing to write to.
func TestNothingOfTheHostIsInSight(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("file systems of their own need root")
	}
	h := newHost(t)
	before, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	// The platform's keys and another instance's disk, both as careless as can be.
	key := filepath.Join(h.config.DataDir, "keys", "secret.key")
	if err := os.Mkdir(filepath.Dir(key), 0o755); err != nil { //nolint:gosec // see above
		t.Fatal(err)
	}
	if err := os.WriteFile(key, []byte("key"), 0o644); err != nil { //nolint:gosec // see above
		t.Fatal(err)
	}
	other, _ := h.spec(t, "ri_b")
	if err := os.Chmod(other.DataDisk, 0o666); err != nil { //nolint:gosec // see above
		t.Fatal(err)
	}
	neighbour := start(t, h.driver(t), other).Handle()
	if err := unix.Kill(neighbour.PID, unix.SIGSTOP); err != nil { // it need not boot
		t.Fatal(err)
	}
	for name, templates := range map[string]int{"it boots by itself": 0, "it is a copy": 2} {
		h.config.Templates = templates
		d := h.driver(t)
		spec, _ := h.spec(t, "ri_a")
		vm := start(t, d, spec)
		vmmtest.Open(t, vm)
		pid := vm.Handle().PID
		root := procFile(pid, "root")
		for _, path := range []string{"/etc", "/proc", "/sys", "/root", "/home", "/tmp", "/run", "/var", "/sbin", "/dev/vda", "/dev/kvm", h.config.DataDir, h.config.RunDir, spec.BaseDisk, spec.DataDisk, key, other.DataDisk, neighbour.RunDir} {
			if _, err := os.Lstat(filepath.Join(root, path)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %s is in sight: %v", name, path, err)
			}
		}
		allowed := map[string]bool{jailKernel: true, jailInitrd: true, jailMemory + "/" + memoryName: true}
		for _, f := range d.jail.files {
			allowed[f.path] = true
		}
		seen := 0
		if err := filepath.WalkDir(root+"/", func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			seen++
			if inside := strings.TrimPrefix(path, root); !allowed[inside] {
				t.Errorf("%s: %s is in sight", name, inside)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		if seen < 5 {
			t.Errorf("%s: only %d files are in its file system: this test looks at the wrong place", name, seen)
		}
		mounts, err := os.ReadFile(procFile(pid, "mountinfo"))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(mounts)) {
			fields := strings.Fields(line)
			at, options := fields[4], strings.Split(fields[5], ",")
			if at != "/" && at != jailMemory && !allowed[at] {
				t.Errorf("%s: mounted: %s", name, line)
			}
			if device := strings.HasPrefix(at, "/dev/"); !device && at != jailMemory && !slices.Contains(options, "ro") {
				t.Errorf("%s: can be written to: %s", name, line)
			}
			if !slices.Contains(options, "nosuid") || slices.ContainsFunc(fields[6:], func(f string) bool { return strings.HasPrefix(f, "shared:") || strings.HasPrefix(f, "master:") }) {
				t.Errorf("%s: not apart: %s", name, line)
			}
		}
		// Of processes it has itself in sight, as number 1.
		if alone := in(t, "pid", pid); len(alone) != 1 {
			t.Errorf("%s: processes %v are in its process namespace", name, alone)
		}
		for _, ns := range []string{"mnt", "pid", "user", "ipc", "net"} {
			if shared := in(t, ns, pid); slices.Contains(shared, neighbour.PID) {
				t.Errorf("%s: its %s namespace is another VM's too", name, ns)
			}
		}
		if err := vm.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		if now, err := os.ReadFile("/proc/self/mountinfo"); err != nil || string(now) != string(before) {
			t.Errorf("%s: our own mounts were\n%s\nand are, %v,\n%s", name, before, err, now)
		}
	}
	// No thread that prepared one serves us on.
	ours, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	tasks, err := filepath.Glob("/proc/self/task/*/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		if ns, err := os.Readlink(task); err == nil && ns != ours {
			// It may be about to end.
			for range 1000 {
				if _, err = os.Readlink(task); err != nil {
					break
				}
				time.Sleep(time.Millisecond) //nolint:forbidigo // a thread's end is no event
			}
			if err == nil {
				t.Errorf("%s is %s, ours is %s", task, ns, ours)
			}
		}
	}
}

// in are the processes that are in a process's namespace.
func in(t *testing.T, namespace string, pid int) (pids []int) {
	t.Helper()
	of, err := os.Readlink(procFile(pid, "ns/"+namespace))
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		other, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if ns, err := os.Readlink(procFile(other, "ns/"+namespace)); err == nil && ns == of {
			pids = append(pids, other)
		}
	}
	return pids
}

func TestCgroupBindsTheProcess(t *testing.T) {
	h := newHost(t)
	d := h.driver(t)
	if d.cgroups == nil {
		t.Skip("no cgroup controllers that we may use")
	}
	v1, ok := d.cgroups.(groupsV1)
	if !ok {
		t.Skip("cgroup v2: its files are tested against a false root")
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	spec, _ := h.spec(t, "ri_a")
	vm := start(t, d, spec)
	path := vm.Handle().Cgroup
	theirs, err := os.ReadFile(procFile(vm.Handle().PID, "cgroup"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range v1.mounts {
		if got := pathIn(string(theirs), m.controller); got != "/"+path {
			t.Errorf("its %s group is %s, want /%s", m.controller, got, path)
		}
	}
	if now, err := os.ReadFile("/proc/self/cgroup"); err != nil || string(now) != string(own) {
		t.Errorf("our own group changed from\n%s to\n%s, %v", own, now, err)
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		b, err := os.ReadFile("/proc/self/task/" + task.Name() + "/cgroup")
		if err == nil && strings.Contains(string(b), path) {
			t.Errorf("our thread %s stayed in the vm's group", task.Name())
		}
	}
	for file, want := range map[string]string{
		filepath.Join(v1.memory, path, "memory.limit_in_bytes"): fmt.Sprint((128 + 192 + 8) << 20),
		filepath.Join(v1.cpu, path, "cpu.shares"):               "1024",
		filepath.Join(v1.pids, path, "pids.max"):                "129",
	} {
		b, err := os.ReadFile(file)
		if err != nil || strings.TrimSpace(string(b)) != want {
			t.Errorf("%s is %q, %v; want %s", file, b, err, want)
		}
	}
	if v1.disk == "" {
		t.Log("no controller for disks here")
	} else if device := wholeDisk(spec.DataDisk); device == "" {
		t.Log("the disk lies on no block device")
	} else {
		for file, want := range map[string]int64{
			"read_bps": defaultDiskBytes, "write_bps": defaultDiskBytes, "read_iops": defaultDiskOps, "write_iops": defaultDiskOps,
		} {
			b, err := os.ReadFile(filepath.Join(v1.disk, path, "blkio.throttle."+file+"_device"))
			if want := fmt.Sprintf("%s %d", device, want); err != nil || strings.TrimSpace(string(b)) != want {
				t.Errorf("%s is %q, %v; want %q", file, b, err, want)
			}
		}
	}
	if b, err := os.ReadFile(filepath.Join(v1.cpu, path, "cpu.cfs_quota_us")); err == nil && strings.TrimSpace(string(b)) != "150000" {
		t.Errorf("quota is %q", b)
	}
}

// tight makes every group too small for a VM.
type tight struct{ groups }

func (g tight) make(path string, l limits) (group, error) {
	l.memoryBytes = 64 << 20
	return g.groups.make(path, l)
}

// A VM that outgrows its limit dies alone, and its exit says why.
func TestOutgrowingTheCgroupIsAnOOM(t *testing.T) {
	h := newHost(t)
	d := h.driver(t)
	if d.cgroups == nil {
		t.Skip("no cgroup controllers that we may use")
	}
	d.cgroups = tight{d.cgroups}
	spec, _ := h.spec(t, "ri_a")
	vm := start(t, d, spec)
	ended(t, vm)
	if exit := vm.Exit(); !exit.OOM || exit.Signal != "SIGKILL" {
		t.Errorf("exit is %+v", exit)
	}
}

func TestStartFailuresLeaveNothing(t *testing.T) {
	h := newHost(t)
	d := h.driver(t)
	spec, _ := h.spec(t, "ri_a")
	for name, spoil := range map[string]func(*vmm.Spec, *Driver){
		"no such base":  func(s *vmm.Spec, _ *Driver) { s.BaseDisk = "/nonexistent" },
		"no such disk":  func(s *vmm.Spec, _ *Driver) { s.DataDisk = "/nonexistent" },
		"no such tap":   func(s *vmm.Spec, _ *Driver) { s.NIC.Tap = "nonexistent0" },
		"tap is a path": func(s *vmm.Spec, _ *Driver) { s.NIC.Tap = "../lo" },
		"no kernel":     func(_ *vmm.Spec, d *Driver) { d.config.Kernel = "/nonexistent" },
		"no program":    func(_ *vmm.Spec, d *Driver) { d.config.Binary = "/nonexistent" },
	} {
		bad := *h.driver(t) //nolint:govet // a fresh copy: its mutex was never used
		s := spec
		spoil(&s, &bad)
		vm, err := bad.Start(t.Context(), s)
		if err == nil {
			_ = vm.Kill(context.Background())
			t.Errorf("%s: started", name)
		}
		if e, ok := errors.AsType[*miosa.Error](err); ok && strings.Contains(e.Message, "/nonexistent") {
			t.Errorf("%s: the message names a path: %s", name, e.Message)
		}
		if ids := d.leftovers(); len(ids) > 0 {
			t.Errorf("%s: left %v", name, ids)
		}
	}
	// QEMU itself refuses: the process runs, and ends with its own words.
	s := spec
	s.NIC.Tap = "lo"
	if vm, err := d.Start(t.Context(), s); err == nil {
		ended(t, vm)
		t.Logf("with lo for a tap: %+v", vm.Exit())
	}
	if ids := d.leftovers(); len(ids) > 0 {
		t.Errorf("left %v", ids)
	}
}

const starterArgument = "start-and-be-killed"

// starterRequest is what a starter reads.
type starterRequest struct {
	Config Config
	Specs  []vmm.Spec
	Deny   []string // what its "container" does not let it do: deny_test.go
}

// starter is another process of the platform: it starts VMs as its standard
// input says, prints their handles, logs to its standard error, and waits to be
// killed.
func starter() int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var request starterRequest
	if err := json.NewDecoder(os.Stdin).Decode(&request); err != nil {
		return fail(err)
	}
	if err := deny(request.Deny); err != nil {
		return fail(err)
	}
	d, err := New(request.Config, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return fail(err)
	}
	for _, spec := range request.Specs {
		vm, err := d.Start(context.Background(), spec)
		if err != nil {
			return fail(err)
		}
		if err := json.NewEncoder(os.Stdout).Encode(vm.Handle()); err != nil {
			return 1
		}
	}
	select {} // nobody gets past this: SIGKILL comes
}

// startAndBeKilled has a starter start VMs, ends it with SIGKILL, and returns
// the VMs' handles and what it logged.
func startAndBeKilled(t *testing.T, request starterRequest) (handles []vmm.Handle, log string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	var errOut bytes.Buffer
	cmd := exec.Command(self, starterArgument)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(text), &errOut
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := json.NewDecoder(out)
	for range request.Specs {
		var h vmm.Handle
		if err = lines.Decode(&h); err != nil {
			break
		}
		handles = append(handles, h)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if err != nil {
		t.Fatalf("after %d handles: %v; the starter said:\n%s", len(handles), err, &errOut)
	}
	return handles, errOut.String()
}

// A SIGKILL of ours leaves the VM alone, and the next of us finds it.
func TestOutlivesItsStarter(t *testing.T) {
	h := newHost(t)
	spec, a := h.spec(t, "ri_a")
	handles, _ := startAndBeKilled(t, starterRequest{Config: h.config, Specs: []vmm.Spec{spec}})
	handle := handles[0]

	vm, err := h.driver(t).Adopt(t.Context(), handle)
	if err != nil {
		t.Fatal(err)
	}
	s := vmmtest.Open(t, vm)
	s.Boot("ri_a", a, "/app/app serve log=3")
	s.Phase("listening")
	if err := vm.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if exit := vm.Exit(); exit.At.IsZero() || exit.Code != -1 {
		t.Errorf("exit is %+v", exit)
	}
	if rest := left(t, handle); len(rest) > 0 {
		t.Errorf("left behind: %v", rest)
	}
}

// A VM that died while nobody watched leaves a directory and a cgroup;
// adopting, reclaiming and starting it again all clear up.
func TestLeftoversOfTheDead(t *testing.T) {
	h := newHost(t)
	d := h.driver(t)
	plant := func(id string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(d.runDir(id), "x"), 0o700); err != nil {
			t.Fatal(err)
		}
		if d.cgroups != nil {
			if _, err := d.cgroups.make(d.groupPath(id), limits{memoryBytes: 1 << 30, cpuShares: 2, cpuQuota: cpuPeriod, pids: 9}); err != nil {
				t.Fatal(err)
			}
		}
	}
	plant("ri_a-1")
	_, err := d.Adopt(t.Context(), vmm.Handle{ID: "ri_a-1", Driver: "qemu", PID: os.Getpid(), RunDir: d.runDir("ri_a-1"), Cgroup: d.groupPath("ri_a-1")})
	if !errors.Is(err, vmm.ErrGone) {
		t.Errorf("adopting the dead: %v", err)
	}
	if ids := d.leftovers(); len(ids) > 0 {
		t.Errorf("after adopting: %v", ids)
	}
	plant("ri_a-1")
	plant("ri_b-1")
	if _, err := d.Reclaim(t.Context(), func(id string) bool { return id == "ri_a-1" }); err != nil {
		t.Error(err)
	}
	if ids := slices.Compact(d.leftovers()); !slices.Equal(ids, []string{"ri_a-1"}) {
		t.Errorf("after reclaiming: %v", ids)
	}
	spec, _ := h.spec(t, "ri_a")
	start(t, d, spec)
}

// A VM whose directory somebody cleared away can be reached no more: it counts
// as gone, and is ended with what nobody claims.
func TestAVMThatCannotBeReachedIsGone(t *testing.T) {
	h := newHost(t)
	for _, lost := range []string{"", consoleFile, "ctl.sock"} {
		spec, _ := h.spec(t, "ri_a")
		vm := start(t, h.driver(t), spec)
		if err := os.RemoveAll(filepath.Join(vm.Handle().RunDir, lost)); err != nil {
			t.Fatal(err)
		}
		d := h.driver(t)
		if _, err := d.Adopt(t.Context(), vm.Handle()); !errors.Is(err, vmm.ErrGone) {
			t.Errorf("without %q: %v", lost, err)
		}
		if ids, err := d.Reclaim(t.Context(), func(string) bool { return false }); err != nil || !slices.Equal(ids, []string{spec.ID}) {
			t.Errorf("without %q: ended %v, %v", lost, ids, err)
		}
		ended(t, vm)
	}
}

func TestStartIsQuick(t *testing.T) {
	h := newHost(t)
	d := h.driver(t)
	spec, _ := h.spec(t, "ri_a")
	var took []time.Duration
	for range 7 {
		began := time.Now()
		vm, err := d.Start(t.Context(), spec)
		took = append(took, time.Since(began))
		if err != nil {
			t.Fatal(err)
		}
		if err := vm.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(took)
	t.Logf("start to process running: median %s of %v", took[len(took)/2], took)
}

func TestBadConfigs(t *testing.T) {
	dir := t.TempDir()
	kernel := filepath.Join(dir, "k")
	if err := os.WriteFile(kernel, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	good := Config{DataDir: dir, CellID: "0badcafe", RunDir: "/tmp/x", Kernel: kernel, Initrd: kernel, Binary: "/bin/true"}
	if _, err := New(good, quiet); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Config){
		"relative data":  func(c *Config) { c.DataDir = "data" },
		"no cell":        func(c *Config) { c.CellID = "" },
		"cell is a path": func(c *Config) { c.CellID = "../../ab" },
		"relative run":   func(c *Config) { c.RunDir = "run" },
		"long run":       func(c *Config) { c.RunDir = "/" + strings.Repeat("x", 70) },
		"no kernel":      func(c *Config) { c.Kernel = "/nonexistent" },
		"no initrd":      func(c *Config) { c.Initrd = "/nonexistent" },
		"no qemu":        func(c *Config) { c.Binary = "/nonexistent" },
		"accelerator":    func(c *Config) { c.Accel = "warp" },
	} {
		c := good
		spoil(&c)
		if _, err := New(c, quiet); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if miosa.CodeOf(vmm.Spec{}.Check()) != miosa.Invalid {
		t.Error("an empty spec is no invalid one")
	}
}

// What the KVM probe does, under the accelerator that is here.
func TestProbe(t *testing.T) {
	h := newHost(t)
	d := h.driver(t)
	if err := d.boots(t.Context(), "tcg", 3*time.Minute); err != nil {
		t.Error(err)
	}
	if err := d.boots(t.Context(), "tcg", time.Millisecond); err == nil {
		t.Error("a kernel came up in a millisecond")
	}
	if ids := d.leftovers(); len(ids) > 0 {
		t.Errorf("left %v", ids)
	}
}

// Where there is no tap QEMU itself forwards a loopback port, to which everybody
// on the host can connect: nobody but the platform is let in.
func TestUserNetworking(t *testing.T) {
	h := newHost(t)
	var err error
	if h.network, err = user.New(user.Config{File: filepath.Join(h.config.DataDir, "ports")}, quiet); err != nil {
		t.Fatal(err)
	}
	spec, a := h.spec(t, "ri_a")
	vm := start(t, h.driver(t), spec)
	s := vmmtest.Open(t, vm)
	s.Boot("ri_a", a, "/app/app serve")
	s.Phase("listening")
	ask := func(dial func(ctx context.Context, proto, addr string) (net.Conn, error)) (int, error) {
		client := http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true, DialContext: dial}}
		r, err := client.Get("http://" + a.Address.String())
		if err != nil {
			return 0, err
		}
		return r.StatusCode, r.Body.Close()
	}
	for range 2 {
		if code, err := ask((&net.Dialer{}).DialContext); err == nil {
			t.Errorf("a stranger was answered %d", code)
		}
		if code, err := ask(network.Dialer(h.network)); err != nil || code != http.StatusOK {
			t.Errorf("the app answered %d, %v", code, err)
		}
	}
	// Neither password is where other users of this host could read it.
	for _, file := range []string{fmt.Sprintf("/proc/%d/cmdline", vm.Handle().PID), filepath.Join(h.config.DataDir, "ports")} {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, password := range [][]byte{a.Gate.Knock, a.Gate.Answer} {
			for _, form := range []string{string(password), fmt.Sprintf("%x", password), base64.StdEncoding.EncodeToString(password)} {
				if strings.Contains(string(content)+string(vm.Console()), form) {
					t.Errorf("a password of the gate is in %s, or in the console", file)
				}
			}
		}
	}
}

// A worker has no port to forward.
func TestUserNetworkingOfAWorker(t *testing.T) {
	h := newHost(t)
	var err error
	if h.network, err = user.New(user.Config{File: filepath.Join(h.config.DataDir, "ports")}, quiet); err != nil {
		t.Fatal(err)
	}
	a, err := h.network.Attach(t.Context(), "ri_a", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	base, data := h.disks(t, "ri_a")
	vm := start(t, h.driver(t), vmm.Spec{ID: "ri_a-1", VCPUs: 1, MemoryMB: 128, BaseDisk: base, DataDisk: data, NIC: a.NIC, UID: a.UID})
	s := vmmtest.Open(t, vm)
	s.Boot("ri_a", a, "/app/app serve")
	s.Phase("app_started")
}

func TestASharedRunDirectoryIsRefused(t *testing.T) {
	h := newHost(t)
	spec, _ := h.spec(t, "ri_a")
	if err := os.Mkdir(h.config.RunDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(h.config.RunDir, 0o777); err != nil {
		t.Fatal(err)
	}
	if vm, err := h.driver(t).Start(t.Context(), spec); err == nil {
		_ = vm.Kill(context.Background())
		t.Error("sockets were made where everybody writes")
	}
}
