package control

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/store"
)

// commit carries out a cell.Commit: one transaction, or nothing.
func (c *Control) commit(ctx context.Context, e cell.Commit) cell.Committed {
	now := time.Now().UTC()
	if err := e.Mint(now, rand.Reader); err != nil {
		return cell.Committed{Environment: e.Environment, Err: err}
	}
	sealed, boots := map[string][]byte{}, c.boots(e.Facts)
	for _, i := range e.Bootable() {
		spec, err := boots.of(ctx, i)
		if err != nil {
			return cell.Committed{Environment: e.Environment, Err: err}
		}
		sealed[i.ID] = spec
	}
	revision, err := store.Try(ctx, c.store, func(tx *store.Tx) error { return Write(tx, c.term, &e, sealed, now, rand.Reader) })
	c.heed(ctx, err)
	return Answer(e, revision, err)
}

// saveHost carries out a cell.SaveHost.
func (c *Control) saveHost(ctx context.Context, e cell.SaveHost) cell.HostSaved {
	now := time.Now().UTC()
	_, err := store.Try(ctx, c.store, func(tx *store.Tx) error { return WriteHost(tx, c.term, e, now, rand.Reader) })
	c.heed(ctx, err)
	return HostAnswer(e, err)
}

// heed looks whether a write was refused because another control plane decides by
// now. Then this one ends.
func (c *Control) heed(ctx context.Context, err error) {
	if !errors.Is(err, store.ErrConflict) {
		return
	}
	if over, err := c.term.Over(ctx, c.store); err == nil && over {
		select {
		case c.succeeded <- struct{}{}:
		default: // it is known
		}
	}
}

// WriteHost puts a verdict on a host, and events, into a transaction of the term.
func WriteHost(tx *store.Tx, term Term, e cell.SaveHost, now time.Time, random io.Reader) error {
	term.Require(tx)
	if e.Host.ID != "" {
		if err := store.Save(tx, store.Hosts, e.Host); err != nil {
			return err
		}
	}
	for _, ev := range e.Events {
		if err := saveEvent(tx, ev, now, random); err != nil {
			return err
		}
	}
	return nil
}

// HostAnswer is what the machine is told of how that went.
func HostAnswer(e cell.SaveHost, err error) cell.HostSaved {
	done := cell.HostSaved{Host: e.Host.ID}
	switch {
	case errors.Is(err, store.ErrConflict), miosa.CodeOf(err) == miosa.Precondition:
		done.Conflict, done.Events = true, e.Events
	case err != nil:
		done.Err, done.Events = err, e.Events
	}
	return done
}

// Answer is what the machine is told of how the commit went.
func Answer(e cell.Commit, revision int64, err error) cell.Committed {
	switch {
	case errors.Is(err, store.ErrConflict), miosa.CodeOf(err) == miosa.Precondition:
		return e.Conflicted()
	case err != nil:
		return e.Unanswered(err)
	}
	return e.Done(revision)
}

// Write puts all changes of a commit into a transaction of the term. sealed holds
// the boot specs of e.Bootable by instance ID. What was decided on a picture that
// lacks an earlier commit to the environment, of ours or of a control plane before,
// is a conflict; so is everything once the term is over.
func Write(tx *store.Tx, term Term, e *cell.Commit, sealed map[string][]byte, now time.Time, random io.Reader) error {
	term.Require(tx)
	if err := tx.Fence(store.FenceKey(e.Tenant, e.Environment), e.Seen); err != nil {
		return err
	}
	writes, err := writesOf(e.Put, sealed)
	if err != nil {
		return err
	}
	keys := make([]string, 0, len(writes))
	for _, w := range writes {
		keys = append(keys, w.key)
	}
	if err := tx.Prefetch(keys...); err != nil {
		return err
	}
	for _, w := range writes {
		if err := w.save(tx); err != nil {
			return err
		}
	}
	events := slices.Clone(e.Events)
	for _, i := range e.Create {
		i.BootSpec = sealed[i.ID]
		if err := store.Create(tx, store.Instances, i); err != nil {
			return err
		}
		events = append(events, miosa.Event{
			TenantID: i.TenantID, DeploymentID: i.DeploymentID, ServiceID: i.ServiceID, InstanceID: i.ID, TaskID: i.TaskID,
			VersionID: i.VersionID, HostID: i.HostID, Type: "instance.created", Message: i.CreatedReason, Actor: "control", At: now,
		})
	}
	for _, i := range e.Heirs {
		tx.Require(store.InstanceKey(i.TenantID, i.DeploymentID, i.ID), i.Revision)
		tx.Require(store.ObservationKey(i.TenantID, i.DeploymentID, i.ID), i.Observed.Revision)
	}
	for _, l := range e.Release {
		key := store.LiveKey(l.Tenant, l.Environment)
		holder, err := tx.Index(key)
		if err != nil {
			return err
		}
		if holder == l.Rollout {
			tx.DropIndex(key)
		}
	}
	for _, ev := range events {
		if err := saveEvent(tx, ev, now, random); err != nil {
			return err
		}
	}
	return nil
}

