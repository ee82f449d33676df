package sim

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/vmm"
	"github.com/miosa/miosa/wire/guest"
)

const (
	ringLines = 20_000          // unacknowledged lines kept; older ones become a gap
	patience  = time.Second     // how long the app may wait to write a line, as in package guest
	batch     = 256             // lines in a frame, at most
	exitWait  = 5 * time.Second // for the host to acknowledge the exit
	statsWait = 15 * time.Second
)

// machine is one simulated VM: the guest's half of the protocol. The app in
// it is another file.
type machine struct {
	spec   vmm.Spec
	handle vmm.Handle
	began  time.Time
	forget func() // takes it off its Host
	ctx    context.Context
	cancel context.CancelFunc // ends the app
	done   chan struct{}

	mu      sync.Mutex // guards what follows
	state   string
	boot    guest.Boot
	phases  []guest.Phase
	lines   []guest.Line  // unacknowledged
	last    uint64        // number of the last line
	skew    time.Duration // of the wall clock, from the host's
	rate    int64         // that its clock was told to run at: it does not
	drops   bool          // lines was full for longer than patience, and none was acknowledged since
	report  *guest.Exit
	stop    func(time.Duration) // tells the app; nil before it runs
	console []byte
	ended   bool
	exit    vmm.Exit

	conn    net.Conn // the guest's end of the present connection
	epoch   int      // counts connections
	greet   bool     // a Hello is due, with this nonce
	nonce   uint64
	live    bool   // the host has said what it holds
	phased  int    // phases sent on this connection
	sent    uint64 // last line sent on this connection
	told    bool   // the exit was sent on this connection
	small   []guest.Message
	execs   int           // connections to exec ports
	changed chan struct{} // closed and replaced whenever something above changes
}

var _ vmm.VM = (*machine)(nil)

func newMachine(spec vmm.Spec, h vmm.Handle) *machine {
	m := &machine{
		spec: spec, handle: h, began: time.Now(), done: make(chan struct{}),
		state: guest.StateWaiting, changed: make(chan struct{}),
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	for _, name := range []string{"mount", "modules", "channel"} {
		m.phase(name, "")
	}
	return m
}

// notify wakes the writer; mu is held.
func (m *machine) notify() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// mono is the guest's monotonic clock, which began some time before the machine.
func (m *machine) mono(now time.Time) int64 { return int64(now.Sub(m.began) + time.Second) }

func (m *machine) uptime() int64 { return time.Since(m.began).Milliseconds() }

func (m *machine) phase(name, hint string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.phases = append(m.phases, guest.Phase{Name: name, UptimeMS: m.uptime(), AddrHint: hint})
	m.notify()
}

// line adds one log line. While as many lines are kept as may be, the app waits
// for the host to take some, at most patience; then the oldest give way.
func (m *machine) line(stream guest.Stream, text string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.full() {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		for m.full() {
			changed := m.changed
			m.mu.Unlock()
			late := false
			select {
			case <-changed:
			case <-timer.C:
				late = true
			}
			m.mu.Lock()
			m.drops = m.drops || late
		}
	}
	m.last++
	now := time.Now()
	m.lines = append(m.lines, guest.Line{N: m.last, Stream: stream, T: now.Add(m.skew).UnixNano(), Mono: m.mono(now), Text: []byte(text)})
	if over := len(m.lines) - ringLines; over > 0 {
		m.lines = append(m.lines[:0], m.lines[over:]...)
	}
	m.notify()
}

// full reports whether the app has to wait to write a line; mu is held.
func (m *machine) full() bool { return len(m.lines) >= ringLines && !m.drops && !m.ended }

// finish reports how the app ended. The VM follows once the host has
// acknowledged that, or after a while.
func (m *machine) finish(e guest.Exit) {
	m.mu.Lock()
	if m.report != nil || m.ended {
		m.mu.Unlock()
		return
	}
	e.LastLine, e.UptimeMS = m.last, m.uptime()
	m.report, m.state = &e, guest.StateExited
	m.notify()
	m.mu.Unlock()
	go func() {
		timer := time.NewTimer(exitWait)
		defer timer.Stop()
		select {
		case <-m.done:
		case <-timer.C:
			m.end(vmm.Exit{})
		}
	}()
}

// end is the end of the VM's process.
func (m *machine) end(e vmm.Exit) {
	m.mu.Lock()
	if m.ended {
		m.mu.Unlock()
		return
	}
	m.ended = true
	e.At = time.Now()
	m.exit = e
	if m.conn != nil {
		m.conn.Close()
	}
	m.notify()
	m.mu.Unlock()
	m.cancel()
	m.forget()
	close(m.done)
}

// panics ends the VM as a kernel panic does: without a report.
func (m *machine) panics() {
	m.mu.Lock()
	m.console = append(m.console, "Kernel panic - not syncing: simulated\n"...)
	m.mu.Unlock()
	m.end(vmm.Exit{})
}

func (m *machine) Handle() vmm.Handle    { return m.handle }
func (m *machine) Done() <-chan struct{} { return m.done }

func (m *machine) Exit() vmm.Exit {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.exit
}

func (m *machine) Console() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]byte(nil), m.console...)
}

// Kill ends the VM at once.
func (m *machine) Kill(context.Context) error {
	m.end(vmm.Exit{Code: -1, Signal: "SIGKILL"})
	<-m.done
	return nil
}

// Usage: a simulated VM uses its whole memory and a hundredth of a processor.
func (m *machine) Usage() (vmm.Usage, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended {
		return vmm.Usage{}, vmm.ErrGone
	}
	return vmm.Usage{CPU: time.Since(m.began) / 100, MemoryBytes: uint64(m.spec.MemoryMB) << 20}, nil
}

