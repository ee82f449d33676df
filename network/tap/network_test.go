package tap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/miosa/miosa/network"
)

const testCell = "0badcafe"

var quiet = slog.New(slog.DiscardHandler)

// open makes a Network inside of a namespace; it stands for one run of the
// agent.
func open(t testing.TB, config Config) *Network {
	t.Helper()
	if config.CellID == "" {
		config.CellID = testCell
	}
	config.LockFile = filepath.Join(t.TempDir(), "lock")
	n, err := New(config, quiet)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (ns *namespace) attach(n *Network, instance string, port, mbps int) network.Attachment {
	ns.t.Helper()
	var a network.Attachment
	ns.must(func() (err error) {
		a, err = n.Attach(context.Background(), instance, port, mbps)
		return err
	})
	return a
}

func (ns *namespace) guest(a network.Attachment) *guest {
	ns.t.Helper()
	return newGuest(ns.t, ns, a.NIC.Tap, a.NIC.MAC, a.NIC.Guest.String(), a.NIC.Gateway.String())
}

// listen echoes on every connection until the test ends, and reports who came.
func (ns *namespace) listen(address string) <-chan string {
	ns.t.Helper()
	var l net.Listener
	ns.must(func() (err error) { l, err = net.Listen("tcp4", address); return err })
	came := make(chan string, 64)
	ns.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			came <- c.RemoteAddr().String()
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return came
}

// reach says whether a TCP connection opens. Drops show only by silence, so
// there is a limit; it bounds the wait of the cases that must fail.
func (ns *namespace) reach(address string, local net.Addr) error {
	return ns.do(func() error {
		d := net.Dialer{Timeout: 700 * time.Millisecond, LocalAddr: local}
		c, err := d.Dial("tcp4", address)
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := fmt.Fprint(c, "x"); err != nil {
			return err
		}
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, err = c.Read(make([]byte, 1))
		return err
	})
}

func (ns *namespace) wantReach(address string) {
	ns.t.Helper()
	// A tap just plugged in is in the routes a moment later, and on a busy
	// machine a first packet may take its time. Both pass; the limit is only
	// for what never comes.
	for began := time.Now(); ; {
		err := ns.reach(address, nil)
		if err == nil {
			return
		}
		if time.Since(began) > 20*time.Second {
			ns.t.Errorf("%s cannot be reached: %v", address, err)
			return
		}
		runtime.Gosched()
	}
}

func (ns *namespace) wantBlocked(address string, local net.Addr) {
	ns.t.Helper()
	if err := ns.reach(address, local); err == nil {
		ns.t.Errorf("%s can be reached from %v", address, local)
	}
}

func TestHostReachesGuestAndNothingElseDoes(t *testing.T) {
	host := newNamespace(t)
	n := open(t, Config{})
	a, b := host.attach(n, "ri_a", 8080, 0), host.attach(n, "ri_b", 8080, 0)
	ga, gb := host.guest(a), host.guest(b)
	ga.listen(":8080")
	gb.listen(":8080")
	host.listen(":9000")
	if a.Address != netip.AddrPortFrom(a.NIC.Guest.Addr(), 8080) {
		t.Errorf("address %s is not the guest's %s", a.Address, a.NIC.Guest)
	}

	host.wantReach(a.Address.String())
	host.wantReach(b.Address.String())

	ga.wantBlocked(b.Address.String(), nil)             // another instance
	ga.wantBlocked(b.NIC.Gateway.String()+":9000", nil) // the host, by its other address
	ga.wantBlocked(a.NIC.Gateway.String()+":9000", nil) // the host
	host.wantReach(a.Address.String())                  // still
	host.wantReach(a.NIC.Gateway.String() + ":9000")    // the listener was there
}

// as runs f with sockets that belong to another user of the host.
func (ns *namespace) as(uid int, f func()) {
	ns.t.Helper()
	ns.must(func() error { return unix.Setfsuid(uid) })
	defer ns.must(func() error { return unix.Setfsuid(0) })
	f()
}

// A guest's port is for the router and the agent: not for whoever has an
// account on the host, nor for one that lies beside a guest. What the host
// answers a guest goes out all the same, whoever answers.
func TestOtherUsersOfTheHostReachNoGuest(t *testing.T) {
	host := newNamespace(t)
	n := open(t, Config{Allow: []Allow{{To: netip.MustParsePrefix("10.5.5.5/32"), Port: 9000}}})
	host.must(func() error { return addAddress("lo", "10.5.5.5/32") })
	a := host.attach(n, "ri_a", 8080, 0)
	ga := host.guest(a)
	ga.listen(":8080")
	host.wantReach(a.Address.String())
	host.as(4321, func() {
		host.wantBlocked(a.Address.String(), nil)
		host.listen("10.5.5.5:9000")
	})
	ga.wantReach("10.5.5.5:9000")
	host.wantReach(a.Address.String())
	// Rules that are made anew say the same.
	host.must(func() error { return n.buildRules() })
	host.as(4321, func() { host.wantBlocked(a.Address.String(), nil) })
	host.wantReach(a.Address.String())
}

func TestSpoofedSourcesAreDropped(t *testing.T) {
	host, world := newNamespace(t), newNamespace(t)
	joinWorld(host, world)
	n := open(t, Config{})
	a := host.attach(n, "ri_a", 80, 0)
	g := host.guest(a)
	came := world.listen("198.51.100.2:80")
	g.wantReach("198.51.100.2:80")
	<-came

	victim := n.plan.guest(9).String()
	g.must(func() error { return addAddress("eth0", victim+"/32") })
	g.wantBlocked("198.51.100.2:80", &net.TCPAddr{IP: net.ParseIP(victim)})

	// The right address behind another MAC is no better.
	g.must(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkSetHardwareAddr(l, net.HardwareAddr{2, 0, 0, 0, 0, 9})
	})
	g.wantBlocked("198.51.100.2:80", nil)

	// IPv6 does not exist for guests.
	host.must(func() error {
		l, err := netlink.LinkByName(a.NIC.Tap)
		if err != nil {
			return err
		}
		addrs, err := netlink.AddrList(l, netlink.FAMILY_V6)
		if err == nil && len(addrs) > 0 {
			err = fmt.Errorf("tap has IPv6 addresses %v", addrs)
		}
		return err
	})
}

