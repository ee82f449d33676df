package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
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

// broken fails in the parts of a boot that it names, as a host's parts do: with
// paths in what they say.
type broken string // the part

var errBroken = errors.New("open /srv/miosa/data/secret-place: input/output error")

func (b broken) fails(stage string) error {
	if string(b) == stage {
		return errBroken
	}
	return nil
}

func (b broken) Ensure(context.Context, string, miosa.Kind) (string, error) {
	if b == "bad release" {
		return "", miosa.Wrap(errBroken, miosa.Invalid, "entry app/server is a device")
	}
	return "/dev/null", b.fails("image")
}

type brokenWire struct {
	network.Network
	broken
}

func (b brokenWire) Attach(ctx context.Context, instance string, port, mbps int) (network.Attachment, error) {
	if err := b.fails("network"); err != nil {
		return network.Attachment{}, err
	}
	return oneWire{}.Attach(ctx, instance, port, mbps)
}

type brokenDriver struct {
	vmm.Driver
	broken
}

func (b brokenDriver) Start(context.Context, vmm.Spec) (vmm.VM, error) { return nil, b.fails("launch") }

// A boot that the platform itself fails is in its log once, with the cause;
// the customer hears which part failed, and no path of the host's.
func TestABootThatThePlatformFailsIsToldOf(t *testing.T) {
	for stage, want := range map[string]miosa.Failure{
		"image":       {Kind: miosa.FailureHost, Message: "the host could not make the root file system of the release"},
		"network":     {Kind: miosa.FailureHost, Message: "the host could not connect the instance to its network"},
		"disk":        {Kind: miosa.FailureHost, Message: "the host could not make the instance's disk"},
		"launch":      {Kind: miosa.FailureHost, Message: "the host could not start the virtual machine"},
		"bad release": {Kind: miosa.FailureImage, Message: "the release cannot be made into a root file system: entry app/server is a device"},
	} {
		t.Run(stage, func(t *testing.T) {
			var log bytes.Buffer
			part := broken(stage)
			a := &Agent{
				cfg: Config{Images: part, Network: brokenWire{broken: part}, Driver: brokenDriver{broken: part}}, boots: make(chan struct{}, 1),
				log: slog.New(slog.NewJSONHandler(&log, nil)), disks: disks{dir: t.TempDir()},
			}
			if err := a.disks.prepare(); err != nil {
				t.Fatal(err)
			}
			if stage == "disk" {
				a.disks.dir = filepath.Join(a.disks.dir, "gone", "secret-place")
			}
			x := a.newActor("ri_a", lifecycle.New(miosa.Instance{ID: "ri_a", Spec: miosa.ServiceSpec{Resources: miosa.Resources{VCPUs: 1, MemoryMB: 64, DiskMB: 16}}}))
			newBoot(t.Context(), x, 3).run()
			var got miosa.Failure
			for len(x.inbox) > 0 {
				if ev, ok := (<-x.inbox).(lifecycle.NotStarted); ok {
					got = ev.Failure
				}
			}
			if got.Kind != want.Kind || got.Message != want.Message {
				t.Errorf("the customer hears %q (%s), want %q", got.Message, got.Kind, want.Message)
			}
			var line struct {
				Level, Msg, Instance, Stage, Kind, Err string
				Boot                                   int
			}
			if err := json.Unmarshal(log.Bytes(), &line); err != nil {
				t.Fatalf("%v in %q", err, log.String())
			}
			if line.Msg != "boot failed" || line.Instance != "ri_a" || line.Boot != 3 || line.Kind != string(want.Kind) || !strings.Contains(line.Err, "secret-place") {
				t.Errorf("the log says %s", log.String())
			}
			if stage != "bad release" && (line.Stage != stage || line.Level != "ERROR") {
				t.Errorf("the log says %s", log.String())
			}
		})
	}
}
