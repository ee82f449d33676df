package plan

import (
	"container/heap"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/liveness"
	"github.com/miosa/miosa/reconcile"
	"github.com/miosa/miosa/schedule"
)

const (
	// boots is how long what is placed takes to be healthy, stops how long what is
	// to stop takes to end. They set the order of things, not a forecast.
	boots = 2 * time.Second
	stops = time.Second
	// quiet is how long nothing is decided before nothing more is expected.
	quiet = reconcile.PlaceBefore + 2*time.Second
	// longest bounds the virtual time before the change, and that after it; most
	// the turns of the machine.
	longest = 10 * time.Minute
	most    = 200_000
	stride  = time.Second // the longest step: longer ones would be taken for a pause
)

// world is the copy of the records that a change is tried on, with the machine
// that decides and hosts that do as they are told.
type world struct {
	machine  *cell.Machine
	now      time.Time
	revision int64
	queue    []cell.Event // that the machine is to be given now
	later    reports
	reported uint64 // tells reports of one moment apart
	beat     time.Time
	beats    int64
	minted   int
	decided  bool // the machine asked for a change since that was cleared
	turns    int

	tenants      map[string]miosa.Tenant
	deployments  map[string]miosa.Deployment
	environments map[string]miosa.Environment
	services     map[string]miosa.Service
	versions     map[string]miosa.Version
	rollouts     map[string]miosa.Rollout
	hosts        map[string]miosa.Host
	answering    []string            // IDs of hosts that beat, in order
	of           map[string][]string // by environment ID: IDs of services
	instances    map[string]*occupant
	onHost       map[string]map[string]*occupant
	used         map[string]miosa.Resources // by host ID
	healthy      map[unit]int               // of a service in a version

	// Since the change began; nil before:
	standing map[string]*standing // by service ID
	touched  map[string]bool      // IDs of services that the next commit bears on
}

// unit is a service in a version.
type unit struct{ service, version string }

// occupant is one instance as far as it matters here.
type occupant struct {
	record   any // the miosa.Instance as it was written last
	id       string
	unit     unit
	slot     int
	host     string
	replaces string
	goal     miosa.Goal
	observed miosa.InstanceState
	size     miosa.Resources

	generation, obeyed int64 // of its assignment, and the one that its host has taken up
	nonce              int
	seq                int64
	failures, boot     int

	counted bool // in healthy
	made    bool // by this dry run
	once    bool // it is an attempt at a task
}

// state is the one that users see.
func (o *occupant) state() miosa.InstanceState {
	i := miosa.Instance{Goal: o.goal, HostID: o.host, Observed: miosa.Observation{State: o.observed}}
	return i.State()
}

// standing is what becomes of one service.
type standing struct{ wantedBefore, before, lowest int }

// report is what an instance comes to.
type report struct {
	at    time.Time
	n     uint64
	id    string
	state miosa.InstanceState
}

type reports []report

func (r reports) Len() int { return len(r) }
func (r reports) Less(i, j int) bool {
	if r[i].at.Equal(r[j].at) {
		return r[i].n < r[j].n
	}
	return r[i].at.Before(r[j].at)
}
func (r reports) Swap(i, j int) { r[i], r[j] = r[j], r[i] }
func (r *reports) Push(x any)   { *r = append(*r, x.(report)) }
func (r *reports) Pop() any {
	old := *r
	last := old[len(old)-1]
	*r = old[:len(old)-1]
	return last
}

func newCopy(now time.Time, cfg cell.Config) *world {
	// No router is asked: what they do does not bear on where instances go.
	cfg.Hosts = func(miosa.Tenant, miosa.Deployment, miosa.Environment) []string { return nil }
	cfg.RouterWindow = 0
	return &world{
		machine: cell.NewMachine(cfg), now: now,
		tenants: map[string]miosa.Tenant{}, deployments: map[string]miosa.Deployment{}, environments: map[string]miosa.Environment{},
		services: map[string]miosa.Service{}, versions: map[string]miosa.Version{}, rollouts: map[string]miosa.Rollout{}, hosts: map[string]miosa.Host{},
		of: map[string][]string{}, instances: map[string]*occupant{}, onHost: map[string]map[string]*occupant{},
		used: map[string]miosa.Resources{}, healthy: map[unit]int{}, touched: map[string]bool{},
	}
}

