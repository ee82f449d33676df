package disruption_test

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/disruption"
)

var epoch = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// world is a fleet that does what is decided.
type world struct {
	now       time.Time
	hosts     map[string]miosa.Host
	services  []miosa.Service
	limits    map[string]miosa.MaxUnavailable // by service
	instances []miosa.Instance
	next      int
	room      func(avoid string) (host string) // where a new instance goes, "" when there is no room
}

func newWorld() *world {
	return &world{now: epoch, hosts: map[string]miosa.Host{}, limits: map[string]miosa.MaxUnavailable{}, room: func(string) string { return "" }}
}

func (w *world) host(id string, l miosa.Liveness) { w.hosts[id] = miosa.Host{ID: id, Liveness: l} }

func (w *world) service(id string) miosa.Service {
	for _, s := range w.services {
		if s.ID == id {
			return s
		}
	}
	return miosa.Service{}
}

func (w *world) account(service string) *disruption.Account {
	a := disruption.Of(w.service(service), "v1", w.limits[service], w.instances, w.hosts)
	return &a
}

func (w *world) add(service string, slot int, host string, replaces string) *miosa.Instance {
	i := miosa.Instance{
		ID: fmt.Sprintf("ri_%03d", w.next), ServiceID: service, VersionID: "v1", Slot: slot, HostID: host,
		Replaces: replaces, Goal: miosa.GoalRun, CreatedAt: w.now, Spec: miosa.ServiceSpec{Name: service},
	}
	w.next++
	w.instances = append(w.instances, i)
	return &w.instances[len(w.instances)-1]
}

func (w *world) find(id string) *miosa.Instance {
	for n := range w.instances {
		if w.instances[n].ID == id {
			return &w.instances[n]
		}
	}
	return nil
}

func (w *world) replace(i miosa.Instance) {
	w.add(i.ServiceID, i.Slot, w.room(i.HostID), i.ID)
}

// leave has it leave; one without a host has left.
func (w *world) leave(id string) {
	i := w.find(id)
	i.Goal = miosa.GoalDrain
	if i.HostID == "" {
		i.Observed.State = miosa.Stopped
	}
}

func live(i miosa.Instance) bool { return i.Goal == miosa.GoalRun && !i.State().Terminal() }

func (w *world) serves(i miosa.Instance) bool {
	return i.State() == miosa.Healthy && w.hosts[i.HostID].Liveness == miosa.Alive
}

// heirs are the newest replacements, by what they replace.
func (w *world) heirs() map[string]miosa.Instance {
	out := map[string]miosa.Instance{}
	for _, i := range w.instances {
		if live(i) && i.Replaces != "" {
			out[i.Replaces] = i
		}
	}
	return out
}

// count is the model: how many slots serve, and how many must.
func (w *world) count(service string) (serving, floor int) {
	wanted := 0
	for slot := range w.service(service).DesiredReplicas {
		holders, serves := 0, false
		for _, i := range w.instances {
			switch {
			case i.ServiceID != service || i.Slot != slot:
			case live(i):
				holders++
				serves = serves || w.serves(i)
			}
		}
		if serves {
			serving++
		}
		if holders > 0 || !w.rests(service, slot) {
			wanted++
		}
	}
	limit := w.limits[service]
	return serving, wanted - max(min(limit.Count, wanted), wanted*limit.Percent/100)
}

// rests: its last occupant failed for good, or did its work.
func (w *world) rests(service string, slot int) bool {
	var ended miosa.Instance
	for _, i := range w.instances {
		if i.ServiceID == service && i.Slot == slot && i.State().Terminal() {
			ended = i
		}
	}
	return ended.State() == miosa.Failed || ended.Observed.Failure.Kind == miosa.FailureCompleted
}

