package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miosa/miosa/vmm"
)

// process is a held process: its pidfd never means another one, even after
// the pid was given out again.
type process struct {
	pid       int
	startTime uint64 // clock ticks after the host's boot
	pidfd     *os.File
}

// openProcess holds a process by its pid; vmm.ErrGone when there is none.
func openProcess(pid int) (*process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, vmm.ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("hold process %d: %w", pid, err)
	}
	p := &process{pid: pid, pidfd: os.NewFile(uintptr(fd), "pidfd")}
	stat, err := readStat(pid)
	if err != nil {
		p.close()
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			return nil, vmm.ErrGone
		}
		return nil, err
	}
	p.startTime = stat.startTime
	return p, nil
}

func (p *process) close() { p.pidfd.Close() }

// exited reports whether it has ended; a zombie has.
func (p *process) exited() bool {
	conn, err := p.pidfd.SyscallConn()
	if err != nil {
		return true
	}
	ended := false
	err = conn.Control(func(fd uintptr) { ended = readable(fd) })
	return err != nil || ended
}

// wait returns when the process has ended. It holds no thread: a pidfd can
// be waited for like a socket.
func (p *process) wait(ctx context.Context) error {
	conn, err := p.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = p.pidfd.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	err = conn.Read(readable)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ctx.Err()
	}
	return err
}

func readable(fd uintptr) bool {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		if !errors.Is(err, unix.EINTR) {
			return n > 0
		}
	}
}

// kill ends it with SIGKILL; that it has ended already is no error.
func (p *process) kill() error {
	conn, err := p.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = conn.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) })
	if errors.Is(sent, unix.ESRCH) {
		sent = nil
	}
	return errors.Join(err, sent)
}

// reap collects the exit of a child of ours. Of an adopted process nothing is
// known.
func (p *process) reap() (code int, signal string) {
	var status unix.WaitStatus
	for {
		got, err := unix.Wait4(p.pid, &status, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil || got != p.pid:
			return -1, ""
		case status.Signaled():
			return -1, unix.SignalName(status.Signal())
		default:
			return status.ExitStatus(), ""
		}
	}
}

// stat are the fields of /proc/PID/stat that are used here.
type stat struct {
	cpu       time.Duration
	startTime uint64
	rssPages  uint64
}

// clockTick is the unit of times in /proc: 1/100 s on every Linux.
const clockTick = 10 * time.Millisecond

func readStat(pid int) (stat, error) {
	b, err := os.ReadFile(procFile(pid, "stat"))
	if err != nil {
		return stat{}, err
	}
	return parseStat(b)
}

// parseStat: the second field is the program's name in parentheses and may
// hold anything, so counting begins after the last of them.
func parseStat(b []byte) (stat, error) {
	_, rest, ok := cutLast(b, ')')
	fields := strings.Fields(string(rest))
	if !ok || len(fields) < 22 {
		return stat{}, fmt.Errorf("process status %q cannot be read", b)
	}
	var numbers [5]uint64
	for i, field := range []int{14, 15, 22, 24} { // as counted in proc(5)
		n, err := strconv.ParseUint(fields[field-3], 10, 64)
		if err != nil {
			return stat{}, fmt.Errorf("process status %q cannot be read: %w", b, err)
		}
		numbers[i] = n
	}
	return stat{cpu: time.Duration(numbers[0]+numbers[1]) * clockTick, startTime: numbers[2], rssPages: numbers[3]}, nil
}

func cutLast(b []byte, sep byte) (before, after []byte, ok bool) {
	if i := bytes.LastIndexByte(b, sep); i >= 0 {
		return b[:i], b[i+1:], true
	}
	return b, nil, false
}

// readIO are the bytes the process caused to be read from and written to disks.
func readIO(pid int) (read, written uint64) {
	b, err := os.ReadFile(procFile(pid, "io"))
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			continue
		}
		switch key {
		case "read_bytes":
			read = n
		case "write_bytes":
			written = n
		}
	}
	return read, written
}

// idOf is the ID of the VM that a process is of; "" for all others.
func (d *Driver) idOf(pid int) string {
	b, err := os.ReadFile(procFile(pid, "cmdline"))
	if err != nil {
		return ""
	}
	return d.idIn(strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00"))
}

// scan finds the running VMs of this data directory: ID to pid.
func (d *Driver) scan() (map[string]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("look for processes: %w", err)
	}
	running := make(map[string]int)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if id := d.idOf(pid); id != "" {
			running[id] = pid
		}
	}
	return running, nil
}

func procFile(pid int, name string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), name)
}
