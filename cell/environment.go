package cell

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/disruption"
	"github.com/miosa/miosa/health"
	"github.com/miosa/miosa/liveness"
	"github.com/miosa/miosa/reconcile"
	"github.com/miosa/miosa/rollout"
	"github.com/miosa/miosa/schedule"
)

// maxChanges bounds the nouns of one commit, with room for their index
// entries and events below the store's limit; what is left over follows in
// the next pass.
const maxChanges = 20

// maxCommitBytes bounds what they weigh (boot specs hold the customer's
// variables), well below the store's 1.5 MB. One change always goes through.
const maxCommitBytes = 512 << 10

// recordBytes is what a record weighs without its variables, generously.
const recordBytes = 4 << 10

// decideAll decides the environments in order of ID and collects what is to
// be committed.
func (m *Machine) decideAll(now time.Time, t *touched) []Effect {
	var out []Effect
	for _, id := range sortedKeys(t.environments) {
		env, b := m.w.environment(id), m.busy[id]
		switch {
		case b == nil:
		case env == nil || b.settled(now, m.w.revision):
			m.settle(id, t)
		case b.askDue(now):
			b.until = time.Time{}
			m.wakes.clear(id)
			out = append(out, Commit{Tenant: env.TenantID, Environment: id, Seen: m.w.revision})
			continue
		default:
			continue
		}
		m.wakes.clear(id)
		if env == nil {
			delete(m.watches, id)
			maps.DeleteFunc(m.undecided, func(key, _ string) bool { return strings.HasPrefix(key, id+"/") })
			m.w.forgetMembers(id)
			continue
		}
		m.w.forgetAttempts(env)
		p := pass{m: m, now: now, members: env, env: env.Environment, commit: Commit{Tenant: env.TenantID, Environment: id, Seen: m.w.revision}}
		if m.unrouted(id) || !m.guarded(now, env, "what to run", p.decide) {
			for n := range p.placed {
				m.w.letGo(&p.placed[n])
			}
			m.wakes.set(id, now.Add(undecidedAgain))
			continue
		}
		if !p.wake.IsZero() {
			if p.empty() && !p.wake.After(now) {
				// Nothing to do, and to be looked at again at once: a rule's fault,
				// which must not cost a core.
				p.wake = now.Add(time.Second)
			}
			m.wakes.set(id, p.wake)
		}
		if !p.empty() {
			m.busy[id] = &commitUnderWay{placed: p.placed}
			p.commit.Facts = p.facts()
			out = append(out, p.commit)
		} else if e, ok := m.purge(env); ok {
			out = append(out, e)
		}
	}
	return out
}

// undecidedAgain is when an environment is tried again that could not be decided,
// though nothing about it has changed.
const undecidedAgain = time.Minute

// guarded works something out about an environment. Records that make that panic
// cost their own environment, with an event, and nobody else's.
func (m *Machine) guarded(now time.Time, env *members, what string, work func()) (ok bool) {
	return m.attempt(env.id+"/"+what, func(why string) miosa.Event {
		return miosa.Event{
			TenantID: env.TenantID, DeploymentID: env.DeploymentID, Type: "environment.undecided", Actor: "control", At: now,
			Message: env.Name + " stays as it is: " + what + " cannot be worked out from its records, which is a fault of the platform's",
			Details: map[string]string{"environment": env.Name, "fault": why},
		}
	}, work)
}

// attempt works something out that may panic, and tells of that once as long as it
// is for the same reason.
func (m *Machine) attempt(key string, tell func(why string) miosa.Event, work func()) (ok bool) {
	defer func() {
		fault := recover()
		if fault == nil {
			delete(m.undecided, key)
			return
		}
		ok = false
		why := clipped(fmt.Sprint(fault))
		if m.undecided[key] == why {
			return
		}
		m.undecided[key] = why
		m.hosts.tell = append(m.hosts.tell, tell(why))
	}()
	work()
	return true
}

