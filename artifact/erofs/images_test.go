package erofs_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	reference "github.com/erofs/go-erofs"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/artifact"
	"github.com/miosa/miosa/artifact/artifacttest"
	"github.com/miosa/miosa/artifact/erofs"
	"github.com/miosa/miosa/artifact/local"
)

var at = artifacttest.File

func newBlobs(t testing.TB) *local.Blobs {
	t.Helper()
	b, err := local.New(local.Config{Dir: filepath.Join(t.TempDir(), "blobs")})
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

func store(t testing.TB, blobs artifact.Blobs, kind miosa.Kind, body []byte) artifact.Stored {
	t.Helper()
	s, err := artifact.Receive(t.Context(), blobs, artifact.Upload{Kind: kind, Body: bytes.NewReader(body)}, artifact.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newImages(t testing.TB, blobs artifact.Blobs) *erofs.Images {
	t.Helper()
	im, err := erofs.New(erofs.Config{Dir: filepath.Join(t.TempDir(), "images")}, blobs)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

// build stores an upload and returns the path of its image, checked by
// fsck.erofs where that is installed.
func build(t testing.TB, kind miosa.Kind, body []byte) string {
	t.Helper()
	blobs := newBlobs(t)
	path, err := newImages(t, blobs).Ensure(t.Context(), store(t, blobs, kind, body).Blob.SHA256, kind)
	if err != nil {
		t.Fatal(err)
	}
	fsck(t, path)
	return path
}

func fsck(t testing.TB, path string) {
	t.Helper()
	tool, err := exec.LookPath("fsck.erofs")
	if err != nil {
		t.Log("not checked with fsck.erofs: erofs-utils is not installed")
		return
	}
	if out, err := exec.Command(tool, path).CombinedOutput(); err != nil {
		t.Fatalf("fsck.erofs: %v\n%s", err, out)
	}
}

// mount mounts an image read-only with the kernel's own erofs and returns its
// root; the test is skipped where that is not possible.
func mount(t *testing.T, path string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting an image needs root")
	}
	list, err := os.ReadFile("/proc/filesystems")
	if err != nil || !strings.Contains(string(list), "\terofs\n") {
		t.Skip("this kernel has no erofs")
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "erofs", "-o", "loop,ro,nodev", path, dir).CombinedOutput(); err != nil {
		if strings.Contains(string(out), "loop") {
			t.Skipf("no loop device to be had: %s", out)
		}
		t.Fatalf("mount: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v\n%s", err, out)
		}
	})
	return dir
}

func mixedTree() []artifacttest.Entry {
	long := strings.Repeat("n", 255)
	e := []artifacttest.Entry{
		{Name: "./", Type: '5', Mode: 0o755, MTime: time.Unix(1700000000, 0)},
		artifacttest.Dir("bin/"),
		{Name: "bin/su", Body: "suid", Mode: 0o4755, UID: 0, MTime: time.Unix(1600000001, 0)},
		{Name: "bin/ping", Body: "caps", Mode: 0o755, Xattrs: map[string]string{
			"security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
			"user.note":           "hello", "user.empty": "",
			"trusted.overlay.opaque": "y"}},
		artifacttest.Hardlink("bin/ping6", "bin/ping"),
		{Name: "home/app/data", Body: strings.Repeat("x", 10_000), UID: 100_000, GID: 70_000, Mode: 0o600},
		at("empty", ""),
		at("exact", strings.Repeat("e", 4096)),
		at("edge-4032", strings.Repeat("e", 4032)),
		at("edge-4033", strings.Repeat("e", 4033)),
		at("big", strings.Repeat("0123456789abcdef", 80_000)),
		at("holes", strings.Repeat("\x00", 300_000)+"end"),
		artifacttest.Symlink("lib", "usr/lib"),
		artifacttest.Symlink("usr/bin/python", "/etc/alternatives/python"),
		artifacttest.Symlink("longlink", "/"+strings.Repeat(strings.Repeat("l", 200)+"/", 20)+"end"),
		artifacttest.Hardlink("otherlink", "longlink"),
		artifacttest.Dir("usr/lib/"),
		at("many/"+long, "long"),
		{Name: "sticky/", Type: '5', Mode: 0o1777, UID: 7},
	}
	for i := range 900 {
		e = append(e, at(fmt.Sprintf("many/file-%04d", i), fmt.Sprint(i)))
	}
	for i := range 60 {
		e = append(e, artifacttest.Dir(fmt.Sprintf("dirs/%02d/sub/", i)), at(fmt.Sprintf("dirs/%02d/sub/f", i), strings.Repeat("y", i*117)))
	}
	return e
}

// compare checks a mounted or parsed image against what was packed.
func compare(t *testing.T, entries []artifacttest.Entry, open func(string) ([]byte, error)) {
	t.Helper()
	for _, e := range entries {
		if e.Type != 0 {
			continue
		}
		got, err := open(strings.TrimPrefix(e.Name, "./"))
		if err != nil {
			t.Errorf("%.60q: %v", e.Name, err)
		} else if string(got) != e.Body {
			t.Errorf("%.60q: %d bytes differ from the %d packed", e.Name, len(got), len(e.Body))
		}
	}
}

func TestTheKernelMountsWhatWasBuilt(t *testing.T) {
	entries := mixedTree()
	dir := mount(t, build(t, miosa.KindRootFS, artifacttest.Zstd(artifacttest.Tar(entries...))))
	compare(t, entries, func(name string) ([]byte, error) { return os.ReadFile(filepath.Join(dir, name)) })

	stat := func(name string) *syscall.Stat_t {
		var st syscall.Stat_t
		if err := syscall.Lstat(filepath.Join(dir, name), &st); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return &st
	}
	if st := stat("bin/su"); st.Mode&0o7777 != 0o4755 || st.Mtim.Sec != 1600000001 {
		t.Errorf("bin/su: mode %o, mtime %d", st.Mode, st.Mtim.Sec)
	}
	if st := stat("home/app/data"); st.Uid != 100_000 || st.Gid != 70_000 || st.Mode&0o7777 != 0o600 {
		t.Errorf("home/app/data: %d:%d %o", st.Uid, st.Gid, st.Mode)
	}
	if a, b := stat("bin/ping"), stat("bin/ping6"); a.Ino != b.Ino || a.Nlink != 2 {
		t.Errorf("hard links: inodes %d and %d, %d links", a.Ino, b.Ino, a.Nlink)
	}
	if st := stat("dirs"); st.Nlink != 62 {
		t.Errorf("dirs has %d links, want 62", st.Nlink)
	}
	if st := stat("."); st.Mtim.Sec != 1700000000 {
		t.Errorf("root's mtime is %d", st.Mtim.Sec)
	}
	for name, mode := range map[string]uint32{"tmp": 0o1777, "proc": 0o555, "sys": 0o555, "dev": 0o755, "run": 0o755, "etc": 0o755} {
		if st := stat(name); st.Mode != syscall.S_IFDIR|mode {
			t.Errorf("%s: mode %o", name, st.Mode)
		}
	}
	for name, want := range map[string]string{"lib": "usr/lib", "usr/bin/python": "/etc/alternatives/python"} {
		if got, err := os.Readlink(filepath.Join(dir, name)); err != nil || got != want {
			t.Errorf("%s -> %q, %v", name, got, err)
		}
	}
	if got, err := os.Readlink(filepath.Join(dir, "otherlink")); err != nil || len(got) != 1+20*201+3 {
		t.Errorf("long symbolic link: %d bytes, %v", len(got), err)
	}
	buf := make([]byte, 100)
	for name, want := range map[string]string{"user.note": "hello", "user.empty": "", "security.capability": "\x01\x00\x00\x02"} {
		n, err := syscall.Getxattr(filepath.Join(dir, "bin/ping"), name, buf)
		if err != nil || !strings.HasPrefix(string(buf[:max(n, 0)]), want) {
			t.Errorf("xattr %s: %q, %v", name, buf[:max(n, 0)], err)
		}
	}
	if _, err := syscall.Getxattr(filepath.Join(dir, "bin/ping"), "trusted.overlay.opaque", buf); err == nil {
		t.Error("an overlay's own attribute is in the image")
	}
	names, err := os.ReadDir(filepath.Join(dir, "many"))
	if err != nil || len(names) != 901 {
		t.Errorf("many holds %d names, %v", len(names), err)
	}
}

func TestAnIndependentReaderReadsWhatWasBuilt(t *testing.T) {
	entries := mixedTree()
	f, err := os.Open(build(t, miosa.KindRootFS, artifacttest.Tar(entries...)))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, err := reference.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, entries, func(name string) ([]byte, error) { return fs.ReadFile(img, name) })
	count := 0
	if err := fs.WalkDir(img, ".", func(string, fs.DirEntry, error) error { count++; return nil }); err != nil {
		t.Fatal(err)
	}
	if count < 1000 {
		t.Errorf("only %d entries", count)
	}
}

func TestSameReleaseSameImage(t *testing.T) {
	body := artifacttest.Tar(mixedTree()...)
	var first []byte
	for range 3 {
		img, err := os.ReadFile(build(t, miosa.KindRootFS, body))
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = img
		} else if !bytes.Equal(first, img) {
			t.Fatal("two builds of one release differ")
		}
	}
}
