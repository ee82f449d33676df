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

// FuzzSplitter: whatever the bytes and however they are cut into reads, the
// pieces are within the limit, and put together they are the stream.
func FuzzSplitter(f *testing.F) {
	f.Add([]byte("a\nb\r\n\x00\xff"), uint16(1), uint16(3))
	f.Add([]byte("x"), uint16(65535), uint16(4096))
	f.Add([]byte("x\r"), uint16(40000), uint16(65535))
	f.Fuzz(func(t *testing.T, part []byte, times, read uint16) {
		if len(part) == 0 || len(part)*int(times) > 1<<20 {
			return
		}
		stream := bytes.Repeat(part, int(times)) // long enough for the limit to matter
		var reads [][]byte
		for rest := stream; len(rest) > 0; {
			n := min(len(rest), int(read)+1)
			reads, rest = append(reads, rest[:n]), rest[n:]
		}
		whole, cut := split(stream), split(reads...)
		if len(whole) != len(cut) {
			t.Fatalf("%d pieces at once, %d in reads of %d", len(whole), len(cut), read)
		}
		var joined []byte
		for i, p := range whole {
			if p != cut[i] {
				t.Fatalf("piece %d is %.40q at once and %.40q in reads of %d", i, p.text, cut[i].text, read)
			}
			if len(p.text) > wire.MaxLine || strings.Contains(p.text, "\n") {
				t.Fatalf("piece %d has %d bytes, or a newline", i, len(p.text))
			}
			if joined = append(joined, p.text...); !p.partial {
				joined = append(joined, '\n')
			}
		}
		want := stream
		if len(want) > 0 && want[len(want)-1] != '\n' {
			want = append(bytes.Clone(want), '\n')
		}
		if want = bytes.ReplaceAll(want, []byte("\r\n"), []byte("\n")); !bytes.Equal(joined, want) {
			t.Fatalf("the pieces put together have %d bytes, the stream %d", len(joined), len(want))
		}
	})
}
