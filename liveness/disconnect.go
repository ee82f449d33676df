package liveness

import (
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/lifecycle"
)

// DisconnectMargin is what control waits beyond all that is counted before it
// replaces an instance that stops itself without control. One percent of the time
// is added for clocks that run apart.
const DisconnectMargin = 15 * time.Second

// StoppedAfter is the silence after which an instance whose agent stops it after
// stopAfter without control has certainly ended: its grace and the VM's end follow,
// and a margin. It counts on the agent to count from when it sent the last beat
// that was acknowledged, not from what it last received: where messages are lost
// one way only, that is what both sides agree on. And on something that outlives
// the agent to end the VM when the agent itself is what died.
func StoppedAfter(stopAfter time.Duration, spec miosa.ServiceSpec) time.Duration {
	return stopAfter + stopAfter/100 + lifecycle.StopGrace(spec) + lifecycle.KillAfter + DisconnectMargin
}

// MayReplace says whether an instance may have a successor on another host after
// that much silence of its own (Status.Silence): at once, unless its service has a
// stop_after_disconnect, stopAfter, because it must never run twice. Otherwise it
// says why not, and in how long to ask again. Brakes come on top of it.
func MayReplace(silence, stopAfter time.Duration, spec miosa.ServiceSpec) (ok bool, reason string, again time.Duration) {
	wait := StoppedAfter(stopAfter, spec)
	if stopAfter <= 0 || silence >= wait {
		return true, "", 0
	}
	return false, "it must never run twice: its host, if it still runs, stops it after " + long(stopAfter) +
		" without control; it is replaced after " + long(wait), wait - silence
}
