package artifacttest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/artifact"
)

// Memory is an artifact.Blobs that forgets everything when the process ends.
type Memory struct {
	now func() time.Time

	mu    sync.Mutex // guards blobs
	blobs map[string]memoryBlob
}

type memoryBlob struct {
	data     []byte
	storedAt time.Time
}

var _ artifact.Blobs = (*Memory)(nil)

// NewMemory makes an empty store.
func NewMemory(now func() time.Time) *Memory {
	return &Memory{now: now, blobs: map[string]memoryBlob{}}
}

// Create begins a blob.
func (m *Memory) Create(ctx context.Context) (artifact.BlobWriter, error) {
	return &memoryWriter{store: m}, ctx.Err()
}

// Open reads a blob.
func (m *Memory) Open(ctx context.Context, digest string) (artifact.BlobReader, error) {
	b, err := m.get(ctx, digest)
	return memoryReader{bytes.NewReader(b.data)}, err
}

// Stat describes a blob.
func (m *Memory) Stat(ctx context.Context, digest string) (artifact.Blob, error) {
	b, err := m.get(ctx, digest)
	if err != nil {
		return artifact.Blob{}, err
	}
	return artifact.Blob{SHA256: digest, Size: int64(len(b.data)), StoredAt: b.storedAt}, nil
}

func (m *Memory) get(ctx context.Context, digest string) (memoryBlob, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.blobs[digest]
	if !ok {
		return b, miosa.Errorf(miosa.NotFound, "there is no artefact %q", digest)
	}
	return b, ctx.Err()
}

// Delete removes a blob stored before the given time.
func (m *Memory) Delete(ctx context.Context, digest string, before time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.blobs[digest]
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case !ok:
		return miosa.Errorf(miosa.NotFound, "there is no artefact %q", digest)
	case !before.IsZero() && !b.storedAt.Before(before):
		return miosa.Errorf(miosa.Conflict, "the artefact %s was stored again meanwhile", digest)
	}
	delete(m.blobs, digest)
	return nil
}

// List yields every blob.
func (m *Memory) List(ctx context.Context) iter.Seq2[artifact.Blob, error] {
	return func(yield func(artifact.Blob, error) bool) {
		m.mu.Lock()
		digests := slices.Sorted(maps.Keys(m.blobs))
		m.mu.Unlock()
		for _, digest := range digests {
			b, err := m.Stat(ctx, digest)
			if miosa.CodeOf(err) == miosa.NotFound {
				continue
			}
			if !yield(b, err) || err != nil {
				return
			}
		}
	}
}

type memoryReader struct{ *bytes.Reader }

func (memoryReader) Close() error { return nil }

type memoryWriter struct {
	store *Memory
	data  []byte
	done  bool
}

func (w *memoryWriter) Write(p []byte) (int, error) {
	w.data = append(w.data, p...)
	return len(p), nil
}

func (w *memoryWriter) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(w.data)) {
		return 0, io.EOF
	}
	n := copy(p, w.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (w *memoryWriter) SHA256() string { return Digest(w.data) }

func (w *memoryWriter) Commit() (artifact.Blob, error) {
	if w.done {
		return artifact.Blob{}, errors.New("already committed or aborted")
	}
	w.done = true
	b := memoryBlob{w.data, w.store.now()}
	digest := w.SHA256()
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	w.store.blobs[digest] = b
	return artifact.Blob{SHA256: digest, Size: int64(len(b.data)), StoredAt: b.storedAt}, nil
}

func (w *memoryWriter) Abort() error {
	w.done = true
	return nil
}
