package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	wire "github.com/miosa/miosa/wire/guest"
)

// A template is a machine that booted up to waiting for Boot and was then
// stopped and copied by the VMM, memory and devices. Each copy goes on from
// there as an instance's machine, without a kernel boot of its own.
//
// What a template does before it is copied must hold for every copy: the image
// is a placeholder, so nothing is read from it, and so is the ephemeral disk
// unless every copy's will be what the template's is by then; the interface has
// no address yet. What all copies would share and must not (the random number generator's
// state, the clock) is set anew by configure, before any code of a customer's
// runs.

// settleTime is what the kernel needs to be done with what the boot left for
// later: every copy would do it over again.
const settleTime = time.Second

// getReady does all that does not depend on whose machine it will be, and
// leaves open what a copy will need.
func (i *Init) getReady() (err error) {
	if err := i.modules.loadUntil(func(kernelModule) bool { return false }); err != nil {
		return err
	}
	if err := mountRest(); err != nil {
		return err
	}
	if err := applySettings("/proc"); err != nil {
		return err
	}
	i.kills = openKills()
	if i.random, err = openRandom(); err != nil {
		return err
	}
	if i.links, err = bringUp("/sys", "/proc"); err != nil {
		return err
	}
	if i.template == wire.TemplateDisk {
		if err := readyData(); err != nil {
			return err
		}
	}
	i.oomKills = readOOMKills("/proc")
	makeThreads()
	return rehearse()
}

// readyData mounts the ephemeral disk and makes a file on it, as every copy
// will: the kernel reads in what it needs to know for that.
func readyData() error {
	if err := mountData(); err != nil {
		return fmt.Errorf("mount the ephemeral disk: %w", err)
	}
	for _, dir := range []string{upperDir, overlayWork, upperDir + "/etc"} {
		if err := rawMkdir(dir, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	const first = dataDir + "/first"
	if err := writeFile(first, "first"); err != nil {
		return err
	}
	if err := os.Remove(first); err != nil {
		return err
	}
	unix.Sync() // or every copy would write the same
	return nil
}

// makeThreads lets the runtime start the threads that the slow system calls of
// a start ask for: their making is more code than the calls.
func makeThreads() {
	const most = 6
	var made sync.WaitGroup
	enough := make(chan struct{})
	for range most {
		made.Add(1)
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread() // and it goes idle
			made.Done()
			<-enough
		}()
	}
	made.Wait()
	close(enough)
}

// rehearse takes in what the host will say, once: how JSON becomes which
// structure is found out here rather than in every copy.
func rehearse() error {
	const some = "x"
	var stream bytes.Buffer
	conn := wire.NewConn(&stream)
	for _, m := range []wire.Message{
		{Attach: &wire.Attach{Version: wire.MaxVersion, After: 1, Nonce: 1, Quiet: true}},
		{Boot: &wire.Boot{
			Version: wire.MaxVersion, InstanceID: some, Boot: 1, Command: some, Argv: []string{some}, Env: []string{some}, User: some,
			WorkDir: some, Hostname: some, Network: &wire.Network{MAC: some, Address: some, Gateway: some}, Nameservers: []string{some},
			MaxFiles: 1, MaxProcs: 1, UnixNano: 1, Port: 1, StatsMS: 1, StopSignal: 1, LimitMS: 1, Entropy: []byte(some), DiskBytes: 1,
		}},
		{Ping: &wire.Ping{Seq: 1}}, {Adjust: &wire.Adjust{Rate: 1}}, {Pong: &wire.Ping{Clock: &wire.Clock{}}},
		{Hello: &wire.Hello{}}, {Phase: &wire.Phase{}}, {Lines: &wire.Lines{Lines: make([]wire.Line, 1)}},
	} {
		if err := conn.WriteMessage(m); err != nil {
			return err
		}
		if _, err := conn.ReadMessage(); err != nil {
			return err
		}
	}
	return nil
}

// listen offers the machine for copying, on the serial console, and takes in
// what the copy's host says up to Boot. It does so in PID 1's first goroutine,
// with nothing else running: every hand-over to another is code to translate.
// For the same reason the channel has goroutines of its own only once the
// command runs, or has failed, or is too slow for a host to be kept waiting;
// they read once this does no more.
func (i *Init) listen(ctx context.Context) error {
	// The VMM is connected meanwhile, as the host is in the copy from its first
	// moment on: that somebody came need not be found out.
	conn, err := i.channel.dial(ctx, nil)
	if err != nil {
		return err
	}
	conn.free = make(chan struct{})
	defer close(conn.free)
	var once sync.Once
	i.answer = func() { once.Do(func() { i.runChannel(ctx, conn) }) }
	if err := pause(ctx, settleTime); err != nil {
		return err
	}
	i.openExecs()
	port, serial := i.channel.transport.(*serialPort)
	if serial {
		port.alone = true
	}
	fmt.Fprintln(i.console, "miosa-init:", wire.TemplateReady)
	for {
		m, err := next(conn.in)
		if serial {
			port.alone = false // before anything else may read
		}
		if err == nil {
			i.channel.obey(m)
		}
		switch {
		case err == nil && m.Attach != nil && m.Attach.Quiet:
			time.AfterFunc(quietFor, i.answer)
		case err == nil && m.Boot != nil:
			return nil
		default:
			// A host that wants to hear something first, or one that has gone.
			i.answer()
			return nil
		}
	}
}
