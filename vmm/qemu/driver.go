// Package qemu is the driver for QEMU's microvm machine: under KVM where our
// own kernel really boots there, under software emulation (TCG) elsewhere.
//
// Every VM is one QEMU process that outlives us. It is given everything it
// needs as open files (disks, tap, the listening control socket, the console's
// pipe) or as mounts, and so runs, as root, with a uid of its own that owns
// nothing, in a file system of its own without anything of the host's (jail.go)
// and mount, process, user, IPC, UTS and (with a tap) network namespaces of its
// own, without capabilities, in full QEMU sandbox, in a cgroup outside of ours.
// There is no monitor: the guest is talked to over its control channel, the
// process by signals. Without root it is in process, user, IPC and UTS
// namespaces of its own where the kernel lets anybody make them, and in the
// sandbox.
//
// The serial console goes to a pipe that the VM itself keeps open at both
// ends. We drain it into a small ring in memory; while we are away it holds
// the first 64 KB and QEMU throttles the guest's serial port (never the
// guest's log, which has its own channel), so that a hostile guest can print
// for ever and fill nothing.
//
// What identifies a process as ours is its argument
// "guest=<data directory>/vm/<id>" after "-name".
package qemu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/disk"
	"github.com/miosa/miosa/vmm"
	"github.com/miosa/miosa/wire/guest"
)

// Config says what VMs boot and where they live.
type Config struct {
	// DataDir is the platform's data directory, absolute. It marks the VM
	// processes as this platform's.
	DataDir string
	// CellID is the platform's id on this host: 8 lower-case hex characters.
	CellID string
	// RunDir holds sockets and pipes and must be ours alone; "":
	// /run/miosa/<cell> as root, else miosa/<cell> under XDG_RUNTIME_DIR, else
	// miosa-<uid>-<cell> under os.TempDir(). It must be short: socket paths
	// end at 107 bytes.
	RunDir string

	Kernel     string // vmlinux
	Initrd     string
	KernelArgs []string // what this kernel wants besides the driver's own; nothing secret
	// Digest identifies the bundle that kernel and initrd are of. With
	// CacheDir it keeps the answer of the KVM probe until the host reboots.
	Digest   string
	CacheDir string

	Binary string // "": qemu-system-x86_64 in PATH
	Accel  string // "auto" (and ""), "kvm" or "tcg"
	// Templates is how many machine sizes are kept as templates for fast boots
	// under TCG (some 100 MB of memory each, shared by all VMs of that size);
	// 0: none.
	Templates int
	// TranslationMB is the size of the cache of translated code under TCG; 0: 32.
	TranslationMB int
	// UID is what a VM runs as whose spec names none; 0: 199999. Only as root.
	UID int
	// DiskBytes and DiskOps are how many bytes and operations a second one VM may
	// read of the disk that its own lies on, and how many it may write; 0: 256 MB
	// and 5000, negative: any number. Only as root, with cgroups that bound disks
	// (v1 blkio, v2 io), and of a disk that is one block device.
	DiskBytes, DiskOps int64
	// CgroupRoot is where cgroups are mounted; "": /sys/fs/cgroup.
	CgroupRoot string
}

// defaultTranslationMB: a 128 MB guest has 252 MB RSS with QEMU's own default
// and 216 MB with 32; less makes a booting guest translate the same code over
// and over.
const defaultTranslationMB = 32

// What one VM may read and write a second: a good part of what a SATA disk does,
// far more than a web app needs.
const (
	defaultDiskBytes = 256 << 20
	defaultDiskOps   = 5000
)

// Driver starts and adopts QEMU processes. Make it with New.
type Driver struct {
	config  Config
	log     *slog.Logger
	root    bool      // we may change uids, make cgroups and namespaces
	tsc     timeStamp // the host's
	cgroups groups    // how cgroups are made here; nil: not at all

	// placesMu keeps the cell's run directory and cgroup from being removed as
	// empty while a VM's are made in them.
	placesMu sync.Mutex

	shelf shelf
	jail  jail
	told  struct{ users, disk sync.Once } // what is said once

	// accelMu guards the decision between KVM and TCG, taken once.
	accelMu sync.Mutex
	chosen  string
}

var _ vmm.Driver = (*Driver)(nil)

var cellPattern = regexp.MustCompile(`^[0-9a-f]{8}$`)

