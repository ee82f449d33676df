package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miosa/miosa/disk"
)

// contactFile is in the agent's directory.
const contactFile = "contact.json"

// contact is when control was last heard: when the last beat was sent that it
// acknowledged. Instances that must not run without it go by that, so that it
// outlives our process. It is kept in time since the machine's start, which nobody
// sets and which counts the time too in which the machine sleeps.
type contact struct {
	path string
	boot string       // of the machine
	sent atomic.Int64 // uptime in ns; 0, at the machine's start: never, as far as is known

	mu     sync.Mutex // guards needed, and the file
	needed int        // how many instances go by it: without any it is not written
}

// contactRecord is the file. The rules for changing it are stateRecord's.
type contactRecord struct {
	Boot string        `json:"boot"`
	Sent time.Duration `json:"sent_ns"`
}

// open takes up what an earlier process of ours kept. What cannot be read, or is
// of before the machine's start, is not known.
func (c *contact) open() error {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return fmt.Errorf("tell this start of the machine from others: %w", err)
	}
	c.boot = strings.TrimSpace(string(id))
	b, err := os.ReadFile(c.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read when control was heard: %w", err)
	}
	var r contactRecord
	if json.Unmarshal(b, &r) == nil && r.Boot == c.boot && r.Sent <= uptime() {
		c.sent.Store(int64(max(r.Sent, 0)))
	}
	return nil
}

// acknowledged: a beat that was sent at that uptime was. Only who beats calls it.
func (c *contact) acknowledged(sent time.Duration) error {
	c.sent.Store(int64(sent))
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.needed == 0 {
		return nil
	}
	return c.keep()
}

// need counts an instance that goes by it, or with -1 does so no more.
func (c *contact) need(more int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.needed += more; more < 0 || c.needed > more {
		return nil
	}
	return c.keep()
}

func (c *contact) keep() error {
	b, err := json.Marshal(contactRecord{Boot: c.boot, Sent: time.Duration(c.sent.Load())})
	if err != nil {
		return err
	}
	// It need not outlast the machine, whose end is that of all instances.
	return disk.ReplaceUnsynced(c.path, b, 0o600)
}

// ago is how long ago control was last heard.
func (c *contact) ago() time.Duration { return max(uptime()-time.Duration(c.sent.Load()), 0) }

// uptime is the time since the machine's start, sleep included.
func uptime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(err) // every Linux that VMs run on has it
	}
	return time.Duration(t.Nano())
}
