// Package artifact is the port to releases: it takes uploads in, verifies
// them, keeps them content-addressed, and makes the read-only base image an
// instance boots from.
package artifact

import (
	"context"
	"io"
	"iter"
	"time"

	"github.com/miosa/miosa"
)

// Blobs is a content-addressed store of uploaded artefacts; local is its
// adapter for one machine.
type Blobs interface {
	// Create begins a new blob. Nothing is visible before Commit.
	Create(ctx context.Context) (BlobWriter, error)
	// Open reads a blob by its lower-case hex SHA-256; miosa.NotFound if there is none.
	Open(ctx context.Context, sha256 string) (io.ReadSeekCloser, error)
	Stat(ctx context.Context, sha256 string) (Blob, error)
	Delete(ctx context.Context, sha256 string) error
	List(ctx context.Context) iter.Seq2[Blob, error]
}

// BlobWriter receives one blob. Abort after Commit is harmless.
type BlobWriter interface {
	io.Writer
	// Commit makes the blob durable under its digest (temp file, fsync,
	// rename); the same bytes twice are one blob.
	Commit() (Blob, error)
	Abort() error
}

// Blob is what is known of stored bytes.
type Blob struct {
	SHA256   string
	Size     int64
	StoredAt time.Time
}

// Upload is one incoming artefact.
type Upload struct {
	Kind      miosa.Kind // rootfs or oci or static
	MediaType string     // the Content-Type; "" : told from the first bytes
	SHA256    string     // promised digest, lower-case hex; "" : none promised
	Body      io.Reader
}

// Stored is a verified upload.
type Stored struct {
	Blob      Blob
	MediaType string // canonical
	Manifest  miosa.ArtifactManifest
	Config    miosa.ImageConfig
}

// Limits bound what an upload may hold. The zero value means DefaultLimits.
type Limits struct {
	Bytes         int64 // as uploaded
	UnpackedBytes int64
	Entries       int
	PathLength    int   // bytes of one path
	Ratio         int64 // unpacked bytes per packed byte, once past 64 MB unpacked
}

// DefaultLimits: 8 GB packed, 16 GB unpacked, 500,000 entries, 4,095-byte
// paths, 200 times compression.
func DefaultLimits() Limits {
	return Limits{Bytes: 8 << 30, UnpackedBytes: 16 << 30, Entries: 500_000, PathLength: 4095, Ratio: 200}
}
