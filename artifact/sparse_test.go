package artifact_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/artifact"
	. "github.com/miosa/miosa/artifact/artifacttest"
	"github.com/miosa/miosa/artifact/erofs"
)

// The file that an image has whose Dockerfile adds a user with a large ID.
const (
	lastlog     = "var/log/lastlog"
	lastlogSize = 584 << 20
)

// disk is what the files below a directory take of it, in bytes.
func disk(t *testing.T, dir string) int64 {
	t.Helper()
	total := int64(0)
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		total += info.Sys().(*syscall.Stat_t).Blocks * 512
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return total
}

// withLastlog writes an archive with a file of size bytes: zeros, but for data
// near its end.
func withLastlog(w io.Writer, size int64, data string) error {
	tw := tar.NewWriter(w)
	header := func(name string, size int64) error {
		return tw.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: size, ModTime: time.Unix(0, 0)})
	}
	err := header(lastlog, size)
	nothing := make([]byte, 1<<20)
	for left := size - int64(len(data)); left > 0 && err == nil; left -= int64(len(nothing)) {
		_, err = tw.Write(nothing[:min(left, int64(len(nothing)))])
	}
	if err == nil {
		_, err = io.WriteString(tw, data)
	}
	return errors.Join(err, header("app", 0), tw.Close())
}

// file is a body that lies in a file, so that nobody holds it in memory.
func file(t *testing.T, write func(io.Writer) error) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "body"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(write(f), f.Close()); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

func receiveFile(t *testing.T, blobs artifact.Blobs, kind miosa.Kind, path string, limits artifact.Limits) (artifact.Stored, error) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return artifact.Receive(t.Context(), blobs, artifact.Upload{Kind: kind, Body: f}, limits)
}

// A large file with little in it is taken however its holes are told, takes no
// more of the disk than what is in it, and no memory for its size. The
// packed ones are as large as images have it.
func TestSparseFiles(t *testing.T) {
	const tail = "the last one who logged in"
	const some = 96 << 20
	gnu := func(args ...string) func(t *testing.T) string {
		return func(t *testing.T) string {
			program, err := exec.LookPath("tar")
			if err != nil {
				t.Skip("GNU tar is not installed")
			}
			dir := t.TempDir()
			if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(lastlog)), 0o700); err != nil {
				t.Fatal(err)
			}
			f, err := os.Create(filepath.Join(dir, lastlog))
			if err != nil {
				t.Fatal(err)
			}
			_, err = f.WriteAt([]byte(tail), some-int64(len(tail)))
			if err := errors.Join(err, f.Close(), os.WriteFile(filepath.Join(dir, "app"), nil, 0o600)); err != nil {
				t.Fatal(err)
			}
			out := filepath.Join(t.TempDir(), "body")
			said, err := exec.CommandContext(t.Context(), program, append(args, "--sparse", "-C", dir, "-cf", out, ".")...).CombinedOutput()
			if err != nil {
				t.Fatalf("tar: %v: %s", err, said)
			}
			return out
		}
	}
	plain := func(size int64) func(io.Writer) error {
		return func(w io.Writer) error { return withLastlog(w, size, tail) }
	}
	zipped := func(w io.Writer) error {
		z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
		return errors.Join(err, plain(lastlogSize)(z), z.Close())
	}
	fast := func(w io.Writer, write func(io.Writer) error) error {
		z, err := zstd.NewWriter(w)
		return errors.Join(err, write(z), z.Close())
	}
	image := func(pack func([]byte) []byte) func(io.Writer) error {
		return func(w io.Writer) error {
			var layer bytes.Buffer
			if err := plain(some)(&layer); err != nil {
				return err
			}
			_, err := w.Write(DockerSave(Image{Layers: [][]byte{layer.Bytes()}, Pack: pack}))
			return err
		}
	}
	for _, c := range []struct {
		name string
		kind miosa.Kind
		body func(t *testing.T) string
		size int64
	}{
		{"GNU sparse", miosa.KindRootFS, gnu("--format=gnu"), some},
		{"PAX sparse 0.0", miosa.KindRootFS, gnu("--format=pax", "--sparse-version=0.0"), some},
		{"PAX sparse 0.1", miosa.KindRootFS, gnu("--format=pax", "--sparse-version=0.1"), some},
		{"PAX sparse 1.0", miosa.KindRootFS, gnu("--format=pax", "--sparse-version=1.0"), some},
		{"gzip", miosa.KindRootFS, func(t *testing.T) string { return file(t, zipped) }, lastlogSize},
		{"zstd", miosa.KindRootFS, func(t *testing.T) string {
			return file(t, func(w io.Writer) error { return fast(w, plain(lastlogSize)) })
		}, lastlogSize},
		{"image with a packed layer", miosa.KindOCI, func(t *testing.T) string { return file(t, image(Zstd)) }, some},
		{"packed image", miosa.KindOCI, func(t *testing.T) string {
			return file(t, func(w io.Writer) error { return fast(w, image(nil)) })
		}, some},
		{"plain image", miosa.KindOCI, func(t *testing.T) string { return file(t, image(nil)) }, some},
	} {
		t.Run(c.name, func(t *testing.T) {
			body := c.body(t)
			s := newShelf(t)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			stored, err := receiveFile(t, s, c.kind, body, artifact.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			if stored.Manifest.TotalBytes != c.size || stored.Manifest.Files != 2 {
				t.Errorf("manifest %+v", stored.Manifest)
			}
			path := filepath.Join(t.TempDir(), "image")
			out, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			if err := erofs.Build(t.Context(), s, stored.Blob.SHA256, c.kind, artifact.Limits{}, out); err != nil {
				t.Fatal(err)
			}
			runtime.ReadMemStats(&after)
			if took := after.TotalAlloc - before.TotalAlloc; took > 48<<20 {
				t.Errorf("reading it twice allocated %d MB", took>>20)
			}
			if used := disk(t, filepath.Dir(path)) + disk(t, s.dir); used > 4<<20 {
				t.Errorf("its blob and its image take %d MB of the disk", used>>20)
			}
			if info, err := out.Stat(); err != nil || info.Size() < c.size {
				t.Errorf("the image has %d bytes: %v", info.Size(), err)
			}
		})
	}
}

