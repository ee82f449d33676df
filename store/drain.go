package store

import (
	"time"

	"github.com/miosa/miosa"
)

// LogDrains are kept by tenant. How far one has come is no part of it: that is
// kept beside the log store (logs/drain).
var LogDrains = shape[miosa.LogDrain, logDrainRecord]{
	name: kindLogDrain, schema: 1,
	key:      func(v miosa.LogDrain) string { return LogDrainKey(v.TenantID, v.ID) },
	record:   logDrainToRecord,
	noun:     logDrainRecord.noun,
	revision: func(v *miosa.LogDrain) *int64 { return &v.Revision },
}.kind()

type logDrainRecord struct {
	ID           string              `json:"id,omitempty"`
	TenantID     string              `json:"tenant_id,omitempty"`
	Name         string              `json:"name,omitempty"`
	Type         miosa.DrainType     `json:"type,omitempty"`
	Target       string              `json:"target,omitempty"`
	URL          []byte              `json:"url,omitempty"`
	Headers      []drainHeaderRecord `json:"headers,omitempty"`
	Token        []byte              `json:"token,omitempty"`
	CA           string              `json:"ca,omitempty"`
	DeploymentID string              `json:"deployment_id,omitempty"`
	ServiceID    string              `json:"service_id,omitempty"`
	Stream       string              `json:"stream,omitempty"`
	Search       string              `json:"search,omitempty"`
	Paused       bool                `json:"paused,omitempty"`
	OwnerID      string              `json:"owner_id,omitempty"`
	Attribution  attributionRecord   `json:"attribution,omitzero"`
	CreatedAt    time.Time           `json:"created_at,omitzero"`
	UpdatedAt    time.Time           `json:"updated_at,omitzero"`
}

func logDrainToRecord(v miosa.LogDrain) logDrainRecord {
	return logDrainRecord{
		ID:           v.ID,
		TenantID:     v.TenantID,
		Name:         v.Name,
		Type:         v.Type,
		Target:       v.Target,
		URL:          v.URL,
		Headers:      each(v.Headers, drainHeaderToRecord),
		Token:        v.Token,
		CA:           v.CA,
		DeploymentID: v.DeploymentID,
		ServiceID:    v.ServiceID,
		Stream:       v.Stream,
		Search:       v.Search,
		Paused:       v.Paused,
		OwnerID:      v.OwnerID,
		Attribution:  attributionToRecord(v.Attribution),
		CreatedAt:    utc(v.CreatedAt),
		UpdatedAt:    utc(v.UpdatedAt),
	}
}

func (r logDrainRecord) noun() miosa.LogDrain {
	return miosa.LogDrain{
		ID:           r.ID,
		TenantID:     r.TenantID,
		Name:         r.Name,
		Type:         r.Type,
		Target:       r.Target,
		URL:          r.URL,
		Headers:      each(r.Headers, drainHeaderRecord.noun),
		Token:        r.Token,
		CA:           r.CA,
		DeploymentID: r.DeploymentID,
		ServiceID:    r.ServiceID,
		Stream:       r.Stream,
		Search:       r.Search,
		Paused:       r.Paused,
		OwnerID:      r.OwnerID,
		Attribution:  r.Attribution.noun(),
		CreatedAt:    r.CreatedAt,
		UpdatedAt:    r.UpdatedAt,
	}
}

type drainHeaderRecord struct {
	Name   string `json:"name,omitempty" store:"identity"`
	Sealed []byte `json:"sealed,omitempty"`
}

func drainHeaderToRecord(v miosa.DrainHeader) drainHeaderRecord {
	return drainHeaderRecord{Name: v.Name, Sealed: v.Sealed}
}

func (r drainHeaderRecord) noun() miosa.DrainHeader {
	return miosa.DrainHeader{Name: r.Name, Sealed: r.Sealed}
}
