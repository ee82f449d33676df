// Package vmmtest is the conformance suite of vmm drivers: what the agent
// counts on, whichever driver runs. Its VMs are real where the driver's are.
package vmmtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/network"
	"github.com/miosa/miosa/vmm"
)

// Fixture is what a driver's test hands to the suite. Its functions are called
// from the running subtest.
type Fixture struct {
	// Driver makes a driver over the one data directory of the fixture, with
	// nothing in memory: what a restarted agent has.
	Driver func(t *testing.T) vmm.Driver
	// Stranger makes one over another data directory.
	Stranger func(t *testing.T) vmm.Driver
	// Attach gives an instance its place in the network, port 8080, until the
	// end of the subtest.
	Attach func(t *testing.T, instance string) network.Attachment
	// Dial connects to such a place: network.Dialer's.
	Dial func(ctx context.Context, proto, addr string) (net.Conn, error)
	// Disks are the paths of an instance's disks; the base has the suite's
	// program where Program says.
	Disks func(t *testing.T, instance string) (base, data string)
	// Program runs the suite's words: "/app/app", or "sim".
	Program string
	// Left names what is left of a VM on the host, nothing when all is gone.
	Left func(t *testing.T, h vmm.Handle) []string
}

// Run runs the suite.
func Run(t *testing.T, fixture func(t *testing.T) Fixture) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, *bench)
	}{
		{"serve and stop", serveAndStop},
		{"exit code", exitCode},
		{"kill", kill},
		{"guest crash", guestCrash},
		{"adopt", adopt},
		{"resume lines", resumeLines},
		{"exec sessions", execSessions},
		{"two at once and reclaim", reclaim},
		{"bad specs", badSpecs},
		{"adopt nonsense", adoptNonsense},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := &bench{T: t, Fixture: fixture(t)}
			b.driver = b.Driver(t)
			test.run(t, b)
		})
	}
}

// bench is one subtest's place of work.
type bench struct {
	*testing.T
	Fixture
	driver vmm.Driver
}

// spec is a small VM.
func (b *bench) spec(id string) (vmm.Spec, network.Attachment) {
	b.Helper()
	a := b.Attach(b.T, id)
	return b.at(id, a), a
}

// at is the VM of an instance that is attached already.
func (b *bench) at(id string, a network.Attachment) vmm.Spec {
	b.Helper()
	base, data := b.Disks(b.T, id)
	return vmm.Spec{ID: id + "-1", VCPUs: 1, MemoryMB: 128, BaseDisk: base, DataDisk: data, NIC: a.NIC, UID: a.UID}
}

// start starts a VM that ends with the subtest, leaving nothing.
func (b *bench) start(d vmm.Driver, id string) (vmm.VM, network.Attachment) {
	b.Helper()
	spec, a := b.spec(id)
	vm, err := d.Start(b.Context(), spec)
	if err != nil {
		b.Fatalf("start: %v", err)
	}
	b.Cleanup(func() {
		if b.Failed() {
			b.Logf("console of %s:\n%s", id, vm.Console())
		}
		b.end(vm)
	})
	h := vm.Handle()
	if h.ID != spec.ID || h.Driver != d.Name() || h.PID == 0 {
		b.Errorf("handle is %+v", h)
	}
	return vm, a
}

func (b *bench) end(vm vmm.VM) {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := vm.Kill(ctx); err != nil {
		b.Errorf("kill: %v", err)
	}
	b.wantGone(vm)
}

func (b *bench) wantGone(vm vmm.VM) {
	b.Helper()
	b.wait(vm)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(b.Context()), limit) // also while cleaning up
	defer cancel()
	if err := vm.Kill(ctx); err != nil { // returns when all of it is removed
		b.Errorf("kill of a vm that has ended: %v", err)
	}
	if left := b.Left(b.T, vm.Handle()); len(left) > 0 {
		b.Errorf("left behind: %v", left)
	}
}

// wait waits for the end of a VM.
func (b *bench) wait(vm vmm.VM) vmm.Exit {
	b.Helper()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-vm.Done():
	case <-timer.C:
		b.Fatalf("vm %s does not end", vm.Handle().ID)
	}
	exit := vm.Exit()
	if exit.At.IsZero() {
		b.Errorf("the exit of %s has no time: %+v", vm.Handle().ID, exit)
	}
	return exit
}

func (b *bench) wantRunning(vm vmm.VM) {
	b.Helper()
	select {
	case <-vm.Done():
		b.Fatalf("vm %s has ended: %+v", vm.Handle().ID, vm.Exit())
	default:
	}
}

// serving boots the program in a VM and waits until it listens.
func (b *bench) serving(d vmm.Driver, id string) (vmm.VM, *Session, network.Attachment) {
	b.Helper()
	vm, a := b.start(d, id)
	s := Open(b.T, vm)
	if s.Hello.State != "waiting" {
		b.Errorf("the first hello is %+v", s.Hello)
	}
	s.Boot(id, a, b.Program+" serve log=3")
	s.Phase("listening")
	b.wantAnswer(a)
	return vm, s, a
}

