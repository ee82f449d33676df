package timeline

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/miosa/miosa"
)

// world is an outbox and a store as they behave: either may refuse, and the
// process may die between any two steps.
type world struct {
	outbox   map[string]Item
	kept     []string // IDs in the order in which the store got them
	held     map[string]bool
	written  []Item // all that was ever committed, in order
	dropped  map[string]bool
	revision int64
	machine  *Machine
	now      time.Time
	limit    int
	pending  Effect // an effect that is not carried out yet
}

func (w *world) commit(count int) (fresh []Item) {
	w.revision++
	for range count {
		id := fmt.Sprintf("evt_%04d", len(w.written)*7919%9973)
		i := Item{Key: "outbox/" + id, ID: id, Revision: w.revision, Tenant: "ten", Deployment: fmt.Sprintf("dep_%d", len(w.written)%2), At: w.now, Event: &miosa.Event{ID: id}}
		w.outbox[id] = i
		w.written = append(w.written, i)
		fresh = append(fresh, i)
	}
	slices.SortFunc(w.written, inOrder)
	slices.SortFunc(fresh, inOrder)
	return fresh
}

func (w *world) list() []Item { return slices.Collect(maps.Values(w.outbox)) }

func (w *world) handle(e Event) {
	effects := w.machine.Handle(w.now, e)
	if len(effects) > 0 {
		if w.pending != nil {
			panic("two effects at once")
		}
		w.pending = effects[0]
	}
}

// carryOut does what was asked for; told false: it happens, and the machine
// does not hear of it.
func (w *world) carryOut(refuse error, told bool) {
	effect := w.pending
	w.pending = nil
	var answer Event
	switch e := effect.(type) {
	case nil:
		return
	case Store:
		if refuse == nil {
			for _, i := range e.Items {
				if !w.held[i.ID] {
					w.held[i.ID] = true
					w.kept = append(w.kept, i.ID)
				}
			}
		}
		answer = Stored{Err: refuse}
	case Clear:
		if refuse == nil {
			for _, i := range e.Items {
				delete(w.outbox, i.ID)
			}
		}
		answer = Cleared{refuse}
	case Drop:
		var markers []Item
		if refuse == nil {
			w.revision++
			for _, i := range e.Items {
				delete(w.outbox, i.ID)
				w.dropped[i.ID] = true
			}
			for _, k := range e.Markers {
				id := cmp.Or(k.ID, fmt.Sprintf("evt_m%03d%s", w.revision, k.Deployment))
				i := Item{Key: "outbox/" + id, ID: id, Revision: w.revision, Tenant: k.Tenant, Deployment: k.Deployment, Lost: k.Lost, At: w.now}
				w.outbox[id] = i
				markers = append(markers, i)
			}
		}
		answer = Dropped{refuse, markers}
	}
	if told {
		w.handle(answer)
	}
}

// die begins anew with what is durable.
func (w *world) die() {
	w.machine, w.pending = NewMachine(w.limit), nil
	w.handle(Listed{w.list()})
}

// Whatever fails and whenever the process dies: every event is stored once, in
// the order of commits, or counted as lost; the outbox stays bounded and ends
// empty.
func TestEveryEventIsStoredOnceOrCounted(t *testing.T) {
	full := miosa.Errorf(miosa.NoSpace, "full")
	rapid.Check(t, func(r *rapid.T) {
		w := &world{outbox: map[string]Item{}, held: map[string]bool{}, dropped: map[string]bool{}, now: time.Unix(1_800_000_000, 0), limit: rapid.IntRange(1, 30).Draw(r, "limit")}
		w.die()
		refusing := false
		r.Repeat(map[string]func(*rapid.T){
			"commit": func(r *rapid.T) { w.handle(Arrived{w.commit(rapid.IntRange(1, 5).Draw(r, "count"))}) },
			"step": func(*rapid.T) {
				var refuse error
				if _, storing := w.pending.(Store); storing && refusing {
					refuse = full
				}
				w.carryOut(refuse, true)
			},
			"records fail": func(*rapid.T) {
				if _, storing := w.pending.(Store); !storing {
					w.carryOut(miosa.Errorf(miosa.Unavailable, "away"), true)
				}
			},
			"die in between": func(*rapid.T) {
				if _, storing := w.pending.(Store); !storing || !refusing {
					w.carryOut(nil, false)
				}
				w.die()
			},
			"list anew":   func(*rapid.T) { w.handle(Listed{w.list()}) },
			"told twice":  func(*rapid.T) { w.handle(Arrived{slices.SortedFunc(maps.Values(w.outbox), inOrder)}) },
			"disk full":   func(*rapid.T) { refusing = true },
			"disk roomy":  func(*rapid.T) { refusing = false },
			"time passes": func(*rapid.T) { w.now = w.now.Add(3 * time.Second); w.handle(Tick{}) },
		})
		// All is well from here on.
		for range 10_000 {
			w.carryOut(nil, true)
			if at := w.machine.Wake(); w.pending == nil && !at.IsZero() {
				w.now = w.now.Add(max(at.Sub(w.now), 0))
				w.handle(Tick{})
			}
			if w.pending == nil && len(w.outbox) == 0 {
				break
			}
		}
		if len(w.outbox) != 0 {
			r.Fatalf("%d stay in the outbox; waiting %d, wake %s", len(w.outbox), w.machine.Waiting(), w.machine.Wake())
		}
		var want []string
		for _, i := range w.written {
			if !w.dropped[i.ID] {
				want = append(want, i.ID)
			} else if w.held[i.ID] {
				// The process died when it was stored and not cleared, and the disk
				// was full from then on: it is both there and counted.
				want = append(want, i.ID)
			}
		}
		got := slices.DeleteFunc(slices.Clone(w.kept), func(id string) bool { return id[4] == 'm' })
		if !slices.Equal(got, want) {
			r.Fatalf("stored %v\nwant   %v", got, want)
		}
	})
}

