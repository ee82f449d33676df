package memory_test

import (
	"testing"
	"time"

	"github.com/miosa/miosa/store/memory"
	"github.com/miosa/miosa/store/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, func(*testing.T) storetest.Store { return memory.New(time.Now) })
}
