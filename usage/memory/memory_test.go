package memory_test

import (
	"testing"

	"github.com/miosa/miosa/usage"
	"github.com/miosa/miosa/usage/memory"
	"github.com/miosa/miosa/usage/usagetest"
)

func TestStore(t *testing.T) {
	usagetest.Run(t, func(*testing.T) usage.Store { return memory.New() })
}
