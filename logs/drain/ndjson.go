package drain

import (
	"bytes"
	"encoding/json"
	"time"
)

// ndjsonLine has the names that the API's log lines have.
type ndjsonLine struct {
	ID                  string    `json:"id"`
	TS                  time.Time `json:"ts"`
	Stream              string    `json:"stream"`
	Line                string    `json:"line"`
	Deployment          string    `json:"deployment"`
	Service             string    `json:"service"`
	DeploymentID        string    `json:"deployment_id"`
	ServiceID           string    `json:"service_id"`
	TaskID              string    `json:"task_id,omitempty"`
	RuntimeInstanceID   string    `json:"runtime_instance_id"`
	VersionID           string    `json:"version_id"`
	HostID              string    `json:"host_id"`
	ExternalWorkspaceID *string   `json:"external_workspace_id"`
	Partial             bool      `json:"partial,omitempty"`
	Lost                uint64    `json:"lost,omitempty"`
}

// ndjson is the lines as newline-delimited JSON: one object a line.
func ndjson(lines []Line) ([]byte, error) {
	var b bytes.Buffer
	out := json.NewEncoder(&b) // ends each with a newline, and has none inside
	out.SetEscapeHTML(false)
	for i := range lines {
		l := &lines[i]
		v := ndjsonLine{
			ID: l.name(), TS: l.Time.UTC(), Stream: string(l.Stream), Line: l.text(), Deployment: l.Deployment, Service: l.Service,
			DeploymentID: l.Origin.DeploymentID, ServiceID: l.Origin.ServiceID, TaskID: l.Origin.TaskID, RuntimeInstanceID: l.Origin.InstanceID,
			VersionID: l.Origin.VersionID, HostID: l.Origin.HostID, Partial: l.Partial, Lost: l.Lost,
		}
		if w := l.Origin.WorkspaceID; w != "" {
			v.ExternalWorkspaceID = &w
		}
		if err := out.Encode(v); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}
