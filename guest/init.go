// Package guest is PID 1 of every microVM: it brings the machine up in named
// phases, runs one command, forwards what it writes, and reports how it ended.
//
// Everything of a customer's stays in memory: the boot configuration comes
// over the control channel and is written nowhere.
package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	wire "github.com/miosa/miosa/wire/guest"
)

// defaultStop is the deadline of a stop that comes as a signal (Ctrl-Alt-Del
// from the VMM), which carries none.
const defaultStop = 10 * time.Second

// channelWait is how long the control channel's device may take to appear.
const channelWait = 10 * time.Second

// Init is PID 1.
type Init struct {
	console  io.Writer
	template string // "", or of which kind (wire.TemplateBare …) the machine to be copied is: see template.go

	out     *outbox
	channel *channel
	modules *moduleLoader
	links   *network
	gate    *gate // nil: none
	boot    wire.Boot
	data    *os.File // the ephemeral disk's directory
	command command
	// ownFiles are the platform's files that are still to be written.
	ownFiles []ownFile
	answer   func() // lets the channel say what is to be said, if it does not yet
	random   int    // /dev/urandom, open for writing; -1: not
	// oomKills is how many processes the kernel had killed before the command.
	oomKills uint64
	kills    *os.File    // the kernel's log; nil: it cannot be read
	execs    []transport // for exec sessions

	rest  chan error // the result of loading the rest of the modules …
	disks chan error // … and of mounting the disks, both done while waiting for Boot
}

// New prepares PID 1; console takes the words that no host may ever read.
func New(console io.Writer) *Init {
	kernel, ok := firstInstruction(kernelLog(4 << 10))
	if !ok {
		kernel = sinceKernel()
	}
	i := &Init{
		console: console, template: os.Getenv(wire.TemplateVar), answer: func() {}, random: -1,
		rest: make(chan error, 1), disks: make(chan error, 1),
	}
	i.out = newOutbox(ringBytes, sinceKernel, kernel)
	i.out.template = i.template != ""
	return i
}

// phase is one named step of the boot.
type phase struct {
	name string
	run  func(context.Context) error
}

// phases are the whole way from the first instruction to the running command.
func (i *Init) phases() []phase {
	return []phase{
		{"mount", i.mount},
		{"modules", i.loadModules},
		{"channel", i.openChannel},
		{"configure", i.configure},
		{"network", i.network},
		{"root", i.root},
		{"switch_root", i.switchRoot},
		{"prepare", i.prepare},
	}
}

// errStopped says that a stop came before the command ran.
var errStopped = errors.New("stopped before the command ran")

// Run boots, runs the command to its end and reports it. When it returns, the
// machine may be rebooted: everything is written out. The error is of the
// phases before there was a channel to report it on.
func (i *Init) Run(ctx context.Context) error {
	exit, err := i.serve(ctx)
	if i.channel == nil {
		return err
	}
	if err != nil {
		exit = setupExit(err)
	}
	i.answer()
	if exit.Stopped = exit.Stopped || errors.Is(err, errStopped); exit.Message != "" {
		i.say(exit.Message)
	}
	i.out.ended(exit)
	i.out.awaitExitAck(ctx)
	settle(i.data)
	return nil
}

// serve runs the phases and then the command.
func (i *Init) serve(ctx context.Context) (wire.Exit, error) {
	if err := runPhases(ctx, i.phases(), i.out.phase); err != nil {
		return wire.Exit{}, err
	}
	s := &supervisor{
		command: i.command, out: i.out, stops: i.channel.stops, proc: "/proc",
		killAll:  killAll,
		log:      func() []byte { return kernelLog(64 << 10) },
		port:     i.boot.Port,
		statsMS:  i.boot.StatsMS,
		limit:    time.Duration(i.boot.LimitMS) * time.Millisecond,
		readStat: func() wire.Stats { return readStats("/") },
		onStart:  i.started,
		oomKills: i.oomKills,
		signal:   syscall.Signal(i.boot.StopSignal),
		others:   func() bool { return othersRun("/proc") },
		kills:    i.kills,
		checks:   i.channel.checks,
		execs:    i.execs,
	}
	if i.gate != nil {
		s.gate = i.gate.Port
	}
	// Nobody needs them here any more.
	i.boot, i.command = wire.Boot{}, command{}
	i.out.phase("start_command")
	return s.run(ctx), nil
}

