package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"
	"unicode"
)

// output is standard output. It remembers the first error, so that no command
// whose words nobody could read ends as if all were well.
type output struct {
	to  io.Writer
	mu  sync.Mutex
	err *outputError // guarded by mu
}

// outputError is output that could not be written.
type outputError struct{ err error }

func (e *outputError) Error() string {
	return fmt.Sprintf("the output could not be written: %v", e.err)
}

func (e *outputError) Unwrap() error { return e.err }

// left: who reads has enough, head or a pager that was left. No failure.
func (e *outputError) left() bool {
	return errors.Is(e.err, syscall.EPIPE) || errors.Is(e.err, io.ErrClosedPipe)
}

func (o *output) Write(b []byte) (int, error) {
	n, err := o.to.Write(b)
	if err == nil {
		return n, nil
	}
	failed := &outputError{err}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		o.err = failed
	}
	return n, failed
}

func (o *output) failed() *outputError {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// written is the error of what was printed so far. What goes on for long asks.
func (a *app) written() error {
	if err := a.out.failed(); err != nil {
		return err
	}
	return nil
}

// file is the one that is written to, if it is one.
func file(w io.Writer) (*os.File, bool) {
	for {
		switch to := w.(type) {
		case *output:
			w = to.to
		case *os.File:
			return to, true
		default:
			return nil, false
		}
	}
}

// show prints v as JSON if that was asked for, else calls text.
func (a *app) show(v any, text func()) error {
	if !a.json {
		text()
		return nil
	}
	out := json.NewEncoder(a.cfg.Stdout)
	out.SetIndent("", "  ")
	out.SetEscapeHTML(false)
	return out.Encode(v)
}

func (a *app) printf(format string, args ...any) { fmt.Fprintf(a.cfg.Stdout, format, args...) }

// table prints rows under a heading, in columns; a last column may be long.
func (a *app) table(heading []string, rows [][]string) {
	w := tabwriter.NewWriter(a.cfg.Stdout, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{heading}, rows...) {
		cells := make([]string, len(row))
		for n, cell := range row {
			if cell == "" {
				cell = "-"
			}
			cells[n] = printable(cell)
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	// Standard output remembers its error.
	_ = w.Flush()
}

// printable keeps what an app or a customer wrote from steering the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' || r == '\n' {
			return ' '
		}
		if unicode.IsControl(r) || !unicode.IsPrint(r) {
			return '\ufffd'
		}
		return r
	}, s)
}

// age is how long ago, in the largest unit that fits: 40s, 12m, 3h, 5d.
func (a *app) age(t time.Time) string {
	d := a.cfg.Now().Sub(t)
	switch {
	case d < 0:
		return "0s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// in is how long until then.
func (a *app) in(t time.Time) string {
	d := t.Sub(a.cfg.Now()).Round(time.Second)
	if d <= 0 {
		return "now"
	}
	return "in " + d.String()
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// size in MB or GB.
func size(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KB", float64(n)/(1<<10))
	case n < 1<<30:
		return fmt.Sprintf("%.1f MB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f GB", float64(n)/(1<<30))
}

func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}

// short is enough of an ID to tell it from others at a glance: its end is random.
func short(id string) string {
	prefix, body, ok := strings.Cut(id, "_")
	if !ok || len(body) < 26 {
		return id
	}
	return prefix + "_…" + body[20:]
}
