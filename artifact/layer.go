package artifact

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"path"
	"slices"
	"strings"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/ration"
)

// maxXattrs bounds the extended attributes of one entry, names and values, in
// bytes; a single value may take all of it. Linux file systems hold less.
const maxXattrs = 32 << 10

const (
	whiteout       = ".wh."
	whiteoutMarker = ".wh..wh."
	whiteoutOpaque = ".wh..wh..opq"
)

// layers reads tar archives into one tree, one above the other.
type layers struct {
	ctx    context.Context // of the one call
	tree   *Tree
	limits Limits
	kind   miosa.Kind
	passed Passed
	bytes  int64 // file contents of all layers so far
	// stream is what the archives may still take altogether, headers and
	// padding included.
	stream    int64
	allowance *allowance
	// documents are the telling files, by name; nil: nobody wants to know.
	documents map[string][]byte

	buf []byte
}

func newLayers(ctx context.Context, kind miosa.Kind, limits Limits, sink Sink, allowance *allowance, share *ration.Share) *layers {
	return &layers{ctx: ctx, tree: newTree(sink, limits.Entries, share), limits: limits, kind: kind, allowance: allowance,
		stream: limits.UnpackedBytes + int64(limits.Entries)*streamPerEntry, buf: make([]byte, 256<<10)}
}

// streamPerEntry is how much an entry may take besides its content, on average.
const streamPerEntry = 4 << 10

// read puts one archive over what is there. A strict archive must have its
// end marker and nothing after it: plain tar has no other sign of being
// whole. Layers of an image have a digest for that.
func (l *layers) read(r io.Reader, layer int, strict bool) error {
	in := &counter{r: r}
	tr := tar.NewReader(in)
	last := ""
	for {
		if err := l.ctx.Err(); err != nil {
			return err
		}
		before := in.n
		hdr, err := tr.Next()
		if err == io.EOF {
			if strict && in.n-(before+511)/512*512 < 512 {
				return truncated(last)
			}
			l.stream -= in.n
			return l.tail(in, last, strict)
		}
		if err != nil {
			return archiveError(err, last)
		}
		last = hdr.Name
		if in.n > l.stream {
			return l.tooLong(last)
		}
		if err := l.entry(hdr, tr, layer); err != nil {
			return archiveError(err, last)
		}
	}
}

// tail reads what follows the end marker, so that the stream's own checksum
// is verified and nothing hides there.
func (l *layers) tail(r io.Reader, last string, strict bool) error {
	for {
		n, err := r.Read(l.buf)
		if l.stream -= int64(n); l.stream < 0 {
			return l.tooLong(last)
		}
		if strict && bytes.Count(l.buf[:n], []byte{0}) < n {
			return invalid(CodeNotArchive, "more data follows the end of the archive (its last entry is %s); "+
				"concatenated archives are not read", shownName(last))
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return archiveError(err, last)
		}
		if err := l.ctx.Err(); err != nil {
			return err
		}
	}
}

func (l *layers) tooLong(last string) error {
	return tooLarge(CodeArchiveTooLarge, "after entry %s: the archive unpacks to more than %d bytes, which is the limit",
		shownName(last), l.limits.UnpackedBytes)
}

func (l *layers) entry(hdr *tar.Header, r io.Reader, layer int) error {
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse, tar.TypeDir, tar.TypeSymlink, tar.TypeLink,
		tar.TypeChar, tar.TypeBlock, tar.TypeFifo: // there is none for sockets
	case tar.TypeXGlobalHeader, 'V':
		l.passed.Headers++
		return l.explain(hdr.Name, l.tree.spend(0))
	default:
		return refused(hdr.Name, "is of type %q, which is not a file, directory or link", hdr.Typeflag)
	}

	parts, err := splitPath(hdr.Name, l.limits.PathLength, l.merging())
	if err != nil {
		return err
	}
	meta, err := l.meta(hdr)
	if err != nil {
		return err
	}
	if len(parts) == 0 {
		if hdr.Typeflag != tar.TypeDir {
			return refused(hdr.Name, "names the root itself, but is not a directory")
		}
		l.tree.Root.Meta = meta
		return l.explain(hdr.Name, l.tree.spend(0))
	}
	if err := l.tree.spend(metaSize(parts[len(parts)-1], hdr, meta)); err != nil {
		return l.explain(hdr.Name, err)
	}
	dir, depth, err := l.tree.dir(parts[:len(parts)-1], layer, l.merging())
	if err != nil {
		return l.explain(hdr.Name, err)
	}
	leaf := parts[len(parts)-1]
	if l.merging() && strings.HasPrefix(leaf, whiteout) {
		return l.whiteout(hdr.Name, dir, leaf, layer)
	}
	if err := l.hold(hdr, leaf, meta); err != nil {
		return l.explain(hdr.Name, err)
	}
	n, err := l.node(hdr, r, meta, depth)
	if err != nil {
		return err
	}
	return l.explain(hdr.Name, l.tree.put(dir, leaf, n, layer, l.merging()))
}

