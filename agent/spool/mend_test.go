package spool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/logs"
	"github.com/miosa/miosa/wire/guest"
)

// archive is a store of one instance's lines as the real ones are: it drops
// what it has by number, and what is of an earlier epoch.
type archive struct {
	fail  func(string, ...any)
	mu    sync.Mutex // guards all below
	epoch uint64
	seq   uint64
	lines []logs.Line
	began map[int]bool // indexes at which an epoch begins
}

func (a *archive) take(batches []logs.Batch) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, b := range batches {
		switch {
		case b.Epoch < a.epoch:
			a.fail("epoch %d after %d: its lines are dropped", b.Epoch, a.epoch)
		case b.Epoch > a.epoch:
			a.epoch, a.seq = b.Epoch, 0
			a.began[len(a.lines)] = true
		}
		if b.First > a.seq+1 {
			a.fail("a hole in the numbers")
		}
		for k, l := range b.Lines {
			if n := b.First + uint64(k); n > a.seq {
				a.seq = n
				a.lines = append(a.lines, l)
			}
		}
	}
}

// told checks that each of the lines 1 to safe is there as it was written, or
// is told of where it is missing: counted exactly, or as a number that nobody
// knows. Where an epoch begins, lines may come once more, and markers.
func (a *archive) told(safe, written int) (unknown bool) {
	at, lost := 0, 0
	vague, epoch, seen := false, 0, map[string]int{} // the epoch that each marker came in first
	present := map[int]bool{}
	// missing is how many of the lines behind at, up to n, are nowhere. One that
	// an earlier epoch brought, and that was damaged before the next one could
	// bring it again, is not missing.
	missing := func(n int) (count int) {
		for ; n > at; n-- {
			if !present[n] {
				count++
			}
		}
		return count
	}
	for k, l := range a.lines {
		if a.began[k] {
			epoch++
			if from, ok := a.resumed(k); ok && from <= at+lost {
				at, lost, vague = from, 0, false
			}
		}
		if l.Stream == logs.System {
			again := l.Time.String() + string(l.Text)
			if _, ok := a.resumed(k); ok || seen[again] == 0 || seen[again] == epoch {
				lost += int(l.Lost)
				seen[again] = epoch
			} // else it stands at an epoch's end and came before
			if vaguely(&l) {
				vague, unknown = true, true
			}
			continue
		}
		n := number(&l)
		if string(l.Text) != text(n) || n > written {
			a.fail("nobody wrote %.60q", l.Text)
		}
		if gap := missing(n - 1); gap != lost && !vague {
			a.fail("line %d after %d, %d between are nowhere, and %d are told of as lost", n, at, gap, lost)
		}
		at, lost, vague, present[n] = n, 0, false, true
	}
	if !vague && (lost < missing(safe) || lost > missing(written)) {
		a.fail("%d lines present, %d told of as lost; %d of %d were safe", at, lost, safe, written)
	}
	return unknown
}

// resumed is the line behind which the epoch goes on from the index: what its
// next line and the markers before that one say. Not ok: no line follows.
func (a *archive) resumed(k int) (from int, ok bool) {
	lost := 0
	for j := k; j < len(a.lines) && (j == k || !a.began[j]); j++ {
		l := &a.lines[j]
		if l.Stream != logs.System {
			return max(number(l)-1-lost, 0), true
		}
		lost += int(l.Lost)
	}
	return 0, false
}

func vaguely(l *logs.Line) bool {
	s := string(l.Text)
	return strings.Contains(s, "not known") || strings.Contains(s, "may be missing")
}

func number(l *logs.Line) (n int) {
	_, _ = fmt.Sscanf(string(l.Text), "line %d", &n) // 0: it is none
	return n
}

func text(n int) string { return fmt.Sprintf("line %d %s", n, strings.Repeat("x", n%40)) }

