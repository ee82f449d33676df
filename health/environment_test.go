package health_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/health"
)

// shop is a version of a web service, a worker and an admin page, with a place
// each but for web's two.
func shop() (miosa.Version, []miosa.Service) {
	v := miosa.Version{ID: "ver_2", Kind: miosa.KindOCI, Services: []miosa.ServiceSpec{
		{ServiceID: "svc_w", Name: "web", Type: miosa.ServiceWeb, Port: 80}, {ServiceID: "svc_j", Name: "jobs", Type: miosa.ServiceWorker}, {ServiceID: "svc_a", Name: "admin", Type: miosa.ServiceWeb, Port: 81},
	}}
	return v, []miosa.Service{{ID: "svc_w", DesiredReplicas: 2}, {ID: "svc_j", DesiredReplicas: 1}, {ID: "svc_a", DesiredReplicas: 1}, {ID: "svc_left", DesiredReplicas: 5}}
}

func instance(id, service string, slot int, state miosa.InstanceState) miosa.Instance {
	v, _ := shop()
	spec, _ := v.Service(service)
	i := miosa.Instance{ID: id, ServiceID: service, VersionID: "ver_2", Slot: slot, HostID: "host_1", Goal: miosa.GoalRun, Spec: spec}
	i.Observed.State, i.Observed.HealthyAt = state, epoch.Add(-time.Hour)
	return i
}

func well() []miosa.Instance {
	return []miosa.Instance{
		instance("ri_1", "svc_w", 0, miosa.Healthy), instance("ri_2", "svc_w", 1, miosa.Healthy), instance("ri_3", "svc_j", 0, miosa.Healthy), instance("ri_4", "svc_a", 0, miosa.Healthy),
	}
}

func TestEnvironment(t *testing.T) {
	for name, c := range map[string]struct {
		change func(v *miosa.Version, services []miosa.Service, all []miosa.Instance) []miosa.Instance
		want   string
	}{
		"all well":     {nil, "ok"},
		"nothing live": {func(v *miosa.Version, _ []miosa.Service, _ []miosa.Instance) []miosa.Instance { v.ID = ""; return nil }, ""},
		"static": {func(v *miosa.Version, _ []miosa.Service, _ []miosa.Instance) []miosa.Instance {
			v.Kind = miosa.KindStatic
			return nil
		}, "ok"},
		"none there yet": {func(*miosa.Version, []miosa.Service, []miosa.Instance) []miosa.Instance { return nil }, "down: web 0 has no instance yet; web 1 has no instance yet; jobs 0 has no instance yet; admin 0 has no instance yet"},
		"scaled to nothing": {func(_ *miosa.Version, s []miosa.Service, _ []miosa.Instance) []miosa.Instance {
			for n := range s {
				s[n].DesiredReplicas = 0
			}
			return nil
		}, "ok"},
		"one of two": {func(_ *miosa.Version, _ []miosa.Service, all []miosa.Instance) []miosa.Instance {
			all[1].Observed.State, all[1].Observed.RestartCount, all[1].Observed.Failure.Message = miosa.Pending, 3, "the command exited with status 1"
			return all
		}, "degraded: web 1 waits for its next boot after 3 restarts: the command exited with status 1"},
		"both": {func(_ *miosa.Version, _ []miosa.Service, all []miosa.Instance) []miosa.Instance {
			all[0].Observed.State, all[1].Observed.State, all[1].Observed.LastProbe = miosa.Failed, miosa.Unhealthy, "GET / answers 500"
			return all
		}, "down: web 0 failed for good; web 1 fails its health check: GET / answers 500"},
		"the worker": {func(_ *miosa.Version, _ []miosa.Service, all []miosa.Instance) []miosa.Instance {
			all[2].Observed.State = miosa.Starting
			return all
		}, "degraded: jobs 0 is starting"},
		"the other page": {func(_ *miosa.Version, _ []miosa.Service, all []miosa.Instance) []miosa.Instance { return all[:3] }, "degraded: admin 0 has no instance yet"},
		"a job that is done": {func(_ *miosa.Version, _ []miosa.Service, all []miosa.Instance) []miosa.Instance {
			all[2].Observed.State, all[2].Observed.Failure.Kind = miosa.Stopped, miosa.FailureCompleted
			return all
		}, "ok"},
		"healthy between two crashes": {func(_ *miosa.Version, _ []miosa.Service, all []miosa.Instance) []miosa.Instance {
			all[0].Observed.Failures, all[0].Observed.HealthyAt, all[0].Observed.Failure.Message = 2, epoch.Add(-time.Minute), "out of memory"
			return all
		}, "degraded: web 0 is healthy, but failed 2 times in a row before; last: out of memory"},
		"crashed long ago": {func(_ *miosa.Version, _ []miosa.Service, all []miosa.Instance) []miosa.Instance {
			all[0].Observed.Failures = 7
			return all
		}, "ok"},
		"no host": {func(_ *miosa.Version, _ []miosa.Service, all []miosa.Instance) []miosa.Instance {
			all[1].Observed.State, all[1].HostID, all[1].Reasons = miosa.Pending, "", []string{"2 hosts are full"}
			return all
		}, "degraded: web 1 waits for a host: 2 hosts are full"},
		"a replacement serves beside a failed one": {func(_ *miosa.Version, _ []miosa.Service, all []miosa.Instance) []miosa.Instance {
			all[0].Observed.State = miosa.Unhealthy
			return append(all, instance("ri_0", "svc_w", 0, miosa.Healthy))
		}, "ok"},
		"a database beside it": {func(v *miosa.Version, _ []miosa.Service, all []miosa.Instance) []miosa.Instance {
			v.Services[2].Protocol = miosa.ProtocolTCP
			all[3].Observed.State = miosa.Starting
			return all
		}, "down: admin 0 is starting"},
		"only a database": {func(v *miosa.Version, s []miosa.Service, all []miosa.Instance) []miosa.Instance {
			v.Services = v.Services[2:]
			v.Services[0].Protocol = miosa.ProtocolTCP
			all[3].Observed.State, all[3].Observed.LastProbe = miosa.Unhealthy, "connection refused"
			return all
		}, "down: admin 0 fails its health check: connection refused"},
		"a database that nobody wants": {func(v *miosa.Version, s []miosa.Service, all []miosa.Instance) []miosa.Instance {
			v.Services = v.Services[2:]
			v.Services[0].Protocol, s[2].DesiredReplicas = miosa.ProtocolTCP, 0
			return nil
		}, "ok"},
		"another version's": {func(_ *miosa.Version, _ []miosa.Service, all []miosa.Instance) []miosa.Instance {
			all[3].VersionID = "ver_1"
			return all
		}, "degraded: admin 0 has no instance yet"},
	} {
		t.Run(name, func(t *testing.T) {
			v, services := shop()
			all := well()
			if c.change != nil {
				all = c.change(&v, services, all)
			}
			for range 2 {
				got := health.Environment(epoch, v, services, all)
				text := string(got.Health)
				if len(got.Reasons) > 0 {
					text += ": " + strings.Join(got.Reasons, "; ")
				}
				if text != c.want {
					t.Errorf("it is %q, not %q", text, c.want)
				}
				slices.Reverse(all) // the order of the instances says nothing
			}
		})
	}
}

