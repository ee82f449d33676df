package metering_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/miosa/miosa/metering"
)

var (
	start = time.Date(2026, 3, 1, 11, 59, 50, 0, time.UTC)
	small = metering.Size{VCPUs: 2, MemoryMB: 128, DiskMB: 256}
)

// world is one instance with its host and its account, and what is true.
type world struct {
	t *rapid.T

	wall    time.Time // of the host; jumps
	elapsed time.Duration
	life    int           // of the host
	clock   time.Duration // of that life
	vm      int           // 0: none runs
	vms     int
	tap     int // 0: none
	taps    int
	sent    uint64
	got     uint64
	truth   metering.Amount

	meter   *metering.Meter // nil: the process is not there
	written saved           // lasts through the process's death
	synced  saved           // lasts through the host's
	epochs  uint64
	flight  []message
	told    metering.Amount // truth at the newest report that was taken

	account metering.Account
	billed  metering.Amount
	hour    metering.Hour
	pardon  metering.Amount // what may be missing
}

// message is a report, and the truth when it was made.
type message struct {
	metering.Report
	truth metering.Amount
}

// saved is a meter as it was put down, and the truth at its last reading.
type saved struct {
	meter []byte
	truth metering.Amount
}

func (w *world) reading() metering.Reading {
	r := metering.Reading{Wall: w.wall, Host: fmt.Sprint("life ", w.life), Clock: w.clock, Size: small}
	if w.vm != 0 {
		r.VM = fmt.Sprint("vm ", w.vm)
	}
	if w.tap != 0 {
		r.Counter, r.Sent, r.Received = fmt.Sprint("tap ", w.tap), w.sent, w.got
	}
	return r
}

// put writes the meter down, after a reading.
func (w *world) put() {
	b, err := json.Marshal(w.meter)
	if err != nil {
		w.t.Fatal(err)
	}
	w.written = saved{b, w.truth}
}

func (w *world) read() {
	w.meter.Read(w.reading())
	w.put()
}

// report puts one on its way; it may come at any time, also twice.
func (w *world) report() {
	w.synced = w.written // as agents do before
	w.flight = append(w.flight, message{metering.Report{Epoch: w.meter.Epoch, Points: w.meter.Points()}, w.written.truth})
}

// deliver brings a report. The host hears of it only if it still waits.
func (w *world) deliver(r message, heard bool) {
	add, behind := w.account.Settle(r.Report, metering.Bounds{Size: small, Since: start, Now: start.Add(w.elapsed)})
	for _, p := range add {
		if p.Hour < w.hour || p.Hour > metering.HourOf(start.Add(w.elapsed)) {
			w.t.Fatalf("added to hour %d, after %d, at %s", p.Hour, w.hour, start.Add(w.elapsed))
		}
		w.hour = p.Hour
		w.billed = w.billed.Plus(p.Total)
	}
	if !behind {
		w.told = w.told.AtLeast(r.truth)
	}
	switch {
	case !heard || w.meter == nil:
	case !behind:
		w.meter.Acknowledge(r.Epoch, r.Points[len(r.Points)-1].Total)
	case w.meter.Epoch < w.account.Epoch:
		w.lose(w.told)
		w.meter.Renew(w.account.Epoch)
		w.put()
	}
}

// lose pardons what came after the truth that is still known.
func (w *world) lose(known metering.Amount) { w.pardon = w.pardon.Plus(w.truth.Minus(known)) }

// resume is a start of the process: the meter as it was written, or a new one.
func (w *world) resume() {
	if w.written.meter == nil {
		w.lose(w.told)
		w.epochs++
		w.meter = metering.NewMeter(w.epochs, w.reading())
	} else {
		w.meter = new(metering.Meter)
		if err := json.Unmarshal(w.written.meter, w.meter); err != nil {
			w.t.Fatal(err)
		}
		w.meter.Read(w.reading())
	}
	w.put()
}

func (w *world) makeTap() { w.taps++; w.tap, w.sent, w.got = w.taps, 0, 0 }
func (w *world) makeVM()  { w.vms++; w.vm = w.vms }

