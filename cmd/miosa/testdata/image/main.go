// Package main is the test app of docs/images.md: it says what an image finds
// in an instance, a JSON object of what to how.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "orphan": // leaves a child behind that ends after it
			leave("end")
		case "end":
			time.Sleep(50 * time.Millisecond)
		case "work": // a worker that is well once it has worked for a while
			time.Sleep(2 * time.Second)
			if err := os.WriteFile("/tmp/works", nil, 0o600); err != nil {
				fmt.Println(err)
			}
			time.Sleep(time.Hour)
		case "check":
			if _, err := os.Stat("/tmp/works"); err != nil {
				fmt.Println("it does not work yet")
				os.Exit(1)
			}
		case "user-namespace":
			fmt.Print(os.Getuid())
		}
		return
	}
	stdout, err := os.OpenFile("/dev/stdout", os.O_WRONLY, 0)
	fmt.Fprintln(os.Stderr, "the app opened /dev/stdout:", err)
	if err == nil {
		fmt.Fprintln(stdout, "written through /dev/stdout")
	}
	listener, err := net.Listen("tcp", ":"+os.Getenv("PORT"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "the app cannot listen:", err)
		os.Exit(1)
	}
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		found := map[string]string{}
		for name, look := range looks {
			value, err := look()
			if err != nil {
				value = err.Error()
			}
			found[name] = value
		}
		_ = json.NewEncoder(w).Encode(found)
	})
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM, syscall.SIGUSR1)
	go func() {
		fmt.Println("asked to end by", <-asked)
		os.Exit(0)
	}()
	_ = http.Serve(listener, nil)
}

