package cell

import (
	"slices"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/liveness"
)

// hosts is what liveness makes of them, beside the world: who is judged what
// until the records say so, and how many of the instances of silent hosts may be
// replaced by now. Nothing of it must outlast a crash.
type hosts struct {
	judge   *liveness.Machine
	verdict map[string]liveness.Judge // by host ID: until the record says it
	saving  map[string]bool           // by host ID, "" for events alone: a write is under way
	wrote   map[string]miosa.Liveness // by host ID: what its record was last asked to say other than that it is alive
	retry   map[string]time.Time      // by host ID: not to be tried again before
	tell    []miosa.Event             // without a host
	grants  map[string]*grant         // by host ID
	held    bool
	// silent are the hosts whose records do not say that they are alive, by ID, with
	// the IDs of their instances that need no successor.
	silent map[string]map[string]bool
	// writtenOff are the instances that ended with their host, by its ID: it may come
	// back on a connection that it had before, and run on what it was told there.
	writtenOff map[string][]miosa.Instance
}

// grant is how many of a silent host's instances may be replaced.
type grant struct {
	all   bool
	left  int
	given map[string]bool // by instance ID
}

func newHosts(cfg liveness.Config) *hosts {
	return &hosts{
		judge: liveness.New(cfg), verdict: map[string]liveness.Judge{}, saving: map[string]bool{}, wrote: map[string]miosa.Liveness{}, retry: map[string]time.Time{},
		grants: map[string]*grant{}, silent: map[string]map[string]bool{}, writtenOff: map[string][]miosa.Instance{},
	}
}

// hear gives liveness an event and takes in what it says.
func (m *Machine) hear(now time.Time, ev liveness.Event, t *touched) {
	h := m.hosts
	for _, effect := range h.judge.Handle(now, ev) {
		switch e := effect.(type) {
		case liveness.Judge:
			h.verdict[e.Host] = e
			delete(h.retry, e.Host)
			m.judged(e.Host)
		case liveness.Grant:
			g := h.grants[e.Host]
			if g == nil {
				g = &grant{given: map[string]bool{}}
				h.grants[e.Host] = g
			}
			g.all, g.left = g.all || e.All, g.left+e.Instances
			m.w.touchHost(e.Host, t)
		case liveness.Hold:
			if h.held = e.On; !h.held {
				for id := range h.silent {
					m.w.touchHost(id, t)
				}
			}
		case liveness.Tell:
			h.tell = append(h.tell, miosa.Event{HostID: e.Host, Type: e.Type, Message: e.Message, Actor: "control", At: now})
		}
	}
}

// look has liveness know what the records say of the hosts that were touched, and
// of the instances on silent ones.
func (m *Machine) look(now time.Time, t *touched) {
	h := m.hosts
	ids := sortedKeys(t.hosts)
	for _, id := range ids {
		v, known := m.w.hosts[id]
		if !known {
			m.hear(now, liveness.Gone{Host: id}, t)
			delete(h.verdict, id)
			delete(h.wrote, id)
			delete(h.grants, id)
			delete(h.silent, id)
			delete(h.writtenOff, id)
			continue
		}
		m.hear(now, liveness.Known{Host: id, Name: v.Name, Liveness: v.Liveness, Failing: v.Failing}, t)
		if j, ok := h.verdict[id]; !ok {
			m.heed(now, v, t)
		} else if j.Liveness == v.Liveness && j.Failing == v.Failing && slices.Equal(j.Reasons, v.Reasons) {
			delete(h.verdict, id)
		}
		m.judged(id)
		if v.Liveness == miosa.Alive {
			delete(h.silent, id)
			delete(h.grants, id)
		} else if h.silent[id] == nil {
			h.silent[id] = map[string]bool{}
		}
	}
	if len(h.silent) > 0 {
		for env := range t.environments {
			if members := m.w.members[env]; members != nil {
				h.count(members, t)
			}
		}
		for _, id := range t.ended {
			for _, replaced := range h.silent {
				delete(replaced, id)
			}
		}
		ids = sortedKeys(t.hosts)
	}
	for _, id := range ids {
		if _, known := m.w.hosts[id]; known {
			m.hear(now, liveness.Counted{Host: id, Instances: len(m.w.onHost[id]), Replaced: len(h.silent[id])}, t)
		}
	}
}

