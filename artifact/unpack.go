package artifact

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/ration"
)

// Unpacked is what an artefact holds.
type Unpacked struct {
	Tree      *Tree
	MediaType string // canonical
	Manifest  miosa.ArtifactManifest
	Config    miosa.ImageConfig // of kind oci
	Passed    Passed
	Notes     []string // see miosa.Release

	share *ration.Share
}

// Close says that the tree is no longer used: its memory is others'.
func (u Unpacked) Close() {
	if u.share != nil {
		u.share.Release()
	}
}

// Unpack reads a stored artefact into a tree, its contents into sink, and
// verifies on the way that the bytes are those of the digest. The same bytes
// give the same calls in the same order. It waits for memory for as long as ctx
// lasts; the caller closes what it gets once it is done with the tree.
//
// Errors that are the artefact's fault are *miosa.Error with code Invalid or
// TooLarge; those of sink come back wrapped.
func Unpack(ctx context.Context, blobs Blobs, digest string, kind miosa.Kind, limits Limits, sink Sink) (_ Unpacked, err error) {
	limits = limits.withDefaults()
	// It was accepted: it is read whatever it takes.
	s, err := share(ctx, limits.Memory, ration.Terms{Patience: -1, Unbounded: true})
	if err != nil {
		return Unpacked{}, err
	}
	defer func() {
		if err != nil {
			s.Release()
		}
	}()
	blob, err := blobs.Open(ctx, digest)
	if err != nil {
		return Unpacked{}, err
	}
	defer func() { _ = blob.Close() }()
	in := &hashing{r: blob, h: sha256.New()}
	u := unpacker{ctx: ctx, blobs: blobs, kind: kind, limits: limits, sink: sink, verified: true, share: s,
		allowance: newAllowance(limits, 0, true)}
	out, err := u.unpack(in, nil, blob)
	if in.err != nil {
		return Unpacked{}, StorageError(in.err)
	}
	if err == nil {
		_, err = io.Copy(io.Discard, in)
	}
	if err != nil {
		return Unpacked{}, err
	}
	if got := hex.EncodeToString(in.h.Sum(nil)); got != digest {
		return Unpacked{}, miosa.Errorf(miosa.Internal, "the stored artefact %s is damaged: its bytes have the digest %s", digest, got)
	}
	out.share = s
	return out, nil
}

// hashing hashes what is read through it and remembers the reader's error.
type hashing struct {
	r   io.Reader
	h   hash.Hash
	err error
}

func (r *hashing) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.h.Write(p[:n])
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

type unpacker struct {
	ctx    context.Context // of the one call
	blobs  Blobs           // for scratch space
	kind   miosa.Kind
	limits Limits
	sink   Sink
	// verified: the bytes were received before, their digest is checked as a
	// whole; what layers unpack to need not be hashed again.
	verified bool
	share    *ration.Share

	allowance *allowance
}

// unpack reads an artefact in order. random reads the same bytes anywhere,
// as far as they were read in order before.
func (u unpacker) unpack(in io.Reader, allowed []format, random io.ReaderAt) (Unpacked, error) {
	stream, err := decompress(in, allowed, u.limits, u.allowance, u.share)
	if err != nil {
		return Unpacked{}, err
	}
	defer stream.close()
	if u.kind == miosa.KindOCI {
		return u.image(stream, random)
	}
	l := newLayers(u.ctx, u.kind, u.limits, u.sink, u.allowance, u.share)
	if !u.verified {
		l.documents = map[string][]byte{}
	}
	if err := l.read(stream, 0, true); err != nil {
		return Unpacked{}, err
	}
	if !u.verified { // what was accepted before is what it was taken for
		err := l.recognise()
		if errors.Is(err, errImage) && u.kind != "" {
			err = notFiles(u.kind)
		}
		if err != nil {
			return Unpacked{}, err
		}
	}
	return l.done(stream.format.mediaType(), miosa.ImageConfig{})
}

