package resource

import "time"

// WebhookCreate is a new webhook.
type WebhookCreate struct {
	URL                 string   `json:"url" required:"true" doc:"Of a public address, over HTTPS."`
	Description         string   `json:"description,omitempty"`
	Types               []string `json:"types,omitempty" doc:"Beginnings of event types: rollout, instance.crashed …; none: every event."`
	DeploymentID        string   `json:"deployment_id,omitempty" doc:"Only this deployment's events."`
	ExternalWorkspaceID string   `json:"external_workspace_id,omitempty" doc:"Only events of what belongs to it. A key of a workspace makes webhooks of that workspace."`
}

// WebhookPatch changes what is there.
type WebhookPatch struct {
	URL          *string          `json:"url,omitempty"`
	Description  *string          `json:"description,omitempty"`
	Types        *[]string        `json:"types,omitempty"`
	DeploymentID Nullable[string] `json:"deployment_id,omitzero"`
	Enabled      *bool            `json:"enabled,omitempty" doc:"false: nothing is sent. true: it goes on where it stood, also after the platform disabled it."`
}

// Webhook sends events to a receiver, signed.
type Webhook struct {
	ID                  string     `json:"id"`
	URL                 string     `json:"url"`
	Description         string     `json:"description"`
	Types               []string   `json:"types"`
	DeploymentID        *string    `json:"deployment_id"`
	ExternalWorkspaceID *string    `json:"external_workspace_id"`
	Enabled             bool       `json:"enabled"`
	DisabledReason      *string    `json:"disabled_reason" doc:"Why the platform disabled it: answered with 410, or nothing delivered for a day."`
	DisabledAt          *time.Time `json:"disabled_at"`
	DeliveredAt         *time.Time `json:"delivered_at" doc:"The last delivery."`
	FailingSince        *time.Time `json:"failing_since" doc:"null: the last attempt went well."`
	PreviousSecretUntil *time.Time `json:"previous_secret_until" doc:"Until then every delivery is signed with the previous secret, too."`
	CreatedAt           time.Time  `json:"created_at"`
	UpdatedAt           time.Time  `json:"updated_at"`
}

// WebhookSecret is a webhook with its secret, which no other answer has.
type WebhookSecret struct {
	Webhook
	Secret string `json:"secret" doc:"whsec_…: what deliveries are signed with."`
}

// WebhookRotate asks for another secret.
type WebhookRotate struct {
	// PreviousHours is how long the present one stays valid.
	PreviousHours *int `json:"previous_hours,omitempty" doc:"How long the present secret goes on signing beside the new one: 0–168 hours; default 24."`
}

// WebhookSent answers a test or a redelivery.
type WebhookSent struct {
	WebhookID string `json:"webhook_id"`
	EventID   string `json:"event_id" doc:"The webhook-id header of the delivery; see the deliveries for how it went."`
}

// Delivery is the sending of one event, in as many attempts as it takes.
type Delivery struct {
	EventID       string     `json:"event_id"`
	EventType     string     `json:"event_type"`
	State         string     `json:"state" enum:"waiting,delivered,given_up"`
	Attempts      int        `json:"attempts"`
	Status        *int       `json:"status" doc:"Of the last answer; null: there was none."`
	Error         *string    `json:"error" doc:"Of the last attempt; null: it went well."`
	LatencyMS     int64      `json:"latency_ms"`
	LastAttemptAt time.Time  `json:"last_attempt_at"`
	NextAttemptAt *time.Time `json:"next_attempt_at"`
}
