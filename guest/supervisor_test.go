package guest

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	wire "github.com/miosa/miosa/wire/guest"
)

// supervise runs a shell command on this machine, as PID 1 would in a VM, and
// returns how it ended and what it wrote. started is told once it runs.
func supervise(t *testing.T, script string, stops <-chan wire.Stop, started func()) (wire.Exit, []wire.Line) {
	t.Helper()
	return superviseBy(t, &supervisor{}, script, stops, started)
}

// superviseBy does it with a supervisor that knows something already.
func superviseBy(t *testing.T, s *supervisor, script string, stops <-chan wire.Stop, started func()) (wire.Exit, []wire.Line) {
	t.Helper()
	if s.out == nil {
		s.out = newTestOutbox(ringBytes)
	}
	out := s.out
	s.oomKills = readOOMKills("/proc")
	s.command = command{
		path: "/bin/sh", argv: []string{"sh", "-c", script}, dir: "/", env: []string{"PATH=" + defaultPath},
		account: account{uid: uint32(os.Getuid()), gid: uint32(os.Getgid())},
	}
	s.stops, s.proc = stops, t.TempDir()
	// In a VM everything is the command's; here only its group is.
	s.killAll = func(pid int, sig syscall.Signal) { _ = syscall.Kill(-pid, sig) }
	s.log = func() []byte { return nil }
	s.onStart = started
	exit := s.run(t.Context())
	lines, _ := out.ring.from(1, 1<<20, 1<<30)
	return exit, lines
}

func text(lines []wire.Line, stream wire.Stream) string {
	var sb strings.Builder
	for _, l := range lines {
		if l.Stream == stream {
			sb.Write(l.Text)
			sb.WriteByte('\n')
		}
	}
	return sb.String()
}

func nothing() {}

func TestSupervisorReportsTheEnd(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		code   int
		signal string
	}{
		"success": {"exit 0", 0, ""},
		"failure": {"exit 3", 3, ""},
		"signal":  {"kill -SEGV $$", -1, "SIGSEGV"},
		"killed":  {"kill -KILL $$", -1, "SIGKILL"},
	} {
		exit, _ := supervise(t, c.script, nil, nothing)
		if exit.Code != c.code || exit.Signal != c.signal || exit.Stopped || exit.OOM {
			t.Errorf("%s: %+v", name, exit)
		}
	}
}

func TestSupervisorForwardsOutput(t *testing.T) {
	_, lines := supervise(t, `echo one; echo two >&2; printf 'a\000b\377'`, nil, nothing)
	if got := text(lines, wire.Stdout); got != "one\na\x00b\xff\n" {
		t.Errorf("stdout %q", got)
	}
	if got := text(lines, wire.Stderr); got != "two\n" {
		t.Errorf("stderr %q", got)
	}
}

func TestSupervisorReapsOrphansAndEndsThem(t *testing.T) {
	// A child that outlives the command, holding its output open.
	exit, lines := supervise(t, `(echo late; exec sleep 1000) & sleep 0; while ! echo up; do :; done; exit 0`, nil, nothing)
	if exit.Code != 0 || !strings.Contains(text(lines, wire.Stdout), "up") {
		t.Errorf("%+v, %q", exit, text(lines, wire.Stdout))
	}
}

func TestSupervisorStops(t *testing.T) {
	stops := make(chan wire.Stop, 1)
	exit, lines := supervise(t, `trap 'echo bye; exit 7' TERM; while :; do sleep 0.01; done`, stops, func() {
		stops <- wire.Stop{Deadline: time.Minute}
	})
	// The signal may come before the trap is set.
	if !exit.Stopped || exit.KilledAll || exit.Code == 7 != (text(lines, wire.Stdout) == "bye\n") || exit.Code != 7 && exit.Signal != "SIGTERM" {
		t.Errorf("%+v, %q", exit, text(lines, wire.Stdout))
	}
}

