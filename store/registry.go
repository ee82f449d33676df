package store

import (
	"time"

	"github.com/miosa/miosa"
)

// RegistryLogins are kept by tenant.
var RegistryLogins = shape[miosa.RegistryLogin, registryLoginRecord]{
	name: kindRegistryLogin, schema: 1,
	key:      func(v miosa.RegistryLogin) string { return RegistryLoginKey(v.TenantID, v.ID) },
	record:   registryLoginToRecord,
	noun:     registryLoginRecord.noun,
	revision: func(v *miosa.RegistryLogin) *int64 { return &v.Revision },
}.kind()

type registryLoginRecord struct {
	ID          string    `json:"id,omitempty"`
	TenantID    string    `json:"tenant_id,omitempty"`
	WorkspaceID string    `json:"workspace_id,omitempty"`
	Host        string    `json:"host,omitempty"`
	User        string    `json:"user,omitempty"`
	Secret      []byte    `json:"secret,omitempty"`
	CA          string    `json:"ca,omitempty"`
	OwnerID     string    `json:"owner_id,omitempty"`
	CreatedAt   time.Time `json:"created_at,omitzero"`
	UpdatedAt   time.Time `json:"updated_at,omitzero"`
}

func registryLoginToRecord(v miosa.RegistryLogin) registryLoginRecord {
	return registryLoginRecord{
		ID:          v.ID,
		TenantID:    v.TenantID,
		WorkspaceID: v.WorkspaceID,
		Host:        v.Host,
		User:        v.User,
		Secret:      v.Secret,
		CA:          v.CA,
		OwnerID:     v.OwnerID,
		CreatedAt:   utc(v.CreatedAt),
		UpdatedAt:   utc(v.UpdatedAt),
	}
}

func (r registryLoginRecord) noun() miosa.RegistryLogin {
	return miosa.RegistryLogin{
		ID:          r.ID,
		TenantID:    r.TenantID,
		WorkspaceID: r.WorkspaceID,
		Host:        r.Host,
		User:        r.User,
		Secret:      r.Secret,
		CA:          r.CA,
		OwnerID:     r.OwnerID,
		CreatedAt:   r.CreatedAt,
		UpdatedAt:   r.UpdatedAt,
	}
}

type imageRecord struct {
	Reference   string `json:"reference,omitempty"`
	Platform    string `json:"platform,omitempty"`
	Digest      string `json:"digest,omitempty"`
	WorkspaceID string `json:"workspace_id,omitempty"`
	Failure     string `json:"failure,omitempty"`
}
