package edge

import (
	"hash/maphash"
	"sync"
	"sync/atomic"

	"github.com/miosa/miosa/routing"
)

// table finds the entry of a host name.
type table struct {
	seed   maphash.Seed
	shards [256]shard
}

type shard struct {
	mu      sync.RWMutex // guards entries; the loop alone writes
	entries map[string]*entry
}

// entry is what a host name has for as long as the table names it.
type entry struct {
	host    string
	pool    atomic.Pointer[pool] // nil once the host name is dropped
	waiting atomic.Int32         // requests that wait for a backend to come
	stats   hostStats
}

// pool is a routing.Pool with its living backends, in the same order.
type pool struct {
	routing.Pool
	backends []*backend
	next     atomic.Uint64 // round robin
	replaced chan struct{} // closed when another pool, or none, takes its place
}

func newTable() *table {
	t := &table{seed: maphash.MakeSeed()}
	for i := range t.shards {
		t.shards[i].entries = map[string]*entry{}
	}
	return t
}

func (t *table) shard(host string) *shard {
	return &t.shards[byte(maphash.String(t.seed, host))]
}

// find is the host name's entry, nil for an unknown one.
func (t *table) find(host string) *entry {
	s := t.shard(host)
	s.mu.RLock()
	e := s.entries[host]
	s.mu.RUnlock()
	return e
}

// set makes p the pool of the host name. The store of the pointer is the flip.
func (t *table) set(host string, p *pool) {
	e := t.find(host)
	if e == nil {
		e = &entry{host: host}
		e.pool.Store(p)
		s := t.shard(host)
		s.mu.Lock()
		s.entries[host] = e
		s.mu.Unlock()
		return
	}
	old := e.pool.Swap(p)
	close(old.replaced)
}

// drop forgets the host name. Requests that found the entry before see no
// pool in it.
func (t *table) drop(host string) {
	s := t.shard(host)
	s.mu.Lock()
	e := s.entries[host]
	delete(s.entries, host)
	s.mu.Unlock()
	if e != nil {
		old := e.pool.Swap(nil)
		close(old.replaced)
	}
}

// acquire picks a backend and counts the request in there; the caller
// releases it. It returns no pool for a host name that was dropped, and no
// backend when the pool has none left to offer to this request.
//
// Count first, then look again: if the pool is still the entry's after the
// count, then the count came before any later flip (atomic operations have
// one order), and the loop, which reads the counts after its flips, sees it.
// If the pool is no longer the entry's, the request takes its count back
// without having touched the backend, and picks anew. So a generation may be
// acknowledged as soon as its pools are stored, and a backend outside of it
// is done with for good once its count is read as zero.
func (e *entry) acquire(x *exchange) (*pool, *backend) {
	for {
		p := e.pool.Load()
		if p == nil {
			return nil, nil
		}
		b := p.pick(x)
		if b == nil {
			return p, nil
		}
		b.enter()
		if e.pool.Load() == p {
			return p, b
		}
		b.release()
	}
}
