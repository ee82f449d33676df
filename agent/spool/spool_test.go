package spool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/logs"
	"github.com/miosa/miosa/wire/guest"
)

// shelf is a naive store: it drops what it has by (epoch, seq), and accuses who
// leaves a hole or sends another line under a number that it has.
type shelf struct {
	fail  func(string, ...any)
	mu    sync.Mutex // guards lines, epochs and calls
	lines map[string][]logs.Line
	epoch map[string]uint64
	calls int
}

func newShelf(fail func(string, ...any)) *shelf {
	return &shelf{fail: fail, lines: map[string][]logs.Line{}, epoch: map[string]uint64{}}
}

func (s *shelf) take(batches []logs.Batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	total := 0
	for _, b := range batches {
		id := b.Origin.InstanceID
		have := s.lines[id]
		if total += len(b.Lines); total > maxLines || len(b.Lines) == 0 {
			s.fail("a call of %d lines", total)
		}
		if e := s.epoch[id]; e != 0 && e != b.Epoch {
			s.fail("another epoch")
		}
		s.epoch[id] = b.Epoch
		if b.First == 0 || b.First > uint64(len(have))+1 {
			s.fail("a hole: %d lines, then number %d", len(have), b.First)
		}
		for k, l := range b.Lines {
			if at := int(b.First) - 1 + k; at < len(have) {
				if h := have[at]; !bytes.Equal(h.Text, l.Text) || h.Lost != l.Lost || h.Stream != l.Stream || !h.Time.Equal(l.Time) {
					s.fail("number %d was %q, now %q", at+1, h.Text, l.Text)
				}
				continue
			}
			if n := len(have); n > 0 && l.Time.Before(have[n-1].Time) {
				s.fail("time goes back at number %d", n+1)
			}
			have = append(have, l)
		}
		s.lines[id] = have
	}
}

// whole checks that the app's lines 1 to n are there in order, or told of as
// lost exactly where they are missing.
func (s *shelf) whole(id string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := 0
	for k, l := range s.lines[id] {
		if l.Stream == logs.System {
			at += int(l.Lost)
			continue
		}
		at++
		var got int
		if _, err := fmt.Sscanf(string(l.Text), "line %d", &got); err != nil || got != at || l.Lost != 0 {
			s.fail("number %d: %.40q where line %d belongs", k+1, l.Text, at)
		}
	}
	if at != n {
		s.fail("%d lines present or told of as lost, %d written", at, n)
	}
}

type shipper func(ctx context.Context, batches []logs.Batch) error

func (f shipper) Ship(ctx context.Context, _ string, batches []logs.Batch) error {
	return f(ctx, batches)
}

