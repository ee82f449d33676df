package edge

import "time"

// reuse is what a router has learnt of how a backend treats connections, and
// decides which may serve another request. It knows no clock; backend.mu
// guards it.
//
// HTTP/1.1 has nothing that ties an answer to its request but their order. An
// app that sends more than one answer to a request would have the next
// request on that connection answered with what belongs to nobody, and every
// later one with the answer to the one before it. So:
//
//   - A connection with something to read, or closed, takes no request.
//   - A connection that has served rests for twice as long as its app takes to
//     answer before it serves again, while there is room for more
//     connections. What an app sends too much shows in that time, and if one
//     exchange was spoilt, then the answer that it should have had does.
//   - The first surplus ends the reuse of that backend's connections.
//
// Other apps close each connection after an answer and do not say so. A
// request that may not be sent twice is lost when it meets that, so it takes
// a connection only of an app that was seen to keep them.
type reuse struct {
	broken  string        // why no connection is used twice; "" while they are
	pace    time.Duration // how long the app takes to answer: the longest, slowly forgotten
	kept    bool          // a connection has served twice since the last hang-up
	hangUps int           // in a row, soon after an answer
	retry   time.Time     // after so many: when the next connection is kept
}

const (
	// restLeast and restMost bound how long a connection rests before it
	// serves again.
	restLeast = time.Millisecond
	restMost  = 200 * time.Millisecond

	// restFree is how many connections of a backend may rest for it besides
	// one for each request in flight: beyond that the one that has rested
	// longest serves.
	restFree = 8

	// hangUpsMost is how many connections in a row may be closed soon after
	// their first answer before the backend is taken to close them all, which
	// is believed for hangUpsBelieved.
	hangUpsMost     = 3
	hangUpsBelieved = 30 * time.Second

	// soon is when a connection that was closed has not been closed for
	// having rested.
	soon = time.Second

	// proof is how long a connection has to have rested, and be open, to show
	// that its app does not close it after each answer.
	proof = 20 * time.Millisecond
)

// keeps reports whether a connection is kept after its answer.
func (u *reuse) keeps(now time.Time) bool {
	return u.broken == "" && (u.hangUps < hangUpsMost || !now.Before(u.retry))
}

// rest is how long a connection rests before it serves again.
func (u *reuse) rest() time.Duration {
	return min(max(2*u.pace, restLeast), restMost)
}

// safe reports whether a request that may not be sent twice may go out on a
// connection that has rested for so long.
func (u *reuse) safe(rested time.Duration) bool {
	return u.hangUps == 0 && rested <= soon && (u.kept || rested >= proof)
}

// answered notes how long an answer took to begin, and whether it came on a
// connection that had served before.
func (u *reuse) answered(took time.Duration, reused bool) {
	if took >= u.pace {
		u.pace = took
	} else {
		u.pace -= (u.pace - took) / 16
	}
	if reused {
		u.kept, u.hangUps = true, 0
	}
}

// hungUp notes a connection that the backend closed, also with a request on
// it: after so many answers, and so long after the last of them. Only one that
// was closed soon after its first answer tells that they all are.
func (u *reuse) hungUp(now time.Time, served int, rested time.Duration) {
	if rested > soon || served > 1 {
		return
	}
	u.kept = false
	if u.hangUps++; u.hangUps >= hangUpsMost {
		u.retry = now.Add(hangUpsBelieved)
	}
}

// distrust ends the reuse of the backend's connections. It reports whether
// that is news.
func (u *reuse) distrust(why string) bool {
	news := u.broken == ""
	if news {
		u.broken = why
	}
	return news
}