// maxSocketPath is what a Unix socket's address holds.
const maxSocketPath = 107

// New checks the configuration and what the host has; it starts nothing. From
// here on the process, and every VM's, leaves no core file.
func New(config Config, log *slog.Logger) (*Driver, error) {
	d := &Driver{config: config, log: log, root: os.Geteuid() == 0}
	c := &d.config
	switch {
	case !filepath.IsAbs(c.DataDir):
		return nil, fmt.Errorf("data directory %q is not an absolute path", c.DataDir)
	case !cellPattern.MatchString(c.CellID):
		return nil, fmt.Errorf("cell id %q is not 8 lower-case hex characters", c.CellID)
	}
	c.DataDir = filepath.Clean(c.DataDir)
	if c.RunDir == "" {
		switch session := os.Getenv("XDG_RUNTIME_DIR"); {
		case d.root:
			c.RunDir = filepath.Join("/run/miosa", c.CellID)
		case session != "":
			c.RunDir = filepath.Join(session, "miosa", c.CellID)
		default:
			c.RunDir = filepath.Join(os.TempDir(), "miosa-"+strconv.Itoa(os.Getuid())+"-"+c.CellID)
		}
	}
	if !filepath.IsAbs(c.RunDir) {
		return nil, fmt.Errorf("run directory %q is not an absolute path", c.RunDir)
	}
	if longest := len(d.execSocket("", 0)) + 40; longest > maxSocketPath {
		return nil, fmt.Errorf("run directory %s is too long: socket paths under it pass %d bytes", c.RunDir, maxSocketPath)
	}
	for _, file := range []string{c.Kernel, c.Initrd} {
		if _, err := os.Stat(file); err != nil {
			return nil, fmt.Errorf("guest bundle: %w", err)
		}
	}
	var err error
	if c.Binary, err = exec.LookPath(cmp.Or(c.Binary, "qemu-system-x86_64")); err != nil {
		return nil, fmt.Errorf("find QEMU (Debian: qemu-system-x86): %w", err)
	}
	// Where it really is, there its modules and firmware are looked for.
	if c.Binary, err = filepath.EvalSymlinks(c.Binary); err == nil {
		c.Binary, err = filepath.Abs(c.Binary)
	}
	if err != nil {
		return nil, fmt.Errorf("find QEMU: %w", err)
	}
	switch c.Accel = cmp.Or(c.Accel, "auto"); c.Accel {
	case "auto":
	case "kvm", "tcg":
		d.chosen = c.Accel
	default:
		return nil, fmt.Errorf("accelerator %q is none of auto, kvm, tcg", c.Accel)
	}
	// Guest memory, and ours, holds secrets. VMs inherit the limit: to set another
	// user's takes a right that root in a container lacks. At 0 the kernel would
	// still hand a core file to a handler (core(5)), at 1 it makes none.
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1, Max: 1}); err != nil {
		// A hard limit of 0 is there already: no files, but a handler gets them.
		log.Warn("core files cannot be switched off: a handler may be given one, which holds secrets", "err", err)
	}
	d.shelf = shelf{most: c.Templates, slots: map[shape]*slot{}, one: make(chan struct{}, 1)}
	c.TranslationMB = cmp.Or(c.TranslationMB, defaultTranslationMB)
	c.UID = cmp.Or(c.UID, 199999)
	c.DiskBytes, c.DiskOps = cmp.Or(c.DiskBytes, defaultDiskBytes), cmp.Or(c.DiskOps, defaultDiskOps)
	c.CgroupRoot = cmp.Or(c.CgroupRoot, "/sys/fs/cgroup")
	if d.tsc, err = hostTSC(); err != nil {
		return nil, err
	}
	if d.root {
		if d.cgroups, err = findGroups(c.CgroupRoot); err != nil {
			return nil, err
		}
	} else {
		log.Warn("not root: a VM's process runs as this user, sees this user's files and this host's network, and is bound by its system call filter and namespaces of its own for users, processes and IPC only")
	}
	if d.cgroups == nil {
		log.Warn("no cgroups: a VM's memory and processor time are bounded by its own size only")
	}
	return d, nil
}

// Name is "qemu".
func (d *Driver) Name() string { return "qemu" }