func newSpool(t interface{ Fatal(...any) }, dir string, ship shipper, change func(*Config)) *Spool {
	cfg := Config{Dir: dir, HostID: "host_1", Shipper: ship, FreeBytes: -1, Log: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Open(time.Now()); err != nil {
		t.Fatal(err)
	}
	return s
}

func origin(id string) logs.Origin { return logs.Origin{TenantID: "ten_1", InstanceID: id} }

// app is a guest that logs numbered lines over its boots, with a ring.
type app struct {
	boot    int
	first   int // number of the boot's first line over all boots, less one
	written int // in this boot
	ring    int // the first line of this boot that the ring still has
	session int // the last line handed on
}

func (a *app) all() int { return a.first + a.written }

// batch is what the guest sends next.
func (a *app) batch(most int, now time.Time, pad int) *guest.Lines {
	from := max(a.session+1, a.ring)
	to := min(a.written, from+most-1)
	b := &guest.Lines{Gap: uint64(from - a.session - 1)}
	for n := from; n <= to; n++ {
		text := fmt.Sprintf("line %d %s", a.first+n, strings.Repeat("x", pad))
		b.Lines = append(b.Lines, guest.Line{N: uint64(n), Stream: guest.Stdout, T: now.UnixNano(), Text: []byte(text)})
	}
	return b
}

// Whatever happens (crashes of ours, power cuts that take what was not synced,
// bounds so small that lines are dropped all the time, a store that does not
// answer or whose answer is lost), every line of the app is in the store once
// and in order, or told of exactly where it is missing.
func TestNoLineIsLostUntold(t *testing.T) {
	base := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(base, "")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		store := newShelf(t.Fatalf)
		limit := Limit{Rate: rapid.SampledFrom([]int{-1, 50, 1000}).Draw(t, "rate"), Burst: rapid.SampledFrom([]int{1, 30, 2000}).Draw(t, "burst")}
		bound := rapid.SampledFrom([]int64{4 << 10, 20 << 10, 1 << 20}).Draw(t, "bound")
		total := rapid.SampledFrom([]int64{6 << 10, 1 << 20}).Draw(t, "total")
		now, first := time.Now(), ""
		var s *Spool
		var i *Instance
		open := func() {
			s = newSpool(t, dir, func(context.Context, []logs.Batch) error { return nil }, func(c *Config) { c.InstanceBytes, c.TotalBytes = bound, total })
			if i, err = s.Instance(now, origin("ri_a"), limit); err != nil {
				t.Fatal(err)
			}
		}
		open()
		a := &app{boot: 1, ring: 1}
		durable, durableSize := uint64(0), int64(segmentHead) // the last segment that was synced, to which size
		note := func() {
			if n := len(i.segments); n > 0 && i.synced {
				durable, durableSize = i.segments[n-1].number, i.segments[n-1].size
			}
		}
		deliver := func(most, pad int) {
			if b := a.batch(most, now, pad); len(b.Lines) > 0 {
				if err := i.Append(now, a.boot, b); err != nil {
					t.Fatal(err)
				}
				a.session = int(b.Lines[len(b.Lines)-1].N)
			}
		}
		var stuck []shipment // sent, and not answered
		ship := func(outcome int) {
			load := stuck
			if load == nil {
				load, first = s.gather(now, first)
			}
			note()
			if len(load) == 0 {
				return
			}
			stuck = load
			batches := make([]logs.Batch, len(load))
			for k, sh := range load {
				batches[k] = sh.batch
			}
			if outcome > 0 {
				store.take(batches)
			}
			if outcome > 1 {
				stuck = nil
				for _, sh := range load {
					sh.i.shipped(sh)
				}
			}
		}
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 300).Draw(t, "ms")) * time.Millisecond)
			switch rapid.SampledFrom([]string{"write", "write", "write", "deliver", "deliver", "deliver", "deliver", "overflow", "say", "sync", "ship", "ship", "crash", "cut", "boot"}).Draw(t, "step") {
			case "write":
				a.written += rapid.IntRange(1, 60).Draw(t, "lines")
			case "deliver":
				deliver(rapid.IntRange(1, 40).Draw(t, "most"), rapid.SampledFrom([]int{0, 10, 300}).Draw(t, "pad"))
			case "overflow":
				a.ring = min(max(a.ring, a.session+rapid.IntRange(-10, 10).Draw(t, "ring")), a.written+1)
			case "say":
				if err := i.System(now, "a word of the platform"); err != nil {
					t.Fatal(err)
				}
			case "sync":
				if err := i.Sync(now); err != nil {
					t.Fatal(err)
				}
				note()
				if n := int(i.After(a.boot)); a.session > 0 && n != a.session {
					t.Fatalf("line %d is safe, want %d", n, a.session)
				} else {
					a.ring = max(a.ring, n+1)
				}
			case "ship":
				ship(rapid.IntRange(0, 2).Draw(t, "outcome"))
			case "boot":
				for a.session < a.written && a.ring <= a.written {
					deliver(100, 0)
				}
				if a.session < a.written { // its ring went with it
					i.Lose(now, a.boot, uint64(a.written))
				}
				if err := i.Sync(now); err != nil { // as before a guest's exit is acknowledged
					t.Fatal(err)
				}
				note()
				a.first, a.written, a.session, a.ring = a.all(), 0, 0, 1
				a.boot++
			case "crash", "cut":
				cut := rapid.Bool().Draw(t, "power")
				if n := len(i.segments); cut && n > 0 && i.active != nil {
					last := i.segments[n-1]
					keep := int64(segmentHead)
					if last.number == durable {
						keep = durableSize
					}
					if keep < last.size {
						size := rapid.Int64Range(keep, last.size).Draw(t, "kept")
						name := filepath.Join(i.dir, segmentName(last.number))
						if err := os.Truncate(name, size); err != nil {
							t.Fatal(err)
						}
						if rapid.Bool().Draw(t, "garbage") {
							f, _ := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
							_, _ = f.Write(rapid.SliceOfN(rapid.Byte(), 1, 100).Draw(t, "bytes"))
							f.Close()
						}
					}
				}
				if cut { // the machine starts anew
					i.pos.uptime = 1
					if err := i.pos.write(i.place, false); err != nil {
						t.Fatal(err)
					}
				}
				abandon(s)
				stuck = nil
				open()
				note()
				a.session = int(i.After(a.boot))
			}
		}
		for a.session < a.written && a.ring <= a.written {
			deliver(50, 0)
		}
		if a.session < a.written {
			i.Lose(now, a.boot, uint64(a.written))
		}
		i.End(now)
		for range 1000 {
			ship(2)
		}
		store.whole("ri_a", a.all())
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
			t.Fatalf("something stays behind: %v, %v", entries, err)
		}
		if s.total.Load() != 0 {
			t.Fatalf("%d bytes counted of nothing", s.total.Load())
		}
	})
}

