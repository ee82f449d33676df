// Package vmm is the port to virtual machine monitors: it boots one microVM
// per instance, keeps it running without us, and finds it again.
//
// A driver knows nothing of deployments, health or restarts. It starts a VM
// from a Spec, hands over the byte stream to its PID 1, tells when the process
// ends, and adopts what an earlier process of ours left running.
package vmm

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// Driver starts and adopts VMs. Its methods may be called from several
// goroutines at once. vmmtest is its conformance suite.
type Driver interface {
	// Name is "qemu", "firecracker" or "sim".
	Name() string
	// Start boots a VM and returns as soon as its process runs. On error
	// nothing of it is left behind.
	Start(ctx context.Context, spec Spec) (VM, error)
	// Adopt finds a VM again by its handle, after a restart of ours. It fails
	// with ErrGone when the process is no more, is not the one recorded, or can
	// be reached no more; the last is for Reclaim to end.
	Adopt(ctx context.Context, h Handle) (VM, error)
	// Reclaim ends every VM of this platform's data directory whose ID keep
	// does not hold, removes its run directory, and returns their IDs.
	Reclaim(ctx context.Context, keep func(id string) bool) ([]string, error)
}

// VM is one running microVM process.
type VM interface {
	Handle() Handle
	// Dial connects to the guest's control channel. One connection at a time;
	// a new Dial after the former was closed resumes the same stream.
	Dial(ctx context.Context) (net.Conn, error)
	// DialExec connects to a port for exec sessions that nobody is on, of which a
	// guest has guest.ExecPorts (package wire/guest). miosa.Conflict: all are in
	// use; miosa.Unavailable: this VM was started without any.
	DialExec(ctx context.Context) (net.Conn, error)
	// Done is closed when the process has ended; Exit then says how.
	Done() <-chan struct{}
	Exit() Exit
	// Kill ends the process at once (SIGKILL) and returns when it is gone and
	// its run directory and cgroup are removed. Calling it twice is harmless.
	Kill(ctx context.Context) error
	// Console is the tail of the serial console: kernel and panic words.
	Console() []byte
	// Usage are host-side figures of the process.
	Usage() (Usage, error)
}

// Spec is one boot. Paths are absolute.
type Spec struct {
	ID       string // unique in the cell and stable per boot: "<instance>-<boot>"
	VCPUs    int
	MemoryMB int
	BaseDisk string // read-only EROFS image, shared
	DataDisk string // private writable ext4 image
	// DataOrigin is an image that never changes. Start makes DataDisk a copy of
	// it, whatever the file that lies there held. "" : DataDisk is ready.
	DataOrigin string
	NIC        NIC
	UID        int // the VMM process runs as it; 0: the driver's default
	// CPUShares weighs this VM against others; 0 derives it from VCPUs.
	CPUShares int
}

// NIC is the instance's network attachment, made by package network.
type NIC struct {
	Tap     string // host interface; "" selects user networking
	MAC     string
	Guest   netip.Prefix // the guest's address in its network
	Gateway netip.Addr
	// Forward, with user networking: this host address reaches GuestPort. None
	// for a guest that listens nowhere. There is a gate, or the app itself.
	Forward   netip.AddrPort
	GuestPort int
}

// Handle is what is recorded on disk to find a VM again.
type Handle struct {
	ID        string `json:"id"`
	Driver    string `json:"driver"`
	PID       int    `json:"pid"`
	StartTime uint64 `json:"start_time"` // of the process, clock ticks since host boot: with PID its identity
	RunDir    string `json:"run_dir"`    // sockets, console
	Cgroup    string `json:"cgroup,omitempty"`
	// Started is when the process ran. Resumed is when the machine did, where
	// it is the copy of one that had booted before (and so waits for its boot
	// configuration already); zero where it boots by itself.
	Started time.Time `json:"started,omitzero"`
	Resumed time.Time `json:"resumed,omitzero"`
}

// Exit says how a VM process ended. A clean guest stop, a guest reboot and a
// panic look alike from here: an exit without the guest's own report over the
// control channel is a crash.
type Exit struct {
	At     time.Time
	Code   int    // −1 when killed by a signal, or unknown (adopted: not our child)
	Signal string // "SIGKILL"
	OOM    bool   // the host's cgroup limit took the process
	Err    error  // what the driver itself has to say
}

// Usage are host-side figures of a VM process.
type Usage struct {
	CPU         time.Duration
	MemoryBytes uint64
	ReadBytes   uint64
	WriteBytes  uint64
}

// ErrGone says that the VM of a handle runs no more.
var ErrGone = goneError{}

type goneError struct{}

func (goneError) Error() string { return "the virtual machine is gone" }
