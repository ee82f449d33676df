package qemu

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/miosa/miosa/vmm"
	"github.com/miosa/miosa/vmm/vmmtest"
)

// What a container's profile may keep from us.
const (
	denyMounts = "mounts"
	denyUsers  = "users" // namespaces of them
)

// deny has the kernel refuse things to this process and its children from now
// on, the way that containers' profiles do it: seccomp(2).
func deny(what []string) error {
	if len(what) == 0 {
		return nil
	}
	const (
		load   = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		has    = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
		answer = unix.BPF_RET | unix.BPF_K

		number, firstArgument = 0, 16 // in struct seccomp_data, on little-endian machines
	)
	refuse := unix.SockFilter{Code: answer, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)}
	var filter []unix.SockFilter
	for _, w := range what {
		switch w {
		case denyMounts:
			filter = append(filter, unix.SockFilter{Code: load, K: number}, unix.SockFilter{Code: equal, K: unix.SYS_MOUNT, Jf: 1}, refuse)
		case denyUsers:
			filter = append(filter,
				unix.SockFilter{Code: load, K: number}, unix.SockFilter{Code: equal, K: unix.SYS_CLONE, Jf: 3},
				unix.SockFilter{Code: load, K: firstArgument}, unix.SockFilter{Code: has, K: unix.CLONE_NEWUSER, Jf: 1}, refuse)
		default:
			return fmt.Errorf("nothing is called %q", w)
		}
	}
	filter = append(filter, unix.SockFilter{Code: answer, K: unix.SECCOMP_RET_ALLOW})
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]} //nolint:gosec // a handful
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	if _, _, errno := syscall.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program))); errno != 0 {
		return os.NewSyscallError("seccomp", errno)
	}
	return nil
}

// Where a container gives us less, VMs run with less, and that is said once.
func TestVMsRunWhereLessIsAllowed(t *testing.T) {
	const noMounts, noUsers, noCgroups = "no file system of their own", "no user namespaces of their own", "no cgroups"
	root := os.Geteuid() == 0
	for name, said := range map[string]string{denyMounts: noMounts, denyUsers: noUsers} {
		t.Run(name, func(t *testing.T) {
			if !root && name != denyUsers {
				t.Skip("without root no VM has a file system of its own anyway")
			}
			h := newHost(t)
			h.config.CgroupRoot = t.TempDir() // there are none: a process is not cloned into one
			first, a := h.spec(t, "ri_a")
			second, _ := h.spec(t, "ri_b")
			handles, log := startAndBeKilled(t, starterRequest{h.config, []vmm.Spec{first, second}, []string{name}})
			for _, words := range []string{said, noCgroups} {
				if n := strings.Count(log, words); n != 1 {
					t.Errorf("%q is said %d times:\n%s", words, n, log)
				}
			}
			if err := unix.Kill(handles[1].PID, unix.SIGSTOP); err != nil { // it need not boot
				t.Fatal(err)
			}
			d := h.driver(t)
			vm, err := d.Adopt(t.Context(), handles[0])
			if err != nil {
				t.Fatal(err)
			}
			s := vmmtest.Open(t, vm)
			s.Boot("ri_a", a, "/app/app serve log=3")
			s.Phase("listening")

			// The rest stands.
			for ns, apart := range map[string]bool{"pid": root, "ipc": root, "mnt": root && name == denyUsers, "user": name == denyMounts} {
				if shared := slices.Contains(in(t, ns, handles[0].PID), os.Getpid()); shared == apart {
					t.Errorf("its %s namespace is ours: %v", ns, shared)
				}
			}
			if err := vm.Kill(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := d.Reclaim(t.Context(), func(string) bool { return false }); err != nil {
				t.Error(err)
			}
			for _, handle := range handles {
				if rest := left(t, handle); len(rest) > 0 {
					t.Errorf("left behind: %v", rest)
				}
			}
		})
	}
}

// A failure of the moment is none of what a host allows.
func TestRefused(t *testing.T) {
	for err, want := range map[error]bool{
		unix.EPERM: true, unix.ENOSYS: true, unix.ENOSPC: true,
		unix.ENOMEM: false, unix.EAGAIN: false, unix.ENOENT: false,
	} {
		if got := refused(fmt.Errorf("clone: %w", err)); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
	if refused(errors.New("another")) {
		t.Error("another error")
	}
}
