package control

import (
	"context"
	"iter"
	"sync"

	"github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/routing"
)

// feed gives routers what changes in the routes. A router that is slow gets
// what it missed as one update, or the whole table where that is no more.
type feed struct {
	mu      sync.Mutex // guards what follows
	table   routing.Table
	has     bool
	routers map[*missed]bool
}

// missed is what a router has not taken yet.
type missed struct {
	wake    chan struct{} // holds one token while there is something
	whole   bool
	updates []routing.Update // each for the table after the one before; shared, so never changed
}

// missedMost bounds what is kept for a router: the whole table is no more work then.
const missedMost = 1000

func newFeed() *feed { return &feed{routers: map[*missed]bool{}} }

// publish takes an update in. It reports false where one before it is missing,
// which is a fault of ours.
func (f *feed) publish(u routing.Update) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.table.Apply(u) {
		return false
	}
	f.has = true
	for r := range f.routers {
		if r.updates = append(r.updates, u); u.Whole || len(r.updates) > missedMost {
			r.whole = true
		}
		if r.whole {
			r.updates = nil
		}
		r.notify()
	}
	return true
}

func (r *missed) notify() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (f *feed) join() *missed {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := &missed{wake: make(chan struct{}, 1), whole: true}
	f.routers[r] = true
	if f.has {
		r.notify()
	}
	return r
}

func (f *feed) leave(r *missed) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.routers, r)
}

// take empties what a router missed.
func (f *feed) take(r *missed) (routing.Update, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	updates, whole := r.updates, r.whole && f.has
	switch {
	case whole:
		r.updates, r.whole = nil, false
		return f.table.Whole(), true
	case len(updates) == 0:
		return routing.Update{}, false
	}
	r.updates = nil
	return routing.Merge(updates), true
}

// Updates yields the whole of the present table and then what changes in it,
// until ctx ends.
func (c *Control) Updates(ctx context.Context) iter.Seq[routing.Update] {
	return func(yield func(routing.Update) bool) {
		r := c.routes.join()
		defer c.routes.leave(r)
		for {
			select {
			case <-ctx.Done():
				return
			case <-r.wake:
			}
			if u, ok := c.routes.take(r); ok && !yield(u) {
				return
			}
		}
	}
}

// Report takes a router's word on what it has applied.
func (c *Control) Report(ctx context.Context, r routing.Report) error {
	select {
	case c.events <- cell.Reported{Report: r}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
