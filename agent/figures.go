package agent

import (
	"sync"
	"syscall"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/metrics"
	"github.com/miosa/miosa/wire/guest"
)

// figures are what can be measured of one instance: told by its actor, its
// probes and its session, read by the sampler and by whoever scrapes.
type figures struct {
	owner  metrics.Owner
	limits miosa.Resources

	mu       sync.Mutex // guards all below
	state    miosa.InstanceState
	restarts int
	boot     *boot       // the present one; nil between boots
	guest    guest.Stats // its own word, within its limits
	guestAt  time.Time
	probe    time.Duration // of the last health check that succeeded
	probedAt time.Time
	last     metrics.Values // of the last pass
}

func newFigures(in miosa.Instance) figures {
	return figures{
		owner:  metrics.Owner{TenantID: in.TenantID, DeploymentID: in.DeploymentID, ServiceID: in.OwnerID(), SourceID: in.ID},
		limits: in.Spec.Resources,
	}
}

// begin: from now on it is another boot that is measured, or none.
func (f *figures) begin(b *boot) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.boot, f.guestAt, f.probedAt = b, time.Time{}, time.Time{}
}

// present is the boot that is measured; nil: none.
func (f *figures) present() *boot {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.boot
}

func (f *figures) observed(o miosa.Observation) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state, f.restarts = o.State, o.RestartCount
}

// said takes the guest's own figures. It can lie about itself, but not beyond
// what it was given.
func (f *figures) said(at time.Time, s guest.Stats) {
	memory, disk := uint64(max(f.limits.MemoryMB, 0))<<20, uint64(max(f.limits.DiskMB, 0))<<20
	f.mu.Lock()
	defer f.mu.Unlock()
	f.guest, f.guestAt = guest.Stats{MemUsed: min(s.MemUsed, memory), DiskUsed: min(s.DiskUsed, disk)}, at
}

func (f *figures) probed(at time.Time, took time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.probe, f.probedAt = took, at
}

// sample measures the instance. What comes from outside (the VM's process, its
// tap, its disk's file) is read here; the rest was told.
func (x *actor) sample(now time.Time) metrics.Values {
	f := &x.figures
	f.mu.Lock()
	b, restarts := f.boot, f.restarts
	told := func(at time.Time) bool { return !at.IsZero() && now.Sub(at) <= metrics.Stale }
	said, guestAt, probe, probedAt := f.guest, f.guestAt, f.probe, f.probedAt
	f.mu.Unlock()

	var v metrics.Values
	v.Set(metrics.Restarts, int64(restarts))
	if b != nil && b.measure(&v) {
		if told(guestAt) {
			v.Set(metrics.MemoryUsed, int64(said.MemUsed>>10))
			v.Set(metrics.DiskUsed, int64(said.DiskUsed>>10))
		}
		if told(probedAt) {
			v.Set(metrics.Probe, probe.Microseconds())
		}
		if x.a.meter != nil {
			if t, err := x.a.meter.Traffic(x.id); err == nil {
				v.Set(metrics.NetworkReceived, int64(t.ReceivedBytes)) //nolint:gosec // not in a lifetime
				v.Set(metrics.NetworkSent, int64(t.SentBytes))         //nolint:gosec // not in a lifetime
			}
		}
		var st syscall.Stat_t
		if syscall.Stat(x.a.disks.path(x.id, diskFile), &st) == nil {
			v.Set(metrics.Disk, st.Blocks/2) // of 512 bytes
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last = v
	return v
}

// measure reads the figures of the VM's process, and reports whether it runs.
func (b *boot) measure(v *metrics.Values) bool {
	b.mu.Lock()
	vm := b.vm
	b.mu.Unlock()
	if vm == nil {
		return false
	}
	u, err := vm.Usage()
	if err != nil {
		return false // it ends at this moment
	}
	v.Set(metrics.CPU, u.CPU.Milliseconds())
	v.Set(metrics.Memory, int64(u.MemoryBytes>>10)) //nolint:gosec // bounded by the host's memory
	return true
}
