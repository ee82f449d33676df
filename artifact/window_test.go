package artifact

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/ration"
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

// A few bytes make a decoder allocate a large window: it is in the share, and
// no longer than the decoder lives.
func TestWindowsAreInTheShare(t *testing.T) {
	limits := Limits{Memory: ration.New(0, 64<<20)}.withDefaults()
	read := func(packed []byte) (string, error) {
		s, err := limits.Memory.Take(t.Context(), ration.Terms{}, 0)
		if err != nil {
			return "", memoryError(err, limits.Memory)
		}
		defer s.Release()
		text := ""
		for range 2 { // the second has the room of the first
			u, err := decompress(bytes.NewReader(packed), nil, limits, newAllowance(limits, int64(len(packed)), false), s)
			if err != nil {
				return "", err
			}
			defer u.close() // again
			b, err := io.ReadAll(u)
			if err != nil {
				return "", archiveError(err, "")
			}
			u.close()
			text = string(b)
		}
		return text, nil
	}
	narrow, broad := zstdOf(t, "narrow", window), zstdOf(t, "broad", 4*window)
	for _, c := range []struct {
		name   string
		packed []byte
		text   string
		code   miosa.Code
		held   int64 // at most, besides what is rounded up
	}{
		{"narrow", narrow, "narrow", "", window},
		{"broad", broad, "broad", "", 4 * window},
		{"broader than one may", zstdOf(t, "x", 8*window), "", miosa.TooLarge, 0},
		{"what comes is not known", append([]byte{0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 'x'}, broad...), "", miosa.TooLarge, 0},
		{"a later frame is broader", append(bytes.Clone(narrow), broad...), "", miosa.Invalid, window},
	} {
		limits.Memory = ration.New(0, 64<<20)
		text, err := read(c.packed)
		if text != c.text || miosa.CodeOf(err) != c.code || (err != nil && !strings.Contains(err.Error(), "window")) {
			t.Errorf("%s: read %q, %v", c.name, text, err)
		}
		if now, peak := limits.Memory.Held(); now != 0 || peak < c.held || peak > c.held+2<<20 {
			t.Errorf("%s: held %d bytes, and %d in the end", c.name, peak, now)
		}
	}
}
