package api

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/events"
	"github.com/miosa/miosa/lifecycle"
	"github.com/miosa/miosa/store"
)

// explainedEvents bounds the timeline of an explanation.
const explainedEvents = 15

// explain says why something is as it is, from the records alone.
func (s *Server) explain(c *call, _ none) (resource.Explanation, error) {
	ref := c.r.PathValue("subject")
	switch miosa.IDPrefix(ref) {
	case miosa.PrefixInstance, miosa.PrefixVersion, miosa.PrefixService, miosa.PrefixRollout:
		return c.explainID(ref)
	}
	dep, err := c.deploymentBy(ref)
	if miosa.CodeOf(err) == miosa.NotFound {
		return resource.Explanation{}, notFound("not_found", fmt.Sprintf("there is no deployment, version, service, rollout or instance %q", ref))
	}
	if err != nil {
		return resource.Explanation{}, err
	}
	return c.explainDeployment(dep)
}

func (c *call) explainID(id string) (resource.Explanation, error) {
	nouns := map[string]string{
		miosa.PrefixInstance: "runtime instance", miosa.PrefixVersion: "version",
		miosa.PrefixService: "service", miosa.PrefixRollout: "rollout",
	}
	at, dep, err := c.locateID(id, nouns[miosa.IDPrefix(id)])
	if err != nil {
		return resource.Explanation{}, err
	}
	ctx := c.r.Context()
	switch miosa.IDPrefix(id) {
	case miosa.PrefixInstance:
		i, err := c.instance(at, id)
		if err != nil {
			return resource.Explanation{}, err
		}
		return c.explainInstance(i)
	case miosa.PrefixVersion:
		v, err := c.version(dep, id)
		if err != nil {
			return resource.Explanation{}, err
		}
		return c.explainVersion(dep, v)
	case miosa.PrefixRollout:
		r, err := store.Get(ctx, c.s.store, store.Rollouts, at.Key)
		if err != nil {
			return resource.Explanation{}, err
		}
		return c.explainRollout(dep, r)
	}
	view, err := c.showService(at, dep)
	if err != nil {
		return resource.Explanation{}, err
	}
	c.etag = 0
	return c.explainService(dep, view)
}

// timeline are the latest events of a scope within the deployment, oldest first.
func (c *call) timeline(dep string, scope events.Scope) ([]resource.Event, error) {
	scope.TenantID, scope.WorkspaceID, scope.DeploymentID = c.tenant.ID, c.key.WorkspaceID, dep
	found, _, err := c.s.events.List(c.r.Context(), scope, "", explainedEvents)
	slices.Reverse(found)
	out := []resource.Event{}
	for _, e := range found {
		out = append(out, eventResource(e))
	}
	return out, err
}

func (c *call) explainInstance(i miosa.Instance) (resource.Explanation, error) {
	state, o := i.State(), i.Observed
	e := resource.Explanation{
		ID: i.ID, Kind: "runtime_instance", State: string(state), Reasons: reasons(i), LogLines: lines(o.Failure.LastLines),
	}
	who := fmt.Sprintf("Instance %d of service %s", i.Slot, i.Spec.Name)
	switch state {
	case miosa.Pending:
		if i.HostID == "" {
			e.Summary = who + " waits for a host that can take it."
			e.NextStep = "It is placed as soon as a host has room; a smaller size or another region may have room now."
			break
		}
		e.Summary = fmt.Sprintf("%s waits for its next boot (%d so far).", who, o.Boot)
		e.NextStep = "Its host boots it again by itself."
		if !o.NextRestartAt.IsZero() {
			e.NextStep = fmt.Sprintf("Its host boots it again at %s.", o.NextRestartAt.UTC().Format(time.RFC3339))
		}
	case miosa.Starting:
		e.Summary = fmt.Sprintf("%s is booting, or its health check has not passed yet (boot %d).", who, o.Boot)
		began, runs := lifecycle.PhaseAt(o, "app_started")
		switch {
		case i.Spec.HealthType() == miosa.HealthNone:
			e.Summary = fmt.Sprintf("%s is booting, or has not run for long enough yet (boot %d).", who, o.Boot)
			e.NextStep = fmt.Sprintf("It counts as healthy once its process has run for %s.", cmp.Or(i.Spec.Health.Stable, miosa.DefaultStable))
		case runs:
			grace := cmp.Or(i.Spec.Health.Grace, miosa.DefaultHealthCheck().Grace)
			e.NextStep = fmt.Sprintf("It has until %s to become healthy.", began.Add(grace).UTC().Format(time.RFC3339))
		case !o.StartedAt.IsZero():
			e.NextStep = fmt.Sprintf("It boots until %s at the latest.", o.StartedAt.Add(lifecycle.BootDeadline).UTC().Format(time.RFC3339))
		}
	case miosa.Healthy:
		e.Summary = fmt.Sprintf("%s is healthy since %s.", who, o.HealthyAt.UTC().Format(time.RFC3339))
		if o.RestartCount > 0 {
			e.Reasons = append(e.Reasons, fmt.Sprintf("it was booted again %d times; last because: %s", o.RestartCount, cmp.Or(o.Failure.Message, "not recorded")))
		}
	case miosa.Unhealthy:
		e.Summary = fmt.Sprintf("%s fails its health check and gets no requests.", who)
		e.NextStep = "A replacement is started; if this one recovers first it gets requests again."
	case miosa.Stopping, miosa.Stopped:
		e.Summary = fmt.Sprintf("%s is %s, deliberately.", who, state)
	case miosa.Failed:
		e.Summary = fmt.Sprintf("%s failed for good after %d boots.", who, o.Boot)
		e.NextStep = "Nothing more is tried until the next publish or restart of the service."
	}
	if o.Failure.Kind == miosa.FailureHost && (state == miosa.Pending || state == miosa.Starting || state == miosa.Failed) {
		e.Reasons = append(e.Reasons, "that is the platform's fault and not the release's: its operator finds the cause in the platform's log, under "+i.ID)
	}
	if i.CreatedReason != "" {
		e.Reasons = append(e.Reasons, "it was made because: "+i.CreatedReason)
	}
	var err error
	e.Events, err = c.timeline(i.DeploymentID, events.Scope{InstanceID: i.ID})
	return e, err
}

