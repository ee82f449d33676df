package artifact_test

import (
	"bytes"
	"context"
	"io"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/artifact"
	. "github.com/miosa/miosa/artifact/artifacttest"
	"github.com/miosa/miosa/artifact/erofs"
	"github.com/miosa/miosa/ration"
)

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
	for _, g := range GreedyArchives() {
		t.Run(g.Name, func(t *testing.T) {
			s := newShelf(t)
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
	for _, g := range GreedyArchives() {
		t.Run(g.Name, func(t *testing.T) {
			s := newShelf(t)
			memory := artifact.NewMemory()
			_, err := artifact.Receive(t.Context(), s, artifact.Upload{Kind: g.Kind, Body: bytes.NewReader(g.Bytes(2<<20, 1))}, artifact.Limits{Memory: memory})
			if code := miosa.CodeOf(err); err != nil && code != miosa.TooLarge && code != miosa.Invalid {
				t.Errorf("answered %v", err)
			}
			if now, peak := memory.Held(); now != 0 || peak > artifact.MostMemory {
				t.Errorf("held %d bytes at most, %d in the end", peak, now)
			}
			if left := s.files(t); err != nil && len(left) > 0 {
				t.Errorf("the store holds %v", left)
			}
		})
	}
}

// Uploads wait for their turn, for a while; what was accepted before waits for
// as long as it takes. Who sends slowly takes nothing from the others.
func TestUploadsWaitForMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := NewMemory(time.Now)
		body := Tar(app)
		memory := ration.New(0, 64<<20)
		limits := artifact.Limits{Memory: memory}
		send := func(ctx context.Context, body io.Reader) error {
			_, err := artifact.Receive(ctx, store, artifact.Upload{Kind: miosa.KindRootFS, Body: body}, limits)
			return err
		}
		slow, rest := io.Pipe()
		ended := make(chan error, 1)
		go func() { ended <- send(t.Context(), slow) }()
		if _, err := rest.Write(body[:700]); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := send(t.Context(), bytes.NewReader(body)); err != nil {
			t.Errorf("beside one that is slow: %v", err)
		}

		other, err := memory.Take(t.Context(), ration.Terms{}, 1)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		err = send(t.Context(), bytes.NewReader(body))
		if took := time.Since(began); miosa.CodeOf(err) != miosa.Limited || took != time.Minute {
			t.Errorf("after %v: %v", took, err)
		}
		go func() {
			_, err := rest.Write(body[700:])
			if err == nil {
				err = rest.Close()
			}
			if err != nil {
				t.Error(err)
			}
		}()
		built := make(chan error, 1)
		go func() {
			u, err := artifact.Unpack(t.Context(), store, Digest(body), miosa.KindRootFS, limits, nil)
			u.Close()
			built <- err
		}()
		<-time.After(30 * time.Second) // virtual
		synctest.Wait()
		other.Release()
		if err := <-ended; err != nil {
			t.Errorf("the slow one: %v", err)
		}
		if err := <-built; err != nil {
			t.Errorf("one that was accepted before: %v", err)
		}
		if now, _ := memory.Held(); now != 0 {
			t.Errorf("%d bytes held in the end", now)
		}
	})
}
