package tap

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// openUplink lets packets of instances out by the links that default routes
// leave by. A link that did not forward before is closed, in the rules,
// against everything but instances: the host does not become a router.
func (n *Network) openUplink() error {
	uplinks, err := defaultLinks()
	if err != nil {
		return err
	}
	if len(uplinks) == 0 {
		if !n.saidNone {
			n.log.Info("no uplink: instances reach nothing outside this host")
			n.saidNone = true
		}
		return nil
	}
	for _, name := range uplinks {
		b, err := os.ReadFile(forwardingFile(name))
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(b)) != "0" {
			if slices.Contains(n.marked, name) {
				continue
			}
			// Another platform may end before we do, and its rules with it.
			shared, err := n.markedByOthers(name)
			if err == nil && shared {
				err = n.markUplink(name)
			}
			if err != nil {
				return err
			}
			continue
		}
		if err := n.markUplink(name); err != nil {
			return err
		}
		if err := os.WriteFile(forwardingFile(name), []byte("1"), 0); err != nil {
			return err
		}
		n.log.Info("forwarding switched on for instances", "uplink", name)
	}
	return nil
}

// closeUplinks switches off the forwarding that was switched on for instances,
// unless another platform's still need it.
func (n *Network) closeUplinks() error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		if name := l.Attrs().Name; strings.HasPrefix(name, commonPrefix) && l.Type() == "tuntap" {
			return nil
		}
	}
	for _, name := range n.marked {
		if err := os.WriteFile(forwardingFile(name), []byte("0"), 0); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return nil
}

func forwardingFile(link string) string {
	return "/proc/sys/net/ipv4/conf/" + link + "/forwarding"
}

// defaultLinks are the names of the links that IPv4 default routes use.
func defaultLinks() ([]string, error) {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var names []string
	for _, r := range routes {
		if p, ok := prefixOf(r); r.Dst != nil && (!ok || p.Bits() != 0) || r.Type != unix.RTN_UNICAST {
			continue
		}
		indices := []int{r.LinkIndex}
		for _, hop := range r.MultiPath {
			indices = append(indices, hop.LinkIndex)
		}
		for _, i := range indices {
			if l, err := netlink.LinkByIndex(i); err == nil && !slices.Contains(names, l.Attrs().Name) {
				names = append(names, l.Attrs().Name)
			}
		}
	}
	return names, nil
}

// hostNameservers are the host's IPv4 resolvers that a guest could reach.
func hostNameservers() []netip.Addr {
	// systemd-resolved keeps the real ones apart from its loopback stub.
	for _, file := range []string{"/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"} {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if found := parseNameservers(string(b)); len(found) > 0 {
			return found
		}
	}
	return nil
}

func parseNameservers(text string) []netip.Addr {
	var found []netip.Addr
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(fields[1]); err == nil && a.Is4() && !a.IsLoopback() && !a.IsUnspecified() {
			found = append(found, a)
		}
	}
	return found[:min(len(found), 3)] // a resolver reads no more
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}
