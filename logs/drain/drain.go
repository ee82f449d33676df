// Package drain is the loop that forwards log lines, as they come, to the
// receivers that customers name: NDJSON over HTTPS, syslog over TLS, OTLP.
//
// Every line is delivered at least once, each instance's in their order. One
// goroutine a drain reads from the log plane at its own pace and has one batch
// in memory, so that a receiver that is slow or away keeps nobody else waiting.
// What a drain does next is decided by its machine. Where it stands is kept in
// one small file beside the log store, written once a second at most: after a
// crash the lines since then go out again.
package drain

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/logs"
	"github.com/miosa/miosa/outbound"
	"github.com/miosa/miosa/records"
	"github.com/miosa/miosa/store"
)

const (
	// keepEvery is how often cursors are written, if any moved.
	keepEvery = time.Second
	// testTime bounds the sending of a test line.
	testTime = 20 * time.Second
	// maxTests bounds the test lines under way of one tenant.
	maxTests = 4
	// readDeadline bounds one read of the log store.
	readDeadline = 10 * time.Minute
)

// Opener opens what was sealed under a tenant's data key.
type Opener interface {
	Open(ctx context.Context, tenantID, aad string, sealed []byte) ([]byte, error)
}

// Config says where things lie and lead.
type Config struct {
	// File keeps the cursors; it is made if it is not there.
	File string
	// Guard says where drains may lead.
	Guard outbound.Guard
}

// Forwarder runs every drain. Make it with Open.
type Forwarder struct {
	source  Source
	records store.Store
	secrets Opener
	guard   outbound.Guard
	log     *slog.Logger
	now     func() time.Time
	cursors *cursors
	names   *names

	running sync.WaitGroup // every drain's goroutine

	mu      sync.Mutex // guards all below
	drains  map[string]*drain
	gone    map[string]bool   // deleted: their progress is to be dropped
	testing map[string]string // drain → tenant: a test line is under way
}

// drain is one that runs, or is paused.
type drain struct {
	record   miosa.LogDrain
	cancel   context.CancelFunc
	ended    chan struct{} // closed when its goroutine is
	recalled bool          // guarded by Forwarder.mu: status has what was remembered
	dirty    bool          // guarded by Forwarder.mu: progress is not kept yet
	status   status        // guarded by Forwarder.mu
}

// Open opens the cursors' file and starts nothing.
func Open(cfg Config, source Source, view *records.View, secrets Opener, log *slog.Logger) (*Forwarder, error) {
	c, err := openCursors(cfg.File)
	if err != nil {
		return nil, err
	}
	return &Forwarder{
		source: source, records: view.Store(), secrets: secrets, guard: cfg.Guard, log: log, now: time.Now, cursors: c,
		names:  &names{view},
		drains: map[string]*drain{}, gone: map[string]bool{}, testing: map[string]string{},
	}, nil
}

// Close closes the file; Run has returned.
func (f *Forwarder) Close() error { return f.cursors.close() }

// Run forwards until ctx ends, and keeps how far everything came.
func (f *Forwarder) Run(ctx context.Context) error {
	var parts sync.WaitGroup
	parts.Go(func() { f.watch(ctx) })
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			f.keep()
		}
	}
	parts.Wait()
	f.running.Wait()
	f.keep()
	return nil
}

// keep writes the progress of the drains that moved. On error they stay
// dirty: the next second tries again, and the drains go on meanwhile.
func (f *Forwarder) keep() {
	f.mu.Lock()
	changed := map[string]Progress{}
	for id, d := range f.drains {
		if d.dirty {
			changed[id], d.dirty = d.status.Progress, false
		}
	}
	gone := f.gone
	f.gone = map[string]bool{}
	f.mu.Unlock()
	dropped := make([]string, 0, len(gone))
	for id := range gone {
		dropped = append(dropped, id)
	}
	err := f.cursors.save(changed, dropped)
	if err == nil {
		return
	}
	f.log.Error("keep the log drains' cursors", "err", err)
	f.mu.Lock()
	defer f.mu.Unlock()
	for id := range changed {
		if d := f.drains[id]; d != nil {
			d.dirty = true
		}
	}
	maps.Copy(f.gone, gone)
}

// watch follows the drains' records.
func (f *Forwarder) watch(ctx context.Context) {
	follower := records.Follower{
		Store: f.records, Kinds: []string{store.LogDrains.Name()}, List: records.OfTenants(f.records, store.LogDrainsOf), Take: f.apply,
	}
	follower.Run(ctx, func(err error) { f.log.Warn("watch the log drains", "err", err) })
}

func (f *Forwarder) apply(ctx context.Context, b records.Batch) error {
	there := map[string]bool{}
	for _, r := range b.Records {
		if r.Gone {
			f.end(r.ID)
			continue
		}
		there[r.ID] = true
		f.changed(ctx, r)
	}
	if b.Whole {
		f.forget(there)
	}
	return nil
}

