package sim

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/miosa/miosa/wire/guest"
)

// run is the boot and the app's life.
func (m *machine) run(boot guest.Boot) {
	for _, name := range []string{"configure", "network", "root", "switch_root", "prepare"} {
		m.phase(name, "")
	}
	command := boot.Command
	if len(boot.Argv) > 0 {
		command = ""
		for _, word := range boot.Argv {
			command += word + " "
		}
	}
	b, err := parse(command)
	if err != nil {
		m.finish(guest.Exit{Code: 127, Reason: guest.ExitSetup, Message: err.Error()})
		return
	}
	a := &app{m: m, b: b, boot: boot, stopped: make(chan time.Duration, 1)}
	m.mu.Lock()
	m.stop, m.skew = a.stop, b.skew
	m.mu.Unlock()
	m.phase("start_command", "")
	if b.verb == "missing" {
		m.finish(*b.end())
		return
	}
	m.phase("app_started", "")
	a.live()
}

// app is a simulated app.
type app struct {
	m       *machine
	b       behaviour
	boot    guest.Boot
	stopped chan time.Duration // SIGTERM, with the time until SIGKILL
	server  *http.Server
}

func (a *app) stop(deadline time.Duration) {
	select {
	case a.stopped <- deadline:
	default:
	}
}

// live goes from the app's first line to its end.
func (a *app) live() {
	for i := range a.b.lines {
		a.m.line(guest.Stdout, fmt.Sprintf("line %d", i+1))
	}
	defer a.close()
	var end <-chan time.Time
	switch a.b.verb {
	case "exit", "oom", "crash":
		if a.b.after == 0 {
			a.end()
			return
		}
		end = time.After(a.b.after)
	}
	listen := time.After(a.b.slow)
	if !a.b.listens() || a.boot.Port == 0 {
		listen = nil
	}
	var lines <-chan time.Time
	if a.b.every > 0 {
		ticker := time.NewTicker(a.b.every)
		defer ticker.Stop()
		lines = ticker.C
	}
	interval := statsWait
	if a.boot.StatsMS > 0 {
		interval = time.Duration(a.boot.StatsMS) * time.Millisecond
	}
	stats := time.NewTicker(interval)
	defer stats.Stop()
	for n := a.b.lines + 1; ; {
		select {
		case <-a.m.ctx.Done():
			return
		case deadline := <-a.stopped:
			a.terminate(deadline)
			return
		case <-end:
			a.end()
			return
		case <-listen:
			listen = nil
			if err := a.listen(); err != nil {
				a.m.line(guest.Stderr, err.Error())
				a.m.finish(guest.Exit{Code: 1})
				return
			}
		case <-lines:
			a.m.line(guest.Stdout, fmt.Sprintf("line %d", n))
			n++
		case <-stats.C:
			a.m.stats()
		}
	}
}

func (a *app) end() {
	if a.b.verb == "crash" {
		a.m.panics()
		return
	}
	a.m.finish(*a.b.end())
}

// terminate is SIGTERM: what is being answered is answered. A deaf app lasts
// until SIGKILL.
func (a *app) terminate(deadline time.Duration) {
	ctx, cancel := context.WithTimeout(a.m.ctx, deadline)
	defer cancel()
	if a.b.deaf {
		<-ctx.Done()
	} else if a.server != nil {
		_ = a.server.Shutdown(ctx)
	}
	exit := guest.Exit{Code: -1, Signal: "SIGTERM", Stopped: true}
	if ctx.Err() != nil {
		exit.Signal, exit.KilledAll = "SIGKILL", true
	}
	a.m.finish(exit)
}

func (a *app) close() {
	if a.server != nil {
		a.server.Close()
	}
}

// listen serves on the host's end of the forwarded port, there being no guest
// that has one of its own.
func (a *app) listen() error {
	at := a.m.spec.NIC.Forward
	if !at.IsValid() {
		return fmt.Errorf("the simulated driver serves on a forwarded port, and this network has none")
	}
	l, err := net.Listen("tcp", at.String())
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	a.server = &http.Server{Handler: http.HandlerFunc(a.answer), ReadHeaderTimeout: time.Minute}
	server := a.server
	if a.boot.Gate != nil {
		l = &gate{Listener: l, Gate: *a.boot.Gate}
	}
	go func() { _ = server.Serve(l) }()
	a.m.phase("listening", "any")
	return nil
}

func (a *app) answer(w http.ResponseWriter, r *http.Request) {
	if a.b.verb == "hang" {
		<-r.Context().Done()
		return
	}
	if a.b.delay > 0 {
		timer := time.NewTimer(a.b.delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done():
			return
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(a.b.status)
	_, _ = io.WriteString(w, a.b.body)
}

// stats sends figures of a machine at rest.
func (m *machine) stats() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.live || len(m.small) > 16 {
		return
	}
	total := uint64(m.spec.MemoryMB) << 20
	m.small = append(m.small, guest.Message{Stats: &guest.Stats{
		MemTotal: total, MemUsed: total / 4, DiskTotal: uint64(m.boot.DiskBytes),
	}})
	m.notify()
}
