package control

import (
	"context"
	"iter"
	"sync"

	"github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/routing"
)

// feed gives routers the newest table. A router that was slow sees only the
// last one: tables are whole, never differences.
type feed struct {
	mu     sync.Mutex // guards table and has
	table  routing.Table
	has    bool
	tables *hub[routing.Table]
}

func newFeed() *feed { return &feed{tables: newHub[routing.Table]()} }

const everyRouter = "routers"

func (f *feed) publish(t routing.Table) {
	f.mu.Lock()
	f.table, f.has = t, true
	f.mu.Unlock()
	f.tables.send(everyRouter, func(routing.Table, bool) routing.Table { return t })
}

// Tables yields the present table and every later one, until ctx ends.
func (c *Control) Tables(ctx context.Context) iter.Seq[routing.Table] {
	return func(yield func(routing.Table) bool) {
		sub, cancel := c.routes.tables.subscribe(everyRouter)
		defer cancel()
		c.routes.mu.Lock()
		table, has := c.routes.table, c.routes.has
		c.routes.mu.Unlock()
		if has && !yield(table) {
			return
		}
		for {
			select {
			case <-ctx.Done():
				return
			case <-sub.wake:
			}
			if next, ok := c.routes.tables.take(sub); ok && (!has || next.Generation > table.Generation) {
				if table, has = next, true; !yield(next) {
					return
				}
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
