package reconcile_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/reconcile"
)

var epoch = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// cell is a small world that carries decisions out.
type cell struct {
	*rapid.T
	in   reconcile.Input
	next int
}

func newCell(t *rapid.T) *cell {
	c := &cell{T: t, in: reconcile.Input{Now: epoch, Hosts: map[string]miosa.Host{}}}
	for n := range rapid.IntRange(1, 2).Draw(t, "hosts") {
		id := fmt.Sprint("host_", n)
		c.in.Hosts[id] = miosa.Host{ID: id, Liveness: miosa.Alive}
	}
	for _, name := range []string{"svc_jobs", "svc_web"} {
		c.in.Services = append(c.in.Services, miosa.Service{
			ID: name, Name: name, DesiredReplicas: rapid.IntRange(0, 2).Draw(t, "replicas"),
			Restart: miosa.RestartPolicy{MaxAge: rapid.SampledFrom([]time.Duration{0, 0, time.Hour}).Draw(t, "max age")},
		})
	}
	c.in.Sides = []reconcile.Side{c.side("ver_1", true)}
	return c
}

func (c *cell) side(version string, proven bool) reconcile.Side {
	v := miosa.Version{ID: version}
	for _, s := range c.in.Services {
		v.Services = append(v.Services, miosa.ServiceSpec{ServiceID: s.ID, Name: s.Name, Port: 8080})
	}
	s := reconcile.Side{Version: v, Since: c.in.Now, Proven: proven}
	if !proven {
		s.AtLeast = 1
	}
	return s
}

// decide decides until nothing is left to do at this moment, which takes two
// rounds at most where one step makes room for the next. It reports whether
// there was anything to do.
func (c *cell) decide() bool {
	for n := range 3 {
		if !c.decideOnce() {
			return n > 0
		}
	}
	r := reconcile.Decide(c.in)
	if len(r.Actions) > 0 {
		c.Fatalf("no end of it: %s %s: %s", r.Actions[0].Op, r.Actions[0].Instance.ID, r.Actions[0].Reason)
	}
	return true
}

// decideOnce checks what is decided and carries it out.
func (c *cell) decideOnce() bool {
	r := reconcile.Decide(c.in)
	c.sameInAnyOrder(r)
	drained := map[string]bool{}
	for _, a := range r.Actions {
		if a.Reason == "" {
			c.Fatalf("%s without a reason", a.Op)
		}
		if a.Op == reconcile.Drain {
			drained[a.Instance.ID] = true
		}
	}
	for _, a := range r.Actions {
		if a.Op == reconcile.Drain && a.Instance.State() == miosa.Healthy && c.wanted(a.Instance) && !c.served(a.Instance, drained) {
			c.Fatalf("drains %s, the only healthy occupant of a wanted slot: %s", a.Instance.ID, a.Reason)
		}
	}
	for _, a := range r.Actions {
		c.carryOut(a)
	}
	c.occupants()
	return len(r.Actions) > 0
}

func (c *cell) sameInAnyOrder(r reconcile.Result) {
	turned := c.in
	turned.Instances, turned.Services = slices.Clone(c.in.Instances), slices.Clone(c.in.Services)
	slices.Reverse(turned.Instances)
	slices.Reverse(turned.Services)
	again := reconcile.Decide(turned)
	few := c.in
	few.Most = 1
	if some := reconcile.Decide(few).Actions; len(r.Actions) > 0 && (len(some) == 0 || some[0].Op != r.Actions[0].Op || some[0].Instance.ID != r.Actions[0].Instance.ID || some[0].Slot != r.Actions[0].Slot) {
		c.Fatalf("of %+v, the first is %+v", r.Actions, some)
	}
	if len(r.Actions) != len(again.Actions) || !r.Wake.Equal(again.Wake) {
		c.Fatalf("%d actions in one order, %d in another", len(r.Actions), len(again.Actions))
	}
	for n, a := range r.Actions {
		if b := again.Actions[n]; a.Op != b.Op || a.Instance.ID != b.Instance.ID || a.Slot != b.Slot || a.Version != b.Version || a.Reason != b.Reason {
			c.Fatalf("%+v in one order, %+v in another", a, b)
		}
	}
}

// wanted: a version that should run has such a slot.
func (c *cell) wanted(i miosa.Instance) bool {
	for _, side := range c.in.Sides {
		for _, s := range c.in.Services {
			if side.Version.ID == i.VersionID && s.ID == i.ServiceID && i.Slot < max(s.DesiredReplicas, side.AtLeast) {
				return true
			}
		}
	}
	return false
}

