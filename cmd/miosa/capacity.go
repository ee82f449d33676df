package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/miosa/miosa"
)

// What is kept back for the platform itself and its host.
const (
	reserveMemoryMB = 1024
	reserveDiskMB   = 2048
)

// capacity is what this machine can promise to instances.
func capacity(dir string) (miosa.Resources, error) {
	memory, err := memoryMB()
	if err != nil {
		return miosa.Resources{}, err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return miosa.Resources{}, fmt.Errorf("free disk of %s: %w", dir, err)
	}
	disk := int(fs.Bavail * uint64(fs.Bsize) >> 20)
	return miosa.Resources{
		VCPUs: runtime.NumCPU(), MemoryMB: max(memory-reserveMemoryMB, memory/2), DiskMB: max(disk-reserveDiskMB, 0),
	}, nil
}

func memoryMB() (int, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("memory of this machine: %w", err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "MemTotal:"); ok {
			var kb int
			if _, err := fmt.Sscan(rest, &kb); err != nil {
				return 0, fmt.Errorf("memory of this machine: %w", err)
			}
			return kb >> 10, nil
		}
	}
	return 0, fmt.Errorf("memory of this machine: no MemTotal in /proc/meminfo")
}
