// Package local keeps blobs in a directory of this machine:
// sha256/<first two digits>/<digest>, and incoming/ for what is being written.
// One process owns the directory.
package local

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"iter"
	"os"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/artifact"
	"github.com/miosa/miosa/disk"
)

const (
	blobsDir    = "sha256"
	incomingDir = "incoming"
)

// Config says where blobs lie.
type Config struct {
	Dir string           // made if missing
	Now func() time.Time // nil: time.Now
}

// Blobs is an artifact.Blobs on a directory. It is safe for concurrent use.
type Blobs struct {
	root *os.Root
	now  func() time.Time
	// mu makes renewing a blob's age and deleting it by age one step each.
	mu sync.Mutex
}

var _ artifact.Blobs = (*Blobs)(nil)

// New opens the directory and removes what a crash left in incoming/.
func New(c Config) (*Blobs, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if err := disk.MakeDir(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make blob directory: %w", err)
	}
	root, err := os.OpenRoot(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("open blob directory: %w", err)
	}
	b := &Blobs{root: root, now: c.Now}
	if err := b.prepare(); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return b, nil
}

func (b *Blobs) prepare() error {
	if err := b.root.RemoveAll(incomingDir); err != nil {
		return fmt.Errorf("sweep leftovers: %w", err)
	}
	for _, dir := range []string{blobsDir, incomingDir} {
		if err := b.root.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make blob directory: %w", err)
		}
	}
	return b.sync(".")
}

// Close lets go of the directory. Open readers stay usable.
func (b *Blobs) Close() error { return b.root.Close() }

func blobPath(digest string) string { return path.Join(blobsDir, digest[:2], digest) }

// Create begins a new blob.
func (b *Blobs) Create(ctx context.Context) (artifact.BlobWriter, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	name := path.Join(incomingDir, rand.Text())
	f, err := b.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o400)
	if err != nil {
		return nil, artifact.StorageError(fmt.Errorf("create blob: %w", err))
	}
	return &writer{blobs: b, name: name, f: f, h: sha256.New()}, nil
}

// Open reads a blob.
func (b *Blobs) Open(ctx context.Context, digest string) (artifact.BlobReader, error) {
	if err := check(ctx, digest); err != nil {
		return nil, err
	}
	f, err := b.root.Open(blobPath(digest))
	if err != nil {
		return nil, fileError("open", digest, err)
	}
	return f, nil
}

// Stat describes a blob.
func (b *Blobs) Stat(ctx context.Context, digest string) (artifact.Blob, error) {
	if err := check(ctx, digest); err != nil {
		return artifact.Blob{}, err
	}
	return b.stat(digest)
}

func (b *Blobs) stat(digest string) (artifact.Blob, error) {
	info, err := b.root.Lstat(blobPath(digest))
	if err != nil {
		return artifact.Blob{}, fileError("stat", digest, err)
	}
	return artifact.Blob{SHA256: digest, Size: info.Size(), StoredAt: info.ModTime()}, nil
}

// Delete removes a blob stored before the given time.
func (b *Blobs) Delete(ctx context.Context, digest string, before time.Time) error {
	if err := check(ctx, digest); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	blob, err := b.stat(digest)
	if err != nil {
		return err
	}
	if !before.IsZero() && !blob.StoredAt.Before(before) {
		return miosa.Errorf(miosa.Conflict, "the artefact %s was stored again meanwhile", digest)
	}
	if err := b.root.Remove(blobPath(digest)); err != nil {
		return fileError("delete", digest, err)
	}
	return nil
}

// List yields every blob, in the order of their digests.
func (b *Blobs) List(ctx context.Context) iter.Seq2[artifact.Blob, error] {
	return func(yield func(artifact.Blob, error) bool) {
		shards, err := b.names(blobsDir)
		if err != nil {
			yield(artifact.Blob{}, err)
			return
		}
		for _, shard := range shards {
			digests, err := b.names(path.Join(blobsDir, shard))
			if err != nil {
				yield(artifact.Blob{}, err)
				return
			}
			for _, digest := range digests {
				if !artifact.IsDigest(digest) || digest[:2] != shard {
					continue
				}
				if err := ctx.Err(); err != nil {
					yield(artifact.Blob{}, err)
					return
				}
				blob, err := b.stat(digest)
				if miosa.CodeOf(err) == miosa.NotFound {
					continue // deleted since the directory was read
				}
				if !yield(blob, err) || err != nil {
					return
				}
			}
		}
	}
}

