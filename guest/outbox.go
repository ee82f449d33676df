package guest

import (
	"context"
	"sync"
	"time"

	wire "github.com/miosa/miosa/wire/guest"
)

// What the outbox keeps and how it sends.
const (
	ringBytes  = 4 << 20                // replay ring
	patience   = time.Second            // how long the command may wait to write a line
	batchLines = 512                    // at most, in one frame
	batchBytes = 128 << 10              // about, of text in one frame
	exitWait   = 5 * time.Second        // for a host that is there to acknowledge the exit
	linesWait  = 250 * time.Millisecond // for one that has acknowledged the last line since
	exitAway   = 10 * time.Minute
	quietFor   = 2 * time.Second // at most, to a host that asked for quiet
)

// outbox holds what the host must be told, whether it is there or not, and
// decides what goes next: an answer to Attach first, then phases, small
// messages, lines, and the exit at the very end.
type outbox struct {
	clock func() time.Duration // since the kernel's start

	mu         sync.Mutex    // guards all below
	kernel     time.Duration // from kernel start to PID 1; 0 in a copy
	began      time.Duration // on clock: PID 1's first instruction; in a copy, its host's first word
	ring       ring
	phases     []wire.Phase
	small      []wire.Message // pongs and stats; lost when the host goes
	exit       *wire.Exit
	state      string
	instanceID string
	boot       int

	template  bool   // until a copy's host has said its first word
	quiet     int    // the epoch whose host asked for quiet until the command runs
	epoch     int    // counts connections
	connected bool   // a host is at the other end …
	attached  bool   // … and has said what it wants
	hello     bool   // one is to be sent …
	nonce     uint64 // … with this, of the last Attach
	known     bool   // a host has attached, or booted the machine …
	after     uint64 // … and holds the lines up to here
	phaseNext int    // index of the next phase to send
	lineNext  uint64 // number of the next line to send
	exitSent  time.Time
	exitAcked bool
	linesDone time.Time // when the last line was acknowledged after the exit was sent
	dropping  bool      // the ring was full for longer than patience

	changed chan struct{} // closed and replaced whenever something above changes
}

// newOutbox makes an outbox on a clock that counts from the kernel's start,
// for a PID 1 that began at kernel.
func newOutbox(max int, clock func() time.Duration, kernel time.Duration) *outbox {
	return &outbox{
		ring: ring{max: max}, state: wire.StateWaiting, clock: clock, kernel: kernel, began: kernel,
		changed: make(chan struct{}),
	}
}

// uptime is how long PID 1, or the copy, has run, in ms; mu is held.
func (o *outbox) uptime() int64 { return (o.clock() - o.began).Milliseconds() }

// notify wakes whoever waits; mu is held.
func (o *outbox) notify() {
	close(o.changed)
	o.changed = make(chan struct{})
}

// connect begins a connection and returns its epoch. The last Attach is
// answered once more: on a virtio-serial port a host's coming is told apart
// from its bytes, and may be told after its Attach was read. To any other host
// the answer means nothing: its own Attach is still to come.
func (o *outbox) connect() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.epoch++
	o.connected, o.hello = true, true
	if o.known {
		o.rewind(o.after)
	}
	o.notify()
	return o.epoch
}

// disconnect ends the connection of the epoch, if it is still the current one.
func (o *outbox) disconnect(epoch int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.epoch == epoch {
		o.connected, o.attached = false, false
		o.small = nil
		o.notify()
	}
}

// thaw begins a copy's own time; mu is held.
func (o *outbox) thaw() {
	o.template = false
	o.kernel, o.began, o.phases = 0, o.clock(), nil
}

// attach answers Attach: everything after a.After is sent, once more if need be.
func (o *outbox) attach(a wire.Attach) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.template {
		o.thaw()
	}
	if a.Quiet {
		o.quiet = o.epoch
		time.AfterFunc(quietFor, o.speak)
	}
	o.hello, o.nonce, o.known = true, a.Nonce, true
	o.after = min(a.After, o.ring.last)
	o.rewind(o.after)
}

// speak ends the quiet.
func (o *outbox) speak() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.quiet != 0 {
		o.quiet = 0
		o.notify()
	}
}

// rewind sends phases again, lines from after+1 on, and the exit; mu is held.
func (o *outbox) rewind(after uint64) {
	o.attached = true
	o.small = nil
	o.phaseNext, o.lineNext, o.exitSent = 0, after+1, time.Time{}
	o.linesDone = time.Time{}
	if o.ring.ack(after) {
		o.dropping = false
	}
	o.notify()
}

// booted notes that Boot has come; a host that did not attach is taken to
// hold nothing.
func (o *outbox) booted(b wire.Boot) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.instanceID, o.boot, o.state = b.InstanceID, b.Boot, wire.StateRunning
	if !o.known {
		o.known = true
		o.rewind(0)
	}
}

