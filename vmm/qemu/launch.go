package qemu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/miosa/miosa/descriptors"
	"github.com/miosa/miosa/vmm"
)

// launch starts QEMU and returns once the program runs, confined.
func (d *Driver) launch(spec vmm.Spec, accel string, from origin, f *files, in group) (_ *process, err error) {
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(null)
	serial, err := unix.Open(filepath.Join(d.runDir(spec.ID), consoleFile), unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open console pipe: %w", err)
	}
	defer unix.Close(serial)

	attr := &syscall.ProcAttr{Dir: "/", Env: []string{}, Sys: &syscall.SysProcAttr{Setsid: true}}
	for _, fd := range append([]int{null, serial, serial}, f.all()...) {
		if fd < 0 {
			fd = null // keeps the numbers of those after it
		}
		attr.Files = append(attr.Files, uintptr(fd))
	}
	// Our embedder may have files open that are not marked, or have inherited some.
	if err := descriptors.CloseOnExec(); err != nil {
		return nil, err
	}
	start := d.launchPlain
	if d.root {
		start = d.launchAside
	}
	pid, ownUsers, err := start(spec, accel, from, f, attr, in)
	if err != nil {
		return nil, fmt.Errorf("run %s: %w", d.config.Binary, err)
	}
	defer func() {
		if err != nil {
			endChild(pid)
		}
	}()
	if d.root && ownUsers {
		if err := mapUser(pid, d.uidOf(spec)); err != nil {
			return nil, err
		}
	}
	// If the host runs out of memory, VMs go before the platform does.
	_ = os.WriteFile(procFile(pid, "oom_score_adj"), []byte("500"), 0)
	return openProcess(pid)
}

// launchPlain starts QEMU as the user that we are, in what namespaces such a
// user may make. It sees this user's files, and the network that it forwards
// a port of.
func (d *Driver) launchPlain(spec vmm.Spec, accel string, from origin, f *files, attr *syscall.ProcAttr, _ group) (pid int, ownUsers bool, err error) {
	argv := d.command(spec, accel, from)
	return d.inNamespaces(func(users bool) (int, error) {
		attr.Sys.Cloneflags, attr.Sys.UidMappings, attr.Sys.GidMappings = 0, nil, nil
		if users {
			attr.Sys.Cloneflags = syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS
			attr.Sys.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}}
			attr.Sys.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}}
		}
		return startBound(d.config.Binary, argv, attr, spec, f)
	})
}

// inNamespaces starts a process with a user namespace of its own or, where this
// host lets us make none, without: that is said once.
func (d *Driver) inNamespaces(start func(users bool) (int, error)) (pid int, ownUsers bool, err error) {
	pid, err = start(true)
	if err == nil {
		return pid, true, nil
	}
	if !refused(err) {
		return 0, false, err
	}
	pid, again := start(false)
	if again != nil {
		return 0, false, again
	}
	d.told.users.Do(func() {
		d.log.Warn("vms get no user namespaces of their own: this host's kernel, or the container that we are in, gives us none", "err", err)
	})
	return pid, false, nil
}

