package guest

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// transport is the way to the host. Dial waits until a host is there; the
// connection ends with an error when it has gone.
type transport interface {
	Dial(ctx context.Context) (io.ReadWriteCloser, error)
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

// findSerial returns the device of the virtio-serial port with our name, "".
func findSerial(sysfs, dev string) string {
	ports := filepath.Join(sysfs, "class/virtio-ports")
	entries, err := os.ReadDir(ports)
	if err != nil {
		return ""
	}
	for _, e := range entries {
		if b, err := os.ReadFile(filepath.Join(ports, e.Name(), "name")); err == nil && strings.TrimSpace(string(b)) == portName {
			return filepath.Join(dev, e.Name())
		}
	}
	return ""
}

// serialPort is a virtio-serial port. It is one byte stream for the life of
// the VM, whoever is at the other end: that nobody is shows as a hang-up.
type serialPort struct {
	fd int
}

func openSerial(path string) (*serialPort, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return &serialPort{fd: fd}, nil
}

// errAway says that no host is at the other end.
var errAway = errors.New("the host is away")

func (p *serialPort) Dial(ctx context.Context) (io.ReadWriteCloser, error) {
	wait := dialFirst
	for {
		there, err := p.hostThere()
		if err != nil {
			return nil, err
		}
		if there {
			return serialConn{p}, nil
		}
		if err := pause(ctx, wait); err != nil {
			return nil, err
		}
		wait = min(2*wait, dialLast)
	}
}

// hostThere reports whether someone is at the other end now.
func (p *serialPort) hostThere() (bool, error) {
	fds := []unix.PollFd{{Fd: int32(p.fd)}}
	if _, err := unix.Poll(fds, 0); err != nil && !errors.Is(err, unix.EINTR) {
		return false, os.NewSyscallError("poll", err)
	}
	return fds[0].Revents&unix.POLLHUP == 0, nil
}

// poll waits for events, or for the host to go.
func (p *serialPort) poll(events int16) error {
	fds := []unix.PollFd{{Fd: int32(p.fd), Events: events}}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return os.NewSyscallError("poll", err)
		case fds[0].Revents&events != 0 && fds[0].Revents&unix.POLLHUP == 0:
			return nil
		case fds[0].Revents&events&unix.POLLIN != 0:
			return nil // what the host said before it went is still to be read
		}
		return errAway
	}
}

// serialConn is the port while a host is there. Closing it leaves the port
// open for the next one.
type serialConn struct{ p *serialPort }

func (c serialConn) Read(b []byte) (int, error) {
	for {
		n, err := unix.Read(c.p.fd, b)
		switch {
		case n > 0:
			return n, nil
		case err == nil:
			return 0, io.EOF
		case errors.Is(err, unix.EAGAIN):
			if err := c.p.poll(unix.POLLIN); err != nil {
				return 0, io.EOF
			}
		case !errors.Is(err, unix.EINTR):
			return 0, os.NewSyscallError("read", err)
		}
	}
}

func (c serialConn) Write(b []byte) (int, error) {
	done := 0
	for done < len(b) {
		n, err := unix.Write(c.p.fd, b[done:])
		switch {
		case n > 0:
			done += n
		case errors.Is(err, unix.EAGAIN):
			if err := c.p.poll(unix.POLLOUT); err != nil {
				return done, err
			}
		case err != nil && !errors.Is(err, unix.EINTR):
			return done, os.NewSyscallError("write", err)
		}
	}
	return done, nil
}

func (c serialConn) Close() error { return nil }

// vsockDialer reaches the host over a virtio socket.
type vsockDialer struct{ port uint32 }

func (d vsockDialer) Dial(ctx context.Context) (io.ReadWriteCloser, error) {
	wait := dialFirst
	for {
		conn, err := d.dialOnce()
		if err == nil {
			return conn, nil
		}
		if err := pause(ctx, wait); err != nil {
			return nil, err
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
