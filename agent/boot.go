package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"syscall"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/lifecycle"
	"github.com/miosa/miosa/network"
	"github.com/miosa/miosa/timekeeping"
	"github.com/miosa/miosa/vmm"
)

// boot is one boot of an instance, from its image to the end of its VM. run
// (or adopted) is its one goroutine; the actor calls the other methods.
type boot struct {
	x      *actor
	number int
	in     miosa.Instance // the assignment as it was when the boot began
	sealed []byte         // its boot spec
	ctx    context.Context
	cancel context.CancelFunc // ends the preparation and the session, not the VM
	ours   context.Context    // ends with our process's part in everything
	over   chan struct{}      // closed when the goroutine has ended

	mu      sync.Mutex // guards vm, killed, stop and public
	public  *url.URL   // where users reach its environment; nil: not looked up yet
	vm      vmm.VM
	killed  bool
	stop    chan time.Duration // asks the session to stop the guest
	slot    func()             // gives the boot slot back
	address network.Attachment
	resumed bool // the VM is a copy that waits for its configuration
	// talks: the guest may have lines to say. Its goroutine's, until that is over.
	talks bool
	// checks are commands to be run in the guest.
	checks chan execution
	// clock keeps the guest's, by ours since clockFrom. Its goroutine's as well.
	clock     timekeeping.Keeper
	clockFrom time.Time
}

func newBoot(ours context.Context, x *actor, number int) *boot {
	ctx, cancel := context.WithCancel(ours)
	return &boot{x: x, number: number, ours: ours, in: x.machine.Instance(), sealed: x.sealed, ctx: ctx, cancel: cancel, over: make(chan struct{}), stop: make(chan time.Duration, 1), checks: make(chan execution), slot: func() {}}
}

func (b *boot) id() string { return fmt.Sprintf("%s-%d", b.x.id, b.number) }

func (b *boot) handle() vmm.Handle {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.vm == nil {
		return vmm.Handle{}
	}
	return b.vm.Handle()
}

// reached tells the machine of a phase that ends now.
func (b *boot) reached(name string) { b.reachedAt(name, time.Now().UTC(), "") }

func (b *boot) reachedAt(name string, at time.Time, hint string) {
	b.x.post(lifecycle.Reached{Boot: b.number, Name: name, At: at, Hint: hint})
}

// run prepares and starts the VM and then talks to its guest until it ends.
func (b *boot) run() {
	defer close(b.over)
	vm, err := b.start()
	if err != nil {
		b.slot()
		b.failed(err)
		return
	}
	b.talk(vm)
}

// adopted goes on with a VM that an earlier process of ours started.
func (b *boot) adopted() {
	defer close(b.over)
	b.talks = true
	b.meter(b.vm)
	b.talk(b.vm)
}

// meter notes when the VM ends.
func (b *boot) meter(vm vmm.VM) {
	if b.x.a.meters == nil {
		return
	}
	b.x.a.wg.Go(func() {
		select {
		case <-vm.Done():
			b.x.a.meters.ended(b.x.id, b.id())
		case <-b.ours.Done():
		}
	})
}

// start makes image, disk and network ready and starts the VM.
func (b *boot) start() (vmm.VM, error) {
	x, in := b.x, b.in
	base, err := x.a.cfg.Images.Ensure(b.ctx, in.Spec.SHA256, in.Spec.Kind)
	if err != nil {
		return nil, stageError{"image", err}
	}
	b.reached("image_ready")
	select {
	case x.a.boots <- struct{}{}:
		b.slot = sync.OnceFunc(func() { <-x.a.boots })
	case <-b.ctx.Done():
		return nil, b.ctx.Err()
	}
	b.reached("slot_free")
	b.address, err = x.a.cfg.Network.Attach(b.ctx, x.id, in.Spec.Port, in.Spec.Resources.EgressMbps)
	if err != nil {
		return nil, stageError{"network", err}
	}
	x.a.meters.idle(x.id)
	disk, origin, err := x.a.disks.place(x.id, in.Spec.Resources.DiskMB)
	if err != nil {
		return nil, stageError{"disk", err}
	}
	vm, err := x.a.cfg.Driver.Start(b.ctx, vmm.Spec{
		ID: b.id(), VCPUs: in.Spec.Resources.VCPUs, MemoryMB: in.Spec.Resources.MemoryMB,
		BaseDisk: base, DataDisk: disk, DataOrigin: origin, NIC: b.address.NIC, UID: b.address.UID,
	})
	if err != nil {
		return nil, stageError{"launch", err}
	}
	x.a.meters.running(x.id, b.id(), in.Spec.Resources) // known before anybody is told of the VM
	b.meter(vm)
	b.mu.Lock()
	b.vm = vm
	killed := b.killed
	b.mu.Unlock()
	if killed {
		b.destroy(vm)
		return nil, context.Canceled
	}
	h := vm.Handle()
	x.post(lifecycle.Started{Boot: b.number, VMID: b.id(), Addr: b.address.Address, At: h.Started.UTC()})
	if b.resumed = !h.Resumed.IsZero(); b.resumed {
		b.reachedAt("resumed", h.Resumed.UTC(), "")
	}
	return vm, nil
}

