package qemu

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/miosa/miosa/vmm"
)

// As root every VMM has a file system of its own: a read-only tmpfs that holds
// QEMU's program, the libraries, modules and firmware that it reads, /dev/null
// and /dev/urandom, and what this one VM boots from. There is no /proc in it,
// no directory of the host's, nothing that can be written to.
//
// One such file system is made when the first VM starts, in a mount namespace
// that an open file of ours keeps; each VM gets a copy of that namespace. The
// host's own mounts are in none of them.

// Where a VM finds what is its alone.
const (
	jailKernel = "/kernel"
	jailInitrd = "/initrd"
	jailMemory = "/memory" // a directory: see guestMemory
)

// jail is the file system that VMMs start from.
type jail struct {
	mu      sync.Mutex // guards all below
	ns      *os.File   // the mount namespace; nil: not made yet
	files   []jailFile
	print   string // the fingerprint of files when ns was made
	accel   string
	library string // where the loader finds libraries, in its own notation

	refused atomic.Bool // this host, or our container, lets us make none
}

// jailFile is one of the host's files that VMMs see, at the same path.
type jailFile struct {
	path   string
	device bool
}

// jailed reports whether VMMs get a file system of their own. Once prepareJail
// has been called this is the same for ever.
func (d *Driver) jailed() bool { return d.root && !d.jail.refused.Load() }

// prepareJail finds out, the first time, whether VMMs can have a file system of
// their own, which is said once when they cannot; from then on it sees to it
// that there is one.
func (d *Driver) prepareJail(accel string) error {
	if !d.jailed() {
		return nil
	}
	d.jail.mu.Lock()
	first := d.jail.ns == nil
	d.jail.mu.Unlock()
	ns, _, err := d.jailFor(accel)
	if err == nil && first {
		err = d.tryJail(ns)
	}
	if err == nil || !first || !refused(err) {
		return err
	}
	if !d.jail.refused.Swap(true) {
		d.log.Warn("vms get no file system of their own and see what everybody may read of the host's: this host, or the container that we are in, does not let us mount", "err", err)
	}
	return nil
}

// tryJail goes the whole way that a VM's start goes: of which step a container's
// profile disapproves nobody knows.
func (d *Driver) tryJail(ns *os.File) error {
	memory, err := d.newMemory(vmm.Spec{MemoryMB: 1})
	if err != nil {
		return err
	}
	defer memory.close()
	var f files
	defer f.closeMounts()
	if err := errors.Join(f.addBundle(d.config), f.addMemory(memory)); err != nil {
		return err
	}
	return aside(func() error { return enterJail(ns, f.mounts) })
}

// jailFor returns the namespace to copy and the loader's search path in it. It
// is made anew once the host's files have changed, as after an upgrade.
func (d *Driver) jailFor(accel string) (ns *os.File, library string, err error) {
	j := &d.jail
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.ns != nil && j.accel == accel && fingerprint(j.files) == j.print {
		return j.ns, j.library, nil
	}
	files, library, err := jailFiles(d.config.Binary, accel)
	if err != nil {
		return nil, "", err
	}
	made := fingerprint(files)
	if err := aside(func() (err error) {
		ns, err = makeJail(files)
		return err
	}); err != nil {
		return nil, "", fmt.Errorf("make the file system that VMs start in: %w", err)
	}
	// A former one may be in use by another launch: it is closed when collected.
	j.ns, j.files, j.print, j.accel, j.library = ns, files, made, accel, library
	return ns, library, nil
}

// fingerprint changes when one of the files is replaced.
func fingerprint(files []jailFile) string {
	var b strings.Builder
	for _, f := range files {
		var st unix.Stat_t
		if err := unix.Stat(f.path, &st); err == nil {
			fmt.Fprintln(&b, st.Dev, st.Ino, st.Size, st.Mtim.Nano())
		} else {
			fmt.Fprintln(&b, err)
		}
	}
	return b.String()
}

// firmware is what QEMU's microvm machine reads.
var firmware = []string{"bios-microvm.bin", "pvh.bin"}

