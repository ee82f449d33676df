package qemu

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/miosa/miosa/vmm"
)

// guestMemory is a file that is a guest's memory, which QEMU and we both have.
//
// QEMU opens it by a path. In the host's file system that leads over its own open
// files (/proc/self/fd). In one of its own there is no /proc, so there it is the
// one file of a tmpfs of its own.
type guestMemory struct {
	file  *os.File
	mount int // of the tmpfs, until it is put in its place; -1: there is none
}

const memoryName = "ram" // in jailMemory

// newMemory makes the memory of a VM.
func (d *Driver) newMemory(spec vmm.Spec) (*guestMemory, error) {
	bytes, uid := int64(spec.MemoryMB)<<20, d.uidOf(spec)
	if !d.jailed() {
		f, err := memoryFile("miosa-memory", bytes)
		if err != nil {
			return nil, err
		}
		return &guestMemory{f, -1}, nil
	}
	m := &guestMemory{mount: -1}
	fail := func(what string, err error) (*guestMemory, error) {
		m.close()
		return nil, fmt.Errorf("make a file system for a guest's memory: %s: %w", what, err)
	}
	tmpfs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fail("fsopen", err)
	}
	defer unix.Close(tmpfs)
	for _, option := range [][2]string{{"size", strconv.FormatInt(bytes, 10)}, {"nr_inodes", "2"}, {"mode", "0711"}} {
		if err := unix.FsconfigSetString(tmpfs, option[0], option[1]); err != nil {
			return fail(option[0], err)
		}
	}
	if err := unix.FsconfigCreate(tmpfs); err != nil {
		return fail("fsconfig", err)
	}
	if m.mount, err = unix.Fsmount(tmpfs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC); err != nil {
		m.mount = -1
		return fail("fsmount", err)
	}
	fd, err := unix.Openat(m.mount, memoryName, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fail("open", err)
	}
	m.file = os.NewFile(uintptr(fd), jailMemory+"/"+memoryName)
	if err := m.file.Truncate(bytes); err != nil {
		return fail("truncate", err)
	}
	if err := unix.Fchown(fd, uid, uid); err != nil {
		return fail("chown", err)
	}
	return m, nil
}

// seal returns the memory as a file that nobody can write to any more, whoever
// still has it open. Nothing maps it by then.
func (m *guestMemory) seal() (*os.File, error) {
	var err error
	if m.mount < 0 {
		err = sealFile(m.file)
	}
	var f *os.File
	if err == nil {
		f, err = reopen(m.file)
	}
	if err == nil && m.mount >= 0 {
		m.file.Close() // a writer keeps the file system from becoming read-only
		m.file = nil
		err = makeReadOnly(m.mount)
	}
	if err != nil {
		if f != nil {
			f.Close()
		}
		return nil, fmt.Errorf("seal a guest's memory: %w", err)
	}
	return f, nil
}

// makeReadOnly makes the whole file system of a mount read-only, not the mount
// alone.
func makeReadOnly(mount int) error {
	fs, err := unix.Fspick(mount, "", unix.FSPICK_EMPTY_PATH|unix.FSPICK_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("fspick", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetFlag(fs, "ro"); err != nil {
		return os.NewSyscallError("fsconfig", err)
	}
	return os.NewSyscallError("fsconfig", unix.FsconfigReconfigure(fs))
}

func (m *guestMemory) close() {
	if m.file != nil {
		m.file.Close()
	}
	if m.mount >= 0 {
		unix.Close(m.mount) // before it has a place, it ends with this
	}
}

// memoryFile makes a file that lies in memory and has no name.
func memoryFile(name string, size int64) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if err := f.Truncate(size); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// sealFile keeps a memoryFile from being changed ever after, by anybody.
func sealFile(f *os.File) error {
	_, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	return os.NewSyscallError("fcntl", err)
}
