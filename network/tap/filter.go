package tap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The rules, in words:
//
//   - guard (before connection tracking): a packet from a tap must carry that
//     tap's MAC and IPv4 address; anything else, IPv6 too, is dropped. Then
//     the tap's egress limit, if it has one.
//   - to host: only replies, and what Allow and Nameservers name.
//   - forwarded from a guest: never to another instance, of whichever
//     platform; not to internal ranges, but for Allow and Nameservers;
//     otherwise out.
//   - forwarded to a guest: only replies.
//   - from this host to a guest: only replies, and what our own user's processes
//     open: the router's requests and the agent's probes.
//   - whatever a guest opens, and to whom, is counted (package's shares): a
//     rate for names, a total for the guest, and one for all guests together.
//     What is not let in is dropped before the connection table has it: the
//     kernel enters a connection only once its first packet has passed.
//   - what leaves by an uplink is masqueraded.
//   - a link whose forwarding we switched on forwards for instances only.

// internal are the ranges that guests do not reach: private, shared,
// loopback, link-local (cloud metadata lives there), benchmarking, multicast,
// reserved.
var internal = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("224.0.0.0/3"),
}

// register32 is where a concatenated key's second part begins: names of
// links fill the first 16 bytes.
const (
	registerName = unix.NFT_REG_1
	registerMAC  = unix.NFT_REG32_04
	registerIP   = unix.NFT_REG32_06
)

// uplinksSet is looked for in other platforms' tables, too.
const uplinksSet = "uplinks"

// rules are the table's parts, by name; all of it belongs to one cell.
type rules struct {
	table   *nftables.Table
	guests  *nftables.Set // link . MAC . address
	limits  *nftables.Set // link → chain of its egress limit
	uplinks *nftables.Set // links that forward for instances' sake alone

	// What is counted. The limits are part of the names: the kernel keeps a
	// limit with each count, and what was counted by another is no use.
	names          *nftables.Set // rate of lookups by guest address
	each           *nftables.Set // open connections by guest address
	eachRate       *nftables.Set // how fast it opens them
	guaranteed     *nftables.Set // the same two, of what each is guaranteed
	guaranteedRate *nftables.Set
	common         *nftables.Set // open connections of all guests, by part
}

func (n *Network) rules() rules {
	t := &nftables.Table{Family: nftables.TableFamilyINet, Name: n.plan.table()}
	return rules{
		table: t,
		guests: &nftables.Set{
			Table: t, Name: "guests", Concatenation: true,
			KeyType: nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeEtherAddr, nftables.TypeIPAddr),
		},
		limits: &nftables.Set{
			Table: t, Name: "limits", IsMap: true, KeyType: nftables.TypeIFName, DataType: nftables.TypeVerdict,
		},
		uplinks:        &nftables.Set{Table: t, Name: uplinksSet, KeyType: nftables.TypeIFName},
		names:          counts(t, fmt.Sprintf("names-%d", namesRate), nftables.TypeIPAddr, maxIndex),
		each:           counts(t, fmt.Sprintf("each-%d", n.shares.each.open), nftables.TypeIPAddr, maxIndex),
		eachRate:       counts(t, fmt.Sprintf("each-rate-%d", n.shares.each.rate), nftables.TypeIPAddr, maxIndex),
		guaranteed:     counts(t, fmt.Sprintf("guaranteed-%d", n.shares.guaranteed.open), nftables.TypeIPAddr, maxIndex),
		guaranteedRate: counts(t, fmt.Sprintf("guaranteed-rate-%d", n.shares.guaranteed.rate), nftables.TypeIPAddr, maxIndex),
		common:         counts(t, fmt.Sprintf("common-%d-%d", n.shares.parts, n.shares.part), nftables.TypeInteger, n.shares.parts),
	}
}

func counts(t *nftables.Table, name string, key nftables.SetDatatype, size int) *nftables.Set {
	return &nftables.Set{Table: t, Name: name, KeyType: key, Dynamic: true, Size: uint32(size)} //nolint:gosec // both are small
}

