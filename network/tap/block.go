package tap

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routeProtocol marks the routes that reserve a cell's block ("who made this
// route"); the route's metric is the cell id.
const routeProtocol = 77

// reserveBlock finds the cell's block again, or takes a free one. What holds
// it is an unreachable route over the whole block: other platforms see it,
// packets to instances that are no more end there instead of at the uplink.
func (n *Network) reserveBlock() error {
	lock, err := os.OpenFile(n.config.LockFile, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("lock address blocks: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock address blocks: %w", err)
	}

	// A namespace just made has its loopback down; routes need it up.
	if lo, err := netlink.LinkByName("lo"); err == nil {
		if err := netlink.LinkSetUp(lo); err != nil {
			return fmt.Errorf("set loopback up: %w", err)
		}
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	var taken []netip.Prefix
	for _, r := range routes {
		dst, ok := prefixOf(r)
		if !ok {
			continue
		}
		if r.Protocol == routeProtocol && r.Type == unix.RTN_UNREACHABLE && uint32(r.Priority) == n.plan.id {
			n.plan.block = dst
			return nil
		}
		taken = append(taken, dst)
	}
	block, ok := choose(n.plan.blocks(n.config.Pools), taken)
	if !ok {
		return fmt.Errorf("every /%d of the address pools %v overlaps a route of this host", blockBits, n.config.Pools)
	}
	if err := netlink.RouteAdd(blockRoute(block, n.plan.id)); err != nil {
		return fmt.Errorf("reserve address block %s: %w", block, err)
	}
	n.plan.block = block
	return nil
}

func (n *Network) releaseBlock() error {
	err := netlink.RouteDel(blockRoute(n.plan.block, n.plan.id))
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("release address block: %w", err)
	}
	return nil
}

func blockRoute(block netip.Prefix, id uint32) *netlink.Route {
	return &netlink.Route{
		Dst: ipNet(block), Type: unix.RTN_UNREACHABLE, Table: unix.RT_TABLE_MAIN,
		Protocol: routeProtocol, Priority: int(id),
	}
}

func prefixOf(r netlink.Route) (netip.Prefix, bool) {
	if r.Dst == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(r.Dst.IP.To4())
	if !ok {
		return netip.Prefix{}, false
	}
	bits, _ := r.Dst.Mask.Size()
	return netip.PrefixFrom(addr, bits), true
}
