package guest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	wire "github.com/miosa/miosa/wire/guest"
)

// After the command has ended: how long its other processes may take to die
// of SIGKILL, and the next line of their last output to come.
const (
	reapWait  = 2 * time.Second
	drainWait = 3 * time.Second // more than the outbox's patience
	// groupPoll is how often the rest of a stopping command's group is looked
	// for, once its main process has ended.
	groupPoll = 20 * time.Millisecond
)

// The shell's own exit codes (POSIX, "Exit Status for Commands"). They only
// mean that the command never ran when they come at once.
const (
	shellNotFound      = 127
	shellNotExecutable = 126
	shellAtOnce        = 5 * time.Second
)

// supervisor runs one command to its end.
type supervisor struct {
	command  command
	out      *outbox
	stops    <-chan wire.Stop
	proc     string                            // mount point of the proc file system
	killAll  func(pid int, sig syscall.Signal) // every process that pid's command may have started
	signal   syscall.Signal                    // that asks the command to end; 0: SIGTERM
	others   func() bool                       // reports whether processes besides PID 1 run; nil: unknown
	kills    *os.File                          // the kernel's log, from now on; nil: not read
	gate     int                               // a port that is PID 1's own
	checks   <-chan wire.Check
	checking atomic.Bool // one is carried out
	execs    []transport // for exec sessions
	visited  atomic.Bool // there has been one
	children children
	log      func() []byte // the kernel's log
	port     int
	statsMS  int
	limit    time.Duration     // after which all is killed; 0: never
	oomKills uint64            // by the kernel, before the command
	onStart  func()            // the command has been started
	readStat func() wire.Stats // nil: none are sent
}

// run starts the command, waits for its end or for a stop, and returns how it
// ended. All its processes are gone then, and their output is in the outbox.
func (s *supervisor) run(ctx context.Context) wire.Exit {
	began := time.Now()
	p, err := s.command.start(s.out)
	if err != nil {
		return setupExit(err)
	}
	s.onStart()
	ended, gone := s.children.expect(p.pid), make(chan struct{})
	go func() {
		defer close(gone)
		s.children.reap()
	}()

	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	if s.port != 0 {
		go watchListener(watching, s.proc, s.port, s.gate, p.pid, s.out.listening)
	}
	if s.kills != nil {
		go watchKills(watching, s.kills, p.pid, func(text string) { s.out.line(wire.System, []byte(text), false) })
	}
	if s.checks != nil {
		go s.carryOutChecks(watching)
	}
	if s.readStat != nil {
		go s.sendStats(watching)
	}
	if len(s.execs) > 0 {
		defer time.AfterFunc(execAfter, func() { s.serveExecs(watching) }).Stop()
	}

	status, how := s.wait(ctx, p.pid, ended)
	cancel()
	wentOn := !how.stopped && !s.checking.Load() && !s.visited.Load() && s.others != nil && s.others()
	s.killAll(p.pid, syscall.SIGKILL)
	within(reapWait, gone)
	s.drain(p)

	exit := describe(status)
	exit.Stopped, exit.KilledAll, exit.TimedOut = how.stopped, how.killed, how.late
	exit.Daemon = wentOn && exit.Code == 0
	oomNow := readOOMKills(s.proc)
	exit.OOM = !how.stopped && !how.late && tookForMemory(exit, p.pid, oomNow > s.oomKills, s.log)
	s.explain(&exit, time.Since(began))
	return exit
}

// execAfter is how long after the command exec sessions are served: its own start
// comes first. Who asks before that waits.
const execAfter = time.Second

// serveExecs serves exec sessions until ctx ends.
func (s *supervisor) serveExecs(ctx context.Context) {
	server := &execServer{root: "/", command: s.command, children: &s.children, proc: s.proc, visited: &s.visited}
	for _, port := range s.execs {
		go func() { _ = server.serve(ctx, port) }() // a port that fails has no more sessions
	}
}

// ending is what a command was made to end by.
type ending struct {
	stopped bool // it was asked to
	killed  bool // all its processes were sent SIGKILL
	late    bool // for its limit
}

// wait returns when the main process has ended. The first stop sends the stop
// signal to its group; SIGKILL follows at the deadline, which a later stop may
// shorten. A shell ends by that signal while what it runs still goes about its
// own end, so that after a stop the whole group is waited for. At the limit there is
// no more asking.
func (s *supervisor) wait(ctx context.Context, pid int, ended <-chan syscall.WaitStatus) (status syscall.WaitStatus, how ending) {
	deadline := time.NewTimer(0)
	deadline.Stop()
	defer deadline.Stop()
	var due time.Time
	var limit <-chan time.Time
	if s.limit > 0 {
		timer := time.NewTimer(s.limit)
		defer timer.Stop()
		limit = timer.C
	}
	done := ctx.Done()
	rest := time.NewTicker(groupPoll)
	rest.Stop()
	defer rest.Stop()
	over := false
	for {
		select {
		case status = <-ended:
			if over = true; !how.stopped || how.killed || !groupLeft(pid) {
				return status, how
			}
			rest.Reset(groupPoll)
		case <-rest.C:
			if !groupLeft(pid) {
				return status, how
			}
		case stop := <-s.stops:
			at := time.Now().Add(max(0, stop.Deadline))
			if how.stopped && !at.Before(due) {
				continue
			}
			due = at
			deadline.Reset(time.Until(due))
			if !how.stopped {
				how.stopped = true
				_ = syscall.Kill(-pid, cmp.Or(s.signal, syscall.SIGTERM))
			}
		case <-deadline.C:
			how.killed = true
			s.killAll(pid, syscall.SIGKILL)
		case <-limit:
			how.killed, how.late = true, true
			s.killAll(pid, syscall.SIGKILL)
		case <-done:
			done = nil
			how.stopped, how.killed = true, true
			s.killAll(pid, syscall.SIGKILL)
		}
		if over && how.killed {
			return status, how
		}
	}
}