func (r rules) counted() []*nftables.Set {
	return []*nftables.Set{r.names, r.each, r.eachRate, r.guaranteed, r.guaranteedRate, r.common}
}

// buildRules replaces what the cell's table holds in one transaction: there is
// no moment without rules, connections go on, and those that are open stay
// counted, or each restart would allow a guest as many again.
func (n *Network) buildRules() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	if n.shares, err = n.readShares(); err != nil {
		return err
	}
	r := n.rules()
	if err := clearTable(c, r); err != nil {
		return err
	}

	// The limits of those who are here stay: nobody attaches a VM that goes on.
	var guests, limits, uplinks []nftables.SetElement
	for index := range n.byIndex {
		guests = append(guests, n.guestElement(index))
		if mbps := n.limited[index]; mbps > 0 {
			limits = append(limits, n.limit(c, r, index, mbps))
		}
	}
	for _, name := range n.marked {
		uplinks = append(uplinks, nftables.SetElement{Key: linkName(name)})
	}
	elements := map[*nftables.Set][]nftables.SetElement{r.guests: guests, r.limits: limits, r.uplinks: uplinks}
	for _, set := range append(r.counted(), r.guests, r.limits, r.uplinks) {
		if err := c.AddSet(set, elements[set]); err != nil {
			return fmt.Errorf("add set %s: %w", set.Name, err)
		}
	}
	c.AddObj(linger(r))

	// The jumped-to chains stand first: a rule may name only what exists.
	limited := n.chain(c, r, "limited")
	c.AddRule(rule(limited, limitLookup(r)))
	guard := n.chain(c, r, "guard")
	c.AddRule(rule(guard, guestLookup(r), one(&expr.Verdict{Kind: expr.VerdictGoto, Chain: "limited"})))
	c.AddRule(rule(guard, drop()))

	// What a guest opens runs through these. Each lets on within its limit and
	// drops otherwise, so that a count that cannot be kept is no hole.
	held := n.shares
	shared := n.chain(c, r, "shared")
	if g := held.guaranteed; g.open > 0 {
		c.AddRule(rule(shared,
			count(r.guaranteedRate, guestAddress(), pace(g)),
			count(r.guaranteed, guestAddress(), connections(g.open)), accept()))
	}
	c.AddRule(rule(shared, count(r.common, somePart(held.parts), connections(held.part)), one(pace(held.common)), accept()))
	c.AddRule(rule(shared, drop()))
	counted := n.chain(c, r, "counted")
	c.AddRule(rule(counted,
		count(r.eachRate, guestAddress(), pace(held.each)), // first, as it costs next to nothing
		count(r.each, guestAddress(), connections(held.each.open)), goTo("shared")))
	c.AddRule(rule(counted, drop()))
	lookup := n.chain(c, r, "lookup")
	c.AddRule(rule(lookup, count(r.names, guestAddress(), pace(bound{rate: namesRate, burst: namesBurst})), goTo("counted")))
	c.AddRule(rule(lookup, drop()))
	opened := n.chain(c, r, "opened")
	// What belongs to no connection would leave with the guest's own address.
	c.AddRule(rule(opened, notNew(), drop()))
	c.AddRule(rule(opened, lingers()))
	for _, protocol := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		c.AddRule(rule(opened, destinationPort(protocol, namesPort), goTo("lookup")))
	}
	c.AddRule(rule(opened, goTo("counted")))

	toHost := n.chain(c, r, "to-host")
	addReplies(c, toHost)
	n.addAllowed(c, toHost)
	c.AddRule(rule(toHost, drop()))

	fromGuest := n.chain(c, r, "from-guest")
	c.AddRule(rule(fromGuest, outgoing(expr.CmpOpEq, commonPrefix), drop()))
	addReplies(c, fromGuest)
	n.addAllowed(c, fromGuest)
	for _, p := range internal {
		c.AddRule(rule(fromGuest, destination(p), drop()))
	}
	c.AddRule(rule(fromGuest, goTo("opened")))

	toGuest := n.chain(c, r, "to-guest")
	addReplies(c, toGuest)
	c.AddRule(rule(toGuest, drop()))

	fromHost := n.chain(c, r, "from-host")
	addReplies(c, fromHost)
	c.AddRule(rule(fromHost, openedBy(os.Geteuid()), accept()))
	c.AddRule(rule(fromHost, drop()))

	ours := n.plan.prefix()
	pre := n.hook(c, r, "prerouting", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	c.AddRule(rule(pre, incoming(ours), jump("guard")))
	input := n.hook(c, r, "input", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter)
	c.AddRule(rule(input, incoming(ours), jump("to-host")))
	output := n.hook(c, r, "output", nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityFilter)
	c.AddRule(rule(output, outgoing(expr.CmpOpEq, ours), jump("from-host")))
	forward := n.hook(c, r, "forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	c.AddRule(rule(forward, incoming(ours), jump("from-guest")))
	c.AddRule(rule(forward, outgoing(expr.CmpOpEq, ours), jump("to-guest")))
	c.AddRule(rule(forward, uplinkLookup(r), outgoing(expr.CmpOpNeq, commonPrefix), drop()))
	nat := n.hook(c, r, "postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	c.AddRule(rule(nat, source(n.plan.block), outgoing(expr.CmpOpNeq, commonPrefix), one(&expr.Masq{})))

	if err := c.Flush(); err != nil {
		return fmt.Errorf("install rules: %w", err)
	}
	maps.DeleteFunc(n.limited, func(index, _ int) bool { return n.byIndex[index] == "" })
	return nil
}

// clearTable takes everything out of the table but what is counted by the
// limits that hold now; without a table it makes one.
func clearTable(c *nftables.Conn, r rules) error {
	c.AddTable(r.table)
	chains, err := c.ListChainsOfTableFamily(r.table.Family)
	if err != nil {
		return fmt.Errorf("list chains: %w", err)
	}
	chains = slices.DeleteFunc(chains, func(chain *nftables.Chain) bool { return chain.Table.Name != r.table.Name })
	var sets []*nftables.Set
	if len(chains) > 0 { // else there may be no table yet
		if sets, err = c.GetSets(r.table); err != nil {
			return fmt.Errorf("list sets: %w", err)
		}
	}
	// In this order nothing is removed that something else still names.
	for _, chain := range chains {
		c.FlushChain(chain)
	}
	for _, set := range sets {
		if !slices.ContainsFunc(r.counted(), func(kept *nftables.Set) bool { return kept.Name == set.Name }) {
			c.DelSet(set)
		}
	}
	for _, chain := range chains {
		c.DelChain(chain)
	}
	return nil
}

// addReplies lets the packets of connections in that are open already, and
// what the network has to say of them. Other "related" packets open a
// connection, and nobody asks for that here.
func addReplies(c *nftables.Conn, chain *nftables.Chain) {
	c.AddRule(rule(chain, state(expr.CtStateBitESTABLISHED), accept()))
	c.AddRule(rule(chain, state(expr.CtStateBitRELATED), protocol(unix.IPPROTO_ICMP), accept()))
}

func (n *Network) dropRules() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	r := n.rules()
	c.AddTable(r.table) // deleting what is not there is an error
	c.DelTable(r.table)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("remove rules: %w", err)
	}
	return nil
}

