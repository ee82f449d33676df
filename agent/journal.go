package agent

import (
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/agent/spool"
	"github.com/miosa/miosa/logs"
	"github.com/miosa/miosa/wire/guest"
)

// journal is what an instance logs, over all its boots: every line for the log
// store, by the host's spool, and the last ones for failure reports.
type journal struct {
	spool  *spool.Spool // nil: lines are kept for failure reports only
	origin logs.Origin
	log    *slog.Logger
	tail   *tail

	mu     sync.Mutex // guards all below
	limit  spool.Limit
	lines  *spool.Instance
	again  time.Time // when the spool is asked again for what it refused
	missed struct {  // the last line seen that the spool did not take
		boot int
		n    uint64
	}
	failing bool // an error has been logged and is not over
}

// spoolAgain is how soon a spool that failed is tried again.
const spoolAgain = 2 * time.Second

func (a *Agent) newJournal(in miosa.Instance) *journal {
	return &journal{spool: a.spool, limit: a.logLimit(in), log: a.log, tail: newTail(), origin: logs.Origin{
		TenantID: in.TenantID, DeploymentID: in.DeploymentID, ServiceID: in.ServiceID, InstanceID: in.ID,
		VersionID: in.VersionID, HostID: a.cfg.Host.ID, WorkspaceID: in.WorkspaceID, TaskID: in.TaskID,
	}}
}

// logLimit is how much an instance may log: what its service asks for, else what
// the operator gives everyone.
func (a *Agent) logLimit(in miosa.Instance) spool.Limit {
	l := a.cfg.LogLimit
	switch asked := in.Logs; {
	case asked.Unlimited:
		return spool.Limit{Rate: -1}
	case asked.LinesPerSecond > 0:
		return spool.Limit{Rate: asked.LinesPerSecond, Burst: asked.Burst}
	case asked.Burst > 0:
		l.Burst = asked.Burst
	}
	return l
}

// limited changes how much the app may log.
func (j *journal) limited(now time.Time, l spool.Limit) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.limit = l
	if j.lines != nil {
		j.lines.Limit(now, l)
	}
}

var errNoSpool = errors.New("the log spool of the instance cannot be opened")

// instance is the spool's handle, opened when it is first needed.
func (j *journal) instance(now time.Time) (*spool.Instance, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.lines == nil && !now.Before(j.again) {
		var err error
		if j.lines, err = j.spool.Instance(now, j.origin, j.limit); err != nil {
			j.again = now.Add(spoolAgain)
			j.failed(err)
		}
	}
	if j.lines == nil {
		return nil, errNoSpool
	}
	return j.lines, nil
}

// failed logs an error once until all is well again; j.mu is held.
func (j *journal) failed(err error) {
	if !j.failing {
		j.log.Error("keep the logs of an instance", "instance", j.origin.InstanceID, "err", err)
	}
	j.failing = true
}

// resume takes up what an earlier process of ours kept.
func (j *journal) resume(d tailDump) {
	j.tail.load(d)
	if j.spool == nil {
		return
	}
	i, err := j.instance(time.Now())
	if err != nil {
		return
	}
	for _, l := range i.Recent() {
		j.tail.add(l.Boot, &guest.Lines{Lines: []guest.Line{{N: l.N, Text: l.Text}}})
	}
}

// add takes a guest's lines, which came at now, and reports whether they are held.
func (j *journal) add(now time.Time, boot int, batch *guest.Lines) bool {
	j.tail.add(boot, batch)
	if j.spool == nil {
		return true
	}
	i, err := j.instance(now)
	if err == nil {
		j.settle(now, i, boot)
		err = i.Append(now, boot, batch)
	}
	if err != nil {
		j.miss(boot, batch, err)
		return false
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.missed.boot == boot && j.missed.n <= batch.Lines[len(batch.Lines)-1].N {
		j.missed.n = 0
	}
	return true
}

// miss remembers lines that the spool did not take.
func (j *journal) miss(boot int, batch *guest.Lines, err error) {
	j.tail.add(boot, batch)
	j.want(boot, batch.Lines[len(batch.Lines)-1].N)
	if err != nil {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.failed(err)
	}
}

// want remembers that there were lines of a boot up to n, safe or not.
func (j *journal) want(boot int, n uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.missed.boot, j.missed.n = boot, n
}

// settle counts what was missed of a boot before this one as lost: nobody has
// it any more.
func (j *journal) settle(now time.Time, i *spool.Instance, boot int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.missed.n > 0 && j.missed.boot != boot {
		i.Lose(now, j.missed.boot, j.missed.n) // none that it holds by now
		j.missed.n = 0
	}
}

// say adds a line of the platform's own.
func (j *journal) say(now time.Time, text string) {
	if j.spool == nil {
		return
	}
	i, err := j.instance(now)
	if err == nil {
		err = i.System(now, text)
	}
	if err != nil {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.failed(err)
	}
}

// unsaid says that a guest took with it what it had still to say.
func (j *journal) unsaid(now time.Time) {
	j.say(now, "… lines may be missing here: the virtual machine ended before it had said all …")
}

// held is the last line of a boot that came in.
func (j *journal) held(boot int) uint64 {
	if j.spool == nil {
		return j.tail.after(boot)
	}
	i, err := j.instance(time.Now())
	if err != nil {
		return 0
	}
	return i.Held(boot)
}

// sync is the last line of a boot that may be acknowledged, if any may.
func (j *journal) sync(boot int) (uint64, bool) {
	now := time.Now().UTC()
	i, err := j.instance(now)
	if err == nil {
		err = i.Sync(now)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if err != nil {
		j.failed(err)
		return 0, false
	}
	j.failing = j.failing && j.missed.n > 0
	return i.After(boot), true
}

// lag is how long lines wait to be acknowledged.
func (j *journal) lag() time.Duration {
	if j.spool == nil {
		return persistLag
	}
	return ackLag
}

// settled makes everything safe: nothing more comes that was missed.
func (j *journal) settled() {
	if j.spool == nil {
		return
	}
	now := time.Now().UTC()
	i, err := j.instance(now)
	if err != nil {
		return // it has been said
	}
	j.settle(now, i, 0)
	j.sync(0)
}

// end says that the instance is over.
func (j *journal) end() {
	j.mu.Lock()
	i := j.lines
	j.mu.Unlock()
	if i == nil {
		return
	}
	now := time.Now().UTC()
	j.settle(now, i, 0)
	i.End(now)
}
