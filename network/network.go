// Package network is the port to instance networking: it gives each instance
// an attachment (address, tap, MAC, uid) and takes it back. tap and user are
// its adapters.
package network

import (
	"context"
	"net/netip"

	"github.com/miosa/miosa/vmm"
)

// Network makes attachments. Its methods may be called from several
// goroutines at once.
type Network interface {
	// Attach makes, or finds again, the attachment of an instance: the same
	// instance keeps its index, address, MAC and tap over restarts of the
	// agent and of its VM.
	Attach(ctx context.Context, instance string, port int, egressMbps int) (Attachment, error)
	// Detach takes it back; unknown instances are no error.
	Detach(ctx context.Context, instance string) error
	// Reclaim removes every attachment of this platform that keep does not hold.
	Reclaim(ctx context.Context, keep func(instance string) bool) error
	// Close removes what all attachments share (tables, chains). Taps of
	// running instances stay unless they were detached.
	Close(ctx context.Context) error
}

// Attachment is one instance's place in the network.
type Attachment struct {
	Index       int // unique on this host; also picks the uid of the VM
	NIC         vmm.NIC
	Address     netip.AddrPort // where the host reaches the app
	Nameservers []string       // for the guest's resolv.conf
}