// admit lets an index's packets in, under its egress limit. A former limit is
// replaced.
func (n *Network) admit(index, egressMbps int) error {
	if err := n.unlimit(index); err != nil {
		return err
	}
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	r := n.rules()
	if err := c.SetAddElements(r.guests, []nftables.SetElement{n.guestElement(index)}); err != nil {
		return err
	}
	if egressMbps > 0 {
		if err := c.SetAddElements(r.limits, []nftables.SetElement{n.limit(c, r, index, egressMbps)}); err != nil {
			return err
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("add rules: %w", err)
	}
	if egressMbps > 0 {
		n.limited[index] = egressMbps
	}
	return nil
}

// limit makes the chain of an index's egress limit, and returns the element of
// the limits that leads there.
func (n *Network) limit(c *nftables.Conn, r rules, index, mbps int) nftables.SetElement {
	chain := n.chain(c, r, limitChain(index))
	// Policing, not shaping: it needs nothing but nftables, and TCP finds
	// the rate by itself. The kernel's bucket holds one second's worth.
	c.AddRule(rule(chain, one(&expr.Limit{
		Type: expr.LimitTypePktBytes, Rate: uint64(mbps) * bytesPerMbit, Unit: expr.LimitTimeSecond, Over: true,
	}), drop()))
	return nftables.SetElement{
		Key:         linkName(n.plan.link(index)),
		VerdictData: &expr.Verdict{Kind: expr.VerdictJump, Chain: limitChain(index)},
	}
}

// heldLimits reads back what the kernel limits taps to.
func (n *Network) heldLimits() (map[int]int, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	t := n.rules().table
	chains, err := c.ListChainsOfTableFamily(t.Family)
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	held := make(map[int]int)
	for _, chain := range chains {
		digits, ok := strings.CutPrefix(chain.Name, limitPrefix)
		index, err := strconv.Atoi(digits)
		if !ok || err != nil || chain.Table.Name != t.Name {
			continue
		}
		rules, err := c.GetRules(t, chain)
		if err != nil {
			return nil, fmt.Errorf("read egress limit: %w", err)
		}
		for _, r := range rules {
			for _, e := range r.Exprs {
				if l, ok := e.(*expr.Limit); ok {
					held[index] = int(l.Rate / bytesPerMbit) //nolint:gosec // what admit made of an int
				}
			}
		}
	}
	return held, nil
}

// expel takes back what admit did. The tap is gone by now, so nothing
// depends on it: what fails here is swept away at the next start.
func (n *Network) expel(index int) {
	err := n.unlimit(index)
	if err == nil {
		var c *nftables.Conn
		if c, err = nftables.New(); err == nil {
			if err = c.SetDeleteElements(n.rules().guests, []nftables.SetElement{n.guestElement(index)}); err == nil {
				err = c.Flush()
			}
		}
	}
	if err != nil {
		n.log.Warn("rules of a removed tap stay until the next start", "tap", n.plan.link(index), "err", err)
	}
}

func (n *Network) unlimit(index int) error {
	if n.limited[index] == 0 {
		return nil
	}
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	r := n.rules()
	key := []nftables.SetElement{{Key: linkName(n.plan.link(index))}}
	if err := c.SetDeleteElements(r.limits, key); err != nil {
		return err
	}
	chain := &nftables.Chain{Name: limitChain(index), Table: r.table}
	c.FlushChain(chain)
	c.DelChain(chain)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("remove egress limit: %w", err)
	}
	delete(n.limited, index)
	return nil
}

