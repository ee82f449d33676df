// Package sim is the whole system in one process and one goroutine: the real
// control machine over the store in memory, the real lifecycle machine of every
// instance, the real machine of every router, and users, driven by one seeded
// queue of events in virtual time. The same seed gives the same run. After every event the
// invariants must hold; after the faults have ended everything must settle.
package sim

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/control"
	"github.com/miosa/miosa/lifecycle"
	"github.com/miosa/miosa/records"
	"github.com/miosa/miosa/routing"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/memory"
)

// Config is one run.
type Config struct {
	Seed        uint64
	Deployments int
	Routers     int
	Hosts       int
	Actions     int           // what users and faults do, all in all
	Span        time.Duration // over how much virtual time
	Settle      time.Duration // quiet time after it
	Swarm       bool          // with Faults: each seed has some kinds of them, some more than others, and in the end some hosts are gone
	Skip        map[int]bool  // actions that are left out, by number
	Faults      bool          // crashes of apps, VMs, agents and control, full disks, silent and crashing routers, lost updates and reports, jumping clocks
	Trace       func(string)  // each event in words; nil: none
}

// Report is what a run did.
type Report struct {
	Events, Commits, Conflicts int
	Publishes, Flips, Failures int // rollouts asked for, made live, failed
	Requests, Lost, Excused    int // Excused: cut by a fault that was injected
	Connections                int // of those: to a port
	Tunnels                    int // of those: upgraded
	Cuts                       int // drains that a router ended
	Gaps                       int // updates that a router found missing
	Boots, Crashes             int
	Suspected, LostHosts       int
	Drains, Drained            int // of hosts: begun, and come to their end
	Reloads, Refused           int // watches that began anew; commits that failed for passing reasons
}

// Sim is one run's world.
type Sim struct {
	cfg    Config
	rng    *rand.Rand
	now    time.Time // monotonic: what happens, happens in this order
	skew   time.Duration
	jumped time.Time // when the wall clock last jumped

	started, refused time.Time // when control last began, and a write of its last failed
	queue            queue
	seq              uint64
	store            *memory.Store
	seen             int64 // revision up to which changes were handed out
	report           Report

	control  *cell.Machine
	sessions int64 // of agents, so far
	epoch    int   // of control: events for a former process are dropped
	wake     time.Time
	timer    int // the one that counts
	hosts    []*host
	routers  []*router
	clients  map[string]*client
	users    *users
	check    *checker
	watch    lane
	watches  int           // counts watches begun: changes on a former one are lost
	table    routing.Table // the newest published
	wrote    map[string]written
	flipped  time.Time // when that was
	err      error
}

// written is control's last commit to an environment.
type written struct {
	at   time.Time
	what string
}

// task is something that happens at a time.
type task struct {
	at  time.Time
	seq uint64 // ties are broken by the order of making
	do  func()
}

type queue []task

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	if q[i].at.Equal(q[j].at) {
		return q[i].seq < q[j].seq
	}
	return q[i].at.Before(q[j].at)
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(task)) }
func (q *queue) Pop() any {
	old := *q
	t := old[len(old)-1]
	*q = old[:len(old)-1]
	return t
}

// Run plays one seed to its end. The error names the first invariant that did
// not hold, and when.
func Run(cfg Config) (Report, error) {
	s := &Sim{cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 0x6d696f7361)), now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), wrote: map[string]written{}}
	s.store = memory.New(s.clock)
	s.check = newChecker(s)
	s.users, s.clients = newUsers(s), map[string]*client{}
	for n := range cfg.Hosts {
		s.hosts = append(s.hosts, newHost(s, n))
	}
	if err := s.users.setUp(); err != nil {
		return s.report, err
	}
	s.startControl()
	for n := range cfg.Routers {
		s.routers = append(s.routers, newRouter(s, n))
	}
	s.users.plan()
	end := s.now.Add(cfg.Span + cfg.Settle)
	for len(s.queue) > 0 && s.err == nil {
		t := heap.Pop(&s.queue).(task)
		if t.at.After(end) {
			break
		}
		s.now = t.at
		t.do()
		s.report.Events++
		s.drain()
		if s.err == nil {
			s.err = s.check.always()
		}
	}
	if s.err == nil {
		s.err = s.check.settled()
	}
	if s.err != nil {
		s.err = fmt.Errorf("seed %d at %s, event %d: %w", cfg.Seed, s.now.Format("15:04:05.000"), s.report.Events, s.err)
	}
	return s.report, s.err
}

// clock is the time of day as every process sees it. It may jump.
func (s *Sim) clock() time.Time { return s.now.Add(s.skew) }

// jump sets the clock of all: an operator, or a time server after long silence.
func (s *Sim) jump(by time.Duration) {
	s.trace("the clock jumps by %s", by)
	s.skew += by
	s.jumped = s.now
	s.tell(cell.Tick{})
	for _, h := range s.hosts {
		for _, id := range sortedIDs(h.slots) {
			h.slots[id].feed(lifecycle.Tick{})
		}
	}
}

