// Package user is the network adapter for hosts where we are not root: QEMU
// itself plays the guest's network, and a port of the loopback leads to the
// app. It has half the throughput of package tap and no isolation: a guest
// reaches whatever this user's processes reach, the host's loopback included.
// Everybody on this host can connect to such a port, so that it leads to a gate
// in the guest and not to the app: see Greet. The sim driver uses it too.
package user

import (
	"cmp"
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/disk"
	"github.com/miosa/miosa/network"
	"github.com/miosa/miosa/vmm"
	"github.com/miosa/miosa/wire/guest"
)

// What QEMU's user networking shows every guest.
var (
	guestAddress = netip.MustParsePrefix("10.0.2.15/24")
	gateway      = netip.MustParseAddr("10.0.2.2")
	loopback     = netip.AddrFrom4([4]byte{127, 0, 0, 1})
)

const nameserver = "10.0.2.3"

const keyBytes = 32

// Config says which ports are given out.
type Config struct {
	// File keeps the ports over restarts; its directory exists.
	File string
	// FirstPort and LastPort bound what is given out; 0: 20000 and 29999,
	// which the kernel gives to nobody else by itself.
	FirstPort, LastPort int
	// Key is what the gates' passwords are made from, 32 bytes: with the same
	// key, guests that go on are reached after a restart of ours. Nil: a new one.
	Key []byte
}

// Network is the adapter. Make it with New.
type Network struct {
	config Config
	log    *slog.Logger

	// mu guards what follows and the file.
	mu     sync.Mutex
	loaded bool
	ports  map[string]place
	told   map[string]int // by instance: in which boot it was told that somebody else has its port
}

// place is what the file keeps of an instance. One that listens nowhere, a
// worker, has no port: 0.
type place struct {
	Index int `json:"index"`
	Port  int `json:"port"`
	// Boots counts what was attached, each with passwords of its own. 0: by a
	// platform that had no gates; the port leads to the app.
	Boots int `json:"boots,omitempty"`
}

// gatePort is where gates listen, none of which an app's own ports is: it is
// not among those that the kernel gives out by itself.
const gatePort = 61009

// New checks the configuration; nothing is touched before the first call.
func New(config Config, log *slog.Logger) (*Network, error) {
	if !filepath.IsAbs(config.File) {
		return nil, fmt.Errorf("port file %q is not an absolute path", config.File)
	}
	config.FirstPort, config.LastPort = cmp.Or(config.FirstPort, 20000), cmp.Or(config.LastPort, 29999)
	if config.FirstPort < 1 || config.LastPort > 65535 || config.FirstPort > config.LastPort {
		return nil, fmt.Errorf("ports %d to %d are no range", config.FirstPort, config.LastPort)
	}
	switch len(config.Key) {
	case 0:
		config.Key = make([]byte, keyBytes)
		if _, err := rand.Read(config.Key); err != nil {
			return nil, fmt.Errorf("make a key for the gates: %w", err)
		}
	case keyBytes:
	default:
		return nil, fmt.Errorf("a key of %d bytes, not %d", len(config.Key), keyBytes)
	}
	log.Warn("user networking: instances are not isolated from this host's network")
	return &Network{config: config, log: log, told: map[string]int{}}, nil
}

