package agent

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/network"
	"github.com/miosa/miosa/vmm/sim"
)

// stuck is a network that does not let go at first.
type stuck struct {
	network.Network
	fails, asked int
}

func (s *stuck) Detach(context.Context, string) error {
	if s.asked++; s.asked <= s.fails {
		return errors.New("device or resource busy")
	}
	return nil
}

// A network that cannot be taken away is taken away later, while we run.
func TestDetachIsTriedAgain(t *testing.T) {
	for _, fails := range []int{0, 1, 12} {
		synctest.Test(t, func(t *testing.T) {
			n := &stuck{fails: fails}
			a := &Agent{cfg: Config{Network: n}, log: slog.New(slog.DiscardHandler)}
			a.detach(t.Context(), "ri_a")
			a.wg.Wait()
			if n.asked != fails+1 {
				t.Errorf("asked %d times", n.asked)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		n := &stuck{fails: 1 << 30}
		a := &Agent{cfg: Config{Network: n}, log: slog.New(slog.DiscardHandler)}
		ctx, cancel := context.WithCancel(t.Context())
		a.detach(ctx, "ri_a")
		cancel()
		a.wg.Wait()
		if n.asked != 1 {
			t.Errorf("asked %d times, the last after our end", n.asked)
		}
	})
}

// keeps is a network that notes what is taken up again.
type keeps struct {
	network.Network
	keep func(string) bool
}

func (k *keeps) Reclaim(_ context.Context, keep func(string) bool) error {
	k.keep = keep
	return nil
}

// What an instance that is over could not give back goes at the next start, also
// when control has not taken the word of its end.
func TestTheNextStartDetachesWhatIsOver(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	driver, err := sim.New(sim.Config{}, log)
	if err != nil {
		t.Fatal(err)
	}
	n := &keeps{}
	a := &Agent{cfg: Config{Network: n, Driver: driver}, log: log, disks: disks{dir: t.TempDir()}, actors: map[string]*actor{}, ended: map[string]miosa.Observation{}, counters: newCounters()}
	a.report = newReporter(nil, "host_1", log, a.forgetEnded, a.disowned, a.recorded)
	ids := map[string]miosa.InstanceState{"ri_01jz000000000000000000000a": miosa.Failed, "ri_01jz000000000000000000000b": miosa.Pending}
	for id, state := range ids {
		if err := a.disks.writeState(stateOf(id, state)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.adopt(ctx); err != nil {
		t.Fatal(err)
	}
	a.wg.Wait()
	for id, state := range ids {
		if n.keep(id) == state.Terminal() {
			t.Errorf("%s: kept %t", state, n.keep(id))
		}
	}
	if len(a.ended) != 1 {
		t.Errorf("the word of %d ends is kept", len(a.ended))
	}
}

func stateOf(id string, s miosa.InstanceState) state {
	return state{Instance: miosa.Instance{ID: id}, Observation: miosa.Observation{InstanceID: id, State: s}}
}
