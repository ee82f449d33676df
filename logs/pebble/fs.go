package pebble

import (
	"path/filepath"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// guarded is a file system in which no write fails that Pebble could not do
// without: the engine ends with it, and who wrote it waits for ever. Pebble
// would panic in the middle of its locks, which no recover undoes; so it only
// looks to it as if the disk took its time. Tables are another matter: what
// cannot be written of them is tried again.
type guarded struct {
	vfs.FS
	engine *engine
}

// vital reports whether a file is needed to go on: the log of writes, the list
// of tables and what points to it.
func vital(name string) bool {
	base := filepath.Base(name)
	return strings.HasSuffix(base, ".log") || strings.HasPrefix(base, "MANIFEST-") || strings.HasPrefix(base, "marker.")
}

// check does not return with an error of what is vital.
func (g *guarded) check(name string, err error) error {
	if err != nil && vital(name) {
		g.engine.halt(err)
	}
	return err
}

func (g *guarded) file(name string, f vfs.File, err error) (vfs.File, error) {
	if g.check(name, err) != nil || !vital(name) {
		return f, err
	}
	return &guardedFile{f, g, name}, nil
}

func (g *guarded) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := g.FS.Create(name, category)
	return g.file(name, f, err)
}

func (g *guarded) ReuseForWrite(old, name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := g.FS.ReuseForWrite(old, name, category)
	return g.file(name, f, err)
}

func (g *guarded) Rename(old, name string) error { return g.check(name, g.FS.Rename(old, name)) }

func (g *guarded) OpenDir(name string) (vfs.File, error) {
	f, err := g.FS.OpenDir(name)
	if err != nil {
		return f, err
	}
	return &guardedFile{f, g, "marker."}, nil // all of it stands in the directory
}

func (g *guarded) Unwrap() vfs.FS { return g.FS }

type guardedFile struct {
	vfs.File
	fs   *guarded
	name string
}

func (f *guardedFile) Write(b []byte) (int, error) {
	n, err := f.File.Write(b)
	return n, f.fs.check(f.name, err)
}

func (f *guardedFile) WriteAt(b []byte, at int64) (int, error) {
	n, err := f.File.WriteAt(b, at)
	return n, f.fs.check(f.name, err)
}

func (f *guardedFile) Sync() error { return f.fs.check(f.name, f.File.Sync()) }

func (f *guardedFile) SyncData() error { return f.fs.check(f.name, f.File.SyncData()) }

func (f *guardedFile) SyncTo(length int64) (bool, error) {
	full, err := f.File.SyncTo(length)
	return full, f.fs.check(f.name, err)
}

func (f *guardedFile) Close() error { return f.fs.check(f.name, f.File.Close()) }
