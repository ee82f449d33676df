// Package ration shares one amount of memory out among those who read what
// strangers sent: archives, documents, packed streams. A few bytes of such can
// stand for hundreds of megabytes, and the process that reads them serves
// everybody's requests too.
//
// Readers tell what they are about to hold before they hold it, as a bound and
// not as a measure, and wait while there is no room. There is always one that
// does not wait: besides the common room there is a reserve, as large as the
// most that one reader may have. Who finds the common room full takes the
// reserve, if nobody has it, and comes to its end; so readers that each hold
// something and want more do not wait for each other for ever.
package ration

import (
	"context"
	"errors"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

// The reasons not to be given more.
var (
	// ErrBusy says that others had all of it for as long as the share's
	// patience lasted: the same may succeed later.
	ErrBusy = errors.New("others take all the memory that there is for this")
	// ErrTooMuch says that it would be more than one share may ever have.
	ErrTooMuch = errors.New("this takes more memory than one may have")
)

const (
	// step is how much a share takes of the pool at least, so that growing by a
	// few bytes costs no lock; in bytes.
	step = 1 << 20
	// large is a share whose garbage is collected and given back to the system
	// at its end, in bytes. (A collection is a small part of what it takes to
	// fill so much.)
	large = 32 << 20
)

// Pool is the memory that is shared out. It is safe for concurrent use.
type Pool struct {
	most     int64
	giveBack func()

	mu      sync.Mutex // guards the rest
	free    int64      // of the common room
	holder  *Share     // of the reserve; nil: nobody
	waiting []*waiter  // the first come first
	held    int64
	peak    int64
}

// waiter is a share that waits for room.
type waiter struct {
	share *Share
	n     int64
	ready chan struct{} // closed when it has it
}

// New makes a pool of common bytes for all together, and besides them of most
// bytes for one at a time, which is also what one share may have.
func New(common, most int64) *Pool {
	return &Pool{free: common, most: most, giveBack: debug.FreeOSMemory}
}

// Most is what one share may have, in bytes.
func (p *Pool) Most() int64 { return p.most }

// Held is how much is given out, and the most that was at any time, in bytes.
func (p *Pool) Held() (now, peak int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held, p.peak
}

// Terms are how a share is given.
type Terms struct {
	// Patience is how long it waits for room, all its waits together; below 0:
	// for as long as its context lasts.
	Patience time.Duration
	// Unbounded lifts the bound of one share, for what has to be read whatever
	// it takes.
	Unbounded bool
}

// Share is what one reader has of a pool. It belongs to one goroutine.
type Share struct {
	pool  *Pool
	ctx   context.Context // of the one reading
	terms Terms
	used  int64 // of what it was given
	peak  int64

	common, reserve int64 // what it was given; the pool's mutex guards them
}

// Take begins a share with n bytes. Whoever gets it must Release it.
//
// Errors: ErrBusy, ErrTooMuch, and the context's own.
func (p *Pool) Take(ctx context.Context, terms Terms, n int64) (*Share, error) {
	s := &Share{pool: p, ctx: ctx, terms: terms}
	if err := s.Grow(n); err != nil {
		s.Release()
		return nil, err
	}
	return s, nil
}

// Grow makes the share n bytes larger, or leaves it as it is and says why:
// ErrBusy, ErrTooMuch, the context's own error.
func (s *Share) Grow(n int64) error {
	if !s.terms.Unbounded && s.used+n > s.pool.most {
		return ErrTooMuch
	}
	if more := s.used + n - s.common - s.reserve; more > 0 {
		more = (more + step - 1) / step * step
		if !s.terms.Unbounded {
			more = min(more, s.pool.most-s.common-s.reserve)
		}
		if err := s.take(more); err != nil {
			return err
		}
	}
	s.used += n
	s.peak = max(s.peak, s.used)
	return nil
}

// Shrink says that n bytes are no longer held: they are there for the share's
// own next use.
func (s *Share) Shrink(n int64) { s.used -= n }

// Release ends the share; a second time it does nothing. What it bounded must
// be out of reach by then.
func (s *Share) Release() {
	p := s.pool
	p.mu.Lock()
	p.free += s.common
	p.held -= s.common + s.reserve
	s.common, s.reserve, s.used = 0, 0, 0
	if p.holder == s {
		p.holder = nil
	}
	p.serve()
	p.mu.Unlock()
	if s.peak >= large {
		s.peak = 0
		p.giveBack()
	}
}

func (s *Share) take(n int64) error {
	p := s.pool
	p.mu.Lock()
	if (p.holder == s || len(p.waiting) == 0) && p.give(s, n) {
		p.mu.Unlock()
		return nil
	}
	if s.terms.Patience == 0 {
		p.mu.Unlock()
		return ErrBusy
	}
	w := &waiter{share: s, n: n, ready: make(chan struct{})}
	p.waiting = append(p.waiting, w)
	p.mu.Unlock()

	began := time.Now()
	var impatient <-chan time.Time
	if s.terms.Patience > 0 {
		timer := time.NewTimer(s.terms.Patience)
		defer timer.Stop()
		impatient = timer.C
	}
	var err error
	select {
	case <-w.ready:
	case <-s.ctx.Done():
		err = s.ctx.Err()
	case <-impatient:
		err = ErrBusy
	}
	if s.terms.Patience > 0 {
		s.terms.Patience = max(0, s.terms.Patience-time.Since(began))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	at := slices.Index(p.waiting, w)
	if at < 0 {
		return nil // it was given meanwhile
	}
	p.waiting = slices.Delete(p.waiting, at, at+1)
	p.serve()
	return err
}

// serve gives those who wait what there is, in their order. The caller holds
// the mutex.
func (p *Pool) serve() {
	for len(p.waiting) > 0 && p.give(p.waiting[0].share, p.waiting[0].n) {
		close(p.waiting[0].ready)
		p.waiting = slices.Delete(p.waiting, 0, 1)
	}
}

// give gives a share n bytes if there is room. The caller holds the mutex.
func (p *Pool) give(s *Share, n int64) bool {
	switch {
	case p.free >= n:
		p.free -= n
		s.common += n
	case p.holder == nil || p.holder == s:
		p.holder = s
		s.reserve += n
	default:
		return false
	}
	p.held += n
	p.peak = max(p.peak, p.held)
	return true
}
