package guest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	wire "github.com/miosa/miosa/wire/guest"
)

// Checks run beside the app, in its place and with its environment, and say how
// they ended; they never are taken for the app, nor the app for them.
func TestChecks(t *testing.T) {
	checks, stops := make(chan wire.Check), make(chan wire.Stop, 1)
	s := &supervisor{checks: checks, out: newTestOutbox(ringBytes)}
	s.out.attached = true // a host is there to be told
	over := make(chan wire.Exit, 1)
	go func() {
		exit, _ := superviseBy(t, s, `trap 'exit 9' TERM; while :; do sleep 0.01; done`, stops, nothing)
		over <- exit
	}()
	ready := filepath.Join(t.TempDir(), "ready")
	seq := uint64(0)
	ask := func(command string, timeout time.Duration) wire.Checked {
		t.Helper()
		seq++
		checks <- wire.Check{Seq: seq, Command: command, TimeoutMS: timeout.Milliseconds()}
		for {
			s.out.mu.Lock()
			i := len(s.out.small) - 1
			if i >= 0 && s.out.small[i].Checked != nil && s.out.small[i].Checked.Seq == seq {
				done := *s.out.small[i].Checked
				s.out.mu.Unlock()
				return done
			}
			changed := s.out.changed
			s.out.mu.Unlock()
			<-changed
		}
	}
	for _, c := range []struct {
		command string
		timeout time.Duration
		code    int
		said    string
	}{
		{"true", time.Minute, 0, ""},
		{"echo one; echo two >&2; exit 3", time.Minute, 3, "two"},
		{"sh -c 'echo $PATH; exit 1'", time.Minute, 1, defaultPath},
		{"kill -9 $$", time.Minute, 137, ""},
		{"sleep 1000", 50 * time.Millisecond, -1, "too long"},
		{"nothing-of-that-name", time.Minute, -1, "nothing-of-that-name"},
		{"yes | head -c 100000; exit 4", time.Minute, 4, "y"},
		{"(sleep 1000; echo late) & echo gone; exit 5", time.Minute, 5, "gone"},
		{": > " + ready + "; exit 0", time.Minute, 0, ""},
	} {
		if got := ask(c.command, c.timeout); got.Code != c.code || !strings.Contains(got.Said, c.said) {
			t.Errorf("%s: %+v", c.command, got)
		}
	}
	if _, err := os.Stat(ready); err != nil {
		t.Error(err)
	}
	stops <- wire.Stop{Deadline: time.Minute}
	if exit := <-over; !exit.Stopped || exit.KilledAll || exit.Code != 9 && exit.Signal != "SIGTERM" {
		t.Errorf("the app: %+v", exit)
	}
}
