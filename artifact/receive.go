package artifact

import (
	"bufio"
	"context"
	"errors"
	"io"
	"strings"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/ration"
)

// Receive takes an upload in: the body is written to the blob as it comes,
// never held in memory, then read from there and verified, and committed only
// when all of it is good. Whatever goes wrong, nothing of it stays stored.
//
// Reading what was sent takes memory, sending it takes as long as its sender
// likes: so nothing is read before all of it is there, but for its first bytes.
//
// Errors: *miosa.Error with code Invalid (Public says which way), TooLarge,
// Unsupported (a Content-Type that is not read), Limited (no memory to read it
// with for a minute, unless it is Patient) or NoSpace; ctx's own error when it ends; what blobs says
// otherwise. After an error the rest of the body is unread.
func Receive(ctx context.Context, blobs Blobs, up Upload, limits Limits) (Stored, error) {
	limits = limits.withDefaults()
	switch up.Kind {
	case "", miosa.KindRootFS, miosa.KindOCI, miosa.KindStatic:
	default:
		return Stored{}, invalid("kind_unknown", "the kind %s is not known; send %s, %s or %s",
			shownName(string(up.Kind)), miosa.KindRootFS, miosa.KindOCI, miosa.KindStatic)
	}
	allowed, err := declared(up.MediaType, up.Kind)
	if err != nil {
		return Stored{}, err
	}
	promised := strings.ToLower(up.SHA256)
	if promised != "" && !IsDigest(promised) {
		return Stored{}, invalid(CodeDigestMismatch, "the promised digest is not a SHA-256 of 64 hex digits")
	}

	blob, err := blobs.Create(ctx)
	if err != nil {
		return Stored{}, StorageError(err)
	}
	defer func() { _ = blob.Abort() }()
	in := &intake{ctx: ctx, body: up.Body, blob: blob, limit: limits.Bytes}
	if err := in.all(allowed); err != nil {
		return Stored{}, err
	}
	if sum := blob.SHA256(); promised != "" && sum != promised {
		return Stored{}, invalid(CodeDigestMismatch, "the upload's bytes have the SHA-256 %s, promised was %s; send it again", sum, promised)
	}
	content, err := verify(ctx, blobs, up, limits, allowed, &whole{r: blob, left: in.n})
	if errors.Is(err, errImage) {
		up.Kind = miosa.KindOCI
		content, err = verify(ctx, blobs, up, limits, allowed, &whole{r: blob, left: in.n})
	}
	if err != nil {
		return Stored{}, err
	}
	kept, err := blob.Commit()
	if err != nil {
		return Stored{}, StorageError(err)
	}
	if up.Kind == "" {
		up.Kind = miosa.KindRootFS
	}
	return Stored{
		Kind: up.Kind, Blob: kept, MediaType: content.MediaType, Manifest: content.Manifest,
		Config: content.Config, Passed: content.Passed, Notes: content.Notes,
	}, nil
}

// verify reads what was written from beginning to end. Of no kind it is
// errImage for the archive of an image, and else a root file system's.
func verify(ctx context.Context, blobs Blobs, up Upload, limits Limits, allowed []format, in *whole) (Unpacked, error) {
	terms := ration.Terms{Patience: memoryPatience}
	if up.Patient {
		terms.Patience = -1
	}
	s, err := share(ctx, limits.Memory, terms)
	if err != nil {
		return Unpacked{}, err
	}
	defer s.Release()
	u := unpacker{ctx: ctx, blobs: blobs, kind: up.Kind, limits: limits, share: s, allowance: newAllowance(limits, in.left, false)}
	content, err := u.unpack(in, allowed, in.r)
	if in.err != nil {
		return Unpacked{}, StorageError(in.err)
	}
	content.Tree = nil // nobody's any more: the share ends
	return content, err
}

// whole reads what was written in order. It remembers what really went wrong:
// decoders word every error as their own.
type whole struct {
	r    io.ReaderAt
	at   int64
	left int64
	err  error
}

func (w *whole) Read(p []byte) (int, error) {
	if w.left == 0 {
		return 0, io.EOF
	}
	n, err := w.r.ReadAt(p[:min(int64(len(p)), w.left)], w.at)
	w.at, w.left = w.at+int64(n), w.left-int64(n)
	if err == io.EOF {
		if err = nil; n == 0 {
			err = io.ErrUnexpectedEOF // it was written
		}
	}
	w.err = err
	return n, err
}

// all takes the whole body in, unless its first bytes tell that it is nothing
// that is read.
func (in *intake) all(allowed []format) error {
	buf := bufio.NewReaderSize(in, 64<<10)
	_, err := sniffAs(buf, allowed)
	if err == nil {
		_, err = io.Copy(io.Discard, buf)
	}
	return in.explain(err)
}

// intake reads the body and writes it to the blob on the way. It remembers
// what really went wrong: decoders word every error as their own.
type intake struct {
	ctx   context.Context // of the one call
	body  io.Reader
	blob  io.Writer
	limit int64
	n     int64
	err   error
}

func (in *intake) Read(p []byte) (int, error) {
	if in.err != nil {
		return 0, in.err
	}
	if err := in.ctx.Err(); err != nil {
		in.err = err
		return 0, err
	}
	n, err := in.body.Read(p)
	if in.n += int64(n); in.n > in.limit {
		in.err = tooLarge(CodeUploadTooLarge, "the upload has more than %d bytes, which is the limit", in.limit)
		return 0, in.err
	}
	if n > 0 {
		if _, werr := in.blob.Write(p[:n]); werr != nil {
			in.err = StorageError(werr)
			return 0, in.err
		}
	}
	if err != nil && err != io.EOF {
		in.err = in.bodyError(err)
		return n, in.err
	}
	return n, err
}

func (in *intake) bodyError(err error) error {
	if ctxErr := in.ctx.Err(); ctxErr != nil {
		return ctxErr
	}
	if _, ok := errors.AsType[*miosa.Error](err); ok {
		return err
	}
	return &miosa.Error{Code: miosa.Invalid, Public: CodeUploadIncomplete, Err: err,
		Message: "the upload ended before it was complete; send it again"}
}

func (in *intake) explain(err error) error {
	if in.err != nil {
		return in.err
	}
	return err
}
