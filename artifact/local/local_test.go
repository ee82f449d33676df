package local_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/artifact"
	"github.com/miosa/miosa/artifact/artifacttest"
	"github.com/miosa/miosa/artifact/erofs"
	"github.com/miosa/miosa/artifact/local"
)

func open(t *testing.T, dir string, now func() time.Time) *local.Blobs {
	t.Helper()
	b, err := local.New(local.Config{Dir: dir, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func TestConformance(t *testing.T) {
	artifacttest.Blobs(t, func(t *testing.T, now func() time.Time) artifact.Blobs { return open(t, t.TempDir(), now) })
}

func TestLeftoversOfACrashAreSwept(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, nil)
	w, err := b.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, "half"); err != nil {
		t.Fatal(err)
	}
	kept, err := b.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	blob, err := kept.Commit()
	if err != nil {
		t.Fatal(err)
	}
	after := open(t, dir, nil) // the crash: nobody aborted w
	left, err := os.ReadDir(filepath.Join(dir, "incoming"))
	if err != nil || len(left) != 0 {
		t.Errorf("incoming holds %v, %v", left, err)
	}
	if _, err := after.Stat(t.Context(), blob.SHA256); err != nil {
		t.Error(err)
	}
	if _, err := w.Commit(); err == nil {
		t.Error("a swept upload was committed")
	}
}

func TestStoreStaysInItsDirectory(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	b := open(t, dir, nil)
	body := "planted"
	digest := artifacttest.Digest([]byte(body))
	if err := os.Symlink(outside, filepath.Join(dir, "sha256", digest[:2])); err != nil {
		t.Fatal(err)
	}
	w, err := b.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, body); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(); err == nil {
		t.Error("a blob was written through a link out of the directory")
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) != 0 {
		t.Errorf("outside holds %v, %v", left, err)
	}
}

// onFullDisk runs fn on a thread that alone sees a file system of 1 MB at
// dir. The mount ends with the thread.
func onFullDisk(t *testing.T, dir string, fn func()) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a full disk is made by mounting a tiny one, which needs root")
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with us
		err := syscall.Unshare(syscall.CLONE_NEWNS)
		if err == nil {
			err = syscall.Mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, "")
		}
		if err == nil {
			err = syscall.Mount("none", dir, "tmpfs", 0, "size=1m")
		}
		if err == nil {
			fn()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Skipf("no mount namespace to be had: %v", err)
	}
}

func TestDiskFull(t *testing.T) {
	var noise bytes.Buffer
	for i := 0; noise.Len() < 4<<20; i++ {
		noise.WriteString(artifacttest.Digest([]byte{byte(i), byte(i >> 8), byte(i >> 16)}))
	}
	tarball := artifacttest.Tar(artifacttest.File("noise", noise.String()))
	small := artifacttest.Tar(artifacttest.File("app", "x"))
	image := artifacttest.Image{Layers: [][]byte{tarball}}
	zeros := bytes.Repeat([]byte("0123456789abcdef"), 128<<10)
	dir := t.TempDir()
	onFullDisk(t, dir, func() {
		b, err := local.New(local.Config{Dir: filepath.Join(dir, "blobs")})
		if err != nil {
			t.Error(err)
			return
		}
		defer b.Close()
		stored, err := artifact.Receive(t.Context(), b, artifact.Upload{Kind: miosa.KindRootFS, Body: bytes.NewReader(small)}, artifact.Limits{})
		if err != nil {
			t.Errorf("small upload: %v", err)
		}
		for name, up := range map[string]artifact.Upload{
			"plain":        {Kind: miosa.KindRootFS, Body: bytes.NewReader(tarball)},
			"packed image": {Kind: miosa.KindOCI, Body: bytes.NewReader(artifacttest.Gzip(artifacttest.Layout(image)))},
			"unpacks": {Kind: miosa.KindOCI, Body: bytes.NewReader(artifacttest.Gzip(artifacttest.Layout(artifacttest.Image{
				Layers: [][]byte{artifacttest.Tar(artifacttest.File("a", string(zeros)))}})))},
		} {
			if _, err := artifact.Receive(t.Context(), b, up, artifact.Limits{}); miosa.CodeOf(err) != miosa.NoSpace {
				t.Errorf("%s: error is %v", name, err)
			}
		}
		left, err := os.ReadDir(filepath.Join(dir, "blobs", "incoming"))
		if err != nil || len(left) != 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
		if _, err := b.Stat(t.Context(), stored.Blob.SHA256); err != nil {
			t.Error(err)
		}

		// A release that fits as an upload, and not as an image.
		packed := artifacttest.Zstd(artifacttest.Tar(artifacttest.File("a", string(zeros))))
		if stored, err = artifact.Receive(t.Context(), b, artifact.Upload{Kind: miosa.KindRootFS, Body: bytes.NewReader(packed)}, artifact.Limits{}); err != nil {
			t.Error(err)
			return
		}
		f, err := os.Create(filepath.Join(dir, "image"))
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		err = artifact.StorageError(erofs.Build(t.Context(), b, stored.Blob.SHA256, miosa.KindRootFS, artifact.Limits{}, f))
		if miosa.CodeOf(err) != miosa.NoSpace {
			t.Errorf("image on a full disk: %v", err)
		}
	})
}

func TestErrorsHaveNoPaths(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, nil)
	_, err := b.Open(t.Context(), strings.Repeat("0", 64))
	e, ok := errors.AsType[*miosa.Error](err)
	if !ok || strings.Contains(e.Message, dir) {
		t.Errorf("error is %v", err)
	}
}
