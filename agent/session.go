package agent

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/lifecycle"
	"github.com/miosa/miosa/network"
	"github.com/miosa/miosa/timekeeping"
	"github.com/miosa/miosa/vmm"
	"github.com/miosa/miosa/wire/cell"
	"github.com/miosa/miosa/wire/guest"
)

const (
	redial        = 50 * time.Millisecond
	redialSlowest = 5 * time.Second
	pingEvery     = 15 * time.Second
	silentFor     = 90 * time.Second // without any word: the guest is deaf
	firstAsk      = time.Second      // for the time: the app's own start comes first
	askAgain      = 15 * time.Second // what was not answered
	lastWords     = 2 * time.Second  // from the end of the process to the end of its stream, all of it read
	persistLag    = time.Second      // how long the last lines wait to be written down for failure reports
	ackLag        = 150 * time.Millisecond
	ackBytes      = 512 << 10        // of the guest's ring, at which it waits no longer
	lineCost      = 64               // what a line costs in the ring beside its text
	writeFor      = 10 * time.Second // a guest has to take a message
	hostname      = 12               // characters of the instance ID that make its host name
)

// talk holds the conversation with a guest until its VM has ended.
func (b *boot) talk(vm vmm.VM) {
	defer b.slot()
	fresh := b.resumed // until it has been told its configuration
	lines := guest.NewSession(b.x.journal.held(b.number))
	// A dead VM must not be dialled to the end of a time-out.
	alive, cancel := context.WithCancel(b.ctx)
	defer cancel()
	go func() {
		select {
		case <-vm.Done():
			cancel()
		case <-alive.Done():
		}
	}()
	wait, heard := redial, time.Now()
	for b.ctx.Err() == nil {
		conn, err := vm.Dial(alive)
		if err == nil {
			err = b.converse(vm, conn, lines, &heard, fresh)
			fresh = false
			conn.Close()
			if held := b.x.journal.held(b.number); held != lines.After() {
				lines = guest.NewSession(held) // the spool did not take them all
			}
		}
		// A guest that talks nonsense is not listened to all the time.
		if wait = min(2*wait, redialSlowest); err == nil {
			wait = redial
		}
		select {
		case <-vm.Done():
			b.vanished(vm)
			return
		case <-b.ctx.Done():
			return
		case <-time.After(wait):
		}
		if err != nil {
			b.x.a.log.Debug("guest conversation ended", "instance", b.x.id, "err", err)
		}
	}
}

func (b *boot) vanished(vm vmm.VM) {
	b.unsaid()
	exit := vm.Exit()
	b.x.a.log.Info("virtual machine ended", "instance", b.x.id, "vm", b.id(), "code", exit.Code, "signal", exit.Signal, "oom", exit.OOM)
	message := ""
	switch {
	case exit.OOM:
		message = "the virtual machine was ended for using too much of the host's memory"
	case exit.Signal != "":
		message = "the virtual machine was killed (" + exit.Signal + ")"
	case panicked(vm.Console()):
		message = "the kernel of the virtual machine panicked"
	}
	b.x.post(lifecycle.Vanished{Boot: b.number, Message: message, LastLines: b.x.journal.tail.last()})
	// Requests in flight to it fail now rather than after minutes of silence.
	if s, ok := b.x.a.cfg.Network.(network.Severer); ok {
		if err := s.Sever(b.ctx, b.x.id); err != nil && b.ctx.Err() == nil {
			b.x.a.log.Warn("close connections to a dead instance", "instance", b.x.id, "err", err)
		}
	}
}

// unsaid tells that a guest is gone which did not say how its app ended: lines
// of its ring may be gone with it, nobody knows how many.
func (b *boot) unsaid() {
	if b.talks {
		b.talks = false
		b.x.journal.unsaid(time.Now().UTC())
	}
}

// session is one connection to the guest.
type session struct {
	b      *boot
	raw    net.Conn
	conn   *guest.Conn
	lines  *guest.Session // over all connections of the boot
	pid1   time.Time      // host's clock at PID 1's first instruction; of a copy, at our first word to it
	acked  uint64
	exited bool
	// stalled: the spool did not take the guest's lines, which keeps them. They
	// are asked for again over a new connection, when this is.
	stalled time.Time
	unacked int       // bytes of the guest's ring
	tailed  time.Time // when the tail was written
	tailN   uint64    // its last line then
	// ask fires when the guest's clock is to be read, once it runs; nil: never.
	ask     *time.Timer
	asking  bool
	checks  map[uint64]execution // carried out now, by their number
	checked uint64               // the last number
	asked   struct {             // last, and not answered: 0
		seq uint64
		at  time.Time
	}
}

