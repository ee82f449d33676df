package store

import (
	"time"

	"github.com/miosa/miosa"
)

// Webhooks are kept by tenant.
var Webhooks = shape[miosa.Webhook, webhookRecord]{
	name: kindWebhook, schema: 1,
	key:      func(v miosa.Webhook) string { return WebhookKey(v.TenantID, v.ID) },
	record:   webhookToRecord,
	noun:     webhookRecord.noun,
	revision: func(v *miosa.Webhook) *int64 { return &v.Revision },
}.kind()

type webhookRecord struct {
	ID             string            `json:"id,omitempty"`
	TenantID       string            `json:"tenant_id,omitempty"`
	WorkspaceID    string            `json:"workspace_id,omitempty"`
	URL            string            `json:"url,omitempty"`
	Description    string            `json:"description,omitempty"`
	DeploymentID   string            `json:"deployment_id,omitempty"`
	Types          []string          `json:"types,omitempty"`
	Paused         bool              `json:"paused,omitempty"`
	ResumedAt      time.Time         `json:"resumed_at,omitzero"`
	Secret         []byte            `json:"secret,omitempty"`
	PreviousSecret []byte            `json:"previous_secret,omitempty"`
	PreviousUntil  time.Time         `json:"previous_until,omitzero"`
	Earlier        []oldSecretRecord `json:"earlier_secrets,omitempty"`
	BeginID        string            `json:"begin_id,omitempty"`
	OwnerID        string            `json:"owner_id,omitempty"`
	CreatedAt      time.Time         `json:"created_at,omitzero"`
	UpdatedAt      time.Time         `json:"updated_at,omitzero"`
}

type oldSecretRecord struct {
	Sealed []byte    `json:"sealed,omitempty"`
	Until  time.Time `json:"until,omitzero"`
}

func oldSecretRecords(all []miosa.OldSecret) []oldSecretRecord {
	var out []oldSecretRecord
	for _, old := range all {
		out = append(out, oldSecretRecord{old.Sealed, utc(old.Until)})
	}
	return out
}

func oldSecrets(all []oldSecretRecord) []miosa.OldSecret {
	var out []miosa.OldSecret
	for _, old := range all {
		out = append(out, miosa.OldSecret(old))
	}
	return out
}

func webhookToRecord(v miosa.Webhook) webhookRecord {
	return webhookRecord{
		ID:             v.ID,
		TenantID:       v.TenantID,
		WorkspaceID:    v.WorkspaceID,
		URL:            v.URL,
		Description:    v.Description,
		DeploymentID:   v.DeploymentID,
		Types:          v.Types,
		Paused:         v.Paused,
		ResumedAt:      utc(v.ResumedAt),
		Secret:         v.Secret,
		PreviousSecret: v.PreviousSecret,
		PreviousUntil:  utc(v.PreviousUntil),
		Earlier:        oldSecretRecords(v.Earlier),
		BeginID:        v.BeginID,
		OwnerID:        v.OwnerID,
		CreatedAt:      utc(v.CreatedAt),
		UpdatedAt:      utc(v.UpdatedAt),
	}
}

func (r webhookRecord) noun() miosa.Webhook {
	return miosa.Webhook{
		ID:             r.ID,
		TenantID:       r.TenantID,
		WorkspaceID:    r.WorkspaceID,
		URL:            r.URL,
		Description:    r.Description,
		DeploymentID:   r.DeploymentID,
		Types:          r.Types,
		Paused:         r.Paused,
		ResumedAt:      r.ResumedAt,
		Secret:         r.Secret,
		PreviousSecret: r.PreviousSecret,
		PreviousUntil:  r.PreviousUntil,
		Earlier:        oldSecrets(r.Earlier),
		BeginID:        r.BeginID,
		OwnerID:        r.OwnerID,
		CreatedAt:      r.CreatedAt,
		UpdatedAt:      r.UpdatedAt,
	}
}