func (l *layers) hold(hdr *tar.Header, leaf string, meta Meta) error {
	typ, target := File, ""
	switch hdr.Typeflag {
	case tar.TypeDir:
		typ = Dir
	case tar.TypeSymlink:
		typ, target = Symlink, hdr.Linkname
	}
	return l.tree.hold(typ, leaf, target, meta.Xattrs)
}

// merging says that archives are image layers: whiteouts count, entries may
// go through links of lower layers, a leading slash is the image's root.
func (l *layers) merging() bool { return l.kind == miosa.KindOCI }

func (l *layers) whiteout(entry string, dir *Node, leaf string, layer int) error {
	switch {
	case leaf == whiteoutOpaque:
		l.tree.hideChildren(dir, layer)
	case strings.HasPrefix(leaf, whiteoutMarker):
		l.passed.Markers++
	case leaf == whiteout, leaf == whiteout+".", leaf == whiteout+"..":
		return refused(entry, "is a whiteout that names nothing")
	default:
		l.tree.hide(dir, strings.TrimPrefix(leaf, whiteout), layer)
	}
	return nil
}

// node makes what the entry describes, or finds what it links to.
func (l *layers) node(hdr *tar.Header, r io.Reader, meta Meta, depth int) (*Node, error) {
	switch hdr.Typeflag {
	case tar.TypeDir:
		return newDir(meta), nil
	case tar.TypeLink:
		return l.linked(hdr)
	case tar.TypeSymlink:
		return l.symlink(hdr, meta, depth)
	case tar.TypeChar, tar.TypeBlock:
		return &Node{Type: device}, nil
	case tar.TypeFifo:
		return &Node{Type: pipe}, nil
	}
	if strings.HasSuffix(hdr.Name, "/") {
		return nil, refused(hdr.Name, "is a file whose name ends in a slash")
	}
	if hdr.Size > l.limits.UnpackedBytes-l.bytes {
		return nil, tooLarge(CodeArchiveTooLarge, "entry %s: with it the archive unpacks to more than %d bytes, which is the limit; %s",
			shownName(hdr.Name), l.limits.UnpackedBytes, without(hdr.Name))
	}
	n := &Node{Meta: meta, Type: File, Size: hdr.Size}
	c := &content{l: l, r: r, left: hdr.Size}
	if name := path.Clean(hdr.Name); l.documents != nil && hdr.Size <= maxDocument && slices.Contains(telling, name) {
		if err := l.document(name, c); err != nil {
			return nil, err
		}
	}
	if l.tree.sink == nil {
		n.Xattrs = nil
		return n, c.discard()
	}
	ref, err := l.tree.sink.File(n, c)
	if c.err != nil {
		return nil, c.err
	}
	if err != nil {
		return nil, &sinkError{err}
	}
	n.Ref, n.Xattrs = ref, nil
	return n, c.discard()
}

// symlink keeps a link as it is. In an instance the kernel resolves it, below
// the root whatever it says, as walk does here; a site has no kernel.
func (l *layers) symlink(hdr *tar.Header, meta Meta, depth int) (*Node, error) {
	target := hdr.Linkname
	switch {
	case target == "":
		return nil, refused(hdr.Name, "is a symbolic link to nothing")
	case len(target) > l.limits.PathLength:
		return nil, refused(hdr.Name, "is a symbolic link with a target of %d bytes; at most %d are allowed", len(target), l.limits.PathLength)
	case strings.IndexByte(target, 0) >= 0:
		return nil, refused(hdr.Name, "is a symbolic link with a NUL byte in its target")
	case l.kind == miosa.KindStatic && target[0] == '/':
		return nil, refused(hdr.Name, "is a symbolic link to the absolute path %s; links of a static site must stay inside it", shownName(target))
	case l.kind == miosa.KindStatic && escapes(depth, target):
		return nil, refused(hdr.Name, "is a symbolic link to %s, which leads out of the site; links of a static site must stay inside it", shownName(target))
	}
	n := &Node{Meta: meta, Type: Symlink, Target: strings.Clone(target)}
	n.Mode = 0o777
	if l.tree.sink != nil {
		ref, err := l.tree.sink.Symlink(n)
		if err != nil {
			return nil, &sinkError{err}
		}
		n.Ref = ref
	}
	n.Xattrs = nil
	return n, nil
}

// linked finds the target of a hard link: it must be there already. It is found
// as link(2) would find it in a chroot: ".." ends at the root, and links on the
// way are followed, the last name is not.
func (l *layers) linked(hdr *tar.Header) (*Node, error) {
	if hdr.Linkname == "" {
		return nil, refused(hdr.Name, "is a hard link to nothing")
	}
	if len(hdr.Linkname) > l.limits.PathLength {
		return nil, refused(hdr.Name, "is a hard link with a target of %d bytes; at most %d are allowed", len(hdr.Linkname), l.limits.PathLength)
	}
	target := strings.TrimRight(hdr.Linkname, "/")
	cut := strings.LastIndexByte(target, '/') + 1
	dirs, leaf := target[:cut], target[cut:]
	dir, err := l.tree.find(strings.Split(dirs, "/"))
	if errors.Is(err, errTooMuchToFollow) {
		return nil, l.explain(hdr.Name, err)
	}
	var n *Node
	switch {
	case err != nil:
	case leaf == "", leaf == ".", leaf == "..":
		n = dir // or the one above
	default:
		n = dir.Lookup(leaf)
	}
	switch {
	case n == nil:
		return nil, refused(hdr.Name, "is a hard link to %s, which is not in the archive before it", shownName(hdr.Linkname))
	case n.Type == Dir:
		return nil, refused(hdr.Name, "is a hard link to the directory %s", shownName(hdr.Linkname))
	}
	return n, nil
}