// purge ends a deleted deployment once nothing of it runs, or may yet come to.
func (m *Machine) purge(env *members) (Effect, bool) {
	dep := m.w.deployments[env.DeploymentID]
	if dep == nil || dep.ID == "" || dep.DeletedAt.IsZero() || m.purging[dep.ID] {
		return nil, false
	}
	for id := range dep.environments {
		if m.busy[id] != nil {
			return nil, false
		}
		running := func(i miosa.Instance) bool { return !i.State().Terminal() }
		if members := m.w.members[id]; slices.ContainsFunc(members.instances, running) || slices.ContainsFunc(members.attempts, running) {
			return nil, false
		}
	}
	m.purging[dep.ID] = true
	return Purge{Tenant: dep.TenantID, Deployment: dep.ID, Logs: dep.PurgeLogs}, true
}

// pass is one decision about one environment.
type pass struct {
	m       *Machine
	now     time.Time
	members *members // as they are in the records
	env     miosa.Environment
	dep     miosa.Deployment
	all     []miosa.Instance // of the environment, in order of ID
	commit  Commit
	placed  []miosa.Instance
	peers   map[unit]*schedule.Peers
	failed  map[place][]string // see failedOn; nil: not asked yet
	held    map[string]string  // by ID of an instance whose slot may not be filled yet: why
	bytes   int                // what the commit's records weigh, about
	wake    time.Time

	envChanged, depChanged bool
	versions               map[string]miosa.Version // changed in this pass
	settled                map[string]miosa.Service // changed in this pass
	speaker                map[unit]string          // see speakers
	told                   map[noticed]bool
}

// facts are what the boots of the commit rest on.
func (p *pass) facts() Facts {
	boots := p.commit.Bootable()
	if len(boots) == 0 {
		return Facts{}
	}
	f := Facts{
		Tenant: p.m.w.tenants[p.env.TenantID], Deployment: p.dep, Environment: p.env,
		Versions: map[string]miosa.Version{}, Hosts: map[string]miosa.Host{},
	}
	for _, i := range boots {
		f.Versions[i.VersionID], _ = p.version(i.VersionID)
		f.Hosts[i.HostID] = p.m.w.hosts[i.HostID]
	}
	return f
}

func (p *pass) empty() bool {
	return len(p.commit.Put) == 0 && len(p.commit.Create) == 0 && len(p.commit.Release) == 0
}

func (p *pass) full() bool {
	return len(p.commit.Put)+len(p.settled)+len(p.commit.Create) >= maxChanges || p.bytes >= maxCommitBytes
}

func (p *pass) wakeAt(at time.Time) {
	if !at.IsZero() && (p.wake.IsZero() || at.Before(p.wake)) {
		p.wake = at
	}
}

// wakeAfterWindow looks again once every router had time to report, and once those
// that did not are given up.
func (p *pass) wakeAfterWindow() {
	for _, end := range []time.Time{p.m.windowEnds(), p.m.strangersEnd()} {
		if p.now.Before(end) {
			p.wakeAt(end)
		}
	}
}

// decide looks at the rollouts first, then at the slots, then at tasks, then at who
// drains.
func (p *pass) decide() {
	p.dep = p.m.w.deployment(p.env.DeploymentID)
	p.all = p.members.instances
	p.rollouts()
	p.slots()
	p.tasks()
	p.existing()
	p.deploymentState()
	p.tellHealth()
	if p.envChanged {
		p.env.UpdatedAt = p.now
		p.commit.Put = append(p.commit.Put, p.env)
	}
	if p.depChanged {
		p.commit.Put = append(p.commit.Put, p.dep)
	}
	for _, id := range sortedKeys(p.versions) {
		p.commit.Put = append(p.commit.Put, p.versions[id])
	}
	for _, id := range sortedKeys(p.settled) {
		p.commit.Put = append(p.commit.Put, p.settled[id])
	}
	// What did not fit into the commit is decided when that is in the picture, not
	// before.
}