// runPhases runs them in order, telling each when it is done, up to the first
// that fails.
func runPhases(ctx context.Context, phases []phase, done func(name string)) error {
	for _, p := range phases {
		if err := p.run(ctx); err != nil {
			if _, told := errors.AsType[*startError](err); told || errors.Is(err, errStopped) {
				return err
			}
			return fmt.Errorf("%s: %w", p.name, err)
		}
		done(p.name)
	}
	return nil
}

// killAll signals every process but PID 1. Anywhere else it would be the
// whole machine's: there it does nothing.
func killAll(_ int, sig syscall.Signal) {
	if os.Getpid() == 1 {
		_ = syscall.Kill(-1, sig)
	}
}

// say adds a line of PID 1's own to the log.
func (i *Init) say(text string) { i.out.line(wire.System, []byte(text), false) }

func (i *Init) mount(context.Context) error { return mountFirst() }

// loadModules loads what the control channel needs.
func (i *Init) loadModules(context.Context) (err error) {
	if i.modules, err = newModuleLoader("/modules", "/sys"); err != nil {
		return fmt.Errorf("read the module list: %w", err)
	}
	return i.modules.loadUntil(func(m kernelModule) bool {
		return m.device != 0 && m.device != virtioConsole && m.device != virtioVsock
	})
}

// openChannel opens the way to the host, and loads and mounts the rest
// meanwhile: that does not depend on what the host will say.
func (i *Init) openChannel(ctx context.Context) error {
	if i.template != "" {
		if err := i.getReady(); err != nil {
			return err
		}
	}
	t, err := findTransport(ctx, i.modules)
	if err != nil {
		return err
	}
	i.channel = newChannel(t, i.out)
	i.watchSignals(ctx)
	if i.template != "" {
		return i.listen(ctx)
	}
	i.runChannel(ctx, nil)
	go i.loadRest()
	return nil
}

// runChannel carries messages from here on, over conn at first if there is one.
func (i *Init) runChannel(ctx context.Context, conn *connection) {
	go func() {
		err := i.channel.run(ctx, conn) // ends only when it can't go on
		fmt.Fprintln(i.console, "miosa-init: the control channel broke:", err)
	}()
}

// findTransport waits for whichever device the VMM gives the machine.
func findTransport(ctx context.Context, modules *moduleLoader) (transport, error) {
	ctx, cancel := context.WithTimeout(ctx, channelWait)
	defer cancel()
	for {
		// The port's name comes in a message of its own, after the device.
		if path := findSerial("/sys", "/dev", portName); path != "" {
			return openSerial(path)
		}
		if !modules.present(virtioConsole) && modules.present(virtioVsock) {
			return vsockDialer{vsockPort}, nil
		}
		if err := pause(ctx, time.Millisecond); err != nil {
			return nil, errors.New("the machine has no control channel: neither a virtio-serial port nor a virtio socket appeared")
		}
	}
}

// watchSignals makes Ctrl-Alt-Del, and SIGTERM from within, a stop.
func (i *Init) watchSignals(ctx context.Context) {
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF); err != nil {
		fmt.Fprintln(i.console, "miosa-init: cannot take over Ctrl-Alt-Del:", err)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-signals:
				select {
				case i.channel.stops <- wire.Stop{Deadline: defaultStop}:
				default:
				}
			}
		}
	}()
}

func (i *Init) loadRest() {
	err := i.modules.loadUntil(func(kernelModule) bool { return false })
	if i.rest <- err; err == nil {
		err = i.mountDisks()
	}
	i.disks <- err
}

