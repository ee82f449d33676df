package cell

import (
	"cmp"
	"slices"
	"time"

	"github.com/miosa/miosa"
)

const (
	// KeepInstances is how long ended instances are listed.
	KeepInstances = 7 * 24 * time.Hour
	// KeepAttempts is how long ended attempts at tasks are listed.
	KeepAttempts = 24 * time.Hour
	// KeepTasks is how many of the newest tasks of an environment are listed once
	// they have ended, and KeepTasksFor for how long.
	KeepTasks    = 500
	KeepTasksFor = 30 * 24 * time.Hour
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
	Tasks        []miosa.Task
}

// Sweep is what retention lets go of.
type Sweep struct {
	Archive   []miosa.Version // no longer bootable
	Collect   []miosa.Release // their bytes may go
	Rollouts  []miosa.Rollout
	Instances []miosa.Instance
	Tasks     []miosa.Task
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
	open := map[string]bool{} // task IDs
	for _, tasks := range newestFirst(r.Tasks, func(t miosa.Task) string { return t.EnvironmentID }, func(t miosa.Task) string { return t.ID }) {
		for n, t := range tasks {
			switch {
			case !t.State.Terminal():
				keep[t.VersionID], open[t.ID] = true, true
			case n >= KeepTasks || now.Sub(t.FinishedAt) >= KeepTasksFor:
				out.Tasks = append(out.Tasks, t)
			}
		}
	}
	for _, i := range r.Instances {
		stays := KeepInstances
		if i.Once() {
			stays = KeepAttempts
		}
		if !i.State().Terminal() {
			keep[i.VersionID] = true
		} else if ended := i.Observed.StoppedAt; !ended.IsZero() && now.Sub(ended) >= stays && !open[i.TaskID] {
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
		if s.PublicPort != 0 && !MayServe(s, r.Versions, keep) {
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

// MayServe reports whether a service speaks raw TCP in a version that is live, or
// may come to be.
func MayServe(s miosa.Service, versions []miosa.Version, keep map[string]bool) bool {
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
