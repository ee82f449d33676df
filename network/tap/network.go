// Package tap is the network adapter for hosts where we are root: every
// instance gets a tap device and a /30 of its own, and nftables rules keep it
// apart from other instances, from the host and from internal networks.
//
// The kernel is the only record: a tap's name holds the cell and the index,
// its alias the instance, and an unreachable route holds the cell's address
// block. A restarted agent reads all of it back; two platforms on one host
// never touch each other's.
//
// Everything happens in the network namespace of the calling thread. A
// namespace with nothing but a loopback works: instances then reach nothing
// outside.
package tap

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/network"
	"github.com/miosa/miosa/vmm"
)

// Config says where the network lies and what instances may reach.
type Config struct {
	// CellID is the platform's id on this host: 8 lower-case hex characters,
	// derived from its data directory.
	CellID string
	// Pools are the ranges the cell's /18 is looked for in, in order; none:
	// 100.64.0.0/10, then 172.16.0.0/12. What the host uses is stepped around.
	Pools []netip.Prefix
	// Nameservers go into the guests' resolv.conf, and are reachable on port
	// 53 even when they are internal. None: the host's own, less loopback ones.
	Nameservers []netip.Addr
	// Allow opens internal destinations that instances may reach, such as a
	// database that the operator binds them to.
	Allow []Allow
	// Connections bounds what one instance may have open at once, whatever it
	// talks to, so that none can fill the host's connection table; where that
	// is small, less. 0: 4096.
	Connections int
	// Table is how many connections the host can keep track of; instances get
	// half of it between them. 0: what the kernel says (nf_conntrack_max).
	Table int
	// LockFile is held while an address block is chosen, so that platforms
	// starting at once do not choose the same. "": /run/miosa-network.lock.
	LockFile string
}

// Allow is one destination that the internal ranges' ban does not hold for.
type Allow struct {
	To   netip.Prefix
	Port uint16 // TCP and UDP; 0: every protocol and port
}

// Network is the adapter. Make it with New.
type Network struct {
	config Config
	log    *slog.Logger

	// mu guards what follows and serialises all changes to links and rules.
	mu       sync.Mutex
	ready    bool
	plan     plan
	shares   shares
	byName   map[string]int // instance → index
	byIndex  map[int]string
	limited  map[int]int // egress limits in the rules, in 10^6 bits a second, by index
	marked   []string    // uplinks whose forwarding we, or another platform, switched on
	next     int         // where the search for a free index begins
	saidNone bool
}

// New checks the configuration; nothing is touched before the first call.
func New(config Config, log *slog.Logger) (*Network, error) {
	p, err := newPlan(config.CellID)
	if err != nil {
		return nil, err
	}
	if len(config.Pools) == 0 {
		config.Pools = []netip.Prefix{netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("172.16.0.0/12")}
	}
	if len(p.blocks(config.Pools)) == 0 {
		return nil, fmt.Errorf("no address pool is an IPv4 range of at least /%d", blockBits)
	}
	for _, a := range config.Allow {
		if !a.To.Addr().Is4() {
			return nil, fmt.Errorf("allowed destination %s is not an IPv4 prefix", a.To)
		}
	}
	config.Connections = cmp.Or(config.Connections, 4096)
	config.LockFile = cmp.Or(config.LockFile, "/run/miosa-network.lock")
	return &Network{config: config, log: log, plan: p, limited: make(map[int]int)}, nil
}

