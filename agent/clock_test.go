package agent

import (
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/timekeeping"
	"github.com/miosa/miosa/wire/guest"
)

// A guest's clock that stood still, or that somebody set, is right within a
// second of the question that finds it out, over the connection that there is.
func TestTheSessionKeepsTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &Agent{log: slog.New(slog.DiscardHandler)}
		x := &actor{a: a, journal: a.newJournal(miosa.Instance{ID: "ri_a"})}
		b := &boot{x: x, number: 1, ctx: t.Context(), slot: func() {}}
		ours, theirs := net.Pipe()
		vm := dead{done: make(chan struct{})} // it lives until the end of the test
		began := time.Now()
		var off, asked, back atomic.Int64 // of the guest's clock from ours; questions; steps back
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			conn := guest.NewConn(theirs)
			for {
				m, err := conn.ReadMessage()
				switch {
				case err != nil:
					return
				case m.Attach != nil:
					err = conn.WriteMessage(guest.Message{Hello: &guest.Hello{Min: 1, Max: 1, Nonce: m.Attach.Nonce, State: guest.StateRunning, Boot: 1}})
				case m.Ping != nil:
					asked.Add(1)
					c := guest.Clock{Wall: time.Now().UnixNano() + off.Load(), Raw: int64(time.Since(began) + time.Second)}
					err = conn.WriteMessage(guest.Message{Pong: &guest.Ping{Seq: m.Ping.Seq, Clock: &c}})
				case m.Adjust != nil:
					off.Add(m.Adjust.StepNS)
					if m.Adjust.StepNS < 0 {
						back.Add(1)
					}
					if m.Adjust.Slew > 0 { // at once what takes a while
						off.Add(-int64(float64(m.Adjust.SlewNS) * float64(m.Adjust.Slew) / 1e9))
					}
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		}()
		heard := time.Now()
		over := make(chan error, 1)
		go func() { over <- b.converse(vm, ours, guest.NewSession(0), &heard, false) }()
		for _, by := range []time.Duration{0, -8 * time.Second, -150 * time.Millisecond, 150 * time.Millisecond, 8 * time.Second, -1000 * time.Hour} {
			n, m := asked.Load(), back.Load()
			off.Add(int64(by))
			<-time.After(timekeeping.Calm + time.Second)
			if left := time.Duration(off.Load()); left.Abs() > 100*time.Millisecond || asked.Load() == n {
				t.Errorf("set by %s, it is %s off after %d questions", by, left, asked.Load()-n)
			}
			if set := back.Load() > m; set != (by > timekeeping.Slewed) {
				t.Errorf("set by %s, it was set back: %t", by, set)
			}
		}
		close(vm.done)
		ours.Close()
		<-over
		theirs.Close()
		<-gone
	})
}
