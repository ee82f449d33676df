package erofs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/artifact"
	"github.com/miosa/miosa/artifact/artifacttest"
	"github.com/miosa/miosa/artifact/erofs"
)

// gated is a blob store whose readers wait until the gate opens.
type gated struct {
	artifact.Blobs
	opened atomic.Int32
	reach  chan struct{}
	gate   chan struct{}
}

func newGated(b artifact.Blobs) *gated {
	return &gated{Blobs: b, reach: make(chan struct{}, 100), gate: make(chan struct{})}
}

func (g *gated) Open(ctx context.Context, digest string) (artifact.BlobReader, error) {
	g.opened.Add(1)
	g.reach <- struct{}{}
	select {
	case <-g.gate:
		return g.Blobs.Open(ctx, digest)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func cached(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out = append(out, filepath.Base(path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestManyAskAndOneIsBuilt(t *testing.T) {
	g := newGated(newBlobs(t))
	digest := store(t, g.Blobs, miosa.KindRootFS, artifacttest.Tar(at("app", "x"))).Blob.SHA256
	dir := t.TempDir()
	im, err := erofs.New(erofs.Config{Dir: dir}, g)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			path, err := im.Ensure(t.Context(), digest, miosa.KindRootFS)
			if err != nil {
				t.Error(err)
			} else if info, err := os.Stat(path); err != nil || info.Mode() != 0o444 {
				t.Errorf("%v, %v", info, err)
			}
		})
	}
	<-g.reach
	close(g.gate)
	wg.Wait()
	if _, err := im.Ensure(t.Context(), digest, miosa.KindRootFS); err != nil {
		t.Error(err)
	}
	if n := g.opened.Load(); n != 1 {
		t.Errorf("built %d times", n)
	}
	if got := cached(t, dir); len(got) != 1 {
		t.Errorf("cache holds %v", got)
	}
}

func TestABuildEndsWithItsLastWaiter(t *testing.T) {
	g := newGated(newBlobs(t))
	digest := store(t, g.Blobs, miosa.KindRootFS, artifacttest.Tar(at("app", "x"))).Blob.SHA256
	dir := t.TempDir()
	im, err := erofs.New(erofs.Config{Dir: dir}, g)
	if err != nil {
		t.Fatal(err)
	}
	first, cancelFirst := context.WithCancel(t.Context())
	second, cancelSecond := context.WithCancel(t.Context())
	defer cancelSecond()
	results := make(chan error, 2)
	go func() { _, err := im.Ensure(first, digest, miosa.KindRootFS); results <- err }()
	<-g.reach
	go func() { _, err := im.Ensure(second, digest, miosa.KindRootFS); results <- err }()
	cancelFirst()
	if err := <-results; !errors.Is(err, context.Canceled) {
		t.Errorf("first: %v", err)
	}
	cancelSecond()
	if err := <-results; !errors.Is(err, context.Canceled) {
		t.Errorf("second: %v", err)
	}
	close(g.gate)
	if _, err := im.Ensure(t.Context(), digest, miosa.KindRootFS); err != nil {
		t.Errorf("after the cancelled ones: %v", err)
	}
}

func TestFailedBuildsLeaveNothing(t *testing.T) {
	blobs := newBlobs(t)
	put := func(body string) string {
		w, err := blobs.Create(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, body); err != nil {
			t.Fatal(err)
		}
		blob, err := w.Commit()
		if err != nil {
			t.Fatal(err)
		}
		return blob.SHA256
	}
	dir := t.TempDir()
	im, err := erofs.New(erofs.Config{Dir: dir, Limits: artifact.Limits{Entries: 10}}, blobs)
	if err != nil {
		t.Fatal(err)
	}
	var many []artifacttest.Entry
	for i := range 20 {
		many = append(many, at(fmt.Sprint(i), "x"))
	}
	for name, c := range map[string]struct {
		digest string
		kind   miosa.Kind
		code   miosa.Code
	}{
		"no such blob":      {strings.Repeat("0", 64), miosa.KindRootFS, miosa.NotFound},
		"no digest":         {"../../etc/passwd", miosa.KindRootFS, miosa.NotFound},
		"no kind":           {put("x"), "../x", miosa.Invalid},
		"not an archive":    {put("garbage"), miosa.KindRootFS, miosa.Invalid},
		"not an image":      {put(string(artifacttest.Tar(at("app", "")))), miosa.KindOCI, miosa.Invalid},
		"beyond the limits": {put(string(artifacttest.Tar(many...))), miosa.KindRootFS, miosa.TooLarge},
	} {
		if _, err := im.Ensure(t.Context(), c.digest, c.kind); miosa.CodeOf(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := cached(t, dir); len(got) != 0 {
		t.Errorf("cache holds %v", got)
	}
}

// rotten is a blob store whose disk changed a bit.
type rotten struct{ artifact.Blobs }

func (r rotten) Open(ctx context.Context, digest string) (artifact.BlobReader, error) {
	b, err := r.Blobs.Open(ctx, digest)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	body, err := io.ReadAll(b)
	if err != nil {
		return nil, err
	}
	return memory{bytes.NewReader(bytes.Replace(body, []byte("good content"), []byte("evil content"), 1))}, nil
}

type memory struct{ *bytes.Reader }

func (memory) Close() error { return nil }

func TestDamagedBlobsAreNotBooted(t *testing.T) {
	blobs := newBlobs(t)
	body := artifacttest.Tar(at("app", "good content"))
	for kind, body := range map[miosa.Kind][]byte{
		miosa.KindRootFS: body,
		miosa.KindOCI:    artifacttest.Layout(artifacttest.Image{Layers: [][]byte{body}}),
	} {
		digest := store(t, blobs, kind, body).Blob.SHA256
		if path, err := newImages(t, rotten{blobs}).Ensure(t.Context(), digest, kind); err == nil {
			t.Errorf("%s: built %s", kind, path)
		}
	}
}

func TestLeftoversAreSwept(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"v1/building-123", "v0/old.erofs"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := erofs.New(erofs.Config{Dir: dir}, newBlobs(t)); err != nil {
		t.Fatal(err)
	}
	if got := cached(t, dir); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}

func TestEvict(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	blobs := newBlobs(t)
	dir := t.TempDir()
	im, err := erofs.New(erofs.Config{Dir: dir, Grace: time.Minute, Now: func() time.Time { return now }}, blobs)
	if err != nil {
		t.Fatal(err)
	}
	var digests []string
	for i := range 5 {
		body := artifacttest.Tar(at("app", strings.Repeat(fmt.Sprint(i), 200_000)))
		digests = append(digests, store(t, blobs, miosa.KindRootFS, body).Blob.SHA256)
	}
	ensure := func(i int) {
		t.Helper()
		if _, err := im.Ensure(t.Context(), digests[i], miosa.KindRootFS); err != nil {
			t.Fatal(err)
		}
		now = now.Add(2 * time.Minute)
	}
	for i := range digests {
		ensure(i)
	}
	ensure(0) // used again: now the youngest
	left := func() string {
		var out []string
		for i, d := range digests {
			for _, name := range cached(t, dir) {
				if strings.HasPrefix(name, d) {
					out = append(out, fmt.Sprint(i))
				}
			}
		}
		return strings.Join(out, "")
	}
	runs := func(i int) func(string) bool { return func(d string) bool { return d == digests[i] } }

	whole, err := im.Evict(runs(1), 1<<40)
	if err != nil || whole.Images != 0 {
		t.Fatalf("below the bound: %+v, %v", whole, err)
	}
	each := whole.Left / 5
	got, err := im.Evict(runs(1), whole.Left-each-1)
	if err != nil || got.Images != 2 || got.Left != whole.Left-2*each || left() != "014" {
		t.Errorf("evicted %+v, %v; left %s, want 014", got, err, left())
	}
	// 4 was asked for just now: it stays, whatever the bound.
	if _, err := im.Ensure(t.Context(), digests[4], miosa.KindRootFS); err != nil {
		t.Fatal(err)
	}
	if got, err = im.Evict(runs(1), 0); err != nil || left() != "14" {
		t.Errorf("evicted %+v, %v; left %s, want 14", got, err, left())
	}
	ensure(0)
	if left() != "014" {
		t.Errorf("an evicted image does not come back: %s", left())
	}
}