// jailFiles are the files that QEMU needs, and the directories of its
// libraries.
func jailFiles(binary, accel string) (files []jailFile, library string, err error) {
	programs := []string{binary}
	prefix := filepath.Dir(filepath.Dir(binary))
	for _, dir := range []string{"lib/*/qemu", "lib/qemu", "lib64/qemu"} {
		// Distributions that split QEMU have its accelerators in modules.
		modules, err := filepath.Glob(filepath.Join(prefix, dir, "accel-"+accel+"-*.so"))
		if err != nil {
			return nil, "", err
		}
		programs = append(programs, modules...)
	}
	loader, err := loaderOf(binary)
	if err != nil {
		return nil, "", fmt.Errorf("look at %s: %w", binary, err)
	}
	paths := programs
	var dirs []string
	if loader != "" {
		paths = append(paths, loader)
		for _, p := range programs {
			objects, err := sharedObjects(loader, p)
			if err != nil {
				return nil, "", fmt.Errorf("find the libraries of %s: %w", p, err)
			}
			for _, o := range objects {
				paths, dirs = append(paths, o), append(dirs, filepath.Dir(o))
			}
		}
	}
	for _, dir := range []string{filepath.Join(prefix, "share/qemu"), "/usr/share/qemu"} {
		for _, name := range firmware {
			if path := filepath.Join(dir, name); exists(path) {
				paths = append(paths, path)
			}
		}
	}
	slices.Sort(paths)
	for _, path := range slices.Compact(paths) {
		files = append(files, jailFile{path: path})
	}
	devices := []string{"/dev/null", "/dev/urandom"}
	if accel == "kvm" {
		devices = append(devices, kvmDevice)
	}
	for _, path := range devices {
		files = append(files, jailFile{path: path, device: true})
	}
	slices.Sort(dirs)
	return files, strings.Join(slices.Compact(dirs), ":"), nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// sharedObjects are all libraries that the loader would load for a program or
// a library.
func sharedObjects(loader, program string) ([]string, error) {
	cmd := exec.Command(loader, "--list", program)
	cmd.Env, cmd.Dir = []string{}, "/"
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s --list: %w", loader, err)
	}
	return listed(out), nil
}

// listed reads what the loader prints: "NAME => PATH (ADDRESS)" or "PATH
// (ADDRESS)"; the kernel's own has no path.
func listed(out []byte) (paths []string) {
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		if i := strings.LastIndex(line, " ("); i >= 0 {
			line = line[:i]
		}
		if _, path, ok := strings.Cut(line, " => "); ok {
			line = path
		}
		if filepath.IsAbs(line) {
			paths = append(paths, line)
		}
	}
	return paths
}

// loaderOf is the program that loads an executable's libraries; "" when it was
// linked statically.
func loaderOf(program string) (string, error) {
	f, err := elf.Open(program)
	if err != nil {
		if _, bad := errors.AsType[*elf.FormatError](err); bad || errors.Is(err, io.EOF) {
			return "", errors.New("it is a script, or no program of this machine's: name QEMU's own")
		}
		return "", err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			b, err := io.ReadAll(p.Open())
			return string(bytes.TrimRight(b, "\x00")), err
		}
	}
	return "", nil
}

// makeJail builds the file system on the calling thread, in a mount namespace
// of its own, which it returns.
func makeJail(files []jailFile) (_ *os.File, err error) {
	// Built on a directory that is always there and that none of the files is in.
	const at = "/proc"
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return nil, os.NewSyscallError("unshare", err)
	}
	// While /proc is there.
	ns, err := os.Open("/proc/thread-self/ns/mnt")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			ns.Close()
		}
	}()
	unix.Umask(0) // of this thread, as its root is
	// Nothing of what follows may show in the host's own.
	if err := mountOn("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, err
	}
	if err := mountOn("tmpfs", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0755,size=64k,nr_inodes=1k"); err != nil {
		return nil, err
	}
	for _, f := range files {
		dst := filepath.Join(at, f.path)
		if err := placeholderFile(dst); err != nil {
			return nil, err
		}
		flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV | unix.MS_RDONLY)
		if f.device {
			flags = unix.MS_NOSUID | unix.MS_NOEXEC
		}
		if err := bind(f.path, dst, flags); err != nil {
			return nil, err
		}
	}
	for _, name := range []string{jailKernel, jailInitrd} {
		if err := placeholderFile(filepath.Join(at, name)); err != nil {
			return nil, err
		}
	}
	if err := os.Mkdir(filepath.Join(at, jailMemory), 0o755); err != nil { //nolint:gosec // VMs of any uid look into it
		return nil, err
	}
	if err := mountOn("", at, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return nil, err
	}
	// The old root is put below the new one, at the same place, and taken away:
	// pivot_root(2).
	if err := unix.Chdir(at); err != nil {
		return nil, os.NewSyscallError("chdir", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return nil, os.NewSyscallError("pivot_root", err)
	}
	return ns, os.NewSyscallError("umount2", unix.Unmount(".", unix.MNT_DETACH))
}

// placeholderFile is an empty file to mount another one on.
func placeholderFile(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // VMs of any uid look into it
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o444) //nolint:gosec // as above, and empty
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return f.Close()
}

// bind mounts a file on another one, with the flags on top.
func bind(src, dst string, flags uintptr) error {
	if err := mountOn(src, dst, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	return mountOn("", dst, "", unix.MS_REMOUNT|unix.MS_BIND|flags, "")
}

func mountOn(src, dst, kind string, flags uintptr, data string) error {
	if err := unix.Mount(src, dst, kind, flags, data); err != nil {
		return &fs.PathError{Op: "mount", Path: dst, Err: err}
	}
	return nil
}
