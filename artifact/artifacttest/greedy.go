package artifacttest

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/miosa/miosa"
)

// Greedy is an archive of few bytes that takes as much memory to read as it
// can: what the limits of a reader must hold against.
type Greedy struct {
	Name string
	Kind miosa.Kind
	// Bytes makes it, padded to about size bytes with what does not compress,
	// and times as greedy: 1 is enough to see it, 4 is about the most that the
	// limits of an archive let through.
	Bytes func(size, times int) []byte
}

// GreedyArchives are the ways to be greedy that are known.
func GreedyArchives() []Greedy {
	return []Greedy{
		{"windows", miosa.KindRootFS, func(size, _ int) []byte {
			return greedyZstd(128<<20, func(w *tar.Writer) { pad(w, size) })
		}},
		{"directories", miosa.KindRootFS, func(size, times int) []byte {
			return greedyZstd(8<<20, func(w *tar.Writer) {
				pad(w, size-1<<20)
				for i := range 62 * times {
					put(w, &tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("%d/%sf", i, strings.Repeat("d/", 2000))}, "")
				}
			})
		}},
		{"names", miosa.KindRootFS, func(size, times int) []byte {
			return greedyZstd(8<<20, func(w *tar.Writer) {
				pad(w, size-3<<20)
				for i := range 75_000 * times {
					put(w, &tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("%s%06d", strings.Repeat("n", 249), i)}, "")
				}
			})
		}},
		{"attributes", miosa.KindRootFS, func(size, times int) []byte {
			attrs := map[string]string{}
			for i := range 3000 {
				attrs[fmt.Sprintf("SCHILY.xattr.user.%03x", i)] = ""
			}
			return greedyZstd(8<<20, func(w *tar.Writer) {
				pad(w, size-3<<20)
				for i := range 250 * times {
					put(w, &tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("f%d", i), PAXRecords: attrs}, "")
				}
			})
		}},
		{"links", miosa.KindRootFS, func(size, times int) []byte {
			return greedyZstd(8<<20, func(w *tar.Writer) {
				pad(w, size-2<<20)
				for i := range 7_000 * times {
					put(w, &tar.Header{Typeflag: tar.TypeSymlink, Name: fmt.Sprintf("l%d", i), Linkname: strings.Repeat("t", 4000)}, "")
				}
			})
		}},
		{"wide image", miosa.KindOCI, func(size, _ int) []byte {
			return zstdOf(128<<20, Layout(Image{
				Layers: [][]byte{tarOf(func(w *tar.Writer) { pad(w, size) })},
				Pack:   func(b []byte) []byte { return zstdOf(128<<20, b) },
			}))
		}},
		{"image of links", miosa.KindOCI, func(size, times int) []byte {
			return greedyZstd(8<<20, func(w *tar.Writer) {
				pad(w, size-1<<20)
				for i := range 40 * times {
					put(w, &tar.Header{Typeflag: tar.TypeSymlink, Name: fmt.Sprintf("l%d", i), Linkname: strings.Repeat("t", 1<<20-200)}, "")
				}
			})
		}},
		{"image of names", miosa.KindOCI, func(size, times int) []byte {
			return greedyZstd(8<<20, func(w *tar.Writer) {
				pad(w, size-1<<20)
				for i := range 40 * times {
					put(w, &tar.Header{
						Typeflag: tar.TypeReg, Name: fmt.Sprintf("%s%d", strings.Repeat("n", 200), i),
						PAXRecords: map[string]string{"MIOSA.comment": strings.Repeat("c", 1<<20-1000)},
					}, "")
				}
			})
		}},
		{"image of documents", miosa.KindOCI, func(size, _ int) []byte {
			return greedyZstd(8<<20, func(w *tar.Writer) {
				pad(w, size-1<<20)
				next := `{"manifests":[{}]}`
				for range 4 {
					sum := sha256.Sum256([]byte(next))
					digest := hex.EncodeToString(sum[:])
					put(w, &tar.Header{Typeflag: tar.TypeReg, Name: "blobs/sha256/" + digest, Size: int64(len(next))}, next)
					next = fmt.Sprintf(`{"manifests":[{"digest":"sha256:%s","size":-1}],"layers":[{}%s],"mediaType":%q}`,
						digest, strings.Repeat(",{}", 1<<16-10), strings.Repeat("m", 3<<20))
				}
				put(w, &tar.Header{Typeflag: tar.TypeReg, Name: "index.json", Size: int64(len(next))}, next)
			})
		}},
	}
}

func put(w *tar.Writer, h *tar.Header, body string) {
	h.Mode, h.ModTime = 0o644, time.Unix(0, 0)
	if h.PAXRecords != nil {
		h.Format = tar.FormatPAX
	}
	must(w.WriteHeader(h))
	_, err := io.WriteString(w, body)
	must(err)
}

// pad adds a file that does not compress.
func pad(w *tar.Writer, size int) {
	if size <= 0 {
		return
	}
	b := make([]byte, size)
	source := rand.NewChaCha8([32]byte{})
	_, _ = source.Read(b) // never fails
	put(w, &tar.Header{Typeflag: tar.TypeReg, Name: "padding", Size: int64(size)}, string(b))
}

func tarOf(fill func(w *tar.Writer)) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	fill(w)
	must(w.Close())
	return buf.Bytes()
}

func zstdOf(window int, b []byte) []byte {
	return pack(window, func(w io.Writer) {
		_, err := w.Write(b)
		must(err)
	})
}

func greedyZstd(window int, fill func(w *tar.Writer)) []byte {
	return pack(window, func(z io.Writer) {
		w := tar.NewWriter(z)
		fill(w)
		must(w.Close())
	})
}

// pack writes through an encoder that does not know the size beforehand: then
// the frame has the window, and not its own size.
func pack(window int, write func(io.Writer)) []byte {
	var buf bytes.Buffer
	z, err := zstd.NewWriter(&buf, zstd.WithWindowSize(window), zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true), zstd.WithEncoderLevel(zstd.SpeedFastest))
	must(err)
	_, err = z.Write(make([]byte, 0))
	must(err)
	must(z.Flush())
	write(z)
	must(z.Close())
	return buf.Bytes()
}
