package tap

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/miosa/miosa/network"
)

func TestDivide(t *testing.T) {
	want := shares{
		each:       bound{4096, 1024, 2048},
		guaranteed: bound{9, 2, 4},
		common:     bound{34816, 26112, 8704},
		parts:      136, part: 256,
	}
	if got := divide(262144, 4096); got != want {
		t.Fatalf("of the usual table: %+v, want %+v", got, want)
	}
	rapid.Check(t, func(t *rapid.T) {
		table := rapid.IntRange(64, 1<<24).Draw(t, "table")
		connections := rapid.IntRange(1, 1<<16).Draw(t, "connections")
		s := divide(table, connections)
		if all := s.guaranteed.entries()*maxIndex + s.common.entries(); all > table/2 || s.parts*s.part > s.common.open {
			t.Fatalf("%+v: guests have %d of %d entries", s, all, table)
		}
		if s.each.open > connections || s.each.open < 1 || s.each.open > table/64 || s.parts > maxParts || s.part < 1 {
			t.Fatalf("%+v", s)
		}
		for _, b := range []bound{s.each, s.common} {
			if b.rate < 1 || b.burst < 1 {
				t.Fatalf("%+v opens nothing", s)
			}
		}
	})
}

// attacker is a guest that writes frames itself. A frame has gone through the
// host's rules when the write returns.
type attacker struct {
	t    testing.TB
	tap  *os.File
	to   net.HardwareAddr
	from netip.Addr
}

func (ns *namespace) attacker(a network.Attachment) *attacker {
	ns.t.Helper()
	x := &attacker{t: ns.t, from: a.NIC.Guest.Addr()}
	ns.must(func() (err error) {
		if x.tap, err = openTap(a.NIC.Tap); err != nil {
			return err
		}
		link, err := netlink.LinkByName(a.NIC.Tap)
		if err == nil {
			x.to = link.Attrs().HardwareAddr
		}
		return err
	})
	ns.t.Cleanup(func() { x.tap.Close() })
	ns.routed(x.from)
	return x
}

// routed waits until the host routes by a tap that was just plugged in.
func (ns *namespace) routed(to netip.Addr) {
	ns.t.Helper()
	ns.must(func() error {
		for began := time.Now(); ; {
			routes, err := netlink.RouteGet(to.AsSlice())
			if err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_UNICAST && routes[0].Gw == nil {
				return nil
			}
			if time.Since(began) > 30*time.Second {
				return fmt.Errorf("no route to %s: %w", to, err)
			}
		}
	})
}

// packet is an IPv4 frame; flags matter to TCP alone.
func (x *attacker) packet(protocol byte, to netip.Addr, port, toPort uint16, flags byte) []byte {
	var l4 []byte
	switch protocol {
	case unix.IPPROTO_TCP:
		l4 = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, port), toPort)
		const rst = 4
		sequence := 1 + flags&rst/rst // a reset follows upon a SYN
		l4 = append(l4, 0, 0, 0, sequence, 0, 0, 0, 0, 5<<4, flags, 0xff, 0xff, 0, 0, 0, 0)
	case unix.IPPROTO_UDP:
		l4 = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, port), toPort)
		l4 = append(l4, 0, 9, 0, 0, 'x')
	case unix.IPPROTO_ICMP:
		l4 = []byte{8, 0, 0, 0, byte(port >> 8), byte(port), 0, 1}
		binary.BigEndian.PutUint16(l4[2:], checksum(l4))
	}
	src, dst := x.from.As4(), to.As4()
	ip := []byte{0x45, 0, 0, byte(20 + len(l4)), 0, 0, 0x40, 0, 64, protocol, 0, 0}
	ip = append(append(ip, src[:]...), dst[:]...)
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	if protocol == unix.IPPROTO_TCP { // UDP's may be left out
		pseudo := append(append(append([]byte{}, src[:]...), dst[:]...), 0, protocol, 0, byte(len(l4)))
		binary.BigEndian.PutUint16(l4[16:], checksum(append(pseudo, l4...)))
	}
	frame := append(append(append([]byte{}, x.to...), guestMAC...), 8, 0)
	return append(append(frame, ip...), l4...)
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func (x *attacker) send(frame []byte) {
	x.t.Helper()
	if _, err := x.tap.Write(frame); err != nil {
		x.t.Fatal(err)
	}
}

