package outbound

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// own reports whether an address is one of this machine's, or of another of the
// cell: behind it are the operator's doors, which let in what comes from there.
// It asks anew each time, because interfaces come and go.
func (g Guard) own(ctx context.Context, a netip.Addr) (bool, error) {
	a = a.Unmap().WithZone("")
	mine, err := local(a)
	if mine || err != nil {
		return mine, err
	}
	if g.Cell == nil {
		return false, nil
	}
	cell, err := g.Cell(ctx)
	if err != nil {
		return false, fmt.Errorf("addresses of the cell: %w", err)
	}
	for _, c := range cell {
		if c.Unmap().WithZone("") == a {
			return true, nil
		}
	}
	return false, nil
}

// named reports whether the operator allowed an address of our own in so many
// words: by itself, or as part of the loopback. A range of the operator's
// network that it happens to lie in does not mean it.
func (g Guard) named(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	for _, p := range g.Allow {
		if p.Contains(a) && (p.IsSingleIP() || a.IsLoopback()) {
			return true
		}
	}
	return false
}

// local asks the interfaces, and the kernel where it would send: it may take
// more for its own than any interface has (a route of type local).
func local(a netip.Addr) (bool, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false, fmt.Errorf("addresses of this machine: %w", err)
	}
	for _, x := range addrs {
		if n, ok := x.(*net.IPNet); ok {
			if at, ok := netip.AddrFromSlice(n.IP); ok && at.Unmap() == a {
				return true, nil
			}
		}
	}
	routes, err := netlink.RouteGet(a.AsSlice())
	if err != nil {
		return false, nil //nolint:nilerr // no way there: the connection fails by itself
	}
	for _, r := range routes {
		if r.Type == unix.RTN_LOCAL {
			return true, nil
		}
	}
	return false, nil
}

// Addresses are those of this machine that others might call, for the records
// of its cell: no loopback or link-local ones, and none of taps, whose other
// ends are guests.
func Addresses() ([]netip.Addr, error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("interfaces of this machine: %w", err)
	}
	var out []netip.Addr
	for _, l := range links {
		if isTap(l.Name) {
			continue
		}
		addrs, err := l.Addrs()
		if err != nil {
			continue // gone meanwhile
		}
		for _, x := range addrs {
			if n, ok := x.(*net.IPNet); ok {
				if a, ok := netip.AddrFromSlice(n.IP); ok && a.IsGlobalUnicast() {
					out = append(out, a.Unmap())
				}
			}
		}
	}
	return out, nil
}

// isTap reports whether an interface is a tap: one that frames of a VM come from.
func isTap(name string) bool {
	raw, err := os.ReadFile("/sys/class/net/" + name + "/tun_flags")
	if err != nil {
		return false
	}
	flags, err := strconv.ParseUint(strings.TrimSpace(string(raw)), 0, 32)
	return err == nil && flags&unix.IFF_TAP != 0
}
