package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/miosa/miosa"
)

// A data directory that an administrator made with the usual mode holds keys
// and customers' images all the same.
func TestDataDirectoryIsClosedToOthers(t *testing.T) {
	for _, mode := range []fs.FileMode{0o755, 0o777, 0o750, 0o701, 0o700} {
		dir := filepath.Join(t.TempDir(), "data")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		c, err := openData(dir)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("mode %o became %v, %v", mode, info.Mode(), err)
		}
		if err := c.close(); err != nil {
			t.Error(err)
		}
	}

	// By a symbolic link, what it leads to.
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // what is tested
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	c, err := openData(link)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("what a link leads to is %v, %v", info.Mode(), err)
	}
	if err := c.close(); err != nil {
		t.Error(err)
	}
}

func TestEverybodysDirectoryIsNoDataDirectory(t *testing.T) {
	shared := t.TempDir()
	if err := os.Chmod(shared, 0o777|fs.ModeSticky); err != nil {
		t.Fatal(err)
	}
	var bad *miosa.Error
	if _, err := openData(shared); !errors.As(err, &bad) || bad.Code != miosa.Invalid {
		t.Errorf("a shared directory: %v", err)
	}
	info, err := os.Stat(shared)
	if err != nil || info.Mode().Perm() != 0o777 {
		t.Errorf("it is %v, %v", info.Mode(), err)
	}
	if entries, err := os.ReadDir(shared); err != nil || len(entries) > 0 {
		t.Errorf("%v, %v were left in it", entries, err)
	}
}
