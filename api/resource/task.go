package resource

import "time"

// Task is a command that runs once to its end, in a virtual machine of its own.
type Task struct {
	ID            string    `json:"id"`
	TenantID      string    `json:"tenant_id"`
	DeploymentID  string    `json:"deployment_id"`
	EnvironmentID string    `json:"environment_id"`
	VersionID     string    `json:"version_id"`
	ServiceID     *string   `json:"service_id" doc:"Whose image, size and placement it has; null: that of the service that requests go to, else of the first."`
	Command       string    `json:"command"`
	State         string    `json:"state" enum:"pending,starting,running,succeeded,failed,lost,stopped,timed_out" doc:"lost: it began, or may have, and nobody knows how it ended."`
	Reason        string    `json:"reason" doc:"Why it is in that state, or what it waits for."`
	ExitCode      *int      `json:"exit_code" doc:"Of the command, 0 to 255; null while it has none, as where a signal ended it."`
	Signal        *string   `json:"signal" doc:"That ended the command: SIGKILL."`
	LastLogLines  []string  `json:"last_log_lines" doc:"At most 50, of an attempt that has ended."`
	Attempt       int       `json:"attempt" doc:"How many were begun."`
	Retries       int       `json:"retries" doc:"Attempts that may follow the first where one fails or is lost."`
	TimeLimit     int       `json:"time_limit_seconds" doc:"Of each attempt's command."`
	Resources     Resources `json:"resources" doc:"Those of its service, unless it was given its own."`

	RuntimeInstanceID *string        `json:"runtime_instance_id" doc:"Of the newest attempt."`
	HostID            *string        `json:"host_id"`
	Region            *string        `json:"region"`
	RequestedBy       string         `json:"requested_by" doc:"The API key that asked for it."`
	StopRequestedAt   *time.Time     `json:"stop_requested_at"`
	NextAttemptAt     *time.Time     `json:"next_attempt_at"`
	Metadata          map[string]any `json:"metadata"`
	Attributed
	CreatedAt  time.Time  `json:"created_at"`
	StartedAt  *time.Time `json:"started_at" doc:"When the command of the newest attempt was started."`
	FinishedAt *time.Time `json:"finished_at"`
	UpdatedAt  time.Time  `json:"updated_at"`
}

// TaskCreate is the body that begins a task: command or argv is needed.
type TaskCreate struct {
	Command     string          `json:"command,omitempty" doc:"As a run_command: split into words, or a shell's."`
	Argv        []string        `json:"argv,omitempty" doc:"In place of command: the program and its arguments, as they are."`
	Environment string          `json:"environment,omitempty" doc:"Default: production."`
	VersionID   string          `json:"version_id,omitempty" doc:"Of that environment. Default: the one that is live."`
	Service     string          `json:"service,omitempty" doc:"By name or ID. Default: the one that requests go to, else the first."`
	Size        string          `json:"size,omitempty" doc:"Default: the service's."`
	Resources   *ResourcesPatch `json:"resources,omitempty" doc:"Changes parts of the size."`
	TimeLimit   *int            `json:"time_limit_seconds,omitempty" doc:"1 to 86400; default 3600."`
	Retries     *int            `json:"retries,omitempty" doc:"0 to 10; default 0: it never runs twice."`
	Metadata    map[string]any  `json:"metadata,omitempty"`
	Attribution
}