func saveEvent(tx *store.Tx, ev miosa.Event, now time.Time, random io.Reader) error {
	id, err := miosa.NewID(miosa.PrefixEvent, now, random)
	if err != nil {
		return err
	}
	ev.ID = id
	return store.Create(tx, store.Events, ev)
}

// write is one noun of a commit: the key of its record, and what writes it.
type write struct {
	key  string
	save func(tx *store.Tx) error
}

func writeOf[T any](k store.Kind[T], v T) write {
	return write{k.Key(v), func(tx *store.Tx) error { return store.Save(tx, k, v) }}
}

// writesOf are what a commit writes over. sealed holds the boot specs that are made
// for it, by instance ID.
func writesOf(nouns []any, sealed map[string][]byte) ([]write, error) {
	writes := make([]write, 0, len(nouns))
	for _, noun := range nouns {
		switch v := noun.(type) {
		case miosa.Deployment:
			writes = append(writes, writeOf(store.Deployments, v))
		case miosa.Environment:
			writes = append(writes, writeOf(store.Environments, v))
		case miosa.Version:
			writes = append(writes, writeOf(store.Versions, v))
		case miosa.Rollout:
			writes = append(writes, writeOf(store.Rollouts, v))
		case miosa.Task:
			writes = append(writes, write{store.Tasks.Key(v), func(tx *store.Tx) error {
				if v.State.Terminal() {
					tx.DropIndex(store.LiveTaskKey(v.TenantID, v.ID))
				}
				return store.Save(tx, store.Tasks, v)
			}})
		case miosa.Service:
			writes = append(writes, writeOf(store.Services, v))
		case miosa.Instance:
			if spec := sealed[v.ID]; spec != nil {
				v.BootSpec = spec
			}
			writes = append(writes, writeOf(store.Instances, v))
		case miosa.Observation:
			w := writeOf(store.Observations, v)
			if v.Revision == 0 {
				w.save = func(tx *store.Tx) error {
					tx.Require(w.key, 0) // it was decided before any host's report
					return store.Save(tx, store.Observations, v)
				}
			}
			writes = append(writes, w)
		default:
			return nil, miosa.Errorf(miosa.Internal, "commit of an unexpected noun %T", noun)
		}
	}
	return writes, nil
}

