package apitest

import (
	"context"
	"crypto/rand"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/store"
)

// Control moves rollouts as the real control plane does, in small. What a
// rollout comes to is written in its run command:
//
//	anything        becomes healthy and goes live
//	/app/broken     never becomes healthy: the version fails
//	/app/held       waits in its first step until Release, or until cancelled
type Control struct {
	store store.Store

	released chan struct{} // closed by Release
	once     sync.Once
}

const (
	cmdBroken = "/app/broken"
	cmdHeld   = "/app/held"
)

// Release lets every held rollout go on, also those to come.
func (c *Control) Release() { c.once.Do(func() { close(c.released) }) }

func (c *Control) run(ctx context.Context, after int64) {
	var work sync.WaitGroup
	defer work.Wait()
	cancelled := map[string]context.CancelFunc{}
	for batch, err := range c.store.Watch(ctx, store.AllTenants, after) {
		if err != nil {
			return
		}
		for _, change := range batch.Changes {
			noun, _ := store.Decode(change.Entry)
			if t, ok := noun.(miosa.Task); ok {
				c.task(ctx, t)
			}
			if v, ok := noun.(miosa.Version); ok {
				c.image(ctx, v)
			}
			r, ok := noun.(miosa.Rollout)
			switch {
			case !ok:
			case r.CancelledBy != "" && cancelled[r.ID] != nil:
				cancelled[r.ID]()
			case r.CancelledBy != "" && r.Step == miosa.StepPulling:
				c.move(ctx, r, miosa.StepCancelled, "cancelled", nil)
			case r.Step == miosa.StepStarting && cancelled[r.ID] == nil:
				life, cancel := context.WithCancel(ctx)
				cancelled[r.ID] = cancel
				work.Go(func() {
					defer cancel()
					c.roll(ctx, life, r)
				})
			}
		}
	}
}

// task takes one to its end, as its command says: /app/held runs until it is stopped,
// /app/broken exits with 1, all others with 0.
func (c *Control) task(ctx context.Context, t miosa.Task) {
	state, reason := miosa.TaskSucceeded, "its command exited with code 0"
	code, exited := 0, true
	switch {
	case t.State.Terminal():
		return
	case !t.StopAskedAt.IsZero():
		state, reason, exited = miosa.TaskStopped, "it was stopped by request", false
	case strings.Contains(t.Command, cmdHeld):
		if t.State == miosa.TaskRunning {
			return
		}
		state, reason, exited = miosa.TaskRunning, "its command runs", false
	case strings.Contains(t.Command, cmdBroken):
		state, reason, code = miosa.TaskFailed, "the command exited with code 1", 1
	}
	_, _ = store.Update(ctx, c.store, func(tx *store.Tx) error {
		now, err := store.Load(tx, store.Tasks, store.TaskKey(t.TenantID, t.DeploymentID, t.ID))
		if err != nil || now.Revision != t.Revision {
			return err // what has come since is followed as well
		}
		now.State, now.Reason, now.Attempt, now.Exited, now.ExitCode, now.UpdatedAt = state, reason, 1, exited, code, time.Now()
		if now.StartedAt.IsZero() {
			now.StartedAt = now.UpdatedAt
		}
		if state.Terminal() {
			now.FinishedAt = now.UpdatedAt
			tx.DropIndex(store.LiveTaskKey(t.TenantID, t.ID))
		}
		return store.Save(tx, store.Tasks, now)
	})
}

// image lets a rollout go on whose version has its image now, or has it fail.
func (c *Control) image(ctx context.Context, v miosa.Version) {
	if v.Image.Reference == "" || !v.Pulled() && v.Image.Failure == "" {
		return
	}
	for r, err := range store.List(ctx, c.store, store.Rollouts, store.RolloutsOf(v.TenantID, v.DeploymentID), store.ScanOptions{}) {
		switch {
		case err != nil:
			return
		case r.Step != miosa.StepPulling || r.TargetID != v.ID:
		case v.Pulled():
			c.move(ctx, r, miosa.StepStarting, "pulled", nil)
		default:
			c.move(ctx, r, miosa.StepFailed, v.Image.Failure, func(_ *store.Tx, v *miosa.Version, _ *miosa.Environment, _ *miosa.Deployment) error {
				v.State, v.ErrorMessage = miosa.VersionFailed, v.Image.Failure
				return nil
			})
		}
	}
}

