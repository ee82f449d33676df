package main

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/disk"
)

// dataDir is a data directory, locked by this process: two platforms on one
// machine differ by their directories, and everything they make on the host
// (taps, rules, cgroups, run directories) is named after them.
type dataDir struct {
	dir    string // absolute
	id     string // 8 hex characters of the directory's digest
	hostID string
	lock   *os.File
}

func (c *dataDir) path(parts ...string) string {
	return filepath.Join(append([]string{c.dir}, parts...)...)
}

func cellID(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return hex.EncodeToString(sum[:4])
}

// openData makes the directory if need be, closes it to other users and takes
// its lock. It fails when another platform runs on it.
func openData(dir string) (*dataDir, error) {
	if err := disk.MakeDir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the data directory: %w", err)
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, fmt.Errorf("find the data directory: %w", err)
	}
	if err := closeToOthers(real); err != nil {
		return nil, err
	}
	c := &dataDir{dir: real, id: cellID(real)}
	c.lock, err = os.OpenFile(c.path("lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	if err := unix.Flock(int(c.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder := lockHolder(real)
		c.lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, miosa.Errorf(miosa.Conflict, "another miosa (process %s) runs on %s: stop it with `miosa down --data %s`, or give this one its own --data, --api and --http", holder, real, real)
		}
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	if err := c.lock.Truncate(0); err != nil {
		return nil, errors.Join(fmt.Errorf("lock the data directory: %w", err), c.lock.Close())
	}
	if _, err := c.lock.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		return nil, errors.Join(fmt.Errorf("lock the data directory: %w", err), c.lock.Close())
	}
	if err := disk.Sweep(c.dir); err != nil {
		return nil, errors.Join(fmt.Errorf("sweep the data directory: %w", err), c.lock.Close())
	}
	if err := c.loadHost(); err != nil {
		return nil, errors.Join(err, c.lock.Close())
	}
	return c, nil
}

// closeToOthers makes a data directory that was there before us 0700: in it are
// keys, and customers' images and disks.
func closeToOthers(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("look at the data directory: %w", err)
	}
	switch {
	case !info.IsDir():
		return miosa.Errorf(miosa.Invalid, "--data %s is not a directory: name one of miosa's own", dir)
	case info.Mode().Perm()&0o077 == 0:
		return nil
	case dir == "/" || info.Mode()&fs.ModeSticky != 0:
		// Others need it.
		return miosa.Errorf(miosa.Invalid, "--data %s is for everybody: name a directory of miosa's own, as %s", dir, filepath.Join(dir, "miosa"))
	}
	if err := os.Chmod(dir, info.Mode()&(fs.ModeSetuid|fs.ModeSetgid)|0o700); err != nil {
		return &miosa.Error{Code: miosa.Invalid, Message: fmt.Sprintf("other users can look into --data %s, and it is not ours to close: make it belong to the user that miosa runs as", dir), Err: err}
	}
	return nil
}

// lockHolder is the process ID written by the one that holds the lock.
func lockHolder(dir string) string {
	b, err := os.ReadFile(filepath.Join(dir, "lock"))
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}

// loadHost finds, or mints, the host's identity.
func (c *dataDir) loadHost() error {
	var known struct {
		HostID string `json:"host_id"`
	}
	path := c.path("host.json")
	b, err := os.ReadFile(path)
	switch {
	case err == nil:
		if err := json.Unmarshal(b, &known); err != nil || miosa.IDPrefix(known.HostID) != miosa.PrefixHost {
			return miosa.Errorf(miosa.Internal, "%s is damaged: restore it, or remove it to join as a new host", path)
		}
	case errors.Is(err, os.ErrNotExist):
		id, err := miosa.NewID(miosa.PrefixHost, time.Now(), rand.Reader)
		if err != nil {
			return err
		}
		known.HostID = id
		if b, err = json.Marshal(known); err != nil {
			return err
		}
		if err := disk.Replace(path, append(b, '\n'), 0o600); err != nil {
			return fmt.Errorf("write the host's identity: %w", err)
		}
	default:
		return fmt.Errorf("read the host's identity: %w", err)
	}
	c.hostID = known.HostID
	return nil
}

func (c *dataDir) close() error { return c.lock.Close() }
