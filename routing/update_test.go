package routing_test

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/miosa/miosa/routing"
)

// drawNext changes a few routes and ports of a table and says how.
func drawNext(t *rapid.T, now routing.Table) routing.Update {
	u := routing.Update{From: now.Generation, Generation: now.Generation + rapid.Int64Range(1, 3).Draw(t, "step"), Routes: map[string]routing.Pool{}, Ports: map[int]routing.Pool{}}
	for n := range 4 {
		name, pool := fmt.Sprint("host-", n), routing.Pool{VersionID: fmt.Sprint("ver_", rapid.IntRange(0, 9).Draw(t, "version"))}
		_, known := now.Routes[name]
		switch what := rapid.IntRange(0, 2).Draw(t, "what"); {
		case what == 0:
			u.Routes[name] = pool
		case what == 1 && known:
			u.GoneRoutes = append(u.GoneRoutes, name)
		}
		_, known = now.Ports[n]
		switch what := rapid.IntRange(0, 2).Draw(t, "what"); {
		case what == 0:
			u.Ports[n] = pool
		case what == 1 && known:
			u.GonePorts = append(u.GonePorts, n)
		}
	}
	return u
}

// A router that gets updates one by one, or some of them merged, or a whole one
// in between, has the table that they were made from.
func TestUpdatesComeToTheTable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		truth := routing.Table{Generation: 1, Routes: map[string]routing.Pool{}, Ports: map[int]routing.Pool{}}
		var router routing.Table
		if !router.Apply(truth.Whole()) {
			t.Fatal("a whole update is refused")
		}
		var waiting []routing.Update
		for range rapid.IntRange(1, 12).Draw(t, "updates") {
			u := drawNext(t, truth)
			if !truth.Apply(u) {
				t.Fatal("the next update is refused")
			}
			if waiting = append(waiting, u); rapid.IntRange(0, 5).Draw(t, "whole") == 0 {
				waiting = append(waiting, truth.Whole())
			}
			if rapid.Bool().Draw(t, "deliver") {
				if u := routing.Merge(waiting); !router.Apply(u) {
					t.Fatalf("refused: %+v at %d", u, router.Generation)
				}
				waiting = nil
				if router.Generation != truth.Generation || !routing.SameRoutes(router, truth) {
					t.Fatalf("%+v, should be %+v", router, truth)
				}
			}
		}
		if len(waiting) > 0 && !waiting[0].Whole {
			behind := routing.Table{Generation: waiting[0].From - 1, Routes: map[string]routing.Pool{"kept": {}}}
			if behind.Apply(waiting[0]) || behind.Generation != waiting[0].From-1 || len(behind.Routes) != 1 {
				t.Fatal("a gap is not seen")
			}
		}
	})
}
