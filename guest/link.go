package guest

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// transport is the way to the host. Dial waits until a host is there; reading
// from the connection ends when it has gone. fresh is false when the bytes go
// on where those of the last connection ended.
type transport interface {
	Dial(ctx context.Context) (conn io.ReadWriteCloser, fresh bool, err error)
}

// The names both sides agree on.
const (
	portName  = "ctl" // of the virtio-serial port
	vsockPort = 1024  // that the host's end listens on
)

// Backing off while no host is there: short at first, for the boot, when the
// host is about to come.
const (
	dialFirst = 2 * time.Millisecond
	dialLast  = 50 * time.Millisecond
)

// findSerial returns the device of the virtio-serial port with that name, "".
func findSerial(sysfs, dev, name string) string {
	ports := filepath.Join(sysfs, "class/virtio-ports")
	entries, err := os.ReadDir(ports)
	if err != nil {
		return ""
	}
	for _, e := range entries {
		if b, err := os.ReadFile(filepath.Join(ports, e.Name(), "name")); err == nil && strings.TrimSpace(string(b)) == name {
			return filepath.Join(dev, e.Name())
		}
	}
	return ""
}

// serialPort is a virtio-serial port. It is one byte stream for the life of
// the VM, whoever is at the other end: that nobody is shows as a hang-up. The
// kernel learns of hosts that come and go beside the bytes, so a hang-up may
// be seen late, or not at all, and bytes of the next host before it.
type serialPort struct {
	fd      int
	dialled bool // before; used by Dial alone
	alone   bool // nothing else is to run while a read waits: see template.go
}

func openSerial(path string) (*serialPort, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return &serialPort{fd: fd}, nil
}

func (p *serialPort) Dial(ctx context.Context) (io.ReadWriteCloser, bool, error) {
	wait := dialFirst
	for {
		ready, err := p.poll(0, 0)
		if err != nil {
			return nil, false, err
		}
		if ready&unix.POLLHUP == 0 {
			fresh := !p.dialled
			p.dialled = true
			return &serialConn{port: p}, fresh, nil
		}
		if err := pause(ctx, wait); err != nil {
			return nil, false, err
		}
		wait = min(2*wait, dialLast)
	}
}

// poll waits for events or a hang-up, at most timeout; negative: for ever.
func (p *serialPort) poll(events int16, timeout time.Duration) (ready int16, err error) {
	fds := []unix.PollFd{{Fd: int32(p.fd), Events: events}}
	ms := int(timeout.Milliseconds())
	if timeout < 0 {
		ms = -1
	}
	for {
		if p.alone && timeout < 0 {
			return fds[0].Revents, os.NewSyscallError("poll", rawPoll(&fds[0]))
		}
		_, err := unix.Poll(fds, ms)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return fds[0].Revents, os.NewSyscallError("poll", err)
	}
}

// serialConn is the port while a host is there. Closing it ends its writes
// and leaves the port open for the next one.
type serialConn struct {
	port   *serialPort
	closed atomic.Bool
}

func (c *serialConn) Read(b []byte) (int, error) {
	for {
		read := unix.Read
		if c.port.alone {
			read = rawRead
		}
		n, err := read(c.port.fd, b)
		switch {
		case n > 0:
			return n, nil
		case err == nil:
			return 0, io.EOF
		case errors.Is(err, unix.EAGAIN):
			// A hang-up ends the wait too; the next read then says so.
			if _, err := c.port.poll(unix.POLLIN, -1); err != nil {
				return 0, err
			}
		case !errors.Is(err, unix.EINTR):
			return 0, os.NewSyscallError("read", err)
		}
	}
}

// Write sends all of b. While nobody is there it waits: whether the host is
// gone is for Read to find out, which then closes the connection.
func (c *serialConn) Write(b []byte) (int, error) {
	for done := 0; ; {
		n, err := unix.Write(c.port.fd, b[done:])
		switch {
		case n > 0:
			if done += n; done == len(b) {
				return done, nil
			}
		case errors.Is(err, unix.EAGAIN):
			if c.closed.Load() {
				return done, os.ErrClosed
			}
			ready, err := c.port.poll(unix.POLLOUT, dialLast)
			if err != nil {
				return done, err
			}
			if ready&unix.POLLHUP != 0 { // which poll does not wait out
				time.Sleep(dialFirst) //nolint:forbidigo // a hang-up ends with no event
			}
		case err != nil && !errors.Is(err, unix.EINTR):
			return done, os.NewSyscallError("write", err)
		}
	}
}

func (c *serialConn) Close() error {
	c.closed.Store(true)
	return nil
}

// vsockDialer reaches the host over a virtio socket.
type vsockDialer struct{ port uint32 }

func (d vsockDialer) Dial(ctx context.Context) (io.ReadWriteCloser, bool, error) {
	wait := dialFirst
	for {
		conn, err := d.dialOnce()
		if err == nil {
			return conn, true, nil
		}
		if err := pause(ctx, wait); err != nil {
			return nil, false, err
		}
		wait = min(2*wait, dialLast)
	}
}

func (d vsockDialer) dialOnce() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	// A blocking connect: its own timeout is 2 s, and it ends at once when
	// the host's end refuses.
	if err := unix.Connect(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_HOST, Port: d.port}); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("connect", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), "vsock"), nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
