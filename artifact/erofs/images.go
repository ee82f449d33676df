// Package erofs makes the read-only base images that instances boot from: one
// EROFS file system per release and host, built once, cached by digest, the
// same bytes for the same release.
//
// The writer is our own. It needs one pass and no copy of the contents, keeps
// hard links, and writes what Linux 5.4 and later mounts.
package erofs

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/artifact"
	"github.com/miosa/miosa/disk"
)

// format counts changes of what the writer makes of the same release: images
// of an older one are not used and are swept.
const format = "v1"

const suffix = ".erofs"

// Config says where and how images are cached.
type Config struct {
	Dir    string          // made if missing; one process owns it
	Limits artifact.Limits // zero: the defaults
	Builds int             // at once; 0: 2
	// Grace protects an image from eviction after it was asked for, so that
	// its instance can start; 0: 10 minutes.
	Grace time.Duration
	Now   func() time.Time // nil: time.Now
}

// Images is a host's cache of base images. It is safe for concurrent use.
type Images struct {
	Config
	blobs artifact.Blobs
	slots chan struct{} // one token a build

	mu       sync.Mutex // guards building and the names in Dir
	building map[string]*build
}

// build is one image being made, and who waits for it.
type build struct {
	done    chan struct{} // closed when err is set
	err     error
	waiters int
	cancel  context.CancelFunc // when the last waiter went away
}

// New opens the cache and removes what a crash or an older format left.
func New(c Config, blobs artifact.Blobs) (*Images, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Grace == 0 {
		c.Grace = 10 * time.Minute
	}
	if c.Builds <= 0 {
		c.Builds = 2
	}
	if err := os.MkdirAll(filepath.Join(c.Dir, format), 0o755); err != nil {
		return nil, fmt.Errorf("make image directory: %w", err)
	}
	im := &Images{Config: c, blobs: blobs, slots: make(chan struct{}, c.Builds), building: map[string]*build{}}
	if err := im.sweep(); err != nil {
		return nil, fmt.Errorf("sweep image directory: %w", err)
	}
	return im, nil
}

