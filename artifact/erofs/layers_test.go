package erofs_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/artifact"
	"github.com/miosa/miosa/artifact/artifacttest"
	"github.com/miosa/miosa/artifact/erofs"
)

// plain is an image in memory: it cannot make holes.
type plain struct{ data []byte }

func (p *plain) WriteAt(b []byte, off int64) (int, error) {
	p.grow(off + int64(len(b)))
	return copy(p.data[off:], b), nil
}

func (p *plain) Truncate(size int64) error {
	p.grow(size)
	p.data = p.data[:size]
	return nil
}

func (p *plain) grow(size int64) {
	if n := size - int64(len(p.data)); n > 0 {
		p.data = append(p.data, make([]byte, n)...)
	}
}

func layered() []byte {
	lower := artifacttest.Tar(
		at("app/replaced", strings.Repeat("old!", 500_000)), at("app/kept", "kept"), at("app/gone", strings.Repeat("gone", 300_000)),
		at("cache/a", strings.Repeat("a", 100_000)), at("cache/sub/b", "b"), artifacttest.Dir("usr/lib/"), artifacttest.Symlink("lib", "usr/lib"),
		at("links/first", strings.Repeat("shared", 10_000)), artifacttest.Hardlink("links/second", "links/first"))
	upper := artifacttest.Tar(
		at("app/replaced", "new"), at("app/.wh.gone", ""), at("cache/c", "c"), at("cache/.wh..wh..opq", ""),
		at("lib/through", "a link of the layer below"), artifacttest.Hardlink("links/third", "links/second"), at("links/.wh.first", ""))
	return artifacttest.Layout(artifacttest.Image{Layers: [][]byte{lower, upper}, Pack: artifacttest.Gzip})
}

func TestTheKernelSeesLayersMerged(t *testing.T) {
	path := build(t, miosa.KindOCI, layered())
	dir := mount(t, path)
	for name, want := range map[string]string{
		"app/replaced": "new", "app/kept": "kept", "cache/c": "c", "usr/lib/through": "a link of the layer below",
		"links/second": strings.Repeat("shared", 10_000), "links/third": strings.Repeat("shared", 10_000),
	} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s holds %.20q, %v", name, got, err)
		}
	}
	for _, name := range []string{"app/gone", "app/.wh.gone", "cache/a", "cache/sub", "cache/.wh..wh..opq", "links/first"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !os.IsNotExist(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var st syscall.Stat_t
	if err := syscall.Lstat(filepath.Join(dir, "links/third"), &st); err != nil || st.Nlink != 2 {
		t.Errorf("links/third has %d names, %v", st.Nlink, err)
	}
	// What the upper layer replaced takes no disk.
	if err := syscall.Stat(path, &st); err != nil || st.Blocks*512 > 400_000 {
		t.Errorf("the image takes %d bytes of disk, %v", st.Blocks*512, err)
	}
}

// TestImagesAreTheSameOnEveryFileSystem: with holes or with zeros.
func TestImagesAreTheSameOnEveryFileSystem(t *testing.T) {
	for kind, body := range map[miosa.Kind][]byte{
		miosa.KindOCI: layered(), miosa.KindRootFS: artifacttest.Tar(mixedTree()...),
	} {
		want, err := os.ReadFile(build(t, kind, body))
		if err != nil {
			t.Fatal(err)
		}
		blobs := newBlobs(t)
		var got plain
		if err := erofs.Build(t.Context(), blobs, store(t, blobs, kind, body).Blob.SHA256, kind, artifact.Limits{}, &got); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.data, want) {
			t.Errorf("%s: the images differ", kind)
		}
	}
}
