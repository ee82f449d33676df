package qemu

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/miosa/miosa/descriptors"
	"github.com/miosa/miosa/vmm"
)

// launch starts QEMU and returns once the program runs.
func (d *Driver) launch(spec vmm.Spec, accel string, from origin, f *files, in group) (*process, error) {
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(null)
	serial, err := unix.Open(filepath.Join(d.runDir(spec.ID), consoleFile), unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open console pipe: %w", err)
	}
	defer unix.Close(serial)

	attr := &syscall.ProcAttr{Dir: "/", Env: []string{}, Sys: &syscall.SysProcAttr{Setsid: true}}
	for _, fd := range append([]int{null, serial, serial}, f.all()...) {
		if fd < 0 {
			fd = null // keeps the numbers of those after it
		}
		attr.Files = append(attr.Files, uintptr(fd))
	}
	if d.root {
		uid := uint32(d.config.UID)
		if spec.UID != 0 {
			uid = uint32(spec.UID)
		}
		attr.Sys.Credential = &syscall.Credential{Uid: uid, Gid: uid, Groups: kvmGroup(accel)}
		attr.Sys.Cloneflags = syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS
		if spec.NIC.Tap != "" {
			// The tap is an open file, so QEMU needs no network at all.
			attr.Sys.Cloneflags |= syscall.CLONE_NEWNET
		}
	}
	// Our embedder may have files open that are not marked, or have inherited some.
	if err := descriptors.CloseOnExec(); err != nil {
		return nil, err
	}
	pid, err := forkIn(in, d.config.Binary, d.command(spec, accel, from), attr)
	if err != nil {
		return nil, fmt.Errorf("run %s: %w", d.config.Binary, err)
	}
	p, err := openProcess(pid)
	if err != nil {
		// Not even reaped yet, so the pid is still its own.
		_ = unix.Kill(pid, unix.SIGKILL)
		_, _ = unix.Wait4(pid, nil, 0, nil)
		return nil, err
	}
	// If the host runs out of memory, VMs go before the platform does.
	_ = os.WriteFile(procFile(pid, "oom_score_adj"), []byte("500"), 0)
	return p, nil
}

// forkIn starts the program inside of the cgroup, so that it is counted from
// its first page on.
func forkIn(in group, program string, argv []string, attr *syscall.ProcAttr) (int, error) {
	if in == nil {
		return syscall.ForkExec(program, argv, attr)
	}
	leave, err := in.enter(attr.Sys)
	if err != nil {
		return 0, err
	}
	pid, err := syscall.ForkExec(program, argv, attr)
	leave()
	return pid, err
}

// kvmGroup is the group that may use /dev/kvm.
func kvmGroup(accel string) []uint32 {
	if accel != "kvm" {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Stat(kvmDevice, &st); err != nil || st.Gid == 0 {
		return nil
	}
	return []uint32{st.Gid}
}
