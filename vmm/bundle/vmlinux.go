package bundle

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/pierrec/lz4/v4"
)

// Offsets in the x86 boot protocol's setup header
// (Documentation/arch/x86/boot.rst of the kernel).
const (
	setupSectsAt    = 0x1f1
	headerMagicAt   = 0x202
	payloadOffsetAt = 0x248
	payloadLengthAt = 0x24c
	setupHeaderEnd  = 0x250
)

// maxKernel bounds the unpacked kernel, so that a broken image can't fill
// memory: Debian's is 53 MB.
const maxKernel = 256 << 20

var lz4Legacy = []byte{0x02, 0x21, 0x4c, 0x18}

// extractVMLinux unpacks the ELF kernel inside a bzImage whose payload is
// LZ4-compressed, and checks that a VMM can boot it directly.
func extractVMLinux(image []byte) ([]byte, error) {
	if len(image) < setupHeaderEnd || string(image[headerMagicAt:headerMagicAt+4]) != "HdrS" {
		return nil, errors.New("not a bzImage: the setup header is missing")
	}
	sects := int(image[setupSectsAt])
	if sects == 0 {
		sects = 4 // as the boot protocol says
	}
	start := (sects+1)*512 + int(binary.LittleEndian.Uint32(image[payloadOffsetAt:]))
	length := int(binary.LittleEndian.Uint32(image[payloadLengthAt:]))
	if start > len(image) || length > len(image)-start {
		return nil, errors.New("bzImage is truncated: its payload lies outside the file")
	}
	payload := image[start : start+length]
	if !bytes.HasPrefix(payload, lz4Legacy) {
		return nil, fmt.Errorf("kernel payload begins with % x, not with LZ4's legacy magic: only LZ4-compressed kernels can be unpacked", payload[:min(4, len(payload))])
	}
	kernel, err := unpackLegacy(payload[len(lz4Legacy):])
	if err != nil {
		return nil, err
	}
	return kernel, checkKernel(kernel)
}

// unpackLegacy decompresses LZ4's legacy frame: blocks of at most 8 MB, each
// after its compressed size. The kernel's build appends the unpacked size,
// which ends the loop: it is no plausible block size.
func unpackLegacy(src []byte) ([]byte, error) {
	const blockMax = 8 << 20
	var out []byte
	block := make([]byte, blockMax)
	for len(src) >= 4 {
		n := int(binary.LittleEndian.Uint32(src))
		if n == 0 || n > lz4.CompressBlockBound(blockMax) || n > len(src)-4 {
			break
		}
		got, err := lz4.UncompressBlock(src[4:4+n], block)
		if err != nil {
			return nil, fmt.Errorf("decompress kernel: %w", err)
		}
		if len(out)+got > maxKernel {
			return nil, fmt.Errorf("kernel unpacks to more than %d MB", maxKernel>>20)
		}
		out = append(out, block[:got]...)
		src = src[4+n:]
	}
	return out, nil
}

// pvhEntryNote is XEN_ELFNOTE_PHYS32_ENTRY: where a VMM enters the kernel.
const pvhEntryNote = 18

func checkKernel(kernel []byte) error {
	f, err := elf.NewFile(bytes.NewReader(kernel))
	if err != nil {
		return fmt.Errorf("unpacked kernel is not an ELF file: %w", err)
	}
	if f.Machine != elf.EM_X86_64 {
		return fmt.Errorf("unpacked kernel is for %v, want x86-64", f.Machine)
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_NOTE || p.Filesz > 1<<20 {
			continue
		}
		notes := make([]byte, p.Filesz)
		if _, err := p.ReadAt(notes, 0); err != nil {
			return fmt.Errorf("read the kernel's notes: %w", err)
		}
		if hasNote(notes, "Xen\x00", pvhEntryNote) {
			return nil
		}
	}
	return errors.New("unpacked kernel has no PVH entry: it can't be booted directly")
}

func hasNote(notes []byte, name string, kind uint32) bool {
	align := func(n uint32) uint64 { return (uint64(n) + 3) &^ 3 }
	for len(notes) >= 12 {
		nameSize := binary.LittleEndian.Uint32(notes)
		descSize := binary.LittleEndian.Uint32(notes[4:])
		end := 12 + align(nameSize) + align(descSize)
		if end > uint64(len(notes)) {
			return false
		}
		if binary.LittleEndian.Uint32(notes[8:]) == kind && string(notes[12:12+nameSize]) == name {
			return true
		}
		notes = notes[end:]
	}
	return false
}
