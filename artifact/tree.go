package artifact

import (
	"errors"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/miosa/miosa/ration"
)

// NodeType says what a Node is.
type NodeType uint8

// The three things a tree is made of.
const (
	Dir NodeType = iota
	File
	Symlink

	// What a tree does not keep holds its place while archives are read, since
	// links may name it and later layers replace it. No sink hears of it, and
	// omit takes it away.
	device
	pipe
)

func (t NodeType) kept() bool { return t <= Symlink }

// Xattr is one extended attribute, its name with the namespace.
type Xattr struct {
	Name  string
	Value string
}

// Meta is what a node has besides its content.
type Meta struct {
	Mode      uint16 // permission bits, 07777
	UID, GID  uint32
	MTime     int64 // seconds since 1970
	MTimeNsec uint32
	Xattrs    []Xattr // sorted by name; of a directory: else they are the sink's alone
}

// Node is one inode of a Tree. A file or symbolic link may have several names.
type Node struct {
	Meta
	Type   NodeType
	Size   int64  // bytes of a file
	Target string // of a symbolic link
	Links  uint32 // names of a file or symbolic link
	Ref    uint64 // what the Sink returned for it

	children map[string]name
	// hidden is 1 above the last layer that hid all that those before it put
	// here; 0: none did.
	hidden int
}

// name is one directory entry.
type name struct {
	node  *Node
	layer int // the last layer that wrote it
}

// Len is how many children a directory has.
func (n *Node) Len() int { return len(n.children) }

// Lookup finds a child by its name, nil if there is none.
func (n *Node) Lookup(name string) *Node { return n.children[name].node }

// Children yields a directory's children sorted by their bytes.
func (n *Node) Children() iter.Seq2[string, *Node] {
	return func(yield func(string, *Node) bool) {
		for _, name := range slices.Sorted(maps.Keys(n.children)) {
			if !yield(name, n.children[name].node) {
				return
			}
		}
	}
}

// Sink takes the contents of a tree while its archive is read. A nil Sink
// only verifies.
type Sink interface {
	// File takes size bytes of content, all of them, and returns a reference
	// that its node keeps.
	File(n *Node, content io.Reader) (ref uint64, err error)
	// Symlink takes a symbolic link.
	Symlink(n *Node) (ref uint64, err error)
	// Forget says that a node lost its last name: a later layer or entry
	// replaced or deleted it.
	Forget(n *Node)
}

// Tree is a file tree read from archives, layer over layer.
type Tree struct {
	Root *Node
	// Files counts names of files and symbolic links; Bytes sums the sizes of
	// the files, each inode once.
	Files int
	Bytes int64

	sink   Sink
	share  *ration.Share
	budget budget
	// unkept counts the names of what is not kept, while it holds its place.
	unkept int
}

// budget is what may still be put into the tree.
type budget struct {
	entries int
	// meta bounds names, link targets and attributes together, in bytes.
	meta int
	// followed bounds the targets of the links that paths go through, in bytes:
	// each entry may name a long one again.
	followed int
}

const (
	maxMeta     = 128 << 20
	maxFollowed = 32 << 20
)

var (
	errTooManyEntries  = errors.New("too many entries")
	errTooMuchMeta     = errors.New("too much metadata")
	errNotDirectory    = errors.New("not a directory")
	errThroughLink     = errors.New("through a symbolic link")
	errLinkLoop        = errors.New("too many symbolic links")
	errTooMuchToFollow = errors.New("too much of symbolic links followed")
	errNotEmpty        = errors.New("directory not empty")
)

func newTree(sink Sink, maxEntries int, share *ration.Share) *Tree {
	return &Tree{
		Root: newDir(Meta{Mode: 0o755}),
		sink: sink, share: share, budget: budget{entries: maxEntries, meta: maxMeta, followed: maxFollowed},
	}
}

func newDir(meta Meta) *Node {
	return &Node{Type: Dir, Meta: meta, children: map[string]name{}}
}

// spend counts one entry, with its bytes of names, targets and attributes.
func (t *Tree) spend(meta int) error {
	if t.budget.entries--; t.budget.entries < 0 {
		return errTooManyEntries
	}
	if t.budget.meta -= meta; t.budget.meta < 0 {
		return errTooMuchMeta
	}
	return nil
}

// hold takes the memory of one node, before it is made.
func (t *Tree) hold(typ NodeType, leaf, target string, xattrs []Xattr) error {
	n := costNode + costText + len(leaf)
	if typ == Dir {
		n += costDir
	}
	if target != "" {
		n += costText + len(target)
	}
	if typ == Dir || t.sink != nil {
		for _, x := range xattrs {
			n += costAttr + len(x.Name) + len(x.Value)
		}
	}
	if t.sink != nil {
		n += costSunk + costNamed*len(leaf)
	}
	return t.share.Grow(int64(n))
}

