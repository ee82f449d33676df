package api

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	mind "github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/plan"
	"github.com/miosa/miosa/records"
	"github.com/miosa/miosa/store"
)

// dryRunPatience is how long a dry run waits for another one: each holds a copy
// of all records, and takes as long as deciding the whole cell.
const dryRunPatience = 30 * time.Second

// dryRuns has them made one after the other; the operator's do not wait for the
// customers'.
type dryRuns struct{ operator, customers chan struct{} }

func newDryRuns() dryRuns {
	return dryRuns{make(chan struct{}, 1), make(chan struct{}, 1)}
}

// enter waits for a turn; leave must be called if err is nil.
func (d dryRuns) enter(ctx context.Context, operator bool) (leave func(), err error) {
	door := d.customers
	if operator {
		door = d.operator
	}
	wait, cancel := context.WithTimeout(ctx, dryRunPatience)
	defer cancel()
	select {
	case door <- struct{}{}:
		return func() { <-door }, nil
	case <-wait.Done():
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, &miosa.Error{Code: miosa.Limited, Public: "too_many_dry_runs", Passing: true, Message: "others are making dry runs: try again in a moment"}
	}
}

// planDeployment says what a change of the caller's own would lead to.
func (s *Server) planDeployment(c *call, in resource.DeploymentChange) (resource.DryRun, error) {
	if in.Publish != nil == (in.Scale != nil) {
		return resource.DryRun{}, invalidField("publish", "or scale is needed, one of them: it is what is tried")
	}
	deps, err := c.deployments()
	if err != nil {
		return resource.DryRun{}, err
	}
	change, err := c.tried(in)
	if err != nil {
		return resource.DryRun{}, err
	}
	whole, err := c.dryRun(func(mind.Loaded) (plan.Change, error) { return change, nil })
	if err != nil {
		return resource.DryRun{}, err
	}
	return dryRunResource(whole.For(c.tenant.ID, func(id string) bool { _, ok := deps[id]; return ok })), nil
}

// planFleet says what a change would lead to, in the whole fleet.
func (s *Server) planFleet(c *call, in resource.FleetChange) (resource.DryRun, error) {
	given := 0
	for _, ok := range []bool{in.Publish != nil, in.Scale != nil, in.LoseHost != "", in.LoseZone != "", in.DrainHost != ""} {
		if ok {
			given++
		}
	}
	if given != 1 {
		return resource.DryRun{}, invalidField("lose_host", "or lose_zone, drain_host, publish or scale is needed, one of them: it is what is tried")
	}
	ofDeployment := in.Publish != nil || in.Scale != nil
	if ofDeployment != (in.DeploymentID != "") {
		return resource.DryRun{}, invalidField("deployment_id", "goes with publish and scale, and with them alone")
	}
	pick := func(loaded mind.Loaded) (plan.Change, error) {
		switch {
		case in.LoseHost != "":
			return plan.LoseHost(loaded, in.LoseHost)
		case in.LoseZone != "":
			return plan.LoseZone(loaded, in.LoseZone)
		}
		return plan.Drain(loaded, in.DrainHost)
	}
	if ofDeployment {
		if err := c.actFor(in.DeploymentID); err != nil {
			return resource.DryRun{}, err
		}
		change, err := c.tried(resource.DeploymentChange{Publish: in.Publish, Scale: in.Scale})
		if err != nil {
			return resource.DryRun{}, err
		}
		pick = func(mind.Loaded) (plan.Change, error) { return change, nil }
	}
	whole, err := c.dryRun(pick)
	if err != nil {
		return resource.DryRun{}, err
	}
	return dryRunResource(whole), nil
}

// actFor has the operator try something as the tenant whose deployment it is.
func (c *call) actFor(deployment string) error {
	if miosa.IDPrefix(deployment) != miosa.PrefixDeployment {
		return invalidField("deployment_id", "is no deployment's ID")
	}
	ctx := c.r.Context()
	at, err := store.Locate(ctx, c.s.store, deployment)
	if miosa.CodeOf(err) == miosa.NotFound {
		return absent("deployment", deployment)
	}
	if err != nil {
		return err
	}
	if c.tenant, err = store.Get(ctx, c.s.store, store.Tenants, store.TenantKey(at.TenantID)); err != nil {
		return err
	}
	c.r.SetPathValue("id", deployment)
	return nil
}

