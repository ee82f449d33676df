package edge

import (
	"slices"
	"sync"

	"github.com/miosa/miosa/routing"
)

// busy are the backends that may have something in flight: a count looks at
// those, however many others there are. A backend comes onto the list when a
// request counts itself in there that does not find it listed, and leaves it at
// the next count that finds nothing in flight. So most requests only read one
// flag, which lies beside the count that they change anyway.
type busy struct {
	mu  sync.Mutex // guards all, and every change of backend.listed
	all []*backend
}

// list sees that the backend is on the list. When it returns, any later count
// looks at the backend, unless one has found nothing in flight there since.
func (l *busy) list(b *backend) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !b.listed.Load() {
		b.listed.Store(true)
		l.all = append(l.all, b)
	}
}

// count is what is in flight, by backend; those with nothing are left out.
func (l *busy) count() map[routing.Backend]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make(map[routing.Backend]int, len(l.all))
	l.all = slices.DeleteFunc(l.all, func(b *backend) bool {
		n := b.inFlight.Load()
		if n <= 0 {
			// Who counts itself in from here on finds it unlisted; who did before is
			// seen by a second look (atomic operations have one order).
			b.listed.Store(false)
			if n = b.inFlight.Load(); n <= 0 {
				return true
			}
			b.listed.Store(true)
		}
		out[b.Backend] += int(n)
		return false
	})
	return out
}