func sortedKeys[T any](m map[string]T) []string {
	ids := make([]string, 0, len(m))
	for id := range m {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// change has a version written.
func (p *pass) change(v miosa.Version) {
	if p.versions == nil {
		p.versions = map[string]miosa.Version{}
	}
	p.versions[v.ID] = v
}

func (p *pass) version(id string) (miosa.Version, bool) {
	if v, ok := p.versions[id]; ok {
		return v, true
	}
	if v := p.members.version(id); v != nil {
		return *v, true
	}
	return miosa.Version{}, false
}

// services are the environment's, as they are once this pass is committed.
func (p *pass) services() []miosa.Service {
	if len(p.settled) == 0 {
		return p.members.services
	}
	all := slices.Clone(p.members.services)
	for n, s := range all {
		if changed, ok := p.settled[s.ID]; ok {
			all[n] = changed
		}
	}
	return all
}

func (p *pass) service(id string) (miosa.Service, bool) {
	if s, ok := p.settled[id]; ok {
		return s, true
	}
	if s := p.members.service(id); s != nil {
		return *s, true
	}
	return miosa.Service{}, false
}

// serviceOf is an instance's service as its version has it.
func (p *pass) serviceOf(i miosa.Instance) (miosa.Service, bool) {
	s, ok := p.service(i.ServiceID)
	if v, known := p.version(i.VersionID); ok && known {
		s = v.Settled(s)
	}
	return s, ok
}

func (p *pass) deleted() bool { return p.dep.ID == "" || !p.dep.DeletedAt.IsZero() }

func (p *pass) rollouts() {
	instances, services := p.all, p.members.services
	for _, r := range p.members.rollouts {
		if r.Step.Terminal() {
			continue
		}
		target, ok := p.version(r.TargetID)
		if !ok {
			continue // its version is written in the same transaction: on its way
		}
		d := rollout.Decide(rollout.Input{
			Now: p.now, Rollout: r, Target: target, Services: services, Instances: instances,
			Deleted: p.deleted(), Acknowledged: p.m.acknowledged(p.now, r.ID),
		})
		p.wakeAt(d.Wake)
		if d.Step == miosa.StepFlipping {
			p.wakeAfterWindow()
		}
		p.step(r, target, d)
	}
}

// step writes down what a rollout decided.
func (p *pass) step(r miosa.Rollout, target miosa.Version, d rollout.Decision) {
	if target.State == miosa.VersionCreated {
		target.State, target.UpdatedAt = miosa.VersionBuilding, p.now
		p.change(target)
		p.event("rollout.started", fmt.Sprintf("%s of version %d began", r.Kind, target.Number), r)
	}
	moved := d.Step != r.Step
	if !moved && d.Reason == r.Reason {
		return
	}
	was := r
	r.Step, r.Reason, r.UpdatedAt = d.Step, d.Reason, p.now
	if moved {
		r.StepSince, r.Deadline = p.now, d.Deadline
	}
	if d.Step.Terminal() {
		r.FinishedAt = p.now
	}
	if was.Live() && !r.Live() {
		p.commit.Release = append(p.commit.Release, Live{r.TenantID, r.EnvironmentID, r.ID})
	}
	proven := target.State == miosa.VersionReady
	switch {
	case d.Ready && !proven:
		target.State, target.UpdatedAt, target.ErrorMessage = miosa.VersionReady, p.now, ""
		p.change(target)
	case (d.Failed || d.Step == miosa.StepCancelled) && !proven:
		target.State, target.UpdatedAt = miosa.VersionFailed, p.now
		target.ErrorMessage, target.LastLines = d.Reason, d.Lines
		p.change(target)
	}
	if d.Activate {
		p.activate(r, target)
	}
	p.commit.Put = append(p.commit.Put, r)
	if moved {
		p.event("rollout."+stepWord(d.Step), fmt.Sprintf("%s of version %d: %s", r.Kind, target.Number, d.Reason), r)
	} else {
		p.event("rollout.progressed", fmt.Sprintf("%s of version %d: %s", r.Kind, target.Number, d.Reason), r)
	}
}

// stepWord is the past-tense word for a step in event types.
func stepWord(s miosa.RolloutStep) string {
	switch s {
	case miosa.StepStarting: // after the image was pulled
		return "pulled"
	case miosa.StepFlipping:
		return "became_healthy"
	case miosa.StepDraining:
		return "flipped"
	case miosa.StepDone:
		return "completed"
	}
	return string(s)
}

// activate makes the target the live version, and what it brings of its services
// theirs.
func (p *pass) activate(r miosa.Rollout, target miosa.Version) {
	for _, spec := range target.Services {
		s, ok := p.service(spec.ServiceID)
		if next := target.Settled(s); ok && !next.SameSettings(s) {
			next.UpdatedAt = p.now
			if p.settled == nil {
				p.settled = map[string]miosa.Service{}
			}
			p.settled[s.ID] = next
		}
	}
	if p.env.ActiveVersionID != target.ID {
		p.env.PreviousVersionID = p.env.ActiveVersionID
	}
	p.env.ActiveVersionID = target.ID
	p.env.ActiveSince = r.CreatedAt
	p.envChanged = true
	target.PromotedAt = p.now
	target.State = miosa.VersionReady
	p.change(target)
}

// sides are the versions that should run once this pass is committed.
func (p *pass) sides() []reconcile.Side {
	if p.deleted() {
		return nil
	}
	var out []reconcile.Side
	if v, ok := p.version(p.env.ActiveVersionID); ok {
		out = append(out, reconcile.Side{Version: v, Since: p.env.ActiveSince, Proven: true})
	}
	for _, r := range p.members.rollouts {
		for _, put := range p.commit.Put {
			if changed, ok := put.(miosa.Rollout); ok && changed.ID == r.ID {
				r = changed
			}
		}
		if !r.Live() || r.Step == miosa.StepPulling || r.CancelledBy != "" || r.TargetID == p.env.ActiveVersionID {
			continue
		}
		if v, ok := p.version(r.TargetID); ok {
			side := reconcile.Side{Version: v, Since: r.CreatedAt, Proven: v.State == miosa.VersionReady}
			// Until it is live: it is not made live without a backend.
			side.AtLeast = rollout.Proofs
			out = append(out, side)
		}
	}
	return out
}

func (p *pass) slots() {
	sides := p.sides()
	r := reconcile.Decide(reconcile.Input{
		Now: p.now, Services: p.services(), Sides: sides,
		Instances: p.all, Hosts: p.m.w.hosts, MayReplace: p.mayReplace, Most: maxChanges,
		Drains: p.m.hostDrains.steps, Account: func(svc miosa.Service, version string) *disruption.Account {
			return p.m.account(p.members, svc, version)
		},
	})
	p.wakeAt(r.Wake)
	for _, a := range r.Actions {
		if p.full() {
			return
		}
		switch a.Op {
		case reconcile.Create:
			if !p.mayStillRun(a) {
				p.create(a)
			}
		case reconcile.Drain:
			p.drain(a.Instance, a.Reason)
			if heir := p.members.instance(a.Heir); heir != nil {
				p.commit.Heirs = append(p.commit.Heirs, *heir)
			}
		case reconcile.Restart:
			i := a.Instance
			i.RestartNonce++
			i.ReplaceAsked = false
			p.assign(i)
			p.instanceEvent("instance.restarted", a.Reason, i)
		}
	}
}

func (p *pass) create(a reconcile.Action) {
	i := miosa.Instance{
		TenantID: p.env.TenantID, DeploymentID: p.env.DeploymentID, EnvironmentID: p.env.ID,
		ServiceID: a.Service.ID, VersionID: a.Version, Slot: a.Slot, Replaces: a.Replaces,
		Spec: a.Spec, Restart: a.Service.Restart, StopAfterDisconnect: a.Service.StopAfterDisconnect, Proven: a.Proven, PriorFailures: a.Failures,
		Goal: miosa.GoalRun, GoalSince: p.now, DrainSeconds: a.Service.DrainSeconds, Logs: a.Service.Logs,
		CreatedAt: p.now, UpdatedAt: p.now, CreatedReason: a.Reason,
	}
	i.Spec.Settings = miosa.ServiceSettings{} // its version keeps them
	p.bytes += recordBytes
	if v, ok := p.version(a.Version); ok {
		i.Attribution = v.Attribution
		for _, variable := range v.Vars {
			p.bytes += 2 * len(variable.Sealed) // sealed again, in base64
		}
	}
	var avoid []string
	if a.Avoid != "" {
		avoid = []string{a.Avoid}
	}
	p.place(&i, a.Service, avoid)
	p.addNotices(&i)
	p.commit.Create = append(p.commit.Create, i)
}

// place looks for a host, and otherwise says why there is none.
func (p *pass) place(i *miosa.Instance, svc miosa.Service, avoid []string) bool {
	peers := p.peersOf(i)
	answer := p.m.w.fleet.Place(schedule.Request{
		Resources: i.Spec.Resources, Regions: svc.Regions, Labels: svc.Labels, Avoid: avoid, Apart: svc.Apart,
		Peers: peers, Image: i.Spec.SHA256, Failed: p.failedOn(i),
	})
	if answer.HostID == "" {
		changed := !slices.Equal(i.Reasons, answer.Reasons)
		i.Reasons = answer.Reasons
		return changed
	}
	p.commit.Placed = append(p.commit.Placed, Placement{ID: i.ID, Create: len(p.commit.Create), Waited: i.Reasons, Answer: answer})
	i.HostID, i.Region, i.Zone = answer.HostID, answer.Region, answer.Zone
	i.Reasons, i.ScheduledAt = nil, p.now
	i.Generation++
	p.placed = append(p.placed, *i)
	p.m.w.hold(i)
	peers.Add(i.HostID)
	return true
}

// peersOf are the instances of the same service and version, or the version's
// attempts.
func (p *pass) peersOf(i *miosa.Instance) *schedule.Peers {
	of := unit{i.ServiceID, i.VersionID}
	if peers := p.peers[of]; peers != nil {
		return peers
	}
	peers := &schedule.Peers{}
	others := p.all
	if i.Once() {
		others = p.members.attempts
	}
	for n := range others {
		if o := &others[n]; o.ServiceID == of.service && o.VersionID == of.version && !o.State().Terminal() && o.HostID != "" {
			peers.Add(o.HostID)
		}
	}
	if p.peers == nil {
		p.peers = map[unit]*schedule.Peers{}
	}
	p.peers[of] = peers
	return peers
}

// maxFailed is how many hosts are remembered where a slot failed before.
const maxFailed = 3

// failedOn are the hosts where instances of the same slot could not be started,
// and were not well since: those of the newest ones.
func (p *pass) failedOn(i *miosa.Instance) []string {
	if p.failed == nil {
		p.failed = map[place][]string{}
		for n := len(p.all) - 1; n >= 0; n-- {
			o := &p.all[n]
			f := &o.Observed.Failure
			if o.HostID == "" || f.Kind != miosa.FailureBoot && f.Kind != miosa.FailureHost || o.Observed.HealthyAt.After(f.At) {
				continue
			}
			at := placeOf(o)
			if hosts := p.failed[at]; len(hosts) < maxFailed && !slices.Contains(hosts, o.HostID) {
				p.failed[at] = append(hosts, o.HostID)
			}
		}
	}
	return p.failed[placeOf(i)]
}

// mayReplace says whether an instance on a host that is not alive may have a
// successor by now, and keeps why not.
func (p *pass) mayReplace(i *miosa.Instance) bool {
	ok, reason, again := p.m.mayReplace(i, p.stopAfter(i))
	if reason != "" {
		p.hold(i, reason)
		p.wakeAt(p.now.Add(again))
	}
	return ok
}

// mayStillRun reports whether a slot that is to be filled has had one which must
// never run twice, was told to stop, and may not have ended.
func (p *pass) mayStillRun(a reconcile.Action) bool {
	if a.Service.StopAfterDisconnect == 0 {
		return false // all others are not looked at for every slot of a large service
	}
	for n := range p.all {
		i := &p.all[n]
		stop := p.stopAfter(i)
		if stop == 0 || placeOf(i) != (place{unit{a.Service.ID, a.Version}, a.Slot}) || i.Goal == miosa.GoalRun || i.HostID == "" || i.State().Terminal() {
			continue
		}
		if p.m.w.hosts[i.HostID].Liveness == miosa.Alive {
			p.hold(i, "it must never run twice: its slot is filled once its host has reported its end")
			return true
		}
		status, _ := p.m.hosts.judge.Status(i.HostID)
		if ok, reason, again := liveness.MayReplace(status.Silence, stop, i.Spec); !ok {
			p.hold(i, reason)
			p.wakeAt(p.now.Add(again))
			return true
		}
	}
	return false
}

// hold notes why an instance's slot is not filled yet.
func (p *pass) hold(i *miosa.Instance, reason string) {
	if p.held == nil {
		p.held = map[string]string{}
	}
	p.held[i.ID] = reason
}

// stopAfter is after how long without control an instance's host stops it. Who
// takes the setting back from the service does not want to wait for that.
func (p *pass) stopAfter(i *miosa.Instance) time.Duration {
	if i.StopAfterDisconnect == 0 || i.Once() && i.Observed.Boot == 0 { // which never begins, once that is on record
		return 0
	}
	if svc, ok := p.serviceOf(*i); ok && svc.StopAfterDisconnect == 0 {
		return 0
	}
	return i.StopAfterDisconnect
}

// unit is a service in a version.
type unit struct{ service, version string }

// drain takes an instance out of the table, or stops it at once when no
// router ever held it.
func (p *pass) drain(i miosa.Instance, reason string) {
	serving := i.Serving()
	i.Goal, i.GoalReason, i.GoalSince = miosa.GoalDrain, reason, p.now
	if svc := p.members.service(i.ServiceID); svc != nil {
		i.DrainSeconds = svc.DrainSeconds
	}
	if routed := p.m.routedState(p.now, i.ID); !serving && !routed.Held && routed.InFlight == 0 || i.HostID == "" {
		i.Goal = miosa.GoalStop
	}
	p.instanceEvent("instance.drained", reason, i)
	p.addNotices(&i)
	p.assign(i)
	if i.HostID == "" {
		p.finish(i, reason)
	}
}

func (p *pass) assign(i miosa.Instance) {
	i.Generation++
	i.UpdatedAt = p.now
	p.bytes += recordBytes + 2*len(i.BootSpec)
	p.commit.Put = append(p.commit.Put, i)
}

// finish ends an instance that no host will ever report on.
func (p *pass) finish(i miosa.Instance, reason string) {
	o := i.Observed
	o.InstanceID, o.TenantID, o.DeploymentID = i.ID, i.TenantID, i.DeploymentID
	o.State, o.StoppedAt, o.ReportedAt = miosa.Stopped, p.now, p.now
	o.Seq++
	if o.Failure.Kind == "" {
		o.Failure = miosa.Failure{Message: reason, At: p.now}
	}
	p.commit.Put = append(p.commit.Put, o)
}

// lose ends an instance whose host is lost, or has left the fleet: whatever became of
// it there, it is stopped when its host is heard again.
func (p *pass) lose(i miosa.Instance) {
	why := "its host left the fleet"
	if host, known := p.m.w.hosts[i.HostID]; known {
		why = "its host was lost: " + strings.Join(host.Reasons, "; ")
	}
	i.Observed.Failure = miosa.Failure{Kind: miosa.FailureHostLost, Message: why, At: p.now}
	p.finish(i, "its host was lost")
	p.instanceEvent("instance.stopped", i.Observed.Failure.Message, i)
}

// existing looks at each instance by itself: drains that are over, hosts for
// those that wait, versions that have proven themselves since.
func (p *pass) existing() {
	var done map[string]bool
	for _, put := range p.commit.Put {
		if i, ok := put.(miosa.Instance); ok {
			if done == nil {
				done = map[string]bool{}
			}
			done[i.ID] = true
		}
	}
	for _, list := range [][]miosa.Instance{p.all, p.members.attempts} {
		for n := range list {
			if done[list[n].ID] || list[n].State().Terminal() {
				continue
			}
			if p.full() {
				return
			}
			p.goesOn(list[n])
		}
	}
}

// goesOn looks at one that has not ended.
func (p *pass) goesOn(i miosa.Instance) {
	host, known := p.m.w.hosts[i.HostID]
	switch {
	case i.HostID != "" && host.Liveness == miosa.Lost && p.mayReplace(&i):
		p.lose(i)
	case i.Once() && i.HostID != "" && !known:
		p.lose(i)
	case i.Goal == miosa.GoalStop:
		if !known {
			p.finish(i, "its host left the fleet")
		} else if p.explain(&i) || i.Once() && p.tellAgain(&i, host) {
			p.assign(i)
		}
	case i.Goal == miosa.GoalDrain:
		p.drains(i)
	case i.HostID == "" && i.Once():
		if p.place(&i, p.wishes(&i), nil) {
			p.assign(i)
		}
	case i.HostID == "":
		svc, _ := p.serviceOf(i)
		if p.place(&i, svc, p.avoid(i)) {
			p.assign(i)
		}
	case i.Once():
		if p.explain(&i) {
			p.assign(i)
		}
	case p.update(&i):
		p.assign(i)
	}
}

// drains looks whether a drain is over.
func (p *pass) drains(i miosa.Instance) {
	routed := p.m.routedState(p.now, i.ID)
	if left, ok := p.m.routes.left[i.ID]; ok && routed.Held {
		p.m.awaitRouters(p.env.ID, left.generation)
	}
	stop, reason, wake := reconcile.Drained(p.now, &i, routed)
	p.wakeAt(wake)
	p.wakeAfterWindow()
	if stop {
		i.Goal = miosa.GoalStop
		p.assign(i)
		p.instanceEvent("instance.released", reason, i)
		if i.HostID == "" {
			p.finish(i, reason)
		}
	} else if p.explain(&i) {
		p.assign(i)
	}
}

// update brings a running instance's assignment up to date in what its host
// applies without a boot.
func (p *pass) update(i *miosa.Instance) bool {
	changed := p.addNotices(i)
	if !i.Proven && p.proven(i.VersionID) {
		i.Proven, changed = true, true
	}
	if svc, ok := p.serviceOf(*i); ok {
		stop := svc.StopAfterDisconnect
		if stop != 0 && p.m.w.hosts[i.HostID].Liveness != miosa.Alive {
			stop = max(stop, i.StopAfterDisconnect) // its host does not hear that it is to be sooner
		}
		if i.Logs != svc.Logs || i.Restart != svc.Restart || i.StopAfterDisconnect != stop {
			i.Logs, i.Restart, i.StopAfterDisconnect, changed = svc.Logs, svc.Restart, stop, true
		}
	}
	return p.explain(i) || changed
}

// explain has the instance say why its slot is not filled yet, if it is to be.
func (p *pass) explain(i *miosa.Instance) bool {
	var reasons []string
	if why := p.held[i.ID]; why != "" {
		reasons = []string{why}
	}
	changed := !slices.Equal(i.Reasons, reasons)
	i.Reasons = reasons
	return changed
}

// avoid is the host that a replacement flees, if it does.
func (p *pass) avoid(i miosa.Instance) []string {
	old := p.members.instance(i.Replaces)
	if old != nil && reconcile.Flees(old, p.m.w.hosts) {
		return []string{old.HostID}
	}
	return nil
}

func (p *pass) proven(version string) bool {
	v, ok := p.version(version)
	return ok && v.State == miosa.VersionReady
}

// deploymentState sums the deployment up for its owner.
func (p *pass) deploymentState() {
	if p.deleted() {
		return
	}
	next := p.summary()
	if next != p.dep.State {
		p.dep.State, p.dep.UpdatedAt = next, p.now
		p.depChanged = true
	}
}

// tellHealth tells how the environment does when that has changed for long enough.
func (p *pass) tellHealth() {
	if p.deleted() {
		return
	}
	w := p.m.watches[p.env.ID]
	if w == nil {
		w = &health.Watch{}
		p.m.watches[p.env.ID] = w
	}
	live, _ := p.version(p.env.ActiveVersionID)
	seen := health.Environment(p.now, live, p.services(), p.all)
	tell, wake := w.Look(p.now, p.env.ToldHealth, seen.Health, seen.Looping)
	p.wakeAt(wake)
	p.wakeAt(seen.Wake)
	if tell == "" {
		return
	}
	was := p.env.ToldHealth
	if was == "" {
		was = miosa.EnvironmentOK
	}
	p.env.ToldHealth, p.envChanged = tell, true
	message := fmt.Sprintf("%s is %s", p.env.Name, tell)
	if len(seen.Reasons) > 0 {
		message += ": " + strings.Join(seen.Reasons, "; ")
	}
	p.commit.Events = append(p.commit.Events, miosa.Event{
		TenantID: p.env.TenantID, DeploymentID: p.env.DeploymentID, VersionID: p.env.ActiveVersionID,
		Type: "deployment.health_changed", Message: message, Actor: "control", At: p.now,
		Details: map[string]string{"environment": p.env.Name, "health": string(tell), "was": string(was)},
	})
}

func (p *pass) summary() miosa.DeploymentState {
	active, replicas, live, failed := false, 0, false, false
	for id := range p.m.w.deploymentOf(p.dep.ID).environments {
		members := p.m.w.members[id]
		env := members.Environment
		if id == p.env.ID {
			env = p.env
		}
		active = active || env.ActiveVersionID != ""
		if v := members.version(env.ActiveVersionID); v != nil {
			for _, spec := range v.Services { // those that it left behind want nothing
				s := members.serviceOr(spec.ServiceID, miosa.Service{})
				if changed, ok := p.settled[s.ID]; ok {
					s = changed
				}
				replicas += s.DesiredReplicas
			}
		}
		for _, r := range members.rollouts {
			for _, put := range p.commit.Put {
				if changed, ok := put.(miosa.Rollout); ok && changed.ID == r.ID {
					r = changed
				}
			}
			live = live || r.Live()
			failed = failed || r.Step == miosa.StepFailed
		}
	}
	switch {
	case active && replicas == 0:
		return miosa.DeploymentStopped
	case active:
		return miosa.DeploymentRunning
	case live:
		return miosa.DeploymentBuilding
	case failed:
		return miosa.DeploymentFailed
	}
	return miosa.DeploymentPending
}

func (p *pass) event(kind, message string, r miosa.Rollout) {
	p.commit.Events = append(p.commit.Events, miosa.Event{
		TenantID: p.env.TenantID, DeploymentID: p.env.DeploymentID, VersionID: r.TargetID, RolloutID: r.ID,
		Type: kind, Message: message, Actor: "control", At: p.now,
	})
}

func (p *pass) instanceEvent(kind, message string, i miosa.Instance) {
	p.commit.Events = append(p.commit.Events, miosa.Event{
		TenantID: i.TenantID, DeploymentID: i.DeploymentID, ServiceID: i.ServiceID, InstanceID: i.ID, TaskID: i.TaskID,
		VersionID: i.VersionID, HostID: i.HostID, Type: kind, Message: message, Actor: "control", At: p.now,
	})
}
