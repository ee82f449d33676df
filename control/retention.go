package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/artifact"
	"github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/records"
	"github.com/miosa/miosa/steady"
	"github.com/miosa/miosa/store"
)

// Evictor drops base images that nothing needs.
type Evictor interface {
	// Evict drops images that keep does not hold, least recently used first,
	// until no more than maxBytes are left, and returns the bytes freed.
	Evict(keep func(sha256 string) bool, maxBytes int64) (freed int64, err error)
}

// Retention sweeps the records and, after them, the bytes. One a cell.
type Retention struct {
	Store    store.Store
	Blobs    artifact.Blobs
	Images   Evictor
	MaxBytes int64 // of base images
	Log      *slog.Logger
}

const (
	sweepFirst = time.Minute
	sweepEvery = time.Hour
)

// Run sweeps soon after the start and then every hour, until ctx ends.
func (r *Retention) Run(ctx context.Context) {
	var clock steady.Clock
	clock.By(time.Now(), r.Log) // a jump before the first sweep is one too
	timer := time.NewTimer(sweepFirst)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if err := r.Sweep(ctx, clock.By(time.Now(), r.Log).UTC()); err != nil && ctx.Err() == nil {
			r.Log.Error("retention", "err", err)
		}
		timer.Reset(sweepEvery)
	}
}

// Sweep lets go of what cell.Retain names, everywhere, once.
func (r *Retention) Sweep(ctx context.Context, now time.Time) error {
	deployments, err := r.load(ctx)
	if err != nil {
		return err
	}
	needed := map[string]bool{} // digests
	for _, id := range slices.Sorted(maps.Keys(deployments)) {
		rec := deployments[id]
		sweep := cell.Retain(now, *rec)
		gone, err := r.apply(ctx, now, sweep)
		if err != nil {
			return fmt.Errorf("sweep %s: %w", id, err)
		}
		for _, rel := range rec.Releases {
			if rel.State == miosa.ReleaseReady && !gone[rel.ID] {
				needed[rel.SHA256] = true
			}
		}
		for _, i := range rec.Instances {
			if !i.State().Terminal() {
				needed[i.Spec.SHA256] = true
			}
		}
	}
	collected, err := artifact.Collect(ctx, r.Blobs, func(sha string) bool { return needed[sha] }, now.Add(-cell.KeepUnused))
	if err != nil {
		return fmt.Errorf("collect artefacts: %w", err)
	}
	freed, err := r.Images.Evict(func(sha string) bool { return needed[sha] }, r.MaxBytes)
	if err != nil {
		return fmt.Errorf("evict base images: %w", err)
	}
	if collected.Blobs > 0 || freed > 0 {
		r.Log.Info("retention swept", "artefacts", collected.Blobs, "artefact_bytes", collected.Bytes, "image_bytes", freed)
	}
	return nil
}

func (r *Retention) load(ctx context.Context) (map[string]*cell.Records, error) {
	out := map[string]*cell.Records{}
	of := func(id string) *cell.Records {
		if out[id] == nil {
			out[id] = &cell.Records{}
		}
		return out[id]
	}
	loaded, err := records.All(ctx, r.Store)
	if err != nil {
		return nil, err
	}
	observed := map[string]miosa.Observation{}
	for _, n := range loaded.Nouns {
		if o, ok := n.(miosa.Observation); ok {
			observed[o.InstanceID] = o
		}
	}
	for _, n := range loaded.Nouns {
		switch v := n.(type) {
		case miosa.Environment:
			of(v.DeploymentID).Environments = append(of(v.DeploymentID).Environments, v)
		case miosa.Version:
			of(v.DeploymentID).Versions = append(of(v.DeploymentID).Versions, v)
		case miosa.Release:
			of(v.DeploymentID).Releases = append(of(v.DeploymentID).Releases, v)
		case miosa.Rollout:
			of(v.DeploymentID).Rollouts = append(of(v.DeploymentID).Rollouts, v)
		case miosa.Service:
			of(v.DeploymentID).Services = append(of(v.DeploymentID).Services, v)
		case miosa.Task:
			of(v.DeploymentID).Tasks = append(of(v.DeploymentID).Tasks, v)
		case miosa.Instance:
			v.Observed = observed[v.ID]
			of(v.DeploymentID).Instances = append(of(v.DeploymentID).Instances, v)
		}
	}
	return out, nil
}