// kept checks that our own doing has left every service what it must have.
func (w *world) kept(t *rapid.T, before map[string]int, what string) {
	for _, s := range w.services {
		if serving, floor := w.count(s.ID); serving < before[s.ID] && serving < floor {
			t.Fatalf("after %s %d slots of %s serve, %d must, %d did", what, serving, s.ID, floor, before[s.ID])
		}
	}
}

func (w *world) serving() map[string]int {
	out := map[string]int{}
	for _, s := range w.services {
		out[s.ID], _ = w.count(s.ID)
	}
	return out
}

func drawWorld(t *rapid.T) *world {
	w := newWorld()
	for n := range rapid.IntRange(2, 4).Draw(t, "hosts") {
		w.host(fmt.Sprint("h", n), miosa.Alive)
	}
	ids := slices.Sorted(maps.Keys(w.hosts))
	w.room = func(avoid string) string {
		id := rapid.SampledFrom(append(ids, "")).Draw(t, "room")
		if id == avoid {
			return ""
		}
		return id
	}
	for _, id := range []string{"jobs", "web"} {
		w.services = append(w.services, miosa.Service{ID: id, Name: id, DesiredReplicas: rapid.SampledFrom([]int{0, 1, 2, 3, 5, 6, 15}).Draw(t, "replicas")})
		w.limits[id] = rapid.SampledFrom([]miosa.MaxUnavailable{{}, {}, {Count: 1}, {Count: 3}, {Percent: 30}, {Percent: 100}}).Draw(t, "limit")
		for slot := range w.service(id).DesiredReplicas {
			w.add(id, slot, rapid.SampledFrom(ids).Draw(t, "host"), "").Observed.State = miosa.Healthy
		}
	}
	return w
}

// heal fills what is empty and replaces what does not serve, as reconcile does.
func (w *world) heal(t *rapid.T) {
	for _, s := range w.services {
		a := w.account(s.ID)
		for slot := range s.DesiredReplicas {
			var held []miosa.Instance
			for _, i := range w.instances {
				if i.ServiceID == s.ID && i.Slot == slot && live(i) {
					held = append(held, i)
				}
			}
			switch {
			case len(held) == 0:
				if w.rests(s.ID, slot) {
					continue
				}
				w.add(s.ID, slot, w.room(""), "")
			case len(held) == 1 && !w.serves(held[0]):
				w.replace(held[0])
			case len(held) > 1 && w.serves(held[len(held)-1]):
				for _, i := range held[:len(held)-1] {
					w.allowed(t, a, disruption.Heal, i)
					w.leave(i.ID)
				}
			}
		}
	}
}

// allowed: a cause that is never refused is not.
func (w *world) allowed(t *rapid.T, a *disruption.Account, c disruption.Cause, i miosa.Instance) {
	if ok, why := a.Allow(c, i); !ok {
		t.Fatalf("%s of %s is refused: %s", c, i.ID, why)
	}
	if ok, why := a.AllowReplacement(c, i); !ok {
		t.Fatalf("replacing %s for %s is refused: %s", i.ID, c, why)
	}
}

// fortune is one thing that happens by itself, or that the customer wants.
func (w *world) fortune(t *rapid.T) {
	w.now = w.now.Add(time.Minute)
	switch rapid.SampledFrom([]string{"instance", "instance", "instance", "host", "scale", "heal", "stop", "all well"}).Draw(t, "fortune") {
	case "host":
		w.host("h0", rapid.SampledFrom([]miosa.Liveness{miosa.Alive, miosa.Suspect, miosa.Lost}).Draw(t, "liveness"))
	case "scale":
		w.services[1].DesiredReplicas = rapid.IntRange(0, 6).Draw(t, "replicas")
	case "heal":
		w.heal(t)
	case "all well":
		w.well()
	case "stop":
		if i := w.draw(t); i != nil {
			w.allowed(t, w.account(i.ServiceID), rapid.SampledFrom([]disruption.Cause{disruption.Publish, disruption.Rollback, disruption.Scale, disruption.Delete}).Draw(t, "cause"), *i)
			w.leave(i.ID)
		}
	case "instance":
		i := w.draw(t)
		if i == nil || i.Observed.State.Terminal() {
			return
		}
		if i.HostID == "" {
			i.HostID = w.room("")
			return
		}
		next := rapid.SampledFrom([]miosa.InstanceState{miosa.Pending, miosa.Starting, miosa.Healthy, miosa.Healthy, miosa.Unhealthy, miosa.Failed, miosa.Stopped}).Draw(t, "state")
		if i.Observed.State != "" && !i.Observed.State.CanBecome(next) {
			return
		}
		i.Observed.State = next
		if next == miosa.Pending {
			i.Observed.Failures++
		}
		if next == miosa.Stopped && i.Goal == miosa.GoalRun {
			i.Observed.Failure.Kind = miosa.FailureCompleted
		}
	}
}