// Dial connects to the simulated guest.
func (m *machine) Dial(ctx context.Context) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended {
		return nil, fmt.Errorf("dial vm %s: %w", m.handle.ID, vmm.ErrGone)
	}
	if m.conn != nil {
		return nil, miosa.Errorf(miosa.Conflict, "the control channel of vm %s is in use", m.handle.ID)
	}
	host, inside := net.Pipe()
	m.conn = inside
	m.epoch++
	m.greet, m.nonce, m.live, m.phased, m.sent, m.told, m.small = true, 0, false, 0, 0, false, nil
	m.notify()
	c := guest.NewConn(inside)
	go m.read(c, m.epoch)
	go m.write(c, m.epoch)
	return &channel{Conn: host, hangUp: func(epoch int) func() { return func() { m.hangUp(epoch) } }(m.epoch)}, nil
}

// channel makes room for the next Dial when it is closed.
type channel struct {
	net.Conn
	hangUp func()
	once   sync.Once
}

func (c *channel) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.hangUp)
	return err
}

func (m *machine) hangUp(epoch int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.epoch == epoch && m.conn != nil {
		m.conn.Close()
		m.conn = nil
		m.notify()
	}
}

// read obeys the host on one connection.
func (m *machine) read(c *guest.Conn, epoch int) {
	for {
		msg, err := c.ReadMessage()
		if err != nil {
			return // a host that went has closed its end
		}
		m.obey(msg, epoch)
	}
}

func (m *machine) obey(msg guest.Message, epoch int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.epoch != epoch || m.conn == nil {
		return
	}
	switch {
	case msg.Attach != nil:
		m.greet, m.nonce, m.live = true, msg.Attach.Nonce, true
		m.phased, m.sent, m.told = 0, msg.Attach.After, false
		m.free(msg.Attach.After)
	case msg.Ack != nil:
		m.free(msg.Ack.N)
		if msg.Ack.Exit && m.report != nil {
			go m.end(vmm.Exit{})
		}
	case msg.Ping != nil:
		now := time.Now()
		m.small = append(m.small, guest.Message{Pong: &guest.Ping{Seq: msg.Ping.Seq, Clock: &guest.Clock{Wall: now.Add(m.skew).UnixNano(), Raw: m.mono(now), Rate: m.rate}}})
	case msg.Check != nil: // as a shell would, if it knew but one command
		code := 0
		if msg.Check.Command == "false" {
			code = 1
		}
		m.small = append(m.small, guest.Message{Checked: &guest.Checked{Seq: msg.Check.Seq, Code: code}})
	case msg.Adjust != nil: // what takes time in a real guest is done at once
		m.rate = msg.Adjust.Rate
		m.skew += time.Duration(msg.Adjust.StepNS) - time.Duration(float64(msg.Adjust.SlewNS)*float64(msg.Adjust.Slew)/1e9)
	case msg.Boot != nil && m.state == guest.StateWaiting:
		m.state, m.boot, m.live = guest.StateRunning, *msg.Boot, true
		go m.run(*msg.Boot)
	case msg.Stop != nil && m.stop != nil:
		go m.stop(msg.Stop.Deadline)
	case msg.Stop != nil && m.state == guest.StateWaiting:
		go m.end(vmm.Exit{})
	}
	m.notify()
}

// free drops the lines the host holds; mu is held.
func (m *machine) free(n uint64) {
	for len(m.lines) > 0 && m.lines[0].N <= n {
		m.lines, m.drops = m.lines[1:], false
	}
}

// write tells the host, on one connection, what it does not know.
func (m *machine) write(c *guest.Conn, epoch int) {
	for {
		msg, wait, ok := m.next(epoch)
		switch {
		case !ok:
			return
		case wait != nil:
			<-wait
		default:
			if err := c.WriteMessage(msg); err != nil {
				return
			}
		}
	}
}

// next picks the next message, or what to wait for; ok is false once the
// connection is over.
func (m *machine) next(epoch int) (msg guest.Message, wait <-chan struct{}, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.epoch != epoch || m.conn == nil || m.ended:
		return msg, nil, false
	case m.greet:
		m.greet = false
		msg.Hello = &guest.Hello{
			Min: guest.MinVersion, Max: guest.MaxVersion, State: m.state, Nonce: m.nonce,
			InstanceID: m.boot.InstanceID, Boot: m.boot.Boot, UptimeMS: m.uptime(), Exit: m.report,
		}
	case !m.live:
		return msg, m.changed, true
	case m.phased < len(m.phases):
		p := m.phases[m.phased]
		m.phased++
		msg.Phase = &p
	case len(m.small) > 0:
		msg, m.small = m.small[0], m.small[1:]
	case m.sent < m.last && len(m.lines) > 0: // else the host acknowledged more than it now claims to hold
		msg.Lines = m.unsent()
		m.sent = msg.Lines.Lines[len(msg.Lines.Lines)-1].N
	case m.report != nil && !m.told:
		m.told = true
		msg.Exit = m.report
	default:
		return msg, m.changed, true
	}
	return msg, nil, true
}

// unsent is a batch of the lines after sent; mu is held.
func (m *machine) unsent() *guest.Lines {
	first := m.lines[0].N
	from := max(m.sent+1, first)
	l := &guest.Lines{Gap: from - m.sent - 1, Mono: m.mono(time.Now())}
	rest := m.lines[from-first:]
	l.Lines = append(l.Lines, rest[:min(batch, len(rest))]...)
	return l
}
