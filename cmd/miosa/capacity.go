package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/disk"
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
	free, _, err := disk.Stat(dir)
	if err != nil {
		return miosa.Resources{}, fmt.Errorf("free disk of %s: %w", dir, err)
	}
	diskMB := int((free + instanceDisks(dir)) >> 20)
	return miosa.Resources{
		VCPUs: runtime.NumCPU(), MemoryMB: max(memory-reserveMemoryMB, memory/2), DiskMB: max(diskMB-reserveDiskMB, 0),
	}, nil
}

// instanceDisks is what running instances have written: it is promised to them
// already, and must not be missing from what there is to promise.
func instanceDisks(dir string) uint64 {
	disks, err := filepath.Glob(filepath.Join(dir, "agent", "*", "ephemeral.ext4"))
	if err != nil {
		return 0
	}
	var total uint64
	for _, path := range disks {
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil {
			total += uint64(st.Blocks) * 512
		}
	}
	return total
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