// abandon gives the files back as the death of the process does.
func abandon(s *Spool) {
	for _, i := range s.instances {
		if i.active != nil {
			i.active.Close()
		}
		i.place.Close()
	}
}

func numbered(from, to int, now time.Time) *guest.Lines {
	a := app{boot: 1, written: to, session: from - 1}
	return a.batch(to-from+1, now, 0)
}

func TestRunShipsUntilAllIsGone(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		store := newShelf(t.Fatalf)
		turn := 0
		s := newSpool(t, dir, func(_ context.Context, batches []logs.Batch) error {
			switch turn++; turn % 3 {
			case 1:
				return miosa.Errorf(miosa.Unavailable, "the store is away")
			case 2:
				store.take(batches)
				return errors.New("the answer was lost")
			}
			store.take(batches)
			return nil
		}, nil)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		ids := []string{"ri_a", "ri_b", "ri_c"}
		for _, id := range ids {
			i, err := s.Instance(time.Now(), origin(id), Limit{Rate: -1})
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				for from := 1; from <= 9_000; from += 300 {
					if err := i.Append(time.Now(), 1, numbered(from, from+299, time.Now())); err != nil {
						t.Error(err)
					}
					<-time.After(10 * time.Millisecond) // of virtual time
				}
				i.End(time.Now())
			}()
		}
		<-time.After(time.Minute)
		synctest.Wait()
		for _, id := range ids {
			store.whole(id, 9_000)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
			t.Errorf("something stays behind: %v, %v", entries, err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestUnknownDeploymentIsGivenUpAlone(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		store := newShelf(t.Fatalf)
		s := newSpool(t, dir, func(_ context.Context, batches []logs.Batch) error {
			for _, b := range batches {
				if b.Origin.InstanceID == "ri_b" {
					return miosa.Errorf(miosa.NotFound, "no such deployment")
				}
			}
			store.take(batches)
			return nil
		}, nil)
		var all []*Instance
		for _, id := range []string{"ri_a", "ri_b", "ri_c"} {
			i, err := s.Instance(time.Now(), origin(id), Limit{})
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, i)
		}
		say := func(from, to int) {
			for _, i := range all {
				if err := errors.Join(i.Append(time.Now(), 1, numbered(from, to, time.Now())), i.Sync(time.Now())); err != nil {
					t.Fatal(err)
				}
				if n := i.After(1); n != uint64(to) {
					t.Fatalf("%s: line %d is safe, want %d", i.ID(), n, to)
				}
			}
		}
		say(1, 10)
		ctx, cancel := context.WithCancel(t.Context())
		go s.Run(ctx)
		<-time.After(time.Second)
		say(11, 20)
		<-time.After(time.Second)
		store.whole("ri_a", 20)
		store.whole("ri_c", 20)
		store.whole("ri_b", 0)
		for _, i := range all {
			i.End(time.Now())
		}
		<-time.After(time.Second)
		cancel()
		synctest.Wait()
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
			t.Errorf("something stays behind: %v, %v", entries, err)
		}
	})
}

