package qemu

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miosa/miosa/vmm"
)

// limits bound one VM process.
type limits struct {
	memoryBytes int64
	cpuShares   int64 // cgroup v1's measure: 1024 is one ordinary process
	cpuQuota    time.Duration
	pids        int
}

// diskLimits bound what a VM reads, and as much again what it writes. Of what
// lies in the host's page cache nothing is counted. Under cgroup v1 the kernel
// does not know any more whose a page was that it writes back later: only
// direct and synchronous writes are bounded there. v2 bounds all.
type diskLimits struct {
	device string // "MAJOR:MINOR" of a whole disk; "": there is nothing to bound
	bytes  int64  // a second; at most 0: any number
	ops    int64  // a second; at most 0: any number
}

// cpuPeriod is what a quota is counted in.
const cpuPeriod = 100 * time.Millisecond

// limitsOf: on top of the guest's memory QEMU needs some of its own, and more
// when it translates code; half a processor beyond the guest's is for its
// devices.
func limitsOf(spec vmm.Spec, accel string) limits {
	overhead := 96 + spec.MemoryMB/32
	if accel != "kvm" {
		overhead = 192 + spec.MemoryMB/16
	}
	shares := spec.CPUShares
	if shares == 0 {
		shares = 1024 * spec.VCPUs
	}
	return limits{
		memoryBytes: int64(spec.MemoryMB+overhead) << 20,
		cpuShares:   int64(min(max(shares, 2), 262144)),
		cpuQuota:    time.Duration(spec.VCPUs)*cpuPeriod + cpuPeriod/2,
		pids:        128 + spec.VCPUs,
	}
}

// groups makes cgroups the way this host has them.
type groups interface {
	// make makes the group at a path below the root, with its limits.
	make(path string, l limits) (group, error)
	// find names a group that may or may not exist.
	find(path string) group
	// list are the names of the groups below a path.
	list(path string) []string
}

// group is one VM's.
type group interface {
	// enter arranges that the next process this thread starts is in the group.
	// The thread may stay in it itself, so it serves for nothing else (aside).
	// The returned function is called once the process has started.
	enter(*syscall.SysProcAttr) (func(), error)
	// boundDisk sets what it reads and writes; an error where that can't be.
	boundDisk(diskLimits) error
	oomKilled() bool
	remove() error
}

var (
	errNoDiskController = errors.New("this host has no cgroup controller for disks (v1: blkio, v2: io) that is ours to use")
	errNoDisk           = errors.New("the disks of VMs do not lie on one block device")
)

// controllers are those a VM is bound by.
var controllers = []string{"memory", "cpu", "pids"}

// Where there is one for disks too, VMs are bound by it; it has a name in each
// version.
const (
	diskControllerV1 = "blkio"
	diskControllerV2 = "io"
)

// findGroups tells v1 from v2 by what is mounted; nil when neither can be
// used.
func findGroups(root string) (groups, error) {
	if b, err := os.ReadFile(filepath.Join(root, "cgroup.controllers")); err == nil {
		has := strings.Fields(string(b))
		for _, c := range controllers {
			if !slices.Contains(has, c) {
				return nil, nil
			}
		}
		return groupsV2{root, slices.Contains(has, diskControllerV2)}, nil
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	defer f.Close()
	mounts := make(map[string]string)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if dir, has, ok := v1Mount(lines.Text()); ok && strings.HasPrefix(dir, root+"/") {
			for _, c := range has {
				mounts[c] = dir
			}
		}
	}
	v1 := groupsV1{}
	for _, c := range controllers {
		if mounts[c] == "" || unix.Access(mounts[c], unix.W_OK) != nil {
			return nil, nil
		}
		if !slices.Contains(v1.dirs(), mounts[c]) {
			v1.mounts = append(v1.mounts, mount{mounts[c], c})
		}
	}
	v1.memory, v1.cpu, v1.pids = mounts["memory"], mounts["cpu"], mounts["pids"]
	if dir := mounts[diskControllerV1]; dir != "" && unix.Access(dir, unix.W_OK) == nil {
		v1.disk = dir
		if !slices.Contains(v1.dirs(), dir) {
			v1.mounts = append(v1.mounts, mount{dir, diskControllerV1})
		}
	}
	return v1, nil
}

// v1Mount reads a line of mountinfo: "… root dir options … - type source
// superoptions".
func v1Mount(line string) (dir string, controllers []string, ok bool) {
	before, after, found := strings.Cut(line, " - ")
	left, right := strings.Fields(before), strings.Fields(after)
	if !found || len(left) < 5 || len(right) < 3 || right[0] != "cgroup" {
		return "", nil, false
	}
	return left[4], strings.Split(right[2], ","), true
}

