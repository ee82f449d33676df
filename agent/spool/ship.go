package spool

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/logs"
)

const (
	// gatherFor is how long lines wait for others that may go with them.
	gatherFor    = 10 * time.Millisecond
	maxLines     = 2_000 // in one call
	maxBytes     = 1 << 20
	lineCost     = 32 // of each line beside its text
	backoff      = 100 * time.Millisecond
	backoffMost  = 10 * time.Second
	syncsAtOnce  = 16
	lookForOwed  = 500 * time.Millisecond // how often for lines that nobody syncs
	readAtOnce   = 256 << 10
	aloneAfter   = 3               // failures, instances are tried one by one
	aloneAtMost  = 8               // of them, when none is taken
	heldFor      = 2 * time.Second // one that failed alone comes again
	deleteBehind = 4               // an active segment is ended when all of it is shipped and it is 1/n full
)

// shipment is what one instance has in a call.
type shipment struct {
	i     *Instance
	batch logs.Batch
	end   cursor
	guest spot // the guest's last line in it
	app   bool // it has a line of the app
}

// Run ships until ctx ends.
func (s *Spool) Run(ctx context.Context) error {
	tick := time.NewTicker(lookForOwed)
	defer tick.Stop()
	first := ""
	for ctx.Err() == nil {
		var load []shipment
		load, first = s.gather(time.Now(), first)
		if len(load) > 0 {
			s.deliver(ctx, load)
			continue
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		case <-s.woken:
			// Others follow the first line, most times.
			select {
			case <-ctx.Done():
			case <-time.After(gatherFor):
			}
		}
	}
	return nil
}

// gather takes the next lines of all instances that have any, as many of each,
// beginning with the instance named first; what some leave goes to those after
// them. It returns who is to be first next time.
func (s *Spool) gather(now time.Time, first string) ([]shipment, string) {
	ready := s.ready(now)
	if len(ready) == 0 {
		return nil, first
	}
	start, _ := slices.BinarySearchFunc(ready, first, func(i *Instance, id string) int { return strings.Compare(i.id, id) })
	ready = append(ready[start%len(ready):], ready[:start%len(ready)]...)
	var load []shipment
	count, bytes := maxLines, maxBytes
	for k, i := range ready {
		left := len(ready) - k
		if count <= 0 || bytes <= 0 {
			return load, i.id
		}
		sh, used, err := i.take(max(count/left, 1), max(bytes/left, 1))
		if err != nil {
			i.mu.Lock()
			i.complain("read a log spool", err)
			if errors.Is(err, errTorn) || errors.Is(err, unix.EIO) {
				i.reload(now)
			}
			i.mu.Unlock()
		}
		if len(sh.batch.Lines) > 0 {
			load = append(load, sh)
			count -= len(sh.batch.Lines)
			bytes -= used
		}
	}
	return load, ready[min(1, len(ready)-1)].id
}

// ready are the instances with lines to ship, synced and sorted. Those that are
// over are removed on the way.
func (s *Spool) ready(now time.Time) []*Instance {
	s.mu.Lock()
	all := make([]*Instance, 0, len(s.instances))
	for _, i := range s.instances {
		all = append(all, i)
	}
	s.mu.Unlock()
	var wg sync.WaitGroup
	var mu sync.Mutex // guards ready
	var ready []*Instance
	slots := make(chan struct{}, syncsAtOnce)
	for _, i := range all {
		i.mu.Lock()
		err := i.payOld(now, i.ended)
		if err != nil {
			i.complain("write a marker", err)
		}
		more, over := i.more() && now.After(i.heldUntil), i.ended && err == nil
		i.mu.Unlock()
		switch {
		case more:
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				i.mu.Lock()
				defer i.mu.Unlock()
				if err := i.sync(); err != nil {
					i.complain("sync a log spool", err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				ready = append(ready, i)
			})
		case over:
			s.remove(i)
		}
	}
	wg.Wait()
	slices.SortFunc(ready, func(a, b *Instance) int { return strings.Compare(a.id, b.id) })
	return ready
}

// more reports whether there are lines to ship; i.mu is held.
func (i *Instance) more() bool {
	next := i.pos.next
	return !i.gone && !i.closed && slices.ContainsFunc(i.segments, func(s *segment) bool {
		return s.number > next.segment && s.count > 0 || s.number == next.segment && s.count > next.index
	})
}

// take reads the next lines and pins them: from now on they keep their numbers.
func (i *Instance) take(count, bytes int) (shipment, int, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	sh := shipment{i: i, batch: logs.Batch{Origin: i.origin, Epoch: i.pos.epoch, First: i.pos.seq + 1}, end: i.pos.next}
	used := 0
	if !i.more() {
		return sh, 0, nil
	}
	full := false
	for k := 0; k < len(i.segments) && !full; k++ {
		seg := i.segments[k]
		if seg.number < sh.end.segment {
			continue
		}
		if seg.number > sh.end.segment {
			sh.end = cursor{segment: seg.number, offset: segmentHead}
		}
		err := i.each(seg, sh.end.offset, func(r *record) bool {
			cost := len(r.text) + lineCost
			if len(sh.batch.Lines) >= count || len(sh.batch.Lines) > 0 && used+cost > bytes {
				full = true
				return false
			}
			sh.batch.Lines = append(sh.batch.Lines, r.line())
			used += cost
			sh.end.index++
			sh.guest, sh.app = r.guest, sh.app || r.stream != 0
			sh.end.offset += r.size()
			return true
		})
		if err != nil {
			return shipment{}, 0, err
		}
	}
	if len(sh.batch.Lines) > 0 && sh.end.segment > i.pos.sent {
		p := i.pos
		p.sent = sh.end.segment
		if err := p.write(i.place, false); err != nil {
			return shipment{}, 0, err
		}
		i.pos = p
	}
	return sh, used, nil
}

