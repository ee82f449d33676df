package store

import (
	"net/netip"
	"time"

	"github.com/miosa/miosa"
)

// Hosts are kept by ID.
var Hosts = shape[miosa.Host, hostRecord]{
	name: kindHost, schema: 1,
	key:      func(v miosa.Host) string { return HostKey(v.ID) },
	record:   hostToRecord,
	noun:     hostRecord.noun,
	revision: func(v *miosa.Host) *int64 { return &v.Revision },
}.kind()

type hostRecord struct {
	ID          string            `json:"id,omitempty"`
	Name        string            `json:"name,omitempty"`
	Region      string            `json:"region,omitempty"`
	Zone        string            `json:"zone,omitempty"`
	Driver      string            `json:"driver,omitempty"`
	PublicKey   []byte            `json:"public_key,omitempty"`
	Capacity    resourcesRecord   `json:"capacity,omitzero"`
	Addresses   []netip.Addr      `json:"addresses,omitempty"`
	Overcommit  float64           `json:"overcommit,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Schedulable bool              `json:"schedulable,omitempty"`
	Liveness    miosa.Liveness    `json:"liveness,omitempty"`
	Failing     bool              `json:"failing,omitempty"`
	Reasons     []string          `json:"reasons,omitempty"`
	Drain       hostDrainRecord   `json:"drain,omitzero"`
	Version     string            `json:"version,omitempty"`
	CreatedAt   time.Time         `json:"created_at,omitzero"`
	UpdatedAt   time.Time         `json:"updated_at,omitzero"`
}

func hostToRecord(v miosa.Host) hostRecord {
	return hostRecord{
		ID:          v.ID,
		Name:        v.Name,
		Region:      v.Region,
		Zone:        v.Zone,
		Driver:      v.Driver,
		PublicKey:   v.PublicKey,
		Capacity:    resourcesToRecord(v.Capacity),
		Addresses:   v.Addresses,
		Overcommit:  v.Overcommit,
		Labels:      v.Labels,
		Schedulable: v.Schedulable,
		Liveness:    v.Liveness,
		Failing:     v.Failing,
		Reasons:     v.Reasons,
		Drain:       hostDrainToRecord(v.Drain),
		Version:     v.Version,
		CreatedAt:   utc(v.CreatedAt),
		UpdatedAt:   utc(v.UpdatedAt),
	}
}

func (r hostRecord) noun() miosa.Host {
	return miosa.Host{
		ID:          r.ID,
		Name:        r.Name,
		Region:      r.Region,
		Zone:        r.Zone,
		Driver:      r.Driver,
		PublicKey:   r.PublicKey,
		Capacity:    r.Capacity.noun(),
		Addresses:   r.Addresses,
		Overcommit:  r.Overcommit,
		Labels:      r.Labels,
		Schedulable: r.Schedulable,
		Liveness:    r.Liveness,
		Failing:     r.Failing,
		Reasons:     r.Reasons,
		Drain:       r.Drain.noun(),
		Version:     r.Version,
		CreatedAt:   r.CreatedAt,
		UpdatedAt:   r.UpdatedAt,
	}
}

type hostDrainRecord struct {
	Since      time.Time `json:"since,omitzero"`
	By         string    `json:"by,omitempty"`
	Deadline   time.Time `json:"deadline,omitzero"`
	Force      bool      `json:"force,omitempty"`
	Total      int       `json:"total,omitempty"`
	Left       int       `json:"left,omitempty"`
	Progress   string    `json:"progress,omitempty"`
	ReportedAt time.Time `json:"reported_at,omitzero"`
	LateAt     time.Time `json:"late_at,omitzero"`
	DoneAt     time.Time `json:"done_at,omitzero"`
}

func hostDrainToRecord(v miosa.HostDrain) hostDrainRecord {
	return hostDrainRecord{
		Since: utc(v.Since), By: v.By, Deadline: utc(v.Deadline), Force: v.Force, Total: v.Total, Left: v.Left, Progress: v.Progress,
		ReportedAt: utc(v.ReportedAt), LateAt: utc(v.LateAt), DoneAt: utc(v.DoneAt),
	}
}

func (r hostDrainRecord) noun() miosa.HostDrain {
	return miosa.HostDrain{
		Since: r.Since, By: r.By, Deadline: r.Deadline, Force: r.Force, Total: r.Total, Left: r.Left, Progress: r.Progress,
		ReportedAt: r.ReportedAt, LateAt: r.LateAt, DoneAt: r.DoneAt,
	}
}
