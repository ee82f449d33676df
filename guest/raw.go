package guest

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// System calls of the boot that the runtime is not told of. It would make
// another thread ready for what may run meanwhile, which under emulation is
// more work than the calls themselves; and nothing may: until the command runs
// PID 1 does one thing after the other.

//go:uintptrescapes
func raw(trap, a, b, c, d, e uintptr) (int, error) {
	for {
		n, _, errno := unix.RawSyscall6(trap, a, b, c, d, e, 0)
		if errno == 0 {
			return int(n), nil
		}
		if errno != unix.EINTR {
			return -1, errno
		}
	}
}

func rawRead(fd int, b []byte) (int, error) {
	return raw(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0, 0)
}

func rawWrite(fd int, b []byte) (int, error) {
	return raw(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0, 0)
}

// rawPoll waits without an end.
func rawPoll(fd *unix.PollFd) error {
	_, err := raw(unix.SYS_PPOLL, uintptr(unsafe.Pointer(fd)), 1, 0, 0, 0)
	return err
}

func rawIoctl(fd int, request uintptr, arg unsafe.Pointer) error {
	_, err := raw(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg), 0, 0)
	return os.NewSyscallError("ioctl", err)
}

func rawMkdir(path string, mode os.FileMode) error {
	p, err := unix.BytePtrFromString(path)
	if err == nil {
		dir := unix.AT_FDCWD
		_, err = raw(unix.SYS_MKDIRAT, uintptr(dir), uintptr(unsafe.Pointer(p)), uintptr(mode.Perm()), 0, 0)
	}
	return pathError("mkdir", path, err)
}

func rawMount(source, target, kind string, flags uintptr, data string) error {
	var p [4]*byte
	for i, s := range [...]string{source, target, kind, data} {
		var err error
		if p[i], err = unix.BytePtrFromString(s); err != nil {
			return pathError("mount", target, err)
		}
	}
	_, err := raw(unix.SYS_MOUNT, uintptr(unsafe.Pointer(p[0])), uintptr(unsafe.Pointer(p[1])), uintptr(unsafe.Pointer(p[2])),
		flags, uintptr(unsafe.Pointer(p[3])))
	return pathError("mount", target, err)
}

// writeFile writes a new file.
func writeFile(path, content string) error {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return pathError("create", path, err)
	}
	dir := unix.AT_FDCWD
	fd, err := raw(unix.SYS_OPENAT, uintptr(dir), uintptr(unsafe.Pointer(p)), unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o644, 0)
	if err != nil {
		return pathError("create", path, err)
	}
	for rest := []byte(content); len(rest) > 0 && err == nil; {
		var n int
		n, err = rawWrite(fd, rest)
		rest = rest[max(0, n):]
	}
	_, closing := raw(unix.SYS_CLOSE, uintptr(fd), 0, 0, 0, 0)
	if err == nil {
		err = closing
	}
	return pathError("write", path, err)
}

func pathError(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: path, Err: err}
}
