package artifact_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/artifact"
	. "github.com/miosa/miosa/artifact/artifacttest"
	"github.com/miosa/miosa/artifact/erofs"
)

// scratch is an image file in memory, of a bounded size.
type scratch struct{ data []byte }

func (s *scratch) WriteAt(p []byte, off int64) (int, error) {
	if end := int(off) + len(p); end > len(s.data) {
		if end > 64<<20 {
			return 0, errors.New("scratch is full")
		}
		s.data = append(s.data, make([]byte, end-len(s.data))...)
	}
	return copy(s.data[off:], p), nil
}

func (s *scratch) Truncate(int64) error { return nil }

// FuzzReceive feeds arbitrary bytes in: nothing panics, every refusal is a
// miosa.Error of the customer's, and what is accepted is a sound tree that an
// image can be built of.
func FuzzReceive(f *testing.F) {
	tarball := Tar(Dir("./"), app, Symlink("lib", "usr/lib"), Hardlink("app2", "app"), File("usr/lib/x", "yy"),
		Entry{Name: "caps", Xattrs: map[string]string{"security.capability": "\x01\x00"}},
		File("long/"+string(bytes.Repeat([]byte("d/"), 120))+"f", "z"))
	upper := Tar(File(".wh.app", ""), File("lib/.wh..wh..opq", ""), File("lib/new", ""), Hardlink("app3", "app2"))
	img := Image{Layers: [][]byte{tarball, upper}}
	for kind, bodies := range map[int][][]byte{
		0: {tarball, Gzip(tarball), Zstd(tarball), upper, Tar(app, device("dev/null"), Hardlink("dev/null2", "dev/null"), pipe("p"), File("p", ""))},
		1: {Layout(img), DockerSave(img), Gzip(Layout(img)), Layout(Image{Layers: img.Layers, Pack: Gzip})},
		2: {tarball},
	} {
		for _, b := range bodies {
			f.Add(byte(kind), b)
		}
	}
	// Layers can be fuzzed directly: their digests are made to fit.
	f.Add(byte(3), upper)
	f.Add(byte(3), Tar(device("app"), pipe("usr"), Hardlink("lib2", "app")))
	kinds := []miosa.Kind{miosa.KindRootFS, miosa.KindOCI, miosa.KindStatic, miosa.KindOCI}
	limits := artifact.Limits{Bytes: 1 << 20, UnpackedBytes: 8 << 20, Entries: 2000}
	f.Fuzz(func(t *testing.T, which byte, body []byte) {
		store := NewMemory(func() time.Time { return time.Time{} })
		kind := kinds[int(which)%len(kinds)]
		if which%4 == 3 {
			body = Layout(Image{Layers: [][]byte{tarball, body}})
		}
		stored, err := artifact.Receive(t.Context(), store, artifact.Upload{Kind: kind, Body: bytes.NewReader(body)}, limits)
		if err != nil {
			if code := miosa.CodeOf(err); code != miosa.Invalid && code != miosa.TooLarge {
				t.Fatalf("refused with %s: %v", code, err)
			}
			return
		}
		w := erofs.NewWriter(&scratch{})
		u, err := artifact.Unpack(t.Context(), store, stored.Blob.SHA256, kind, limits, w)
		if err != nil {
			t.Fatalf("received, and cannot be unpacked: %v", err)
		}
		if u.Manifest != stored.Manifest {
			t.Fatalf("manifest %+v, then %+v", stored.Manifest, u.Manifest)
		}
		sound(t, u.Tree)
		if err := w.Finish(u.Tree, [16]byte{}); err != nil {
			t.Fatal(err)
		}
	})
}

// sound checks a tree's own books.
func sound(t *testing.T, tree *artifact.Tree) {
	links := map[*artifact.Node]uint32{}
	files, total := 0, int64(0)
	var walk func(*artifact.Node)
	walk = func(n *artifact.Node) {
		for name, c := range n.Children() {
			if name == "" || name == "." || name == ".." || len(name) > 255 || bytes.ContainsAny([]byte(name), "/\x00") {
				t.Fatalf("name %q", name)
			}
			if c.Type == artifact.Dir {
				walk(c)
				continue
			}
			files++
			if links[c]++; links[c] == 1 {
				total += c.Size
			}
		}
	}
	walk(tree.Root)
	for n, count := range links {
		if n.Links != count {
			t.Fatalf("a node of %d names says %d", count, n.Links)
		}
	}
	if files != tree.Files || total != tree.Bytes {
		t.Fatalf("%d files of %d bytes, the tree says %d and %d", files, total, tree.Files, tree.Bytes)
	}
}
