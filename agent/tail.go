package agent

import (
	"bytes"
	"fmt"
	"sync"

	"github.com/miosa/miosa/lifecycle"
	"github.com/miosa/miosa/wire/guest"
)

// tailLine bounds one kept line in bytes.
const tailLine = 2 << 10

// tail keeps an instance's last log lines over its boots, and which line of
// the present boot was the last.
type tail struct {
	mu    sync.Mutex // guards all below
	boot  int
	n     uint64
	lines []string
}

// tailDump is a tail on disk.
type tailDump struct {
	Boot  int      `json:"boot"`
	N     uint64   `json:"n"`
	Lines []string `json:"lines"`
}

func newTail() *tail { return &tail{} }

func (t *tail) load(d tailDump) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.boot, t.n, t.lines = d.Boot, d.N, d.Lines
}

func (t *tail) dump() tailDump {
	t.mu.Lock()
	defer t.mu.Unlock()
	return tailDump{Boot: t.boot, N: t.n, Lines: append([]string(nil), t.lines...)}
}

// after is the last line number held of a boot.
func (t *tail) after(boot int) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.boot != boot {
		return 0
	}
	return t.n
}

func (t *tail) add(boot int, batch *guest.Lines) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if boot != t.boot {
		t.boot, t.n = boot, 0
	}
	if batch.Gap > 0 && batch.Lines[0].N > t.n {
		t.lines = append(t.lines, fmt.Sprintf("… %d lines were lost here …", batch.Gap))
	}
	for _, l := range batch.Lines {
		if l.N <= t.n {
			continue // asked for again
		}
		t.n = l.N
		text := l.Text
		if len(text) > tailLine {
			text = text[:tailLine]
		}
		t.lines = append(t.lines, string(bytes.ToValidUTF8(text, []byte("\uFFFD"))))
	}
	if extra := len(t.lines) - lifecycle.MaxLastLines; extra > 0 {
		t.lines = append([]string(nil), t.lines[extra:]...)
	}
}

// last are the newest lines, oldest first.
func (t *tail) last() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.lines...)
}
