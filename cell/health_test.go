package cell_test

import (
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/health"
)

// until lets time pass: the machine is woken when it asks for it.
func (s *stage) until(d time.Duration) {
	for end := s.now.Add(d); s.now.Before(end); {
		next := s.m.Wake()
		if next.IsZero() || next.After(end) {
			next = end
		}
		if !next.After(s.now) {
			next = s.now.Add(time.Millisecond)
		}
		s.now = next
		s.carryOut(s.m.Handle(s.now, cell.Tick{}))
	}
}

// toldHealth are the messages of the events of the environment's health.
func (s *stage) toldHealth() (out []string) {
	for _, e := range s.events {
		if e.Type == "deployment.health_changed" {
			out = append(out, e.Message)
			if e.DeploymentID != deployment || e.VersionID != "ver_1" || e.Details["environment"] != miosa.Production || !strings.Contains(e.Message, " is "+e.Details["health"]) || e.Details["was"] == e.Details["health"] {
				s.t.Errorf("%+v", e)
			}
		}
	}
	return out
}

// A live version whose instances crash is told of once that lasts, and once
// more when it is well again for long enough.
func TestACrashLoopIsToldOf(t *testing.T) {
	s := newStage(t)
	s.until(time.Hour)
	if told := s.toldHealth(); len(told) > 0 {
		t.Errorf("well all the time, and yet %q", told)
	}
	crash := func(id string, n int) {
		o := s.observed(id, miosa.Pending, miosa.Failure{Kind: miosa.FailureExit, Message: "the command exited with status 3", At: s.now})
		o.Failures, o.RestartCount, o.NextRestartAt = n, n, s.now.Add(time.Second)
		s.put(o)
	}
	again := func(id string, n int) {
		o := s.healthy(id)
		o.Failures, o.RestartCount, o.HealthyAt, o.Failure.Message = n, n, s.now, "the command exited with status 3"
		s.put(o)
	}
	crash("ri_first0", 1)
	s.until(health.WorseAfter / 2)
	again("ri_first0", 1)
	s.until(time.Hour)
	if told := s.toldHealth(); len(told) > 0 {
		t.Errorf("it was over at once, and yet %q", told)
	}
	for n := 1; n < 6; n++ {
		crash("ri_first0", n)
		s.until(3 * time.Second)
		again("ri_first0", n)
		s.until(4 * time.Second)
	}
	if told := s.toldHealth(); len(told) != 1 || !strings.HasPrefix(told[0], "production is degraded: web 0 ") || !strings.Contains(told[0], "the command exited with status 3") {
		t.Errorf("told %q", told)
	}
	// The state stays as the contract has it.
	crash("ri_first0", 6)
	crash("ri_first1", 1)
	s.until(time.Minute)
	if told := s.toldHealth(); len(told) != 2 || !strings.HasPrefix(told[1], "production is down: web 0 waits for its next boot after 6 restarts: the command exited") {
		t.Errorf("told %q", told)
	}
	again("ri_first0", 6)
	again("ri_first1", 1)
	s.until(time.Hour)
	told := s.toldHealth()
	if len(told) != 4 || !strings.HasPrefix(told[2], "production is degraded: ") || told[3] != "production is ok" {
		t.Errorf("told %q", told)
	}
}
