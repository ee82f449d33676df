package plan

import (
	"cmp"
	"maps"
	"slices"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/schedule"
)

// slot is one place of a service in a version.
type slot struct {
	unit
	number int
}

// account makes the findings of what has become of the records.
func (w *world) account(then before, change Change) Plan {
	a := accounting{w: w, then: then, change: change, leaving: map[string]occupant{}, bySlot: map[slot][]string{}}
	for _, id := range slices.Sorted(maps.Keys(then.was)) {
		was := then.was[id]
		if now := w.instances[id]; !was.once && was.goal == miosa.GoalRun && (now.goal != miosa.GoalRun || now.observed.Terminal()) {
			a.leaving[id] = was
			at := slot{was.unit, was.slot}
			a.bySlot[at] = append(a.bySlot[at], id)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(w.instances)) {
		a.arrive(w.instances[id])
	}
	for _, id := range slices.Sorted(maps.Keys(a.leaving)) {
		a.end(a.leaving[id])
	}
	for _, host := range change.drain {
		for _, id := range slices.Sorted(maps.Keys(w.onHost[host])) {
			a.stay(w.onHost[host][id])
		}
	}
	a.rollouts()
	a.services()
	a.zones()
	a.hosts()
	a.sort()
	return a.Plan
}

type accounting struct {
	Plan
	w       *world
	then    before
	change  Change
	leaving map[string]occupant // by ID: those that nothing has taken over from
	bySlot  map[slot][]string
}

// arrive sorts an instance in that was not there before, or had no host.
func (a *accounting) arrive(o *occupant) {
	was, known := a.then.was[o.id]
	if o.once || o.observed.Terminal() || o.goal != miosa.GoalRun || known && was.host != "" || !known && !o.made {
		return
	}
	i := o.instance()
	subject, version := a.w.subject(o.unit.service, i.EnvironmentID), a.w.versions[o.unit.version].Number
	switch {
	case o.host == "" && known:
		a.Waiting++
	case o.host == "":
		a.predecessor(o)
		a.NoRoom = append(a.NoRoom, NoRoom{Subject: subject, Version: version, Slot: o.slot, Replaces: a.real(o.replaces), Reasons: slices.Clone(i.Reasons)})
	default:
		on := a.w.place(o.host)
		if old, ok := a.predecessor(o); ok {
			a.Moves = append(a.Moves, Move{Subject: subject, Version: version, Slot: o.slot, InstanceID: a.real(old.id), From: a.w.place(old.host), To: on, Reason: a.why(old, i.CreatedReason)})
			return
		}
		a.Starts = append(a.Starts, Start{Subject: subject, Version: version, Slot: o.slot, On: on, Reason: i.CreatedReason})
	}
}

// predecessor is the leaving instance whose slot another one fills, if there is one.
func (a *accounting) predecessor(o *occupant) (occupant, bool) {
	id := o.replaces
	old, ok := a.leaving[id]
	if !ok {
		for _, id = range a.bySlot[slot{o.unit, o.slot}] {
			if old, ok = a.leaving[id]; ok {
				break
			}
		}
	}
	delete(a.leaving, id)
	return old, ok
}

// real is an instance's ID, unless it is one that was made here.
func (a *accounting) real(id string) string {
	if o := a.w.instances[id]; o != nil && o.made {
		return ""
	}
	return id
}

func (a *accounting) end(was occupant) {
	i := a.w.instances[was.id].instance()
	a.Ends = append(a.Ends, End{
		Subject: a.w.subject(was.unit.service, i.EnvironmentID), Version: a.w.versions[was.unit.version].Number, Slot: was.slot,
		InstanceID: a.real(was.id), On: a.w.place(was.host), Reason: a.why(was, i.GoalReason),
	})
}

func (a *accounting) stay(o *occupant) {
	a.Stays = append(a.Stays, Stay{
		Subject: a.w.subject(o.unit.service, o.instance().EnvironmentID), Version: a.w.versions[o.unit.version].Number, Slot: o.slot,
		InstanceID: a.real(o.id), On: a.w.place(o.host),
	})
}

// why an instance leaves: because of what becomes of its host, or as it is said.
func (a *accounting) why(was occupant, said string) string {
	switch {
	case slices.Contains(a.change.lose, was.host):
		return "its host is lost"
	case slices.Contains(a.change.drain, was.host):
		return "its host is drained"
	}
	return said
}

func (a *accounting) rollouts() {
	for _, put := range a.change.Put {
		asked, ok := put.(miosa.Rollout)
		if !ok || !asked.Live() || asked.CancelledBy != "" {
			continue
		}
		r := a.w.rollouts[asked.ID]
		a.Rollouts = append(a.Rollouts, Rollout{
			Subject: a.w.subject("", r.EnvironmentID), Version: a.w.versions[r.TargetID].Number,
			Live: r.Step == miosa.StepDraining || r.Step == miosa.StepDone && r.Promote, Proven: r.Step == miosa.StepDone, Reason: r.Reason,
		})
	}
}

// services are those of which an instance comes or goes, or that are asked for
// another number.
func (a *accounting) services() {
	named := map[string]bool{}
	for _, m := range a.Moves {
		named[m.ServiceID] = true
	}
	for _, s := range a.Starts {
		named[s.ServiceID] = true
	}
	for _, e := range a.Ends {
		named[e.ServiceID] = true
	}
	for _, n := range a.NoRoom {
		named[n.ServiceID] = true
	}
	for _, id := range slices.Sorted(maps.Keys(a.w.standing)) {
		st := a.w.standing[id]
		s := Service{
			Subject: a.w.subject(id, ""), WantedBefore: st.wantedBefore, Wanted: a.w.wanted(id),
			ServingBefore: st.before, Lowest: st.lowest, Serving: a.w.serving(id),
		}
		if named[id] || s.Wanted != s.WantedBefore || s.Serving != s.ServingBefore || s.Lowest < s.ServingBefore {
			a.Services = append(a.Services, s)
		}
	}
}

func usable(h miosa.Host) bool {
	return h.Liveness == miosa.Alive && h.Schedulable && !h.Failing
}

// capacity is what may be promised on a host that is empty.
func capacity(h miosa.Host) miosa.Resources { return schedule.Free(schedule.Host{Host: h}) }

func (a *accounting) zones() {
	all := map[string]*Zone{}
	of := func(h miosa.Host) *Zone {
		key := h.Region + "/" + h.Zone
		if all[key] == nil {
			all[key] = &Zone{Region: h.Region, Zone: h.Zone}
		}
		return all[key]
	}
	for id, h := range a.then.hosts {
		if z := of(h); usable(h) {
			z.UsableBefore++
			z.CapacityBefore, z.UsedBefore = schedule.Add(z.CapacityBefore, capacity(h)), schedule.Add(z.UsedBefore, a.then.used[id])
		}
	}
	for id, h := range a.w.hosts {
		if z := of(h); usable(h) {
			z.Usable++
			z.Capacity, z.Used = schedule.Add(z.Capacity, capacity(h)), schedule.Add(z.Used, a.w.used[id])
		}
	}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		a.Zones = append(a.Zones, *all[key])
	}
}

