package trace

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	otel "go.opentelemetry.io/otel/trace"

	"github.com/miosa/miosa"
)

// keepRollouts is how many rollouts of an environment are known: the newest,
// one of which its instances were made by, or leave for.
const keepRollouts = 16

// maker turns changes of records into spans. It is one goroutine's.
type maker struct {
	tracer       otel.Tracer
	rollouts     map[string]map[string]miosa.Rollout // by environment and ID
	numbers      map[string]int                      // of versions, by ID
	instances    map[string]miosa.Instance
	observations map[string]miosa.Observation
}

func newMaker(t otel.Tracer) *maker {
	return &maker{
		tracer: t, rollouts: map[string]map[string]miosa.Rollout{}, numbers: map[string]int{},
		instances: map[string]miosa.Instance{}, observations: map[string]miosa.Observation{},
	}
}

func (m *maker) apply(v any) {
	switch v := v.(type) {
	case loaded:
		*m = *newMaker(m.tracer)
		for _, noun := range v {
			m.put(noun, false)
		}
		for id, i := range m.instances {
			if m.observations[id].State.Terminal() {
				m.forget(i.ID)
			}
		}
	case changed:
		for _, noun := range v.put {
			m.put(noun, true)
		}
		for _, id := range v.gone {
			m.forget(id)
		}
	case placed:
		m.placed(v)
	}
}

func (m *maker) forget(id string) {
	delete(m.rollouts, id) // of an environment
	delete(m.numbers, id)
	delete(m.instances, id)
	delete(m.observations, id)
}

func (m *maker) put(noun any, news bool) {
	switch v := noun.(type) {
	case miosa.Version:
		m.numbers[v.ID] = v.Number
	case miosa.Rollout:
		of := m.rollouts[v.EnvironmentID]
		if of == nil {
			of = map[string]miosa.Rollout{}
			m.rollouts[v.EnvironmentID] = of
		}
		old, known := of[v.ID]
		of[v.ID] = v
		if len(of) > keepRollouts {
			delete(of, slices.Min(slices.Collect(maps.Keys(of))))
		}
		if news && v.Revision >= old.Revision {
			m.rolled(old, known, v)
		}
	case miosa.Instance:
		v.BootSpec, v.Observed = nil, miosa.Observation{}
		m.instances[v.ID] = v
	case miosa.Observation:
		old := m.observations[v.InstanceID]
		m.observations[v.InstanceID] = v
		if news && v.Seq > old.Seq {
			m.observed(old, v)
		}
		if news && v.State.Terminal() {
			m.forget(v.InstanceID)
		}
	}
}

// rolled makes the span of each step when the next one begins, and that of the
// whole at the end.
func (m *maker) rolled(old miosa.Rollout, known bool, r miosa.Rollout) {
	if known && !old.Step.Terminal() && old.Step != r.Step {
		s := span{
			trace: r.ID, id: r.ID + "/" + string(old.Step), parent: r.ID, name: string(old.Step), start: old.StepSince, end: r.StepSince,
			attributes: []attribute.KeyValue{attribute.String("miosa.rollout.next_step", string(r.Step))},
		}
		if r.Step == miosa.StepFailed || r.Step == miosa.StepCancelled {
			s.failed = string(r.Step)
		}
		s.emit(m.tracer)
	}
	if !r.Step.Terminal() || known && old.Step.Terminal() {
		return
	}
	s := span{
		trace: r.ID, id: r.ID, name: string(r.Kind), start: r.CreatedAt, end: r.FinishedAt, link: r.Traceparent,
		attributes: []attribute.KeyValue{
			attribute.String("miosa.rollout.id", r.ID), attribute.String("miosa.rollout.kind", string(r.Kind)),
			attribute.String("miosa.rollout.result", string(r.Step)), attribute.Bool("miosa.rollout.promote", r.Promote),
			attribute.String("miosa.tenant.id", r.TenantID), attribute.String("miosa.deployment.id", r.DeploymentID),
			attribute.String("miosa.environment.id", r.EnvironmentID), attribute.String("miosa.version.id", r.TargetID),
			attribute.Int("miosa.version.number", m.numbers[r.TargetID]), attribute.String("miosa.requester", r.Requester),
		},
	}
	if r.FromID != "" {
		s.attributes = append(s.attributes, attribute.String("miosa.version.from_id", r.FromID))
	}
	if r.Step != miosa.StepDone {
		s.failed = string(r.Step)
	}
	s.emit(m.tracer)
}

// home is the trace that an instance's span of a time belongs to, and its
// parent there: the rollout that made the instance, or that replaced it, else
// the instance's own.
func (m *maker) home(i miosa.Instance, at time.Time, of func(miosa.Rollout) bool) (trace, parent string) {
	var newest miosa.Rollout
	for _, r := range m.rollouts[i.EnvironmentID] {
		over := r.Step.Terminal() && !r.FinishedAt.IsZero() && at.After(r.FinishedAt)
		if of(r) && !r.CreatedAt.After(at) && !over && r.ID > newest.ID {
			newest = r
		}
	}
	return cmp.Or(newest.ID, i.ID), newest.ID
}