func (b *bench) wantAnswer(a network.Attachment) {
	b.Helper()
	client := http.Client{Timeout: limit, Transport: &http.Transport{DisableKeepAlives: true, DialContext: b.Dial}}
	r, err := client.Get("http://" + a.Address.String() + "/")
	if err != nil {
		b.Fatalf("ask the app: %v", err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK || string(body) != "ok" {
		b.Fatalf("the app answered %d %q, %v", r.StatusCode, body, err)
	}
}

func serveAndStop(t *testing.T, b *bench) {
	vm, s, _ := b.serving(b.driver, "ri_a")
	if got := s.Stdout(3); !slices.Equal(got, []string{"line 1", "line 2", "line 3"}) {
		t.Errorf("lines are %q", got)
	}
	u, err := vm.Usage()
	if err != nil {
		t.Errorf("usage: %v", err)
	}
	later, err := vm.Usage()
	if err != nil || u.MemoryBytes == 0 || later.CPU < u.CPU {
		t.Errorf("usage is %+v, then %+v, %v", u, later, err)
	}
	s.Stop(20 * time.Second)
	if exit := s.Exit(); !exit.Stopped || exit.KilledAll {
		t.Errorf("exit report is %+v", exit)
	}
	if exit := b.wait(vm); exit.Code != 0 || exit.Signal != "" || exit.OOM || exit.Err != nil {
		t.Errorf("exit is %+v", exit)
	}
	b.wantGone(vm)
	if _, err := vm.Usage(); err == nil {
		t.Error("an ended vm has usage")
	}
}

func exitCode(t *testing.T, b *bench) {
	vm, a := b.start(b.driver, "ri_a")
	s := Open(t, vm)
	s.Boot("ri_a", a, b.Program+" exit 3")
	if exit := s.Exit(); exit.Code != 3 || exit.Stopped || exit.Reason != "" {
		t.Errorf("exit report is %+v", exit)
	}
	b.wantGone(vm)
}

func kill(t *testing.T, b *bench) {
	vm, s, a := b.serving(b.driver, "ri_a")
	if err := vm.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if exit := b.wait(vm); exit.Signal != "SIGKILL" || exit.Code != -1 {
		t.Errorf("exit is %+v", exit)
	}
	if s.End() {
		t.Error("a killed guest reported an exit")
	}
	b.wantGone(vm)
	if err := vm.Kill(t.Context()); err != nil {
		t.Errorf("killing twice: %v", err)
	}
	if _, err := vm.Dial(t.Context()); err == nil {
		t.Error("a killed vm can be dialled")
	}
	if _, err := b.driver.Adopt(t.Context(), vm.Handle()); !errors.Is(err, vmm.ErrGone) {
		t.Errorf("adopting a killed vm: %v", err)
	}
	// The same instance boots again at the same place.
	again, s, b2 := b.serving(b.driver, "ri_a")
	if b2.Address != a.Address {
		t.Errorf("address moved from %s to %s", a.Address, b2.Address)
	}
	s.Close()
	b.end(again)
}

func guestCrash(t *testing.T, b *bench) {
	vm, a := b.start(b.driver, "ri_a")
	s := Open(t, vm)
	s.Boot("ri_a", a, b.Program+" crash")
	if s.End() {
		t.Error("a crashed guest reported an exit")
	}
	exit := b.wait(vm)
	t.Logf("exit %+v, console %q", exit, vm.Console())
	b.wantGone(vm)
}

func adopt(t *testing.T, b *bench) {
	vm, s, a := b.serving(b.driver, "ri_a")
	s.Stdout(3)
	s.Close()

	restarted := b.Driver(t)
	adopted, err := restarted.Adopt(t.Context(), vm.Handle())
	if err != nil {
		t.Fatalf("adopt: %v", err)
	}
	if adopted.Handle() != vm.Handle() {
		t.Errorf("handle is %+v, was %+v", adopted.Handle(), vm.Handle())
	}
	b.wantRunning(adopted)
	b.wantAnswer(a)
	s.Resume(adopted)
	if s.Hello.State != "running" || s.Hello.InstanceID != "ri_a" {
		t.Errorf("hello after adoption is %+v", s.Hello)
	}
	if u, err := adopted.Usage(); err != nil || u.MemoryBytes == 0 {
		t.Errorf("usage of an adopted vm is %+v, %v", u, err)
	}
	s.Stop(20 * time.Second)
	if exit := s.Exit(); !exit.Stopped {
		t.Errorf("exit report is %+v", exit)
	}
	b.wantGone(adopted)
	if _, err := b.Driver(t).Adopt(t.Context(), vm.Handle()); !errors.Is(err, vmm.ErrGone) {
		t.Errorf("adopting what is gone: %v", err)
	}
}

func resumeLines(t *testing.T, b *bench) {
	const count = 5000
	vm, a := b.start(b.driver, "ri_a")
	s := Open(t, vm)
	s.Boot("ri_a", a, fmt.Sprintf("%s log %d", b.Program, count))
	for _, part := range []int{1, count / 3, count / 2} {
		s.Stdout(part)
		if _, err := vm.Dial(t.Context()); miosa.CodeOf(err) != miosa.Conflict {
			t.Errorf("a second connection at once: %v", err)
		}
		s.Close()
		s.Resume(vm)
	}
	out := s.Stdout(count)
	if len(out) != count || s.Gap != 0 {
		t.Errorf("%d lines, %d lost; want %d, 0", len(out), s.Gap, count)
	}
	for i, text := range out {
		if want := fmt.Sprintf("line %d", i+1); text != want {
			t.Fatalf("line %d is %q", i+1, text)
		}
	}
}

func reclaim(t *testing.T, b *bench) {
	one, s1, a1 := b.serving(b.driver, "ri_a")
	two, s2, a2 := b.serving(b.driver, "ri_b")
	if a1.Address == a2.Address {
		t.Fatalf("two instances share %s", a1.Address)
	}
	other, _ := b.start(b.Stranger(t), "ri_c")

	if _, err := b.driver.Start(t.Context(), b.at("ri_a", a1)); miosa.CodeOf(err) != miosa.Conflict {
		t.Errorf("starting a running vm again: %v", err)
	}
	b.wantRunning(one)

	s1.Close()
	s2.Close()
	ended, err := b.Driver(t).Reclaim(t.Context(), func(id string) bool { return id == one.Handle().ID })
	if err != nil {
		t.Fatalf("reclaim: %v", err)
	}
	if !slices.Equal(ended, []string{two.Handle().ID}) {
		t.Errorf("reclaimed %v, want %s", ended, two.Handle().ID)
	}
	b.wantGone(two)
	b.wantRunning(one)
	b.wantRunning(other)
	b.wantAnswer(a1)

	ended, err = b.Driver(t).Reclaim(t.Context(), func(string) bool { return false })
	if err != nil || !slices.Equal(ended, []string{one.Handle().ID}) {
		t.Errorf("reclaimed %v, %v", ended, err)
	}
	b.wantGone(one)
	b.wantRunning(other)
}

// again is the spec of a VM that was started before.
func (b *bench) again(id string) vmm.Spec {
	b.Helper()
	spec, _ := b.spec(id)
	return spec
}

func badSpecs(t *testing.T, b *bench) {
	for name, spoil := range map[string]func(*vmm.Spec){
		"no id":         func(s *vmm.Spec) { s.ID = "" },
		"id is a path":  func(s *vmm.Spec) { s.ID = "../x" },
		"id too long":   func(s *vmm.Spec) { s.ID = fmt.Sprintf("%065d", 1) },
		"id with comma": func(s *vmm.Spec) { s.ID = "a,id=b" },
		"no vcpu":       func(s *vmm.Spec) { s.VCPUs = 0 },
		"many vcpus":    func(s *vmm.Spec) { s.VCPUs = 1000 },
		"no memory":     func(s *vmm.Spec) { s.MemoryMB = 0 },
		"no base":       func(s *vmm.Spec) { s.BaseDisk = "" },
		"relative disk": func(s *vmm.Spec) { s.DataDisk = "data.ext4" },
		"no mac":        func(s *vmm.Spec) { s.NIC.MAC = "" },
		"group mac":     func(s *vmm.Spec) { s.NIC.MAC = "01:00:00:00:00:01" },
		"mac words":     func(s *vmm.Spec) { s.NIC.MAC = "02:00:00:00:00:01,x=y" },
		"negative uid":  func(s *vmm.Spec) { s.UID = -1 },
	} {
		spec := b.again("ri_a")
		spoil(&spec)
		vm, err := b.driver.Start(t.Context(), spec)
		if err == nil {
			b.end(vm)
		}
		if miosa.CodeOf(err) != miosa.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if vm, err := b.driver.Start(canceled, b.again("ri_a")); err == nil {
		b.end(vm)
		t.Error("started with a canceled context")
	}
	if ended, err := b.driver.Reclaim(t.Context(), func(string) bool { return false }); err != nil || len(ended) > 0 {
		t.Errorf("after bad specs there are vms %v, %v", ended, err)
	}
}

func adoptNonsense(t *testing.T, b *bench) {
	vm, _ := b.start(b.driver, "ri_a")
	for name, spoil := range map[string]func(*vmm.Handle){
		"empty":             func(h *vmm.Handle) { *h = vmm.Handle{} },
		"another pid":       func(h *vmm.Handle) { h.PID = 1 },
		"a pid given again": func(h *vmm.Handle) { h.StartTime++ },
		"another id":        func(h *vmm.Handle) { h.ID = "ri_b-1" },
		"another driver":    func(h *vmm.Handle) { h.Driver = "other" },
	} {
		h := vm.Handle()
		spoil(&h)
		if _, err := b.driver.Adopt(t.Context(), h); !errors.Is(err, vmm.ErrGone) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b.wantRunning(vm)
	if _, err := b.Stranger(t).Adopt(t.Context(), vm.Handle()); !errors.Is(err, vmm.ErrGone) {
		t.Errorf("a stranger's vm: %v", err)
	}
	// None of that hurt it.
	if s := Open(t, vm); s.Hello.State != "waiting" {
		t.Errorf("hello is %+v", s.Hello)
	}
}
