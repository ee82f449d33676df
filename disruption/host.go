package disruption

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/miosa/miosa"
)

// MovesAtOnce is how many of a drained host's instances are replaced at a time: each
// is a boot elsewhere. One that finds no host holds up nobody else's.
const MovesAtOnce = 10

// maxBlocked bounds how many reasons for waiting, and of whom, are named in words.
const maxBlocked = 5

// HostDrain is a host that its instances are to leave, as it stands.
type HostDrain struct {
	Now      time.Time
	Host     string    // its name
	Deadline time.Time // zero: none
	// Force: what has not left by the deadline, or at once where there is none,
	// leaves whatever becomes of its service.
	Force bool
	Total int // instances when the drain began; 0: not known
	// Instances are those on the host, in any order.
	Instances []miosa.Instance
	// Heirs are what replaces them: by the ID of the one that is replaced, the
	// newest instance that is wanted to run, or that failed at it for good.
	Heirs map[string]miosa.Instance
	// Account is the account of the instance's service in its version; nil where
	// that version is not wanted any more.
	Account func(miosa.Instance) *Account
}

// Move is one instance and why it is moved now, or why it is not.
type Move struct {
	Instance miosa.Instance
	Reason   string
}

// Progress is what to do about a drain now, and how it stands.
type Progress struct {
	Replace []Move // a replacement is started for these, elsewhere
	Leave   []Move // these leave their route table, then stop
	Waiting []Move // these are waited for, and for what
	Left    int    // on the host, those that leave included
	Done    bool   // nothing is left
	Late    bool   // the deadline has passed, and something is left
	Summary string // how it stands, in a sentence
	Wake    time.Time
}

// drain is one decision under way.
type drain struct {
	HostDrain
	Progress
	moving int // with an heir that has a host and does not serve yet
}

// DrainHost says what to do next to get a host empty. What it decides is counted in
// the accounts at once. The same input gives the same result, whatever the order of
// its slices. It costs a host's instances, and their accounts.
func DrainHost(in HostDrain) Progress {
	d := drain{HostDrain: in}
	instances := make([]*miosa.Instance, 0, len(in.Instances))
	for n := range in.Instances {
		if i := &in.Instances[n]; !i.State().Terminal() { // large
			instances = append(instances, i)
		}
	}
	slices.SortFunc(instances, func(a, b *miosa.Instance) int { return cmp.Compare(a.ID, b.ID) })
	d.Left = len(instances)
	for _, i := range instances {
		if heir, ok := in.Heirs[i.ID]; ok && i.Goal == miosa.GoalRun && heir.HostID != "" && heir.State() != miosa.Healthy && heir.State() != miosa.Failed {
			d.moving++
		}
	}
	for _, i := range instances {
		d.one(i)
	}
	d.Done = d.Left == 0
	d.Late = !d.Done && !in.Deadline.IsZero() && !in.Now.Before(in.Deadline)
	if !d.Done && in.Now.Before(in.Deadline) {
		d.Wake = in.Deadline
	}
	d.Summary = d.describe()
	return d.Progress
}

func (d *drain) forced() bool {
	return d.Force && !d.Now.Before(d.Deadline) // the zero time is long past
}

func (d *drain) one(i *miosa.Instance) {
	heir, replaced := d.Heirs[i.ID]
	account := d.Account(*i)
	switch {
	case i.Goal != miosa.GoalRun:
		d.wait(i, leaving(i))
	case i.Once():
		d.task(i)
	case account == nil:
		d.leave(nil, i, "its version is no longer wanted")
	case !account.holds(i):
		d.leave(account, i, "its slot is no longer wanted")
	case d.forced():
		d.leave(account, i, "the drain of "+d.Host+" is forced")
	case account.others(i) > 0:
		d.leave(account, i, "replaced by "+cmp.Or(heir.ID, "another instance")+", which is healthy")
	case !account.counted(i):
		d.idle(account, i, replaced)
	case !replaced:
		d.replace(account, i)
	case heir.State() == miosa.Failed:
		d.wait(i, fmt.Sprintf("its replacement %s failed, and another would fail the same way: %s", heir.ID, heir.Observed.Failure.Message))
	case heir.HostID == "":
		d.noRoom(account, i, heir)
	default:
		d.wait(i, fmt.Sprintf("its replacement %s is %s", heir.ID, heir.State()))
	}
}

