package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// tree lays out the same small tree in a new directory, its files written in
// the given order.
func tree(t *testing.T, order ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range order {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("content of "+name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../app/server", filepath.Join(dir, "bin-link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "app/server"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestSameTreeSameBytes(t *testing.T) {
	first := tree(t, "app/server", "etc/passwd", "a")
	second := tree(t, "a", "etc/passwd", "app/server")
	old := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	if err := os.Chtimes(filepath.Join(second, "a"), old, old); err != nil {
		t.Fatal(err)
	}
	var one, two bytes.Buffer
	if _, err := pack(t.Context(), first, &one); err != nil {
		t.Fatal(err)
	}
	if _, err := pack(t.Context(), second, &two); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Fatal("the same tree, written in another order at another time, packed to other bytes")
	}
}

func TestArchiveHoldsTheTree(t *testing.T) {
	out := filepath.Join(t.TempDir(), "build", "rootfs.tar.zst")
	sum, err := packFile(t.Context(), tree(t, "app/server", "etc/passwd"), out)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	plain, err := zstd.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	var names []string
	for r := tar.NewReader(plain); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.ModTime.Unix() != 0 {
			t.Errorf("%s carries the packer's traces: %+v", h.Name, h)
		}
		if h.Name == "app/server" && h.FileInfo().Mode().Perm() != 0o755 {
			t.Errorf("app/server lost its mode: %v", h.FileInfo().Mode())
		}
		if h.Name == "bin-link" && h.Linkname != "../app/server" {
			t.Errorf("bin-link points at %q", h.Linkname)
		}
	}
	want := []string{"app/", "app/server", "bin-link", "etc/", "etc/passwd"}
	if !slices.Equal(names, want) {
		t.Errorf("entries %q, want %q", names, want)
	}
	if sum.Entries != len(want) || len(sum.SHA256) != 64 {
		t.Errorf("summary %+v", sum)
	}
}

func TestDevicesAreRefused(t *testing.T) {
	dir := tree(t, "app/server")
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out.tar.zst")
	_, err := packFile(t.Context(), dir, out)
	if err == nil || !strings.Contains(err.Error(), "pipe") {
		t.Fatalf("error %v, want one that names the pipe", err)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(out), ".*"))
	if err != nil || len(left) != 0 {
		t.Fatalf("left behind: %q, %v", left, err)
	}
}
