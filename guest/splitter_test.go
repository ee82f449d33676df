package guest

import (
	"bytes"
	"strings"
	"testing"

	"pgregory.net/rapid"

	wire "github.com/miosa/miosa/wire/guest"
)

type piece struct {
	text    string
	partial bool
}

func split(chunks ...[]byte) []piece {
	var out []piece
	s := &splitter{emit: func(text []byte, partial bool) { out = append(out, piece{string(text), partial}) }}
	for _, c := range chunks {
		s.write(c)
	}
	s.close()
	return out
}

// However the stream is cut into reads, the lines are the same, none is longer
// than the limit, and put together they are the stream.
func TestSplitterDoesNotDependOnReads(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var stream []byte
		for range rapid.IntRange(0, 6).Draw(t, "lines") {
			n := rapid.SampledFrom([]int{0, 1, 5, 100, wire.MaxLine - 1, wire.MaxLine, wire.MaxLine + 1, 2*wire.MaxLine + 3}).Draw(t, "length")
			stream = append(stream, bytes.Repeat([]byte{rapid.SampledFrom([]byte("a\x00\xff")).Draw(t, "byte")}, n)...)
			stream = append(stream, '\n')
		}
		stream = append(stream, rapid.SliceOfN(rapid.SampledFrom([]byte("xy\x00")), 0, 10).Draw(t, "tail")...)
		whole := split(stream)
		var chunks [][]byte
		for rest := stream; len(rest) > 0; {
			n := min(len(rest), rapid.SampledFrom([]int{1, 7, 4096, 32 << 10, 70_000}).Draw(t, "read"))
			chunks = append(chunks, rest[:n])
			rest = rest[n:]
		}
		cut := split(chunks...)
		joined := func(pieces []piece) string {
			var sb strings.Builder
			for _, p := range pieces {
				if len(p.text) > wire.MaxLine {
					t.Fatalf("a piece of %d bytes", len(p.text))
				}
				sb.WriteString(p.text)
				if !p.partial {
					sb.WriteByte('\n')
				}
			}
			return sb.String()
		}
		want := string(stream)
		if want != "" && !strings.HasSuffix(want, "\n") {
			want += "\n"
		}
		if joined(whole) != want || joined(cut) != want {
			t.Fatalf("the pieces are not the stream of %d bytes", len(stream))
		}
	})
}

func TestSplitter(t *testing.T) {
	long := strings.Repeat("x", wire.MaxLine)
	for name, c := range map[string]struct {
		in   string
		want []piece
	}{
		"lines":          {"a\nb\n", []piece{{"a", false}, {"b", false}}},
		"no newline":     {"a\nb", []piece{{"a", false}, {"b", false}}},
		"empty lines":    {"\n\n", []piece{{"", false}, {"", false}}},
		"nothing":        {"", nil},
		"Windows":        {"a\r\nb\r\n", []piece{{"a", false}, {"b", false}}},
		"just the limit": {long + "\n", []piece{{long, false}}},
		"one too many":   {long + "y\n", []piece{{long, true}, {"y", false}}},
		"endless":        {long + "y", []piece{{long, true}, {"y", false}}},
	} {
		got := split([]byte(c.in))
		if len(got) != len(c.want) {
			t.Errorf("%s: %d pieces, want %d", name, len(got), len(c.want))
			continue
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("%s: piece %d is %.20q…(%d bytes, partial %v)", name, i, got[i].text, len(got[i].text), got[i].partial)
			}
		}
	}
}
