package artifact

import (
	"bytes"
	"fmt"
	"strconv"
)

// maxShownPath is how much of a path notes have, in bytes.
const maxShownPath = 200

// omitted counts names of what was left out for one reason.
type omitted struct {
	n     int
	first string // of their paths, by their bytes, as far as notes show it
}

func (o *omitted) add(path []byte) {
	if o.n++; o.n == 1 || string(path) < o.first {
		o.first = string(path)
	}
}

// note says what was left out and why, "" for nothing.
func (o omitted) note(what, why string) string {
	switch o.n {
	case 0:
		return ""
	case 1:
		return fmt.Sprintf("left out 1 %s, %s: %s", what, shownPath(o.first), why)
	}
	return fmt.Sprintf("left out %d %ss, such as %s: %s", o.n, what, shownPath(o.first), why)
}

// omit takes away what the tree does not keep, and says so.
func (t *Tree) omit() (notes []string) {
	if t.unkept == 0 {
		return nil
	}
	var own, others, pipes omitted // devices in /dev, devices elsewhere, pipes
	// The path on the way: one for all, and no more of it than is shown. Links lead
	// deeper than any path of the archive is long.
	shown := make([]byte, 0, maxShownPath)
	var walk func(dir *Node)
	walk = func(dir *Node) {
		at := len(shown)
		for leaf, c := range dir.children {
			shown = appendShown(shown[:at], leaf)
			switch {
			case c.node.Type == Dir:
				shown = appendShown(shown, "/")
				walk(c.node)
				continue
			case c.node.Type.kept():
				continue
			case c.node.Type == pipe:
				pipes.add(shown)
			case bytes.HasPrefix(shown[:at], []byte("dev/")):
				own.add(shown)
			default:
				others.add(shown)
			}
			t.drop(c.node)
			delete(dir.children, leaf)
		}
	}
	walk(t.Root)
	for _, note := range []string{
		own.note("device node", "an instance has its own /dev"),
		others.note("device node", "an instance has devices in /dev alone"),
		pipes.note("named pipe", "what an app needs of them it makes when it runs"),
	} {
		if note != "" {
			notes = append(notes, note)
		}
	}
	return notes
}

// appendShown adds to a path what is shown of it.
func appendShown(path []byte, part string) []byte {
	return append(path, part[:min(len(part), maxShownPath-len(path))]...)
}

// shownPath is a path in an instance as a note has it: short and printable.
func shownPath(path string) string {
	path = "/" + path
	if len(path) > maxShownPath {
		return strconv.Quote(path[:maxShownPath]) + "…"
	}
	if quoted := strconv.Quote(path); quoted != `"`+path+`"` {
		return quoted
	}
	return path
}