func (im *Images) sweep() error {
	list, err := os.ReadDir(im.Dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		// Only what an earlier format of ours can have been.
		if e.IsDir() && e.Name() != format && len(e.Name()) <= 4 && strings.HasPrefix(e.Name(), "v") {
			if err := os.RemoveAll(filepath.Join(im.Dir, e.Name())); err != nil {
				return err
			}
		}
	}
	dir := filepath.Join(im.Dir, format)
	if list, err = os.ReadDir(dir); err != nil {
		return err
	}
	for _, e := range list {
		if !strings.HasSuffix(e.Name(), suffix) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func (im *Images) path(digest string, kind miosa.Kind) string {
	return filepath.Join(im.Dir, format, digest+"-"+string(kind)+suffix)
}

// Ensure is the path of the release's image, built if it is not there: once,
// however many ask at the same time. The file is complete, durable and never
// written again; it stays until Evict takes it.
//
// Errors: miosa.NotFound without such a blob, miosa.NoSpace, miosa.Invalid and
// miosa.TooLarge for an artefact that does not hold what kind says.
func (im *Images) Ensure(ctx context.Context, digest string, kind miosa.Kind) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if !artifact.IsDigest(digest) {
		return "", miosa.Errorf(miosa.NotFound, "there is no artefact %q: that is not a SHA-256", digest)
	}
	switch kind {
	case miosa.KindRootFS, miosa.KindOCI, miosa.KindStatic:
	default:
		return "", miosa.Errorf(miosa.Invalid, "there is no image of kind %q", kind)
	}
	path := im.path(digest, kind)
	im.mu.Lock()
	now := im.Now()
	err := os.Chtimes(path, now, now)
	if err == nil {
		im.mu.Unlock()
		return path, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		im.mu.Unlock()
		return "", fmt.Errorf("look for image %s: %w", digest, err)
	}
	b := im.building[path]
	if b == nil {
		buildCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		b = &build{done: make(chan struct{}), cancel: cancel}
		im.building[path] = b
		go im.run(buildCtx, b, digest, kind, path)
	}
	b.waiters++
	im.mu.Unlock()

	select {
	case <-b.done:
		return path, b.err
	case <-ctx.Done():
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	if b.waiters--; b.waiters == 0 {
		b.cancel()
		// Whoever asks from now on starts anew.
		if im.building[path] == b {
			delete(im.building, path)
		}
	}
	return "", ctx.Err()
}

func (im *Images) run(ctx context.Context, b *build, digest string, kind miosa.Kind, path string) {
	defer b.cancel()
	select {
	case im.slots <- struct{}{}:
		b.err = artifact.StorageError(im.build(ctx, digest, kind, path))
		<-im.slots
	case <-ctx.Done():
		b.err = ctx.Err()
	}
	if b.err != nil {
		b.err = fmt.Errorf("build image of %s: %w", digest, b.err)
	}
	im.mu.Lock()
	if im.building[path] == b {
		delete(im.building, path)
	}
	im.mu.Unlock()
	close(b.done)
}

// build makes one image, whole or not at all.
func (im *Images) build(ctx context.Context, digest string, kind miosa.Kind, path string) error {
	// Its VMs run as users of their own and all read it; nobody writes it.
	f, err := disk.Create(path, 0o444)
	if err != nil {
		return err
	}
	if err = im.fill(ctx, f.File, digest, kind); err == nil {
		err = f.Commit()
	}
	if err != nil && f.Named() {
		err = errors.Join(err, os.Remove(path)) // Ensure promises one that lasts
	}
	return errors.Join(err, f.Discard())
}

func (im *Images) fill(ctx context.Context, f *os.File, digest string, kind miosa.Kind) error {
	if err := Build(ctx, im.blobs, digest, kind, im.Limits, f); err != nil {
		return err
	}
	now := im.Now()
	if err := os.Chtimes(f.Name(), now, now); err != nil {
		return err
	}
	return ctx.Err()
}

// Build writes the image of a stored release into out, which is new and empty.
func Build(ctx context.Context, blobs artifact.Blobs, digest string, kind miosa.Kind, limits artifact.Limits, out Output) error {
	var uuid [16]byte
	if _, err := hex.Decode(uuid[:], []byte(digest)[:32]); err != nil {
		return fmt.Errorf("digest %q: %w", digest, err)
	}
	w := NewWriter(out)
	content, err := artifact.Unpack(ctx, blobs, digest, kind, limits, w)
	if err != nil {
		return err
	}
	defer content.Close()
	return w.Finish(content.Tree, uuid)
}

// Evicted says what an eviction freed.
type Evicted struct {
	Images int
	Bytes  int64 // of disk
	Left   int64 // bytes of disk still used; above the bound when the rest is kept
}

// Evict removes the images that were asked for longest ago until the cache
// takes at most maxBytes of disk. It never removes what keep says runs, nor
// what was asked for within the grace.
func (im *Images) Evict(keep func(sha256 string) bool, maxBytes int64) (Evicted, error) {
	im.mu.Lock()
	defer im.mu.Unlock()
	cached, err := im.list()
	if err != nil {
		return Evicted{}, fmt.Errorf("list images: %w", err)
	}
	var out Evicted
	for _, c := range cached {
		out.Left += c.disk
	}
	slices.SortFunc(cached, func(a, b image) int {
		return cmp.Or(a.used.Compare(b.used), strings.Compare(a.name, b.name))
	})
	limit := im.Now().Add(-im.Grace)
	for _, c := range cached {
		if out.Left <= maxBytes {
			break
		}
		if c.used.After(limit) || keep(c.digest) {
			continue
		}
		if err := os.Remove(filepath.Join(im.Dir, format, c.name)); err != nil {
			return out, fmt.Errorf("evict image: %w", err)
		}
		out.Images++
		out.Bytes += c.disk
		out.Left -= c.disk
	}
	return out, nil
}

// image is one file of the cache.
type image struct {
	name   string
	digest string
	used   time.Time
	disk   int64 // bytes it takes; holes take none
}

func (im *Images) list() ([]image, error) {
	entries, err := os.ReadDir(filepath.Join(im.Dir, format))
	if err != nil {
		return nil, err
	}
	var out []image
	for _, e := range entries {
		digest, _, ok := strings.Cut(e.Name(), "-")
		if !ok || !artifact.IsDigest(digest) {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		out = append(out, image{e.Name(), digest, info.ModTime(), diskUse(info)})
	}
	return out, nil
}
