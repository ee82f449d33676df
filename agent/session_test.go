package agent

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/agent/spool"
	"github.com/miosa/miosa/lifecycle"
	"github.com/miosa/miosa/vmm"
	"github.com/miosa/miosa/wire/cell"
	"github.com/miosa/miosa/wire/guest"
)

// While the spool takes nothing, what the guest sends is not believed more than
// at other times: its numbers would be told of as lost lines.
func TestAStalledSessionStillChecksNumbers(t *testing.T) {
	a := &Agent{log: slog.New(slog.DiscardHandler)}
	x := &actor{a: a, journal: a.newJournal(miosa.Instance{ID: "ri_a"})}
	s := &session{b: &boot{x: x, number: 1}, lines: guest.NewSession(0), stalled: time.Now()}
	s.lines.Connect(7)
	if err := s.handle(time.Now(), guest.Message{Hello: &guest.Hello{Min: 1, Max: 1, Nonce: 7, State: guest.StateRunning, Boot: 1, Exit: &guest.Exit{}}}); err != nil {
		t.Fatal(err)
	}
	send := func(n uint64) error {
		return s.handle(time.Now(), guest.Message{Lines: &guest.Lines{Lines: []guest.Line{{N: n, Stream: guest.Stdout, Text: []byte("x")}}}})
	}
	if err := send(1); err != nil || x.journal.missed.n != 1 {
		t.Errorf("%v, missed up to %d", err, x.journal.missed.n)
	}
	if err := send(1 << 60); err == nil || x.journal.missed.n != 1 {
		t.Errorf("%v, missed up to %d", err, x.journal.missed.n)
	}
}

// A guest that ends keeps nothing: lines that the disk did not take then are
// told of.
func TestLinesThatCouldNotBeSyncedAtTheEndAreMissed(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	lines, err := spool.New(spool.Config{Dir: t.TempDir(), HostID: "host_a", Shipper: away{}, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	if err := lines.Open(time.Now()); err != nil {
		t.Fatal(err)
	}
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	go func() { _, _ = io.Copy(io.Discard, theirs) }()
	a := &Agent{log: log, spool: lines}
	x := &actor{a: a, inbox: make(chan lifecycle.Event, 10), journal: a.newJournal(miosa.Instance{ID: "ri_a"})}
	s := &session{b: &boot{x: x, number: 1, in: miosa.Instance{}}, lines: guest.NewSession(0), raw: ours, conn: guest.NewConn(ours)}
	s.lines.Connect(7)
	if err := s.handle(time.Now(), guest.Message{Hello: &guest.Hello{Min: 1, Max: 1, Nonce: 7, State: guest.StateRunning, Boot: 1, Exit: &guest.Exit{}}}); err != nil {
		t.Fatal(err)
	}
	if err := s.handle(time.Now(), guest.Message{Lines: &guest.Lines{Lines: []guest.Line{{N: 1, Text: []byte("x")}, {N: 2, Text: []byte("y")}}}}); err != nil {
		t.Fatal(err)
	}
	if err := lines.Close(); err != nil { // it cannot be synced any more
		t.Fatal(err)
	}
	s.exited = false // as Hello said it had, to begin without a virtual machine
	if err := s.exit(time.Now(), &guest.Exit{}); err != nil {
		t.Fatal(err)
	}
	if m := x.journal.missed; m.boot != 1 || m.n != 2 {
		t.Errorf("missed: %+v", m)
	}
}

type plainSpecs struct{}

func (plainSpecs) Open(sealed, _ []byte) ([]byte, error) { return sealed, nil }

// That an app ended comes with the signal that its image or service wants, also
// of a boot that an earlier process of ours began.
func TestAnExitComesWithTheStopSignal(t *testing.T) {
	sealed, err := cell.BootSpec{StopSignal: 3}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	go func() { _, _ = io.Copy(io.Discard, theirs) }()
	a := &Agent{log: slog.New(slog.DiscardHandler), cfg: Config{Opener: plainSpecs{}}}
	x := &actor{a: a, inbox: make(chan lifecycle.Event, 10), journal: a.newJournal(miosa.Instance{ID: "ri_a"})}
	s := &session{b: &boot{x: x, number: 1, sealed: sealed, ctx: t.Context()}, lines: guest.NewSession(0), raw: ours, conn: guest.NewConn(ours)}
	if err := s.exit(time.Now(), &guest.Exit{Stopped: true, Code: -1, Signal: "SIGQUIT"}); err != nil {
		t.Fatal(err)
	}
	if e, ok := (<-x.inbox).(lifecycle.Exited); !ok || !e.Stopped || e.StopSignal != 3 {
		t.Errorf("posted %+v", e)
	}
}

// A guest that reads nothing holds nobody up for ever.
func TestADeafGuestEndsTheConversation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		s := &session{raw: ours, conn: guest.NewConn(ours)}
		began := time.Now()
		if err := s.write(guest.Message{Ping: &guest.Ping{Seq: 1}}); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
		if took := time.Since(began); took != writeFor {
			t.Errorf("it took %s", took)
		}
	})
}

