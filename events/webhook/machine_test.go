package webhook

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/disk"
	"github.com/miosa/miosa/events"
)

// world is an event store, a receiver that answers as it likes, and a process
// that dies.
type world struct {
	t       interface{ Fatalf(string, ...any) }
	now     time.Time
	items   []Item
	machine *Machine
	saved   State
	pending Effect

	delivered map[string]int
	attempts  map[string]int // since the webhook was last resumed
	began     []events.Mark  // first attempts, since the process began
	last      map[string]time.Time
	disabled  int
}

func newWorld(t interface{ Fatalf(string, ...any) }) *world {
	w := &world{t: t, now: time.Unix(1_800_000_000, 0).UTC(), delivered: map[string]int{}, attempts: map[string]int{}, last: map[string]time.Time{}}
	w.saved = State{Begun: true}
	w.begin()
	return w
}

func (w *world) begin() {
	w.machine, w.pending, w.began = NewMachine(w.saved, nil), nil, nil
	w.handle(Configured{ResumedAt: w.last["resumed"]})
}

func (w *world) happen() {
	n := len(w.items) + 1
	w.items = append(w.items, Item{EventID: fmt.Sprintf("evt_%03d", n), Type: "a.b", Mark: events.Mark(n)}) //nolint:gosec // small
	w.handle(Arrived{})
}

func (w *world) handle(e Event) {
	for _, effect := range w.machine.Handle(w.now, e) {
		if _, ok := effect.(Disable); ok {
			w.disabled++
			continue
		}
		if w.pending != nil {
			w.t.Fatalf("two effects at once: %+v, %+v", w.pending, effect)
		}
		w.pending = effect
	}
}

// carryOut does what is pending; the receiver answers with the outcome.
func (w *world) carryOut(o Outcome) {
	effect := w.pending
	w.pending = nil
	switch e := effect.(type) {
	case Fetch:
		var found []Item
		for _, i := range w.items {
			if i.Mark > e.After && len(found) < 3 {
				found = append(found, i)
			}
		}
		w.handle(Fetched{Items: found, End: events.Mark(len(w.items))}) //nolint:gosec // small
	case Attempt:
		if w.attempts[e.EventID]++; w.attempts[e.EventID] > 2*(len(ladder)+1) { // some are early ones
			w.t.Fatalf("%s is tried %d times", e.EventID, w.attempts[e.EventID])
		}
		if o.Status/100 == 2 {
			w.delivered[e.EventID]++
		}
		if !slices.Contains(w.began, e.Mark) {
			if n := len(w.began); e.Mark > w.saved.Cursor && n > 0 && w.began[n-1] > e.Mark {
				w.t.Fatalf("%s is begun after %v", e.EventID, w.began)
			}
			if e.Mark > w.saved.Cursor {
				w.began = append(w.began, e.Mark)
			}
		}
		w.handle(Attempted{Outcome: o, Chance: 0.5})
	}
}

func (w *world) save() { w.saved, _ = w.machine.State() }

