package control

import (
	"maps"
	"slices"
	"sync"
)

// hub hands values to subscribers by key, each holding only what it has not
// taken yet: a slow subscriber never makes anybody wait, and costs one value.
type hub[T any] struct {
	mu   sync.Mutex // guards subs and every subscriber's value
	subs map[string]map[*subscriber[T]]bool
}

type subscriber[T any] struct {
	wake  chan struct{} // holds one token while value was not taken
	value T
	full  bool
}

func newHub[T any]() *hub[T] { return &hub[T]{subs: map[string]map[*subscriber[T]]bool{}} }

func (h *hub[T]) subscribe(key string) (*subscriber[T], func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &subscriber[T]{wake: make(chan struct{}, 1)}
	if h.subs[key] == nil {
		h.subs[key] = map[*subscriber[T]]bool{}
	}
	h.subs[key][s] = true
	return s, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.subs[key], s)
		if len(h.subs[key]) == 0 {
			delete(h.subs, key)
		}
	}
}

// keys are those that somebody subscribes to, in no order.
func (h *hub[T]) keys() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Keys(h.subs))
}

// send merges a value into what each of the key's subscribers has waiting.
func (h *hub[T]) send(key string, merge func(waiting T, full bool) T) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.subs[key] {
		s.value, s.full = merge(s.value, s.full), true
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// take empties a subscriber.
func (h *hub[T]) take(s *subscriber[T]) (T, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var zero T
	v, full := s.value, s.full
	s.value, s.full = zero, false
	return v, full
}