// dryRun reads all records, and tries a change of them on a copy.
func (c *call) dryRun(pick func(mind.Loaded) (plan.Change, error)) (plan.Plan, error) {
	ctx := c.r.Context()
	leave, err := c.s.dryRuns.enter(ctx, c.route.Access == accessAdmin)
	if err != nil {
		return plan.Plan{}, err
	}
	defer leave()
	loaded, err := records.All(ctx, c.s.store)
	if err != nil {
		return plan.Plan{}, err
	}
	change, err := pick(loaded)
	if err != nil {
		return plan.Plan{}, err
	}
	return plan.Make(c.s.now().UTC(), loaded, mind.Config{Placement: c.s.cfg.Placement}, change)
}

// tried is what the change would write: the very transaction of a publish or of a
// scale, with all its checks, but for its end.
func (c *call) tried(in resource.DeploymentChange) (plan.Change, error) {
	limits, err := c.plan()
	if err != nil {
		return plan.Change{}, err
	}
	if in.Scale != nil {
		return c.triedScale(*in.Scale, limits)
	}
	asked := *in.Publish
	if err := c.checkPublish(&asked, true); err != nil {
		return plan.Change{}, err
	}
	asked.Variables = nil // they bear on nothing here
	asked.Image = nil     // it need not be pulled to know its size
	p := &publication{c: c, in: asked, plan: limits, dry: true}
	put, err := c.dry(p.write)
	if err != nil {
		return plan.Change{}, err
	}
	for n, noun := range put {
		if v, ok := noun.(miosa.Version); ok {
			put[n] = withBytes(v)
		}
	}
	return plan.Change{What: fmt.Sprintf("publish to %s, %s", p.dep.Slug, p.env.Name), Put: put}, nil
}

func (c *call) triedScale(in resource.Scale, limits miosa.Plan) (plan.Change, error) {
	if in.Instances == nil {
		return plan.Change{}, invalidField("scale.instances", "is needed: how many there are to be")
	}
	at, service, err := c.named(in.Environment, in.Service)
	if err != nil {
		return plan.Change{}, err
	}
	put, err := c.dry(func(tx *store.Tx) error {
		return c.txChange(tx, at, serviceChange{
			patch: resource.ServicePatch{DesiredReplicas: in.Instances}, event: "service.scaled", message: "service %s is scaled",
		}, limits)
	})
	return plan.Change{What: fmt.Sprintf("scale %s to %d", service.Name, *in.Instances), Put: put}, err
}

// dry runs a transaction that is never committed, and gives back the records that
// it would have written.
func (c *call) dry(fn func(tx *store.Tx) error) (put []any, err error) {
	entries, err := store.Dry(c.r.Context(), c.s.store, fn)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		noun, ok, err := records.ForCell(e)
		if err != nil {
			return nil, err
		}
		if ok {
			put = append(put, noun)
		}
	}
	return put, nil
}

// withBytes is a version as if its bytes were there, on no host yet.
func withBytes(v miosa.Version) miosa.Version {
	v.Services = slices.Clone(v.Services)
	for n := range v.Services {
		s := &v.Services[n]
		if s.ReleaseID != "" {
			continue
		}
		s.ReleaseID, s.SHA256 = "rel_dry", v.ID
		if s.Type != miosa.ServiceWorker {
			s.Port = cmp.Or(s.Port, defaultPort)
		}
	}
	return v
}

