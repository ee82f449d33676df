package agent

import (
	"context"
	"errors"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/lifecycle"
	"github.com/miosa/miosa/liveness"
	"github.com/miosa/miosa/vmm"
)

// actor is one instance: it owns the machine, and carries out its effects one
// after the other. Everything slow runs beside it and answers by post.
type actor struct {
	a         *Agent
	id        string
	once      bool // it is an attempt
	machine   *lifecycle.Machine
	inbox     chan lifecycle.Event
	done      chan struct{} // closed when the actor has ended
	forgot    chan struct{} // control does not know the instance any more
	unsaved   bool          // the state on disk is behind: the disk was full
	bound     bool          // it must not run for long without control
	boot      *boot         // the present one; nil between boots
	journal   *journal      // its log, over all boots
	systemLog systemLog
	figures   figures
	sealed    []byte
}

const inboxSize = 64

func (a *Agent) newActor(id string, m *lifecycle.Machine) *actor {
	in := m.Instance()
	return &actor{
		a: a, id: id, once: in.Once(), machine: m, inbox: make(chan lifecycle.Event, inboxSize), done: make(chan struct{}),
		forgot: make(chan struct{}, 1), journal: a.newJournal(m.Instance()), figures: newFigures(m.Instance()),
	}
}

// post never blocks for ever: an actor that has ended takes nothing more.
func (x *actor) post(ev lifecycle.Event) {
	select {
	case x.inbox <- ev:
	case <-x.done:
	}
}

// forget tells the actor that control does not know its instance.
func (x *actor) forget() {
	select {
	case x.forgot <- struct{}{}:
	default:
	}
}

// saveAgain is how soon a state that could not be written is tried again.
const saveAgain = 2 * time.Second

func (x *actor) run(ctx context.Context) {
	defer close(x.done)
	defer func() {
		if x.boot != nil {
			x.boot.leave()
		}
		x.bind(false)
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var ev lifecycle.Event
		select {
		case <-ctx.Done():
			return
		case ev = <-x.inbox:
		case <-x.forgot:
			ev = lifecycle.Assigned{Instance: orphaned(x.machine.Instance())}
		case <-timer.C:
			ev = lifecycle.Tick{}
		}
		if assigned, ok := ev.(lifecycle.Assigned); ok {
			x.assigned(assigned.Instance)
		}
		was, before := x.machine.Observation(), x.machine.Instance()
		if assigned, ok := ev.(lifecycle.Assigned); ok {
			// Before it is written down that they are: rather twice than not at all.
			for _, text := range newNotices(was, before, assigned.Instance) {
				x.journal.say(time.Now().UTC(), text)
			}
		}
		now := time.Now().UTC()
		effects := x.machine.Handle(now, lifecycle.Heard{Ago: x.a.contact.ago()})
		effects = append(effects, x.machine.Handle(now, ev)...)
		x.unready(was, x.machine.Observation())
		x.figures.observed(x.machine.Observation())
		x.a.counters.stepped(was, x.machine.Observation(), effects)
		if is := x.machine.Observation(); x.once && is.State.Terminal() {
			x.save(is) // before its VM goes, which keeps how its command ended until then
		}
		for _, effect := range effects {
			x.carryOut(ctx, effect)
		}
		for _, text := range x.systemLog.next(before, x.machine.Instance(), was, x.machine.Observation(), ev, effects) {
			x.journal.say(time.Now().UTC(), text)
		}
		if x.machine.Observation().State.Terminal() {
			x.journal.end()
			return
		}
		x.bind(x.machine.Instance().StopAfterDisconnect > 0)
		wait := time.Hour
		if x.bound {
			wait = liveness.BeatEvery // timers stand still while the machine sleeps
		}
		if at := x.machine.Wake(); !at.IsZero() {
			wait = min(wait, max(time.Until(at), 0))
		}
		if x.unsaved {
			x.save(x.machine.Observation())
			wait = min(wait, saveAgain)
		}
		timer.Reset(wait)
	}
}

// bind has it kept when control was heard, as long as the instance goes by that.
func (x *actor) bind(bound bool) {
	if bound == x.bound {
		return
	}
	x.bound = bound
	more := 1
	if !bound {
		more = -1
	}
	if err := x.a.contact.need(more); err != nil {
		x.a.log.Error("keep when control was heard", "instance", x.id, "err", err)
	}
}