// ack frees lines, and lets the machine go once the exit is acknowledged.
func (o *outbox) ack(a wire.Ack) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ring.ack(a.N) {
		o.dropping = false
	}
	o.after = max(o.after, min(a.N, o.ring.last))
	if o.exit != nil {
		o.exitAcked = o.exitAcked || a.Exit
		if a.N >= o.exit.LastLine && !o.exitSent.IsZero() && o.linesDone.IsZero() {
			o.linesDone = time.Now()
		}
	}
	o.notify()
}

// phase notes a moment of the boot.
func (o *outbox) phase(name string) { o.reached(wire.Phase{Name: name}) }

// listening tells where the command listens: on its port, or elsewhere.
func (o *outbox) listening(p wire.Phase) {
	p.Name = "listening"
	if p.AddrHint == "" {
		p.Name = "elsewhere"
	}
	o.reached(p)
}

func (o *outbox) reached(p wire.Phase) {
	o.mu.Lock()
	defer o.mu.Unlock()
	p.UptimeMS = o.uptime()
	o.phases = append(o.phases, p)
	if o.quiet == 0 {
		o.notify()
	}
}

// send queues a message that only matters to a host that is there now.
func (o *outbox) send(m wire.Message) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.attached && len(o.small) < 64 {
		o.small = append(o.small, m)
		o.notify()
	}
}

// line stores a copy of the line, with the time by both clocks. While the ring is full it waits for the
// host to take some, at most patience; then the oldest lines give way, without
// waiting again until the host has taken some.
func (o *outbox) line(stream wire.Stream, text []byte, partial bool) {
	l := wire.Line{Stream: stream, T: time.Now().UnixNano(), Text: append([]byte(nil), text...), Partial: partial}
	l.Mono = int64(o.clock())
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.ring.fits(text) && !o.dropping {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		for !o.ring.fits(text) && !o.dropping {
			changed := o.changed
			o.mu.Unlock()
			select {
			case <-changed:
				o.mu.Lock()
			case <-timer.C:
				o.mu.Lock()
				o.dropping = true
				o.notify()
			}
		}
	}
	o.ring.add(l)
	o.notify()
}

// lastLine is the number of the last line so far.
func (o *outbox) lastLine() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.ring.last
}

// ended stores the exit; it is sent after the last line.
func (o *outbox) ended(e wire.Exit) {
	o.mu.Lock()
	defer o.mu.Unlock()
	e.LastLine = o.ring.last
	e.UptimeMS = o.uptime()
	o.quiet = 0
	o.exit, o.state = &e, wire.StateExited
	o.notify()
}

// next waits for the next message to send on the connection of the epoch; ok
// is false when that connection is over.
func (o *outbox) next(ctx context.Context, epoch int) (m wire.Message, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for {
		if o.epoch != epoch || !o.connected {
			return wire.Message{}, false
		}
		if m, ok := o.pick(); ok {
			return m, true
		}
		changed := o.changed
		o.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			o.mu.Lock()
			return wire.Message{}, false
		}
		o.mu.Lock()
	}
}

// pick is the next message, if there is one; mu is held.
func (o *outbox) pick() (wire.Message, bool) {
	if o.template || o.quiet == o.epoch {
		return wire.Message{}, false
	}
	if o.hello {
		o.hello = false
		return wire.Message{Hello: &wire.Hello{
			Min: wire.MinVersion, Max: wire.MaxVersion,
			InstanceID: o.instanceID, Boot: o.boot, State: o.state, Exit: o.exit, Nonce: o.nonce,
			UptimeMS: o.uptime(), KernelMS: o.kernel.Milliseconds(),
		}}, true
	}
	if !o.attached {
		return wire.Message{}, false
	}
	if o.phaseNext < len(o.phases) {
		p := o.phases[o.phaseNext]
		o.phaseNext++
		return wire.Message{Phase: &p}, true
	}
	if len(o.small) > 0 {
		m := o.small[0]
		o.small = o.small[1:]
		return m, true
	}
	if lines, gap := o.ring.from(o.lineNext, batchLines, batchBytes); len(lines) > 0 {
		o.lineNext = lines[len(lines)-1].N + 1
		return wire.Message{Lines: &wire.Lines{Gap: gap, Lines: lines, Mono: int64(o.clock())}}, true
	}
	if o.exit != nil && o.exitSent.IsZero() {
		o.exitSent = time.Now()
		return wire.Message{Exit: o.exit}, true
	}
	return wire.Message{}, false
}

// awaitExitAck returns when the host has acknowledged the exit, or has had
// its time for it.
func (o *outbox) awaitExitAck(ctx context.Context) {
	away, there := time.NewTimer(exitAway), time.NewTimer(exitAway)
	defer away.Stop()
	defer there.Stop()
	for {
		o.mu.Lock()
		acked, sent, changed := o.exitAcked, o.connected && !o.exitSent.IsZero(), o.changed
		until := o.exitSent.Add(exitWait)
		if !o.linesDone.IsZero() {
			until = o.linesDone.Add(linesWait)
		}
		o.mu.Unlock()
		if acked {
			return
		}
		var enough <-chan time.Time
		if sent {
			there.Reset(time.Until(until))
			enough = there.C
		}
		select {
		case <-changed:
		case <-enough:
			return
		case <-away.C:
			return
		case <-ctx.Done():
			return
		}
	}
}
