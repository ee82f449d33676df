package health

import (
	"fmt"
	"time"

	"github.com/miosa/miosa"
)

// Delays are the steps of the ladder: how long the n-th rapid failure in a row
// waits for its next boot. Past the last step each waits the last one's time.
var delays = [...]time.Duration{time.Second, 2 * time.Second, 5 * time.Second, 30 * time.Second, 5 * time.Minute}

const (
	// Budget is how many rapid failures in a row are borne; the next one ends
	// the instance.
	Budget = 8
	// RolloutBoots is how often an instance is booted whose version was never
	// healthy: a rollout does not climb the ladder.
	RolloutBoots = 3
	// Settled is how long an instance must have been healthy for its failures
	// to be forgotten (Kubernetes resets its back-off after the same time).
	Settled = 10 * time.Minute
	// FailuresOnOneHost is after how many rapid failures a slot tries another host.
	FailuresOnOneHost = 3
)

// Setback is one failed boot, as the ladder sees it.
type Setback struct {
	Kind      miosa.FailureKind
	At        time.Time
	HealthyAt time.Time // when this boot became healthy; zero: never
	Boot      int       // boots so far, this one included
	Failures  int       // rapid failures before this one
	Proven    bool      // the version was healthy before
}

// Next is the ladder's answer to a setback.
type Next struct {
	Failures int           // rapid failures, this one included
	Delay    time.Duration // before the next boot
	GiveUp   bool          // failed for good
	Why      string        // in words
}

// Climb says what follows a failed boot.
func Climb(s Setback) Next {
	failures := s.Failures
	if !s.HealthyAt.IsZero() && s.At.Sub(s.HealthyAt) >= Settled {
		failures = 0
	}
	failures++
	if !s.Proven {
		switch {
		case s.Kind.Permanent():
			return Next{Failures: failures, GiveUp: true, Why: "another boot of the same version cannot help"}
		case s.Kind == miosa.FailureProbe:
			return Next{Failures: failures, GiveUp: true, Why: "it was never healthy within its grace period"}
		case s.Boot >= RolloutBoots:
			return Next{Failures: failures, GiveUp: true, Why: fmt.Sprintf("%d boots of a version that was never healthy", s.Boot)}
		}
	}
	if failures > Budget {
		return Next{Failures: failures, GiveUp: true, Why: fmt.Sprintf("%d failures in a row, none more than %s after it last became healthy", failures, Settled)}
	}
	delay := delays[min(failures, len(delays))-1]
	return Next{
		Failures: failures, Delay: delay,
		Why: fmt.Sprintf("failure %d of %d in a row: the next boot comes in %s", failures, Budget, delay),
	}
}
