package balance_test

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/miosa/miosa/balance"
	"github.com/miosa/miosa/routing"
)

func drawPool(t *rapid.T) ([]routing.Backend, []balance.Standing) {
	var pool []routing.Backend
	var standing []balance.Standing
	for i := range rapid.IntRange(0, 6).Draw(t, "backends") {
		pool = append(pool, routing.Backend{InstanceID: "ri_" + string(rune('a'+i))})
		standing = append(standing, balance.Standing(rapid.IntRange(0, 2).Draw(t, "standing")))
	}
	return pool, standing
}

// Whoever may have a request has it: a usable backend where there is one, else one
// that was sidelined, and never one that the request has tried.
func TestPickFindsSomebody(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pool, standing := drawPool(t)
		tie := balance.Tie{At: -1}
		if tie.Tied = rapid.Bool().Draw(t, "tied"); tie.Tied {
			tie.Key = routing.Key(rapid.Uint64().Draw(t, "key"))
			tie.At = rapid.IntRange(-1, len(pool)-1).Draw(t, "cookie")
		}
		i, returned := balance.Pick(pool, tie, rapid.Uint64().Draw(t, "turn"), func(i int) balance.Standing { return standing[i] })
		best := balance.Tried
		if len(standing) > 0 {
			best = slices.Min(standing)
		}
		switch {
		case i < 0 && best != balance.Tried:
			t.Fatalf("nobody of %v", standing)
		case i < 0:
			return
		case standing[i] != best:
			t.Fatalf("%d of %v", i, standing)
		case returned != (best == balance.Sidelined):
			t.Fatalf("of %v, returned: %t", standing, returned)
		case tie.At >= 0 && standing[tie.At] == best && i != tie.At:
			t.Fatalf("%d of %v, and the cookie names %d", i, standing, tie.At)
		}
	})
}

// A full round of turns brings each usable backend as many requests as any other,
// where one is passed over as where none is.
func TestPickInTurn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pool, standing := drawPool(t)
		usable := 0
		for _, s := range standing {
			if s == balance.Usable {
				usable++
			}
		}
		if usable == 0 {
			return
		}
		got := make([]int, len(pool))
		rounds := uint64(len(pool) * usable)
		first := uint64(rapid.IntRange(0, 1<<20).Draw(t, "first")) * rounds
		for turn := range rounds {
			i, _ := balance.Pick(pool, balance.Tie{}, first+turn, func(i int) balance.Standing { return standing[i] })
			got[i]++
		}
		for i, s := range standing {
			if s == balance.Usable && got[i] != len(pool) {
				t.Fatalf("%v of %d requests by %v", got, rounds, standing)
			}
		}
	})
}

func TestSideline(t *testing.T) {
	if got := balance.Sideline(1); got != 100*time.Millisecond {
		t.Errorf("after the first failure %v", got)
	}
	last := time.Duration(0)
	for n := range 1000 {
		got := balance.Sideline(n + 1)
		if got < last || got > 5*time.Second {
			t.Fatalf("%v after %d failures, %v after one fewer", got, n+1, last)
		}
		last = got
	}
	if last != 5*time.Second {
		t.Errorf("at the longest %v", last)
	}
}

// BenchmarkPick is what the choice costs a request.
func BenchmarkPick(b *testing.B) {
	pool := make([]routing.Backend, 10)
	for i := range pool {
		pool[i].InstanceID = "ri_" + string(rune('a'+i))
	}
	for name, tie := range map[string]balance.Tie{"in turn": {}, "tied": {Tied: true, Key: 7, At: -1}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			turn := uint64(0)
			for b.Loop() {
				turn++
				balance.Pick(pool, tie, turn, func(i int) balance.Standing {
					if i == int(turn%16) {
						return balance.Sidelined
					}
					return balance.Usable
				})
			}
		})
	}
}