const (
	limitPrefix  = "egress-"
	bytesPerMbit = 1_000_000 / 8
)

func limitChain(index int) string { return limitPrefix + strconv.Itoa(index) }

// markUplink notes that a link forwards for instances' sake alone.
func (n *Network) markUplink(name string) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	if err := c.SetAddElements(n.rules().uplinks, []nftables.SetElement{{Key: linkName(name)}}); err != nil {
		return err
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("mark uplink %s: %w", name, err)
	}
	if !slices.Contains(n.marked, name) {
		n.marked = append(n.marked, name)
	}
	return nil
}

// heldMarks reads our own marks back; a fresh host has none.
func (n *Network) heldMarks() ([]string, error) {
	return marks(func(table string) bool { return table == n.plan.table() })
}

// markedByOthers reports whether another platform switched a link's forwarding on.
func (n *Network) markedByOthers(name string) (bool, error) {
	names, err := marks(func(table string) bool { return strings.HasPrefix(table, tablePrefix) && table != n.plan.table() })
	return slices.Contains(names, name), err
}

// marks are the uplinks that are marked in the tables wanted.
func marks(want func(table string) bool) ([]string, error) {
	c, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	var names []string
	for _, t := range tables {
		if !want(t.Name) {
			continue
		}
		elements, err := c.GetSetElements(&nftables.Set{Table: t, Name: uplinksSet})
		if errors.Is(err, unix.ENOENT) {
			continue // it has just been removed
		}
		if err != nil {
			return nil, fmt.Errorf("read uplinks: %w", err)
		}
		for _, e := range elements {
			names = append(names, strings.TrimRight(string(e.Key), "\x00"))
		}
	}
	return names, nil
}

