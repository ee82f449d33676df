package artifacttest

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// OnDisk opens a store on a directory of its own, until the test ends.
func OnDisk[B io.Closer](t testing.TB, open func(dir string) (B, error)) (blobs B, dir string) {
	t.Helper()
	dir = t.TempDir()
	blobs, err := open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := blobs.Close(); err != nil {
			t.Error(err)
		}
	})
	return blobs, dir
}

// Files lists everything that lies in a store's directory, committed or not.
func Files(t testing.TB, dir string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			all = append(all, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