// TestNothingIsBilledTwiceOrLost: whatever happens in whatever order, the bill
// never exceeds the truth, and comes to all of it but for what was not yet
// recorded when a record or a counter was destroyed.
func TestNothingIsBilledTwiceOrLost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{t: t, wall: start, epochs: 1, clock: time.Hour, hour: metering.HourOf(start)}
		w.makeTap()
		w.meter = metering.NewMeter(1, w.reading())
		w.put()
		w.synced = w.written
		steps := map[string]func(*rapid.T){
			"time passes": func(t *rapid.T) {
				d := time.Duration(rapid.IntRange(1, 5_000).Draw(t, "ms")) * time.Millisecond
				if rapid.IntRange(0, 9).Draw(t, "long") == 0 {
					d = time.Duration(rapid.IntRange(1, 5*3600).Draw(t, "s")) * time.Second
				}
				w.wall, w.clock, w.elapsed = w.wall.Add(d), w.clock+d, w.elapsed+d
				if w.vm != 0 {
					ms := uint64(d / time.Millisecond)
					w.truth = w.truth.Plus(metering.Amount{RunMS: ms, VCPUMS: 2 * ms, MemoryMBMS: 128 * ms, DiskMBMS: 256 * ms})
				}
			},
			"bytes": func(t *rapid.T) {
				if w.tap == 0 || w.vm == 0 {
					return
				}
				n := uint64(rapid.IntRange(0, 1_000_000).Draw(t, "n"))
				w.sent, w.got = w.sent+n, w.got+n/2
				w.truth = w.truth.Plus(metering.Amount{SentBytes: n, ReceivedBytes: n / 2})
			},
			"read": func(*rapid.T) {
				if w.meter != nil {
					w.read()
				}
			},
			"read and report": func(*rapid.T) {
				if w.meter != nil {
					w.read()
					w.report()
				}
			},
			"sync": func(*rapid.T) { w.synced = w.written },
			"deliver": func(t *rapid.T) {
				if len(w.flight) == 0 {
					return
				}
				n := rapid.IntRange(0, len(w.flight)-1).Draw(t, "which")
				w.deliver(w.flight[n], n == len(w.flight)-1 && rapid.Bool().Draw(t, "heard"))
				if rapid.Bool().Draw(t, "once") {
					w.flight = slices.Delete(w.flight, n, n+1)
				}
			},
			"the VM starts": func(*rapid.T) {
				if w.vm == 0 && w.meter != nil && w.tap != 0 {
					w.read()
					w.makeVM()
					w.read()
				}
			},
			"the VM ends": func(*rapid.T) {
				switch {
				case w.vm == 0:
				case w.meter != nil:
					r := w.reading()
					r.Ended = true
					w.vm = 0
					w.meter.Read(r)
					w.put()
				default: // nobody sees it
					w.lose(metering.Amount{SentBytes: 1 << 62, ReceivedBytes: 1 << 62}.Plus(w.written.truth))
					w.vm = 0
				}
			},
			"the process is killed": func(*rapid.T) { w.meter = nil },
			"the process starts": func(*rapid.T) {
				if w.meter == nil {
					w.resume()
				}
			},
			"the host loses power": func(*rapid.T) {
				w.lose(w.synced.truth)
				w.written, w.meter = w.synced, nil
				w.life++
				w.clock = 0
				w.vm, w.tap = 0, 0
				w.resume()
				w.makeTap()
			},
			"the tap is replaced by somebody": func(*rapid.T) {
				// What it counted since it was read is gone.
				known := w.written.truth
				known.RunMS, known.VCPUMS, known.MemoryMBMS, known.DiskMBMS = 1<<62, 1<<62, 1<<62, 1<<62
				w.lose(known)
				w.makeTap()
			},
			"the host's clock is set": func(t *rapid.T) {
				w.wall = w.wall.Add(time.Duration(rapid.IntRange(-200_000, 200_000).Draw(t, "s")) * time.Second)
			},
			"the state is lost": func(*rapid.T) {
				w.meter, w.written, w.synced = nil, saved{}, saved{}
				w.resume()
				w.synced = w.written
			},
		}
		t.Repeat(steps)
		if w.meter == nil {
			w.resume()
		}
		for range 3 { // an epoch that is behind is renewed first
			w.read()
			w.report()
			w.deliver(w.flight[len(w.flight)-1], true)
		}
		for _, r := range w.flight {
			w.deliver(r, false)
		}
		if !w.truth.Covers(w.billed) {
			t.Fatalf("billed more than the truth:\n%+v\n%+v", w.billed, w.truth)
		}
		if !w.billed.Plus(w.pardon).Covers(w.truth) {
			t.Fatalf("lost:\nbilled %+v\npardon %+v\ntruth  %+v", w.billed, w.pardon, w.truth)
		}
		if w.pardon == (metering.Amount{}) && w.billed != w.truth {
			t.Fatalf("nothing was destroyed, and yet\nbilled %+v\ntruth  %+v", w.billed, w.truth)
		}
	})
}