// apply writes one deployment's sweep and returns the IDs of the releases that
// it archived. What changed meanwhile is left for the next time: every save
// holds the revision that was looked at.
func (r *Retention) apply(ctx context.Context, now time.Time, s cell.Sweep) (archived map[string]bool, err error) {
	for _, v := range s.Archive {
		v.State, v.ArchivedAt, v.UpdatedAt = miosa.VersionArchived, now, now
		v.Vars, v.LastLines = nil, nil // never booted again
		if _, err := r.one(ctx, func(tx *store.Tx) error {
			if err := idle(tx, s.Environments); err != nil {
				return err
			}
			return store.Save(tx, store.Versions, v)
		}); err != nil {
			return nil, err
		}
	}
	archived = map[string]bool{}
	for _, rel := range s.Collect {
		rel.State, rel.ArchivedAt = miosa.ReleaseArchived, now
		done, err := r.one(ctx, func(tx *store.Tx) error {
			if err := r.unused(ctx, tx, rel); err != nil {
				return err
			}
			// The same bytes uploaded again must become a release anew.
			tx.DropIndex(store.ReleaseSHAKey(rel.TenantID, rel.DeploymentID, rel.SHA256))
			return store.Save(tx, store.Releases, rel)
		})
		if err != nil {
			return nil, err
		}
		archived[rel.ID] = done
	}
	for _, v := range s.Services {
		if _, err := r.one(ctx, func(tx *store.Tx) error { return r.releasePort(ctx, tx, s.Environments, v) }); err != nil {
			return nil, err
		}
	}
	for _, ro := range s.Rollouts {
		if _, err := r.one(ctx, func(tx *store.Tx) error { return store.Remove(tx, store.Rollouts, ro) }); err != nil {
			return nil, err
		}
	}
	for _, i := range s.Instances {
		o := i.Observed
		if _, err := r.one(ctx, func(tx *store.Tx) error {
			if err := store.Remove(tx, store.Observations, o); err != nil {
				return err
			}
			return store.Remove(tx, store.Instances, i)
		}); err != nil {
			return nil, err
		}
	}
	for _, t := range s.Tasks {
		if _, err := r.one(ctx, func(tx *store.Tx) error { return store.Remove(tx, store.Tasks, t) }); err != nil {
			return nil, err
		}
	}
	return archived, nil
}

// unused makes it a condition that no version has come to use the release since
// it was looked at. To use one changes nothing on its record, and a publish may
// be over by now.
func (r *Retention) unused(ctx context.Context, tx *store.Tx, rel miosa.Release) error {
	environments, err := store.Collect(store.List(ctx, r.Store, store.Environments, store.EnvironmentsOf(rel.TenantID, rel.DeploymentID), store.ScanOptions{}))
	if err != nil {
		return err
	}
	if err := idle(tx, environments); err != nil {
		return err
	}
	for v, err := range store.List(ctx, r.Store, store.Versions, store.VersionsOf(rel.TenantID, rel.DeploymentID), store.ScanOptions{}) {
		if err != nil {
			return err
		}
		if v.State != miosa.VersionArchived && slices.ContainsFunc(v.Services, func(s miosa.ServiceSpec) bool { return s.ReleaseID == rel.ID }) {
			return store.ErrConflict
		}
	}
	return nil
}

// releasePort takes a service's port back, unless a version has come to need it
// since it was looked at: one that is made, or becomes live, writes a rollout
// and its environment.
func (r *Retention) releasePort(ctx context.Context, tx *store.Tx, environments []miosa.Environment, s miosa.Service) error {
	if err := idle(tx, environments); err != nil {
		return err
	}
	keep := map[string]bool{}
	for _, env := range environments {
		now, err := store.Load(tx, store.Environments, store.EnvironmentKey(env.TenantID, env.DeploymentID, env.ID))
		if err != nil {
			return err
		}
		keep[now.ActiveVersionID], keep[now.PreviousVersionID] = true, true
	}
	versions, err := store.Collect(store.List(ctx, r.Store, store.Versions, store.VersionsOf(s.TenantID, s.DeploymentID), store.ScanOptions{}))
	if err != nil {
		return err
	}
	if cell.MayServe(s, versions, keep) {
		return store.ErrConflict
	}
	if err := store.ReleasePort(tx, s); err != nil {
		return err
	}
	s.PublicPort = 0
	return store.Save(tx, store.Services, s)
}

// idle makes it a condition that no rollout is live: a publish, or a rollback,
// may have been accepted since we looked.
func idle(tx *store.Tx, environments []miosa.Environment) error {
	for _, env := range environments {
		holder, err := tx.Index(store.LiveKey(env.TenantID, env.ID))
		if err != nil {
			return err
		}
		if holder != "" {
			return store.ErrConflict
		}
	}
	return nil
}

// one writes a change, unless something it rests on has changed meanwhile.
func (r *Retention) one(ctx context.Context, fn func(tx *store.Tx) error) (done bool, err error) {
	_, err = store.Try(ctx, r.Store, fn)
	if errors.Is(err, store.ErrConflict) || miosa.CodeOf(err) == miosa.Precondition {
		return false, nil
	}
	return err == nil, err
}
