package cell_test

import (
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/routing"
)

// A control plane that has just begun does not know which routers there are: one
// that is cut off may send requests to what drains for as long as a router may be
// silent at any other time.
func TestARouterThatWasNotHeardMayHoldWhatDrains(t *testing.T) {
	const drains = "ri_first0"
	s := stageOf(t, cell.Config{RouterWindow: cell.RouterWindow}, func(s *stage) {
		i := s.all[drains]
		i.Goal, i.GoalReason = miosa.GoalDrain, "scaled down"
		s.all[drains], s.service.DesiredReplicas = i, 1
	})
	began := s.now
	for s.all[drains].Goal == miosa.GoalDrain && s.now.Sub(began) < time.Minute {
		s.now = s.now.Add(500 * time.Millisecond)
		// Of two routers one is heard, and holds nothing.
		s.carryOut(s.m.Handle(s.now, cell.Reported{Report: routing.Report{RouterID: "router", Generation: 1 << 40, At: s.now}}))
		s.carryOut(s.m.Handle(s.now, cell.Tick{}))
	}
	if after := s.now.Sub(began); after < cell.RouterTimeout || after > cell.RouterTimeout+time.Second {
		t.Errorf("it is released after %s, by a control plane that gives a router up after %s", after, cell.RouterTimeout)
	}
}