func TestManyReasonsAreCounted(t *testing.T) {
	v, services := shop()
	services[0].DesiredReplicas = 300
	if got := health.Environment(epoch, v, services, nil); len(got.Reasons) != 11 || got.Reasons[10] != "and 292 more" {
		t.Errorf("%q", got.Reasons)
	}
}

// What is told is what is, once it lasts; it is told in time, never before it
// lasted, and what flaps does not flood.
func TestWatch(t *testing.T) {
	levels := []miosa.EnvironmentHealth{miosa.EnvironmentOK, miosa.EnvironmentDegraded, miosa.EnvironmentDown}
	rank := func(h miosa.EnvironmentHealth) int { return max(0, slices.Index(levels, h)) }
	type moment struct {
		at   time.Time
		seen miosa.EnvironmentHealth
	}
	rapid.Check(t, func(t *rapid.T) {
		var w health.Watch
		now, told := epoch, miosa.EnvironmentHealth("")
		var past []moment
		var wake time.Time
		events := 0
		look := func(seen miosa.EnvironmentHealth) {
			past = append(past, moment{now, seen})
			var tell miosa.EnvironmentHealth
			tell, wake = w.Look(now, told, seen, false)
			if !wake.IsZero() && !wake.After(now) {
				t.Fatalf("wakes at %s, and it is %s", wake, now)
			}
			if tell == "" {
				return
			}
			if rank(tell) == rank(told) {
				t.Fatalf("%s is told again", tell)
			}
			events++
			lasted, worse := health.BetterAfter, rank(tell) > rank(told)
			if worse {
				lasted = health.WorseAfter
			}
			// As it was all through that time.
			for n, m := range past {
				ends := now
				if n+1 < len(past) {
					ends = past[n+1].at
				}
				if ends.After(now.Add(-lasted)) && (worse && rank(m.seen) < rank(tell) || !worse && rank(m.seen) > rank(tell)) {
					t.Fatalf("%s is told at %s although it was %s at %s", tell, now, m.seen, m.at)
				}
			}
			told = tell
		}
		seen := rapid.SampledFrom(levels).Draw(t, "first")
		for range rapid.IntRange(1, 60).Draw(t, "looks") {
			look(seen)
			step := rapid.SampledFrom([]time.Duration{time.Second, 5 * time.Second, 15 * time.Second, time.Minute, 5 * time.Minute}).Draw(t, "later")
			// Whoever uses it looks at the latest when it asks for that.
			for end := now.Add(step); ; look(seen) {
				if wake.IsZero() || wake.After(end) {
					now = end
					break
				}
				now = wake
			}
			seen = rapid.SampledFrom(levels).Draw(t, "seen")
		}
		if most := 4 + 4*int(now.Sub(epoch)/health.BetterAfter+1); events > most {
			t.Fatalf("%d events in %s", events, now.Sub(epoch))
		}
		look(seen)
		for !wake.IsZero() {
			now = wake
			look(seen)
		}
		if rank(told) != rank(seen) {
			t.Fatalf("%s stays told, and it is %s", told, seen)
		}
	})
}

