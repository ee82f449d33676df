// Package plane is the loop of the log plane: it takes what hosts ship, makes
// sure of whose it is, keeps it for its plan's days, and tells who follows.
//
// A host says of which instance its lines are, and nothing more is believed:
// tenant, deployment, service or task, version, workspace and days come from the
// records, and only the host that an instance is on may speak for it.
package plane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/logs"
	"github.com/miosa/miosa/records"
	"github.com/miosa/miosa/steady"
	"github.com/miosa/miosa/store"
)

const (
	// known bounds how long what a tenant has stored is believed, but for what it
	// adds itself.
	known = time.Minute
	// maxKnown bounds of how many tenants it is kept.
	maxKnown = 20000
	// expireEvery is how often retention is enforced; the promise is an hour, and
	// a store drops the bytes of whole hours.
	expireEvery = time.Minute
)

// Plane feeds a log store and serves those who read it. Make it with New.
type Plane struct {
	logs logs.Store
	view *records.View
	log  *slog.Logger
	now  func() time.Time

	// shipping is held to read while lines are looked up and kept, to write when
	// what was known before must not count any more.
	shipping sync.RWMutex

	mu      sync.Mutex      // guards all below
	rooms   map[string]room // by tenant
	arrived chan struct{}   // closed and replaced with every arrival

	counters *counters
}

// owner is what the records say of an instance.
type owner struct {
	origin logs.Origin
	days   int
}

// room is how much of what its plan allows a tenant has stored.
type room struct {
	mostMB int // negative: any number
	bytes  uint64
	until  time.Time // looked at anew from then on
}

// New starts nothing.
func New(kept logs.Store, view *records.View, log *slog.Logger) *Plane {
	return &Plane{logs: kept, view: view, log: log, now: time.Now, rooms: map[string]room{}, arrived: make(chan struct{}), counters: newCounters()}
}

