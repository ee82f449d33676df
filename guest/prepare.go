package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	wire "github.com/miosa/miosa/wire/guest"
)

const (
	defaultPath     = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	defaultMaxFiles = 65536
)

// setClock sets the guest's wall clock to the host's.
func setClock(unixNano int64) error {
	if unixNano <= 0 {
		return nil
	}
	ts := unix.NsecToTimespec(unixNano)
	return os.NewSyscallError("clock_settime", unix.ClockSettime(unix.CLOCK_REALTIME, &ts))
}

// creditEntropy adds the host's randomness to the kernel's pool and counts it.
func creditEntropy(seed []byte) error {
	if len(seed) == 0 {
		return nil
	}
	const most = 512
	var pool struct {
		bits, size int32
		data       [most]byte
	}
	n := copy(pool.data[:], seed)
	pool.bits, pool.size = int32(n*8), int32(n)
	fd, err := unix.Open("/dev/urandom", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&pool)))
	clear(pool.data[:])
	if errno == 0 {
		// A copy of a template would go on with the generator that all copies
		// have until the kernel reseeds it by itself, minutes later.
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.RNDRESEEDCRNG, 0)
	}
	if errno != 0 {
		return os.NewSyscallError("ioctl", errno)
	}
	return nil
}

// setHostname sets the kernel's host name and writes /etc/hostname and
// /etc/hosts.
func setHostname(root string, b wire.Boot) error {
	if b.Hostname == "" {
		return nil
	}
	if err := replaceFile(filepath.Join(root, "etc/hostname"), b.Hostname+"\n"); err != nil {
		return err
	}
	return replaceFile(filepath.Join(root, "etc/hosts"), hostsFile(b))
}

func hostsFile(b wire.Boot) string {
	var sb strings.Builder
	sb.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	if b.Network != nil {
		if p, err := netip.ParsePrefix(b.Network.Address); err == nil {
			fmt.Fprintf(&sb, "%s\t%s\n", p.Addr(), b.Hostname)
			return sb.String()
		}
	}
	fmt.Fprintf(&sb, "127.0.1.1\t%s\n", b.Hostname)
	return sb.String()
}

// writeResolvConf points the C library at the name servers; without any the
// image's own file stays.
func writeResolvConf(root string, servers []string) error {
	if len(servers) == 0 {
		return nil
	}
	var sb strings.Builder
	for _, s := range servers {
		addr, err := netip.ParseAddr(s)
		if err != nil {
			return fmt.Errorf("name server: %w", err)
		}
		fmt.Fprintf(&sb, "nameserver %s\n", addr)
	}
	return replaceFile(filepath.Join(root, "etc/resolv.conf"), sb.String())
}

// replaceFile writes a file of the image anew; a symbolic link in its place
// (to systemd's own resolv.conf, say) is replaced, not followed.
func replaceFile(path, content string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		return err
	}
	return os.Chmod(path, 0o644)
}

// commandEnv is the command's environment: the boot's, and what programs
// expect to find in any. A variable given twice counts as given last.
func commandEnv(b wire.Boot, a account) ([]string, error) {
	defaults := [][2]string{{"PATH", defaultPath}, {"HOME", a.home}, {"HOSTNAME", b.Hostname}, {"USER", a.name}}
	env := make([]string, 0, len(b.Env)+len(defaults))
	at := map[string]int{}
	for i, entry := range b.Env {
		name, _, ok := strings.Cut(entry, "=")
		if !ok || name == "" || strings.IndexByte(entry, 0) >= 0 {
			// Only its place is told: the entry may be a secret.
			return nil, fmt.Errorf("environment entry %d is not of the form NAME=value", i+1)
		}
		if j, twice := at[name]; twice {
			env[j] = entry
			continue
		}
		at[name] = len(env)
		env = append(env, entry)
	}
	for _, d := range defaults {
		if _, given := at[d[0]]; !given && d[1] != "" {
			env = append(env, d[0]+"="+d[1])
		}
	}
	return env, nil
}

func lookupEnv(env []string, name string) string {
	i := slices.IndexFunc(env, func(e string) bool { return strings.HasPrefix(e, name+"=") })
	if i < 0 {
		return ""
	}
	return env[i][len(name)+1:]
}

// setLimits sets PID 1's own limits, which the command inherits.
func setLimits(b wire.Boot) error {
	files := uint64(defaultMaxFiles)
	if b.MaxFiles > 0 {
		files = uint64(b.MaxFiles)
	}
	// Through package syscall, which otherwise would give children the limit
	// that the process began with.
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: files, Max: files}); err != nil {
		return fmt.Errorf("limit open files to %d: %w", files, err)
	}
	if b.MaxProcs > 0 {
		procs := uint64(b.MaxProcs)
		if err := unix.Setrlimit(unix.RLIMIT_NPROC, &unix.Rlimit{Cur: procs, Max: procs}); err != nil {
			return fmt.Errorf("limit processes to %d: %w", procs, err)
		}
	}
	// Core dumps would fill the ephemeral disk with the command's secrets.
	return os.NewSyscallError("setrlimit", unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}))
}

// workDir is where the command starts.
func workDir(root string, b wire.Boot) (string, error) {
	dir := b.WorkDir
	if dir == "" {
		return "/", nil
	}
	if !filepath.IsAbs(dir) {
		dir = "/" + dir
	}
	info, err := os.Stat(filepath.Join(root, dir))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("the working directory %s is not in the image", dir)
	case err != nil:
		return "", fmt.Errorf("the working directory: %w", err)
	case !info.IsDir():
		return "", fmt.Errorf("the working directory %s is no directory", dir)
	}
	return dir, nil
}
