package miosa

import (
	"net/netip"
	"slices"
	"time"
)

// InstanceState is where a runtime instance is in its life.
type InstanceState string

const (
	Pending   InstanceState = "pending"   // waiting for a host, or for its next boot
	Starting  InstanceState = "starting"  // VM booting, or health not yet passed
	Healthy   InstanceState = "healthy"   // serving
	Unhealthy InstanceState = "unhealthy" // out of routing, still probed
	Stopping  InstanceState = "stopping"  // leaving the pool, draining, shutting down
	Stopped   InstanceState = "stopped"   // ended deliberately
	Failed    InstanceState = "failed"    // the restart budget is used up
)

// instanceNext are the legal transitions. The one backward arrow is the
// crash: starting, healthy and unhealthy → pending.
var instanceNext = map[InstanceState][]InstanceState{
	Pending:   {Starting, Stopping, Stopped, Failed},
	Starting:  {Healthy, Pending, Stopping, Stopped, Failed},
	Healthy:   {Unhealthy, Pending, Stopping, Stopped, Failed},
	Unhealthy: {Healthy, Pending, Stopping, Stopped, Failed},
	Stopping:  {Stopped, Failed},
}

// CanBecome reports whether next is a legal successor of s.
func (s InstanceState) CanBecome(next InstanceState) bool {
	return slices.Contains(instanceNext[s], next)
}

// Terminal reports whether nothing follows.
func (s InstanceState) Terminal() bool { return s == Stopped || s == Failed }

// Goal is what control wants of an instance; it only moves forward.
type Goal string

const (
	GoalRun   Goal = "run"
	GoalDrain Goal = "drain" // out of the route table; keep serving what is in flight
	GoalStop  Goal = "stop"  // SIGTERM, deadline, kill
)

// Instance is the occupant of one slot of one service in one version on one
// host, or an attempt at a task. Its fields are the assignment, written by control alone; Observed is
// what its agent reported, kept as a record of its own and joined on reading.
type Instance struct {
	ID            string
	TenantID      string
	DeploymentID  string
	EnvironmentID string
	ServiceID     string
	VersionID     string
	Slot          int    // 0 … replicas-1
	Replaces      string // instance this one was started to take over from
	// TaskID makes it an attempt at a task, the Attempt-th: it has no service of its
	// own and no slot, boots once at most, and is ended when its command has run for
	// Limit.
	TaskID  string
	Attempt int
	Limit   time.Duration
	Attribution

	Spec    ServiceSpec
	Restart RestartPolicy
	// StopAfterDisconnect is its service's.
	StopAfterDisconnect time.Duration
	// Proven: its version was healthy before, so that crashes climb the
	// ladder; otherwise it gets RolloutBoots boots and fails its rollout.
	Proven bool
	// PriorFailures are the rapid failures of the instances that held this
	// slot before on other hosts: the ladder goes on where they left it.
	PriorFailures int

	Goal         Goal
	GoalReason   string // why it drains or stops
	GoalSince    time.Time
	DrainSeconds int // limit on goal drain; 0: DefaultDrain

	Logs LogLimit // as its service has it
	// Notices are what its log is to tell of its deployment, newest last; at most
	// MaxNotices.
	Notices []Notice

	HostID        string // "" while pending
	Region        string
	Zone          string
	Generation    int64 // counts changes of the assignment; hosts refuse older ones
	RestartNonce  int   // counts in-place restarts asked for by control
	ReplaceAsked  bool  // a customer asked for a restart: make before break
	BootSpec      []byte
	Reasons       []string // why it is pending, in words
	ScheduledAt   time.Time
	CreatedAt     time.Time
	UpdatedAt     time.Time
	Revision      int64
	CreatedReason string // the reconcile rule that made it

	Observed Observation
}

// MaxNotices bounds an instance's Notices.
const MaxNotices = 8