// Start boots a VM. Codes: miosa.Invalid for a spec that cannot work,
// miosa.Conflict when a VM of that ID runs.
func (d *Driver) Start(ctx context.Context, spec vmm.Spec) (vmm.VM, error) {
	if err := spec.Check(); err != nil {
		return nil, err
	}
	accel, err := d.Accel(ctx)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := d.prepareJail(accel); err != nil {
		return nil, fmt.Errorf("start vm %s: %w", spec.ID, err)
	}
	m, err := d.copyTemplate(ctx, spec, accel)
	if m == nil && err == nil {
		m, err = d.start(spec, accel)
	}
	if err != nil {
		return nil, fmt.Errorf("start vm %s: %w", spec.ID, err)
	}
	return m, nil
}

// start boots a machine by itself.
func (d *Driver) start(spec vmm.Spec, accel string) (*Machine, error) {
	if err := copyOrigin(spec); err != nil {
		return nil, fmt.Errorf("make the ephemeral disk: %w", err)
	}
	m, _, err := d.launchFrom(spec, accel, origin{})
	return m, err
}

// copyTemplate starts the VM as a copy of its size's template; nil, without an
// error, where that can't be.
func (d *Driver) copyTemplate(ctx context.Context, spec vmm.Spec, accel string) (*Machine, error) {
	if accel != "tcg" || d.shelf.most <= 0 {
		return nil, nil
	}
	t, err := d.template(ctx, spec)
	if t == nil || err != nil {
		return nil, err
	}
	defer t.close()
	memory, err := d.newMemory(spec)
	if err != nil {
		return nil, err
	}
	data, err := t.emptyDisk(spec.DataDisk)
	if err != nil {
		memory.close()
		return nil, fmt.Errorf("make the ephemeral disk: %w", err)
	}
	// QEMU looks at its memory, and the guest at its disk, when it is told to go
	// on: it starts meanwhile.
	//
	// Mapping the template's memory privately instead would spare this work, and
	// charge the copy twice for each page that it is the first to touch: once for
	// the hole that is filled in the template, once for its own. A copy that used
	// two thirds of its memory would be killed for it.
	var (
		filling          sync.WaitGroup
		noDisk, noMemory error
	)
	filling.Go(func() {
		if data != nil {
			noDisk = errors.Join(disk.FillSparse(data, t.disk), data.Close())
		}
		noMemory = disk.FillSparse(memory.file, t.memory)
	})
	defer func() {
		filling.Wait()
		memory.close()
	}()
	m, monitor, err := d.launchFrom(spec, accel, origin{copies: t, memory: memory})
	if err != nil {
		return nil, err
	}
	defer monitor.close()
	limited, cancel := context.WithTimeout(ctx, resumeTime)
	defer cancel()
	defer monitor.within(limited)()
	err = m.dialAhead(limited)
	filling.Wait()
	if noDisk != nil { // the host's is full: none would do better by itself
		return nil, errors.Join(fmt.Errorf("make the ephemeral disk: %w", noDisk), m.killSoon(ctx))
	}
	if err = errors.Join(err, noMemory); err == nil {
		err = monitor.resume(t.state)
	}
	if err != nil {
		words := lastLine(m.Console())
		if err := errors.Join(m.killSoon(ctx), ctx.Err()); err != nil {
			return nil, err
		}
		d.shelf.spoiled(shapeOf(spec), time.Now())
		d.log.Warn("a machine could not go on from its template: it boots by itself", "vm", spec.ID, "err", err, "words", words)
		return nil, nil
	}
	m.handle.Resumed = time.Now()
	return m, nil
}

// origin is how a machine begins: by itself, as a template to be, or as a copy
// of one.
type origin struct {
	makes, copies *template
	memory        *guestMemory // the machine's own; nil when it boots by itself
}