// Whatever the receiver answers and whenever the process dies: every event is
// delivered, or given up after ten attempts; none is left out.
func TestEveryEventIsDeliveredOrGivenUp(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		w := newWorld(r)
		answers := []Outcome{{Status: 200}, {Status: 204}, {Error: "ours", Ours: true}, {Status: 500}, {Status: 400}, {Error: "refused"}, {Status: 429, RetryAfter: 7 * time.Minute}, {Status: 302}}
		r.Repeat(map[string]func(*rapid.T){
			"happen": func(*rapid.T) { w.happen() },
			"answer": func(r *rapid.T) {
				o := rapid.SampledFrom(answers).Draw(r, "outcome")
				attempt, ok := w.pending.(Attempt)
				before := w.machine.state.HoldUntil
				if ok && w.now.Before(before) {
					r.Fatalf("%s is tried before the receiver wants it: %s, now %s", attempt.EventID, before, w.now)
				}
				w.carryOut(o)
				for _, a := range w.machine.state.Aside {
					if a.Attempts > len(ladder) {
						r.Fatalf("%+v is tried once more", a)
					}
				}
				if len(w.machine.state.Aside) > maxAside || len(w.machine.state.Recent) > recent {
					r.Fatalf("%d set aside, %d remembered", len(w.machine.state.Aside), len(w.machine.state.Recent))
				}
			},
			"save": func(*rapid.T) { w.save() },
			"die": func(*rapid.T) {
				// Only what was saved is known: attempts since then are made again.
				w.attempts = map[string]int{}
				w.begin()
			},
			"wait": func(r *rapid.T) {
				w.now = w.now.Add(time.Duration(rapid.IntRange(0, 7200).Draw(r, "seconds")) * time.Second)
				w.handle(Tick{})
			},
			"pause": func(*rapid.T) {
				if w.pending == nil {
					w.handle(Configured{Paused: true})
					if w.pending != nil || !w.machine.Wake().IsZero() {
						w.t.Fatalf("a paused webhook does %+v", w.pending)
					}
					w.handle(Configured{ResumedAt: w.now})
				}
			},
		})
		given := map[string]bool{}
		for step := 0; ; step++ {
			if step > 10_000 {
				r.Fatalf("it does not come to rest: %+v", w.machine.state)
			}
			if w.machine.disabled() {
				w.now = w.now.Add(time.Second)
				w.attempts = map[string]int{}
				w.handle(Configured{ResumedAt: w.now})
			}
			if w.pending == nil {
				at := w.machine.Wake()
				if at.IsZero() {
					break
				}
				w.now = later(w.now, at)
				w.handle(Tick{})
				continue
			}
			w.carryOut(Outcome{Status: 200})
		}
		for _, d := range w.machine.state.Recent {
			given[d.EventID] = d.State == miosa.DeliveryGivenUp
		}
		for _, i := range w.items {
			if w.delivered[i.EventID] == 0 && !given[i.EventID] && len(w.items) <= recent {
				r.Fatalf("%s was not delivered: %+v", i.EventID, w.machine.state)
			}
		}
		if w.machine.state.Cursor != events.Mark(len(w.items)) || len(w.machine.state.Aside) != 0 { //nolint:gosec // small
			r.Fatalf("it rests at %d of %d with %d set aside", w.machine.state.Cursor, len(w.items), len(w.machine.state.Aside))
		}
	})
}

// play answers everything until nothing is to be done or the time is over.
func (w *world) play(until time.Duration, answer func(i Item, attempt int) Outcome) {
	end := w.now.Add(until)
	for range 100_000 {
		if a, ok := w.pending.(Attempt); ok {
			w.carryOut(answer(a.Item, w.attempts[a.EventID]+1))
			continue
		}
		if w.pending != nil {
			w.carryOut(Outcome{})
			continue
		}
		at := w.machine.Wake()
		if at.IsZero() || at.After(end) {
			w.now = end
			w.handle(Tick{})
			if w.pending == nil {
				return
			}
			continue
		}
		w.now = later(w.now, at)
		w.handle(Tick{})
	}
	w.t.Fatalf("it does not come to rest")
}

// One that the receiver can't digest stops no other, and is given up.
func TestAPoisonousEventStopsNoOther(t *testing.T) {
	w := newWorld(t)
	for range 10 {
		w.happen()
	}
	w.play(time.Second, func(i Item, _ int) Outcome {
		if i.Mark == 4 {
			return Outcome{Status: 400}
		}
		return Outcome{Status: 200}
	})
	if len(w.delivered) != 9 || w.attempts["evt_004"] != 1 {
		t.Fatalf("delivered %v, tried %v", w.delivered, w.attempts)
	}
	began := w.now
	for n := range 48 {
		if n > 2 { // a quiet time first
			w.happen()
		}
		w.play(time.Hour, func(i Item, _ int) Outcome {
			if i.Mark == 4 {
				return Outcome{Status: 400}
			}
			return Outcome{Status: 200}
		})
		if n > 2 && w.delivered[w.items[len(w.items)-1].EventID] != 1 {
			t.Fatalf("event %d waits for the poisonous one: %+v", n, w.machine.state)
		}
	}
	if w.attempts["evt_004"] != 10 || w.disabled != 0 || len(w.machine.state.Aside) != 0 {
		t.Errorf("after %s: %d attempts, disabled %d times, %+v", w.now.Sub(began), w.attempts["evt_004"], w.disabled, w.machine.state.Aside)
	}
}

// Nor do several, even when it is quiet for long and all looks as if the
// receiver were down.
func TestSeveralPoisonousEvents(t *testing.T) {
	w := newWorld(t)
	poison := func(i Item, _ int) Outcome {
		if i.Mark%10 < 4 {
			return Outcome{Status: 422}
		}
		return Outcome{Status: 200}
	}
	for range 9 {
		w.happen()
	}
	w.play(5*time.Hour, poison)
	if len(w.delivered) != 6 {
		t.Fatalf("delivered %v", w.delivered)
	}
	for range 40 {
		w.happen()
	}
	w.play(2*time.Hour, poison)
	if len(w.delivered) < 12 {
		t.Errorf("within two hours %d of %d: %+v", len(w.delivered), len(w.items), w.machine.state.Aside)
	}
	w.play(48*time.Hour, poison)
	if len(w.delivered) != 30 || w.disabled != 0 {
		t.Errorf("in the end %d of %d, disabled %d times", len(w.delivered), len(w.items), w.disabled)
	}
}

