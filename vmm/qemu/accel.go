package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miosa/miosa/disk"
	"github.com/miosa/miosa/vmm"
	"github.com/miosa/miosa/wire/guest"
)

const kvmDevice = "/dev/kvm"

// kvmTime is how long our own kernel may take to its hello under KVM. A usable
// KVM takes well under a second.
const kvmTime = 5 * time.Second

// Accel is "kvm" or "tcg". With Accel "auto" the first call decides: only
// that our own kernel boots under KVM shows that it can (creating a VM and
// running a few instructions succeeds on hosts where kernels then hang). The
// answer is kept until the host reboots or the bundle changes.
func (d *Driver) Accel(ctx context.Context) (string, error) {
	d.accelMu.Lock()
	defer d.accelMu.Unlock()
	if d.chosen != "" {
		return d.chosen, nil
	}
	file := d.answerFile()
	if answer := readAnswer(file); answer != "" {
		d.chosen = answer
		return answer, nil
	}
	began := time.Now()
	why := kvmReachable(d.root)
	if why == nil {
		why = d.boots(ctx, "kvm", kvmTime)
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	d.chosen = "kvm"
	if why != nil {
		d.chosen = "tcg"
	}
	d.log.Info("accelerator chosen", "accel", d.chosen, "why", why, "took", time.Since(began).Round(time.Millisecond))
	if err := writeAnswer(file, d.chosen); err != nil {
		d.log.Warn("the answer of the KVM probe is not kept", "err", err)
	}
	return d.chosen, nil
}

// boots boots our kernel, without disks; nil when it said hello in time.
func (d *Driver) boots(ctx context.Context, accel string, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	spec := vmm.Spec{ID: "probe-" + strconv.Itoa(os.Getpid()), VCPUs: 1, MemoryMB: 128, NIC: vmm.NIC{MAC: "02:00:00:00:00:01"}}
	if err := d.prepareJail(accel); err != nil {
		return err
	}
	m, err := d.start(spec, accel)
	if err != nil {
		return err
	}
	defer func() { _ = m.Kill(context.WithoutCancel(ctx)) }()
	c, err := m.Dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if err := awaitHello(c); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("our kernel did not come up under %s within %s", accel, within)
		}
		return fmt.Errorf("our kernel did not come up under %s: %w", accel, err)
	}
	return nil
}

func awaitHello(c net.Conn) error {
	conn := guest.NewConn(c)
	if err := conn.WriteMessage(guest.NewSession(0).Connect(1)); err != nil {
		return err
	}
	for {
		message, err := conn.ReadMessage()
		if err != nil || message.Hello != nil {
			return err
		}
	}
}

// kvmReachable checks that the device is there and open to a VM's uid.
func kvmReachable(root bool) error {
	var st unix.Stat_t
	if err := unix.Stat(kvmDevice, &st); err != nil {
		return fmt.Errorf("no %s: %w", kvmDevice, err)
	}
	if !root {
		if err := unix.Access(kvmDevice, unix.R_OK|unix.W_OK); err != nil {
			return fmt.Errorf("%s is closed to us: %w", kvmDevice, err)
		}
		return nil
	}
	if st.Mode&0o006 != 0o006 && (st.Mode&0o060 != 0o060 || st.Gid == 0) {
		return errors.New(kvmDevice + " is closed to the uids of VMs: its group must not be root's and needs read and write")
	}
	return nil
}

// answer is what the probe's file holds.
type answer struct {
	BootID string `json:"boot_id"`
	Accel  string `json:"accel"`
}

func (d *Driver) answerFile() string {
	if d.config.CacheDir == "" || d.config.Digest == "" {
		return ""
	}
	return filepath.Join(d.config.CacheDir, "accel-"+fmt.Sprintf("%.16s", d.config.Digest)+"-"+strconv.Itoa(os.Geteuid())+".json")
}

func readAnswer(file string) string {
	if file == "" {
		return ""
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	var a answer
	if json.Unmarshal(b, &a) != nil || a.BootID != bootID() || a.Accel != "kvm" && a.Accel != "tcg" {
		return ""
	}
	return a.Accel
}

func writeAnswer(file, accel string) error {
	if file == "" {
		return nil
	}
	b, err := json.Marshal(answer{BootID: bootID(), Accel: accel})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	return disk.ReplaceUnsynced(file, b, 0o600) // it holds for this boot of the machine
}

// bootID changes with every boot of the host.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