// flood opens as many connections as it says, each from another port.
func (x *attacker) flood(protocol byte, to string, toPort uint16, count int) {
	x.t.Helper()
	for i := range count {
		x.send(x.packet(protocol, netip.MustParseAddr(to), uint16(1024+i), toPort, 2)) // SYN
	}
}

// entries is how much of the host's connection table is in use.
func (ns *namespace) entries() (count int) {
	ns.t.Helper()
	ns.must(func() error {
		b, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
		if err == nil {
			count, err = strconv.Atoi(strings.TrimSpace(string(b)))
		}
		return err
	})
	return count
}

// flooded goes on until the table has that many entries: how fast a guest may
// open them is limited, too.
func (ns *namespace) flooded(entries int, flood func(round int)) {
	ns.t.Helper()
	began := time.Now()
	for round := 0; ns.entries() < entries; round++ {
		if time.Since(began) > time.Minute {
			ns.t.Fatalf("the table has %d entries after a minute, want %d", ns.entries(), entries)
		}
		flood(round)
	}
}

// Whatever it talks to, a guest is bounded: its name servers, what it is
// allowed besides, the host itself and the world.
func TestFloodsAreBounded(t *testing.T) {
	host, world := newNamespace(t), newNamespace(t)
	joinWorld(host, world)
	const limit, flood = 2000, 30_000
	for _, x := range []struct {
		name     string
		protocol byte
		to       string
		port     uint16
	}{
		{"lookups", unix.IPPROTO_UDP, "10.9.9.9", 53},
		{"lookups by TCP", unix.IPPROTO_TCP, "10.9.9.9", 53},
		{"lookups at the host", unix.IPPROTO_UDP, "198.51.100.1", 53},
		{"lookups at strangers", unix.IPPROTO_UDP, "198.51.100.2", 53},
		{"an allowed database", unix.IPPROTO_TCP, "10.5.5.5", 5432},
		{"everything allowed at an address", unix.IPPROTO_UDP, "10.6.6.6", 1},
		{"the world by TCP", unix.IPPROTO_TCP, "203.0.113.9", 443},
		{"the world by UDP", unix.IPPROTO_UDP, "198.51.100.2", 443},
		{"the world by ICMP", unix.IPPROTO_ICMP, "198.51.100.2", 0},
	} {
		t.Run(x.name, func(t *testing.T) {
			n := open(t, Config{
				Connections: limit,
				Nameservers: []netip.Addr{netip.MustParseAddr("10.9.9.9"), netip.MustParseAddr("198.51.100.1")},
				Allow:       []Allow{{To: netip.MustParsePrefix("10.5.5.5/32"), Port: 5432}, {To: netip.MustParsePrefix("10.6.6.6/32")}},
			})
			a := host.attach(n, "ri_a", 80, 0)
			defer host.must(func() error { return n.Detach(t.Context(), "ri_a") })
			began := time.Now()
			before := host.entries()
			host.attacker(a).flood(x.protocol, x.to, x.port, flood)
			made := host.entries() - before
			t.Logf("%d frames in %v made %d entries", flood, time.Since(began).Round(time.Millisecond), made)
			if made > limit || made < 1 {
				t.Errorf("%d entries, want at most %d", made, limit)
			}
			if perSecond := int(time.Since(began)/time.Second) + 1; x.port == namesPort && made > namesBurst+namesRate*perSecond {
				t.Errorf("%d entries of lookups within %d s", made, perSecond)
			}
		})
	}
}