// roll takes one rollout to its end. life ends when it is cancelled.
func (c *Control) roll(ctx, life context.Context, r miosa.Rollout) {
	v, err := store.Get(ctx, c.store, store.Versions, store.VersionKey(r.TenantID, r.DeploymentID, r.TargetID))
	if err != nil {
		return
	}
	command := v.Services[0].Command
	c.move(ctx, r, miosa.StepStarting, "0 of 1 instances healthy", func(tx *store.Tx, v *miosa.Version, _ *miosa.Environment, dep *miosa.Deployment) error {
		if v.State == miosa.VersionCreated {
			v.State = miosa.VersionBuilding
		}
		if dep.State == miosa.DeploymentPending {
			dep.State = miosa.DeploymentBuilding
		}
		return nil
	})
	if strings.HasPrefix(command, cmdHeld) {
		select {
		case <-life.Done():
		case <-c.released:
		}
	}
	switch {
	case ctx.Err() != nil:
		return
	case life.Err() != nil:
		c.move(ctx, r, miosa.StepCancelled, "cancelled", func(_ *store.Tx, v *miosa.Version, _ *miosa.Environment, _ *miosa.Deployment) error {
			if v.State == miosa.VersionBuilding {
				v.State, v.ErrorMessage = miosa.VersionFailed, "cancelled"
			}
			return nil
		})
		return
	case strings.HasPrefix(command, cmdBroken):
		reason := "web: the command exited with status 1 before it was healthy"
		c.move(ctx, r, miosa.StepFailed, reason, func(_ *store.Tx, v *miosa.Version, env *miosa.Environment, dep *miosa.Deployment) error {
			v.State, v.ErrorMessage, v.LastLines = miosa.VersionFailed, reason, []string{"starting", "panic: no configuration"}
			if env.ActiveVersionID == "" {
				dep.State = miosa.DeploymentFailed
			}
			return nil
		})
		return
	}
	c.move(ctx, r, miosa.StepFlipping, "1 of 1 instances healthy; waiting for the routers", func(tx *store.Tx, v *miosa.Version, _ *miosa.Environment, _ *miosa.Deployment) error {
		v.State = miosa.VersionReady
		return c.instances(ctx, tx, *v)
	})
	if !r.Promote {
		c.move(ctx, r, miosa.StepDone, "healthy; not promoted, as asked", nil)
		return
	}
	c.move(ctx, r, miosa.StepDraining, "every router sends requests to the new instances", func(tx *store.Tx, v *miosa.Version, env *miosa.Environment, dep *miosa.Deployment) error {
		if err := settle(tx, *v); err != nil {
			return err
		}
		if env.ActiveVersionID != v.ID {
			env.PreviousVersionID = env.ActiveVersionID
		}
		env.ActiveVersionID, env.ActiveSince, v.PromotedAt = v.ID, r.CreatedAt, time.Now()
		dep.State = miosa.DeploymentRunning
		return nil
	})
	c.move(ctx, r, miosa.StepDone, "live", nil)
}

// move writes a step, what goes with it, and an event.
func (c *Control) move(ctx context.Context, r miosa.Rollout, step miosa.RolloutStep, reason string, with func(*store.Tx, *miosa.Version, *miosa.Environment, *miosa.Deployment) error) {
	_, _ = store.Update(ctx, c.store, func(tx *store.Tx) error {
		now, err := store.Load(tx, store.Rollouts, store.RolloutKey(r.TenantID, r.DeploymentID, r.ID))
		if err != nil {
			return err
		}
		now.Step, now.Reason, now.UpdatedAt = step, reason, time.Now()
		if step.Terminal() {
			now.FinishedAt = now.UpdatedAt
			live := store.LiveKey(r.TenantID, r.EnvironmentID)
			if holder, err := tx.Index(live); err != nil {
				return err
			} else if holder == r.ID {
				tx.DropIndex(live)
			}
		}
		if err := store.Save(tx, store.Rollouts, now); err != nil {
			return err
		}
		if with != nil {
			if err := c.with(tx, r, with); err != nil {
				return err
			}
		}
		id, err := miosa.NewID(miosa.PrefixEvent, time.Now(), rand.Reader)
		if err != nil {
			return err
		}
		return store.Save(tx, store.Events, miosa.Event{
			ID: id, TenantID: r.TenantID, DeploymentID: r.DeploymentID, VersionID: r.TargetID, RolloutID: r.ID,
			Type: "rollout." + map[miosa.RolloutStep]string{
				miosa.StepStarting: "started", miosa.StepFlipping: "became_healthy", miosa.StepDraining: "flipped",
				miosa.StepDone: "completed", miosa.StepFailed: "failed", miosa.StepCancelled: "cancelled",
			}[step], Message: reason, Actor: "control", At: time.Now(),
		})
	})
}

