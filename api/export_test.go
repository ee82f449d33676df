package api

import (
	"context"
	"iter"
	"time"

	"github.com/miosa/miosa/events"
	"github.com/miosa/miosa/logs"
)

// Operation is a route as tests see it.
type Operation struct {
	Method, Pattern, ID string
	Admin, Stream       bool
	WebSocket           bool
	Upload, List, Dry   bool
}

// Operations lists every route.
func Operations() []Operation {
	var all []Operation
	for _, r := range routes() {
		all = append(all, Operation{
			r.Method, r.Pattern, r.Operation, r.Access == accessAdmin, r.Stream != nil, r.WebSocket != nil, r.Upload, r.Handle.list && !r.table(), r.Dry,
		})
	}
	return all
}

// SlugOf is slugOf.
func SlugOf(name string) string { return slugOf(name) }

// ValidSlug says whether a slug may stand in a host name.
func ValidSlug(slug string) bool { return validLabel(slug, maxSlug) }

// Preview is preview.
func Preview(value string, secret bool) string { return preview(value, secret) }

// Tag is the operation's section in the document.
func (o Operation) Tag() string { return (&route{Pattern: o.Pattern}).tag() }

// Tail gives lines with the IDs behind them, from an ID on ("": a new one).
func Tail(ctx context.Context, from LogReader, q logs.Query, newest, chunk int, lastID string, give func(e logs.Entry, id string) bool) error {
	// A place without a line comes with an empty entry.
	t := &tail{logs: from, query: q, newest: newest, chunk: chunk, now: time.Now, give: func(lines []tailLine, id string) bool {
		if len(lines) == 0 {
			return give(logs.Entry{}, id)
		}
		for _, l := range lines {
			if !give(l.Entry, l.id) {
				return false
			}
		}
		return true
	}}
	at, resumed := parseTailMark(lastID)
	return t.run(ctx, at, resumed)
}

// RewriteTailMark reads an ID and writes it again.
func RewriteTailMark(id string) (string, bool) {
	m, ok := parseTailMark(id)
	return m.String(), ok
}

// RewriteCursor reads a cursor and writes it again.
func RewriteCursor(cursor string) (string, bool) {
	p, ok := parsePlace(cursor)
	return placeCursor(p), ok
}

// FollowEvents is a stream's events, without HTTP; give takes an event's ID and
// the place behind it.
func FollowEvents(ctx context.Context, from EventReader, scope events.Scope, last string, backlog int, give func(event, place string) bool) error {
	s := &Server{events: from}
	return s.followEvents(ctx, scope, eventMark(last), backlog, func(p parcel) bool {
		for _, i := range p.items {
			if !give(i.id, i.id) {
				return false
			}
		}
		return p.place == "" || give("", p.place)
	})
}

// EventMark is eventMark.
func EventMark(v string) string { return eventMark(v) }

// MakeCursor is makeCursor.
func MakeCursor(key string) string { return makeCursor(key) }

// InOrder is inOrder.
func InOrder[V any](m map[string]V) iter.Seq2[string, V] { return inOrder(m) }

// DryRuns are dryRuns.
type DryRuns = dryRuns

// NewDryRuns is newDryRuns.
func NewDryRuns() DryRuns { return newDryRuns() }

// Enter is enter.
func (d dryRuns) Enter(ctx context.Context, operator bool) (leave func(), err error) {
	return d.enter(ctx, operator)
}
