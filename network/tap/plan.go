package tap

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/miosa/miosa/network"
)

const (
	// commonPrefix begins the taps of every platform on this host, whatever
	// its cell, so that one platform's rules can tell another's taps.
	commonPrefix = "mi"
	// tablePrefix begins their tables.
	tablePrefix = "miosa-"
	// blockBits is the length of a cell's block: 4,096 networks of /30.
	blockBits = 18
	maxIndex  = 1 << (30 - blockBits)
	// firstUID is what the uids of VMs are counted from.
	firstUID = 200000
)

// plan derives every name and address from the cell id and an index.
type plan struct {
	cell  string // 8 lower-case hex characters
	id    uint32 // the same as a number: marks the cell's route
	block netip.Prefix
}

func newPlan(cell string) (plan, error) {
	b, err := hex.DecodeString(cell)
	if err != nil || len(b) != 4 || cell != strings.ToLower(cell) {
		return plan{}, fmt.Errorf("cell id %q is not 8 lower-case hex characters", cell)
	}
	return plan{cell: cell, id: binary.BigEndian.Uint32(b)}, nil
}

func (p plan) table() string  { return tablePrefix + p.cell }
func (p plan) prefix() string { return commonPrefix + p.cell + "-" }

func (p plan) link(index int) string { return p.prefix() + strconv.Itoa(index) }

// index reads a link's name back; ok is false for other platforms' links.
func (p plan) index(link string) (int, bool) {
	digits, ok := strings.CutPrefix(link, p.prefix())
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n < 0 || n >= maxIndex || strconv.Itoa(n) != digits {
		return 0, false
	}
	return n, true
}

// gateway is the host's end of the index's /30, guest the instance's.
func (p plan) gateway(index int) netip.Addr { return p.at(index, 1) }
func (p plan) guest(index int) netip.Addr   { return p.at(index, 2) }

func (p plan) at(index, offset int) netip.Addr {
	base := p.block.Addr().As4()
	n := binary.BigEndian.Uint32(base[:]) + uint32(index)*4 + uint32(offset)
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n)))
}

// guestMAC is network.GuestMAC as bytes.
var guestMAC, _ = net.ParseMAC(network.GuestMAC)

// blocks lists where the cell's block may lie, in order of preference:
// within each pool it begins at a place that the cell id picks, so that
// platforms rarely compete.
func (p plan) blocks(pools []netip.Prefix) []netip.Prefix {
	var all []netip.Prefix
	for _, pool := range pools {
		if !pool.Addr().Is4() || pool.Bits() > blockBits {
			continue
		}
		count := uint32(1) << (blockBits - pool.Bits())
		first := pool.Masked().Addr().As4()
		base := binary.BigEndian.Uint32(first[:])
		// Multiplicative hashing spreads neighbouring cell ids.
		start := p.id * 2654435761 >> 16
		for i := range count {
			n := base + ((start+i)%count)<<(32-blockBits)
			all = append(all, netip.PrefixFrom(netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n))), blockBits))
		}
	}
	return all
}

// choose is the first block that overlaps none of taken.
func choose(blocks, taken []netip.Prefix) (netip.Prefix, bool) {
next:
	for _, b := range blocks {
		for _, t := range taken {
			if t.Bits() > 0 && t.Overlaps(b) {
				continue next
			}
		}
		return b, true
	}
	return netip.Prefix{}, false
}
