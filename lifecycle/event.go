package lifecycle

import (
	"net/netip"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/health"
)

// Event is something that happened to an instance on its host. Events of a
// boot other than the present one are dropped: they come from the past.
type Event interface{ boot() int }

type (
	// Assigned: control changed the assignment. Older generations are refused.
	Assigned struct{ Instance miosa.Instance }
	// Reached: the boot came to a named phase ("image_ready", "vmm_started",
	// "hello", "app_started", "listening" …). Hint goes with "listening": what
	// the app listens on ("any", "loopback", "ipv6"); so does Detached: no process of
	// the run command's session listens. "elsewhere" is no phase: it
	// tells the ports that something listens on while nothing does on the app's.
	Reached struct {
		Boot  int
		Name  string
		At    time.Time
		Hint  string
		Ports []int

		Detached bool
	}
	// Started: the VMM process runs.
	Started struct {
		Boot int
		VMID string
		Addr netip.AddrPort
		At   time.Time
	}
	// NotStarted: the host could not get the boot under way.
	NotStarted struct {
		Boot    int
		Failure miosa.Failure
	}
	// Probed: a health probe came back.
	Probed struct {
		Boot   int
		Result health.Result
	}
	// Exited: the guest's own word on how the run command ended.
	Exited struct {
		Boot    int
		Failure miosa.Failure // Kind exit, signal, oom, not_found …; time_limit where PID 1 ended it at its limit
		Stopped bool          // in answer to StopGuest
		// StopSignal is Linux's number of the signal that it was asked to end
		// with; 0: SIGTERM. Meaningful with Stopped.
		StopSignal int
	}
	// Vanished: the VM's process ended. Without Exited before it, it is a crash.
	Vanished struct {
		Boot      int
		Message   string
		LastLines []string
	}
	// Taken: control has an attempt's boot on record, the one that was Began then.
	Taken struct{ Began time.Time }
	// Silent: the guest stopped answering on its control channel.
	Silent struct {
		Boot      int
		LastLines []string
	}
	// ClockSetBack: the guest's clock was By ahead of its host's, and was set
	// back.
	ClockSetBack struct {
		Boot int
		By   time.Duration
		At   time.Time
	}
	// Heard: the last beat that control acknowledged was sent so long ago. It is
	// told before each other event, which is when something follows from it, and is
	// taken from a clock that nobody sets.
	Heard struct{ Ago time.Duration }
	// Tick: nothing but time has passed.
	Tick struct{}
)

const anyBoot = -1

func (Assigned) boot() int     { return anyBoot }
func (Heard) boot() int        { return anyBoot }
func (Tick) boot() int         { return anyBoot }
func (Taken) boot() int        { return anyBoot }
func (e Reached) boot() int    { return e.Boot }
func (e Started) boot() int    { return e.Boot }
func (e NotStarted) boot() int { return e.Boot }
func (e Probed) boot() int     { return e.Boot }
func (e Exited) boot() int     { return e.Boot }
func (e Vanished) boot() int   { return e.Boot }
func (e Silent) boot() int     { return e.Boot }

func (e ClockSetBack) boot() int { return e.Boot }

// Effect is something the agent is to carry out, in the order given.
type Effect interface{ effect() }

type (
	// Boot makes image, disk and network ready and starts the VM. Answered by
	// Reached, Started or NotStarted.
	Boot struct{ Boot int }
	// Probe asks the app for its health once. Answered by Probed.
	Probe struct {
		Boot  int
		Type  miosa.HealthType // never HealthNone
		Check miosa.HealthCheck
	}
	// StopGuest asks PID 1 to stop the app. Answered by Exited, then Vanished.
	StopGuest struct {
		Boot     int
		Deadline time.Duration
	}
	// Kill ends the VM of a boot (or its preparation) and its disk. After it
	// nothing of that boot is heard any more.
	Kill struct{ Boot int }
	// Release gives back everything the instance holds on this host.
	Release struct{}
	// Report tells control (and the state on disk) the present observation.
	Report struct{ Observation miosa.Observation }
)

func (Boot) effect()      {}
func (Probe) effect()     {}
func (StopGuest) effect() {}
func (Kill) effect()      {}
func (Release) effect()   {}
func (Report) effect()    {}