func (w *world) draw(t *rapid.T) *miosa.Instance {
	if len(w.instances) == 0 {
		return nil
	}
	return &w.instances[rapid.IntRange(0, len(w.instances)-1).Draw(t, "instance")]
}

// well lets everybody get on with what they were told.
func (w *world) well() {
	for n := range w.instances {
		switch i := &w.instances[n]; {
		case i.Observed.State.Terminal():
		case i.Goal != miosa.GoalRun:
			i.Observed.State = miosa.Stopped
		case i.HostID != "":
			i.Observed.State = miosa.Healthy
		}
	}
}

// ours is one decision of ours about a service: several instances are asked about,
// of one account.
func (w *world) ours(t *rapid.T, c disruption.Cause) {
	service := rapid.SampledFrom(w.services).Draw(t, "service").ID
	a := w.account(service)
	before := w.serving()
	for _, i := range slices.Clone(w.instances) {
		if i.ServiceID != service || !live(i) || !rapid.Bool().Draw(t, "ask") {
			continue
		}
		if ok, why := a.AllowReplacement(c, i); ok != (why == "") {
			t.Fatal("a reason goes with no, and only with it")
		} else if _, has := w.heirs()[i.ID]; ok && !has {
			a.TakeReplacement(i)
			w.replace(i)
		}
		if ok, why := a.Allow(c, i); ok != (why == "") {
			t.Fatal("a reason goes with no, and only with it")
		} else if ok {
			a.Take(i)
			w.leave(i.ID)
		}
	}
	w.kept(t, before, string(c))
	// What was counted on the way is what is found afterwards.
	if found := w.account(service); found.Serving != a.Serving {
		t.Fatalf("%d serve by the account, %d in truth", a.Serving, found.Serving)
	}
}

// drain is one look at the drain of a host.
func (w *world) drain(host string, deadline time.Time, force bool, total int) disruption.Progress {
	in := disruption.HostDrain{Now: w.now, Host: host, Deadline: deadline, Force: force, Total: total, Heirs: w.heirs()}
	for _, i := range w.instances {
		if i.HostID == host {
			in.Instances = append(in.Instances, i)
		}
	}
	accounts := map[string]*disruption.Account{}
	in.Account = func(i miosa.Instance) *disruption.Account {
		if accounts[i.ServiceID] == nil {
			accounts[i.ServiceID] = w.account(i.ServiceID)
		}
		return accounts[i.ServiceID]
	}
	p := disruption.DrainHost(in)
	for _, m := range p.Replace {
		w.replace(m.Instance)
	}
	for _, m := range p.Leave {
		w.leave(m.Instance.ID)
	}
	return p
}

