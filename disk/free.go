package disk

import (
	"cmp"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miosa/miosa"
)

// look is how long a look at the disk is good for.
const look = time.Second

// Guard keeps a store that lies on this machine's disk from filling it: it
// knows whether there is room for more beside what is left to others. Its
// exported fields are set before it is used.
type Guard struct {
	Dir string
	Log *slog.Logger
	// Min is how many bytes must stay free; 0: a Share-th of the disk, at least
	// Least and at most Most bytes.
	Min                uint64
	Share, Least, Most uint64
	What               string                                          // is kept: "logs"
	Refused            string                                          // what happens while there is no room: "logs are not stored"
	Stat               func(dir string) (free, size uint64, err error) // nil: Stat
	Every              time.Duration                                   // between looks at the disk; 0: 1 s, negative: always

	mu     sync.Mutex // guards the rest
	at     time.Time  // of the last look
	free   uint64
	limit  uint64
	scarce bool
}

// Stat is how many bytes the disk of a directory has free for us, and in all.
func Stat(dir string) (free, size uint64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, err
	}
	return st.Bavail * uint64(st.Bsize), st.Blocks * uint64(st.Bsize), nil
}

// Room is nil, or the miosa.NoSpace to refuse with. It says so once in the log
// when it gets scarce, and once when that is over.
func (g *Guard) Room(now time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if since := now.Sub(g.at); since < 0 || since >= cmp.Or(g.Every, look) {
		stat := g.Stat
		if stat == nil {
			stat = Stat
		}
		free, size, err := stat(g.Dir)
		if err != nil {
			return fmt.Errorf("look at the disk of %s: %w", g.Dir, err)
		}
		g.at, g.free, g.limit = now, free, g.Min
		if g.limit == 0 {
			g.limit = min(max(size/g.Share, g.Least), g.Most)
		}
		// Once scarce it takes a little more, so that it does not flap.
		if scarce := free < g.limit || g.scarce && free < g.limit+g.limit/16; scarce != g.scarce {
			g.scarce = scarce
			if scarce {
				g.Log.Error("disk nearly full", "so", g.Refused, "dir", g.Dir, "free", free, "min_free", g.limit)
			} else {
				g.Log.Info("disk has room again", "for", g.What, "dir", g.Dir, "free", free, "min_free", g.limit)
			}
		}
	}
	if !g.scarce {
		return nil
	}
	cause := fmt.Errorf("%s has %d MB left and %d MB are kept free: make room on its disk, enlarge it, or wait until older %s expire", g.Dir, g.free>>20, g.limit>>20, g.What)
	return miosa.Wrap(cause, miosa.NoSpace, "the platform's disk is nearly full and takes no more %s", g.What)
}