// Attach makes the instance's tap, or finds it again. egressMbps limits what
// the instance sends, in 10^6 bits a second; 0 takes a former limit away.
func (n *Network) Attach(_ context.Context, instance string, port, egressMbps int) (network.Attachment, error) {
	switch {
	case instance == "" || len(instance) > 255:
		return network.Attachment{}, miosa.Errorf(miosa.Invalid, "instance name of %d bytes cannot be attached", len(instance))
	case port < 0 || port > 65535:
		return network.Attachment{}, miosa.Errorf(miosa.Invalid, "port %d is out of range", port)
	case egressMbps < 0:
		return network.Attachment{}, miosa.Errorf(miosa.Invalid, "egress limit %d is negative", egressMbps)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.ensure(); err != nil {
		return network.Attachment{}, fmt.Errorf("set up instance network: %w", err)
	}
	index, known := n.byName[instance]
	if !known {
		var ok bool
		if index, ok = n.free(); !ok {
			return network.Attachment{}, miosa.Errorf(miosa.Unavailable, "all %d instance networks of this host are in use", maxIndex)
		}
	}
	// The rules come first: a tap is never up without them.
	if err := n.admit(index, egressMbps); err != nil {
		// Somebody flushed the host's rules, ours with them: put them back,
		// for the other instances too.
		n.log.Warn("instance rules are rebuilt", "err", err)
		if err := n.buildRules(); err != nil {
			return network.Attachment{}, fmt.Errorf("rebuild rules: %w", err)
		}
		if err := n.admit(index, egressMbps); err != nil {
			return network.Attachment{}, fmt.Errorf("admit instance %s: %w", instance, err)
		}
	}
	if err := n.makeLink(index, instance); err != nil {
		if !known {
			n.expel(index)
		}
		return network.Attachment{}, fmt.Errorf("make tap of instance %s: %w", instance, err)
	}
	if !known {
		n.byName[instance], n.byIndex[index] = index, instance
		n.next = (index + 1) % maxIndex
	}
	if err := n.openUplink(); err != nil {
		return network.Attachment{}, fmt.Errorf("open uplink: %w", err)
	}
	return n.attachment(index, port), nil
}

func (n *Network) attachment(index, port int) network.Attachment {
	guest := n.plan.guest(index)
	return network.Attachment{
		Index: index,
		NIC: vmm.NIC{
			Tap:       n.plan.link(index),
			MAC:       network.GuestMAC,
			Guest:     netip.PrefixFrom(guest, 30),
			Gateway:   n.plan.gateway(index),
			GuestPort: port,
		},
		UID:         firstUID + index,
		Address:     netip.AddrPortFrom(guest, uint16(port)),
		Nameservers: n.nameserverWords(),
	}
}

// free finds an unused index, going round: an address is given out again as
// late as possible, so that nobody's kept-alive connection meets a stranger.
func (n *Network) free() (int, bool) {
	for i := range maxIndex {
		index := (n.next + i) % maxIndex
		if _, used := n.byIndex[index]; !used {
			return index, true
		}
	}
	return 0, false
}

// Detach removes the instance's tap and rules.
func (n *Network) Detach(_ context.Context, instance string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.ensure(); err != nil {
		return fmt.Errorf("set up instance network: %w", err)
	}
	return n.detach(instance)
}

func (n *Network) detach(instance string) error {
	index, known := n.byName[instance]
	if !known {
		return nil
	}
	if err := n.sever(index); err != nil {
		n.log.Warn("connections to a leaving instance were not closed", "instance", instance, "err", err)
	}
	if err := removeLink(n.plan.link(index)); err != nil {
		return fmt.Errorf("remove tap of instance %s: %w", instance, err)
	}
	delete(n.byName, instance)
	delete(n.byIndex, index)
	n.expel(index)
	if err := n.forget(index); err != nil {
		n.log.Warn("connections of a removed tap stay in the table until they time out", "tap", n.plan.link(index), "err", err)
	}
	return nil
}

// Reclaim removes every tap of this platform whose instance keep does not hold.
func (n *Network) Reclaim(ctx context.Context, keep func(instance string) bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.ensure(); err != nil {
		return fmt.Errorf("set up instance network: %w", err)
	}
	for _, index := range slices.Sorted(maps.Keys(n.byIndex)) {
		instance := n.byIndex[index]
		if keep(instance) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := n.detach(instance); err != nil {
			return err
		}
	}
	return nil
}

// Sever closes the host's own TCP connections to the instance at once: what
// is in flight to a dead VM then fails now and not after minutes of
// retransmission. Unknown instances are no error.
func (n *Network) Sever(_ context.Context, instance string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.ensure(); err != nil {
		return fmt.Errorf("set up instance network: %w", err)
	}
	index, known := n.byName[instance]
	if !known {
		return nil
	}
	return n.sever(index)
}

// Close removes the rules, the address block and the forwarding that this
// platform switched on. While an instance is attached nothing is removed: its
// VM may outlive us, and must not outlive its isolation.
func (n *Network) Close(context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.ready || len(n.byIndex) > 0 {
		return nil
	}
	if err := n.closeUplinks(); err != nil {
		return err
	}
	if err := n.dropRules(); err != nil {
		return err
	}
	if err := n.releaseBlock(); err != nil {
		return err
	}
	n.ready = false
	return nil
}

// ensure reads back what the kernel holds and puts the rules in place, once.
func (n *Network) ensure() error {
	if n.ready {
		return nil
	}
	links, err := n.links()
	if err != nil {
		return err
	}
	if err := n.reserveBlock(); err != nil {
		return err
	}
	n.byName, n.byIndex = make(map[string]int), make(map[int]string)
	for _, l := range links {
		index, ok := n.plan.index(l.Name)
		if !ok {
			continue
		}
		if _, twice := n.byName[l.Alias]; l.Alias == "" || twice {
			// We died between making the tap and naming it.
			if err := removeLink(l.Name); err != nil {
				return err
			}
			continue
		}
		n.byName[l.Alias], n.byIndex[index] = index, l.Alias
		n.next = max(n.next, index+1) % maxIndex
	}
	if len(n.config.Nameservers) == 0 {
		n.config.Nameservers = hostNameservers()
	}
	if n.limited, err = n.heldLimits(); err != nil {
		return err
	}
	if n.marked, err = n.heldMarks(); err != nil {
		return err
	}
	if err := n.buildRules(); err != nil {
		return err
	}
	n.ready = true
	return nil
}

func (n *Network) nameserverWords() []string {
	var words []string
	for _, ns := range n.config.Nameservers {
		words = append(words, ns.String())
	}
	return words
}
