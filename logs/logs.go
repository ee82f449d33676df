// Package logs is the port to the log store: every line of every instance,
// kept for its plan's days. pebble and victorialogs are its adapters, logstest
// is its conformance suite, plane the loop that feeds it.
//
// A line's place within its instance is its Seq, which the host's spool gives
// it: the guest's lines and the host's own (system lines, gap markers) in one
// row, from 1, without a hole, over all boots of the instance. A spool that had
// to begin anew has a higher Epoch. A store drops what it holds already by
// (instance, epoch, seq), so that a host may send again whatever it has no
// answer for. Within an instance times never go back: the spool sees to it.
package logs

import (
	"context"
	"iter"
	"time"
)

// Stream says where a line came from.
type Stream string

const (
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
	System Stream = "system" // the platform's own word: boots, probes, exits, gaps
)

// Valid reports whether it is one of the three.
func (s Stream) Valid() bool { return s == Stdout || s == Stderr || s == System }

// MaxText bounds one line's text in bytes; longer ones were split before.
const MaxText = 64 << 10

// MaxDays bounds for how many days a line may be kept.
const MaxDays = 3650

// Line is one line as it is kept.
type Line struct {
	Time    time.Time // UTC, to the microsecond; never earlier than the line before it in its instance
	Stream  Stream
	Text    []byte // without its newline, as it came: any bytes, also none
	Partial bool   // the text goes on in the instance's next line of the same stream
	// Lost marks a gap: so many lines of the app were lost just before. Stream
	// is System then, and Text says it in words.
	Lost uint64
}

// Origin is whose lines they are. IDs are the domain's, 30 bytes or so; none
// holds a byte below 0x21 or above 0x7e. Spools and stores keep it as JSON: the
// names of its tags stay, whatever the fields are called.
type Origin struct {
	TenantID     string `json:"TenantID"`
	DeploymentID string `json:"DeploymentID"`
	ServiceID    string `json:"ServiceID"` // "": of a task's attempt
	InstanceID   string `json:"InstanceID"`
	VersionID    string `json:"VersionID"`
	HostID       string `json:"HostID"`
	WorkspaceID  string `json:"WorkspaceID"` // external_workspace_id of the deployment; "": none. Any UTF-8, 256 bytes at most
	// TaskID is whose attempt the instance is: an ID of miosa.PrefixTask, which no
	// service has; "": a service's. What was written before has none.
	TaskID string `json:"TaskID,omitempty"`
}

// Batch is a run of one instance's lines: the first has the number First, and
// no number between is missing.
type Batch struct {
	Origin Origin
	Epoch  uint64
	First  uint64 // ≥ 1
	Lines  []Line
}

// Position is a line's place in its instance.
type Position struct {
	Epoch, Seq uint64
}

// Less orders positions of one instance.
func (p Position) Less(q Position) bool {
	return p.Epoch < q.Epoch || p.Epoch == q.Epoch && p.Seq < q.Seq
}

// Entry is a line that was read.
type Entry struct {
	Line
	Origin   Origin
	Position Position
}

// Scope is whose lines may be read. TenantID is required: no read crosses
// tenants. The other fields narrow it; "" does not.
type Scope struct {
	TenantID     string
	DeploymentID string
	ServiceID    string
	InstanceID   string
	VersionID    string
	HostID       string
	WorkspaceID  string
	TaskID       string // all its attempts
	Stream       Stream
	Search       Search
}

// Admits reports whether the scope holds lines of the origin at all.
func (s Scope) Admits(o Origin) bool {
	is := func(want, have string) bool { return want == "" || want == have }
	return s.TenantID != "" && s.TenantID == o.TenantID && is(s.DeploymentID, o.DeploymentID) && is(s.ServiceID, o.ServiceID) &&
		is(s.InstanceID, o.InstanceID) && is(s.VersionID, o.VersionID) && is(s.HostID, o.HostID) && is(s.WorkspaceID, o.WorkspaceID) &&
		is(s.TaskID, o.TaskID)
}

// Holds reports whether the scope holds the line, of an origin that it admits.
func (s Scope) Holds(l *Line) bool {
	return (s.Stream == "" || s.Stream == l.Stream) && s.Search.Match(l.Text)
}

// Place is where a line stands among all that are read together: by time,
// then by instance, then by position.
type Place struct {
	Time       time.Time
	InstanceID string
	Position   Position
}

// PlaceOf is the entry's.
func PlaceOf(e *Entry) Place { return Place{e.Time, e.Origin.InstanceID, e.Position} }

// Before orders places.
func (p Place) Before(q Place) bool {
	if !p.Time.Equal(q.Time) {
		return p.Time.Before(q.Time)
	}
	if p.InstanceID != q.InstanceID {
		return p.InstanceID < q.InstanceID
	}
	return p.Position.Less(q.Position)
}

// Query reads by time.
type Query struct {
	Scope
	Since, Until time.Time // [Since, Until); zero: unbounded
	// After is where the last page ended: only lines behind it, in the
	// direction of reading. The zero Place: from the beginning.
	After    Place
	Backward bool // newest first
}

// Mark is a place in the order of arrival at the store: batches are numbered
// from 1 as they are appended, by all hosts together. Zero is before all.
type Mark uint64

// Arrival is what an Append brought, less what was dropped.
type Arrival struct {
	Mark  Mark
	Batch Batch
}

// Usage is how much was logged, before compression.
type Usage struct {
	Lines, Bytes uint64 // Bytes of text alone
}

// Kept is one batch with how long it is kept.
type Kept struct {
	Batch
	Days int // from each line's time on, at least; 1 to MaxDays
}

// SetBack is how much earlier than the last time Expire must be asked, for the
// clock to have been wrong then. Otherwise all that is written would be hidden
// until the clock is there once more.
const SetBack = time.Hour

// Store keeps lines. Its methods may be called from several goroutines at
// once.
type Store interface {
	// Append makes the batches durable, then returns what was new of them in
	// their order, for who follows live. A batch that is partly known is
	// shortened; one of an older epoch than the instance's last is dropped
	// whole. On error nothing is known of what was kept: the same may be
	// appended again. miosa.NoSpace: the disk is nearly full, and stays so until
	// something expires; what is held can still be read.
	Append(ctx context.Context, batches []Kept) ([]Arrival, error)
	// Held is the last position of an instance that the store holds; zero: none.
	Held(ctx context.Context, tenantID, instanceID string) (Position, error)
	// Read yields what the query names, in time order or against it. Breaking
	// off the loop is how a page ends. An error is yielded last. It shows the
	// store as it was when the loop began: what comes meanwhile is left out, what
	// goes meanwhile may be.
	Read(ctx context.Context, q Query) iter.Seq2[Entry, error]
	// Last is the mark of the newest arrival.
	Last(ctx context.Context) (Mark, error)
	// Arrivals yields what came after the mark, as it came, to the newest at the
	// time of the call; only of origins that the scope admits, with the lines
	// that it holds. miosa.Gone when the store no longer knows the order that
	// far back: it keeps at least an hour of it.
	Arrivals(ctx context.Context, after Mark, scope Scope) iter.Seq2[Arrival, error]
	// Expire drops what has been kept for its days by now: from then on no read
	// shows it. Its bytes may lie there up to an hour longer. A time SetBack or
	// more before the last one: see there.
	Expire(ctx context.Context, now time.Time) error
	// Purge drops every line of a deployment at once.
	Purge(ctx context.Context, tenantID, deploymentID string) error
	// Usage is what a tenant logged within [since, until), by whole hours: an
	// hour counts where it begins.
	Usage(ctx context.Context, tenantID string, since, until time.Time) (Usage, error)
}
