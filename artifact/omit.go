package artifact

import (
	"fmt"
	"strconv"
	"strings"
)

// omitted counts names of what was left out for one reason.
type omitted struct {
	n     int
	first string // of their paths, by their bytes
}

func (o *omitted) add(path string) {
	if o.n++; o.n == 1 || path < o.first {
		o.first = path
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
	var walk func(dir *Node, prefix string)
	walk = func(dir *Node, prefix string) {
		for leaf, c := range dir.children {
			switch {
			case c.node.Type == Dir:
				walk(c.node, prefix+leaf+"/")
				continue
			case c.node.Type.kept():
				continue
			case c.node.Type == pipe:
				pipes.add(prefix + leaf)
			case strings.HasPrefix(prefix, "dev/"):
				own.add(prefix + leaf)
			default:
				others.add(prefix + leaf)
			}
			t.drop(c.node)
			delete(dir.children, leaf)
		}
	}
	walk(t.Root, "")
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

// shownPath is a path in an instance as a note has it: short and printable.
func shownPath(path string) string {
	path = "/" + path
	if len(path) > 200 {
		return strconv.Quote(path[:200]) + "…"
	}
	if quoted := strconv.Quote(path); quoted != `"`+path+`"` {
		return quoted
	}
	return path
}