func (i *Init) mountDisks() error {
	warning, err := mountDisks(i.template == wire.TemplateDisk)
	if warning != "" {
		i.say(warning)
	}
	return err
}

// configure waits for the boot configuration.
func (i *Init) configure(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return errStopped
	case <-i.channel.stops:
		return errStopped
	case i.boot = <-i.channel.boots:
	}
	i.out.booted(i.boot)
	if v := i.boot.Version; v < wire.MinVersion || v > wire.MaxVersion {
		return fmt.Errorf("the host speaks protocol version %d, this guest %d to %d", v, wire.MinVersion, wire.MaxVersion)
	}
	if err := setClock(i.boot.UnixNano); err != nil {
		return err
	}
	if i.template != "" && len(i.boot.Entropy) == 0 {
		return errors.New("a copy of a template must be given randomness of its own")
	}
	if err := i.creditEntropy(); err != nil {
		return fmt.Errorf("credit entropy: %w", err)
	}
	return nil
}

func (i *Init) creditEntropy() (err error) {
	if len(i.boot.Entropy) == 0 {
		return nil
	}
	if i.random < 0 {
		if i.random, err = openRandom(); err != nil {
			return err
		}
	}
	defer clear(i.boot.Entropy)
	return creditEntropy(i.random, i.boot.Entropy)
}

func (i *Init) network(context.Context) (err error) {
	if i.template == "" {
		if err := <-i.rest; err != nil {
			return err
		}
		if i.links, err = bringUp("/sys", "/proc"); err != nil {
			return err
		}
	}
	if err := i.links.configure(i.boot.Network); err != nil || i.boot.Gate == nil {
		return err
	}
	i.gate, err = openGate(i.boot)
	return err
}

// root joins the disks at newRoot, with the platform's own files in place.
func (i *Init) root(context.Context) (err error) {
	if i.template != "" {
		err = i.mountDisks()
	} else {
		err = <-i.disks
	}
	if err != nil {
		return err
	}
	own, err := ownFiles(i.boot)
	if err != nil {
		return err
	}
	if i.ownFiles, err = place(baseDir, upperDir, own); err != nil {
		return fmt.Errorf("write the host name and the name servers: %w", err)
	}
	return joinDisks()
}

func (i *Init) switchRoot(context.Context) (err error) {
	i.data, err = switchRoot()
	return err
}

// prepare makes the image ready for the command and finds the command in it.
func (i *Init) prepare(context.Context) (err error) {
	if i.template == "" {
		if err := mountRest(); err != nil {
			return err
		}
		if err := applySettings("/proc"); err != nil {
			return err
		}
		i.kills = openKills()
		i.oomKills = readOOMKills("/proc")
		i.openExecs()
	}
	if i.boot.Hostname != "" {
		if err := unix.Sethostname([]byte(i.boot.Hostname)); err != nil {
			return fmt.Errorf("set the host name: %w", err)
		}
	}
	for _, f := range i.ownFiles {
		if err := replaceFile("/", f); err != nil {
			return fmt.Errorf("write the host name and the name servers: %w", err)
		}
	}
	if err := setLimits(i.boot); err != nil {
		return err
	}
	if i.command, err = newCommand("/", i.boot); err == nil && i.command.warning != "" {
		i.say(i.command.warning)
	}
	return err
}

// openExecs takes the ports for exec sessions, which a machine can do without.
func (i *Init) openExecs() {
	var err error
	if i.execs, err = openExecPorts("/sys", "/dev"); err != nil {
		fmt.Fprintln(i.console, "miosa-init: open the ports for exec sessions:", err)
	}
}

// started notes that the command runs, and gives up what only the boot needed.
func (i *Init) started() {
	i.out.phase("app_started")
	i.out.speak()
	i.answer()
	i.links.close()
	if i.gate != nil {
		go i.gate.run()
	}
	if i.random >= 0 {
		_ = unix.Close(i.random)
	}
}
