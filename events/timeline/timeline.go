// Package timeline is the loop between the outbox and the event store, and the
// one place where events are read.
//
// An event is written to the records in the transaction that it tells of, so
// that there is none without the other. That place is an outbox: what is
// committed there is moved to the event store at once, in the order of commits,
// and deleted. So the records hold only what is in flight.
package timeline

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/events"
	"github.com/miosa/miosa/records"
	"github.com/miosa/miosa/steady"
	"github.com/miosa/miosa/store"
)

const (
	// Limit is how many events the outbox holds when the event store refuses
	// them, before the oldest are dropped: some 12 MB of records.
	Limit = 20000
	// DefaultDays is how long events are kept where the plan does not say.
	DefaultDays = 30

	expireEvery = 10 * time.Minute
)

// Config is what differs in tests.
type Config struct {
	Limit  int              // 0: Limit
	Now    func() time.Time // nil: time.Now
	Random io.Reader        // nil: crypto/rand
}

// Timeline moves events and serves who reads them. Make it with New.
type Timeline struct {
	cfg     Config
	kept    events.Store
	view    *records.View
	records store.Store // the view's
	log     *slog.Logger

	mu      sync.Mutex    // guards moved and counts
	moved   chan struct{} // closed and replaced with every arrival
	waiting int
	lost    int

	refused bool // the loop's own: the store took nothing last time
}

// New starts nothing.
func New(cfg Config, kept events.Store, view *records.View, log *slog.Logger) *Timeline {
	cfg.Limit = cmp.Or(cfg.Limit, Limit)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Random == nil {
		cfg.Random = rand.Reader
	}
	return &Timeline{cfg: cfg, kept: kept, view: view, records: view.Store(), log: log, moved: make(chan struct{})}
}

// Run moves events and enforces retention until ctx ends.
func (t *Timeline) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var parts sync.WaitGroup
	defer parts.Wait()
	defer cancel()
	in := make(chan Event, 256)
	parts.Go(func() { t.watch(ctx, in) })
	parts.Go(func() { t.expire(ctx) })
	m := NewMachine(t.cfg.Limit)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		var next Event
		select {
		case <-ctx.Done():
			return nil
		case next = <-in:
		case <-timer.C:
			next = Tick{}
		}
		effects := m.Handle(t.cfg.Now(), next)
		for len(effects) > 0 && ctx.Err() == nil {
			// What has come meanwhile goes along.
			done := t.carryOut(ctx, effects[0])
			for more := true; more; {
				select {
				case next := <-in:
					m.Handle(t.cfg.Now(), next)
				default:
					more = false
				}
			}
			effects = m.Handle(t.cfg.Now(), done)
		}
		t.mu.Lock()
		t.waiting, t.lost = m.Waiting(), m.Lost()
		t.mu.Unlock()
		wait := time.Hour
		if at := m.Wake(); !at.IsZero() {
			wait = max(at.Sub(t.cfg.Now()), time.Millisecond)
		}
		timer.Reset(wait)
	}
}

// Status is how many events wait for the store, and how many were lost since
// the start.
func (t *Timeline) Status() (waiting, lost int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.waiting, t.lost
}

// watch tells of all that is in the outbox and of what comes, until ctx ends.
func (t *Timeline) watch(ctx context.Context, in chan<- Event) {
	post := func(e Event) {
		select {
		case in <- e:
		case <-ctx.Done():
		}
	}
	f := records.Follower{
		Store: t.records, Kinds: []string{store.Events.Name()}, Prefix: store.OutboxPrefix(), List: t.outbox,
		Take: func(_ context.Context, b records.Batch) error {
			var items []Item
			for _, r := range b.Records {
				if i, ok := t.item(r); ok {
					items = append(items, i)
				}
			}
			switch {
			case b.Whole:
				post(Listed{items})
			case len(items) > 0:
				slices.SortFunc(items, inOrder)
				post(Arrived{items})
			}
			return nil
		},
	}
	f.Run(ctx, func(err error) { t.log.Error("read the outbox of events", "err", err) })
}

