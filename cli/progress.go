package cli

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// progress shows how far something has come: a line for each step, and on a
// terminal a spinner under them with what is waited for.
type progress struct {
	out      io.Writer
	terminal bool
	quiet    bool

	mu     sync.Mutex
	doing  string    // guarded by mu: what the spinner says; "": no spinner
	since  time.Time // guarded by mu
	frame  int       // guarded by mu
	closed chan struct{}
	ended  sync.WaitGroup
}

var frames = []rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")

// progress writes to standard error: standard output is for results.
func (a *app) progress() *progress {
	p := &progress{out: a.cfg.Stderr, terminal: a.steers(a.cfg.Stderr), quiet: a.json, closed: make(chan struct{})}
	if p.terminal && !p.quiet {
		p.ended.Go(p.spin)
	}
	return p
}

func (p *progress) spin() {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-p.closed:
			return
		case <-tick.C:
		}
		p.mu.Lock()
		p.frame++
		p.draw()
		p.mu.Unlock()
	}
}

// draw is called with mu held. A terminal that is too narrow cuts the line off:
// wrapped, its beginning would stay behind with each frame.
func (p *progress) draw() {
	if p.doing == "" {
		return
	}
	fmt.Fprintf(p.out, "\r\x1b[K\x1b[?7l%c %s (%ds)\x1b[?7h", frames[p.frame%len(frames)], p.doing, int(time.Since(p.since).Seconds()))
}

// step prints a line that stays.
func (p *progress) step(format string, args ...any) {
	if p.quiet {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.terminal && p.doing != "" {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
	fmt.Fprintf(p.out, "%s\n", printable(fmt.Sprintf(format, args...)))
	if p.terminal {
		p.draw()
	}
}

// wait says what is waited for now; only a terminal sees it.
func (p *progress) wait(format string, args ...any) {
	if p.quiet || !p.terminal {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.doing == "" {
		p.since = time.Now()
	}
	p.doing = printable(fmt.Sprintf(format, args...))
}

// end takes the spinner away. It may be called twice.
func (p *progress) end() {
	p.mu.Lock()
	select {
	case <-p.closed:
		p.mu.Unlock()
		return
	default:
	}
	close(p.closed)
	if p.doing != "" {
		fmt.Fprint(p.out, "\r\x1b[K")
		p.doing = ""
	}
	p.mu.Unlock()
	p.ended.Wait()
}
