// Package artifact is the port to releases: it takes uploads in, verifies
// them, keeps them content-addressed, and reads them into the file tree that
// an instance's read-only base image is made of.
//
// Everything in an upload is hostile until shown otherwise. Nothing is ever
// unpacked onto a file system: archives are read into a Tree in memory, which
// has no way out, and file contents go to a Sink.
package artifact

import (
	"context"
	"io"
	"iter"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/ration"
)

// Blobs is a content-addressed store of uploaded artefacts; local is its
// adapter for one machine.
type Blobs interface {
	// Create begins a new blob. Nothing is visible before Commit.
	Create(ctx context.Context) (BlobWriter, error)
	// Open reads a blob by its lower-case hex SHA-256; miosa.NotFound if there
	// is none. A blob deleted meanwhile stays readable through what was opened.
	Open(ctx context.Context, sha256 string) (BlobReader, error)
	// Stat describes a blob; miosa.NotFound if there is none.
	Stat(ctx context.Context, sha256 string) (Blob, error)
	// Delete removes a blob that was last stored before the given time, in one
	// step with Commit: miosa.Conflict when it is younger, miosa.NotFound when
	// it is gone. The zero time removes it whatever its age.
	Delete(ctx context.Context, sha256 string, before time.Time) error
	// List yields every blob, in the order of their digests.
	List(ctx context.Context) iter.Seq2[Blob, error]
}

// BlobReader reads a stored blob.
type BlobReader interface {
	io.ReadSeekCloser
	io.ReaderAt
}

// BlobWriter receives one blob. It belongs to one goroutine.
type BlobWriter interface {
	io.Writer
	io.ReaderAt // of what was written so far
	// SHA256 is the lower-case hex digest of what was written so far.
	SHA256() string
	// Commit makes the blob durable under its digest (temp file, fsync,
	// rename). The same bytes twice are one blob, whose StoredAt is renewed.
	Commit() (Blob, error)
	// Abort forgets what was written; after Commit it does nothing.
	Abort() error
}

// Blob is what is known of stored bytes.
type Blob struct {
	SHA256   string // lower-case hex
	Size     int64  // bytes
	StoredAt time.Time
}

// Upload is one incoming artefact.
type Upload struct {
	Kind      miosa.Kind // rootfs or oci or static; "": rootfs or oci, whichever it is
	MediaType string     // the Content-Type; "" : told from the first bytes
	SHA256    string     // promised digest, hex; "" : none promised
	Body      io.Reader
	// Patient: nobody waits for the answer. Once the body is there, memory to read
	// it with is waited for as long as ctx lasts.
	Patient bool
}

// Stored is a verified upload.
type Stored struct {
	Kind      miosa.Kind
	Blob      Blob
	MediaType string // canonical
	Manifest  miosa.ArtifactManifest
	Config    miosa.ImageConfig
	Passed    Passed
	Notes     []string // see miosa.Release
}

// Passed counts what an archive holds, a tree does not keep, and no app can
// miss; what one might is in the notes.
type Passed struct {
	Headers int // global pax headers and volume labels
	Xattrs  int // extended attributes that mean nothing in a guest's base image
	Markers int // bookkeeping files of old layer formats (.wh..wh.*)
}

// Limits bound what an upload may hold. A zero field means its default.
type Limits struct {
	Bytes         int64 // as uploaded
	UnpackedBytes int64 // sum of all file contents, all layers, holes included
	Entries       int   // over all layers, directories made for missing parents included
	PathLength    int   // bytes of one path
	// Disk is what an archive may take of a disk, in bytes of blocks that are not
	// all zeros, and Time what it may unpack to, in bytes out of decoders, however
	// small it is; a larger one may Ratio times its own size.
	Disk, Time, Ratio int64
	// Memory is what is read with, shared with all other readers that have the
	// same; nil: as much of its own.
	Memory *ration.Pool
}

// DefaultLimits: 8 GB packed, 16 GB unpacked, 500,000 entries, 4,095-byte
// paths; 1 GB of disk and 4 GB out of decoders, or 200 times what was sent.
func DefaultLimits() Limits {
	return Limits{Bytes: 8 << 30, UnpackedBytes: 16 << 30, Entries: 500_000, PathLength: 4095, Disk: 1 << 30, Time: 4 << 30, Ratio: 200}
}

func (l Limits) withDefaults() Limits {
	d := DefaultLimits()
	if l.Bytes <= 0 {
		l.Bytes = d.Bytes
	}
	if l.UnpackedBytes <= 0 {
		l.UnpackedBytes = d.UnpackedBytes
	}
	if l.Entries <= 0 {
		l.Entries = d.Entries
	}
	if l.PathLength <= 0 {
		l.PathLength = d.PathLength
	}
	if l.Disk <= 0 {
		l.Disk = d.Disk
	}
	if l.Time <= 0 {
		l.Time = d.Time
	}
	if l.Ratio <= 0 {
		l.Ratio = d.Ratio
	}
	if l.Memory == nil {
		l.Memory = NewMemory()
	}
	return l
}