// launchFrom makes the run directory and the cgroup, and launches QEMU in
// them. On error both are gone again. The monitor is nil without a template.
func (d *Driver) launchFrom(spec vmm.Spec, accel string, from origin) (_ *Machine, _ *monitor, err error) {
	dir := d.runDir(spec.ID)
	if len(d.execSocket(spec.ID, 0)) > maxSocketPath {
		return nil, nil, miosa.Errorf(miosa.Invalid, "the socket path of vm %s is too long", spec.ID)
	}
	group, err := d.makePlaces(spec, accel)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.removeLeftovers(spec.ID))
		}
	}()

	f, control, err := d.openFiles(spec, from)
	if err != nil {
		return nil, nil, err
	}
	defer f.close()
	defer func() {
		if err != nil && control != nil {
			control.close()
		}
	}()
	if group != nil && spec.DataDisk != "" && from.makes == nil { // a template's disk lies in memory
		d.boundDisk(group, spec.DataDisk)
	}
	console, err := newConsole(filepath.Join(dir, consoleFile))
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			console.close()
		}
	}()

	p, err := d.launch(spec, accel, from, f, group)
	if err != nil {
		return nil, nil, err
	}
	h := vmm.Handle{ID: spec.ID, Driver: d.Name(), PID: p.pid, StartTime: p.startTime, RunDir: dir, Started: time.Now()}
	if group != nil {
		h.Cgroup = d.groupPath(spec.ID)
	}
	return d.watch(h, p, console, group), control, nil
}

// makePlaces makes the VM's run directory and cgroup, or nothing.
func (d *Driver) makePlaces(spec vmm.Spec, accel string) (group, error) {
	d.placesMu.Lock()
	defer d.placesMu.Unlock()
	if err := d.makeRunDir(spec.ID); err != nil || d.cgroups == nil {
		return nil, err
	}
	g, err := d.cgroups.make(d.groupPath(spec.ID), limitsOf(spec, accel))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make cgroup: %w", err), os.RemoveAll(d.runDir(spec.ID)))
	}
	return g, nil
}

// boundDisk bounds what a VM reads from and writes to the disk that its own lies
// on. Where that can't be it is said once, and the VM runs all the same.
func (d *Driver) boundDisk(g group, path string) {
	if err := g.boundDisk(diskLimits{wholeDisk(path), d.config.DiskBytes, d.config.DiskOps}); err != nil {
		d.told.disk.Do(func() {
			d.log.Warn("what vms read from and write to disks is not bounded", "err", err)
		})
	}
}

// makeRunDir makes the VM's directory. What a dead VM of the same ID left is
// removed first.
func (d *Driver) makeRunDir(id string) error {
	if err := os.MkdirAll(d.config.RunDir, 0o700); err != nil {
		return fmt.Errorf("make run directory: %w", err)
	}
	// Where everybody may make directories, somebody else may have made it.
	var st unix.Stat_t
	if err := unix.Lstat(d.config.RunDir, &st); err != nil {
		return fmt.Errorf("make run directory: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		return fmt.Errorf("run directory %s is not ours alone", d.config.RunDir)
	}
	err := os.Mkdir(d.runDir(id), 0o700)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	running, err := d.scan()
	if err != nil {
		return err
	}
	if pid, ok := running[id]; ok {
		return miosa.Errorf(miosa.Conflict, "vm %s runs already, as process %d", id, pid)
	}
	if err := os.RemoveAll(d.runDir(id)); err != nil {
		return fmt.Errorf("remove old run directory: %w", err)
	}
	return os.Mkdir(d.runDir(id), 0o700)
}

// Adopt finds a VM again.
func (d *Driver) Adopt(_ context.Context, h vmm.Handle) (vmm.VM, error) {
	if !vmm.ValidID(h.ID) || h.PID <= 0 || h.Driver != d.Name() || h.RunDir != d.runDir(h.ID) {
		return nil, fmt.Errorf("adopt vm %s: not a handle of this driver: %w", h.ID, vmm.ErrGone)
	}
	p, err := openProcess(h.PID)
	if err != nil {
		d.sweep(h.ID)
		return nil, fmt.Errorf("adopt vm %s: %w", h.ID, err)
	}
	// Checked with the process held: the pid can't become another's meanwhile.
	if p.startTime != h.StartTime || p.exited() || d.idOf(h.PID) != h.ID {
		p.close()
		d.sweep(h.ID)
		return nil, fmt.Errorf("adopt vm %s: process %d is not it: %w", h.ID, h.PID, vmm.ErrGone)
	}
	_, err = os.Lstat(d.socket(h.ID))
	var console *console
	if err == nil {
		console, err = openConsole(filepath.Join(h.RunDir, consoleFile))
	}
	if err != nil {
		p.close()
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("its run directory was cleared away (%w): %w", err, vmm.ErrGone)
		}
		return nil, fmt.Errorf("adopt vm %s: %w", h.ID, err)
	}
	var group group
	if d.cgroups != nil && h.Cgroup != "" {
		group = d.cgroups.find(d.groupPath(h.ID))
	}
	return d.watch(h, p, console, group), nil
}