// Attach picks a free loopback port for the instance, or finds its port
// again; one with port 0 gets none, and no address. An egress limit is not
// kept: there is nothing here to keep it with.
func (n *Network) Attach(_ context.Context, instance string, port, _ int) (network.Attachment, error) {
	switch {
	case instance == "":
		return network.Attachment{}, miosa.Errorf(miosa.Invalid, "an instance without a name cannot be attached")
	case port < 0 || port > 65535:
		return network.Attachment{}, miosa.Errorf(miosa.Invalid, "port %d is out of range", port)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.load(); err != nil {
		return network.Attachment{}, err
	}
	at, known := n.ports[instance]
	was := at
	if !known {
		at.Index = n.freeIndex()
	}
	if at.Port == 0 && port != 0 {
		var err error
		if at.Port, err = n.freePort(instance); err != nil {
			return network.Attachment{}, err
		}
	}
	if port != 0 {
		at.Boots++
	}
	if !known || at != was {
		n.ports[instance] = at
		if err := n.save(); err != nil {
			if delete(n.ports, instance); known {
				n.ports[instance] = was
			}
			return network.Attachment{}, err
		}
	}
	var forward netip.AddrPort
	var gate *guest.Gate
	to := 0
	if port != 0 {
		forward = netip.AddrPortFrom(loopback, uint16(at.Port))
		if to = gatePort; port == to {
			to++
		}
		var err error
		if gate, err = n.gate(instance, at, to); err != nil {
			return network.Attachment{}, err
		}
	}
	return network.Attachment{
		Index: at.Index,
		NIC: vmm.NIC{
			MAC:       network.GuestMAC,
			Guest:     guestAddress,
			Gateway:   gateway,
			Forward:   forward,
			GuestPort: to,
		},
		Address:     forward,
		Gate:        gate,
		Nameservers: []string{nameserver},
	}, nil
}

// gate makes the passwords of an instance's present boot. They are kept nowhere.
func (n *Network) gate(instance string, at place, port int) (*guest.Gate, error) {
	both, err := hkdf.Expand(sha256.New, n.config.Key, fmt.Sprintf("gate %s %d", instance, at.Boots), 2*guest.PasswordBytes)
	if err != nil {
		return nil, fmt.Errorf("make the gate's passwords: %w", err)
	}
	return &guest.Gate{Port: port, Knock: both[:guest.PasswordBytes], Answer: both[guest.PasswordBytes:]}, nil
}

// Greet has the gate behind a port let a connection in: it says that we are the
// platform, and makes sure that who listens there is the instance. An address
// that no instance has is an error.
func (n *Network) Greet(ctx context.Context, conn net.Conn, to netip.AddrPort) error {
	gate, err := n.gateAt(to)
	if err != nil || gate == nil {
		return err
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	called := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	err = gate.Enter(conn)
	if !called() || ctx.Err() != nil {
		return cmp.Or(ctx.Err(), err)
	}
	if errors.Is(err, guest.ErrWrongAnswer) {
		n.tell(to)
	}
	if err != nil {
		return fmt.Errorf("greet the gate of %s: %w", to, err)
	}
	return conn.SetDeadline(time.Time{})
}

// tell warns, once a boot, of who listens in an instance's place.
func (n *Network) tell(to netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for instance, at := range n.ports {
		if at.Port == int(to.Port()) && n.told[instance] != at.Boots {
			n.told[instance] = at.Boots
			n.log.Warn("something else listens on an instance's port, and gets no request: find out which process that is and end it", "instance", instance, "port", at.Port)
		}
	}
}

func (n *Network) gateAt(to netip.AddrPort) (*guest.Gate, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.load(); err != nil {
		return nil, err
	}
	if to.Addr() == loopback && to.Port() != 0 {
		for instance, at := range n.ports {
			if at.Port != int(to.Port()) {
				continue
			}
			if at.Boots == 0 {
				return nil, nil
			}
			return n.gate(instance, at, 0)
		}
	}
	return nil, miosa.Errorf(miosa.NotFound, "no instance is reached at %s", to)
}

func (n *Network) freeIndex() int {
	used := make(map[int]bool)
	for _, at := range n.ports {
		used[at.Index] = true
	}
	index := 0
	for used[index] {
		index++
	}
	return index
}

// freePort looks for a port that nobody listens on, from a place that the
// instance's name picks.
func (n *Network) freePort(instance string) (int, error) {
	used := make(map[int]bool)
	for _, at := range n.ports {
		used[at.Port] = true
	}
	hash := fnv.New32a()
	hash.Write([]byte(instance))
	count := n.config.LastPort - n.config.FirstPort + 1
	for i := range count {
		port := n.config.FirstPort + (int(hash.Sum32()%uint32(count))+i)%count
		if used[port] {
			continue
		}
		l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
		if err != nil {
			continue
		}
		return port, l.Close()
	}
	return 0, miosa.Errorf(miosa.Unavailable, "no loopback port from %d to %d is free", n.config.FirstPort, n.config.LastPort)
}

// Detach gives the instance's port back.
func (n *Network) Detach(_ context.Context, instance string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.load(); err != nil {
		return err
	}
	at, known := n.ports[instance]
	if !known {
		return nil
	}
	delete(n.ports, instance)
	if err := n.save(); err != nil {
		n.ports[instance] = at
		return err
	}
	delete(n.told, instance)
	return nil
}

// Reclaim gives back the ports of every instance that keep does not hold.
func (n *Network) Reclaim(_ context.Context, keep func(instance string) bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.load(); err != nil {
		return err
	}
	before := len(n.ports)
	for instance := range n.ports {
		if !keep(instance) {
			delete(n.ports, instance)
		}
	}
	if len(n.ports) == before {
		return nil
	}
	return n.save()
}

// Close has nothing to take away.
func (n *Network) Close(context.Context) error { return nil }

func (n *Network) load() error {
	if n.loaded {
		return nil
	}
	b, err := os.ReadFile(n.config.File)
	ports := make(map[string]place)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("read ports: %w", err)
	default:
		if err := json.Unmarshal(b, &ports); err != nil {
			return fmt.Errorf("read ports: %s: %w", n.config.File, err)
		}
	}
	n.ports, n.loaded = ports, true
	return nil
}

// save replaces the file: a crash leaves the old or the new one.
func (n *Network) save() error {
	b, err := json.MarshalIndent(n.ports, "", "\t")
	if err != nil {
		return fmt.Errorf("keep ports: %w", err)
	}
	if err := disk.Replace(n.config.File, b, 0o600); err != nil {
		return fmt.Errorf("keep ports: %w", err)
	}
	return nil
}
