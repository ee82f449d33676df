// Package agent is one host: it runs what control assigns to it, one actor an
// instance, and goes on doing so while control is away. What an instance does
// next is decided by lifecycle; here it is carried out. After a restart of
// ours the VMs are found again and adopted.
package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/agent/spool"
	"github.com/miosa/miosa/lifecycle"
	"github.com/miosa/miosa/liveness"
	"github.com/miosa/miosa/network"
	"github.com/miosa/miosa/vmm"
	"github.com/miosa/miosa/wire/guest"
)

// Link is control as an agent sees it.
type Link interface {
	// Register makes the host known and numbers this connection of its agent.
	Register(ctx context.Context, h miosa.Host) (session int64, err error)
	// Beat tells that the agent lives; seq counts within the session.
	Beat(ctx context.Context, hostID string, session, seq int64) error
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
	Dir  string // state of the instances; absolute
	Host miosa.Host
	// Addresses are this host's, asked for at each registration; nil: not told.
	Addresses   func() ([]netip.Addr, error)
	BootsAtOnce int // VMs between their start and their app's start; 0: 2
	Driver      vmm.Driver
	Network     network.Network
	Images      Images
	Opener      Opener
	Link        Link
	// Logs takes what the instances log; nil: nothing of it is kept but the last
	// lines, for failure reports.
	Logs spool.Shipper
	// LogSpool bounds what waits for Logs to take it. Its Dir, HostID, Shipper
	// and Log are set here.
	LogSpool spool.Config
	// LogLimit is how much each instance may log.
	LogLimit spool.Limit
	// Figures takes what is sampled of the instances; nil: it is for /metrics
	// alone.
	Figures Figures
	// Usage settles what the instances use; nil: nothing is counted.
	Usage UsageTaker
	Log   *slog.Logger
}

// Agent runs the instances of one host.
type Agent struct {
	cfg      Config
	log      *slog.Logger
	disks    disks
	boots    chan struct{} // one token per boot under way
	prober   prober
	report   *reporter
	spool    *spool.Spool  // nil without Config.Logs
	meter    network.Meter // nil: this network does not count
	counters *counters
	contact  contact
	meters   *meters // nil without Config.Usage; made by Run

	mu     sync.Mutex // guards actors and ended
	actors map[string]*actor
	// ended are the instances that are over here while control has not taken
	// the word of it: an assignment that crosses it must not begin them anew.
	ended map[string]miosa.Observation
	wg    sync.WaitGroup
	ready chan struct{}
}

// New checks the configuration and starts nothing.
func New(cfg Config) (*Agent, error) {
	if cfg.Dir == "" || cfg.Host.ID == "" || cfg.Driver == nil || cfg.Network == nil || cfg.Images == nil || cfg.Opener == nil || cfg.Link == nil || cfg.Log == nil {
		return nil, miosa.Errorf(miosa.Internal, "the agent's configuration is not complete")
	}
	if cfg.BootsAtOnce <= 0 {
		cfg.BootsAtOnce = 2
	}
	a := &Agent{
		cfg: cfg, log: cfg.Log.With("host", cfg.Host.ID), disks: disks{dir: cfg.Dir},
		boots: make(chan struct{}, cfg.BootsAtOnce), prober: newProber(network.Dialer(cfg.Network)),
		actors: map[string]*actor{}, ended: map[string]miosa.Observation{}, ready: make(chan struct{}), counters: newCounters(),
		contact: contact{path: filepath.Join(cfg.Dir, contactFile)},
	}
	a.meter, _ = cfg.Network.(network.Meter)
	if cfg.Logs != nil {
		own := cfg.LogSpool
		own.Dir, own.HostID, own.Shipper, own.Log = filepath.Join(cfg.Dir, spoolDir), cfg.Host.ID, cfg.Logs, cfg.Log
		var err error
		if a.spool, err = spool.New(own); err != nil {
			return nil, err
		}
	}
	a.report = newReporter(cfg.Link, cfg.Host.ID, cfg.Log, a.forgetEnded, a.disowned, a.recorded)
	return a, nil
}

// Ready is closed once earlier VMs were adopted and the host is registered.
func (a *Agent) Ready() <-chan struct{} { return a.ready }

// retryLink spaces attempts to reach control.
const retryLink = time.Second

