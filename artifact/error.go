package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"

	"github.com/klauspost/compress/zstd"

	"github.com/miosa/miosa"
)

// The public error codes of this package.
const (
	CodeDigestMismatch    = "digest_mismatch"     // the bytes are not those promised
	CodeUploadIncomplete  = "upload_incomplete"   // the connection ended early
	CodeUploadTooLarge    = "upload_too_large"    // more bytes than allowed
	CodeTruncated         = "archive_truncated"   // the archive ends in the middle
	CodeNotArchive        = "archive_invalid"     // not the format it should be
	CodeEntryRefused      = "entry_refused"       // one entry is not acceptable
	CodeArchiveTooLarge   = "archive_too_large"   // too much once unpacked
	CodeArchiveBomb       = "archive_bomb"        // costs more than one of its size may
	CodeImageInvalid      = "image_invalid"       // the OCI image contradicts itself
	CodeNoPlatform        = "image_platform"      // no linux/amd64 image inside
	CodeMediaType         = "media_type_mismatch" // Content-Type and bytes differ
	CodeBusy              = "uploads_busy"        // others take all memory for reading
	CodeMediaTypeRejected = "media_type_unsupported"
)

// shownName keeps hostile names short and printable in messages.
func shownName(name string) string {
	if len(name) > 200 {
		return fmt.Sprintf("%q…", name[:200])
	}
	return fmt.Sprintf("%q", name)
}

func invalid(public, format string, args ...any) *miosa.Error {
	e := miosa.Errorf(miosa.Invalid, format, args...)
	e.Public = public
	return e
}

func refused(name, format string, args ...any) *miosa.Error {
	return invalid(CodeEntryRefused, "entry %s %s", shownName(name), fmt.Sprintf(format, args...))
}

func tooLarge(public, format string, args ...any) *miosa.Error {
	e := miosa.Errorf(miosa.TooLarge, format, args...)
	e.Public = public
	return e
}

func truncated(after string) *miosa.Error {
	if after == "" {
		return invalid(CodeTruncated, "the archive is truncated: it ends before its first entry is complete")
	}
	return invalid(CodeTruncated, "the archive is truncated: it ends at or after entry %s", shownName(after))
}

// sinkError is a failure to keep contents: never the archive's fault.
type sinkError struct{ err error }

func (e *sinkError) Error() string { return e.err.Error() }
func (e *sinkError) Unwrap() error { return e.err }

// archiveError words what a decoder said; after is the last entry seen.
func archiveError(err error, after string) error {
	if _, ok := errors.AsType[*miosa.Error](err); ok {
		return err
	}
	if b, ok := errors.AsType[*bomb](err); ok {
		return b.in(after)
	}
	if _, ok := errors.AsType[*sinkError](err); ok || err == nil ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return truncated(after)
	}
	if errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		return &miosa.Error{Code: miosa.Invalid, Public: CodeNotArchive, Err: err, Message: fmt.Sprintf(
			"the archive wants a zstd window of over %d MB, or a later frame of it one of over %d MB and of more than its first did: compress it in one piece, without --long",
			maxWindow>>20, window>>20)}
	}
	where := "at its beginning"
	if after != "" {
		where = "after entry " + shownName(after)
	}
	return &miosa.Error{Code: miosa.Invalid, Public: CodeNotArchive, Err: err,
		Message: "the archive cannot be read " + where + ": it is damaged, or not a tar archive"}
}

// StorageError gives a failed write or read of the platform's own disk its
// code: a full disk is miosa.NoSpace, anything else stays what it was.
func StorageError(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*miosa.Error](err); ok {
		return err
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return &miosa.Error{Code: miosa.NoSpace, Err: err,
			Message: "the platform has no disk space left for this artefact; try again later"}
	}
	return err
}