func (s *Sim) trace(format string, args ...any) {
	if s.cfg.Trace != nil {
		s.cfg.Trace(s.now.Format("15:04:05.000 ") + fmt.Sprintf(format, args...))
	}
}

func (s *Sim) fail(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf(format, args...)
	}
}

// after schedules do.
func (s *Sim) after(d time.Duration, do func()) {
	s.seq++
	heap.Push(&s.queue, task{at: s.now.Add(d), seq: s.seq, do: do})
}

// between is a random duration; low ones are likelier, as delays are.
func (s *Sim) between(low, high time.Duration) time.Duration {
	f := s.rng.Float64()
	return low + time.Duration(f*f*float64(high-low))
}

func (s *Sim) chance(p float64) bool { return s.rng.Float64() < p }

// Read makes the run's randomness an io.Reader: IDs are seeded too.
func (s *Sim) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(s.rng.Uint32())
	}
	return len(p), nil
}

// drain hands out what was committed since the last time, late by a little.
func (s *Sim) drain() {
	for _, batch := range s.store.ChangesSince(s.seen) {
		s.seen = batch.Revision
		changed, err := control.ChangedBy(batch)
		if err != nil {
			s.fail("decode a change: %v", err)
			return
		}
		s.check.committed(changed)
		watch, late := s.watches, s.between(100*time.Microsecond, 5*time.Millisecond)
		if s.cfg.Faults && s.chance(0.005) {
			late = s.between(100*time.Millisecond, 800*time.Millisecond) // longer than control waits after a lost answer
		}
		s.inOrder(&s.watch, late, func() {
			if watch == s.watches {
				s.tell(changed)
			}
		})
	}
}

// lane is a stream on which nothing overtakes.
type lane struct{ last time.Time }

func (s *Sim) inOrder(l *lane, d time.Duration, do func()) {
	at := s.now.Add(d)
	if at.Before(l.last) {
		at = l.last
	}
	l.last = at
	s.after(at.Sub(s.now), do)
}

// startControl begins a control plane that knows nothing but the records.
func (s *Sim) startControl() {
	s.epoch++
	s.timer++
	s.wake, s.started = time.Time{}, s.now
	s.table = routing.Table{} // it has none before it makes one
	s.control = cell.NewMachine(cell.Config{
		RouterWindow: cell.RouterWindow,
		Hosts: func(t miosa.Tenant, d miosa.Deployment, e miosa.Environment) []string {
			return []string{d.Slug + "--" + e.Name + "." + t.Slug + ".sim"}
		},
	})
	s.reload(func() {
		for _, h := range s.hosts {
			h.reconnect()
		}
	})
}

// reload is a watch that begins with all records, read at one moment and
// handed over a little later; changes since then follow.
func (s *Sim) reload(then func()) {
	s.watches++
	watch := s.watches
	s.after(s.between(time.Millisecond, 300*time.Millisecond), func() {
		if watch != s.watches {
			return
		}
		// What was committed up to here comes with the records, not after them.
		s.watches++
		watch = s.watches
		loaded, err := records.All(context.Background(), s.store)
		if err != nil {
			s.fail("load: %v", err)
			return
		}
		s.inOrder(&s.watch, s.between(100*time.Microsecond, 50*time.Millisecond), func() {
			if watch != s.watches {
				return
			}
			s.tell(loaded)
			then()
		})
	})
}

// crashControl is a SIGKILL of the control plane and its next start.
func (s *Sim) crashControl() {
	s.trace("control crashes")
	s.startControl()
}

// tell feeds control's machine and carries out what it asks for.
func (s *Sim) tell(ev cell.Event) {
	effects := s.control.Handle(s.clock(), ev)
	for _, effect := range effects {
		s.carryOut(effect)
	}
	at := s.control.Wake()
	if _, ok := ev.(cell.Tick); ok && !at.IsZero() && !at.After(s.clock()) {
		s.fail("control wants to be woken at once, right after it was")
	}
	if at.IsZero() || at.Equal(s.wake) {
		return
	}
	s.wake = at
	s.timer++
	timer := s.timer
	s.after(max(at.Sub(s.clock()), 0), func() {
		if timer == s.timer {
			s.wake = time.Time{}
			s.tell(cell.Tick{})
		}
	})
}

