package cell

import (
	"fmt"
	"slices"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/schedule"
)

// world is what the store holds, in memory, as of one revision. It is fed by
// the watch alone: what we commit ourselves comes back to us like everybody
// else's changes. Each change costs what it touches: what is asked for is kept
// under what it is asked by.
type world struct {
	revision    int64
	whole       bool // all records have come: what is not known is new
	tenants     map[string]miosa.Tenant
	deployments map[string]*deployment
	ofTenant    map[string]map[string]bool // IDs of deployments
	members     map[string]*members        // by environment ID
	of          map[string]*members        // by the ID of a service, version, rollout, instance or task: where it belongs
	early       map[string]miosa.Observation
	hosts       map[string]miosa.Host
	onHost      map[string]map[string]bool // by host ID: IDs of instances that have not ended
	draining    map[string]bool            // IDs of hosts
	heirs       map[string]string          // by instance ID: the newest that replaces it and is to run, or failed at it
	fleet       *schedule.Fleet
	unplaced    map[string]int  // by environment ID: instances without a host
	flipping    map[string]bool // IDs of rollouts
	states      map[miosa.InstanceState]int
	live        int // rollouts
}

// deployment is one with the IDs of its environments. Either may come first.
type deployment struct {
	miosa.Deployment // ID "": has not come yet
	environments     map[string]bool
}

// members are an environment and what belongs to it, each in order of ID. What
// is in them is replaced, never changed: but only until the next event.
type members struct {
	id                string // the environment's
	miosa.Environment        // ID "": has not come yet, or is gone
	services          []miosa.Service
	versions          []miosa.Version
	rollouts          []miosa.Rollout
	instances         []miosa.Instance // of services; Observed joined
	tasks             []miosa.Task     // that have not ended
	attempts          []miosa.Instance // of tasks: whoever asks for a service's instances never sees one
}

func newWorld(placement schedule.Policy) *world {
	return &world{
		tenants: map[string]miosa.Tenant{}, deployments: map[string]*deployment{}, ofTenant: map[string]map[string]bool{}, members: map[string]*members{}, of: map[string]*members{},
		early: map[string]miosa.Observation{}, hosts: map[string]miosa.Host{}, onHost: map[string]map[string]bool{}, fleet: schedule.NewFleet(placement),
		draining: map[string]bool{}, heirs: map[string]string{},
		unplaced: map[string]int{}, flipping: map[string]bool{}, states: map[miosa.InstanceState]int{},
	}
}

