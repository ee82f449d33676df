package cli_test

import (
	"strings"
	"testing"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/store"
)

// TestWhatCrashLoopsIsSeen where people look: the state stays as it is.
func TestWhatCrashLoopsIsSeen(t *testing.T) {
	s := newShell(t)
	s.prints("publish", s.file("a.tar"), "--name", "well", "--run", "/app/server")
	s.prints("publish", s.file("a.tar"), "--name", "shop", "--run", "/app/server", "--replicas", "2")
	s.settle()
	const why = "the command exited with status 3"
	set := func(state miosa.InstanceState, slots ...int) {
		t.Helper()
		dep, err := s.client().Deployment(t.Context(), "shop")
		if err != nil {
			t.Fatal(err)
		}
		for i, err := range s.client().Instances(t.Context(), dep.ID) {
			if err != nil {
				t.Fatal(err)
			}
			for _, slot := range slots {
				if i.Slot != slot {
					continue
				}
				s.p.Update(func(tx *store.Tx) error {
					o, err := store.Load(tx, store.Observations, store.ObservationKey(i.TenantID, i.DeploymentID, i.ID))
					if err != nil {
						return err
					}
					o.State, o.RestartCount, o.Failure.Message = state, 4, why
					return store.Save(tx, store.Observations, o)
				})
			}
		}
	}
	set(miosa.Starting, 1)
	for command, wants := range map[string][]string{
		"deployments ls":       {"running  degraded", "well        running  ok", "shop is degraded: web 1 is starting after 4 restarts: " + why + ". See: miosa why shop"},
		"deployments get shop": {"state       running\n", "health      degraded\n", "  because: web 1 is starting after 4 restarts: " + why},
		"ps":                   {"shop is degraded: web 1"},
		"ps shop":              {"shop is degraded: web 1"},
		"why shop":             {"shop serves version 1 in production. It is degraded.", "• web 1 is starting after 4 restarts: " + why},
	} {
		out := s.prints(strings.Fields(command)...)
		for _, want := range wants {
			if !strings.Contains(out, want) {
				t.Errorf("%s says\n%s, not %q", command, out, want)
			}
		}
		if strings.Contains(out, "well is") {
			t.Errorf("%s speaks of what is well:\n%s", command, out)
		}
	}
	if out := s.prints("ps", "well"); strings.Contains(out, "degraded") {
		t.Error(out)
	}
	for e, err := range s.client().Environments(t.Context(), "shop") {
		if err != nil {
			t.Fatal(err)
		}
		if live := e.Name == miosa.Production; live != (e.Health != nil) || live && (*e.Health != "degraded" || len(e.Reasons) != 1) {
			t.Errorf("%+v", e)
		}
	}
	// When all have failed for good there is nothing to list, and that is said.
	set(miosa.Failed, 0, 1)
	if out := s.prints("ps", "shop"); !strings.HasPrefix(out, "No instances.\nshop is down: web 0 failed for good after 4 restarts: "+why+" (and 1 more)") {
		t.Error(out)
	}
	if out := s.prints("deployments", "get", "shop"); !strings.Contains(out, "running") || !strings.Contains(out, "health      down") {
		t.Error(out)
	}
}
