package cell

import (
	"container/heap"
	"time"
)

// alarms are the times at which environments are to be looked at again.
type alarms struct {
	at    map[string]time.Time // by environment ID
	queue queue                // by nanoseconds of Unix time; also alarms that were set anew or cleared since
	last  time.Time            // when due was last asked
}

func newAlarms() *alarms { return &alarms{at: map[string]time.Time{}} }

func (a *alarms) set(env string, at time.Time) {
	if old, ok := a.at[env]; ok && old.Equal(at) {
		return
	}
	a.at[env] = at
	a.queue.wait(at.UnixNano(), env)
	if len(a.queue) > 2*len(a.at)+64 {
		a.sweep()
	}
}

func (a *alarms) clear(env string) { delete(a.at, env) }

// sweep lets go of what counts no more.
func (a *alarms) sweep() {
	a.queue = a.queue[:0]
	for env, at := range a.at {
		a.queue = append(a.queue, waiting{at.UnixNano(), env})
	}
	heap.Init(&a.queue)
}

// counts reports whether the alarm is still set.
func (a *alarms) counts(w waiting) bool {
	at, ok := a.at[w.id]
	return ok && at.UnixNano() == w.until
}

// due clears the alarms whose time has come and returns whose they are, in no
// order. By a clock that was set back none can be waited for: then all are due.
func (a *alarms) due(now time.Time) (envs []string) {
	back := now.Before(a.last.Add(-time.Second))
	a.last = now
	if back {
		for env := range a.at {
			envs = append(envs, env)
		}
		clear(a.at)
		a.queue = nil
		return envs
	}
	for {
		w, ok := a.queue.reached(now.UnixNano())
		if !ok {
			return envs
		}
		if a.counts(w) {
			delete(a.at, w.id)
			envs = append(envs, w.id)
		}
	}
}

// next is the earliest of all; the zero time: there is none.
func (a *alarms) next() time.Time {
	for len(a.queue) > 0 {
		if a.counts(a.queue[0]) {
			return a.at[a.queue[0].id]
		}
		heap.Pop(&a.queue)
	}
	return time.Time{}
}