// find is where in the sorted list an ID is, or belongs.
func find[T any](list []T, id string, idOf func(*T) string) (int, bool) {
	// New ones come last.
	if n := len(list); n == 0 || idOf(&list[n-1]) < id {
		return n, false
	}
	low, high := 0, len(list)
	for low < high {
		if mid := (low + high) / 2; idOf(&list[mid]) < id {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low, low < len(list) && idOf(&list[low]) == id
}

func get[T any](list []T, id string, idOf func(*T) string) *T {
	if n, ok := find(list, id, idOf); ok {
		return &list[n]
	}
	return nil
}

func insert[T any](list []T, v T, idOf func(*T) string) []T {
	n, ok := find(list, idOf(&v), idOf)
	if ok {
		list[n] = v
		return list
	}
	return slices.Insert(list, n, v)
}

func without[T any](list []T, id string, idOf func(*T) string) []T {
	if n, ok := find(list, id, idOf); ok {
		return slices.Delete(list, n, n+1)
	}
	return list
}

func serviceID(v *miosa.Service) string   { return v.ID }
func versionID(v *miosa.Version) string   { return v.ID }
func rolloutID(v *miosa.Rollout) string   { return v.ID }
func instanceID(v *miosa.Instance) string { return v.ID }
func taskID(v *miosa.Task) string         { return v.ID }

func (m *members) service(id string) *miosa.Service   { return get(m.services, id, serviceID) }
func (m *members) version(id string) *miosa.Version   { return get(m.versions, id, versionID) }
func (m *members) rollout(id string) *miosa.Rollout   { return get(m.rollouts, id, rolloutID) }
func (m *members) instance(id string) *miosa.Instance { return get(m.instances, id, instanceID) }
func (m *members) attempt(id string) *miosa.Instance  { return get(m.attempts, id, instanceID) }
func (m *members) task(id string) *miosa.Task         { return get(m.tasks, id, taskID) }

// empty: nothing is left of it.
func (m *members) empty() bool {
	return m.ID == "" && len(m.services)+len(m.versions)+len(m.rollouts)+len(m.instances)+len(m.tasks)+len(m.attempts) == 0
}

// membersOf is an environment with what belongs to it, made if need be: its
// records may come in any order.
func (w *world) membersOf(env string) *members {
	m := w.members[env]
	if m == nil {
		m = &members{id: env}
		w.members[env] = m
	}
	return m
}

// environment is a known one; nil: it has not come, or is gone.
func (w *world) environment(id string) *members {
	if m := w.members[id]; m != nil && m.ID != "" {
		return m
	}
	return nil
}

func (w *world) deployment(id string) miosa.Deployment {
	if d := w.deployments[id]; d != nil {
		return d.Deployment
	}
	return miosa.Deployment{}
}

func (w *world) deploymentOf(id string) *deployment {
	d := w.deployments[id]
	if d == nil {
		d = &deployment{environments: map[string]bool{}}
		w.deployments[id] = d
	}
	return d
}

// instance is a known one, a service's or an attempt; nil: there is none.
func (w *world) instance(id string) *miosa.Instance {
	m := w.of[id]
	if m == nil {
		return nil
	}
	if i := m.instance(id); i != nil {
		return i
	}
	return m.attempt(id)
}

// touched is what a change may bear on: environments by ID, or all that wait
// for room.
type touched struct {
	environments map[string]bool
	routes       map[string]bool // environments whose routes may have to change
	hosts        map[string]bool // whose record, or instances, changed
	ended        []string        // instances that did, or are gone
	capacity     bool            // a host came, or has more room
}

func newTouched() *touched {
	return &touched{environments: map[string]bool{}, routes: map[string]bool{}, hosts: map[string]bool{}}
}

func (t *touched) env(id string) {
	if id != "" {
		t.environments[id] = true
	}
}

// route marks an environment to be decided and its routes to be made anew.
func (t *touched) route(id string) {
	if id != "" {
		t.environments[id] = true
		t.routes[id] = true
	}
}

// Kinds are all kinds of records there are, as store.ParseKey names them, and
// whether they are handed to the machine. A new kind is an entry here, and a case
// in put if it is handed over.
var Kinds = map[string]bool{
	"tenant": true, "deployment": true, "environment": true, "service": true, "version": true, "release": true, "rollout": true,
	"instance": true, "observation": true, "host": true, "task": true,
	"plan": false, "api_key": false, "vars": false, "event": false, "webhook": false, "log_drain": false, "registry_login": false,
}

// UnknownNoun is what the machine is given and has no place for: a record of a
// kind that it was never taught is never passed over.
type UnknownNoun struct{ Noun any }

func (e UnknownNoun) Error() string {
	return fmt.Sprintf("control has no place for a record of type %T", e.Noun)
}

// put takes a noun's newest state in.
func (w *world) put(noun any, t *touched) error {
	switch v := noun.(type) {
	case miosa.Tenant:
		known := w.tenants[v.ID]
		w.tenants[v.ID] = v
		if known.Slug != v.Slug {
			for id := range w.ofTenant[v.ID] {
				w.deployments[id].touch(t)
			}
		}
	case miosa.Deployment:
		d := w.deploymentOf(v.ID)
		d.Deployment = v
		if w.ofTenant[v.TenantID] == nil {
			w.ofTenant[v.TenantID] = map[string]bool{}
		}
		w.ofTenant[v.TenantID][v.ID] = true
		d.touch(t)
	case miosa.Environment:
		w.membersOf(v.ID).Environment = v
		w.deploymentOf(v.DeploymentID).environments[v.ID] = true
		t.route(v.ID)
	case miosa.Service:
		m := w.membersOf(v.EnvironmentID)
		m.services = insert(m.services, v, serviceID)
		w.of[v.ID] = m
		t.route(v.EnvironmentID)
	case miosa.Version:
		m := w.membersOf(v.EnvironmentID)
		known := m.version(v.ID) != nil
		m.versions = insert(m.versions, v, versionID)
		w.of[v.ID] = m
		if t.env(v.EnvironmentID); !known {
			t.route(v.EnvironmentID) // where its requests go is frozen with it
		}
	case miosa.Rollout:
		m := w.membersOf(v.EnvironmentID)
		w.countRollout(m.rollout(v.ID), -1)
		m.rollouts = insert(m.rollouts, v, rolloutID)
		w.of[v.ID] = m
		w.countRollout(&v, 1)
		t.route(v.EnvironmentID)
	case miosa.Instance:
		if known := w.instance(v.ID); known != nil {
			v.Observed = known.Observed
		} else if o, ok := w.early[v.ID]; ok {
			v.Observed = o
			delete(w.early, v.ID)
		} else if v.Once() && w.whole && w.membersOf(v.EnvironmentID).task(v.TaskID) == nil {
			break // it has ended with its task, and was let go of
		} else {
			v.Observed = miosa.Observation{}
		}
		w.putInstance(v, t)
	case miosa.Observation:
		if known := w.instance(v.InstanceID); known != nil {
			i := *known
			i.Observed = v
			w.putInstance(i, t)
		} else {
			w.early[v.InstanceID] = v
		}
	case miosa.Host:
		w.hosts[v.ID] = v
		if delete(w.draining, v.ID); v.Draining() {
			w.draining[v.ID] = true
		}
		w.fleet.Put(v)
		t.capacity, t.hosts[v.ID] = true, true
		w.touchHost(v.ID, t)
	case miosa.Task:
		m := w.membersOf(v.EnvironmentID)
		if t.env(v.EnvironmentID); v.State.Terminal() {
			m.tasks = without(m.tasks, v.ID, taskID)
			delete(w.of, v.ID)
			break
		}
		m.tasks = insert(m.tasks, v, taskID)
		w.of[v.ID] = m
	case miosa.Release: // retention's; what boots is read when it is sealed
	default:
		return UnknownNoun{noun}
	}
	return nil
}

func (d *deployment) touch(t *touched) {
	for env := range d.environments {
		t.route(env)
	}
}

func (w *world) touchHost(id string, t *touched) {
	for i := range w.onHost[id] {
		t.env(w.of[i].id)
	}
}

func (w *world) countRollout(r *miosa.Rollout, sign int) {
	if r == nil {
		return
	}
	if r.Live() {
		w.live += sign
	}
	if r.Step == miosa.StepFlipping && sign > 0 {
		w.flipping[r.ID] = true
	} else {
		delete(w.flipping, r.ID)
	}
}

func (w *world) putInstance(i miosa.Instance, t *touched) {
	m := w.membersOf(i.EnvironmentID)
	list := &m.instances
	if i.Once() {
		list = &m.attempts
	}
	if i.HostID != "" {
		t.hosts[i.HostID] = true
	}
	if old := get(*list, i.ID, instanceID); old != nil {
		w.count(old, -1)
		if !old.State().Terminal() && i.State().Terminal() {
			t.capacity = true
			t.ended = append(t.ended, i.ID)
		}
		if !i.Once() && (old.Serving() != i.Serving() || old.Goal != i.Goal || old.Observed.Addr != i.Observed.Addr) {
			t.route(i.EnvironmentID)
		}
	} else if i.Serving() {
		t.route(i.EnvironmentID)
	}
	*list = insert(*list, i, instanceID)
	w.of[i.ID] = m
	w.count(&i, 1)
	t.env(i.EnvironmentID)
}

// count adds (or takes away) what an instance holds of its host.
func (w *world) count(i *miosa.Instance, sign int) {
	w.states[i.State()] += sign
	if i.Replaces != "" && (i.State() == miosa.Failed || i.Goal == miosa.GoalRun && !i.State().Terminal()) {
		switch heir := w.heirs[i.Replaces]; {
		case sign > 0:
			w.heirs[i.Replaces] = max(heir, i.ID)
		case heir == i.ID:
			delete(w.heirs, i.Replaces)
		}
	}
	if i.State().Terminal() {
		return
	}
	if i.HostID == "" {
		w.unplaced[i.EnvironmentID] += sign
		if w.unplaced[i.EnvironmentID] <= 0 {
			delete(w.unplaced, i.EnvironmentID)
		}
		return
	}
	if sign > 0 {
		on := w.onHost[i.HostID]
		if on == nil {
			on = map[string]bool{}
			w.onHost[i.HostID] = on
		}
		on[i.ID] = true
		w.hold(i)
		return
	}
	delete(w.onHost[i.HostID], i.ID)
	if len(w.onHost[i.HostID]) == 0 {
		delete(w.onHost, i.HostID)
	}
	w.letGo(i)
}

// hold counts what an instance takes of its host, letGo that it does no more.
func (w *world) hold(i *miosa.Instance) {
	w.fleet.Promise(i.HostID, i.Spec.Resources)
	w.fleet.AddImage(i.HostID, i.Spec.SHA256)
}

func (w *world) letGo(i *miosa.Instance) {
	w.fleet.Release(i.HostID, i.Spec.Resources)
	w.fleet.RemoveImage(i.HostID, i.Spec.SHA256)
}

// UnknownKind is a deleted record of a kind that the machine was never taught.
type UnknownKind struct{ Kind string }

func (e UnknownKind) Error() string {
	return fmt.Sprintf("control has no place for a record of kind %q", e.Kind)
}

// remove forgets a noun by kind and ID, as store.ParseKey names them.
func (w *world) remove(kind, id string, t *touched) error {
	if _, known := Kinds[kind]; !known {
		return UnknownKind{kind}
	}
	m := w.of[id]
	switch kind {
	case "tenant":
		delete(w.tenants, id)
	case "deployment":
		if d := w.deployments[id]; d != nil {
			d.touch(t)
			delete(w.ofTenant[d.TenantID], id)
			if len(w.ofTenant[d.TenantID]) == 0 {
				delete(w.ofTenant, d.TenantID)
			}
			d.Deployment = miosa.Deployment{}
			w.forgetDeployment(id)
		}
	case "environment":
		if m := w.members[id]; m != nil {
			if d := w.deployments[m.DeploymentID]; d != nil {
				delete(d.environments, id)
				w.forgetDeployment(m.DeploymentID)
			}
			m.Environment = miosa.Environment{}
			t.route(id)
		}
	case "service":
		if m != nil {
			s := m.service(id)
			t.env(s.EnvironmentID)
			m.services = without(m.services, id, serviceID)
		}
	case "version":
		if m != nil {
			m.versions = without(m.versions, id, versionID)
		}
	case "rollout":
		if m != nil {
			w.countRollout(m.rollout(id), -1)
			m.rollouts = without(m.rollouts, id, rolloutID)
		}
	case "instance":
		if i := w.instance(id); i != nil {
			w.count(i, -1)
			if i.HostID != "" {
				t.hosts[i.HostID] = true
			}
			t.route(i.EnvironmentID)
			t.capacity, t.ended = true, append(t.ended, id)
			m.instances, m.attempts = without(m.instances, id, instanceID), without(m.attempts, id, instanceID)
		}
	case "task":
		if m != nil {
			m.tasks = without(m.tasks, id, taskID)
			t.env(m.id)
		}
	case "observation":
		delete(w.early, id)
	case "host":
		delete(w.hosts, id)
		delete(w.draining, id)
		w.fleet.Remove(id)
		t.hosts[id] = true
		w.touchHost(id, t)
	}
	if kind == "service" || kind == "version" || kind == "rollout" || kind == "instance" || kind == "task" {
		delete(w.of, id)
	}
	return nil
}

// forgetAttempts lets go of an environment's attempts that have ended, and their
// tasks with them: nothing is decided about those any more.
func (w *world) forgetAttempts(m *members) {
	m.attempts = slices.DeleteFunc(m.attempts, func(i miosa.Instance) bool {
		over := i.State().Terminal() && m.task(i.TaskID) == nil
		if over {
			w.count(&i, -1)
			delete(w.of, i.ID)
		}
		return over
	})
}

// forgetDeployment lets go of one that is gone with all of its environments.
func (w *world) forgetDeployment(id string) {
	if d := w.deployments[id]; d.ID == "" && len(d.environments) == 0 {
		delete(w.deployments, id)
	}
}

// forgetMembers lets go of an environment that is gone with all that belonged to it.
func (w *world) forgetMembers(id string) {
	if m := w.members[id]; m != nil && m.empty() {
		delete(w.members, id)
	}
}
