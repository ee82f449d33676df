package steady

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestAJumpIsBelievedAfterAnHour(t *testing.T) {
	start := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	const week = 7 * 24 * time.Hour
	for _, c := range []struct {
		name  string
		looks [][3]time.Duration // uptime, of the wall clock since start, what is believed
	}{
		{"none", [][3]time.Duration{{0, 0, 0}, {time.Hour, time.Hour, time.Hour}, {week, week, week}}},
		{"slewed", [][3]time.Duration{{0, 0, 0}, {time.Hour, time.Hour + tolerance, time.Hour + tolerance}, {2 * time.Hour, 2*time.Hour + 2*tolerance, 2*time.Hour + 2*tolerance}}},
		{"ahead and back", [][3]time.Duration{
			{0, 0, 0}, {time.Hour, time.Hour + week, time.Hour}, {90 * time.Minute, 90*time.Minute + week, 90 * time.Minute},
			{110 * time.Minute, 110 * time.Minute, 110 * time.Minute}, {3 * time.Hour, 3 * time.Hour, 3 * time.Hour},
		}},
		{"ahead for good", [][3]time.Duration{
			{0, 0, 0}, {time.Hour, time.Hour + week, time.Hour}, {2*time.Hour - 1, 2*time.Hour - 1 + week, 2*time.Hour - 1},
			{2 * time.Hour, 2*time.Hour + week, 2*time.Hour + week}, {3 * time.Hour, 3*time.Hour + week, 3*time.Hour + week},
		}},
		{"ahead twice: the second waits no longer than the first", [][3]time.Duration{
			{0, 0, 0}, {time.Hour, time.Hour + week, time.Hour}, {90 * time.Minute, 90*time.Minute + 2*week, 90 * time.Minute}, {2 * time.Hour, 2*time.Hour + 2*week, 2*time.Hour + 2*week},
		}},
		{"back, and on to where it was", [][3]time.Duration{
			{0, 0, 0}, {time.Hour, time.Hour - week, time.Hour - week}, {2 * time.Hour, 2 * time.Hour, 2*time.Hour - week}, {3 * time.Hour, 3 * time.Hour, 3 * time.Hour},
		}},
	} {
		var clock Clock
		for i, look := range c.looks {
			if by, _ := clock.look(start.Add(look[1]), look[0]); !by.Equal(start.Add(look[2])) {
				t.Errorf("%s: look %d believes %s, want %s", c.name, i, by.Sub(start), look[2])
			}
		}
	}
}

func TestAJumpIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var clock Clock
		var out bytes.Buffer
		log := slog.New(slog.NewTextHandler(&out, nil))
		for range 3 {
			if by := clock.By(time.Now(), log); !by.Equal(time.Now()) {
				t.Errorf("by %s at %s", by, time.Now())
			}
			<-time.After(10 * time.Minute)
		}
		clock.wall = clock.wall.Add(-24 * time.Hour) // as if it were a day ahead now
		for range 3 {
			if by := clock.By(time.Now(), log); !by.Equal(time.Now().Add(-24 * time.Hour)) {
				t.Errorf("by %s at %s", by, time.Now())
			}
			<-time.After(10 * time.Minute)
		}
		if n := strings.Count(out.String(), "jumped ahead"); n != 1 {
			t.Errorf("it was told %d times:\n%s", n, out.String())
		}
	})
}