// A shell ends by the signal while what it runs still goes about its own end.
func TestSupervisorWaitsForTheWholeGroup(t *testing.T) {
	stops := make(chan wire.Stop, 1)
	up := filepath.Join(t.TempDir(), "up")
	go func() {
		for {
			if _, err := os.Stat(up); err == nil {
				stops <- wire.Stop{Deadline: time.Minute}
				return
			}
			time.Sleep(time.Millisecond) //nolint:forbidigo // the shell's trap is set when the file is there
		}
	}()
	exit, lines := supervise(t, `cd / && sh -c 'trap "sleep 0.3; echo saved; exit 0" TERM; : > `+up+`; while :; do sleep 0.01; done'; true`, stops, nothing)
	if !exit.Stopped || exit.KilledAll || text(lines, wire.Stdout) != "saved\n" {
		t.Errorf("%+v, %q", exit, text(lines, wire.Stdout))
	}
}

// What does not end in time is ended, though the main process has.
func TestSupervisorKillsTheRestAtTheDeadline(t *testing.T) {
	stops := make(chan wire.Stop, 1)
	exit, lines := supervise(t, `(trap '' TERM; echo up; while :; do sleep 0.01; done) & trap 'exit 0' TERM; echo stop; wait`, stops, func() {
		stops <- wire.Stop{Deadline: 300 * time.Millisecond}
	})
	if !exit.Stopped || !exit.KilledAll && text(lines, wire.Stdout) == "up\nstop\n" && exit.Signal == "" {
		t.Errorf("%+v, %q", exit, text(lines, wire.Stdout))
	}
}

// The signal is the boot's.
func TestSupervisorStopsByTheSignalAskedFor(t *testing.T) {
	for name, want := range map[string]int{"QUIT": 3, "WINCH": 28} {
		stops := make(chan wire.Stop, 1)
		s := &supervisor{signal: syscall.Signal(want)}
		up := filepath.Join(t.TempDir(), "up")
		go func() {
			for {
				if _, err := os.Stat(up); err == nil {
					stops <- wire.Stop{Deadline: time.Minute}
					return
				}
				time.Sleep(time.Millisecond) //nolint:forbidigo // the shell's trap is set when the file is there
			}
		}()
		exit, _ := superviseBy(t, s, `trap 'exit 9' `+name+`; : > `+up+`; while :; do sleep 0.01; done`, stops, nothing)
		if !exit.Stopped || exit.Code != 9 {
			t.Errorf("%s: %+v", name, exit)
		}
	}
}

// A command that runs into its limit is killed, though it ignores every signal.
func TestSupervisorEndsACommandAtItsLimit(t *testing.T) {
	s := &supervisor{limit: 200 * time.Millisecond}
	exit, _ := superviseBy(t, s, `trap '' TERM; while :; do sleep 0.01; done`, nil, nothing)
	if !exit.TimedOut || !exit.KilledAll || exit.Stopped || exit.OOM || exit.Signal != "SIGKILL" {
		t.Errorf("%+v", exit)
	}
	s = &supervisor{limit: time.Hour}
	if exit, _ := superviseBy(t, s, `exit 3`, nil, nothing); exit.TimedOut || exit.Code != 3 {
		t.Errorf("%+v", exit)
	}
}

// A command that leaves a daemon behind is told so.
func TestSupervisorTellsOfADaemon(t *testing.T) {
	for _, others := range []bool{true, false} {
		s := &supervisor{others: func() bool { return others }}
		if exit, _ := superviseBy(t, s, `exit 0`, nil, nothing); exit.Daemon != others || others != strings.Contains(exit.Message, "foreground") {
			t.Errorf("%+v", exit)
		}
		if exit, _ := superviseBy(t, s, `exit 1`, nil, nothing); exit.Daemon {
			t.Errorf("one that fails is no daemon: %+v", exit)
		}
	}
}

