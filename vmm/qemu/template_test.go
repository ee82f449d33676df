package qemu

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miosa/miosa/vmm/vmmtest"
)

// Copies of one template go on as machines of their own: with other random
// numbers and disks, and with what the host knows of the template out of reach
// for writing.
func TestCopiesOfATemplate(t *testing.T) {
	h := newHost(t)
	d := h.driver(t)
	if accel, err := d.Accel(t.Context()); err != nil || accel != "tcg" {
		t.Skipf("templates are for emulation, this host has %s (%v)", accel, err)
	}
	said := map[string]string{}
	for _, id := range []string{"ri_a", "ri_b"} {
		spec, a := h.spec(t, id)
		vm := start(t, d, spec)
		if vm.Handle().Resumed.IsZero() {
			t.Errorf("%s booted by itself", id)
		}
		s := vmmtest.Open(t, vm)
		s.Boot(id, a, "/app/app random")
		for _, line := range s.Stdout(2) {
			if other, twice := said[line]; twice {
				t.Errorf("%s and %s both said %q", id, other, line)
			}
			said[line] = id
		}
	}
	if len(said) != 4 {
		t.Errorf("they said %v", said)
	}

	spec, _ := h.spec(t, "ri_c")
	d.shelf.mu.Lock()
	kept := d.shelf.slots[shapeOf(spec)]
	count := len(d.shelf.slots)
	d.shelf.mu.Unlock()
	if count != 1 || kept == nil || kept.template == nil {
		t.Fatalf("%d templates are kept, %+v", count, kept)
	}
	for _, f := range []*os.File{kept.template.memory, kept.template.state} {
		if _, err := f.WriteAt([]byte{1}, 0); err == nil {
			t.Error("a template can be written to")
		}
		if _, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
			t.Error("a template can be mapped for writing")
		}
		if again, err := os.OpenFile(pathOf(f), os.O_RDWR, 0); err == nil {
			if _, err := again.WriteAt([]byte{1}, 0); err == nil {
				t.Error("a template can be opened again and written to")
			}
			again.Close()
		}
	}
}

// A copy may use all the memory that its guest has: it is counted once.
func TestACopyFillsItsMemory(t *testing.T) {
	h := newHost(t)
	d := h.driver(t)
	spec, a := h.spec(t, "ri_a")
	spec.MemoryMB = 512
	vm := start(t, d, spec)
	s := vmmtest.Open(t, vm)
	s.Boot("ri_a", a, "/app/app fill 400")
	if out := s.Stdout(1); out[0] != "filled" {
		t.Errorf("it said %q", out)
	}
}

// A template that has gone bad costs a boot of its own, not the VM.
func TestASpoiledTemplate(t *testing.T) {
	h := newHost(t)
	d := h.driver(t)
	if accel, err := d.Accel(t.Context()); err != nil || accel != "tcg" {
		t.Skipf("templates are for emulation, this host has %s (%v)", accel, err)
	}
	spec, a := h.spec(t, "ri_a")
	memory, err := memoryFile("test", int64(spec.MemoryMB)<<20)
	if err != nil {
		t.Fatal(err)
	}
	state, err := memoryFile("test", 4096)
	if err != nil {
		t.Fatal(err)
	}
	made := make(chan struct{})
	close(made)
	d.shelf.slots[shapeOf(spec)] = &slot{made: made, template: &template{memory: memory, state: state}}
	vm := start(t, d, spec)
	if !vm.Handle().Resumed.IsZero() {
		t.Error("went on from nonsense")
	}
	s := vmmtest.Open(t, vm)
	s.Boot("ri_a", a, "/app/app exit 3")
	if exit := s.Exit(); exit.Code != 3 {
		t.Errorf("%+v", exit)
	}
	d.shelf.mu.Lock()
	defer d.shelf.mu.Unlock()
	if s := d.shelf.slots[shapeOf(spec)]; s == nil || s.template != nil || s.failed.IsZero() {
		t.Errorf("the template is still used: %+v", s)
	}
}

func TestTheShelfKeepsWhatIsUsed(t *testing.T) {
	s := shelf{most: 2, slots: map[shape]*slot{}}
	now := time.Unix(1000, 0)
	fill := func(memory int) (mine bool) {
		now = now.Add(time.Second)
		at, making := s.slot(shape{memoryMB: memory}, now)
		if making != nil {
			close(at.made)
		}
		return making != nil
	}
	for n, step := range []struct {
		memory int
		mine   bool
	}{{128, true}, {256, true}, {128, false}, {512, true}, {128, false}, {256, true}} {
		if mine := fill(step.memory); mine != step.mine {
			t.Errorf("step %d: make it %v", n, mine)
		}
	}
	if s.slots[shape{memoryMB: 512}] != nil || s.slots[shape{memoryMB: 128}] == nil {
		t.Errorf("kept are %v", s.slots)
	}
	s.slots[shape{memoryMB: 256}].failed = now
	if fill(256) {
		t.Error("one that failed just now is tried again")
	}
	now = now.Add(templateRetry)
	if !fill(256) {
		t.Error("one that failed long ago is not tried again")
	}
}

