package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"testing"
	"testing/synctest"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/lifecycle"
	"github.com/miosa/miosa/network"
	"github.com/miosa/miosa/vmm"
)

// undead starts VMs that no signal ends.
type undead struct {
	vmm.Driver
	vmm.VM
}

func (u undead) Start(context.Context, vmm.Spec) (vmm.VM, error) { return u, nil }

func (undead) Kill(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func (undead) Ensure(context.Context, string, miosa.Kind) (string, error) { return "/dev/null", nil }

type oneWire struct{ network.Network }

func (oneWire) Attach(context.Context, string, int, int) (network.Attachment, error) {
	return network.Attachment{Index: 1, Address: netip.MustParseAddrPort("127.0.0.1:1")}, nil
}

// A boot that is called off as its VM starts does not wait for ever for its end:
// the actor waits for the boot.
func TestABootThatIsCalledOffEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := undead{}
		a := &Agent{cfg: Config{Images: u, Network: oneWire{}, Driver: u}, log: slog.New(slog.DiscardHandler), disks: disks{dir: t.TempDir()}, boots: make(chan struct{}, 1)}
		if err := a.disks.prepare(); err != nil {
			t.Fatal(err)
		}
		x := a.newActor("ri_a", lifecycle.New(miosa.Instance{ID: "ri_a", Spec: miosa.ServiceSpec{Resources: miosa.Resources{VCPUs: 1, MemoryMB: 64, DiskMB: 16}}}))
		b := newBoot(t.Context(), x, 1)
		b.killed = true
		if _, err := b.start(); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		b.cancel()
	})
}