func (s *Sim) carryOut(effect cell.Effect) {
	epoch := s.epoch
	switch e := effect.(type) {
	case cell.Publish:
		u := e.Update
		s.trace("table %d: %d names change, %d go", u.Generation, len(u.Routes)+len(u.Ports), len(u.GoneRoutes)+len(u.GonePorts))
		next := routing.Table{}
		next.Apply(s.table.Whole()) // those before are still looked at
		if !next.Apply(u) {
			s.fail("the update to %d is for %d, and the table is %d", u.Generation, u.From, next.Generation)
			return
		}
		s.table, s.flipped = next, s.now
		s.check.published(next)
		for _, r := range s.routers {
			r.send(u)
		}
	case cell.Assign:
		for _, h := range s.hosts {
			if !e.Anew {
				break
			}
			for _, i := range s.control.Assigned(h.id) {
				h.send(i)
			}
		}
		for _, i := range e.Instances {
			for _, h := range s.hosts {
				if h.id == i.HostID {
					h.send(i)
				}
			}
		}
	case cell.Commit:
		s.after(s.between(200*time.Microsecond, 20*time.Millisecond), func() {
			if epoch != s.epoch && !s.chance(0.3) {
				return // control died before it could write
			}
			answer := s.attempt(e) // or its write comes after another has taken over
			s.after(s.between(100*time.Microsecond, 5*time.Millisecond), func() {
				if epoch == s.epoch {
					s.tell(answer)
				}
			})
		})
	case cell.SaveHost:
		s.after(s.between(200*time.Microsecond, 20*time.Millisecond), func() {
			if epoch != s.epoch && !s.chance(0.3) {
				return
			}
			answer := s.saveHost(e)
			s.after(s.between(100*time.Microsecond, 5*time.Millisecond), func() {
				if epoch == s.epoch {
					s.tell(answer)
				}
			})
		})
	case cell.Purge:
		s.after(s.between(time.Millisecond, 50*time.Millisecond), func() {
			if epoch != s.epoch {
				return
			}
			err := control.PurgeRecords(context.Background(), s.store, e)
			s.tell(cell.Purged{Deployment: e.Deployment, Err: err})
		})
	}
}

// attempt is a commit as networks and other writers leave it: refused, changed
// in between, or carried out with its answer lost.
func (s *Sim) attempt(e cell.Commit) cell.Committed {
	switch {
	case s.cfg.Faults && s.chance(0.02):
		s.report.Refused++
		s.refused = s.now
		return e.Unanswered(errors.New("the store is away"))
	case s.cfg.Faults && s.chance(0.005):
		s.report.Refused++
		s.refused = s.now
		s.commit(e)
		return e.Unanswered(errors.New("the answer was lost"))
	case s.chance(0.02):
		s.intervene(e)
	}
	return s.commit(e)
}

// saveHost writes a verdict, or does not, as attempt.
func (s *Sim) saveHost(e cell.SaveHost) cell.HostSaved {
	if s.cfg.Faults && s.chance(0.02) {
		s.report.Refused++
		s.refused = s.now
		return control.HostAnswer(e, errors.New("the store is away"))
	}
	_, err := store.Try(context.Background(), s.store, func(tx *store.Tx) error { return control.WriteHost(tx, e, s.clock(), s) })
	return control.HostAnswer(e, err)
}

// intervene writes one of the records first, as somebody else would.
func (s *Sim) intervene(e cell.Commit) {
	for _, put := range e.Put {
		i, ok := put.(miosa.Instance)
		if !ok {
			continue
		}
		if _, err := store.Update(context.Background(), s.store, func(tx *store.Tx) error {
			known, err := store.Load(tx, store.Instances, store.InstanceKey(i.TenantID, i.DeploymentID, i.ID))
			if err != nil {
				return err
			}
			return store.Save(tx, store.Instances, known)
		}); err != nil && miosa.CodeOf(err) != miosa.NotFound {
			s.fail("intervene: %v", err)
		}
		return
	}
}

func (s *Sim) commit(e cell.Commit) cell.Committed {
	if err := e.Mint(s.clock(), s); err != nil {
		s.fail("mint: %v", err)
	}
	sealed := map[string][]byte{}
	for _, i := range e.Bootable() {
		sealed[i.ID] = []byte("sealed")
	}
	revision, err := store.Try(context.Background(), s.store, func(tx *store.Tx) error { return control.Write(tx, &e, sealed, s.clock(), s) })
	answer := control.Answer(e, revision, err)
	s.report.Commits++
	if answer.Conflict {
		s.report.Conflicts++
	}
	if answer.Err != nil {
		s.fail("commit refused: %v", answer.Err)
	}
	if revision != 0 && len(e.Put)+len(e.Create) > 0 && !s.check.tells(e) {
		s.wrote[e.Environment] = written{s.now, whatOf(e)}
	}
	for _, ev := range e.Events {
		s.trace("%s %s %s", ev.Type, ev.InstanceID, ev.Message)
	}
	for _, i := range e.Create {
		s.trace("create %s %s slot %d on %s: %s %s", i.ID, short(i.VersionID), i.Slot, i.HostID, i.CreatedReason, strings.Join(i.Reasons, "; "))
	}
	return answer
}

// whatOf says what a commit writes.
func whatOf(e cell.Commit) string {
	var words strings.Builder
	fmt.Fprintf(&words, "%d new", len(e.Create))
	for _, put := range e.Put {
		fmt.Fprintf(&words, ", %T", put)
	}
	for _, ev := range e.Events {
		fmt.Fprintf(&words, ", %s %s", ev.Type, ev.Message)
	}
	return words.String()
}

func short(id string) string {
	if len(id) > 6 {
		return id[len(id)-6:]
	}
	return id
}