func dryRunResource(p plan.Plan) resource.DryRun {
	out := resource.DryRun{
		OK: p.OK(), Change: p.What, Summary: p.Summary(), Words: p.Lines(), Waiting: p.Waiting, Finished: !p.Unfinished,
		Regions: []resource.DryRunRegion{}, Services: []resource.DryRunService{}, Moves: []resource.DryRunMove{}, Starts: []resource.DryRunStart{},
		Ends: []resource.DryRunEnd{}, NoRoom: []resource.DryRunNoRoom{}, Stays: []resource.DryRunStay{}, Rollouts: []resource.DryRunRollout{},
		Zones: []resource.DryRunZone{}, Hosts: []resource.DryRunHostFill{},
	}
	if out.Words == nil {
		out.Words = []string{}
	}
	regions := map[string]int{}
	for _, s := range p.Services {
		out.Services = append(out.Services, resource.DryRunService{
			DryRunSubject: dryRunSubject(s.Subject), WantedBefore: s.WantedBefore, Wanted: s.Wanted,
			ServingBefore: s.ServingBefore, Lowest: s.Lowest, Serving: s.Serving, Falls: s.Falls(), Dips: s.Dips(), Down: s.Down(),
		})
	}
	for _, m := range p.Moves {
		regions[m.To.Region]++
		out.Moves = append(out.Moves, resource.DryRunMove{
			DryRunSubject: dryRunSubject(m.Subject), VersionNumber: m.Version, Slot: m.Slot, InstanceID: str(m.InstanceID),
			From: dryRunPlace(m.From), To: dryRunPlace(m.To), Reason: m.Reason,
		})
	}
	for _, s := range p.Starts {
		regions[s.On.Region]++
		out.Starts = append(out.Starts, resource.DryRunStart{
			DryRunSubject: dryRunSubject(s.Subject), VersionNumber: s.Version, Slot: s.Slot, On: dryRunPlace(s.On), Reason: s.Reason,
		})
	}
	for _, e := range p.Ends {
		out.Ends = append(out.Ends, resource.DryRunEnd{
			DryRunSubject: dryRunSubject(e.Subject), VersionNumber: e.Version, Slot: e.Slot, InstanceID: str(e.InstanceID), On: dryRunPlace(e.On), Reason: e.Reason,
		})
	}
	for _, n := range p.NoRoom {
		reasons := n.Reasons
		if reasons == nil {
			reasons = []string{}
		}
		out.NoRoom = append(out.NoRoom, resource.DryRunNoRoom{
			DryRunSubject: dryRunSubject(n.Subject), VersionNumber: n.Version, Slot: n.Slot, Replaces: str(n.Replaces), Reasons: reasons,
		})
	}
	for _, s := range p.Stays {
		out.Stays = append(out.Stays, resource.DryRunStay{
			DryRunSubject: dryRunSubject(s.Subject), VersionNumber: s.Version, Slot: s.Slot, InstanceID: str(s.InstanceID), On: dryRunPlace(s.On),
		})
	}
	for _, r := range p.Rollouts {
		out.Rollouts = append(out.Rollouts, resource.DryRunRollout{DryRunSubject: dryRunSubject(r.Subject), VersionNumber: r.Version, Live: r.Live, Proven: r.Proven, Reason: r.Reason})
	}
	for _, z := range p.Zones {
		out.Zones = append(out.Zones, resource.DryRunZone{
			Region: z.Region, Zone: z.Zone, HostsBefore: z.UsableBefore, Hosts: z.Usable,
			CapacityBefore: resourcesResource(z.CapacityBefore), PromisedBefore: resourcesResource(z.UsedBefore),
			Capacity: resourcesResource(z.Capacity), Promised: resourcesResource(z.Used),
		})
	}
	for _, h := range p.Hosts {
		out.Hosts = append(out.Hosts, resource.DryRunHostFill{
			HostID: h.HostID, Host: h.Host, Region: h.Region, Zone: h.Zone,
			Capacity: resourcesResource(h.Capacity), PromisedBefore: resourcesResource(h.UsedBefore), Promised: resourcesResource(h.Used),
		})
	}
	for _, region := range slices.Sorted(maps.Keys(regions)) {
		out.Regions = append(out.Regions, resource.DryRunRegion{Region: region, Instances: regions[region]})
	}
	return out
}

func dryRunSubject(s plan.Subject) resource.DryRunSubject {
	return resource.DryRunSubject{
		TenantID: s.TenantID, Tenant: str(s.Tenant), DeploymentID: s.DeploymentID, Deployment: s.Deployment,
		EnvironmentID: s.EnvironmentID, Environment: s.Environment, ServiceID: str(s.ServiceID), Service: str(s.Service),
	}
}

func dryRunPlace(p plan.Place) resource.DryRunPlace {
	return resource.DryRunPlace{HostID: str(p.HostID), Host: str(p.Host), Region: str(p.Region), Zone: str(p.Zone)}
}