func TestOthersRun(t *testing.T) {
	proc := t.TempDir()
	process := func(pid, line string) {
		if err := os.MkdirAll(filepath.Join(proc, pid), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(proc, pid, "cmdline"), []byte(line), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	process("1", "/init")
	process("2", "") // the kernel's
	process("sys", "x")
	if othersRun(proc) {
		t.Error("a kernel thread counts")
	}
	process("77", "nginx: master\x00")
	if !othersRun(proc) {
		t.Error("nobody is seen")
	}
}

func TestKilled(t *testing.T) {
	pid, name, ok := killed([]byte("3,401,9185403,-;Out of memory: Killed process 77 (gunicorn: worke) total-vm:4048kB, anon-rss:3072kB\n"))
	if pid != 77 || name != "gunicorn: worke" || !ok {
		t.Errorf("%d %q %t", pid, name, ok)
	}
	for _, record := range []string{"", "6,1,1,-;Run /init", "3,1,1,-;Killed process x (y)", "3,1,1,-;Killed process 7"} {
		if _, _, ok := killed([]byte(record)); ok {
			t.Errorf("%q", record)
		}
	}
}

func TestSupervisorKillsAtTheDeadline(t *testing.T) {
	stops := make(chan wire.Stop, 2)
	exit, _ := supervise(t, `trap '' TERM; while :; do sleep 0.01; done`, stops, func() {
		stops <- wire.Stop{Deadline: time.Hour}
		stops <- wire.Stop{Deadline: 50 * time.Millisecond} // in more of a hurry
	})
	// Killed by SIGTERM if that came before the trap was set.
	if !exit.Stopped || exit.Signal == "SIGKILL" != exit.KilledAll || exit.OOM {
		t.Errorf("%+v", exit)
	}
}

func TestSupervisorTellsWhatTheShellCouldNotRun(t *testing.T) {
	for code, reason := range map[string]string{"127": wire.ExitNotFound, "126": wire.ExitNotExecutable, "1": ""} {
		e := wire.Exit{}
		switch code {
		case "127":
			e.Code = 127
		case "126":
			e.Code = 126
		default:
			e.Code = 1
		}
		s := &supervisor{command: command{shell: true}}
		late := e
		s.explain(&e, time.Second)
		s.explain(&late, time.Minute)
		if e.Reason != reason || late.Reason != "" {
			t.Errorf("%s: reason %q, %q after a minute", code, e.Reason, late.Reason)
		}
	}
}

func TestCommandThatCannotStart(t *testing.T) {
	for name, c := range map[string]struct {
		command command
		reason  string
	}{
		"absent":         {command{path: "/absent", argv: []string{"x"}, dir: "/"}, wire.ExitNotFound},
		"no program":     {command{path: "/etc/passwd", argv: []string{"x"}, dir: "/"}, wire.ExitNotExecutable},
		"too much":       {command{path: "/bin/sh", argv: []string{"x"}, env: []string{"X=" + strings.Repeat("x", 1<<22)}, dir: "/"}, wire.ExitSetup},
		"dir is no more": {command{path: "/bin/sh", argv: []string{"x"}, dir: "/absent"}, wire.ExitNotFound},
	} {
		c.command.account = account{uid: uint32(os.Getuid()), gid: uint32(os.Getgid())}
		_, err := c.command.start(newTestOutbox(1))
		if err == nil || setupExit(err).Reason != c.reason {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What the command wrote before its end is read to its end, however long that
// takes the host and a busy machine; an output that nobody ends is not waited for.
func TestSupervisorReadsOutputsToTheirEnd(t *testing.T) {
	for _, lines := range []int{0, 8} {
		synctest.Test(t, func(t *testing.T) {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			s := &supervisor{out: newTestOutbox(ringBytes)}
			p := &process{readers: []*os.File{r}}
			cut := false
			p.outputs.Go(func() {
				for range lines {
					time.Sleep(drainWait * 2 / 3)
					_, err := r.Stat()
					cut = cut || err != nil
					s.out.line(wire.Stdout, nil, false)
				}
				if lines == 0 {
					time.Sleep(drainWait * 2)
				}
			})
			began := time.Now()
			s.drain(p)
			if took := time.Since(began); cut || lines > 0 && took != time.Duration(lines)*(drainWait*2/3) {
				t.Errorf("%d lines: cut off %v, after %s", lines, cut, took)
			}
			if _, err := r.Stat(); err == nil {
				t.Errorf("%d lines: still open", lines)
			}
		})
	}
}
