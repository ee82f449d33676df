package tap

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// sever ends the host's TCP connections to the guest: readers and writers get
// ECONNABORTED at once.
func (n *Network) sever(index int) error {
	guest := net.IP(n.plan.guest(index).AsSlice())
	sockets, err := netlink.SocketDiagTCP(unix.AF_INET)
	if err != nil {
		return fmt.Errorf("list connections: %w", err)
	}
	var failed error
	for _, s := range sockets {
		if !s.ID.Destination.Equal(guest) {
			continue
		}
		err := netlink.SocketDestroy(
			&net.TCPAddr{IP: s.ID.Source, Port: int(s.ID.SourcePort)},
			&net.TCPAddr{IP: s.ID.Destination, Port: int(s.ID.DestinationPort)})
		if errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("this kernel cannot close connections of others: %w", err)
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			failed = errors.Join(failed, err)
		}
	}
	return failed
}
