// Package reconcile compares what an environment should run with what it
// runs, slot by slot, and says what to do about the difference. It is pure and
// level-based: it looks at states, never at how they came about, so that a
// missed or repeated event changes nothing.
package reconcile

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/disruption"
	"github.com/miosa/miosa/health"
)

// PlaceBefore is how long a replacement may wait for a host before its
// unhealthy instance is restarted in place instead: where there is room for
// one only, make-before-break is not to be had.
const PlaceBefore = 10 * time.Second

// Input is everything a decision rests on.
type Input struct {
	Now      time.Time
	Services []miosa.Service
	// Sides are the versions that should run: the active one, and during a
	// rollout its target beside it.
	Sides     []Side
	Instances []miosa.Instance // of the environment, terminal ones included
	// Hosts by ID tells which hosts are not what they should be.
	Hosts map[string]miosa.Host
	// MayReplace says whether an instance on a host that is not alive may have a
	// successor by now; nil: any may. What it allowed once it allows again.
	MayReplace func(*miosa.Instance) bool
	// Account is that of a service, as the version has it; nil: it is made here. What
	// is decided is counted in it.
	Account func(svc miosa.Service, version string) *disruption.Account
	// Drains are what the drain of its host makes of an instance now, by ID; see
	// disruption.DrainHost, which has counted that in the accounts.
	Drains map[string]Move
	// Most is how many actions are wanted; 0: all. Those that come first are the
	// same, whatever it is.
	Most int
}

// Move is what a host's drain makes of an instance now. One may be replaced and
// leave at once.
type Move struct {
	Replace, Leave bool
	Reason         string // of its leaving, in words
}

// Side is one version that should run.
type Side struct {
	Version miosa.Version
	// Since: failures of instances made earlier do not count against it.
	Since  time.Time
	Proven bool
	// AtLeast is how many instances to run whatever the service wants: a
	// version on trial needs one to prove itself, even at zero replicas.
	AtLeast int
}

// Op is what an action does.
type Op string

const (
	Create  Op = "create"  // a new instance in a slot
	Drain   Op = "drain"   // leave the route table, then stop
	Restart Op = "restart" // boot again in place, at once; that also answers ReplaceAsked
)

// Action is one step towards what should be.
type Action struct {
	Op       Op
	Instance miosa.Instance // Drain, Restart: which one
	Heir     string         // Drain: the instance that serves in its place and must be meant to still; "": none
	// Create:
	Service  miosa.Service
	Spec     miosa.ServiceSpec
	Version  string
	Proven   bool
	Slot     int
	Replaces string // instance to be taken over from
	Avoid    string // host not to use
	Failures int    // where the slot stands on the ladder
	Reason   string // in words, for the record, the log and the golden files
}

// Result is the decision.
type Result struct {
	Actions []Action
	Wake    time.Time // look again then; zero: at the next event
}

func (r *Result) wake(at time.Time) {
	if r.Wake.IsZero() || at.Before(r.Wake) {
		r.Wake = at
	}
}

// group is one service in one version.
type group struct {
	in      *Input
	side    *Side
	service miosa.Service
	spec    miosa.ServiceSpec
	account *disruption.Account // nil: not asked for yet
}

// may asks the service's account whether an instance may be replaced now.
func (g *group) may(c disruption.Cause, i *miosa.Instance) bool {
	switch {
	case !c.Waits():
		return true
	case c == disruption.Drain:
		return g.in.Drains[i.ID].Replace
	case g.account == nil && g.in.Account != nil:
		g.account = g.in.Account(g.service, g.side.Version.ID)
	case g.account == nil:
		a := disruption.Of(g.service, g.side.Version.ID, g.service.MaxUnavailable, g.in.Instances, g.in.Hosts)
		g.account = &a
	}
	ok, _ := g.account.AllowReplacement(c, *i)
	return ok
}