func (c *call) explainVersion(dep miosa.Deployment, v miosa.Version) (resource.Explanation, error) {
	e := resource.Explanation{
		ID: v.ID, Kind: "version", State: string(v.State), Reasons: []string{}, LogLines: lines(v.LastLines),
	}
	env, err := c.environment(dep, v.EnvironmentID)
	if err != nil {
		return e, err
	}
	name := fmt.Sprintf("Version %d", v.Number)
	switch {
	case env.ActiveVersionID == v.ID:
		e.Summary = fmt.Sprintf("%s is live in %s.", name, env.Name)
		if !v.PromotedAt.IsZero() {
			e.Reasons = append(e.Reasons, "it went live at "+v.PromotedAt.UTC().Format(time.RFC3339))
		}
	case v.State == miosa.VersionFailed:
		e.Summary = name + " never became healthy."
		e.NextStep = "Mend it and publish again; what was live before goes on serving."
	case v.State == miosa.VersionReady:
		e.Summary = fmt.Sprintf("%s was healthy, but is not live in %s.", name, env.Name)
		e.NextStep = "Promote it, or roll back to it, to make it live."
	case v.State == miosa.VersionArchived:
		e.Summary = name + " was archived and cannot be booted any more."
	default:
		e.Summary = fmt.Sprintf("%s is being rolled out to %s.", name, env.Name)
	}
	if v.ErrorMessage != "" {
		e.Reasons = append(e.Reasons, v.ErrorMessage)
	}
	rollouts, err := collect(c, store.Rollouts, store.RolloutsOf(dep.TenantID, dep.ID), func(r miosa.Rollout) bool { return r.TargetID == v.ID })
	if err != nil {
		return e, err
	}
	for _, r := range rollouts {
		if r.Reason != "" && r.Reason != v.ErrorMessage {
			e.Reasons = append(e.Reasons, fmt.Sprintf("its %s is %s: %s", r.Kind, r.Step, r.Reason))
		}
	}
	e.Events, err = c.timeline(dep.ID, events.Scope{VersionID: v.ID})
	return e, err
}

func (c *call) explainRollout(dep miosa.Deployment, r miosa.Rollout) (resource.Explanation, error) {
	e := resource.Explanation{ID: r.ID, Kind: "rollout", State: string(r.Step), Reasons: []string{}, LogLines: []string{}}
	words := map[miosa.RolloutStep]string{
		miosa.StepPulling:  "pulls the image from its registry",
		miosa.StepStarting: "starts its instances beside the old ones and waits for their health", miosa.StepFlipping: "waits for the routers to send requests to the new instances",
		miosa.StepDraining: "is live; the old instances finish their requests", miosa.StepDone: "is done", miosa.StepFailed: "failed; what was live before goes on serving",
		miosa.StepCancelled: "was cancelled",
	}
	e.Summary = fmt.Sprintf("The %s %s.", r.Kind, words[r.Step])
	if r.Reason != "" {
		e.Reasons = append(e.Reasons, r.Reason)
	}
	if miosa.IDPrefix(r.CancelledBy) == miosa.PrefixRollout {
		e.Reasons = append(e.Reasons, r.CancelledBy+" took its place")
	}
	if r.Live() {
		e.NextStep = fmt.Sprintf("This step ends by %s at the latest.", r.Deadline.UTC().Format(time.RFC3339))
	}
	v, err := c.version(dep, r.TargetID)
	if err != nil && miosa.CodeOf(err) != miosa.NotFound {
		return e, err
	}
	e.LogLines = lines(v.LastLines)
	e.Events, err = c.timeline(dep.ID, events.Scope{RolloutID: r.ID})
	return e, err
}

