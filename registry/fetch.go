package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/miosa/miosa/artifact"
)

// diskError is the platform's own disk that failed.
type diskError struct{ err error }

func (e *diskError) Error() string { return e.err.Error() }
func (e *diskError) Unwrap() error { return e.err }

// Fetch gets a layer into a file that may hold its beginning already, and goes
// on behind that as often as the connection is cut. progress is told how many
// bytes are there; it may go back. When it returns nil, the file holds the layer
// and nothing else.
//
// Errors: *miosa.Error in words for who named the image, or NoSpace; ctx's own.
func (s *Source) Fetch(ctx context.Context, b Blob, f *os.File, progress func(there int64)) error {
	l := &fetching{s: s, blob: b, f: f, progress: progress}
	if err := l.begin(); err != nil {
		return artifact.StorageError(err)
	}
	damaged := false
	for {
		err := s.again(ctx, "layer "+b.Digest+" in "+s.ref.Repository, func() (bool, error) { return l.once(ctx) })
		if disk, ok := errors.AsType[*diskError](err); ok {
			return artifact.StorageError(disk.err)
		}
		if err != nil {
			return err
		}
		sum := "sha256:" + hex.EncodeToString(l.hash.Sum(nil))
		if sum == b.Digest {
			return nil
		}
		// What was there before may be the damage: once from the beginning.
		if damaged || !l.pieced {
			_ = l.reset()
			return invalid(CodeDigest, "%s gave bytes for layer %s that have the digest %s: they were changed on the way, or the registry is damaged", s.ref.Host, b.Digest, sum)
		}
		damaged = true
		if err := l.reset(); err != nil {
			return artifact.StorageError(err)
		}
	}
}

// fetching is one layer on its way.
type fetching struct {
	s        *Source
	blob     Blob
	f        *os.File
	progress func(int64)
	hash     hash.Hash
	there    int64
	pieced   bool // it came in several pieces
}

// begin reads what the file holds already.
func (l *fetching) begin() error {
	l.hash = sha256.New()
	if _, err := l.f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	n, err := io.Copy(l.hash, l.f)
	if err != nil {
		return err
	}
	if l.there, l.pieced = n, n > 0; n > l.blob.Size {
		return l.reset()
	}
	l.progress(l.there)
	return nil
}

func (l *fetching) reset() error {
	l.hash.Reset()
	l.there, l.pieced = 0, false
	l.progress(0)
	if err := l.f.Truncate(0); err != nil {
		return err
	}
	_, err := l.f.Seek(0, io.SeekStart)
	return err
}

// once asks for the rest and writes what comes.
func (l *fetching) once(ctx context.Context) (further bool, err error) {
	if l.there == l.blob.Size && l.there > 0 {
		return true, nil
	}
	before := l.there
	l.s.pace.begin()
	defer l.s.pace.end()
	resp, err := l.s.get(ctx, "blobs/"+l.blob.Digest, "", l.there)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	if l.there > 0 {
		l.pieced = true
		if resp.StatusCode != http.StatusPartialContent || rangeStart(resp.Header.Get("Content-Range")) != l.there {
			if resp.StatusCode == http.StatusPartialContent {
				return false, invalid(CodeFailing, "%s gives another part of layer %s than it is asked for", l.s.ref.Host, l.blob.Digest)
			}
			if err := l.reset(); err != nil { // it knows no ranges
				return false, &diskError{err}
			}
			before = 0
		}
	}
	// One byte more than there should be tells that there is more.
	_, err = io.Copy(l, io.LimitReader(resp.Body, l.blob.Size-l.there+1))
	further = l.there > before
	switch {
	case l.there > l.blob.Size:
		_ = l.reset()
		return false, invalid(CodeDigest, "%s gives more bytes for layer %s than the %d that the image says it has", l.s.ref.Host, l.blob.Digest, l.blob.Size)
	case err != nil:
		return further, err
	case l.there < l.blob.Size:
		return further, io.ErrUnexpectedEOF
	}
	return further, nil
}

// Write keeps what came.
func (l *fetching) Write(p []byte) (int, error) {
	n, err := l.f.Write(p)
	l.hash.Write(p[:n])
	l.there += int64(n)
	l.progress(min(l.there, l.blob.Size))
	if err != nil {
		return n, &diskError{fmt.Errorf("write layer: %w", err)}
	}
	return n, l.s.pace.add(n)
}

// rangeStart reads "bytes 100-199/200"; -1: it says something else.
func rangeStart(v string) int64 {
	rest, ok := strings.CutPrefix(v, "bytes ")
	first, _, dash := strings.Cut(rest, "-")
	n, err := strconv.ParseInt(first, 10, 64)
	if !ok || !dash || err != nil {
		return -1
	}
	return n
}
