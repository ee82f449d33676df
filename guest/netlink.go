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
	if err := unix.Sendto(n.fd, append(b, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	answer := make([]byte, 4096)
	for {
		got, _, err := unix.Recvfrom(n.fd, answer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
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

// findInterface returns the interface with the MAC, or the only one besides
// loopback when mac is empty.
func findInterface(sysfs, mac string) (name string, index int, err error) {
	entries, err := os.ReadDir(filepath.Join(sysfs, "class/net"))
	if err != nil {
		return "", 0, err
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
		if mac == "" || strings.EqualFold(strings.TrimSpace(string(address)), mac) {
			index, err := readInt(filepath.Join(dir, "ifindex"))
			return e.Name(), index, err
		}
	}
	if mac == "" {
		return "", 0, errors.New("the machine has no network interface")
	}
	return "", 0, fmt.Errorf("no network interface has the address %s", mac)
}

// disableIPv6 keeps the kernel from giving the interface a link-local address.
// A kernel without IPv6 has nothing to disable.
func disableIPv6(procfs, name string) error {
	path := filepath.Join(procfs, "sys/net/ipv6/conf", name, "disable_ipv6")
	if err := os.WriteFile(path, []byte("1"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("disable IPv6 on %s: %w", name, err)
	}
	return nil
}

// loopbackIndex is lo's, the first interface of every network namespace.
const loopbackIndex = 1

// setUpNetwork configures loopback and, with conf, the one interface.
func setUpNetwork(sysfs, procfs string, conf *wire.Network) error {
	n, err := openNetlink()
	if err != nil {
		return err
	}
	defer n.close()
	if err := n.linkUp(loopbackIndex); err != nil {
		return fmt.Errorf("bring loopback up: %w", err)
	}
	if conf == nil {
		return nil
	}
	address, err := netip.ParsePrefix(conf.Address)
	if err != nil {
		return fmt.Errorf("the instance's address: %w", err)
	}
	name, index, err := findInterface(sysfs, conf.MAC)
	if err != nil {
		return err
	}
	if address.Addr().Is4() {
		// No link-local address: the host's rules and the meter know one
		// address, and the boot is spared the neighbour discovery.
		if err := disableIPv6(procfs, name); err != nil {
			return err
		}
	}
	if err := n.addAddress(index, address); err != nil {
		return fmt.Errorf("set address %s: %w", address, err)
	}
	if err := n.linkUp(index); err != nil {
		return fmt.Errorf("bring the network interface up: %w", err)
	}
	if conf.Gateway == "" {
		return nil
	}
	gateway, err := netip.ParseAddr(conf.Gateway)
	if err != nil {
		return fmt.Errorf("the gateway's address: %w", err)
	}
	if err := n.addDefaultRoute(index, gateway); err != nil {
		return fmt.Errorf("set the default route by %s: %w", gateway, err)
	}
	return nil
}
