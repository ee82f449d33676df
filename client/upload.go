package client

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"

	"github.com/miosa/miosa/api/resource"
)

// Artifact is something to upload. Open is called for each attempt, and once
// before, to count the digest; nothing is held in memory.
type Artifact struct {
	Open func() (io.ReadCloser, error)
	// Stream is read instead of Open where it cannot be read twice, such as what
	// a pipe brings: no digest is promised then, but compared at the end, and
	// nothing is sent again once its first byte was.
	Stream    io.Reader
	MediaType string // Content-Type; "": application/octet-stream, told by its first bytes
	Kind      string // rootfs, oci, static; "": the API tells an image from a root file system
	// Sent is called with the bytes sent so far and the size (of a stream -1),
	// from the goroutine that sends; nil: nobody wants to know.
	Sent func(sent, size int64)
}

// StreamArtifact is what r brings, once it has brought something.
func StreamArtifact(r io.Reader) (Artifact, error) {
	buf := bufio.NewReaderSize(r, 64<<10)
	head, err := buf.Peek(4)
	if len(head) == 0 {
		if err == nil || errors.Is(err, io.EOF) {
			err = errors.New("nothing came in: did the command that was to send it fail?")
		}
		return Artifact{}, err
	}
	return Artifact{Stream: buf, MediaType: mediaType(string(head))}, nil
}

// FileArtifact is a file; its media type is told by its contents. A pipe is read
// as a stream, and stays open.
func FileArtifact(path string) (Artifact, error) {
	f, err := os.Open(path)
	if err != nil {
		return Artifact{}, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() && !info.IsDir() {
		a, err := StreamArtifact(f)
		if err != nil {
			err = errors.Join(fmt.Errorf("read %s: %w", path, err), f.Close())
		}
		return a, err
	}
	defer f.Close()
	if err != nil {
		return Artifact{}, err
	}
	if info.IsDir() {
		return Artifact{}, fmt.Errorf("%s is a directory: pack it first, e.g. tar -C %s -c . | zstd > app.tar.zst", path, path)
	}
	head := make([]byte, 4)
	n, err := io.ReadFull(f, head)
	if err != nil && n == 0 {
		return Artifact{}, fmt.Errorf("%s is empty", path)
	}
	a := Artifact{Open: func() (io.ReadCloser, error) { return os.Open(path) }, MediaType: mediaType(string(head[:n]))}
	return a, nil
}

func mediaType(head string) string {
	switch {
	case strings.HasPrefix(head, "\x28\xb5\x2f\xfd"):
		return "application/zstd"
	case strings.HasPrefix(head, "\x1f\x8b"):
		return "application/gzip"
	}
	return "application/x-tar"
}

// Upload makes an artefact a release of the deployment. The same bytes twice
// are one release.
func (c *Client) Upload(ctx context.Context, deployment string, a Artifact, options ...Option) (resource.Release, error) {
	none := resource.Release{}
	if a.Stream != nil {
		return c.uploadStream(ctx, deployment, a, options)
	}
	digest, size, err := measure(ctx, a)
	if err != nil {
		return none, err
	}
	r, err := c.request(http.MethodPost, of(deployment, "/releases"), nil, options)
	if err != nil {
		return none, err
	}
	a.describe(r)
	r.header.Set("Content-Digest", "sha-256=:"+base64.StdEncoding.EncodeToString(digest)+":")
	r.open = func() (io.ReadCloser, int64, error) {
		body, err := a.Open()
		if err != nil {
			return nil, 0, err
		}
		return &counter{ReadCloser: body, size: size, sent: a.Sent}, size, nil
	}
	return c.sendArtifact(ctx, r)
}

// describe says what the artefact is.
func (a Artifact) describe(r *request) {
	if a.Kind != "" {
		r.query.Set("kind", a.Kind)
	}
	if a.MediaType == "" {
		a.MediaType = "application/octet-stream"
	}
	r.header.Set("Content-Type", a.MediaType)
	// A refusal comes before the bytes are sent.
	r.header.Set("Expect", "100-continue")
}

func (c *Client) sendArtifact(ctx context.Context, r *request) (resource.Release, error) {
	resp, err := c.send(ctx, r)
	if err != nil {
		return resource.Release{}, err
	}
	defer resp.Body.Close()
	var out resource.Object[resource.Release]
	if err := c.read(resp, &out); err != nil {
		return resource.Release{}, err
	}
	return out.Data, nil
}

func (c *Client) uploadStream(ctx context.Context, deployment string, a Artifact, options []Option) (resource.Release, error) {
	none := resource.Release{}
	r, err := c.request(http.MethodPost, of(deployment, "/releases"), nil, options)
	if err != nil {
		return none, err
	}
	a.describe(r)
	s := &stream{r: a.Stream, h: sha256.New(), sent: a.Sent}
	r.open = func() (io.ReadCloser, int64, error) { return io.NopCloser(s), -1, nil }
	r.spent = s.begun
	release, err := c.sendArtifact(ctx, r)
	if failed := s.failed(); failed != nil {
		return none, failed
	}
	if err != nil {
		return none, err
	}
	if sum := s.digest(); release.SHA256 != sum {
		return none, fmt.Errorf("what arrived is not what was sent: it has the SHA-256 %s, and should have %s; send it again", release.SHA256, sum)
	}
	return release, nil
}

// stream is read once. The goroutine that sends may outlive the request.
type stream struct {
	sent func(sent, size int64)

	mu  sync.Mutex // guards the rest, but not while something is waited for
	r   io.Reader
	h   hash.Hash
	n   int64
	err error
}

func (s *stream) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.h.Write(b[:n])
	s.n += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = fmt.Errorf("read artefact: %w", err)
	}
	if s.sent != nil {
		s.sent(s.n, -1)
	}
	return n, err
}

// begun reports whether it is too late to read it from its beginning.
func (s *stream) begun() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n > 0
}

func (s *stream) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *stream) digest() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return hex.EncodeToString(s.h.Sum(nil))
}

// measure reads the artefact once for its digest.
func measure(ctx context.Context, a Artifact) (digest []byte, size int64, err error) {
	body, err := a.Open()
	if err != nil {
		return nil, 0, err
	}
	defer body.Close()
	h := sha256.New()
	size, err = io.Copy(h, &stoppable{ctx, body})
	if err != nil {
		return nil, 0, fmt.Errorf("read artefact: %w", err)
	}
	return h.Sum(nil), size, nil
}

// stoppable is a reader that ends with its context.
type stoppable struct {
	ctx context.Context
	r   io.Reader
}

func (s *stoppable) Read(b []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	return s.r.Read(b)
}

// counter tells how much of a body was read.
type counter struct {
	io.ReadCloser
	n, size int64
	sent    func(sent, size int64)
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	c.n += int64(n)
	if c.sent != nil {
		c.sent(c.n, c.size)
	}
	return n, err
}
