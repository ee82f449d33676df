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
	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	// How many files a process may have open, and up to which it may raise that
	// by itself.
	defaultMaxFiles = 65536
	mostFiles       = 524288
)

// setClock sets the guest's wall clock to the host's.
func setClock(unixNano int64) error {
	if unixNano <= 0 {
		return nil
	}
	ts := unix.NsecToTimespec(unixNano)
	return os.NewSyscallError("clock_settime", unix.ClockSettime(unix.CLOCK_REALTIME, &ts))
}

func openRandom() (fd int, err error) {
	fd, err = unix.Open("/dev/urandom", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	return fd, os.NewSyscallError("open", err)
}

// creditEntropy adds the host's randomness to the kernel's pool and counts it;
// fd is openRandom's.
func creditEntropy(fd int, seed []byte) error {
	const most = 512
	var pool struct {
		bits, size int32
		data       [most]byte
	}
	n := copy(pool.data[:], seed)
	pool.bits, pool.size = int32(n*8), int32(n)
	err := rawIoctl(fd, unix.RNDADDENTROPY, unsafe.Pointer(&pool))
	clear(pool.data[:])
	if err == nil {
		// A copy of a template would go on with the generator that all copies
		// have until the kernel reseeds it by itself, minutes later.
		err = rawIoctl(fd, unix.RNDRESEEDCRNG, nil)
	}
	return err
}

// ownFile is a file of the platform's in the image's /etc.
type ownFile struct{ name, content string }

// ownFiles are all of them: who the machine is, and, where it has name servers
// of its own, where the C library finds them.
func ownFiles(b wire.Boot) ([]ownFile, error) {
	var files []ownFile
	if b.Hostname != "" {
		files = append(files, ownFile{"hostname", b.Hostname + "\n"}, ownFile{"hosts", hostsFile(b)})
	}
	if len(b.Nameservers) > 0 {
		content, err := resolvConf(b.Nameservers)
		if err != nil {
			return nil, err
		}
		files = append(files, ownFile{"resolv.conf", content})
	}
	return files, nil
}

// place writes the files onto the ephemeral disk, where they hide the image's
// once both are joined; links in their place (to systemd's own resolv.conf,
// say) are hidden, not followed. Where the image's /etc is no plain directory it returns
// the files, to be written after the joining.
func place(base, upper string, files []ownFile) (left []ownFile, err error) {
	dir := filepath.Join(upper, "etc")
	if len(files) == 0 {
		return nil, unplace(dir)
	}
	stat := unix.Stat_t{Mode: unix.S_IFDIR | 0o755}
	switch err := unix.Lstat(filepath.Join(base, "etc"), &stat); {
	case err != nil && !errors.Is(err, unix.ENOENT):
		return nil, pathError("lstat", "etc", err)
	case stat.Mode&unix.S_IFMT != unix.S_IFDIR:
		return files, unplace(dir)
	}
	if err := rawMkdir(dir, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, err
	}
	if stat.Uid != 0 || stat.Gid != 0 {
		if err := unix.Chown(dir, int(stat.Uid), int(stat.Gid)); err != nil {
			return nil, pathError("chown", dir, err)
		}
	}
	if mode := stat.Mode &^ unix.S_IFMT; mode != 0o755 {
		if err := unix.Chmod(dir, mode); err != nil {
			return nil, pathError("chmod", dir, err)
		}
	}
	for _, f := range files {
		if err := writeFile(filepath.Join(dir, f.name), f.content); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// unplace takes back the directory that a template may have made, before it
// hides what the image has.
func unplace(dir string) error {
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return pathError("rmdir", dir, err)
	}
	return nil
}

func hostsFile(b wire.Boot) string {
	self := "127.0.1.1"
	if b.Network != nil {
		if p, err := netip.ParsePrefix(b.Network.Address); err == nil {
			self = p.Addr().String()
		}
	}
	return "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" + self + "\t" + b.Hostname + "\n"
}

// resolvConf points the C library at the name servers.
func resolvConf(servers []string) (string, error) {
	var sb strings.Builder
	for _, s := range servers {
		addr, err := netip.ParseAddr(s)
		if err != nil {
			return "", fmt.Errorf("name server: %w", err)
		}
		sb.WriteString("nameserver ")
		sb.WriteString(addr.String())
		sb.WriteByte('\n')
	}
	return sb.String(), nil
}

// replaceFile writes one of the platform's files into the image at root; a
// symbolic link in its place is replaced, not followed.
func replaceFile(root string, f ownFile) error {
	path := filepath.Join(root, "etc", f.name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	if err := os.WriteFile(path, []byte(f.content), 0o644); err != nil {
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
	files := syscall.Rlimit{Cur: defaultMaxFiles, Max: mostFiles}
	if b.MaxFiles > 0 {
		files = syscall.Rlimit{Cur: uint64(b.MaxFiles), Max: uint64(b.MaxFiles)}
	}
	// Through package syscall, which otherwise would give children the limit
	// that the process began with.
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return fmt.Errorf("limit open files to %d: %w", files.Max, err)
	}
	// The machine is the app's alone: its memory is the limit.
	procs := uint64(unix.RLIM_INFINITY)
	if b.MaxProcs > 0 {
		procs = uint64(b.MaxProcs)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NPROC, &unix.Rlimit{Cur: procs, Max: procs}); err != nil {
		return fmt.Errorf("limit processes to %d: %w", procs, err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}); err != nil {
		return fmt.Errorf("unlimit locked memory: %w", err)
	}
	// Core dumps would fill the ephemeral disk with the command's secrets.
	return os.NewSyscallError("setrlimit", unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}))
}

// workDir is where the command starts. One that the image lacks is made, as
// Docker does.
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
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return "", cannotStart(wire.ExitImage, "The working directory %s is not in the image and cannot be made: %v.", dir, err)
		}
	case err != nil:
		return "", cannotStart(wire.ExitImage, "The working directory: %v.", err)
	case !info.IsDir():
		return "", cannotStart(wire.ExitImage, "The working directory %s is no directory.", dir)
	}
	return dir, nil
}
