package resource

import "time"

// LogLine is one line of a runtime instance.
type LogLine struct {
	TS                  time.Time `json:"ts" doc:"To the microsecond. Within an instance times never go back."`
	Stream              string    `json:"stream" enum:"stdout,stderr,system" doc:"system: the platform's own word, on boots, exits and gaps."`
	Line                string    `json:"line" doc:"Without its newline. Bytes that are no UTF-8 are replaced by U+FFFD."`
	DeploymentID        string    `json:"deployment_id"`
	ServiceID           string    `json:"service_id" doc:"Empty for a task's."`
	TaskID              string    `json:"task_id,omitempty"`
	RuntimeInstanceID   string    `json:"runtime_instance_id"`
	VersionID           string    `json:"version_id"`
	HostID              string    `json:"host_id"`
	ExternalWorkspaceID *string   `json:"external_workspace_id"`
	Partial             bool      `json:"partial,omitempty" doc:"true: it was too long, and goes on in the instance's next line of this stream."`
	Lost                int64     `json:"lost,omitempty" doc:"So many lines of the app were lost just before."`
}

// InstanceLogs is an instance's last lines as one text.
type InstanceLogs struct {
	RuntimeInstanceID string `json:"runtime_instance_id"`
	DeploymentID      string `json:"deployment_id"`
	Logs              string `json:"logs" doc:"A line each. Control characters other than tabs are written as \\x1b."`
}

// Stretch is a part of a list that is too long to count: known by its cursors alone.
type Stretch[T any] struct {
	Data []T        `json:"data"`
	Page CursorPage `json:"page"`
}

// CursorPage says how to go on.
type CursorPage struct {
	NextCursor *string `json:"next_cursor" doc:"For the next page in the same direction; null: there is none."`
}
