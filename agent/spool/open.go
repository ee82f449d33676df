package spool

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miosa/miosa/lifecycle"
	"github.com/miosa/miosa/logs"
)

// create makes an instance's directory.
func (s *Spool) create(o logs.Origin, now time.Time) (*Instance, error) {
	dir := filepath.Join(s.cfg.Dir, o.InstanceID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	b, err := json.Marshal(o)
	if err == nil {
		err = writeFile(dir, originFile, b)
	}
	if err == nil {
		err = syncDir(s.cfg.Dir)
	}
	if err != nil {
		return nil, err
	}
	return s.open(o.InstanceID, now)
}

// open reads an instance's directory.
func (s *Spool) open(id string, now time.Time) (_ *Instance, err error) {
	i := &Instance{s: s, id: id, dir: filepath.Join(s.cfg.Dir, id), bucket: newBucket(Limit{}, now)}
	b, err := os.ReadFile(filepath.Join(i.dir, originFile))
	if err == nil {
		err = json.Unmarshal(b, &i.origin)
	}
	if err != nil {
		return nil, err
	}
	if i.place, err = os.OpenFile(filepath.Join(i.dir, positionFile), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, i.place.Close())
		}
	}()
	var known bool
	if i.pos, known, err = readPosition(i.place); err != nil {
		return nil, err
	}
	sound, err := i.load(known)
	if err != nil {
		return nil, err
	}
	if n := len(i.segments); n > 0 && i.pos.uptime != s.uptime {
		// How far it had come before the power went is not known for sure.
		i.pos.sent = max(i.pos.sent, i.segments[n-1].number)
	}
	i.pos.uptime = s.uptime
	if !known || !sound {
		if known {
			s.log.Error("a log spool is damaged: its lines are numbered anew", "instance", id)
		}
		i.pos.epoch, i.pos.seq, i.pos.sent = max(uint64(now.UnixNano()), i.pos.epoch+1), 0, 0
	}
	if !known && len(i.segments) == 0 {
		i.pos.last = now.UnixMicro() // before this it had nothing to say
	}
	return i, errors.Join(i.pos.write(i.place, true), syncDir(i.dir))
}

// load reads the segments; sound false when lines that may have been shipped
// are missing, or changed.
func (i *Instance) load(known bool) (sound bool, err error) {
	numbers, err := i.numbers()
	if err != nil {
		return false, err
	}
	sound = true
	next, found := i.pos.next, false
	owed := i.pos.owed
	i.guest = spot{}
	for k, number := range numbers {
		if known && number < next.segment {
			if err := i.unlink(number); err != nil {
				return false, err
			}
			continue
		}
		exact := number == next.segment
		if !found {
			found = true
			if !exact {
				sound = sound && (next.index == 0 || !known)
				i.pos.next = cursor{segment: number}
			}
			i.pos.next.offset = segmentHead
		}
		seg, err := scan(i.dir, number, func(r *record, end int64) {
			i.pos.last = max(i.pos.last, r.time)
			if exact && i.pos.next.index > 0 {
				if i.pos.next.index--; i.pos.next.index == 0 {
					i.pos.next.offset = end
				}
			}
			if !i.guest.less(r.guest) {
				return
			}
			i.guest = r.guest
			if r.lost == 0 && !r.dropped {
				i.recent = append(i.recent, Recent{int(r.guest.boot), r.guest.n, append([]byte(nil), r.text[:min(len(r.text), 2<<10)]...)})
				if len(i.recent) > 2*lifecycle.MaxLastLines {
					i.recent = append([]Recent(nil), i.recent[lifecycle.MaxLastLines:]...)
				}
			}
		})
		if err != nil && !errors.Is(err, errTorn) {
			return false, err
		}
		if exact {
			// Fewer lines than were shipped.
			sound = sound && i.pos.next.index == 0
			i.pos.next.index = next.index
			if next.index > seg.count {
				i.pos.next.index, i.pos.next.offset = seg.count, max(seg.size, segmentHead)
			}
		}
		if err != nil {
			sound = sound && k == len(numbers)-1
			if seg.size == 0 {
				if err := i.unlink(number); err != nil {
					return false, err
				}
				continue
			}
			if err := os.Truncate(filepath.Join(i.dir, segmentName(number)), seg.size); err != nil {
				return false, err
			}
		}
		for n := len(i.segments); n > 0 && i.segments[n-1].number >= seg.covers; n-- {
			// It stands for those, too; a crash left them.
			if err := i.unlink(i.segments[n-1].number); err != nil {
				return false, err
			}
			i.grow(-i.segments[n-1].size)
			if i.segments[n-1].number == i.pos.next.segment {
				i.pos.next = cursor{segment: number, offset: segmentHead}
			}
			i.segments = i.segments[:n-1]
		}
		i.segments = append(i.segments, &seg)
		i.grow(seg.size)
	}
	if !found {
		sound = sound && (!known || next.index == 0)
		i.pos.next = cursor{segment: max(next.segment, 1), offset: segmentHead}
	}
	if i.guest.less(i.pos.guest) {
		i.guest, i.debt = i.pos.guest, owed
	}
	if n := len(i.segments); n > 0 {
		last := i.segments[n-1]
		if i.active, err = os.OpenFile(filepath.Join(i.dir, segmentName(last.number)), os.O_RDWR, 0o600); err != nil {
			return false, err
		}
		if err := unix.Fdatasync(int(i.active.Fd())); err != nil {
			return false, errors.Join(err, i.active.Close())
		}
		i.safe = last.size
		if last.dropped {
			if err := i.seal(); err != nil {
				return false, err
			}
		}
	}
	i.pos.guest, i.pos.owed, i.synced = i.guest, i.debt, true
	return sound, nil
}

// numbers are those of the segments on the disk; what else a crash left is
// removed.
func (i *Instance) numbers() ([]uint64, error) {
	entries, err := os.ReadDir(i.dir)
	if err != nil {
		return nil, err
	}
	var numbers []uint64
	for _, e := range entries {
		if n, ok := segmentNumber(e.Name()); ok {
			numbers = append(numbers, n)
		} else if strings.HasSuffix(e.Name(), tempSuffix) {
			if err := os.Remove(filepath.Join(i.dir, e.Name())); err != nil {
				return nil, err
			}
		}
	}
	return numbers, nil // ReadDir sorts
}

func (i *Instance) unlink(number uint64) error {
	return os.Remove(filepath.Join(i.dir, segmentName(number)))
}

// writeFile makes a file, or another in its place, that is on the disk.
func writeFile(dir, name string, b []byte) error {
	if err := replaceFile(dir, name, b); err != nil {
		return err
	}
	return syncDir(dir)
}

func replaceFile(dir, name string, b []byte) error {
	tmp := filepath.Join(dir, name+tempSuffix)
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(tmp, filepath.Join(dir, name))
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return nil
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