// Whatever bytes change on the disk while the process is away or runs: no line
// comes out wrong, and none is missing without a word.
func TestDamageIsNeverSilent(t *testing.T) {
	base := t.TempDir()
	counted, vague := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(base, "")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		store := &archive{fail: t.Fatalf, began: map[int]bool{}}
		now := time.Now()
		var s *Spool
		var i *Instance
		uptime := uint64(7)
		open := func() {
			var err error
			if s, err = New(Config{
				Dir: dir, HostID: "host_1", FreeBytes: -1, InstanceBytes: 64 << 10, Log: slog.New(slog.DiscardHandler),
				Shipper: shipper(func(context.Context, []logs.Batch) error { return nil }),
			}); err != nil {
				t.Fatal(err)
			}
			s.uptime = uptime
			if err := s.Open(now); err != nil {
				t.Fatal(err)
			}
			if i, err = s.Instance(now, origin("ri_a"), Limit{Rate: -1}); err != nil {
				t.Fatal(err)
			}
		}
		open()
		written, most, safe, held := 0, 0, 0, 0
		write := func(n int) {
			b := &guest.Lines{Gap: uint64(max(safe-held, 0))}
			held = max(held, safe) // the guest has forgotten those before
			written = held
			for range n {
				written++
				b.Lines = append(b.Lines, guest.Line{N: uint64(written), Stream: guest.Stdout, T: now.UnixNano(), Text: []byte(text(written))})
			}
			if err := i.Append(now, 1, b); err != nil {
				t.Fatal(err)
			}
			held = written
			most = max(most, written)
		}
		ship := func(most int) {
			load, _ := s.gather(now, "")
			for _, sh := range load {
				if n := min(most, len(sh.batch.Lines)); n < len(sh.batch.Lines) {
					return // the store did not answer
				}
				store.take([]logs.Batch{sh.batch})
				sh.i.shipped(sh)
			}
		}
		flip := func() {
			entries, err := os.ReadDir(i.dir)
			if err != nil {
				t.Fatal(err)
			}
			name := filepath.Join(i.dir, entries[rapid.IntRange(0, len(entries)-1).Draw(t, "file")].Name())
			b, err := os.ReadFile(name)
			if err != nil || len(b) == 0 {
				return
			}
			at := rapid.IntRange(0, len(b)-1).Draw(t, "byte")
			b[at] ^= byte(rapid.IntRange(1, 255).Draw(t, "bits"))
			f, err := os.OpenFile(name, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt(b[at:at+1], int64(at)); err != nil {
				t.Fatal(err)
			}
			f.Close()
		}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 300).Draw(t, "ms")) * time.Millisecond)
			switch rapid.SampledFrom([]string{"write", "write", "write", "say", "sync", "sync", "ship", "ship", "damage", "crash"}).Draw(t, "step") {
			case "write":
				write(rapid.IntRange(1, 80).Draw(t, "lines"))
			case "say":
				if err := i.System(now, "a word of the platform"); err != nil {
					t.Fatal(err)
				}
			case "sync":
				if err := i.Sync(now); err != nil {
					t.Fatal(err)
				}
				safe = held
			case "ship":
				ship(rapid.SampledFrom([]int{0, 1 << 20}).Draw(t, "most"))
			case "damage":
				for range rapid.IntRange(1, 3).Draw(t, "flips") {
					flip()
				}
				if rapid.Bool().Draw(t, "while it runs") {
					continue
				}
				fallthrough
			case "crash":
				if rapid.IntRange(0, 3).Draw(t, "power") == 0 {
					uptime++ // the machine starts anew
				}
				abandon(s)
				open()
				held = int(i.After(1))
			}
		}
		if err := i.Sync(now); err != nil {
			t.Fatal(err)
		}
		safe = held
		i.End(now)
		for range 200 {
			ship(1 << 20)
		}
		if store.told(safe, most) {
			vague++
		} else {
			counted++
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
			t.Fatalf("something stays behind: %v, %v", entries, err)
		}
	})
	t.Logf("%d runs with exact counts, %d with an unknown number", counted, vague)
}

