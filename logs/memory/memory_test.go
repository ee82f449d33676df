package memory_test

import (
	"testing"
	"time"

	"github.com/miosa/miosa/logs"
	"github.com/miosa/miosa/logs/logstest"
	"github.com/miosa/miosa/logs/memory"
)

func TestStore(t *testing.T) {
	logstest.Run(t, func(*testing.T) logstest.Fixture {
		s := memory.New(time.Now)
		return logstest.Fixture{
			Open: func(*testing.T) logs.Store { return s },
			Forget: func(t *testing.T, s logs.Store) {
				if err := s.Expire(t.Context(), time.Now().Add(25*time.Hour)); err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}