func TestWorldIsReachedMasqueradedAndInternalIsNot(t *testing.T) {
	host, world := newNamespace(t), newNamespace(t)
	joinWorld(host, world)
	for _, internal := range []string{"10.1.2.3", "169.254.169.254", "192.168.7.7", "172.20.0.1", "100.127.255.1"} {
		world.must(func() error { return addAddress("world", internal+"/32") })
	}
	world.must(func() error { return addAddress("world", "10.9.9.9/32") })
	world.must(func() error { return addAddress("world", "10.5.5.5/32") })
	came := world.listen("0.0.0.0:80")
	world.listen("0.0.0.0:53")
	world.listen("0.0.0.0:5432")

	n := open(t, Config{
		Nameservers: []netip.Addr{netip.MustParseAddr("10.9.9.9")},
		Allow:       []Allow{{To: netip.MustParsePrefix("10.5.5.5/32"), Port: 5432}},
	})
	a := host.attach(n, "ri_a", 80, 0)
	g := host.guest(a)
	if got := strings.Join(a.Nameservers, " "); got != "10.9.9.9" {
		t.Errorf("nameservers are %q", got)
	}

	g.wantReach("198.51.100.2:80")
	if from := <-came; !strings.HasPrefix(from, "198.51.100.1:") {
		t.Errorf("the world saw %s, not the host's address", from)
	}
	host.wantReach("10.1.2.3:80") // it is there
	for _, internal := range []string{"10.1.2.3", "169.254.169.254", "192.168.7.7", "172.20.0.1", "100.127.255.1"} {
		g.wantBlocked(internal+":80", nil)
	}
	g.wantReach("10.9.9.9:53")
	g.wantBlocked("10.9.9.9:80", nil)
	g.wantReach("10.5.5.5:5432")
	g.wantBlocked("10.5.5.5:80", nil)

	// Nobody in the world comes in, even knowing the way.
	world.must(func() error {
		l, err := netlink.LinkByName("world")
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(n.plan.block), Gw: net.ParseIP("198.51.100.1")})
	})
	g.listen(":80")
	host.wantReach(a.Address.String())
	world.wantBlocked(a.Address.String(), nil)
}

