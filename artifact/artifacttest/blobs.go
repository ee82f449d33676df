package artifacttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/artifact"
)

// Blobs is the conformance suite of blob stores. open makes an empty store
// that tells the time by now.
func Blobs(t *testing.T, open func(t *testing.T, now func() time.Time) artifact.Blobs) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	put := func(t *testing.T, b artifact.Blobs, body string) artifact.Blob {
		t.Helper()
		w, err := b.Create(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, body); err != nil {
			t.Fatal(err)
		}
		if w.SHA256() != Digest([]byte(body)) {
			t.Errorf("digest is %s", w.SHA256())
		}
		blob, err := w.Commit()
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Abort(); err != nil {
			t.Errorf("abort after commit: %v", err)
		}
		return blob
	}
	list := func(t *testing.T, b artifact.Blobs) []string {
		t.Helper()
		var out []string
		for blob, err := range b.List(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, blob.SHA256)
		}
		return out
	}
	code := func(t *testing.T, err error, want miosa.Code) {
		t.Helper()
		if miosa.CodeOf(err) != want {
			t.Errorf("error is %v, want %s", err, want)
		}
	}
	const absent = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

	t.Run("what is committed can be read", func(t *testing.T) {
		b := open(t, func() time.Time { return start })
		blob := put(t, b, "some bytes")
		if want := (artifact.Blob{SHA256: Digest([]byte("some bytes")), Size: 10, StoredAt: start}); !same(blob, want) {
			t.Errorf("blob %+v", blob)
		}
		if got, err := b.Stat(t.Context(), blob.SHA256); err != nil || !same(got, blob) {
			t.Errorf("stat %+v, %v", got, err)
		}
		r, err := b.Open(t.Context(), blob.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if got, err := io.ReadAll(r); err != nil || string(got) != "some bytes" {
			t.Errorf("read %q, %v", got, err)
		}
		var part [5]byte
		if _, err := r.ReadAt(part[:], 5); err != nil || string(part[:]) != "bytes" {
			t.Errorf("read at 5: %q, %v", part, err)
		}
		if at, err := r.Seek(-5, io.SeekEnd); err != nil || at != 5 {
			t.Errorf("seek: %d, %v", at, err)
		}
	})
	t.Run("what is being written can be read by its writer alone", func(t *testing.T) {
		b := open(t, func() time.Time { return start })
		w, err := b.Create(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, "hello"); err != nil {
			t.Fatal(err)
		}
		var part [4]byte
		if _, err := w.ReadAt(part[:], 1); err != nil || string(part[:]) != "ello" {
			t.Errorf("read at 1: %q, %v", part, err)
		}
		if got := list(t, b); len(got) != 0 {
			t.Errorf("listed before commit: %v", got)
		}
		_, err = b.Stat(t.Context(), w.SHA256())
		code(t, err, miosa.NotFound)
		for range 2 {
			if err := w.Abort(); err != nil {
				t.Errorf("abort: %v", err)
			}
		}
		if _, err := w.Commit(); err == nil {
			t.Error("commit after abort succeeds")
		}
		if got := list(t, b); len(got) != 0 {
			t.Errorf("listed after abort: %v", got)
		}
	})
	t.Run("zeros are bytes, however they come", func(t *testing.T) {
		b := open(t, func() time.Time { return start })
		body := strings.Repeat("\x00", 9000) + "a" + strings.Repeat("\x00", 4096) + strings.Repeat("b", 5000) + strings.Repeat("\x00", 20_000)
		for _, body := range []string{body, body + "c", body[:9000], body[:9001], ""} {
			for _, piece := range []int{1 << 20, 4096, 4095, 1000, 1} {
				w, err := b.Create(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if n, err := io.CopyBuffer(w, io.LimitReader(strings.NewReader(body), 1<<30), make([]byte, piece)); err != nil || int(n) != len(body) {
					t.Fatalf("wrote %d bytes: %v", n, err)
				}
				got := make([]byte, len(body))
				if n, err := w.ReadAt(got, 0); n != len(body) || err != nil && !errors.Is(err, io.EOF) || string(got) != body {
					t.Errorf("in pieces of %d: %d bytes can be read again of %d: %v", piece, n, len(body), err)
				}
				blob, err := w.Commit()
				if err != nil {
					t.Fatal(err)
				}
				r, err := b.Open(t.Context(), blob.SHA256)
				if err != nil {
					t.Fatal(err)
				}
				got, err = io.ReadAll(r)
				if err := errors.Join(err, r.Close()); err != nil || string(got) != body || blob.Size != int64(len(body)) || blob.SHA256 != Digest([]byte(body)) {
					t.Errorf("in pieces of %d: %d bytes, then %d: %v", piece, blob.Size, len(got), err)
				}
			}
		}
	})
	t.Run("the same bytes are one blob of a new age", func(t *testing.T) {
		now := start
		b := open(t, func() time.Time { return now })
		first := put(t, b, "x")
		now = now.Add(time.Hour)
		put(t, b, "x")
		if got, err := b.Stat(t.Context(), first.SHA256); err != nil || !got.StoredAt.Equal(now) {
			t.Errorf("stat %+v, %v", got, err)
		}
		if got := list(t, b); len(got) != 1 {
			t.Errorf("listed %v", got)
		}
		code(t, b.Delete(t.Context(), first.SHA256, start.Add(time.Minute)), miosa.Conflict)
		if err := b.Delete(t.Context(), first.SHA256, now.Add(time.Minute)); err != nil {
			t.Error(err)
		}
	})
	t.Run("what is deleted is gone, but for those who read it", func(t *testing.T) {
		b := open(t, func() time.Time { return start })
		blob := put(t, b, "x")
		r, err := b.Open(t.Context(), blob.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if err := b.Delete(t.Context(), blob.SHA256, time.Time{}); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || string(got) != "x" {
			t.Errorf("read %q, %v", got, err)
		}
		code(t, b.Delete(t.Context(), blob.SHA256, time.Time{}), miosa.NotFound)
		_, err = b.Open(t.Context(), blob.SHA256)
		code(t, err, miosa.NotFound)
	})
	t.Run("names that are no digests are not found", func(t *testing.T) {
		b := open(t, func() time.Time { return start })
		put(t, b, "x")
		for _, name := range []string{absent, "", "..", "../../etc/passwd", "sha256:" + absent, absent[:63] + "E"} {
			_, err := b.Open(t.Context(), name)
			code(t, err, miosa.NotFound)
			_, err = b.Stat(t.Context(), name)
			code(t, err, miosa.NotFound)
			code(t, b.Delete(t.Context(), name, time.Time{}), miosa.NotFound)
		}
	})
	t.Run("lists in order, and stops when told", func(t *testing.T) {
		b := open(t, func() time.Time { return start })
		for i := range 40 {
			put(t, b, fmt.Sprint(i))
		}
		got := list(t, b)
		if len(got) != 40 || !slices.IsSorted(got) {
			t.Errorf("listed %d: %v", len(got), got)
		}
		for range b.List(t.Context()) {
			break
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for _, err := range b.List(ctx) {
			if err == nil {
				t.Error("lists on after its context ended")
			}
		}
		if _, err := b.Create(ctx); err == nil {
			t.Error("creates after its context ended")
		}
	})
	t.Run("writers at once do not disturb each other", func(t *testing.T) {
		b := open(t, func() time.Time { return start })
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				body := bytes.Repeat([]byte{byte(i % 4)}, 100_000)
				w, err := b.Create(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				for part := range slices.Chunk(body, 999) {
					if _, err := w.Write(part); err != nil {
						t.Error(err)
					}
				}
				if blob, err := w.Commit(); err != nil || blob.SHA256 != Digest(body) {
					t.Errorf("commit: %+v, %v", blob, err)
				}
			})
		}
		wg.Wait()
		if got := list(t, b); len(got) != 4 {
			t.Errorf("listed %v", got)
		}
	})
}

func same(a, b artifact.Blob) bool {
	return a.SHA256 == b.SHA256 && a.Size == b.Size && a.StoredAt.Equal(b.StoredAt)
}