func TestTheOutboxStaysBounded(t *testing.T) {
	w := &world{outbox: map[string]Item{}, held: map[string]bool{}, dropped: map[string]bool{}, now: time.Unix(1_800_000_000, 0), limit: 100}
	w.die()
	full := miosa.Errorf(miosa.NoSpace, "full")
	for range 1000 {
		w.handle(Arrived{w.commit(3)})
		for w.pending != nil {
			var refuse error
			if _, storing := w.pending.(Store); storing {
				refuse = full
			}
			w.carryOut(refuse, true)
		}
		if n := len(w.outbox); n > 110 {
			t.Fatalf("%d events in the outbox", n)
		}
	}
	lost, markers := 0, 0
	for _, i := range w.outbox {
		if lost += i.Lost; i.Lost > 0 {
			markers++
		}
	}
	if lost != len(w.dropped) || markers != 2 || lost+len(w.outbox)-markers != len(w.written) || w.machine.Lost() != lost {
		t.Errorf("%d dropped, %d counted by %d markers, %d left of %d; the machine says %d", len(w.dropped), lost, markers, len(w.outbox), len(w.written), w.machine.Lost())
	}
}

// When the records can't be written either, as on one full disk, it is not tried
// without a pause.
func TestADropThatFailsIsNotRepeatedAtOnce(t *testing.T) {
	w := &world{outbox: map[string]Item{}, held: map[string]bool{}, dropped: map[string]bool{}, now: time.Unix(1_800_000_000, 0), limit: 10}
	w.die()
	full := miosa.Errorf(miosa.NoSpace, "full")
	w.handle(Arrived{w.commit(20)})
	tries := 0
	for end := w.now.Add(time.Minute); w.now.Before(end); {
		for range 100 {
			if _, ok := w.pending.(Drop); ok {
				tries++
			}
			w.carryOut(full, true)
		}
		if w.pending != nil {
			t.Fatalf("after %d tries there is another one at once", tries)
		}
		at := w.machine.Wake()
		if !at.After(w.now) {
			t.Fatalf("it wakes at %s, now %s", at, w.now)
		}
		w.now = at
		w.handle(Tick{})
	}
	if tries < 2 || tries > 30 {
		t.Errorf("%d tries within a minute", tries)
	}
	// Once they can, all that is too many goes.
	for range 10 {
		var refuse error
		if _, storing := w.pending.(Store); storing {
			refuse = full
		}
		w.carryOut(refuse, true)
		if at := w.machine.Wake(); w.pending == nil && !at.IsZero() {
			w.now = at
			w.handle(Tick{})
		}
	}
	if len(w.dropped) != 10 {
		t.Errorf("%d dropped", len(w.dropped))
	}
}

// One that no store takes does not stop those behind it.
func TestARefusedEventIsPassedOver(t *testing.T) {
	w := &world{outbox: map[string]Item{}, held: map[string]bool{}, dropped: map[string]bool{}, now: time.Unix(1_800_000_000, 0), limit: 100}
	w.die()
	fresh := w.commit(10)
	bad := fresh[4].ID
	w.handle(Arrived{fresh})
	for range 100 {
		var refuse error
		if s, ok := w.pending.(Store); ok && slices.ContainsFunc(s.Items, func(i Item) bool { return i.ID == bad }) {
			refuse = miosa.Errorf(miosa.Invalid, "it is none")
		}
		w.carryOut(refuse, true)
	}
	if len(w.kept) != 9 || len(w.outbox) != 0 || w.held[bad] {
		t.Errorf("%d stored, %d left", len(w.kept), len(w.outbox))
	}
}
