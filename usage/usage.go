// Package usage is the port to where usage is kept: what every service of
// every tenant used, hour by hour, and how much of it is settled with each
// instance. pebble and memory are its adapters, usagetest is its conformance
// suite, ledger the loop that feeds it. What counts, and how, is package
// metering's.
package usage

import (
	"context"
	"iter"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/metering"
)

// Subject is whom an amount is billed to. IDs hold no byte below 0x21 or above
// 0x7e.
type Subject struct {
	TenantID     string
	DeploymentID string
	ServiceID    string // "": the deployment as a whole, as for storage
	// Attribution is the deployment's at that time: any UTF-8, 256 bytes each at most.
	miosa.Attribution
}

// Row is what a subject used within one hour.
type Row struct {
	Hour metering.Hour
	Subject
	Name string // the deployment's, as it was last
	metering.Amount
}

// Account is how much of an instance's usage is settled, and with whom.
type Account struct {
	InstanceID string
	HostID     string // which alone may report on it
	Subject
	Name  string // the deployment's
	Size  metering.Size
	Since int64 // Unix seconds: the instance was not on its host before
	metering.Account
	// LogEpoch and LogSeq are the last line that was counted.
	LogEpoch, LogSeq uint64
	Seen             metering.Hour // the last that anything was heard of it
}

// Change is written as a whole or not at all.
type Change struct {
	Accounts []Account // replace what was there
	Add      []Row     // to what the subject has in the hour already
	// Sampled is the last hour whose storage is among what was added; 0: as it was.
	Sampled metering.Hour
}

// Query names rows.
type Query struct {
	TenantID     string // "": of all tenants
	DeploymentID string // "": of all
	ServiceID    string // "": of all
	// Workspace, user and project narrow it likewise.
	miosa.Attribution
	Since, Until metering.Hour // [Since, Until)
}

// Admits reports whether the query names rows of the subject.
func (q Query) Admits(s Subject) bool {
	is := func(want, have string) bool { return want == "" || want == have }
	return is(q.TenantID, s.TenantID) && is(q.DeploymentID, s.DeploymentID) && is(q.ServiceID, s.ServiceID) &&
		is(q.WorkspaceID, s.WorkspaceID) && is(q.UserID, s.UserID) && is(q.ProjectID, s.ProjectID)
}

// Store keeps rows and accounts. Its methods may be called from several
// goroutines at once.
type Store interface {
	// Account is an instance's; miosa.NotFound when there is none,
	// miosa.Unavailable while a change that ended in an error may yet be made.
	Account(ctx context.Context, instanceID string) (Account, error)
	// Commit makes a change durable. On error nobody knows whether it was made.
	Commit(ctx context.Context, c Change) error
	// Rows yields what the query names: by hour, then by tenant, deployment and
	// service. An error is yielded last.
	Rows(ctx context.Context, q Query) iter.Seq2[Row, error]
	// Sampled is the last hour whose storage was added; 0: none ever was.
	// miosa.Unavailable as of Account.
	Sampled(ctx context.Context) (metering.Hour, error)
	// Expire drops rows of hours before, and accounts not heard of since.
	Expire(ctx context.Context, before metering.Hour) error
}
