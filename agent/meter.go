package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/metering"
	"github.com/miosa/miosa/network"
)

// UsageTaker settles what the instances of a host used.
type UsageTaker interface {
	// Report answers each report in its place. Without an error what was taken
	// is safe; otherwise the same is sent again.
	Report(ctx context.Context, hostID string, reports []metering.Report) ([]metering.Outcome, error)
}

const (
	// meterEvery is how often counters are read and made to last: what is lost
	// when the machine loses power.
	meterEvery    = 5 * time.Second
	reportTimeout = 10 * time.Second
	reportsAtOnce = 500
	metersFile    = "meters"
	bootIDFile    = "/proc/sys/kernel/random/boot_id"
	// The file is written anew when it is so large, and so much larger than
	// what is in it.
	compactBytes, compactTimes = 256 << 10, 4
)

// meters count what the instances of this host use. Readings are taken at
// every start and end of a VM, before a tap goes, and every meterEvery; each is
// written down before anything rests on it. Without a UsageTaker they are nil,
// and nothing is counted.
type meters struct {
	traffic network.Meter // nil: bytes are not counted here
	log     *slog.Logger
	boot    string // the host's present life

	mu    sync.Mutex // guards all below, and orders readings
	file  *meterFile
	all   map[string]*metering.Meter // by instance
	live  map[string]bool            // whose VM is known to run
	epoch uint64                     // the highest that was given out
	whole int64                      // size of the file when it was last written anew
	lost  map[string]bool            // not in the file as they are
	sick  bool                       // reading or writing fails; said once
	fails int                        // how often it did …
	seen  int                        // … before the present reading of all
}

// openMeters takes up what an earlier process wrote down.
func openMeters(dir string, net network.Network, log *slog.Logger) (*meters, error) {
	boot, err := os.ReadFile(bootIDFile)
	if err != nil {
		return nil, fmt.Errorf("tell this boot of the host from others: %w", err)
	}
	m := &meters{log: log, boot: strings.TrimSpace(string(boot)), all: map[string]*metering.Meter{}, live: map[string]bool{}, lost: map[string]bool{}}
	m.traffic, _ = net.(network.Meter)
	m.file, err = openMeterFile(filepath.Join(dir, metersFile), func(e meterEntry) {
		m.epoch = max(m.epoch, e.Epoch)
		switch {
		case e.Meter != nil:
			m.all[e.Instance] = e.Meter
		default:
			delete(m.all, e.Instance)
		}
	})
	if err != nil {
		return nil, err
	}
	m.whole = m.file.size
	return m, nil
}

func (m *meters) close() error {
	if m == nil {
		return nil
	}
	return m.file.close()
}

// read takes a reading of an instance whose VM is vm, "" for none; m.mu is held.
func (m *meters) read(id, vm string, size metering.Size, ended bool) {
	r := metering.Reading{Wall: time.Now().UTC(), Host: m.boot, Clock: hostClock(), VM: vm, Size: size, Ended: ended}
	if m.traffic != nil {
		t, err := m.traffic.Traffic(id)
		if err != nil {
			m.complain("read the traffic of an instance", err)
		}
		r.Counter, r.Sent, r.Received = t.Counter, t.SentBytes, t.ReceivedBytes
	}
	if x := m.all[id]; x != nil {
		x.Read(r)
	} else {
		m.epoch = max(m.epoch+1, uint64(max(r.Wall.UnixNano(), 0))) //nolint:gosec // not negative
		m.all[id] = metering.NewMeter(m.epoch, r)
	}
	m.lost[id] = true
}

// hostClock is how long this boot of the host has lasted.
func hostClock() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0 // it does not fail on Linux; nothing counts then
	}
	return time.Duration(t.Nano())
}

// complain logs an error once until all is well again; m.mu is held.
func (m *meters) complain(what string, err error) {
	if !m.sick {
		m.log.Error("meters fail", "what", what, "err", err)
	}
	m.sick = true
	m.fails++
}

// save writes down what is not in the file as it is; m.mu is held. It reports
// whether all of it is there.
func (m *meters) save() bool {
	var entries []meterEntry
	for _, id := range slices.Sorted(maps.Keys(m.lost)) {
		entries = append(entries, meterEntry{id, m.all[id], m.epoch})
	}
	var err error
	if m.file.size > compactBytes && m.file.size > compactTimes*m.whole {
		entries = entries[:0]
		for _, id := range slices.Sorted(maps.Keys(m.all)) {
			entries = append(entries, meterEntry{id, m.all[id], m.epoch})
		}
		entries = append(entries, meterEntry{Epoch: m.epoch})
		if err = m.file.replace(entries); err == nil {
			m.whole = m.file.size
		}
	} else if len(entries) > 0 {
		err = m.file.add(entries...)
	}
	if err != nil {
		m.complain("keep the meters", err)
		return false
	}
	clear(m.lost)
	return true
}

// idle: no VM of the instance runs. Before its first VM this is where its
// counters begin.
func (m *meters) idle(id string) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.live, id)
	m.read(id, "", metering.Size{}, false)
	m.all[id].Final = false
	m.save()
}

