package guest_test

import (
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	wire "github.com/miosa/miosa/wire/guest"
)

func TestVMReportsHowTheCommandEnded(t *testing.T) {
	for name, c := range map[string]struct {
		command string
		code    int
		reason  string
		words   string
		oom     bool
	}{
		"exit code":      {command: "/app/app exit 3", code: 3},
		"not found":      {command: "/app/absent", code: 127, reason: wire.ExitNotFound, words: "/app/absent"},
		"not executable": {command: "/app/plain.txt", code: 126, reason: wire.ExitNotExecutable, words: "x permission"},
		"interpreter":    {command: "/app/script", code: 127, reason: wire.ExitNotFound, words: "/usr/bin/python3"},
		"out of memory":  {command: "/app/app oom", code: -1, words: "out of memory", oom: true},
	} {
		t.Run(name, func(t *testing.T) {
			tr := run(t, spec(c.command))
			if tr.exit.Code != c.code || tr.exit.Reason != c.reason || tr.exit.OOM != c.oom || !strings.Contains(tr.exit.Message, c.words) {
				t.Errorf("%+v", *tr.exit)
			}
			if c.words != "" && !strings.Contains(strings.Join(tr.lines, "\n"), "system "+tr.exit.Message) {
				t.Errorf("the message is not in the log: %q", tr.lines)
			}
		})
	}
}

func TestVMRefusesABrokenBoot(t *testing.T) {
	b := spec("/app/app env")
	b.Network.MAC = "52:54:00:ff:ff:ff"
	tr := run(t, b)
	if tr.exit.Reason != wire.ExitSetup || !strings.Contains(tr.exit.Message, "52:54:00:ff:ff:ff") {
		t.Errorf("%+v", *tr.exit)
	}
}

func TestVMListensAndStops(t *testing.T) {
	for name, c := range map[string]struct {
		command string
		hint    string
		code    int
		killed  bool
		output  string
	}{
		"any":        {command: "/app/app serve 0.0.0.0:8080", hint: "any", output: "terminated"},
		"loopback":   {command: "/app/app serve 127.0.0.1:8080", hint: "loopback", output: "terminated"},
		"dual stack": {command: "/app/app serve '[::]:8080'", hint: "any", output: "terminated"},
	} {
		t.Run(name, func(t *testing.T) {
			v := boot(t)
			h, _ := v.dial(wire.NewSession(0))
			defer h.nc.Close()
			var tr transcript
			b := spec(c.command)
			b.Port, b.StatsMS = 8080, 50
			h.send(wire.Message{Boot: &b})
			h.until(&tr, phase("listening"))
			if p, _ := tr.phase("listening"); p.AddrHint != c.hint {
				t.Errorf("listens on %q, want %q", p.AddrHint, c.hint)
			}
			h.until(&tr, func(m wire.Message) bool { return m.Stats != nil })
			if s := tr.stats[0]; s.MemTotal < 50<<20 || s.MemUsed == 0 || s.CPUMS == 0 || s.DiskTotal < 100<<20 {
				t.Errorf("stats %+v", s)
			}
			h.send(wire.Message{Ping: &wire.Ping{Seq: 99}})
			h.until(&tr, func(m wire.Message) bool { return m.Pong != nil && m.Pong.Seq == 99 })
			h.send(wire.Message{Stop: &wire.Stop{Deadline: time.Minute}})
			h.until(&tr, exit)
			h.finish(v)
			if !tr.exit.Stopped || tr.exit.KilledAll || tr.exit.Code != 0 || !strings.Contains(strings.Join(tr.lines, "\n"), c.output) {
				t.Errorf("%+v, %q", *tr.exit, tr.lines)
			}
		})
	}
}

func TestVMKillsTheDeaf(t *testing.T) {
	v := boot(t)
	h, _ := v.dial(wire.NewSession(0))
	defer h.nc.Close()
	var tr transcript
	b := spec("/app/app deaf")
	h.send(wire.Message{Boot: &b})
	h.until(&tr, func(m wire.Message) bool { return m.Lines != nil })
	h.send(wire.Message{Stop: &wire.Stop{Deadline: 100 * time.Millisecond}})
	h.until(&tr, exit)
	h.finish(v)
	if !tr.exit.Stopped || !tr.exit.KilledAll || tr.exit.Signal != "SIGKILL" || tr.exit.OOM {
		t.Errorf("%+v", *tr.exit)
	}
}