// changed takes up a drain as its record has it. One that a newer binary
// wrote, or that cannot be read, is left alone.
func (f *Forwarder) changed(ctx context.Context, r records.Record) {
	id := r.ID
	record, err := records.As[miosa.LogDrain](r)
	if err != nil {
		f.log.Error("read a log drain", "drain", id, "err", err)
		return
	}
	f.mu.Lock()
	old := f.drains[id]
	f.mu.Unlock()
	if old != nil {
		if old.record.Revision >= record.Revision {
			return
		}
		old.cancel()
	}
	life, cancel := context.WithCancel(ctx)
	d := &drain{record: record, cancel: cancel, ended: make(chan struct{}), status: status{state: miosa.DrainDelivering}}
	if record.Paused {
		d.status.state = miosa.DrainPaused
	}
	f.mu.Lock()
	if old != nil {
		d.status.Progress = old.status.Progress // to be shown meanwhile
	}
	f.drains[id] = d
	delete(f.gone, id)
	f.mu.Unlock()
	f.running.Go(func() {
		defer close(d.ended)
		defer cancel()
		if old != nil {
			<-old.ended
			f.mu.Lock()
			d.status.Progress, d.recalled, d.dirty = old.status.Progress, old.recalled, old.dirty
			f.mu.Unlock()
		}
		if d.recalled || f.recall(life, d) {
			f.run(life, d)
		}
	})
}

// recall loads what is remembered of a drain; false: its life ended.
func (f *Forwarder) recall(ctx context.Context, d *drain) bool {
	for {
		p, err := f.cursors.load(d.record.ID)
		if err == nil {
			f.mu.Lock()
			defer f.mu.Unlock()
			d.status.Progress, d.recalled = p, true
			return ctx.Err() == nil
		}
		f.log.Error("read a log drain's cursor", "drain", d.record.ID, "err", err)
		if !pause(ctx, lastBackoff) {
			return false
		}
	}
}

// end stops a drain that was deleted, and forgets how far it came.
func (f *Forwarder) end(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if d := f.drains[id]; d != nil {
		d.cancel()
		delete(f.drains, id)
	}
	f.gone[id] = true
}

// forget ends every drain that is not there any more.
func (f *Forwarder) forget(there map[string]bool) {
	known, err := f.cursors.ids()
	if err != nil {
		f.log.Error("read the log drains' cursors", "err", err)
	}
	f.mu.Lock()
	for id := range f.drains {
		known = append(known, id)
	}
	f.mu.Unlock()
	for _, id := range known {
		if !there[id] {
			f.end(id)
		}
	}
}

// run carries out what the drain's machine decides.
func (f *Forwarder) run(ctx context.Context, d *drain) {
	if d.record.Paused {
		return
	}
	search, err := logs.ParseSearch(d.record.Search)
	if err != nil {
		f.log.Error("read a log drain's search", "drain", d.record.ID, "err", err)
		return // the API lets none in
	}
	f.mu.Lock()
	m := &machine{revision: d.record.Revision, created: d.record.CreatedAt, progress: d.status.Progress}
	f.mu.Unlock()
	r := &runner{f: f, d: d, scope: logs.Scope{
		TenantID: d.record.TenantID, DeploymentID: d.record.DeploymentID, ServiceID: d.record.ServiceID,
		WorkspaceID: d.record.WorkspaceID, Stream: logs.Stream(d.record.Stream), Search: search,
	}}
	defer r.close()
	var ev event = begun{}
	for ctx.Err() == nil {
		next := m.handle(f.now(), ev)
		f.publish(d, m.status())
		ev = r.carryOut(ctx, next)
	}
}

// publish makes the machine's status everybody's.
func (f *Forwarder) publish(d *drain, s status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d.dirty = d.dirty || d.status.Progress != s.Progress
	d.status = s
}

// runner carries out one machine's effects. It belongs to one goroutine.
type runner struct {
	f        *Forwarder
	d        *drain
	scope    logs.Scope
	receiver receiver // nil: not made yet
	arrived  <-chan struct{}
}

func (r *runner) close() {
	if r.receiver != nil {
		r.receiver.close()
	}
}

// chance is for the back-off: it keeps apart those that failed together.
func chance() float64 { return rand.Float64() } //nolint:gosec // it guards nothing

// carryOut does what the machine wants, and returns what came of it. When ctx
// ends its result is of no use.
func (r *runner) carryOut(ctx context.Context, e effect) event {
	switch e := e.(type) {
	case locate:
		last, err := r.f.source.Last(ctx)
		if err != nil {
			return r.unread(ctx, err)
		}
		return located{last: last, kept: r.f.now().AddDate(0, 0, -r.f.days(ctx, r.d.record.TenantID))}
	case fetch:
		return r.fetch(ctx, e.from)
	case send:
		return answered{r.send(ctx, e.lines), chance()}
	case rest:
		if e.arrival {
			select {
			case <-ctx.Done():
			case <-r.arrived:
			}
		}
		pause(ctx, e.until.Sub(r.f.now()))
	}
	return rested{}
}

