package api

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/store"
)

const (
	// keptServices is how many times a version's services an environment has
	// names for: those of former versions keep their number of replicas.
	keptServices = 5
	// maxBootable bounds the versions of an environment that retention has not
	// archived yet: each holds a copy of the variables.
	maxBootable = 100
	// keptVersions is how many of them retention leaves (control.KeepVersions).
	keptVersions = 20
)

// planLimit is a limit of a plan that older records lack: 0 is the default
// plan's, -1 any number.
func planLimit(p miosa.Plan, of func(miosa.Plan) int) int {
	return max(cmp.Or(of(p), of(miosa.DefaultPlan())), -1)
}

// rooms has those of a tenant add things one after the other, in this process:
// the store would have all but one try again. (Between processes it does.)
type rooms struct {
	mu sync.Mutex
	of map[string]*room // guarded by mu
}

type room struct {
	users int
	door  chan struct{}
}

// enter waits for the tenant's room; leave must be called if err is nil.
func (r *rooms) enter(ctx context.Context, tenant string) (leave func(), err error) {
	r.mu.Lock()
	mine := r.of[tenant]
	if mine == nil {
		mine = &room{door: make(chan struct{}, 1)}
		r.of[tenant] = mine
	}
	mine.users++
	r.mu.Unlock()
	gone := func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if mine.users--; mine.users == 0 {
			delete(r.of, tenant)
		}
	}
	select {
	case mine.door <- struct{}{}:
		return func() {
			<-mine.door
			gone()
		}, nil
	case <-ctx.Done():
		gone()
		return nil, ctx.Err()
	}
}

// updateRoom is update of what adds something that the plan limits.
func (c *call) updateRoom(fn func(tx *store.Tx) error) error {
	leave, err := c.s.rooms.enter(c.r.Context(), c.tenant.ID)
	if err != nil {
		return err
	}
	defer leave()
	return c.update(fn)
}

// txCount comes before counting a tenant's things: nobody adds any between
// then and the commit, or the transaction runs again.
func (c *call) txCount(tx *store.Tx, tenant string) error {
	key := store.RoomKey(tenant)
	seen, err := tx.Index(key)
	if err != nil {
		return err
	}
	n, _ := strconv.ParseUint(seen, 10, 64) // its number means nothing: it is another each time
	tx.SetIndex(key, strconv.FormatUint(n+1, 10), 0)
	return nil
}

// limited is one limit of a plan.
type limited struct {
	tenant miosa.Tenant
	of     func(miosa.Plan) int
	prefix string // one key for each, none for anything else
	what   string // in the plural
	remedy string // what the caller may do
}

// txFits has one more counted, whose keys lie under a prefix: the cost is that
// of the plan's limit, whatever others have.
func (c *call) txFits(tx *store.Tx, l limited) error {
	plan, err := c.planOf(l.tenant)
	if err != nil {
		return err
	}
	most := planLimit(plan, l.of)
	if most < 0 {
		return nil
	}
	if err := c.txCount(tx, l.tenant.ID); err != nil {
		return err
	}
	n := 0
	for _, err := range c.s.store.Scan(c.r.Context(), l.prefix, store.ScanOptions{KeysOnly: true, Limit: max(most, 1)}) {
		if err != nil {
			return err
		}
		n++
	}
	if n >= most {
		return quota(fmt.Sprintf("plan %s allows %d %s, and there are %d: %s, or ask the operator for another plan", plan.Name, most, l.what, n, l.remedy))
	}
	return nil
}

func (c *call) roomForDeployment(tx *store.Tx) error {
	// A plan's 0 deployments are none, as they always were.
	plan, err := c.plan()
	if err == nil && plan.MaxDeployments == 0 {
		return quota(fmt.Sprintf("plan %s allows no deployments: ask the operator for another plan", plan.Name))
	}
	if err != nil {
		return err
	}
	return c.txFits(tx, limited{
		c.tenant, func(p miosa.Plan) int { return p.MaxDeployments }, store.SlugKey(c.tenant.ID, ""), "deployments", "delete one",
	})
}

