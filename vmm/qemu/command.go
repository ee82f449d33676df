package qemu

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/miosa/miosa/vmm"
	"github.com/miosa/miosa/wire/guest"
)

// The descriptors QEMU starts with. Standard input is empty, standard output
// is the guest's serial console, standard error joins it.
const (
	fdKernel = 3 + iota
	fdInitrd
	fdBase
	fdData
	fdDataRead
	fdControl
	fdTap
	fdMemory
	fdMonitor
	fdExec // the first of guest.ExecPorts
)

// command is QEMU's argument list. It holds no secret and no path but the
// data directory's, which marks the process as ours: everything else is an
// open file.
func (d *Driver) command(spec vmm.Spec, accel string, from origin) []string {
	// Guest memory stays out of core dumps and of page merging.
	machine := "microvm,dump-guest-core=off,mem-merge=off"
	if from.memory != nil {
		machine += ",memory-backend=ram"
	}
	argv := []string{
		d.config.Binary,
		"-name", d.nameArgument(spec.ID),
		"-machine", machine,
		"-m", strconv.Itoa(spec.MemoryMB),
		"-smp", strconv.Itoa(spec.VCPUs),
		"-nodefaults", "-no-user-config", "-no-reboot",
		"-display", "none", "-monitor", "none",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-chardev", "stdio,id=con,signal=off", "-serial", "chardev:con",
		"-device", "virtio-serial-device",
		"-chardev", fmt.Sprintf("socket,id=ctl,fd=%d,server=on,wait=off", fdControl),
		"-device", "virtserialport,chardev=ctl,name=ctl",
	}
	for n := range guest.ExecPorts {
		argv = append(argv,
			"-chardev", fmt.Sprintf("socket,id=exec%d,fd=%d,server=on,wait=off", n, fdExec+n),
			"-device", fmt.Sprintf("virtserialport,chardev=exec%d,name=%s%[1]d", n, guest.ExecPortName))
	}
	if from.copies == nil {
		argv = append(argv,
			"-kernel", d.pathFor(jailKernel, fdKernel),
			"-initrd", d.pathFor(jailInitrd, fdInitrd),
			"-append", d.kernelArguments(accel, from))
	}
	argv = append(argv, d.templateArguments(spec, from)...)
	if accel == "kvm" {
		argv = append(argv, "-accel", "kvm", "-cpu", "host")
	} else {
		thread := "single"
		if spec.VCPUs > 1 {
			thread = "multi"
		}
		argv = append(argv, "-accel", fmt.Sprintf("tcg,thread=%s,tb-size=%d", thread, d.config.TranslationMB), "-cpu", "max")
	}
	if from.makes != nil {
		argv = append(argv, placeholder("base", "readonly=on")...)
	}
	if spec.BaseDisk != "" {
		argv = append(argv,
			"-add-fd", fmt.Sprintf("fd=%d,set=1", fdBase),
			"-drive", "file=/dev/fdset/1,if=none,id=base,format=raw,readonly=on,file.locking=off",
			"-device", "virtio-blk-device,drive=base")
	}
	if spec.DataDisk != "" {
		// The disk is ephemeral: no flush reaches the host's disk. QEMU looks
		// at a disk for reading before it opens it for writing.
		argv = append(argv,
			"-add-fd", fmt.Sprintf("fd=%d,set=2", fdData),
			"-add-fd", fmt.Sprintf("fd=%d,set=2", fdDataRead),
			"-drive", "file=/dev/fdset/2,if=none,id=data,format=raw,cache=unsafe,discard=unmap,file.locking=off",
			"-device", "virtio-blk-device,drive=data")
	} else if from.makes != nil {
		argv = append(argv, placeholder("data", "cache=unsafe,discard=unmap")...)
	}
	switch nic := spec.NIC; {
	case nic.Tap != "":
		argv = append(argv, "-netdev", fmt.Sprintf("tap,id=net,fd=%d", fdTap))
	case nic.Forward.IsValid():
		argv = append(argv, "-netdev", fmt.Sprintf("user,id=net,ipv6=off,hostfwd=tcp:%s-%s:%d", nic.Forward, nic.Guest.Addr(), nic.GuestPort))
	default:
		argv = append(argv, "-netdev", "user,id=net,ipv6=off")
	}
	// Announcing itself would be a copy's first deed, and to no one.
	return append(argv, "-device", "virtio-net-device,guest_announce=off,netdev=net,mac="+spec.NIC.MAC)
}

