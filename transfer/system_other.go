//go:build !darwin && !linux

package transfer

import (
	"io/fs"
	"os"
)

const openFlags = os.O_RDONLY

type inode struct{ device, number uint64 }

// identity knows of no hard links here: they are sent as files.
func identity(fs.FileInfo) (id inode, links uint64, uid, gid uint32) { return inode{}, 1, 0, 0 }

// lock trusts who calls to have ended the attempt before.
func lock(*os.File) (bool, error) { return true, nil }