// replaced counts that a replacement is started.
func (g *group) replaced(c disruption.Cause, i *miosa.Instance) {
	if g.account != nil && c != disruption.Drain { // a drain's is counted
		g.account.TakeReplacement(*i)
	}
}

// slot is one place of a group, and who holds it.
type slot struct {
	*group
	number int
	live   []*miosa.Instance  // goal run, not terminal; oldest first
	last   *miosa.Instance    // newest terminal one since the side began; nil if none
	two    [2]*miosa.Instance // what live lies in, most of the time
}

// rule is one line of the table below: the first whose condition holds for a
// slot decides it.
type rule struct {
	name string
	when func(s *slot) bool
	then func(s *slot, r *Result)
}

// rules, in order. Add a rule by adding an entry, and a transcript that shows it.
var rules = []rule{
	{"a slot whose occupant used up its budget rests until the next rollout",
		func(s *slot) bool { return len(s.live) == 0 && s.lastState() == miosa.Failed }, rest},
	{"a slot whose occupant completed its work rests until the next rollout",
		func(s *slot) bool {
			return len(s.live) == 0 && s.last != nil && s.last.Observed.Failure.Kind == miosa.FailureCompleted
		}, rest},
	{"an empty slot is filled",
		func(s *slot) bool { return len(s.live) == 0 },
		func(s *slot, r *Result) { r.create(s, "", "", 0, "an instance is needed for slot "+itoa(s.number)) }},
	{"what its host's drain lets go leaves, whether or not its replacement is healthy",
		func(s *slot) bool { return slices.ContainsFunc(s.live, s.leaves) }, leave},
	{"a healthy replacement takes over",
		func(s *slot) bool { return len(s.live) > 1 && newest(s).State() == miosa.Healthy }, takeOver},
	{"a replacement is called off when the old one is well again",
		func(s *slot) bool { return len(s.live) > 1 && well(s, s.live[0]) },
		func(s *slot, r *Result) {
			for _, in := range s.live[1:] {
				r.drain(in, "called off: "+s.live[0].ID+" is healthy again")
			}
		}},
	{"more than one replacement is one too many",
		func(s *slot) bool { return len(s.live) > 2 },
		func(s *slot, r *Result) {
			for _, in := range s.live[2:] {
				r.drain(in, "called off: "+s.live[1].ID+" already replaces "+s.live[0].ID)
			}
		}},
	{"where there is no room for a replacement, an unhealthy instance is restarted in place",
		func(s *slot) bool {
			return len(s.live) == 2 && s.live[0].State() == miosa.Unhealthy && s.live[1].HostID == "" &&
				s.in.Hosts[s.live[0].HostID].Liveness == miosa.Alive
		}, restartInPlace},
	{"a replacement under way is waited for",
		func(s *slot) bool { return len(s.live) > 1 }, rest},
	{"an occupant that should go is replaced, make before break",
		func(s *slot) bool {
			cause, _ := leaveReason(s, s.live[0])
			return cause != "" && !failedReplacement(s) && s.may(cause, s.live[0])
		}, replace},
	{"all is as it should be", func(*slot) bool { return true }, age},
}

// Decide says what to do now. The same input gives the same result, whatever
// the order of its slices. It takes time in proportion to what it is given.
func Decide(in Input) Result {
	var r Result
	byID := func(a, b miosa.Instance) int { return cmp.Compare(a.ID, b.ID) }
	if !slices.IsSortedFunc(in.Instances, byID) {
		in.Instances = slices.SortedFunc(slices.Values(in.Instances), byID)
	}
	byServiceID := func(a, b miosa.Service) int { return cmp.Compare(a.ID, b.ID) }
	if !slices.IsSortedFunc(in.Services, byServiceID) {
		in.Services = slices.SortedFunc(slices.Values(in.Services), byServiceID)
	}
	kept := make([]bool, len(in.Instances)) // holds a wanted slot
	for n := range in.Sides {
		side := &in.Sides[n]
		for _, svc := range in.Services {
			spec, ok := side.Version.Service(svc.ID)
			if !ok || side.Version.Kind == miosa.KindStatic {
				continue
			}
			g := &group{in: &in, side: side, service: side.Version.Settled(svc), spec: spec}
			slots := g.slots(kept)
			for n := range slots {
				if slots[n].decide(&r); in.Most > 0 && len(r.Actions) >= in.Most {
					return r
				}
			}
		}
	}
	for n := range in.Instances {
		if i := &in.Instances[n]; i.Goal == miosa.GoalRun && !i.State().Terminal() && !kept[n] {
			r.drain(i, unwanted(&in, i))
		}
	}
	return r
}

