package artifact_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/artifact"
	. "github.com/miosa/miosa/artifact/artifacttest"
	"github.com/miosa/miosa/artifact/local"
)

// TestLinksResolveInsideTheRoot compares where links lead with a walk that keeps
// the whole path, as a kernel does in a chroot: ".." ends at the root.
func TestLinksResolveInsideTheRoot(t *testing.T) {
	// What lies in the archive before the hard link: a and a/b are directories,
	// a/b/up and abs are links to directories, the files are named for where
	// they lie.
	before := []Entry{
		Dir("a/"), Dir("a/b/"), File("f", "f"), File("a/f", "a/f"), File("a/b/f", "a/b/f"),
		Symlink("a/b/up", "../../../../a"), Symlink("abs", "/../a/b"), Symlink("a/loop", "loop"),
	}
	directories := map[string]string{"": "", "a": "a", "a/b": "a/b", "a/b/up": "a", "abs": "a/b"}
	links := []string{"a/b/up", "abs", "a/loop"}
	resolve := func(target string) (string, bool) {
		at := "" // a real directory
		parts := strings.Split(target, "/")
		for n, p := range parts {
			switch p {
			case "", ".":
			case "..":
				at = strings.TrimPrefix(filepath.Dir("/"+at), "/")
			default:
				path := strings.TrimPrefix(at+"/"+p, "/")
				last := !slices.ContainsFunc(parts[n+1:], func(s string) bool { return s != "" })
				if last && (p == "f" || slices.Contains(links, path)) {
					return path, true // a link's own name is no way through it
				}
				next, ok := directories[path]
				if !ok {
					return "", false
				}
				at = next
			}
		}
		return "", false
	}
	part := rapid.SampledFrom([]string{"", ".", "..", "..", "..", "a", "b", "up", "abs", "loop", "f", "f", "none"})
	blobs, err := local.New(local.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	rapid.Check(t, func(t *rapid.T) {
		target := strings.Join(rapid.SliceOfN(part, 1, 7).Draw(t, "parts"), "/")
		if target == "" {
			return
		}
		want, ok := resolve(target)
		kind, body := miosa.KindRootFS, Tar(append(slices.Clone(before), Symlink("d/soft", target), Hardlink("d/hard", target))...)
		if rapid.Bool().Draw(t, "image") {
			kind, body = miosa.KindOCI, Layout(Image{Layers: [][]byte{body}})
		}
		stored, err := artifact.Receive(t.Context(), blobs, artifact.Upload{Kind: kind, Body: strings.NewReader(string(body))}, artifact.Limits{})
		if !ok {
			if miosa.CodeOf(err) != miosa.Invalid || !strings.Contains(fmt.Sprint(err), `"d/hard"`) {
				t.Fatalf("a hard link to %q: %v", target, err)
			}
			return
		}
		if err != nil {
			t.Fatalf("a hard link to %q: %v", target, err)
		}
		found++
		u, err := artifact.Unpack(t.Context(), blobs, stored.Blob.SHA256, kind, artifact.Limits{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		at := func(path string) *artifact.Node {
			n := u.Tree.Root
			for p := range strings.SplitSeq(path, "/") {
				n = n.Lookup(p)
			}
			return n
		}
		if hard := at("d/hard"); hard != at(want) || hard.Links != 2 {
			t.Fatalf("a hard link to %q is not %s", target, want)
		}
		if soft := at("d/soft"); soft.Type != artifact.Symlink || soft.Target != target {
			t.Fatalf("a symbolic link to %q became %+v", target, soft)
		}
	})
	if found == 0 {
		t.Error("no target was ever there")
	}
}

// The links of an image's own archive stay in it as well.
func TestLinksOfAnImageArchive(t *testing.T) {
	layer := Tar(app)
	entries := DockerSaveEntries(Image{Layers: [][]byte{layer}})
	for i, e := range entries {
		if strings.HasSuffix(e.Name, "/layer.tar") {
			entries[i].Name = "layers/first.tar"
			entries = append(entries, Symlink(e.Name, "../../../layers/./first.tar"), Symlink("x", "../../etc/passwd"), Hardlink("y", "/etc/passwd"))
			break
		}
	}
	if stored := receive(t, newShelf(t), miosa.KindOCI, Tar(entries...)); stored.Manifest.Files != 1 {
		t.Errorf("%+v", stored.Manifest)
	}
	// One that leads nowhere is a missing layer, not somebody's file.
	for i, e := range entries {
		if e.Name == "layers/first.tar" {
			entries[i].Name = "elsewhere"
		}
	}
	_, err := artifact.Receive(t.Context(), newShelf(t), artifact.Upload{Kind: miosa.KindOCI, Body: strings.NewReader(string(Tar(entries...)))}, artifact.Limits{})
	if miosa.CodeOf(err) != miosa.Invalid || !strings.Contains(fmt.Sprint(err), "lacks the layer") {
		t.Errorf("received: %v", err)
	}
}
