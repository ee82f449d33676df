// Package control is the control plane's loop: it feeds the machine of package
// cell with what the store, the routers and the clock say, and carries out what
// the machine asks for. It decides nothing: commit.go, bootspec.go, link.go and
// feed.go are effects.
package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/records"
	"github.com/miosa/miosa/schedule"
	"github.com/miosa/miosa/store"
)

// Options are what the loop needs beyond the machine's Config.
type Options struct {
	cell.Config
	PublicURL func(miosa.Tenant, miosa.Deployment, miosa.Environment) string
	Bindings  []cell.Binding
	// PurgeLogs drops the log lines of a deployment whose instances are all
	// gone, and takes no more of them. nil: logs are not kept here.
	PurgeLogs func(ctx context.Context, tenantID, deploymentID string) error
	// OpenAccounts comes before a deployment's records go: its instances are
	// billed by what it keeps, whatever their hosts have yet to report. nil:
	// usage is not kept here.
	OpenAccounts func(ctx context.Context, tenantID, deploymentID string) error
	Observer     Observer // nil: none
}

// Observer sees the records as the machine does, and where instances are
// placed. It must not block, nor change what it is given.
type Observer interface {
	Loaded(nouns []any)
	Changed(put []any, gone []string)
	Placed(i miosa.Instance, waited []string, a schedule.Answer)
}

// Control is the control plane. Make it with New, then Run it; Link and Feed
// methods may be called from any goroutine meanwhile.
type Control struct {
	cfg      Options
	store    store.Store
	vault    Vault
	sealTo   SealTo
	log      *slog.Logger
	events   chan cell.Event
	hosts    *hub[map[string]miosa.Instance]
	routes   *feed
	reports  *intake
	running  sync.WaitGroup
	sessions atomic.Int64             // connections of agents so far
	asks     chan func(*cell.Machine) // by who wants to know
	rollouts *prometheus.CounterVec

	term      Term          // of Run
	succeeded chan struct{} // something comes once another's has begun
}

// New checks its arguments and starts nothing.
func New(cfg Options, s store.Store, vault Vault, sealTo SealTo, log *slog.Logger) (*Control, error) {
	if cfg.Hosts == nil || cfg.PublicURL == nil || s == nil || vault == nil || sealTo == nil {
		return nil, miosa.Errorf(miosa.Internal, "control needs host names, public URLs, a store, a vault and a sealer")
	}
	return &Control{
		cfg: cfg, store: s, vault: vault, sealTo: sealTo, log: log,
		events: make(chan cell.Event, 1024), hosts: newHub[map[string]miosa.Instance](), routes: newFeed(), reports: &intake{store: s},
		asks: make(chan func(*cell.Machine)), rollouts: newRolloutCounter(),
		succeeded: make(chan struct{}, 1),
	}, nil
}

// purge sees to the bill and takes the log lines first: as long as the
// deployment's record stands, a purge that was cut short is begun again.
func (c *Control) purge(ctx context.Context, e cell.Purge) error {
	if c.cfg.OpenAccounts != nil {
		if err := c.cfg.OpenAccounts(ctx, e.Tenant, e.Deployment); err != nil {
			return fmt.Errorf("bill what is left of %s: %w", e.Deployment, err)
		}
	}
	if e.Logs && c.cfg.PurgeLogs != nil {
		if err := c.cfg.PurgeLogs(ctx, e.Tenant, e.Deployment); err != nil {
			return fmt.Errorf("purge logs of %s: %w", e.Deployment, err)
		}
	}
	return PurgeRecords(ctx, c.store, e)
}

// commitsAtOnce bounds the transactions under way.
const commitsAtOnce = 32

// Run decides until ctx ends, the store fails for good, or another control plane
// has begun to (ErrSucceeded).
func (c *Control) Run(ctx context.Context) (err error) {
	if c.term, err = BeginTerm(ctx, c.store); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer c.running.Wait()
	defer cancel()
	watchErr := make(chan error, 1)
	c.running.Go(func() { watchErr <- c.follow(ctx) })

	machine := cell.NewMachine(c.cfg.Config)
	slots := make(chan struct{}, commitsAtOnce)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var asks chan func(*cell.Machine)
	for {
		var events cell.Together
		select {
		case <-ctx.Done():
			return nil
		case err := <-watchErr:
			return err
		case <-c.succeeded:
			return ErrSucceeded
		case ev := <-c.events:
			events = c.waiting(ev)
		case <-timer.C:
			events = cell.Together{cell.Tick{}}
		case ask := <-asks:
			ask(machine)
			continue
		}
		for _, ev := range events {
			c.observe(ev)
		}
		for _, effect := range machine.Handle(time.Now().UTC(), events) {
			if e, ok := effect.(cell.Assign); ok && e.Anew {
				for _, host := range c.hosts.keys() {
					c.assign(machine.Assigned(host))
				}
			}
			if err := c.carryOut(ctx, effect, slots); err != nil {
				return err
			}
		}
		if machine.Loaded() {
			asks = c.asks // who asks sooner waits
		}
		wait := time.Hour
		if at := machine.Wake(); !at.IsZero() {
			wait = max(time.Until(at), time.Millisecond)
		}
		timer.Reset(wait)
	}
}