func (c *call) explainService(dep miosa.Deployment, s resource.Service) (resource.Explanation, error) {
	e := resource.Explanation{ID: s.ID, Kind: "service", State: s.State, Reasons: []string{}, LogLines: []string{}}
	e.Summary = fmt.Sprintf("Service %s has %d of %d instances healthy.", s.Name, s.ReadyReplicas, s.DesiredReplicas)
	switch s.State {
	case "pending":
		e.Summary = fmt.Sprintf("Service %s is not part of a live version yet.", s.Name)
		e.NextStep = "Publish a version."
	case "stopped":
		e.Summary = fmt.Sprintf("Service %s is scaled to nothing.", s.Name)
		e.NextStep = "Scale it up to have it serve again."
		if s.VersionID == nil {
			e.Summary = fmt.Sprintf("Service %s is no part of the live version.", s.Name)
			e.NextStep = "Publish a version with it, or promote one that has it."
		}
	}
	if err := c.troubles(&e, dep.ID, func(i miosa.Instance) bool { return i.ServiceID == s.ID }); err != nil {
		return e, err
	}
	var err error
	e.Events, err = c.timeline(dep.ID, events.Scope{ServiceID: s.ID})
	return e, err
}

// troubles adds what is wrong with instances that should run.
func (c *call) troubles(e *resource.Explanation, dep string, of func(miosa.Instance) bool) error {
	instances, err := c.instances(dep, func(i miosa.Instance) bool {
		return of(i) && !i.Once() && i.Goal == miosa.GoalRun && i.State() != miosa.Healthy && i.State() != miosa.Stopped
	})
	for _, i := range instances {
		why := ""
		if r := reasons(i); len(r) > 0 {
			why = ": " + r[0]
		}
		e.Reasons = append(e.Reasons, fmt.Sprintf("%s (%s %d) is %s%s", i.ID, i.Spec.Name, i.Slot, i.State(), why))
		if len(e.LogLines) == 0 {
			e.LogLines = lines(i.Observed.Failure.LastLines)
		}
	}
	return err
}

func (c *call) explainDeployment(dep miosa.Deployment) (resource.Explanation, error) {
	e := resource.Explanation{ID: dep.ID, Kind: "deployment", State: string(dep.State), Reasons: []string{}, LogLines: []string{}}
	env, err := c.environment(dep, miosa.Production)
	if err != nil {
		return e, err
	}
	active, err := c.version(dep, env.ActiveVersionID)
	if err != nil && miosa.CodeOf(err) != miosa.NotFound {
		return e, err
	}
	if active.ID == "" {
		e.Summary = fmt.Sprintf("%s has nothing live in production.", dep.Name)
		e.NextStep = "Publish a version."
	} else {
		e.Summary = fmt.Sprintf("%s serves version %d in production.", dep.Name, active.Number)
		_, ok := active.Routed()
		raw := slices.ContainsFunc(active.Services, func(s miosa.ServiceSpec) bool { return s.Protocol == miosa.ProtocolTCP })
		switch {
		case !ok && raw:
			e.Summary = fmt.Sprintf("%s runs version %d in production: it serves no HTTP, but raw TCP on a port of its own.", dep.Name, active.Number)
		case !ok:
			e.Summary = fmt.Sprintf("%s runs version %d in production: workers only, which serve no HTTP.", dep.Name, active.Number)
		}
	}
	if dep.State == miosa.DeploymentStopped {
		e.Summary = fmt.Sprintf("%s is scaled to nothing.", dep.Name)
		e.NextStep = "Scale it up to have it serve again."
	}
	condition, err := c.condition(env, active)
	if err != nil {
		return e, err
	}
	if condition.Health != "" && condition.Health != miosa.EnvironmentOK {
		e.Summary = fmt.Sprintf("%s It is %s.", e.Summary, condition.Health)
		e.Reasons = append(e.Reasons, condition.Reasons...)
	}
	views, err := c.serviceViews(miosa.Production, dep, false)
	if err != nil {
		return e, err
	}
	for _, v := range views {
		if v.VersionID != nil {
			e.Reasons = append(e.Reasons, fmt.Sprintf("service %s has %d of %d instances healthy", v.Name, v.ReadyReplicas, v.DesiredReplicas))
		}
	}
	rollouts, err := collect(c, store.Rollouts, store.RolloutsOf(dep.TenantID, dep.ID), func(r miosa.Rollout) bool { return r.EnvironmentID == env.ID })
	if err != nil {
		return e, err
	}
	if len(rollouts) > 0 && (rollouts[0].Live() || rollouts[0].Step != miosa.StepDone) {
		last := rollouts[0]
		target, err := c.version(dep, last.TargetID)
		if err != nil && miosa.CodeOf(err) != miosa.NotFound {
			return e, err
		}
		e.Reasons = append(e.Reasons, fmt.Sprintf("the latest %s (version %d), %s: %s", last.Kind, target.Number, last.Step, cmp.Or(last.Reason, "it has just begun")))
		e.LogLines = lines(target.LastLines)
	}
	if err := c.troubles(&e, dep.ID, func(i miosa.Instance) bool { return i.EnvironmentID == env.ID }); err != nil {
		return e, err
	}
	e.Events, err = c.timeline(dep.ID, events.Scope{})
	return e, err
}