// looks are the rows of docs/images.md by their first cell.
var looks = map[string]func() (string, error){
	"`USER`": func() (string, error) {
		groups, err := os.Getgroups()
		return fmt.Sprintf("uid %d, gid %d, groups %v", os.Getuid(), os.Getgid(), groups), err
	},
	"`WORKDIR`":          os.Getwd,
	"`WORKDIR`, missing": func() (string, error) { return owner(".") },
	"`ENV`":              env("GREETING", "node.name"),
	"`EXPOSE`":           env("PORT"),
	"`HOME`":             env("HOME"),
	"Process ID": func() (string, error) {
		if os.Getpid() == 1 {
			return "1", nil
		}
		return "not 1", nil
	},
	"Orphans":        orphans,
	"Standard input": func() (string, error) { b, err := io.ReadAll(os.Stdin); return fmt.Sprintf("%d bytes", len(b)), err },
	"Standard output, opened again": func() (string, error) {
		f, err := os.OpenFile("/dev/stdout", os.O_WRONLY, 0)
		if err == nil {
			err = f.Close()
		}
		return "can be", err
	},

	"`net.ipv4.ip_unprivileged_port_start`": sysctl("net/ipv4/ip_unprivileged_port_start"),
	"`net.ipv4.ping_group_range`":           sysctl("net/ipv4/ping_group_range"),
	"`net.core.somaxconn`":                  sysctl("net/core/somaxconn"),
	"`vm.max_map_count`":                    sysctl("vm/max_map_count"),
	"`vm.overcommit_memory`":                sysctl("vm/overcommit_memory"),
	"`fs.inotify.max_user_instances`":       sysctl("fs/inotify/max_user_instances"),
	"`fs.inotify.max_user_watches`":         sysctl("fs/inotify/max_user_watches"),
	"Swap": func() (string, error) {
		var info unix.Sysinfo_t
		err := unix.Sysinfo(&info)
		return strconv.FormatUint(info.Totalswap, 10), err
	},
	"Open files (`ulimit -n`)":    openFiles,
	"Processes (`ulimit -u`)":     limit(unix.RLIMIT_NPROC),
	"Locked memory (`ulimit -l`)": limit(unix.RLIMIT_MEMLOCK),
	"Stack (`ulimit -s`)":         limit(unix.RLIMIT_STACK),
	"Core dumps (`ulimit -c`)":    limit(unix.RLIMIT_CORE),
	"File size (`ulimit -f`)":     limit(unix.RLIMIT_FSIZE),
	"Address space (`ulimit -v`)": limit(unix.RLIMIT_AS),
	"Memory": func() (string, error) {
		var info unix.Sysinfo_t
		err := unix.Sysinfo(&info)
		// The kernel keeps some of it for itself.
		if mb := info.Totalram >> 20; err == nil && (mb > 256 || mb < 200) {
			return fmt.Sprintf("%d MB", mb), nil
		}
		return "the service's", err
	},

	"`/`": func() (string, error) {
		var st unix.Statfs_t
		if err := unix.Statfs("/", &st); err != nil {
			return "", err
		}
		if st.Flags&(unix.ST_RDONLY|unix.ST_NOSUID|unix.ST_NOEXEC) != 0 {
			return fmt.Sprintf("flags %#x", st.Flags), nil
		}
		return "writable, programs with a set-user-ID bit work", nil
	},
	"`/tmp`": func() (string, error) {
		info, err := os.Stat("/tmp")
		if err != nil {
			return "", err
		}
		f, err := os.CreateTemp("/tmp", "")
		if err == nil {
			err = errors.Join(f.Close(), os.Remove(f.Name()))
		}
		return info.Mode().String(), err
	},
	"`/dev`": func() (string, error) {
		entries, err := os.ReadDir("/dev")
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		var missing []string
		for _, name := range []string{"fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"} {
			if !slices.Contains(names, name) {
				missing = append(missing, name)
			}
		}
		if len(missing) > 0 {
			return "without " + strings.Join(missing, ", "), err
		}
		return "all that Docker has", err
	},
	"`/dev/shm`": func() (string, error) {
		f, err := os.CreateTemp("/dev/shm", "")
		if err != nil {
			return "", err
		}
		defer os.Remove(f.Name())
		defer f.Close()
		var st unix.Statfs_t
		if err := unix.Statfs("/dev/shm", &st); err != nil {
			return "", err
		}
		var info unix.Sysinfo_t
		if err := unix.Sysinfo(&info); err != nil {
			return "", err
		}
		if size := st.Blocks * uint64(st.Bsize); size > info.Totalram*55/100 || size < info.Totalram*45/100 { //nolint:gosec // positive
			return fmt.Sprintf("%d bytes", size), nil
		}
		return "half of the memory", nil
	},
	"Pseudo-terminals":     terminal,
	"POSIX message queues": queue,
	"System V memory": func() (string, error) {
		id, err := unix.SysvShmGet(unix.IPC_PRIVATE, 1<<20, unix.IPC_CREAT|0o600)
		if err == nil {
			_, err = unix.SysvShmCtl(id, unix.IPC_RMID, nil)
		}
		return "works", err
	},
	"`io_uring`": func() (string, error) {
		var params [120]byte
		fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)), 0)
		if errno != 0 {
			return "", errno
		}
		return "works", unix.Close(int(fd))
	},
	"User namespaces": func() (string, error) {
		cmd := exec.Command("/proc/self/exe", "user-namespace")
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		}
		out, err := cmd.Output()
		return map[bool]string{true: "work", false: "uid " + string(out)}[string(out) == "0"], err
	},
	"`/sys/fs/cgroup`": func() (string, error) {
		entries, err := os.ReadDir("/sys/fs/cgroup")
		if err == nil && len(entries) == 0 || errors.Is(err, os.ErrNotExist) {
			return "empty", nil
		}
		return "mounted", err
	},
	"Capabilities": func() (string, error) { return status("CapEff") },
	"Seccomp":      func() (string, error) { return status("Seccomp") },

	"`/etc/hosts`": func() (string, error) {
		b, err := os.ReadFile("/etc/hosts")
		name, herr := os.Hostname()
		if err = errors.Join(err, herr); err == nil && strings.Contains(string(b), "127.0.0.1\tlocalhost") && strings.Contains(string(b), name) {
			return "localhost and the host name", nil
		}
		return string(b), err
	},
	"`/etc/resolv.conf`": func() (string, error) {
		b, err := os.ReadFile("/etc/resolv.conf")
		if err == nil && strings.HasPrefix(string(b), "nameserver ") {
			return "the operator's name servers", nil
		}
		return string(b), err
	},
	"Loopback": func() (string, error) {
		for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
			l, err := net.Listen("tcp", addr)
			if err != nil {
				return "", err
			}
			conn, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				return "", err
			}
			_, _ = conn.Close(), l.Close()
		}
		return "127.0.0.1 and ::1", nil
	},
	"Time zone": func() (string, error) { return time.Now().Format("MST"), nil },
}

