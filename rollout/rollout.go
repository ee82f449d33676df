// Package rollout is one publish, promote, rollback or restart, step by step.
// It is pure: given the record and the state of the world it says which step
// comes next. A crash of the control plane at any point resumes at the step
// on the record.
package rollout

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/lifecycle"
)

const (
	// PullDeadline is how long the target's image has to come from its registry: who
	// pulls it has an hour for that from when it begins, and waits an hour for others
	// to end.
	PullDeadline = 2 * time.Hour
	// StartDeadline is the least that new instances have to become healthy; see
	// StartWithin.
	StartDeadline = 10 * time.Minute
	// StartSlack is what StartWithin adds for all that comes before and between:
	// a host is found, the report comes in.
	StartSlack = 2 * time.Minute
	// FlipDeadline is how long live routers have to acknowledge the routes; one
	// that does not is broken, and the flip goes on without it.
	FlipDeadline = 30 * time.Second
	// Proofs is how many instances of each service must become healthy even
	// where the customer wants none: a version is never made live unproven.
	Proofs = 1
	// DrainSlack is added to the drain limit before the old instances' leaving
	// is no longer waited for (they are still stopped, by reconcile).
	DrainSlack = 60 * time.Second
)

// Input is what a decision rests on.
type Input struct {
	Now       time.Time
	Rollout   miosa.Rollout
	Target    miosa.Version
	Services  []miosa.Service  // of the environment
	Instances []miosa.Instance // of the environment, terminal ones included
	// Deleted: the deployment is going away.
	Deleted bool
	// Acknowledged: every live router has applied a table that names the
	// target's instances, and that still does. Meaningful while it flips.
	Acknowledged bool
}

// Decision is the next step. Step equal to the record's means: wait.
type Decision struct {
	Step     miosa.RolloutStep
	Deadline time.Time // of the new step
	Reason   string    // in words: what it waits for, or why it ended
	// Ready: the target has proven itself. Activate: make it the active
	// version. Failed: the target never became healthy.
	Ready    bool
	Activate bool
	Failed   bool
	Lines    []string // last log lines, with Failed
	Wake     time.Time
}

// Decide says what comes next.
func Decide(in Input) Decision {
	switch in.Rollout.Step {
	case miosa.StepPulling:
		return pulling(in)
	case miosa.StepStarting:
		return starting(in)
	case miosa.StepFlipping:
		return flipping(in)
	case miosa.StepDraining:
		return draining(in)
	}
	return Decision{Step: in.Rollout.Step, Reason: in.Rollout.Reason}
}

// ended is whether somebody wants the rollout to end, before anything is decided.
func ended(in Input) (Decision, bool) {
	switch {
	case in.Deleted:
		return Decision{Step: miosa.StepCancelled, Reason: "the deployment was deleted"}, true
	case in.Rollout.CancelledBy != "":
		return Decision{Step: miosa.StepCancelled, Reason: "cancelled by " + in.Rollout.CancelledBy}, true
	}
	return Decision{}, false
}

// pulling waits for the target's bytes, which others bring.
func pulling(in Input) Decision {
	if d, ok := ended(in); ok {
		return d
	}
	image := in.Target.Image
	switch {
	case in.Target.Pulled():
		return Decision{Step: miosa.StepStarting, Deadline: in.Now.Add(StartWithin(in.Target)), Reason: image.Reference + " is pulled: " + image.Digest}
	case image.Failure != "":
		return Decision{Step: miosa.StepFailed, Failed: true, Reason: "the image was not pulled: " + image.Failure}
	case !in.Now.Before(in.Rollout.Deadline):
		return Decision{
			Step: miosa.StepFailed, Failed: true,
			Reason: fmt.Sprintf("%s was not pulled within %s: publish it again, what came of it is kept for a while", image.Reference, in.Rollout.Deadline.Sub(in.Rollout.StepSince).Round(time.Second)),
		}
	}
	return Decision{Step: miosa.StepPulling, Reason: "pulling " + image.Reference, Deadline: in.Rollout.Deadline, Wake: in.Rollout.Deadline}
}