// A receiver that is away: little is set aside, everything comes when it is
// back, in order; after a day it is disabled, and resumed where it stood.
func TestAReceiverThatIsAway(t *testing.T) {
	w := newWorld(t)
	away := func(Item, int) Outcome { return Outcome{Error: "connection refused"} }
	well := func(Item, int) Outcome { return Outcome{Status: 200} }
	for range 20 {
		w.happen()
	}
	w.play(6*time.Hour, away)
	if n := len(w.machine.state.Aside); n < downAfter || n >= 20 || w.disabled != 0 || w.machine.state.FailingSince.IsZero() {
		t.Fatalf("%d set aside, disabled %d times", len(w.machine.state.Aside), w.disabled)
	}
	w.play(13*time.Hour, well)
	if len(w.delivered) != 20 || !w.machine.state.FailingSince.IsZero() {
		t.Fatalf("back again: %v", w.delivered)
	}
	for range 5 {
		w.happen()
	}
	w.play(72*time.Hour, away)
	if w.disabled != 1 || !w.machine.disabled() || w.pending != nil {
		t.Fatalf("disabled %d times: %+v", w.disabled, w.machine.state)
	}
	w.attempts = map[string]int{}
	w.now = w.now.Add(time.Second)
	w.handle(Configured{ResumedAt: w.now})
	w.play(time.Minute, well)
	if len(w.delivered) != 24 { // one was given up
		t.Errorf("resumed: %v", w.delivered)
	}
}

// What fails on our side for days is held against no receiver, and costs no event.
func TestOurOwnFaults(t *testing.T) {
	w := newWorld(t)
	for range 40 {
		w.happen()
	}
	for range 200 {
		w.attempts = map[string]int{}
		w.play(30*time.Minute, func(Item, int) Outcome { return Outcome{Error: "the request could not be made", Ours: true} })
	}
	if s := w.machine.state; w.disabled != 0 || len(s.Aside) != maxAside || !s.FailingSince.IsZero() || s.Recent[0].Attempts != 0 {
		t.Fatalf("disabled %d times: %+v", w.disabled, s)
	}
	w.attempts = map[string]int{}
	w.play(time.Hour, func(Item, int) Outcome { return Outcome{Status: 200} })
	if len(w.delivered) != 40 || len(w.machine.state.Aside) != 0 {
		t.Errorf("%d of 40 are delivered", len(w.delivered))
	}
}

func TestGoneDisablesAtOnce(t *testing.T) {
	w := newWorld(t)
	w.happen()
	w.happen()
	w.play(time.Hour, func(Item, int) Outcome { return Outcome{Status: 410} })
	if w.disabled != 1 || len(w.attempts) != 1 {
		t.Errorf("disabled %d times after %v", w.disabled, w.attempts)
	}
	// Asked for, too, nothing is sent.
	w.handle(Asked{Item{EventID: "evt_001"}})
	if w.pending != nil {
		t.Errorf("%+v", w.pending)
	}
}

// What somebody asks for goes at once, though the receiver is down.
func TestAskedForNow(t *testing.T) {
	w := newWorld(t)
	for range 5 {
		w.happen()
	}
	w.play(time.Minute, func(Item, int) Outcome { return Outcome{Status: 503, RetryAfter: time.Hour} })
	w.handle(Asked{Item{EventID: "evt_test"}})
	if a, ok := w.pending.(Attempt); !ok || a.EventID != "evt_test" {
		t.Errorf("%+v", w.pending)
	}
}

// A webhook that goes takes nothing of another along, though that is being
// written down at the moment.
func TestForgottenAlone(t *testing.T) {
	dir := t.TempDir()
	const goes, stays = "whk_00000000000000000000000001", "whk_00000000000000000000000002"
	p, err := openPositions(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{goes, stays} {
		if err := p.save(id, State{Begun: true, Cursor: 7}); err != nil {
			t.Fatal(err)
		}
	}
	half, err := disk.Create(p.path(stays), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	half.Close()
	if err := p.remove(goes); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(half.Name()); err != nil {
		t.Error(err)
	}
	// The next process finds what a crash left of it.
	if p, err = openPositions(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(half.Name()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half a file is left: %v", err)
	}
	for id, want := range map[string]events.Mark{goes: 0, stays: 7} {
		if s, err := p.load(id); err != nil || s.Cursor != want {
			t.Errorf("%s stands at %d, %v, want %d", id, s.Cursor, err, want)
		}
	}
}
