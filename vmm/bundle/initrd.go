package bundle

import (
	"bufio"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"strings"
)

// maxInit is the hard limit on PID 1's size: it is copied into every VM's
// memory at boot.
const maxInit = 4 << 20

// writeInitrd writes the initial root: /init, /modules/<name>.ko, and
// /modules/order, one "<file> <virtio device ID or 0>" a line in load order.
// It is not compressed: unpacking would cost the guest more time than reading
// costs the host.
func writeInitrd(path string, initBinary []byte, modules []loadable) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	buffered := bufio.NewWriterSize(f, 1<<20)
	c := &cpioWriter{w: buffered}
	for _, dir := range []string{"dev", "proc", "sys", "modules", "base", "data", "root"} {
		c.dir(dir)
	}
	c.char("dev/console", 0o600, 5, 1)
	c.char("dev/null", 0o666, 1, 3)
	var order strings.Builder
	for _, m := range modules {
		fmt.Fprintf(&order, "%s.ko %d\n", m.name, m.when)
		c.file("modules/"+m.name+".ko", 0o644, m.data)
	}
	c.file("modules/order", 0o644, []byte(order.String()))
	c.file("init", 0o755, initBinary)
	if err := c.close(); err != nil {
		return err
	}
	return buffered.Flush()
}

// checkInit refuses a program that could not run as PID 1 of the guest.
func checkInit(data []byte) error {
	if len(data) > maxInit {
		return fmt.Errorf("%d bytes, at most %d are allowed", len(data), maxInit)
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("not an ELF program: %w", err)
	}
	if f.Machine != elf.EM_X86_64 {
		return fmt.Errorf("built for %v, want x86-64", f.Machine)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New("dynamically linked: build it with CGO_ENABLED=0")
		}
	}
	return nil
}