func (r *runner) fetch(ctx context.Context, from Cursor) event {
	ctx, cancel := context.WithTimeout(ctx, readDeadline)
	defer cancel()
	at := r.f.now()
	r.arrived = r.f.source.Arrived()
	got, err := read(ctx, r.f.source, from, r.scope)
	switch {
	case miosa.CodeOf(err) == miosa.Gone:
		return forgotten{}
	case err != nil:
		return r.unread(ctx, err)
	}
	return came{lines: r.f.names.of(ctx, got.lines), next: got.next, all: got.all, at: at}
}

func (r *runner) unread(ctx context.Context, err error) event {
	if ctx.Err() == nil {
		r.f.log.Warn("read lines for a log drain", "drain", r.d.record.ID, "err", err)
	}
	return unread{"the log store does not answer", chance()}
}

func (r *runner) send(ctx context.Context, lines []Line) answer {
	if r.receiver == nil {
		o, err := open(ctx, r.f.secrets, r.d.record)
		if err == nil {
			r.receiver, err = newReceiver(r.f.guard, r.d.record, o)
		}
		if err != nil {
			r.f.log.Error("open a log drain", "drain", r.d.record.ID, "err", err)
			return answer{verdict: again, words: "the drain's settings cannot be opened: set its URL, headers and token anew if this lasts"}
		}
	}
	return r.receiver.send(ctx, lines)
}

// days is for how long a tenant's lines are kept. What cannot be asked for is
// taken to be long: no gap is told of then.
func (f *Forwarder) days(ctx context.Context, tenantID string) int {
	const long = 3650
	t, err := store.Get(ctx, f.records, store.Tenants, store.TenantKey(tenantID))
	if err != nil {
		return long
	}
	plan, err := store.Get(ctx, f.records, store.Plans, store.PlanKey(t.Plan))
	if miosa.CodeOf(err) == miosa.NotFound {
		plan, err = miosa.DefaultPlan(), nil
	}
	if err != nil || plan.LogDays == 0 {
		return long
	}
	return plan.LogDays
}

// pause waits so long; false: ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	}
	return true
}

// Status is how a drain's delivery goes.
func (f *Forwarder) Status(record miosa.LogDrain) miosa.DrainStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.drains[record.ID]
	if d == nil {
		d = &drain{status: status{state: miosa.DrainDelivering}} // it was just made
	}
	out := d.status.at(f.now())
	if record.Paused {
		out.State, out.NextAttempt = miosa.DrainPaused, time.Time{}
	}
	return out
}

// Test sends one line that says it is a test, and returns what the receiver
// said. One at a time of a drain, and a few of a tenant: otherwise
// miosa.Limited.
func (f *Forwarder) Test(ctx context.Context, record miosa.LogDrain) (miosa.DrainAnswer, error) {
	busy := miosa.Errorf(miosa.Limited, "a test line is on its way already: wait for its answer")
	f.mu.Lock()
	under := 0
	for id, tenant := range f.testing {
		if id == record.ID {
			under = maxTests
		} else if tenant == record.TenantID {
			under++
		}
	}
	if under >= maxTests {
		f.mu.Unlock()
		return miosa.DrainAnswer{}, busy
	}
	f.testing[record.ID] = record.TenantID
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.testing, record.ID)
		f.mu.Unlock()
	}()
	o, err := open(ctx, f.secrets, record)
	if err != nil {
		return miosa.DrainAnswer{}, err
	}
	r, err := newReceiver(f.guard, record, o)
	if err != nil {
		return miosa.DrainAnswer{}, err
	}
	defer r.close()
	ctx, cancel := context.WithTimeout(ctx, testTime)
	defer cancel()
	began := f.now()
	a := r.send(ctx, []Line{testLine(record, began)})
	out := miosa.DrainAnswer{Delivered: a.verdict == taken && a.rejected == 0, Status: a.status, Message: a.words, Took: f.now().Sub(began)}
	if out.Delivered {
		out.Message = delivered(record.Type, a)
	}
	return out, nil
}

func delivered(t miosa.DrainType, a answer) string {
	if t == miosa.DrainSyslog {
		return "the receiver read the line and closed the connection; syslog has no other answer"
	}
	return fmt.Sprintf("the receiver took the line (%d)", a.status)
}

// testLine is like a line of an app, but of none.
func testLine(record miosa.LogDrain, now time.Time) Line {
	l := Line{Deployment: "miosa", Service: "test"}
	l.Time, l.Stream = now.UTC().Truncate(time.Microsecond), logs.System
	l.Text = fmt.Appendf(nil, "This is a test line of log drain %s (%s). No app wrote it.", record.Name, record.ID)
	l.Origin.InstanceID, l.Position.Seq = "test", uint64(max(now.UnixMicro(), 0)) //nolint:gosec // not negative
	l.Origin.WorkspaceID = record.WorkspaceID
	return l
}
