package qemu

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/miosa/miosa/vmm"
	"github.com/miosa/miosa/wire/guest"
)

func TestCommand(t *testing.T) {
	d := &Driver{config: Config{DataDir: "/var/lib/miosa", Binary: "/usr/bin/qemu", TranslationMB: 32}, tsc: timeStamp{kHz: 2600000, steady: true}}
	spec := vmm.Spec{
		ID: "ri_a-1", VCPUs: 1, MemoryMB: 512, BaseDisk: "/base", DataDisk: "/data",
		NIC: vmm.NIC{Tap: "mi0badcafe-0", MAC: "02:00:00:00:00:01"},
	}
	want := `/usr/bin/qemu -name guest=/var/lib/miosa/vm/ri_a-1 -machine microvm,dump-guest-core=off,mem-merge=off
		-m 512 -smp 1 -nodefaults -no-user-config -no-reboot -display none -monitor none
		-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
		-chardev stdio,id=con,signal=off -serial chardev:con
		-device virtio-serial-device -chardev socket,id=ctl,fd=8,server=on,wait=off -device virtserialport,chardev=ctl,name=ctl
		-chardev socket,id=exec0,fd=12,server=on,wait=off -device virtserialport,chardev=exec0,name=exec0
		-chardev socket,id=exec1,fd=13,server=on,wait=off -device virtserialport,chardev=exec1,name=exec1
		-chardev socket,id=exec2,fd=14,server=on,wait=off -device virtserialport,chardev=exec2,name=exec2
		-chardev socket,id=exec3,fd=15,server=on,wait=off -device virtserialport,chardev=exec3,name=exec3
		-kernel /proc/self/fd/3 -initrd /proc/self/fd/4
		-append console=ttyS0 reboot=t panic=-1 quiet tsc_early_khz=2600000 tsc=reliable GODEBUG=asyncpreemptoff=1 GOMAXPROCS=1
		-accel tcg,thread=single,tb-size=32 -cpu max
		-add-fd fd=5,set=1 -drive file=/dev/fdset/1,if=none,id=base,format=raw,readonly=on,file.locking=off -device virtio-blk-device,drive=base
		-add-fd fd=6,set=2 -add-fd fd=7,set=2
		-drive file=/dev/fdset/2,if=none,id=data,format=raw,cache=unsafe,discard=unmap,file.locking=off -device virtio-blk-device,drive=data
		-netdev tap,id=net,fd=9 -device virtio-net-device,guest_announce=off,netdev=net,mac=02:00:00:00:00:01`
	if got := strings.Join(d.command(spec, "tcg", origin{}), " "); got != strings.Join(strings.Fields(want), " ") {
		t.Errorf("command is\n%s", got)
	}

	spec.VCPUs = 2
	spec.NIC = vmm.NIC{MAC: "02:00:00:00:00:01", Guest: netip.MustParsePrefix("10.0.2.15/24"), Forward: netip.MustParseAddrPort("127.0.0.1:20001"), GuestPort: 8080}
	got := strings.Join(d.command(spec, "kvm", origin{}), " ")
	for _, part := range []string{"-accel kvm -cpu host", "-smp 2", "-netdev user,id=net,ipv6=off,hostfwd=tcp:127.0.0.1:20001-10.0.2.15:8080"} {
		if !strings.Contains(got, part) {
			t.Errorf("command has no %q:\n%s", part, got)
		}
	}
	if strings.Contains(got, "tsc") {
		t.Error("KVM needs no word about the TSC")
	}
	d.tsc.steady = false
	if got := strings.Join(d.command(spec, "tcg", origin{}), " "); strings.Contains(got, "tsc=reliable") {
		t.Error("a TSC is trusted that is not steady")
	}
	if got := strings.Join(d.command(spec, "tcg", origin{}), " "); !strings.Contains(got, "thread=multi") {
		t.Errorf("two processors share one thread:\n%s", got)
	}
}

