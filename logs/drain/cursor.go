package drain

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"

	"github.com/miosa/miosa/disk"
	"github.com/miosa/miosa/logs"
)

// Cursor is how far a drain has come: everything before it was delivered, or
// given up. Lines go in the order in which they arrived at the store, as long
// as that order is known; what is older goes in the order of time.
type Cursor struct {
	Done logs.Mark `json:"done"`
	// Of the arrival Part, which is behind Done, so many lines of the drain's
	// scope are done too. 0: of none.
	Part  logs.Mark `json:"part,omitempty"`
	Lines int       `json:"lines,omitempty"`
	// Until, when set: the lines with times in [Since, Until) are read by time
	// first, those behind Place, and arrivals behind Done only then.
	Since time.Time  `json:"since,omitzero"`
	Until time.Time  `json:"until,omitzero"`
	Place logs.Place `json:"place,omitzero"`
	// At is the time of which it is known that what arrived earlier is done:
	// when there was nothing left, or the time of the last line.
	At time.Time `json:"at,omitzero"`
}

func (c Cursor) byTime() bool { return !c.Until.IsZero() }

// Progress is all that is remembered of a drain.
type Progress struct {
	Cursor      Cursor    `json:"cursor"`
	Delivered   uint64    `json:"delivered"`
	Dropped     uint64    `json:"dropped"`
	DeliveredAt time.Time `json:"delivered_at,omitzero"`
	Error       string    `json:"error,omitempty"`
	ErrorAt     time.Time `json:"error_at,omitzero"`
	GapFrom     time.Time `json:"gap_from,omitzero"`
	GapUntil    time.Time `json:"gap_until,omitzero"`
	// Proven is the revision of the drain's record with which the receiver took
	// lines; 0: it never did, or refused several batches in a row since.
	Proven int64 `json:"proven,omitempty"`
}

// begun reports whether there is a place to go on from.
func (p Progress) begun() bool { return !p.Cursor.At.IsZero() }

// cursors keeps every drain's progress in one file, beside the log store: a
// mark means something to that store alone.
type cursors struct{ db *bbolt.DB }

var progressBucket = []byte("progress.1")

// lockWait bounds the wait for a process that has the file open still.
const lockWait = 5 * time.Second

func openCursors(path string) (*cursors, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockWait})
	if err != nil {
		return nil, fmt.Errorf("open the log drains' cursors %s: %w", path, err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(progressBucket)
		return err
	})
	if err == nil {
		err = disk.SyncDir(filepath.Dir(path)) // the database syncs itself, but not its name
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the log drains' cursors %s: %w", path, err), db.Close())
	}
	return &cursors{db}, nil
}

func (c *cursors) close() error { return c.db.Close() }

// load is a drain's progress; the zero one when nothing is known.
func (c *cursors) load(id string) (p Progress, err error) {
	err = c.db.View(func(tx *bbolt.Tx) error {
		raw := tx.Bucket(progressBucket).Get([]byte(id))
		if raw == nil {
			return nil
		}
		return json.Unmarshal(raw, &p)
	})
	if err != nil {
		return p, fmt.Errorf("cursor of log drain %s: %w", id, err)
	}
	return p, nil
}

// save writes some drains' progress, and drops that of others, durably.
func (c *cursors) save(changed map[string]Progress, dropped []string) error {
	if len(changed) == 0 && len(dropped) == 0 {
		return nil
	}
	err := c.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(progressBucket)
		for _, id := range dropped {
			if err := b.Delete([]byte(id)); err != nil {
				return err
			}
		}
		for id, p := range changed {
			raw, err := json.Marshal(p)
			if err != nil {
				return err
			}
			if err := b.Put([]byte(id), raw); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("keep the log drains' cursors: %w", err)
	}
	return nil
}

// ids are the drains that something is known of.
func (c *cursors) ids() (ids []string, err error) {
	err = c.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(progressBucket).ForEach(func(id, _ []byte) error {
			ids = append(ids, string(id))
			return nil
		})
	})
	return ids, err
}
