package erofs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"syscall"

	"github.com/miosa/miosa/artifact"
)

// Output is the file an image is written into: new and empty.
type Output interface {
	io.WriterAt
	Truncate(size int64) error
}

// segment is how much room for inodes is taken at once. Inodes, with small
// files behind them, lie in segments between the data of large files, so that
// everything is written once, in the order in which it comes.
const segment = 64 << 10

// Writer writes an EROFS image. It is an artifact.Sink: contents go into the
// image as the archive is read, directories when Finish says that no more
// comes. Nothing but directories and one block is held in memory. The same
// calls give the same bytes.
type Writer struct {
	out    Output
	end    int64 // first byte not yet given away
	inodes uint64
	serial uint32

	// room for inodes: the open segment, and the block of it being filled
	metaNext  int64
	metaEnd   int64
	metaBlock []byte
	metaStart int64 // of metaBlock; -1: none

	extents map[uint64]extent // data of files by inode, until they are final
	dead    []extent

	buf    []byte
	record []byte
	zero   [blockSize]byte
}

// extent is a run of data blocks.
type extent struct{ offset, size int64 }

var _ artifact.Sink = (*Writer)(nil)

// NewWriter begins an image.
func NewWriter(out Output) *Writer {
	return &Writer{
		out: out, end: blockSize, metaStart: -1,
		extents: map[uint64]extent{}, buf: make([]byte, 256<<10), metaBlock: make([]byte, blockSize),
	}
}

var errTooLarge = errors.New("erofs: the image grows past 16 TB")

// take gives away size bytes at the end of the image, in whole blocks.
func (w *Writer) take(size int64) (int64, error) {
	at := w.end
	w.end += (size + blockSize - 1) &^ (blockSize - 1)
	if w.end>>blockBits > math.MaxUint32 {
		return 0, errTooLarge
	}
	return at, nil
}

// write puts data at a place, leaving out blocks of zeros: they stay holes.
func (w *Writer) write(data []byte, at int64) error {
	for len(data) > 0 {
		n := min(len(data), blockSize)
		if bytes.Equal(data[:n], w.zero[:n]) {
			data, at = data[n:], at+int64(n)
			continue
		}
		for n < len(data) {
			next := data[n:min(n+blockSize, len(data))]
			if bytes.Equal(next, w.zero[:len(next)]) {
				break
			}
			n += len(next)
		}
		if _, err := w.out.WriteAt(data[:n], at); err != nil {
			return fmt.Errorf("write image: %w", err)
		}
		data, at = data[n:], at+int64(n)
	}
	return nil
}

// place finds room for an inode and what lies behind it: within one block if
// it fits in one, else from the beginning of one.
func (w *Writer) place(size int) (int64, error) {
	at := (w.metaNext + 31) &^ 31
	if used := at % blockSize; used > 0 && used+int64(size) > blockSize {
		at += blockSize - used
	}
	if at+int64(size) > w.metaEnd {
		start, err := w.take(max(segment, int64(size)))
		if err != nil {
			return 0, err
		}
		at, w.metaEnd = start, w.end
	}
	w.metaNext = at + int64(size)
	return at, nil
}

// put writes a record at its place, through the block being filled. Records
// come in the order in which they were placed.
func (w *Writer) put(record []byte, at int64) error {
	for len(record) > 0 {
		start := at &^ (blockSize - 1)
		if start != w.metaStart {
			if err := w.flush(); err != nil {
				return err
			}
			w.metaStart = start
			clear(w.metaBlock)
		}
		n := copy(w.metaBlock[at-start:], record)
		record, at = record[n:], at+int64(n)
	}
	return nil
}

func (w *Writer) flush() error {
	if w.metaStart < 0 {
		return nil
	}
	_, err := w.out.WriteAt(w.metaBlock, w.metaStart)
	w.metaStart = -1
	if err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	return nil
}

// add writes an inode with its tail and says its number.
func (w *Writer) add(in inode, tail []byte) (uint64, error) {
	at, err := w.place(inodeSize + len(in.xattrs) + len(tail))
	if err != nil {
		return 0, err
	}
	w.record = append(in.appendTo(w.record[:0]), tail...)
	return uint64(at >> slotBits), w.put(w.record, at)
}