// What costs more than it is worth is refused by name, with what to do.
func TestBombs(t *testing.T) {
	limits := artifact.Limits{Disk: 8 << 20, Time: 64 << 20, Ratio: 20, UnpackedBytes: 256 << 20}
	ones := strings.Repeat("\x01", 16<<20)
	noise := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(noise) // never fails
	// One byte in each block: a map of a megabyte makes a gigabyte of it.
	scattered := func() []byte {
		var list strings.Builder
		const n = 4000
		for i := range n {
			fmt.Fprintf(&list, "%d\n1\n", i*4096)
		}
		body := fmt.Sprintf("%d\n%s", n, list.String())
		body += strings.Repeat("\x00", (512-len(body)%512)%512) + strings.Repeat("x", n)
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		// The writer takes no sparse records: they are put in by name.
		h := &tar.Header{Typeflag: tar.TypeReg, Name: "scattered", Mode: 0o644, Size: int64(len(body)), ModTime: time.Unix(0, 0), Format: tar.FormatPAX,
			PAXRecords: map[string]string{"XXX.sparse.major": "1", "XXX.sparse.minor": "0", "XXX.sparse.name": "scattered", "XXX.sparse.realsize": fmt.Sprint(n * 4096)}}
		_, err := w.Write(nil)
		if err := errors.Join(err, w.WriteHeader(h)); err != nil {
			panic(err)
		}
		_, err = io.WriteString(w, body)
		if err := errors.Join(err, w.Close()); err != nil {
			panic(err)
		}
		return bytes.ReplaceAll(buf.Bytes(), []byte("XXX.sparse."), []byte("GNU.sparse."))
	}()
	endless := func() []byte {
		var buf bytes.Buffer
		if err := tar.NewWriter(&buf).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: lastlog, Size: 1 << 40}); err != nil {
			panic(err)
		}
		return buf.Bytes()
	}()
	for _, c := range []struct {
		name   string
		kind   miosa.Kind
		body   []byte
		public string
		names  []string
	}{
		{"takes disk", miosa.KindRootFS, Zstd(Tar(app, File("data/ones", ones))), "archive_bomb", []string{`entry "data/ones"`, "8192 KB of disk", "20 times", "leave it out"}},
		{"takes disk, gzip", miosa.KindRootFS, Gzip(Tar(app, File("data/ones", ones))), "archive_bomb", []string{`"data/ones"`}},
		{"takes time", miosa.KindRootFS, Zstd(Tar(app, File("zeros", strings.Repeat("\x00", 72<<20)))), "archive_bomb", []string{`entry "zeros"`, "unpacks to more than 64 MB", "leave it out"}},
		{"zeros after the end", miosa.KindRootFS, Zstd(append(Tar(app), make([]byte, 72<<20)...)), "archive_bomb", []string{`entry "app"`, "64 MB"}},
		{"a byte a block", miosa.KindRootFS, Gzip(scattered), "archive_bomb", []string{`entry "scattered"`, "of disk"}},
		{"more than there may be", miosa.KindRootFS, endless, "archive_too_large", []string{`entry "var/log/lastlog"`, "--no-log-init"}},
		{"in a layer", miosa.KindOCI, Layout(Image{Layers: [][]byte{Tar(app, File("ones", ones))}, Pack: Gzip}), "archive_bomb", []string{"layer", `entry "ones"`}},
		{"in layers together", miosa.KindOCI, Layout(Image{Layers: [][]byte{Tar(File("a", ones[:5<<20])), Tar(File("b", ones[:5<<20]))}, Pack: Gzip}), "archive_bomb", []string{"layer", `entry "b"`}},
		{"around a layer", miosa.KindOCI, Zstd(Layout(Image{Layers: [][]byte{Tar(app, File("ones", ones))}})), "archive_bomb", []string{"blobs/sha256/"}},
		{"packed twice", miosa.KindOCI, Zstd(Layout(Image{Layers: [][]byte{Tar(app, File("ones", ones))}, Pack: Gzip})), "archive_bomb", []string{"layer", `entry "ones"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newShelf(t)
			_, err := artifact.Receive(t.Context(), s, artifact.Upload{Kind: c.kind, Body: bytes.NewReader(c.body)}, limits)
			e, ok := errors.AsType[*miosa.Error](err)
			if !ok || e.Public != c.public {
				t.Fatalf("received: %v", err)
			}
			for _, part := range c.names {
				if !strings.Contains(e.Message, part) {
					t.Errorf("%q is not in: %s", part, e.Message)
				}
			}
			if left := s.files(t); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
	// One that is as large as it looks may take more, and so may one that is
	// small and costs little.
	for name, body := range map[string][]byte{
		"noise":        Zstd(Tar(File("noise", string(noise)), File("ones", ones))),
		"little of it": Zstd(Tar(app, File("ones", ones[:7<<20]), File("zeros", strings.Repeat("\x00", 48<<20)))),
		"plain":        Tar(File("ones", ones)),
	} {
		s := newShelf(t)
		if _, err := artifact.Receive(t.Context(), s, artifact.Upload{Kind: miosa.KindRootFS, Body: bytes.NewReader(body)}, limits); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