// Whatever happens and whatever is asked: by our own doing no service has fewer
// serving than it must, healing and the customer's wishes are never refused; and
// once all is well and there is room a drain comes to its end.
func TestDisruption(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		for range rapid.IntRange(0, 40).Draw(t, "length") {
			switch what := rapid.SampledFrom([]string{"fortune", "fortune", "fortune", "restart", "max_age", "rebalance", "drain"}).Draw(t, "what"); what {
			case "fortune":
				w.fortune(t)
			case "drain":
				before := w.serving()
				deadline := rapid.SampledFrom([]time.Time{{}, w.now.Add(-time.Minute), w.now.Add(time.Hour)}).Draw(t, "deadline")
				p := w.drain(rapid.SampledFrom([]string{"h0", "h1"}).Draw(t, "host"), deadline, deadline.After(w.now) && rapid.Bool().Draw(t, "force"), 0)
				w.told(t, p, deadline)
				w.kept(t, before, "a look at the drain")
			default:
				w.ours(t, disruption.Cause(what))
			}
		}
		w.endsWell(t)
	})
}

// told checks what is said of a drain.
func (w *world) told(t *rapid.T, p disruption.Progress, deadline time.Time) {
	for _, m := range slices.Concat(p.Replace, p.Leave, p.Waiting) {
		if m.Reason == "" {
			t.Fatalf("no reason for %s", m.Instance.ID)
		}
	}
	if p.Summary == "" || p.Done != (p.Left == 0) || p.Late && deadline.IsZero() || !p.Wake.IsZero() && !p.Wake.After(w.now) {
		t.Fatalf("%+v", p)
	}
	if len(p.Replace) > disruption.MovesAtOnce {
		t.Fatalf("%d replaced at once", len(p.Replace))
	}
}

// endsWell drains a host while all is well and others have room.
func (w *world) endsWell(t *rapid.T) {
	for id := range w.hosts {
		w.host(id, miosa.Alive)
	}
	w.room = func(string) string { return "h1" }
	for range 3 * (len(w.instances) + 10) {
		w.now = w.now.Add(time.Minute)
		for n := range w.instances {
			if i := &w.instances[n]; i.HostID == "" && live(*i) {
				i.HostID = "h1"
			}
		}
		w.well()
		before := w.serving()
		p := w.drain("h0", time.Time{}, false, 0)
		w.told(t, p, time.Time{})
		w.kept(t, before, "a look at the drain")
		if p.Done {
			return
		}
		w.heal(t)
	}
	t.Fatal("the drain does not end")
}

// The order of instances changes nothing, and force leaves nothing waiting but what
// leaves already.
func TestDrainHost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		for range rapid.IntRange(0, 20).Draw(t, "length") {
			w.fortune(t)
		}
		turned := *w
		turned.instances = slices.Clone(w.instances)
		slices.Reverse(turned.instances)
		force := rapid.Bool().Draw(t, "force")
		w.room, turned.room = func(string) string { return "h1" }, func(string) string { return "h1" }
		turned.next = w.next
		heirs := w.heirs()
		turnedHeirs := turned.heirs()
		for id := range heirs { // two of one, which is not to be: whichever
			if heirs[id].ID != turnedHeirs[id].ID {
				return
			}
		}
		p, q := w.drain("h0", time.Time{}, force, 0), turned.drain("h0", time.Time{}, force, 0)
		if !reflect.DeepEqual(p, q) {
			t.Fatalf("%+v\nin one order, in another\n%+v", p, q)
		}
		for _, m := range p.Waiting {
			if force && m.Instance.Goal == miosa.GoalRun {
				t.Fatalf("forced, and %s waits: %s", m.Instance.ID, m.Reason)
			}
		}
	})
}

// An account of a service of 1,000 instances.
func BenchmarkOf(b *testing.B) {
	w := newWorld()
	w.host("a", miosa.Alive)
	w.services = []miosa.Service{{ID: "web", Name: "web", DesiredReplicas: 1000}}
	for slot := range 1000 {
		w.add("web", slot, "a", "").Observed.State = miosa.Healthy
	}
	b.ReportAllocs()
	for b.Loop() {
		if a := w.account("web"); a.Serving != 1000 {
			b.Fatal("not counted")
		}
	}
}
