package erofs

import (
	"encoding/binary"
	"sort"

	"github.com/miosa/miosa/artifact"
)

// dirent is one entry of a directory.
type dirent struct {
	name string
	nid  uint64
	kind byte
}

// entries are a directory's entries in the order the kernel searches them:
// by their bytes, "." and ".." among them.
func entries(d *directory) []dirent {
	list := make([]dirent, 0, d.node.Len()+2)
	list = append(list, dirent{".", d.nid, typeDir}, dirent{"..", d.parent, typeDir})
	sub := 0
	for name, c := range d.node.Children() {
		switch c.Type {
		case artifact.Dir:
			list = append(list, dirent{name, d.subdirs[sub].nid, typeDir})
			sub++
		case artifact.Symlink:
			list = append(list, dirent{name, c.Ref, typeSymlink})
		default:
			list = append(list, dirent{name, c.Ref, typeFile})
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i].name < list[j].name })
	return list
}

// dirents lays a directory's entries out: in each block first the fixed
// parts, then the names; the last block is as long as it needs to be.
func dirents(d *directory) []byte {
	var out []byte
	for list := entries(d); len(list) > 0; {
		n, used := fill(len(list), func(i int) int { return len(list[i].name) })
		block := make([]byte, 0, blockSize)
		nameAt := n * direntSize
		for _, e := range list[:n] {
			block = binary.LittleEndian.AppendUint64(block, e.nid)
			block = binary.LittleEndian.AppendUint16(block, uint16(nameAt))
			block = append(block, e.kind, 0)
			nameAt += len(e.name)
		}
		for _, e := range list[:n] {
			block = append(block, e.name...)
		}
		if list = list[n:]; len(list) > 0 {
			block = block[:blockSize] // zeros end the last name
		} else {
			block = block[:used]
		}
		out = append(out, block...)
	}
	return out
}

// direntsSize is how long dirents will be, before anything has a number.
func direntsSize(n *artifact.Node) int {
	lengths := make([]string, 0, n.Len()+2)
	lengths = append(lengths, ".", "..")
	for name := range n.Children() {
		lengths = append(lengths, name)
	}
	sort.Strings(lengths)
	size := 0
	for len(lengths) > 0 {
		count, used := fill(len(lengths), func(i int) int { return len(lengths[i]) })
		if lengths = lengths[count:]; len(lengths) > 0 {
			used = blockSize
		}
		size += used
	}
	return size
}

// fill says how many of the entries go into one block, and its bytes used.
func fill(n int, nameLength func(int) int) (count, used int) {
	for count < n {
		next := used + direntSize + nameLength(count)
		if next > blockSize {
			break
		}
		used = next
		count++
	}
	return count, used
}
