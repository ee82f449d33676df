// Package health turns probe results into verdicts: the grace period after a
// start, the threshold of consecutive failures, the ladder of delays between
// restarts and the budget at its end. It is pure: time comes in as an argument.
package health

import (
	"fmt"
	"time"

	"github.com/miosa/miosa"
)

// Result is what one probe saw.
type Result struct {
	At     time.Time
	OK     bool   // it was as its type wants it, within the timeout
	Detail string // in words: "connection refused", "answered 503", "exited with code 3"
}

// Verdict is what a result changed.
type Verdict string

const (
	Same            Verdict = "same"
	BecameHealthy   Verdict = "became_healthy"
	BecameUnhealthy Verdict = "became_unhealthy"
)

// While an instance has not been healthy yet it is probed after firstProbe,
// then ever slower by probeGrowth, up to its interval: a fast app is in the
// pool in a blink and a slow one is not hammered.
const (
	firstProbe  = 50 * time.Millisecond
	probeGrowth = 1.5
	// startingCap bounds the wait between two probes of a starting app, so
	// that a slow start is noticed within a second of its end.
	startingCap = time.Second
	// resumeGrace is the least that is left of grace after a time in which
	// nobody probed: our absence is not the app's fault.
	resumeGrace = 5 * time.Second
)

// Tracker follows one boot of one instance. The zero value is of no use: see
// Begin and Resume.
type Tracker struct {
	Check    miosa.HealthCheck
	Began    time.Time // when the run command started
	Ever     bool      // was healthy in this boot
	Healthy  bool
	Failures int // consecutive, since the last success
	Next     time.Time
	delay    time.Duration
}

// Begin starts tracking a boot whose run command started at began.
func Begin(check miosa.HealthCheck, began time.Time) Tracker {
	return Tracker{Check: withDefaults(check), Began: began, Next: began.Add(firstProbe), delay: firstProbe}
}

// Resume goes on with a boot that an earlier process of ours tracked.
func Resume(check miosa.HealthCheck, began time.Time, healthy, ever bool, now time.Time) Tracker {
	t := Begin(check, began)
	t.Healthy, t.Ever, t.Next = healthy, ever, now
	if ever && !healthy {
		t.Failures = t.Check.Threshold
	}
	if earliest := now.Add(min(resumeGrace, t.Check.Grace) - t.Check.Grace); !ever && t.Began.Before(earliest) {
		t.Began = earliest
	}
	return t
}

func withDefaults(c miosa.HealthCheck) miosa.HealthCheck {
	d := miosa.DefaultHealthCheck()
	if c.Path == "" {
		c.Path = d.Path
	}
	if c.Interval <= 0 {
		c.Interval = d.Interval
	}
	if c.Timeout <= 0 {
		c.Timeout = d.Timeout
	}
	if c.Grace <= 0 {
		c.Grace = d.Grace
	}
	if c.Threshold <= 0 {
		c.Threshold = d.Threshold
	}
	return c
}

// Hurry asks for a probe at once: something began to listen.
func (t *Tracker) Hurry(now time.Time) {
	if !t.Ever && t.Next.After(now) {
		t.Next, t.delay = now, firstProbe
	}
}

// Observe takes a probe's result and says what it changed. Failures before
// the first success change nothing: grace is judged by Expired.
func (t *Tracker) Observe(now time.Time, r Result) Verdict {
	if t.Ever {
		t.Next = now.Add(t.Check.Interval)
	} else {
		t.delay = min(time.Duration(float64(t.delay)*probeGrowth), t.Check.Interval, startingCap)
		t.Next = now.Add(t.delay)
	}
	if r.OK {
		t.Failures = 0
		t.Ever = true
		t.Next = now.Add(t.Check.Interval)
		if !t.Healthy {
			t.Healthy = true
			return BecameHealthy
		}
		return Same
	}
	t.Failures++
	if t.Healthy && t.Failures >= t.Check.Threshold {
		t.Healthy = false
		return BecameUnhealthy
	}
	return Same
}

// GraceEnds is when an instance that was never healthy is given up.
func (t *Tracker) GraceEnds() time.Time { return t.Began.Add(t.Check.Grace) }

// Expired reports whether grace is over without one success.
func (t *Tracker) Expired(now time.Time) bool { return !t.Ever && !now.Before(t.GraceEnds()) }

// Wake is when there is something to do: the next probe, or the end of grace.
func (t *Tracker) Wake() time.Time {
	if !t.Ever && t.GraceEnds().Before(t.Next) {
		return t.GraceEnds()
	}
	return t.Next
}

// Words says in a customer's words why an app that was asked in that way did not
// become healthy within its grace; last is what the last probe saw, "" nothing.
func (t *Tracker) Words(how miosa.HealthType, last string) string {
	if last == "" {
		last = "no probe was answered"
	}
	missed := "GET " + t.Check.Path + " did not answer 2xx"
	switch how {
	case miosa.HealthTCP:
		missed = "its port accepted no connection"
	case miosa.HealthGRPC:
		missed = "its gRPC health service did not answer SERVING"
	case miosa.HealthExec:
		missed = "the health check's command did not exit with 0"
	}
	return fmt.Sprintf("%s within %s of the start; the last probe: %s", missed, t.Check.Grace, last)
}

// Named is what a health check of that type is called in what is told of it.
func Named(how miosa.HealthType, check miosa.HealthCheck) string {
	if how == miosa.HealthHTTP {
		return "health check GET " + withDefaults(check).Path
	}
	return string(how) + " health check"
}