// PurgeRecords deletes every record of a deployment, the deployment last, so that a
// purge cut short is begun again. Its events stay until their time is over.
func PurgeRecords(ctx context.Context, s store.Store, e cell.Purge) error {
	steps := []func() error{
		func() error {
			return removeAll(ctx, s, store.Instances, store.InstancesOf(e.Tenant, e.Deployment))
		},
		func() error {
			return removeAll(ctx, s, store.Observations, store.ObservationsOf(e.Tenant, e.Deployment))
		},
		func() error { return removeTasks(ctx, s, e) },
		func() error { return removeAll(ctx, s, store.Rollouts, store.RolloutsOf(e.Tenant, e.Deployment)) },
		func() error { return removeAll(ctx, s, store.Versions, store.VersionsOf(e.Tenant, e.Deployment)) },
		func() error { return removeAll(ctx, s, store.Releases, store.ReleasesOf(e.Tenant, e.Deployment)) },
		func() error { return releasePorts(ctx, s, e) },
		func() error { return removeAll(ctx, s, store.Services, store.ServicesOf(e.Tenant, e.Deployment)) },
		func() error { return removeAll(ctx, s, store.VarSets, store.VarSetsOf(e.Tenant, e.Deployment)) },
		func() error { return removeKeys(ctx, s, store.EnvironmentNameKey(e.Tenant, e.Deployment, "")) },
		func() error { return removeKeys(ctx, s, store.ReleaseSHAKey(e.Tenant, e.Deployment, "")) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("purge %s: %w", e.Deployment, err)
		}
	}
	// The environments are what control finds a deployment by: they go with it.
	environments, err := store.Collect(store.List(ctx, s, store.Environments, store.EnvironmentsOf(e.Tenant, e.Deployment), store.ScanOptions{}))
	if err != nil {
		return fmt.Errorf("purge %s: %w", e.Deployment, err)
	}
	for len(environments) > 20 {
		some := environments[20:min(40, len(environments))]
		if _, err := store.Update(ctx, s, func(tx *store.Tx) error { return removeEnvironments(tx, some) }); err != nil {
			return fmt.Errorf("purge %s: %w", e.Deployment, err)
		}
		environments = append(environments[:20], environments[min(40, len(environments)):]...)
	}
	_, err = store.Update(ctx, s, func(tx *store.Tx) error {
		if err := removeEnvironments(tx, environments); err != nil {
			return err
		}
		dep, err := store.Load(tx, store.Deployments, store.DeploymentKey(e.Tenant, e.Deployment))
		if err != nil {
			return err
		}
		return store.Remove(tx, store.Deployments, dep)
	})
	if err != nil && miosa.CodeOf(err) != miosa.NotFound {
		return fmt.Errorf("purge %s: %w", e.Deployment, err)
	}
	return nil
}

// releasePorts gives the ports of a deployment's services back.
func releasePorts(ctx context.Context, s store.Store, e cell.Purge) error {
	services, err := store.Collect(store.List(ctx, s, store.Services, store.ServicesOf(e.Tenant, e.Deployment), store.ScanOptions{}))
	if err != nil {
		return err
	}
	for _, v := range services {
		if v.PublicPort == 0 {
			continue
		}
		if _, err := store.Update(ctx, s, func(tx *store.Tx) error { return store.ReleasePort(tx, v) }); err != nil {
			return err
		}
	}
	return nil
}

// removeTasks deletes a deployment's tasks, and what says that they have not ended.
func removeTasks(ctx context.Context, s store.Store, e cell.Purge) error {
	tasks, err := store.Collect(store.List(ctx, s, store.Tasks, store.TasksOf(e.Tenant, e.Deployment), store.ScanOptions{}))
	if err != nil {
		return err
	}
	for some := range slices.Chunk(tasks, 20) {
		if _, err := store.Update(ctx, s, func(tx *store.Tx) error {
			for _, t := range some {
				tx.DropIndex(store.LiveTaskKey(t.TenantID, t.ID))
				if err := store.Remove(tx, store.Tasks, t); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// removeEnvironments deletes environments and control's index entries of them.
func removeEnvironments(tx *store.Tx, some []miosa.Environment) error {
	for _, env := range some {
		tx.DropIndex(store.LiveKey(env.TenantID, env.ID))
		tx.DropIndex(store.FenceKey(env.TenantID, env.ID))
		if err := store.Remove(tx, store.Environments, env); err != nil {
			return err
		}
	}
	return nil
}

// removeAll deletes the nouns under a prefix, a few at a time.
func removeAll[T any](ctx context.Context, s store.Store, k store.Kind[T], prefix string) error {
	const batch = 20
	all, err := store.Collect(store.List(ctx, s, k, prefix, store.ScanOptions{}))
	if err != nil {
		return err
	}
	for len(all) > 0 {
		n := min(batch, len(all))
		if err := removeSome(ctx, s, k, all[:n]); err != nil {
			return err
		}
		all = all[n:]
	}
	return nil
}

func removeSome[T any](ctx context.Context, s store.Store, k store.Kind[T], some []T) error {
	_, err := store.Update(ctx, s, func(tx *store.Tx) error {
		for _, v := range some {
			if err := store.Remove(tx, k, v); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

// removeKeys deletes index entries, a few at a time.
func removeKeys(ctx context.Context, s store.Store, prefix string) error {
	var keys []string
	for e, err := range s.Scan(ctx, prefix, store.ScanOptions{KeysOnly: true}) {
		if err != nil {
			return err
		}
		keys = append(keys, e.Key)
	}
	for some := range slices.Chunk(keys, store.MaxOps/2) {
		if _, err := s.Commit(ctx, store.Txn{Delete: some}); err != nil {
			return err
		}
	}
	return nil
}