// placeholder is a disk of a template's that reads as nothing, and is larger
// than any that a copy may have. The guest's drivers have looked at its size by
// then; the file system on a copy's disk knows its own.
func placeholder(name, options string) []string {
	return []string{
		"-drive", "driver=null-co,size=1T,read-zeroes=on,if=none,id=" + name + "," + options,
		"-device", "virtio-blk-device,drive=" + name,
	}
}

// pathFor is where QEMU finds a file that it takes by a path only: in a file
// system of its own, or among its open files.
func (d *Driver) pathFor(inJail string, fd int) string {
	if d.jailed() {
		return inJail
	}
	return "/proc/self/fd/" + strconv.Itoa(fd)
}

// templateArguments are what a template or a copy has beyond a machine that
// boots by itself.
func (d *Driver) templateArguments(spec vmm.Spec, from origin) []string {
	if from.memory == nil {
		return nil
	}
	argv := []string{
		"-object", fmt.Sprintf("memory-backend-file,id=ram,size=%dM,mem-path=%s,share=on", spec.MemoryMB, d.pathFor(jailMemory+"/"+memoryName, fdMemory)),
		"-chardev", fmt.Sprintf("socket,id=monitor,fd=%d", fdMonitor), "-mon", "chardev=monitor,mode=control",
	}
	if from.copies != nil {
		argv = append(argv, "-incoming", "defer")
	}
	return argv
}

// kernelArguments: without the host's TSC frequency most boots under TCG hang
// in its calibration. A guest's TSC is the host's there. Where that is steady the
// guest's kernel is told so: it would otherwise compare it with its timer
// interrupts, which come late on a busy host, take the TSC for the one that is
// wrong, and go by the interrupts from then on; in a template, for all copies.
func (d *Driver) kernelArguments(accel string, from origin) string {
	words := append([]string{"console=ttyS0", "reboot=t", "panic=-1", "quiet"}, d.config.KernelArgs...)
	if accel != "kvm" {
		words = append(words, "tsc_early_khz="+strconv.Itoa(d.tsc.kHz))
		if d.tsc.steady {
			words = append(words, "tsc=reliable")
		}
		// These become PID 1's environment, and nobody else's: preemption by
		// signals and work for a second processor are code to translate, and PID 1
		// never computes for long.
		words = append(words, "GODEBUG=asyncpreemptoff=1", "GOMAXPROCS=1")
	}
	if from.makes != nil {
		kind := guest.TemplateBare
		if from.makes.disk != nil {
			kind = guest.TemplateDisk
		}
		words = append(words, guest.TemplateVar+"="+kind)
	}
	return strings.Join(words, " ")
}

// nameArgument is what the VM's process is known by. QEMU reads a doubled
// comma as one.
func (d *Driver) nameArgument(id string) string {
	return "guest=" + strings.ReplaceAll(filepath.Join(d.config.DataDir, "vm"), ",", ",,") + "/" + id
}

// idIn finds the ID in an argument list of ours; "" in any other.
func (d *Driver) idIn(argv []string) string {
	prefix := d.nameArgument("")
	for i := 1; i < len(argv); i++ {
		if argv[i-1] != "-name" {
			continue
		}
		if id, ok := strings.CutPrefix(argv[i], prefix); ok && vmm.ValidID(id) {
			return id
		}
	}
	return ""
}

// timeStamp is the host's time stamp counter.
type timeStamp struct {
	kHz    int
	steady bool // it always runs alike, in every state of the processor
}

// hostTSC is the host's time stamp counter, as the kernel tells the processor's
// clock and what it can do.
func hostTSC() (t timeStamp, err error) {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return t, fmt.Errorf("find the processor's clock: %w", err)
	}
	defer f.Close()
	return readTSC(f)
}

// readTSC reads /proc/cpuinfo's first processor.
func readTSC(cpuinfo io.Reader) (t timeStamp, err error) {
	for lines := bufio.NewScanner(cpuinfo); lines.Scan(); {
		key, value, _ := strings.Cut(lines.Text(), ":")
		switch strings.TrimSpace(key) {
		case "cpu MHz":
			mhz, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				return t, fmt.Errorf("find the processor's clock: %w", err)
			}
			t.kHz = int(mhz * 1000)
		case "flags":
			flags := strings.Fields(value)
			t.steady = slices.Contains(flags, "constant_tsc") && slices.Contains(flags, "nonstop_tsc")
		case "":
			if t.kHz > 0 {
				return t, nil // the others are like it
			}
		}
	}
	if t.kHz == 0 {
		return t, errors.New("find the processor's clock: /proc/cpuinfo has no \"cpu MHz\"")
	}
	return t, nil
}