func (c *call) roomForEnvironment(tx *store.Tx, dep miosa.Deployment) error {
	return c.txFits(tx, limited{
		c.tenant, func(p miosa.Plan) int { return p.MaxEnvironments }, store.EnvironmentNameKey(dep.TenantID, dep.ID, ""),
		"environments a deployment", "use one of them",
	})
}

func (c *call) roomForWebhook(tx *store.Tx) error {
	return c.txFits(tx, limited{
		c.tenant, func(p miosa.Plan) int { return p.MaxWebhooks }, store.WebhooksOf(c.tenant.ID), "webhooks", "delete one",
	})
}

func (c *call) roomForKey(tx *store.Tx, t miosa.Tenant) error {
	return c.txFits(tx, limited{t, func(p miosa.Plan) int { return p.MaxAPIKeys }, store.APIKeyOfKey(t.ID, ""), "API keys a tenant", "revoke one"})
}

func (c *call) roomForDrain(tx *store.Tx, d miosa.LogDrain) error {
	if err := c.txCount(tx, d.TenantID); err != nil {
		return err
	}
	same := 0
	for other, err := range store.List(c.r.Context(), c.s.store, store.LogDrains, store.LogDrainsOf(c.tenant.ID), store.ScanOptions{}) {
		if err != nil {
			return err
		}
		if other.WorkspaceID == d.WorkspaceID {
			same++
		}
	}
	switch {
	case same >= maxDrains && d.WorkspaceID != "":
		return quota(fmt.Sprintf("a workspace may have %d log drains: delete one", maxDrains))
	case same >= maxDrains:
		return quota(fmt.Sprintf("there may be %d log drains without a workspace: delete one", maxDrains))
	}
	return c.txFits(tx, limited{
		c.tenant, func(p miosa.Plan) int { return p.MaxLogDrains }, store.LogDrainsOf(c.tenant.ID), "log drains", "delete one",
	})
}

// roomForService checks that an environment which knows so many services by
// name may get another one.
func roomForService(plan miosa.Plan, known int) error {
	most := planLimit(plan, func(p miosa.Plan) int { return p.MaxServices })
	if most < 0 || known < keptServices*most {
		return nil
	}
	return quota(fmt.Sprintf("plan %s allows an environment %d services, those of former versions among them, and there are %d: "+
		"give a service a name that it had, or ask the operator for another plan", plan.Name, keptServices*most, known))
}

// txPublicPort gives a service a port of the routers', if the plan has one left
// besides those that this transaction has given away.
func (c *call) txPublicPort(tx *store.Tx, plan miosa.Plan, serviceID string, given int) (int, error) {
	if most := planLimit(plan, func(p miosa.Plan) int { return p.MaxPublicPorts }); most >= 0 {
		if err := c.txCount(tx, c.tenant.ID); err != nil {
			return 0, err
		}
		all, err := c.allServices()
		if err != nil {
			return 0, err
		}
		for _, s := range all {
			if s.PublicPort != 0 {
				given++
			}
		}
		if given >= most {
			return 0, quota(fmt.Sprintf("plan %s allows %d services of protocol tcp, those of versions that can be rolled back to among them, and there are %d: "+
				"delete a deployment that has one, or ask the operator for another plan", plan.Name, most, given))
		}
	}
	return store.ClaimPort(tx, c.s.cfg.PublicPorts, serviceID)
}

// stored is how many bytes of releases are kept for the tenant.
func (c *call) stored() (bytes int64, err error) {
	for r, err := range store.List(c.r.Context(), c.s.store, store.Releases, store.ReleasesOf(c.tenant.ID, ""), store.ScanOptions{}) {
		if err != nil {
			return 0, err
		}
		if r.State == miosa.ReleaseReady {
			bytes += r.SizeBytes
		}
	}
	return bytes, nil
}