func TestVMStopsBeforeItWasBooted(t *testing.T) {
	v := boot(t)
	h, _ := v.dial(wire.NewSession(0))
	defer h.nc.Close()
	var tr transcript
	h.send(wire.Message{Stop: &wire.Stop{}})
	h.until(&tr, exit)
	h.finish(v)
	if !tr.exit.Stopped {
		t.Errorf("%+v", *tr.exit)
	}
}

// The host dies again and again, in the middle of frames, at once or after a
// while: every line arrives once, and so does the exit.
func TestVMLosesNothingWhenTheHostComesAndGoes(t *testing.T) {
	const total = 30_000
	v := boot(t)
	s := wire.NewSession(0)
	var tr transcript
	h, _ := v.dial(s)
	b := spec("/app/app lines " + strconv.Itoa(total))
	h.send(wire.Message{Boot: &b})
	reconnects := 0
	for tr.exit == nil {
		// Take some batches, then die, every other time with half a frame
		// said and without having read what is on the way.
		batches := rand.IntN(8)
		h.until(&tr, func(m wire.Message) bool {
			if m.Lines != nil {
				batches--
			}
			return batches < 0 || m.Exit != nil
		})
		if tr.exit != nil {
			break
		}
		if rand.IntN(2) == 0 {
			if _, err := h.nc.Write([]byte("\xffMGF\x00\x00\x10\x00 half a frame")); err != nil {
				t.Fatal(err)
			}
		}
		_ = h.nc.Close()
		reconnects++
		h, _ = v.dial(s)
	}
	// Gone once more, before it could acknowledge the exit.
	_ = h.nc.Close()
	tr.exit = nil
	h, _ = v.dial(s)
	h.until(&tr, exit)
	h.finish(v)
	_ = h.nc.Close()
	if tr.exit.Code != 0 || tr.exit.LastLine != total || tr.gap != 0 || len(tr.lines) != total {
		t.Fatalf("%d lines, gap %d, exit %+v", len(tr.lines), tr.gap, *tr.exit)
	}
	for i, line := range tr.lines {
		if want := "stdout line " + strconv.Itoa(i+1); line != want {
			t.Fatalf("line %d is %q", i+1, line)
		}
	}
	t.Logf("%d lines over %d connections, %d more went unanswered", total, reconnects+2, v.retries)
}

// While the host is away for long the command goes on; what did not fit into
// the ring is told as a gap.
func TestVMTellsWhatItCouldNotKeep(t *testing.T) {
	const total = 100_000 // more than the ring holds
	v := boot(t)
	s := wire.NewSession(0)
	var tr transcript
	h, _ := v.dial(s)
	b := spec("/app/app lines " + strconv.Itoa(total))
	h.send(wire.Message{Boot: &b})
	h.until(&tr, phase("app_started"))
	_ = h.nc.Close()
	// The command needs nobody to come to its end; the guest then says so.
	for state := ""; state != wire.StateExited; {
		other, hello := v.dial(wire.NewSession(0))
		state = hello.State
		_ = other.nc.Close()
	}
	h, _ = v.dial(s)
	defer h.nc.Close()
	h.until(&tr, exit)
	h.finish(v)
	if tr.exit.LastLine != total || uint64(len(tr.lines))+tr.gap != total || tr.gap == 0 {
		t.Errorf("%d lines and a gap of %d of %d, exit %+v", len(tr.lines), tr.gap, total, *tr.exit)
	}
	if last := tr.lines[len(tr.lines)-1]; last != "stdout line "+strconv.Itoa(total) {
		t.Errorf("the last line is %q", last)
	}
	t.Logf("%d lines lost of %d, %d connections went unanswered", tr.gap, total, v.retries)
}