// StartWithin is how long the target's new instances have to become healthy:
// enough for each to boot and to use up all of its health check's grace, or to
// run for as long as makes it healthy where nothing is asked.
func StartWithin(target miosa.Version) time.Duration {
	longest := time.Duration(0)
	for _, s := range target.Services {
		if s.HealthType() == miosa.HealthNone {
			longest = max(longest, cmp.Or(s.Health.Stable, miosa.DefaultStable))
		} else {
			longest = max(longest, cmp.Or(s.Health.Grace, miosa.DefaultHealthCheck().Grace))
		}
	}
	return max(StartDeadline, lifecycle.BootDeadline+longest+StartSlack)
}

func starting(in Input) Decision {
	if d, ok := ended(in); ok {
		return d
	}
	p := survey(in)
	if p.failed != nil {
		return failed(p.failed)
	}
	if p.healthy == p.want {
		if !in.Rollout.Promote {
			return Decision{Step: miosa.StepDone, Reason: "healthy; not promoted, as asked", Ready: true}
		}
		return Decision{
			Step: miosa.StepFlipping, Ready: true, Deadline: in.Now.Add(FlipDeadline),
			Reason: fmt.Sprintf("%s; waiting for the routers", p.describe()),
		}
	}
	if !in.Now.Before(in.Rollout.Deadline) {
		d := Decision{
			Step: miosa.StepFailed, Failed: true,
			Reason: fmt.Sprintf("not healthy within %s: %s", in.Rollout.Deadline.Sub(in.Rollout.StepSince).Round(time.Second), p.stuck()),
		}
		if len(p.waiting) > 0 {
			d.Lines = p.waiting[0].Observed.Failure.LastLines
		}
		return d
	}
	return Decision{Step: miosa.StepStarting, Reason: p.describe(), Deadline: in.Rollout.Deadline, Wake: in.Rollout.Deadline}
}

func failed(i *miosa.Instance) Decision {
	f := i.Observed.Failure
	reason := f.Message
	if reason == "" {
		reason = "an instance failed"
	}
	return Decision{Step: miosa.StepFailed, Failed: true, Reason: i.Spec.Name + ": " + reason, Lines: f.LastLines}
}

// progress is how far the target's slots have come.
type progress struct {
	want, healthy int
	waiting       []*miosa.Instance // slots not healthy yet
	failed        *miosa.Instance   // a slot that failed for good; nil if none
}

func survey(in Input) progress {
	var p progress
	for _, svc := range in.Services {
		if _, ok := in.Target.Service(svc.ID); !ok || in.Target.Kind == miosa.KindStatic {
			continue
		}
		p.service(in, svc.ID, max(in.Target.Settled(svc).DesiredReplicas, Proofs))
	}
	slices.SortFunc(p.waiting, func(a, b *miosa.Instance) int { return cmp.Compare(a.ID, b.ID) })
	return p
}

// occupants are the best ones of a slot, whatever their order.
type occupants struct {
	done   bool            // one is healthy, or has done its work
	failed *miosa.Instance // for good
	under  *miosa.Instance // the newest that is under way
}

// service counts the slots of one service, each by its best occupant: healthy or
// done with its work, else failed, else the newest that is under way.
func (p *progress) service(in Input, service string, slots int) {
	p.want += slots
	of := make([]occupants, slots)
	for n := range in.Instances {
		i := &in.Instances[n]
		if i.VersionID != in.Target.ID || i.ServiceID != service || i.Slot >= slots || i.CreatedAt.Before(in.Rollout.CreatedAt) && i.State().Terminal() {
			continue
		}
		o := &of[i.Slot]
		completed := i.Observed.Failure.Kind == miosa.FailureCompleted && i.State() == miosa.Stopped
		switch {
		case i.State() == miosa.Healthy, completed && i.Spec.Port == 0:
			o.done = true
		case i.State() == miosa.Failed, completed:
			if o.failed == nil || i.ID < o.failed.ID {
				o.failed = i
			}
		case !i.State().Terminal() && (o.under == nil || i.ID > o.under.ID):
			o.under = i
		}
	}
	for n := range of {
		switch o := &of[n]; {
		case o.done:
			p.healthy++
		case o.failed != nil:
			if p.failed == nil || o.failed.ID < p.failed.ID {
				p.failed = o.failed
			}
		case o.under != nil:
			p.waiting = append(p.waiting, o.under)
		}
	}
}

func (p *progress) describe() string {
	return fmt.Sprintf("%d of %d instances healthy", p.healthy, p.want)
}