// task waits for a task's end, which nothing can take the place of.
func (d *drain) task(i *miosa.Instance) {
	if d.forced() {
		d.leave(nil, i, "the drain of "+d.Host+" is forced")
		return
	}
	words := "it is a task, whose end is waited for"
	if since := i.Observed.HealthyAt; !since.IsZero() && i.Limit > 0 {
		words += ", until " + since.Add(i.Limit).Format(time.TimeOnly) + " at the latest"
	}
	d.wait(i, words)
}

func leaving(i *miosa.Instance) string {
	if i.Goal == miosa.GoalDrain {
		return "it is leaving: requests in flight may end"
	}
	return "it is stopping"
}

// idle moves what does not serve: it need not wait for its replacement.
func (d *drain) idle(a *Account, i *miosa.Instance, replaced bool) {
	ok, why := a.allow(Drain, i)
	switch {
	case !ok:
		d.wait(i, why)
		return
	case !replaced && !d.replace(a, i):
		return
	}
	d.leave(a, i, fmt.Sprintf("%s is drained, and it does not serve", d.Host))
}

// replace starts a replacement, if that may be.
func (d *drain) replace(a *Account, i *miosa.Instance) bool {
	if ok, why := a.allowReplacement(Drain, i); !ok {
		d.wait(i, why)
		return false
	}
	if d.moving >= MovesAtOnce {
		d.wait(i, fmt.Sprintf("%d others of %s are moved first", d.moving, d.Host))
		return false
	}
	d.moving++
	a.takeReplacement(i)
	d.Replace = append(d.Replace, Move{*i, d.Host + " is drained"})
	return true
}

// noRoom lets an instance go whose replacement has no host, where its service bears
// that.
func (d *drain) noRoom(a *Account, i *miosa.Instance, heir miosa.Instance) {
	reason := "no host has room for its replacement"
	if len(heir.Reasons) > 0 {
		reason += ": " + strings.Join(heir.Reasons, "; ")
	}
	if ok, _ := a.allow(Drain, i); ok {
		d.leave(a, i, reason+"; its service's max_unavailable lets it go before")
		return
	}
	d.wait(i, reason)
}

func (d *drain) leave(a *Account, i *miosa.Instance, reason string) {
	if a != nil {
		a.take(i)
	}
	d.Leave = append(d.Leave, Move{*i, reason})
}

func (d *drain) wait(i *miosa.Instance, reason string) {
	d.Waiting = append(d.Waiting, Move{*i, reason})
}

func (d *drain) describe() string {
	if d.Done {
		return d.Host + " is drained"
	}
	var words string
	if d.Total >= d.Left && d.Total > 0 {
		words = fmt.Sprintf("%d of %d instances have left %s", d.Total-d.Left, d.Total, d.Host)
	} else {
		words = fmt.Sprintf("%d of %s's instances are left", d.Left, d.Host)
	}
	if d.Late {
		words = fmt.Sprintf("%s is not drained by its deadline: %s", d.Host, words)
	}
	var reasons []string
	who := map[string][]string{} // by reason
	stuck := false
	for _, w := range d.Waiting {
		stuck = stuck || w.Instance.Goal == miosa.GoalRun
		if who[w.Reason] == nil {
			reasons = append(reasons, w.Reason)
		}
		who[w.Reason] = append(who[w.Reason], named(&w.Instance))
	}
	for n, r := range reasons {
		reasons[n] = strings.Join(some(who[r]), ", ") + ": " + r
	}
	if len(reasons) > 0 {
		words += "; waited for: " + strings.Join(some(reasons), "; ")
	}
	if d.Late && stuck {
		words += "; forced, they leave all the same"
	}
	return words
}

// named is an instance in words.
func named(i *miosa.Instance) string {
	if i.Once() {
		return fmt.Sprintf("%s (%s)", i.TaskID, i.ID)
	}
	return fmt.Sprintf("%s %d (%s)", i.Spec.Name, i.Slot, i.ID)
}

// some are the first few, and how many more there are.
func some(all []string) []string {
	over := len(all) - maxBlocked
	if over <= 0 {
		return all
	}
	return append(all[:maxBlocked:maxBlocked], fmt.Sprintf("%d more", over))
}
