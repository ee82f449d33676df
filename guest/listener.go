package guest

import (
	"bufio"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	wire "github.com/miosa/miosa/wire/guest"
)

// Where the command listens, as wire.Phase.AddrHint tells it.
const (
	hintAny      = "any"
	hintLoopback = "loopback"
	hintIPv6     = "ipv6"
)

// How often the kernel's tables are read: fast while the command starts, then
// rarely.
const (
	listenFirst = 5 * time.Millisecond
	listenLast  = 250 * time.Millisecond
)

// What is said of an app that listens elsewhere than on its port: not before it
// has had time to open all its ports, and no more than so often.
const (
	elsewhereAfter = 2 * time.Second
	elsewhereMost  = 8
)

// reach is a set of ways to reach a listening port.
type reach struct {
	v4, v6, loopback bool
	others           []int           // ports besides it that something listens on, sorted, at most wire.MaxPorts
	sockets          map[string]bool // that listen on it, as links in /proc/PID/fd name them
}

// readListeners finds who listens on the port in /proc/net/tcp and tcp6.
// dualStack says whether the wildcard of IPv6 takes IPv4 connections too.
func readListeners(proc string, port int, dualStack func(int) bool) (reach, error) {
	r := reach{sockets: map[string]bool{}}
	v4, v6 := false, false // the wildcard in each table
	for _, table := range []struct {
		name string
		ipv6 bool
	}{{"tcp", false}, {"tcp6", true}} {
		f, err := os.Open(filepath.Join(proc, "net", table.name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return reach{}, err
		}
		err = eachListener(f, func(addr string, at int, inode string) {
			if at == port {
				r.sockets["socket:["+inode+"]"] = true
			}
			switch {
			case at != port:
				if i, known := slices.BinarySearch(r.others, at); !known {
					r.others = slices.Insert(r.others, i, at)
				}
			case isLoopback(addr):
				r.loopback = true
			case table.ipv6 && strings.Trim(addr, "0") == "":
				v6 = true
			case table.ipv6:
				r.v6 = true
			default:
				v4 = true
			}
		})
		_ = f.Close()
		if err != nil {
			return reach{}, err
		}
	}
	r.v4 = v4 || v6 && dualStack(port)
	r.v6 = r.v6 || v6
	r.others = r.others[:min(len(r.others), wire.MaxPorts)]
	return r, nil
}

// hint is the word for a reach, "" for none.
func (r reach) hint() string {
	switch {
	case r.v4:
		return hintAny
	case r.v6:
		return hintIPv6
	case r.loopback:
		return hintLoopback
	}
	return ""
}

// firstFiles is how many of the command's own descriptors are looked at before
// anything is listed.
const firstFiles = 32

// listens reports whether a process of the session has one of the sockets. What
// cannot be read is not held against it. Mostly it is the command itself, with
// one of its first descriptors: the list of all processes costs 40 ms in a
// machine that has just gone on from a template, and the host waits for it.
func listens(proc string, sockets map[string]bool, session int) bool {
	own := filepath.Join(proc, strconv.Itoa(session), "fd") + "/"
	for fd := range firstFiles {
		if to, err := os.Readlink(own + strconv.Itoa(fd)); err == nil && sockets[to] {
			return true
		}
	}
	processes, err := os.ReadDir(proc)
	if err != nil {
		return true
	}
	for _, p := range processes {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		if sid, err := unix.Getsid(pid); err != nil || sid != session {
			continue // another's, or it has just ended
		}
		dir := filepath.Join(proc, p.Name(), "fd")
		files, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, fd := range files {
			if to, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil && sockets[to] {
				return true
			}
		}
	}
	return false
}

// eachListener calls f with the address, in the kernel's hex, the port and the
// inode of every socket of the table that listens.
func eachListener(r io.Reader, f func(addr string, port int, inode string)) error {
	const listen = "0A"
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		fields := strings.Fields(sc.Text())
		if len(fields) < 10 || fields[3] != listen {
			continue
		}
		addr, hexPort, ok := strings.Cut(fields[1], ":")
		if !ok {
			continue
		}
		if n, err := strconv.ParseUint(hexPort, 16, 16); err == nil {
			f(addr, int(n), fields[9])
		}
	}
	return sc.Err()
}

// isLoopback reads an address in the kernel's form: 32-bit words, each in the
// machine's byte order, little-endian here.
func isLoopback(addr string) bool {
	switch len(addr) {
	case 8: // 127.0.0.0/8
		return strings.HasSuffix(addr, "7F")
	case 32: // ::1, and ::ffff:127.0.0.0/104
		return addr == "00000000000000000000000001000000" ||
			strings.HasPrefix(addr, "0000000000000000FFFF0000") && strings.HasSuffix(addr, "7F")
	}
	return false
}

// takesIPv4 finds out whether the listener on [::]:port is dual-stack, which
// the tables don't tell: then the same port is taken for IPv4 too. The probe
// socket never listens, and with SO_REUSEADDR it is in nobody's way.
func takesIPv4(port int) bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return true
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return true
	}
	return errors.Is(unix.Bind(fd, &unix.SockaddrInet4{Port: port}), unix.EADDRINUSE)
}

// watchListener calls found once the command listens on the port, and again
// when it can be reached from more places. While it does not, but listens on
// others, found is called with those and no hint. own is a port of PID 1's, and
// session is the command's. It returns when everything is reachable, or with ctx.
func watchListener(ctx context.Context, proc string, port, own, session int, found func(wire.Phase)) {
	wait, told, began, said := listenFirst, "", time.Now(), 0
	var others []int
	for {
		if r, err := readListeners(proc, port, takesIPv4); err == nil {
			if hint := r.hint(); hint != "" && hint != told {
				found(wire.Phase{AddrHint: hint, Detached: !listens(proc, r.sockets, session)})
				told = hint
			}
			if told == hintAny {
				return
			}
			r.others = slices.DeleteFunc(r.others, func(n int) bool { return n == own })
			if told == "" && said < elsewhereMost && len(r.others) > 0 && time.Since(began) >= elsewhereAfter && !slices.Equal(r.others, others) {
				others = r.others
				said++
				found(wire.Phase{Ports: others})
			}
		}
		if pause(ctx, wait) != nil {
			return
		}
		wait = min(wait+wait/4, listenLast)
	}
}
