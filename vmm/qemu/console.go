package qemu

import (
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	consoleFile = "console"
	consoleKeep = 64 << 10 // bytes of the tail
)

// console is our end of a VM's serial console: a named pipe in its run
// directory, and the tail of what came through it. QEMU holds the pipe open
// for reading too, so it never sees a broken one while we are away.
type console struct {
	pipe *os.File
	done chan struct{} // the reader has ended

	mu   sync.Mutex // guards tail and more
	tail []byte
	more chan struct{} // closed at the next byte; nil: nobody waits
}

func newConsole(path string) (*console, error) {
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return nil, fmt.Errorf("make console pipe: %w", err)
	}
	return openConsole(path)
}

func openConsole(path string) (*console, error) {
	pipe, err := os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open console pipe: %w", err)
	}
	c := &console{pipe: pipe, done: make(chan struct{})}
	go c.drain()
	return c, nil
}

func (c *console) drain() {
	defer close(c.done)
	chunk := make([]byte, 4<<10)
	for {
		n, err := c.pipe.Read(chunk)
		c.add(chunk[:n])
		if err != nil {
			return
		}
	}
}

func (c *console) add(b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tail = append(c.tail, b...)
	if c.more != nil && len(b) > 0 {
		close(c.more)
		c.more = nil
	}
	if over := len(c.tail) - consoleKeep; over > 0 {
		c.tail = append(c.tail[:0], c.tail[over:]...)
	}
}

// grown is closed when more has come.
func (c *console) grown() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.more == nil {
		c.more = make(chan struct{})
	}
	return c.more
}

// finish takes what is still in the pipe and closes it.
func (c *console) finish() {
	_ = c.pipe.SetReadDeadline(time.Unix(1, 0)) // wakes the reader
	<-c.done
	if conn, err := c.pipe.SyscallConn(); err == nil {
		_ = conn.Control(func(fd uintptr) {
			// Bounded: a pipe holds no more.
			chunk := make([]byte, consoleKeep)
			for range 16 {
				n, err := unix.Read(int(fd), chunk)
				if n <= 0 || err != nil {
					return
				}
				c.add(chunk[:n])
			}
		})
	}
	c.pipe.Close()
}

func (c *console) close() {
	c.pipe.Close()
	<-c.done
}

func (c *console) bytes() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]byte(nil), c.tail...)
}
