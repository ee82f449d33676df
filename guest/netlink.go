package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	wire "github.com/miosa/miosa/wire/guest"
)

// netlink is as much of rtnetlink as a guest with one interface needs. A full
// library would be a third of PID 1's size.
type netlink struct {
	fd  int
	seq uint32
}

func openNetlink() (*netlink, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	return &netlink{fd: fd}, nil
}

func (n *netlink) close() { _ = unix.Close(n.fd) }

// linkUp brings the interface up.
func (n *netlink) linkUp(index int) error {
	b := make([]byte, unix.SizeofIfInfomsg)
	b[0] = unix.AF_UNSPEC
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	binary.NativeEndian.PutUint32(b[8:], unix.IFF_UP)  // flags
	binary.NativeEndian.PutUint32(b[12:], unix.IFF_UP) // which of them change
	return n.request(unix.RTM_NEWLINK, 0, b)
}

// addAddress gives the interface an address.
func (n *netlink) addAddress(index int, p netip.Prefix) error {
	b := make([]byte, unix.SizeofIfAddrmsg)
	b[0] = family(p.Addr())
	b[1] = byte(p.Bits())
	if p.Addr().Is6() {
		b[2] = unix.IFA_F_NODAD // the platform hands out each address once
	}
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	b = attribute(b, unix.IFA_LOCAL, p.Addr().AsSlice())
	b = attribute(b, unix.IFA_ADDRESS, p.Addr().AsSlice())
	return n.request(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, b)
}

// addDefaultRoute sends everything through the gateway, which need not lie in
// the interface's own network.
func (n *netlink) addDefaultRoute(index int, gateway netip.Addr) error {
	b := make([]byte, unix.SizeofRtMsg)
	b[0] = family(gateway)
	b[4] = unix.RT_TABLE_MAIN
	b[5] = unix.RTPROT_BOOT
	b[6] = unix.RT_SCOPE_UNIVERSE
	b[7] = unix.RTN_UNICAST
	binary.NativeEndian.PutUint32(b[8:], unix.RTNH_F_ONLINK)
	b = attribute(b, unix.RTA_GATEWAY, gateway.AsSlice())
	b = attribute(b, unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, uint32(index)))
	return n.request(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, b)
}

func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func attribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%unix.RTA_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

// request sends one message and waits for the kernel's acknowledgement.
func (n *netlink) request(kind, flags uint16, body []byte) error {
	n.seq++
	b := make([]byte, unix.SizeofNlMsghdr, unix.SizeofNlMsghdr+len(body))
	binary.NativeEndian.PutUint32(b[0:], uint32(unix.SizeofNlMsghdr+len(body)))
	binary.NativeEndian.PutUint16(b[4:], kind)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK|flags)
	binary.NativeEndian.PutUint32(b[8:], n.seq)
	if _, err := rawWrite(n.fd, append(b, body...)); err != nil {
		return os.NewSyscallError("write", err)
	}
	answer := make([]byte, 4096)
	for {
		got, err := rawRead(n.fd, answer)
		if err != nil {
			return os.NewSyscallError("read", err)
		}
		if code, ok := acknowledgement(answer[:got], n.seq); ok {
			if code != 0 {
				return unix.Errno(code)
			}
			return nil
		}
	}
}

// acknowledgement is the error number of the answer to the request seq, 0 for
// success; ok is false when the packet holds none.
func acknowledgement(b []byte, seq uint32) (code int, ok bool) {
	for len(b) >= unix.SizeofNlMsghdr+4 {
		length := int(binary.NativeEndian.Uint32(b))
		if length < unix.SizeofNlMsghdr+4 || length > len(b) {
			return 0, false
		}
		if binary.NativeEndian.Uint16(b[4:]) == unix.NLMSG_ERROR && binary.NativeEndian.Uint32(b[8:]) == seq {
			return -int(int32(binary.NativeEndian.Uint32(b[unix.SizeofNlMsghdr:]))), true
		}
		b = b[min(len(b), (length+3)&^3):]
	}
	return 0, false
}

// nic is the machine's one network interface besides loopback.
type nic struct {
	name, mac string
	index     int
}

// findInterface returns the first interface that is not loopback; index 0
// when there is none.
func findInterface(sysfs string) (nic, error) {
	entries, err := os.ReadDir(filepath.Join(sysfs, "class/net"))
	if err != nil {
		return nic{}, err
	}
	for _, e := range entries {
		if e.Name() == "lo" {
			continue
		}
		dir := filepath.Join(sysfs, "class/net", e.Name())
		address, err := os.ReadFile(filepath.Join(dir, "address"))
		if err != nil {
			continue
		}
		index, err := readInt(filepath.Join(dir, "ifindex"))
		return nic{e.Name(), strings.TrimSpace(string(address)), index}, err
	}
	return nic{}, nil
}

// setIPv6 allows or forbids IPv6 on the interface. A kernel without it has
// nothing to set.
func setIPv6(procfs, name string, allowed bool) error {
	disable := []byte("1")
	if allowed {
		disable = []byte("0")
	}
	path := filepath.Join(procfs, "sys/net/ipv6/conf", name, "disable_ipv6")
	if err := os.WriteFile(path, disable, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("set IPv6 of %s: %w", name, err)
	}
	return nil
}

// loopbackIndex is lo's, the first interface of every network namespace.
const loopbackIndex = 1

// network is the machine's network, of which the links come up before anybody
// knows what addresses they will have.
type network struct {
	netlink *netlink
	procfs  string
	nic     nic
}

// bringUp brings loopback and the one interface up, without an address yet.
func bringUp(sysfs, procfs string) (_ *network, err error) {
	n := &network{procfs: procfs}
	if n.netlink, err = openNetlink(); err != nil {
		return nil, err
	}
	if err := n.netlink.linkUp(loopbackIndex); err != nil {
		return nil, fmt.Errorf("bring loopback up: %w", err)
	}
	if n.nic, err = findInterface(sysfs); err != nil || n.nic.index == 0 {
		return n, err
	}
	// No link-local address: the host's rules and the meter know one address,
	// and the boot is spared the neighbour discovery.
	if err := setIPv6(procfs, n.nic.name, false); err != nil {
		return nil, err
	}
	if err := n.netlink.linkUp(n.nic.index); err != nil {
		return nil, fmt.Errorf("bring the network interface up: %w", err)
	}
	return n, nil
}

// close ends what is done with the network.
func (n *network) close() { n.netlink.close() }

// configure gives the one interface its address and route, if there are any.
func (n *network) configure(conf *wire.Network) error {
	if conf == nil {
		return nil
	}
	address, err := netip.ParsePrefix(conf.Address)
	switch {
	case err != nil:
		return fmt.Errorf("the instance's address: %w", err)
	case n.nic.index == 0:
		return errors.New("the machine has no network interface")
	case conf.MAC != "" && !strings.EqualFold(n.nic.mac, conf.MAC):
		return fmt.Errorf("no network interface has the address %s", conf.MAC)
	}
	if address.Addr().Is6() {
		if err := setIPv6(n.procfs, n.nic.name, true); err != nil {
			return err
		}
	}
	if err := n.netlink.addAddress(n.nic.index, address); err != nil {
		return fmt.Errorf("set address %s: %w", address, err)
	}
	if conf.Gateway == "" {
		return nil
	}
	gateway, err := netip.ParseAddr(conf.Gateway)
	if err != nil {
		return fmt.Errorf("the gateway's address: %w", err)
	}
	if err := n.netlink.addDefaultRoute(n.nic.index, gateway); err != nil {
		return fmt.Errorf("set the default route by %s: %w", gateway, err)
	}
	return nil
}
