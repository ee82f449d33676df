package bundle

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// module is one kernel module that the guest may need. When is the virtio
// device ID without which loading it is pointless, 0 for always: the guest
// leaves out what the machine does not have.
type module struct {
	name string
	when int
}

// Virtio device IDs, section 5 of the virtio 1.2 specification.
const (
	virtioNet     = 1
	virtioBlock   = 2
	virtioConsole = 3
	virtioRNG     = 4
	virtioVsock   = 19
)

// wantedModules in load order; what they depend on is put before them. The
// control channel comes first, so that the guest says hello before it loads
// the rest.
var wantedModules = []module{
	{"virtio_ring", 0},
	{"virtio", 0},
	{"virtio_mmio", 0},
	{"virtio_console", virtioConsole},
	{"vsock", virtioVsock},
	{"vmw_vsock_virtio_transport_common", virtioVsock},
	{"vmw_vsock_virtio_transport", virtioVsock},
	{"virtio_blk", virtioBlock},
	{"erofs", 0},
	{"overlay", 0},
	{"virtio_net", virtioNet},
	{"virtio_rng", virtioRNG},
}

// loadable is a module as it goes into the initrd.
type loadable struct {
	module
	data []byte
}

// collectModules finds the wanted modules and their dependencies under dir
// (lib/modules/<release>), in load order, made lean. Modules that the kernel
// has built in are left out.
func collectModules(dir string) ([]loadable, error) {
	paths, err := modulePaths(dir)
	if err != nil {
		return nil, err
	}
	builtin, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, fmt.Errorf("read the list of built-in modules: %w", err)
	}
	builtins := map[string]bool{}
	for path := range strings.Lines(string(builtin)) {
		builtins[moduleName(filepath.Base(strings.TrimSpace(path)))] = true
	}
	var out []loadable
	seen := map[string]bool{}
	var add func(m module) error
	add = func(m module) error {
		if seen[m.name] || builtins[m.name] {
			return nil
		}
		seen[m.name] = true
		path, ok := paths[m.name]
		if !ok {
			return fmt.Errorf("the kernel has no module %s", m.name)
		}
		if !strings.HasSuffix(path, ".ko") {
			return fmt.Errorf("module %s is compressed (%s): only uncompressed modules can be used", m.name, filepath.Base(path))
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read module %s: %w", m.name, err)
		}
		depends, err := moduleDepends(data)
		if err != nil {
			return fmt.Errorf("module %s: %w", m.name, err)
		}
		for _, d := range depends {
			if err := add(module{d, m.when}); err != nil {
				return fmt.Errorf("needed by %s: %w", m.name, err)
			}
		}
		lean, err := leanModule(data)
		if err != nil {
			return fmt.Errorf("module %s: %w", m.name, err)
		}
		out = append(out, loadable{m, lean})
		return nil
	}
	for _, m := range wantedModules {
		if err := add(m); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func modulePaths(dir string) (map[string]string, error) {
	paths := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.Contains(d.Name(), ".ko") {
			paths[moduleName(d.Name())] = path
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list kernel modules: %w", err)
	}
	return paths, nil
}

// moduleName is the kernel's name of a module file: dashes become underscores.
func moduleName(file string) string {
	name, _, _ := strings.Cut(file, ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// moduleDepends reads the modules that must be loaded before, from the
// module's own .modinfo: no depmod is needed.
func moduleDepends(data []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("not an ELF file: %w", err)
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("no .modinfo section")
	}
	info, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("read .modinfo: %w", err)
	}
	for field := range strings.SplitSeq(string(info), "\x00") {
		if list, ok := strings.CutPrefix(field, "depends="); ok {
			return slices.DeleteFunc(strings.Split(strings.ReplaceAll(list, "-", "_"), ","),
				func(s string) bool { return s == "" }), nil
		}
	}
	return nil, nil
}

const signatureMagic = "~Module signature appended~\n"

// signatureTrailer is struct module_signature: the signature's length is its
// last field, big-endian.
const signatureTrailer = 12

// leanModule takes out what only costs boot time: the signature (the guest's
// kernel does not enforce it, yet would check RSA-4096 for each module) and
// the BTF section (loading the first one makes the kernel parse its own BTF,
// megabytes of it). The BTF section is renamed away, not cut out, so that no
// offset moves.
func leanModule(data []byte) ([]byte, error) {
	out := slices.Clone(data)
	if rest, ok := bytes.CutSuffix(out, []byte(signatureMagic)); ok {
		if len(rest) < signatureTrailer {
			return nil, fmt.Errorf("truncated signature")
		}
		length := int(binary.BigEndian.Uint32(rest[len(rest)-4:]))
		if length > len(rest)-signatureTrailer {
			return nil, fmt.Errorf("signature larger than the module")
		}
		out = rest[:len(rest)-signatureTrailer-length]
	}
	f, err := elf.NewFile(bytes.NewReader(out))
	if err != nil {
		return nil, fmt.Errorf("not an ELF file: %w", err)
	}
	if f.Class != elf.ELFCLASS64 || f.ByteOrder != binary.LittleEndian {
		return nil, fmt.Errorf("not a 64-bit little-endian module")
	}
	const headersAt, entrySizeAt = 0x28, 0x3a // e_shoff, e_shentsize
	headers := binary.LittleEndian.Uint64(out[headersAt:])
	entry := uint64(binary.LittleEndian.Uint16(out[entrySizeAt:]))
	for i, s := range f.Sections {
		if s.Name == ".BTF" {
			binary.LittleEndian.PutUint32(out[headers+uint64(i)*entry:], 0)
		}
	}
	return out, nil
}