// What an instance that nobody asks for left is shipped and removed.
func TestLeftoversAreShipped(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		store := newShelf(t.Fatalf)
		ship := shipper(func(_ context.Context, batches []logs.Batch) error { store.take(batches); return nil })
		s := newSpool(t, dir, ship, nil)
		for _, id := range []string{"ri_a", "ri_b"} {
			i, err := s.Instance(time.Now(), origin(id), Limit{})
			if err != nil {
				t.Fatal(err)
			}
			if err := i.Append(time.Now(), 2, numbered(1, 120, time.Now())); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = newSpool(t, dir, ship, nil)
		b, err := s.Instance(time.Now(), origin("ri_b"), Limit{})
		if err != nil {
			t.Fatal(err)
		}
		if n, other := b.After(2), b.After(1); n != 120 || other != 0 {
			t.Errorf("line %d of boot 2 is safe, %d of boot 1", n, other)
		}
		if r := b.Recent(); len(r) < 50 || string(r[len(r)-1].Text) != "line 120 " || r[len(r)-1].N != 120 || r[0].Boot != 2 {
			t.Errorf("%d recent lines", len(r))
		}
		ctx, cancel := context.WithCancel(t.Context())
		go s.Run(ctx)
		<-time.After(time.Second)
		store.whole("ri_a", 120)
		store.whole("ri_b", 120)
		cancel()
		synctest.Wait()
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 || entries[0].Name() != "ri_b" {
			t.Errorf("%v, %v", entries, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A noisy instance does not keep the lines of a quiet one waiting.
func TestNobodyStarves(t *testing.T) {
	s := newSpool(t, t.TempDir(), func(context.Context, []logs.Batch) error { return nil }, nil)
	now := time.Now()
	for _, id := range []string{"ri_a", "ri_b", "ri_c"} {
		i, err := s.Instance(now, origin(id), Limit{Rate: -1})
		if err != nil {
			t.Fatal(err)
		}
		if err := i.Append(now, 1, numbered(1, map[string]int{"ri_a": 9_000, "ri_b": 10, "ri_c": 9_000}[id], now)); err != nil {
			t.Fatal(err)
		}
	}
	load, _ := s.gather(now, "ri_b")
	total, of := 0, map[string]int{}
	for _, sh := range load {
		of[sh.i.id] = len(sh.batch.Lines)
		total += len(sh.batch.Lines)
	}
	if of["ri_b"] != 10 || of["ri_c"] < 600 || of["ri_a"] < 600 || total != maxLines {
		t.Errorf("%v", of)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestLimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := Limit{Rate: rapid.IntRange(1, 10_000).Draw(t, "rate"), Burst: rapid.IntRange(1, 30_000).Draw(t, "burst")}
		start := time.Now()
		b, now := newBucket(l, start), start
		p := b.pools
		var passed [overs]float64
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.Int64Range(-1000, int64(time.Second)).Draw(t, "later")))
			size := rapid.SampledFrom([]int{0, 100, 5000, logs.MaxText}).Draw(t, "size")
			for range rapid.IntRange(1, 2000).Draw(t, "lines") {
				before := b
				if over, ok := b.admit(now, size); ok {
					for k, n := range []int{1, size, size} {
						passed[k] += float64(n)
					}
				} else if over == 0 {
					t.Fatal("refused for nothing")
				} else if b.pools[overLines].tokens < before.pools[overLines].tokens {
					t.Fatal("what is dropped uses up what may pass")
				}
			}
			for k := range p {
				if most := p[k].most + p[k].rate*(now.Sub(start).Seconds()+1e-3) + float64(logs.MaxText); passed[k] > most {
					t.Fatalf("kind %d: %g passed in %s, at most %g may", k, passed[k], now.Sub(start), most)
				}
			}
		}
		if _, ok := b.admit(now.Add(time.Hour), logs.MaxText); !ok {
			t.Fatal("nothing passes after a silence")
		}
	})
}

// Through a day an app keeps no more than its day's bytes beyond those it had
// saved up, and is never silent for long. A limit that is set anew gives none of
// it back.
func TestLimitOfADay(t *testing.T) {
	now := time.Now()
	l := Limit{}.withDefaults()
	b := newBucket(l, now)
	day := b.pools[overDay]
	passed, quiet, longest := 0, time.Duration(0), time.Duration(0)
	const step, size = time.Second, 60_000
	for k := range 86400 {
		now = now.Add(step)
		quiet += step
		for range 30 { // more than may pass in a second
			if _, ok := b.admit(now, size); !ok {
				break
			}
			passed, quiet = passed+size, 0
		}
		longest = max(longest, quiet)
		if k%1000 == 0 {
			b.set(Limit{Rate: 4_000}.withDefaults(), now)
			b.set(l, now)
		}
	}
	if bound := 2*day.most + size; float64(passed) > bound {
		t.Errorf("%d bytes in a day, at most %g may", passed, bound)
	}
	if longest > time.Minute {
		t.Errorf("nothing passed for %s", longest)
	}
}

