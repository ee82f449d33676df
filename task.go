package miosa

import (
	"slices"
	"time"
)

// TaskState is where a task is in its life.
type TaskState string

const (
	TaskPending  TaskState = "pending"  // its next attempt waits: for its time, a host, or leave to begin
	TaskStarting TaskState = "starting" // an attempt's host has leave to begin it; its command does not run yet
	TaskRunning  TaskState = "running"  // its command was started

	TaskSucceeded TaskState = "succeeded" // its command exited with 0
	TaskFailed    TaskState = "failed"    // its command ended in another way, or could not be begun
	TaskLost      TaskState = "lost"      // it began, or may have, and nobody knows how it ended
	TaskStopped   TaskState = "stopped"   // by request, or with its deployment or host
	TaskTimedOut  TaskState = "timed_out" // its command was ended at its limit
)

// taskNext are the legal transitions. The one backward arrow is the next attempt:
// starting and running → pending.
var taskNext = map[TaskState][]TaskState{
	"":           {TaskPending},
	TaskPending:  {TaskStarting, TaskRunning, TaskSucceeded, TaskFailed, TaskLost, TaskStopped, TaskTimedOut},
	TaskStarting: {TaskRunning, TaskPending, TaskSucceeded, TaskFailed, TaskLost, TaskStopped, TaskTimedOut},
	TaskRunning:  {TaskPending, TaskSucceeded, TaskFailed, TaskLost, TaskStopped, TaskTimedOut},
}

// CanBecome reports whether next is a legal successor of s.
func (s TaskState) CanBecome(next TaskState) bool { return slices.Contains(taskNext[s], next) }

// Terminal reports whether nothing follows.
func (s TaskState) Terminal() bool {
	switch s {
	case TaskSucceeded, TaskFailed, TaskLost, TaskStopped, TaskTimedOut:
		return true
	}
	return false
}

// What a Task's Limit and Retries may be.
const (
	DefaultTaskLimit = time.Hour
	MaxTaskLimit     = 24 * time.Hour
	MaxTaskRetries   = 10
)

// Task is a command that runs once to its end in a version's image, with its
// variables, in a virtual machine of its own. Each try is an attempt: an instance
// with the task's ID. What is asked for is the API's to write, what became of it
// control's.
type Task struct {
	ID            string
	TenantID      string
	DeploymentID  string
	EnvironmentID string
	VersionID     string
	ServiceID     string // whose image, size and placement it has; "": the one that requests go to, else the first
	Command       string // as a service's
	Resources     Resources
	Limit         time.Duration // of each attempt's command, up to MaxTaskLimit
	Retries       int           // attempts after the first, where one failed or was lost; up to MaxTaskRetries
	Attribution
	Metadata    map[string]any
	CreatedBy   string    // key ID
	StopAskedAt time.Time // zero: nobody has
	StopAskedBy string    // key ID

	State  TaskState
	Reason string // why it is in that state, or what it waits for
	// Attempt is how many attempts were begun, of which NeverBegan certainly never
	// came to start the command: they are no retries.
	Attempt, NeverBegan int
	// NextAt is when the next attempt may begin, where that waits; zero: the newest
	// one is under way, or there was none yet.
	NextAt time.Time
	// Deadline is by when the newest attempt must have begun, or ended.
	Deadline time.Time
	// Ending is what the task becomes once its attempt, which was told to stop, has
	// ended; "": it was not.
	Ending TaskState

	// Of the newest attempt:
	InstanceID string
	HostID     string
	Region     string
	StartedAt  time.Time // of its command
	Exited     bool      // its command told an exit code
	ExitCode   int
	Signal     string   // that ended its command
	LastLines  []string // at most 50

	FinishedAt time.Time
	CreatedAt  time.Time
	UpdatedAt  time.Time
	Revision   int64
}

// Between reports whether no attempt is under way and the next one is to begin.
func (t *Task) Between() bool { return !t.State.Terminal() && (t.Attempt == 0 || !t.NextAt.IsZero()) }

// Spec is what an attempt runs: the service's of the version, with a command and a
// size of its own, and nothing that is asked of it.
func (t *Task) Spec(v Version) (ServiceSpec, bool) {
	spec, ok := v.Service(t.ServiceID)
	if t.ServiceID == "" {
		if spec, ok = v.Routed(); !ok && len(v.Services) > 0 {
			spec, ok = v.Services[0], true
		}
	}
	spec.Command, spec.Type, spec.Port, spec.Protocol = t.Command, ServiceWorker, 0, ""
	spec.Health, spec.Settings = HealthCheck{Type: HealthNone}, ServiceSettings{}
	if t.Resources != (Resources{}) {
		spec.Resources = t.Resources
	}
	return spec, ok
}
