package miosa

import "time"

// Webhook sends a tenant's events, as they happen, to a receiver that the
// customer names.
type Webhook struct {
	ID          string
	TenantID    string
	WorkspaceID string // only what belongs to that external_workspace_id; "": the whole tenant's
	URL         string
	Description string
	// Which events: those of all that are set.
	DeploymentID string
	Types        []string // beginnings of Event.Type, any of which will do
	Paused       bool     // by its owner
	// ResumedAt is when its owner last asked for it to be enabled: it ends an
	// earlier disabling by the platform.
	ResumedAt time.Time
	// Secret signs; until PreviousUntil the previous one signs as well, and
	// those before it each until its own time. All are sealed: see WebhookAAD.
	Secret         []byte
	PreviousSecret []byte
	PreviousUntil  time.Time
	Earlier        []OldSecret // newest first
	BeginID        string      // the event of its creation: what comes behind it is sent
	OwnerID        string      // the key that created it
	CreatedAt      time.Time
	UpdatedAt      time.Time
	Revision       int64
}

// OldSecret is a secret that was replaced and signs for a while longer.
type OldSecret struct {
	Sealed []byte
	Until  time.Time
}

// Secrets are those that sign at a moment, sealed, the present one first.
func (w *Webhook) Secrets(now time.Time) [][]byte {
	all := [][]byte{w.Secret}
	for _, old := range w.OldSecrets(now) {
		all = append(all, old.Sealed)
	}
	return all
}

// OldSecrets are those that were replaced and still sign at a moment, newest first.
func (w *Webhook) OldSecrets(now time.Time) []OldSecret {
	var all []OldSecret
	for _, old := range append([]OldSecret{{w.PreviousSecret, w.PreviousUntil}}, w.Earlier...) {
		if len(old.Sealed) > 0 && now.Before(old.Until) {
			all = append(all, old)
		}
	}
	return all
}

// WebhookAAD is the additional data that a webhook's secrets are sealed with.
func WebhookAAD(webhookID string) string { return webhookID + "/secret" }

// Delivery is the sending of one event to one webhook, in as many attempts as
// it takes.
type Delivery struct {
	EventID   string
	Type      string // of the event
	State     DeliveryState
	Attempts  int
	Status    int           // of the last answer; 0: there was none
	Error     string        // of the last attempt, in words
	Latency   time.Duration // of the last attempt
	AttemptAt time.Time     // the last
	NextAt    time.Time     // while waiting
}

// DeliveryState says how a delivery stands.
type DeliveryState string

const (
	DeliveryWaiting   DeliveryState = "waiting"   // failed so far, tried again
	DeliveryDelivered DeliveryState = "delivered" // answered with 2xx
	DeliveryGivenUp   DeliveryState = "given_up"  // not tried any more
)

// WebhookStatus is how a webhook does.
type WebhookStatus struct {
	DisabledAt     time.Time // by the platform; zero: it is not
	DisabledReason string
	DeliveredAt    time.Time  // the last delivery; zero: none yet
	FailingSince   time.Time  // zero: the last attempt went well
	Recent         []Delivery // the newest last
}
