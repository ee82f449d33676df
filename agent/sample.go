package agent

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/miosa/miosa/metrics"
)

// Figures takes what this host sampled of its instances.
type Figures interface {
	Ship(ctx context.Context, hostID string, pass metrics.Pass) error
}

// shipFigures bounds one attempt to hand over a pass; there is no second: the
// next one follows soon.
const shipFigures = 10 * time.Second

// measure samples all instances, one after the other, until ctx ends.
func (a *Agent) measure(ctx context.Context) {
	tick := time.NewTicker(metrics.Interval)
	defer tick.Stop()
	failing := false
	for {
		pass := a.pass(time.Now())
		if len(pass.Samples) > 0 && a.cfg.Figures != nil {
			err := a.shipPass(ctx, pass)
			switch {
			case err == nil && failing:
				a.log.Info("figures are taken again")
			case err != nil && !failing && ctx.Err() == nil:
				a.log.Warn("figures are not taken: their history has a gap", "err", err)
			}
			failing = err != nil
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (a *Agent) shipPass(ctx context.Context, pass metrics.Pass) error {
	ctx, cancel := context.WithTimeout(ctx, shipFigures)
	defer cancel()
	return a.cfg.Figures.Ship(ctx, a.cfg.Host.ID, pass)
}

// pass measures every instance once.
func (a *Agent) pass(now time.Time) metrics.Pass {
	began := time.Now()
	pass := metrics.Pass{At: now.UTC()}
	for _, x := range a.present() {
		pass.Samples = append(pass.Samples, metrics.Sample{Owner: x.figures.owner, Values: x.sample(now)})
	}
	a.counters.sampleSeconds.Set(time.Since(began).Seconds())
	return pass
}

// present are the actors of this moment, by their IDs.
func (a *Agent) present() []*actor {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]*actor, 0, len(a.actors))
	for _, x := range a.actors {
		out = append(out, x)
	}
	slices.SortFunc(out, func(x, y *actor) int { return cmp.Compare(x.id, y.id) })
	return out
}
