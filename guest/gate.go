package guest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	wire "github.com/miosa/miosa/wire/guest"
)

const (
	// knockTime is how long a knock may take, and maxUnknown how many may be
	// awaited: the oldest gives way, so that who says nothing keeps nobody out.
	knockTime  = 5 * time.Second
	maxUnknown = 64
	// appTime is how long the app's side may take to accept.
	appTime = 30 * time.Second
	// carried is how much is read at once.
	carried = 16 << 10
)

// gate takes connections for the app from those alone who know its password.
type gate struct {
	wire.Gate
	app      unix.SockaddrInet4 // at the guest's own address: an app that hears loopback alone is not reached
	listener *os.File
	buffers  sync.Pool // of *[carried]byte

	mu      sync.Mutex // guards unknown
	unknown []*os.File // have not knocked yet, the oldest first
}

// openGate listens, so that nothing else can take the port, and serves until
// the machine ends.
func openGate(b wire.Boot) (*gate, error) {
	if b.Network == nil || b.Port == 0 {
		return nil, errors.New("open the gate: there is nothing behind it")
	}
	own, err := netip.ParsePrefix(b.Network.Address)
	if err != nil || !own.Addr().Is4() {
		return nil, fmt.Errorf("open the gate: %q is no IPv4 address", b.Network.Address)
	}
	g := &gate{Gate: *b.Gate, app: unix.SockaddrInet4{Port: b.Port, Addr: own.Addr().As4()}}
	g.buffers.New = func() any { return new([carried]byte) }
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err == nil {
		if err = unix.Bind(fd, &unix.SockaddrInet4{Port: g.Port, Addr: g.app.Addr}); err == nil {
			err = unix.Listen(fd, 1024)
		}
		if err != nil {
			_ = unix.Close(fd)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open the gate: %w", err)
	}
	g.listener = os.NewFile(uintptr(fd), "gate")
	return g, nil
}

// run accepts until the listener is closed.
func (g *gate) run() {
	raw, err := g.listener.SyscallConn()
	if err != nil {
		return
	}
	for {
		fd, taken := -1, error(nil)
		if err := raw.Read(func(listener uintptr) bool {
			fd, _, taken = unix.Accept4(int(listener), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			return !errors.Is(taken, unix.EAGAIN)
		}); err != nil {
			return
		}
		switch {
		case taken == nil:
			conn := os.NewFile(uintptr(fd), "visitor")
			g.await(conn)
			go g.serve(conn)
		case !errors.Is(taken, unix.EINTR) && !errors.Is(taken, unix.ECONNABORTED):
			_ = pause(context.Background(), 10*time.Millisecond) // out of descriptors or memory, for now
		}
	}
}

// await counts one in that has not knocked, and shows out who has waited
// longest.
func (g *gate) await(conn *os.File) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.unknown = append(g.unknown, conn); len(g.unknown) > maxUnknown {
		_ = g.unknown[0].Close()
		g.unknown = slices.Delete(g.unknown, 0, 1)
	}
}

func (g *gate) known(conn *os.File) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.Index(g.unknown, conn); i >= 0 {
		g.unknown = slices.Delete(g.unknown, i, i+1)
	}
}

// serve is one connection, from its knock to its end.
func (g *gate) serve(conn *os.File) {
	defer conn.Close()
	err := conn.SetReadDeadline(time.Now().Add(knockTime))
	if err == nil {
		err = g.Admit(conn)
	}
	g.known(conn)
	if err != nil {
		return
	}
	app, err := g.dial()
	if err != nil {
		reset(conn)
		return
	}
	defer app.Close()
	if conn.SetReadDeadline(time.Time{}) != nil || g.Welcome(conn) != nil {
		reset(app)
		return
	}
	_ = control(conn, unix.IPPROTO_TCP, unix.TCP_NODELAY) // slower without, no more
	_ = control(app, unix.IPPROTO_TCP, unix.TCP_NODELAY)
	g.join(conn, app)
}

// dial connects to the app.
func (g *gate) dial() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, &g.app); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		_ = unix.Close(fd)
		return nil, err
	}
	app := os.NewFile(uintptr(fd), "app")
	failed := error(nil)
	err = app.SetWriteDeadline(time.Now().Add(appTime))
	if err == nil {
		var raw interface {
			Write(func(uintptr) bool) error
		}
		if raw, err = app.SyscallConn(); err == nil {
			err = raw.Write(func(fd uintptr) bool {
				if n, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); err != nil || n != 0 {
					failed = unix.Errno(n)
					return true
				}
				_, err := unix.Getpeername(int(fd))
				return err == nil
			})
		}
	}
	if err == nil {
		err = app.SetWriteDeadline(time.Time{})
	}
	if err = errors.Join(err, failed); err != nil {
		_ = app.Close()
		return nil, err
	}
	return app, nil
}

// join carries both ways until both have ended. An end of one direction is
// passed on as such, and a reset as a reset.
func (g *gate) join(conn, app *os.File) {
	abort := func() { reset(conn); reset(app) }
	var deaf atomic.Bool // the app takes no more, but what it said before counts
	inward := make(chan struct{})
	go func() {
		defer close(inward)
		switch read, written := g.carry(app, conn); {
		case written != nil:
			deaf.Store(true)
		case read != nil:
			abort()
		default:
			shut(app)
		}
	}()
	if read, written := g.carry(conn, app); read != nil || written != nil || deaf.Load() {
		abort()
	} else {
		shut(conn)
	}
	<-inward
}

// carry copies until from ends. What waits holds no buffer: most connections
// of a router rest.
func (g *gate) carry(to, from *os.File) (read, written error) {
	raw, err := from.SyscallConn()
	if err != nil {
		return err, nil
	}
	for {
		var buf *[carried]byte
		n, got := 0, error(nil)
		err := raw.Read(func(fd uintptr) bool {
			if buf == nil {
				buf = g.buffers.Get().(*[carried]byte)
			}
			for {
				if n, got = unix.Read(int(fd), buf[:]); !errors.Is(got, unix.EINTR) {
					break
				}
			}
			if errors.Is(got, unix.EAGAIN) {
				g.buffers.Put(buf)
				buf = nil
				return false
			}
			return true
		})
		if err = errors.Join(err, got); err == nil && n > 0 {
			_, written = to.Write(buf[:n])
		}
		if buf != nil {
			g.buffers.Put(buf)
		}
		if err != nil || written != nil || n <= 0 {
			return err, written
		}
	}
}

// reset ends a connection at once, in words that its other end takes for no
// proper end; what goes on with it returns.
func reset(conn *os.File) {
	if raw, err := conn.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		})
	}
	_ = conn.Close()
}

// shut says that no more comes.
func shut(conn *os.File) {
	if raw, err := conn.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_WR) })
	}
}

func control(conn *os.File, level, option int) (err error) {
	raw, err := conn.SyscallConn()
	if err == nil {
		err = errors.Join(raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) }), err)
	}
	return err
}
