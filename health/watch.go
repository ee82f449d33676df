package health

import (
	"time"

	"github.com/miosa/miosa"
)

const (
	// WorseAfter is how long an environment must have done at least so badly
	// for that to be told: a replacement takes less.
	WorseAfter = 10 * time.Second
	// BetterAfter is how long it must have done at least so well: what flaps is
	// not told of each time. What crash-loops is told to be better only once it
	// is ok: it would be down again after the next crash.
	BetterAfter = 2 * time.Minute
)

// Watch follows how an environment does, so that changes are told, and those
// that do not last are not. In any time t it tells at most 4 + 4·t/BetterAfter
// times. The zero value has seen nothing.
type Watch struct {
	since [2]time.Time // by badness less 1: when the answer to "is it that bad" last changed
	bad   [2]bool      // the answer
	begun bool
	// looping is as it was last seen.
	looping bool
}

// Look takes in how the environment does now, and whether it is a crash loop
// (Condition.Looping); told is what was last told ("" is ok). tell is what is to be told instead, "" nothing; wake is when to
// look again at the latest although nothing happened, zero for never.
func (w *Watch) Look(now time.Time, told, seen miosa.EnvironmentHealth, looping bool) (tell miosa.EnvironmentHealth, wake time.Time) {
	for n := range w.bad {
		if bad := badness(seen) > n; !w.begun || bad != w.bad[n] || now.Before(w.since[n]) {
			w.bad[n], w.since[n] = bad, now
		}
	}
	if w.looping && !looping && !w.bad[1] {
		w.since[1] = now // it is only now that it may last
	}
	w.begun, w.looping = true, looping
	levels := [...]miosa.EnvironmentHealth{miosa.EnvironmentOK, miosa.EnvironmentDegraded, miosa.EnvironmentDown}
	said := badness(told)
	next := said
	for n := range w.bad {
		switch {
		case w.bad[n] && n >= said: // worse than was said
			if due := w.since[n].Add(WorseAfter); now.Before(due) {
				wake = earlier(wake, due)
			} else {
				next = n + 1
			}
		case looping && n > 0: // what is better lasts until the next crash
		case !w.bad[n] && n < said && next <= said: // better than was said
			if due := w.since[n].Add(BetterAfter); now.Before(due) {
				wake = earlier(wake, due)
			} else {
				next = min(next, n)
			}
		}
	}
	if next == said {
		return "", wake
	}
	return levels[next], wake
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}
