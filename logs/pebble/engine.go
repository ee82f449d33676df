package pebble

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/miosa/miosa"
)

// Pebble has no way to go on once its log of writes, or its list of tables,
// could not be written: it calls Logger.Fatalf, which must not return, or it
// panics. That ends the store's part here, and not the process: the goroutine
// that met it goes no further (see guarded, for nearly all there is to meet),
// nothing is written any more, what is held can still be read, and hosts keep
// their lines in their spools. The next start recovers from the log of writes.

// patience is how long one write waits for the disk. It is then refused for
// now, and may yet be done: what is sent again is dropped by its place.
const patience = 30 * time.Second

// complaints is how long at least lies between two complaints about the same.
const complaints = 10 * time.Second

// engine is how the database is.
type engine struct {
	log      *slog.Logger
	dir      string
	patience time.Duration
	failed   chan struct{} // closed once it is over

	mu       sync.Mutex // guards the rest
	cause    error      // why it is over
	said     time.Time  // of the last complaint
	unspoken int        // complaints since then
}

func newEngine(log *slog.Logger, dir string) *engine {
	return &engine{log: log, dir: dir, patience: patience, failed: make(chan struct{})}
}

// over reports whether it has failed.
func (e *engine) over() bool {
	select {
	case <-e.failed:
		return true
	default:
		return false
	}
}

// fail ends it, once.
func (e *engine) fail(cause error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.cause != nil {
		return
	}
	e.cause = cause
	close(e.failed)
	e.log.Error("log store failed: logs are not stored until the platform is started again, hosts keep them in their spools meanwhile; "+
		"see to the disk, then start the platform again (its instances run on)", "dir", e.dir, "err", cause)
}

// halt fails, and does not return.
func (e *engine) halt(cause error) {
	e.fail(cause)
	select {}
}

// unwell is what a write is refused with.
func (e *engine) unwell() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	code := miosa.Unavailable
	if errors.Is(e.cause, syscall.ENOSPC) || errors.Is(e.cause, syscall.EDQUOT) {
		code = miosa.NoSpace
	}
	return miosa.Errorf(code, "the log store's disk failed and it takes nothing more: see to the disk of %s and start the platform again: %w", e.dir, e.cause)
}

// stalled is a write that takes too long. done tells of its end, if it comes.
type stalled struct{ done <-chan error }

func (*stalled) Error() string { return "the disk of the log store does not answer" }

// errEnded is what is left of a goroutine that was ended.
var errEnded = errors.New("ended")

// do calls f, which may meet the end of the engine, or take for ever, on a
// goroutine of its own.
func (e *engine) do(f func() error) error {
	done := make(chan error, 1)
	go func() {
		err := errEnded
		defer func() {
			if r := recover(); r != nil {
				if cause, ok := r.(error); ok {
					e.fail(cause)
				} else {
					e.fail(fmt.Errorf("%v", r))
				}
				err = errEnded
			}
			done <- err
		}()
		err = f()
	}()
	timer := time.NewTimer(e.patience)
	defer timer.Stop()
	select {
	case err := <-done:
		if errors.Is(err, errEnded) {
			return e.unwell()
		}
		return err
	case <-e.failed:
		return e.unwell()
	case <-timer.C:
		return miosa.Errorf(miosa.Unavailable, "%w", &stalled{done})
	}
}

// background is told of what went wrong and is tried again by Pebble itself, at
// once and for as long as it takes.
func (e *engine) background(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.unspoken++
	if now := time.Now(); now.Sub(e.said) >= complaints {
		e.log.Error("log store cannot write its tables and tries again; see to the disk", "dir", e.dir, "err", err, "times", e.unspoken)
		e.said, e.unspoken = now, 0
	}
}

// Infof, of the engine's logger, is what Pebble does all the time.
func (*engine) Infof(string, ...any) {}

// Errorf is what Pebble reports as wrong.
func (e *engine) Errorf(format string, args ...any) { e.background(fmt.Errorf(format, args...)) }

// Fatalf does not return: Pebble has lost its footing.
func (e *engine) Fatalf(format string, args ...any) {
	cause := &fatal{text: fmt.Sprintf(format, args...)}
	for _, a := range args {
		if err, ok := a.(error); ok {
			cause.err = err
		}
	}
	e.fail(cause)
	runtime.Goexit()
}

// fatal is what Pebble says, and the error in it.
type fatal struct {
	text string
	err  error
}

func (f *fatal) Error() string { return f.text }

func (f *fatal) Unwrap() error { return f.err }
