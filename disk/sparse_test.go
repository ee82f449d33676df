package disk_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/miosa/miosa/disk"
)

func TestCopySparse(t *testing.T) {
	const size = 64 << 20
	dir := t.TempDir()
	src, err := os.Create(filepath.Join(dir, "src"))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	// Zeros that take room need not in the copy.
	if _, err := src.WriteAt(make([]byte, 2<<20), 20<<20); err != nil {
		t.Fatal(err)
	}
	for at, text := range map[int64]string{0: "first", 10<<20 + 7: "middle", 21<<20 - 3: "across", size - 4: "last"} {
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
	if err := disk.CopySparse(dst, src); err != nil {
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

func TestCopySparseOfAHole(t *testing.T) {
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
	if err := disk.CopySparse(dst, src); err != nil {
		t.Fatal(err)
	}
	if info, err := dst.Stat(); err != nil || info.Size() != 1<<20 {
		t.Errorf("length %d, %v", info.Size(), err)
	}
}

// What is filled holds what the other does, and no block of zeros.
func TestFillSparse(t *testing.T) {
	page := os.Getpagesize()
	rapid.Check(t, func(t *rapid.T) {
		pages := rapid.IntRange(1, 200).Draw(t, "pages")
		from, err := memoryFile(int64(pages * page))
		if err != nil {
			t.Fatal(err)
		}
		defer from.Close()
		into, err := memoryFile(int64(pages * page))
		if err != nil {
			t.Fatal(err)
		}
		defer into.Close()
		kept := map[int]bool{}
		for _, n := range rapid.SliceOfN(rapid.IntRange(0, pages-1), 0, 60).Draw(t, "written") {
			b := byte(rapid.IntRange(0, 2).Draw(t, "value"))
			if _, err := from.WriteAt([]byte{b}, int64(n*page+page-1)); err != nil {
				t.Fatal(err)
			}
			kept[n] = b != 0
		}
		if err := disk.FillSparse(into, from); err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(into.Fd()), &st); err != nil {
			t.Fatal(err)
		}
		held := int64(0)
		for _, yes := range kept {
			if yes {
				held += int64(page)
			}
		}
		if st.Blocks*512 != held {
			t.Fatalf("%d bytes are held, want %d", st.Blocks*512, held)
		}
		want, got := make([]byte, pages*page), make([]byte, pages*page)
		if _, err := from.ReadAt(want, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := into.ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Fatal("the copy is not alike")
		}
	})
}

// memoryFile is an empty file in memory, where a block is a page.
func memoryFile(size int64) (*os.File, error) {
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "test")
	return f, f.Truncate(size)
}
