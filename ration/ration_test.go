package ration

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func take(t *testing.T, p *Pool, n int64) *Share {
	t.Helper()
	s, err := p.Take(t.Context(), Terms{}, n)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRoomIsSharedAndComesBack(t *testing.T) {
	const mb = 1 << 20
	p := New(4*mb, 10*mb)
	a, b := take(t, p, 3*mb), take(t, p, mb)
	if err := a.Grow(mb); err != nil { // the reserve
		t.Fatal(err)
	}
	if err := b.Grow(mb); !errors.Is(err, ErrBusy) {
		t.Errorf("beyond all there is: %v", err)
	}
	if err := a.Grow(6 * mb); err != nil {
		t.Errorf("who has the reserve was refused: %v", err)
	}
	if err := a.Grow(1); !errors.Is(err, ErrTooMuch) {
		t.Errorf("more than one may have: %v", err)
	}
	a.Shrink(5 * mb)
	if err := a.Grow(5 * mb); err != nil {
		t.Errorf("what it had: %v", err)
	}
	if _, err := p.Take(t.Context(), Terms{}, 1); !errors.Is(err, ErrBusy) {
		t.Errorf("one more: %v", err)
	}
	a.Release()
	a.Release()
	if err := b.Grow(9 * mb); err != nil {
		t.Errorf("after another's end: %v", err)
	}
	b.Release()
	if now, peak := p.Held(); now != 0 || peak != 11*mb || p.free != 4*mb {
		t.Errorf("held %d, at most %d, free %d", now, peak, p.free)
	}
	c, err := p.Take(t.Context(), Terms{Unbounded: true}, 100*mb)
	if err != nil {
		t.Fatalf("unbounded: %v", err)
	}
	c.Release()
}

func TestPatienceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(0, 10<<20)
		a := take(t, p, 1)
		began := time.Now()
		if _, err := p.Take(t.Context(), Terms{Patience: time.Minute}, 1); !errors.Is(err, ErrBusy) || time.Since(began) != time.Minute {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		gone, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := p.Take(gone, Terms{Patience: -1}, 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("one that left: %v", err)
		}
		time.AfterFunc(time.Hour, a.Release)
		b, err := p.Take(t.Context(), Terms{Patience: -1}, 1)
		if err != nil {
			t.Fatal(err)
		}
		b.Release()
	})
}

// Readers that all want more than there is come to their ends, one after
// another, and never hold more together than was said.
func TestNobodyWaitsForEver(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		common := rapid.Int64Range(0, 20).Draw(rt, "common") << 20
		most := rapid.Int64Range(1, 20).Draw(rt, "most") << 20
		steps := rapid.SliceOfN(rapid.SliceOfN(rapid.Int64Range(1, 6<<20), 1, 8), 1, 10).Draw(rt, "readers")
		synctest.Test(t, func(t *testing.T) {
			p := New(common, most)
			p.giveBack = func() {}
			var all sync.WaitGroup
			for _, mine := range steps {
				all.Go(func() {
					s, err := p.Take(t.Context(), Terms{Patience: -1}, 0)
					if err != nil {
						t.Error(err)
						return
					}
					defer s.Release()
					for _, n := range mine {
						if err := s.Grow(n); err != nil && !errors.Is(err, ErrTooMuch) {
							t.Error(err)
						}
						<-time.After(time.Second) // virtual: lets the others come between
					}
				})
			}
			all.Wait() // a deadlock ends the test
			if now, peak := p.Held(); now != 0 || peak > common+most || p.free != common || p.holder != nil {
				t.Errorf("held %d, at most %d, free %d of %d", now, peak, p.free, common)
			}
		})
	})
}
