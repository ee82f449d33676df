// Package plane is the loop of the built-in history: it takes what hosts and
// routers sampled, makes sure of whose it is, keeps it for a day, and draws it.
//
// A host says of which instance a sample is, and only the host that the
// instance is on may say it; all else it claims must be as the records have it.
package plane

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/metrics"
	"github.com/miosa/miosa/records"
	"github.com/miosa/miosa/steady"
	"github.com/miosa/miosa/store"
)

const (
	// expireEvery is how often old samples are dropped.
	expireEvery = 30 * time.Minute
	// ahead is how far a sender's clock may be before ours.
	ahead = time.Minute
)

// Plane feeds a history and serves those who look at it. Make it with New.
type Plane struct {
	history metrics.Store
	view    *records.View
	log     *slog.Logger
	now     func() time.Time

	dropped atomic.Uint64
}

// New starts nothing.
func New(history metrics.Store, view *records.View, log *slog.Logger) *Plane {
	return &Plane{history: history, view: view, log: log, now: time.Now}
}

// Run drops what is old until ctx ends.
func (p *Plane) Run(ctx context.Context) error {
	var clock steady.Clock
	tick := time.NewTicker(expireEvery)
	defer tick.Stop()
	for {
		if err := p.history.Expire(ctx, clock.By(p.now(), p.log)); err != nil && ctx.Err() == nil {
			p.log.Error("expire the history of figures", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Ship keeps what a host saw of its instances. Samples of instances that are
// not there, or not on it, are dropped: the others are kept. miosa.Invalid for
// a pass out of the future or from before the history, miosa.NoSpace and
// miosa.Unavailable in passing.
func (p *Plane) Ship(ctx context.Context, hostID string, pass metrics.Pass) error {
	return p.keep(ctx, pass, func(o metrics.Owner) (bool, error) {
		if !o.Instance() {
			return false, nil
		}
		return p.known(ctx, o, hostID)
	})
}

// ShipTraffic keeps what a router counted of services. A router sees the
// requests of everybody: that the service is there is all that is asked.
func (p *Plane) ShipTraffic(ctx context.Context, routerID string, pass metrics.Pass) error {
	return p.keep(ctx, pass, func(o metrics.Owner) (bool, error) {
		if o.SourceID != routerID || o.Instance() {
			return false, nil
		}
		return p.known(ctx, o, "")
	})
}

func (p *Plane) keep(ctx context.Context, pass metrics.Pass, admit func(metrics.Owner) (bool, error)) error {
	now := p.now()
	if pass.At.After(now.Add(ahead)) || pass.At.Before(now.Add(-metrics.Kept)) {
		return miosa.Errorf(miosa.Invalid, "samples of %s arrive at %s: set the clock of the host they come from", pass.At.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	kept := make([]metrics.Sample, 0, len(pass.Samples))
	for _, s := range pass.Samples {
		ok, err := admit(s.Owner)
		if err != nil {
			return err
		}
		if ok {
			kept = append(kept, s)
		}
	}
	if n := len(pass.Samples) - len(kept); n > 0 {
		p.dropped.Add(uint64(n))
	}
	if len(kept) == 0 {
		return nil
	}
	return p.history.Append(ctx, metrics.Pass{At: pass.At, Samples: kept})
}

// known reports whether the records have an instance as claimed, on that host, or
// for a router's sample the service.
func (p *Plane) known(ctx context.Context, o metrics.Owner, hostID string) (ok bool, err error) {
	if !o.Valid() {
		return false, nil
	}
	if o.Instance() {
		key := store.InstanceKey(o.TenantID, o.DeploymentID, o.SourceID)
		var i miosa.Instance
		i, err = records.Get(ctx, p.view, store.Instances, key)
		if err == nil && i.HostID != hostID { // perhaps it was placed a moment ago
			i, err = records.Fresh(ctx, p.view, store.Instances, key)
		}
		ok = i.HostID != "" && i.HostID == hostID && o == metrics.Owner{TenantID: i.TenantID, DeploymentID: i.DeploymentID, ServiceID: i.OwnerID(), SourceID: i.ID}
	} else {
		var svc miosa.Service
		svc, err = records.Get(ctx, p.view, store.Services, store.ServiceKey(o.TenantID, o.DeploymentID, o.ServiceID))
		ok = svc.TenantID == o.TenantID && svc.DeploymentID == o.DeploymentID && svc.ID == o.ServiceID
	}
	switch {
	case miosa.CodeOf(err) == miosa.NotFound:
		return false, nil
	case err != nil:
		return false, fmt.Errorf("look up the owner of samples of %s: %w", o.SourceID, err)
	}
	return ok, nil
}

// Dropped is how many samples were of nobody.
func (p *Plane) Dropped() uint64 { return p.dropped.Load() }

// Draw is what a scope looked like over a grid.
func (p *Plane) Draw(ctx context.Context, scope metrics.Scope, want metrics.Want) (metrics.Shaped, error) {
	shaper := metrics.NewShaper(want)
	// What the first point grew from was sampled before it.
	since, until := want.Grid.Start.Add(-metrics.Stale), want.Grid.Start.Add(time.Duration(want.Grid.Points)*want.Grid.Step)
	for row, err := range p.history.Read(ctx, scope, since, until.Add(metrics.Stale)) {
		if err != nil {
			return metrics.Shaped{}, fmt.Errorf("read the history: %w", err)
		}
		shaper.Add(row)
	}
	return shaper.Done(), nil
}
