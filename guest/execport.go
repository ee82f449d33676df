package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	wire "github.com/miosa/miosa/wire/guest"
)

// openExecPorts opens the ports for exec sessions that the machine has: from then
// on nobody else in it can.
func openExecPorts(sysfs, dev string) (ports []transport, err error) {
	for n := range wire.ExecPorts {
		path := findSerial(sysfs, dev, wire.ExecPortName+strconv.Itoa(n))
		if path == "" {
			break
		}
		p, oops := openExecPort(path)
		if oops != nil {
			err = errors.Join(err, oops)
			continue
		}
		ports = append(ports, p)
	}
	return ports, err
}

// execPort is a serialPort that costs nothing while no host is there, which is
// nearly always: the kernel wakes who waits for one.
type execPort struct {
	file    *os.File
	raw     syscall.RawConn
	dialled bool // before; used by Dial alone
}

func openExecPort(path string) (*execPort, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	p := &execPort{file: os.NewFile(uintptr(fd), path)}
	if p.raw, err = p.file.SyscallConn(); err == nil {
		err = p.file.SetWriteDeadline(time.Time{}) // it can, or Dial would never end
	}
	if err != nil {
		_ = p.file.Close()
		return nil, fmt.Errorf("wait for hosts: %w", err)
	}
	return p, nil
}

// Dial waits for a host. That one comes makes the port writable.
func (p *execPort) Dial(ctx context.Context) (io.ReadWriteCloser, bool, error) {
	if err := p.file.SetWriteDeadline(time.Time{}); err != nil {
		return nil, false, err
	}
	defer context.AfterFunc(ctx, func() { _ = p.file.SetWriteDeadline(time.Unix(1, 0)) })()
	var failed error
	err := p.raw.Write(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd)}}
		_, failed = unix.Poll(fds, 0)
		return failed != nil && !errors.Is(failed, unix.EINTR) || failed == nil && fds[0].Revents&unix.POLLHUP == 0 || ctx.Err() != nil
	})
	if err = errors.Join(ctx.Err(), err, os.NewSyscallError("poll", failed)); err != nil {
		return nil, false, err
	}
	fresh := !p.dialled
	p.dialled = true
	return &execStream{port: p}, fresh, nil
}

// execStream is the port while a host is there. Closing it ends its writes and
// leaves the port open for the next one.
type execStream struct {
	port   *execPort
	closed atomic.Bool
}

// Read ends with io.EOF when the host has gone.
func (s *execStream) Read(b []byte) (int, error) { return s.port.file.Read(b) }

// Write sends all of b. While nobody is there it waits, until the stream is closed.
func (s *execStream) Write(b []byte) (done int, err error) {
	var failed error
	err = s.port.raw.Write(func(fd uintptr) bool {
		for done < len(b) && failed == nil {
			if s.closed.Load() {
				failed = os.ErrClosed
				break
			}
			n, err := unix.Write(int(fd), b[done:])
			switch {
			case n > 0:
				done += n
			case errors.Is(err, unix.EAGAIN):
				return false
			case err != nil && !errors.Is(err, unix.EINTR):
				failed = os.NewSyscallError("write", err)
			}
		}
		return true
	})
	return done, errors.Join(failed, err)
}

func (s *execStream) Close() error {
	s.closed.Store(true)
	return s.port.file.SetWriteDeadline(time.Unix(1, 0)) // until the next host comes
}
