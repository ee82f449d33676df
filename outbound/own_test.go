package outbound_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/outbound"
)

// inNamespace runs f in a network namespace of its own, in which the machine
// has the public address 203.0.113.7 and takes all of 198.51.100.0/24 for its own.
func inNamespace(t *testing.T, f func() error) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the namespace ends with the thread
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			at, err := netlink.ParseAddr("203.0.113.7/32")
			if err != nil {
				return err
			}
			any4, err := netlink.ParseIPNet("198.51.100.0/24")
			if err != nil {
				return err
			}
			return errors.Join(netlink.LinkSetUp(lo), netlink.AddrAdd(lo, at),
				netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: any4, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST, Table: unix.RT_TABLE_LOCAL}), f())
		}()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// An address of this machine is not called, however public it is and however
// late it came, and nobody can tell from the words whether something listens.
func TestOurOwnAddressesAreNotCalled(t *testing.T) {
	inNamespace(t, func() error {
		dial := func(g outbound.Guard, to string) error {
			conn, err := g.Dialer().DialContext(t.Context(), "tcp", to)
			if err == nil {
				conn.Close()
			}
			return err
		}
		said := map[string]bool{}
		refused := func(g outbound.Guard, to string) {
			err := dial(g, to)
			if miosa.CodeOf(err) != miosa.Forbidden {
				t.Errorf("%s: %v, want forbidden", to, err)
				return
			}
			said[outbound.Why(err)] = true
		}
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "0.0.0.0:0")
		if err != nil {
			return err
		}
		defer l.Close()
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			return err
		}
		private := outbound.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("10.0.0.0/8")}}
		for _, g := range []outbound.Guard{{}, private} {
			refused(g, "203.0.113.7:"+port)
			refused(g, "203.0.113.7:1")
			refused(g, "198.51.100.20:"+port)
			refused(g, "127.0.0.1:"+port)
		}
		// One that came since.
		g := private
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		later, err := netlink.ParseAddr("10.9.8.7/32")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(lo, later); err != nil {
			return err
		}
		refused(g, "10.9.8.7:"+port)
		// The other machines of the cell, as of now.
		var cell []netip.Addr
		var broken error
		g.Cell = func(context.Context) ([]netip.Addr, error) { return cell, broken }
		if err := dial(g, "10.1.1.1:80"); miosa.CodeOf(err) == miosa.Forbidden {
			t.Errorf("nobody's address is refused: %v", err)
		}
		cell = []netip.Addr{netip.MustParseAddr("10.1.1.1")}
		refused(g, "10.1.1.1:80")
		cell, broken = nil, errors.New("no records")
		refused(g, "10.1.1.1:80")
		// What the operator names by itself is called; a closed port reads alike.
		named := outbound.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("203.0.113.7/32"), netip.MustParsePrefix("127.0.0.0/8")}}
		for _, to := range []string{"203.0.113.7:", "127.0.0.1:"} {
			if err := dial(named, to+port); err != nil {
				t.Errorf("%s%s: %v", to, port, err)
			}
			err := dial(named, to+"1")
			if !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("%s1: %v, want a closed port", to, err)
			}
			said[outbound.Why(err)] = true
		}
		if len(said) != 1 {
			t.Errorf("refusals and closed ports read differently: %v", said)
		}
		for words := range said {
			if strings.Contains(words, "203.0.113") || strings.Contains(words, "no records") {
				t.Errorf("%q", words)
			}
		}
		// What a host tells of itself.
		own, err := outbound.Addresses()
		if err != nil {
			return err
		}
		slices.SortFunc(own, netip.Addr.Compare)
		if want := []netip.Addr{later4(later), netip.MustParseAddr("203.0.113.7")}; !slices.Equal(own, want) {
			t.Errorf("addresses %v, want %v", own, want)
		}
		return nil
	})
}

func later4(a *netlink.Addr) netip.Addr {
	at, _ := netip.AddrFromSlice(a.IP)
	return at.Unmap()
}
