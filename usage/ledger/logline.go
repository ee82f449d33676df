package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/logs"
	"github.com/miosa/miosa/metering"
	"github.com/miosa/miosa/usage"
)

// Shipper is what makes log lines safe.
type Shipper interface {
	Ship(ctx context.Context, hostID string, batches []logs.Batch) error
}

// Shipper counts the lines that next takes.
//
// A line is counted once, by its name, as it is kept once. Counts are written
// down every few seconds, together with how far they go: a death in between
// costs the counts of those seconds, and never doubles any.
func (l *Ledger) Shipper(next Shipper) Shipper { return counting{l, next} }

type counting struct {
	l    *Ledger
	next Shipper
}

func (c counting) Ship(ctx context.Context, hostID string, batches []logs.Batch) error {
	if err := c.next.Ship(ctx, hostID, batches); err != nil {
		return err
	}
	c.l.count(ctx, hostID, batches)
	return nil
}

// maxTallied bounds what is counted and cannot be written down: tallies, and
// hours of them all.
const maxTallied = 100_000

// tally is what an instance logged since it was last written down.
type tally struct {
	hostID   string
	from, to logs.Position
	add      map[metering.Hour]metering.Amount
}

// count adds lines that are safe. Logs don't wait for their usage: what can't
// be counted is not, and said once.
func (l *Ledger) count(ctx context.Context, hostID string, batches []logs.Batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range batches {
		t, err := l.tally(ctx, hostID, b.Origin.InstanceID)
		if err != nil {
			if !l.deaf {
				l.log.Error("log lines are not counted, nor billed", "instance", b.Origin.InstanceID, "err", err)
			}
			l.deaf = true
			continue
		}
		l.deaf = false
		l.tallied -= len(t.add)
		t.count(b)
		l.tallied += len(t.add)
	}
}

// tally is an instance's; l.mu is held.
func (l *Ledger) tally(ctx context.Context, hostID, instanceID string) (*tally, error) {
	if l.tallied >= maxTallied || len(l.tallies) >= maxTallied {
		return nil, miosa.Errorf(miosa.NoSpace, "%d instances have counts that cannot be written down", len(l.tallies))
	}
	if t := l.tallies[instanceID]; t != nil {
		return t, nil
	}
	// The lines are safe, whoever waited for that: they are not sent again.
	a, err := l.kept.Account(context.WithoutCancel(ctx), instanceID)
	if err != nil && miosa.CodeOf(err) != miosa.NotFound {
		return nil, err
	}
	at := logs.Position{Epoch: a.LogEpoch, Seq: a.LogSeq}
	t := &tally{hostID: hostID, from: at, to: at, add: map[metering.Hour]metering.Amount{}}
	l.tallies[instanceID] = t
	return t, nil
}

// count adds the lines of a batch that were not counted. The platform's own
// words cost nothing.
func (t *tally) count(b logs.Batch) {
	for n := range b.Lines {
		at := logs.Position{Epoch: b.Epoch, Seq: b.First + uint64(n)}
		if !t.to.Less(at) {
			continue
		}
		t.to = at
		if line := &b.Lines[n]; line.Stream != logs.System {
			hour := metering.HourOf(line.Time)
			t.add[hour] = t.add[hour].Plus(metering.Amount{LogLines: 1, LogBytes: uint64(len(line.Text))})
		}
	}
}

// owed is a tally that is to be written down.
type owed struct {
	instanceID string
	tally
}

// due takes what was counted; nothing is owed.
func (l *Ledger) due() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tallied = 0
	for id, t := range l.tallies {
		if t.from != t.to {
			l.owed = append(l.owed, owed{id, *t})
			t.from, t.add = t.to, map[metering.Hour]metering.Amount{}
		} else if len(l.tallies) > maxIdle {
			delete(l.tallies, id) // its place is in its account
		}
	}
}

// Flush writes down what was counted of log lines.
func (l *Ledger) Flush(ctx context.Context) error {
	l.settle.Lock()
	defer l.settle.Unlock()
	if len(l.owed) > 0 { // of a Flush that failed
		if err := l.pay(ctx); err != nil {
			return err
		}
	}
	l.due()
	return l.pay(ctx)
}

// pay writes down what is owed; l.settle is held.
func (l *Ledger) pay(ctx context.Context) error {
	now := metering.HourOf(l.now())
	var change usage.Change
	for _, o := range l.owed {
		a, err := l.account(ctx, o.hostID, o.instanceID)
		if code := miosa.CodeOf(err); code == miosa.NotFound || code == miosa.Forbidden {
			l.log.Warn("log lines of an instance that nobody knows are not billed", "instance", o.instanceID, "err", err)
			continue
		}
		if err != nil {
			return err
		}
		if at := (logs.Position{Epoch: a.LogEpoch, Seq: a.LogSeq}); at != o.from {
			continue // a commit that ended in an error was made
		}
		for hour, amount := range o.add {
			// A line's time is its host's word.
			hour = min(max(hour, metering.HourOf(time.Unix(a.Since, 0))), now)
			change.Add = append(change.Add, usage.Row{Hour: hour, Subject: a.Subject, Name: a.Name, Amount: amount})
		}
		a.LogEpoch, a.LogSeq, a.Seen = o.to.Epoch, o.to.Seq, now
		change.Accounts = append(change.Accounts, a)
	}
	if len(change.Accounts) > 0 {
		if err := l.kept.Commit(ctx, change); err != nil {
			return fmt.Errorf("keep counts of log lines: %w", err)
		}
	}
	l.owed = nil
	return nil
}
