package health

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/miosa/miosa"
)

// Looping is from how many rapid failures in a row on an instance counts as
// crash-looping, also while it is healthy between two of them.
const Looping = 2

// maxReasons bounds what is said of one environment; the rest is counted.
const maxReasons = 10

// Condition is how what is live in an environment does, and why it is not ok.
type Condition struct {
	Health  miosa.EnvironmentHealth // "" where nothing is live
	Reasons []string
	// Looping: of a service that requests or connections go to, all that is
	// healthy is so between two crashes.
	Looping bool
	Wake    time.Time // when it may be otherwise although nothing happens; zero: never
}

// Environment judges what is live: the version, the environment's services, and
// all instances of it, in any order. It is ok when every instance that is wanted
// is healthy; down when the service that requests go to, or one that speaks raw
// TCP, has none that is; degraded when any is missing, fails, or is healthy between two crashes. A
// service that is scaled to nothing wants none, a worker that did its work is
// well, and static files have no instances.
func Environment(now time.Time, live miosa.Version, services []miosa.Service, instances []miosa.Instance) Condition {
	if live.ID == "" {
		return Condition{}
	}
	v := Condition{Health: miosa.EnvironmentOK}
	if live.Kind == miosa.KindStatic {
		return v
	}
	routed, _ := live.Routed()
	bad := 0
	for _, spec := range live.Services {
		wanted, healthy, settled := 0, 0, 0
		for n := range services {
			if services[n].ID == spec.ServiceID {
				wanted = services[n].DesiredReplicas
			}
		}
		for slot, i := range occupants(live.ID, spec.ServiceID, wanted, instances) {
			well, quiet := judge(now, i)
			switch {
			case quiet:
				settled++
				healthy++
				continue
			case well:
				healthy++
				v.Wake = earlier(v.Wake, i.Observed.HealthyAt.Add(Settled))
			}
			v.Health = worse(v.Health, miosa.EnvironmentDegraded)
			if bad++; bad <= maxReasons {
				v.Reasons = append(v.Reasons, place(spec.Name, slot, i))
			}
		}
		if spec.ServiceID != routed.ServiceID && !spec.Raw() {
			continue
		}
		if wanted > 0 && healthy == 0 {
			v.Health = miosa.EnvironmentDown
		}
		v.Looping = v.Looping || healthy > 0 && settled == 0
	}
	if over := bad - maxReasons; over > 0 {
		v.Reasons = append(v.Reasons, fmt.Sprintf("and %d more", over))
	}
	return v
}

// nobody is in an empty slot.
var nobody miosa.Instance

// occupants are who fills the slots: a healthy one, else one that did its work,
// else the newest; nobody where a slot is empty.
func occupants(version, service string, slots int, instances []miosa.Instance) []*miosa.Instance {
	best := make([]*miosa.Instance, slots)
	for n := range best {
		best[n] = &nobody
	}
	for n := range instances {
		i := &instances[n]
		if i.Slot >= slots || i.VersionID != version || i.ServiceID != service {
			continue
		}
		if old := best[i.Slot]; cmp.Or(cmp.Compare(rank(i), rank(old)), strings.Compare(i.ID, old.ID)) > 0 {
			best[i.Slot] = i
		}
	}
	return best
}

func rank(i *miosa.Instance) int {
	switch {
	case i.ID == "":
		return 0
	case i.State() == miosa.Healthy:
		return 3
	case completed(i):
		return 2
	}
	return 1
}

func completed(i *miosa.Instance) bool {
	return i.Spec.Port == 0 && i.State() == miosa.Stopped && i.Observed.Failure.Kind == miosa.FailureCompleted
}

// judge says whether a slot is well, and whether it is quiet besides: nothing is
// to be said of it. What is well and not quiet crash-loops.
func judge(now time.Time, i *miosa.Instance) (well, quiet bool) {
	switch {
	case completed(i):
		return true, true
	case i.State() == miosa.Healthy:
		return true, i.Observed.Failures < Looping || now.Sub(i.Observed.HealthyAt) >= Settled
	}
	return false, false
}

// place says what is the matter with a slot that is not quiet.
func place(service string, slot int, i *miosa.Instance) string {
	o := &i.Observed
	who := fmt.Sprintf("%s %d", service, slot)
	because := func(words, why string) string {
		if o.RestartCount > 0 && i.State() != miosa.Unhealthy {
			words += fmt.Sprintf(" after %d restarts", o.RestartCount)
		}
		if why != "" {
			words += ": " + why
		}
		return who + " " + words
	}
	switch {
	case i.ID == "":
		return who + " has no instance yet"
	case i.State() == miosa.Healthy:
		return fmt.Sprintf("%s is healthy, but failed %d times in a row before; last: %s", who, o.Failures, cmp.Or(o.Failure.Message, "not recorded"))
	case i.State() == miosa.Pending && i.HostID == "":
		return because("waits for a host", strings.Join(i.Reasons, "; "))
	case i.State() == miosa.Pending:
		return because("waits for its next boot", o.Failure.Message)
	case i.State() == miosa.Starting:
		return because("is starting", o.Failure.Message)
	case i.State() == miosa.Unhealthy:
		return because("fails its health check", o.LastProbe)
	case i.State() == miosa.Failed:
		return because("failed for good", o.Failure.Message)
	}
	return because("is "+string(i.State()), i.GoalReason)
}

func worse(a, b miosa.EnvironmentHealth) miosa.EnvironmentHealth {
	if badness(b) > badness(a) {
		return b
	}
	return a
}

// badness counts up from ok; nothing live is as good.
func badness(h miosa.EnvironmentHealth) int {
	switch h {
	case miosa.EnvironmentDegraded:
		return 1
	case miosa.EnvironmentDown:
		return 2
	}
	return 0
}
