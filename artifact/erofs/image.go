package erofs

import (
	"encoding/binary"
	"hash/crc32"
	"strings"

	"github.com/miosa/miosa/artifact"
)

// The on-disk format, as Linux 5.4 and later reads it
// (Documentation/filesystems/erofs.rst; fs/erofs/erofs_fs.h in the kernel).
const (
	blockBits = 12
	blockSize = 1 << blockBits

	superOffset = 1024
	superSize   = 128
	magic       = 0xE0F5E1E2

	compatChecksum = 1 << 0
	compatMTime    = 1 << 1

	slotBits  = 5 // an inode's number is its offset in slots of 32 bytes
	inodeSize = 64

	// rootOffset puts the root inode right behind the super block: its number
	// has only 16 bits there.
	rootOffset = superOffset + superSize

	direntSize = 12
)

// Data layouts of an inode.
const (
	layoutPlain  = 0 // whole blocks
	layoutInline = 2 // whole blocks, the tail behind the inode
)

// File types in directory entries.
const (
	typeFile    = 1
	typeDir     = 2
	typeSymlink = 7
)

// File types in an inode's mode.
const (
	modeFile    = 0o100000
	modeDir     = 0o040000
	modeSymlink = 0o120000
)

const inodeLinksOffset = 44 // of the link count in an extended inode

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// inode is what an extended (64-byte) inode holds.
type inode struct {
	meta   artifact.Meta
	mode   uint16 // with the file type
	size   uint64
	block  uint32 // of the first whole data block; 0 when there is none
	links  uint32
	serial uint32
	layout uint16
	xattrs []byte
}

// appendTo writes the inode, its attributes behind it.
func (in inode) appendTo(b []byte) []byte {
	le := binary.LittleEndian
	start := len(b)
	b = append(b, make([]byte, inodeSize)...)
	h := b[start:]
	le.PutUint16(h[0:], 1|in.layout<<1) // bit 0: extended
	if len(in.xattrs) > 0 {
		le.PutUint16(h[2:], uint16((len(in.xattrs)-12)/4+1))
	}
	le.PutUint16(h[4:], in.mode|in.meta.Mode)
	le.PutUint64(h[8:], in.size)
	le.PutUint32(h[16:], in.block)
	le.PutUint32(h[20:], in.serial)
	le.PutUint32(h[24:], in.meta.UID)
	le.PutUint32(h[28:], in.meta.GID)
	le.PutUint64(h[32:], uint64(in.meta.MTime))
	le.PutUint32(h[40:], in.meta.MTimeNsec)
	le.PutUint32(h[inodeLinksOffset:], in.links)
	return append(b, in.xattrs...)
}

// xattrPrefixes are the namespaces that have a number on disk.
var xattrPrefixes = []struct {
	prefix string
	index  byte
}{{"user.", 1}, {"trusted.", 4}, {"security.", 6}}

// encodeXattrs is the attribute area of an inode, nil without attributes.
func encodeXattrs(xattrs []artifact.Xattr) []byte {
	var b []byte
	for _, x := range xattrs {
		for _, p := range xattrPrefixes {
			suffix, ok := strings.CutPrefix(x.Name, p.prefix)
			if !ok {
				continue
			}
			if b == nil {
				b = make([]byte, 12) // no name filter, no shared attributes
			}
			b = append(b, byte(len(suffix)), p.index)
			b = binary.LittleEndian.AppendUint16(b, uint16(len(x.Value)))
			b = append(append(b, suffix...), x.Value...)
			for len(b)%4 != 0 {
				b = append(b, 0)
			}
		}
	}
	return b
}

// super is the super block: what of it is not constant.
type super struct {
	inodes uint64
	blocks uint32
	uuid   [16]byte
}

// writeTo puts the super block into the image's first block, whose remainder
// must be complete: the checksum covers it.
func (s super) writeTo(block []byte) {
	le := binary.LittleEndian
	b := block[superOffset : superOffset+superSize]
	clear(b)
	le.PutUint32(b[0:], magic)
	le.PutUint32(b[8:], compatChecksum|compatMTime)
	b[12] = blockBits
	le.PutUint16(b[14:], rootOffset>>slotBits)
	le.PutUint64(b[16:], s.inodes)
	le.PutUint32(b[36:], s.blocks)
	copy(b[48:64], s.uuid[:])
	// The kernel's crc32c leaves out the final inversion.
	le.PutUint32(b[4:], ^crc32.Checksum(block[superOffset:blockSize], castagnoli))
}
