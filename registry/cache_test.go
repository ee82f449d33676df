package registry

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestCache keeps what is whole and what is begun, each tenant's own, and lets
// go of what is old or too much, but of nothing that somebody holds.
func TestCache(t *testing.T) {
	dir := t.TempDir()
	c, err := OpenCache(dir, 10, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	blob := func(digit string) Blob { return Blob{Digest: "sha256:" + strings.Repeat(digit, 64), Size: 6} }
	put := func(e *Entry, text string) error {
		return e.Fill(t.Context(), func(f *os.File) error {
			if _, err := f.Seek(0, io.SeekEnd); err != nil {
				return err
			}
			_, err := f.WriteString(text)
			if info, serr := f.Stat(); err == nil && serr == nil && info.Size() < 6 {
				err = errors.New("cut")
			}
			return err
		})
	}
	mine := Scope{Tenant: "ten_a", Workspace: "ws_a", Host: "registry.example", Repository: "team/shop"}
	a := c.Hold(mine, blob("a"))
	if err := put(a, "abc"); err == nil || a.Missing() != 3 {
		t.Errorf("%v, %d bytes are missing", err, a.Missing())
	}
	if err := put(a, "def"); err != nil || a.Missing() != 0 {
		t.Errorf("%v, %d bytes are missing", err, a.Missing())
	}
	if err := put(a, "never"); err != nil {
		t.Error(err)
	}
	r, err := a.Open()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(r)
	if cerr := r.Close(); err != nil || cerr != nil || string(raw) != "abcdef" {
		t.Errorf("it holds %q (%v, %v)", raw, err, cerr)
	}
	for _, of := range []Scope{
		{"ten_b", mine.Workspace, mine.Host, mine.Repository}, {mine.Tenant, "ws_b", mine.Host, mine.Repository},
		{mine.Tenant, mine.Workspace, "other.example", mine.Repository}, {mine.Tenant, mine.Workspace, mine.Host, "team/other"},
	} {
		other := c.Hold(of, blob("a"))
		if other.Missing() != 6 {
			t.Errorf("%v has what %v pulled", of, mine)
		}
		other.Release()
	}
	now := time.Now()
	if err := c.Sweep(now.Add(24*time.Hour), true); err != nil || a.Missing() != 0 {
		t.Errorf("what is held was removed (%v)", err)
	}
	a.Release()
	b := c.Hold(mine, blob("b"))
	if err := put(b, "ghi"); err == nil {
		t.Error("it was whole")
	}
	b.Release()
	left := func() string {
		var names []string
		for _, digit := range []string{"a", "b", "c"} {
			for _, suffix := range []string{"", partSuffix} {
				if _, err := os.Stat(filepath.Join(dir, mine.dir(), blob(digit).hex()+suffix)); err == nil {
					names = append(names, digit+suffix)
				}
			}
		}
		return strings.Join(names, " ")
	}
	if err := c.Sweep(now, false); err != nil || left() != "a b.part" {
		t.Errorf("left: %s (%v)", left(), err)
	}
	cc := c.Hold(mine, blob("c"))
	if err := put(cc, "jklmno"); err != nil {
		t.Fatal(err)
	}
	cc.Release()
	old := now.Add(-10 * time.Minute)
	if err := os.Chtimes(filepath.Join(dir, mine.dir(), blob("a").hex()), old, old); err != nil {
		t.Fatal(err)
	}
	// 15 bytes are too many: the oldest goes.
	if err := c.Sweep(now, false); err != nil || left() != "b.part c" {
		t.Errorf("left: %s (%v)", left(), err)
	}
	if err := c.Sweep(now.Add(2*time.Hour), false); err != nil || left() != "" {
		t.Errorf("left: %s (%v)", left(), err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("%v stayed (%v)", entries, err)
	}
}

// listing does something else between the listing of a directory of layers and a
// look at what is in it.
type listing struct {
	fs.FS
	then func()
}

func (l listing) ReadDir(name string) ([]fs.DirEntry, error) {
	list, err := fs.ReadDir(l.FS, name)
	if len(list) > 0 && !list[0].IsDir() {
		l.then()
	}
	return list, err
}

// TestSweepWhileLayersBecomeWhole: what is listed may have another name by the time
// that it is looked at, or none.
func TestSweepWhileLayersBecomeWhole(t *testing.T) {
	c, err := OpenCache(t.TempDir(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	mine := Scope{Tenant: "ten_a"}
	begun := func(digit string) *Entry {
		e := c.Hold(mine, Blob{Digest: "sha256:" + strings.Repeat(digit, 64), Size: 1})
		_ = e.Fill(t.Context(), func(*os.File) error { return errors.New("cut") })
		return e
	}
	held, gone, rest := begun("a"), begun("b"), begun("c")
	gone.Release()
	rest.Release()
	c.fsys = listing{c.fsys, func() {
		_ = os.Rename(held.path+partSuffix, held.path) // as Fill does, in the end
		_ = os.Remove(gone.path + partSuffix)
	}}
	if err := c.Sweep(time.Now(), true); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(held.path); err != nil {
		t.Errorf("what is held was removed: %v", err)
	}
	if _, err := os.Stat(rest.path + partSuffix); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the rest stayed (%v)", err)
	}
}
