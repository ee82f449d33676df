package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/artifact"
	"github.com/miosa/miosa/steady"
	"github.com/miosa/miosa/store"
)

const (
	// KeepInstances is how long ended instances are listed.
	KeepInstances = 7 * 24 * time.Hour
	// KeepVersions is how many of the newest versions of an environment can be
	// rolled back to, besides the active and the previous one.
	KeepVersions = 20
	// KeepRollouts is how many ended rollouts of an environment are listed.
	KeepRollouts = 50
	// KeepUnused is how long a release that no version uses is kept: between
	// its upload and its publish.
	KeepUnused = 24 * time.Hour
)

// Records are one deployment's, as retention looks at them.
type Records struct {
	Environments []miosa.Environment
	Versions     []miosa.Version
	Releases     []miosa.Release
	Rollouts     []miosa.Rollout
	Instances    []miosa.Instance // Observed joined
	Services     []miosa.Service
}

// Sweep is what retention lets go of.
type Sweep struct {
	Archive   []miosa.Version // no longer bootable
	Collect   []miosa.Release // their bytes may go
	Rollouts  []miosa.Rollout
	Instances []miosa.Instance
	Services  []miosa.Service // that give their port back
	// Environments of the deployment: while a rollout is live in one, nothing
	// is archived or collected.
	Environments []miosa.Environment
}

// Retain says what is no longer kept. It never names what is live, what a
// rollout is about, what an instance runs, or what one can roll back to.
func Retain(now time.Time, r Records) Sweep {
	out := Sweep{Environments: r.Environments}
	keep := map[string]bool{} // version IDs
	for _, e := range r.Environments {
		keep[e.ActiveVersionID], keep[e.PreviousVersionID] = true, true
	}
	for _, ro := range r.Rollouts {
		if !ro.Step.Terminal() {
			keep[ro.TargetID], keep[ro.FromID] = true, true
		}
	}
	for _, i := range r.Instances {
		if !i.State().Terminal() {
			keep[i.VersionID] = true
		} else if ended := i.Observed.StoppedAt; !ended.IsZero() && now.Sub(ended) >= KeepInstances {
			out.Instances = append(out.Instances, i)
		}
	}
	used := map[string]bool{} // release IDs
	for _, versions := range newestFirst(r.Versions, func(v miosa.Version) string { return v.EnvironmentID }, func(v miosa.Version) string { return v.ID }) {
		for n, v := range versions {
			if v.State == miosa.VersionReady || v.State == miosa.VersionFailed {
				if n >= KeepVersions && !keep[v.ID] {
					out.Archive = append(out.Archive, v)
					continue
				}
			}
			if v.State != miosa.VersionArchived {
				for _, s := range v.Services {
					used[s.ReleaseID] = true
				}
			}
		}
	}
	for _, s := range r.Services {
		if s.PublicPort != 0 && !mayServe(s, r.Versions, keep) {
			out.Services = append(out.Services, s)
		}
	}
	for _, rel := range r.Releases {
		if rel.State == miosa.ReleaseReady && !used[rel.ID] && now.Sub(rel.CreatedAt) >= KeepUnused {
			out.Collect = append(out.Collect, rel)
		}
	}
	for _, rollouts := range newestFirst(r.Rollouts, func(x miosa.Rollout) string { return x.EnvironmentID }, func(x miosa.Rollout) string { return x.ID }) {
		for n, ro := range rollouts {
			if n >= KeepRollouts && ro.Step.Terminal() {
				out.Rollouts = append(out.Rollouts, ro)
			}
		}
	}
	return out
}

// mayServe reports whether a service speaks raw TCP in a version that is live, or
// may come to be.
func mayServe(s miosa.Service, versions []miosa.Version, keep map[string]bool) bool {
	return slices.ContainsFunc(versions, func(v miosa.Version) bool {
		spec, ok := v.Service(s.ID)
		gone := v.State == miosa.VersionArchived || v.State == miosa.VersionFailed
		return ok && spec.Protocol == miosa.ProtocolTCP && (!gone || keep[v.ID])
	})
}

// newestFirst groups by a key, each group ordered by ID, the newest first;
// groups in order of their keys.
func newestFirst[T any](all []T, group, id func(T) string) [][]T {
	byKey := map[string][]T{}
	for _, v := range all {
		byKey[group(v)] = append(byKey[group(v)], v)
	}
	var out [][]T
	for _, k := range sortedKeys(byKey) {
		slices.SortFunc(byKey[k], func(a, b T) int { return cmp.Compare(id(b), id(a)) })
		out = append(out, byKey[k])
	}
	return out
}

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

// Sweep lets go of what Retain names, everywhere, once.
func (r *Retention) Sweep(ctx context.Context, now time.Time) error {
	deployments, err := r.load(ctx)
	if err != nil {
		return err
	}
	needed := map[string]bool{} // digests
	for _, id := range sortedKeys(deployments) {
		rec := deployments[id]
		sweep := Retain(now, *rec)
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
	collected, err := artifact.Collect(ctx, r.Blobs, func(sha string) bool { return needed[sha] }, now.Add(-KeepUnused))
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

func (r *Retention) load(ctx context.Context) (map[string]*Records, error) {
	out := map[string]*Records{}
	of := func(id string) *Records {
		if out[id] == nil {
			out[id] = &Records{}
		}
		return out[id]
	}
	loaded, err := LoadAll(ctx, r.Store)
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
func (r *Retention) apply(ctx context.Context, now time.Time, s Sweep) (archived map[string]bool, err error) {
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
	if mayServe(s, versions, keep) {
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
