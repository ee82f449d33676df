package pebbledb

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"syscall"
	"time"

	lsm "github.com/cockroachdb/pebble/v2"

	"github.com/miosa/miosa"
)

// complaints is how long at least lies between two complaints about the same.
const complaints = 10 * time.Second

// engine is how a database is.
type engine struct {
	log      *slog.Logger
	dir      string
	store    string // its name
	failing  string // what its end comes to
	patience time.Duration
	failed   chan struct{} // closed once it is over

	mu     sync.Mutex // guards the rest
	cause  error      // why it is over
	full   time.Time  // when last a table could not be written for want of room
	tables complaint
	damage complaint
}

// complaint is when something was last said, and how often it was not since.
type complaint struct {
	said     time.Time
	unspoken int
}

// due is how often there was reason to complain since it was last done; 0: not
// yet again.
func (c *complaint) due() (times int) {
	c.unspoken++
	if now := time.Now(); now.Sub(c.said) >= complaints {
		times, c.said, c.unspoken = c.unspoken, now, 0
	}
	return times
}

// hasFailed reports whether it has failed.
func (e *engine) hasFailed() bool {
	select {
	case <-e.failed:
		return true
	default:
		return false
	}
}

// fail ends it, once. Of Pebble's errors the words are logged: as values they
// bring their stacks along.
func (e *engine) fail(cause error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.cause != nil {
		return
	}
	e.cause = cause
	close(e.failed)
	e.log.Error("store failed", "store", e.store, "so", e.failing, "dir", e.dir, "err", cause.Error(),
		"remedy", "see to the disk, then start the platform again: its instances run on")
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
	if noRoom(e.cause) {
		code = miosa.NoSpace
	}
	cause := fmt.Errorf("see to the disk of %s and start the platform again: %w", e.dir, e.cause)
	return miosa.Wrap(cause, code, "the disk of the %s failed and it takes nothing more until its operator has seen to it", e.store)
}

func noRoom(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// slow is what a write is refused with that may yet be done.
func (e *engine) slow(patience time.Duration, done <-chan error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	late := &stalled{patience, done}
	if time.Since(e.full) < 10*again {
		return miosa.Wrap(fmt.Errorf("make some on the disk of %s: %w", e.dir, late), miosa.NoSpace, "there is no room for the %s", e.store)
	}
	return miosa.Wrap(late, miosa.Unavailable, "the disk of the %s does not answer", e.store)
}

// stalled is a write that takes too long. done tells of its end, if it comes.
type stalled struct {
	after time.Duration
	done  <-chan error
}

func (s *stalled) Error() string { return fmt.Sprintf("nothing for %s", s.after) }

// errEnded is what is left of a goroutine that was ended.
var errEnded = errors.New("ended")

// do calls f, which may meet the end of the engine, or take for ever, on a
// goroutine of its own.
func (e *engine) do(f func() error) error { return e.within(e.patience, f) }

func (e *engine) within(patience time.Duration, f func() error) error {
	if e.hasFailed() {
		return e.unwell()
	}
	done := make(chan error, 1)
	go func() {
		err := errEnded
		defer func() {
			if r := recover(); r != nil {
				cause, ok := r.(error)
				if !ok {
					cause = fmt.Errorf("%v", r)
				}
				e.fail(cause)
				err = errEnded
			}
			done <- err
		}()
		err = f()
	}()
	timer := time.NewTimer(patience)
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
		return e.slow(patience, done)
	}
}

// background is told of what went wrong and is tried again by Pebble itself,
// for as long as it takes.
func (e *engine) background(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if noRoom(err) {
		e.full = time.Now()
	}
	if times := e.tables.due(); times > 0 {
		e.log.Error("store cannot write its tables and tries again; see to the disk", "store", e.store, "dir", e.dir, "err", err.Error(), "times", times)
	}
}

// damaged is told of a table that is not as it was written. Whoever reads it
// gets an error, all else goes on.
func (e *engine) damaged(info lsm.DataCorruptionInfo) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if times := e.damage.due(); times > 0 {
		e.log.Error("store is damaged", "store", e.store, "path", info.Path, "err", info.Details.Error(), "times", times)
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
