package agent_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/metering"
	"github.com/miosa/miosa/network"
)

// taps are wires that count: every look but the first finds some more bytes.
// What a tap counted to its end is true.
type taps struct {
	wires
	mu    sync.Mutex // guards all below
	made  int
	looks int
	name  string // of the present tap; "": there is none
	sent  uint64
	truth uint64 // of taps that are gone
}

func (n *taps) Attach(ctx context.Context, instance string, port, limit int) (network.Attachment, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.name == "" {
		n.made++
		n.name, n.sent = string(rune('a'+n.made)), 0
	}
	return n.wires.Attach(ctx, instance, port, limit)
}

func (n *taps) Traffic(string) (network.Traffic, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.name == "" {
		return network.Traffic{}, nil
	}
	if n.looks++; n.looks > 1 {
		n.sent += 1000
	}
	return network.Traffic{Counter: n.name, SentBytes: n.sent, ReceivedBytes: n.sent / 2}, nil
}

func (n *taps) Detach(context.Context, string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.truth += n.sent
	n.name, n.sent = "", 0
	return nil
}

func (n *taps) Reclaim(ctx context.Context, keep func(string) bool) error {
	if keep(instanceID) {
		return nil
	}
	return n.Detach(ctx, instanceID)
}

// account settles, and answers with errors when it is told to.
type account struct {
	mu     sync.Mutex // guards all below
	t      *testing.T
	began  time.Time
	settle metering.Account
	billed metering.Amount
	fail   error
	last   metering.Report
}

func (a *account) Report(_ context.Context, hostID string, reports []metering.Report) ([]metering.Outcome, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if hostID != "host_1" || len(reports) != 1 || reports[0].InstanceID != instanceID {
		a.t.Errorf("%s reports %+v", hostID, reports)
	}
	if a.fail != nil {
		return nil, a.fail
	}
	add, behind := a.settle.Settle(reports[0], metering.Bounds{Size: metering.Size{VCPUs: 1, MemoryMB: 128, DiskMB: 16}, Since: a.began, Now: time.Now()})
	if behind {
		return []metering.Outcome{{Verdict: metering.Behind, Epoch: a.settle.Epoch}}, nil
	}
	for _, p := range add {
		a.billed = a.billed.Plus(p.Total)
	}
	a.last = reports[0]
	return []metering.Outcome{{Verdict: metering.Taken, Epoch: a.settle.Epoch}}, nil
}

// Over starts and ends of the agent, restarts of the app, a shutdown that
// takes all taps away and a control that does not answer: what is billed is
// what the taps counted, to the byte.
func TestUsageIsWhatTheTapsCounted(t *testing.T) {
	r := newRig(t, "sim serve")
	n := &taps{wires: r.network.(wires)}
	a := &account{t: t, began: time.Now()}
	r.network, r.usage = n, a
	stop := r.start()
	r.control.until(t, miosa.Healthy)
	stop()
	// The VM runs on; control does not answer.
	a.fail = miosa.Errorf(miosa.Unavailable, "away")
	stop = r.start()
	r.control.assign(func(in *miosa.Instance) { in.RestartNonce++ })
	r.store.until(t, "boot 2 began")
	r.control.until(t, miosa.Healthy)
	stop()
	a.fail = nil
	if err := r.agent.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := n.Reclaim(t.Context(), func(string) bool { return false }); err != nil {
		t.Error(err)
	}
	down := n.truth
	stop = r.start()
	r.store.until(t, "boot 3 began")
	r.control.until(t, miosa.Healthy)
	r.control.assign(func(in *miosa.Instance) { in.Goal, in.GoalReason = miosa.GoalStop, "enough" })
	r.control.until(t, miosa.Stopped)
	r.store.until(t, "stopped")
	stop()
	elapsed := uint64(time.Since(a.began) / time.Millisecond)
	if n.made != 2 || n.name != "" || down == 0 || n.truth <= down {
		t.Fatalf("%d taps, %d and %d bytes", n.made, down, n.truth-down)
	}
	if a.billed.SentBytes != n.truth {
		t.Errorf("%d bytes are billed of %d", a.billed.SentBytes, n.truth)
	}
	if b := a.billed; b.RunMS == 0 || b.RunMS > elapsed || b.VCPUMS != b.RunMS || b.MemoryMBMS != 128*b.RunMS || b.DiskMBMS != 16*b.RunMS {
		t.Errorf("in %d ms: %+v", elapsed, b)
	}
	if !a.last.Final {
		t.Error("the last report is not the final one")
	}
	// Nothing of it is left to say.
	a.last = metering.Report{}
	r.start()()
	if a.last.InstanceID != "" {
		t.Errorf("reported once more: %+v", a.last)
	}
}
