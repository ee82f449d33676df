package agent_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miosa/miosa"
)

// An instance that must never run twice runs on while control acknowledges beats,
// also over a restart of the agent, and is stopped once it has not for too long.
func TestAnInstanceIsStoppedWithoutControl(t *testing.T) {
	r := newRig(t, "sim serve log=10")
	const limit = 8 * time.Second
	r.control.in.StopAfterDisconnect = limit
	stop := r.start()
	defer func() { stop() }()
	r.control.until(t, miosa.Healthy)
	stop()
	stop = r.start()
	r.control.untilBeats(t, 6) // of two seconds each, the first at once
	if o := r.control.last(); o.State != miosa.Healthy || o.Boot != 1 {
		t.Fatalf("control is there, and it is %s in boot %d: %s", o.State, o.Boot, o.Failure.Message)
	}
	if n := r.control.wrong.Load(); n > 0 {
		t.Errorf("%d beats are not the next of their session", n)
	}
	r.control.deaf.Store(true)
	r.control.until(t, miosa.Stopped)
	if f := r.control.last().Failure; f.Kind != miosa.FailureDisconnected || !strings.Contains(f.Message, "its host had not reached the control plane for") {
		t.Errorf("it was stopped as %q: %s", f.Kind, f.Message)
	}
	if n := r.control.last().Failures; n != 0 {
		t.Errorf("%d failures count", n)
	}
	r.store.untilSome(t, "it must never run twice")
	r.store.until(t, "stopped")
}

// An agent that starts and does not know when control was heard last does not let
// it run until it is heard again.
func TestAnInstanceIsStoppedAtTheStart(t *testing.T) {
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		t.Fatal(err)
	}
	const limit = 20 * time.Second
	<-time.After(limit - time.Duration(up.Nano())) // a machine that has just started had control for all that it knows
	r := newRig(t, "sim serve log=10")
	r.control.in.StopAfterDisconnect = limit
	stop := r.start()
	defer func() { stop() }()
	r.control.until(t, miosa.Healthy)
	stop()
	if err := os.Remove(filepath.Join(r.dir, "agent", "contact.json")); err != nil {
		t.Fatal(err)
	}
	away := make(chan struct{})
	r.control.registers = func() { <-away }
	stop = r.start()
	r.control.until(t, miosa.Stopped)
	close(away)
	if f := r.control.last().Failure; f.Kind != miosa.FailureDisconnected {
		t.Errorf("it was stopped as %q: %s", f.Kind, f.Message)
	}
}
