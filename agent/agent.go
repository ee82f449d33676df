// Package agent is one host: it runs what control assigns to it, one actor an
// instance, and goes on doing so while control is away. What an instance does
// next is decided by lifecycle; here it is carried out. After a restart of
// ours the VMs are found again and adopted.
package agent

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/lifecycle"
	"github.com/miosa/miosa/network"
	"github.com/miosa/miosa/vmm"
)

// Link is control as an agent sees it.
type Link interface {
	Register(ctx context.Context, h miosa.Host) error
	Assignments(ctx context.Context, hostID string) iter.Seq2[[]miosa.Instance, error]
	Observe(ctx context.Context, hostID string, o miosa.Observation) error
}

// Images makes the read-only base image of a release present on this host.
type Images interface {
	Ensure(ctx context.Context, sha256 string, kind miosa.Kind) (path string, err error)
}

// Opener opens what was sealed to this host.
type Opener interface {
	Open(sealed, aad []byte) ([]byte, error)
}

// Config says what this host is.
type Config struct {
	Dir         string // state of the instances; absolute
	Host        miosa.Host
	BootsAtOnce int // VMs between their start and their app's start; 0: 2
	Driver      vmm.Driver
	Network     network.Network
	Images      Images
	Opener      Opener
	Link        Link
	Log         *slog.Logger
}

// Agent runs the instances of one host.
type Agent struct {
	cfg    Config
	log    *slog.Logger
	disks  disks
	boots  chan struct{} // one token per boot under way
	probes *http.Client
	report *reporter

	mu     sync.Mutex // guards actors
	actors map[string]*actor
	wg     sync.WaitGroup
	ready  chan struct{}
}

// New checks the configuration and starts nothing.
func New(cfg Config) (*Agent, error) {
	if cfg.Dir == "" || cfg.Host.ID == "" || cfg.Driver == nil || cfg.Network == nil || cfg.Images == nil || cfg.Opener == nil || cfg.Link == nil || cfg.Log == nil {
		return nil, miosa.Errorf(miosa.Internal, "the agent's configuration is not complete")
	}
	if cfg.BootsAtOnce <= 0 {
		cfg.BootsAtOnce = 2
	}
	return &Agent{
		cfg: cfg, log: cfg.Log.With("host", cfg.Host.ID), disks: disks{dir: cfg.Dir},
		boots: make(chan struct{}, cfg.BootsAtOnce), probes: probeClient(),
		report: newReporter(cfg.Link, cfg.Host.ID, cfg.Log),
		actors: map[string]*actor{}, ready: make(chan struct{}),
	}, nil
}

// Ready is closed once earlier VMs were adopted and the host is registered.
func (a *Agent) Ready() <-chan struct{} { return a.ready }

// retryLink spaces attempts to reach control.
const retryLink = time.Second

// Run blocks until ctx ends. It leaves the VMs running: StopAll is what ends
// them.
func (a *Agent) Run(ctx context.Context) error {
	if err := a.disks.prepare(); err != nil {
		return err
	}
	if err := a.adopt(ctx); err != nil {
		return err
	}
	a.wg.Go(func() { a.report.run(ctx) })
	defer a.wg.Wait()
	for ctx.Err() == nil {
		if err := a.cfg.Link.Register(ctx, a.cfg.Host); err != nil {
			if ctx.Err() == nil {
				a.log.Warn("control does not take our registration", "err", err)
				pause(ctx, retryLink)
			}
			continue
		}
		a.follow(ctx)
	}
	return nil
}

// follow obeys control for as long as its stream lasts.
func (a *Agent) follow(ctx context.Context) {
	first := true
	for assigned, err := range a.cfg.Link.Assignments(ctx, a.cfg.Host.ID) {
		if err != nil {
			a.log.Warn("control's assignments ended", "err", err)
			pause(ctx, retryLink)
			return
		}
		if first {
			a.forget(ctx, assigned)
			first = false
			a.markReady()
		}
		for _, in := range assigned {
			a.assign(ctx, in)
		}
	}
}

