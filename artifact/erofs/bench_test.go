package erofs_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/artifact"
	"github.com/miosa/miosa/artifact/artifacttest"
	"github.com/miosa/miosa/artifact/erofs"
)

// appTree is a tree of about 100 MB as apps have it: some large files, many
// small ones, bytes that compress to about a third.
func appTree() []artifacttest.Entry {
	random := rand.New(rand.NewPCG(1, 2))
	text := make([]byte, 1<<20)
	for i := range text {
		text[i] = "etaoin shrdlu\n0123{}"[random.IntN(20)]
	}
	piece := func(size int) string {
		var b bytes.Buffer
		for b.Len() < size {
			at := random.IntN(len(text) - 4096)
			b.Write(text[at : at+64+random.IntN(1000)])
		}
		return b.String()[:size]
	}
	var out []artifacttest.Entry
	for i := range 10 {
		out = append(out, at(fmt.Sprintf("usr/lib/lib%d.so", i), piece(5<<20)))
	}
	for i := range 6000 {
		out = append(out, at(fmt.Sprintf("app/node_modules/p%d/f%d.js", i%300, i), piece(random.IntN(17_000))))
	}
	return out
}

func BenchmarkReceive(b *testing.B) {
	tarball := artifacttest.Tar(appTree()...)
	for name, body := range map[string][]byte{
		"tar": tarball, "gzip": artifacttest.Gzip(tarball), "zstd": artifacttest.Zstd(tarball),
	} {
		b.Run(name, func(b *testing.B) {
			blobs := newBlobs(b)
			b.SetBytes(int64(len(tarball)))
			b.ReportAllocs()
			for b.Loop() {
				up := artifact.Upload{Kind: miosa.KindRootFS, Body: bytes.NewReader(body)}
				if _, err := artifact.Receive(b.Context(), blobs, up, artifact.Limits{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkBuild(b *testing.B) {
	tarball := artifacttest.Tar(appTree()...)
	for _, c := range []struct {
		name string
		kind miosa.Kind
		body []byte
	}{
		{"tar", miosa.KindRootFS, tarball},
		{"zstd", miosa.KindRootFS, artifacttest.Zstd(tarball)},
		{"oci", miosa.KindOCI, artifacttest.Layout(artifacttest.Image{Layers: [][]byte{tarball}, Pack: artifacttest.Gzip})},
	} {
		b.Run(c.name, func(b *testing.B) {
			blobs := newBlobs(b)
			digest := store(b, blobs, c.kind, c.body).Blob.SHA256
			dir := b.TempDir()
			b.SetBytes(int64(len(tarball)))
			b.ReportAllocs()
			for b.Loop() {
				f, err := os.Create(filepath.Join(dir, "image"))
				if err != nil {
					b.Fatal(err)
				}
				if err := erofs.Build(b.Context(), blobs, digest, c.kind, artifact.Limits{}, f); err != nil {
					b.Fatal(err)
				}
				if err := f.Sync(); err != nil {
					b.Fatal(err)
				}
				if err := f.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