// A template that leaves the shelf between its making and the VM that waited
// for it fails nobody.
func TestATemplateIsDroppedBeforeItIsTaken(t *testing.T) {
	s := shelf{most: 1, slots: map[shape]*slot{}}
	made := func(memory int) *slot {
		at, _ := s.slot(shape{memoryMB: memory}, time.Unix(int64(memory), 0))
		if memory == 256 && s.slots[shape{memoryMB: 128}] == nil {
			t.Fatal("one that is being made was dropped")
		}
		var err error
		at.template = &template{}
		if at.template.memory, err = memoryFile("test", 4096); err != nil {
			t.Fatal(err)
		}
		if at.template.state, err = memoryFile("test", 4096); err != nil {
			t.Fatal(err)
		}
		return at
	}
	one, other := made(128), made(256)
	close(one.made)
	close(other.made)
	s.trim()
	if got, err := s.take(t.Context(), one); got != nil || err != nil {
		t.Errorf("got %v, %v", got, err)
	}
	got, err := s.take(t.Context(), other)
	if err != nil || got == nil {
		t.Fatalf("got %v, %v", got, err)
	}
	got.close()
	other.template.close()
}

// When everybody who waits for a template has given up, it ends with the last.
func TestNobodyWaitsForATemplate(t *testing.T) {
	h := newHost(t)
	d := h.driver(t)
	if accel, err := d.Accel(t.Context()); err != nil || accel != "tcg" {
		t.Skipf("templates are for emulation, this host has %s (%v)", accel, err)
	}
	spec, _ := h.spec(t, "ri_a")
	ctx, cancel := context.WithCancel(t.Context())
	var starts sync.WaitGroup
	for range 2 {
		starts.Go(func() {
			if _, err := d.Start(ctx, spec); !errors.Is(err, context.Canceled) {
				t.Errorf("start ended with %v", err)
			}
		})
	}
	for running := map[string]int{}; len(running) == 0; {
		var err error
		if running, err = d.scan(); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	starts.Wait()
	if running, err := d.scan(); err != nil || len(running) > 0 || len(d.leftovers()) > 0 || len(d.shelf.slots) > 0 {
		t.Errorf("running %v, %v, left %v, on the shelf %v", running, err, d.leftovers(), d.shelf.slots)
	}
}

// Copies of a template that has mounted the ephemeral disk: each has that disk
// to itself, whole, whatever the ones before wrote. So has a machine that boots
// by itself.
func TestCopiesOfATemplateWithItsDisk(t *testing.T) {
	h := newHost(t)
	d := h.driver(t)
	var log bytes.Buffer
	d.log = slog.New(slog.NewTextHandler(&log, nil))
	if accel, err := d.Accel(t.Context()); err != nil || accel != "tcg" {
		t.Skipf("templates are for emulation, this host has %s (%v)", accel, err)
	}
	empty := filepath.Join(t.TempDir(), "empty.ext4")
	if err := vmmtest.BuildData(empty); err != nil {
		t.Fatal(err)
	}
	h.config.Templates = 0
	plain := h.driver(t)
	for _, id := range []string{"ri_a", "ri_b", "ri_plain"} {
		spec, a := h.spec(t, id)
		spec.DataOrigin = empty
		// What lies in its place is another's: nothing of it may be left.
		if err := os.WriteFile(spec.DataDisk, bytes.Repeat([]byte("another's"), 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		from := d
		if id == "ri_plain" {
			from = plain
		}
		vm := start(t, from, spec)
		if vm.Handle().Resumed.IsZero() != (from == plain) {
			t.Errorf("%s: %+v", id, vm.Handle())
		}
		s := vmmtest.Open(t, vm)
		s.Boot(id, a, "/app/app keep "+id)
		if lines := s.Stdout(1); lines[0] != `found ""` {
			t.Errorf("%s: %q", id, lines)
		}
		if exit := s.Exit(); exit.Code != 0 {
			t.Errorf("%s: %+v", id, exit)
		}
		ended(t, vm)
		if out, err := exec.Command("e2fsck", "-f", "-n", spec.DataDisk).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", id, err, out)
		}
		if out, err := exec.Command("debugfs", "-R", "cat /upper/kept/text", spec.DataDisk).Output(); string(out) != id {
			t.Errorf("%s keeps %q, %v", id, out, err)
		}
	}
	// A template's own disk lies in memory: that is nothing to warn of.
	_, data := h.disks(t, "ri_a")
	if v1, ok := d.cgroups.(groupsV1); ok && v1.disk != "" && wholeDisk(data) != "" && strings.Contains(log.String(), "not bounded") {
		t.Errorf("disks are said to be not bounded:\n%s", &log)
	}
	d.shelf.mu.Lock()
	defer d.shelf.mu.Unlock()
	for _, kept := range d.shelf.slots {
		if _, err := kept.template.disk.WriteAt([]byte{1}, 0); err == nil {
			t.Error("a template's disk can be written to")
		}
	}
	if len(d.shelf.slots) != 1 {
		t.Errorf("%d templates are kept", len(d.shelf.slots))
	}
}
