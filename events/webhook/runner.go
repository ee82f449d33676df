package webhook

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/events"
	"github.com/miosa/miosa/store"
)

// runner is one webhook.
type runner struct {
	w      *Webhooks
	id     string
	cancel context.CancelFunc
	ended  chan struct{}
	wake   chan struct{} // holds one: something below changed

	mu      sync.Mutex // guards all below
	hook    miosa.Webhook
	changed bool
	asked   []string
	state   State // as it was last
}

// post changes what is guarded and wakes the runner.
func (r *runner) post(change func()) {
	r.mu.Lock()
	change()
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// current is the webhook as it is.
func (r *runner) current() miosa.Webhook {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.hook
}

// posted is what has come since the last time, as the machine takes it, and the
// webhook as it is.
func (r *runner) posted() (hook miosa.Webhook, in []Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changed {
		in = append(in, Configured{Paused: r.hook.Paused, ResumedAt: r.hook.ResumedAt})
	}
	for _, id := range r.asked {
		in = append(in, Asked{Item{EventID: id}})
	}
	r.changed, r.asked = false, nil
	return r.hook, in
}

// run is its life: the machine is told one thing at a time, the answer to an
// effect before anything else.
func (r *runner) run(ctx context.Context) {
	id := r.id
	state, err := r.w.positions.load(id)
	if err != nil {
		// Better from its beginning than not at all: receivers know events by ID.
		r.w.log.Error("a webhook begins anew", "webhook", id, "err", err)
	}
	for {
		hook := r.current()
		if state, err = r.begin(ctx, &hook, state); err == nil {
			break
		}
		if ctx.Err() != nil {
			return
		}
		r.w.log.Error("begin a webhook", "webhook", id, "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(watchAgain):
		}
	}
	m := NewMachine(state, r.w.cfg.Ladder)
	m.dirty = true
	r.post(func() { r.changed = true })
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var saved time.Time
	unsaved := false
	arrived := r.w.source.Arrived()
	var queue []Event
	for ctx.Err() == nil {
		hook, in := r.posted()
		queue = append(queue, in...)
		if len(queue) > 0 {
			next := queue[0]
			queue = queue[1:]
			var answers []Event
			for _, effect := range m.Handle(r.w.cfg.Now(), next) {
				if answer := r.carryOut(ctx, &hook, effect); answer != nil {
					answers = append(answers, answer)
				}
			}
			queue = append(answers, queue...)
		}
		unsaved = r.show(m) || unsaved
		if now := r.w.cfg.Now(); unsaved && now.Sub(saved) >= saveEvery && ctx.Err() == nil {
			saved, unsaved = now, !r.save(m)
		}
		if len(queue) > 0 {
			continue
		}
		wait := time.Hour
		if at := m.Wake(); !at.IsZero() {
			wait = min(wait, max(at.Sub(r.w.cfg.Now()), time.Millisecond))
		}
		if unsaved {
			wait = min(wait, saveEvery)
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
		case <-r.wake:
		case <-arrived:
			arrived = r.w.source.Arrived()
			queue = append(queue, Arrived{})
		case <-timer.C:
			queue = append(queue, Tick{})
		}
	}
	if unsaved {
		r.save(m)
	}
}

// begin finds where a webhook begins that has not yet: behind its creation.
func (r *runner) begin(ctx context.Context, hook *miosa.Webhook, s State) (State, error) {
	last, err := r.w.source.Last(ctx)
	if err != nil {
		return s, err
	}
	if s.Begun {
		if s.Cursor > last {
			s.Cursor = 0 // the event store was begun anew: all of it is new
		}
		return s, nil
	}
	at, held, err := r.find(ctx, hook.BeginID, beginTime)
	if err != nil {
		return s, err
	}
	if s.Begun, s.Cursor = true, at; !held {
		s.Cursor = last
	}
	return s, nil
}

// find is the place of an event that may still be on its way to the store.
func (r *runner) find(ctx context.Context, id string, patience time.Duration) (m events.Mark, held bool, err error) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		arrived := r.w.source.Arrived()
		if m, held, err = r.w.source.Place(ctx, id); err != nil || held {
			return m, held, err
		}
		select {
		case <-ctx.Done():
			return 0, false, ctx.Err()
		case <-arrived:
		case <-timer.C:
			return 0, false, nil
		}
	}
}

