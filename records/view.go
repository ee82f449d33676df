package records

import (
	"context"
	"iter"
	"strings"
	"sync"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/store"
)

const (
	// believed bounds how long a record is taken for what it was while nobody
	// tells of changes.
	believed = time.Minute
	// maxHeld bounds how many records are held.
	maxHeld = 50_000
)

// View answers for records that are asked for over and over, from memory where it
// has them. While Run goes on it hears of every change, a moment after it was
// committed; without, an answer is at most a minute old. What decides what is
// lost for good asks for Fresh.
//
// Make it with New. Its methods may be called from several goroutines at once.
type View struct {
	store store.Store
	now   func() time.Time

	mu        sync.Mutex // guards the rest
	held      map[string]*held
	located   map[string]store.Location // by ID: where a thing lies never changes
	following bool
}

// held is a record in memory, or on its way there.
type held struct {
	noun     any // nil: it is being read
	revision int64
	at       time.Time
}

// New starts nothing.
func New(s store.Store) *View {
	return &View{store: s, now: time.Now, held: map[string]*held{}, located: map[string]store.Location{}}
}

// Store is what a View is of: for what is listed or written.
func (v *View) Store() store.Store { return v.store }

// Run keeps what is held as the store has it, until ctx ends.
func (v *View) Run(ctx context.Context, failed func(error)) {
	f := Follower{
		Store: v.store, Take: v.apply,
		// What it holds it has asked for: nothing is to be listed.
		List: func(context.Context) iter.Seq2[store.Entry, error] { return func(func(store.Entry, error) bool) {} },
	}
	defer v.deaf()
	f.Run(ctx, func(err error) {
		v.deaf()
		failed(err)
	})
}

// deaf: nobody tells of changes.
func (v *View) deaf() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.following = false
}

func (v *View) apply(_ context.Context, b Batch) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if b.Whole { // what changed before is not known
		v.following = true
		v.drop("")
		return nil
	}
	for _, r := range b.Records {
		if r.Gone {
			delete(v.located, r.ID)
		}
		h := v.held[r.Key]
		if h == nil || h.noun != nil && h.revision >= b.Revision {
			continue // it was read after this change
		}
		delete(v.held, r.Key) // who asks for it reads it again
	}
	return nil
}

// drop forgets what is held under a prefix; v.mu is held.
func (v *View) drop(prefix string) {
	for key := range v.held {
		if strings.HasPrefix(key, prefix) {
			delete(v.held, key)
		}
	}
}

// Forget drops what is held under a prefix of keys: who asks afterwards has what
// the store has by now.
func (v *View) Forget(prefix string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.drop(prefix)
}

// slim is a noun less what nobody asks a View for and is large.
func slim(noun any) any {
	if i, ok := noun.(miosa.Instance); ok {
		i.BootSpec, i.Notices = nil, nil
		return i
	}
	return noun
}

// Get is store.Get, from memory where it is held. Of an instance, boot spec and
// words are left out. That there is no record is not remembered.
func Get[T any](ctx context.Context, v *View, k store.Kind[T], key string) (T, error) {
	v.mu.Lock()
	if h := v.held[key]; h != nil && h.noun != nil && (v.following || v.now().Sub(h.at).Abs() < believed) {
		v.mu.Unlock()
		return h.noun.(T), nil
	}
	v.mu.Unlock()
	return Fresh(ctx, v, k, key)
}

// Fresh is Get as the store has it at this moment.
func Fresh[T any](ctx context.Context, v *View, k store.Kind[T], key string) (T, error) {
	mine := &held{}
	v.mu.Lock()
	v.held[key] = mine
	for other := range v.held {
		if len(v.held) <= maxHeld {
			break
		}
		if other != key {
			delete(v.held, other)
		}
	}
	v.mu.Unlock()
	noun, err := store.Get(ctx, v.store, k, key)
	noun = slim(noun).(T)
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.held[key] != mine: // forgotten meanwhile, or somebody reads it anew
	case err != nil:
		delete(v.held, key)
	default:
		mine.noun, mine.revision, mine.at = noun, k.Revision(noun), v.now()
	}
	return noun, err
}

// Locate is store.Locate, from memory where it was asked before.
func (v *View) Locate(ctx context.Context, id string) (store.Location, error) {
	v.mu.Lock()
	at, ok := v.located[id]
	v.mu.Unlock()
	if ok {
		return at, nil
	}
	at, err := store.Locate(ctx, v.store, id)
	if err != nil {
		return at, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.located) >= maxHeld {
		clear(v.located)
	}
	v.located[id] = at
	return at, nil
}