// Notice is one line that control has an instance's log tell: what happened to
// its deployment, why, and who asked.
type Notice struct {
	ID   string // names it within the instance: it is told once
	At   time.Time
	Text string
}

// State joins goal and observation into the one state that users see.
func (i *Instance) State() InstanceState {
	switch {
	case i.Observed.State.Terminal():
		return i.Observed.State
	case i.Goal != GoalRun:
		return Stopping
	case i.HostID == "" || i.Observed.State == "":
		return Pending
	}
	return i.Observed.State
}

// Once reports whether the instance is an attempt at a task: it boots once at most,
// whatever becomes of it.
func (i *Instance) Once() bool { return i.TaskID != "" }

// OwnerID is what figures of the instance are kept under: its service, or its task.
func (i *Instance) OwnerID() string {
	if i.Once() {
		return i.TaskID
	}
	return i.ServiceID
}

// Serving reports whether the instance belongs into the route table.
func (i *Instance) Serving() bool {
	return i.State() == Healthy && i.Observed.Addr.IsValid() && i.Spec.Port != 0
}

// Observation is an agent's report on one instance. Seq orders the reports
// of one instance; the store keeps the highest.
type Observation struct {
	InstanceID    string
	TenantID      string
	DeploymentID  string
	HostID        string
	Generation    int64 // of the assignment it obeys
	Seq           int64
	State         InstanceState
	VMID          string
	Addr          netip.AddrPort // where the router reaches the app
	Boot          int            // boots begun
	RestartCount  int            // boots after the first
	Failures      int            // rapid failures on the ladder
	StartedAt     time.Time      // present boot
	HealthyAt     time.Time      // last became healthy
	StoppedAt     time.Time
	NextRestartAt time.Time
	LastProbeAt   time.Time
	LastProbe     string // what the last probe saw, in words
	Failure       Failure
	Phases        []Phase // of the present boot, in order
	ClockSetBack  ClockSetBack
	ReportedAt    time.Time
	Revision      int64
}

// ClockSetBack is the last time that a guest's clock was far ahead of its
// host's and was set back, as far as that was told.
type ClockSetBack struct {
	At time.Time
	By time.Duration
}

// Phase is a named moment of a boot.
type Phase struct {
	Name string
	At   time.Time
}

// FailureKind says how a boot ended; it decides whether another may help.
type FailureKind string

const (
	FailureNone          FailureKind = ""
	FailureExit          FailureKind = "exit"           // the run command exited
	FailureSignal        FailureKind = "signal"         // killed by a signal
	FailureOOM           FailureKind = "oom"            // killed for memory
	FailureVM            FailureKind = "vm_crash"       // the VM ended without the guest's word
	FailureNotFound      FailureKind = "not_found"      // command not found
	FailureNotExecutable FailureKind = "not_executable" //
	FailureWrongArch     FailureKind = "wrong_arch"     //
	FailureBoot          FailureKind = "boot"           // never reached the run command
	FailureImage         FailureKind = "image"          // the release cannot be made into a root file system
	FailureProbe         FailureKind = "probe"          // never healthy within grace
	FailureHost          FailureKind = "host"           // the host could not start it
	FailureHostLost      FailureKind = "host_lost"      // its host fell silent for good
	FailureDisconnected  FailureKind = "disconnected"   // its host stopped it after so long without control
	FailureCompleted     FailureKind = "completed"      // exit 0 and the policy wants no more
	FailureLimit         FailureKind = "time_limit"     // a task's command, ended at its limit
)

// Permanent reports whether another boot of the same version cannot help.
func (k FailureKind) Permanent() bool {
	switch k {
	case FailureNotFound, FailureNotExecutable, FailureWrongArch, FailureImage:
		return true
	}
	return false
}

// Failure is the last way a boot ended, in facts and in a customer's words.
type Failure struct {
	Kind      FailureKind
	Message   string
	ExitCode  int // meaningful for FailureExit and FailureCompleted
	Signal    string
	At        time.Time
	LastLines []string // at most 50
}
