// Package sim is a driver without processes: its VMs are goroutines that
// speak the guest's protocol and serve a little HTTP on the forwarded port, so
// that the whole platform runs, and can be tested, in milliseconds. What an
// app does is told by its command (see parse): "sim exit 3", "sim 500",
// "sim serve slow=2s"; other commands serve.
//
// A Host is what survives a restart of the agent within one process. Across
// processes nothing survives: every VM is then gone.
package sim

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/disk"
	"github.com/miosa/miosa/vmm"
)

// firstPID lies beyond what Linux gives out: a simulated pid is never the
// number of a real process.
const firstPID = 1<<22 + 1

// Host holds simulated VMs. Its zero value is ready.
type Host struct {
	mu       sync.Mutex // guards what follows
	machines map[string]*machine
	started  uint64
}

// Config says which host the driver works on; nil: one of its own.
type Config struct {
	Host *Host
}

// Driver starts and adopts simulated VMs. Make it with New.
type Driver struct {
	host *Host
	log  *slog.Logger
}

var _ vmm.Driver = (*Driver)(nil)

// New makes a driver; nothing can be wrong.
func New(config Config, log *slog.Logger) (*Driver, error) {
	return &Driver{host: cmp.Or(config.Host, new(Host)), log: log}, nil
}

// Name is "sim".
func (d *Driver) Name() string { return "sim" }

// Start starts a simulated VM.
func (d *Driver) Start(ctx context.Context, spec vmm.Spec) (vmm.VM, error) {
	if err := spec.Check(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	h := d.host
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.machines == nil {
		h.machines = make(map[string]*machine)
	}
	if _, runs := h.machines[spec.ID]; runs {
		return nil, miosa.Errorf(miosa.Conflict, "vm %s runs already", spec.ID)
	}
	if spec.DataOrigin != "" {
		if err := disk.CopyFile(spec.DataDisk, spec.DataOrigin); err != nil {
			return nil, fmt.Errorf("start vm %s: make the ephemeral disk: %w", spec.ID, err)
		}
	}
	h.started++
	m := newMachine(spec, vmm.Handle{
		ID: spec.ID, Driver: d.Name(), PID: firstPID + int(h.started), StartTime: h.started, RunDir: "sim", Started: time.Now(),
	})
	m.forget = func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.machines[spec.ID] == m {
			delete(h.machines, spec.ID)
		}
	}
	h.machines[spec.ID] = m
	d.log.Debug("simulated vm started", "vm", spec.ID)
	return m, nil
}

// Adopt finds a VM of this driver's Host again.
func (d *Driver) Adopt(_ context.Context, h vmm.Handle) (vmm.VM, error) {
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	if m, ok := d.host.machines[h.ID]; ok {
		h.Started, h.Resumed = m.handle.Started, m.handle.Resumed // which change on their way through a file
		if m.handle == h {
			return m, nil
		}
	}
	return nil, fmt.Errorf("adopt vm %s: %w", h.ID, vmm.ErrGone)
}

// Reclaim ends the VMs of this driver's Host that keep does not hold.
func (d *Driver) Reclaim(ctx context.Context, keep func(id string) bool) ([]string, error) {
	d.host.mu.Lock()
	var unknown []*machine
	for id, m := range d.host.machines {
		if !keep(id) {
			unknown = append(unknown, m)
		}
	}
	d.host.mu.Unlock()
	var ended []string
	for _, m := range unknown {
		if err := m.Kill(ctx); err != nil {
			return ended, err
		}
		ended = append(ended, m.handle.ID)
	}
	slices.Sort(ended)
	return ended, nil
}