// A link that did not forward is opened for instances only.
func TestHostDoesNotBecomeARouter(t *testing.T) {
	host, world, inner := newNamespace(t), newNamespace(t), newNamespace(t)
	joinWorld(host, world)
	host.must(func() error {
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "lan"}, PeerName: "eth0"}); err != nil {
			return err
		}
		peer, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetNsPid(peer, inner.tid); err != nil {
			return err
		}
		if err := addAddress("lan", "203.0.113.1/24"); err != nil {
			return err
		}
		if err := setUp("lan"); err != nil {
			return err
		}
		// So that answers find the way back: it is "up" alone that keeps the world out.
		return os.WriteFile(forwardingFile("lan"), []byte("1"), 0)
	})
	inner.must(func() error {
		if err := addAddress("eth0", "203.0.113.2/24"); err != nil {
			return err
		}
		if err := setUp("eth0"); err != nil {
			return err
		}
		return addDefault("203.0.113.1")
	})
	world.must(func() error {
		return netlink.RouteAdd(&netlink.Route{Dst: ipNet(netip.MustParsePrefix("203.0.113.0/24")), Gw: net.ParseIP("198.51.100.1")})
	})
	inner.listen(":80")
	host.wantReach("203.0.113.2:80")

	n := open(t, Config{})
	g := host.guest(host.attach(n, "ri_a", 80, 0))
	world.listen("198.51.100.2:80")
	g.wantReach("198.51.100.2:80")
	world.wantBlocked("203.0.113.2:80", nil)

	// The next run remembers that it was us, also after somebody flushed all rules.
	n = open(t, Config{})
	host.must(func() error { return n.Reclaim(t.Context(), func(string) bool { return true }) })
	world.wantBlocked("203.0.113.2:80", nil)
	host.flushRules()
	host.attach(n, "ri_a", 80, 0)
	world.wantBlocked("203.0.113.2:80", nil)

	// Of two platforms either may go first: the last one undoes it.
	other := open(t, Config{CellID: "0badcaff"})
	host.attach(other, "ri_b", 80, 0)
	g.unplug()
	host.must(func() error { return errors.Join(n.Detach(t.Context(), "ri_a"), n.Close(t.Context())) })
	world.wantBlocked("203.0.113.2:80", nil)
	n = other
	host.must(func() error {
		if err := n.Detach(t.Context(), "ri_b"); err != nil {
			return err
		}
		if err := n.Close(t.Context()); err != nil {
			return err
		}
		return errors.Join(sysctlIs(forwardingFile("up"), "0"))
	})
}

func TestRestartFindsEverythingAgain(t *testing.T) {
	host := newNamespace(t)
	first := open(t, Config{})
	a, b := host.attach(first, "ri_a", 80, 0), host.attach(first, "ri_b", 81, 50)
	g := host.guest(a)
	g.listen(":80")
	host.wantReach(a.Address.String())

	second := open(t, Config{})
	b2, a2 := host.attach(second, "ri_b", 81, 0), host.attach(second, "ri_a", 80, 10)
	if fmt.Sprint(a2) != fmt.Sprint(a) || fmt.Sprint(b2) != fmt.Sprint(b) {
		t.Errorf("after the restart:\n%v\n%v\nbefore:\n%v\n%v", a2, b2, a, b)
	}
	host.wantReach(a.Address.String())

	c := host.attach(second, "ri_c", 80, 0)
	if c.Index == a.Index || c.Index == b.Index {
		t.Errorf("index %d was given out twice", c.Index)
	}
	host.must(func() error {
		return second.Reclaim(t.Context(), func(instance string) bool { return instance == "ri_a" })
	})
	if got := host.taps(); len(got) != 1 || got[0] != a.NIC.Tap {
		t.Errorf("after reclaiming, taps %v are left; want %s", got, a.NIC.Tap)
	}
	host.wantReach(a.Address.String())
	if d := host.attach(second, "ri_d", 80, 0); d.Index <= c.Index {
		t.Errorf("index %d was given out again at once", d.Index)
	}
}

func TestCloseLeavesNothingUnlessAttached(t *testing.T) {
	host := newNamespace(t)
	n := open(t, Config{})
	a := host.attach(n, "ri_a", 80, 20)
	host.must(func() error { return n.Close(t.Context()) })
	if host.tables() != 1 {
		t.Error("closing took the rules of an attached instance away")
	}
	g := host.guest(a)
	host.listen(":9000")
	g.wantBlocked(a.NIC.Gateway.String()+":9000", nil)
	g.unplug()

	host.must(func() error { return n.Detach(t.Context(), "ri_a") })
	host.must(func() error { return n.Detach(t.Context(), "ri_a") })
	host.must(func() error { return n.Detach(t.Context(), "never there") })
	host.must(func() error { return n.Close(t.Context()) })
	host.must(func() error { return n.Close(t.Context()) })
	if tables, taps := host.tables(), host.taps(); tables != 0 || len(taps) != 0 {
		t.Errorf("left behind: %d tables, taps %v", tables, taps)
	}
	host.must(func() error {
		routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
		if err == nil && len(routes) > 0 {
			err = fmt.Errorf("left behind: routes %v", routes)
		}
		return err
	})
	again := host.attach(n, "ri_a", 80, 0)
	g = host.guest(again)
	g.listen(":80")
	host.wantReach(again.Address.String())
}