// converse speaks over one connection until it breaks or the VM ends.
// A fresh copy of a template waits for its configuration and gets it at once.
func (b *boot) converse(vm vmm.VM, raw net.Conn, lines *guest.Session, heard *time.Time, fresh bool) error {
	s := &session{b: b, raw: raw, conn: guest.NewConn(raw), lines: lines, acked: lines.After()}
	ctx, cancel := context.WithCancel(b.ctx)
	defer cancel()
	messages, broken := s.read(ctx)
	attach := lines.Connect(nonce())
	attach.Attach.Quiet = fresh
	if err := s.write(attach); err != nil {
		return err
	}
	if fresh {
		if err := s.configure(); err != nil {
			return err
		}
	}
	s.ask = time.NewTimer(0)
	s.ask.Stop()
	defer s.ask.Stop()
	hello := time.NewTimer(guest.HelloTimeout)
	ping, persist := time.NewTicker(pingEvery), time.NewTicker(b.x.journal.lag())
	done := vm.Done()
	var last <-chan time.Time
	defer hello.Stop()
	defer ping.Stop()
	defer persist.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-done:
			// What it said last is still on its way through the socket.
			done, last = nil, time.After(lastWords)
			s.ask.Stop()
		case <-last:
			return nil
		case err = <-broken:
			s.rest(messages)
		case m := <-messages:
			*heard = time.Now()
			err = s.handle(m.at, m.Message)
		case <-hello.C:
			if !lines.Live() {
				b.silent(*heard)
				return nil // it boots, or the port stands still: a new connection helps
			}
		case e := <-b.checks:
			err = s.execute(e)
		case deadline := <-b.stop:
			err = s.write(guest.Message{Stop: &guest.Stop{Deadline: deadline}})
		case <-persist.C:
			if err = s.acknowledge(); err == nil && !s.stalled.IsZero() && time.Now().After(s.stalled) {
				err = errStalled
			}
		case <-s.ask.C:
			s.askTime()
		case <-ping.C:
			b.silent(*heard)
			err = s.write(guest.Message{Ping: &guest.Ping{Seq: uint64(time.Now().UnixNano())}})
		}
		if err != nil {
			return err
		}
	}
}

// silent tells the machine of a guest that has said nothing for long.
func (b *boot) silent(heard time.Time) {
	if time.Since(heard) > silentFor {
		b.x.post(lifecycle.Silent{Boot: b.number, LastLines: b.x.journal.tail.last()})
	}
}

// received is a message of the guest's.
type received struct {
	guest.Message
	at time.Time // it came, before it waited for us
}

// read hands on what the guest says, until the caller closes the connection.
func (s *session) read(ctx context.Context) (<-chan received, <-chan error) {
	messages, broken := make(chan received, 1), make(chan error, 1)
	go func() {
		for {
			m, err := s.conn.ReadMessage()
			if _, invalid := errors.AsType[*guest.InvalidMessageError](err); invalid {
				continue // hostile or newer; the stream is still in step
			}
			if err != nil {
				broken <- err
				return
			}
			select {
			case messages <- received{m, time.Now()}:
			case <-ctx.Done():
				return
			}
		}
	}()
	return messages, broken
}

// write sends the guest a message. One that reads nothing must not keep us from
// listening, from noticing that it is deaf, or from ending.
func (s *session) write(m guest.Message) error {
	if err := s.raw.SetWriteDeadline(time.Now().Add(writeFor)); err != nil {
		return err
	}
	return s.conn.WriteMessage(m)
}

// nonce marks one connection.
func nonce() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails: see crypto/rand
	return binary.LittleEndian.Uint64(b[:]) | 1
}

// rest takes what the guest said before the stream ended.
func (s *session) rest(messages <-chan received) {
	for {
		select {
		case m := <-messages:
			_ = s.handle(m.at, m.Message) // the stream is gone: answers can't be sent, words still count
		default:
			return
		}
	}
}

