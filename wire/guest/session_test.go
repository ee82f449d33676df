package guest

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func lines(from, to uint64) []Line {
	var out []Line
	for n := from; n <= to; n++ {
		out = append(out, Line{N: n, Stream: Stdout})
	}
	return out
}

func hello(nonce uint64) Message { return Message{Hello: &Hello{Min: 1, Max: 1, Nonce: nonce}} }

func TestSessionIgnoresWhatCameBeforeItsHello(t *testing.T) {
	s := NewSession(5)
	attach := s.Connect(42)
	if attach.Attach == nil || attach.Attach.After != 5 || attach.Attach.Nonce != 42 {
		t.Fatalf("Connect = %+v", attach)
	}
	for _, m := range []Message{
		{Lines: &Lines{Lines: lines(9, 10)}}, hello(0), hello(41), {Phase: &Phase{Name: "root"}}, {Exit: &Exit{}},
	} {
		if _, ok, err := s.Receive(m); ok || err != nil {
			t.Errorf("%+v: passed on (%v) or refused (%v)", m, ok, err)
		}
	}
	if _, ok, err := s.Receive(hello(42)); !ok || err != nil || !s.Live() {
		t.Errorf("its own hello: %v, %v", ok, err)
	}
	if _, ok, _ := s.Receive(Message{Phase: &Phase{Name: "root"}}); !ok {
		t.Error("a phase after the hello was dropped")
	}
}

func TestSessionLines(t *testing.T) {
	for name, c := range map[string]struct {
		after     uint64
		batch     Lines
		ok        bool
		gap       uint64
		first, to uint64
		step      bool
	}{
		"next":            {after: 5, batch: Lines{Lines: lines(6, 8)}, ok: true, first: 6, to: 8},
		"twice":           {after: 5, batch: Lines{Lines: lines(4, 5)}},
		"overlap":         {after: 5, batch: Lines{Lines: lines(4, 7)}, ok: true, first: 6, to: 7},
		"gap told":        {after: 5, batch: Lines{Gap: 4, Lines: lines(10, 11)}, ok: true, gap: 4, first: 10, to: 11},
		"gap overlapping": {after: 5, batch: Lines{Gap: 6, Lines: lines(8, 9)}, ok: true, gap: 2, first: 8, to: 9},
		"hole":            {after: 5, batch: Lines{Lines: lines(7, 8)}, step: true},
		"hole inside":     {after: 5, batch: Lines{Lines: append(lines(6, 7), Line{N: 9})}, step: true},
		"number nought":   {after: 0, batch: Lines{Lines: []Line{{N: 0}}}, step: true},
		"nothing":         {after: 5},
	} {
		s := NewSession(c.after)
		s.Connect(1)
		if _, _, err := s.Receive(hello(1)); err != nil {
			t.Fatal(err)
		}
		m, ok, err := s.Receive(Message{Lines: &c.batch})
		if _, step := errors.AsType[*OutOfStepError](err); step != c.step || ok != c.ok {
			t.Errorf("%s: ok %v, error %v", name, ok, err)
			continue
		}
		if !ok {
			continue
		}
		got := m.Lines
		if got.Gap != c.gap || got.Lines[0].N != c.first || got.Lines[len(got.Lines)-1].N != c.to || s.After() != c.to {
			t.Errorf("%s: got gap %d, %d to %d, after %d", name, got.Gap, got.Lines[0].N, got.Lines[len(got.Lines)-1].N, s.After())
		}
	}
}

func TestSessionRefusesAHostsMessages(t *testing.T) {
	for _, m := range []Message{{Boot: &Boot{}}, {Attach: &Attach{}}, {Ack: &Ack{}}, {Ping: &Ping{}}, {Stop: &Stop{}}} {
		if _, _, err := NewSession(0).Receive(m); err == nil {
			t.Errorf("%+v from a guest was accepted", m)
		}
	}
}

func TestSessionRefusesAnotherVersion(t *testing.T) {
	s := NewSession(0)
	s.Connect(1)
	if _, _, err := s.Receive(Message{Hello: &Hello{Min: 7, Max: 9, Nonce: 1}}); err == nil || s.Live() {
		t.Error("a guest of versions 7 to 9 was accepted")
	}
}

// A hostile guest may send anything: no line comes twice, none out of order,
// and gaps account for every number left out.
func TestSessionCountsEveryNumberOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := NewSession(0)
		s.Connect(1)
		if _, _, err := s.Receive(hello(1)); err != nil {
			t.Fatal(err)
		}
		var last uint64
		for range rapid.IntRange(1, 20).Draw(t, "batches") {
			first := rapid.Uint64Range(0, 30).Draw(t, "first")
			batch := Lines{Gap: rapid.Uint64Range(0, 10).Draw(t, "gap"), Lines: lines(first, first+rapid.Uint64Range(0, 5).Draw(t, "more"))}
			m, ok, err := s.Receive(Message{Lines: &batch})
			if err != nil || !ok {
				continue
			}
			if want := last + 1 + m.Lines.Gap; m.Lines.Lines[0].N != want {
				t.Fatalf("first line %d after %d and a gap of %d", m.Lines.Lines[0].N, last, m.Lines.Gap)
			}
			last = m.Lines.Lines[len(m.Lines.Lines)-1].N
		}
	})
}

// A line's age is what the guest's monotonic clock says it is, as long as that
// can be; whatever a guest claims, it is none that has no end.
func TestAge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := Lines{Mono: rapid.Int64().Draw(t, "batch")}
		l := Line{Mono: rapid.Int64().Draw(t, "line"), T: rapid.Int64().Draw(t, "wall")}
		age := b.Age(l)
		if age < 0 || age > 7*24*time.Hour {
			t.Fatalf("age %s", age)
		}
		sent := rapid.Int64Range(1, 1<<60).Draw(t, "sent")
		old := rapid.Int64Range(0, int64(7*24*time.Hour)).Draw(t, "old")
		if l.Mono = sent - old; l.Mono > 0 && (&Lines{Mono: sent}).Age(l) != time.Duration(old) {
			t.Fatalf("written %d before it was sent: age %s", old, (&Lines{Mono: sent}).Age(l))
		}
	})
	if age := (&Lines{}).Age(Line{T: 1, Mono: 5}); age != 0 {
		t.Errorf("of a guest that does not tell: %s", age)
	}
}
