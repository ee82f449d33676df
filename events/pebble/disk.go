package pebble

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miosa/miosa"
)

// look is how long a look at the disk is good for.
const look = time.Second

// disk knows whether there is room for more.
type disk struct {
	dir  string
	log  *slog.Logger
	min  uint64 // 0: by the size of the disk
	stat func(dir string) (free, size uint64, err error)

	mu     sync.Mutex // guards the rest
	at     time.Time  // of the last look
	free   uint64
	limit  uint64
	scarce bool
}

func stat(dir string) (free, size uint64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, err
	}
	return st.Bavail * uint64(st.Bsize), st.Blocks * uint64(st.Bsize), nil
}

// room is nil, or the miosa.NoSpace to refuse with. It says so once in the log
// when it gets scarce, and once when that is over.
func (d *disk) room(now time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if since := now.Sub(d.at); since < 0 || since >= look {
		free, size, err := d.stat(d.dir)
		if err != nil {
			return fmt.Errorf("look at the disk of %s: %w", d.dir, err)
		}
		d.at, d.free, d.limit = now, free, d.min
		if d.limit == 0 {
			d.limit = min(max(size/100, 256<<20), 2<<30)
		}
		// Once scarce it takes a little more, so that it does not flap.
		if scarce := free < d.limit || d.scarce && free < d.limit+d.limit/16; scarce != d.scarce {
			d.scarce = scarce
			if scarce {
				d.log.Error("disk nearly full: events wait in the records", "dir", d.dir, "free", free, "min_free", d.limit)
			} else {
				d.log.Info("disk has room again: events are stored", "dir", d.dir, "free", free, "min_free", d.limit)
			}
		}
	}
	if !d.scarce {
		return nil
	}
	return miosa.Errorf(miosa.NoSpace, "the disk of %s has %d MB left and %d MB are kept free: make room on it, enlarge it, or wait until older events expire",
		d.dir, d.free>>20, d.limit>>20)
}