func metaSize(leaf string, hdr *tar.Header, meta Meta) int {
	n := len(leaf) + len(hdr.Linkname)
	for _, x := range meta.Xattrs {
		n += len(x.Name) + len(x.Value)
	}
	return n
}

func (l *layers) meta(hdr *tar.Header) (Meta, error) {
	if hdr.Uid < 0 || hdr.Uid > math.MaxUint32-1 || hdr.Gid < 0 || hdr.Gid > math.MaxUint32-1 {
		return Meta{}, refused(hdr.Name, "has the owner %d:%d, which no Linux user can be", hdr.Uid, hdr.Gid)
	}
	m := Meta{Mode: uint16(hdr.Mode & 0o7777), UID: uint32(hdr.Uid), GID: uint32(hdr.Gid)}
	if !hdr.ModTime.IsZero() {
		m.MTime, m.MTimeNsec = hdr.ModTime.Unix(), uint32(hdr.ModTime.Nanosecond())
	}
	size := 0
	for key, value := range hdr.PAXRecords {
		attr, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if !ok {
			continue
		}
		if !keepXattr(attr) {
			l.passed.Xattrs++
			continue
		}
		_, suffix, _ := strings.Cut(attr, ".")
		if size += len(attr) + len(value); size > maxXattrs || len(suffix) > maxName || suffix == "" {
			return Meta{}, refused(hdr.Name, "has extended attributes of more than %d bytes, or with a name no Linux file system holds", maxXattrs)
		}
		m.Xattrs = append(m.Xattrs, Xattr{strings.Clone(attr), strings.Clone(value)})
	}
	slices.SortFunc(m.Xattrs, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
	return m, nil
}

// keepXattr: file capabilities, security labels and user attributes matter in
// a guest. An overlay's own attributes would change how the guest's overlay
// reads its lower layer; POSIX ACLs the guest's file system does not read.
func keepXattr(name string) bool {
	switch {
	case strings.HasPrefix(name, "trusted.overlay."), strings.HasPrefix(name, "user.overlay."):
		return false
	case strings.HasPrefix(name, "user."), strings.HasPrefix(name, "security."), strings.HasPrefix(name, "trusted."):
		return true
	}
	return false
}

// explain puts the entry's name and a sentence to what the tree said.
func (l *layers) explain(entry string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ration.ErrBusy), errors.Is(err, ration.ErrTooMuch):
		return memoryError(err, l.limits.Memory)
	case errors.Is(err, errTooManyEntries):
		return tooLarge(CodeArchiveTooLarge, "entry %s: the archive holds more than %d entries, which is the limit", shownName(entry), l.limits.Entries)
	case errors.Is(err, errTooMuchMeta):
		return tooLarge(CodeArchiveTooLarge, "entry %s: names, link targets and attributes take more than %d bytes together, which is the limit", shownName(entry), maxMeta)
	case errors.Is(err, errThroughLink):
		return refused(entry, "goes through a symbolic link that is itself in the archive")
	case errors.Is(err, errTooMuchToFollow):
		return tooLarge(CodeArchiveTooLarge, "entry %s: the symbolic links that paths in the archive go through take more than %d bytes together, which is the limit", shownName(entry), maxFollowed)
	case errors.Is(err, errLinkLoop):
		return refused(entry, "goes through more than 40 symbolic links")
	case errors.Is(err, errNotDirectory):
		return refused(entry, "lies below something that is not a directory")
	case errors.Is(err, errNotEmpty):
		return refused(entry, "would replace a directory that has files in it")
	}
	return err
}

// content is the bytes of one file, read within the archive's limits.
type content struct {
	l      *layers
	r      io.Reader
	left   int64
	weight weight
	err    error // what reading the archive ended in
}

func (c *content) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	if c.left == 0 {
		return 0, io.EOF
	}
	n, err := c.r.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	c.l.bytes += int64(n)
	if errors.Is(err, io.EOF) {
		if err = nil; c.left > 0 {
			err = io.ErrUnexpectedEOF
		}
	}
	if bomb := c.weight.add(p[:n], c.l.allowance); bomb != nil {
		err = bomb
	}
	if ctxErr := c.l.ctx.Err(); ctxErr != nil {
		err = ctxErr
	}
	c.err = err
	return n, err
}

// discard reads what is left.
func (c *content) discard() error {
	for c.left > 0 {
		if _, err := c.Read(c.l.buf); err != nil {
			return err
		}
	}
	return nil
}
