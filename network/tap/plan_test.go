package tap

import (
	"fmt"
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

func TestNamesAndAddresses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.Uint32().Draw(t, "cell")
		p, err := newPlan(fmt.Sprintf("%08x", id))
		if err != nil {
			t.Fatal(err)
		}
		pools := []netip.Prefix{netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("172.16.0.0/12")}
		blocks := p.blocks(pools)
		if len(blocks) != 256+64 {
			t.Fatalf("%d blocks", len(blocks))
		}
		seen := make(map[netip.Prefix]bool)
		for i, b := range blocks {
			pool := pools[0]
			if i >= 256 {
				pool = pools[1]
			}
			if b != b.Masked() || seen[b] || !pool.Contains(b.Addr()) {
				t.Fatalf("block %s is not a block of %s of its own", b, pool)
			}
			seen[b] = true
		}

		p.block = rapid.SampledFrom(blocks).Draw(t, "block")
		index := rapid.IntRange(0, maxIndex-1).Draw(t, "index")
		name := p.link(index)
		if len(name) > 15 {
			t.Fatalf("name %s is too long for a link", name)
		}
		if back, ok := p.index(name); !ok || back != index {
			t.Fatalf("%s reads back as %d, %t", name, back, ok)
		}
		for _, other := range []string{name + "x", p.prefix(), p.prefix() + "007", p.prefix() + "-1", "mi" + "ffffffff-0", "eth0"} {
			if back, ok := p.index(other); ok && other != name && other != fmt.Sprintf("%s%d", p.prefix(), back) {
				t.Fatalf("%s reads as index %d", other, back)
			}
		}
		network := netip.PrefixFrom(p.at(index, 0), 30)
		if network != network.Masked() || !p.block.Contains(p.guest(index)) ||
			!network.Contains(p.guest(index)) || !network.Contains(p.gateway(index)) {
			t.Fatalf("index %d: guest %s, gateway %s in %s", index, p.guest(index), p.gateway(index), network)
		}
		if other := rapid.IntRange(0, maxIndex-1).Draw(t, "other"); other != index {
			if network.Contains(p.guest(other)) {
				t.Fatalf("indices %d and %d share a network", index, other)
			}
		}
	})
}

func TestChooseStepsAroundWhatIsTaken(t *testing.T) {
	prefixes := func(words ...string) (ps []netip.Prefix) {
		for _, w := range words {
			ps = append(ps, netip.MustParsePrefix(w))
		}
		return ps
	}
	blocks := prefixes("100.64.0.0/18", "100.64.64.0/18", "172.16.0.0/18")
	for _, c := range []struct {
		taken []netip.Prefix
		want  string
	}{
		{nil, "100.64.0.0/18"},
		{prefixes("0.0.0.0/0"), "100.64.0.0/18"}, // a default route takes nothing
		{prefixes("100.64.1.0/24"), "100.64.64.0/18"},
		{prefixes("100.64.0.0/10"), "172.16.0.0/18"},
		{prefixes("100.64.0.0/10", "172.16.3.4/32"), ""},
	} {
		got, ok := choose(blocks, c.taken)
		if ok != (c.want != "") || ok && got.String() != c.want {
			t.Errorf("with %v taken: %s, want %s", c.taken, got, c.want)
		}
	}
}

func TestNameservers(t *testing.T) {
	got := parseNameservers("# x\nsearch a.b\nnameserver 127.0.0.53\nnameserver fd00::1\nnameserver 10.0.0.2\n nameserver\t10.0.0.3 # c\nnameserver 1.2.3.4\nnameserver 5.6.7.8\n")
	if fmt.Sprint(got) != "[10.0.0.2 10.0.0.3 1.2.3.4]" {
		t.Errorf("nameservers are %v", got)
	}
}