// outbox lists what is in transit: first what a former version kept elsewhere, of
// which the keys say enough.
func (t *Timeline) outbox(ctx context.Context) iter.Seq2[store.Entry, error] {
	return func(yield func(store.Entry, error) bool) {
		tenants := []string{""}
		for e, err := range t.records.Scan(ctx, store.TenantsPrefix(), store.ScanOptions{KeysOnly: true}) {
			if err != nil {
				yield(e, err)
				return
			}
			if _, id, ok := store.ParseKey(e.Key); ok {
				tenants = append(tenants, id)
			}
		}
		for _, id := range tenants {
			for e, err := range t.records.Scan(ctx, store.FormerEventsOf(id), store.ScanOptions{KeysOnly: true}) {
				if !yield(e, err) || err != nil {
					return
				}
			}
		}
		for e, err := range t.records.Scan(ctx, store.OutboxPrefix(), store.ScanOptions{}) {
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// item is what a record holds. What nobody can read stays where it is.
func (t *Timeline) item(r records.Record) (Item, bool) {
	if r.Gone {
		return Item{}, false
	}
	if tenant, deployment, former := store.FormerEventPlace(r.Key); former {
		return Item{Key: r.Key, ID: r.ID, Revision: r.Revision, Tenant: tenant, Deployment: deployment, At: miosa.IDTime(r.ID), Former: true}, true
	}
	e, err := records.As[miosa.Event](r)
	if err != nil {
		t.log.Error("an event cannot be read", "key", r.Key, "err", err)
		return Item{}, false
	}
	return itemOf(r.Key, e), true
}

func decode(entry store.Entry) (miosa.Event, bool, error) {
	noun, err := store.Decode(entry)
	e, ok := noun.(miosa.Event)
	return e, ok && err == nil, err
}

func itemOf(key string, e miosa.Event) Item {
	return Item{
		Key: key, ID: e.ID, Revision: e.Revision, Tenant: e.TenantID, Deployment: e.DeploymentID, At: e.At,
		Lost: lostBy(&e), Event: &e,
	}
}

// LostType is the type of the marker that stands for events that were lost.
const LostType = "events.lost"

func lostBy(e *miosa.Event) int {
	if e.Type != LostType {
		return 0
	}
	n, err := strconv.Atoi(e.Details["lost"])
	if err != nil {
		return 0
	}
	return n
}

func markerFrom(e *miosa.Event) (time.Time, bool) {
	if e == nil {
		return time.Time{}, false
	}
	from, err := time.Parse(time.RFC3339, e.Details["from"])
	return from, err == nil
}

// patience bounds one effect.
const patience = 30 * time.Second

func (t *Timeline) carryOut(whole context.Context, effect Effect) Event {
	ctx, cancel := context.WithTimeout(whole, patience)
	defer cancel()
	switch e := effect.(type) {
	case Store:
		left, err := t.store(ctx, e.Items)
		if refused := err != nil && whole.Err() == nil; refused != t.refused {
			t.refused = refused
			if refused {
				t.log.Error("events are not stored: they wait in the records", "limit", t.cfg.Limit, "err", err)
			} else {
				t.log.Info("events are stored again")
			}
		}
		return Stored{Err: err, Left: left}
	case Clear:
		txn := store.Txn{}
		for _, i := range e.Items {
			txn.Delete = append(txn.Delete, i.Key)
		}
		_, err := t.records.Commit(ctx, txn)
		if err != nil && ctx.Err() == nil {
			t.log.Error("clear the outbox of events", "count", len(e.Items), "err", err)
		}
		return Cleared{err}
	case Drop:
		markers, err := t.drop(ctx, e)
		if err == nil {
			t.log.Error("events lost: the event store refuses them and the outbox is full", "count", len(e.Items), "limit", t.cfg.Limit)
		} else if ctx.Err() == nil {
			t.log.Error("drop events", "err", err)
		}
		return Dropped{Err: err, Markers: markers}
	}
	panic(fmt.Sprintf("timeline: unknown effect %T", effect))
}

// store appends items, with their days and workspaces.
func (t *Timeline) store(ctx context.Context, items []Item) (left []string, err error) {
	var batch []events.Kept
	where := workspaces{t.records, map[string]string{}}
	for _, i := range items {
		e := i.Event
		if e == nil {
			entry, err := t.records.Get(ctx, i.Key)
			if err != nil {
				return nil, err
			}
			if entry.Revision == 0 {
				continue // its lease has ended
			}
			was, ok, err := decode(entry)
			if !ok {
				t.log.Error("an event cannot be read", "key", i.Key, "err", err)
				left = append(left, i.Key)
				continue
			}
			e = &was
		}
		k := events.Kept{Event: *e}
		if k.Days, err = t.days(ctx, e.TenantID); err != nil {
			return nil, err
		}
		if k.WorkspaceID, err = where.of(ctx, e); err != nil {
			return nil, err
		}
		batch = append(batch, k)
	}
	if err := t.kept.Append(ctx, batch); err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.moved)
	t.moved = make(chan struct{})
	return left, nil
}

// drop deletes events and counts them in markers.
func (t *Timeline) drop(ctx context.Context, d Drop) (markers []Item, err error) {
	revision, err := store.Try(ctx, t.records, func(tx *store.Tx) error {
		markers = nil
		for _, i := range d.Items {
			tx.DropIndex(i.Key)
		}
		for _, k := range d.Markers {
			now := t.cfg.Now().UTC()
			if k.ID == "" {
				if k.ID, err = miosa.NewID(miosa.PrefixEvent, now, t.cfg.Random); err != nil {
					return err
				}
			}
			e := miosa.Event{
				ID: k.ID, TenantID: k.Tenant, DeploymentID: k.Deployment, Type: LostType, Actor: "control", At: now,
				Message: fmt.Sprintf("%d events from %s to %s are lost: the event store took none, for want of room or for a failed disk", k.Lost, k.From.UTC().Format(time.RFC3339), k.To.UTC().Format(time.RFC3339)),
				Details: map[string]string{"lost": strconv.Itoa(k.Lost), "from": k.From.UTC().Format(time.RFC3339), "to": k.To.UTC().Format(time.RFC3339)},
			}
			if err := store.Save(tx, store.Events, e); err != nil {
				return err
			}
			markers = append(markers, itemOf(store.OutboxKey(e.ID), e))
		}
		return nil
	})
	for n := range markers {
		markers[n].Revision, markers[n].Event.Revision = revision, revision
	}
	return markers, err
}

// days is how long a tenant's events are kept. What is gone keeps them as the
// default does.
func (t *Timeline) days(ctx context.Context, tenantID string) (int, error) {
	var plan miosa.Plan
	tenant, err := records.Get(ctx, t.view, store.Tenants, store.TenantKey(tenantID))
	if err == nil {
		plan, err = records.Get(ctx, t.view, store.Plans, store.PlanKey(tenant.Plan))
	}
	if err != nil && miosa.CodeOf(err) != miosa.NotFound {
		return 0, fmt.Errorf("days of tenant %s: %w", tenantID, err)
	}
	return min(cmp.Or(plan.EventDays, DefaultDays), 3650), nil
}

// workspaces finds the one that a deployment belongs to. It believes nothing
// for longer than one batch: a deployment may move to another.
type workspaces struct {
	records store.Store
	found   map[string]string // by key of the deployment
}

func (w *workspaces) of(ctx context.Context, e *miosa.Event) (string, error) {
	if e.WorkspaceID != "" || e.DeploymentID == "" {
		return e.WorkspaceID, nil
	}
	key := store.DeploymentKey(e.TenantID, e.DeploymentID)
	if id, ok := w.found[key]; ok {
		return id, nil
	}
	dep, err := store.Get(ctx, w.records, store.Deployments, key)
	if err != nil && miosa.CodeOf(err) != miosa.NotFound {
		return "", fmt.Errorf("workspace of deployment %s: %w", e.DeploymentID, err)
	}
	w.found[key] = dep.WorkspaceID
	return dep.WorkspaceID, nil
}

func (t *Timeline) expire(ctx context.Context) {
	var clock steady.Clock
	tick := time.NewTicker(expireEvery)
	defer tick.Stop()
	for {
		if err := t.kept.Expire(ctx, clock.By(t.cfg.Now(), t.log).UTC()); err != nil && ctx.Err() == nil {
			t.log.Error("expire events", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
