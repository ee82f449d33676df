package cli

import (
	"io"
	"strings"
	"testing"
)

// The spinner's line is cut off at the edge of a terminal, and a terminal that
// understands text only gets no spinner.
func TestSpinner(t *testing.T) {
	for term, spins := range map[string]bool{"xterm": true, "dumb": false} {
		var out strings.Builder
		a := &app{cfg: Config{
			Stderr: &out, Terminal: func(io.Writer) bool { return true },
			Getenv: func(name string) string { return map[string]string{"TERM": term}[name] },
		}}
		p := a.progress()
		p.wait("waiting")
		p.step("done")
		p.end()
		p.end()
		text := out.String()
		if got := strings.Contains(text, "\x1b"); got != spins {
			t.Errorf("%s: %q", term, text)
		}
		if spins && (!strings.Contains(text, "\x1b[?7l") || strings.LastIndex(text, "\x1b[?7h") < strings.LastIndex(text, "\x1b[?7l")) {
			t.Errorf("it wraps, or wraps no more: %q", text)
		}
	}
}
