package sparse_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/miosa/miosa/sparse"
)

func TestCopy(t *testing.T) {
	const size = 64 << 20
	dir := t.TempDir()
	src, err := os.Create(filepath.Join(dir, "src"))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	for at, text := range map[int64]string{0: "first", 10<<20 + 7: "middle", size - 4: "last"} {
		if _, err := src.WriteAt([]byte(text), at); err != nil {
			t.Fatal(err)
		}
	}
	// What was there before must show nowhere, nor its length.
	dst, err := os.Create(filepath.Join(dir, "dst"))
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	if _, err := dst.Write(bytes.Repeat([]byte("old"), size/2)); err != nil {
		t.Fatal(err)
	}
	if err := sparse.Copy(dst, src); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(src.Name())
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(dst.Name())
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("the copy differs (%d bytes, want %d), %v", len(got), len(want), err)
	}
	var st unix.Stat_t
	if err := unix.Stat(dst.Name(), &st); err != nil {
		t.Fatal(err)
	}
	if taken := st.Blocks * 512; taken > 1<<20 {
		t.Errorf("the copy takes %d bytes", taken)
	}
}

func TestCopyOfAHole(t *testing.T) {
	dir := t.TempDir()
	src, err := os.Create(filepath.Join(dir, "src"))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if err := src.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	dst, err := os.Create(filepath.Join(dir, "dst"))
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	if err := sparse.Copy(dst, src); err != nil {
		t.Fatal(err)
	}
	if info, err := dst.Stat(); err != nil || info.Size() != 1<<20 {
		t.Errorf("length %d, %v", info.Size(), err)
	}
}