// slots are the group's wanted ones with who holds them; kept is marked for
// those that do.
func (g *group) slots(kept []bool) []slot {
	slots := make([]slot, max(g.service.DesiredReplicas, g.side.AtLeast))
	for n := range slots {
		s := &slots[n]
		s.group, s.number = g, n
		s.live = s.two[:0]
	}
	for n := range g.in.Instances {
		i := &g.in.Instances[n]
		if i.Slot >= len(slots) || i.VersionID != g.side.Version.ID || i.ServiceID != g.service.ID {
			continue
		}
		s := &slots[i.Slot]
		switch {
		case i.State().Terminal():
			if !i.CreatedAt.Before(g.side.Since) {
				s.last = i
			}
		case i.Goal == miosa.GoalRun:
			s.live = append(s.live, i)
			kept[n] = true
		}
	}
	return slots
}

// lastState is that of the slot's last occupant; "" if there was none.
func (s *slot) lastState() miosa.InstanceState {
	if s.last == nil {
		return ""
	}
	return s.last.State()
}

func (s *slot) decide(r *Result) {
	for _, rule := range rules {
		if rule.when(s) {
			rule.then(s, r)
			return
		}
	}
}

func unwanted(in *Input, i *miosa.Instance) string {
	for n := range in.Sides {
		if in.Sides[n].Version.ID == i.VersionID {
			return "scaled down"
		}
	}
	return "its version is no longer wanted"
}

func newest(s *slot) *miosa.Instance { return s.live[len(s.live)-1] }

func rest(*slot, *Result) {}

func takeOver(s *slot, r *Result) {
	heir := newest(s)
	for _, in := range s.live[:len(s.live)-1] {
		r.drain(in, "replaced by "+heir.ID+", which is healthy")
		r.Actions[len(r.Actions)-1].Heir = heir.ID
	}
}

// well: nothing speaks against the instance any more, and its host answers: who has
// just begun to decide does not know yet who of a silent host may be replaced.
func well(s *slot, i *miosa.Instance) bool {
	cause, _ := leaveReason(s, i)
	return i.State() == miosa.Healthy && cause == "" && s.in.Hosts[i.HostID].Liveness == miosa.Alive
}

func (s *slot) leaves(i *miosa.Instance) bool { return s.in.Drains[i.ID].Leave }

// leave lets those go that a drain takes out at once, replaced where that is wanted.
func leave(s *slot, r *Result) {
	for _, i := range s.live {
		if !s.leaves(i) {
			continue
		}
		if s.in.Drains[i.ID].Replace && len(s.live) == 1 && !failedReplacement(s) {
			replace(s, r)
		}
		r.drain(i, s.in.Drains[i.ID].Reason)
	}
}

