package agent

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"

	"github.com/miosa/miosa/network"
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
