package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/miosa/miosa"
)

const (
	// reportBacklog bounds the reports kept per instance while control is away;
	// past it the oldest are dropped: the newest tells the state.
	reportBacklog = 16
	reportRetry   = 500 * time.Millisecond
	reportWorkers = 8
)

// reporter brings observations to control, those of one instance in order,
// and again until control took them.
type reporter struct {
	link Link
	host string
	log  *slog.Logger
	// taken is told of every end that control has the word of, disowned of
	// every instance that control says is not this host's.
	taken, disowned func(id string)
	// recorded is told of every report that is on control's record, or was.
	recorded func(o miosa.Observation)

	mu      sync.Mutex // guards queues and active
	queues  map[string][]miosa.Observation
	active  map[string]bool
	pending chan string
}

func newReporter(link Link, host string, log *slog.Logger, taken, disowned func(id string), recorded func(o miosa.Observation)) *reporter {
	return &reporter{
		link: link, host: host, log: log, taken: taken, disowned: disowned, recorded: recorded, queues: map[string][]miosa.Observation{},
		active: map[string]bool{}, pending: make(chan string, 1<<16),
	}
}

// add never blocks.
func (r *reporter) add(o miosa.Observation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	q := append(r.queues[o.InstanceID], o)
	if len(q) > reportBacklog {
		q = append([]miosa.Observation(nil), q[len(q)-reportBacklog:]...)
	}
	r.queues[o.InstanceID] = q
	if !r.active[o.InstanceID] {
		r.active[o.InstanceID] = true
		select {
		case r.pending <- o.InstanceID:
		default:
			r.active[o.InstanceID] = false // 65,536 instances wait already: the next report tries again
		}
	}
}

func (r *reporter) run(ctx context.Context) {
	var wg sync.WaitGroup
	for range reportWorkers {
		wg.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case id := <-r.pending:
					r.bring(ctx, id)
				}
			}
		})
	}
	wg.Wait()
}

// bring empties one instance's queue.
func (r *reporter) bring(ctx context.Context, id string) {
	for ctx.Err() == nil {
		r.mu.Lock()
		q := r.queues[id]
		if len(q) == 0 {
			delete(r.queues, id)
			delete(r.active, id)
			r.mu.Unlock()
			return
		}
		o := q[0]
		r.mu.Unlock()
		err := r.link.Observe(ctx, r.host, o)
		switch code := miosa.CodeOf(err); {
		case ctx.Err() != nil:
			return
		case err == nil:
			r.drop(id, o.Seq)
			r.recorded(o)
		case code == miosa.NotFound, code == miosa.Forbidden:
			r.drop(id, o.Seq)
			r.disowned(id)
		case code == miosa.TooLarge, code == miosa.Invalid:
			// Never to be taken as it is; the next one may be.
			r.log.Error("report refused", "instance", id, "err", err)
			r.drop(id, o.Seq)
		default:
			r.log.Warn("report not taken", "instance", id, "err", err)
			r.later(id)
			return
		}
		if o.State.Terminal() {
			r.taken(id)
		}
	}
}

// later tries an instance's reports again after a pause, which holds up
// nobody else's.
func (r *reporter) later(id string) {
	time.AfterFunc(reportRetry, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		select {
		case r.pending <- id:
		default:
			r.active[id] = false
		}
	})
}

// drop removes the report with this number, which add may have moved.
func (r *reporter) drop(id string, seq int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	q := r.queues[id]
	for len(q) > 0 && q[0].Seq <= seq {
		q = q[1:]
	}
	r.queues[id] = q
}