// heed takes in what an operator wrote into a host's record, of which nothing that
// was judged waits to be written.
func (m *Machine) heed(now time.Time, v miosa.Host, t *touched) {
	is, known := m.hosts.judge.Status(v.ID)
	switch {
	case !known:
	case v.Liveness == miosa.Lost && is.Liveness == miosa.Suspect:
		m.hear(now, liveness.Declared{Host: v.ID}, t)
	case v.Liveness != miosa.Alive && is.Liveness == miosa.Alive && m.hosts.wrote[v.ID] == v.Liveness:
		// A verdict of ours was written after the next one had found it as it was.
		m.hosts.verdict[v.ID] = liveness.Judge{Host: v.ID, Liveness: is.Liveness, Failing: is.Failing}
	case is.Failing && !v.Failing:
		m.hear(now, liveness.Forgive{Host: v.ID}, t)
	}
}

// judged has nothing placed on a host that was judged silent or failing, though its
// record does not say so yet.
func (m *Machine) judged(host string) {
	v, known := m.w.hosts[host]
	if j, ok := m.hosts.verdict[host]; ok && known && (j.Liveness != miosa.Alive || j.Failing) {
		v.Liveness, v.Failing = j.Liveness, j.Failing
		m.w.fleet.Put(v)
	}
}

// place is one slot of a service in a version.
type place struct {
	unit
	slot int
}

func placeOf(i *miosa.Instance) place { return place{unit{i.ServiceID, i.VersionID}, i.Slot} }

// count notes which of an environment's instances on silent hosts need no
// successor: they are not meant to run, or a healthy one holds their slot.
func (h *hosts) count(members *members, t *touched) {
	var healthy map[place]int
	for n := range members.instances {
		i := &members.instances[n]
		replaced := h.silent[i.HostID]
		if replaced == nil || i.State().Terminal() {
			continue
		}
		if healthy == nil {
			healthy = map[place]int{}
			for n := range members.instances {
				if o := &members.instances[n]; o.Goal == miosa.GoalRun && o.State() == miosa.Healthy {
					healthy[placeOf(o)]++
				}
			}
		}
		others := healthy[placeOf(i)]
		if i.Goal == miosa.GoalRun && i.State() == miosa.Healthy {
			others-- // itself
		}
		if i.Goal != miosa.GoalRun || others > 0 {
			replaced[i.ID] = true
		} else {
			delete(replaced, i.ID)
		}
		t.hosts[i.HostID] = true
	}
}

// starts tells liveness what a report says of its host's starting things.
func (m *Machine) starts(now time.Time, o miosa.Observation, t *touched) {
	i := m.w.instance(o.InstanceID)
	if i == nil || i.HostID == "" {
		return
	}
	was := &i.Observed
	switch kind := o.Failure.Kind; {
	case o.Failure.At.After(was.Failure.At) && (kind == miosa.FailureHost || kind == miosa.FailureBoot):
		app := m.w.deployment(i.DeploymentID).Slug + "/" + i.Spec.Name
		m.hear(now, liveness.StartFailed{Host: i.HostID, App: app}, t)
	case o.Boot >= was.Boot && reached(&o, "app_started") && (o.Boot > was.Boot || !reached(was, "app_started")):
		m.hear(now, liveness.StartSucceeded{Host: i.HostID}, t)
	}
}

func reached(o *miosa.Observation, phase string) bool {
	return slices.ContainsFunc(o.Phases, func(p miosa.Phase) bool { return p.Name == phase })
}