func (a *accounting) hosts() {
	for _, id := range slices.Sorted(maps.Keys(a.w.hosts)) {
		if before, now := a.then.used[id], a.w.used[id]; before != now {
			a.Hosts = append(a.Hosts, Host{Place: a.w.place(id), Capacity: capacity(a.w.hosts[id]), UsedBefore: before, Used: now})
		}
	}
}

func (a *accounting) sort() {
	slices.SortStableFunc(a.Services, func(a, b Service) int { return a.compare(b.Subject) })
	slices.SortStableFunc(a.Moves, func(a, b Move) int {
		return cmp.Or(a.compare(b.Subject), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Slot, b.Slot))
	})
	slices.SortStableFunc(a.Starts, func(a, b Start) int {
		return cmp.Or(a.compare(b.Subject), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Slot, b.Slot))
	})
	slices.SortStableFunc(a.Ends, func(a, b End) int {
		return cmp.Or(a.compare(b.Subject), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Slot, b.Slot))
	})
	slices.SortStableFunc(a.Stays, func(a, b Stay) int {
		return cmp.Or(a.compare(b.Subject), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Slot, b.Slot))
	})
	slices.SortStableFunc(a.NoRoom, func(a, b NoRoom) int {
		return cmp.Or(a.compare(b.Subject), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Slot, b.Slot))
	})
}

func (s Subject) compare(o Subject) int {
	return cmp.Or(cmp.Compare(s.Tenant, o.Tenant), cmp.Compare(s.Deployment, o.Deployment), cmp.Compare(s.Environment, o.Environment),
		cmp.Compare(s.Service, o.Service), cmp.Compare(s.ServiceID, o.ServiceID))
}

// subject is a service by names, or with "" its environment.
func (w *world) subject(service, environment string) Subject {
	s := w.services[service]
	env := w.environments[cmp.Or(s.EnvironmentID, environment)]
	dep := w.deployments[env.DeploymentID]
	return Subject{
		TenantID: env.TenantID, DeploymentID: env.DeploymentID, EnvironmentID: env.ID, ServiceID: service,
		Tenant: cmp.Or(w.tenants[env.TenantID].Slug, env.TenantID), Deployment: cmp.Or(dep.Slug, env.DeploymentID), Environment: env.Name, Service: s.Name,
	}
}

func (w *world) place(host string) Place {
	if host == "" {
		return Place{}
	}
	h := w.hosts[host]
	return Place{HostID: host, Host: cmp.Or(h.Name, host), Region: h.Region, Zone: h.Zone}
}
