package memory_test

import (
	"testing"
	"time"

	"github.com/miosa/miosa/events"
	"github.com/miosa/miosa/events/eventstest"
	"github.com/miosa/miosa/events/memory"
)

func TestConformance(t *testing.T) {
	eventstest.Run(t, func(*testing.T) eventstest.Fixture {
		var s *memory.Store
		return eventstest.Fixture{Open: func(now func() time.Time) events.Store {
			if s == nil {
				s = memory.New(now)
			}
			return s
		}}
	})
}
