package guest

import (
	"testing"

	"pgregory.net/rapid"

	wire "github.com/miosa/miosa/wire/guest"
)

// The ring against a plain list: what is stored is always the newest
// unacknowledged lines that fit, and from accounts for every number.
func TestRingKeepsTheNewest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const limit = 1000
		r := ring{max: limit}
		var acked uint64
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0, 1:
				r.add(wire.Line{Text: make([]byte, rapid.IntRange(0, 300).Draw(t, "size"))})
			case 2:
				acked = max(acked, rapid.Uint64Range(0, r.last).Draw(t, "ack"))
				r.ack(acked)
			case 3:
				n := rapid.Uint64Range(1, r.last+2).Draw(t, "from")
				lines, gap := r.from(n, 5, 400)
				if len(lines) == 0 {
					if gap != 0 {
						t.Fatalf("a gap of %d without lines", gap)
					}
					continue
				}
				if lines[0].N != n+gap {
					t.Fatalf("from(%d) begins at %d with a gap of %d", n, lines[0].N, gap)
				}
				size := 0
				for i, l := range lines {
					if l.N != lines[0].N+uint64(i) {
						t.Fatalf("numbers %d after %d", l.N, lines[0].N)
					}
					size += len(l.Text)
				}
				if len(lines) > 5 || len(lines) > 1 && size > 400 {
					t.Fatalf("%d lines of %d bytes", len(lines), size)
				}
			}
			stored := r.lines[r.head:]
			sum := 0
			for _, l := range stored {
				sum += lineCost(l.Text)
			}
			if sum != r.bytes || sum > limit {
				t.Fatalf("%d bytes stored, %d counted, %d allowed", sum, r.bytes, limit)
			}
			if len(stored) > 0 && stored[len(stored)-1].N != r.last {
				t.Fatalf("the newest line is %d, want %d", stored[len(stored)-1].N, r.last)
			}
		}
	})
}

func TestRingReportsTheGap(t *testing.T) {
	r := ring{max: 3 * lineOverhead}
	for range 10 {
		r.add(wire.Line{})
	}
	lines, gap := r.from(1, 100, 100)
	if gap != 7 || len(lines) != 3 || lines[0].N != 8 {
		t.Errorf("%d lines from %d, gap %d; want 3 from 8, gap 7", len(lines), lines[0].N, gap)
	}
	if lines, gap := r.from(11, 100, 100); lines != nil || gap != 0 {
		t.Errorf("beyond the end: %v, gap %d", lines, gap)
	}
}
