package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/miosa/miosa/disk"
	"github.com/miosa/miosa/vmm"
	"github.com/miosa/miosa/wire/guest"
)

// Under emulation the kernel's start is most of a boot, and the same every
// time. So the first VM of a shape boots a template: a machine without disks
// or customer that stops where it would wait for its configuration. Its memory
// and its devices' state are kept in two sealed files in memory, and this VM
// and all later ones of the shape go on from there as copies, each in a memory
// of its own that the template's was copied into.
//
// What all copies of a template have in common, besides the code: where the
// kernel lies in its address space. Random numbers and the clock are set anew
// in every copy before it runs anything (guest/template.go).
//
// Templates live as long as the driver. Under KVM there are none: a kernel
// starts in a blink there.

const (
	templateTime  = time.Minute      // for one to boot and be saved
	templateRetry = 10 * time.Minute // after one that failed
	resumeTime    = 15 * time.Second // for a copy to run
	killTime      = 30 * time.Second // for the process of one to end
)

// shape is what must be alike for one template to serve.
type shape struct {
	vcpus, memoryMB int
	mac             string
	tap             bool
	data            string // the ephemeral disk's origin
}

func shapeOf(spec vmm.Spec) shape {
	return shape{spec.VCPUs, spec.MemoryMB, spec.NIC.MAC, spec.NIC.Tap != "", spec.DataOrigin}
}

// template is one saved machine.
type template struct {
	memory, state *os.File
	disk          *os.File // nil: the template had none
}