// storageLeft is how many more bytes of releases may be kept; -1: any number.
func (c *call) storageLeft(plan miosa.Plan) (int64, error) {
	most := int64(planLimit(plan, func(p miosa.Plan) int { return p.MaxStorageMB }))
	if most < 0 {
		return -1, nil
	}
	used, err := c.stored()
	return max(most*1e6-used, 0), err
}

func tooMuchStored(plan miosa.Plan, left int64) error {
	most := planLimit(plan, func(p miosa.Plan) int { return p.MaxStorageMB })
	return quota(fmt.Sprintf("plan %s allows %d MB of releases, and %d MB are kept: the release does not fit; delete a deployment, "+
		"wait until versions that nobody needs are archived, or ask the operator for another plan", plan.Name, most, int64(most)-left/1e6))
}

// roomForRelease checks a release that is about to be kept.
func (c *call) roomForRelease(tx *store.Tx, size int64) error {
	err := c.txFits(tx, limited{
		c.tenant, func(p miosa.Plan) int { return p.MaxReleases }, store.StoredReleasesOf(c.tenant.ID), "releases",
		"delete a deployment, or wait until versions that nobody needs are archived",
	})
	if err != nil {
		return err
	}
	plan, err := c.plan()
	if err != nil {
		return err
	}
	left, err := c.storageLeft(plan)
	if err != nil || left < 0 {
		return err
	}
	if err := c.txCount(tx, c.tenant.ID); err != nil {
		return err
	}
	if size > left {
		return tooMuchStored(plan, left)
	}
	return nil
}

// room checks the plan's number of instances: what the services of live and
// wanted versions ask for, and those that are changed once more where they are
// a new version's in env, for old and new side by side.
func (c *call) room(tx *store.Tx, plan miosa.Plan, env miosa.Environment, changed []miosa.Service) error {
	if err := c.txCount(tx, c.tenant.ID); err != nil {
		return err
	}
	beside := 0
	for _, s := range changed {
		if s.DesiredReplicas > plan.MaxReplicas {
			return quota(fmt.Sprintf("service %s: plan %s allows %d instances a service, not %d: ask for fewer, or the operator for another plan", s.Name, plan.Name, plan.MaxReplicas, s.DesiredReplicas))
		}
		if env.ID != "" && s.EnvironmentID == env.ID {
			beside += s.DesiredReplicas
		}
	}
	all, err := c.allServices()
	if err != nil {
		return err
	}
	if err := c.coming(all); err != nil {
		return err
	}
	for n, s := range all {
		if i := slices.IndexFunc(changed, func(other miosa.Service) bool { return other.ID == s.ID }); i >= 0 {
			all[n].DesiredReplicas = changed[i].DesiredReplicas
		}
	}
	total := beside + instancesOf(all, nil)
	if total <= plan.MaxInstances {
		return nil // even if none had left
	}
	stand, err := c.standings(all)
	if err != nil {
		return err
	}
	if total = beside + instancesOf(all, func(s miosa.Service) bool { return stand[s.EnvironmentID].names(s.ID) }); total > plan.MaxInstances {
		return quota(fmt.Sprintf("plan %s allows %d instances in all, old and new ones of a publish together; this needs %d: scale something down, or ask the operator for another plan", plan.Name, plan.MaxInstances, total))
	}
	return nil
}

