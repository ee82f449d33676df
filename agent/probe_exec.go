package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/wire/guest"
)

// execution is a command to be run in the guest, beside the app.
type execution struct {
	command string
	until   time.Time
	ended   chan<- guest.Checked
}

// execute runs a health check's command in the guest.
func (b *boot) execute(ctx context.Context, check miosa.HealthCheck) (detail string, err error) {
	ended := make(chan guest.Checked, 1)
	select {
	case b.checks <- execution{command: check.Command, until: time.Now().Add(check.Timeout), ended: ended}:
	case <-ctx.Done():
		return "", ctx.Err()
	}
	select {
	case c := <-ended:
		said := clip(c.Said, guest.MaxSaid)
		switch {
		case c.Code == 0:
			return "exited with code 0", nil
		case c.Code < 0:
			return "", probeFailure("the command did not run to its end: " + said)
		case said == "":
			return "", probeFailure(fmt.Sprintf("exited with code %d", c.Code))
		}
		return "", probeFailure(fmt.Sprintf("exited with code %d: %s", c.Code, said))
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// maxChecks bounds how many executions a guest may leave unanswered.
const maxChecks = 16

// execute asks the guest.
func (s *session) execute(e execution) error {
	now := time.Now()
	for seq, old := range s.checks {
		if now.After(old.until) {
			delete(s.checks, seq)
		}
	}
	if len(s.checks) >= maxChecks {
		return nil
	}
	if s.checks == nil {
		s.checks = map[uint64]execution{}
	}
	s.checked++
	s.checks[s.checked] = e
	return s.write(guest.Message{Check: &guest.Check{Seq: s.checked, Command: e.command, TimeoutMS: time.Until(e.until).Milliseconds()}})
}

// executed hands on the guest's answer. Nobody waits for one that is late, or
// was never asked for.
func (s *session) executed(c *guest.Checked) {
	if e, ok := s.checks[c.Seq]; ok {
		delete(s.checks, c.Seq)
		e.ended <- *c
	}
}