// The kernel does not count what is closed, but keeps it.
func TestOpeningAndClosingIsBounded(t *testing.T) {
	host, world := newNamespace(t), newNamespace(t)
	joinWorld(host, world)
	n := open(t, Config{Connections: 200})
	x := host.attacker(host.attach(n, "ri_a", 80, 0))
	world.listen("198.51.100.2:443")
	to := netip.MustParseAddr("198.51.100.2")
	before, began := host.entries(), time.Now()
	const flood = 30_000
	for i := range flood {
		syn, rst := x.packet(unix.IPPROTO_TCP, to, uint16(1024+i), 443, 2), x.packet(unix.IPPROTO_TCP, to, uint16(1024+i), 443, 4)
		x.send(syn)
		x.send(rst)
	}
	made := host.entries() - before
	t.Logf("%d connections, each closed at once, in %v: %d entries", flood, time.Since(began).Round(time.Millisecond), made)
	// The kernel takes what has lingered out when it comes by.
	b := n.shares.each
	if most := b.open + b.burst + b.rate*(int(time.Since(began)/time.Second)+1); made > most || made < 1 {
		t.Errorf("%d entries, want at most %d", made, most)
	}
}

// What is not let in leaves nothing in the table.
func TestRefusedPacketsMakeNoEntries(t *testing.T) {
	host, world := newNamespace(t), newNamespace(t)
	joinWorld(host, world)
	n := open(t, Config{})
	a, b := host.attach(n, "ri_a", 80, 0), host.attach(n, "ri_b", 80, 0)
	x := host.attacker(a)
	host.attacker(b)
	before := host.entries()
	for _, to := range []string{"10.1.2.3", "169.254.169.254", a.NIC.Gateway.String(), "198.51.100.1", b.Address.Addr().String(), "224.0.0.1", "255.255.255.255"} {
		for _, protocol := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP} {
			x.flood(protocol, to, 80, 100)
		}
	}
	x.from = b.Address.Addr()
	x.flood(unix.IPPROTO_UDP, "198.51.100.2", 80, 100)
	if after := host.entries(); after != before {
		t.Errorf("refused packets made %d entries", after-before)
	}
}

// A guest's lookups leave room for its other connections, and a flood of any
// kind leaves other guests alone.
func TestLookupsLeaveRoom(t *testing.T) {
	host, world := newNamespace(t), newNamespace(t)
	joinWorld(host, world)
	world.listen("198.51.100.2:80")
	n := open(t, Config{Nameservers: []netip.Addr{netip.MustParseAddr("198.51.100.2")}})
	a, b := host.attach(n, "ri_a", 80, 0), host.attach(n, "ri_b", 80, 0)
	host.attacker(a).flood(unix.IPPROTO_UDP, "198.51.100.2", 53, 10_000)
	host.attacker(b).flood(unix.IPPROTO_UDP, "198.51.100.2", 443, 10_000)
	c := host.guest(host.attach(n, "ri_c", 80, 0))
	c.wantReach("198.51.100.2:80")
}

func TestGuestsTogetherAreBounded(t *testing.T) {
	host, world := newNamespace(t), newNamespace(t)
	joinWorld(host, world)
	world.listen("198.51.100.2:80")
	const table, guests = 65536, 40
	n := open(t, Config{Table: table})
	last := host.attach(n, "ri_last", 80, 0)
	before := host.entries()
	var attackers []*attacker
	for i := range guests {
		attackers = append(attackers, host.attacker(host.attach(n, fmt.Sprintf("ri_%d", i), 80, 0)))
	}
	s := n.shares
	most := s.parts*s.part + guests*s.guaranteed.open
	// In a flood, some of what was just refused is still counted.
	host.flooded(before+most*3/4, func(round int) {
		for _, x := range attackers {
			x.flood(unix.IPPROTO_UDP, "198.51.100.2", uint16(443+round), 600)
		}
	})
	for _, x := range attackers {
		x.flood(unix.IPPROTO_UDP, "198.51.100.2", 442, 600)
	}
	made := host.entries() - before
	t.Logf("%d guests with %d each made %d entries of a table of %d (%+v)", guests, s.each.open, made, table, s)
	if made > most || guests*s.each.open < most {
		t.Errorf("%d entries, want at most %d", made, most)
	}
	// Who had nothing yet has what is guaranteed, and the router is not counted.
	g := host.guest(last)
	g.wantReach("198.51.100.2:80")
	g.listen(":80")
	for range 50 {
		host.wantReach(last.Address.String())
	}
}