// Run enforces retention until ctx ends.
func (p *Plane) Run(ctx context.Context) error {
	var clock steady.Clock
	tick := time.NewTicker(expireEvery)
	defer tick.Stop()
	for {
		if err := p.logs.Expire(ctx, clock.By(p.now(), p.log).UTC()); err != nil && ctx.Err() == nil {
			p.log.Error("expire logs", "err", err)
		}
		p.lookAround(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Ship keeps what a host has of its instances: when it returns, it is durable.
// Nothing is kept on error, or the same may be sent again: miosa.NotFound when
// an instance is unknown (the host may forget its lines), miosa.Forbidden when
// it is on another host, miosa.NoSpace or miosa.Unavailable in passing.
func (p *Plane) Ship(ctx context.Context, hostID string, batches []logs.Batch) error {
	arrivals, err := p.keep(ctx, hostID, batches)
	if err != nil {
		return err
	}
	p.counters.arrived(arrivals)
	if len(arrivals) > 0 {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.fill(arrivals)
		close(p.arrived)
		p.arrived = make(chan struct{})
	}
	return nil
}

func (p *Plane) keep(ctx context.Context, hostID string, batches []logs.Batch) ([]logs.Arrival, error) {
	p.shipping.RLock()
	defer p.shipping.RUnlock()
	kept := make([]logs.Kept, 0, len(batches))
	for _, b := range batches {
		o, err := p.owner(ctx, hostID, b.Origin)
		if err != nil {
			return nil, err
		}
		if o.origin.HostID != hostID {
			return nil, miosa.Errorf(miosa.Forbidden, "instance %s is not on host %s", b.Origin.InstanceID, hostID)
		}
		if err := check(b); err != nil {
			return nil, err
		}
		b.Origin = o.origin
		kept = append(kept, logs.Kept{Batch: b, Days: o.days})
	}
	arrivals, err := p.logs.Append(ctx, kept)
	if err != nil {
		p.counters.refused.Inc()
		return nil, fmt.Errorf("keep log lines: %w", err)
	}
	return arrivals, nil
}

// check refuses what no spool of ours sends.
func check(b logs.Batch) error {
	if b.First < 1 || len(b.Lines) == 0 {
		return miosa.Errorf(miosa.Invalid, "a batch of instance %s has no lines, or they are not numbered from 1", b.Origin.InstanceID)
	}
	for n := range b.Lines {
		if l := &b.Lines[n]; !l.Stream.Valid() || len(l.Text) > logs.MaxText || l.Time.IsZero() {
			return miosa.Errorf(miosa.Invalid, "line %d of instance %s is not one: its stream, its time or its length is wrong", b.First+uint64(n), b.Origin.InstanceID)
		}
	}
	return nil
}

// owner is what the records say of the instance that a host named.
func (p *Plane) owner(ctx context.Context, hostID string, claimed logs.Origin) (o owner, err error) {
	key := store.InstanceKey(claimed.TenantID, claimed.DeploymentID, claimed.InstanceID)
	i, err := records.Get(ctx, p.view, store.Instances, key)
	if err == nil && i.HostID != hostID {
		// The host gives up what it is refused for: perhaps it was placed a moment ago.
		i, err = records.Fresh(ctx, p.view, store.Instances, key)
	}
	if err != nil {
		return o, fmt.Errorf("instance %s: %w", claimed.InstanceID, err)
	}
	dep, err := records.Get(ctx, p.view, store.Deployments, store.DeploymentKey(i.TenantID, i.DeploymentID))
	if err != nil {
		return o, fmt.Errorf("deployment %s: %w", i.DeploymentID, err)
	}
	if dep.PurgeLogs {
		return o, miosa.Errorf(miosa.NotFound, "the logs of deployment %s are purged", dep.ID)
	}
	o.origin = logs.Origin{
		TenantID: i.TenantID, DeploymentID: i.DeploymentID, ServiceID: i.ServiceID, InstanceID: i.ID,
		VersionID: i.VersionID, HostID: i.HostID, WorkspaceID: dep.WorkspaceID, TaskID: i.TaskID,
	}
	plan, err := p.plan(ctx, i.TenantID)
	if err != nil {
		return o, err
	}
	o.days = days(plan)
	p.mu.Lock()
	known := p.now().Before(p.rooms[i.TenantID].until)
	p.mu.Unlock()
	if !known {
		err = p.measure(ctx, i.TenantID, plan)
	}
	return o, err
}

// days is how long lines are kept.
func days(plan miosa.Plan) int { return cmp.Or(plan.LogDays, miosa.DefaultPlan().LogDays) }

// plan is a tenant's. One that is gone keeps lines as the default one does.
func (p *Plane) plan(ctx context.Context, tenantID string) (miosa.Plan, error) {
	t, err := records.Get(ctx, p.view, store.Tenants, store.TenantKey(tenantID))
	if err != nil {
		return miosa.Plan{}, fmt.Errorf("tenant %s: %w", tenantID, err)
	}
	plan, err := records.Get(ctx, p.view, store.Plans, store.PlanKey(t.Plan))
	if miosa.CodeOf(err) == miosa.NotFound {
		plan, err = miosa.DefaultPlan(), nil
	}
	if err != nil {
		return miosa.Plan{}, fmt.Errorf("plan %s: %w", t.Plan, err)
	}
	return plan, nil
}

// measure looks how much of a tenant's is stored: the lines of as many days as
// its plan has, by whole hours, also those that were purged since.
func (p *Plane) measure(ctx context.Context, tenantID string, plan miosa.Plan) error {
	now := p.now()
	used, err := p.logs.Usage(ctx, tenantID, now.AddDate(0, 0, -days(plan)).Truncate(time.Hour), now.Add(time.Hour))
	if err != nil {
		return fmt.Errorf("what tenant %s has stored: %w", tenantID, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.rooms) >= maxKnown {
		clear(p.rooms)
	}
	p.rooms[tenantID] = room{mostMB: cmp.Or(plan.MaxLogStorageMB, miosa.DefaultPlan().MaxLogStorageMB), bytes: used.Bytes, until: now.Add(known)}
	return nil
}

// lookAround measures again what is known of tenants: lines expire, and plans
// change, while nothing is shipped.
func (p *Plane) lookAround(ctx context.Context) {
	p.mu.Lock()
	var tenants []string
	for id := range p.rooms {
		tenants = append(tenants, id)
	}
	p.mu.Unlock()
	for _, id := range tenants {
		plan, err := p.plan(ctx, id)
		if err == nil {
			err = p.measure(ctx, id, plan)
		}
		switch {
		case miosa.CodeOf(err) == miosa.NotFound:
			p.mu.Lock()
			delete(p.rooms, id)
			p.mu.Unlock()
		case err != nil && ctx.Err() == nil:
			p.log.Error("measure what is stored of a tenant's logs", "tenant", id, "err", err)
		}
	}
}

// fill adds what arrived since a tenant was measured; p.mu is held.
func (p *Plane) fill(arrivals []logs.Arrival) {
	for _, a := range arrivals {
		r, ok := p.rooms[a.Batch.Origin.TenantID]
		if !ok {
			continue
		}
		for n := range a.Batch.Lines {
			r.bytes += uint64(len(a.Batch.Lines[n].Text))
		}
		p.rooms[a.Batch.Origin.TenantID] = r
	}
}

// Full reports whether a tenant has as many bytes of lines stored as its plan
// allows, and how many MB that is. Hosts drop its apps' lines then. It asks
// nobody: a change of the plan, and room that comes back, reach it within a
// minute.
func (p *Plane) Full(tenantID string) (mostMB int, full bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r, ok := p.rooms[tenantID]
	return r.mostMB, ok && r.mostMB >= 0 && r.bytes >= uint64(r.mostMB)*1e6
}

// Read yields what the query names: see logs.Store.
func (p *Plane) Read(ctx context.Context, q logs.Query) iter.Seq2[logs.Entry, error] {
	return p.logs.Read(ctx, q)
}

// Last is the mark of the newest arrival.
func (p *Plane) Last(ctx context.Context) (logs.Mark, error) { return p.logs.Last(ctx) }

// Usage is what a tenant logged: see logs.Store.
func (p *Plane) Usage(ctx context.Context, tenantID string, since, until time.Time) (logs.Usage, error) {
	return p.logs.Usage(ctx, tenantID, since, until)
}

// Purge drops every line of a deployment whose record says so (PurgeLogs), or is
// gone. None comes afterwards, also not from a host's spool: what is under way is
// waited for, and whoever ships later finds the record so.
func (p *Plane) Purge(ctx context.Context, tenantID, deploymentID string) error {
	p.shipping.Lock()
	p.view.Forget(store.DeploymentKey(tenantID, deploymentID))
	p.shipping.Unlock()
	return p.logs.Purge(ctx, tenantID, deploymentID)
}

// Arrivals yields what came after the mark: see logs.Store.
func (p *Plane) Arrivals(ctx context.Context, after logs.Mark, scope logs.Scope) iter.Seq2[logs.Arrival, error] {
	return p.logs.Arrivals(ctx, after, scope)
}

// Arrived is closed when something arrives, of whatever tenant. Take it before
// Last or Arrivals is called, and nothing is missed.
func (p *Plane) Arrived() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.arrived
}

// Follow yields what arrived after the mark and then each arrival as it comes,
// once and in order, until ctx ends. Who reads slowly keeps nobody waiting:
// everyone reads from the store at a pace of his own. miosa.Gone is yielded
// when the store does not know the order that far back.
func (p *Plane) Follow(ctx context.Context, after logs.Mark, scope logs.Scope) iter.Seq2[logs.Arrival, error] {
	return func(yield func(logs.Arrival, error) bool) {
		for {
			arrived := p.Arrived()
			newest, err := p.logs.Last(ctx)
			if err != nil {
				p.stop(ctx, err, yield)
				return
			}
			if newest > after {
				for a, err := range p.logs.Arrivals(ctx, after, scope) {
					if err != nil {
						p.stop(ctx, err, yield)
						return
					}
					if !yield(a, nil) {
						return
					}
					newest = max(newest, a.Mark)
				}
				after = newest
			}
			select {
			case <-ctx.Done():
				return
			case <-arrived:
			}
		}
	}
}

// stop yields an error, unless the caller's own end is what it was.
func (p *Plane) stop(ctx context.Context, err error, yield func(logs.Arrival, error) bool) {
	if ctx.Err() == nil || !errors.Is(err, ctx.Err()) {
		yield(logs.Arrival{}, err)
	}
}
