package guest

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	wire "github.com/miosa/miosa/wire/guest"
)

func newTestOutbox(max int) *outbox {
	return newOutbox(max, func() time.Duration { return 0 }, 0)
}

// drainOutbox returns what is ready to be sent now.
func drainOutbox(o *outbox) []wire.Message {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []wire.Message
	for {
		m, ok := o.pick()
		if !ok {
			return out
		}
		out = append(out, m)
	}
}

func kinds(messages []wire.Message) string {
	var s strings.Builder
	for _, m := range messages {
		switch {
		case m.Hello != nil:
			fmt.Fprintf(&s, "hello(%s,%d) ", m.Hello.State, m.Hello.Nonce)
		case m.Phase != nil:
			s.WriteString("phase(" + m.Phase.Name + ") ")
		case m.Lines != nil:
			fmt.Fprintf(&s, "lines(gap %d, %d-%d) ", m.Lines.Gap, m.Lines.Lines[0].N, m.Lines.Lines[len(m.Lines.Lines)-1].N)
		case m.Pong != nil:
			s.WriteString("pong ")
		case m.Exit != nil:
			fmt.Fprintf(&s, "exit(%d) ", m.Exit.LastLine)
		}
	}
	return s.String()
}

func expect(t *testing.T, o *outbox, want string) {
	t.Helper()
	if got := kinds(drainOutbox(o)); got != want {
		t.Errorf("sent  %s\nwant  %s", got, want)
	}
}

func TestOutboxOverItsLife(t *testing.T) {
	o := newTestOutbox(1 << 20)
	o.phase("mount")
	first := o.connect()
	expect(t, o, "hello(waiting,0) ")
	o.attach(wire.Attach{Nonce: 7})
	expect(t, o, "hello(waiting,7) phase(mount) ")
	o.booted(wire.Boot{InstanceID: "ri_x", Boot: 3})
	o.phase("root")
	expect(t, o, "phase(root) ")
	for range 4 {
		o.line(wire.Stdout, []byte("x"), false)
	}
	o.send(wire.Message{Pong: &wire.Ping{}})
	expect(t, o, "pong lines(gap 0, 1-4) ")
	o.ack(wire.Ack{N: 2})
	expect(t, o, "")

	// The host goes; lines gather; the next one attaches after line 3.
	o.disconnect(first)
	o.line(wire.Stdout, []byte("x"), false)
	o.send(wire.Message{Pong: &wire.Ping{}}) // nobody asked
	second := o.connect()
	expect(t, o, "hello(running,7) phase(mount) phase(root) lines(gap 0, 3-5) ")
	o.disconnect(first) // a late word about the first connection
	o.attach(wire.Attach{After: 3, Nonce: 8})
	expect(t, o, "hello(running,8) phase(mount) phase(root) lines(gap 0, 4-5) ")

	// Another host takes over without the guest having seen the first one go.
	o.attach(wire.Attach{After: 4, Nonce: 9})
	o.ended(wire.Exit{Code: 1})
	expect(t, o, "hello(exited,9) phase(mount) phase(root) lines(gap 0, 5-5) exit(5) ")
	o.attach(wire.Attach{After: 5, Nonce: 10})
	expect(t, o, "hello(exited,10) phase(mount) phase(root) exit(5) ")
	if _, ok := o.next(t.Context(), first); ok {
		t.Error("a message for a connection that is over")
	}
	o.disconnect(second)
	if _, ok := o.next(t.Context(), second); ok {
		t.Error("a message for nobody")
	}
}

// On a serial port the host's Attach may be read before its coming is seen:
// it is answered all the same.
func TestOutboxAnswersAnAttachThatOvertookItsHost(t *testing.T) {
	o := newTestOutbox(1 << 20)
	o.line(wire.Stdout, []byte("x"), false)
	first := o.connect()
	expect(t, o, "hello(waiting,0) ")
	o.attach(wire.Attach{Nonce: 5}) // of the next host
	o.disconnect(first)
	o.connect()
	expect(t, o, "hello(waiting,5) lines(gap 0, 1-1) ")
}

func TestOutboxServesAHostThatDoesNotAttach(t *testing.T) {
	o := newTestOutbox(1 << 20)
	o.phase("mount")
	o.connect()
	expect(t, o, "hello(waiting,0) ")
	o.booted(wire.Boot{})
	o.line(wire.Stdout, []byte("x"), false)
	expect(t, o, "phase(mount) lines(gap 0, 1-1) ")
}

func TestOutboxAttachBeyondTheLastLine(t *testing.T) {
	o := newTestOutbox(1 << 20)
	o.connect()
	o.attach(wire.Attach{After: 1000, Nonce: 1})
	o.line(wire.Stdout, []byte("x"), false)
	expect(t, o, "hello(waiting,1) lines(gap 0, 1-1) ")
}

