package erofs

import (
	"io/fs"
	"syscall"
)

// diskUse is what a file takes on disk, in bytes.
func diskUse(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return info.Size()
}