// stageError says in which part of a boot something failed.
type stageError struct {
	stage string // a key of stageWords
	error
}

func (e stageError) Unwrap() error { return e.error }

// stageWords put what failed into a customer's words.
var stageWords = map[string]string{
	"image":     "the host could not make the root file system of the release",
	"network":   "the host could not connect the instance to its network",
	"disk":      "the host could not make the instance's disk",
	"launch":    "the host could not start the virtual machine",
	"configure": "the host could not hand the virtual machine its configuration",
}

// failed tells the machine, and the operator, that the boot came to nothing
// before the guest did anything. The cause is in the log alone.
func (b *boot) failed(err error) {
	if b.ctx.Err() != nil {
		return // called off
	}
	f, stage := failureOf(err), ""
	if at, ok := errors.AsType[stageError](err); ok {
		stage = at.stage
	}
	level := slog.LevelError
	if f.Kind == miosa.FailureImage {
		level = slog.LevelWarn // its author's to mend
	}
	b.x.a.log.Log(b.ctx, level, "boot failed", "instance", b.x.id, "boot", b.number, "stage", stage, "kind", string(f.Kind), "err", err)
	b.x.post(lifecycle.NotStarted{Boot: b.number, Failure: f})
}

// failureOf puts a boot that did not start into a customer's words. Of what is
// the host's own fault they hear in which part of it: the log has the cause.
func failureOf(err error) miosa.Failure {
	f := miosa.Failure{Kind: miosa.FailureHost, At: time.Now().UTC()}
	at, _ := errors.AsType[stageError](err)
	said, _ := errors.AsType[*miosa.Error](err)
	switch {
	case errors.Is(err, syscall.ENOSPC) || miosa.CodeOf(err) == miosa.NoSpace:
		f.Message = "the host's disk is full"
	case at.stage == "image" && miosa.CodeOf(err) == miosa.Invalid:
		f.Kind, f.Message = miosa.FailureImage, "the release cannot be made into a root file system: "+said.Message
	case at.stage == "image" && miosa.CodeOf(err) == miosa.NotFound:
		f.Kind, f.Message = miosa.FailureImage, "the release's artefact is gone"
	default:
		f.Message = cmp.Or(stageWords[at.stage], stageWords["launch"])
	}
	return f
}

// stopGuest asks the session to stop the app. Without a session that could,
// the machine's deadline kills.
func (b *boot) stopGuest(deadline time.Duration) {
	select {
	case b.stop <- deadline:
	default:
	}
}

// kill ends everything of this boot and waits for it.
func (b *boot) kill() {
	b.mu.Lock()
	b.killed = true
	vm := b.vm
	b.mu.Unlock()
	b.cancel()
	if vm != nil {
		b.end(vm)
	}
	b.drainInbox()
	b.unsaid()
	b.slot()
	if err := b.x.a.disks.removeDisk(b.x.id); err != nil {
		b.x.a.log.Error("remove ephemeral disk", "instance", b.x.id, "err", err)
	}
}

// killFor is how long the end of a VM may take.
const killFor = 30 * time.Second

// end kills the VM. What a dead one leaves on the host is cleared away beside
// us: the next boot, which shares nothing with it, need not wait.
func (b *boot) end(vm vmm.VM) {
	b.x.a.wg.Go(func() { b.destroy(vm) })
	select {
	case <-vm.Done():
		b.x.a.meters.ended(b.x.id, b.id())
	case <-time.After(killFor): // it has failed, and said so
	}
}

// destroy kills the VM and waits until nothing is left of it.
func (b *boot) destroy(vm vmm.VM) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(b.ctx), killFor)
	defer cancel()
	if err := vm.Kill(ctx); err != nil {
		b.x.a.log.Error("end virtual machine", "instance", b.x.id, "vm", b.id(), "err", err)
	}
}

// drainInbox waits for the boot's goroutine, which may be blocked on posting
// to the very actor that waits here: events of a dead boot are dropped.
func (b *boot) drainInbox() {
	var keep []lifecycle.Event
	for {
		select {
		case <-b.over:
			for _, ev := range keep {
				select {
				case b.x.inbox <- ev:
				default:
					go b.x.post(ev)
				}
			}
			return
		case ev := <-b.x.inbox:
			if _, ok := ev.(lifecycle.Assigned); ok {
				keep = append(keep, ev)
			}
		}
	}
}

// leave ends our part and lets the VM run: the platform goes down.
func (b *boot) leave() { b.cancel() }
