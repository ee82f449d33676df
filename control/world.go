package control

import (
	"slices"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/schedule"
)

// world is what the store holds, in memory, as of one revision. It is fed by
// the watch alone: what we commit ourselves comes back to us like everybody
// else's changes.
type world struct {
	revision     int64
	tenants      map[string]miosa.Tenant
	deployments  map[string]miosa.Deployment
	environments map[string]miosa.Environment
	services     map[string]miosa.Service
	versions     map[string]miosa.Version
	rollouts     map[string]miosa.Rollout
	instances    map[string]miosa.Instance    // Observed joined
	observations map[string]miosa.Observation // also those whose instance has not come yet
	hosts        map[string]miosa.Host

	inEnvironment map[string]*members // by environment ID
	ofDeployment  map[string]map[string]bool
	fleet         *schedule.Fleet
	unplaced      map[string]int // by environment ID: instances without a host
}

// members are the IDs of what belongs to one environment.
type members struct {
	services, versions, rollouts, instances map[string]bool
}

func newWorld() *world {
	return &world{
		tenants: map[string]miosa.Tenant{}, deployments: map[string]miosa.Deployment{},
		environments: map[string]miosa.Environment{}, services: map[string]miosa.Service{},
		versions: map[string]miosa.Version{}, rollouts: map[string]miosa.Rollout{},
		instances: map[string]miosa.Instance{}, observations: map[string]miosa.Observation{},
		hosts: map[string]miosa.Host{}, inEnvironment: map[string]*members{},
		ofDeployment: map[string]map[string]bool{}, fleet: schedule.NewFleet(schedule.Spread), unplaced: map[string]int{},
	}
}

func (w *world) members(env string) *members {
	m := w.inEnvironment[env]
	if m == nil {
		m = &members{services: map[string]bool{}, versions: map[string]bool{}, rollouts: map[string]bool{}, instances: map[string]bool{}}
		w.inEnvironment[env] = m
	}
	return m
}

// touched is what a change may bear on: environments by ID, or all that wait
// for room.
type touched struct {
	environments map[string]bool
	capacity     bool // a host came, went or has more room
	routes       bool // the table may have to change
}

func (t *touched) env(id string) {
	if id != "" {
		t.environments[id] = true
	}
}

// put takes a noun's newest state in.
func (w *world) put(noun any, t *touched) {
	switch v := noun.(type) {
	case miosa.Tenant:
		w.tenants[v.ID] = v
		t.routes = true
	case miosa.Deployment:
		w.deployments[v.ID] = v
		t.routes = true
		for env := range w.ofDeployment[v.ID] {
			t.env(env)
		}
	case miosa.Environment:
		w.environments[v.ID] = v
		set := w.ofDeployment[v.DeploymentID]
		if set == nil {
			set = map[string]bool{}
			w.ofDeployment[v.DeploymentID] = set
		}
		set[v.ID] = true
		t.env(v.ID)
		t.routes = true
	case miosa.Service:
		w.services[v.ID] = v
		w.members(v.EnvironmentID).services[v.ID] = true
		t.env(v.EnvironmentID)
		t.routes = true
	case miosa.Version:
		if _, known := w.versions[v.ID]; !known {
			t.routes = true // where its requests go is frozen with it
		}
		w.versions[v.ID] = v
		w.members(v.EnvironmentID).versions[v.ID] = true
		t.env(v.EnvironmentID)
	case miosa.Rollout:
		w.rollouts[v.ID] = v
		w.members(v.EnvironmentID).rollouts[v.ID] = true
		t.env(v.EnvironmentID)
		t.routes = true
	case miosa.Instance:
		v.Observed = w.observations[v.ID]
		w.putInstance(v, t)
	case miosa.Observation:
		w.observations[v.InstanceID] = v
		if i, ok := w.instances[v.InstanceID]; ok {
			i.Observed = v
			w.putInstance(i, t)
		}
	case miosa.Host:
		w.hosts[v.ID] = v
		w.fleet.Put(v)
		t.capacity = true
		for _, i := range w.instances {
			if i.HostID == v.ID {
				t.env(i.EnvironmentID)
			}
		}
	}
}

func (w *world) putInstance(i miosa.Instance, t *touched) {
	if old, ok := w.instances[i.ID]; ok {
		w.count(old, -1)
		if !old.State().Terminal() && i.State().Terminal() {
			t.capacity = true
		}
		if old.Serving() != i.Serving() || old.Goal != i.Goal || old.Observed.Addr != i.Observed.Addr {
			t.routes = true
		}
	} else if i.Serving() {
		t.routes = true
	}
	w.instances[i.ID] = i
	w.count(i, 1)
	w.members(i.EnvironmentID).instances[i.ID] = true
	t.env(i.EnvironmentID)
}

// count adds (or takes away) what an instance holds of its host.
func (w *world) count(i miosa.Instance, sign int) {
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
		w.fleet.Promise(i.HostID, i.Spec.Resources)
		w.fleet.AddImage(i.HostID, i.Spec.ReleaseID)
	} else {
		w.fleet.Release(i.HostID, i.Spec.Resources)
		w.fleet.RemoveImage(i.HostID, i.Spec.ReleaseID)
	}
}

// remove forgets a noun by kind and ID, as store.ParseKey names them.
func (w *world) remove(kind, id string, t *touched) {
	switch kind {
	case "tenant":
		delete(w.tenants, id)
	case "deployment":
		delete(w.deployments, id)
		t.routes = true
	case "environment":
		if e, ok := w.environments[id]; ok {
			delete(w.ofDeployment[e.DeploymentID], id)
			if len(w.ofDeployment[e.DeploymentID]) == 0 {
				delete(w.ofDeployment, e.DeploymentID)
			}
		}
		delete(w.environments, id)
		delete(w.inEnvironment, id)
		t.routes = true
	case "service":
		if s, ok := w.services[id]; ok {
			delete(w.members(s.EnvironmentID).services, id)
			t.env(s.EnvironmentID)
		}
		delete(w.services, id)
	case "version":
		if v, ok := w.versions[id]; ok {
			delete(w.members(v.EnvironmentID).versions, id)
		}
		delete(w.versions, id)
	case "rollout":
		if r, ok := w.rollouts[id]; ok {
			delete(w.members(r.EnvironmentID).rollouts, id)
		}
		delete(w.rollouts, id)
	case "instance":
		if i, ok := w.instances[id]; ok {
			w.count(i, -1)
			delete(w.members(i.EnvironmentID).instances, id)
			t.env(i.EnvironmentID)
			t.capacity, t.routes = true, true
		}
		delete(w.instances, id)
	case "observation":
		delete(w.observations, id)
	case "host":
		delete(w.hosts, id)
		w.fleet.Remove(id)
		for _, i := range w.instances {
			if i.HostID == id {
				t.env(i.EnvironmentID)
			}
		}
	}
}

// sorted lists the values of the set's IDs in order of ID.
func sorted[T any](set map[string]bool, all map[string]T) []T {
	ids := make([]string, 0, len(set))
	for id := range set {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	out := make([]T, 0, len(ids))
	for _, id := range ids {
		if v, ok := all[id]; ok {
			out = append(out, v)
		}
	}
	return out
}
