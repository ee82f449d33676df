package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// kernelModule is one line of the initrd's module list.
type kernelModule struct {
	file   string
	device int // virtio device ID without which it is not loaded; 0: always
}

// Virtio device IDs, section 5 of the virtio 1.2 specification.
const (
	virtioConsole = 3 // virtio-serial too
	virtioVsock   = 19
)

func parseModules(list string) ([]kernelModule, error) {
	var out []kernelModule
	for line := range strings.Lines(list) {
		file, when, ok := strings.Cut(strings.TrimSpace(line), " ")
		device, err := strconv.Atoi(when)
		if !ok || err != nil || file != filepath.Base(file) {
			return nil, fmt.Errorf("malformed line %q in the module list", line)
		}
		out = append(out, kernelModule{file, device})
	}
	return out, nil
}

// moduleLoader loads modules in the list's order.
type moduleLoader struct {
	dir    string // of the files
	sysfs  string
	rest   []kernelModule
	loaded map[int]bool // virtio devices of the machine; nil: not looked at yet
}

func newModuleLoader(dir, sysfs string) (*moduleLoader, error) {
	list, err := os.ReadFile(filepath.Join(dir, "order"))
	if err != nil {
		return nil, err
	}
	modules, err := parseModules(string(list))
	if err != nil {
		return nil, err
	}
	return &moduleLoader{dir: dir, sysfs: sysfs, rest: modules}, nil
}

// loadUntil loads modules in order, up to the first that stop names.
func (l *moduleLoader) loadUntil(stop func(kernelModule) bool) error {
	for len(l.rest) > 0 && !stop(l.rest[0]) {
		m := l.rest[0]
		l.rest = l.rest[1:]
		if m.device != 0 && !l.present(m.device) {
			continue
		}
		if err := loadModule(filepath.Join(l.dir, m.file)); err != nil {
			return fmt.Errorf("load module %s: %w", m.file, err)
		}
	}
	return nil
}

// present reports whether the machine has a virtio device of the ID. It is
// asked first after the bus driver was loaded, which finds them all.
func (l *moduleLoader) present(device int) bool {
	if l.loaded == nil {
		l.loaded = map[int]bool{}
		devices := filepath.Join(l.sysfs, "bus/virtio/devices")
		entries, err := os.ReadDir(devices)
		if err != nil {
			return true
		}
		for _, e := range entries {
			b, err := os.ReadFile(filepath.Join(devices, e.Name(), "device"))
			if err != nil {
				continue
			}
			if id, err := strconv.ParseInt(strings.TrimSpace(string(b)), 0, 32); err == nil {
				l.loaded[int(id)] = true
			}
		}
	}
	return l.loaded[device]
}

func loadModule(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.FinitModule(fd, "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}