// leaveReason is why an occupant should be replaced, "" if it should not.
func leaveReason(s *slot, i *miosa.Instance) (cause disruption.Cause, words string) {
	if i.HostID == "" {
		return "", ""
	}
	h, known := s.in.Hosts[i.HostID]
	maxAge := s.service.Restart.MaxAge
	switch {
	case !known:
		return disruption.Heal, "its host left the fleet"
	case h.Liveness != miosa.Alive && s.in.MayReplace != nil && !s.in.MayReplace(i):
		return "", ""
	case h.Liveness != miosa.Alive:
		return disruption.Heal, "its host is " + string(h.Liveness)
	case restarting(i):
		return "", ""
	case i.State() == miosa.Unhealthy:
		return disruption.Heal, "unhealthy: " + i.Observed.Failure.Message
	case i.State() == miosa.Pending && i.Observed.Failures-i.PriorFailures >= health.FailuresOnOneHost && len(s.in.Hosts) > 1:
		return disruption.Heal, fmt.Sprintf("failed %d times in a row on one host", i.Observed.Failures-i.PriorFailures)
	case h.Draining():
		return disruption.Drain, cmp.Or(h.Name, h.ID) + " is drained"
	case i.ReplaceAsked:
		return disruption.Restart, "a restart was asked for"
	case maxAge > 0 && s.in.Now.Sub(i.CreatedAt) >= maxAge && i.State() == miosa.Healthy:
		return disruption.MaxAge, "older than its max_age of " + maxAge.String()
	}
	return "", ""
}

// restarting: its host has not taken up yet that it is to boot again in place.
func restarting(i *miosa.Instance) bool {
	return i.RestartNonce > 0 && i.Observed.Generation < i.Generation
}

// failedReplacement: the last attempt to replace the occupant failed for
// good; another would fail the same way.
func failedReplacement(s *slot) bool {
	return s.last != nil && s.last.Replaces == s.live[0].ID && s.last.State() == miosa.Failed
}

func replace(s *slot, r *Result) {
	old := s.live[0]
	avoid := ""
	if Flees(old, s.in.Hosts) {
		avoid = old.HostID
	}
	failures := 0
	if old.State() == miosa.Pending {
		failures = old.Observed.Failures
	}
	cause, words := leaveReason(s, old)
	if d := s.in.Drains[old.ID]; d.Leave {
		words = d.Reason
	}
	s.replaced(cause, old)
	r.create(s, old.ID, avoid, failures, "replaces "+old.ID+": "+words)
}

// Flees reports whether a replacement must not go to the host of the instance
// that it replaces: it failed there, and there are others, or the host did.
func Flees(old *miosa.Instance, hosts map[string]miosa.Host) bool {
	return old.State() == miosa.Pending && len(hosts) > 1 || hosts[old.HostID].Liveness != miosa.Alive
}

func restartInPlace(s *slot, r *Result) {
	old, heir := s.live[0], s.live[1]
	if due := heir.CreatedAt.Add(PlaceBefore); s.in.Now.Before(due) {
		r.wake(due)
		return
	}
	r.drain(heir, "called off: no host has room for it beside "+old.ID)
	r.Actions = append(r.Actions, Action{Op: Restart, Instance: *old, Reason: "unhealthy, and no host has room for a replacement beside it"})
}

// age waits for the configured restart.
func age(s *slot, r *Result) {
	maxAge := s.service.Restart.MaxAge
	// Past it, something else is waited for: a restart under way, or the next
	// rollout where a replacement has failed.
	if due := s.live[0].CreatedAt.Add(maxAge); maxAge > 0 && s.in.Now.Before(due) && s.live[0].State() == miosa.Healthy {
		r.wake(due)
	}
}

func (r *Result) create(s *slot, replaces, avoid string, failures int, reason string) {
	r.Actions = append(r.Actions, Action{
		Op: Create, Service: s.service, Spec: s.spec, Version: s.side.Version.ID, Proven: s.side.Proven,
		Slot: s.number, Replaces: replaces, Avoid: avoid, Failures: failures, Reason: reason,
	})
}

func (r *Result) drain(i *miosa.Instance, reason string) {
	r.Actions = append(r.Actions, Action{Op: Drain, Instance: *i, Reason: reason})
}

func itoa(n int) string { return fmt.Sprint(n) }
