package balance_test

import (
	"testing"
	"time"

	"github.com/miosa/miosa/balance"
	"github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/routing"
)

// What control waits for and what routers do is one contract: a router on which
// nothing happens is heard of within the time in which a new control plane takes
// unknown ones to exist, and is given up only when it has missed several reports.
func TestReportsComeAsOftenAsControlExpects(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	m := balance.NewMachine("router-1")
	reported, longest := time.Time{}, time.Duration(0)
	feed := func(ev balance.Event) {
		for events := []balance.Event{ev}; len(events) > 0; events = events[1:] {
			for _, effect := range m.Handle(now, events[0]) {
				switch effect.(type) {
				case balance.Count:
					events = append(events, balance.Counted{})
				case balance.Report:
					if !reported.IsZero() {
						longest = max(longest, now.Sub(reported))
					}
					reported = now
				}
			}
		}
	}
	feed(balance.Updated{Update: routing.Table{Generation: 1}.Whole()})
	for end := now.Add(10 * time.Minute); now.Before(end); {
		at := m.Wake()
		if at.IsZero() {
			t.Fatal("it never wakes again, so never reports again")
		}
		now = at
		feed(balance.Tick{})
	}
	if longest > routing.ReportEvery {
		t.Errorf("it is silent for %v, and the contract is %v", longest, routing.ReportEvery)
	}
	if late := time.Second; longest+late > cell.RouterWindow {
		t.Errorf("it is silent for %v; control knows all routers after %v", longest, cell.RouterWindow)
	}
	if missed := cell.RouterTimeout / longest; missed < 3 {
		t.Errorf("it is silent for %v, and given up after %v: %d reports", longest, cell.RouterTimeout, missed)
	}
}