// TestNothingDestroyedNothingLost: kills of the process and messages that go
// astray cost nothing at all.
func TestNothingDestroyedNothingLost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{t: t, wall: start, epochs: 1, hour: metering.HourOf(start)}
		w.makeTap()
		w.meter = metering.NewMeter(1, w.reading())
		w.makeVM()
		w.read()
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			d := time.Duration(rapid.IntRange(1, 4_000_000).Draw(t, "ms")) * time.Millisecond
			n := uint64(rapid.IntRange(0, 1<<40).Draw(t, "bytes"))
			w.wall, w.clock, w.elapsed = w.wall.Add(d), w.clock+d, w.elapsed+d
			ms := uint64(d / time.Millisecond)
			n = min(n, ms*10_000_000)
			w.sent += n
			w.truth = w.truth.Plus(metering.Amount{RunMS: ms, VCPUMS: 2 * ms, MemoryMBMS: 128 * ms, DiskMBMS: 256 * ms, SentBytes: n})
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0:
				w.meter = nil
				w.resume()
			case 1:
				w.read()
				w.report()
			case 2:
				w.read()
				w.report()
				w.deliver(w.flight[rapid.IntRange(0, len(w.flight)-1).Draw(t, "which")], rapid.Bool().Draw(t, "heard"))
			}
		}
		w.read()
		w.report()
		w.deliver(w.flight[len(w.flight)-1], true)
		if w.billed != w.truth {
			t.Fatalf("billed %+v\ntruth  %+v", w.billed, w.truth)
		}
		if w.meter.Owes() {
			t.Fatal("it still owes something")
		}
	})
}

func TestHoursAreSplitWhereTheyEnd(t *testing.T) {
	at := func(d time.Duration) metering.Reading {
		return metering.Reading{Wall: start.Add(d), Host: "h", Clock: time.Hour + d, VM: "vm", Size: small, Counter: "c"}
	}
	m := metering.NewMeter(1, at(0))
	m.Read(at(2*time.Hour + 20*time.Second)) // from 11:59:50 to 14:00:10
	var a metering.Account
	add, _ := a.Settle(metering.Report{Epoch: 1, Points: m.Points()}, metering.Bounds{Size: small, Since: start, Now: start.Add(3 * time.Hour)})
	var got strings.Builder
	for _, p := range add {
		fmt.Fprintf(&got, "%s %d|", p.Hour.Time().Format("15:04"), p.Total.RunMS)
	}
	if got.String() != "11:00 10000|12:00 3600000|13:00 3600000|14:00 10000|" {
		t.Errorf("by hours: %s", got.String())
	}
}

func TestPartsOfMillisecondsAddUp(t *testing.T) {
	r := metering.Reading{Wall: start, Host: "h", VM: "vm", Size: small}
	m := metering.NewMeter(1, r)
	for range 1000 {
		r.Clock += 1999 * time.Microsecond
		m.Read(r)
	}
	if m.Total.RunMS != 1999 {
		t.Errorf("%d ms counted of 1999", m.Total.RunMS)
	}
}