// running: the VM runs, since just now or since an earlier process of ours.
func (m *meters) running(id, vm string, r miosa.Resources) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.live[id] = true
	m.read(id, vm, metering.Size{VCPUs: r.VCPUs, MemoryMB: r.MemoryMB, DiskMB: r.DiskMB}, false)
	m.save()
}

// ended: the VM has ended just now, unless that was said before.
func (m *meters) ended(id, vm string) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	x := m.all[id]
	if x == nil || x.VM != vm || !m.live[id] {
		return
	}
	delete(m.live, id)
	m.read(id, vm, x.Size, true)
	m.save()
}

// finish: nothing more comes of the instance; its tap goes next.
func (m *meters) finish(id string) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.all[id] == nil {
		return
	}
	delete(m.live, id)
	m.read(id, "", metering.Size{}, false)
	m.all[id].Final = true
	m.save()
}

// finishOthers finishes what nobody takes up again.
func (m *meters) finishOthers(known func(id string) bool) {
	if m == nil {
		return
	}
	m.mu.Lock()
	ids := slices.Sorted(maps.Keys(m.all))
	m.mu.Unlock()
	for _, id := range ids {
		if !known(id) {
			m.finish(id)
		}
	}
}

// tick reads everything and makes it last. What it returns is safe to be
// reported; ok is false when nothing is.
func (m *meters) tick() (due []metering.Report, ok bool) {
	due, file, ok := m.readAll()
	if !ok {
		return nil, false
	}
	// Not under the lock: a boot takes a reading, and does not wait for a disk.
	err := file.Sync()
	if errors.Is(err, os.ErrClosed) {
		err = nil // written anew meanwhile, and safe with all that was in it
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		m.complain("keep the meters", fmt.Errorf("sync the meters: %w", err))
		return nil, false
	}
	if m.sick && m.fails == m.seen {
		m.sick = false
		m.log.Info("the meters work again")
	}
	m.seen = m.fails
	return due, true
}

// readAll reads everything, and writes it down for whoever syncs the file.
func (m *meters) readAll() (due []metering.Report, file *os.File, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen = m.fails
	for _, id := range slices.Sorted(maps.Keys(m.all)) {
		switch x := m.all[id]; {
		case x.Final:
		case m.live[id]:
			m.read(id, x.VM, x.Size, false)
		default:
			m.read(id, "", metering.Size{}, false)
		}
	}
	if !m.save() {
		return nil, nil, false
	}
	for _, id := range slices.Sorted(maps.Keys(m.all)) {
		if x := m.all[id]; x.Owes() {
			due = append(due, metering.Report{InstanceID: id, Epoch: x.Epoch, Points: x.Points(), Final: x.Final})
		}
	}
	return due, m.file.f, true
}

// run reads and reports until ctx ends, and once more then.
func (m *meters) run(ctx context.Context, hostID string, to UsageTaker) {
	tick := time.NewTicker(meterEvery)
	defer tick.Stop()
	failing := false
	report := func(ctx context.Context) {
		due, ok := m.tick()
		if !ok {
			return // what is not safe is not said: it might be said again, less of it
		}
		err := m.report(ctx, hostID, to, due)
		if err != nil && !failing && ctx.Err() == nil {
			m.log.Warn("usage cannot be reported; it is kept", "err", err)
		}
		failing = err != nil
	}
	report(ctx)
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), reportTimeout/5)
			defer cancel()
			report(last)
			return
		case <-tick.C:
			report(ctx)
		}
	}
}

// report brings what is due to who settles it.
func (m *meters) report(ctx context.Context, hostID string, to UsageTaker, due []metering.Report) error {
	for part := range slices.Chunk(due, reportsAtOnce) {
		call, cancel := context.WithTimeout(ctx, reportTimeout)
		outcomes, err := to.Report(call, hostID, part)
		cancel()
		if err != nil {
			return err
		}
		if len(outcomes) != len(part) {
			return errors.New("there are not as many answers as reports")
		}
		for i := range part {
			m.answered(part[i], outcomes[i])
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.save()
	return nil
}

// answered takes an outcome.
func (m *meters) answered(r metering.Report, o metering.Outcome) {
	m.mu.Lock()
	defer m.mu.Unlock()
	x := m.all[r.InstanceID]
	if x == nil {
		return
	}
	switch {
	case o.Verdict == metering.Behind:
		m.log.Warn("the account of an instance knows a later meter; counting begins anew", "instance", r.InstanceID)
		x.Renew(o.Epoch)
		m.epoch = max(m.epoch, x.Epoch)
	case o.Verdict == metering.Refused:
		m.log.Warn("usage is refused for good and dropped", "instance", r.InstanceID, "reason", o.Reason)
		delete(m.all, r.InstanceID)
		delete(m.live, r.InstanceID)
	case r.Final && x.Final && r.Points[len(r.Points)-1].Total == x.Total:
		delete(m.all, r.InstanceID)
	default:
		x.Acknowledge(r.Epoch, r.Points[len(r.Points)-1].Total)
	}
	m.lost[r.InstanceID] = true
}