// handle does what a message asks for that came at that time.
func (s *session) handle(at time.Time, m guest.Message) error {
	now := at.UTC()
	m, ok, err := s.lines.Receive(m)
	if err != nil || !ok {
		return err
	}
	switch {
	case m.Hello != nil:
		return s.hello(now, m.Hello)
	case m.Phase != nil:
		s.phase(now, m.Phase)
	case m.Lines != nil && !s.stalled.IsZero():
		s.b.x.journal.miss(s.b.number, m.Lines, nil)
	case m.Lines != nil:
		return s.keepLines(now, m.Lines)
	case m.Stats != nil:
		s.b.x.figures.said(now, *m.Stats)
	case m.Pong != nil:
		s.saw(at, m.Pong)
	case m.Checked != nil:
		s.executed(m.Checked)
	case m.Exit != nil:
		return s.exit(now, m.Exit)
	}
	return nil
}

func (s *session) hello(now time.Time, h *guest.Hello) error {
	s.pid1 = now.Add(-millis(h.UptimeMS))
	if h.State != guest.StateWaiting {
		if h.Boot != s.b.number {
			return fmt.Errorf("the guest is in boot %d, not %d", h.Boot, s.b.number)
		}
		if h.Exit != nil {
			return nil // it comes again as a message, behind its last lines
		}
		s.b.slot()
		s.keepTime()
		return nil
	}
	s.b.reachedAt("kernel_started", s.pid1.Add(-millis(h.KernelMS)), "")
	s.b.reachedAt("pid1_started", s.pid1, "")
	s.b.reachedAt("hello", now, "")
	return s.configure()
}

// configure sends the guest its boot configuration.
func (s *session) configure() error {
	boot, err := s.b.bootMessage()
	if err != nil {
		s.b.failed(stageError{"configure", err})
		return err
	}
	boot.Version = s.lines.Version()
	s.b.talks = true
	err = s.write(guest.Message{Boot: boot})
	if errors.Is(err, guest.ErrFrameTooLarge) {
		s.b.x.post(lifecycle.NotStarted{Boot: s.b.number, Failure: miosa.Failure{
			Kind: miosa.FailureBoot, Message: "the environment variables are too large together to be handed to the virtual machine",
		}})
	}
	return err
}

// guestPhases are the names that a guest may report; anything else is a lie
// or a newer guest's, and not kept.
var guestPhases = map[string]bool{
	"mount": true, "modules": true, "channel": true, "configure": true, "network": true, "root": true,
	"switch_root": true, "prepare": true, "start_command": true, "app_started": true, "listening": true, "elsewhere": true,
}

// clip bounds a guest's words: they go into records.
func clip(s string, n int) string { return strings.ToValidUTF8(s[:min(len(s), n)], "\uFFFD") }

// ports are a guest's word of where its app listens, as far as it can be true.
func ports(told []int) (out []int) {
	for _, n := range told[:min(len(told), guest.MaxPorts)] {
		if n > 0 && n < 1<<16 {
			out = append(out, n)
		}
	}
	return out
}

const (
	maxGuestWords  = 1 << 10
	maxGuestSignal = 16
)

// millis is a guest's word of how long something was, from 0 to a year.
func millis(ms int64) time.Duration {
	const most = 365 * 24 * time.Hour
	return time.Duration(min(max(ms, 0), most.Milliseconds())) * time.Millisecond
}

// phase tells of a phase at the time that it had by the host's clock. The
// machine keeps that within the boot, and in the past.
func (s *session) phase(now time.Time, p *guest.Phase) {
	if !guestPhases[p.Name] {
		return
	}
	at := now
	if !s.pid1.IsZero() {
		at = s.pid1.Add(millis(p.UptimeMS))
	}
	if p.Name == "app_started" {
		s.keepTime()
		s.b.slot() // the costly part of the boot is over: the next may begin
	}
	s.b.x.post(lifecycle.Reached{Boot: s.b.number, Name: p.Name, At: at, Hint: clip(p.AddrHint, maxGuestSignal), Ports: ports(p.Ports), Detached: p.Detached})
}

// keepTime begins to read the guest's clock, over this connection.
func (s *session) keepTime() {
	if s.ask != nil && !s.asking {
		s.asking = true
		s.ask.Reset(firstAsk)
	}
}

// askTime asks the guest what its clocks read. One that does not answer is asked
// again now and then: it may be paused, or know no such question. One that is
// gone may have left words to be read: failing to ask ends nothing.
func (s *session) askTime() {
	if s.exited {
		return
	}
	s.ask.Reset(askAgain)
	s.asked.at = time.Now()
	s.asked.seq = uint64(s.asked.at.UnixNano()) //nolint:gosec // after 1970
	_ = s.write(guest.Message{Ping: &guest.Ping{Seq: s.asked.seq}})
}