// refused: the kernel cannot do it, or lets us not. Any other failure is one of
// the moment.
func refused(err error) bool {
	for _, errno := range []syscall.Errno{unix.EPERM, unix.EACCES, unix.ENOSYS, unix.EINVAL, unix.EOPNOTSUPP, unix.ENODEV, unix.ENOSPC, unix.EUSERS} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// launchAside starts QEMU as a user of its own, in the cgroup, in a file system
// and namespaces of its own: everything that must be so from the first
// instruction on is first made so of a thread, which QEMU is forked from.
func (d *Driver) launchAside(spec vmm.Spec, accel string, from origin, f *files, attr *syscall.ProcAttr, in group) (pid int, ownUsers bool, err error) {
	argv := d.command(spec, accel, from)
	var ns *os.File
	if d.jailed() {
		var library string
		if ns, library, err = d.jailFor(accel); err != nil {
			return 0, false, err
		}
		defer runtime.KeepAlive(ns)
		attr.Env = []string{"LD_LIBRARY_PATH=" + library}
	}
	uid, groups := d.uidOf(spec), kvmGroup(accel)
	flags := uintptr(syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS)
	if spec.NIC.Tap != "" {
		// The tap is an open file, so QEMU needs no network at all.
		flags |= syscall.CLONE_NEWNET
	}
	err = aside(func() (err error) {
		if in != nil {
			started, err := in.enter(attr.Sys)
			if err != nil {
				return err
			}
			defer started()
		}
		if ns != nil {
			if err := enterJail(ns, f.mounts); err != nil {
				return fmt.Errorf("enter its file system: %w", err)
			}
		}
		if err := becomeUser(uid, groups); err != nil {
			return fmt.Errorf("become uid %d: %w", uid, err)
		}
		pid, ownUsers, err = d.inNamespaces(func(users bool) (int, error) {
			attr.Sys.Cloneflags = flags
			if users {
				attr.Sys.Cloneflags |= syscall.CLONE_NEWUSER // mapUser follows
			}
			return startBound(d.config.Binary, argv, attr, spec, f)
		})
		return err
	})
	return pid, ownUsers, err
}

// enterJail gives the calling thread a copy of the file system, with the mounts
// in their places, as its root.
func enterJail(ns *os.File, mounts []jailMount) error {
	// A thread's root is its own only once it shares it with no other.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("setns", err)
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	for _, m := range mounts {
		if err := unix.MoveMount(m.fd, "", unix.AT_FDCWD, m.at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return &os.PathError{Op: "move_mount", Path: m.at, Err: err}
		}
		if m.readOnly {
			if err := mountOn("", m.at, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
				return err
			}
		}
	}
	return nil
}

// becomeUser makes the calling thread another user's. It keeps the rights that
// making namespaces takes; a program that it starts has none of them, and gets
// none by whatever it starts in turn.
func becomeUser(uid int, groups []uint32) error {
	for _, set := range [][2]uintptr{{unix.PR_SET_NO_NEW_PRIVS, 1}, {unix.PR_SET_KEEPCAPS, 1}} {
		if err := unix.Prctl(int(set[0]), set[1], 0, 0, 0); err != nil {
			return os.NewSyscallError("prctl", err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	// Go's own functions for this are about all threads.
	list := append(groups, 0) // so that there is a first
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&list[0])), 0); errno != 0 {
		return os.NewSyscallError("setgroups", errno)
	}
	id := uintptr(uid)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, id, id, id); errno != 0 {
		return os.NewSyscallError("setresgid", errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, id, id, id); errno != 0 {
		return os.NewSyscallError("setresuid", errno)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var rights [2]unix.CapUserData
	if err := unix.Capget(&header, &rights[0]); err != nil {
		return os.NewSyscallError("capget", err)
	}
	for i := range rights {
		rights[i].Effective, rights[i].Inheritable = rights[i].Permitted, 0
	}
	return os.NewSyscallError("capset", unix.Capset(&header, &rights[0]))
}

// mapUser gives a process that was just started in a user namespace of its own
// its own user and group there, and none else. It has not come to the guest's
// code yet.
func mapUser(pid, uid int) error {
	for _, file := range []string{"uid_map", "gid_map"} {
		if err := os.WriteFile(procFile(pid, file), fmt.Appendf(nil, "%d %[1]d 1\n", uid), 0); err != nil {
			return err
		}
	}
	return nil
}

// startBound starts a process and limits it, or leaves none. The caller's thread
// is of the same user: no right is needed for it, which root in a container may
// lack.
func startBound(program string, argv []string, attr *syscall.ProcAttr, spec vmm.Spec, f *files) (int, error) {
	pid, err := syscall.ForkExec(program, argv, attr)
	if err != nil {
		return 0, err
	}
	for resource, limit := range map[int]uint64{unix.RLIMIT_NOFILE: maxOpenFiles, unix.RLIMIT_FSIZE: largestFile(spec, f)} {
		var now unix.Rlimit
		err := unix.Prlimit(pid, resource, nil, &now)
		if err == nil {
			limit = min(limit, now.Max)
			err = unix.Prlimit(pid, resource, &unix.Rlimit{Cur: limit, Max: limit}, nil)
		}
		if err != nil {
			endChild(pid)
			return 0, fmt.Errorf("bound a process: %w", os.NewSyscallError("prlimit", err))
		}
	}
	return pid, nil
}

// endChild ends a child of ours that nobody has reaped, so that the pid is still
// its own.
func endChild(pid int) {
	_ = unix.Kill(pid, unix.SIGKILL)
	_, _ = unix.Wait4(pid, nil, 0, nil)
}

// maxOpenFiles is what QEMU may have open: some thirty, and with user
// networking one for each of the guest's connections.
const maxOpenFiles = 1024

// largestFile is how far QEMU may write into any file, in bytes: a disk is a
// sparse file that could otherwise be made to fill the host's.
func largestFile(spec vmm.Spec, f *files) uint64 {
	size := int64(spec.MemoryMB) << 20
	var st unix.Stat_t
	if f.data >= 0 && unix.Fstat(f.data, &st) == nil {
		size = max(size, st.Size)
	}
	return uint64(size)
}

// uidOf is the user that a VM's process runs as; as root only.
func (d *Driver) uidOf(spec vmm.Spec) int {
	if spec.UID != 0 {
		return spec.UID
	}
	return d.config.UID
}

// kvmGroup is the group that may use /dev/kvm.
func kvmGroup(accel string) []uint32 {
	if accel != "kvm" {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Stat(kvmDevice, &st); err != nil || st.Gid == 0 {
		return nil
	}
	return []uint32{st.Gid}
}