// each reads a segment's records that are on the disk, from an offset on, for
// as long as f wants.
func (i *Instance) each(seg *segment, offset int64, f func(*record) bool) error {
	file, end := i.active, i.safe
	if file == nil || seg != i.segments[len(i.segments)-1] {
		var err error
		end = seg.size
		if file, err = os.Open(filepath.Join(i.dir, segmentName(seg.number))); err != nil {
			return err
		}
		defer file.Close()
	}
	if offset >= end {
		return nil
	}
	buf := make([]byte, min(readAtOnce, end-offset))
	for offset < end {
		b := buf[:min(int64(len(buf)), end-offset)]
		if _, err := file.ReadAt(b, offset); err != nil {
			return err
		}
		for len(b) > 0 {
			var r record
			if err := r.parse(b); errors.Is(err, io.EOF) {
				if len(b) == len(buf) || int64(len(b)) == end-offset {
					return errTorn
				}
				break
			} else if err != nil {
				return err
			}
			if !f(&r) {
				return nil
			}
			b = b[r.size():]
			offset += r.size()
		}
	}
	return nil
}

// deliver brings the load to the store, again and again until it is taken.
func (s *Spool) deliver(ctx context.Context, load []shipment) {
	batches := make([]logs.Batch, len(load))
	for k, sh := range load {
		batches[k] = sh.batch
	}
	for wait, tried := backoff, 1; ; wait, tried = min(2*wait, backoffMost), tried+1 {
		err := s.cfg.Shipper.Ship(ctx, s.cfg.HostID, batches)
		switch {
		case err == nil:
			for _, sh := range load {
				sh.i.shipped(sh)
			}
			if s.failing {
				s.log.Info("logs are shipped again")
				s.failing = false
			}
			return
		case ctx.Err() != nil:
			return
		case refused(err) && len(load) == 1:
			load[0].refused(err)
			return
		}
		if !refused(err) && !s.failing {
			s.log.Warn("logs cannot be shipped; they stay in the spool", "err", err)
			s.failing = true
		}
		if (refused(err) || tried >= aloneAfter) && s.single(ctx, load) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// single brings each to the store alone: what one of them fails for must not
// keep the others' lines waiting. It reports whether that is done: those that
// failed come again later. It is not when the store takes nothing at all.
func (s *Spool) single(ctx context.Context, load []shipment) bool {
	var failed []shipment
	for k, sh := range load {
		if len(failed) == k && k >= aloneAtMost {
			return false
		}
		err := error(nil)
		if len(load) > 1 {
			err = s.cfg.Shipper.Ship(ctx, s.cfg.HostID, []logs.Batch{sh.batch})
		}
		switch {
		case ctx.Err() != nil:
			return true
		case err != nil && refused(err):
			sh.refused(err)
		case err != nil || len(load) == 1:
			failed = append(failed, sh)
		default:
			sh.i.shipped(sh)
		}
	}
	if len(failed) == len(load) && len(load) > 1 {
		return false
	}
	for _, sh := range failed {
		if len(load) > 1 {
			s.log.Warn("the logs of an instance cannot be shipped; they stay in the spool", "instance", sh.i.id)
		}
		sh.i.mu.Lock()
		sh.i.heldUntil = time.Now().Add(heldFor)
		sh.i.mu.Unlock()
	}
	return true
}

func (sh *shipment) refused(err error) {
	sh.i.s.log.Warn("logs that are refused for good are dropped", "instance", sh.i.id, "deployment", sh.batch.Origin.DeploymentID, "err", err)
	sh.i.giveUp()
}

// shipped moves on behind what the store has, and deletes what is finished.
func (i *Instance) shipped(sh shipment) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.gone || i.closed {
		return
	}
	i.pos.seq += uint64(len(sh.batch.Lines))
	if i.pos.next = sh.end; sh.app || i.pos.done != nobodyKnows {
		i.pos.done = sh.guest
	}
	if n := len(i.segments); i.active != nil && i.segments[n-1].number == sh.end.segment && sh.end.index == i.segments[n-1].count &&
		i.segments[n-1].size >= i.s.segmentBytes/deleteBehind && i.synced {
		if err := i.seal(); err != nil {
			i.complain("end a segment", err)
		}
	}
	finished := 0
	for _, seg := range i.segments {
		if seg.number > sh.end.segment || seg.number == sh.end.segment && (sh.end.index < seg.count || i.active != nil && seg == i.segments[len(i.segments)-1]) {
			break
		}
		finished++
		if seg.number == sh.end.segment {
			i.pos.next = cursor{segment: seg.number + 1, offset: segmentHead}
		}
	}
	// A segment goes once it is safe that it is not read again.
	if err := i.pos.write(i.place, finished > 0); err != nil {
		i.complain("write the position of a log spool", err)
		return
	}
	for _, seg := range i.segments[:finished] {
		if err := i.unlink(seg.number); err != nil {
			i.complain("remove a segment", err) // the next opening does
		}
		i.grow(-seg.size)
	}
	i.segments = slices.Delete(i.segments, 0, finished)
}

// giveUp drops all that an instance holds, and takes nothing more of it.
func (i *Instance) giveUp() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.discard(); err != nil {
		i.complain("remove a log spool", err)
	}
}

// refused: sending the same once more would change nothing, and would keep the
// others' lines waiting.
func refused(err error) bool {
	switch miosa.CodeOf(err) {
	case miosa.NotFound, miosa.Forbidden, miosa.Invalid, miosa.TooLarge:
		return true
	}
	return false
}