// show lets Status see the state; it reports whether that changed.
func (r *runner) show(m *Machine) bool {
	s, changed := m.State()
	if changed {
		r.mu.Lock()
		r.state = s
		r.mu.Unlock()
	}
	return changed
}

func (r *runner) save(m *Machine) bool {
	s, _ := m.State()
	if err := r.w.positions.save(r.id, s); err != nil {
		r.w.log.Error("keep where a webhook stands", "webhook", r.id, "err", err)
		return false
	}
	return true
}

func (r *runner) carryOut(ctx context.Context, hook *miosa.Webhook, effect Effect) Event {
	switch e := effect.(type) {
	case Fetch:
		items, end, err := r.fetch(ctx, hook, e.After)
		if err != nil && ctx.Err() == nil {
			r.w.log.Error("read events for a webhook", "webhook", hook.ID, "err", err)
		}
		return Fetched{Items: items, End: end, Err: err}
	case Attempt:
		return Attempted{Outcome: r.attempt(ctx, hook, e.EventID), Chance: chance()}
	case Disable:
		if err := r.disable(ctx, hook, e.Reason); err != nil && ctx.Err() == nil {
			r.w.log.Error("tell of a disabled webhook", "webhook", hook.ID, "err", err)
		}
		return nil
	}
	panic(fmt.Sprintf("webhook: unknown effect %T", effect))
}

// fetch reads the next events that the webhook is for.
func (r *runner) fetch(ctx context.Context, hook *miosa.Webhook, after events.Mark) (items []Item, end events.Mark, err error) {
	if end, err = r.w.source.Last(ctx); err != nil {
		return nil, 0, err
	}
	scope := scopeOf(hook)
	scope.DeploymentID, scope.Types = hook.DeploymentID, hook.Types
	for e, err := range r.w.source.Read(ctx, events.Query{Scope: scope, After: after}) {
		if err != nil {
			return nil, 0, err
		}
		if e.Type == TestType && e.Details["webhook_id"] == hook.ID {
			continue // it was sent when it was asked for
		}
		if items = append(items, Item{EventID: e.ID, Type: e.Type, Mark: e.Mark}); len(items) == fetchAtOnce {
			break
		}
	}
	return items, end, nil
}

// scopeOf is all that a webhook may ever send.
func scopeOf(hook *miosa.Webhook) events.Scope {
	return events.Scope{TenantID: hook.TenantID, WorkspaceID: hook.WorkspaceID}
}

// attempt sends an event once.
func (r *runner) attempt(ctx context.Context, hook *miosa.Webhook, id string) Outcome {
	const onItsWay = 10 * time.Second // from the outbox
	patience := time.Duration(0)
	if r.w.cfg.Now().Sub(miosa.IDTime(id)) < time.Minute {
		patience = onItsWay
	}
	m, held, err := r.find(ctx, id, patience)
	if err == nil && held {
		for e, rerr := range r.w.source.Read(ctx, events.Query{Scope: scopeOf(hook), After: m - 1}) {
			if err = rerr; err == nil && e.ID == id {
				return r.w.send(ctx, hook, &e.Event)
			}
			break
		}
	}
	if err != nil {
		if ctx.Err() == nil {
			r.w.log.Error("read an event for a webhook", "webhook", hook.ID, "event", id, "err", err)
		}
		return Outcome{Error: "the event could not be read", Ours: true}
	}
	return Outcome{Missing: true, Error: "the event is not kept any more"}
}

// disable leaves an event.
func (r *runner) disable(ctx context.Context, hook *miosa.Webhook, reason string) error {
	now := r.w.cfg.Now().UTC()
	id, err := miosa.NewID(miosa.PrefixEvent, now, r.w.cfg.Random)
	if err != nil {
		return err
	}
	_, err = store.Update(ctx, r.w.records, func(tx *store.Tx) error {
		return store.Save(tx, store.Events, miosa.Event{
			ID: id, TenantID: hook.TenantID, WorkspaceID: hook.WorkspaceID, Type: "webhook.disabled", Actor: "control", At: now,
			Message: "the webhook was disabled: " + reason, Details: map[string]string{"webhook_id": hook.ID},
		})
	})
	return err
}
