package cli

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"
)

func TestEscapes(t *testing.T) {
	for typed, want := range map[string]string{
		"ls\r":           "ls\r",
		"~.rest":         "",
		"ls\r~.rest":     "ls\r",
		"ls\n~.rest":     "ls\n",
		"a~.b":           "a~.b",
		"~~.\r":          "~.\r",
		"~x~.":           "~x~.",
		"~\r~.":          "~\r",
		"~":              "",
		"cd ~\r~/bin\r~": "cd ~\r~/bin\r",
	} {
		for name, in := range map[string]io.Reader{"whole": strings.NewReader(typed), "byte by byte": iotest.OneByteReader(strings.NewReader(typed))} {
			left := 0
			e := &escapes{from: in, leave: func() error { left++; return nil }}
			got, err := io.ReadAll(e)
			if err != nil || string(got) != want {
				t.Errorf("%q, %s: %q, %v, want %q", typed, name, got, err, want)
			}
			if e.left() != (left == 1) || e.left() != strings.Contains(strings.ReplaceAll("\r"+typed, "\n", "\r"), "\r~.") {
				t.Errorf("%q, %s: left %v, told %d times", typed, name, e.left(), left)
			}
		}
	}
}

// However what is typed comes in pieces, the same goes on.
func TestEscapesInPieces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		typed := []byte(rapid.StringOfN(rapid.SampledFrom([]rune("~.a\r\n")), 0, 40, -1).Draw(t, "typed"))
		whole, left := (&escapes{}).pass(nil, typed)
		pieces := &escapes{}
		var got []byte
		gone := false
		for rest := typed; len(rest) > 0 && !gone; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "piece")
			got, gone = pieces.pass(got, rest[:n])
			rest = rest[n:]
		}
		if gone != left || !bytes.Equal(got, whole) {
			t.Fatalf("whole %q %v, in pieces %q %v", whole, left, got, gone)
		}
	})
}
