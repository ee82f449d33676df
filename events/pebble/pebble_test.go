package pebble

import (
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/miosa/miosa/events"
	"github.com/miosa/miosa/events/eventstest"
)

func open(t testing.TB, dir string, now func() time.Time) *Store {
	t.Helper()
	s, err := Open(Config{Dir: dir, Log: slog.New(slog.DiscardHandler), MinFree: 1, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestConformance(t *testing.T) {
	eventstest.Run(t, func(t *testing.T) eventstest.Fixture {
		dir, err := os.MkdirTemp(t.TempDir(), "store")
		if err != nil {
			t.Fatal(err)
		}
		var s *Store
		return eventstest.Fixture{Open: func(now func() time.Time) events.Store {
			if s != nil {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
			s = open(t, dir, now)
			return s
		}}
	})
}