// roomBack checks that the plan has room for a former version in the place of
// the live one. One that needs no more than what is live may always come back.
func (c *call) roomBack(tx *store.Tx, plan miosa.Plan, env miosa.Environment, target miosa.Version) error {
	if err := c.txCount(tx, c.tenant.ID); err != nil {
		return err
	}
	all, err := c.allServices()
	if err != nil {
		return err
	}
	here, err := c.standing(env)
	if err != nil {
		return err
	}
	if err := c.coming(all); err != nil {
		return err
	}
	for n, s := range all {
		all[n] = target.Settled(s)
	}
	of := func(v miosa.Version) func(miosa.Service) bool {
		return func(s miosa.Service) bool { _, ok := v.Service(s.ID); return ok }
	}
	after := instancesOf(all, of(target))
	if after <= instancesOf(all, of(here.active)) {
		return nil
	}
	stand, err := c.standings(all)
	if err != nil {
		return err
	}
	total := after + instancesOf(all, func(s miosa.Service) bool { return s.EnvironmentID != env.ID && stand[s.EnvironmentID].names(s.ID) })
	if total > plan.MaxInstances {
		return quota(fmt.Sprintf("plan %s allows %d instances in all; with version %d there would be %d: scale something down, or ask the operator for another plan", plan.Name, plan.MaxInstances, target.Number, total))
	}
	return nil
}

// coming raises what services ask for to what it will be when the versions that
// are being rolled out are live.
func (c *call) coming(all []miosa.Service) error {
	prefix := store.LiveKey(c.tenant.ID, "")
	rollouts := map[string]string{} // by environment
	for e, err := range c.s.store.Scan(c.r.Context(), prefix, store.ScanOptions{}) {
		if err != nil {
			return err
		}
		rollouts[strings.TrimPrefix(e.Key, prefix)] = string(e.Value)
	}
	targets := map[string]miosa.Version{}
	for n, s := range all {
		id := rollouts[s.EnvironmentID]
		if id == "" {
			continue
		}
		target, ok := targets[id]
		if !ok {
			r, err := store.Get(c.r.Context(), c.s.store, store.Rollouts, store.RolloutKey(s.TenantID, s.DeploymentID, id))
			if err == nil && r.Live() {
				target, err = c.version(miosa.Deployment{TenantID: s.TenantID, ID: s.DeploymentID}, r.TargetID)
			}
			if err != nil && miosa.CodeOf(err) != miosa.NotFound {
				return err
			}
			targets[id] = target
		}
		all[n].DesiredReplicas = max(s.DesiredReplicas, target.Settled(s).DesiredReplicas)
	}
	return nil
}

// instancesOf is how many instances the services ask for that are to count;
// nil: all do.
func instancesOf(services []miosa.Service, counts func(miosa.Service) bool) (n int) {
	for _, s := range services {
		if counts == nil || counts(s) {
			n += s.DesiredReplicas
		}
	}
	return n
}

// allServices are the tenant's, those of deleted deployments left out.
func (c *call) allServices() (all []miosa.Service, err error) {
	deps, err := c.allDeployments()
	if err != nil {
		return nil, err
	}
	for s, err := range store.List(c.r.Context(), c.s.store, store.Services, store.ServicesOf(c.tenant.ID, ""), store.ScanOptions{}) {
		if err != nil {
			return nil, err
		}
		if deps[s.DeploymentID] {
			all = append(all, s)
		}
	}
	return all, nil
}

// standings are what is live and to be in the environments of services, by
// their IDs.
func (c *call) standings(services []miosa.Service) (map[string]standing, error) {
	out := map[string]standing{}
	for _, s := range services {
		if _, ok := out[s.EnvironmentID]; ok {
			continue
		}
		env, err := store.Get(c.r.Context(), c.s.store, store.Environments, store.EnvironmentKey(s.TenantID, s.DeploymentID, s.EnvironmentID))
		if err != nil && miosa.CodeOf(err) != miosa.NotFound {
			return nil, err
		}
		if err == nil {
			if out[s.EnvironmentID], err = c.standing(env); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// allDeployments are the tenant's that are not deleted, also those that a
// restricted key does not see: quotas are the tenant's.
func (c *call) allDeployments() (map[string]bool, error) {
	all := map[string]bool{}
	for d, err := range store.List(c.r.Context(), c.s.store, store.Deployments, store.DeploymentsOf(c.tenant.ID), store.ScanOptions{}) {
		if err != nil {
			return nil, err
		}
		if d.DeletedAt.IsZero() {
			all[d.ID] = true
		}
	}
	return all, nil
}