// Run blocks until ctx ends. It leaves the VMs running: StopAll is what ends
// them.
func (a *Agent) Run(ctx context.Context) (err error) {
	if err := a.disks.prepare(); err != nil {
		return err
	}
	if a.spool != nil {
		if err := a.spool.Open(time.Now()); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, a.spool.Close()) }() // when nobody logs any more
	}
	if a.cfg.Usage != nil {
		if a.meters, err = openMeters(a.cfg.Dir, a.cfg.Network, a.log); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, a.meters.close()) }()
	}
	if err := a.contact.open(); err != nil {
		return err
	}
	defer a.wg.Wait()
	if err := a.adopt(ctx); err != nil {
		return err
	}
	a.wg.Go(func() { a.report.run(ctx) })
	a.wg.Go(func() { a.measure(ctx) })
	if a.meters != nil {
		a.wg.Go(func() { a.meters.run(ctx, a.cfg.Host.ID, a.cfg.Usage) })
	}
	if a.spool != nil {
		a.wg.Go(func() { _ = a.spool.Run(ctx) }) // which ends with ctx alone
	}
	for ctx.Err() == nil {
		session, err := a.register(ctx)
		if err == nil {
			// Before anything is assigned: what must not run without control needs one
			// that was acknowledged.
			err = a.beatOnce(ctx, session, 1)
		}
		if err != nil {
			if ctx.Err() == nil {
				a.log.Warn("connect to control", "err", err)
				pause(ctx, retryLink)
			}
			continue
		}
		connected, cut := context.WithCancel(ctx)
		beating := make(chan struct{})
		go func() {
			defer close(beating)
			a.beat(connected, session)
		}()
		a.follow(connected)
		cut()
		<-beating
	}
	return nil
}

// beat tells control that this agent lives, until ctx ends, beginning with the
// second beat of the session. One that is not taken is not repeated: the next one
// says as much.
func (a *Agent) beat(ctx context.Context, session int64) {
	tick := time.NewTicker(liveness.BeatEvery)
	defer tick.Stop()
	for seq := int64(2); ; seq++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := a.beatOnce(ctx, session, seq); err != nil && ctx.Err() == nil {
			a.log.Warn("beat", "err", err)
		}
	}
}

func (a *Agent) beatOnce(ctx context.Context, session, seq int64) error {
	sent := uptime()
	if err := a.cfg.Link.Beat(ctx, a.cfg.Host.ID, session, seq); err != nil {
		return err
	}
	if err := a.contact.acknowledged(sent); err != nil {
		a.log.Error("keep when control was heard", "err", err)
	}
	return nil
}

func (a *Agent) register(ctx context.Context) (session int64, err error) {
	host := a.cfg.Host
	if a.cfg.Addresses != nil {
		if host.Addresses, err = a.cfg.Addresses(); err != nil {
			return 0, err
		}
	}
	return a.cfg.Link.Register(ctx, host)
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
			a.forget(assigned)
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
		if o, over := a.ended[in.ID]; over || in.State().Terminal() {
			a.mu.Unlock()
			if over {
				a.report.add(o)
			}
			return
		}
		x = a.newActor(in.ID, lifecycle.New(in))
		a.start(ctx, x)
	}
	a.mu.Unlock()
	x.post(lifecycle.Assigned{Instance: in})
}

// forget stops what control does not know (any more).
func (a *Agent) forget(assigned []miosa.Instance) {
	known := map[string]bool{}
	for _, in := range assigned {
		known[in.ID] = true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, x := range a.actors {
		if !known[id] {
			x.forget()
		}
	}
}

// disowned: control does not know the instance, or not as this host's.
func (a *Agent) disowned(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if x := a.actors[id]; x != nil {
		x.forget()
	}
}

// recorded: control has a report, and has not refused it. To an attempt that is leave
// to begin, if it waits for that.
func (a *Agent) recorded(o miosa.Observation) {
	if o.State != miosa.Starting {
		return
	}
	a.mu.Lock()
	x := a.actors[o.InstanceID]
	a.mu.Unlock()
	if x != nil && x.once {
		x.post(lifecycle.Taken{Began: o.StartedAt})
	}
}

// keepEnded keeps the observation of an instance's end until control has it.
func (a *Agent) keepEnded(o miosa.Observation) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended[o.InstanceID] = o
}

// forgetEnded: control has the observation of its end, and nothing of it is needed.
func (a *Agent) forgetEnded(id string) {
	a.mu.Lock()
	delete(a.ended, id)
	a.mu.Unlock()
	if err := a.disks.remove(id); err != nil {
		a.log.Error("remove state", "instance", id, "err", err)
	}
}

const (
	detachAgain   = time.Second
	detachSlowest = time.Minute
)