// The command waits a second for a full ring, once; then lines are lost, and
// counted, until the host takes some.
func TestOutboxPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newTestOutbox(2 * lineOverhead)
		start := time.Now()
		for range 10 {
			o.line(wire.Stdout, nil, false)
		}
		if took := time.Since(start); took != patience {
			t.Errorf("ten lines into room for two took %v, want %v", took, patience)
		}
		o.connect()
		o.attach(wire.Attach{Nonce: 1})
		expect(t, o, "hello(waiting,1) lines(gap 8, 9-10) ")

		// Once it has, the command waits again, and goes on as soon as there
		// is room.
		o.ack(wire.Ack{N: 10})
		o.line(wire.Stdout, nil, false)
		o.line(wire.Stdout, nil, false)
		start = time.Now()
		go func() {
			time.Sleep(patience / 4)
			o.ack(wire.Ack{N: 11})
		}()
		o.line(wire.Stdout, nil, false)
		if took := time.Since(start); took != patience/4 {
			t.Errorf("waited %v for an ack after %v", took, patience/4)
		}
		expect(t, o, "lines(gap 1, 12-13) ")
	})
}

func TestOutboxAwaitsTheExitsAck(t *testing.T) {
	for name, c := range map[string]struct {
		host func(o *outbox)
		want time.Duration
	}{
		"acknowledged": {func(o *outbox) {
			o.connect()
			o.attach(wire.Attach{Nonce: 1})
			drainOutbox(o)
			time.Sleep(time.Second)
			o.ack(wire.Ack{N: 1, Exit: true})
		}, time.Second},
		"only the lines acknowledged": {func(o *outbox) {
			o.connect()
			o.attach(wire.Attach{Nonce: 1})
			o.ack(wire.Ack{N: 1}) // before it was sent: tells nothing of it
			drainOutbox(o)
			time.Sleep(time.Second)
			o.ack(wire.Ack{N: 1})
		}, time.Second + linesWait},
		"there, but silent": {func(o *outbox) {
			o.connect()
			o.attach(wire.Attach{Nonce: 1})
			drainOutbox(o)
			o.notifyForTest()
		}, exitWait},
		"away": {func(*outbox) {}, exitAway},
		"back after a minute": {func(o *outbox) {
			time.Sleep(time.Minute)
			o.connect()
			o.attach(wire.Attach{Nonce: 1})
			drainOutbox(o)
			o.ack(wire.Ack{N: 1, Exit: true})
		}, time.Minute},
	} {
		synctest.Test(t, func(t *testing.T) {
			o := newTestOutbox(1 << 20)
			o.line(wire.Stdout, nil, false)
			o.ended(wire.Exit{})
			start := time.Now()
			go c.host(o)
			o.awaitExitAck(t.Context())
			if took := time.Since(start); took != c.want {
				t.Errorf("%s: waited %v, want %v", name, took, c.want)
			}
		})
	}
}

func (o *outbox) notifyForTest() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.notify()
}

func TestOutboxNextEndsWithItsContext(t *testing.T) {
	o := newTestOutbox(1 << 20)
	epoch := o.connect()
	drainOutbox(o)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if m, ok := o.next(ctx, epoch); ok {
		t.Errorf("got %+v", m)
	}
}

func TestOutboxOfACopyCountsFromItsHostsFirstWord(t *testing.T) {
	clock := 300 * time.Millisecond
	o := newOutbox(1<<10, func() time.Duration { return clock }, 100*time.Millisecond)
	o.template = true
	o.phase("mount")
	clock = 5 * time.Second // frozen, and copied
	epoch := o.connect()
	if m := drainOutbox(o); len(m) > 0 {
		t.Fatalf("%+v before the copy's host said a word", m)
	}
	o.attach(wire.Attach{Nonce: 7})
	clock += 20 * time.Millisecond
	o.phase("configure")
	m, ok := o.next(t.Context(), epoch)
	if !ok || m.Hello == nil || m.Hello.Nonce != 7 || m.Hello.KernelMS != 0 || m.Hello.UptimeMS != 20 {
		t.Fatalf("%+v", m.Hello)
	}
	m, ok = o.next(t.Context(), epoch)
	if !ok || m.Phase == nil || !reflect.DeepEqual(*m.Phase, wire.Phase{Name: "configure", UptimeMS: 20}) {
		t.Fatalf("%+v", m.Phase)
	}
}

func TestOutboxKeepsQuietUntilTheCommandRuns(t *testing.T) {
	for name, end := range map[string]func(o *outbox){
		"runs":            func(o *outbox) { o.speak() },
		"failed":          func(o *outbox) { o.ended(wire.Exit{Code: 1}) },
		"took too long":   nil,
		"host comes anew": func(o *outbox) { o.disconnect(1); o.connect() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := newOutbox(1<<10, func() time.Duration { return 0 }, 0)
				o.connect()
				o.attach(wire.Attach{Nonce: 7, Quiet: true})
				o.phase("configure")
				if m := drainOutbox(o); len(m) > 0 {
					t.Fatalf("not quiet: %+v", m)
				}
				began := time.Now()
				if end != nil {
					end(o)
				}
				o.mu.Lock()
				epoch := o.epoch
				o.mu.Unlock()
				if m, ok := o.next(t.Context(), epoch); !ok || m.Hello == nil {
					t.Fatalf("%+v, %v", m, ok)
				}
				if waited := time.Since(began); end == nil && waited != quietFor || end != nil && waited != 0 {
					t.Errorf("spoke after %s", waited)
				}
			})
		})
	}
}