// sweep removes what a dead VM left, unless a live one has its ID.
func (d *Driver) sweep(id string) {
	if running, err := d.scan(); err != nil || running[id] != 0 {
		return
	}
	if err := d.removeLeftovers(id); err != nil {
		d.log.Warn("leftovers of a dead vm stay until the next start", "vm", id, "err", err)
	}
}

// removeLeftovers removes a dead VM's run directory and cgroup, and the
// cell's own when they were the last.
func (d *Driver) removeLeftovers(id string) error {
	err := os.RemoveAll(d.runDir(id))
	if d.cgroups != nil {
		err = errors.Join(err, d.cgroups.find(d.groupPath(id)).remove())
	}
	d.placesMu.Lock()
	defer d.placesMu.Unlock()
	_ = os.Remove(d.config.RunDir) // fails while it holds anything
	if d.cgroups != nil && len(d.cgroups.list(d.groupPath(""))) == 0 {
		err = errors.Join(err, d.cgroups.find(d.groupPath("")).remove())
	}
	return err
}

// Reclaim ends the VMs of this data directory that keep does not hold.
func (d *Driver) Reclaim(ctx context.Context, keep func(id string) bool) ([]string, error) {
	running, err := d.scan()
	if err != nil {
		return nil, fmt.Errorf("reclaim vms: %w", err)
	}
	var ended []string
	var failed error
	for id, pid := range running {
		if keep(id) {
			continue
		}
		if err := d.end(ctx, id, pid); err != nil {
			failed = errors.Join(failed, fmt.Errorf("reclaim vm %s: %w", id, err))
			continue
		}
		ended = append(ended, id)
	}
	// What died while we were away left its directory and cgroup.
	for _, id := range d.leftovers() {
		if _, runs := running[id]; !runs && !keep(id) {
			failed = errors.Join(failed, d.removeLeftovers(id))
		}
	}
	return ended, failed
}

func (d *Driver) end(ctx context.Context, id string, pid int) error {
	p, err := openProcess(pid)
	if errors.Is(err, vmm.ErrGone) {
		return d.removeLeftovers(id)
	}
	if err != nil {
		return err
	}
	defer p.close()
	if d.idOf(pid) == id {
		if err := p.kill(); err != nil {
			return err
		}
		if err := p.wait(ctx); err != nil {
			return err
		}
	}
	return d.removeLeftovers(id)
}

// leftovers are the IDs that have a run directory or a cgroup.
func (d *Driver) leftovers() []string {
	var ids []string
	if entries, err := os.ReadDir(d.config.RunDir); err == nil {
		for _, e := range entries {
			if e.IsDir() && vmm.ValidID(e.Name()) {
				ids = append(ids, e.Name())
			}
		}
	}
	if d.cgroups != nil {
		ids = append(ids, d.cgroups.list(d.groupPath(""))...)
	}
	return ids
}

func (d *Driver) runDir(id string) string { return filepath.Join(d.config.RunDir, id) }
func (d *Driver) socket(id string) string { return filepath.Join(d.config.RunDir, id, "ctl.sock") }

// execSocket is that of an exec port, from 0.
func (d *Driver) execSocket(id string, port int) string {
	return filepath.Join(d.config.RunDir, id, guest.ExecPortName+strconv.Itoa(port)+".sock")
}

// groupPath is the cgroup of a VM below the root of every hierarchy.
func (d *Driver) groupPath(id string) string { return filepath.Join("miosa", d.config.CellID, id) }

// files are what QEMU is started with, by descriptor number from firstFile
// on; -1 marks what there is none of.
type files struct {
	kernel, initrd, base, data, dataRead, control, tap int
	memory, monitor                                    int
	exec                                               [guest.ExecPorts]int

	mounts []jailMount // as root: what has a path in its file system instead
}

// jailMount is a mount that has no place yet.
type jailMount struct {
	fd       int
	at       string
	readOnly bool
}

// all are in the order of their numbers in QEMU.
func (f *files) all() []int {
	return append([]int{f.kernel, f.initrd, f.base, f.data, f.dataRead, f.control, f.tap, f.memory, f.monitor}, f.exec[:]...)
}