// served: another healthy occupant of the slot stays.
func (c *cell) served(i miosa.Instance, drained map[string]bool) bool {
	return slices.ContainsFunc(c.in.Instances, func(o miosa.Instance) bool {
		return o.ID != i.ID && o.VersionID == i.VersionID && o.ServiceID == i.ServiceID && o.Slot == i.Slot && o.State() == miosa.Healthy && !drained[o.ID]
	})
}

func (c *cell) occupants() {
	slots := map[string]int{}
	for _, i := range c.in.Instances {
		if i.Goal == miosa.GoalRun && !i.State().Terminal() {
			key := fmt.Sprint(i.VersionID, i.ServiceID, i.Slot)
			if slots[key]++; slots[key] > 2 {
				c.Fatalf("%d occupants of %s", slots[key], key)
			}
		}
	}
}

func (c *cell) carryOut(a reconcile.Action) {
	switch a.Op {
	case reconcile.Create:
		i := miosa.Instance{
			ID: fmt.Sprintf("ri_%03d", c.next), ServiceID: a.Service.ID, VersionID: a.Version, Slot: a.Slot, Replaces: a.Replaces,
			Goal: miosa.GoalRun, CreatedAt: c.in.Now, Spec: a.Spec, PriorFailures: a.Failures, Generation: 1,
		}
		c.next++
		c.place(&i, a.Avoid)
		c.in.Instances = append(c.in.Instances, i)
	case reconcile.Drain:
		c.edit(a.Instance.ID, func(i *miosa.Instance) { i.Goal, i.GoalSince = miosa.GoalDrain, c.in.Now; i.Generation++ })
	case reconcile.Restart:
		c.edit(a.Instance.ID, func(i *miosa.Instance) { i.RestartNonce++; i.Generation++; i.ReplaceAsked = false })
	}
}

// place gives it a host that is well, or none: there may be no room.
func (c *cell) place(i *miosa.Instance, avoid string) {
	if !rapid.Bool().Draw(c.T, "room") {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(c.in.Hosts)) {
		if id != avoid && c.in.Hosts[id].Liveness == miosa.Alive {
			i.HostID = id
			i.Generation++
			return
		}
	}
}

func (c *cell) edit(id string, how func(*miosa.Instance)) {
	for n := range c.in.Instances {
		if c.in.Instances[n].ID == id {
			how(&c.in.Instances[n])
		}
	}
}

// fortune is one thing that happens to the world.
func (c *cell) fortune() {
	c.in.Now = c.in.Now.Add(rapid.SampledFrom([]time.Duration{time.Second, 11 * time.Second, 20 * time.Minute}).Draw(c.T, "later"))
	switch event := rapid.IntRange(0, 15).Draw(c.T, "event"); event {
	case 0:
		s := &c.in.Services[rapid.IntRange(0, 1).Draw(c.T, "service")]
		s.DesiredReplicas = rapid.IntRange(0, 3).Draw(c.T, "replicas")
	case 1:
		if len(c.in.Sides) == 1 {
			c.in.Sides = append(c.in.Sides, c.side(fmt.Sprint("ver_", c.next+2), false))
		}
	case 2: // the rollout ends, well or badly
		if len(c.in.Sides) == 2 {
			c.in.Sides = c.in.Sides[rapid.IntRange(0, 1).Draw(c.T, "keep"):][:1]
			c.in.Sides[0].AtLeast = 0
		}
	case 3:
		h := c.in.Hosts["host_0"]
		h.Liveness = rapid.SampledFrom([]miosa.Liveness{miosa.Alive, miosa.Suspect, miosa.Lost}).Draw(c.T, "liveness")
		c.in.Hosts["host_0"] = h
	default:
		if len(c.in.Instances) > 0 {
			c.happens(&c.in.Instances[rapid.IntRange(0, len(c.in.Instances)-1).Draw(c.T, "instance")], event)
		}
	}
}

// happens moves one instance on, legally.
func (c *cell) happens(i *miosa.Instance, event int) {
	if i.Observed.State.Terminal() {
		return
	}
	if i.HostID == "" {
		c.place(i, "")
		return
	}
	switch event {
	case 4:
		i.ReplaceAsked = true
	case 5:
		i.Goal, i.GoalSince = miosa.GoalDrain, c.in.Now // a customer stops it
	default:
		i.Observed.Generation = i.Generation
		next := rapid.SampledFrom([]miosa.InstanceState{miosa.Pending, miosa.Starting, miosa.Healthy, miosa.Healthy, miosa.Unhealthy, miosa.Failed, miosa.Stopped}).Draw(c.T, "state")
		if next == miosa.Stopped {
			i.Observed.Failure.Kind = rapid.SampledFrom([]miosa.FailureKind{"", miosa.FailureCompleted}).Draw(c.T, "completed")
		}
		if i.Observed.State == "" || i.Observed.State.CanBecome(next) {
			i.Observed.State = next
		}
		if next == miosa.Pending {
			i.Observed.Failures++
		}
	}
}

