package artifact

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/miosa/miosa"
)

func zstdOf(t *testing.T, text string, window int) []byte {
	t.Helper()
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out, zstd.WithWindowSize(window))
	if err != nil {
		t.Fatal(err)
	}
	// Written and flushed, its size is not known beforehand: then the frame has
	// the window, and not its own size.
	_, err = io.WriteString(z, text)
	if err := errors.Join(err, z.Flush(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// A few bytes make a decoder allocate a large window: not many may at once.
func TestWideWindowsTakeTurns(t *testing.T) {
	read := func(packed []byte, in *turn) (string, error) {
		u, err := decompress(bytes.NewReader(packed), nil, Limits{}.withDefaults(), in)
		if err != nil {
			return "", err
		}
		defer u.close()
		b, err := io.ReadAll(u)
		return string(b), archiveError(err, "")
	}
	narrow, broad := zstdOf(t, "narrow", window), zstdOf(t, "broad", 4*window)
	skipped := append([]byte{0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 'x'}, broad...)
	later := append(bytes.Clone(narrow), broad...)

	var turns []*turn
	for range cap(wide) {
		in := &turn{ctx: t.Context(), patience: widePatience}
		for range 2 { // an image's two decoders are one upload's
			if text, err := read(broad, in); text != "broad" || err != nil {
				t.Fatalf("read %q, %v", text, err)
			}
		}
		turns = append(turns, in)
	}
	for _, packed := range [][]byte{broad, skipped} {
		if _, err := read(packed, &turn{ctx: t.Context()}); miosa.CodeOf(err) != miosa.Limited {
			t.Errorf("one more: %v", err)
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := read(broad, &turn{ctx: gone, patience: widePatience}); !errors.Is(err, context.Canceled) {
		t.Errorf("one that gave up: %v", err)
	}
	if text, err := read(narrow, &turn{ctx: t.Context()}); text != "narrow" || err != nil {
		t.Errorf("a narrow one read %q, %v", text, err)
	}
	if text, err := read(broad, nil); text != "broad" || err != nil {
		t.Errorf("a host read %q, %v", text, err)
	}
	if _, err := read(later, &turn{ctx: t.Context()}); miosa.CodeOf(err) != miosa.Invalid || !strings.Contains(err.Error(), "window") {
		t.Errorf("a later frame that is wider: %v", err)
	}
	for _, in := range turns {
		in.release()
	}
	if text, err := read(broad, &turn{ctx: t.Context(), patience: widePatience}); text != "broad" || err != nil {
		t.Errorf("then it read %q, %v", text, err)
	}
	<-wide
}