// After a power cut, what the position says may be older than what the store
// has: lines of a damaged segment that were shipped are not counted as lost.
func TestWhatWasShippedIsNotCountedAsLost(t *testing.T) {
	for name, power := range map[string]func(t *testing.T, i *Instance, earlier []byte){
		"its newest slot is damaged": func(t *testing.T, i *Instance, _ []byte) {
			flipByte(t, filepath.Join(i.dir, positionFile), int64(i.pos.turn%2)*slotSize+1)
		},
		"its last writes are gone": func(t *testing.T, i *Instance, earlier []byte) {
			if err := os.WriteFile(filepath.Join(i.dir, positionFile), earlier, 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, now := t.TempDir(), time.Now()
			store := &archive{fail: t.Fatalf, began: map[int]bool{}}
			open := func(uptime uint64) (*Spool, *Instance) {
				s := newSpool(t, dir, func(context.Context, []logs.Batch) error { return nil }, nil)
				s.uptime = uptime
				if err := s.Open(now); err != nil {
					t.Fatal(err)
				}
				i, err := s.Instance(now, origin("ri_a"), Limit{})
				if err != nil {
					t.Fatal(err)
				}
				return s, i
			}
			ship := func(s *Spool) {
				load, _ := s.gather(now, "")
				for _, sh := range load {
					store.take([]logs.Batch{sh.batch})
					sh.i.shipped(sh)
				}
			}
			s, i := open(7)
			b := &guest.Lines{}
			for n := 1; n <= 7; n++ {
				b.Lines = append(b.Lines, guest.Line{N: uint64(n), Stream: guest.Stdout, T: now.UnixNano(), Text: []byte(text(n))})
			}
			if err := errors.Join(i.Append(now, 1, b), i.Sync(now)); err != nil {
				t.Fatal(err)
			}
			earlier, err := os.ReadFile(filepath.Join(i.dir, positionFile))
			if err != nil {
				t.Fatal(err)
			}
			ship(s)
			power(t, i, earlier)
			flipByte(t, filepath.Join(i.dir, segmentName(1)), 225)
			abandon(s)
			s, i = open(8)
			i.End(now)
			for range 5 {
				ship(s)
			}
			if !store.told(7, 7) {
				t.Error("nothing is told of what was damaged")
			}
		})
	}
}

func flipByte(t *testing.T, name string, at int64) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 12
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

