// Package disk is what all that is kept on this machine's disks has in common:
// files that are replaced whole or not at all, copies of files that are mostly
// holes, and the room that is left.
package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// leftover ends the name of a file that is being written.
const leftover = ".new"

// Pending is a new file that is being written, and has not got its name yet. It
// belongs to one goroutine.
type Pending struct {
	*os.File
	path  string
	named bool
}

// Create begins the file that is to lie at path, in a directory that is there.
// Until Commit, whatever lies at path stays as it is. mode is exactly what the
// file will have, whatever the umask. Who gets it calls Commit or CommitNew, and
// Discard where they fail.
func Create(path string, mode fs.FileMode) (*Pending, error) {
	// Several may write at once: each has a file of its own, and the last that
	// commits is the one that stays.
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*"+leftover)
	if err != nil {
		return nil, err
	}
	p := &Pending{File: f, path: path}
	if err := f.Chmod(mode); err != nil {
		return nil, errors.Join(err, p.Discard())
	}
	return p, nil
}

// Commit gives the file its name, in place of what had it. Once it returns nil,
// a loss of power changes nothing of that: it leaves what was there before, or
// all of the new file, at any moment. The file stays open.
//
// After an error Named tells which of the two is there for who looks now.
func (p *Pending) Commit() error {
	// A name without its bytes would be an empty file after a loss of power.
	if err := p.Sync(); err != nil {
		return err
	}
	if err := os.Rename(p.Name(), p.path); err != nil {
		return err
	}
	p.named = true
	return SyncDir(filepath.Dir(p.path))
}

// CommitNew is Commit where nothing may be replaced: it fails with fs.ErrExist
// when something lies there.
func (p *Pending) CommitNew() error {
	if err := p.Sync(); err != nil {
		return err
	}
	if err := os.Link(p.Name(), p.path); err != nil { // unlike a rename, it fails on what is there
		return err
	}
	p.named = true
	return errors.Join(os.Remove(p.Name()), SyncDir(filepath.Dir(p.path)))
}

// Named tells whether the file has its name: so after a Commit that failed only
// in making it last.
func (p *Pending) Named() bool { return p.named }

// Discard closes the file, and removes it unless it has its name.
func (p *Pending) Discard() error {
	err := p.Close()
	if !p.named {
		err = errors.Join(err, os.Remove(p.Name()))
	}
	return err
}

// Replace makes path a file of these bytes, in place of what was there: whoever
// reads it, and a loss of power at any moment, finds the one or the other whole.
// The directory must be there. With an error the former file is there still,
// unless it was only the directory that could not be made to last.
func Replace(path string, data []byte, mode fs.FileMode) error {
	p, err := Create(path, mode)
	if err != nil {
		return err
	}
	if _, err = p.Write(data); err == nil {
		err = p.Commit()
	}
	if !p.named {
		return errors.Join(err, p.Discard())
	}
	return errors.Join(err, p.Close())
}

// ReplaceUnsynced is Replace for what need only outlive this process, not the
// machine: much cheaper, and a loss of power may leave an empty file.
func ReplaceUnsynced(path string, data []byte, mode fs.FileMode) error {
	p, err := Create(path, mode)
	if err != nil {
		return err
	}
	_, err = p.Write(data)
	if err = errors.Join(err, p.Close()); err == nil {
		err = os.Rename(p.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(p.Name()))
	}
	return nil
}

// Rename gives a file or directory that is on the disk another name in place of
// what has it, so that it lasts. Both names are on one file system.
func Rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(to))
}

// SyncDir makes the names in a directory last.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// MakeDir makes a directory, and those above it, where they are missing, with
// the permissions of mode less the umask; those that it makes last.
func MakeDir(dir string, mode fs.FileMode) error {
	info, err := os.Stat(dir)
	switch {
	case err == nil && !info.IsDir():
		return &fs.PathError{Op: "mkdir", Path: dir, Err: fs.ErrExist}
	case err == nil:
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	above := filepath.Dir(filepath.Clean(dir))
	if err := MakeDir(above, mode); err != nil {
		return err
	}
	if err := os.Mkdir(dir, mode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := SyncDir(above); err != nil {
		return errors.Join(err, os.Remove(dir)) // or the next call would take it for one that lasts
	}
	return nil
}

// IsLeftover tells, by its name, a file that is being written, or was when the
// process that wrote it died.
func IsLeftover(name string) bool {
	return strings.HasPrefix(name, ".") && strings.HasSuffix(name, leftover)
}

// Sweep removes what processes that died left half written in a directory. It is
// for who owns the directory, while nobody writes there.
func Sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !IsLeftover(e.Name()) || !e.Type().IsRegular() {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove what was half written: %w", err)
		}
	}
	return nil
}
