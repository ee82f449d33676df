package guest

import (
	"bytes"
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