func (ns *namespace) flushRules() {
	ns.t.Helper()
	ns.must(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		c.FlushRuleset()
		return c.Flush()
	})
}

// A firewall's reload takes our rules too; the next Attach puts them back.
func TestFlushedRulesComeBack(t *testing.T) {
	host := newNamespace(t)
	n := open(t, Config{})
	a := host.attach(n, "ri_a", 80, 20)
	g := host.guest(a)
	host.listen(":9000")
	host.flushRules()
	g.wantReach(a.NIC.Gateway.String() + ":9000")
	host.attach(n, "ri_b", 80, 20)
	g.wantBlocked(a.NIC.Gateway.String()+":9000", nil)
	host.must(func() error { return n.Detach(t.Context(), "ri_b") })
}

func TestTwoPlatformsOnOneHost(t *testing.T) {
	host := newNamespace(t)
	// These two cells prefer the same block: the later one steps aside.
	one, two := open(t, Config{CellID: "00000001"}), open(t, Config{CellID: "00000001"})
	two.plan.cell, two.plan.id = "0000ffff", one.plan.id
	p, err := newPlan("0000ffff")
	if err != nil {
		t.Fatal(err)
	}
	two.plan = p
	two.config.Pools = []netip.Prefix{netip.MustParsePrefix("100.64.0.0/18"), netip.MustParsePrefix("100.64.64.0/18")}
	one.config.Pools = two.config.Pools

	a, b := host.attach(one, "ri_same", 80, 0), host.attach(two, "ri_same", 80, 0)
	if one.plan.block.Overlaps(two.plan.block) {
		t.Fatalf("blocks %s and %s overlap", one.plan.block, two.plan.block)
	}
	ga, gb := host.guest(a), host.guest(b)
	ga.listen(":80")
	gb.listen(":80")
	host.wantReach(a.Address.String())
	host.wantReach(b.Address.String())
	ga.wantBlocked(b.Address.String(), nil)

	host.must(func() error { return two.Reclaim(t.Context(), func(string) bool { return false }) })
	host.must(func() error { return two.Close(t.Context()) })
	host.wantReach(a.Address.String())
}

// The router must learn of a dead VM at once.
func TestDeadGuestFailsFast(t *testing.T) {
	host := newNamespace(t)
	n := open(t, Config{})
	a := host.attach(n, "ri_a", 80, 0)
	g := host.guest(a)
	g.listen(":80")
	host.wantReach(a.Address.String())

	var c net.Conn
	host.must(func() (err error) { c, err = net.Dial("tcp4", a.Address.String()); return err })
	defer c.Close()
	g.unplug()
	host.must(func() error {
		// The kernel tells a link's loss within a second of its last change.
		for {
			d := net.Dialer{Timeout: 100 * time.Millisecond}
			c, err := d.DialContext(t.Context(), "tcp4", a.Address.String())
			if err == nil {
				c.Close()
				return errors.New("a dead guest answered")
			}
			if errors.Is(err, syscall.EHOSTUNREACH) {
				return nil
			}
		}
	})
	host.must(func() error { return n.Sever(t.Context(), "ri_a") })
	_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNABORTED) {
		t.Errorf("a connection to the dead guest: %v; want it aborted", err)
	}

	// And it comes back with the next VM on the same tap.
	g = host.guest(a)
	g.listen(":80")
	host.wantReach(a.Address.String())
}

func TestConnectionsAreBounded(t *testing.T) {
	host, world := newNamespace(t), newNamespace(t)
	joinWorld(host, world)
	n := open(t, Config{Connections: 5})
	g := host.guest(host.attach(n, "ri_a", 80, 0))
	world.listen("198.51.100.2:80")
	var open []net.Conn
	g.must(func() error {
		for range 5 {
			c, err := net.Dial("tcp4", "198.51.100.2:80")
			if err != nil {
				return err
			}
			open = append(open, c)
		}
		return nil
	})
	g.wantBlocked("198.51.100.2:80", nil)
	for _, c := range open {
		c.Close()
	}
}