// saw takes what the guest's clocks read, and has them put right.
func (s *session) saw(at time.Time, p *guest.Ping) {
	if p.Clock == nil || p.Seq != s.asked.seq || s.asked.seq == 0 || s.ask == nil {
		return
	}
	s.asked.seq = 0
	if s.b.clockFrom.IsZero() {
		s.b.clockFrom = s.asked.at
	}
	moment := func(t time.Time) timekeeping.Moment {
		return timekeeping.Moment{Mono: t.Sub(s.b.clockFrom), Wall: time.Duration(t.UnixNano())}
	}
	out := s.b.clock.Read(timekeeping.Reading{
		Asked: moment(s.asked.at), Answered: moment(at), Wall: p.Clock.Wall, Raw: p.Clock.Raw, Rate: p.Clock.Rate,
	})
	s.ask.Reset(out.Next)
	if a := out.Adjust; a != nil {
		s.b.x.a.log.Debug("a guest's clock is put right", "instance", s.b.x.id, "step", a.Step, "ppb", a.Rate, "slew", a.SlewFor)
		_ = s.write(guest.Message{Adjust: &guest.Adjust{StepNS: int64(a.Step), Rate: a.Rate, Slew: a.Slew, SlewNS: int64(a.SlewFor)}})
	}
	if out.Event != "" {
		s.b.x.journal.say(at.UTC(), out.Event)
		s.b.x.post(lifecycle.ClockSetBack{Boot: s.b.number, By: out.SetBack, At: at.UTC()})
	}
}

var errStalled = errors.New("the guest's lines are asked for again")

// keepLines keeps the guest's lines, and frees its ring when it fills up.
func (s *session) keepLines(now time.Time, batch *guest.Lines) error {
	if !s.b.x.journal.add(now, s.b.number, batch) {
		s.stalled = time.Now().Add(spoolAgain)
		return nil // the journal has said so; the instance goes on
	}
	for _, l := range batch.Lines {
		s.unacked += len(l.Text) + lineCost
	}
	if s.unacked >= ackBytes {
		return s.acknowledge()
	}
	return nil
}

// acknowledge makes the lines safe and frees the guest's ring: what is
// acknowledged survives a restart of ours.
func (s *session) acknowledge() error {
	j := s.b.x.journal
	s.unacked = 0
	if n := s.lines.After(); n != s.tailN && s.lines.Live() && (j.spool == nil || time.Since(s.tailed) >= persistLag) {
		if err := s.b.x.a.disks.writeTail(s.b.x.id, j.tail.dump()); err != nil {
			s.b.x.a.log.Error("write log tail", "instance", s.b.x.id, "err", err)
			if j.spool == nil {
				return nil // unacknowledged lines stay with the guest
			}
		}
		s.tailed, s.tailN = time.Now(), n
	}
	n := s.lines.After()
	if j.spool != nil {
		var ok bool
		if n, ok = j.sync(s.b.number); !ok {
			return nil // as above
		}
	}
	if n <= s.acked || !s.lines.Live() {
		return nil
	}
	s.acked = n
	return s.write(guest.Message{Ack: &guest.Ack{N: n}})
}

// exit takes the guest's last word; its last lines came before it.
func (s *session) exit(now time.Time, e *guest.Exit) error {
	if s.exited {
		return nil
	}
	s.exited, s.b.talks = true, false
	j, n := s.b.x.journal, s.lines.After()
	if j.spool != nil {
		var ok bool
		if n, ok = j.sync(s.b.number); !ok {
			// The guest keeps nothing after this: what the disk does not have
			// then is lost, and told.
			j.want(s.b.number, s.lines.After())
			n = s.acked
		}
	}
	signal := 0
	if e.Stopped {
		if spec, err := s.b.spec(); err == nil {
			signal = spec.StopSignal
		}
	}
	s.b.x.post(lifecycle.Exited{Boot: s.b.number, Stopped: e.Stopped, StopSignal: signal, Failure: exitFailure(now, e, s.b.in, j.tail.last())})
	if s.b.in.Once() {
		return nil // it keeps how its command ended until that is written down, and its VM ended
	}
	return s.write(guest.Message{Ack: &guest.Ack{N: n, Exit: true}})
}

