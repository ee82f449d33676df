// Package metrics is the port to the built-in history: what instances and the
// router's traffic looked like over the last day, every 15 seconds, so that a
// console can draw it without a Prometheus beside it. pebble and memory are its
// adapters, metricstest is its conformance suite, plane the loop that feeds it.
//
// These are figures to look at. A sample may be missing, and then there is a
// gap; nobody is billed by them.
package metrics

import (
	"context"
	"iter"
	"strings"
	"time"

	"github.com/miosa/miosa"
)

const (
	// Interval is the time from one sample of a source to its next.
	Interval = 15 * time.Second
	// Stale is how far apart two samples may be and still tell of what was
	// between them: three may be missing.
	Stale = 4 * Interval
	// Kept is how long samples are kept, at least.
	Kept = 24 * time.Hour
)

// Owner is whose figures they are, and who counted: an instance, or a router
// for the traffic of a service.
type Owner struct {
	TenantID     string
	DeploymentID string
	ServiceID    string
	SourceID     string // an instance's ID, or a router's
}

// Instance reports whether the source is an instance.
func (o Owner) Instance() bool { return miosa.IDPrefix(o.SourceID) == miosa.PrefixInstance }

// Valid reports whether it names all four, in bytes that may stand in a key.
func (o Owner) Valid() bool {
	for _, id := range []string{o.TenantID, o.DeploymentID, o.ServiceID, o.SourceID} {
		if id == "" || len(id) > 128 || strings.IndexFunc(id, func(r rune) bool { return r <= ' ' || r > '~' }) >= 0 {
			return false
		}
	}
	return true
}

// Values are the figures of one source at one moment; those that could not be
// had are not there. The zero value has none.
type Values struct {
	has uint32
	all [figures]int64
}

// Set gives a figure its value, in its stored unit. Negative ones, and figures
// that there are none of, are left out.
func (v *Values) Set(f Figure, n int64) {
	if int(f) < figures && n >= 0 {
		v.has |= 1 << f
		v.all[f] = n
	}
}

// Get is a figure's value, if it is there.
func (v *Values) Get(f Figure) (int64, bool) {
	if int(f) >= figures || v.has&(1<<f) == 0 {
		return 0, false
	}
	return v.all[f], true
}

// Empty reports whether there is no figure.
func (v *Values) Empty() bool { return v.has == 0 }

// Sample is one source's.
type Sample struct {
	Owner  Owner
	Values Values
}

// Pass is what one host or router saw of all its sources at one moment.
type Pass struct {
	At      time.Time
	Samples []Sample
}

// Scope is whose samples may be read. TenantID and DeploymentID are required:
// no read crosses tenants. The others narrow it, from left to right.
type Scope struct {
	TenantID     string
	DeploymentID string
	ServiceID    string
	SourceID     string
}

// Admits reports whether the scope holds samples of the owner.
func (s Scope) Admits(o Owner) bool {
	return s.TenantID != "" && s.TenantID == o.TenantID && s.DeploymentID != "" && s.DeploymentID == o.DeploymentID &&
		(s.ServiceID == "" || s.ServiceID == o.ServiceID) && (s.SourceID == "" || s.SourceID == o.SourceID)
}

// Row is one sample as it is read.
type Row struct {
	Owner  Owner
	At     time.Time // UTC, to the millisecond
	Values Values
}

// Store keeps samples for Kept. Its methods may be called from several
// goroutines at once.
type Store interface {
	// Append keeps a pass: it is durable, whole, when Append returns, and not at
	// all on error. Samples of a source that are not newer than its last are
	// dropped. miosa.NoSpace: the disk is nearly full.
	Append(ctx context.Context, pass Pass) error
	// Read yields the samples of [since, until) that the scope admits: service by
	// service, source by source, in the order of their IDs, each source's in time
	// order. An error is yielded last.
	Read(ctx context.Context, scope Scope, since, until time.Time) iter.Seq2[Row, error]
	// Expire drops what is older than Kept. It may stay up to two hours longer.
	Expire(ctx context.Context, now time.Time) error
}

// Check refuses a pass that no store takes: miosa.Invalid.
func Check(pass Pass) error {
	if pass.At.UnixMilli() <= 0 || pass.At.Year() > 9999 {
		return miosa.Errorf(miosa.Invalid, "the time of a pass of samples, %s, is none", pass.At)
	}
	for n := range pass.Samples {
		if o := pass.Samples[n].Owner; !o.Valid() {
			return miosa.Errorf(miosa.Invalid, "a sample of source %q does not say whose it is", o.SourceID)
		}
	}
	return nil
}
