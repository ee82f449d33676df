package pebbledb

import (
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/miosa/miosa"
)

// again is how long a table that cannot be written, or read, is left alone.
// Pebble would try at once, as fast as the processor can.
const again = 100 * time.Millisecond

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

// wrote does not return with an error of what is vital, and late with one of
// what is not.
func (g *guarded) wrote(name string, err error) error {
	switch {
	case err == nil:
	case vital(name):
		g.engine.halt(err)
	default:
		g.pause()
	}
	return err
}

// read says of an error that the disk is at fault. Reading is in nobody's
// way: there is no end to it.
func (g *guarded) read(err error) error {
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, fs.ErrNotExist) {
		return err
	}
	g.pause()
	return &miosa.Error{Code: miosa.Unavailable, Message: "the disk of the " + g.engine.store + " cannot be read: try again, and tell the operator if it lasts", Err: err}
}

func (g *guarded) pause() {
	select {
	case <-time.After(again):
	case <-g.engine.failed:
	}
}

func (g *guarded) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := g.FS.Create(name, category)
	return g.file(name, f, g.wrote(name, err))
}

func (g *guarded) ReuseForWrite(old, name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := g.FS.ReuseForWrite(old, name, category)
	return g.file(name, f, g.wrote(name, err))
}

func (g *guarded) Rename(old, name string) error { return g.wrote(name, g.FS.Rename(old, name)) }

func (g *guarded) Open(name string, options ...vfs.OpenOption) (vfs.File, error) {
	f, err := g.FS.Open(name, options...)
	if err != nil {
		return nil, g.read(err)
	}
	return &readFile{f, g}, nil
}

func (g *guarded) OpenDir(name string) (vfs.File, error) {
	f, err := g.FS.OpenDir(name)
	return g.file("marker.", f, err) // all of it stands in the directory
}

func (g *guarded) Unwrap() vfs.FS { return g.FS }

func (g *guarded) file(name string, f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &writtenFile{f, g, name}, nil
}

// readFile is one that is only read.
type readFile struct {
	vfs.File
	fs *guarded
}

func (f *readFile) Read(b []byte) (int, error) {
	n, err := f.File.Read(b)
	return n, f.fs.read(err)
}

func (f *readFile) ReadAt(b []byte, at int64) (int, error) {
	n, err := f.File.ReadAt(b, at)
	return n, f.fs.read(err)
}

type writtenFile struct {
	vfs.File
	fs   *guarded
	name string
}

func (f *writtenFile) Write(b []byte) (int, error) {
	n, err := f.File.Write(b)
	return n, f.fs.wrote(f.name, err)
}

func (f *writtenFile) WriteAt(b []byte, at int64) (int, error) {
	n, err := f.File.WriteAt(b, at)
	return n, f.fs.wrote(f.name, err)
}

func (f *writtenFile) Sync() error { return f.fs.wrote(f.name, f.File.Sync()) }

func (f *writtenFile) SyncData() error { return f.fs.wrote(f.name, f.File.SyncData()) }

func (f *writtenFile) SyncTo(length int64) (bool, error) {
	full, err := f.File.SyncTo(length)
	return full, f.fs.wrote(f.name, err)
}

func (f *writtenFile) Close() error { return f.fs.wrote(f.name, f.File.Close()) }
