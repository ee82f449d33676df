//go:build darwin || linux

package transfer

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// openFlags has the open of a pipe that took a file's place return.
const openFlags = os.O_RDONLY | syscall.O_NONBLOCK

// inode is what hard links have in common.
type inode struct{ device, number uint64 }

// identity is a file's inode, how many names it has, and whose it is.
func identity(info fs.FileInfo) (id inode, links uint64, uid, gid uint32) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return inode{}, 1, 0, 0
	}
	//nolint:unconvert // narrower on other systems
	return inode{uint64(st.Dev), uint64(st.Ino)}, uint64(st.Nlink), st.Uid, st.Gid
}

// lock takes a file for this process, until it is closed; false: another has it.
func lock(f *os.File) (bool, error) {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, os.NewSyscallError("flock", err)
}