// birth is where an instance's own spans belong.
func (m *maker) birth(i miosa.Instance) (trace, parent string) {
	return m.home(i, i.CreatedAt, func(r miosa.Rollout) bool { return r.TargetID == i.VersionID })
}

func about(i miosa.Instance) []attribute.KeyValue {
	return []attribute.KeyValue{
		attribute.String("miosa.instance.id", i.ID), attribute.String("miosa.service.id", i.ServiceID), attribute.String("miosa.service.name", i.Spec.Name),
		attribute.String("miosa.deployment.id", i.DeploymentID), attribute.String("miosa.version.id", i.VersionID),
		attribute.Int("miosa.instance.slot", i.Slot), attribute.String("miosa.host.id", i.HostID),
	}
}

// placed makes the span of a placement: from when the instance was wanted to
// when it had a host.
func (m *maker) placed(p placed) {
	i := p.instance
	m.put(i, false)
	trace, _ := m.birth(i)
	s := span{
		trace: trace, id: i.ID + "/schedule", parent: i.ID, name: "schedule", start: i.CreatedAt, end: i.ScheduledAt,
		attributes: append(about(i),
			attribute.Int("miosa.schedule.hosts", p.answer.Fleet), attribute.Int("miosa.schedule.candidates", p.answer.Candidates),
			attribute.String("miosa.host.region", i.Region), attribute.String("miosa.host.zone", i.Zone),
		),
	}
	for _, t := range p.answer.TurnedDown {
		s.attributes = append(s.attributes, attribute.Int("miosa.schedule.filter."+t.Filter, t.Hosts))
	}
	if i.Replaces != "" {
		s.attributes = append(s.attributes, attribute.String("miosa.instance.replaces", i.Replaces))
	}
	if len(p.waited) > 0 {
		s.attributes = append(s.attributes, attribute.StringSlice("miosa.schedule.waited_for", p.waited))
	}
	s.emit(m.tracer)
}

// observed makes the spans of a boot when it comes to an end, good or bad, that
// of the instance when it is healthy for the first time or never will be, and
// that of its leaving.
func (m *maker) observed(old, o miosa.Observation) {
	i, ok := m.instances[o.InstanceID]
	if !ok {
		return
	}
	trace, parent := m.birth(i)
	again := !old.HealthyAt.IsZero() // a later boot is no part of how it was placed
	became := !o.HealthyAt.IsZero() && !o.HealthyAt.Equal(old.HealthyAt)
	failed := o.Failure.Kind != miosa.FailureNone && !o.Failure.At.Equal(old.Failure.At)
	switch {
	case became && !old.HealthyAt.Before(o.StartedAt):
		// It was unhealthy for a while: no boot.
	case became:
		m.boot(trace, again, i, o, o.HealthyAt, "")
	case failed && o.Boot > 0 && o.HealthyAt.Before(o.StartedAt):
		m.boot(trace, again, i, o, o.Failure.At, string(o.Failure.Kind))
	}
	first := became && old.HealthyAt.IsZero()
	if never := o.State.Terminal() && o.HealthyAt.IsZero(); first || never {
		s := span{trace: trace, id: i.ID, parent: parent, name: "instance", start: i.CreatedAt, end: o.HealthyAt, attributes: about(i)}
		s.attributes = append(s.attributes, attribute.Int("miosa.instance.boots", o.Boot))
		if never {
			s.end = o.StoppedAt
		}
		if o.State == miosa.Failed {
			s.failed = cmp.Or(string(o.Failure.Kind), "failed")
		}
		s.emit(m.tracer)
	}
	if o.State == miosa.Stopped && i.Goal != miosa.GoalRun && !i.GoalSince.IsZero() {
		trace, parent := m.home(i, i.GoalSince, func(r miosa.Rollout) bool { return r.FromID == i.VersionID || r.TargetID == i.VersionID })
		s := span{trace: trace, id: i.ID + "/drain", parent: cmp.Or(parent, i.ID), name: "drain", start: i.GoalSince, end: o.StoppedAt, attributes: about(i)}
		s.emit(m.tracer)
	}
}

// boot makes the spans of one boot and its phases.
func (m *maker) boot(trace string, again bool, i miosa.Instance, o miosa.Observation, end time.Time, failure string) {
	id := i.ID + "/boot/" + strconv.Itoa(o.Boot)
	parent := i.ID
	if again {
		trace, parent = id, ""
	}
	s := span{
		trace: trace, id: id, parent: parent, name: fmt.Sprintf("boot %d", o.Boot), start: o.StartedAt, end: end, failed: failure,
		attributes: append(about(i), attribute.Int("miosa.boot.number", o.Boot), attribute.Bool("miosa.boot.healthy", failure == "")),
	}
	s.emit(m.tracer)
	// A guest tells its own times, and need not tell the truth.
	at := o.StartedAt
	phases := slices.SortedStableFunc(slices.Values(o.Phases), func(a, b miosa.Phase) int { return a.At.Compare(b.At) })
	for _, p := range phases {
		if p.Name == "boot_decided" || p.At.Before(o.StartedAt) || p.At.After(end) {
			continue
		}
		s := span{trace: trace, id: id + "/" + p.Name, parent: id, name: p.Name, start: at, end: p.At}
		s.emit(m.tracer)
		at = p.At
	}
}