// exitFailure puts the guest's report into a customer's words.
func exitFailure(now time.Time, e *guest.Exit, in miosa.Instance, lines []string) miosa.Failure {
	signal, code := clip(e.Signal, maxGuestSignal), e.Code
	if code > 255 || code < 0 && signal == "" && e.Reason == "" {
		code = 255 // it lies
	}
	f := miosa.Failure{At: now, ExitCode: code, Signal: signal, LastLines: lines}
	what, command := "the run command", in.Spec.Command
	if in.Once() {
		what = "the command"
	}
	if command != "" {
		what = fmt.Sprintf("%s %q", what, command)
	}
	switch {
	case e.Reason == guest.ExitNotFound:
		f.Kind, f.Message = miosa.FailureNotFound, what+" was not found in the release"
	case e.Reason == guest.ExitNotExecutable:
		f.Kind, f.Message = miosa.FailureNotExecutable, what+" is not executable"
	case e.Reason == guest.ExitWrongArch:
		f.Kind, f.Message = miosa.FailureWrongArch, what+" is built for another processor; build it for linux/amd64"
	case e.Reason == guest.ExitImage:
		f.Kind, f.Message = miosa.FailureImage, "the release lacks what it asks for"
	case e.Reason != "":
		f.Kind, f.Message = miosa.FailureBoot, "the virtual machine could not be set up"
	case e.TimedOut && in.Once():
		f.Kind, f.Message = miosa.FailureLimit, fmt.Sprintf("its command ran for %s, which is its limit, and was killed", in.Limit)
	case e.OOM:
		f.Kind, f.Message = miosa.FailureOOM, what+" was killed because the instance ran out of memory"
	case signal != "":
		f.Kind, f.Message = miosa.FailureSignal, what+" was killed by "+signal
	case e.Daemon && !in.Once():
		f.Kind, f.Message = miosa.FailureExit, fmt.Sprintf("%s exited with code %d and left processes behind: it must stay in the foreground, so turn its daemon mode off", what, code)
	default:
		f.Kind, f.Message = miosa.FailureExit, fmt.Sprintf("%s exited with code %d", what, code)
	}
	if e.Reason != "" && e.Message != "" {
		f.Message = clip(e.Message, maxGuestWords) // it names what is missing, and where
	}
	return f
}

// spec opens the sealed boot spec.
func (b *boot) spec() (cell.BootSpec, error) {
	plain, err := b.x.a.cfg.Opener.Open(b.sealed, []byte(b.x.id))
	if err != nil {
		return cell.BootSpec{}, fmt.Errorf("open the boot spec: %w", err)
	}
	return cell.DecodeBootSpec(plain)
}

// bootMessage opens the sealed boot spec and makes the guest's configuration.
func (b *boot) bootMessage() (*guest.Boot, error) {
	spec, err := b.spec()
	if err != nil {
		return nil, err
	}
	at := b.address
	if !at.NIC.Guest.IsValid() {
		// An adopted VM's is found again: it is kept by instance.
		if at, err = b.x.a.cfg.Network.Attach(b.ctx, b.x.id, b.in.Spec.Port, b.in.Spec.Resources.EgressMbps); err != nil {
			return nil, fmt.Errorf("attach the network: %w", err)
		}
		b.address = at
	}
	entropy := make([]byte, 32)
	if _, err := rand.Read(entropy); err != nil {
		return nil, fmt.Errorf("entropy for the guest: %w", err)
	}
	name := b.x.id
	if len(name) > hostname {
		name = b.in.Spec.Name + "-" + name[len(name)-hostname:]
	}
	boot := &guest.Boot{
		InstanceID: b.x.id, Boot: b.number, Command: spec.Command, Argv: spec.Argv, Env: spec.Env,
		User: spec.User, WorkDir: spec.WorkDir, Hostname: name, Nameservers: at.Nameservers,
		UnixNano: time.Now().UnixNano(), Port: b.in.Spec.Port, Entropy: entropy,
		DiskBytes:  int64(b.in.Spec.Resources.DiskMB) << 20,
		Network:    &guest.Network{MAC: at.NIC.MAC, Address: at.NIC.Guest.String()},
		Gate:       at.Gate,
		StopSignal: spec.StopSignal,
	}
	if b.in.Once() && b.in.Limit > 0 {
		boot.LimitMS = (b.in.Limit + lifecycle.StopGrace(b.in.Spec)).Milliseconds()
	}
	if at.NIC.Gateway.IsValid() {
		boot.Network.Gateway = at.NIC.Gateway.String()
	}
	return boot, nil
}