// groupsV1: one hierarchy for each controller, or for a few together.
type groupsV1 struct {
	mounts            []mount // each directory once
	memory, cpu, pids string
	disk              string // "": there is none
}

// diskFiles are what bounds a disk in a group's directory.
func diskFiles(l diskLimits) (files [][2]string) {
	for _, of := range []struct {
		name  string
		value int64
	}{{"bps", l.bytes}, {"iops", l.ops}} {
		if of.value <= 0 {
			continue
		}
		for _, way := range []string{"read", "write"} {
			files = append(files, [2]string{"blkio.throttle." + way + "_" + of.name + "_device", l.device + " " + strconv.FormatInt(of.value, 10)})
		}
	}
	return files
}

type mount struct{ dir, controller string }

func (g groupsV1) dirs() (dirs []string) {
	for _, m := range g.mounts {
		dirs = append(dirs, m.dir)
	}
	return dirs
}

func (g groupsV1) find(path string) group { return groupV1{g, path} }
func (g groupsV1) list(path string) []string {
	var names []string
	for _, dir := range g.dirs() {
		names = append(names, subdirs(filepath.Join(dir, path))...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (g groupsV1) make(path string, l limits) (group, error) {
	in := groupV1{g, path}
	write := func() error {
		for _, dir := range g.dirs() {
			if err := os.MkdirAll(filepath.Join(dir, path), 0o755); err != nil {
				return err
			}
		}
		for _, s := range [][2]string{
			{filepath.Join(g.memory, path, "memory.limit_in_bytes"), strconv.FormatInt(l.memoryBytes, 10)},
			{filepath.Join(g.cpu, path, "cpu.shares"), strconv.FormatInt(l.cpuShares, 10)},
			{filepath.Join(g.pids, path, "pids.max"), strconv.Itoa(l.pids)},
		} {
			if err := writeFile(s[0], s[1]); err != nil {
				return err
			}
		}
		// Kernels without swap accounting or bandwidth control lack these.
		for _, s := range [][2]string{
			{filepath.Join(g.memory, path, "memory.memsw.limit_in_bytes"), strconv.FormatInt(l.memoryBytes, 10)},
			{filepath.Join(g.cpu, path, "cpu.cfs_period_us"), micros(cpuPeriod)},
			{filepath.Join(g.cpu, path, "cpu.cfs_quota_us"), micros(l.cpuQuota)},
		} {
			if err := writeFile(s[0], s[1]); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return nil
	}
	if err := write(); err != nil {
		return nil, errors.Join(err, in.remove())
	}
	return in, nil
}

type groupV1 struct {
	groupsV1
	path string
}

// enter moves this thread, and this thread only, into the group: what it
// forks begins there. Moving the process after its start would leave its
// first pages counted with us.
func (g groupV1) enter(*syscall.SysProcAttr) (func(), error) {
	for _, dir := range g.dirs() {
		// 0 is who writes. By its number, any thread's move waits until all
		// processors have passed through the scheduler: some 14 ms.
		if err := writeFile(filepath.Join(dir, g.path, "tasks"), "0"); err != nil {
			return nil, fmt.Errorf("enter cgroup: %w", err)
		}
	}
	return func() {}, nil
}

func (g groupV1) boundDisk(l diskLimits) error {
	files := diskFiles(l)
	switch {
	case len(files) == 0:
		return nil
	case g.disk == "":
		return errNoDiskController
	case l.device == "":
		return errNoDisk
	}
	for _, f := range files {
		if err := writeFile(filepath.Join(g.disk, g.path, f[0]), f[1]); err != nil {
			return fmt.Errorf("bound disk %s: %w", l.device, err)
		}
	}
	return nil
}

func (g groupV1) oomKilled() bool {
	return counter(filepath.Join(g.memory, g.path, "memory.oom_control"), "oom_kill") > 0
}

func (g groupV1) remove() error {
	var failed error
	for _, dir := range g.dirs() {
		failed = errors.Join(failed, removeGroup(filepath.Join(dir, g.path)))
	}
	return failed
}

// groupsV2: the one unified hierarchy.
type groupsV2 struct {
	root string
	disk bool // disks can be bounded
}

func (g groupsV2) find(path string) group    { return groupV2{filepath.Join(g.root, path), g.disk} }
func (g groupsV2) list(path string) []string { return subdirs(filepath.Join(g.root, path)) }

func (g groupsV2) make(path string, l limits) (group, error) {
	// A controller must be handed down level by level.
	dir := g.root
	for part := range strings.SplitSeq(filepath.Dir(path), "/") {
		if err := g.handDown(dir); err != nil {
			return nil, err
		}
		dir = filepath.Join(dir, part)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	if err := g.handDown(dir); err != nil {
		return nil, err
	}
	in := groupV2{filepath.Join(g.root, path), g.disk}
	write := func() error {
		if err := os.MkdirAll(in.dir, 0o755); err != nil {
			return err
		}
		for _, s := range [][2]string{
			{"memory.max", strconv.FormatInt(l.memoryBytes, 10)},
			{"memory.oom.group", "1"},
			{"cpu.weight", strconv.FormatInt(weight(l.cpuShares), 10)},
			{"cpu.max", micros(l.cpuQuota) + " " + micros(cpuPeriod)},
			{"pids.max", strconv.Itoa(l.pids)},
		} {
			if err := writeFile(filepath.Join(in.dir, s[0]), s[1]); err != nil {
				return err
			}
		}
		if err := writeFile(filepath.Join(in.dir, "memory.swap.max"), "0"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	if err := write(); err != nil {
		return nil, errors.Join(err, in.remove())
	}
	return in, nil
}

func (g groupsV2) handDown(dir string) error {
	file, hand := filepath.Join(dir, "cgroup.subtree_control"), "+memory +cpu +pids"
	if g.disk && writeFile(file, hand+" +"+diskControllerV2) == nil {
		return nil
	}
	return writeFile(file, hand)
}

// ioMax is the line of io.max; "" where nothing is to be bounded.
func ioMax(l diskLimits) string {
	var line string
	if l.bytes > 0 {
		line += fmt.Sprintf(" rbps=%d wbps=%[1]d", l.bytes)
	}
	if l.ops > 0 {
		line += fmt.Sprintf(" riops=%d wiops=%[1]d", l.ops)
	}
	if line == "" {
		return ""
	}
	return l.device + line
}

// weight turns v1's shares (2 to 262144, 1024 is ordinary) into v2's weight
// (1 to 10000, 100 is ordinary).
func weight(shares int64) int64 { return min(max(shares*100/1024, 1), 10000) }

type groupV2 struct {
	dir  string
	disk bool
}

// enter has the kernel start the process inside the group.
func (g groupV2) enter(attr *syscall.SysProcAttr) (func(), error) {
	fd, err := unix.Open(g.dir, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("enter cgroup: %w", err)
	}
	attr.UseCgroupFD, attr.CgroupFD = true, fd
	return func() { unix.Close(fd) }, nil
}

func (g groupV2) boundDisk(l diskLimits) error {
	line := ioMax(l)
	switch {
	case line == "":
		return nil
	case !g.disk:
		return errNoDiskController
	case l.device == "":
		return errNoDisk
	}
	if err := writeFile(filepath.Join(g.dir, "io.max"), line); err != nil {
		return fmt.Errorf("bound disk %s: %w", l.device, err)
	}
	return nil
}

func (g groupV2) oomKilled() bool {
	return counter(filepath.Join(g.dir, "memory.events"), "oom_kill") > 0
}

func (g groupV2) remove() error { return removeGroup(g.dir) }

// counter reads one of the "name value" lines of a cgroup file.
func counter(file, name string) int {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[0] == name {
			n, _ := strconv.Atoi(fields[1])
			return n
		}
	}
	return 0
}

// emptied bounds how long a group may stay busy after its last process was
// ended: a process that ends is of its group until its memory is given back,
// which on a busy host takes a while, and is seen in no list by then.
const emptied = 30 * time.Second

func removeGroup(dir string) error {
	until := time.Now().Add(emptied)
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		err := unix.Rmdir(dir)
		switch {
		case err == nil, errors.Is(err, fs.ErrNotExist):
			return nil
		case !errors.Is(err, unix.EBUSY):
			return fmt.Errorf("remove cgroup %s: %w", dir, err)
		case time.Now().After(until):
			pids, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
			return fmt.Errorf("remove cgroup %s: %w (processes %q)", dir, err, strings.Fields(string(pids)))
		}
		time.Sleep(wait) //nolint:forbidigo // the kernel has no event for it
	}
}

func subdirs(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

// writeFile writes to a file that must exist: cgroup files are the kernel's.
func writeFile(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

func micros(d time.Duration) string { return strconv.FormatInt(d.Microseconds(), 10) }

// wholeDisk is the device that a file's file system lies on, the whole of it
// where that is a partition: only such a one can be bounded. "" for what lies in
// memory, on a network or on a file system over several devices.
func wholeDisk(path string) string {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || unix.Major(st.Dev) == 0 {
		return ""
	}
	device := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	dir, err := filepath.EvalSymlinks(filepath.Join("/sys/dev/block", device))
	if err != nil {
		return ""
	}
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		b, err := os.ReadFile(filepath.Join(filepath.Dir(dir), "dev"))
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(b))
	}
	return device
}
