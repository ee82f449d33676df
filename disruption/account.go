// Package disruption keeps one account for each service: how many of its instances
// serve, how many must, and so what we may do to it by our own will. It is pure and
// level-based: an account is computed from the states of the service's instances,
// never remembered, so that a crash of who decides loses nothing.
//
// By our own doing a service never has fewer instances serving than it wants, less
// what its max_unavailable allows (none, by default). A loss that we did not choose
// shows as an instance that does not serve: it debits the account, and is healed
// whatever the account says. What the customer asked for (publish, rollback, scale,
// delete) is never refused either, and debits it too. Drains of hosts, rebalancing,
// restarts and max age wait, with the reason in words.
//
// An instance that should go is first replaced: AllowReplacement says whether its
// replacement may be started now, Allow whether the instance itself may leave now.
// Take and TakeReplacement count what was decided, so that one decision that asks
// about many instances does not spend the same room twice.
//
// # Who asks
//
// A decision makes one account for each service of each version that is wanted, and
// asks it wherever an instance should go by our own doing: reconcile in its rule "an
// occupant that should go is replaced", with the cause, and DrainHost for what is on
// a host that is drained, whose answer reconcile carries out. All of one decision
// share the accounts, so that none spends what another has taken.
package disruption

import (
	"fmt"
	"strings"

	"github.com/miosa/miosa"
)

// Cause is why an instance should go.
type Cause string

const (
	// Heal: it does not serve, or its host is gone. Never refused.
	Heal Cause = "heal"
	// What the customer asked of the service as a whole. Never refused.
	Publish  Cause = "publish"
	Rollback Cause = "rollback"
	Scale    Cause = "scale"
	Delete   Cause = "delete"
	// Our own doing, and restarts: they wait.
	Restart   Cause = "restart"
	MaxAge    Cause = "max_age"
	Drain     Cause = "drain" // of its host
	Rebalance Cause = "rebalance"
)

// Waits reports whether the cause is one that an account may refuse.
func (c Cause) Waits() bool {
	switch c {
	case Heal, Publish, Rollback, Scale, Delete:
		return false
	}
	return true
}

// MovesPercent is how much of a service is replaced at a time for causes that wait:
// so much of what it wants, at least one, and at least what its max_unavailable
// allows.
const MovesPercent = 25

// Account is one service's in one version.
type Account struct {
	Name    string // the service's
	Wanted  int    // slots that are to be held; not those that rest
	Allowed int    // of them may be missing by our own doing
	Floor   int    // so many must serve: Wanted less Allowed
	Serving int    // slots with an instance that serves

	version, service string
	hosts            map[string]miosa.Host
	slots            []slot
	moving           int             // slots whose serving instance's replacement is under way
	taken            map[string]bool // instances that leave, as was decided of this account
}

// slot is one place of the service, and who holds it.
type slot struct {
	serving, others int             // live instances that serve, and that do not
	newest          *miosa.Instance // of them; nil: none
	rests           bool
}

func (s *slot) moves() bool { return s.serving > 0 && s.others > 0 }

// Of is the account of a service, as the version has it (miosa.Version.Settled), with
// the limit; instances are at least all of them that the service has in the version,
// those that ended included, in any order, unchanged for as long as the account is
// used. hosts tells which hosts answer.
func Of(svc miosa.Service, version string, limit miosa.MaxUnavailable, instances []miosa.Instance, hosts map[string]miosa.Host) Account {
	a := Account{
		Name: svc.Name, version: version, service: svc.ID, hosts: hosts,
		slots: make([]slot, max(0, svc.DesiredReplicas)),
	}
	ended := make([]*miosa.Instance, len(a.slots)) // the newest of each slot
	for n := range instances {
		i := &instances[n] // large
		if !a.holds(i) {
			continue
		}
		s := &a.slots[i.Slot]
		switch {
		case i.State().Terminal():
			if ended[i.Slot] == nil || i.ID > ended[i.Slot].ID {
				ended[i.Slot] = i
			}
			continue
		case i.Goal != miosa.GoalRun:
			continue
		case a.serves(i):
			s.serving++
		default:
			s.others++
		}
		if s.newest == nil || i.ID > s.newest.ID {
			s.newest = i
		}
	}
	for n := range a.slots {
		s := &a.slots[n]
		// Nothing that anybody does makes these serve before the next rollout.
		s.rests = s.newest == nil && ended[n] != nil &&
			(ended[n].State() == miosa.Failed || ended[n].Observed.Failure.Kind == miosa.FailureCompleted)
		if !s.rests {
			a.Wanted++
		}
		if s.serving > 0 {
			a.Serving++
		}
		if s.moves() {
			a.moving++
		}
	}
	a.Allowed = limit.Of(a.Wanted)
	a.Floor = a.Wanted - a.Allowed
	return a
}

// holds: the instance holds a slot that the service wants in this version.
func (a *Account) holds(i *miosa.Instance) bool {
	return i.ServiceID == a.service && i.VersionID == a.version && i.Slot >= 0 && i.Slot < len(a.slots)
}

func (a *Account) answers(host string) bool {
	h, ok := a.hosts[host]
	return ok && h.Liveness == miosa.Alive
}