// dir finds the directory at parts, making what is missing, and says how deep
// below the root it is. With follow, symbolic links on the way resolve inside
// the tree; otherwise they are an error.
func (t *Tree) dir(parts []string, layer int, follow bool) (*Node, int, error) {
	return t.walk(parts, follow, func(parent *Node, part string) (*Node, error) {
		if len(part) > maxName {
			return nil, errNotDirectory
		}
		if err := t.spend(len(part)); err != nil {
			return nil, err
		}
		if err := t.hold(Dir, part, "", nil); err != nil {
			return nil, err
		}
		n := newDir(Meta{Mode: 0o755})
		parent.children[strings.Clone(part)] = name{n, layer}
		return n, nil
	})
}

// find is the directory that a path leads to, through links, as in a chroot.
func (t *Tree) find(parts []string) (*Node, error) {
	n, _, err := t.walk(parts, true, func(*Node, string) (*Node, error) { return nil, errNotDirectory })
	return n, err
}

func (t *Tree) walk(parts []string, follow bool, missing func(parent *Node, part string) (*Node, error)) (*Node, int, error) {
	stack := []*Node{t.Root}
	todo := [][]string{parts}
	links := 0
	for len(todo) > 0 {
		top := &todo[len(todo)-1]
		if len(*top) == 0 {
			todo = todo[:len(todo)-1]
			continue
		}
		part := (*top)[0]
		*top = (*top)[1:]
		switch part {
		case "", ".":
			continue
		case "..": // only from links; clamped at the root as in Linux
			stack = stack[:max(1, len(stack)-1)]
			continue
		}
		cur := stack[len(stack)-1]
		next := cur.Lookup(part)
		switch {
		case next == nil:
			var err error
			if next, err = missing(cur, part); err != nil {
				return nil, 0, err
			}
		case next.Type != Dir && next.Type != Symlink:
			return nil, 0, errNotDirectory
		case next.Type == Symlink:
			if !follow {
				return nil, 0, errThroughLink
			}
			if links++; links > 40 {
				return nil, 0, errLinkLoop
			}
			if t.budget.followed -= len(next.Target); t.budget.followed < 0 {
				return nil, 0, errTooMuchToFollow
			}
			if strings.HasPrefix(next.Target, "/") {
				stack = stack[:1]
			}
			todo = append(todo, strings.Split(next.Target, "/"))
			continue
		}
		stack = append(stack, next)
	}
	return stack[len(stack)-1], len(stack) - 1, nil
}

// put gives a node a name. Directories merge; anything else replaces what was
// there, but a directory with children only where layers are merged.
func (t *Tree) put(dir *Node, leaf string, n *Node, layer int, merge bool) error {
	old := dir.Lookup(leaf)
	if old == n {
		dir.children[leaf] = name{n, layer}
		return nil
	}
	if old != nil && old.Type == Dir {
		if n.Type == Dir {
			old.Meta = n.Meta
			dir.children[leaf] = name{old, layer}
			return nil
		}
		if len(old.children) > 0 && !merge {
			return errNotEmpty
		}
	}
	// The new name counts before the old one goes: the node may be linked
	// from inside the directory that it replaces.
	switch {
	case !n.Type.kept():
		t.unkept++
		n.Links++
	case n.Type != Dir:
		t.Files++
		if n.Links++; n.Links == 1 {
			t.Bytes += n.Size
		}
	}
	if old != nil {
		t.drop(old)
	}
	dir.children[strings.Clone(leaf)] = name{n, layer}
	return nil
}

// drop takes one name from a node; without any it is forgotten.
func (t *Tree) drop(n *Node) {
	if n.Type == Dir {
		for _, c := range n.children {
			t.drop(c.node)
		}
		n.children = nil
		return
	}
	if !n.Type.kept() {
		t.unkept--
		n.Links--
		return
	}
	t.Files--
	if n.Links--; n.Links == 0 {
		t.Bytes -= n.Size
		if t.sink != nil {
			t.sink.Forget(n)
		}
	}
}

// hide removes what earlier layers put at leaf: a whiteout. What the present
// layer wrote stays, in whatever order the archive tells it.
func (t *Tree) hide(dir *Node, leaf string, layer int) {
	c, ok := dir.children[leaf]
	if !ok {
		return
	}
	if c.node.Type == Dir {
		t.hideChildren(c.node, layer)
		if len(c.node.children) > 0 {
			return
		}
	}
	if c.layer == layer {
		return
	}
	delete(dir.children, leaf)
	t.drop(c.node)
}

// hideChildren removes everything in dir that earlier layers put there: once in
// a layer, since all that comes later is its own.
func (t *Tree) hideChildren(dir *Node, layer int) {
	if dir.hidden > layer {
		return
	}
	dir.hidden = layer + 1
	for leaf := range dir.children {
		t.hide(dir, leaf, layer)
	}
}

// ensureDir makes a top-level directory that a guest mounts something on.
func (t *Tree) ensureDir(leaf string, mode uint16, linkAllowed bool) error {
	switch n := t.Root.Lookup(leaf); {
	case n == nil:
		t.Root.children[leaf] = name{newDir(Meta{Mode: mode}), 0}
	case n.Type == Dir, n.Type == Symlink && linkAllowed:
	default:
		return refused(leaf, "must be a directory: the platform mounts its own there")
	}
	return nil
}
