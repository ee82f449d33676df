package agent_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/miosa/miosa/logs"
	"github.com/miosa/miosa/logs/memory"
)

// keeper is a store that can be read by time as well.
type keeper struct {
	*store
	kept *memory.Store
}

func (k keeper) Ship(ctx context.Context, hostID string, batches []logs.Batch) error {
	for _, b := range batches {
		if _, err := k.kept.Append(ctx, []logs.Kept{{Batch: b, Days: 1}}); err != nil {
			return err
		}
	}
	return k.store.Ship(ctx, hostID, batches)
}

// Who asks for the lines since a moment gets what was written after it and
// nothing else, however wrong the clock of the instance's guest is, also of what
// was written while no agent ran.
func TestLinesOfAWrongClockAreFoundByTime(t *testing.T) {
	for _, skew := range []string{"-2m", "2m", "-2562047h", "2562047h"} {
		t.Run(skew, func(t *testing.T) {
			r := newRig(t, "sim serve log=10 every=20ms skew="+skew)
			kept := memory.New(time.Now)
			r.logs = keeper{r.store, kept}
			began := time.Now().Truncate(time.Microsecond)
			stop := r.start()
			r.store.until(t, "line 20")
			said := time.Now()
			stop()
			// What the guest writes now has to wait.
			timer := time.NewTimer(500 * time.Millisecond)
			defer timer.Stop()
			<-timer.C
			again := time.Now().Truncate(time.Microsecond)
			stop = r.start()
			defer stop()
			n := len(r.store.texts(logs.Stdout))
			r.store.until(t, fmt.Sprintf("line %d", n+40))
			found := func(since, until time.Time) (lines int) {
				for e, err := range kept.Read(t.Context(), logs.Query{Scope: logs.Scope{TenantID: "ten_1"}, Since: since, Until: until}) {
					if err != nil {
						t.Fatal(err)
					}
					if e.Stream == logs.Stdout {
						lines++
					}
				}
				return lines
			}
			if got := found(began, said); got < 20 {
				t.Errorf("%d lines from the beginning to when the 20th was there", got)
			}
			if got := found(said, again); got == 0 {
				t.Error("none of the lines that were written while no agent ran has a time of then")
			}
			if got := found(time.Time{}, began) + found(time.Now().Add(time.Minute), time.Time{}); got > 0 {
				t.Errorf("%d lines of before the beginning or to come", got)
			}
		})
	}
}

// A guest's clock that is far ahead is set back, and its log says so.
func TestAClockThatIsAheadIsSetBack(t *testing.T) {
	r := newRig(t, "sim serve skew=2m")
	stop := r.start()
	defer stop()
	r.store.untilSome(t, "ahead of its host's: it was set back")
}
