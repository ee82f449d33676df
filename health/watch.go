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
	// not told of each time.
	BetterAfter = 2 * time.Minute
)

// Watch follows how an environment does, so that changes are told, and those
// that do not last are not. In any time t it tells at most 4 + 4·t/BetterAfter
// times. The zero value has seen nothing.
type Watch struct {
	since [2]time.Time // by badness less 1: when the answer to "is it that bad" last changed
	bad   [2]bool      // the answer
	begun bool
}

// Look takes in how the environment does now, told being what was last told
// ("" is ok). tell is what is to be told instead, "" nothing; wake is when to
// look again at the latest although nothing happened, zero for never.
func (w *Watch) Look(now time.Time, told, seen miosa.EnvironmentHealth) (tell miosa.EnvironmentHealth, wake time.Time) {
	for n := range w.bad {
		if bad := badness(seen) > n; !w.begun || bad != w.bad[n] || now.Before(w.since[n]) {
			w.bad[n], w.since[n] = bad, now
		}
	}
	w.begun = true
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