// mayReplace says whether an instance on a host that is not alive may have a
// successor by now; where only the time is wanting in which its host stops it
// (stopAfter, see liveness.MayReplace), also why not, and in how long to ask again.
// What was allowed once stays so, as long as its host is silent.
func (m *Machine) mayReplace(i *miosa.Instance, stopAfter time.Duration) (ok bool, reason string, again time.Duration) {
	h := m.hosts
	if h.silent[i.HostID] == nil {
		return true, "", 0
	}
	g := h.grants[i.HostID]
	if g != nil && g.given[i.ID] {
		return true, "", 0
	}
	status, _ := h.judge.Status(i.HostID)
	if ok, reason, again := liveness.MayReplace(status.Silence, stopAfter, i.Spec); !ok {
		return false, reason, again
	}
	switch {
	case m.w.hosts[i.HostID].Liveness == miosa.Lost:
		return true, "", 0
	case g == nil, h.held || !g.all && g.left == 0:
		return false, "", 0
	}
	if !g.all {
		g.left--
	}
	g.given[i.ID] = true
	return true, "", 0
}

// saveHosts asks for the writes that are due: each host's verdict and how its drain
// stands, with the events that tell of it, until its record says so.
func (m *Machine) saveHosts(now time.Time) (out []Effect) {
	h := m.hosts
	due := map[string]bool{}
	for id := range h.verdict {
		due[id] = true
	}
	for id := range m.hostDrains.progress {
		due[id] = true
	}
	for _, id := range sortedKeys(due) {
		v, known := m.w.hosts[id]
		if !known || h.saving[id] || now.Before(h.retry[id]) {
			continue
		}
		if j, judged := h.verdict[id]; judged {
			v.Liveness, v.Failing, v.Reasons = j.Liveness, j.Failing, j.Reasons
		}
		if d, drains := m.hostDrains.progress[id]; drains && v.Draining() {
			v.Drain.Total, v.Drain.Left, v.Drain.Progress, v.Drain.ReportedAt, v.Drain.LateAt, v.Drain.DoneAt = d.Total, d.Left, d.Progress, d.ReportedAt, d.LateAt, d.DoneAt
		}
		v.UpdatedAt = now
		if h.saving[id] = true; v.Liveness != miosa.Alive {
			h.wrote[id] = v.Liveness
		}
		delete(h.retry, id)
		save := SaveHost{Host: v}
		h.tell = slices.DeleteFunc(h.tell, func(e miosa.Event) bool {
			if e.HostID == id {
				save.Events = append(save.Events, e)
			}
			return e.HostID == id
		})
		out = append(out, save)
	}
	if len(h.tell) > 0 && !h.saving[""] && !now.Before(h.retry[""]) {
		h.saving[""] = true
		delete(h.retry, "")
		out = append(out, SaveHost{Events: h.tell})
		h.tell = nil
	}
	return out
}

// hostSaved takes in what became of a write. One that failed is tried again, its
// events with it.
func (m *Machine) hostSaved(now time.Time, e HostSaved) {
	h := m.hosts
	delete(h.saving, e.Host)
	if e.Err == nil && !e.Conflict {
		delete(h.retry, e.Host)
		return
	}
	h.retry[e.Host] = now.Add(retryAfter)
	h.tell = append(h.tell, e.Events...)
}

// wakeForHosts is when something about hosts is to be looked at; zero: not before an
// event.
func (m *Machine) wakeForHosts() time.Time {
	h := m.hosts
	at := h.judge.Wake()
	for id, t := range h.retry {
		_, judged := h.verdict[id]
		_, drains := m.hostDrains.progress[id]
		if (judged || drains || id == "" && len(h.tell) > 0) && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	if t := m.hostDrains.wake(); !t.IsZero() && (at.IsZero() || t.Before(at)) {
		at = t
	}
	return at
}
