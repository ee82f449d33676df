package agent

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/lifecycle"
	"github.com/miosa/miosa/vmm"
	"github.com/miosa/miosa/wire/guest"
)

// strange is a VM whose guest does on an exec port what the test has it do.
type strange struct {
	vmm.VM
	guest net.Conn
	host  net.Conn
}

func newStrange() *strange {
	ours, theirs := net.Pipe()
	return &strange{host: ours, guest: theirs}
}

func (s *strange) DialExec(context.Context) (net.Conn, error) { return s.host, nil }
func (*strange) Done() <-chan struct{}                        { return nil }

// with is an agent whose one instance has that VM.
func with(t *testing.T, vm vmm.VM) *Agent {
	x := &actor{id: "ri_a", machine: lifecycle.New(miosa.Instance{ID: "ri_a"})}
	x.figures.begin(&boot{x: x, vm: vm, ours: t.Context()})
	return &Agent{actors: map[string]*actor{"ri_a": x}}
}

func TestAGuestThatNeverAnswersASession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		vm := newStrange()
		go func() { _, _ = guest.NewConn(vm.guest).ReadMessage() }() // it hears, and says nothing
		began := time.Now()
		_, err := with(t, vm).OpenExec(t.Context(), "ri_a", guest.ExecOpen{})
		if miosa.CodeOf(err) != miosa.Unavailable || time.Since(began) != execOpenFor {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		if _, err := vm.guest.Write([]byte("x")); err == nil {
			t.Error("the port is kept")
		}
	})
}

func TestAGuestThatReadsNothingOfASession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		vm := newStrange()
		began := time.Now()
		_, err := with(t, vm).OpenExec(t.Context(), "ri_a", guest.ExecOpen{})
		if miosa.CodeOf(err) != miosa.Unavailable || time.Since(began) > time.Minute {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
	})
}

func TestASessionTellsTheGuestThatItIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		vm := newStrange()
		conn := guest.NewConn(vm.guest)
		silence := time.NewTimer(guest.ExecSilence)
		cut := make(chan bool, 1)
		go func() {
			m, err := conn.ReadMessage()
			if err != nil || m.ExecOpen == nil || m.ExecOpen.Nonce == 0 {
				t.Errorf("began with %+v, %v", m, err)
				return
			}
			if err := conn.WriteMessage(guest.Message{ExecOpened: &guest.ExecOpened{Nonce: m.ExecOpen.Nonce}}); err != nil {
				t.Error(err)
			}
			for {
				if _, err := conn.ReadMessage(); err != nil {
					cut <- false
					return
				}
				if !silence.Reset(guest.ExecSilence) {
					cut <- true
					return
				}
			}
		}()
		s, err := with(t, vm).OpenExec(t.Context(), "ri_a", guest.ExecOpen{})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour) //nolint:forbidigo // in no time
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if <-cut {
			t.Error("the host fell silent")
		}
	})
}

func TestAGuestThatLiesEndsItsSession(t *testing.T) {
	vm := newStrange()
	conn := guest.NewConn(vm.guest)
	go func() {
		m, _ := conn.ReadMessage()
		for _, lie := range []guest.Message{
			{ExecOpened: &guest.ExecOpened{Nonce: m.ExecOpen.Nonce}},
			{ExecEnded: &guest.ExecEnded{Nonce: m.ExecOpen.Nonce, Code: 1 << 20}},
		} {
			_ = conn.WriteMessage(lie)
		}
	}()
	s, err := with(t, vm).OpenExec(t.Context(), "ri_a", guest.ExecOpen{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if m, err := s.Receive(); err != nil || m.ExecOpened == nil {
		t.Fatal(m, err)
	}
	_, err = s.Receive()
	if _, lied := errors.AsType[*guest.ExecError](err); !lied || miosa.CodeOf(err) != miosa.Unavailable {
		t.Errorf("a liar's session: %v", err)
	}
}