// dead is a virtual machine that has ended.
type dead struct {
	vmm.VM
	done chan struct{}
}

func (d dead) Done() <-chan struct{} { return d.done }

// What a guest had said when its virtual machine ended is taken to its end, on
// a busy host too.
func TestTheLastWordsAreHeard(t *testing.T) {
	const lines = 10
	synctest.Test(t, func(t *testing.T) {
		a := &Agent{log: slog.New(slog.DiscardHandler)}
		x := &actor{a: a, journal: a.newJournal(miosa.Instance{ID: "ri_a"})}
		b := &boot{x: x, number: 1, ctx: t.Context(), slot: func() {}}
		ours, theirs := net.Pipe()
		vm := dead{done: make(chan struct{})}
		go func() {
			conn := guest.NewConn(theirs)
			m, err := conn.ReadMessage()
			if err != nil || m.Attach == nil {
				t.Errorf("%+v, %v", m, err)
				return
			}
			close(vm.done)
			defer theirs.Close()
			_ = conn.WriteMessage(guest.Message{Hello: &guest.Hello{Min: 1, Max: 1, Nonce: m.Attach.Nonce, State: guest.StateRunning, Boot: 1}})
			for n := range uint64(lines) {
				<-time.After(20 * time.Millisecond)
				_ = conn.WriteMessage(guest.Message{Lines: &guest.Lines{Lines: []guest.Line{{N: n + 1, Stream: guest.Stdout, Text: []byte("x")}}}})
			}
		}()
		heard := time.Now()
		session := guest.NewSession(0)
		_ = b.converse(vm, ours, session, &heard, false)
		ours.Close()
		if session.After() != lines {
			t.Errorf("heard %d of %d", session.After(), lines)
		}
	})
}

// What a guest says of a task's command goes into the record as something that can be
// true, and in words that fit a command which is to end.
func TestWhatAGuestSaysOfAnAttempt(t *testing.T) {
	once := miosa.Instance{TaskID: "task_1", Limit: time.Minute, Spec: miosa.ServiceSpec{Command: "migrate"}}
	for _, c := range []struct {
		exit    guest.Exit
		kind    miosa.FailureKind
		code    int
		message string
	}{
		{guest.Exit{Code: 3}, miosa.FailureExit, 3, `the command "migrate" exited with code 3`},
		{guest.Exit{Code: 4711}, miosa.FailureExit, 255, `the command "migrate" exited with code 255`},
		{guest.Exit{Code: -9}, miosa.FailureExit, 255, `the command "migrate" exited with code 255`},
		{guest.Exit{Code: -1, Signal: "SIGSEGV"}, miosa.FailureSignal, -1, `the command "migrate" was killed by SIGSEGV`},
		{guest.Exit{Daemon: true}, miosa.FailureExit, 0, `the command "migrate" exited with code 0`},
		{guest.Exit{Code: -1, Signal: "SIGKILL", TimedOut: true}, miosa.FailureLimit, -1, "its command ran for 1m0s, which is its limit, and was killed"},
	} {
		if f := exitFailure(time.Now(), &c.exit, once, nil); f.Kind != c.kind || f.ExitCode != c.code || f.Message != c.message {
			t.Errorf("%+v: %+v", c.exit, f)
		}
	}
}

// How a command ended that was running as its host went down is known where its
// guest had said so.
func TestAnAttemptEndsWithItsHost(t *testing.T) {
	for _, c := range []struct {
		was   miosa.InstanceState
		exit  *guest.Exit
		state miosa.InstanceState
		kind  miosa.FailureKind
	}{
		{miosa.Healthy, nil, miosa.Stopped, miosa.FailureVM},
		{miosa.Healthy, &guest.Exit{Code: 143, Stopped: true}, miosa.Stopped, miosa.FailureVM},
		{miosa.Healthy, &guest.Exit{}, miosa.Stopped, miosa.FailureCompleted},
		{miosa.Healthy, &guest.Exit{Code: 1}, miosa.Failed, miosa.FailureExit},
		{miosa.Stopping, &guest.Exit{Code: 143, Stopped: true}, miosa.Stopped, miosa.FailureNone},
		{miosa.Starting, nil, miosa.Stopped, miosa.FailureVM},
	} {
		s := state{Instance: miosa.Instance{TaskID: "task_1"}, Observation: miosa.Observation{State: c.was, Boot: 1, Seq: 4}}
		if o := endedWithHost(time.Now(), s, c.exit, nil); o.State != c.state || o.Failure.Kind != c.kind || o.Seq != 5 {
			t.Errorf("%+v: %+v", c, o)
		}
	}
}
