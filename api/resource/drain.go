package resource

import "time"

// LogDrain forwards log lines to a receiver of the customer's.
type LogDrain struct {
	ID            string            `json:"id"`
	TenantID      string            `json:"tenant_id"`
	OwnerID       string            `json:"owner_id"`
	Name          string            `json:"name"`
	Type          string            `json:"type" enum:"https,syslog,otlp"`
	URL           string            `json:"url" doc:"The values of its query are not shown."`
	Headers       map[string]string `json:"headers" doc:"Their names; the values are not shown."`
	Token         *string           `json:"token" doc:"Dots when there is one."`
	CACertificate *string           `json:"ca_certificate"`
	DeploymentID  *string           `json:"deployment_id" doc:"Only lines of this deployment."`
	ServiceID     *string           `json:"service_id" doc:"Only lines of this service."`
	Stream        *string           `json:"stream" enum:"stdout,stderr,system" doc:"Only lines of this stream."`
	Q             *string           `json:"q" doc:"Only lines that hold all of it, as in reading logs."`
	Paused        bool              `json:"paused"`
	// How it goes.
	State           string     `json:"state" enum:"delivering,retrying,failed,paused" doc:"retrying: the receiver fails in passing. failed: somebody has to mend the drain or its receiver; it is tried again all the same, and nothing is lost meanwhile."`
	LastError       *string    `json:"last_error" doc:"In words; null once lines were delivered again."`
	LastErrorAt     *time.Time `json:"last_error_at"`
	NextAttemptAt   *time.Time `json:"next_attempt_at"`
	LastDeliveredAt *time.Time `json:"last_delivered_at"`
	DeliveredLines  int64      `json:"delivered_lines" doc:"That the receiver took; what was sent twice counts twice."`
	DroppedLines    int64      `json:"dropped_lines" doc:"Dead letters: that the receiver refused for good."`
	LagSeconds      int64      `json:"lag_seconds" doc:"About how old the oldest line is that is not delivered; 0: all are."`
	GapSince        *time.Time `json:"gap_since" doc:"With gap_until: lines between may be missing, nobody knows how many. The receiver was away for longer than lines are kept."`
	GapUntil        *time.Time `json:"gap_until"`
	Attributed
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// LogDrainCreate makes a drain. It forwards what is written from then on.
type LogDrainCreate struct {
	URL           string            `json:"url" required:"true" doc:"An https URL: NDJSON, or OTLP if it ends in /v1/logs; or syslog+tls://HOST:6514. It is shown, but for the values of its query: put credentials there, into headers or into token."`
	Type          string            `json:"type,omitempty" enum:"https,syslog,otlp" doc:"Default: by the URL."`
	Name          string            `json:"name,omitempty" doc:"Default: the receiver's host."`
	Headers       map[string]string `json:"headers,omitempty" doc:"Of each request, for https and otlp. Stored sealed and never shown."`
	Token         string            `json:"token,omitempty" doc:"https and otlp: sent as Authorization: Bearer. syslog: the name of a structured data element, as in 0123abcd@41058. Stored sealed and never shown."`
	CACertificate string            `json:"ca_certificate,omitempty" doc:"PEM. The receiver's certificate must be signed by it; default: by one that the system trusts."`
	DeploymentID  string            `json:"deployment_id,omitempty" doc:"Only lines of this deployment (ID or slug)."`
	ServiceID     string            `json:"service_id,omitempty" doc:"Only lines of this service."`
	Stream        string            `json:"stream,omitempty" enum:"stdout,stderr,system"`
	Q             string            `json:"q,omitempty" doc:"Only lines that hold all of it: words, \"quoted phrases\", -not, key:value."`
	Paused        bool              `json:"paused,omitempty"`
	Attribution
}

// LogDrainPatch changes a drain. It goes on where it was.
type LogDrainPatch struct {
	URL                 *string            `json:"url,omitempty" doc:"Of the same type."`
	Name                *string            `json:"name,omitempty"`
	Headers             map[string]*string `json:"headers,omitempty" doc:"Sets those named; null deletes one."`
	Token               Nullable[string]   `json:"token,omitzero"`
	CACertificate       Nullable[string]   `json:"ca_certificate,omitzero"`
	DeploymentID        Nullable[string]   `json:"deployment_id,omitzero"`
	ServiceID           Nullable[string]   `json:"service_id,omitzero"`
	Stream              Nullable[string]   `json:"stream,omitzero"`
	Q                   Nullable[string]   `json:"q,omitzero"`
	Paused              *bool              `json:"paused,omitempty" doc:"false: what came meanwhile is delivered, as far as it is kept."`
	ExternalWorkspaceID *string            `json:"external_workspace_id,omitempty"`
	ExternalUserID      *string            `json:"external_user_id,omitempty"`
	ExternalProjectID   *string            `json:"external_project_id,omitempty"`
}

// LogDrainTest is what the receiver said to a test line.
type LogDrainTest struct {
	Delivered  bool   `json:"delivered"`
	StatusCode *int   `json:"status_code" doc:"Of HTTP; null when there was no answer, and for syslog."`
	Message    string `json:"message" doc:"What the receiver, or the network, said."`
	DurationMS int64  `json:"duration_ms"`
}
