package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// kernelLog is the end of the kernel's message buffer, at most size bytes.
func kernelLog(size int) []byte {
	const readAll = 3 // SYSLOG_ACTION_READ_ALL: does not consume
	buf := make([]byte, size)
	n, err := unix.Klogctl(readAll, buf)
	if err != nil || n < 0 {
		return nil
	}
	return buf[:n]
}

// oomKilled reports whether the log says that the kernel killed the process
// for want of memory.
func oomKilled(log []byte, pid int) bool {
	return bytes.Contains(log, []byte("Killed process "+strconv.Itoa(pid)+" ("))
}

// openKills is the kernel's log from now on, for watchKills.
func openKills() *os.File {
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	return os.NewFile(uintptr(fd), "kmsg")
}

// watchKills says which processes the kernel ends for want of memory, from now
// until ctx ends: a worker's end may be all that is seen of it, or not even
// that. Of the main process there will be word anyway.
func watchKills(ctx context.Context, log *os.File, main int, say func(string)) {
	defer context.AfterFunc(ctx, func() { _ = log.Close() })()
	if _, err := log.Seek(0, io.SeekEnd); err != nil {
		return
	}
	record := make([]byte, 8<<10)
	for {
		n, err := log.Read(record)
		switch {
		case errors.Is(err, unix.EPIPE): // some were overwritten before they were read
			continue
		case err != nil:
			return
		}
		if pid, name, ok := killed(record[:n]); ok && pid != main {
			say(fmt.Sprintf("The kernel killed process %d (%s): the instance ran out of memory.", pid, name))
		}
	}
}

// killed reads a record of the kernel's log that tells of a process killed for
// want of memory.
func killed(record []byte) (pid int, name string, ok bool) {
	_, rest, ok := strings.Cut(string(record), "Killed process ")
	if !ok {
		return 0, "", false
	}
	number, rest, ok := strings.Cut(rest, " (")
	name, _, closed := strings.Cut(rest, ")")
	pid, err := strconv.Atoi(number)
	return pid, name, ok && closed && err == nil
}

// firstInstruction is when the kernel started PID 1, as its log tells it, on
// the clock that counts from the kernel's start.
func firstInstruction(log []byte) (time.Duration, bool) {
	for line := range strings.Lines(string(log)) {
		if !strings.Contains(line, "] Run /init as init process") {
			continue
		}
		_, rest, _ := strings.Cut(line, "[")
		stamp, _, _ := strings.Cut(rest, "]")
		seconds, err := strconv.ParseFloat(strings.TrimSpace(stamp), 64)
		if err == nil {
			return time.Duration(seconds * float64(time.Second)), true
		}
	}
	return 0, false
}

// sinceKernel is the time since the kernel started.
func sinceKernel() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