func TestReadTSC(t *testing.T) {
	const head = "processor\t: 0\nmodel name\t: Some CPU\ncpu MHz\t\t: 2445.404\n"
	for flags, steady := range map[string]bool{
		"fpu tsc constant_tsc nonstop_tsc": true, "fpu tsc constant_tsc": false, "fpu tsc nonstop_tsc": false, "fpu tsc": false,
	} {
		for _, rest := range []string{"", "\n", "\nprocessor\t: 1\ncpu MHz\t\t: 800.000\nflags\t\t: fpu\n"} {
			got, err := readTSC(strings.NewReader(head + "flags\t\t: " + flags + "\n" + rest))
			if want := (timeStamp{kHz: 2445404, steady: steady}); err != nil || got != want {
				t.Errorf("%s: %+v, %v", flags, got, err)
			}
		}
	}
	for _, text := range []string{"", "flags\t: fpu\n", "cpu MHz\t: fast\n"} {
		if got, err := readTSC(strings.NewReader(text)); err == nil {
			t.Errorf("%q: %+v", text, got)
		}
	}
}

// A template and its copies are the same machine to QEMU, or the one's state
// does not fit the other.
func TestTemplateAndCopyAreAlike(t *testing.T) {
	d := &Driver{config: Config{DataDir: "/d", Binary: "/usr/bin/qemu", TranslationMB: 32}, tsc: timeStamp{kHz: 2600000, steady: true}}
	nic := vmm.NIC{Tap: "mt0badcafe", MAC: "02:00:00:00:00:01"}
	made := d.command(vmm.Spec{ID: "template-1", VCPUs: 2, MemoryMB: 256, NIC: nic}, "tcg", origin{makes: &template{}, memory: &guestMemory{}})
	withDisk := d.command(vmm.Spec{ID: "template-1", VCPUs: 2, MemoryMB: 256, DataDisk: "/data", NIC: nic}, "tcg", origin{makes: &template{disk: os.Stdin}, memory: &guestMemory{}})
	nic.Tap = "mi0badcafe-7"
	copied := d.command(vmm.Spec{ID: "ri_a-1", VCPUs: 2, MemoryMB: 256, BaseDisk: "/base", DataDisk: "/data", NIC: nic}, "tcg", origin{copies: &template{}, memory: &guestMemory{}})
	devices := func(argv []string) (out []string) {
		for i, word := range argv[:len(argv)-1] {
			switch word {
			case "-device", "-machine", "-accel", "-cpu", "-m", "-smp":
				out = append(out, word+" "+argv[i+1])
			}
		}
		return out
	}
	for _, argv := range [][]string{made, withDisk} {
		if got, want := strings.Join(devices(copied), "\n"), strings.Join(devices(argv), "\n"); got != want {
			t.Errorf("the copy's devices are\n%s\nthe template's\n%s", got, want)
		}
	}
	if bare, disk := guest.TemplateVar+"="+guest.TemplateBare, guest.TemplateVar+"="+guest.TemplateDisk; !strings.Contains(strings.Join(made, " "), bare) ||
		!strings.Contains(strings.Join(withDisk, " "), disk) {
		t.Errorf("the guest is not told %s and %s", bare, disk)
	}
	one, other := strings.Join(made, " "), strings.Join(copied, " ")
	for _, part := range []string{guest.TemplateVar, "-kernel"} {
		if !strings.Contains(one, part) || strings.Contains(other, part) {
			t.Errorf("%q belongs to the template alone:\n%s\n%s", part, one, other)
		}
	}
	for _, part := range []string{"-incoming defer", "/dev/fdset/2"} {
		if strings.Contains(one, part) || !strings.Contains(other, part) {
			t.Errorf("%q belongs to the copy alone:\n%s\n%s", part, one, other)
		}
	}
}

// Only our own VMs are found by their arguments, whatever the directory is
// called.
func TestArgumentsTellWhoseAProcessIs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir := "/" + rapid.StringMatching(`[a-z,=./-]{1,12}`).Draw(t, "dir")
		d := &Driver{config: Config{DataDir: dir}}
		id := rapid.StringMatching(`[a-z0-9][a-z0-9_.-]{0,20}`).Draw(t, "id")
		if got := d.idIn([]string{"qemu", "-m", "1", "-name", d.nameArgument(id), "-x"}); got != id {
			t.Fatalf("%q was found as %q", id, got)
		}
		other := &Driver{config: Config{DataDir: dir + "x"}}
		for _, argv := range [][]string{
			nil, {"qemu"}, {"-name"}, {"grep", d.nameArgument(id)},
			{"qemu", "-name", other.nameArgument(id)},
			{"qemu", "-name", d.nameArgument(id) + "/x"},
			{"qemu", "-name", d.nameArgument(id) + ",process=x"},
			{"qemu", "-name", d.nameArgument("")},
		} {
			if got := d.idIn(argv); got != "" {
				t.Fatalf("%q was found in %q", got, argv)
			}
		}
	})
}