func TestTrafficIsCounted(t *testing.T) {
	host := newNamespace(t)
	n := open(t, Config{})
	a := host.attach(n, "ri_a", 80, 0)
	g := host.guest(a)
	g.listen(":80")
	host.wantReach(a.Address.String())
	host.must(func() error {
		c, err := net.Dial("tcp4", a.Address.String())
		if err != nil {
			return err
		}
		defer c.Close()
		sent := make([]byte, 100_000)
		go func() { _, _ = c.Write(sent) }()
		_, err = io.ReadFull(c, make([]byte, len(sent)))
		return err
	})
	host.must(func() error {
		traffic, err := n.Traffic("ri_a")
		if err != nil {
			return err
		}
		if traffic.SentBytes < 100_000 || traffic.ReceivedBytes < 100_000 || traffic.SentPackets == 0 {
			return fmt.Errorf("counted %+v", traffic)
		}
		none, err := n.Traffic("unknown")
		if none != (network.Traffic{}) {
			return fmt.Errorf("an unknown instance has %+v", none)
		}
		return err
	})
}

// TestCountersAreToldApart: an agent that starts again finds the same counter
// with the same counts; a tap made anew has another.
func TestCountersAreToldApart(t *testing.T) {
	host := newNamespace(t)
	n := open(t, Config{})
	a := host.attach(n, "ri_a", 80, 0)
	host.guest(a)
	count := func(n *Network) (got network.Traffic) {
		t.Helper()
		host.must(func() (err error) { got, err = n.Traffic("ri_a"); return err })
		return got
	}
	first := count(n)
	if first.Counter == "" {
		t.Fatal("the counter has no name")
	}
	host.attach(n, "ri_a", 80, 5) // as an in-place restart does
	restarted := open(t, Config{})
	for who, n := range map[string]*Network{"itself": n, "a restart": restarted} {
		if got := count(n); got.Counter != first.Counter || got.SentBytes < first.SentBytes {
			t.Errorf("%s counts %+v after %+v", who, got, first)
		}
	}
	host.must(func() error { return restarted.Detach(t.Context(), "ri_a") })
	if got := count(restarted); got != (network.Traffic{}) {
		t.Errorf("a tap that is gone counts %+v", got)
	}
	host.attach(restarted, "ri_a", 80, 0)
	if got := count(restarted); got.Counter == "" || got.Counter == first.Counter {
		t.Errorf("a new tap counts as %q, the old one as %q", got.Counter, first.Counter)
	}
}

func TestEgressIsLimited(t *testing.T) {
	host := newNamespace(t)
	n := open(t, Config{})
	const mbps = 8
	a := host.attach(n, "ri_a", 80, mbps)
	g := host.guest(a)
	g.listen(":81")
	host.wantReach(netip.AddrPortFrom(a.Address.Addr(), 81).String())
	// The guest sends as fast as it can for a while; what comes through is
	// bounded from above by rate and burst. That holds however slow we are.
	var l net.Listener
	g.must(func() (err error) { l, err = net.Listen("tcp4", ":80"); return err })
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = c.Write(make([]byte, 64<<20))
	}()
	host.must(func() error {
		c, err := net.Dial("tcp4", a.Address.String())
		if err != nil {
			return err
		}
		defer c.Close()
		began := time.Now()
		_ = c.SetReadDeadline(began.Add(3 * time.Second))
		got, _ := io.Copy(io.Discard, c)
		took := time.Since(began)
		rate := float64(got) * 8 / took.Seconds() / 1e6
		t.Logf("limit %d Mbit/s: %d bytes in %s, %.1f Mbit/s", mbps, got, took.Round(time.Millisecond), rate)
		// The bucket is one second deep.
		if allowed := (took.Seconds() + 1.1) * mbps * 1e6 / 8; float64(got) > allowed {
			return fmt.Errorf("%d bytes came through, at most %.0f may", got, allowed)
		}
		return nil
	})
}

