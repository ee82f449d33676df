// Package steady keeps a wall clock that jumps ahead from deleting what is not
// old yet.
package steady

import (
	"log/slog"
	"sync"
	"time"
)

const (
	// tolerance is how far the wall clock may run ahead between two looks: it is
	// slewed, and leap seconds are inserted.
	tolerance = time.Minute
	// settle is for how long a jump must last to be believed: within it whoever
	// sets the clock, or the operator who is told, can put it right. A machine
	// that slept is late by as much.
	settle = time.Hour
)

// Clock tells by which time what is old may go. Its zero value begins with the
// first look.
type Clock struct {
	mu       sync.Mutex // guards all
	began    time.Time
	wall     time.Time     // as last believed
	at       time.Duration // of wall, since began on the monotonic clock
	jumped   bool
	jumpedAt time.Duration // since began
}

// By is now; or, for an hour after the wall clock jumped ahead, the time it
// would be without the jump, which is said in the log once. now is a time with
// a monotonic reading, as of time.Now: without one there are no jumps. A clock
// set back is believed at once: then less is old.
func (c *Clock) By(now time.Time, log *slog.Logger) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.began.IsZero() {
		c.began = now
	}
	by, jump := c.look(now.Round(0), now.Sub(c.began))
	if jump > 0 {
		log.Error("the clock jumped ahead: nothing more is deleted for its age until it has been so for an hour; if it is wrong, set it right before",
			"by", jump.Round(time.Second), "for", settle)
	}
	return by
}

// look judges the wall clock at some uptime; jump is how far it jumped if it
// is seen now.
func (c *Clock) look(wall time.Time, uptime time.Duration) (by time.Time, jump time.Duration) {
	due := c.wall.Add(uptime - c.at)
	ahead := wall.Sub(due)
	switch {
	case c.wall.IsZero() || ahead <= tolerance || c.jumped && uptime-c.jumpedAt >= settle:
		c.wall, c.at, c.jumped = wall, uptime, false
		return wall, 0
	case !c.jumped:
		c.jumped, c.jumpedAt = true, uptime
		return due, ahead
	}
	return due, 0
}
