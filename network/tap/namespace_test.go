package tap

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// namespace is a network namespace of its own, on a thread of its own. Both
// end with the test.
type namespace struct {
	t     testing.TB
	tid   int
	calls chan func()
}

// newNamespace needs root; tests of this package are skipped without.
func newNamespace(t testing.TB) *namespace {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skipf("no tap devices: %v", err)
	}
	ns := &namespace{t: t, calls: make(chan func())}
	ready := make(chan error)
	var done sync.WaitGroup
	done.Go(func() {
		// Never unlocked: the thread ends with the goroutine, and the
		// namespace with the thread.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		ns.tid = unix.Gettid()
		if err == nil {
			err = setUp("lo")
		}
		ready <- err
		for call := range ns.calls {
			call()
		}
	})
	if err := <-ready; err != nil {
		close(ns.calls)
		t.Skipf("cannot make a network namespace: %v", err)
	}
	t.Cleanup(func() {
		close(ns.calls)
		done.Wait()
	})
	return ns
}

// do runs f inside.
func (ns *namespace) do(f func() error) error {
	result := make(chan error)
	ns.calls <- func() { result <- f() }
	return <-result
}

func (ns *namespace) must(f func() error) {
	ns.t.Helper()
	if err := ns.do(f); err != nil {
		ns.t.Fatal(err)
	}
}

func setUp(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

func addAddress(link, cidr string) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(cidr)
	if err != nil {
		return err
	}
	a.Flags |= unix.IFA_F_NODAD
	return netlink.AddrAdd(l, a)
}

func addDefault(via string) error {
	_, all, _ := net.ParseCIDR("0.0.0.0/0")
	return netlink.RouteAdd(&netlink.Route{Dst: all, Gw: net.ParseIP(via)})
}

// joinWorld ties two namespaces by a veth pair called "up" in host and
// "world" in the other, 198.51.100.1 and .2, which are not internal ranges.
func joinWorld(host, world *namespace) {
	host.t.Helper()
	host.must(func() error {
		err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "up"}, PeerName: "world"})
		if err != nil {
			return err
		}
		peer, err := netlink.LinkByName("world")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetNsPid(peer, world.tid); err != nil {
			return err
		}
		if err := addAddress("up", "198.51.100.1/24"); err != nil {
			return err
		}
		return setUp("up")
	})
	world.must(func() error {
		if err := addAddress("world", "198.51.100.2/24"); err != nil {
			return err
		}
		return setUp("world")
	})
	host.must(func() error { return addDefault("198.51.100.2") })
}

// openTap attaches to a tap, or makes one.
func openTap(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("attach to tap %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// guest is an instance without a VM: a namespace whose "eth0" is a tap, with
// frames carried between it and the host's tap.
type guest struct {
	*namespace
	plugs []*os.File
}

func newGuest(t testing.TB, host *namespace, tap, mac, cidr, gateway string) *guest {
	t.Helper()
	g := &guest{namespace: newNamespace(t)}
	var hostEnd, guestEnd *os.File
	host.must(func() (err error) { hostEnd, err = openTap(tap); return err })
	g.must(func() (err error) {
		if guestEnd, err = openTap("eth0"); err != nil {
			return err
		}
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		hw, err := net.ParseMAC(mac)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetHardwareAddr(l, hw); err != nil {
			return err
		}
		if err := addAddress("eth0", cidr); err != nil {
			return err
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
		return addDefault(gateway)
	})
	g.plugs = []*os.File{hostEnd, guestEnd}
	var done sync.WaitGroup
	carry := func(from, to *os.File) {
		frame := make([]byte, 64<<10)
		for {
			k, err := from.Read(frame)
			if err != nil {
				return
			}
			if _, err := to.Write(frame[:k]); err != nil {
				return
			}
		}
	}
	done.Go(func() { carry(hostEnd, guestEnd) })
	done.Go(func() { carry(guestEnd, hostEnd) })
	t.Cleanup(func() {
		g.unplug()
		done.Wait()
	})
	return g
}

// unplug is the death of the VM: nobody holds the tap any more.
func (g *guest) unplug() {
	for _, p := range g.plugs {
		p.Close()
	}
}
