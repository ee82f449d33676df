package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// elfHead is what PID 1 must know of a program. The standard library's
// debug/elf would bring its DWARF and compression packages along, a fifth of
// PID 1's size.
type elfHead struct {
	kind    uint16 // e_type
	machine uint16 // e_machine
	loader  string // the program interpreter; "" when statically linked
}

// Values of the ELF specification.
const (
	elfMagic   = "\x7fELF"
	elfExec    = 2 // ET_EXEC
	elfDyn     = 3 // ET_DYN
	elfInterp  = 3 // PT_INTERP
	elf386     = 3
	elfARM     = 40
	elfX86_64  = 62
	elfAArch64 = 183
	elfRISCV   = 243
	elfPPC64   = 21
	elfS390    = 22
)

var errDamagedELF = errors.New("damaged ELF file")

// readELF reads a program's header and its interpreter's path. Sizes and
// offsets are the file's own word: all of them are bounded.
func readELF(r io.ReaderAt) (elfHead, error) {
	var head [64]byte
	if n, err := r.ReadAt(head[:], 0); n < 52 || string(head[:4]) != elfMagic {
		return elfHead{}, errors.Join(errDamagedELF, err)
	}
	var order binary.ByteOrder = binary.LittleEndian
	if head[5] == 2 {
		order = binary.BigEndian
	}
	h := elfHead{kind: order.Uint16(head[16:]), machine: order.Uint16(head[18:])}
	// The program headers: offset, size of one, count; then where an entry
	// keeps the offset and size of its bytes.
	var at, offsetAt, sizeAt uint64
	var size, count uint16
	wide := head[4] == 2
	if wide {
		at, size, count = order.Uint64(head[32:]), order.Uint16(head[54:]), order.Uint16(head[56:])
		offsetAt, sizeAt = 8, 32
	} else {
		at, size, count = uint64(order.Uint32(head[28:])), order.Uint16(head[42:]), order.Uint16(head[44:])
		offsetAt, sizeAt = 4, 16
	}
	if count > 0 && (size < 32 || wide && size < 56 || size > 256 || at > 1<<40) {
		return elfHead{}, errDamagedELF
	}
	word := func(b []byte, at uint64) uint64 {
		if wide {
			return order.Uint64(b[at:])
		}
		return uint64(order.Uint32(b[at:]))
	}
	entry := make([]byte, size)
	for i := range uint64(min(count, 256)) {
		if _, err := r.ReadAt(entry, int64(at+i*uint64(size))); err != nil {
			return elfHead{}, errDamagedELF
		}
		if order.Uint32(entry) != elfInterp {
			continue
		}
		offset, length := word(entry, offsetAt), word(entry, sizeAt)
		if offset > 1<<40 || length > 4096 {
			return elfHead{}, errDamagedELF
		}
		path := make([]byte, length)
		if _, err := r.ReadAt(path, int64(offset)); err != nil {
			return elfHead{}, errDamagedELF
		}
		h.loader = strings.TrimRight(string(path), "\x00")
		break
	}
	return h, nil
}

func archName(machine uint16) string {
	switch machine {
	case elf386:
		return "386"
	case elfX86_64:
		return "amd64"
	case elfAArch64:
		return "arm64"
	case elfARM:
		return "arm"
	case elfRISCV:
		return "riscv64"
	case elfPPC64:
		return "ppc64"
	case elfS390:
		return "s390x"
	}
	return fmt.Sprintf("an unknown processor (ELF machine %d)", machine)
}
