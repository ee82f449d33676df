package artifact

import (
	"fmt"
	"slices"
	"strings"

	"github.com/miosa/miosa"
)

// standard are the directories at the root of a Linux file system, besides what
// people put there on purpose.
var standard = []string{
	"bin", "boot", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32", "media", "mnt", "nix", "opt", "proc", "root", "run",
	"sbin", "srv", "sys", "tmp", "usr", "var",
}

// only is the one folder that everything is in, nil where there is none.
func (t *Tree) only() (string, *Node) {
	if len(t.Root.children) == 1 {
		for name, c := range t.Root.children {
			if c.node.Type == Dir {
				return name, c.node
			}
		}
	}
	return "", nil
}

// folder is a note on an archive that was packed with the folder that its files
// are in, "" for others. An archive of /usr alone, or of /app, may be meant.
func (l *layers) folder() string {
	name, dir := l.tree.only()
	if dir == nil || l.merging() {
		return ""
	}
	in := 0
	for _, s := range standard {
		if dir.Lookup(s) != nil {
			in++
		}
	}
	what := "its root file system"
	switch {
	case l.kind == miosa.KindStatic && dir.Lookup("index.html") != nil:
		what = "the site"
	case l.kind == miosa.KindStatic:
		return ""
	case in >= 2 && !slices.Contains([]string{"usr", "var"}, name):
	case slices.Contains(standard, name), name == "app":
		return ""
	default:
		what = "the app"
	}
	return fmt.Sprintf("everything in the archive is in one folder, %s, and so it is in the instance; if %s is to be at the root, pack what is in the folder: tar -C %s -c . | gzip > app.tar.gz",
		shownPath(name), what, shellWord(name))
}

// savedIn reports whether a folder looks like what docker save writes.
func savedIn(dir *Node) bool {
	if dir.Lookup("manifest.json") == nil {
		return false
	}
	for name, c := range dir.children {
		if IsDigest(name) && c.node.Type == Dir && c.node.Lookup("layer.tar") != nil || IsDigest(strings.TrimSuffix(strings.TrimSuffix(name, ".gz"), ".tar")) {
			return true
		}
	}
	return false
}

// shellWord is a name as a command line has it: short, and one word.
func shellWord(name string) string {
	if len(name) > maxShown || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || r == '�' }) {
		return "FOLDER"
	}
	if strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-+@", r)
	}) || strings.HasPrefix(name, "-") {
		return "./'" + strings.ReplaceAll(name, "'", `'\''`) + "'"
	}
	return name
}
