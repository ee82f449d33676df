package tap

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/miosa/miosa/network"
)

// linkInfo is what a link says of itself.
type linkInfo struct{ Name, Alias string }

// links lists the taps of this cell.
func (n *Network) links() ([]linkInfo, error) {
	all, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var ours []linkInfo
	for _, l := range all {
		if a := l.Attrs(); strings.HasPrefix(a.Name, n.plan.prefix()) {
			ours = append(ours, linkInfo{a.Name, a.Alias})
		}
	}
	return ours, nil
}

// linkSettings are written before the tap is up. forwarding is needed on the
// link packets come in by; a link without carrier (its VM is dead) is left
// out of routing, so that dialling the instance fails at once with "no route
// to host" and does not hang.
var linkSettings = [][2]string{
	{"ipv4/conf/%s/forwarding", "1"},
	{"ipv4/conf/%s/rp_filter", "1"},
	{"ipv4/conf/%s/arp_ignore", "1"},
	{"ipv4/conf/%s/arp_announce", "2"},
	{"ipv4/conf/%s/accept_redirects", "0"},
	{"ipv4/conf/%s/send_redirects", "0"},
	{"ipv4/conf/%s/route_localnet", "0"},
	{"ipv4/conf/%s/ignore_routes_with_linkdown", "1"},
	{"ipv6/conf/%s/disable_ipv6", "1"},
}

// makeLink makes the tap, or puts an existing one right.
func (n *Network) makeLink(index int, instance string) error {
	name := n.plan.link(index)
	link, err := netlink.LinkByName(name)
	fresh := false
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		fresh = true
		if err = createTap(name, firstUID+index); err == nil {
			link, err = netlink.LinkByName(name)
		}
	}
	if err == nil && (fresh || link.Attrs().Flags&net.FlagUp == 0) {
		err = n.configure(link, index, instance)
	}
	if err != nil && fresh {
		err = errors.Join(err, removeLink(name))
	}
	return err
}

func (n *Network) configure(link netlink.Link, index int, instance string) error {
	name := link.Attrs().Name
	for _, s := range linkSettings {
		err := os.WriteFile("/proc/sys/net/"+fmt.Sprintf(s[0], name), []byte(s[1]), 0)
		if errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(s[0], "ipv6") {
			continue // a kernel without IPv6
		}
		if err != nil {
			return fmt.Errorf("set up link: %w", err)
		}
	}
	gateway := &net.IPNet{IP: n.plan.gateway(index).AsSlice(), Mask: net.CIDRMask(30, 32)}
	if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: gateway}); err != nil {
		return fmt.Errorf("set address: %w", err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set link up: %w", err)
	}
	// The guest's place is fixed, so nobody need ask and no answer is believed.
	err := netlink.NeighSet(&netlink.Neigh{
		LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, Family: netlink.FAMILY_V4,
		IP: n.plan.guest(index).AsSlice(), HardwareAddr: guestMAC,
	})
	if err != nil {
		return fmt.Errorf("set neighbour: %w", err)
	}
	// The alias comes last: it says that the tap is complete.
	if err := netlink.LinkSetAlias(link, instance); err != nil {
		return fmt.Errorf("set alias: %w", err)
	}
	return nil
}

// createTap makes a persistent tap that only uid (and root) may open.
func createTap(name string, uid int) error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/net/tun: %w", err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_TUN_EXCL)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return fmt.Errorf("create tap: %w", err)
	}
	for _, c := range []struct{ request, value int }{
		{unix.TUNSETOWNER, uid}, {unix.TUNSETGROUP, uid}, {unix.TUNSETPERSIST, 1},
	} {
		if err := unix.IoctlSetInt(fd, uint(c.request), c.value); err != nil {
			return fmt.Errorf("own tap: %w", err)
		}
	}
	return nil
}

func removeLink(name string) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// Traffic are the instance's bytes and packets since its tap was made, from
// its point of view; unknown instances have none. What a guest sent counts
// before any rule drops it.
func (n *Network) Traffic(instance string) (network.Traffic, error) {
	name, err := n.linkOf(instance)
	if name == "" || err != nil {
		return network.Traffic{}, err
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return network.Traffic{}, fmt.Errorf("count traffic of %s: %w", instance, err)
	}
	s := link.Attrs().Statistics
	if s == nil {
		return network.Traffic{}, nil
	}
	counter, err := counterOf(link.Attrs().Index)
	if err != nil {
		return network.Traffic{}, fmt.Errorf("count traffic of %s: %w", instance, err)
	}
	// What the host receives is what the guest sent.
	return network.Traffic{
		Counter:   counter,
		SentBytes: s.RxBytes, SentPackets: s.RxPackets,
		ReceivedBytes: s.TxBytes, ReceivedPackets: s.TxPackets,
	}, nil
}

// linkOf is the name of the instance's tap, "" if it has none.
func (n *Network) linkOf(instance string) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.ensure(); err != nil {
		return "", fmt.Errorf("set up instance network: %w", err)
	}
	index, known := n.byName[instance]
	if !known {
		return "", nil
	}
	return n.plan.link(index), nil
}

// counterOf names a link's counters: the kernel gives out each index once in
// the life of a network namespace.
func counterOf(index int) (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	var ns unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &ns); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s/%d/%d", strings.TrimSpace(string(boot)), ns.Ino, index), nil
}
