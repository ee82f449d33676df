// Package events is the port to the event store: what happened, why, and who
// asked, kept for the days of the tenant's plan. pebble and memory are its
// adapters, eventstest is its conformance suite. timeline is the loop that
// fills it from the outbox and serves who reads, webhook the one that sends
// events on.
//
// There is one order, that of arrival at the store, which is the order of the
// commits that the events tell of: readers, followers and webhooks all see it.
// A store drops what it holds already by ID, so that what has no answer may be
// sent again.
package events

import (
	"context"
	"iter"
	"strings"
	"time"

	"github.com/miosa/miosa"
)

// Mark is a place in the order of arrival: events are numbered from 1. Zero is
// before all.
type Mark uint64

// Entry is an event that was read.
type Entry struct {
	miosa.Event
	Mark Mark
}

// Kept is an event with how long it is kept.
type Kept struct {
	miosa.Event
	Days int // from its time on, at least; 1 to 3650
}

// Scope is whose events may be read. Without a tenant it holds nothing, unless
// it is the operator's. The other fields narrow it; empty ones do not.
type Scope struct {
	// Operator: those of all tenants, and those of none. TenantID narrows it.
	Operator     bool
	TenantID     string
	WorkspaceID  string
	DeploymentID string
	ServiceID    string
	InstanceID   string
	VersionID    string
	RolloutID    string
	TaskID       string // all its attempts, too
	HostID       string
	Types        []string // beginnings of Type, any of which will do
}

// Holds reports whether the event is in the scope.
func (s *Scope) Holds(e *miosa.Event) bool {
	is := func(want, have string) bool { return want == "" || want == have }
	if !s.Operator && s.TenantID == "" || !is(s.TenantID, e.TenantID) || !is(s.WorkspaceID, e.WorkspaceID) ||
		!is(s.DeploymentID, e.DeploymentID) || !is(s.ServiceID, e.ServiceID) || !is(s.InstanceID, e.InstanceID) ||
		!is(s.VersionID, e.VersionID) || !is(s.RolloutID, e.RolloutID) || !is(s.TaskID, e.TaskID) || !is(s.HostID, e.HostID) {
		return false
	}
	return len(s.Types) == 0 || HasType(s.Types, e.Type)
}

// HasType reports whether a type begins with any of the beginnings.
func HasType(beginnings []string, kind string) bool {
	for _, b := range beginnings {
		if strings.HasPrefix(kind, b) {
			return true
		}
	}
	return false
}

// Query reads in the order of arrival, or against it.
type Query struct {
	Scope
	// After is where the last read ended: only what is behind it, in the
	// direction of reading. Zero: from the beginning, or from the end.
	After    Mark
	Backward bool // newest first
}

// Store keeps events. Its methods may be called from several goroutines at
// once.
type Store interface {
	// Append makes the events durable in their order; those whose ID it holds
	// are dropped. On error nothing is known of what was kept: the same may be
	// appended again. miosa.NoSpace: the disk is nearly full, and stays so until
	// something expires; miosa.Invalid: an event has no ID of an event, or days
	// out of range.
	Append(ctx context.Context, kept []Kept) error
	// Read yields what the query names. Breaking off the loop is how a page
	// ends. An error is yielded last.
	Read(ctx context.Context, q Query) iter.Seq2[Entry, error]
	// Last is the mark of the newest event.
	Last(ctx context.Context) (Mark, error)
	// Place is the mark of an event by its ID. When it is not held, held is
	// false and the mark is one with everything before it that was held before
	// the hour that the ID is of, and everything of that hour and later behind.
	Place(ctx context.Context, id string) (m Mark, held bool, err error)
	// Expire drops what has been kept for its days by now. An event may stay up
	// to an hour longer.
	Expire(ctx context.Context, now time.Time) error
}

// Check refuses what no store takes: with miosa.Invalid.
func (k *Kept) Check() error {
	if miosa.IDPrefix(k.ID) != miosa.PrefixEvent {
		return miosa.Errorf(miosa.Invalid, "%q is no event's ID", k.ID)
	}
	if k.Days < 1 || k.Days > 3650 {
		return miosa.Errorf(miosa.Invalid, "events are kept for 1 to 3650 days, not for %d", k.Days)
	}
	for _, id := range []string{k.TenantID, k.DeploymentID, k.ServiceID, k.InstanceID, k.VersionID, k.RolloutID, k.TaskID, k.HostID} {
		for i := range len(id) {
			if id[i] < 0x21 || id[i] > 0x7e {
				return miosa.Errorf(miosa.Invalid, "the ID %q in event %s has bytes that no ID has", id, k.ID)
			}
		}
	}
	return nil
}

// Hour is the hour, counted from 1970, that an event is kept under: that of its
// time, but none before the event that arrived before it and none to come.
// Clocks differ, and it must rise with the marks.
func Hour(at, now time.Time, before int32) int32 {
	return max(before, min(hourOf(at), hourOf(now)))
}

// Expires is when an event that is kept under an hour for so many days goes.
func Expires(hour int32, days int) time.Time {
	return time.Unix((int64(hour)+1)*3600, 0).Add(time.Duration(days) * 24 * time.Hour)
}

func hourOf(t time.Time) int32 {
	return int32(max(t.Unix(), 0) / 3600) //nolint:gosec // until the year 246,000
}