// serves: it is healthy as far as anybody can tell.
func (a *Account) serves(i *miosa.Instance) bool {
	return i.State() == miosa.Healthy && a.answers(i.HostID)
}

// others counts who serves in the instance's slot beside it.
func (a *Account) others(i *miosa.Instance) int {
	switch {
	case !a.holds(i):
		return 0
	case a.counted(i):
		return a.slots[i.Slot].serving - 1
	}
	return a.slots[i.Slot].serving
}

// live: it is to run, and was not taken.
func (a *Account) live(i *miosa.Instance) bool {
	return a.holds(i) && i.Goal == miosa.GoalRun && !i.State().Terminal() && !a.taken[i.ID]
}

// counted: it is one of those that serve.
func (a *Account) counted(i *miosa.Instance) bool { return a.live(i) && a.serves(i) }

// Allow says whether the instance, as it was given to Of, may leave now for that
// cause, and otherwise why it has to wait.
func (a *Account) Allow(c Cause, i miosa.Instance) (bool, string) {
	return a.allow(c, &i)
}

func (a *Account) allow(c Cause, i *miosa.Instance) (bool, string) {
	if !c.Waits() || !a.live(i) {
		return true, ""
	}
	switch {
	case a.others(i) > 0:
		return true, ""
	case a.counted(i):
		if a.Serving > a.Floor {
			return true, ""
		}
		return false, a.lack("its replacement has to serve first")
	case i.HostID == "":
		return true, ""
	case !a.answers(i.HostID):
		return false, "its host does not answer: that comes first"
	case fresh(i):
		return false, "it is starting: that is waited for"
	}
	return true, ""
}

// fresh: it is on its first boot, or waits for it, and may well come to serve.
func fresh(i *miosa.Instance) bool {
	s := i.State()
	return (s == miosa.Starting || s == miosa.Pending) && i.Observed.Failures == 0
}

// AllowReplacement says whether a replacement of the instance may be started now,
// for that cause, and otherwise why that has to wait.
func (a *Account) AllowReplacement(c Cause, i miosa.Instance) (bool, string) {
	return a.allowReplacement(c, &i)
}

func (a *Account) allowReplacement(c Cause, i *miosa.Instance) (bool, string) {
	if !c.Waits() || !a.counted(i) {
		return a.allow(c, i) // what does not serve costs nothing
	}
	switch most := a.moves(); {
	case a.slots[i.Slot].moves():
		return false, "its replacement is under way"
	case a.Serving < a.Floor:
		return false, a.lack("it waits until they do")
	case a.moving >= most:
		return false, fmt.Sprintf("it waits its turn, with at most %d of %s's instances replaced at a time", most, a.Name)
	}
	return true, ""
}

// moves is how many of its instances are replaced at a time.
func (a *Account) moves() int { return max(1, a.Allowed, a.Wanted*MovesPercent/100) }

// Take counts that the instance leaves.
func (a *Account) Take(i miosa.Instance) { a.take(&i) }

func (a *Account) take(i *miosa.Instance) {
	if !a.live(i) {
		return
	}
	s := &a.slots[i.Slot]
	moved, serves := s.moves(), a.serves(i)
	if a.taken == nil {
		a.taken = map[string]bool{}
	}
	a.taken[i.ID] = true
	if serves {
		if s.serving--; s.serving == 0 {
			a.Serving--
		}
	} else {
		s.others--
	}
	if moved && !s.moves() {
		a.moving--
	}
}

// TakeReplacement counts that a replacement of the instance is started.
func (a *Account) TakeReplacement(i miosa.Instance) { a.takeReplacement(&i) }

func (a *Account) takeReplacement(i *miosa.Instance) {
	if !a.holds(i) {
		return
	}
	s := &a.slots[i.Slot]
	moved := s.moves()
	s.others++
	if !moved && s.moves() {
		a.moving++
	}
}

// lack says how many serve and how many must, and who does not.
func (a *Account) lack(then string) string {
	words := fmt.Sprintf("%d of %d instances of %s serve, and %d must: %s", a.Serving, a.Wanted, a.Name, a.Floor, then)
	var missing []string
	for n := range a.slots {
		if s := &a.slots[n]; s.serving == 0 && !s.rests {
			missing = append(missing, fmt.Sprintf("%s %d %s", a.Name, n, a.why(s.newest)))
		}
	}
	if over := len(missing) - maxMissing; over > 0 {
		missing = append(missing[:maxMissing:maxMissing], fmt.Sprintf("%d more do not serve", over))
	}
	if len(missing) > 0 {
		words += " (" + strings.Join(missing, ", ") + ")"
	}
	return words
}

// maxMissing bounds how many of those that do not serve are named.
const maxMissing = 3

// why says why the instance, the newest of a slot, does not serve.
func (a *Account) why(i *miosa.Instance) string {
	switch {
	case i == nil:
		return "is empty"
	case i.HostID == "":
		return "waits for a host"
	case !a.answers(i.HostID):
		return "is on a host that does not answer"
	case i.State() == miosa.Healthy:
		return "is leaving" // taken in this decision
	case i.State() == miosa.Pending:
		return "waits for its next boot"
	}
	return "is " + string(i.State())
}