func env(names ...string) func() (string, error) {
	return func() (string, error) {
		var all []string
		for _, n := range names {
			all = append(all, n+"="+os.Getenv(n))
		}
		return strings.Join(all, " "), nil
	}
}

func sysctl(name string) func() (string, error) {
	return func() (string, error) {
		b, err := os.ReadFile("/proc/sys/" + name)
		return strings.Join(strings.Fields(string(b)), " "), err
	}
}

func limit(resource int) func() (string, error) {
	return func() (string, error) {
		var l unix.Rlimit
		err := unix.Getrlimit(resource, &l)
		words := func(n uint64) string {
			if n == unix.RLIM_INFINITY {
				return "unlimited"
			}
			return strconv.FormatUint(n, 10)
		}
		if l.Cur == l.Max {
			return words(l.Cur), err
		}
		return words(l.Cur) + ", at most " + words(l.Max), err
	}
}

// openFiles is process 1's, which this inherited: Go has raised its own.
func openFiles() (string, error) {
	b, err := os.ReadFile("/proc/1/limits")
	_, rest, _ := strings.Cut(string(b), "Max open files")
	line, _, _ := strings.Cut(rest, "\n")
	f := strings.Fields(line)
	if err != nil || len(f) < 2 {
		return line, err
	}
	return f[0] + ", at most " + f[1], nil
}

func status(field string) (string, error) {
	b, err := os.ReadFile("/proc/self/status")
	_, rest, _ := strings.Cut(string(b), "\n"+field+":")
	line, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSpace(line), err
}

func owner(path string) (string, error) {
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	return fmt.Sprintf("made, of uid %d, mode %#o", st.Uid, st.Mode&0o7777), err
}

// leave starts this program once more and goes on.
func leave(arg string) {
	cmd := exec.Command("/proc/self/exe", arg)
	_ = cmd.Start()
}

// orphans waits until a child of a child that has ended is gone.
func orphans() (string, error) {
	if err := exec.Command("/proc/self/exe", "orphan").Run(); err != nil {
		return "", err
	}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		entries, err := os.ReadDir("/proc")
		if err != nil {
			return "", err
		}
		left := false
		for _, e := range entries {
			if pid, err := strconv.Atoi(e.Name()); err != nil || pid == 1 || pid == os.Getpid() {
				continue
			}
			stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
			left = left || err == nil && strings.Contains(string(stat), " (exe) ")
		}
		if !left {
			return "are reaped", nil
		}
	}
	return "stay", nil
}

// terminal opens a pseudo-terminal's both ends.
func terminal() (string, error) {
	ptmx, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return "", err
	}
	defer ptmx.Close()
	if err := unix.IoctlSetPointerInt(int(ptmx.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		return "", err
	}
	n, err := unix.IoctlGetInt(int(ptmx.Fd()), unix.TIOCGPTN)
	if err != nil {
		return "", err
	}
	pts, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return "", err
	}
	return "work", pts.Close()
}

// queue makes a POSIX message queue.
func queue() (string, error) {
	name, err := unix.BytePtrFromString("images")
	if err != nil {
		return "", err
	}
	fd, _, errno := unix.Syscall6(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(name)), unix.O_CREAT|unix.O_RDWR, 0o600, 0, 0, 0)
	if errno != 0 {
		return "", errno
	}
	return "work", unix.Close(int(fd))
}
