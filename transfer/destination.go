package transfer

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// lockPatience is how long an attempt waits for the one before to end: its process
// may not have noticed yet that nobody is there any more.
const lockPatience = time.Minute

// destination is where what comes is put. In its root lies a file that says how far
// the transfer is, locked by the one process that works on it.
type destination struct {
	root  *os.Root
	saved saved
	// own begins the names of what is ours. No entry may have it in its name: our
	// part of a file is opened again, and must not have become a link.
	own    string
	record *os.File // nil: none can be made there, and a transfer that breaks off is lost
	dir    bool     // what comes is to be a directory: its path ends like one
}

// saved is what the next attempt needs.
type saved struct {
	Prefix  Name  `json:"prefix"` // what is copied, from the root
	Place   Place `json:"place"`
	Entries int64 `json:"entries"` // up to there
	Bytes   int64 `json:"bytes"`   // of whole files
}

// openDestination finds what an earlier attempt has begun, or begins: called name
// in the directory that lies at path, or, if there is none, called as path says.
func openDestination(ctx context.Context, path, id string, name Name) (*destination, error) {
	d := &destination{}
	in, err := d.find(path, id, name)
	if err != nil {
		return nil, err
	}
	if d.root, err = os.OpenRoot(in); err != nil {
		return nil, fmt.Errorf("where %q is to go: %w", path, err)
	}
	if err := d.lock(ctx); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

func checkID(id string) error {
	if len(id) < 8 || len(id) > 64 || strings.Trim(id, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
		return fmt.Errorf("the transfer's ID %q is not of 8 to 64 letters and digits", id[:min(len(id), 65)])
	}
	return nil
}

// find tells in which directory, and what was saved there.
func (d *destination) find(path, id string, name Name) (in string, err error) {
	if err := checkID(id); err != nil {
		return "", err
	}
	if path == "" {
		path = "."
	}
	d.own = ".miosa-" + id
	above, base := filepath.Split(filepath.Clean(path))
	above = filepath.Clean(above)
	if base == "." || base == ".." {
		base = ""
	}
	info, err := os.Stat(path)
	switch {
	case base != "" && d.begun(above): // the last attempt may have made the directory
	case err == nil && info.IsDir():
		d.saved.Prefix = cmp.Or(name, ".")
		return path, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", err
	case base == "":
		return "", fmt.Errorf("the directory %q is not there", path)
	}
	if info, err := os.Stat(above); err != nil || !info.IsDir() {
		return "", fmt.Errorf("%q can't be made: there is no directory %q", path, above)
	}
	d.saved.Prefix = Name(base)
	d.dir = baseName(path) == "" || os.IsPathSeparator(path[len(path)-1])
	return above, nil
}

func (d *destination) begun(in string) bool {
	info, err := os.Lstat(filepath.Join(in, d.own))
	return err == nil && info.Mode().IsRegular()
}

// lock opens the file that says how far the transfer is, for us alone.
func (d *destination) lock(ctx context.Context) error {
	patience := time.NewTimer(lockPatience)
	defer patience.Stop()
	for {
		f, err := d.root.OpenFile(d.own, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil //nolint:nilerr // a directory that we may not write into has others that we may
		}
		ours, err := lock(f)
		if err == nil && ours && d.is(f, d.own) {
			d.record = f
			d.load()
			return nil
		}
		_ = f.Close()
		if err != nil {
			return err
		}
		select {
		case <-time.After(50 * time.Millisecond): // no kernel wakes who waits for a lock and for something else
		case <-patience.C:
			return errors.New("an earlier attempt at this transfer has not ended")
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// is tells whether what has a name is this very file. Opening follows links.
func (d *destination) is(f *os.File, name string) bool {
	there, err := d.root.Lstat(name)
	if err != nil || !there.Mode().IsRegular() {
		return false
	}
	info, err := f.Stat()
	return err == nil && os.SameFile(there, info)
}

// load reads what was saved, if that was ever done.
func (d *destination) load() {
	b, _ := io.ReadAll(io.NewSectionReader(d.record, 0, maxFrame))
	line, _, whole := bytes.Cut(b, []byte("\n"))
	var s saved
	if !whole || json.Unmarshal(line, &s) != nil || s.Prefix.check() != nil {
		return
	}
	if p := s.Place; p.Path != "" && p.Path.check() == nil && p.Offset >= 0 {
		d.saved = s
	}
}

// save writes down what the next attempt needs.
func (d *destination) save() error {
	if d.record == nil {
		return nil
	}
	line, err := json.Marshal(d.saved)
	if err == nil {
		_, err = d.record.WriteAt(append(line, '\n'), 0) // behind it may be the end of a longer one
	}
	if err != nil {
		return about("write down how far it is in", d.own, err)
	}
	return nil
}

// path is where an entry lies.
func (d *destination) path(name Name) string { return string(d.saved.Prefix.join(string(name))) }

// partOf is where an entry is written before it has its name: in the same directory,
// which may be the only one on its file system.
func (d *destination) partOf(name Name) string {
	return string(Name(d.path(name)).dir().join(d.own + ".part"))
}

// forget removes what says how far the transfer is.
func (d *destination) forget() error {
	if d.record == nil {
		return nil
	}
	return d.root.Remove(d.own)
}

func (d *destination) close() {
	if d.record != nil {
		_ = d.record.Close()
	}
	_ = d.root.Close()
}

// Discard gives a transfer up: it removes what the receiver keeps at the
// destination to go on with, if there is anything. What has its name stays.
func Discard(path, id string) error {
	d := &destination{}
	in, err := d.find(path, id, "")
	if err != nil || !d.begun(in) {
		return err
	}
	d, err = openDestination(context.Background(), path, id, "")
	if err != nil {
		return err
	}
	defer d.close()
	if p := d.saved.Place; p.Path != "" && !p.Whole {
		err = d.root.Remove(d.partOf(p.Path))
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, d.forget())
}