func (a *Agent) markReady() {
	select {
	case <-a.ready:
	default:
		close(a.ready)
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// assign hands an assignment to its actor, a new one if need be.
func (a *Agent) assign(ctx context.Context, in miosa.Instance) {
	a.mu.Lock()
	x := a.actors[in.ID]
	if x == nil {
		if in.State().Terminal() {
			a.mu.Unlock()
			return
		}
		x = a.newActor(in.ID, lifecycle.New(in))
		a.start(ctx, x)
	}
	a.mu.Unlock()
	x.post(lifecycle.Assigned{Instance: in})
}

// forget stops what control does not know (any more).
func (a *Agent) forget(_ context.Context, assigned []miosa.Instance) {
	known := map[string]bool{}
	for _, in := range assigned {
		known[in.ID] = true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, x := range a.actors {
		if !known[id] {
			x.post(lifecycle.Assigned{Instance: x.orphan})
		}
	}
}

// start runs an actor; a.mu is held.
func (a *Agent) start(ctx context.Context, x *actor) {
	a.actors[x.id] = x
	a.wg.Go(func() {
		x.run(ctx)
		a.mu.Lock()
		if a.actors[x.id] == x {
			delete(a.actors, x.id)
		}
		a.mu.Unlock()
	})
}

// adopt takes up what an earlier process of ours left: VMs that still run are
// found again, the others crash on the usual path; what nobody knows is ended.
func (a *Agent) adopt(ctx context.Context) error {
	states, err := a.disks.states(a.log)
	if err != nil {
		return err
	}
	running := map[string]vmm.VM{} // by VM ID
	known := map[string]bool{}
	for _, s := range states {
		known[s.Instance.ID] = true
		if s.VM.ID == "" {
			continue
		}
		vm, err := a.cfg.Driver.Adopt(ctx, s.VM)
		if err != nil {
			a.log.Info("virtual machine is gone", "instance", s.Instance.ID, "vm", s.VM.ID, "err", err)
			continue
		}
		running[s.VM.ID] = vm
	}
	ended, err := a.cfg.Driver.Reclaim(ctx, func(id string) bool { return running[id] != nil })
	if err != nil {
		return fmt.Errorf("end leftover virtual machines: %w", err)
	}
	if len(ended) > 0 {
		a.log.Info("leftover virtual machines ended", "vms", ended)
	}
	if err := a.cfg.Network.Reclaim(ctx, func(id string) bool { return known[id] }); err != nil {
		return fmt.Errorf("remove leftover networks: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range states {
		x := a.newActor(s.Instance.ID, lifecycle.Resume(s.Instance, s.Observation, time.Now().UTC()))
		x.orphan = orphaned(s.Instance)
		x.resume(ctx, s, running[s.VM.ID])
		a.start(ctx, x)
	}
	if len(states) > 0 {
		a.log.Info("instances taken up again", "instances", len(states), "running", len(running))
	}
	return nil
}

// orphaned is the assignment of an instance that control no longer knows.
func orphaned(in miosa.Instance) miosa.Instance {
	in.Goal, in.GoalReason = miosa.GoalStop, "control does not know it"
	in.Generation++
	return in
}

// Shutdown stops every VM of this host, apps first asked to end, without
// touching what control wants: the next start boots them again. Call it after
// Run has returned.
func (a *Agent) Shutdown(ctx context.Context) error {
	states, err := a.disks.states(a.log)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	for _, s := range states {
		if s.VM.ID == "" {
			continue
		}
		vm, err := a.cfg.Driver.Adopt(ctx, s.VM)
		if err != nil {
			continue
		}
		_, launched := lifecycle.PhaseAt(s.Observation, "app_started")
		wg.Go(func() {
			// Before the app is launched there is nobody to ask.
			if launched {
				if err := stopVM(ctx, vm); err != nil {
					a.log.Warn("virtual machine did not stop by itself", "vm", s.VM.ID, "err", err)
				}
			}
			if err := vm.Kill(ctx); err != nil {
				a.log.Error("end virtual machine", "vm", s.VM.ID, "err", err)
			}
			if err := a.disks.paused(s); err != nil {
				a.log.Error("write state", "instance", s.Instance.ID, "err", err)
			}
		})
	}
	wg.Wait()
	_, err = a.cfg.Driver.Reclaim(ctx, func(string) bool { return false })
	return err
}