// eventsAtOnce bounds what is taken in before it is decided.
const eventsAtOnce = 256

// waiting is an event with those that wait behind it: what they touch together
// is decided once.
func (c *Control) waiting(first cell.Event) cell.Together {
	events := cell.Together{first}
	for len(events) < eventsAtOnce {
		select {
		case ev := <-c.events:
			events = append(events, ev)
		default:
			return events
		}
	}
	return events
}

// ask has the loop look something up in the machine. It fails when ctx ends
// before the machine has the records.
func (c *Control) ask(ctx context.Context, look func(*cell.Machine)) error {
	done := make(chan struct{})
	select {
	case c.asks <- func(m *cell.Machine) { look(m); close(done) }:
	case <-ctx.Done():
		return ctx.Err()
	}
	<-done
	return nil
}

func (c *Control) carryOut(ctx context.Context, effect cell.Effect, slots chan struct{}) error {
	switch e := effect.(type) {
	case cell.Halt:
		return e.Err
	case cell.Publish:
		c.log.Info("routes changed", "generation", e.Update.Generation, "names", len(e.Update.Routes)+len(e.Update.Ports), "gone", len(e.Update.GoneRoutes)+len(e.Update.GonePorts))
		if !c.routes.publish(e.Update) {
			return miosa.Errorf(miosa.Internal, "an update of the routes is missing before generation %d", e.Update.Generation)
		}
	case cell.Assign:
		c.assign(e.Instances)
	case cell.Commit:
		c.running.Go(func() {
			slots <- struct{}{}
			done := c.commit(ctx, e)
			<-slots
			if done.Err == nil && !done.Conflict {
				c.placed(e)
				c.count(e)
			}
			if done.Err != nil && ctx.Err() == nil {
				c.log.Error("commit failed", "environment", e.Environment, "err", done.Err)
			}
			c.post(ctx, done)
		})
	case cell.SaveHost:
		c.running.Go(func() {
			slots <- struct{}{}
			done := c.saveHost(ctx, e)
			<-slots
			if done.Err != nil && ctx.Err() == nil {
				c.log.Error("host not saved", "host", e.Host.ID, "err", done.Err)
			}
			c.post(ctx, done)
		})
	case cell.Purge:
		c.running.Go(func() {
			err := c.purge(ctx, e)
			if err != nil && ctx.Err() == nil {
				c.log.Error("purge failed", "deployment", e.Deployment, "err", err)
			}
			c.post(ctx, cell.Purged{Deployment: e.Deployment, Err: err})
		})
	}
	return nil
}

// observe shows an event to the observer.
func (c *Control) observe(ev cell.Event) {
	if c.cfg.Observer == nil {
		return
	}
	switch e := ev.(type) {
	case cell.Loaded:
		c.cfg.Observer.Loaded(e.Nouns)
	case cell.Changed:
		var gone []string
		for _, g := range e.Gone {
			gone = append(gone, g.ID)
		}
		c.cfg.Observer.Changed(e.Put, gone)
	}
}

// placed shows the observer where a commit that was carried out put instances.
func (c *Control) placed(e cell.Commit) {
	if c.cfg.Observer == nil {
		return
	}
	for _, p := range e.Placed {
		if p.ID == "" && p.Create < len(e.Create) {
			c.cfg.Observer.Placed(e.Create[p.Create], p.Waited, p.Answer)
		}
		for _, put := range e.Put {
			if i, ok := put.(miosa.Instance); ok && p.ID != "" && i.ID == p.ID {
				c.cfg.Observer.Placed(i, p.Waited, p.Answer)
			}
		}
	}
}

func (c *Control) post(ctx context.Context, ev cell.Event) {
	select {
	case c.events <- ev:
	case <-ctx.Done():
	}
}

// follow loads all records and then every change, again from the start when
// the watch fell too far behind.
func (c *Control) follow(ctx context.Context) error {
	for ctx.Err() == nil {
		loaded, err := records.All(ctx, c.store)
		if err == nil {
			c.post(ctx, loaded)
			err = c.watch(ctx, loaded.Revision)
		}
		if err != nil && !errors.Is(err, store.ErrCompacted) && ctx.Err() == nil {
			return fmt.Errorf("watch the records: %w", err)
		}
	}
	return nil
}

func (c *Control) watch(ctx context.Context, after int64) error {
	for batch, err := range c.store.Watch(ctx, records.Prefix, after) {
		if err != nil {
			return err
		}
		changed, err := ChangedBy(batch)
		if err != nil {
			return err
		}
		c.post(ctx, changed)
	}
	return nil
}

// ChangedBy is a watched commit as the machine takes it.
func ChangedBy(batch store.Batch) (cell.Changed, error) {
	changed := cell.Changed{Revision: batch.Revision}
	for _, ch := range batch.Changes {
		if ch.Deleted {
			if kind, id, ok := store.ParseKey(ch.Key); ok {
				changed.Gone = append(changed.Gone, cell.Gone{Kind: kind, ID: id})
			}
			continue
		}
		noun, ok, err := records.ForCell(ch.Entry)
		if err != nil {
			return cell.Changed{}, err
		}
		if ok {
			changed.Put = append(changed.Put, noun)
		}
	}
	return changed, nil
}
