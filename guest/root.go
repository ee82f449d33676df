package guest

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// The initial root's directories and the machine's disks, in the order that
// the drivers attach them.
const (
	baseDir     = "/base" // release image, read-only
	dataDir     = "/data" // ephemeral disk
	newRoot     = "/root" // both joined
	baseDisk    = "/dev/vda"
	dataDisk    = "/dev/vdb"
	upperDir    = dataDir + "/upper" // what the instance changed
	overlayWork = dataDir + "/work"  // the overlay's own
)

// mountFirst mounts what PID 1 itself needs.
func mountFirst() error {
	for _, m := range []struct {
		source, target, fstype string
		flags                  uintptr
		data                   string
	}{
		{"dev", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"sys", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	} {
		if err := rawMount(m.source, m.target, m.fstype, m.flags, m.data); err != nil && !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
	return nil
}

// mountDisks mounts the release's image and, unless that is done, the ephemeral
// disk. warning says what it had to do without.
func mountDisks(hasData bool) (warning string, err error) {
	if err := rawMount(baseDisk, baseDir, "erofs", unix.MS_RDONLY|unix.MS_NODEV, ""); err != nil {
		return "", fmt.Errorf("the release's image: %w", err)
	}
	if hasData {
		return "", nil
	}
	if err := mountData(); err != nil {
		warning = fmt.Sprintf("the ephemeral disk cannot be used (%v): files go to memory", err)
		if err := rawMount("data", dataDir, "tmpfs", unix.MS_NODEV, "mode=0755"); err != nil {
			return "", fmt.Errorf("memory in the ephemeral disk's place: %w", err)
		}
	}
	for _, dir := range []string{upperDir, overlayWork} {
		if err := rawMkdir(dir, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
			return "", fmt.Errorf("prepare the ephemeral disk: %w", err)
		}
	}
	return warning, nil
}

// mountData mounts the ephemeral disk. It is new and does not live long: its
// inode tables are not worth the background thread that would zero them.
func mountData() error {
	return rawMount(dataDisk, dataDir, "ext4", unix.MS_NODEV|unix.MS_NOATIME, "noinit_itable")
}

// joinDisks joins the two at newRoot.
func joinDisks() error {
	options := "lowerdir=" + baseDir + ",upperdir=" + upperDir + ",workdir=" + overlayWork
	if err := rawMount("overlay", newRoot, "overlay", unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("join the release's image and the ephemeral disk: %w", err)
	}
	for _, dir := range []string{"dev", "proc", "sys", "tmp"} {
		mode := os.FileMode(0o755)
		if dir == "tmp" {
			mode = 0o777 | os.ModeSticky
		}
		if err := mkdirExact(newRoot+"/"+dir, mode); err != nil {
			return fmt.Errorf("prepare the root file system: %w", err)
		}
	}
	return nil
}

// mkdirExact makes a directory with the mode whatever the umask, or leaves an
// existing one as it is.
func mkdirExact(path string, mode os.FileMode) error {
	if err := rawMkdir(path, mode); err != nil {
		if errors.Is(err, unix.EEXIST) {
			return nil
		}
		return err
	}
	return os.Chmod(path, mode)
}

// switchRoot makes newRoot the root of PID 1 and all that comes after. It
// returns the ephemeral disk's directory, no longer to be reached by a path.
func switchRoot() (data *os.File, err error) {
	if data, err = os.Open(dataDir); err != nil {
		return nil, err
	}
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		if err := rawMount(dir, newRoot+dir, "", unix.MS_MOVE, ""); err != nil {
			return data, fmt.Errorf("move %s: %w", dir, err)
		}
	}
	if err := unix.Chdir(newRoot); err != nil {
		return data, err
	}
	if err := rawMount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return data, fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return data, err
	}
	return data, unix.Chdir("/")
}

// mountRest mounts what programs expect beyond /dev, /proc and /sys, and makes
// the links in /dev that are not the kernel's.
func mountRest() error {
	for _, m := range []struct {
		target, fstype string
		flags          uintptr
		data           string
	}{
		{"/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,ptmxmode=0666"},
		{"/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"/dev/mqueue", "mqueue", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	} {
		if err := mkdirExact(m.target, 0o755); err != nil {
			return err
		}
		err := rawMount(m.fstype, m.target, m.fstype, m.flags, m.data)
		if errors.Is(err, unix.ENODEV) {
			continue // this kernel has no such file system
		}
		if err != nil {
			return err
		}
	}
	for link, target := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "fd/0", "/dev/stdout": "fd/1", "/dev/stderr": "fd/2",
	} {
		if err := os.Symlink(target, link); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

// settle writes everything out and makes the ephemeral disk read-only, before
// the machine ends.
func settle(data *os.File) {
	unix.Sync()
	if data != nil {
		// Best effort: a file system that stays writable is still synced.
		_ = unix.Mount("", fmt.Sprintf("/proc/self/fd/%d", data.Fd()), "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
	}
}