func (u unpacker) image(stream *unpacked, random io.ReaderAt) (Unpacked, error) {
	var r io.Reader = stream
	if stream.format != formatTar {
		// Layers are read in the image's order, not the archive's: a packed
		// archive is unpacked into a blob that is never committed.
		scratch, err := u.blobs.Create(u.ctx)
		if err != nil {
			return Unpacked{}, StorageError(err)
		}
		defer func() { _ = scratch.Abort() }()
		// It takes as much of the disk as what is made of it later.
		meanwhile := *u.allowance
		tee := &teeing{r: stream, w: scratch, allowance: &meanwhile}
		r, random = tee, scratch
		a, err := indexArchive(u.ctx, r, u.limits, u.share)
		if tee.err != nil {
			return Unpacked{}, StorageError(tee.err)
		}
		if err != nil {
			return Unpacked{}, err
		}
		stream.close() // its layers have decoders of their own
		a.data = random
		return u.merge(a)
	}
	a, err := indexArchive(u.ctx, r, u.limits, u.share)
	if err != nil {
		return Unpacked{}, err
	}
	a.data = random
	return u.merge(a)
}

// merge reads the image's layers, lowest first.
func (u unpacker) merge(a *archive) (Unpacked, error) {
	img, err := readImage(a)
	if err != nil {
		return Unpacked{}, err
	}
	l := newLayers(u.ctx, u.kind, u.limits, u.sink, u.allowance, u.share)
	for i, f := range img.layers {
		diff := ""
		if len(img.diffs) > 0 && !u.verified {
			diff = img.diffs[i]
		}
		if err := u.layer(l, a, f, i, diff); err != nil {
			if e, ok := errors.AsType[*miosa.Error](err); ok {
				inLayer := *e
				inLayer.Message = "layer " + shownName(f.name) + ": " + e.Message
				return Unpacked{}, &inLayer
			}
			return Unpacked{}, err
		}
	}
	return l.done(MediaOCI, img.config.defaults())
}

func (u unpacker) layer(l *layers, a *archive, f file, number int, diff string) error {
	if f.size == 0 {
		return truncated("")
	}
	stream, err := decompress(a.section(f), nil, u.limits, u.allowance, u.share)
	if err != nil {
		return err
	}
	defer stream.close()
	if diff == "" {
		return l.read(stream, number, false)
	}
	in := &hashing{r: stream, h: sha256.New()}
	if err := l.read(bufio.NewReaderSize(in, 64<<10), number, false); err != nil {
		return err
	}
	if sum := "sha256:" + hex.EncodeToString(in.h.Sum(nil)); sum != diff {
		return invalid(CodeDigestMismatch, "its unpacked bytes have the digest %s, the image says %s", sum, shownName(diff))
	}
	return nil
}

// done closes the tree: what every kind must be.
func (l *layers) done(mediaType string, config miosa.ImageConfig) (Unpacked, error) {
	notes := l.tree.omit()
	if note := l.folder(); note != "" {
		notes = append(notes, note)
	}
	if l.tree.Files == 0 {
		return Unpacked{}, invalid(CodeNotArchive, "the archive holds no files")
	}
	if l.kind != miosa.KindStatic {
		for _, d := range mountPoints {
			if err := l.tree.ensureDir(d.name, d.mode, d.linkAllowed); err != nil {
				return Unpacked{}, err
			}
		}
	}
	return Unpacked{
		Tree: l.tree, MediaType: mediaType, Config: config, Passed: l.passed, Notes: notes,
		Manifest: miosa.ArtifactManifest{Files: l.tree.Files, TotalBytes: l.tree.Bytes, Entrypoint: entrypoint(config)},
	}, nil
}

// mountPoints are what a guest needs to find: made where an image lacks them.
var mountPoints = []struct {
	name        string
	mode        uint16
	linkAllowed bool
}{
	{"dev", 0o755, false},
	{"proc", 0o555, false},
	{"sys", 0o555, false},
	{"run", 0o755, false},
	{"tmp", 0o1777, true},
	{"etc", 0o755, false},
}

// teeing copies what is read through it, within the allowance, and remembers
// the writer's error.
type teeing struct {
	r   io.Reader
	w   io.Writer
	err error

	weight    weight
	allowance *allowance
}

func (t *teeing) Read(p []byte) (int, error) {
	if t.err != nil {
		return 0, t.err
	}
	n, err := t.r.Read(p)
	if n > 0 {
		if err := t.weight.add(p[:n], t.allowance); err != nil {
			return 0, err
		}
		if _, werr := t.w.Write(p[:n]); werr != nil {
			t.err = werr
			return 0, werr
		}
	}
	return n, err
}