// An app that writes long lines as fast as it can keeps as many bytes as its
// limit says, and is told of every line that is missing.
func TestLongLinesAreLimited(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		store := newShelf(t.Fatalf)
		s := newSpool(t, dir, func(_ context.Context, batches []logs.Batch) error { store.take(batches); return nil }, nil)
		i, err := s.Instance(time.Now(), origin("ri_a"), Limit{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go s.Run(ctx)
		text := bytes.Repeat([]byte("x"), 60_000)
		const seconds, each = 20, 20 // 1,000 lines a second: 60 MB
		n := 0
		for range seconds * 1000 / each {
			<-time.After(each * time.Millisecond)
			b := &guest.Lines{}
			for range each {
				n++
				b.Lines = append(b.Lines, guest.Line{N: uint64(n), Stream: guest.Stdout, T: time.Now().UnixNano(), Text: text})
			}
			if err := i.Append(time.Now(), 1, b); err != nil {
				t.Fatal(err)
			}
		}
		i.End(time.Now())
		<-time.After(5 * time.Second)
		cancel()
		synctest.Wait()
		kept, lost, stored := 0, 0, 0
		for _, l := range store.lines["ri_a"] {
			if l.Stream != logs.System {
				kept++
				stored += len(l.Text)
			} else if lost += int(l.Lost); !strings.Contains(string(l.Text), "more than 1,280,000 bytes a second") {
				t.Errorf("told as %q", l.Text)
			}
		}
		t.Logf("%d lines of %d written in %d s: %d bytes stored, %d lines told of as lost", n, len(text), seconds, stored, lost)
		if most := (burstSeconds + seconds + 1) * lineBytes * DefaultRate; stored > most || kept+lost != n {
			t.Errorf("%d bytes stored, at most %d; %d lines kept and %d lost, of %d", stored, most, kept, lost, n)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestDroppedLinesAreToldOfInASecond(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		store := newShelf(t.Fatalf)
		s := newSpool(t, dir, func(_ context.Context, batches []logs.Batch) error { store.take(batches); return nil }, nil)
		i, err := s.Instance(time.Now(), origin("ri_a"), Limit{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go s.Run(ctx)
		for from := 1; from <= 21_234; from += 500 {
			if err := i.Append(time.Now(), 1, numbered(from, min(from+499, 21_234), time.Now())); err != nil {
				t.Fatal(err)
			}
		}
		<-time.After(2 * time.Second)
		store.whole("ri_a", 21_234)
		all := store.lines["ri_a"]
		if last := all[len(all)-1]; last.Lost != 1_234 || string(last.Text) != "… 1,234 lines were dropped here: more than 5,000 lines a second …" {
			t.Errorf("%+v %s", last, last.Text)
		}
		if last, before := all[len(all)-1].Time, all[len(all)-2].Time; last.Before(before) {
			t.Error("time goes back")
		}
		cancel()
		synctest.Wait()
	})
}

// A store that does not answer for long, and a total that is too small: the
// noisy one loses lines, the quiet one none.
func TestTotalIsBounded(t *testing.T) {
	store := newShelf(t.Fatalf)
	s := newSpool(t, t.TempDir(), func(context.Context, []logs.Batch) error { return nil }, func(c *Config) { c.InstanceBytes, c.TotalBytes = 1<<20, 100<<10 })
	now := time.Now()
	noisy, err := s.Instance(now, origin("ri_a"), Limit{Rate: -1})
	if err != nil {
		t.Fatal(err)
	}
	quiet, err := s.Instance(now, origin("ri_b"), Limit{})
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 10_000; n += 100 {
		if err := errors.Join(noisy.Append(now, 1, numbered(n, n+99, now)), quiet.Append(now, 1, numbered(n/100+1, n/100+1, now))); err != nil {
			t.Fatal(err)
		}
		if b := s.total.Load(); b > 200<<10 {
			t.Fatalf("%d bytes are held", b)
		}
	}
	noisy.End(now)
	quiet.End(now)
	for {
		load, _ := s.gather(now, "")
		if len(load) == 0 {
			break
		}
		for _, sh := range load {
			store.take([]logs.Batch{sh.batch})
			sh.i.shipped(sh)
		}
	}
	store.whole("ri_a", 10_000)
	store.whole("ri_b", 100)
	if first := store.lines["ri_a"][0]; first.Lost == 0 || !strings.Contains(string(first.Text), "the host's log spool was full") {
		t.Errorf("%+v", first)
	}
	if len(store.lines["ri_b"]) != 100 {
		t.Errorf("%d lines of the quiet one", len(store.lines["ri_b"]))
	}
}

// A line's time is between that of the line before and when it came, whatever
// the guest claims; of an honest guest it is when it was written.
func TestLinesAreDatedByTheHost(t *testing.T) {
	base := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(base, "")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		s := newSpool(t, dir, func(context.Context, []logs.Batch) error { return nil }, nil)
		defer abandon(s)
		now := time.Now().Truncate(time.Microsecond)
		i, err := s.Instance(now, origin("ri_a"), Limit{})
		if err != nil {
			t.Fatal(err)
		}
		if err := i.System(now, "boot 1 began"); err != nil {
			t.Fatal(err)
		}
		came := map[int]time.Time{0: now} // lines by number
		wrote := map[int]time.Time{}      // of honest batches
		n := 0
		for range rapid.IntRange(1, 10).Draw(t, "batches") {
			before := now
			now = now.Add(time.Duration(rapid.IntRange(0, 1_000_000).Draw(t, "us")) * time.Microsecond)
			honest := rapid.Bool().Draw(t, "honest")
			b := &guest.Lines{Mono: rapid.Int64().Draw(t, "mono")}
			at := before
			if honest {
				b.Mono = int64(now.Sub(before) + time.Hour)
			}
			for range rapid.IntRange(1, 5).Draw(t, "lines") {
				n++
				l := guest.Line{N: uint64(n), Stream: guest.Stdout, T: rapid.Int64().Draw(t, "wall"), Text: []byte("x")}
				if honest {
					at = at.Add(time.Duration(rapid.Int64Range(0, now.Sub(at).Microseconds()).Draw(t, "at")) * time.Microsecond)
					l.Mono = int64(at.Sub(before) + time.Hour)
					wrote[n] = at
				} else {
					l.Mono = rapid.Int64().Draw(t, "line")
				}
				came[n] = now
				b.Lines = append(b.Lines, l)
			}
			if err := i.Append(now, 1, b); err != nil {
				t.Fatal(err)
			}
		}
		load, _ := s.gather(now, "")
		if len(load) != 1 || len(load[0].batch.Lines) != n+1 {
			t.Fatalf("%d instances", len(load))
		}
		last := time.Time{}
		for k, l := range load[0].batch.Lines {
			if l.Time.Before(last) || l.Time.After(came[k]) {
				t.Fatalf("line %d is dated %s, after %s, and came at %s", k, l.Time, last, came[k])
			}
			if at, ok := wrote[k]; ok && !l.Time.Equal(at) {
				t.Fatalf("line %d is dated %s, and was written at %s", k, l.Time, at)
			}
			last = l.Time
		}
	})
}

// Once a tenant has stored what its plan allows, its apps' lines are dropped and
// counted, the platform's own are not; when there is room again, lines go on.
func TestWhatThePlanDoesNotKeepIsDropped(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		store := newShelf(t.Fatalf)
		full := map[string]bool{}
		ship := func(_ context.Context, batches []logs.Batch) error { store.take(batches); return nil }
		s := newSpool(t, dir, ship, func(c *Config) {
			c.Full = func(tenant string) (int, bool) { return 50_000, full[tenant] }
		})
		ctx, cancel := context.WithCancel(t.Context())
		go s.Run(ctx)
		i, err := s.Instance(time.Now(), origin("ri_a"), Limit{Rate: -1})
		if err != nil {
			t.Fatal(err)
		}
		write := func(from, to int) {
			if err := i.Append(time.Now(), 1, numbered(from, to, time.Now())); err != nil {
				t.Fatal(err)
			}
			<-time.After(2 * time.Second)
		}
		full["another"] = true
		write(1, 100)
		full[origin("ri_a").TenantID] = true
		write(101, 1_334)
		if err := i.System(time.Now(), "the platform's word"); err != nil {
			t.Fatal(err)
		}
		write(1_335, 1_340)
		clear(full)
		write(1_341, 1_400)
		store.whole("ri_a", 1_400)
		var said []string
		for _, l := range store.lines["ri_a"] {
			if l.Stream == logs.System {
				said = append(said, string(l.Text))
			}
		}
		want := []string{
			"… 1,234 lines were dropped here: more than the 50,000 MB of logs that the plan keeps …", "the platform's word",
			"… 6 lines were dropped here: more than the 50,000 MB of logs that the plan keeps …",
		}
		if !slices.Equal(said, want) {
			t.Errorf("%q", said)
		}
		cancel()
		synctest.Wait()
	})
}