// One that crash-loops for hours, or comes and goes each second, is told of a
// few times.
func TestFlappingDoesNotFlood(t *testing.T) {
	for _, every := range []time.Duration{time.Second, 5 * time.Second, 20 * time.Second, time.Minute, 110 * time.Second} {
		var w health.Watch
		told, events := miosa.EnvironmentHealth(""), 0
		for at := time.Duration(0); at < 6*time.Hour; at += time.Second {
			seen := miosa.EnvironmentOK
			if at/every%2 == 1 {
				seen = miosa.EnvironmentDown
			}
			if tell, _ := w.Look(epoch.Add(at), told, seen, false); tell != "" {
				told = tell
				events++
			}
		}
		if events > 2 {
			t.Errorf("changing each %s it is told %d times", every, events)
		}
	}
}

// What crashes every few minutes is told of a few times, whether it goes on
// between two crashes for longer than what is better must last or not; once it
// has settled, that is told.
func TestACrashLoopIsToldOnce(t *testing.T) {
	const settles = 6 * time.Hour
	for every := 3 * time.Minute; every <= 9*time.Minute; every += time.Minute {
		for _, raw := range []bool{false, true} {
			var w health.Watch
			v, services := shop()
			v.Services, services[0].DesiredReplicas = v.Services[:1], 1
			if raw {
				v.Services[0].Protocol = miosa.ProtocolTCP
			}
			i := instance("ri_1", "svc_w", 0, miosa.Healthy)
			told, events := miosa.EnvironmentHealth(""), []string(nil)
			crashed := time.Duration(0)
			for at := time.Duration(0); at < settles+2*health.Settled; at += time.Second {
				switch since := at - crashed; {
				case since == every && at < settles:
					crashed = at
					i.Observed.State = miosa.Pending
					i.Observed.Failures++
				case since == 30*time.Second && crashed > 0:
					i.Observed.State, i.Observed.HealthyAt = miosa.Healthy, epoch.Add(at)
				}
				seen := health.Environment(epoch.Add(at), v, services, []miosa.Instance{i})
				if tell, _ := w.Look(epoch.Add(at), told, seen.Health, seen.Looping); tell != "" {
					told = tell
					events = append(events, string(tell))
				}
			}
			// The first crash is no loop yet.
			if got := strings.Join(events, " "); got != "down ok down ok" {
				t.Errorf("crashing each %s, raw %t: told %s", every, raw, got)
			}
		}
	}
}

// One of two that settled makes up for the other's loop.
func TestWhatIsBetterBesideACrashLoopIsTold(t *testing.T) {
	v, services := shop()
	all := well()
	all[0].Observed.Failures, all[0].Observed.HealthyAt = 3, epoch.Add(-time.Minute)
	if got := health.Environment(epoch, v, services, all); got.Looping || got.Health != miosa.EnvironmentDegraded {
		t.Errorf("%+v", got)
	}
	all[1].Observed.State = miosa.Pending
	if got := health.Environment(epoch, v, services, all); !got.Looping || got.Health != miosa.EnvironmentDegraded {
		t.Errorf("%+v", got)
	}
}

func ExampleEnvironment() {
	v, services := shop()
	all := well()
	all[0].Observed.State, all[0].Observed.Failure.Message = miosa.Failed, "the command exited with status 1"
	got := health.Environment(epoch, v, services, all)
	fmt.Println(got.Health, got.Reasons)
	// Output: degraded [web 0 failed for good: the command exited with status 1]
}
