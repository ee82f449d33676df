package disk

import (
	"bytes"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// CopySparse makes dst, open for writing, what src is: its length and its data.
// What dst held is gone.
func CopySparse(dst, src *os.File) error {
	info, err := src.Stat()
	if err != nil {
		return err
	}
	if err := dst.Truncate(0); err != nil {
		return err
	}
	if err := dst.Truncate(info.Size()); err != nil {
		return err
	}
	return FillSparse(dst, src)
}

// CopyFile is CopySparse by name: from, into the file that lies at to.
func CopyFile(to, from string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(CopySparse(dst, src), dst.Close())
}

// block is what a hole is made of.
const block = 4096

// FillSparse writes what src holds into dst, which is as long and has only
// holes. Blocks of zeros stay holes.
func FillSparse(dst, src *os.File) error {
	info, err := src.Stat()
	if err != nil {
		return err
	}
	chunk := make([]byte, 64*block)
	for at := int64(0); at < info.Size(); {
		if at, err = unix.Seek(int(src.Fd()), at, unix.SEEK_DATA); errors.Is(err, unix.ENXIO) {
			return nil // only a hole is left
		} else if err != nil {
			return os.NewSyscallError("lseek", err)
		}
		end, err := unix.Seek(int(src.Fd()), at, unix.SEEK_HOLE)
		if err != nil {
			return os.NewSyscallError("lseek", err)
		}
		for at < end {
			n, err := src.ReadAt(chunk[:min(int64(len(chunk)), end-at)], at)
			if err != nil {
				return err
			}
			if err := writeBlocks(dst, chunk[:n], at); err != nil {
				return err
			}
			at += int64(n)
		}
	}
	return nil
}

var zeros [block]byte

// writeBlocks writes the runs of blocks that are not all zeros.
func writeBlocks(dst *os.File, b []byte, at int64) error {
	for begin, i := 0, 0; begin < len(b); i += block {
		if i < len(b) {
			piece := b[i:min(i+block, len(b))]
			if !bytes.Equal(piece, zeros[:len(piece)]) {
				continue
			}
		}
		if end := min(i, len(b)); end > begin {
			if _, err := dst.WriteAt(b[begin:end], at+int64(begin)); err != nil {
				return err
			}
		}
		begin = i + block
	}
	return nil
}