// pin holds the files of one template open for a VM that starts from it.
func (t *template) pin() (_ *template, err error) {
	p := &template{}
	if p.memory, err = reopen(t.memory); err == nil {
		p.state, err = reopen(t.state)
	}
	if err == nil && t.disk != nil {
		p.disk, err = reopen(t.disk)
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// reopen opens the same file once more, with a position of its own.
func reopen(f *os.File) (*os.File, error) {
	return os.OpenFile(pathOf(f), os.O_RDONLY, 0)
}

// pathOf leads to an open file of ours, whether it has a name or not.
func pathOf(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }

func (t *template) close() {
	for _, f := range []*os.File{t.memory, t.state, t.disk} {
		if f != nil {
			f.Close()
		}
	}
}

// shelf keeps the templates of a driver, the most lately used ones.
type shelf struct {
	most int

	mu    sync.Mutex // guards slots and what is in them
	slots map[shape]*slot

	one chan struct{} // holds a token while one is made: each needs a processor to itself
}

// slot is a shape's place on the shelf.
type slot struct {
	made     chan struct{}      // closed when the making has ended, whichever way
	callOff  context.CancelFunc // ends the making
	waiting  int                // VMs
	template *template
	failed   time.Time
	used     time.Time
}

// template returns the shape's, opened for one VM; it is made if there is
// none. nil: there can be none now, and the VM must boot by itself.
func (d *Driver) template(ctx context.Context, spec vmm.Spec) (*template, error) {
	s, making := d.shelf.slot(shapeOf(spec), time.Now())
	if making != nil {
		// Others may come to wait for it, so it does not end with this VM.
		go d.makeTemplate(making, spec, s)
	}
	select {
	case <-s.made:
	case <-ctx.Done():
	}
	return d.shelf.take(ctx, s)
}

// slot finds the shape's slot, in which the caller waits from now on. With a
// context the caller must fill it first, for as long as that lasts.
func (s *shelf) slot(of shape, now time.Time) (*slot, context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found, ok := s.slots[of]
	if ok && (found.failed.IsZero() || now.Sub(found.failed) < templateRetry) {
		found.used = now
		found.waiting++
		return found, nil
	}
	making, callOff := context.WithCancel(context.Background())
	found = &slot{made: make(chan struct{}), callOff: callOff, waiting: 1, used: now}
	s.slots[of] = found
	s.trim()
	return found, making
}

// take ends the wait of a VM. The last one to give up ends the making as well
// and sees it end: no machine of ours may outlive whom it is for.
func (s *shelf) take(ctx context.Context, from *slot) (*template, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	from.waiting--
	if err := ctx.Err(); err != nil {
		if from.waiting == 0 {
			from.callOff()
			s.mu.Unlock()
			<-from.made
			s.mu.Lock()
		}
		return nil, err
	}
	if from.template == nil {
		return nil, nil
	}
	return from.template.pin()
}

// trim takes the least lately used templates from the shelf until it holds no
// more than it may; those being made stay. mu is held.
func (s *shelf) trim() {
	for len(s.slots) > s.most {
		var oldest shape
		var found *slot
		for of, at := range s.slots {
			select {
			case <-at.made:
				if found == nil || at.used.Before(found.used) {
					oldest, found = of, at
				}
			default:
			}
		}
		if found == nil {
			return
		}
		if found.template != nil {
			found.template.close()
			found.template = nil // who waited for it and comes now boots by itself
		}
		delete(s.slots, oldest)
	}
}

// spoiled notes that a VM could not go on from the shape's template: none is
// tried for a while.
func (s *shelf) spoiled(of shape, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if found, ok := s.slots[of]; ok && found.template != nil {
		found.template.close()
		found.template, found.failed = nil, now
	}
}

// makeTemplate fills the slot, or empties it if the context ends first.
func (d *Driver) makeTemplate(ctx context.Context, like vmm.Spec, into *slot) {
	began := time.Now()
	t, err := d.awaitTurn(ctx, like)
	d.shelf.mu.Lock()
	defer d.shelf.mu.Unlock()
	log := d.log.With("vcpus", like.VCPUs, "memory_mb", like.MemoryMB)
	switch {
	case err == nil:
		into.template = t
		log.Info("template made", "took", time.Since(began).Round(time.Millisecond))
	case ctx.Err() != nil:
		delete(d.shelf.slots, shapeOf(like)) // the next VM asks anew
	default:
		into.failed = time.Now()
		log.Warn("no template: machines of this size boot by themselves", "err", err)
	}
	close(into.made)
	d.shelf.trim()
}

// awaitTurn makes a template when no other is being made.
func (d *Driver) awaitTurn(ctx context.Context, like vmm.Spec) (*template, error) {
	select {
	case d.shelf.one <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-d.shelf.one }()
	ctx, cancel := context.WithTimeout(ctx, templateTime)
	defer cancel()
	return d.bootTemplate(ctx, like)
}

// bootTemplate boots a machine of the shape and saves it where it waits.
func (d *Driver) bootTemplate(ctx context.Context, like vmm.Spec) (_ *template, err error) {
	t := &template{}
	defer func() {
		if err != nil {
			t.close()
		}
	}()
	spec := vmm.Spec{ID: "template-" + strconv.Itoa(os.Getpid()), VCPUs: like.VCPUs, MemoryMB: like.MemoryMB, NIC: vmm.NIC{MAC: like.NIC.MAC}}
	memory, err := d.newMemory(spec)
	if err != nil {
		return nil, err
	}
	defer memory.close()
	if t.state, err = memoryFile("miosa-state", 0); err != nil {
		return nil, err
	}
	if like.DataOrigin != "" {
		if t.disk, err = memoryFile("miosa-disk", 0); err != nil {
			return nil, err
		}
		if err := disk.CopyFile(pathOf(t.disk), like.DataOrigin); err != nil {
			return nil, fmt.Errorf("copy the ephemeral disk: %w", err)
		}
		spec.DataDisk = pathOf(t.disk)
	}
	if like.NIC.Tap != "" {
		// Never brought up; it is gone with the last that has it open. Its
		// features are what the guest's driver settles for.
		spec.NIC.Tap = "mt" + d.config.CellID
	}
	m, monitor, err := d.launchFrom(spec, "tcg", origin{makes: t, memory: memory})
	if err != nil {
		return nil, err
	}
	defer monitor.close()
	defer monitor.within(ctx)()
	defer func() { err = errors.Join(err, m.killSoon(ctx)) }()
	host, err := m.Dial(ctx)
	if err != nil {
		return nil, err
	}
	defer host.Close()
	if err := m.console.await(ctx, m.done, []byte(guest.TemplateReady)); err != nil {
		return nil, fmt.Errorf("boot a template: %w", err)
	}
	if err := monitor.save(t.state); err != nil {
		return nil, err
	}
	if err := m.Kill(ctx); err != nil {
		return nil, err
	}
	// From here on nobody can change it, whatever becomes of a VM's process.
	if t.memory, err = memory.seal(); err != nil {
		return nil, err
	}
	for _, f := range []*os.File{t.state, t.disk} {
		if f == nil {
			continue
		}
		if err := sealFile(f); err != nil {
			return nil, fmt.Errorf("seal a template: %w", err)
		}
	}
	return t, nil
}

// killSoon kills, even if the context has ended, within a time of its own.
func (m *Machine) killSoon(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTime)
	defer cancel()
	return m.Kill(ctx)
}

// emptyDisk makes the file at path as long as the template's disk and all holes;
// nil where the template has none.
func (t *template) emptyDisk(path string) (*os.File, error) {
	if t.disk == nil {
		return nil, nil
	}
	info, err := t.disk.Stat()
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Truncate(0), f.Truncate(info.Size())); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// copyOrigin makes the ephemeral disk of a machine that boots by itself.
func copyOrigin(spec vmm.Spec) error {
	if spec.DataOrigin == "" {
		return nil
	}
	return disk.CopyFile(spec.DataDisk, spec.DataOrigin)
}

// await waits until words have come over the console.
func (c *console) await(ctx context.Context, ended <-chan struct{}, words []byte) error {
	for {
		grown := c.grown()
		if bytes.Contains(c.bytes(), words) {
			return nil
		}
		select {
		case <-grown:
		case <-ended:
			return fmt.Errorf("the machine ended: %s", lastLine(c.bytes()))
		case <-ctx.Done():
			return fmt.Errorf("%w; it last said: %s", ctx.Err(), lastLine(c.bytes()))
		}
	}
}