// detach gives back what an instance that is over had of the host's network.
// What fails is tried again beside its actor until it is done or we end: the
// next start of ours takes back what is left.
func (a *Agent) detach(ctx context.Context, id string) {
	err := a.cfg.Network.Detach(context.WithoutCancel(ctx), id)
	if err == nil {
		return
	}
	a.log.Error("detach network: it is tried again", "instance", id, "err", err)
	a.wg.Go(func() {
		wait := detachAgain
		for pause(ctx, wait); ctx.Err() == nil; pause(ctx, wait) {
			if a.cfg.Network.Detach(ctx, id) == nil {
				a.log.Info("network detached", "instance", id)
				return
			}
			wait = min(2*wait, detachSlowest)
		}
	})
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
	known := map[string]bool{}     // and not over: those have nothing more of the network
	for _, s := range states {
		known[s.Instance.ID] = !s.Observation.State.Terminal()
		if s.VM.ID == "" {
			continue
		}
		vm, err := a.cfg.Driver.Adopt(ctx, s.VM)
		switch {
		case errors.Is(err, vmm.ErrGone):
			a.log.Info("virtual machine is gone", "instance", s.Instance.ID, "vm", s.VM.ID)
			continue
		case err != nil:
			// It may well run: to go on would end it as a leftover.
			return fmt.Errorf("take up virtual machine %s again: %w", s.VM.ID, err)
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
	for _, s := range states {
		switch {
		case s.Observation.State.Terminal(): // finished with the others
		case running[s.VM.ID] != nil:
			a.meters.running(s.Instance.ID, s.VM.ID, s.Instance.Spec.Resources)
		default:
			a.meters.idle(s.Instance.ID)
		}
	}
	a.meters.finishOthers(func(id string) bool { return known[id] }) // their taps go now
	if err := a.cfg.Network.Reclaim(ctx, func(id string) bool { return known[id] }); err != nil {
		return fmt.Errorf("remove leftover networks: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range states {
		if s.Observation.State.Terminal() {
			a.ended[s.Instance.ID] = s.Observation
			a.report.add(s.Observation)
			continue
		}
		x := a.newActor(s.Instance.ID, lifecycle.Resume(s.Instance, s.Observation, time.Now().UTC()))
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

// Shutdown stops every VM of this host without touching what control wants:
// see StopAll. Call it after Run has returned.
func (a *Agent) Shutdown(ctx context.Context) error {
	return StopAll(ctx, a.cfg.Dir, a.cfg.Driver, a.cfg.Network, a.log)
}

// StopAll stops every VM that an agent of the directory has running, apps
// asked to end first. The instances are left waiting for their next boot,
// which counts as no failure: the next start of an agent boots them again; attempts,
// which boot once, have ended. The network's counters are read a last time: it may be cleared then.
func StopAll(ctx context.Context, dir string, driver vmm.Driver, net network.Network, log *slog.Logger) error {
	d := disks{dir: dir}
	if err := d.prepare(); err != nil {
		return err
	}
	states, err := d.states(log)
	if err != nil {
		return err
	}
	meters, err := openMeters(dir, net, log)
	if err != nil {
		log.Error("count the last of what the instances used", "err", err)
	}
	if len(states) > 0 {
		a, err := lastJournals(dir, states[0].Instance.HostID, log)
		if err != nil {
			// The VMs must end, whether their last words are kept or not.
			log.Error("keep the last logs of the instances", "err", err)
			a = &Agent{log: log}
		}
		var wg sync.WaitGroup
		for _, s := range states {
			if !s.Observation.State.Terminal() {
				wg.Go(func() { stopInstance(ctx, &d, driver, a.newJournal(s.Instance), meters, log, s) })
			}
		}
		wg.Wait()
		if a.spool != nil {
			if err := a.spool.Close(); err != nil {
				log.Error("keep the last logs of the instances", "err", err)
			}
		}
	}
	_, err = driver.Reclaim(ctx, func(string) bool { return false })
	if meters != nil {
		meters.tick()
		err = errors.Join(err, meters.close())
	}
	return err
}

// Left is how many VMs an agent of the directory has left behind, as far as it
// wrote down: StopAll ends them.
func Left(dir string, log *slog.Logger) (n int, err error) {
	d := disks{dir: dir}
	states, err := d.states(log)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	for _, s := range states {
		if s.VM.ID != "" {
			n++
		}
	}
	return n, err
}

func stopInstance(ctx context.Context, d *disks, driver vmm.Driver, j *journal, m *meters, log *slog.Logger, s state) {
	if s.Observation.State == miosa.Pending {
		return
	}
	var exit *guest.Exit
	if s.VM.ID != "" {
		vm, err := driver.Adopt(ctx, s.VM)
		switch {
		case errors.Is(err, vmm.ErrGone) && s.Observation.State != miosa.Starting:
			return // it crashed by itself: the next start says so
		case err == nil:
			j.say(time.Now().UTC(), "stopping: its host goes down")
			m.running(s.Instance.ID, s.VM.ID, s.Instance.Spec.Resources)
			exit = stopVM(ctx, vm, s, j, log)
			m.ended(s.Instance.ID, s.VM.ID)
		case !errors.Is(err, vmm.ErrGone):
			log.Error("find virtual machine", "vm", s.VM.ID, "err", err)
		}
	}
	write := d.paused
	if s.Instance.Once() {
		s.Observation = endedWithHost(time.Now().UTC(), s, exit, j.tail.last())
		write = d.ended
	}
	if err := write(s); err != nil {
		log.Error("write state", "instance", s.Instance.ID, "err", err)
	}
}