func (n *Network) guestElement(index int) nftables.SetElement {
	key := linkName(n.plan.link(index))
	key = append(key, guestMAC...)
	key = append(key, 0, 0) // each part fills whole registers
	guest := n.plan.guest(index).As4()
	return nftables.SetElement{Key: append(key, guest[:]...)}
}

// addAllowed opens the configured exceptions and the nameservers' port; what
// is opened there counts like anything else.
func (n *Network) addAllowed(c *nftables.Conn, chain *nftables.Chain) {
	allowed := n.config.Allow
	for _, ns := range n.config.Nameservers {
		if ns.Is4() {
			allowed = append(allowed[:len(allowed):len(allowed)], Allow{To: netip.PrefixFrom(ns, 32), Port: namesPort})
		}
	}
	for _, a := range allowed {
		if a.Port == 0 {
			c.AddRule(rule(chain, destination(a.To), goTo("opened")))
			continue
		}
		for _, protocol := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			c.AddRule(rule(chain, destination(a.To), destinationPort(protocol, a.Port), goTo("opened")))
		}
	}
}

func (n *Network) chain(c *nftables.Conn, r rules, name string) *nftables.Chain {
	return c.AddChain(&nftables.Chain{Name: name, Table: r.table})
}

func (n *Network) hook(c *nftables.Conn, r rules, name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
	return c.AddChain(&nftables.Chain{
		Name: name, Table: r.table, Type: kind, Hooknum: hook, Priority: priority, Policy: new(nftables.ChainPolicyAccept),
	})
}

func rule(chain *nftables.Chain, parts ...[]expr.Any) *nftables.Rule {
	r := &nftables.Rule{Table: chain.Table, Chain: chain}
	for _, p := range parts {
		r.Exprs = append(r.Exprs, p...)
	}
	return r
}

func one(e expr.Any) []expr.Any { return []expr.Any{e} }

func accept() []expr.Any { return one(&expr.Verdict{Kind: expr.VerdictAccept}) }

func jump(chain string) []expr.Any {
	return one(&expr.Verdict{Kind: expr.VerdictJump, Chain: chain})
}

func goTo(chain string) []expr.Any {
	return one(&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain})
}

func drop() []expr.Any {
	return []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}}
}

// linkName is a link's name as the kernel compares it: 16 bytes, zero-padded.
func linkName(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ, unix.IFNAMSIZ+12)
	copy(b, name)
	return b
}

// incoming and outgoing match links whose names begin with the prefix.
func incoming(prefix string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: registerName},
		&expr.Cmp{Op: expr.CmpOpEq, Register: registerName, Data: []byte(prefix)},
	}
}

func outgoing(op expr.CmpOp, prefix string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: registerName},
		&expr.Cmp{Op: op, Register: registerName, Data: []byte(prefix)},
	}
}

func ipv4() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: unix.NFT_REG_1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: []byte{unix.NFPROTO_IPV4}},
	}
}

func address(offset uint32, p netip.Prefix) []expr.Any {
	masked := p.Masked().Addr().As4()
	mask := binary.BigEndian.AppendUint32(nil, uint32(uint64(0xffffffff)<<(32-p.Bits())))
	return append(ipv4(),
		&expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: masked[:]})
}

func source(p netip.Prefix) []expr.Any      { return address(12, p) }
func destination(p netip.Prefix) []expr.Any { return address(16, p) }

func protocol(p byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: unix.NFT_REG_1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: []byte{p}},
	}
}

// openedBy matches what leaves by a socket of a user's.
func openedBy(uid int) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeySKUID, Register: unix.NFT_REG_1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: binaryutil.NativeEndian.PutUint32(uint32(uid))}, //nolint:gosec // no uid is negative
	}
}