// unready tells the operator of a guest that never came to run its command,
// which no app can do: what we could not even start has said so itself.
func (x *actor) unready(was, is miosa.Observation) {
	if f := is.Failure; f.Kind == miosa.FailureBoot && !f.At.Equal(was.Failure.At) {
		x.a.log.Warn("boot failed", "instance", x.id, "boot", was.Boot, "stage", "guest", "kind", string(f.Kind), "err", f.Message)
	}
}

// assigned applies how much may be logged, and keeps what the next start of
// ours needs: the boot spec, as sealed as it came.
func (x *actor) assigned(in miosa.Instance) {
	if in.Generation < x.machine.Instance().Generation {
		return
	}
	x.journal.limited(time.Now().UTC(), x.a.logLimit(in))
	if len(in.BootSpec) == 0 || string(in.BootSpec) == string(x.sealed) {
		return
	}
	x.sealed = in.BootSpec
	if err := x.a.disks.writeSpec(x.id, in.BootSpec); err != nil {
		x.a.log.Error("write boot spec", "instance", x.id, "err", err)
	}
}

func (x *actor) carryOut(ctx context.Context, effect lifecycle.Effect) {
	switch e := effect.(type) {
	case lifecycle.Boot:
		x.boot = newBoot(ctx, x, e.Boot)
		x.figures.begin(x.boot)
		x.a.wg.Go(x.boot.run)
	case lifecycle.Probe:
		x.probe(e)
	case lifecycle.StopGuest:
		if b := x.boot; b != nil {
			b.stopGuest(e.Deadline)
		}
	case lifecycle.Kill:
		if b := x.boot; b != nil {
			x.boot = nil
			x.figures.begin(nil)
			b.kill()
		}
	case lifecycle.Release:
		x.a.meters.finish(x.id)
		x.a.detach(ctx, x.id)
	case lifecycle.Report:
		if f := e.Observation.Failure; f.Kind != "" && len(f.LastLines) == 0 {
			x.machine.AttachLines(x.journal.tail.last())
			e.Observation.Failure = x.machine.Observation().Failure
		}
		x.save(e.Observation)
		x.a.report.add(e.Observation)
	}
}

// save writes the state down, before anybody is told of it. What can't be
// written is tried again: a later start would otherwise not know this boot.
func (x *actor) save(o miosa.Observation) {
	var handle vmm.Handle
	if o.State.Terminal() {
		x.a.keepEnded(o)
		if err := x.a.disks.removeDisk(x.id); err != nil {
			x.a.log.Error("remove ephemeral disk", "instance", x.id, "err", err)
		}
	} else if x.boot != nil {
		handle = x.boot.handle()
	}
	err := x.a.disks.writeState(state{Instance: x.machine.Instance(), Observation: o, VM: handle})
	if err != nil && !x.unsaved {
		x.a.log.Error("write state", "instance", x.id, "err", err)
	}
	x.unsaved = err != nil
}

// resume takes up a state that an earlier process of ours wrote.
func (x *actor) resume(ctx context.Context, s state, vm vmm.VM) {
	x.journal.resume(s.Tail)
	sealed, err := x.a.disks.readSpec(x.id)
	if err != nil && !errors.Is(err, errNoSpec) {
		x.a.log.Error("read boot spec", "instance", x.id, "err", err)
	}
	x.sealed = sealed
	x.a.report.add(s.Observation)
	x.figures.observed(s.Observation)
	switch s.Observation.State {
	case miosa.Starting, miosa.Healthy, miosa.Unhealthy, miosa.Stopping:
	default:
		return
	}
	x.boot = newBoot(ctx, x, s.Observation.Boot)
	if vm == nil {
		// What it logged since, and what we had not acknowledged, went with it.
		x.journal.say(time.Now().UTC(), "… lines may be missing here: the virtual machine ended while the platform was away …")
		x.boot.cancel()
		close(x.boot.over)
		x.inbox <- lifecycle.Vanished{Boot: s.Observation.Boot, Message: "the virtual machine ended while the platform was away", LastLines: x.journal.tail.last()}
		return
	}
	x.boot.vm = vm
	x.figures.begin(x.boot)
	x.a.wg.Go(x.boot.adopted)
}