func (w *Writer) inode(meta artifact.Meta, mode uint16) inode {
	w.inodes++
	w.serial++
	return inode{meta: meta, mode: mode, links: 1, serial: w.serial, xattrs: encodeXattrs(meta.Xattrs)}
}

// fits reports whether an inode and its tail lie in one block.
func fits(in inode, tail int) bool { return inodeSize+len(in.xattrs)+tail <= blockSize }

// File writes one file; its reference is the inode's number.
func (w *Writer) File(n *artifact.Node, content io.Reader) (uint64, error) {
	in := w.inode(n.Meta, modeFile)
	in.size = uint64(n.Size)
	whole := n.Size &^ (blockSize - 1)
	tail := int(n.Size - whole)
	if tail > 0 && fits(in, tail) {
		in.layout = layoutInline
	} else if tail > 0 {
		whole, tail = n.Size, 0
	}
	var data extent
	if whole > 0 {
		at, err := w.take(whole)
		if err != nil {
			return 0, err
		}
		in.block, data = uint32(at>>blockBits), extent{at, whole}
		for left := whole; left > 0; {
			part := w.buf[:min(left, int64(len(w.buf)))]
			if _, err := io.ReadFull(content, part); err != nil {
				return 0, err
			}
			if err := w.write(part, at); err != nil {
				return 0, err
			}
			left, at = left-int64(len(part)), at+int64(len(part))
		}
	}
	if _, err := io.ReadFull(content, w.buf[:tail]); err != nil {
		return 0, err
	}
	nid, err := w.add(in, w.buf[:tail])
	if data.size > 0 {
		w.extents[nid] = data
	}
	return nid, err
}

// Symlink writes one symbolic link.
func (w *Writer) Symlink(n *artifact.Node) (uint64, error) {
	in := w.inode(n.Meta, modeSymlink)
	in.size = uint64(len(n.Target))
	tail, err := w.wholeBlocks(&in, []byte(n.Target))
	if err != nil {
		return 0, err
	}
	return w.add(in, tail)
}

// wholeBlocks writes what of data cannot lie behind its inode.
func (w *Writer) wholeBlocks(in *inode, data []byte) (tail []byte, err error) {
	whole := len(data) &^ (blockSize - 1)
	if tail = data[whole:]; len(tail) > 0 && fits(*in, len(tail)) {
		in.layout = layoutInline
	} else {
		whole, tail = len(data), nil
	}
	if whole == 0 {
		return tail, nil
	}
	at, err := w.take(int64(whole))
	if err != nil {
		return nil, err
	}
	in.block = uint32(at >> blockBits)
	return tail, w.write(data[:whole], at)
}

// Forget gives the disk space of a file's data back when the image is done.
func (w *Writer) Forget(n *artifact.Node) {
	w.inodes--
	if e, ok := w.extents[n.Ref]; ok {
		w.dead = append(w.dead, e)
		delete(w.extents, n.Ref)
	}
}

// directory is a directory on its way into the image.
type directory struct {
	node    *artifact.Node
	parent  uint64
	nid     uint64
	in      inode
	subdirs []*directory // in the order of their names
}

// Finish writes the directories of the tree that this Writer was the sink of,
// and the super block. uuid tells images apart: take it from the source.
func (w *Writer) Finish(tree *artifact.Tree, uuid [16]byte) error {
	dirs, err := w.plan(tree.Root)
	if err != nil {
		return err
	}
	first := make([]byte, blockSize)
	if err := w.writeRoot(dirs[0], first); err != nil {
		return err
	}
	for _, d := range dirs[1:] {
		if err := w.writeDirectory(d); err != nil {
			return err
		}
	}
	if err := w.flush(); err != nil {
		return err
	}
	if err := w.links(tree.Root, map[uint64]bool{}); err != nil {
		return err
	}
	if err := w.punch(); err != nil {
		return err
	}
	super{inodes: w.inodes, blocks: uint32(w.end >> blockBits), uuid: uuid}.writeTo(first)
	if _, err := w.out.WriteAt(first, 0); err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	if err := w.out.Truncate(w.end); err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	return nil
}

