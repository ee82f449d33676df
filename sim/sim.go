// Package sim is the whole system in one process and one goroutine: the real
// control machine over the store in memory, the real lifecycle machine of every
// instance, the real machine of every router, and users, driven by one seeded
// queue of events in virtual time. The same seed gives the same run. After every event the
// invariants must hold; after the faults have ended everything must settle.
package sim

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/control"
	"github.com/miosa/miosa/lifecycle"
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
	Frozen                     int // hosts that stood still for a while
	Drains, Drained            int // of hosts: begun, and come to their end
	Reloads, Refused           int // watches that began anew; commits that failed for passing reasons
	Takeovers                  int // of control from another that was there still
	Singles                    int // starts of what must never run twice
	Poisoned                   int // apps that no decision could be made about for a while
	Tasks, Attempts            int // that were made
	Denied                     int // reports on attempts that were refused
	TaskEnds                   map[miosa.TaskState]int
}

// Sim is one run's world.
type Sim struct {
	cfg    Config
	rng    *rand.Rand
	now    time.Time // monotonic: what happens, happens in this order
	skew   time.Duration
	jumps  time.Duration // forward, all in all
	jumped time.Time     // when the wall clock last jumped

	queue  queue
	seq    uint64
	store  *memory.Store
	seen   int64 // revision up to which changes were handed out
	report Report

	control  *decider   // the newest
	deciders []*decider // it, and those before it that do not know yet that it is there
	refused  time.Time  // when a write of control's last failed
	sessions int64      // of agents, so far
	hosts    []*host
	routers  []*router
	clients  map[string]*client
	users    *users
	check    *checker
	wrote    map[string]written
	err      error
}

// written is control's last commit to an environment.
type written struct {
	at   time.Time
	what string
}

// happening is something that happens at a time.
type happening struct {
	at  time.Time
	seq uint64 // ties are broken by the order of making
	do  func()
}

type queue []happening

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	if q[i].at.Equal(q[j].at) {
		return q[i].seq < q[j].seq
	}
	return q[i].at.Before(q[j].at)
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(happening)) }
func (q *queue) Pop() any {
	old := *q
	t := old[len(old)-1]
	*q = old[:len(old)-1]
	return t
}

// Run plays one seed to its end. The error names the first invariant that did
// not hold, and when.
func Run(cfg Config) (Report, error) {
	s := &Sim{cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 0x6d696f7361)), now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), wrote: map[string]written{}, report: Report{TaskEnds: map[miosa.TaskState]int{}}}
	s.store = memory.New(s.clock)
	s.check = newChecker(s)
	s.users, s.clients = newUsers(s), map[string]*client{}
	for n := range cfg.Hosts {
		s.hosts = append(s.hosts, newHost(s, n))
	}
	if err := s.users.setUp(); err != nil {
		return s.report, err
	}
	s.startControl(0)
	for n := range cfg.Routers {
		s.routers = append(s.routers, newRouter(s, n))
	}
	s.users.plan()
	end := s.now.Add(cfg.Span + cfg.Settle)
	for len(s.queue) > 0 && s.err == nil {
		t := heap.Pop(&s.queue).(happening)
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

// apart is how far a machine's clock is from the others': kept by a time server,
// it is a little.
func (s *Sim) apart() time.Duration {
	if !s.cfg.Faults {
		return 0
	}
	return s.between(0, 2*time.Second) - time.Second
}

// jump sets the clock of all: an operator, or a time server after long silence.
func (s *Sim) jump(by time.Duration) {
	s.trace("the clock jumps by %s", by)
	s.skew += by
	s.jumps += max(by, 0)
	s.jumped = s.now
	for _, d := range slices.Clone(s.deciders) {
		d.feed(cell.Tick{})
	}
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
	heap.Push(&s.queue, happening{at: s.now.Add(d), seq: s.seq, do: do})
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
		for _, d := range s.deciders {
			d.hear(changed)
		}
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
