package guest

import (
	"errors"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// terminal is the master's side of a pseudo-terminal.
type terminal struct{ *os.File }

// openTerminal makes a pseudo-terminal; peer is its other side, which belongs to
// the user with the account.
func openTerminal(a account, rows, cols int) (_ terminal, peer *os.File, err error) {
	// Not blocking, so that closing it ends a read.
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return terminal{}, nil, &os.PathError{Op: "open", Path: "/dev/ptmx", Err: err}
	}
	t := terminal{os.NewFile(uintptr(fd), "/dev/ptmx")}
	defer func() {
		if err != nil {
			_ = t.Close()
			if peer != nil {
				_ = peer.Close()
			}
		}
	}()
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return terminal{}, nil, os.NewSyscallError("unlock a terminal", err)
	}
	// By no path: what the image has mounted in /dev is its own affair.
	other, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return terminal{}, nil, os.NewSyscallError("open a terminal", errno)
	}
	peer = os.NewFile(other, "terminal")
	if os.Getuid() == 0 {
		if err := errors.Join(peer.Chown(int(a.uid), int(a.gid)), peer.Chmod(0o620)); err != nil {
			return terminal{}, nil, err
		}
	}
	return t, peer, t.resize(rows, cols)
}

// resize tells what runs there of the size, in characters; 0: unknown.
func (t terminal) resize(rows, cols int) error {
	const most = 1 << 12
	size := unix.Winsize{Row: uint16(min(max(rows, 0), most)), Col: uint16(min(max(cols, 0), most))}
	return t.control(func(fd int) error { return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &size) })
}

// foreground is the process group that has the terminal.
func (t terminal) foreground() (pgid int, err error) {
	err = t.control(func(fd int) error {
		var id int32
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPGRP, uintptr(unsafe.Pointer(&id))); errno != 0 {
			return errno
		}
		pgid = int(id)
		return nil
	})
	return pgid, err
}

// endOfInput is the character that ends a line of input; 0: none does.
func (t terminal) endOfInput() (b byte, err error) {
	err = t.control(func(fd int) error {
		settings, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err == nil {
			b = settings.Cc[unix.VEOF]
		}
		return err
	})
	return b, err
}

// control calls f with the descriptor, which stays open meanwhile.
func (t terminal) control(f func(fd int) error) error {
	raw, err := t.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = f(int(fd)) }); err != nil {
		return err
	}
	return failed
}

// onTerminal has a command run on a terminal: file 0 of its own is it.
func onTerminal(attr *syscall.ProcAttr) {
	attr.Sys.Setctty, attr.Sys.Ctty = true, 0
}