// limits are the egress limits that the kernel holds, in bytes a second, by tap.
func (ns *namespace) limits() map[string]uint64 {
	ns.t.Helper()
	found := map[string]uint64{}
	ns.must(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		table := &nftables.Table{Family: nftables.TableFamilyINet, Name: "miosa-" + testCell}
		elements, err := c.GetSetElements(&nftables.Set{Table: table, Name: "limits"})
		if err != nil {
			return err
		}
		for _, e := range elements {
			tap := strings.TrimRight(string(e.Key), "\x00")
			rules, err := c.GetRules(table, &nftables.Chain{Table: table, Name: "egress-" + tap[strings.LastIndexByte(tap, '-')+1:]})
			if err != nil {
				return err
			}
			for _, r := range rules {
				if l, ok := r.Exprs[0].(*expr.Limit); ok && l.Over {
					found[tap] = l.Rate
				}
			}
		}
		return nil
	})
	return found
}

// A VM lives through a restart of its agent, which attaches it no second time,
// and through another instance's Attach that has to build the rules anew.
func TestEgressLimitsOutliveRestartsAndRebuilds(t *testing.T) {
	host := newNamespace(t)
	first := open(t, Config{})
	a, b := host.attach(first, "ri_a", 80, 8), host.attach(first, "ri_b", 80, 16)
	want := map[string]uint64{a.NIC.Tap: 1_000_000, b.NIC.Tap: 2_000_000}
	if got := host.limits(); !maps.Equal(got, want) {
		t.Fatalf("attached: %v, want %v", got, want)
	}
	second := open(t, Config{})
	host.must(func() error { return second.Reclaim(t.Context(), func(string) bool { return true }) })
	if got := host.limits(); !maps.Equal(got, want) {
		t.Errorf("after a restart: %v, want %v", got, want)
	}
	host.flushRules()
	d := host.attach(second, "ri_d", 80, 0)
	if got := host.limits(); !maps.Equal(got, want) {
		t.Errorf("after a rebuild: %v, want %v", got, want)
	}
	host.attach(second, "ri_d", 80, 24)
	host.attach(second, "ri_a", 80, 0)
	host.must(func() error { return second.Detach(t.Context(), "ri_b") })
	if got, want := host.limits(), (map[string]uint64{d.NIC.Tap: 3_000_000}); !maps.Equal(got, want) {
		t.Errorf("changed: %v, want %v", got, want)
	}
}

func TestBadRequests(t *testing.T) {
	for _, cell := range []string{"", "xyz", "0BADCAFE", "0badcafe0", "0badcaf"} {
		if _, err := New(Config{CellID: cell}, quiet); err == nil {
			t.Errorf("cell id %q was accepted", cell)
		}
	}
	if _, err := New(Config{CellID: testCell, Pools: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}}, quiet); err == nil {
		t.Error("a pool too small was accepted")
	}
	n := open(t, Config{})
	for _, bad := range []struct {
		instance   string
		port, mbps int
	}{{"", 80, 0}, {strings.Repeat("x", 256), 80, 0}, {"ri", -1, 0}, {"ri", 65536, 0}, {"ri", 80, -1}} {
		if _, err := n.Attach(t.Context(), bad.instance, bad.port, bad.mbps); err == nil {
			t.Errorf("%+v was attached", bad)
		}
	}
}

func (ns *namespace) taps() []string {
	var names []string
	ns.must(func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			if strings.HasPrefix(l.Attrs().Name, commonPrefix) {
				names = append(names, l.Attrs().Name)
			}
		}
		return err
	})
	return names
}

func (ns *namespace) tables() int {
	count := 0
	ns.must(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		tables, err := c.ListTables()
		count = len(tables)
		return err
	})
	return count
}

func sysctlIs(file, want string) error {
	b, err := os.ReadFile(file)
	if err == nil && strings.TrimSpace(string(b)) != want {
		err = fmt.Errorf("%s is %q, want %q", file, b, want)
	}
	return err
}

func BenchmarkAttach(b *testing.B) {
	host := newNamespace(b)
	n := open(b, Config{})
	host.attach(n, "ri_first", 80, 0)
	i := 0
	for b.Loop() {
		i++
		instance := fmt.Sprintf("ri_%d", i)
		host.attach(n, instance, 80, 0)
		b.StopTimer()
		host.must(func() error { return n.Detach(b.Context(), instance) })
		b.StartTimer()
	}
}

func BenchmarkAttachAgain(b *testing.B) {
	host := newNamespace(b)
	n := open(b, Config{})
	for b.Loop() {
		host.attach(n, "ri_a", 80, 0)
	}
}
