package control

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/store"
)

// Link is control as the agents see it.
type Link struct{ c *Control }

// Link is the agents' side of control.
func (c *Control) Link() Link { return Link{c} }

// Register makes the host known, or newly so, and numbers the connection of its
// agent: numbers grow. What only control decides about a host it already knows is
// kept.
func (l Link) Register(ctx context.Context, h miosa.Host) (session int64, err error) {
	now := time.Now().UTC()
	_, err = store.Update(ctx, l.c.store, func(tx *store.Tx) error {
		known, err := store.Load(tx, store.Hosts, store.HostKey(h.ID))
		if err != nil && miosa.CodeOf(err) != miosa.NotFound {
			return err
		}
		h, ev := cell.Registered(now, known, h)
		if err := store.Save(tx, store.Hosts, h); err != nil {
			return err
		}
		return saveEvent(tx, ev, now, rand.Reader)
	})
	if err != nil {
		return 0, fmt.Errorf("register host %s: %w", h.ID, err)
	}
	return l.c.sessions.Add(1), nil
}

// Beat takes a sign of life of a host's agent: see liveness.Beat.
func (l Link) Beat(ctx context.Context, hostID string, session, seq int64) error {
	select {
	case l.c.events <- cell.Beat{Host: hostID, Session: session, Seq: seq}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Assignments yields what the host should run: first everything that is not
// over, then each change, until ctx ends. A slow host finds changes of one
// instance merged into the last.
func (l Link) Assignments(ctx context.Context, hostID string) iter.Seq2[[]miosa.Instance, error] {
	return func(yield func([]miosa.Instance, error) bool) {
		sub, cancel := l.c.hosts.subscribe(hostID)
		defer cancel()
		first, err := l.present(ctx, hostID)
		if !yield(first, err) || err != nil {
			return
		}
		for {
			select {
			case <-ctx.Done():
				return
			case <-sub.wake:
			}
			waiting, ok := l.c.hosts.take(sub)
			if !ok {
				continue
			}
			if !yield(slices.SortedFunc(maps.Values(waiting), func(a, b miosa.Instance) int { return cmp.Compare(a.ID, b.ID) }), nil) {
				return
			}
		}
	}
}

// present are the host's instances that have not ended: what is committed after
// the machine says so comes by the subscription.
func (l Link) present(ctx context.Context, hostID string) (live []miosa.Instance, err error) {
	if err := l.c.ask(ctx, func(m *cell.Machine) { live = m.Assigned(hostID) }); err != nil {
		return nil, fmt.Errorf("list the instances of host %s: %w", hostID, err)
	}
	return live, nil
}

func (c *Control) assign(instances []miosa.Instance) {
	for _, i := range instances {
		if i.HostID == "" {
			continue
		}
		c.hosts.send(i.HostID, func(waiting map[string]miosa.Instance, full bool) map[string]miosa.Instance {
			if !full {
				waiting = map[string]miosa.Instance{}
			}
			waiting[i.ID] = i
			return waiting
		})
	}
}

// Observe takes an agent's report on one of its host's instances: see Record. What
// comes at the same time is written together.
func (l Link) Observe(ctx context.Context, hostID string, o miosa.Observation) error {
	return l.c.reports.add(ctx, hostID, o)
}

// Record writes an observation down, with an event when it tells of a change
// of state. Reports that are older than what is known are dropped; reports on
// another host's instance are refused with Forbidden, on an unknown one, and what
// cell.Refused says of attempts, with NotFound (the host is to forget it).
func Record(tx *store.Tx, hostID string, o miosa.Observation, now time.Time, random io.Reader) error {
	i, err := store.Load(tx, store.Instances, store.InstanceKey(o.TenantID, o.DeploymentID, o.InstanceID))
	if err != nil {
		return err
	}
	if i.HostID != hostID {
		return miosa.Errorf(miosa.Forbidden, "instance %s is not this host's", o.InstanceID)
	}
	known, err := store.Load(tx, store.Observations, store.ObservationKey(o.TenantID, o.DeploymentID, o.InstanceID))
	if err != nil && miosa.CodeOf(err) != miosa.NotFound {
		return err
	}
	if cell.Refused(i, known, o) {
		return miosa.Errorf(miosa.NotFound, "instance %s has begun otherwise, or has ended", o.InstanceID)
	}
	next, events, ok := cell.Observed(i, known, o)
	if !ok {
		return nil
	}
	if err := store.Save(tx, store.Observations, next); err != nil {
		return err
	}
	for _, ev := range events {
		if err := saveEvent(tx, ev, now, random); err != nil {
			return err
		}
	}
	return nil
}
