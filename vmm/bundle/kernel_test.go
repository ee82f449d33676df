package bundle

import (
	"bytes"
	"encoding/binary"
	"os"
	"strings"
	"testing"

	"github.com/pierrec/lz4/v4"
)

// bzImage wraps a payload as the kernel's build does.
func bzImage(payload []byte) []byte {
	image := make([]byte, 2*512, 2*512+len(payload))
	image[setupSectsAt] = 1
	copy(image[headerMagicAt:], "HdrS")
	binary.LittleEndian.PutUint32(image[payloadOffsetAt:], 0)
	binary.LittleEndian.PutUint32(image[payloadLengthAt:], uint32(len(payload)))
	return append(image, payload...)
}

func legacy(t *testing.T, data []byte) []byte {
	t.Helper()
	block := make([]byte, lz4.CompressBlockBound(len(data)))
	n, err := lz4.CompressBlock(data, block, nil)
	if err != nil {
		t.Fatal(err)
	}
	out := append([]byte{}, lz4Legacy...)
	out = binary.LittleEndian.AppendUint32(out, uint32(n))
	out = append(out, block[:n]...)
	// The build appends the unpacked size.
	return binary.LittleEndian.AppendUint32(out, 60<<20)
}

func TestUnpackLegacy(t *testing.T) {
	data := bytes.Repeat([]byte("kernel "), 10_000)
	out, err := unpackLegacy(legacy(t, data)[4:])
	if err != nil || !bytes.Equal(out, data) {
		t.Errorf("unpacked %d bytes, %v; want %d", len(out), err, len(data))
	}
}

func TestExtractVMLinuxRefuses(t *testing.T) {
	truncated := bzImage(legacy(t, bytes.Repeat([]byte("x"), 100)))
	for name, c := range map[string]struct {
		image []byte
		want  string
	}{
		"nothing":            {nil, "setup header"},
		"not a kernel":       {make([]byte, 4096), "setup header"},
		"truncated":          {truncated[:len(truncated)-10], "truncated"},
		"another compressor": {bzImage([]byte("\x28\xb5\x2f\xfd rest")), "LZ4"},
		"not ELF inside":     {bzImage(legacy(t, bytes.Repeat([]byte("x"), 100))), "ELF"},
	} {
		if _, err := extractVMLinux(c.image); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one about %q", name, err, c.want)
		}
	}
}

func TestHasNote(t *testing.T) {
	note := func(name string, kind uint32, desc []byte) []byte {
		var b []byte
		b = binary.LittleEndian.AppendUint32(b, uint32(len(name)))
		b = binary.LittleEndian.AppendUint32(b, uint32(len(desc)))
		b = binary.LittleEndian.AppendUint32(b, kind)
		b = append(b, name...)
		b = append(b, make([]byte, (4-len(name)%4)%4)...)
		b = append(b, desc...)
		return append(b, make([]byte, (4-len(desc)%4)%4)...)
	}
	notes := append(note("Linux\x00", 257, []byte("abc")), note("Xen\x00", pvhEntryNote, make([]byte, 8))...)
	if !hasNote(notes, "Xen\x00", pvhEntryNote) {
		t.Error("the note was not found")
	}
	if hasNote(notes, "Xen\x00", 5) || hasNote(notes[:20], "Xen\x00", pvhEntryNote) {
		t.Error("found a note that is not there")
	}
	huge := binary.LittleEndian.AppendUint32(nil, 0xffffffff)
	huge = binary.LittleEndian.AppendUint32(huge, 0xffffffff)
	if hasNote(append(huge, make([]byte, 8)...), "Xen\x00", 1) {
		t.Error("believed a size beyond the end")
	}
}

func TestLeanModuleRefusesDamage(t *testing.T) {
	for name, data := range map[string][]byte{
		"not ELF":             []byte("hello"),
		"signature too long":  append(make([]byte, 20), append([]byte{0xff, 0, 0, 0}, signatureMagic...)...),
		"signature cut short": []byte("ab" + signatureMagic),
	} {
		if _, err := leanModule(data); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestModuleName(t *testing.T) {
	for file, want := range map[string]string{
		"virtio-rng.ko": "virtio_rng", "erofs.ko": "erofs", "x.ko.xz": "x",
	} {
		if got := moduleName(file); got != want {
			t.Errorf("moduleName(%q) = %q, want %q", file, got, want)
		}
	}
}

// The real package of this machine's cache, if there is one: every module
// stands after what it needs.
func TestCachedKernelModuleOrder(t *testing.T) {
	dir, err := DefaultCacheDir()
	if err != nil {
		t.Skip(err)
	}
	k, err := readKernel(dir + "/" + kernelDir + "/" + currentLink)
	if err != nil {
		t.Skipf("no kernel is cached on this machine: %v", err)
	}
	modules, err := k.modules()
	if err != nil {
		t.Fatal(err)
	}
	loaded := map[string]bool{}
	for _, m := range modules {
		depends, err := moduleDepends(m.data)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range depends {
			if !loaded[d] {
				t.Errorf("%s stands before %s, which it needs", m.name, d)
			}
		}
		loaded[m.name] = true
		if bytes.HasSuffix(m.data, []byte(signatureMagic)) {
			t.Errorf("%s still carries its signature", m.name)
		}
	}
	vmlinux, err := os.ReadFile(k.dir + "/" + kernelFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := checkKernel(vmlinux); err != nil {
		t.Error(err)
	}
}
