package tap

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	tableFile = "/proc/sys/net/netfilter/nf_conntrack_max"
	// unboundedTable stands for a table that the kernel does not bound.
	unboundedTable = 1 << 18

	namesPort = 53
	// namesRate and namesBurst bound what a guest opens to name servers, in
	// connections a second: a lookup's entry stays for half a minute, so that
	// lookups alone cannot use up its total.
	namesRate, namesBurst = 100, 300

	// perPart is how much one part of what is common holds at least. The
	// kernel walks through a part for what is new in it: parts are small.
	perPart, maxParts = 256, 1024

	// lingerSeconds is how long the table keeps a TCP connection that is
	// closed. The kernel counts it as open no more, but by itself keeps it for
	// minutes: who opens and closes fast is bounded by pace and this.
	lingerSeconds = 1
)

// shares divide the host's connection table: one half is the host's own, and
// the router's. The other is the guests'; of that, half is guaranteed, so many
// to each, and half common to whoever comes first.
type shares struct {
	each       bound // of one guest
	guaranteed bound // of each guest, whatever the others do; none if open is 0
	common     bound // of all guests, besides what is guaranteed
	// The common connections are counted in parts that their addresses pick: a
	// single count would cost a walk through all of it. part is the most in one.
	parts, part int
}

// bound is what may be open at once, and how much may be opened: burst, and
// rate a second.
type bound struct{ open, rate, burst int }

// entries is how much of the table a bound allows at most: what is open, and
// what was closed and lingers.
func (b bound) entries() int { return b.open + b.burst + b.rate*lingerSeconds }

// paced is the bound of so many open that has as many lingering at most, or a
// few if it is small.
func paced(open int) bound {
	return bound{open, max(1, open/4), max(1, open/2)}
}

// divide bounds guests on a host whose table has so many entries, each to no
// more than connections.
func divide(table, connections int) shares {
	guests := table / 2
	s := shares{each: paced(max(1, min(connections, guests/32)))}
	for open := guests / 2 / maxIndex; open > 0; open-- {
		if b := paced(open); b.entries()*maxIndex <= guests/2 {
			s.guaranteed = b
			break
		}
	}
	common := max(8, guests-s.guaranteed.entries()*maxIndex)
	s.common = bound{common / 2, common * 3 / 8, common / 8}
	s.parts = max(1, min(s.common.open/perPart, maxParts))
	s.part = s.common.open / s.parts
	return s
}

// readShares asks the kernel for the size of its table.
func (n *Network) readShares() (shares, error) {
	if n.config.Table > 0 {
		return divide(n.config.Table, n.config.Connections), nil
	}
	b, err := os.ReadFile(tableFile)
	if errors.Is(err, fs.ErrNotExist) {
		// Nobody has used the table yet.
		if err := n.needTable(); err != nil {
			return shares{}, err
		}
		b, err = os.ReadFile(tableFile)
	}
	if err != nil {
		return shares{}, fmt.Errorf("read the size of the connection table: %w", err)
	}
	size, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return shares{}, fmt.Errorf("read the size of the connection table: %w", err)
	}
	if size <= 0 {
		size = unboundedTable
	}
	return divide(size, n.config.Connections), nil
}

// needTable has the kernel load its connection tracking, which a rule that
// speaks of it does.
func (n *Network) needTable() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	r := n.rules()
	c.AddTable(r.table)
	c.AddRule(rule(n.chain(c, r, "opened"), state(expr.CtStateBitESTABLISHED)))
	if err := c.Flush(); err != nil {
		return fmt.Errorf("load connection tracking: %w", err)
	}
	return nil
}

// forget takes the connections of an index out of the table, whoever opened
// them: an established one would stay for days, and with it its place in what
// is common.
func (n *Network) forget(index int) error {
	_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, party(n.plan.guest(index)))
	return err
}

// party matches connections from or to an address.
type party netip.Addr

func (p party) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	return p.is(flow.Forward.SrcIP) || p.is(flow.Forward.DstIP)
}

func (p party) is(ip net.IP) bool {
	a, ok := netip.AddrFromSlice(ip)
	return ok && a.Unmap() == netip.Addr(p)
}