func (b *Blobs) names(dir string) ([]string, error) {
	d, err := b.root.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("list blobs: %w", err)
	}
	names, err := d.Readdirnames(-1)
	if err := errors.Join(err, d.Close()); err != nil {
		return nil, fmt.Errorf("list blobs: %w", err)
	}
	slices.Sort(names)
	return names, nil
}

// sync makes the names in a directory durable.
func (b *Blobs) sync(dir string) error {
	d, err := b.root.Open(dir)
	if err != nil {
		return fmt.Errorf("sync blob directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync blob directory: %w", err)
	}
	return nil
}

func check(ctx context.Context, digest string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !artifact.IsDigest(digest) {
		return miosa.Errorf(miosa.NotFound, "there is no artefact %q: that is not a SHA-256", digest)
	}
	return nil
}

func fileError(op, digest string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return miosa.Errorf(miosa.NotFound, "there is no artefact %s", digest)
	}
	return fmt.Errorf("%s blob %s: %w", op, digest, err)
}

// writer is one blob being written.
type writer struct {
	blobs *Blobs
	name  string // "" once committed or aborted
	f     *os.File
	h     hash.Hash
	size  int64
}

// block is what a hole is made of, in bytes.
const block = 4096

var zeros [block]byte

// Write leaves holes where there are blocks of zeros: an archive of few bytes
// may unpack to gigabytes of them.
func (w *writer) Write(p []byte) (int, error) {
	w.h.Write(p)
	end := w.size + int64(len(p))
	hole := false
	for begin := w.size; begin < end; {
		// A run of blocks of one kind, the first and the last perhaps in part.
		at := begin
		for hole = true; at < end; {
			next := min(at-at%block+block, end)
			piece := p[at-w.size : next-w.size]
			empty := bytes.Equal(piece, zeros[:len(piece)])
			if at == begin {
				hole = empty
			}
			if empty != hole {
				break
			}
			at = next
		}
		if !hole {
			if _, err := w.f.WriteAt(p[begin-w.size:at-w.size], begin); err != nil {
				return 0, artifact.StorageError(fmt.Errorf("write blob: %w", err))
			}
		}
		begin = at
	}
	if hole {
		if err := w.f.Truncate(end); err != nil {
			return 0, artifact.StorageError(fmt.Errorf("write blob: %w", err))
		}
	}
	w.size = end
	return len(p), nil
}

func (w *writer) ReadAt(p []byte, off int64) (int, error) { return w.f.ReadAt(p, off) }

func (w *writer) SHA256() string { return hex.EncodeToString(w.h.Sum(nil)) }

func (w *writer) Commit() (artifact.Blob, error) {
	if w.name == "" {
		return artifact.Blob{}, errors.New("commit blob: already committed or aborted")
	}
	blob := artifact.Blob{SHA256: w.SHA256(), Size: w.size, StoredAt: w.blobs.now().Round(0)}
	// The age that a collection goes by is ours, not the moment of the last write.
	err := w.blobs.root.Chtimes(w.name, blob.StoredAt, blob.StoredAt)
	if err == nil {
		err = w.f.Sync()
	}
	if err == nil {
		err = w.publish(blob.SHA256, blob.StoredAt)
	}
	if err != nil {
		return artifact.Blob{}, errors.Join(artifact.StorageError(fmt.Errorf("commit blob: %w", err)), w.Abort())
	}
	return blob, nil
}

// publish gives the blob its name. Bytes that are there already stay and get
// the new age: they are durable, and may be in use.
func (w *writer) publish(digest string, storedAt time.Time) error {
	b := w.blobs
	b.mu.Lock()
	defer b.mu.Unlock()
	target := blobPath(digest)
	if info, err := b.root.Lstat(target); err == nil && info.Size() == w.size {
		if err := b.root.Chtimes(target, storedAt, storedAt); err != nil {
			return err
		}
		return w.Abort()
	}
	if err := b.root.MkdirAll(path.Dir(target), 0o700); err != nil {
		return err
	}
	if err := b.root.Rename(w.name, target); err != nil {
		return err
	}
	w.name = ""
	if err := errors.Join(w.f.Close(), b.sync(path.Dir(target)), b.sync(blobsDir)); err != nil {
		// Not known to be durable: better not there than perhaps there.
		return errors.Join(err, b.root.Remove(target))
	}
	return nil
}

func (w *writer) Abort() error {
	if w.name == "" {
		return nil
	}
	err := errors.Join(w.f.Close(), w.blobs.root.Remove(w.name))
	w.name = ""
	return err
}