func destinationPort(p byte, port uint16) []expr.Any {
	return append(protocol(p),
		&expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: binaryutil.BigEndian.PutUint16(port)})
}

// state matches a connection's state against a mask.
func state(mask uint32) []expr.Any { return compareState(expr.CmpOpNeq, mask) }

func notNew() []expr.Any { return compareState(expr.CmpOpEq, expr.CtStateBitNEW) }

func compareState(op expr.CmpOp, mask uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Register: unix.NFT_REG_1, Key: expr.CtKeySTATE},
		&expr.Bitwise{
			SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(mask), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: op, Register: unix.NFT_REG_1, Data: make([]byte, 4)},
	}
}

func guestLookup(r rules) []expr.Any {
	return append(ipv4(),
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: registerName},
		&expr.Payload{DestRegister: registerMAC, Base: expr.PayloadBaseLLHeader, Offset: 6, Len: 6},
		&expr.Payload{DestRegister: registerIP, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
		&expr.Lookup{SourceRegister: registerName, SetName: r.guests.Name, SetID: r.guests.ID})
}

// limitLookup jumps to the chain of the tap's egress limit, if there is one.
func limitLookup(r rules) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: registerName},
		&expr.Lookup{
			SourceRegister: registerName, SetName: r.limits.Name, SetID: r.limits.ID,
			DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true,
		},
	}
}

func uplinkLookup(r rules) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: registerName},
		&expr.Lookup{SourceRegister: registerName, SetName: r.uplinks.Name, SetID: r.uplinks.ID},
	}
}

// count keeps one limit for each key, and matches while it is kept.
func count(set *nftables.Set, key []expr.Any, limit expr.Any) []expr.Any {
	return append(key, &expr.Dynset{
		SrcRegKey: unix.NFT_REG_1, SetName: set.Name, SetID: set.ID,
		Operation: uint32(unix.NFT_DYNSET_OP_ADD), Exprs: []expr.Any{limit},
	})
}

func connections(limit int) expr.Any {
	return &expr.Connlimit{Count: uint32(limit)} //nolint:gosec // shares are not negative
}

func pace(b bound) expr.Any {
	return &expr.Limit{Type: expr.LimitTypePkts, Rate: uint64(b.rate), Unit: expr.LimitTimeSecond, Burst: uint32(b.burst)} //nolint:gosec // bounds are not negative
}

// linger is how long the table keeps a TCP connection in each of its states;
// but for the closed ones, as long as the kernel does by itself.
func linger(r rules) *nftables.NamedObj {
	return &nftables.NamedObj{
		Table: r.table, Name: lingerName, Type: nftables.ObjTypeCtTimeout,
		Obj: &expr.CtTimeout{L3Proto: unix.AF_INET, L4Proto: unix.IPPROTO_TCP, Policy: expr.CtStatePolicyTimeout{
			expr.CtStateTCPESTABLISHED: 5 * 24 * 3600,
			expr.CtStateTCPTIMEWAIT:    lingerSeconds,
			expr.CtStateTCPCLOSE:       lingerSeconds,
		}},
	}
}

const lingerName = "linger"

// lingers has the table keep a new connection as linger says.
func lingers() []expr.Any {
	return append(protocol(unix.IPPROTO_TCP), &expr.Objref{Type: int(nftables.ObjTypeCtTimeout), Name: lingerName})
}

func guestAddress() []expr.Any {
	return append(ipv4(), &expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4})
}

// somePart is a number below parts that addresses and ports pick, by a secret
// of the kernel's: nobody can aim at a part.
func somePart(parts int) []expr.Any {
	return append(ipv4(),
		&expr.Payload{DestRegister: unix.NFT_REG32_00, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 8},
		&expr.Payload{DestRegister: unix.NFT_REG32_02, Base: expr.PayloadBaseTransportHeader, Len: 4},
		&expr.Hash{
			SourceRegister: unix.NFT_REG32_00, DestRegister: unix.NFT_REG_1, Length: 12,
			Modulus: uint32(parts), Type: expr.HashTypeJenkins, //nolint:gosec // at most maxParts
		})
}
