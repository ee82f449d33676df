package guest

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	wire "github.com/miosa/miosa/wire/guest"
)

// tick is the unit of CPU time in /proc/stat: USER_HZ, 100 on every Linux that
// matters here.
const tickMS = 10

// readStats collects the guest's own figures. What can't be read stays zero.
func readStats(root string) wire.Stats {
	proc := filepath.Join(root, "proc")
	var s wire.Stats
	memory := keyed(filepath.Join(proc, "meminfo"))
	s.MemTotal = memory["MemTotal:"] << 10
	s.MemUsed = s.MemTotal - min(s.MemTotal, memory["MemAvailable:"]<<10)
	s.CPUMS = busyMS(filepath.Join(proc, "stat"))
	if b, err := os.ReadFile(filepath.Join(proc, "loadavg")); err == nil {
		first, _, _ := strings.Cut(string(b), " ")
		s.Load1, _ = strconv.ParseFloat(first, 64)
	}
	s.OOMKills = readOOMKills(proc)
	var disk unix.Statfs_t
	if unix.Statfs(filepath.Join(root, "/"), &disk) == nil {
		block := uint64(disk.Bsize)
		s.DiskTotal = disk.Blocks * block
		s.DiskUsed = (disk.Blocks - min(disk.Blocks, disk.Bfree)) * block
	}
	return s
}

// readOOMKills is how many processes the kernel has killed for want of memory.
func readOOMKills(proc string) uint64 {
	return keyed(filepath.Join(proc, "vmstat"))["oom_kill"]
}

// keyed reads a file of "key value …" lines.
func keyed(path string) map[string]uint64 {
	out := map[string]uint64{}
	b, err := os.ReadFile(path)
	if err != nil {
		return out
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) >= 2 {
			if n, err := strconv.ParseUint(f[1], 10, 64); err == nil {
				out[f[0]] = n
			}
		}
	}
	return out
}

// busyMS is the CPU time of all processors that was not idle.
func busyMS(path string) uint64 {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(b), "\n")
	fields := strings.Fields(line)
	var ticks uint64
	for i, f := range fields {
		const idle, iowait, steal = 4, 5, 8
		if i == 0 || i == idle || i == iowait || i > steal {
			continue
		}
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return 0
		}
		ticks += n
	}
	return ticks * tickMS
}

func readInt(path string) (int, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}
