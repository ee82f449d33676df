// Package plan says what a change would lead to, without making it: a dry run.
// It gives the records to a machine of package cell, the very one that decides,
// and carries out on a copy what that asks for, in virtual time: which host each
// instance goes to, what finds none and why, which services have fewer instances
// that serve than they want, in the end and at the lowest point on the way. It is
// pure, and changes nothing of what it is given.
//
// plan.go is what is found out, change.go what can be tried, copy.go the records
// and hosts that it is tried on, account.go makes the findings of what happened
// there, lines.go puts them in words, view.go is what a customer may see of them.
package plan

import (
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/cell"
)

// Plan is what a change would lead to.
type Plan struct {
	// Revision of the records that it rests on.
	Revision int64
	What     string // the change in words, as a title
	// Services are those whose instances the change touches, in order of tenant,
	// deployment, environment and name.
	Services []Service
	Moves    []Move
	Starts   []Start
	Ends     []End
	NoRoom   []NoRoom
	Stays    []Stay // on hosts that are to be drained
	// Rollouts are those that the change begins.
	Rollouts []Rollout
	Zones    []Zone // all, in order of region and name
	Hosts    []Host // those of which more or less is promised after it
	// Waiting is how many instances find no host before the change either, and
	// still find none; they are in none of the lists.
	Waiting int
	// Unfinished: it did not come to rest within the bounds of a dry run. What is
	// said is how far it came.
	Unfinished bool
}

// Subject is whose something is, by names.
type Subject struct {
	TenantID, DeploymentID, EnvironmentID, ServiceID string
	Tenant, Deployment, Environment                  string // the first two as slugs
	Service                                          string // "": of the environment as a whole
}

// Service is one service's standing before and after.
type Service struct {
	Subject
	// Wanted is how many instances it wants where it is live, 0 where it is not.
	WantedBefore, Wanted int
	// Serving is how many healthy ones its live version has.
	ServingBefore, Lowest, Serving int
}

// Falls: in the end fewer serve than it wants, and it is not so without the change.
func (s *Service) Falls() bool {
	return s.Serving < s.Wanted && (s.ServingBefore >= s.WantedBefore || s.Serving < s.ServingBefore)
}

// Dips: for a while fewer serve than it wants before and after, and than did.
func (s *Service) Dips() bool {
	return s.Lowest < min(s.WantedBefore, s.Wanted, s.ServingBefore)
}

// Down: for a while, or for good, none serves, though one did and is wanted.
func (s *Service) Down() bool {
	return s.Lowest == 0 && s.ServingBefore > 0 && s.WantedBefore > 0 && s.Wanted > 0
}

// Place is a host, and where it is.
type Place struct {
	HostID, Host string // Host is its name
	Region, Zone string
}

// Move is an instance whose slot is filled on another host, or anew on the same.
type Move struct {
	Subject
	Version    int
	Slot       int
	InstanceID string // that leaves; "": one that would only be there by then
	From, To   Place
	Reason     string
}

// Start is a new instance in a slot, or one that waited for a host and finds one.
type Start struct {
	Subject
	Version int
	Slot    int
	On      Place
	Reason  string
}

// End is an instance that nothing takes over from in its version.
type End struct {
	Subject
	Version    int
	Slot       int
	InstanceID string // as in Move
	On         Place  // the zero one: it had no host
	Reason     string
}

// NoRoom is an instance that finds no host.
type NoRoom struct {
	Subject
	Version  int
	Slot     int
	Replaces string // the instance that it was to take over from; "": none
	// Reasons say what turned each host down, as package schedule has them.
	Reasons []string
}

// Stay is an instance that does not come away from a host that is drained.
type Stay struct {
	Subject
	Version    int
	Slot       int
	InstanceID string // as in Move
	On         Place
}

// Rollout is how a rollout that the change begins goes.
type Rollout struct {
	Subject
	Version int
	Live    bool // the version has taken over
	Proven  bool // it ended well without that, as was asked
	Reason  string
}

// Zone is how full the hosts of one zone are, by what is promised.
type Zone struct {
	Region, Zone string
	// Usable hosts take new instances: they are alive, not cordoned and not failing.
	UsableBefore, Usable int
	// Capacity and what is promised, of the usable ones; vCPUs as often as they may
	// be promised.
	CapacityBefore, UsedBefore, Capacity, Used miosa.Resources
}

// Host is how much is promised on one host.
type Host struct {
	Place
	Capacity         miosa.Resources // vCPUs as often as they may be promised
	UsedBefore, Used miosa.Resources
}

// OK reports whether all that is wanted finds a host, no service has fewer
// instances that serve than it wants in the end, none is down on the way, what is
// drained is empty in the end, and every rollout comes to its end. What was not well
// before the change does not count, unless the change makes it worse.
func (p *Plan) OK() bool {
	if len(p.NoRoom) > 0 || len(p.Stays) > 0 || p.Unfinished {
		return false
	}
	for n := range p.Services {
		if s := &p.Services[n]; s.Falls() || s.Down() {
			return false
		}
	}
	for _, r := range p.Rollouts {
		if !r.Live && !r.Proven {
			return false
		}
	}
	return true
}

// Make finds out what a change would lead to. loaded are all records, in any
// order, which stay as they are; now is the time by the same clock as theirs. cfg
// is the deciding machine's: names and routers are of no concern here, and are
// left out of it.
//
// What follows without the change is let happen first, and is none of the plan.
// Hosts do as they are told: what is placed is healthy a moment later, what is
// stopped ends, no request is in flight, no image has to be pulled, and the hosts
// that are alive stay so. It takes about what control takes to load the same records
// and to make the same decisions. The error is about records that control could not
// go on with either.
func Make(now time.Time, loaded cell.Loaded, cfg cell.Config, change Change) (Plan, error) {
	w := newCopy(now, cfg)
	if err := w.load(loaded); err != nil {
		return Plan{}, err
	}
	if _, err := w.settle(w.patience()); err != nil {
		return Plan{}, err
	}
	then := w.begin()
	w.try(change)
	rests, err := w.settle(quiet)
	if err != nil {
		return Plan{}, err
	}
	p := w.account(then, change)
	p.Revision, p.What, p.Unfinished = loaded.Revision, change.What, !rests
	return p, nil
}