func TestALiarIsBelievedNoMoreThanWasPossible(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var a metering.Account
		sum := metering.Amount{}
		elapsed := time.Duration(0)
		for range rapid.IntRange(1, 20).Draw(t, "reports") {
			elapsed += time.Duration(rapid.IntRange(0, 100_000).Draw(t, "ms")) * time.Millisecond
			r := metering.Report{Epoch: rapid.Uint64Range(0, 5).Draw(t, "epoch")}
			for range rapid.IntRange(0, 4).Draw(t, "points") {
				claim := rapid.Uint64().Draw(t, "claim")
				r.Points = append(r.Points, metering.Point{Hour: metering.Hour(rapid.Int64().Draw(t, "hour")), Total: metering.Amount{
					RunMS: claim, VCPUMS: claim, MemoryMBMS: claim, DiskMBMS: claim, SentBytes: claim, ReceivedBytes: claim, LogBytes: claim, LogLines: claim, StorageByteHours: claim,
				}})
			}
			now := start.Add(elapsed)
			add, _ := a.Settle(r, metering.Bounds{Size: small, Since: start, Now: now})
			for _, p := range add {
				sum = sum.Plus(p.Total)
				if p.Hour < metering.HourOf(start) || p.Hour > metering.HourOf(now) {
					t.Fatalf("billed at hour %d", p.Hour)
				}
			}
		}
		ms := uint64((elapsed + time.Minute) / time.Millisecond)
		bytes := ms / 1000 * 50_000_000_000
		most := metering.Amount{RunMS: ms, VCPUMS: 2 * ms, MemoryMBMS: 128 * ms, DiskMBMS: 256 * ms, SentBytes: bytes, ReceivedBytes: bytes}
		if !most.Covers(sum) {
			t.Fatalf("believed %+v of at most %+v", sum, most)
		}
	})
}

// A clock that was years ahead for a moment books that moment alone to a time
// that nobody asks for yet.
func TestAClockThatWasAheadForAMoment(t *testing.T) {
	var a metering.Account
	var got []string
	for n, now := range []time.Time{start, start.AddDate(4, 0, 0), start.Add(time.Minute), start.Add(2 * time.Minute), start.Add(time.Hour)} {
		add, _ := a.Settle(metering.Report{Epoch: 1, Points: []metering.Point{{Hour: metering.HourOf(now), Total: metering.Amount{RunMS: uint64(n) * 100}}}},
			metering.Bounds{Size: small, Since: start, Now: now})
		for _, p := range add {
			got = append(got, fmt.Sprint(p.Hour.Time().Format("2006-01-02T15 "), p.Total.RunMS))
		}
	}
	if want := "[2030-03-01T11 100 2026-03-01T12 100 2026-03-01T12 100 2026-03-01T12 100]"; fmt.Sprint(got) != want {
		t.Errorf("booked\n%v, want\n%s", got, want)
	}
}

func TestHoursWaitWithinBounds(t *testing.T) {
	r := metering.Reading{Wall: start, Host: "h", VM: "vm", Size: small, Counter: "c"}
	m := metering.NewMeter(1, r)
	for n := range 2000 { // nobody takes reports for 83 days
		r.Wall, r.Clock, r.Sent = r.Wall.Add(time.Hour), r.Clock+time.Hour, uint64(n)
		m.Read(r)
	}
	if n := len(m.Points()); n > 801 {
		t.Errorf("%d hours wait", n)
	}
	var a metering.Account
	sum := metering.Amount{}
	add, _ := a.Settle(metering.Report{Epoch: 1, Points: m.Points()}, metering.Bounds{Size: small, Since: start, Now: r.Wall})
	for _, p := range add {
		sum = sum.Plus(p.Total)
	}
	if sum != m.Total {
		t.Errorf("settled %+v of %+v", sum, m.Total)
	}
}