// calm lets everybody get on with what they were told.
func (c *cell) calm() {
	for id, h := range c.in.Hosts {
		h.Liveness = miosa.Alive
		c.in.Hosts[id] = h
	}
	for n := range c.in.Services {
		c.in.Services[n].Restart.MaxAge = 0
	}
	for range 12 {
		c.in.Now = c.in.Now.Add(time.Minute)
		for n := range c.in.Instances {
			i := &c.in.Instances[n]
			switch {
			case i.Observed.State.Terminal():
				continue
			case i.Goal != miosa.GoalRun:
				i.Observed.State = miosa.Stopped
			case i.HostID == "":
				i.HostID = "host_0"
			default:
				i.Observed.State = miosa.Healthy
			}
			i.Observed.Generation = i.Generation
		}
		if !c.decide() && c.settled() {
			return
		}
	}
	c.Fatal("it does not come to rest")
}

// settled: nothing more is under way.
func (c *cell) settled() bool {
	held := map[string]int{}
	for _, i := range c.in.Instances {
		if i.State().Terminal() {
			continue
		}
		if i.Goal != miosa.GoalRun || i.State() != miosa.Healthy || !c.wanted(i) {
			return false
		}
		held[fmt.Sprint(i.VersionID, i.ServiceID, i.Slot)]++
	}
	for _, side := range c.in.Sides {
		for _, s := range c.in.Services {
			for n := range max(s.DesiredReplicas, side.AtLeast) {
				switch key := fmt.Sprint(side.Version.ID, s.ID, n); {
				case held[key] > 1:
					return false
				case held[key] == 0 && !c.rests(side, s.ID, n):
					return false
				}
			}
		}
	}
	return true
}

// rests: its last occupant failed for good, or did its work.
func (c *cell) rests(side reconcile.Side, service string, n int) bool {
	last := miosa.Instance{}
	for _, i := range c.in.Instances {
		if i.VersionID == side.Version.ID && i.ServiceID == service && i.Slot == n && i.State().Terminal() && !i.CreatedAt.Before(side.Since) {
			last = i
		}
	}
	return last.State() == miosa.Failed || last.Observed.Failure.Kind == miosa.FailureCompleted
}

// Whatever happens: what is decided is safe, is the same in any order, is
// done once carried out; and left in peace the world comes to rest at what is
// wanted.
func TestDecide(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newCell(t)
		c.decide()
		for range rapid.IntRange(0, 40).Draw(t, "length") {
			c.fortune()
			c.decide()
		}
		c.calm()
	})
}

// A draining instance is told to stop once nobody uses it any more, and in any
// case in bounded time, or is looked at again.
func TestDrained(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		i := miosa.Instance{
			ID: "ri_1", HostID: rapid.SampledFrom([]string{"", "host_0"}).Draw(t, "host"), Goal: miosa.GoalDrain, GoalSince: epoch,
			DrainSeconds: rapid.IntRange(0, 100).Draw(t, "limit"),
		}
		i.Observed.State = rapid.SampledFrom([]miosa.InstanceState{miosa.Healthy, miosa.Unhealthy, miosa.Stopped}).Draw(t, "state")
		r := reconcile.Routed{Held: rapid.Bool().Draw(t, "held"), InFlight: rapid.IntRange(0, 2).Draw(t, "in flight")}
		limit := time.Duration(i.DrainSeconds) * time.Second
		if limit == 0 {
			limit = miosa.DefaultDrain
		}
		after := time.Duration(rapid.Int64Range(0, int64(3*time.Minute)).Draw(t, "after"))
		ok, reason, wake := reconcile.Drained(epoch.Add(after), &i, r)
		used := r.Held || r.InFlight > 0
		switch {
		case ok == (reason == ""):
			t.Fatal("a reason goes with yes, and only with it")
		case !ok && !wake.After(epoch.Add(after)):
			t.Fatalf("looks again at %s, now is %s", wake, epoch.Add(after))
		case !used && !ok, after >= limit+reconcile.RouterPatience && !ok, i.HostID == "" && !ok:
			t.Fatalf("still waits after %s", after)
		case ok && used && after < limit && i.HostID != "" && !i.Observed.State.Terminal():
			t.Fatalf("cut after %s: %s", after, reason)
		case ok && r.Held && after < limit+reconcile.RouterPatience && i.HostID != "" && !i.Observed.State.Terminal():
			t.Fatalf("a router still holds it after %s", after)
		}
	})
}
