package cli_test

import (
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/store"
)

const oneID, twoID = "host_00000000000000000000000001", "host_00000000000000000000000002"

// hosts are two: one is alive, and two is silent.
func (s *shell) hosts() {
	s.t.Helper()
	s.p.Update(func(tx *store.Tx) error {
		for id, h := range map[string]miosa.Host{
			oneID: {Name: "one", Liveness: miosa.Alive},
			twoID: {Name: "two", Liveness: miosa.Suspect, Reasons: []string{"it has not been heard of for 12 s"}},
		} {
			h.ID, h.Region, h.Zone, h.Schedulable, h.Version = id, "eu", "a", true, "0.9.0"
			if err := store.Save(tx, store.Hosts, h); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *shell) host(id string, edit func(h *miosa.Host)) {
	s.p.Update(func(tx *store.Tx) error {
		h, err := store.Load(tx, store.Hosts, store.HostKey(id))
		if err != nil {
			return err
		}
		edit(&h)
		return store.Save(tx, store.Hosts, h)
	})
}

func TestHosts(t *testing.T) {
	s := newShell(t)
	s.hosts()
	if out := s.says(0, "hosts"); !strings.Contains(out, "two") || !strings.Contains(out, "suspect") || !strings.Contains(out, "it has not been heard of for 12 s") {
		t.Errorf("%s", out)
	}
	if out := s.says(3, "hosts", "show", "three"); !strings.Contains(out, "miosa hosts") {
		t.Errorf("%s", out)
	}
	s.says(2, "hosts", "drain")
	s.says(2, "hosts", "drain", "one", "--deadline", "1500ms")
	if out := s.says(0, "hosts", "cordon", "one"); !strings.Contains(out, "no more instances") {
		t.Errorf("%s", out)
	}
	if out := s.says(0, "hosts", "ls"); !strings.Contains(out, "cordoned") {
		t.Errorf("%s", out)
	}
	if out := s.says(0, "hosts", "uncordon", oneID); !strings.Contains(out, "again") {
		t.Errorf("%s", out)
	}
	if out := s.says(1, "hosts", "rm", "one"); !strings.Contains(out, "stop its agent") {
		t.Errorf("%s", out)
	}
	if out := s.says(1, "hosts", "rm", "two"); !strings.Contains(out, "wait until it is lost") {
		t.Errorf("%s", out)
	}
	s.says(0, "hosts", "lost", "two")
	if out := s.says(0, "hosts", "show", "two"); !strings.Contains(out, "is lost") || !strings.Contains(out, "an operator says so") {
		t.Errorf("%s", out)
	}
	s.says(0, "hosts", "rm", "two")
	s.says(3, "hosts", "show", "two")
}

func TestFollowADrain(t *testing.T) {
	s := newShell(t)
	s.hosts()
	// What control makes of it, once it is asked for.
	control := func(edit func(d *miosa.HostDrain)) {
		go func() {
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for asked := false; !asked; <-tick.C {
				s.host(oneID, func(h *miosa.Host) {
					if asked = h.Draining(); asked {
						edit(&h.Drain)
						h.Drain.ReportedAt = time.Now()
					}
				})
			}
		}()
	}
	control(func(d *miosa.HostDrain) {
		d.Total, d.Progress, d.DoneAt = 2, "one is drained", time.Now()
	})
	if out := s.says(0, "hosts", "drain", "one"); !strings.Contains(out, "one is drained.") {
		t.Errorf("%s", out)
	}
	s.says(0, "hosts", "uncordon", "one")
	control(func(d *miosa.HostDrain) {
		d.Total, d.Left, d.Progress, d.LateAt = 2, 1, "web 0 waits for room", time.Now()
	})
	if out := s.says(1, "hosts", "drain", "one", "--deadline", "1s"); !strings.Contains(out, "not drained by its deadline") || !strings.Contains(out, "web 0 waits for room") {
		t.Errorf("%s", out)
	}
	if out := s.says(0, "hosts", "show", "one"); !strings.Contains(out, "late") || !strings.Contains(out, "web 0 waits for room") {
		t.Errorf("%s", out)
	}
	// By force, and at once: no deadline.
	if out := s.says(0, "hosts", "drain", "one", "--force", "--detach", "--json"); !strings.Contains(out, `"deadline": null`) || !strings.Contains(out, `"force": true`) {
		t.Errorf("%s", out)
	}
}
