// Package transcript plays tests that read like documents: scripts of plain
// lines with their expected output below each, kept in testdata/*.txt. Only
// tests import it.
//
// A script is made of blocks with an empty line between them. A block is some
// input lines, a line "----", and the output that they gave:
//
//	# The first crash waits a second.
//	exit code 1
//	----
//	pending, next boot in 1s
//	kill boot 1
//
// Lines that begin with # are comments and belong to the reader. A block
// without "----" must print nothing. Every script begins with a fresh Player.
// Run with update rewrites the outputs in place.
package transcript

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Player carries out one line of a script and returns what is to be seen of
// it: nothing, or lines without empty ones among them. An error fails the
// test at that line: the script is wrong, not what it tests.
type Player func(line Line) (string, error)

// Run plays every script that matches the pattern, each as a subtest with a
// Player of its own. With update, outputs are written anew.
func Run(t *testing.T, pattern string, update bool, begin func() Player) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatalf("no script matches %s", pattern)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			script, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			played, diffs, err := play(string(script), begin())
			if err != nil {
				t.Fatalf("%s:%v", file, err)
			}
			if update && played != string(script) {
				if err := os.WriteFile(file, []byte(played), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			for _, d := range diffs {
				t.Errorf("%s:%s", file, d)
			}
			if len(diffs) > 0 {
				t.Log("if the new output is right, accept it: go test -update, and read the diff")
			}
		})
	}
}

// Wait lets time pass for a machine until end: now is set on to each moment at
// which it wants to be woken, and tick wakes it. It reports whether the machine
// wanted to be woken at once, right after it was, which ends the wait as well.
func Wait(now *time.Time, end time.Time, wake func() time.Time, tick func()) (spins bool) {
	for !spins {
		at := wake()
		if at.IsZero() || at.After(end) {
			break
		}
		if at.After(*now) {
			*now = at
		}
		tick()
		again := wake()
		spins = !again.IsZero() && !again.After(*now)
	}
	if !spins {
		*now = end
	}
	return spins
}

const fence = "----"

// play runs a script and gives it back with the outputs that came.
func play(script string, player Player) (played string, diffs []string, err error) {
	var out strings.Builder
	lines := strings.Split(strings.TrimRight(script, "\n"), "\n")
	for n := 0; n < len(lines); {
		if strings.TrimSpace(lines[n]) == "" {
			out.WriteString("\n")
			n++
			continue
		}
		var got strings.Builder
		first, commands := n, 0
		for ; n < len(lines) && lines[n] != "" && lines[n] != fence; n++ {
			out.WriteString(lines[n] + "\n")
			line := Line(strings.TrimSpace(lines[n]))
			if strings.HasPrefix(string(line), "#") {
				continue
			}
			commands++
			text, err := player(line)
			if err != nil {
				return "", nil, fmt.Errorf("%d: %s: %w", n+1, line, err)
			}
			if text = strings.Trim(text, "\n"); text != "" {
				got.WriteString(text + "\n")
			}
		}
		var want strings.Builder
		if n < len(lines) && lines[n] == fence {
			for n++; n < len(lines) && lines[n] != ""; n++ {
				want.WriteString(lines[n] + "\n")
			}
		}
		if commands == 0 {
			continue
		}
		if got.Len() > 0 {
			out.WriteString(fence + "\n" + got.String())
		}
		if got.String() != want.String() {
			diffs = append(diffs, fmt.Sprintf("%d: got\n%swant\n%s", first+1, indent(got.String()), indent(want.String())))
		}
	}
	return out.String(), diffs, nil
}

func indent(s string) string {
	if s == "" {
		return "\t(nothing)\n"
	}
	return "\t" + strings.ReplaceAll(strings.TrimSuffix(s, "\n"), "\n", "\n\t") + "\n"
}

// Line is one line of a script: words, some of them key=value. A value may be
// quoted: reason="out of memory".
type Line string

// Words are the line's words that have no "=".
func (l Line) Words() []string {
	var out []string
	for _, f := range l.fields() {
		if !strings.Contains(f, "=") {
			out = append(out, f)
		}
	}
	return out
}

// Word is the n-th of Words, "" past their end.
func (l Line) Word(n int) string {
	if w := l.Words(); n < len(w) {
		return w[n]
	}
	return ""
}

// Has reports whether word is one of Words.
func (l Line) Has(word string) bool {
	return slices.Contains(l.Words(), word)
}

// Value is the value of key=value.
func (l Line) Value(key string) (string, bool) {
	for _, f := range l.fields() {
		if k, v, ok := strings.Cut(f, "="); ok && k == key {
			return strings.Trim(v, `"`), true
		}
	}
	return "", false
}

// Text is Value, or otherwise.
func (l Line) Text(key, otherwise string) string {
	if v, ok := l.Value(key); ok {
		return v
	}
	return otherwise
}

// Int is Value as a number, or otherwise. It panics on what is no number: the
// script is wrong.
func (l Line) Int(key string, otherwise int) int {
	v, ok := l.Value(key)
	if !ok {
		return otherwise
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		panic(fmt.Sprintf("%s: %v", l, err))
	}
	return n
}

// Duration is Value as a time.Duration, or otherwise. It panics on what is
// none.
func (l Line) Duration(key string, otherwise time.Duration) time.Duration {
	v, ok := l.Value(key)
	if !ok {
		return otherwise
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		panic(fmt.Sprintf("%s: %v", l, err))
	}
	return d
}

// fields are the parts between spaces, quotes respected.
func (l Line) fields() []string {
	var out []string
	var field strings.Builder
	quoted := false
	for _, c := range string(l) {
		switch {
		case c == '"':
			quoted = !quoted
			field.WriteRune(c)
		case c == ' ' && !quoted:
			if field.Len() > 0 {
				out = append(out, field.String())
			}
			field.Reset()
		default:
			field.WriteRune(c)
		}
	}
	if field.Len() > 0 {
		out = append(out, field.String())
	}
	return out
}