// groupLeft reports whether processes of a group are left.
func groupLeft(pid int) bool { return !errors.Is(syscall.Kill(-pid, 0), syscall.ESRCH) }

// othersRun reports whether processes besides PID 1 run. Those of the kernel,
// and the dead, have no command line.
func othersRun(proc string) bool {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return false
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err != nil || pid <= 1 {
			continue
		}
		if line, err := os.ReadFile(filepath.Join(proc, e.Name(), "cmdline")); err == nil && len(line) > 0 {
			return true
		}
	}
	return false
}

// drain waits for the outputs' ends, as long as lines come: what the dead left
// in their pipes is all that can. A process that left the session and could not
// be killed must not hold the machine up for ever.
func (s *supervisor) drain(p *process) {
	read := make(chan struct{})
	go func() {
		p.outputs.Wait()
		close(read)
	}()
	for last := s.out.lastLine(); !within(drainWait, read); {
		before := last
		if last = s.out.lastLine(); last == before {
			break
		}
	}
	for _, r := range p.readers {
		_ = r.Close()
	}
	<-read
}

// within waits for done, at most d, and reports whether it came.
func within(d time.Duration, done <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
		return false
	}
}

// children are the processes whose end somebody waits for. The zero value has
// none.
type children struct {
	mu   sync.Mutex
	ends map[int]chan<- syscall.WaitStatus
}

// expect is told how a process ended, which has not been reaped yet.
func (c *children) expect(pid int) <-chan syscall.WaitStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.expected(pid)
}

func (c *children) expected(pid int) <-chan syscall.WaitStatus {
	ended := make(chan syscall.WaitStatus, 1)
	if c.ends == nil {
		c.ends = map[int]chan<- syscall.WaitStatus{}
	}
	c.ends[pid] = ended
	return ended
}

// start makes a process, which may end before anybody could have said that its
// end matters.
func (c *children) start(fork func() (pid int, err error)) (pid int, ended <-chan syscall.WaitStatus, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if pid, err = fork(); err != nil {
		return 0, nil, err
	}
	return pid, c.expected(pid), nil
}

// reap collects every child, also those that PID 1 inherited, until none is
// left.
func (c *children) reap() {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil:
			return
		}
		c.mu.Lock()
		if ended := c.ends[pid]; ended != nil {
			delete(c.ends, pid)
			ended <- status
		}
		c.mu.Unlock()
	}
}

func (s *supervisor) sendStats(ctx context.Context) {
	interval := 15 * time.Second
	if s.statsMS > 0 {
		interval = time.Duration(s.statsMS) * time.Millisecond
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			stats := s.readStat()
			s.out.send(wire.Message{Stats: &stats})
		}
	}
}

// describe reads a wait status.
func describe(status syscall.WaitStatus) wire.Exit {
	if status.Signaled() {
		name := unix.SignalName(status.Signal())
		if name == "" {
			name = fmt.Sprintf("signal %d", int(status.Signal()))
		}
		return wire.Exit{Code: -1, Signal: name}
	}
	return wire.Exit{Code: status.ExitStatus()}
}

// tookForMemory judges whether the kernel's OOM killer ended the command. The
// kernel's log names the process; where the log has no more of it, or where a
// shell stands between (it reports a killed child as 128 + 9), the count of
// kills since the start decides.
func tookForMemory(e wire.Exit, pid int, killsRose bool, log func() []byte) bool {
	const killedChild = 128 + int(syscall.SIGKILL)
	switch {
	case e.Signal == "SIGKILL":
		return oomKilled(log(), pid) || killsRose
	case e.Code == killedChild:
		return killsRose
	}
	return false
}

// explain adds words, and the reason where a shell could not run the command.
func (s *supervisor) explain(e *wire.Exit, ran time.Duration) {
	atOnce := s.command.shell && ran < shellAtOnce && !e.Stopped
	switch {
	case e.TimedOut:
		e.Message = "The command was killed: it had run for longer than it may."
	case e.OOM:
		e.Message = "The command was killed because the instance ran out of memory."
	case atOnce && e.Code == shellNotFound:
		e.Reason, e.Message = wire.ExitNotFound, "The shell did not find the command (exit code 127)."
	case atOnce && e.Code == shellNotExecutable:
		e.Reason, e.Message = wire.ExitNotExecutable, "The shell could not execute the command (exit code 126)."
	case e.Daemon && s.limit > 0:
		e.Message = "The command ended while processes that it had started went on, and they were ended with it."
	case e.Daemon:
		e.Message = "The command ended while processes that it had started went on, and they were ended with it: an app must stay in the foreground. Turn off its daemon mode."
	case e.Signal != "" && !e.Stopped:
		e.Message = "The command was ended by " + e.Signal + "."
	}
}

// setupExit is the exit of a command that never ran.
func setupExit(err error) wire.Exit {
	e := wire.Exit{Code: -1, Reason: wire.ExitSetup, Message: err.Error()}
	if start, ok := errors.AsType[*startError](err); ok {
		e.Reason = start.reason
		switch e.Reason {
		case wire.ExitNotFound:
			e.Code = shellNotFound
		case wire.ExitNotExecutable, wire.ExitWrongArch:
			e.Code = shellNotExecutable
		}
	}
	return e
}