// load takes all records in.
func (w *world) load(loaded cell.Loaded) error {
	w.revision = loaded.Revision
	late := func(noun any) bool { _, ok := noun.(miosa.Observation); return ok }
	for _, noun := range loaded.Nouns {
		if !late(noun) {
			w.put(noun)
		}
	}
	for _, noun := range loaded.Nouns {
		if late(noun) {
			w.put(noun)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(w.hosts)) {
		if w.hosts[id].Liveness == miosa.Alive {
			w.answering = append(w.answering, id)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(w.instances)) {
		w.obey(w.instances[id])
	}
	return w.give(loaded)
}

// patience is how long nothing has to be decided before the change: where hosts
// are silent, until they are judged.
func (w *world) patience() time.Duration {
	for _, h := range w.hosts {
		if h.Liveness == miosa.Suspect {
			return liveness.Window + liveness.SuspectAfter + quiet
		}
	}
	return quiet
}

// settle lets everything that follows happen, until nothing has been decided for
// a while. It reports false where there is no end of it.
func (w *world) settle(patience time.Duration) (rests bool, err error) {
	end, idle := w.now.Add(longest), w.now
	for w.turns = 0; ; w.turns++ {
		if w.decided {
			w.decided, idle = false, w.now
		}
		switch {
		case w.turns >= most || !w.now.Before(end):
			return false, nil
		case len(w.queue) > 0:
			events := cell.Together(w.queue)
			w.queue = nil
			err = w.give(events)
		case len(w.later) == 0 && w.now.Sub(idle) >= patience:
			return true, nil
		default:
			err = w.give(w.advance())
		}
		if err != nil {
			return false, err
		}
	}
}

// advance goes to the next moment, and returns what happens then.
func (w *world) advance() cell.Together {
	next := w.now.Add(stride)
	if at := w.machine.Wake(); !at.IsZero() && at.Before(next) && at.After(w.now) {
		next = at
	}
	if len(w.later) > 0 && w.later[0].at.Before(next) {
		next = w.later[0].at
	}
	w.now = next
	var events cell.Together
	if !w.now.Before(w.beat) {
		w.beat = w.now.Add(liveness.BeatEvery)
		w.beats++
		for _, id := range w.answering {
			events = append(events, cell.Beat{Host: id, Session: 1, Seq: w.beats})
		}
	}
	var put []any
	for len(w.later) > 0 && !w.later[0].at.After(w.now) {
		r := heap.Pop(&w.later).(report)
		if o, ok := w.observation(r); ok {
			put = append(put, o)
		}
	}
	if len(put) > 0 {
		events = append(events, w.commit(put))
	}
	return append(events, cell.Tick{})
}

// give hands the machine an event and carries out what it asks for.
func (w *world) give(ev cell.Event) error {
	for _, effect := range w.machine.Handle(w.now, ev) {
		switch e := effect.(type) {
		case cell.Halt:
			return e.Err
		case cell.SaveHost:
			if e.Host.ID != "" {
				w.queue = append(w.queue, w.commit([]any{e.Host}))
			}
			w.queue = append(w.queue, cell.HostSaved{Host: e.Host.ID})
		case cell.Commit:
			put := slices.Clone(e.Put)
			for _, i := range e.Create {
				w.minted++
				i.ID = fmt.Sprintf("ri_z%025d", w.minted) // after every real one, as the real one will be
				put = append(put, i)
			}
			w.decided = w.decided || len(put) > 0
			w.queue = append(w.queue, w.commit(put), e.Done(w.revision))
		}
	}
	return nil
}

// commit writes nouns, and returns what the machine is to be told of it.
func (w *world) commit(put []any) cell.Changed {
	w.revision++
	for _, noun := range put {
		w.put(noun)
	}
	for id := range w.touched {
		s := w.standing[id]
		s.lowest = min(s.lowest, w.serving(id))
	}
	clear(w.touched)
	return cell.Changed{Revision: w.revision, Put: put}
}

// begin is the moment before the change: what is promised on each host, and who
// is where. From here on it is noted what becomes of services.
func (w *world) begin() before {
	w.standing = map[string]*standing{}
	b := before{used: maps.Clone(w.used), hosts: maps.Clone(w.hosts), was: make(map[string]occupant, len(w.instances))}
	for id, o := range w.instances {
		if !o.observed.Terminal() {
			b.was[id] = *o
		}
	}
	return b
}

// before is how it was before the change.
type before struct {
	used  map[string]miosa.Resources
	hosts map[string]miosa.Host
	was   map[string]occupant // instances that have not ended
}

// try makes the change.
func (w *world) try(c Change) {
	put := slices.Clone(c.Put)
	for _, id := range c.lose {
		put = append(put, lost(w.hosts[id]))
	}
	for _, id := range c.drain {
		put = append(put, drained(w.now, w.hosts[id]))
	}
	w.queue = append(w.queue, w.commit(put))
}

// put takes a record in.
func (w *world) put(noun any) {
	switch v := noun.(type) {
	case miosa.Tenant:
		w.tenants[v.ID] = v
	case miosa.Deployment:
		w.deployments[v.ID] = v
	case miosa.Environment:
		for _, id := range w.of[v.ID] {
			w.note(id)
		}
		w.environments[v.ID] = v
	case miosa.Service:
		if _, known := w.services[v.ID]; !known {
			w.of[v.EnvironmentID] = append(w.of[v.EnvironmentID], v.ID)
		}
		w.note(v.ID)
		w.services[v.ID] = v
	case miosa.Version:
		w.versions[v.ID] = v
	case miosa.Rollout:
		w.rollouts[v.ID] = v
	case miosa.Host:
		for _, o := range w.onHost[v.ID] {
			w.note(o.unit.service)
		}
		w.hosts[v.ID] = v
		for _, o := range w.onHost[v.ID] {
			w.recount(o)
		}
	case miosa.Instance:
		w.putInstance(noun, v)
	case miosa.Observation:
		if o := w.instances[v.InstanceID]; o != nil {
			w.note(o.unit.service)
			w.leave(o)
			o.observed, o.obeyed, o.seq, o.failures, o.boot = v.State, v.Generation, v.Seq, v.Failures, v.Boot
			w.enter(o)
		}
	}
}

func (w *world) putInstance(record any, v miosa.Instance) {
	w.note(v.ServiceID)
	o := w.instances[v.ID]
	if o == nil {
		o = &occupant{id: v.ID, made: w.machine.Loaded()}
		w.instances[v.ID] = o
	} else {
		w.leave(o)
	}
	o.record, o.unit, o.slot, o.once = record, unit{v.ServiceID, v.VersionID}, v.Slot, v.Once()
	o.host, o.replaces, o.goal, o.size = v.HostID, v.Replaces, v.Goal, v.Spec.Resources
	o.generation, o.nonce = v.Generation, v.RestartNonce
	w.enter(o)
	if w.machine.Loaded() {
		w.obey(o)
	}
}

// instance is an occupant's record, with its state.
func (o *occupant) instance() miosa.Instance {
	i := o.record.(miosa.Instance)
	i.Observed.State = o.observed
	return i
}

// enter counts an occupant where it is, leave takes that back before it changes.
func (w *world) enter(o *occupant) {
	if o.host != "" && !o.observed.Terminal() {
		w.used[o.host] = schedule.Add(w.used[o.host], o.size)
		if w.onHost[o.host] == nil {
			w.onHost[o.host] = map[string]*occupant{}
		}
		w.onHost[o.host][o.id] = o
	}
	w.recount(o)
}

func (w *world) leave(o *occupant) {
	if o.host != "" && !o.observed.Terminal() {
		w.used[o.host] = minus(w.used[o.host], o.size)
		delete(w.onHost[o.host], o.id)
	}
	if o.counted {
		o.counted = false
		w.healthy[o.unit]--
	}
}

// recount counts it among those that serve, or no more.
func (w *world) recount(o *occupant) {
	counts := o.goal == miosa.GoalRun && o.state() == miosa.Healthy && w.hosts[o.host].Liveness != miosa.Lost
	switch {
	case counts && !o.counted:
		w.healthy[o.unit]++
	case !counts && o.counted:
		w.healthy[o.unit]--
	}
	o.counted = counts
}

// minus is what is left of a.
func minus(a, b miosa.Resources) miosa.Resources {
	return miosa.Resources{VCPUs: a.VCPUs - b.VCPUs, MemoryMB: a.MemoryMB - b.MemoryMB, DiskMB: a.DiskMB - b.DiskMB, GPU: a.GPU - b.GPU}
}

// note keeps how a service stood before the change, when something is about to
// bear on it.
func (w *world) note(service string) {
	if w.standing == nil || service == "" { // a task has none
		return
	}
	w.touched[service] = true
	if w.standing[service] == nil {
		n := w.serving(service)
		w.standing[service] = &standing{wantedBefore: w.wanted(service), before: n, lowest: n}
	}
}

// serving is how many healthy instances of it the live version has, wanted how
// many are to be.
func (w *world) serving(service string) int {
	return w.healthy[unit{service, w.environments[w.services[service].EnvironmentID].ActiveVersionID}]
}

func (w *world) wanted(service string) int {
	s := w.services[service]
	if _, live := w.versions[w.environments[s.EnvironmentID].ActiveVersionID].Service(service); !live {
		return 0
	}
	return s.DesiredReplicas
}

// obey has an instance's host do what it was told, a little later.
func (w *world) obey(o *occupant) {
	switch {
	case o.host == "" || o.observed.Terminal() || w.hosts[o.host].Liveness != miosa.Alive:
	case o.goal == miosa.GoalStop:
		w.after(stops, o.id, miosa.Stopped)
	case o.goal == miosa.GoalRun && (o.fresh() || o.restarts()):
		w.after(boots, o.id, miosa.Healthy)
	}
}

// fresh: it is on its way up, and has not failed.
func (o *occupant) fresh() bool {
	return o.failures == 0 && (o.observed == "" || o.observed == miosa.Pending || o.observed == miosa.Starting)
}

// restarts: it was told to boot again in place.
func (o *occupant) restarts() bool { return o.nonce > 0 && o.obeyed < o.generation }

func (w *world) after(d time.Duration, id string, state miosa.InstanceState) {
	w.reported++
	heap.Push(&w.later, report{at: w.now.Add(d), n: w.reported, id: id, state: state})
}

// observation is a report as its host would make it, if it still would.
func (w *world) observation(r report) (miosa.Observation, bool) {
	o := w.instances[r.id]
	if o.observed.Terminal() || w.hosts[o.host].Liveness != miosa.Alive {
		return miosa.Observation{}, false
	}
	i := o.record.(miosa.Instance)
	out := miosa.Observation{
		InstanceID: o.id, TenantID: i.TenantID, DeploymentID: i.DeploymentID, HostID: o.host, Generation: o.generation, Seq: o.seq + 1,
		State: r.state, Boot: max(o.boot, 1), Failures: o.failures, StartedAt: w.now, ReportedAt: w.now,
	}
	switch r.state {
	case miosa.Stopped:
		out.StoppedAt = w.now
		return out, o.goal == miosa.GoalStop
	default:
		out.HealthyAt = w.now
		if i.Spec.Port != 0 {
			out.Addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), uint16(i.Spec.Port))
		}
		return out, o.goal == miosa.GoalRun && (o.fresh() || o.restarts())
	}
}