func (c *Control) with(tx *store.Tx, r miosa.Rollout, fn func(*store.Tx, *miosa.Version, *miosa.Environment, *miosa.Deployment) error) error {
	v, err := store.Load(tx, store.Versions, store.VersionKey(r.TenantID, r.DeploymentID, r.TargetID))
	if err != nil {
		return err
	}
	env, err := store.Load(tx, store.Environments, store.EnvironmentKey(r.TenantID, r.DeploymentID, r.EnvironmentID))
	if err != nil {
		return err
	}
	dep, err := store.Load(tx, store.Deployments, store.DeploymentKey(r.TenantID, r.DeploymentID))
	if err != nil {
		return err
	}
	if err := fn(tx, &v, &env, &dep); err != nil {
		return err
	}
	if err := store.Save(tx, store.Versions, v); err != nil {
		return err
	}
	if err := store.Save(tx, store.Environments, env); err != nil {
		return err
	}
	return store.Save(tx, store.Deployments, dep)
}

// settle makes what a version brings of its services theirs.
func settle(tx *store.Tx, v miosa.Version) error {
	for _, spec := range v.Services {
		s, err := store.Load(tx, store.Services, store.ServiceKey(v.TenantID, v.DeploymentID, spec.ServiceID))
		if err != nil {
			return err
		}
		if next := v.Settled(s); !next.SameSettings(s) {
			if err := store.Save(tx, store.Services, next); err != nil {
				return err
			}
		}
	}
	return nil
}

// instances fills the slots of a version that is healthy, and ends the others'.
func (c *Control) instances(ctx context.Context, tx *store.Tx, v miosa.Version) error {
	for o, err := range store.List(ctx, c.store, store.Observations, store.ObservationsOf(v.TenantID, v.DeploymentID), store.ScanOptions{}) {
		if err != nil {
			return err
		}
		o.State, o.StoppedAt = miosa.Stopped, time.Now()
		if err := store.Save(tx, store.Observations, o); err != nil {
			return err
		}
	}
	for _, spec := range v.Services {
		s, err := store.Load(tx, store.Services, store.ServiceKey(v.TenantID, v.DeploymentID, spec.ServiceID))
		if err != nil {
			return err
		}
		for slot := range v.Settled(s).DesiredReplicas {
			id, err := miosa.NewID(miosa.PrefixInstance, time.Now(), rand.Reader)
			if err != nil {
				return err
			}
			now := time.Now()
			err = store.Save(tx, store.Instances, miosa.Instance{
				ID: id, TenantID: v.TenantID, DeploymentID: v.DeploymentID, EnvironmentID: v.EnvironmentID, ServiceID: s.ID,
				VersionID: v.ID, Slot: slot, Spec: spec, Goal: miosa.GoalRun, HostID: "host_00000000000000000000000001", Region: "local",
				Generation: 1, CreatedAt: now, UpdatedAt: now, ScheduledAt: now, CreatedReason: "the slot was empty",
			})
			if err != nil {
				return err
			}
			err = store.Save(tx, store.Observations, miosa.Observation{
				InstanceID: id, TenantID: v.TenantID, DeploymentID: v.DeploymentID, State: miosa.Healthy, Seq: 1, Boot: 1,
				Addr: netip.MustParseAddrPort("10.0.0.2:8080"), StartedAt: now, HealthyAt: now, ReportedAt: now,
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}
