package routing_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/routing"
)

func backends(t *rapid.T, min int) []routing.Backend {
	ids := rapid.SliceOfNDistinct(rapid.StringMatching(`ri_[0-9a-z]{4}`), min, 12, rapid.ID[string]).Draw(t, "ids")
	slices.Sort(ids)
	out := make([]routing.Backend, len(ids))
	for i, id := range ids {
		out[i] = routing.Backend{InstanceID: id, Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 8080)}
	}
	return out
}

func TestStickyMovesOnlyTheKeysOfTheBackendThatLeft(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before := backends(t, 2)
		gone := rapid.IntRange(0, len(before)-1).Draw(t, "gone")
		after := slices.Delete(slices.Clone(before), gone, gone+1)
		for range 50 {
			key := routing.Key(rapid.Uint64().Draw(t, "key"))
			was := before[routing.Sticky(key, before, nil)]
			is := after[routing.Sticky(key, after, nil)]
			if was.InstanceID != before[gone].InstanceID && was != is {
				t.Fatalf("key %x moved from %s to %s though %s left", key, was.InstanceID, is.InstanceID, before[gone].InstanceID)
			}
			// Seen from the other side: one joined, and took keys to itself only.
			if is != was && was.InstanceID != before[gone].InstanceID {
				t.Fatalf("key %x moved to %s when %s joined", key, was.InstanceID, before[gone].InstanceID)
			}
			// Not usable for a moment is the same as having left.
			skip := before[routing.Sticky(key, before, func(i int) bool { return i != gone })]
			if skip != is {
				t.Fatalf("key %x: %s skipped gives %s, removed gives %s", key, before[gone].InstanceID, skip.InstanceID, is.InstanceID)
			}
		}
	})
}

func TestStickyDoesNotDependOnOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sorted := backends(t, 1)
		shuffled := rapid.Permutation(sorted).Draw(t, "shuffled")
		key := routing.KeyOf(rapid.String().Draw(t, "value"))
		a, b := sorted[routing.Sticky(key, sorted, nil)], shuffled[routing.Sticky(key, shuffled, nil)]
		if a != b {
			t.Fatalf("sorted picks %s, shuffled %s", a.InstanceID, b.InstanceID)
		}
	})
}

func TestStickySpreadsKeysEvenly(t *testing.T) {
	var pool []routing.Backend
	for i := range 8 {
		pool = append(pool, routing.Backend{InstanceID: fmt.Sprintf("ri_%026d", i)})
	}
	const keys = 80_000
	got := make([]int, len(pool))
	for i := range keys {
		got[routing.Sticky(routing.KeyOf(fmt.Sprintf("10.1.%d.%d", i/256, i%256)), pool, nil)]++
	}
	for i, n := range got {
		if want := keys / len(pool); n < want*9/10 || n > want*11/10 {
			t.Errorf("backend %d holds %d of %d keys, an even share is %d", i, n, keys, want)
		}
	}
}

func TestStickyOfNothing(t *testing.T) {
	if got := routing.Sticky(1, nil, nil); got != -1 {
		t.Errorf("no backends: got %d, want -1", got)
	}
	one := []routing.Backend{{InstanceID: "ri_a"}}
	if got := routing.Sticky(1, one, func(int) bool { return false }); got != -1 {
		t.Errorf("none usable: got %d, want -1", got)
	}
}

func TestSpreadFillsTheUnitInterval(t *testing.T) {
	const n = 10_000
	var tenths [10]int
	for id := range uint64(n) {
		f := routing.Spread(id)
		if f < 0 || f >= 1 {
			t.Fatalf("Spread(%d) = %v", id, f)
		}
		tenths[int(f*10)]++
	}
	for i, got := range tenths {
		if got < n/10*9/10 || got > n/10*11/10 {
			t.Errorf("tenth %d holds %d of %d", i, got, n)
		}
	}
}

func TestPoolEqual(t *testing.T) {
	base := func() routing.Pool {
		return routing.Pool{
			TenantID: "t", DeploymentID: "d", ServiceID: "s", VersionID: "v",
			Sticky: miosa.Sticky{Mode: miosa.StickyCookie, Name: "c"}, Drain: time.Second,
			Backends: []routing.Backend{{InstanceID: "ri_a", Address: netip.MustParseAddrPort("10.0.0.1:80")}},
		}
	}
	if !base().Equal(base()) {
		t.Fatal("a pool does not equal its copy")
	}
	for name, change := range map[string]func(*routing.Pool){
		"tenant":     func(p *routing.Pool) { p.TenantID = "x" },
		"deployment": func(p *routing.Pool) { p.DeploymentID = "x" },
		"service":    func(p *routing.Pool) { p.ServiceID = "x" },
		"version":    func(p *routing.Pool) { p.VersionID = "x" },
		"sticky":     func(p *routing.Pool) { p.Sticky.Mode = miosa.StickyNone },
		"protocol":   func(p *routing.Pool) { p.Protocol = miosa.ProtocolH2C },
		"drain":      func(p *routing.Pool) { p.Drain++ },
		"timeout":    func(p *routing.Pool) { p.ResponseTimeout++ },
		"no backend": func(p *routing.Pool) { p.Backends = nil },
		"address":    func(p *routing.Pool) { p.Backends[0].Address = netip.MustParseAddrPort("10.0.0.1:81") },
	} {
		other := base()
		change(&other)
		if base().Equal(other) || other.Equal(base()) {
			t.Errorf("%s: pools that differ are called equal", name)
		}
	}
}
