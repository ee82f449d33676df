package reconcile

import (
	"time"

	"github.com/miosa/miosa"
)

// Routed is what control knows of an instance's traffic.
type Routed struct {
	// Held: a live router may still send it new requests.
	Held bool
	// InFlight counts requests and upgraded connections over all live routers.
	InFlight int
	// Left is when the route table lost it, or since when that can be known; zero:
	// whenever it was.
	Left time.Time
}

// RouterPatience is how much longer than the drain limit an instance waits for
// routers. Each ends what is in flight the drain limit after it has itself let go,
// and it may have heard late that it was to. Past that a router is broken.
const RouterPatience = 30 * time.Second

// Drained says whether an instance with goal drain may be told to stop, why,
// and otherwise when to look again. This is the only way from serving to
// stopping, whatever the cause.
func Drained(now time.Time, i *miosa.Instance, r Routed) (bool, string, time.Time) {
	limit := time.Duration(i.DrainSeconds) * time.Second
	if limit <= 0 {
		limit = miosa.DefaultDrain
	}
	since := i.GoalSince
	if r.Left.After(since) { // routers heard of it no sooner
		since = r.Left
	}
	end := since.Add(limit + RouterPatience)
	switch {
	case i.State().Terminal():
		return true, "it has ended by itself", time.Time{}
	case i.HostID == "":
		return true, "it never had a host", time.Time{}
	case !r.Held && r.InFlight == 0:
		return true, "no router holds it and nothing is in flight", time.Time{}
	case !r.Held && !now.Before(end):
		return true, "its drain limit passed with requests in flight", time.Time{}
	case !now.Before(end):
		return true, "a router did not let go of it in time", time.Time{}
	}
	return false, "", end
}