// Neither a restart of the agent nor a rebuild of its rules forgets what is open.
func TestRestartsKeepCounting(t *testing.T) {
	host, world := newNamespace(t), newNamespace(t)
	joinWorld(host, world)
	first := open(t, Config{Connections: 100})
	x := host.attacker(host.attach(first, "ri_a", 80, 0))
	flood := func(port uint16) func(int) {
		return func(int) { x.flood(unix.IPPROTO_UDP, "198.51.100.2", port, 200) }
	}
	full := host.entries() + 100
	host.flooded(full, flood(443))
	again := func(n *Network) {
		host.must(func() error { return n.Reclaim(t.Context(), func(string) bool { return true }) })
	}
	second := open(t, Config{Connections: 100})
	again(second)
	for port := range uint16(20) {
		flood(500 + port)(0)
	}
	if after := host.entries(); after > full {
		t.Errorf("after a restart a guest at its limit opened %d more", after-full)
	}
	// Another limit counts from the start; nothing of the old one is left.
	third := open(t, Config{Connections: 50})
	again(third)
	host.flooded(full+50, flood(445))
	host.must(func() error { return third.Detach(t.Context(), "ri_a") })
	host.must(func() error { return third.Close(t.Context()) })
	if host.tables() != 0 {
		t.Error("a table is left")
	}
}

// A guest that is gone leaves nothing behind, or each publish would add to the
// table for as long as an established connection is remembered.
func TestDetachForgetsConnections(t *testing.T) {
	host, world := newNamespace(t), newNamespace(t)
	joinWorld(host, world)
	n := open(t, Config{})
	x := host.attacker(host.attach(n, "ri_a", 80, 0))
	before := host.entries()
	x.flood(unix.IPPROTO_UDP, "198.51.100.2", 443, 500)
	if made := host.entries() - before; made != 500 {
		t.Fatalf("%d entries", made)
	}
	host.must(func() error { return n.Detach(t.Context(), "ri_a") })
	if left := host.entries() - before; left > 0 {
		t.Errorf("%d entries are left", left)
	}
}

// What the kernel takes for part of no connection is not masqueraded: it must
// not leave at all.
func TestNothingLeavesUnmasqueraded(t *testing.T) {
	host, world := newNamespace(t), newNamespace(t)
	joinWorld(host, world)
	n := open(t, Config{})
	a := host.attach(n, "ri_a", 80, 0)
	x := host.attacker(a)
	var wire int
	world.must(func() (err error) {
		wire, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))))
		return err
	})
	defer unix.Close(wire)
	to := netip.MustParseAddr("198.51.100.2")
	const rst, synFin = 4, 3
	x.send(x.packet(unix.IPPROTO_TCP, to, 5000, 80, rst))
	x.send(x.packet(unix.IPPROTO_TCP, to, 5001, 80, synFin))
	x.send(x.packet(unix.IPPROTO_TCP, to, 5002, 80, 0))
	x.send(x.packet(unix.IPPROTO_UDP, to, 5003, 4242, 0)) // the last one, and a good one
	if err := unix.SetsockoptTimeval(wire, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 30}); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 2048)
	for {
		k, err := unix.Read(wire, buf)
		if err != nil {
			t.Fatal(err)
		}
		if k < 38 || buf[12] != 8 || buf[13] != 0 {
			continue
		}
		from, _ := netip.AddrFromSlice(buf[26:30])
		if from == a.Address.Addr() {
			t.Errorf("a packet left from %s, protocol %d, port %d", from, buf[23], binary.BigEndian.Uint16(buf[34:]))
		}
		if binary.BigEndian.Uint16(buf[36:]) == 4242 {
			return
		}
	}
}
