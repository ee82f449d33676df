package artifact

import (
	"path"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestSplitPathProperties(t *testing.T) {
	part := rapid.OneOf(rapid.SampledFrom([]string{"", ".", "..", "a", "b", "...", "..a", "\x00"}), rapid.StringN(0, 5, 300))
	rapid.Check(t, func(t *rapid.T) {
		name := strings.Join(rapid.SliceOfN(part, 1, 8).Draw(t, "parts"), "/")
		rooted := rapid.Bool().Draw(t, "rooted")
		parts, err := splitPath(name, 4095, rooted)
		if err != nil {
			return
		}
		for _, p := range parts {
			if p == "" || p == "." || p == ".." || len(p) > maxName || strings.ContainsAny(p, "/\x00") {
				t.Fatalf("%q has the part %q", name, p)
			}
		}
		joined := strings.Join(parts, "/")
		if want := strings.TrimPrefix(path.Clean("/"+name), "/"); joined != want {
			t.Fatalf("%q became %q, want %q", name, joined, want)
		}
		if !rooted && strings.HasPrefix(name, "/") {
			t.Fatalf("%q is absolute", name)
		}
		again, err := splitPath(joined, 4095, rooted)
		if joined != "" && (err != nil || strings.Join(again, "/") != joined) {
			t.Fatalf("%q is not stable: %v", joined, err)
		}
	})
}

// TestEscapesProperties compares with a walk that keeps the whole path.
func TestEscapesProperties(t *testing.T) {
	part := rapid.SampledFrom([]string{"", ".", "..", "..", "a", "b"})
	rapid.Check(t, func(t *rapid.T) {
		depth := rapid.IntRange(0, 4).Draw(t, "depth")
		target := strings.Join(rapid.SliceOfN(part, 1, 8).Draw(t, "parts"), "/")
		at := make([]string, depth)
		if strings.HasPrefix(target, "/") {
			at = nil
		}
		out := false
		for p := range strings.SplitSeq(target, "/") {
			switch {
			case p == "..":
				if len(at) == 0 {
					out = true
				} else {
					at = at[:len(at)-1]
				}
			case p != "" && p != ".":
				at = append(at, p)
			}
		}
		if escapes(depth, target) != out {
			t.Fatalf("%q from depth %d: %v, want %v", target, depth, !out, out)
		}
	})
}