// stuck says what the first slot that is not healthy waits for.
func (p *progress) stuck() string {
	if len(p.waiting) == 0 {
		return p.describe()
	}
	i := p.waiting[0]
	words := p.describe() + "; " + i.Spec.Name
	switch {
	case i.HostID == "" && len(i.Reasons) > 0:
		return words + ": no host for the next: " + strings.Join(i.Reasons, "; ")
	case i.Observed.Failure.Message != "":
		return words + ": " + i.Observed.Failure.Message
	}
	return fmt.Sprintf("%s: %s is %s", words, i.ID, i.State())
}

func flipping(in Input) Decision {
	end := drainEnd(in)
	switch {
	case in.Deleted:
		return Decision{Step: miosa.StepCancelled, Reason: "the deployment was deleted"}
	case in.Rollout.CancelledBy != "":
		// The old version is still the active one: routes simply go back to it.
		return Decision{Step: miosa.StepCancelled, Reason: "cancelled by " + in.Rollout.CancelledBy}
	case !serving(in):
		// The routes have gone back to the old version, which stays the active one
		// unless the new instances come back in time.
		if in.Now.Before(in.Rollout.Deadline) {
			return Decision{
				Step: miosa.StepFlipping, Reason: "the new instances were lost; waiting for them to be healthy again",
				Deadline: in.Rollout.Deadline, Wake: in.Rollout.Deadline,
			}
		}
		p := survey(in)
		d := Decision{Step: miosa.StepFailed, Failed: true, Reason: p.stuck()}
		if p.failed != nil {
			d = failed(p.failed)
		}
		d.Reason = "its instances were lost before it was live: " + d.Reason
		return d
	case survey(in).failed != nil:
		// The services of a version go live together, or none does: also one that
		// gets no requests.
		d := failed(survey(in).failed)
		d.Reason = "it failed before it was live: " + d.Reason
		return d
	case in.Acknowledged:
		return Decision{Step: miosa.StepDraining, Activate: true, Deadline: end, Reason: "every router sends requests to the new instances"}
	case !in.Now.Before(in.Rollout.Deadline):
		return Decision{Step: miosa.StepDraining, Activate: true, Deadline: end, Reason: "a router did not acknowledge in time; the others send requests to the new instances"}
	}
	return Decision{Step: miosa.StepFlipping, Reason: "waiting for the routers", Deadline: in.Rollout.Deadline, Wake: in.Rollout.Deadline}
}

// serving reports whether the target can answer requests and connections, if any
// go to it: a version without a backend is never made live.
func serving(in Input) bool {
	if in.Target.Kind == miosa.KindStatic {
		return true
	}
	serves := func(service string) bool {
		return slices.ContainsFunc(in.Instances, func(i miosa.Instance) bool {
			return i.VersionID == in.Target.ID && i.ServiceID == service && i.Serving()
		})
	}
	if spec, ok := in.Target.Routed(); ok && !serves(spec.ServiceID) {
		return false
	}
	for _, svc := range in.Services {
		spec, ok := in.Target.Service(svc.ID)
		if ok && spec.Raw() && in.Target.Settled(svc).DesiredReplicas > 0 && !serves(svc.ID) {
			return false
		}
	}
	return true
}

// drainEnd is when those that drain, which are of the version before, are over
// their limits.
func drainEnd(in Input) time.Time {
	limit := miosa.DefaultDrain
	for _, svc := range in.Services {
		drains := slices.ContainsFunc(in.Instances, func(i miosa.Instance) bool {
			return i.VersionID == in.Rollout.FromID && i.ServiceID == svc.ID
		})
		if drains {
			limit = max(limit, time.Duration(svc.DrainSeconds)*time.Second)
		}
	}
	return in.Now.Add(limit + DrainSlack)
}

func draining(in Input) Decision {
	left := 0
	for n := range in.Instances {
		i := &in.Instances[n]
		if i.VersionID == in.Rollout.FromID && in.Rollout.FromID != in.Rollout.TargetID && !i.State().Terminal() {
			left++
		}
	}
	switch {
	case left == 0:
		return Decision{Step: miosa.StepDone, Reason: "live"}
	case !in.Now.Before(in.Rollout.Deadline):
		return Decision{Step: miosa.StepDone, Reason: fmt.Sprintf("live; %d old instances are still stopping", left)}
	}
	return Decision{
		Step: miosa.StepDraining, Deadline: in.Rollout.Deadline, Wake: in.Rollout.Deadline,
		Reason: fmt.Sprintf("live; %d old instances drain", left),
	}
}
