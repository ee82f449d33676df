package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/miosa/miosa/disk"
)

// disks is the agent's directory: one folder an instance, with its state, its
// sealed boot spec, its log tail and its ephemeral disk; the templates that
// ephemeral disks are copied from; and the log spool.
type disks struct {
	dir string
	mu  sync.Mutex // guards the making of templates
}

var errNoSpec = errors.New("no boot spec is stored")

const (
	stateFile    = "state.json"
	specFile     = "spec.sealed"
	tailFile     = "tail.json"
	diskFile     = "ephemeral.ext4"
	templatesDir = "templates"
	spoolDir     = "spool"
)

func (d *disks) prepare() error {
	// Templates are quick to make, and those of sizes no longer asked for would
	// stay for ever.
	if err := os.RemoveAll(filepath.Join(d.dir, templatesDir)); err != nil {
		return fmt.Errorf("prepare the agent's directory: %w", err)
	}
	// VMs get open files: nobody else has business here.
	if err := disk.MakeDir(filepath.Join(d.dir, templatesDir), 0o700); err != nil {
		return fmt.Errorf("prepare the agent's directory: %w", err)
	}
	if err := disk.Sweep(d.dir); err != nil {
		return fmt.Errorf("prepare the agent's directory: %w", err)
	}
	return nil
}

func (d *disks) path(id, name string) string { return filepath.Join(d.dir, id, name) }

// write replaces a small file by rename: a reader sees the old or the new
// one. sync makes it last through a power cut; without, it lasts through the
// death of our process, which is all that matters for what dies with the
// machine.
func (d *disks) write(id, name string, data []byte, sync bool) error {
	if err := disk.MakeDir(filepath.Join(d.dir, id), 0o700); err != nil {
		return err
	}
	if sync {
		return disk.Replace(d.path(id, name), data, 0o600)
	}
	return disk.ReplaceUnsynced(d.path(id, name), data, 0o600)
}

func (d *disks) writeSpec(id string, sealed []byte) error { return d.write(id, specFile, sealed, true) }

func (d *disks) readSpec(id string) ([]byte, error) {
	b, err := os.ReadFile(d.path(id, specFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, errNoSpec
	}
	return b, err
}

func (d *disks) writeTail(id string, t tailDump) error {
	b, err := json.Marshal(t)
	if err != nil {
		return err
	}
	return d.write(id, tailFile, b, false)
}

func (d *disks) remove(id string) error { return os.RemoveAll(filepath.Join(d.dir, id)) }

func (d *disks) removeDisk(id string) error {
	err := os.Remove(d.path(id, diskFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// place makes the file for the ephemeral disk of one boot, which the driver
// makes a copy of origin: an empty file system of the size, made once. The
// driver hands it to the VM as an open file: nobody else needs to read it.
func (d *disks) place(id string, megabytes int) (path, origin string, err error) {
	if origin, err = d.origin(megabytes); err != nil {
		return "", "", err
	}
	path = d.path(id, diskFile)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", "", err
	}
	// A new file: one of an earlier boot may be open still.
	if err := d.removeDisk(id); err != nil {
		return "", "", err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", "", err
	}
	return path, origin, f.Close()
}

func (d *disks) origin(megabytes int) (string, error) {
	path := filepath.Join(d.dir, templatesDir, strconv.Itoa(megabytes)+"mb.ext4")
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return "", err
	}
	if err := errors.Join(f.Truncate(int64(megabytes)<<20), f.Close()); err != nil {
		return "", err
	}
	// The overlay's two directories are made here, once, rather than by every
	// guest at its boot.
	skeleton, err := os.MkdirTemp(filepath.Dir(path), ".skeleton-*")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(skeleton)
	for _, dir := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(skeleton, dir), 0o755); err != nil {
			return "", err
		}
	}
	// No journal: the disk lives no longer than its VM. Nor checksums of its
	// metadata, which cost an emulated guest a fifth of its mount.
	out, err := exec.Command("mkfs.ext4", "-q", "-F", "-O", "^has_journal,^metadata_csum,^64bit", "-E", "lazy_itable_init=1,nodiscard,root_owner=0:0",
		"-m", "0", "-d", skeleton, tmp).CombinedOutput()
	if err != nil {
		return "", errors.Join(fmt.Errorf("mkfs.ext4: %w: %s", err, strings.TrimSpace(string(out))), os.Remove(tmp))
	}
	return path, disk.Rename(tmp, path)
}

// panicked tells a kernel panic from the console's last words.
func panicked(console []byte) bool {
	return slices.ContainsFunc(strings.Split(string(console), "\n"), func(l string) bool {
		return strings.Contains(l, "Kernel panic - not syncing")
	})
}