// A disk that fails to sync may say that all is well the second time, without
// the bytes: what was not safe is asked for again.
func TestFailedSyncIsNotBelieved(t *testing.T) {
	s := newSpool(t, t.TempDir(), func(context.Context, []logs.Batch) error { return nil }, nil)
	now := time.Now()
	i, err := s.Instance(now, origin("ri_a"), Limit{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(i.Append(now, 1, numbered(1, 10, now)), i.Sync(now), i.Append(now, 1, numbered(11, 20, now))); err != nil {
		t.Fatal(err)
	}
	whole := i.active
	if i.active, err = os.OpenFile("/dev/full", os.O_WRONLY, 0); err != nil { // which cannot be synced
		t.Fatal(err)
	}
	whole.Close()
	if err := i.Sync(now); err == nil {
		t.Fatal("the sync did not fail")
	}
	if err := i.Append(now, 1, numbered(21, 30, now)); !errors.Is(err, errHole) {
		t.Errorf("lines behind those that are gone: %v", err)
	}
	if n := i.Held(1); n != 10 {
		t.Errorf("held up to %d, want 10", n)
	}
	if err := errors.Join(i.Append(now, 1, numbered(11, 30, now)), i.Sync(now)); err != nil {
		t.Fatal(err)
	}
	i.End(now)
	store := newShelf(t.Fatalf)
	load, _ := s.gather(now, "")
	store.take([]logs.Batch{load[0].batch})
	store.whole("ri_a", 30)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// What the store cannot take of one instance keeps nobody else's lines waiting.
func TestOneThatFailsHoldsNobodyUp(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		store := newShelf(t.Fatalf)
		var sick atomic.Bool
		sick.Store(true)
		s := newSpool(t, dir, func(_ context.Context, batches []logs.Batch) error {
			for _, b := range batches {
				if b.Origin.InstanceID == "ri_b" && sick.Load() {
					return miosa.Errorf(miosa.Internal, "its record cannot be read")
				}
				if b.Origin.InstanceID == "ri_d" {
					return miosa.Errorf(miosa.NotFound, "no such deployment")
				}
			}
			store.take(batches)
			return nil
		}, nil)
		all := map[string]*Instance{}
		for _, id := range []string{"ri_a", "ri_b", "ri_c", "ri_d"} {
			var err error
			if all[id], err = s.Instance(time.Now(), origin(id), Limit{}); err != nil {
				t.Fatal(err)
			}
		}
		say := func(from, to int, ids ...string) {
			for _, id := range ids {
				if err := all[id].Append(time.Now(), 1, numbered(from, to, time.Now())); err != nil {
					t.Fatal(err)
				}
			}
		}
		say(1, 10, "ri_b") // alone at first
		ctx, cancel := context.WithCancel(t.Context())
		go s.Run(ctx)
		<-time.After(2 * time.Second)
		say(1, 10, "ri_a", "ri_c", "ri_d")
		<-time.After(3 * time.Second)
		store.whole("ri_a", 10)
		store.whole("ri_c", 10)
		store.whole("ri_b", 0)
		sick.Store(false)
		<-time.After(5 * time.Second)
		store.whole("ri_b", 10)
		cancel()
		synctest.Wait()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A guest that lies about its numbers gets a bounded count, not a wrong sign.
func TestCountsOfALiarAreBounded(t *testing.T) {
	s := newSpool(t, t.TempDir(), func(context.Context, []logs.Batch) error { return nil }, func(c *Config) { c.InstanceBytes = 4 << 10 })
	now := time.Now()
	i, err := s.Instance(now, origin("ri_a"), Limit{})
	if err != nil {
		t.Fatal(err)
	}
	const far = 1<<64 - 2
	for boot := 1; boot < 100; boot++ {
		l := guest.Line{N: far, Stream: guest.Stdout, T: now.UnixNano(), Text: []byte(strings.Repeat("x", 200))}
		if err := i.Append(now, boot, &guest.Lines{Gap: far - 1, Lines: []guest.Line{l}}); err != nil {
			t.Fatal(err)
		}
		i.Lose(now, boot, far+1)
	}
	sh, _, err := i.take(1000, 1<<20)
	if err != nil || len(sh.batch.Lines) == 0 {
		t.Fatal(err, len(sh.batch.Lines))
	}
	for _, l := range sh.batch.Lines {
		if l.Lost > mostLost {
			t.Errorf("%d lost: %s", l.Lost, l.Text)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// Whose lines they are is kept twice; where both are damaged, the instance's
// next word says it again and nothing is lost.
func TestOriginIsKeptTwice(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	open := func() *Spool {
		return newSpool(t, dir, func(context.Context, []logs.Batch) error { return nil }, nil)
	}
	s := open()
	i, err := s.Instance(now, origin("ri_a"), Limit{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(i.Append(now, 1, numbered(1, 10, now)), s.Close()); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "ri_a", originFile)
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	damage := func(at ...int) {
		d := append([]byte(nil), b...)
		for _, n := range at {
			d[n] ^= 1
		}
		if err := os.WriteFile(name, d, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for at := range b {
		damage(at)
		s = open()
		if found := s.instances["ri_a"]; found == nil || found.origin != origin("ri_a") {
			t.Fatalf("byte %d: %+v", at, found)
		}
		abandon(s)
	}
	damage(20, len(b)-5)
	s = open()
	if len(s.instances) != 0 {
		t.Fatal("an origin was made up")
	}
	if i, err = s.Instance(now, origin("ri_a"), Limit{}); err != nil {
		t.Fatal(err)
	}
	if n := i.After(1); n != 10 {
		t.Errorf("line %d is safe, want 10", n)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// damaged is a spool of one instance over several lives, and what the store has
// of it.
type damaged struct {
	t      *testing.T
	dir    string
	uptime uint64
	store  *archive
	s      *Spool
	i      *Instance
}

func (d *damaged) open() {
	d.t.Helper()
	if d.s != nil {
		abandon(d.s)
	}
	var err error
	d.s, err = New(Config{
		Dir: d.dir, HostID: "host_1", FreeBytes: -1, Log: slog.New(slog.DiscardHandler),
		Shipper: shipper(func(context.Context, []logs.Batch) error { return nil }),
	})
	if err != nil {
		d.t.Fatal(err)
	}
	d.s.uptime = d.uptime
	if err = d.s.Open(time.Now()); err == nil {
		d.i, err = d.s.Instance(time.Now(), origin("ri_a"), Limit{})
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d *damaged) write(from, to int) {
	d.t.Helper()
	b := &guest.Lines{Gap: uint64(from - 1)}
	for n := from; n <= to; n++ {
		b.Lines = append(b.Lines, guest.Line{N: uint64(n), Stream: guest.Stdout, T: time.Now().UnixNano(), Text: []byte(text(n))})
	}
	if err := errors.Join(d.i.Append(time.Now(), 1, b), d.i.Sync(time.Now())); err != nil {
		d.t.Fatal(err)
	}
}

func (d *damaged) ship() {
	load, _ := d.s.gather(time.Now(), "")
	for _, sh := range load {
		d.store.take([]logs.Batch{sh.batch})
		sh.i.shipped(sh)
	}
}

func (d *damaged) place() []byte {
	d.t.Helper()
	b, err := os.ReadFile(filepath.Join(d.i.dir, positionFile))
	if err != nil {
		d.t.Fatal(err)
	}
	return b
}

// A marker that is on the disk and not shipped yet is not forgotten when it is
// damaged as well: no power cut tore it.
func TestDamagedMarkerIsToldOfAgain(t *testing.T) {
	for name, at := range map[string]int64{"its segment's head": 0, "its length": segmentHead, "its text": segmentHead + recordHead + recordFixed} {
		t.Run(name, func(t *testing.T) {
			d := &damaged{t: t, dir: t.TempDir(), uptime: 7, store: &archive{fail: t.Fatalf, began: map[int]bool{}}}
			d.open()
			d.write(1, 18)
			d.ship()
			flipByte(t, filepath.Join(d.i.dir, segmentName(1)), 0)
			for slot := range int64(2) {
				flipByte(t, filepath.Join(d.i.dir, positionFile), slot*slotSize+1)
			}
			d.uptime++
			d.open()
			flipByte(t, filepath.Join(d.i.dir, segmentName(1)), at)
			d.open()
			d.write(19, 20)
			d.i.End(time.Now())
			d.ship()
			if !d.store.told(20, 20) {
				t.Error("nothing is told of what was damaged")
			}
		})
	}
}

// Where the spool does not know any more what the store has, what the guest has
// forgotten since is not counted as lost.
func TestWhatTheGuestForgotIsNotCountedAfterDamage(t *testing.T) {
	d := &damaged{t: t, dir: t.TempDir(), uptime: 7, store: &archive{fail: t.Fatalf, began: map[int]bool{}}}
	d.open()
	d.write(1, 18)
	d.ship()
	flipByte(t, filepath.Join(d.i.dir, segmentName(1)), 0)
	for slot := range int64(2) {
		flipByte(t, filepath.Join(d.i.dir, positionFile), slot*slotSize+1)
	}
	d.open()
	d.ship() // the marker
	d.write(19, 20)
	d.i.End(time.Now())
	d.ship()
	for _, l := range d.store.lines {
		if l.Lost > 0 {
			t.Errorf("%q, and the store has them", l.Text)
		}
	}
	if !d.store.told(20, 20) {
		t.Error("nothing is told of what was damaged")
	}
}

// After a power cut the position may be older than what was shipped. Where a
// segment that was is damaged, no number is given twice: the store would drop
// the lines that come under it.
func TestNoNumberIsGivenTwiceAfterAPowerCut(t *testing.T) {
	for name, at := range map[string]int64{"its head is damaged": 3, "its first line is": segmentHead + recordHead + recordFixed} {
		t.Run(name, func(t *testing.T) {
			d := &damaged{t: t, dir: t.TempDir(), uptime: 7, store: &archive{fail: t.Fatalf, began: map[int]bool{}}}
			d.open()
			earlier := d.place()
			d.write(1, 7)
			d.ship()
			if err := os.WriteFile(filepath.Join(d.i.dir, positionFile), earlier, 0o600); err != nil {
				t.Fatal(err)
			}
			flipByte(t, filepath.Join(d.i.dir, segmentName(1)), at)
			d.uptime++
			d.open()
			d.write(8, 12)
			d.i.End(time.Now())
			d.ship()
			if !d.store.told(12, 12) {
				t.Error("nothing is told of what was damaged")
			}
			if last := d.store.lines[len(d.store.lines)-1]; number(&last) != 12 {
				t.Errorf("the last line in the store is %q", last.Text)
			}
		})
	}
}

// A position of a version before ours is read, and ours by it.
func TestPositionsOfBefore(t *testing.T) {
	p := position{turn: 3, epoch: 4, seq: 5, next: cursor{segment: 6, index: 7}, sent: 8, last: 9, guest: spot{1, 10}, uptime: 11, done: spot{1, 12}, safe: extent{6, 1000}}
	b := p.encode()
	if got, ok := decodePosition(b); !ok || got != p {
		t.Errorf("%+v %v", got, ok)
	}
	clear(b[slotBody+4:])
	before := p
	before.safe = extent{}
	if got, ok := decodePosition(b); !ok || got != before {
		t.Errorf("of before: %+v %v", got, ok)
	}
	for at := range slotMore + 4 {
		b := p.encode()
		b[at] ^= 1
		if _, ok := decodePosition(b); ok {
			t.Errorf("changed at %d it is taken for sound", at)
		}
	}
}
