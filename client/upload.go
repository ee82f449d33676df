package client

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/miosa/miosa/api/resource"
)

// Artifact is something to upload. Open is called for each attempt, and once
// before, to count the digest; nothing is held in memory.
type Artifact struct {
	Open      func() (io.ReadCloser, error)
	MediaType string // Content-Type; "": application/octet-stream, told by its first bytes
	Kind      string // rootfs, oci, static; "": the API tells an image from a root file system
	// Sent is called with the bytes sent so far and the size, from the
	// goroutine that sends; nil: nobody wants to know.
	Sent func(sent, size int64)
}

// FileArtifact is a file; its media type is told by its contents.
func FileArtifact(path string) (Artifact, error) {
	f, err := os.Open(path)
	if err != nil {
		return Artifact{}, err
	}
	defer f.Close()
	info, err := f.Stat()
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
	digest, size, err := measure(ctx, a)
	if err != nil {
		return none, err
	}
	r, err := c.request(http.MethodPost, of(deployment, "/releases"), nil, options)
	if err != nil {
		return none, err
	}
	if a.Kind != "" {
		r.query.Set("kind", a.Kind)
	}
	if a.MediaType == "" {
		a.MediaType = "application/octet-stream"
	}
	r.header.Set("Content-Type", a.MediaType)
	r.header.Set("Content-Digest", "sha-256=:"+base64.StdEncoding.EncodeToString(digest)+":")
	// A refusal comes before the bytes are sent.
	r.header.Set("Expect", "100-continue")
	r.open = func() (io.ReadCloser, int64, error) {
		body, err := a.Open()
		if err != nil {
			return nil, 0, err
		}
		return &counter{ReadCloser: body, size: size, sent: a.Sent}, size, nil
	}
	resp, err := c.send(ctx, r)
	if err != nil {
		return none, err
	}
	defer resp.Body.Close()
	var out resource.Object[resource.Release]
	if err := c.read(resp, &out); err != nil {
		return none, err
	}
	return out.Data, nil
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
