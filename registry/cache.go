package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miosa/miosa/disk"
)

const partSuffix = ".part"

// Cache keeps layers that were fetched, and the beginnings of those that were
// cut, for a while: who pulls the same image again, or goes on after the
// platform was ended in the middle, has them. Nothing is shared but by who would
// ask the same repository with the same login: see Scope.
//
// One process owns its directory.
type Cache struct {
	dir  string
	root *os.Root      // of dir
	fsys fs.FS         // the same
	most int64         // bytes of what nobody holds
	age  time.Duration // of what nobody holds

	mu   sync.Mutex // guards held
	held map[string]*holding
}

type holding struct {
	n     int
	fetch chan struct{} // held by who writes it
}

// OpenCache makes the directory. What nobody holds is kept for that long, and
// no more than most bytes of it.
func OpenCache(dir string, most int64, age time.Duration) (*Cache, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of layers: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the directory of layers: %w", err)
	}
	return &Cache{dir: dir, root: root, fsys: root.FS(), most: most, age: age, held: map[string]*holding{}}, nil
}

// Close lets go of the directory.
func (c *Cache) Close() error { return c.root.Close() }

// Dir is where it lies.
func (c *Cache) Dir() string { return c.dir }

// Scope is whose layers they are: who knows a digest has not shown that they may
// read what it names, there and with their login.
type Scope struct {
	Tenant, Workspace string // as logins are kept
	Host, Repository  string // as references name them
}

// dir is where layers of the scope lie, in the cache's directory.
func (s Scope) dir() string {
	// No part of it has a NUL byte.
	sum := sha256.Sum256([]byte(strings.Join([]string{s.Workspace, s.Host, s.Repository}, "\x00")))
	return filepath.Join(s.Tenant, hex.EncodeToString(sum[:16]))
}

// Entry is one layer in the cache, which stays there until it is released.
type Entry struct {
	cache *Cache
	path  string
	size  int64
}

// Hold takes a layer, whether it is there or not.
func (c *Cache) Hold(of Scope, b Blob) *Entry {
	path := filepath.Join(c.dir, of.dir(), b.hex())
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.held[path]
	if h == nil {
		h = &holding{fetch: make(chan struct{}, 1)}
		c.held[path] = h
	}
	h.n++
	return &Entry{cache: c, path: path, size: b.Size}
}

// Release lets go of it.
func (e *Entry) Release() {
	c := e.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := c.held[e.path]; h != nil {
		if h.n--; h.n == 0 {
			delete(c.held, e.path)
		}
	}
}

// Missing is how many bytes of it are not there yet.
func (e *Entry) Missing() int64 {
	if e.complete() {
		return 0
	}
	info, err := os.Stat(e.path + partSuffix)
	if err != nil {
		return e.size
	}
	return max(e.size-info.Size(), 0)
}

func (e *Entry) complete() bool {
	info, err := os.Stat(e.path)
	return err == nil && info.Size() == e.size
}

// Fill has fetch write the layer, behind what is there of it, unless it is whole.
// Of several at a time one does, and the others wait.
func (e *Entry) Fill(ctx context.Context, fetch func(f *os.File) error) (err error) {
	e.cache.mu.Lock()
	door := e.cache.held[e.path].fetch
	e.cache.mu.Unlock()
	select {
	case door <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-door }()
	if e.complete() {
		now := time.Now()
		return os.Chtimes(e.path, now, now)
	}
	if err := disk.MakeDir(filepath.Dir(e.path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(e.path+partSuffix, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	err = fetch(f)
	if err == nil {
		// A name without its bytes after a power cut would be another layer.
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = disk.Rename(e.path+partSuffix, e.path)
	}
	return err
}

// Open reads it; it must be whole.
func (e *Entry) Open() (io.ReadCloser, error) { return os.Open(e.path) }

// Drop forgets what is there of it, unless others hold it too.
func (e *Entry) Drop() {
	c := e.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := c.held[e.path]; h != nil && h.n == 1 {
		_ = os.Remove(e.path)
		_ = os.Remove(e.path + partSuffix)
	}
}

// Sweep removes what nobody holds and is too old, and of the rest the oldest
// where there is more than most bytes; all of it where all is set.
func (c *Cache) Sweep(now time.Time, all bool) error {
	type lying struct {
		name string
		size int64
		at   time.Time
	}
	var rest []lying
	var dirs []string // those above first
	var sum int64
	c.mu.Lock()
	defer c.mu.Unlock()
	err := fs.WalkDir(c.fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name != "." {
				dirs = append(dirs, name)
			}
			return nil
		}
		if c.held[filepath.Join(c.dir, strings.TrimSuffix(name, partSuffix))] != nil {
			return nil // its name may be another by now
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		rest = append(rest, lying{name, info.Size(), info.ModTime()})
		sum += info.Size()
		return nil
	})
	if err != nil {
		return fmt.Errorf("sweep layers: %w", err)
	}
	slices.SortFunc(rest, func(a, b lying) int { return a.at.Compare(b.at) })
	for _, l := range rest {
		if !all && sum <= c.most && now.Sub(l.at) < c.age {
			break
		}
		if err := c.root.Remove(l.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("sweep layers: %w", err)
		}
		sum -= l.size
	}
	for _, name := range slices.Backward(dirs) {
		if !c.holds(name) {
			_ = c.root.Remove(name) // not while something lies there
		}
	}
	return nil
}

// holds reports whether somebody holds a layer in a directory; c.mu is held.
func (c *Cache) holds(name string) bool {
	for path := range c.held {
		if strings.HasPrefix(path, filepath.Join(c.dir, name)+string(filepath.Separator)) {
			return true
		}
	}
	return false
}
