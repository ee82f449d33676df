package cell

import (
	"cmp"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/disruption"
	"github.com/miosa/miosa/reconcile"
	"github.com/miosa/miosa/rollout"
)

// progressEvery spaces the writes of how a drain stands, as long as it goes on.
const progressEvery = 5 * time.Second

// drains are what is made of the hosts that their instances are to leave. It is
// worked out anew whenever anything about them changes, and outlives nothing.
type drains struct {
	steps    map[string]reconcile.Move // by instance ID: what to do in this decision
	accounts map[account]*disruption.Account
	progress map[string]miosa.HostDrain // by host ID: what its record is to say, until it does
	wakes    map[string]time.Time       // by host ID
}

// account is a service of an environment, in a version.
type account struct{ environment, service, version string }

func newDrains() *drains {
	return &drains{
		steps: map[string]reconcile.Move{}, accounts: map[account]*disruption.Account{},
		progress: map[string]miosa.HostDrain{}, wakes: map[string]time.Time{},
	}
}

func (d *drains) wake() (at time.Time) {
	for _, t := range d.wakes {
		if !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	return at
}

// drainHosts says what leaves the hosts that are drained, and marks the environments
// that it is about. Those are looked at where anything of theirs was touched: who
// serves elsewhere decides who may leave here.
func (m *Machine) drainHosts(now time.Time, t *touched) {
	d := m.hostDrains
	clear(d.steps)
	clear(d.accounts)
	for id := range d.wakes {
		if !m.w.draining[id] {
			delete(d.wakes, id)
			delete(d.progress, id)
		}
	}
	if len(m.w.draining) == 0 {
		return
	}
	due := map[string]bool{}
	for id := range m.w.draining {
		at, looked := d.wakes[id]
		due[id] = t.hosts[id] || !looked || !at.IsZero() && !now.Before(at)
	}
	for env := range t.environments {
		if members := m.w.members[env]; members != nil {
			for _, list := range [][]miosa.Instance{members.instances, members.attempts} {
				for n := range list {
					if host := list[n].HostID; m.w.draining[host] && !list[n].State().Terminal() {
						due[host] = true
					}
				}
			}
		}
	}
	for _, id := range sortedKeys(due) {
		if !due[id] {
			continue
		}
		host := m.w.hosts[id]
		ok := m.attempt("host "+id, func(why string) miosa.Event {
			return miosa.Event{
				HostID: id, Type: "host.undecided", Actor: "control", At: now,
				Message: "its drain cannot be worked out from the records, which is a fault of the platform's", Details: map[string]string{"fault": why},
			}
		}, func() { m.drainHost(now, host, t) })
		if !ok {
			d.wakes[id] = now.Add(undecidedAgain)
		}
	}
}

func (m *Machine) drainHost(now time.Time, host miosa.Host, t *touched) {
	in := disruption.HostDrain{
		Now: now, Host: cmp.Or(host.Name, host.ID), Deadline: host.Drain.Deadline, Force: host.Drain.Force, Total: host.Drain.Total,
		Instances: m.Assigned(host.ID), Heirs: map[string]miosa.Instance{}, Account: m.accountOf,
	}
	if host.Drain.ReportedAt.IsZero() {
		in.Total = len(in.Instances)
	}
	for n := range in.Instances {
		if heir := m.w.instance(m.w.heirs[in.Instances[n].ID]); heir != nil {
			in.Heirs[in.Instances[n].ID] = *heir
		}
	}
	p := disruption.DrainHost(in)
	for _, move := range p.Replace {
		m.hostDrains.steps[move.Instance.ID] = reconcile.Move{Replace: true, Reason: move.Reason}
		t.env(move.Instance.EnvironmentID)
	}
	for _, move := range p.Leave {
		step := m.hostDrains.steps[move.Instance.ID]
		step.Leave, step.Reason = true, move.Reason
		m.hostDrains.steps[move.Instance.ID] = step
		t.env(move.Instance.EnvironmentID)
	}
	m.drainProgress(now, host, p)
}

// drainProgress has the host's record say how its drain stands, and tells of its end
// and of a deadline that was missed.
func (m *Machine) drainProgress(now time.Time, host miosa.Host, p disruption.Progress) {
	d := m.hostDrains
	is := host.Drain
	next := is
	if is.ReportedAt.IsZero() {
		next.Total = p.Left
	}
	next.Left, next.Progress = p.Left, p.Summary
	switch {
	case !p.Done:
		next.DoneAt = time.Time{}
	case is.DoneAt.IsZero():
		next.DoneAt = now
	}
	if next.LateAt = is.LateAt; p.Late && is.LateAt.IsZero() {
		next.LateAt = now
	}
	d.wakes[host.ID] = p.Wake
	if next == is {
		delete(d.progress, host.ID)
		return
	}
	turns := next.DoneAt != is.DoneAt || next.LateAt != is.LateAt || is.ReportedAt.IsZero()
	if due := is.ReportedAt.Add(progressEvery); !turns && now.Before(due) && due.Sub(now) <= progressEvery {
		if p.Wake.IsZero() || due.Before(p.Wake) {
			d.wakes[host.ID] = due
		}
		delete(d.progress, host.ID)
		return
	}
	next.ReportedAt = now
	before := d.progress[host.ID]
	tell := func(kind string) {
		m.hosts.tell = append(m.hosts.tell, miosa.Event{HostID: host.ID, Type: kind, Message: p.Summary, Actor: "control", At: now})
	}
	if !next.DoneAt.IsZero() && is.DoneAt.IsZero() && before.DoneAt.IsZero() {
		tell("host.drained")
	}
	if !next.LateAt.IsZero() && is.LateAt.IsZero() && before.LateAt.IsZero() {
		tell("host.drain_late")
	}
	d.progress[host.ID] = next
}

// accountOf is the account of an instance's service in its version; nil where that
// version is not wanted any more.
func (m *Machine) accountOf(i miosa.Instance) *disruption.Account {
	members := m.w.members[i.EnvironmentID]
	svc := members.service(i.ServiceID)
	if dep := m.w.deployments[i.DeploymentID]; svc == nil || dep == nil || dep.ID == "" || !dep.DeletedAt.IsZero() {
		return nil
	}
	version := members.version(i.VersionID)
	if version == nil {
		return nil
	}
	settled := version.Settled(*svc)
	if members.ActiveVersionID != i.VersionID {
		tried := false
		for n := range members.rollouts {
			r := &members.rollouts[n]
			tried = tried || r.TargetID == i.VersionID && r.Live() && r.CancelledBy == ""
		}
		if !tried {
			return nil
		}
		settled.DesiredReplicas = max(settled.DesiredReplicas, rollout.Proofs)
	}
	return m.account(members, settled, i.VersionID)
}

// account is made once for each decision, so that what one host's drain spends is
// not there for another's.
func (m *Machine) account(members *members, svc miosa.Service, version string) *disruption.Account {
	key := account{members.id, svc.ID, version}
	a := m.hostDrains.accounts[key]
	if a == nil {
		made := disruption.Of(svc, version, svc.MaxUnavailable, members.instances, m.w.hosts)
		a = &made
		m.hostDrains.accounts[key] = a
	}
	return a
}
