package artifacttest_test

import (
	"bytes"
	"io"
	"runtime"
	"testing"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/artifact"
	"github.com/miosa/miosa/artifact/artifacttest"
	"github.com/miosa/miosa/artifact/erofs"
	"github.com/miosa/miosa/artifact/local"
	"github.com/miosa/miosa/ration"
)

// onDisk opens a store that holds nothing in memory.
func onDisk(t *testing.T) (*local.Blobs, string) {
	t.Helper()
	return artifacttest.OnDisk(t, func(dir string) (*local.Blobs, error) { return local.New(local.Config{Dir: dir}) })
}

// keep stores bytes as they are.
func keep(t testing.TB, blobs artifact.Blobs, body []byte) string {
	t.Helper()
	w, err := blobs.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(body); err != nil {
		t.Fatal(err)
	}
	blob, err := w.Commit()
	if err != nil {
		t.Fatal(err)
	}
	return blob.SHA256
}

// live is what the heap has, without garbage, in bytes.
func live() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// watcher is the writer of an image, and looks at the heap as it grows.
type watcher struct {
	*erofs.Writer
	t      *testing.T
	memory *ration.Pool
	before int64
	last   int64
	looks  int
}

func (w *watcher) look() {
	held, _ := w.memory.Held()
	w.last = held
	w.looks++
	if heap := live() - w.before; heap > held {
		w.t.Errorf("%d MB on the heap, %d MB in the share", heap>>20, held>>20)
	}
}

func (w *watcher) grown() {
	if held, _ := w.memory.Held(); held > w.last+16<<20 {
		w.look()
	}
}

func (w *watcher) File(n *artifact.Node, content io.Reader) (uint64, error) {
	w.grown()
	return w.Writer.File(n, content)
}

func (w *watcher) Symlink(n *artifact.Node) (uint64, error) {
	w.grown()
	return w.Writer.Symlink(n)
}

// nowhere is an image file that nobody reads.
type nowhere struct{}

func (nowhere) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (nowhere) Truncate(int64) error                   { return nil }

// What a reading holds is never more than its share: the heap is looked at
// again and again while greedy archives are read and images made of them.
func TestTheShareBoundsTheHeap(t *testing.T) {
	for _, g := range artifacttest.GreedyArchives() {
		t.Run(g.Name, func(t *testing.T) {
			s, _ := onDisk(t)
			digest := keep(t, s, g.Bytes(2<<20, 1))
			memory := artifact.NewMemory()
			w := &watcher{Writer: erofs.NewWriter(nowhere{}), t: t, memory: memory, before: live()}
			u, err := artifact.Unpack(t.Context(), s, digest, g.Kind, artifact.Limits{Memory: memory}, w)
			if err != nil {
				if code := miosa.CodeOf(err); code != miosa.TooLarge && code != miosa.Invalid {
					t.Errorf("answered %v", err)
				}
			} else {
				w.look()
				if err := w.Finish(u.Tree, [16]byte{}); err != nil {
					t.Error(err)
				}
				w.look()
				runtime.KeepAlive(u.Tree)
				u.Close()
				if w.looks < 2 {
					t.Error("nobody looked")
				}
			}
			if now, peak := memory.Held(); now != 0 {
				t.Errorf("held %d bytes at most, %d in the end", peak, now)
			}
		})
	}
}

// An upload that is greedy is refused, and nothing of it stays.
func TestGreedyUploadsStayWithinTheShare(t *testing.T) {
	for _, g := range artifacttest.GreedyArchives() {
		t.Run(g.Name, func(t *testing.T) {
			s, dir := onDisk(t)
			memory := artifact.NewMemory()
			_, err := artifact.Receive(t.Context(), s, artifact.Upload{Kind: g.Kind, Body: bytes.NewReader(g.Bytes(2<<20, 1))}, artifact.Limits{Memory: memory})
			if code := miosa.CodeOf(err); err != nil && code != miosa.TooLarge && code != miosa.Invalid {
				t.Errorf("answered %v", err)
			}
			if now, peak := memory.Held(); now != 0 || peak > artifact.MostMemory {
				t.Errorf("held %d bytes at most, %d in the end", peak, now)
			}
			if left := artifacttest.Files(t, dir); err != nil && len(left) > 0 {
				t.Errorf("the store holds %v", left)
			}
		})
	}
}