// plan gives every directory its place, so that entries can name it, and
// returns them in the order of their places, the root first.
func (w *Writer) plan(root *artifact.Node) ([]*directory, error) {
	const nid = rootOffset >> slotBits
	dirs := []*directory{{node: root, nid: nid, parent: nid}}
	for i := 0; i < len(dirs); i++ {
		d := dirs[i]
		d.in = w.inode(d.node.Meta, modeDir)
		d.in.links = 2
		if i > 0 {
			record := inodeSize + len(d.in.xattrs)
			if tail := direntsSize(d.node) % blockSize; tail > 0 && fits(d.in, tail) {
				record += tail
			}
			at, err := w.place(record)
			if err != nil {
				return nil, err
			}
			d.nid = uint64(at >> slotBits)
		}
		for _, c := range d.node.Children() {
			if c.Type == artifact.Dir {
				d.in.links++
				d.subdirs = append(d.subdirs, &directory{node: c})
			}
		}
		dirs = append(dirs, d.subdirs...)
	}
	for _, d := range dirs {
		for _, sub := range d.subdirs {
			sub.parent = d.nid
		}
	}
	return dirs, nil
}

func (w *Writer) writeDirectory(d *directory) error {
	data := dirents(d)
	d.in.size = uint64(len(data))
	tail, err := w.wholeBlocks(&d.in, data)
	if err != nil {
		return err
	}
	w.record = append(d.in.appendTo(w.record[:0]), tail...)
	return w.put(w.record, int64(d.nid)<<slotBits)
}

var errRootXattrs = errors.New("erofs: the root directory's extended attributes take more than 2 KB")

// writeRoot puts the root's inode into the image's first block.
func (w *Writer) writeRoot(d *directory, first []byte) error {
	data := dirents(d)
	d.in.size = uint64(len(data))
	at, err := w.take(int64(len(data)))
	if err != nil {
		return err
	}
	d.in.block = uint32(at >> blockBits)
	record := d.in.appendTo(nil)
	if rootOffset+len(record) > blockSize {
		return errRootXattrs
	}
	copy(first[rootOffset:], record)
	return w.write(data, at)
}

// links corrects the link counts of what has several names.
func (w *Writer) links(dir *artifact.Node, done map[uint64]bool) error {
	for _, c := range dir.Children() {
		if c.Type == artifact.Dir {
			if err := w.links(c, done); err != nil {
				return err
			}
			continue
		}
		if c.Links < 2 || done[c.Ref] {
			continue
		}
		done[c.Ref] = true
		count := binary.LittleEndian.AppendUint32(nil, c.Links)
		if _, err := w.out.WriteAt(count, int64(c.Ref)<<slotBits+inodeLinksOffset); err != nil {
			return fmt.Errorf("write image: %w", err)
		}
	}
	return nil
}

// puncher is a file system's way to give blocks back.
type puncher interface {
	SyscallConn() (syscall.RawConn, error)
}

// punch turns the data of forgotten files into holes. Where the file system
// cannot, zeros are written: the image's bytes are the same everywhere.
func (w *Writer) punch() error {
	slices.SortFunc(w.dead, func(a, b extent) int { return int(a.offset>>blockBits - b.offset>>blockBits) })
	for _, e := range w.dead {
		size := (e.size + blockSize - 1) &^ (blockSize - 1)
		if p, ok := w.out.(puncher); ok && punchHole(p, e.offset, size) == nil {
			continue
		}
		clear(w.buf)
		for size > 0 {
			n := min(size, int64(len(w.buf)))
			if _, err := w.out.WriteAt(w.buf[:n], e.offset); err != nil {
				return fmt.Errorf("write image: %w", err)
			}
			size, e.offset = size-n, e.offset+n
		}
	}
	return nil
}

func punchHole(p puncher, offset, size int64) error {
	const punch, keepSize = 0x02, 0x01 // FALLOC_FL_PUNCH_HOLE, FALLOC_FL_KEEP_SIZE
	conn, err := p.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = conn.Control(func(fd uintptr) {
		inner = syscall.Fallocate(int(fd), punch|keepSize, offset, size)
	})
	return errors.Join(err, inner)
}