// openFiles opens everything that QEMU is to have; the monitor, which comes
// with a template only, is our end of one of them.
func (d *Driver) openFiles(spec vmm.Spec, from origin) (_ *files, control *monitor, err error) {
	f := &files{kernel: -1, initrd: -1, base: -1, data: -1, dataRead: -1, control: -1, tap: -1, memory: -1, monitor: -1}
	for n := range f.exec {
		f.exec[n] = -1
	}
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	if from.memory != nil {
		if err := f.addMemory(from.memory); err != nil {
			return nil, nil, err
		}
	}
	if d.jailed() && from.copies == nil {
		if err := f.addBundle(d.config); err != nil {
			return nil, nil, err
		}
	}
	for _, o := range []struct {
		into *int
		path string
		mode int
		what string
	}{
		{&f.kernel, d.config.Kernel, unix.O_RDONLY, "kernel"},
		{&f.initrd, d.config.Initrd, unix.O_RDONLY, "initrd"},
		{&f.base, spec.BaseDisk, unix.O_RDONLY, "base disk"},
		{&f.data, spec.DataDisk, unix.O_RDWR, "data disk"},
		{&f.dataRead, spec.DataDisk, unix.O_RDONLY, "data disk"},
	} {
		if o.path == "" || (d.jailed() || from.copies != nil) && (o.into == &f.kernel || o.into == &f.initrd) {
			continue
		}
		if *o.into, err = unix.Open(o.path, o.mode|unix.O_CLOEXEC, 0); err != nil {
			*o.into = -1
			return nil, nil, &miosa.Error{Code: miosa.Invalid, Message: "the " + o.what + " cannot be opened", Err: &fs.PathError{Op: "open", Path: o.path, Err: err}}
		}
	}
	if spec.NIC.Tap != "" {
		if f.tap, err = openTap(spec.NIC.Tap, from.makes != nil); err != nil {
			f.tap = -1
			return nil, nil, err
		}
	}
	if f.control, err = listenUnix(d.socket(spec.ID)); err != nil {
		f.control = -1
		return nil, nil, fmt.Errorf("listen for the guest: %w", err)
	}
	for n := range f.exec {
		if f.exec[n], err = listenUnix(d.execSocket(spec.ID, n)); err != nil {
			f.exec[n] = -1
			return nil, nil, fmt.Errorf("listen for exec sessions: %w", err)
		}
	}
	if from.memory == nil {
		return f, nil, nil
	}
	control, f.monitor, err = monitorPair()
	return f, control, err
}

// addBundle hands over what a machine boots from by itself.
func (f *files) addBundle(c Config) error {
	for at, path := range map[string]string{jailKernel: c.Kernel, jailInitrd: c.Initrd} {
		fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return fmt.Errorf("open the guest bundle: %w", &fs.PathError{Op: "open_tree", Path: path, Err: err})
		}
		f.mounts = append(f.mounts, jailMount{fd, at, true})
	}
	return nil
}

// addMemory hands over a guest's memory, the way that it has.
func (f *files) addMemory(m *guestMemory) (err error) {
	if m.mount < 0 {
		if f.memory, err = unix.FcntlInt(m.file.Fd(), unix.F_DUPFD_CLOEXEC, 0); err != nil {
			f.memory = -1
		}
		return err
	}
	fd, err := unix.FcntlInt(uintptr(m.mount), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f.mounts = append(f.mounts, jailMount{fd, jailMemory, false})
	return nil
}

func (f *files) close() {
	for _, fd := range f.all() {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	f.closeMounts()
}

func (f *files) closeMounts() {
	for _, m := range f.mounts {
		unix.Close(m.fd)
	}
}

// listenUnix makes the listener of a port's socket, which QEMU inherits: our
// side can connect from this moment on, and nobody else made the socket.
func listenUnix(path string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err = unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err == nil {
		err = unix.Listen(fd, 8)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// openTap attaches to an existing tap, with the offloads that virtio can use.
// It must exist, unless it is to be made: a mistyped name would otherwise make
// a new one.
func openTap(name string, makeIt bool) (int, error) {
	if _, err := net.InterfaceByName(name); err != nil && !makeIt {
		return -1, miosa.Errorf(miosa.Invalid, "there is no tap %q", name)
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("open tap %s: %w", name, err)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("open tap %s: %w", name, err)
	}
	return fd, nil
}
