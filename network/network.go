// Package network is the port to instance networking: it gives each instance
// an attachment (address, tap, MAC, uid) and takes it back. tap and user are
// its adapters.
package network

import (
	"context"
	"net"
	"net/netip"

	"github.com/miosa/miosa/vmm"
	"github.com/miosa/miosa/wire/guest"
)

// Network makes attachments. Its methods may be called from several
// goroutines at once.
type Network interface {
	// Attach makes, or finds again, the attachment of an instance: the same
	// instance keeps its index, address, MAC and tap over restarts of the
	// agent and of its VM. port is where its app listens; 0: nowhere. It is
	// called at each boot, before the guest is configured.
	Attach(ctx context.Context, instance string, port int, egressMbps int) (Attachment, error)
	// Detach takes it back; unknown instances are no error.
	Detach(ctx context.Context, instance string) error
	// Reclaim removes every attachment of this platform that keep does not hold.
	Reclaim(ctx context.Context, keep func(instance string) bool) error
	// Close removes what all attachments share (tables, chains), unless an
	// instance is still attached: its VM may outlive us, and must not outlive
	// its isolation.
	Close(ctx context.Context) error
}

// GuestMAC is every guest's hardware address, locally administered. Each has a
// network of its own with one host in it besides, so nothing needs to tell
// guests apart by it; being alike lets them be copies of one machine.
const GuestMAC = "02:6d:69:6f:73:61"

// Attachment is one instance's place in the network.
type Attachment struct {
	Index       int // unique on this host
	UID         int // what the VM's process runs as, unique on this host; 0: the driver's default
	NIC         vmm.NIC
	Address     netip.AddrPort // where the host reaches the app; may be none where it has no port
	Nameservers []string       // for the guest's resolv.conf
	Gate        *guest.Gate    // of the boot that begins now, for the guest; nil: none
}

// Greeter is a Network whose addresses others than the platform can connect to,
// too: a gate in the guest lets in who greets it.
type Greeter interface {
	// Greet begins a connection to an attachment's address, before its first
	// byte. An error (with ctx's deadline, too) leaves it of no use, and the
	// caller to close it.
	Greet(ctx context.Context, conn net.Conn, to netip.AddrPort) error
}

// Dialer connects to the addresses of attachments, and greets where that has to
// be done.
func Dialer(n Network) func(ctx context.Context, proto, addr string) (net.Conn, error) {
	plain := (&net.Dialer{}).DialContext
	greeter, ok := n.(Greeter)
	if !ok {
		return plain
	}
	return func(ctx context.Context, proto, addr string) (net.Conn, error) {
		to, err := netip.ParseAddrPort(addr)
		if err != nil {
			return nil, err
		}
		conn, err := plain(ctx, proto, addr)
		if err != nil {
			return nil, err
		}
		if err := greeter.Greet(ctx, conn, to); err != nil {
			conn.Close()
			return nil, err
		}
		return conn, nil
	}
}

// Meter is a Network that counts. Not every one can.
type Meter interface {
	// Traffic are the instance's bytes and packets since it was attached;
	// unknown instances have none.
	Traffic(instance string) (Traffic, error)
}

// Traffic is counted from the instance's point of view.
type Traffic struct {
	// Counter names what counted: while it is the same, the counts never go
	// back. A tap that is made anew is another one. "": nothing counts.
	Counter                        string
	SentBytes, SentPackets         uint64
	ReceivedBytes, ReceivedPackets uint64
}

// Severer is a Network that can close the host's connections to an instance
// at once, so that requests in flight to a dead VM fail now rather than after
// minutes of retransmission.
type Severer interface {
	Sever(ctx context.Context, instance string) error
}
