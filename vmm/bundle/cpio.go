package bundle

import (
	"fmt"
	"io"
)

// cpioWriter writes an archive in the "newc" form that the kernel unpacks as
// its initial root. The same calls give the same bytes: times, owners and
// inode numbers are fixed.
type cpioWriter struct {
	w    io.Writer
	ino  int
	size int
	err  error
}

const (
	modeDir  = 0o040000
	modeFile = 0o100000
	modeChar = 0o020000
)

func (c *cpioWriter) dir(name string) { c.entry(name, modeDir|0o755, 0, 0, nil) }

func (c *cpioWriter) file(name string, perm int, data []byte) {
	c.entry(name, modeFile|perm, 0, 0, data)
}

func (c *cpioWriter) char(name string, perm, major, minor int) {
	c.entry(name, modeChar|perm, major, minor, nil)
}

// close writes the trailer and returns the first error of all calls.
func (c *cpioWriter) close() error {
	c.entry("TRAILER!!!", 0, 0, 0, nil)
	c.pad(512)
	return c.err
}

func (c *cpioWriter) entry(name string, mode, rmajor, rminor int, data []byte) {
	c.ino++
	c.write(fmt.Appendf(nil, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		c.ino, mode, 0, 0, 1, 0, len(data), 0, 0, rmajor, rminor, len(name)+1, 0))
	c.write(append([]byte(name), 0))
	c.pad(4)
	c.write(data)
	c.pad(4)
}

func (c *cpioWriter) pad(to int) {
	if rest := c.size % to; rest != 0 {
		c.write(make([]byte, to-rest))
	}
}

func (c *cpioWriter) write(p []byte) {
	if c.err != nil {
		return
	}
	n, err := c.w.Write(p)
	c.size += n
	c.err = err
}
